//! Comparisons with PostgreSQL whose merge scripts have to know more than a key, and what is
//! refused before anything is fetched.

use std::fs;

use serde_json::Value;
use stillpoint_testcontainers::Postgres;

use super::shop::{begin, command, fails, ok, rows, run, url};
use crate::{drills::remains::assert_none, postgres::connect};

fn counts(found: &Value, name: &str) -> [u64; 3] {
    let tables = found["tables"].as_array().unwrap();
    let table = tables.iter().find(|table| table["table"] == name);
    let table = table.unwrap_or_else(|| panic!("{name}: {found:#}"));
    ["missing", "extra", "different"].map(|what| table[what].as_u64().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn deferrable_keys_and_heirs_are_merged_each_in_its_own_table() {
    let Some(story) = begin(15).await else { return };
    let client = connect(&story.server).await;
    client
        .batch_execute(
            "CREATE TABLE steps (
                 id int PRIMARY KEY, pos int UNIQUE DEFERRABLE, name varchar(9) UNIQUE,
                 code char(3), flags bit(4), CHECK (id < 90));
             CREATE TABLE late (id int PRIMARY KEY DEFERRABLE, boss int, v numeric(8, 3));
             CREATE TABLE base (id int PRIMARY KEY, v text);
             CREATE TABLE heir (more int, PRIMARY KEY (id)) INHERITS (base);
             INSERT INTO steps SELECT i, i, 'n' || i, 'a', B'0101' FROM generate_series(1, 20) i;
             INSERT INTO late VALUES (9, 9, 1.5), (1, 9, NULL), (2, 1, 0.125);
             INSERT INTO base VALUES (1, 'a'), (2, 'b'), (3, NULL);
             INSERT INTO heir VALUES (1, 'x', 5), (4, 'y', 6)",
        )
        .await
        .unwrap();
    // A table whose rows refer to each other has them in one statement.
    let reference = "ALTER TABLE late ADD UNIQUE (boss, id), ADD UNIQUE (id, v) DEFERRABLE;
        ALTER TABLE late ADD COLUMN same int UNIQUE;
        UPDATE late SET same = id; ALTER TABLE late ADD FOREIGN KEY (boss) REFERENCES late (same)";
    client.batch_execute(reference).await.unwrap();
    story.back_up();
    let tables = ["steps", "late", "ONLY base", "heir"];
    let mut before = Vec::new();
    for table in tables {
        before.push(rows(&story, table).await);
    }
    client
        .batch_execute(
            "DELETE FROM steps WHERE id IN (3, 7); UPDATE steps SET pos = 3 WHERE id = 4;
             BEGIN; SET CONSTRAINTS ALL DEFERRED;
             UPDATE steps SET pos = 3 - pos WHERE id IN (1, 2); COMMIT;
             ALTER TABLE late DROP CONSTRAINT late_boss_fkey; DELETE FROM late WHERE id IN (9, 1);
             ALTER TABLE late ADD FOREIGN KEY (boss) REFERENCES late (same) NOT VALID;
             UPDATE ONLY base SET v = 'z' WHERE id = 1; DELETE FROM heir WHERE id = 4;
             UPDATE heir SET v = 'w' WHERE id = 1; INSERT INTO heir VALUES (7, 'new', 1)",
        )
        .await
        .unwrap();
    let words = ["--table", "steps", "--table", "late", "--table", "base", "--compare"];
    let compare = |script: &'static str| {
        tokio::task::block_in_place(|| ok(&story, &[&words[..], &["--script", script]].concat()))
    };
    let found = compare("first.sql");
    assert_eq!(counts(&found, "public.steps"), [2, 0, 3], "{found:#}");
    assert_eq!(counts(&found, "public.late"), [2, 0, 0], "{found:#}");
    assert_eq!(counts(&found, "public.base"), [0, 0, 1], "{found:#}");
    assert_eq!(counts(&found, "public.heir"), [1, 1, 1], "{found:#}");
    let script = fs::read_to_string(story.site.path("first.sql")).unwrap();
    client.batch_execute(&script).await.unwrap_or_else(|e| panic!("{e:?}\n{script}"));
    client.execute("DELETE FROM heir WHERE id = 7", &[]).await.unwrap();
    for (table, before) in tables.into_iter().zip(before) {
        assert_eq!(rows(&story, table).await, before, "{table}\n{script}");
    }

    // What somebody brought back meanwhile stays away, and is no conflict.
    client.execute("DELETE FROM steps WHERE id = 5", &[]).await.unwrap();
    assert_eq!(counts(&compare("second.sql"), "public.steps"), [1, 0, 0]);
    client.execute("INSERT INTO steps VALUES (55, 55, 'n5')", &[]).await.unwrap();
    let script = fs::read_to_string(story.site.path("second.sql")).unwrap();
    client.batch_execute(&script).await.unwrap();
    assert_eq!(story.ask("SELECT count(*)::text FROM steps WHERE id = 5").await, "0", "{script}");
    assert_none(&story.site);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_unique_beside_a_deferrable_key_keeps_a_row_away_and_stops_nothing() {
    let Some(story) = begin(15).await else { return };
    let client = connect(&story.server).await;
    client
        .batch_execute(
            "CREATE TABLE rich (
                 id int PRIMARY KEY, pos int UNIQUE DEFERRABLE, a int UNIQUE NULLS NOT DISTINCT,
                 b text, c text, e text, g int GENERATED ALWAYS AS (pos * 2) STORED UNIQUE,
                 EXCLUDE USING btree (e WITH =));
             CREATE UNIQUE INDEX ON rich (lower(b));
             CREATE UNIQUE INDEX ON rich (c) WHERE id < 100;
             INSERT INTO rich SELECT i, i, nullif(i, 1), 'B' || i, 'c' || i, 'e' || i
                 FROM generate_series(1, 6) i;
             CREATE TABLE parts (id int PRIMARY KEY DEFERRABLE, v text) PARTITION BY RANGE (id);
             CREATE TABLE parts1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
             CREATE TABLE parts2 PARTITION OF parts FOR VALUES FROM (10) TO (20);
             CREATE UNIQUE INDEX ON parts1 (v);
             INSERT INTO parts VALUES (1, 'a'), (2, 'b'), (11, 'a');
             CREATE TABLE nulls (id text UNIQUE, v int);
             INSERT INTO nulls VALUES ('1', 1), ('', 1), (NULL, 1), (NULL, 2), (NULL, 2), ('c', 1);
             CREATE TABLE covered (id int, v int, PRIMARY KEY (id) INCLUDE (v));
             INSERT INTO covered VALUES (1, 1), (2, 2);
             CREATE TABLE leaves (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
             CREATE TABLE leaves1 PARTITION OF leaves FOR VALUES FROM (0) TO (10);
             ALTER TABLE leaves1 ADD UNIQUE (v) DEFERRABLE;
             INSERT INTO leaves VALUES (1, 1), (2, 2)",
        )
        .await
        .unwrap();
    story.back_up();
    let changes = "DELETE FROM rich; DELETE FROM parts; DELETE FROM leaves;
        UPDATE nulls SET v = 9 WHERE id <> 'c'; DELETE FROM nulls WHERE id IS NULL AND v = 2;
        INSERT INTO nulls VALUES (NULL, 5);
        UPDATE covered SET v = 9 WHERE id = 1";
    client.batch_execute(changes).await.unwrap();
    // What an index only carries along is not part of a key.
    let words = ["--table", "covered", "--compare", "--script", "covered.sql"];
    let found = tokio::task::block_in_place(|| ok(&story, &words));
    assert_eq!(found["tables"][0]["key"], serde_json::json!(["id"]), "{found:#}");
    assert_eq!(found["tables"][0]["different"], 1, "{found:#}");
    // A NULL in a key is no reason to take no row by its key.
    let words = ["--table", "nulls", "--compare", "--script", "nulls.sql"];
    let found = tokio::task::block_in_place(|| ok(&story, &words));
    assert_eq!(counts(&found, "public.nulls"), [2, 1, 2], "{found:#}");
    let examples = &found["tables"][0]["examples"];
    assert_eq!(examples["different"], serde_json::json!(["''", "'1'"]), "{found:#}");
    assert_eq!(examples["extra"], serde_json::json!(["NULL, 5"]), "{found:#}");
    assert!(found["warnings"].to_string().contains("run it once"), "{found:#}");
    let script = fs::read_to_string(story.site.path("nulls.sql")).unwrap();
    let script = script.replace("-- DELETE", "DELETE");
    client.batch_execute(&script).await.unwrap_or_else(|e| panic!("{e:?}\n{script}"));
    let all = "SELECT string_agg(coalesce(id, '-') || v, ',' ORDER BY id, v) FROM nulls";
    assert_eq!(story.ask(all).await, "1,11,c1,-1,-2,-2", "{script}");
    let tables = ["--table", "rich", "--table", "parts", "--table", "leaves"];
    let words = [&tables[..], &["--compare", "--script", "rich.sql"]].concat();
    let found = tokio::task::block_in_place(|| ok(&story, &words));
    assert_eq!(counts(&found, "public.rich"), [6, 0, 0], "{found:#}");
    assert_eq!(counts(&found, "public.parts"), [3, 0, 0], "{found:#}");
    // Meanwhile others come that each of the first four would meet, and one that the fifth would,
    // if the index were about it.
    client
        .batch_execute(
            "INSERT INTO rich VALUES (101, 101, NULL, 'x', 'x', 'x'), (102, 102, 102, 'b2', '', ''),
                 (53, 53, 53, 'y', 'c3', 'y'), (104, 104, 104, 'z', 'z', 'e4'),
                 (105, 105, 105, 'c5', 'c5', 'c5');
             INSERT INTO parts VALUES (3, 'a'); INSERT INTO leaves VALUES (1, 9)",
        )
        .await
        .unwrap();
    let script = fs::read_to_string(story.site.path("rich.sql")).unwrap();
    client.batch_execute(&script).await.unwrap_or_else(|e| panic!("{e:?}\n{script}"));
    for (table, ids) in
        [("rich", "{5,6,53,101,102,104,105}"), ("parts", "{2,3,11}"), ("leaves", "{1,2}")]
    {
        let query = format!("SELECT array_agg(id ORDER BY id)::text FROM {table}");
        assert_eq!(story.ask(&query).await, ids, "{table}\n{script}");
    }
    assert!(script.contains("-- rich_g_key is about other columns"), "{script}");
    assert_none(&story.site);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_every_kind_of_table_come_back_as_they_were() {
    let Some(story) = begin(15).await else { return };
    let client = connect(&story.server).await;
    client
        .batch_execute(
            "CREATE TABLE handed (id serial PRIMARY KEY, u text UNIQUE, v text);
             INSERT INTO handed VALUES (1, 'a', E'x\ny'), (2, 'b', ''), (3, 'c', 'é');
             CREATE TYPE pair AS (n int, t text);
             CREATE DOMAIN loose AS json; CREATE DOMAIN strict AS loose;
             CREATE TABLE kinds (
                 id int PRIMARY KEY, p pair, ps pair[], j strict, c char(5), f float8);
             INSERT INTO kinds VALUES
                 (1, '(9,\"a b\")', '{\"(1,x)\"}', '{\"a\": 1}', 'ab', 0.1),
                 (2, NULL, NULL, NULL, '', 2);
             CREATE TABLE ruled (id int PRIMARY KEY, v text);
             CREATE RULE also AS ON INSERT TO ruled DO ALSO SELECT 1;
             INSERT INTO ruled VALUES (1, 'x'), (2, 'y');
             CREATE TABLE bare ();
             INSERT INTO bare DEFAULT VALUES; INSERT INTO bare DEFAULT VALUES",
        )
        .await
        .unwrap();
    story.back_up();
    let tables = ["handed", "kinds", "ruled", "bare"];
    let mut before = Vec::new();
    for table in tables {
        before.push(rows(&story, table).await);
    }
    client
        .batch_execute(
            "DELETE FROM handed WHERE id <> 2; UPDATE handed SET u = 'a';
             ALTER SEQUENCE handed_id_seq RESTART;
             UPDATE kinds SET p = '(8,)', ps = '{}', j = '{}', c = 'xy', f = 1 WHERE id = 1;
             UPDATE kinds SET p = '(1,)', c = 'z' WHERE id = 2;
             DELETE FROM ruled WHERE id = 1; UPDATE ruled SET v = 'z' WHERE id = 2;
             DELETE FROM bare WHERE ctid = (SELECT min(ctid) FROM bare)",
        )
        .await
        .unwrap();
    let words: Vec<&str> = tables.iter().flat_map(|table| ["--table", table]).collect();
    let words = [&words[..], &["--compare", "--script", "all.sql"]].concat();
    let found = tokio::task::block_in_place(|| ok(&story, &words));
    assert_eq!(counts(&found, "public.handed"), [2, 0, 1], "{found:#}");
    assert_eq!(counts(&found, "public.kinds"), [0, 0, 2], "{found:#}");
    assert_eq!(counts(&found, "public.ruled"), [1, 0, 1], "{found:#}");
    assert_eq!(counts(&found, "public.bare"), [1, 0, 0], "{found:#}");
    let script = fs::read_to_string(story.site.path("all.sql")).unwrap();
    client.batch_execute(&script).await.unwrap_or_else(|e| panic!("{e:?}\n{script}"));
    for (table, before) in tables.into_iter().zip(before) {
        assert_eq!(rows(&story, table).await, before, "{table}\n{script}");
    }
    assert_eq!(story.ask("SELECT nextval('handed_id_seq')::text").await, "4", "{script}");
    let brought = tokio::task::block_in_place(|| ok(&story, &["--table", "bare", "--as", "again"]));
    assert_eq!(brought["tables"][0]["rows"], 2, "{brought:#}");
    assert_none(&story.site);
}

/// Types without an operator of equality, keys of types that are other types below, sequences whose
/// columns are no numbers or that begin anew, and rows that refer to rows of their own table.
#[tokio::test(flavor = "multi_thread")]
async fn values_that_cannot_be_compared_and_rows_that_wait_for_each_other_come_back() {
    let Some(story) = begin(17).await else { return };
    let client = connect(&story.server).await;
    client
        .batch_execute(
            "CREATE TYPE pt AS (a int, j json); CREATE DOMAIN jdom AS json;
             CREATE TABLE odd (
                 id regclass PRIMARY KEY, p jsonpath, c refcursor, s pg_snapshot, r regclass,
                 pts pt[], js jdom[], ch jsonb, m mood, t int4range, n numeric, e timestamptz[]);
             INSERT INTO odd VALUES
                 ('pg_class', '$.a', 'one', '10:20:10,14', 'pg_proc', '{\"(1,)\"}', '{1}', '{}',
                  'ok', '[1,5)', 'NaN', '{2020-01-01}'),
                 ('pg_type', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
             CREATE TABLE selves (
                 id int PRIMARY KEY, parent int REFERENCES selves, email text UNIQUE);
             INSERT INTO selves VALUES (1, NULL, 'e1'), (2, 1, 'e2'), (3, 2, 'e3'), (4, 3, 'e4');
             CREATE TABLE inv (id text PRIMARY KEY, v int); CREATE SEQUENCE inv_s OWNED BY inv.id;
             ALTER TABLE inv ALTER id SET DEFAULT 'INV-' || nextval('inv_s');
             INSERT INTO inv (v) VALUES (1), (2);
             CREATE TABLE cycles (id int PRIMARY KEY);
             CREATE SEQUENCE cycles_s MAXVALUE 100 CYCLE OWNED BY cycles.id;
             INSERT INTO cycles VALUES (500), (501);
             CREATE UNLOGGED TABLE fleeting (a int PRIMARY KEY); INSERT INTO fleeting VALUES (1)",
        )
        .await
        .unwrap();
    story.back_up();
    let tables = ["odd", "selves", "inv", "cycles"];
    let mut before = Vec::new();
    for table in tables {
        before.push(rows(&story, table).await);
    }
    client
        .batch_execute(
            "UPDATE odd SET p = '$.b', c = 'two', s = '10:20:', r = 'pg_type', pts = '{}',
                 js = '{2}', m = 'bad', t = 'empty', n = 1, e = NULL
                 WHERE id = 'pg_class'::regclass;
             DELETE FROM odd WHERE id = 'pg_type'::regclass;
             ALTER TABLE odd ALTER ch TYPE json; UPDATE odd SET ch = '[1]';
             UPDATE selves SET parent = NULL, email = 'x' WHERE id = 4;
             DELETE FROM selves WHERE id = 3; DELETE FROM selves WHERE id = 2;
             UPDATE selves SET email = 'e2' WHERE id = 1;
             DELETE FROM inv WHERE v = 1; DELETE FROM cycles WHERE id = 500",
        )
        .await
        .unwrap();
    let words: Vec<&str> = tables.iter().flat_map(|table| ["--table", table]).collect();
    let words = [&words[..], &["--table", "fleeting", "--compare", "--script", "odd.sql"]].concat();
    let found = tokio::task::block_in_place(|| ok(&story, &words));
    assert_eq!(counts(&found, "public.odd"), [1, 0, 1], "{found:#}");
    assert_eq!(counts(&found, "public.selves"), [2, 0, 2], "{found:#}");
    assert_eq!(found["tables"].as_array().unwrap().len(), 4, "{found:#}");
    let script = fs::read_to_string(story.site.path("odd.sql")).unwrap();
    assert!(script.contains("-- public.fleeting is unlogged"), "{script}");
    client.batch_execute(&script).await.unwrap_or_else(|e| panic!("{e:?}\n{script}"));
    client.batch_execute("ALTER TABLE odd ALTER ch TYPE jsonb").await.unwrap();
    for (table, before) in tables.into_iter().zip(before) {
        assert_eq!(rows(&story, table).await, before, "{table}\n{script}");
    }
    fails(&story, &["--table", "fleeting", "--compare"], 5, &["SP0707", "is unlogged"]);
    assert_none(&story.site);
}

/// Sequences that belong to no column or count down, a key that the server makes, types of
/// extensions in a schema of their own, and partitions that are gone.
#[tokio::test(flavor = "multi_thread")]
async fn sequences_made_keys_types_of_extensions_and_partitions_come_back() {
    let Some(story) = begin(17).await else { return };
    let client = connect(&story.server).await;
    client
        .batch_execute(
            "CREATE SCHEMA ext; CREATE EXTENSION citext SCHEMA ext;
             CREATE EXTENSION hstore SCHEMA ext;
             CREATE SEQUENCE free_s;
             CREATE TABLE free (id int PRIMARY KEY DEFAULT nextval('free_s'), v text);
             INSERT INTO free (v) VALUES ('a'), ('b');
             CREATE TABLE down (id int GENERATED BY DEFAULT AS IDENTITY
                 (INCREMENT -1 MINVALUE -100 MAXVALUE -1) PRIMARY KEY, v text);
             INSERT INTO down (v) VALUES ('a'), ('b');
             CREATE TABLE made (
                 a int, k int GENERATED ALWAYS AS (a * 2) STORED PRIMARY KEY, v text);
             INSERT INTO made (a, v) VALUES (1, 'a'), (2, 'b'), (3, 'c');
             CREATE TABLE exts (
                 id ext.citext PRIMARY KEY, c ext.citext, h ext.hstore, x ext.citext[]);
             INSERT INTO exts VALUES
                 ('Key', 'Text', 'a=>1', '{Aa}'), ('two', 'b', NULL, '{}'),
                 ('three', 'c', '', NULL);
             CREATE TABLE parted (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
             CREATE TABLE p1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
             CREATE TABLE p2 PARTITION OF parted FOR VALUES FROM (10) TO (20)
                 PARTITION BY LIST (id);
             CREATE TABLE p2a PARTITION OF p2 FOR VALUES IN (11);
             INSERT INTO parted VALUES (1, 'a'), (11, 'b'); ANALYZE free",
        )
        .await
        .unwrap();
    client.batch_execute("SELECT pg_stat_force_next_flush()").await.unwrap();
    story.back_up();
    let tables = ["free", "down", "made", "exts", "parted"];
    let mut before = Vec::new();
    for table in tables {
        before.push(rows(&story, table).await);
    }
    client
        .batch_execute(
            "DELETE FROM free WHERE id = 2; ALTER SEQUENCE free_s RESTART;
             DELETE FROM down WHERE id = -2; ALTER TABLE down ALTER id RESTART;
             UPDATE made SET v = 'z' WHERE a = 1; DELETE FROM made WHERE a = 2;
             UPDATE exts SET c = 'TEXT', h = 'a=>2', x = '{AA}' WHERE id = 'Key';
             UPDATE exts SET c = 'x' WHERE id = 'three'; DELETE FROM exts WHERE id = 'two';
             DROP TABLE p2",
        )
        .await
        .unwrap();
    let words: Vec<&str> = tables.iter().flat_map(|table| ["--table", table]).collect();
    let words = [&words[..], &["--compare", "--script", "more.sql"]].concat();
    let found = tokio::task::block_in_place(|| ok(&story, &words));
    assert_eq!(counts(&found, "public.made"), [1, 0, 1], "{found:#}");
    assert_eq!(counts(&found, "public.exts"), [1, 0, 2], "{found:#}");
    assert_eq!(counts(&found, "public.parted"), [1, 0, 0], "{found:#}");
    assert_eq!(found["tables"][1]["key"], serde_json::json!(["id"]), "{found:#}");
    let told = "public.parted: partitions that it had are gone (2)";
    assert!(found["warnings"].to_string().contains(told), "{found:#}");
    let script = fs::read_to_string(story.site.path("more.sql")).unwrap();
    assert!(script.contains("SET LOCAL xmloption = content;"), "{script}");
    // What was changed after it was compared stays, also by another case of its letters.
    client.batch_execute("UPDATE exts SET c = 'X' WHERE id = 'three'").await.unwrap();
    let failed = client.batch_execute(&script).await.unwrap_err();
    assert!(format!("{failed:?}").contains("no partition of relation"), "{failed:?}");
    client.batch_execute("ROLLBACK").await.unwrap();
    let whole = script.replace("-- CREATE TABLE", "CREATE TABLE");
    client.batch_execute(&whole).await.unwrap_or_else(|e| panic!("{e:?}\n{whole}"));
    let kept = story.ask("SELECT c::text FROM exts WHERE id = 'three'").await;
    assert_eq!(kept, "X", "{script}");
    client.batch_execute("UPDATE exts SET c = 'c' WHERE id = 'three'").await.unwrap();
    for (table, before) in tables.into_iter().zip(before) {
        assert_eq!(rows(&story, table).await, before, "{table}\n{script}");
    }
    let next = "SELECT nextval('free_s') || ' ' || nextval('down_id_seq')";
    assert_eq!(story.ask(next).await, "3 -3", "{script}");
    // A plan tells of the database that is meant, and of none that nobody knows.
    let plan = |words: &[&str]| tokio::task::block_in_place(|| ok(&story, words));
    let told = plan(&["--table", "free", "--plan"]);
    assert_eq!(told["tables"][0]["table"], "postgres.public.free", "{told:#}");
    let told = plan(&["--table", "free", "--database", "nosuch", "--plan"]);
    assert_eq!(told["tables"], serde_json::json!([]), "{told:#}");
    assert!(told["warnings"].to_string().contains("in a database nosuch"), "{told:#}");
    assert_none(&story.site);
}

/// Whatever the settings of whoever runs the script are.
#[tokio::test(flavor = "multi_thread")]
async fn a_script_does_what_it_says_in_any_session_and_nothing_to_rows_that_changed() {
    let Some(story) = begin(17).await else { return };
    let client = connect(&story.server).await;
    client
        .batch_execute(
            "CREATE TABLE shown (id int PRIMARY KEY, b bytea, p point, m money, r regclass,
                 rs regtype[], f float8);
             INSERT INTO shown VALUES
                 (1, '\\x71', '(0.1,0.2)', 12.5, 'account', '{mood}', 0.1),
                 (2, '', NULL, 1, 'audit.log', '{int,mood}', 2);
             CREATE TABLE pairs (id int PRIMARY KEY, v text, u int);
             INSERT INTO pairs VALUES (1, 'a', 1), (2, 'b', 2);
             CREATE TABLE spans (id int PRIMARY KEY, r int4range,
                 EXCLUDE USING gist (r WITH &&) DEFERRABLE INITIALLY DEFERRED);
             INSERT INTO spans VALUES (5, '[50,55)'), (6, '[60,65)');
             CREATE TABLE typed (id int PRIMARY KEY, v text); INSERT INTO typed VALUES (1, '7');
             CREATE TABLE loose (id int PRIMARY KEY, v varchar(9), n numeric, a text[], w int);
             INSERT INTO loose VALUES (1, 'a', 1, '{NULL,x}', 1), (2, 'b', 1, '{NULL}', 1)",
        )
        .await
        .unwrap_or_else(|e| panic!("{e:?}"));
    story.back_up();
    let before = rows(&story, "shown").await;
    client
        .batch_execute(
            "UPDATE shown SET p = point(0.1::float8 + 0.2, 1), m = 3, f = 0.1::float8 + 0.2
                 WHERE id = 1;
             UPDATE shown SET b = 'q', r = 'account', rs = '{mood}' WHERE id = 2;
             UPDATE pairs SET v = 'z'; DELETE FROM spans;
             INSERT INTO spans VALUES (9, '[50,52)');
             ALTER TABLE typed ALTER v TYPE int USING 8;
             ALTER TABLE loose ALTER v TYPE char(9); UPDATE loose SET w = 2, a = '{}'",
        )
        .await
        .unwrap_or_else(|e| panic!("{e:?}"));
    let tables = ["--table", "shown", "--table", "pairs", "--table", "spans", "--table", "typed"];
    let words = [&tables[..], &["--table", "tot*", "--table", "plain"]].concat();
    fails(&story, &[&words[..], &["--compare"]].concat(), 5, &["it is a view"]);
    let more = ["--table", "loose", "--table", "t*", "--compare", "--script", "any.sql"];
    let words = [&tables[..], &more].concat();
    let found = tokio::task::block_in_place(|| ok(&story, &words));
    let warnings = found["warnings"].to_string();
    assert!(warnings.contains("v was text and is integer"), "{found:#}");
    assert!(warnings.contains("public.totals is left out: it is a view"), "{found:#}");
    // Meanwhile another column of a row that differs is changed: the row stays as it is.
    let meanwhile = "UPDATE pairs SET u = 9 WHERE id = 2; UPDATE loose SET n = 1.00 WHERE id = 2";
    client.batch_execute(meanwhile).await.unwrap();
    client
        .batch_execute(
            "ALTER DATABASE postgres SET extra_float_digits = 0;
             ALTER DATABASE postgres SET bytea_output = 'escape';
             ALTER DATABASE postgres SET quote_all_identifiers = on;
             ALTER DATABASE postgres SET DateStyle = 'German';
             ALTER DATABASE postgres SET array_nulls = off;
             ALTER DATABASE postgres SET default_transaction_read_only = on;
             ALTER DATABASE postgres SET xmloption = document",
        )
        .await
        .unwrap();
    let script = fs::read_to_string(story.site.path("any.sql")).unwrap();
    let other = connect(&story.server).await;
    other.batch_execute(&script).await.unwrap_or_else(|e| panic!("{e:?}\n{script}"));
    let brought = ["--table", "loose", "--as", "again"];
    tokio::task::block_in_place(|| drop(ok(&story, &brought)));
    client.batch_execute("ALTER DATABASE postgres RESET ALL").await.unwrap();
    let nulls = story.ask("SELECT string_agg((a[1] IS NULL)::text, ',') FROM again").await;
    assert_eq!(nulls, "true,true");
    let all = "SELECT string_agg(w || ' ' || a::text, ';' ORDER BY id) FROM loose";
    assert_eq!(story.ask(all).await, "1 {NULL,x};2 {}", "{script}");
    assert_eq!(rows(&story, "shown").await, before, "{script}");
    let all = "SELECT string_agg(id || v || u, ',' ORDER BY id) FROM pairs";
    assert_eq!(story.ask(all).await, "1a1,2z9", "{script}");
    let all = "SELECT string_agg(id::text, ',' ORDER BY id) FROM spans";
    assert_eq!(story.ask(all).await, "6,9", "{script}");
    assert_eq!(story.ask("SELECT v::text FROM typed").await, "7", "{script}");
    assert_none(&story.site);
}

/// A database that takes bytes without asking what letters they are.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_without_an_encoding_come_back() {
    let Some(story) = begin(15).await else { return };
    let client = connect(&story.server).await;
    let create = "CREATE DATABASE raw ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'";
    client.batch_execute(create).await.unwrap();
    let inside = format!("{} dbname=raw", story.server.conninfo());
    let (raw, connection) = tokio_postgres::connect(&inside, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    raw.batch_execute(
        "CREATE TABLE words (w text PRIMARY KEY, v text);
         INSERT INTO words VALUES (E'\\xff''\\n', E'a\\xe4'), (E'\\xfe', 'b'), ('é', E'\\xe9');
         CREATE TABLE nokey (v text); INSERT INTO nokey VALUES (E'\\xff'), (NULL), ('')",
    )
    .await
    .unwrap();
    story.back_up();
    let hash = "SELECT (SELECT md5(string_agg(w || '=' || v, ',' ORDER BY w)) FROM words)
        || (SELECT md5(string_agg(v, ',' ORDER BY v)) FROM nokey)";
    let state = async || -> String { raw.query_one(hash, &[]).await.unwrap().get(0) };
    let before = state().await;
    raw.batch_execute(
        "UPDATE words SET v = E'\\xfd' WHERE v = 'b'; DELETE FROM words WHERE w = 'é';
         UPDATE words SET v = 'x' WHERE w = E'\\xff''\\n'; DELETE FROM nokey WHERE v <> ''",
    )
    .await
    .unwrap();
    let into = url(&story, "raw");
    let run = |words: &[&str]| {
        let all = ["restore", "shop", "--into", &into, "--scratch", "scratch", "-o", "json"];
        let output = command(&story, &[&all[..], words].concat()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let tables = ["--table", "words", "--table", "nokey"];
    let words = [&tables[..], &["--compare", "--script", "raw.sql"]].concat();
    let found = tokio::task::block_in_place(|| run(&words));
    assert_eq!(counts(&found, "public.words"), [1, 0, 2], "{found:#}");
    assert_eq!(counts(&found, "public.nokey"), [1, 0, 0], "{found:#}");
    let script = fs::read_to_string(story.site.path("raw.sql")).unwrap();
    raw.batch_execute(&script).await.unwrap_or_else(|e| panic!("{e:?}\n{script}"));
    assert_eq!(state().await, before, "{script}");
    let brought = tokio::task::block_in_place(|| run(&["--table", "words", "--as", "again"]));
    assert_eq!(brought["tables"][0]["rows"], 3, "{brought:#}");
    let same = "SELECT count(*) FROM words FULL JOIN again USING (w, v) WHERE again.w IS NULL";
    assert_eq!(raw.query_one(same, &[]).await.unwrap().get::<_, i64>(0), 0);
    let made = tokio::task::block_in_place(|| run(&["--database", "raw", "--as", "raw2"]));
    assert_eq!(made["created_database"], "raw2", "{made:#}");
    assert_none(&story.site);
}

#[tokio::test(flavor = "multi_thread")]
async fn long_names_that_would_be_cut_to_the_same_get_others() {
    let Some(story) = begin(15).await else { return };
    let client = connect(&story.server).await;
    let long = "n".repeat(62);
    let create = format!(
        "CREATE TABLE {long}1 (a int); CREATE TABLE {long}2 (a int);
         INSERT INTO {long}2 VALUES (1); CREATE TABLE sh (a int, b int);
         CREATE SEQUENCE shared OWNED BY sh.a; CREATE SEQUENCE sh_b_seq OWNED BY sh.b"
    );
    client.batch_execute(&create).await.unwrap();
    story.back_up();
    let found = tokio::task::block_in_place(|| ok(&story, &["--table", "nnn*", "--table", "sh"]));
    let names = |place: usize| found["tables"][place]["to"].as_str().unwrap().to_owned();
    assert_ne!(names(0), names(1), "{found:#}");
    let all = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class
        WHERE relname LIKE 'sh%restored%' AND relkind = 'S'";
    let all = story.ask(all).await;
    assert!(all.contains("shared_restored_") && all.contains("_b_seq"), "{all}");
    assert_none(&story.site);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_may_read_a_copy_who_was_not_allowed_to_read_the_table() {
    let Some(story) = begin(15).await else { return };
    let client = connect(&story.server).await;
    client
        .batch_execute(
            "CREATE ROLE reader; CREATE ROLE clerk;
             CREATE TABLE secret (id serial PRIMARY KEY, no int GENERATED ALWAYS AS IDENTITY);
             CREATE TABLE shared (id int PRIMARY KEY); GRANT SELECT ON shared TO clerk;
             ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO reader;
             ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO PUBLIC",
        )
        .await
        .unwrap();
    story.back_up();
    let bring = |table: &str, name: &str| {
        tokio::task::block_in_place(|| drop(ok(&story, &["--table", table, "--as", name])));
    };
    bring("secret", "secret_again");
    bring("shared", "shared_again");
    let rights = "SELECT string_agg(relname || ' ' || coalesce(grantee::regrole::text, 'public'),
            ', ' ORDER BY relname, grantee)
        FROM pg_class, aclexplode(relacl) WHERE relname ~ '_again' AND grantee <> relowner";
    assert_eq!(story.ask(rights).await, "shared_again clerk");
    assert_none(&story.site);
}

#[tokio::test(flavor = "multi_thread")]
async fn heirs_that_are_gone_are_told_and_do_not_keep_their_parent_from_being_compared() {
    let Some(story) = begin(15).await else { return };
    let client = connect(&story.server).await;
    client
        .batch_execute(
            "CREATE TABLE base (id int PRIMARY KEY, v text);
             CREATE TABLE heir (more int) INHERITS (base);
             CREATE TABLE heir2 () INHERITS (base);
             CREATE TABLE log_parts (id int) PARTITION BY RANGE (id);
             CREATE TABLE log_parts1 PARTITION OF log_parts DEFAULT;
             CREATE TYPE state AS ENUM ('glad', 'sad'); CREATE TABLE moods (id int, v state);
             INSERT INTO log_parts SELECT generate_series(1, 4);
             INSERT INTO base VALUES (1, 'a'), (2, 'b'); INSERT INTO heir VALUES (3, 'x', 5);
             INSERT INTO heir2 SELECT i, 'y' FROM generate_series(10, 16) i",
        )
        .await
        .unwrap();
    story.back_up();
    let change = "DROP TABLE heir2; DELETE FROM base WHERE id = 2;
        UPDATE ONLY base SET v = 'z'";
    client.batch_execute(change).await.unwrap();
    let words = ["--table", "base", "--compare", "--script", "heirs.sql"];
    let found = ok(&story, &words);
    assert_eq!(counts(&found, "public.base"), [1, 0, 1], "{found:#}");
    assert_eq!(counts(&found, "public.heir"), [0, 0, 0], "{found:#}");
    assert_eq!(counts(&found, "public.heir2"), [7, 0, 0], "{found:#}");
    let script = fs::read_to_string(story.site.path("heirs.sql")).unwrap();
    let told = "-- public.heir2: all 7 rows are missing, since the table is gone";
    assert!(script.contains(told), "{script}");
    client.batch_execute(&script).await.unwrap_or_else(|e| panic!("{e:?}\n{script}"));
    let all = "SELECT string_agg(id || v, ',' ORDER BY id) FROM base";
    assert_eq!(story.ask(all).await, "1a,2b,3x", "{script}");
    // Whoever asks for the one that is gone is told so, before anything is fetched.
    let words = ["--table", "heir2", "--compare", "--script", "gone.sql"];
    fails(&story, &words, 6, &["heir2", "without --compare"]);
    fails(&story, &[&words[..], &["--plan"]].concat(), 6, &["heir2"]);
    // Nor does one keep others from being compared.
    client.batch_execute("DROP TABLE log_parts, orders CASCADE").await.unwrap();
    let words = ["--table", "account", "--table", "orders", "--table", "log_parts"];
    let words = [&words[..], &["--compare", "--script", "two.sql"]].concat();
    let found = ok(&story, &words);
    assert_eq!(counts(&found, "public.account"), [0, 0, 0], "{found:#}");
    assert_eq!(counts(&found, "public.log_parts"), [4, 0, 0], "{found:#}");
    assert!(found["warnings"].to_string().contains("--table public.orders"), "{found:#}");
    // What ends the script is told beforehand.
    let change = "ALTER TYPE state RENAME VALUE 'sad' TO 'low';
        ALTER TABLE moods ADD why text NOT NULL, ADD since date NOT NULL DEFAULT now()";
    client.batch_execute(change).await.unwrap();
    let told = ok(&story, &["--table", "moods", "--compare"])["warnings"].to_string();
    assert!(told.contains("v can no longer be sad"), "{told}");
    assert!(told.contains("why must have a value") && !told.contains("since"), "{told}");
    // A name that is taken where the table is.
    fails(&story, &["--table", "account", "--as", "base", "--plan"], 5, &["SP0702", "free"]);
    assert_none(&story.site);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_type_is_told_before_any_row_is_read() {
    let Some(story) = begin(15).await else { return };
    let client = connect(&story.server).await;
    client
        .batch_execute(
            "ALTER TABLE account ALTER id TYPE bigint; DELETE FROM account WHERE id = 9;
             ALTER TABLE big ALTER id TYPE text",
        )
        .await
        .unwrap();
    let found = ok(&story, &["--table", "account", "--compare"]);
    assert_eq!(counts(&found, "public.account"), [1, 0, 0], "{found:#}");
    let said = ["type at the point", "integer", "type now", "text", "without --compare"];
    let words = ["--table", "account", "--table", "big", "--compare", "--script", "types.sql"];
    fails(&story, &words, 5, &said);
    assert!(!story.site.path("types.sql").exists());
    assert_none(&story.site);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_not_brought_where_they_would_be_published() {
    let Some(story) = begin(15).await else { return };
    let client = connect(&story.server).await;
    let publish = "CREATE PUBLICATION logs FOR TABLES IN SCHEMA audit";
    client.batch_execute(publish).await.unwrap();
    let said = ["publication", "logs", "of their schema"];
    for words in [
        &["--table", "audit.log"][..],
        &["--table", "orders", "--as", "audit.orders"],
        &["--table", "log"],
    ] {
        fails(&story, words, 5, &said);
    }
    ok(&story, &["--table", "audit.log", "--as", "public.log"]);
    client.batch_execute("CREATE PUBLICATION everything FOR ALL TABLES").await.unwrap();
    fails(&story, &["--table", "orders"], 5, &["everything", "publishes all tables, also"]);
    ok(&story, &["--table", "orders", "--compare"]);
    assert_none(&story.site);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_pg_dump_is_told_before_anything_is_fetched() {
    let Some(story) = begin(17).await else { return };
    let mut places = vec![Postgres::programs(17).unwrap()];
    places.extend(["/usr/bin".into(), "/bin".into()]);
    let path = std::env::join_paths(places).unwrap();
    let into = url(&story, "postgres");
    let without = |words: &[&str]| {
        let all = ["restore", "shop", "--into", &into, "--scratch", "scratch"];
        let mut command = command(&story, &[&all[..], words].concat());
        let output = command.env("PATH", &path).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    // A plan opens nothing.
    for more in [&["--plan"][..], &[]] {
        let (status, said) = without(&[&["--table", "orders"][..], more].concat());
        assert_eq!(status, 5, "{said}");
        assert!(said.contains("pg_dump of PostgreSQL 17 or newer"), "{said}");
    }
    let (status, said) = without(&["--table", "orders", "--compare"]);
    assert_eq!(status, 0, "{said}");
    let (status, ..) = run(&story, &["--table", "orders", "--plan"]);
    assert_eq!(status, 0);
    assert_none(&story.site);
}
