//! What PostgreSQL deletes, or puts back, besides what is asked of it: nothing of it is lost, and
//! nothing is in the archive and in its table.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says what it tried")]

use std::time::Duration;

use stillpoint::archiver::RunReport;
use stillpoint_contract::{ErrorKind, Result, code};

use super::shop::{InPostgres, Shop, Yard};

fn sorted(mut tokens: Vec<String>) -> Vec<String> {
    tokens.sort();
    tokens
}

/// Runs while somebody else's transaction is open, which commits soon after.
async fn run_beside(yard: &Yard<&InPostgres>, statements: &str) -> Result<RunReport> {
    let mut client = yard.shop.client().await;
    let transaction = client.transaction().await.unwrap();
    transaction.batch_execute(statements).await.unwrap();
    let commit = async {
        yard.world.clock.sleep(Duration::from_millis(700)).await;
        transaction.commit().await.unwrap();
    };
    let (run, ()) = tokio::join!(yard.run(), commit);
    run
}

/// A row is added to a parent that is being deleted: the cascade must not take it along unseen.
#[tokio::test(flavor = "multi_thread")]
async fn i1_a_child_that_is_added_while_its_parent_is_deleted_is_archived() {
    let Some(shop) = InPostgres::new(18).await else { return };
    for action in ["CASCADE", "NO ACTION", "RESTRICT"] {
        shop.reset().await;
        let yard = Yard::new(&shop, true);
        yard.fill(0..10, 1).await;
        shop.execute(&format!(
            "ALTER TABLE items DROP CONSTRAINT items_order_id_fkey;
                 ALTER TABLE items ADD FOREIGN KEY (order_id) REFERENCES orders ON DELETE {action}"
        ))
        .await;
        let add = "INSERT INTO items VALUES (9000, 3, 'late');
            UPDATE items SET order_id = 5 WHERE id = 700";
        run_beside(&yard, add).await.unwrap_or_else(|e| panic!("{action}: {e:?}"));
        let done = yard.run().await.unwrap();
        assert!(done.quit.is_done(), "{done:?}");
        let mut wanted: Vec<String> = (0..10).map(|id| format!("i{}", id * 100)).collect();
        wanted.push("late".to_owned());
        assert_eq!(yard.archived("items").await, sorted(wanted), "{action}");
        assert_eq!(yard.live("items").await, Vec::<String>::new(), "{action}");
    }
}

/// A table that refers is partitioned itself: its rows would go with a cascade.
#[tokio::test(flavor = "multi_thread")]
async fn i8_a_partitioned_table_that_refers_and_cascades_is_refused() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let yard = Yard::new(&shop, false);
    yard.fill(0..10, 0).await;
    shop.execute(
        "DROP TABLE IF EXISTS parts;
         CREATE TABLE parts (id int, order_id int REFERENCES orders ON DELETE CASCADE)
             PARTITION BY RANGE (id);
         CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (1000);
         CREATE INDEX ON parts (order_id); INSERT INTO parts SELECT id, id FROM orders",
    )
    .await;
    let error = yard.run().await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, code::ROWS_REFUSED), "{error:?}");
    assert!(format!("{error:?}").contains("public.parts"), "{error:?}");
    assert_eq!(shop.ask("SELECT count(*)::text FROM parts").await, ["10"]);
    shop.execute("DROP TABLE parts").await;
}

/// The foreign key finds rows that comparing names would not: by the equality of its own type.
#[tokio::test(flavor = "multi_thread")]
async fn i8_children_are_those_that_the_foreign_key_means() {
    let Some(shop) = InPostgres::new(18).await else { return };
    for (parent, child) in [
        ("text", "char(8)"),
        ("varchar(20)", "text"),
        ("numeric", "int"),
        // Two collations are none, unless one of them is said.
        ("text COLLATE \"C\"", "varchar(9)"),
        ("varchar(9)", "text COLLATE \"C\""),
    ] {
        shop.execute(&format!(
            "DROP TABLE IF EXISTS lines; DROP TABLE IF EXISTS heads;
                 DROP SCHEMA IF EXISTS stillpoint CASCADE;
                 CREATE TABLE heads (code {parent} PRIMARY KEY, token text, state text);
                 CREATE TABLE lines (id int PRIMARY KEY, token text,
                     code {child} REFERENCES heads ON DELETE CASCADE);
                 CREATE INDEX ON lines (code);
                 INSERT INTO heads SELECT n, 'h' || n, 'closed' FROM generate_series(1, 9) AS n;
                 INSERT INTO lines SELECT n, 'l' || n, n FROM generate_series(1, 9) AS n"
        ))
        .await;
        let mut yard = Yard::new(&shop, false);
        "public.heads".clone_into(&mut yard.rule.root);
        yard.rule.children = vec![stillpoint::policy::ArchivedChild {
            table: "public.lines".to_owned(),
            columns: Vec::new(),
        }];
        match yard.run().await {
            Ok(done) => assert!(done.quit.is_done() && done.left_rows == 0, "{child}: {done:?}"),
            Err(error) => panic!("{parent}, {child}: {error:?}"),
        }
        let lines: Vec<String> = (1..10).map(|n| format!("l{n}")).collect();
        assert_eq!(yard.archived("lines").await, lines, "{parent}, {child}");
        assert_eq!(shop.ask("SELECT count(*)::text FROM lines").await, ["0"]);
    }
    shop.execute("DROP TABLE lines, heads").await;
}

/// Rows that a trigger puts back at the end of the transaction are not archived, too; and triggers
/// that act then find tables by the names that they use.
#[tokio::test(flavor = "multi_thread")]
async fn i7_what_is_put_off_until_the_end_is_seen() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let yard = Yard::new(&shop, false);
    yard.fill(0..10, 0).await;
    let trigger = |body: &str| {
        format!(
            "CREATE OR REPLACE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN {body}; RETURN NULL; END $$;
             DROP TRIGGER IF EXISTS late ON orders;
             CREATE CONSTRAINT TRIGGER late AFTER DELETE ON orders
                 DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late()"
        )
    };
    shop.execute(&trigger("IF old.id < 3 THEN INSERT INTO orders SELECT old.*; END IF")).await;
    let done = yard.run().await.unwrap();
    assert!(done.left_rows > 0, "{done:?}");
    let all = sorted([yard.live("orders").await, yard.archived("orders").await].concat());
    assert_eq!(all, (0..10).map(|id| format!("o{id}")).collect::<Vec<_>>());

    shop.execute("CREATE TABLE IF NOT EXISTS audit (id int)").await;
    shop.execute(&trigger("INSERT INTO audit VALUES (old.id)")).await;
    let done = yard.run().await.unwrap();
    assert!(done.quit.is_done() && done.left_rows == 0, "{done:?}");
    assert_eq!(yard.live("orders").await, Vec::<String>::new());
    assert_eq!(yard.archived("orders").await.len(), 10);
    shop.execute("DROP TABLE audit").await;
}

/// A trigger deletes other rows of the table: they would be nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn i7_rows_that_a_trigger_deletes_besides_are_not_lost() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let yard = Yard::new(&shop, false);
    yard.fill(0..10, 0).await;
    shop.execute(
        "UPDATE orders SET state = 'open' WHERE id = 9;
         CREATE OR REPLACE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN DELETE FROM public.orders WHERE id = 9; RETURN NULL; END $$;
         CREATE TRIGGER more AFTER DELETE ON orders FOR EACH ROW EXECUTE FUNCTION more()",
    )
    .await;
    let done = yard.run().await.unwrap();
    assert_eq!((done.pruned_rows, done.left_rows), (0, 9), "{done:?}");
    assert_eq!(yard.live("orders").await.len(), 10);
}

/// Before PostgreSQL 15, triggers that a partition has from the whole table look internal.
#[tokio::test(flavor = "multi_thread")]
async fn i7_triggers_of_the_whole_table_are_seen_in_its_partitions() {
    for major in [13, 18] {
        let Some(shop) = InPostgres::new(major).await else { return };
        shop.execute(
            "DROP TABLE IF EXISTS whole; DROP SCHEMA IF EXISTS stillpoint CASCADE;
             CREATE TABLE whole (id int PRIMARY KEY, token text, state text)
                 PARTITION BY RANGE (id);
             CREATE TABLE whole_1 PARTITION OF whole FOR VALUES FROM (0) TO (100);
             INSERT INTO whole SELECT n, 'o' || n, 'closed' FROM generate_series(0, 9) AS n;
             CREATE OR REPLACE FUNCTION back() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN IF old.id < 3 THEN INSERT INTO whole SELECT old.*; END IF;
                 RETURN NULL; END $$;
             CREATE TRIGGER back AFTER DELETE ON whole FOR EACH ROW EXECUTE FUNCTION back()",
        )
        .await;
        let mut yard = Yard::new(&shop, false);
        "public.whole_1".clone_into(&mut yard.rule.root);
        let done = yard.run().await.unwrap();
        assert!(done.left_rows > 0, "{major}: {done:?}");
        let live = shop.ask("SELECT token FROM whole").await;
        let all = sorted([live, yard.archived("whole_1").await].concat());
        assert_eq!(all, (0..10).map(|id| format!("o{id}")).collect::<Vec<_>>(), "{major}");
        shop.execute("DROP TABLE whole").await;
    }
}
