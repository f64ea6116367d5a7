//! Tables of PostgreSQL, brought back into the server from which they were backed up.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::shop::{ask, begin, dump, fails, ok, rows, url, versions};
use crate::{
    cli::golden::assert_shape,
    drills::remains::assert_none,
    postgres::{Story, connect, exact},
};

/// What belongs to a table, less its own name.
async fn belongings(story: &Story, table: &str, suffix: &str) -> String {
    let query = format!(
        "WITH t AS (SELECT '{table}'::regclass AS id), found AS (
            SELECT 'index ' || pg_get_indexdef(indexrelid) AS what FROM pg_index, t
            WHERE indrelid = t.id
            UNION ALL SELECT 'constraint ' || conname || pg_get_constraintdef(oid)
            FROM pg_constraint, t WHERE conrelid = t.id AND contype <> 'f'
            UNION ALL SELECT 'column ' || attname || format_type(atttypid, atttypmod) || attnotnull
                || attgenerated::text || attidentity::text
                || coalesce(col_description(t.id, attnum), '')
                || coalesce(pg_get_expr(adbin, adrelid), '') || coalesce(attacl::text, '')
            FROM t JOIN pg_attribute a ON attrelid = t.id AND attnum > 0
                LEFT JOIN pg_attrdef d ON adrelid = t.id AND adnum = attnum
            UNION ALL SELECT 'table ' || relacl::text || relrowsecurity || pg_get_userbyid(relowner)
                || obj_description(t.id) FROM pg_class, t WHERE oid = t.id
            UNION ALL SELECT 'trigger ' || pg_get_triggerdef(oid) FROM pg_trigger, t
            WHERE tgrelid = t.id AND NOT tgisinternal
            UNION ALL SELECT 'policy ' || polname || pg_get_expr(polqual, polrelid)
            FROM pg_policy, t WHERE polrelid = t.id
            UNION ALL SELECT 'statistics ' || stxkeys::text || stxstattarget
                || pg_get_userbyid(stxowner) || obj_description(e.oid) FROM pg_statistic_ext e, t
            WHERE stxrelid = t.id)
        SELECT string_agg(what, E'\\n' ORDER BY what)
        FROM (SELECT replace(what, '{suffix}', '') COLLATE \"C\" AS what FROM found) f"
    );
    ask(story, &query).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_comes_back_under_load_and_nothing_else_changes() {
    for major in versions() {
        under_load(major).await;
    }
}

async fn under_load(major: u32) {
    let Some(story) = begin(major).await else { return };
    let own = belongings(&story, "orders", "\u{1}").await;
    let at_point = rows(&story, "orders").await;
    connect(&story.server).await.execute("DELETE FROM orders WHERE id > 900", &[]).await.unwrap();

    let (stop, moved) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut clients = Vec::new();
    for client in 0_u32..3 {
        let (stop, moved) = (Arc::clone(&stop), Arc::clone(&moved));
        let clock = Arc::clone(&story.world.clock);
        let mut session = connect(&story.server).await;
        clients.push(tokio::spawn(async move {
            let mut longest = Duration::ZERO;
            for n in client.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let begun = clock.elapsed();
                let account = |n: u32| (n % 50 + 1).cast_signed();
                let (from, to) = (account(n), account(n * 7));
                let transfer = session.transaction().await.unwrap();
                let cents = "UPDATE account SET cents = cents + $2 WHERE id = $1";
                let (first, second) = (from.min(to), from.max(to));
                transfer.execute(cents, &[&first, &-1_i64]).await.unwrap();
                transfer.execute(cents, &[&second, &1_i64]).await.unwrap();
                let order = "INSERT INTO orders (customer, total) VALUES (1, 2)";
                transfer.execute(order, &[]).await.unwrap();
                transfer.commit().await.unwrap();
                moved.fetch_add(1, Ordering::Relaxed);
                longest = longest.max(clock.elapsed().saturating_sub(begun));
            }
            longest
        }));
    }
    let idle = ["customers", "\"Order Items\"", "sales", "numbered", "plain", "big"];
    let mut before = Vec::new();
    for table in idle {
        before.push(rows(&story, table).await);
    }
    let ours = ["--schema-only", "-T", "public.orders_copy*"];
    let schema = dump(&story, "postgres", &ours);
    let begun = moved.load(Ordering::Relaxed);
    let answer = tokio::task::block_in_place(|| {
        ok(&story, &["--table", "public.orders", "--as", "orders_copy"])
    });
    assert!(moved.load(Ordering::Relaxed) > begun, "the load stood still");
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        let longest = client.await.unwrap();
        assert!(longest < Duration::from_secs(5), "a transaction waited for {longest:?}");
    }
    assert_eq!(answer["rows"], 1000, "{answer:#}");
    assert_eq!(answer["tables"][0]["to"], "public.orders_copy", "{answer:#}");
    if major == 15 {
        assert_shape("restore-partial", &answer);
    }

    assert_eq!(dump(&story, "postgres", &ours), schema);
    for (table, before) in idle.into_iter().zip(before) {
        assert_eq!(rows(&story, table).await, before, "{table}");
    }
    let sum = ask(&story, "SELECT sum(cents) FROM account").await;
    assert_eq!(sum, "50000");
    let orders = ask(&story, "SELECT count(*) FROM orders").await;
    assert_eq!(orders, (900 + moved.load(Ordering::Relaxed)).to_string());

    assert_eq!(rows(&story, "orders_copy").await, at_point);
    let came = belongings(&story, "orders_copy", "_copy").await;
    let stamp = answer["backup"]["at"].as_str().unwrap();
    let stamp = format!("_restored_{}", stamp[..19].replace(['-', ':'], "").replace('T', "_"));
    assert_eq!(came.replace(&stamp, ""), own);
    assert_eq!(ask(&story, "SELECT nextval('orders_copy_id_seq')").await, "1001");
    assert!(answer["notes"].to_string().contains("orders_customer_fkey"), "{answer:#}");
    let add = answer["left_out"][0].as_str().unwrap();
    connect(&story.server).await.batch_execute(add).await.unwrap();
    assert_none(&story.site);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_lost_rows_are_found_and_merged() {
    let Some(story) = begin(15).await else { return };
    let point = rows(&story, "orders").await;
    let (items, plain) = (rows(&story, "\"Order Items\"").await, rows(&story, "plain").await);
    let client = connect(&story.server).await;
    client
        .batch_execute(
            "ALTER TABLE orders DISABLE TRIGGER tell; DELETE FROM \"Order Items\";
             DELETE FROM orders WHERE id % 10 = 3;
             UPDATE orders SET note = E'x\\n; DROP TABLE plain; --', doc = '{}' WHERE id IN (1, 2);
             UPDATE orders SET total = 7 WHERE id = 4;
             DELETE FROM plain WHERE ctid IN (SELECT ctid FROM plain WHERE a = 3 LIMIT 4);
             INSERT INTO orders (id, note) VALUES (5000, E'new\\nDELETE FROM orders;');
             ALTER TABLE orders ADD COLUMN more int",
        )
        .await
        .unwrap();
    let compare = |script: &str| {
        let tables = ["--table", "public.\"Order Items\"", "--table", "orders", "--table", "plain"];
        let words = [&tables[..], &["--compare", "--script", script]].concat();
        tokio::task::block_in_place(|| ok(&story, &words))
    };
    let found = compare("first.sql");
    assert_shape("restore-compare", &found);
    let table = |found: &serde_json::Value, name: &str| {
        let tables = found["tables"].as_array().unwrap();
        let table = tables.iter().find(|table| table["table"] == name).unwrap();
        ["missing", "extra", "different"].map(|what| table[what].as_u64().unwrap())
    };
    assert_eq!(table(&found, "public.orders"), [100, 1, 3], "{found:#}");
    assert_eq!(table(&found, "public.\"Order Items\""), [50, 0, 0], "{found:#}");
    assert_eq!(table(&found, "public.plain"), [4, 0, 0], "{found:#}");
    let script = fs::read_to_string(story.site.path("first.sql")).unwrap();
    let begins = |text: &str| script.lines().filter(|line| line.starts_with(text)).count();
    assert_eq!(begins("INSERT INTO \"public\".\"orders\" "), 100);
    assert_eq!((begins("UPDATE "), begins("DELETE "), begins("-- DELETE ")), (3, 0, 1));
    assert!(ask(&story, "SELECT count(*) FROM orders WHERE id % 10 = 3").await == "0");

    // One of them was changed once more since, and stays as it is.
    client.execute("UPDATE orders SET total = 8 WHERE id = 4", &[]).await.unwrap();
    client.batch_execute(&script).await.unwrap();
    let again = compare("second.sql");
    assert_eq!(table(&again, "public.orders"), [0, 1, 1], "{again:#}");
    client
        .batch_execute(
            "UPDATE orders SET total = 4 WHERE id = 4; DELETE FROM orders WHERE id = 5000;
         ALTER TABLE orders DROP COLUMN more",
        )
        .await
        .unwrap();
    assert_eq!(rows(&story, "orders").await, point);
    assert_eq!(rows(&story, "\"Order Items\"").await, items);
    assert_eq!(rows(&story, "plain").await, plain);
    // A script that lies there is never replaced, and its own name is chosen anew each time.
    fails(&story, &["--table", "plain", "--compare", "--script", "first.sql"], 5, &["exists"]);
    assert_eq!(ok(&story, &["--table", "plain", "--compare"])["script"], "merge-shop.sql");
    assert_eq!(ok(&story, &["--table", "plain", "--compare"])["script"], "merge-shop-2.sql");
    assert_none(&story.site);
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_bring_whole_families_with_their_references() {
    let Some(story) = begin(15).await else { return };
    let client = connect(&story.server).await;
    client.batch_execute("DROP OWNED BY ghost; DROP ROLE ghost").await.unwrap();
    let found = ok(&story, &["--table", "public.*", "--table", "audit.log"]);
    let notes = found["notes"].to_string();
    assert!(notes.contains("totals is left out") && notes.contains("ghost"), "{notes}");
    assert!(notes.contains("public.pages.page names large objects"), "{notes}");
    assert_eq!(notes.matches("large objects").count(), 1, "{notes}");
    let tables = found["tables"].as_array().unwrap();
    let name = |from: &str| {
        let table = tables.iter().find(|table| table["from"] == from);
        table.unwrap_or_else(|| panic!("{from}: {found:#}"))["to"].as_str().unwrap()
    };
    for from in
        ["public.orders", "public.\"Order Items\"", "public.sales", "public.big", "audit.log"]
    {
        assert_eq!(rows(&story, name(from)).await, rows(&story, from).await, "{from}");
    }
    // References lead to what came along.
    let query = format!(
        "SELECT confrelid::regclass::text || convalidated FROM pg_constraint
         WHERE conrelid = '{}'::regclass AND contype = 'f'",
        name("public.\"Order Items\"")
    );
    let parent = name("public.orders").trim_start_matches("public.").to_owned();
    assert_eq!(ask(&story, &query).await, format!("{parent}true"));
    let query = format!("SELECT count(*) FROM pg_partition_tree('{}')", name("public.sales"));
    assert_eq!(ask(&story, &query).await, "3");
    // The copy counts on by itself.
    let insert = format!("INSERT INTO {} (v) VALUES ('c')", name("public.numbered"));
    client.batch_execute(&insert).await.unwrap();
    assert_eq!(ask(&story, "SELECT last_value FROM numbers").await, "41");

    let one = ok(&story, &["--table", "sales_2025", "--as", "audit.\"Sales 25\""]);
    assert_eq!(one["tables"][0]["to"], "audit.\"Sales 25\"", "{one:#}");
    let same = ("SELECT count(*) FROM audit.\"Sales 25\"", "SELECT count(*) FROM sales_2025");
    assert_eq!(ask(&story, same.0).await, ask(&story, same.1).await);
    assert_none(&story.site);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_and_changes_nothing() {
    let Some(story) = begin(15).await else { return };
    let client = connect(&story.server).await;
    client.batch_execute("DROP TRIGGER tell ON orders; DROP FUNCTION told").await.unwrap();
    let before = dump(&story, "postgres", &[]);
    let words = |words: &[&'static str], status, said: &[&str]| fails(&story, words, status, said);
    words(&["--table", "orders", "--as", "customers"], 5, &["SP0702", "customers", "--as NAME"]);
    words(&["--table", "public.orders", "--as", "customers"], 5, &["SP0702"]);
    words(&["--table", "public.orders", "--as", "customers", "--plan"], 5, &["SP0702"]);
    words(&["--table", "public.nothing"], 6, &["SP0706", "nothing"]);
    words(&["--table", "public.order"], 6, &["SP0706", "public.orders"]);
    words(&["--table", "totals"], 5, &["SP0707", "view"]);
    words(&["--table", "public.*", "--as", "x"], 2, &["SP0100", "several"]);
    words(&["--table", "orders", "--as", "nowhere.x"], 6, &["SP0708", "CREATE SCHEMA"]);
    words(&["--table", "orders\""], 2, &["SP0103"]);
    words(&["--table", "orders", "--as", "x*"], 2, &["SP0103"]);
    words(&["--database", "nothing"], 6, &["SP0706", "postgres"]);
    words(&["--database", "postgres", "--as", "template1"], 5, &["SP0702"]);
    let passing = ["--database", "postgres", "--as", "stillpoint_partial_x"];
    words(&passing, 2, &["SP0103", "taken for incomplete"]);
    words(&["--table", "orders", "--compare", "--as", "x"], 2, &["cannot be used with"]);
    words(&["--table", "orders", "--to", "x"], 2, &["cannot be used with"]);
    words(&[], 2, &["SP0100", "--table SCHEMA.TABLE"]);
    let refuse =
        |words: &[&str], status, said: &[&str]| drop(story.site.fails(words, status, said));
    for only in [&["--table", "orders"][..], &["--as", "x"], &["--database", "postgres"]] {
        refuse(&[&["restore", "shop", "--to", "x"], only].concat(), 2, &["SP0100", "--into URL"]);
    }
    let sqlite = ["restore", "shop", "--table", "orders", "--into", "sqlite:app.db"];
    refuse(&sqlite, 5, &["SP0520", "postgres"]);
    let secret = "postgres://u:hunter2@127.0.0.1/x";
    refuse(&["restore", "shop", "--table", "orders", "--into", secret], 5, &["shells remember"]);
    assert_eq!(dump(&story, "postgres", &[]), before);

    // What only a trigger needs is told; what a table needs is asked for, before any row moves.
    let copied = ok(&story, &["--table", "orders", "--as", "without"]);
    assert!(copied["notes"].to_string().contains("told()"), "{copied:#}");
    client.batch_execute("DROP TABLE orders, without CASCADE; DROP TYPE mood").await.unwrap();
    fails(&story, &["--table", "orders", "--as", "again"], 6, &["SP0708", "mood"]);
    let into = url(&story, "postgres");
    assert!(!into.contains('@') || into.contains("postgres@"), "{into}");
    assert_none(&story.site);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_point_can_be_chosen_and_rows_of_a_tree_come_back_together() {
    let Some(mut story) = begin(15).await else { return };
    let capture = story.capture().await;
    let client = connect(&story.server).await;
    client
        .batch_execute(
            "CREATE TABLE staff (id int PRIMARY KEY, boss int REFERENCES staff, name text);
             INSERT INTO staff VALUES (9, NULL, 'a'), (1, 9, 'b'), (2, 9, 'c'), (5, 1, 'd')",
        )
        .await
        .unwrap();
    story.write(6).await;
    client
        .batch_execute(
            "ALTER TABLE staff DROP CONSTRAINT staff_boss_fkey;
             DELETE FROM staff WHERE id IN (9, 1); UPDATE staff SET name = 'x' WHERE id = 5;
             ALTER TABLE staff ADD FOREIGN KEY (boss) REFERENCES staff NOT VALID;
             DROP TABLE entry",
        )
        .await
        .unwrap();
    story.end(capture).await;
    let at = exact(story.instants[3]);
    let answer = ok(&story, &["--at", &at, "--table", "postgres.public.entry"]);
    let stamp = at[..19].replace(['-', ':'], "").replace('T', "_");
    assert_eq!(answer["tables"][0]["to"], format!("public.entry_restored_{stamp}"));
    assert_eq!(answer["rows"], 4, "{answer:#}");
    let drop = ok(&story, &["--before-drop", "entry", "--table", "public.entry", "--as", "entry"]);
    assert_eq!((&drop["rows"], &drop["tables"][0]["to"]), (&6.into(), &"public.entry".into()));
    let words = ["--at", &at, "--table", "staff", "--compare", "--script", "staff.sql"];
    let found = ok(&story, &words);
    assert_eq!((&found["missing"], &found["different"]), (&2.into(), &1.into()), "{found:#}");
    let script = fs::read_to_string(story.site.path("staff.sql")).unwrap();
    client.batch_execute(&script).await.unwrap();
    let names = "SELECT string_agg(name, '' ORDER BY name) FROM staff";
    assert_eq!(ask(&story, names).await, "abcd", "{script}");
    assert_none(&story.site);
}

/// The lock of whoever makes the database `stillpoint_partial_000000000000`.
const LOCK: &str = "SELECT pg_advisory_lock(1397772884, -1649571868)";

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_being_made_stays_and_an_abandoned_one_goes() {
    let Some(story) = begin(15).await else { return };
    let maker = connect(&story.server).await;
    maker.batch_execute("CREATE DATABASE stillpoint_partial_000000000000").await.unwrap();
    maker.batch_execute(LOCK).await.unwrap();
    let count =
        "SELECT count(*) FROM pg_database WHERE datname = 'stillpoint_partial_000000000000'";
    let words = ["--table", "customers", "--as"];
    ok(&story, &[&words[..], &["one"]].concat());
    assert_eq!(ask(&story, count).await, "1");
    drop(maker);
    let answer = ok(&story, &[&words[..], &["two"]].concat());
    assert!(
        answer["warnings"].to_string().contains("stillpoint_partial_000000000000"),
        "{answer:#}"
    );
    assert_eq!(ask(&story, count).await, "0");
}
