//! Invariant 12: partitions of which all rows are selected leave as a whole, and of the others rows
//! are deleted; whoever writes there meanwhile, and wherever a run is killed.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use stillpoint::{
    archiver::{
        Archiving, Erasing, Limits, Nobody, Quit, Reattached, Returning, Shelf, Step, Wanted,
        erase, put_back, standing,
    },
    repository::store::Dice,
};
use stillpoint_contract::{Conflict, ErrorKind, Result};

use super::{
    protocol::{Meddler, SHELVED},
    shop::{InPostgres, RESET, Shop, Yard, tokens},
};

/// Orders in partitions whose names do not sort as their rows do.
const PARTED: &str = "
    DROP TABLE IF EXISTS orders, parted;
    CREATE TABLE parted (id int NOT NULL, token text NOT NULL, state text NOT NULL, note text,
        amount numeric(12, 2), PRIMARY KEY (id)) PARTITION BY RANGE (id);
    CREATE TABLE p9 PARTITION OF parted FOR VALUES FROM (0) TO (100);
    CREATE TABLE p10 PARTITION OF parted FOR VALUES FROM (100) TO (200);
    INSERT INTO parted SELECT n, 'o' || n, 'closed', 'note', n FROM generate_series(50, 149) AS n;";

/// The same, in partitions of partitions, of several schemas, and with names that need quotes.
/// Those below 175 are selected: all of `p9` and of `a.p` in quotes, and half of `p11`.
const NESTED: &str = r#"
    DROP TABLE IF EXISTS orders, parted, p9, public."p ""1""" CASCADE;
    DROP SCHEMA IF EXISTS "Old Ones" CASCADE; CREATE SCHEMA "Old Ones";
    CREATE TABLE parted (id int NOT NULL, token text NOT NULL, state text NOT NULL, note text,
        amount numeric(12, 2), PRIMARY KEY (id)) PARTITION BY RANGE (id);
    CREATE TABLE p10 PARTITION OF parted FOR VALUES FROM (100) TO (200) PARTITION BY RANGE (id);
    CREATE TABLE p12 PARTITION OF parted FOR VALUES FROM (200) TO (300);
    CREATE TABLE p11 PARTITION OF p10 FOR VALUES FROM (150) TO (200);
    CREATE TABLE "Old Ones"."p ""1""" PARTITION OF p10 FOR VALUES FROM (100) TO (150);
    CREATE TABLE p9 PARTITION OF parted FOR VALUES FROM (0) TO (100);
    INSERT INTO parted
        SELECT n, 'o' || n, 'closed', 'note', n FROM generate_series(60, 219) AS n;"#;

/// The partitions that leave as a whole.
const WHOLE: [&str; 2] = ["public.p9", r#""Old Ones"."p ""1""""#];

fn yard<S: Shop>(shop: S, root: &str) -> Yard<S> {
    let mut yard = Yard::new(shop, false);
    root.clone_into(&mut yard.rule.root);
    yard
}

/// A shop with nested partitions.
pub(super) async fn nested<S: Shop>(shop: S, server: &InPostgres, below: u32) -> Yard<S> {
    server.client().await.batch_execute(&format!("{RESET}{NESTED}")).await.unwrap();
    let mut yard = yard(shop, "public.parted");
    yard.rule.selects = format!("id < {below} AND state = 'closed'");
    yard
}

pub(super) async fn count(shop: &InPostgres, table: &str) -> u64 {
    let count = shop.ask(&format!("SELECT count(*)::text FROM {table}")).await;
    count[0].parse().unwrap()
}

/// Tokens of a set's archived rows.
pub(super) async fn archived<S: Shop>(yard: &Yard<S>) -> Vec<String> {
    let root = yard.rule.root.rsplit('.').next().unwrap().to_owned();
    yard.archived(&root).await
}

/// Whether a table is there, and is no partition that the whole table shows.
pub(super) async fn stands(shop: &InPostgres, name: &str) -> bool {
    let query = format!(
        "SELECT 'x' FROM pg_class AS c WHERE oid = to_regclass('{name}') AND NOT EXISTS (
            SELECT FROM pg_inherits AS i WHERE inhrelid = c.oid
                AND to_jsonb(i) ->> 'inhdetachpending' IS DISTINCT FROM 'true')"
    );
    !shop.ask(&query).await.is_empty()
}

/// How many rows there are: those that the table shows, those that the ledger has, and those of
/// partitions that were taken out and are not in the ledger.
async fn everything<S: Shop>(yard: &Yard<S>, shop: &InPostgres) -> u64 {
    let ledger = yard.ledger().await;
    let shelf = Shelf::load(&yard.place).await.unwrap();
    let mut rows = count(shop, "parted").await;
    rows += ledger.iter().map(|entry| entry.rows).sum::<u64>();
    for name in WHOLE {
        let mut runs = shelf
            .runs
            .iter()
            .filter(|run| run.plan.whole().is_some_and(|partition| partition.name == name));
        let is_noted = runs.any(|run| ledger.iter().any(|entry| entry.run == run.plan.run));
        if stands(shop, name).await && !is_noted {
            rows += count(shop, name).await;
        }
    }
    rows
}

pub(super) async fn reattach<S: Shop>(yard: &Yard<S>, which: &str) -> Result<Reattached> {
    let driver = yard.shop.driver().await;
    let archiving = Archiving {
        driver: &*driver,
        place: &yard.place,
        world: &yard.world,
        rule: &yard.rule,
        gates: &yard.gates,
        limits: Limits::default(),
        witness: &Nobody,
    };
    Box::pin(archiving.reattach(which)).await
}

/// Partitions that leave, others whose rows are deleted, and one that is left alone; on servers
/// where they leave beside others, and where they do not.
#[tokio::test(flavor = "multi_thread")]
async fn i12_partitions_leave_as_a_whole_and_rows_of_the_others_are_deleted() {
    for major in [13, 18] {
        let Some(shop) = InPostgres::new(major).await else { continue };
        let mut yard = nested(&shop, &shop, 175).await;
        // That of the whole table: those of its partitions have names of their own.
        yard.rule.key = Some("parted_pkey".to_owned());
        let report = yard.run().await.unwrap();
        assert_eq!(report.quit, Quit::Finished, "{report:?}");
        assert_eq!((report.exported_rows, report.pruned_rows), (115, 115), "{report:?}");
        for name in WHOLE {
            assert!(!stands(&shop, name).await, "{name} is there");
        }
        assert_eq!((count(&shop, "p11").await, count(&shop, "parted").await), (25, 45));
        assert_eq!(archived(&yard).await, tokens(60..175));
        let files = yard.store.list("").await.unwrap();
        assert_eq!(yard.run().await.unwrap().quit, Quit::NothingSelected);
        assert_eq!(yard.store.list("").await.unwrap(), files);

        // Rows go back into the partition that they belong to, if there is one.
        let driver = shop.driver().await;
        let terms = Wanted::terms_of("id >= 150").unwrap();
        let wanted = Wanted { terms, ..Wanted::default() };
        for (conflict, expected) in [(Conflict::Fail, (25, 0)), (Conflict::Overwrite, (0, 25))] {
            let (wanted, conflict) = (wanted.clone(), conflict.clone());
            let returning = Returning { wanted, conflict, staging: None };
            let back = put_back(&yard.place, &yard.world, &*driver, &returning);
            let tally = Box::pin(back).await.unwrap();
            let tally = tally[0].tally;
            assert_eq!((tally.inserted, tally.replaced), expected);
        }
        assert_eq!(count(&shop, "p11").await, 50);
        assert!(yard.put_back().await.is_err(), "their partitions are gone");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i12_a_partition_stands_for_its_grace_and_can_be_put_back() {
    let Some(shop) = InPostgres::new(17).await else { return };
    let mut yard = nested(&shop, &shop, 100).await;
    yard.rule.grace = Duration::from_hours(1);
    let report = yard.run().await.unwrap();
    assert!(matches!(&report.quit, Quit::Gate(why) if why.contains("stands beside")), "{report:?}");
    // The archive answers for its rows, once, and the table that it became is only a way back.
    assert_eq!((count(&shop, "parted").await, count(&shop, "p9").await), (120, 40));
    assert_eq!(archived(&yard).await, tokens(60..100));
    let standing_now = standing(&yard.place, yard.rule.grace).await.unwrap();
    assert!(standing_now[0].is_archived && standing_now[0].partition.name == "public.p9");
    let files = yard.store.list("").await.unwrap();
    assert!(matches!(yard.run().await.unwrap().quit, Quit::Gate(_)));
    assert_eq!(yard.store.list("").await.unwrap(), files, "it waits, and writes nothing");

    let error = reattach(&yard, "p10").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Missing, "{error:?}");
    let back = reattach(&yard, "p9").await.unwrap();
    assert_eq!(back.partition.bounds, "FOR VALUES FROM (0) TO (100)");
    assert_eq!(count(&shop, "parted").await, 160);
    assert_eq!((archived(&yard).await, yard.ledger().await), (Vec::new(), Vec::new()));
    // It is left alone for as long.
    let report = yard.run().await.unwrap();
    assert_eq!((report.quit, count(&shop, "parted").await), (Quit::NothingSelected, 160));
    assert!(report.findings.iter().any(|one| one.found.contains("was put back")), "no word of it");

    // It comes back as well when the policy is corrected meanwhile.
    yard.rule.name = "corrected".to_owned();
    yard.place = stillpoint::archiver::Place::new(Arc::clone(&yard.store), "corrected").unwrap();
    assert!(matches!(yard.run().await.unwrap().quit, Quit::Gate(_)));
    let selects = std::mem::replace(&mut yard.rule.selects, "id < 0".to_owned());
    let report = yard.run().await.unwrap();
    assert_eq!((report.pruned_rows, count(&shop, "parted").await), (0, 160), "{report:?}");
    yard.rule.selects = selects;

    // Once its grace is over, it goes.
    yard.rule.name = "other".to_owned();
    yard.place = stillpoint::archiver::Place::new(Arc::clone(&yard.store), "other").unwrap();
    assert!(matches!(yard.run().await.unwrap().quit, Quit::Gate(_)));
    yard.rule.grace = Duration::ZERO;
    assert_eq!(yard.run().await.unwrap().quit, Quit::Finished);
    assert!(!stands(&shop, "public.p9").await);
    assert_eq!(archived(&yard).await, tokens(60..100));
}

/// Kills a run at each step that it has; each time, every row is somewhere, and once.
#[tokio::test(flavor = "multi_thread")]
async fn i12_a_run_over_partitions_is_killed_at_each_step() {
    for major in [13, 18] {
        let Some(shop) = InPostgres::new(major).await else { continue };
        let mut yard = nested(&shop, &shop, 175).await;
        yard.rule.slice_rows = 20;
        let mut steps = 0;
        loop {
            steps += 1;
            let run = yard.run_until(steps).await;
            assert_eq!(everything(&yard, &shop).await, 160, "killed at step {steps}");
            if let Some(run) = run {
                assert!(run.unwrap().quit.is_done());
                break;
            }
        }
        assert!(steps > 12, "{steps}");
        assert_eq!(archived(&yard).await, tokens(60..175));
        assert_eq!(count(&shop, "parted").await, 45);
    }
}

/// Kills a run at one step each, from the beginning; the next one brings it to its end.
#[tokio::test(flavor = "multi_thread")]
async fn i12_the_next_run_ends_what_was_killed_at_any_step() {
    let Some(shop) = InPostgres::new(16).await else { return };
    for step in 1.. {
        let mut yard = nested(&shop, &shop, 150).await;
        yard.rule.slice_rows = 30;
        let is_over = yard.run_until(step).await.is_some();
        assert_eq!(everything(&yard, &shop).await, 160, "killed at step {step}");
        assert!(yard.run().await.unwrap().quit.is_done(), "killed at step {step}");
        assert_eq!(archived(&yard).await, tokens(60..150), "killed at step {step}");
        assert_eq!(count(&shop, "parted").await, 70, "killed at step {step}");
        if is_over {
            assert!(step > 20, "{step}");
            break;
        }
    }
}

/// A partition that was on its way out when the process ended: there is no way but out.
#[tokio::test(flavor = "multi_thread")]
async fn i12_a_partition_on_its_way_out_leaves_with_the_next_run() {
    let Some(shop) = InPostgres::new(14).await else { return };
    let yard = nested(&shop, &shop, 100).await;
    // Killed as soon as it wanted to begin.
    assert!(yard.run_until(2).await.is_none());
    let mut reader = shop.client().await;
    let reading = reader.transaction().await.unwrap();
    reading.query("SELECT FROM parted", &[]).await.unwrap();
    let killed = shop.client().await;
    killed.batch_execute("SET lock_timeout = '50ms'").await.unwrap();
    let detach = "ALTER TABLE parted DETACH PARTITION p9 CONCURRENTLY";
    killed.batch_execute(detach).await.unwrap_err();
    assert_eq!(shop.ask("SELECT 'x' FROM pg_inherits WHERE inhdetachpending").await.len(), 1);
    drop(reading);
    let inserted =
        shop.client().await.execute("INSERT INTO parted VALUES (1, 'x', 'y')", &[]).await;
    assert!(inserted.is_err(), "it is still to be seen");
    assert_eq!(everything(&yard, &shop).await, 160);
    assert_eq!(yard.run().await.unwrap().quit, Quit::Finished);
    assert_eq!((archived(&yard).await, count(&shop, "parted").await), (tokens(60..100), 120));
}

/// What is written into the table that a partition became, at each moment, is in the archive in
/// the end, or in the table; never in neither.
#[tokio::test(flavor = "multi_thread")]
async fn i12_what_is_written_into_a_partition_that_was_taken_out_is_noticed() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let shop = Arc::new(shop);
    let moments: [fn(&Step) -> bool; 3] = [
        |step| matches!(step, Step::Detached { .. }),
        SHELVED,
        |step| matches!(step, Step::Sealed { .. }),
    ];
    for (at, when) in moments.into_iter().enumerate() {
        let yard = nested(Arc::clone(&shop), &shop, 100).await;
        let statements = [
            "INSERT INTO p9 VALUES (3, 'below', 'closed', NULL, 0)",
            "UPDATE p9 SET token = 'new' WHERE id = 77",
            "DELETE FROM p9 WHERE id = 78",
        ];
        // What is deleted once the archive has it is a question of its own.
        let count_of = if at == 2 { 2 } else { 3 };
        let statements = statements.map(str::to_owned)[..count_of].to_vec();
        let statements = Mutex::new(statements);
        let meddler = Meddler { shop: Arc::clone(&shop), when, statements };
        let report = yard.run_seen(&meddler).await.unwrap();
        assert!(report.quit.is_done(), "{at}: {report:?}");
        assert_eq!(report.differences.is_empty(), at == 0, "{at}: {report:?}");
        let mut wanted = tokens((60..100).filter(|id| *id != 77 && (at == 2 || *id != 78)));
        wanted.extend(["below".to_owned(), "new".to_owned()]);
        wanted.sort();
        assert_eq!(archived(&yard).await, wanted, "{at}");
        assert_eq!(report.exported_rows as usize, wanted.len(), "{at}: {report:?}");
        assert!(!stands(&shop, "public.p9").await);
        assert_eq!(count(&shop, "parted").await, 120);
    }
}

/// Who empties the table that a partition became takes nothing out of the archive.
#[tokio::test(flavor = "multi_thread")]
async fn i12_rows_that_the_archive_has_stay_there_whoever_deletes_them_elsewhere() {
    let Some(shop) = InPostgres::new(17).await else { return };
    let mut yard = nested(&shop, &shop, 100).await;
    yard.rule.grace = Duration::from_hours(1);
    assert!(matches!(yard.run().await.unwrap().quit, Quit::Gate(_)));
    shop.client().await.batch_execute("DELETE FROM p9 WHERE id = 78").await.unwrap();
    yard.rule.grace = Duration::ZERO;
    let report = yard.run().await.unwrap();
    assert!(matches!(&report.quit, Quit::Gate(why) if why.contains("rows are gone")), "{report:?}");
    let error = reattach(&yard, "p9").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
    assert!(stands(&shop, "public.p9").await);
    assert_eq!(archived(&yard).await, tokens(60..100));
    shop.client().await.batch_execute("DROP TABLE p9").await.unwrap();
    assert_eq!(yard.run().await.unwrap().quit, Quit::Finished);
    assert_eq!((archived(&yard).await, yard.ledger().await.len()), (tokens(60..100), 4));
}

/// Whoever is erased may have the last row of a partition that stands beside its table: its files
/// end before that row, and the table, which has it as before, is the same all the same.
#[tokio::test(flavor = "multi_thread")]
async fn i12_a_partition_whose_last_row_was_erased_from_files_goes_or_comes_back() {
    let Some(shop) = InPostgres::new(17).await else { return };
    for what in ["dropped", "put back", "written to"] {
        let mut yard = nested(&shop, &shop, 100).await;
        yard.rule.grace = Duration::from_hours(1);
        assert!(matches!(yard.run().await.unwrap().quit, Quit::Gate(_)), "{what}");
        let (places, who) = ([yard.place.clone()], (None, "id", "99"));
        let erased = erase(&places, &yard.world, who, ("Art. 17", "dba"), Erasing::IfFound);
        assert_eq!(Box::pin(erased).await.unwrap().rows, 1, "{what}");
        assert_eq!((archived(&yard).await, count(&shop, "p9").await), (tokens(60..99), 40));
        if what == "put back" {
            reattach(&yard, "p9").await.unwrap();
            assert_eq!((count(&shop, "parted").await, archived(&yard).await), (160, Vec::new()));
            continue;
        }
        if what == "written to" {
            shop.execute("UPDATE p9 SET token = 'new' WHERE id = 99").await;
        }
        yard.rule.grace = Duration::ZERO;
        let report = yard.run().await.unwrap();
        assert_eq!(report.quit, Quit::Finished, "{what}: {report:?}");
        assert_eq!(report.differences.is_empty(), what == "dropped", "{what}: {report:?}");
        assert!(!stands(&shop, "public.p9").await, "{what}");
        assert_eq!(archived(&yard).await, tokens(60..99), "{what}");
    }
}

/// A row that is not selected, in a partition that has left already: it goes back.
#[tokio::test(flavor = "multi_thread")]
async fn i12_a_partition_goes_back_when_a_row_of_it_is_to_stay() {
    let Some(shop) = InPostgres::new(15).await else { return };
    let shop = Arc::new(shop);
    let moments: [fn(&Step) -> bool; 3] = [
        |step| matches!(step, Step::Detached { .. }),
        SHELVED,
        |step| matches!(step, Step::Sealed { .. }),
    ];
    for (at, when) in moments.into_iter().enumerate() {
        let yard = nested(Arc::clone(&shop), &shop, 100).await;
        let insert = "INSERT INTO p9 VALUES (3, 'open', 'open', NULL, 0)".to_owned();
        let statements = Mutex::new(vec![insert]);
        let meddler = Meddler { shop: Arc::clone(&shop), when, statements };
        let report = yard.run_seen(&meddler).await.unwrap();
        assert!(report.quit.is_done(), "{at}: {report:?}");
        // A run of its own deletes the others one by one.
        assert!(yard.run().await.unwrap().quit.is_done());
        assert_eq!((archived(&yard).await, count(&shop, "parted").await), (tokens(60..100), 121));
        assert_eq!(shop.ask("SELECT token FROM p9").await, ["open"], "{at}");
        assert!(!stands(&shop, "public.p9").await);
    }
}

/// What keeps a partition where it is, so that its rows are deleted one by one.
#[tokio::test(flavor = "multi_thread")]
async fn i12_what_keeps_a_partition_where_it_is() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let columns = "(id int PRIMARY KEY, token text NOT NULL, state text)";
    let fill = "INSERT INTO parted SELECT n, 'o' || n, 'closed' FROM generate_series(0, 19) AS n";
    for (make, leaves) in [
        // One of a hash, of a list of values that come again, and the default one.
        (
            "{} PARTITION BY HASH (id); CREATE TABLE a PARTITION OF parted
            FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
            false,
        ),
        ("{} PARTITION BY LIST (id); CREATE TABLE a PARTITION OF parted DEFAULT", false),
        // A list of values that time leaves behind.
        (
            "{} PARTITION BY LIST (id); CREATE TABLE a PARTITION OF parted FOR VALUES IN
            (0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19)",
            true,
        ),
        // Beside a default one it leaves alone.
        (
            "{} PARTITION BY RANGE (id); CREATE TABLE a PARTITION OF parted FOR VALUES FROM (0)
            TO (20); CREATE TABLE b PARTITION OF parted DEFAULT",
            true,
        ),
        // New rows still come.
        (
            "{} PARTITION BY RANGE (id); CREATE TABLE a PARTITION OF parted FOR VALUES FROM (0)
            TO (200)",
            false,
        ),
        // Somebody wants to see deletions.
        (
            "{} PARTITION BY RANGE (id); CREATE TABLE a PARTITION OF parted FOR VALUES FROM (0)
            TO (20); CREATE TRIGGER t AFTER DELETE ON parted FOR EACH ROW EXECUTE FUNCTION
            seen()",
            false,
        ),
        (
            "{} PARTITION BY RANGE (id); CREATE TABLE a PARTITION OF parted FOR VALUES FROM (0)
            TO (20); CREATE VIEW v AS SELECT * FROM a",
            false,
        ),
    ] {
        let reset = "DROP TABLE IF EXISTS parted, a CASCADE; CREATE OR REPLACE FUNCTION seen()
            RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'";
        let make = make.replace("{}", &format!("CREATE TABLE parted {columns}"));
        let make = format!("{RESET}{reset}; {make}; {fill}");
        shop.client().await.batch_execute(&make).await.unwrap();
        let mut yard = yard(&shop, "public.parted");
        "id < 100".clone_into(&mut yard.rule.selects);
        let report = yard.run().await.unwrap();
        assert_eq!(report.quit, Quit::Finished, "{make}: {report:?}");
        let left = shop.ask("SELECT 'x' WHERE to_regclass('public.a') IS NOT NULL").await;
        assert_eq!(left.is_empty(), leaves, "{make}");
        assert_eq!((archived(&yard).await, count(&shop, "parted").await), (tokens(0..20), 0));
        if leaves {
            continue;
        }
        let shelf = Shelf::load(&yard.place).await.unwrap();
        assert!(shelf.runs.iter().all(|run| run.plan.whole().is_none()), "{make}");
    }
}

/// Rows of another table go with rows of a partition; and a policy that lets none leave.
#[tokio::test(flavor = "multi_thread")]
async fn i12_rows_are_deleted_where_others_refer_to_them_or_nobody_wants_it_otherwise() {
    let Some(shop) = InPostgres::new(16).await else { return };
    let mut alone = nested(&shop, &shop, 150).await;
    alone.rule.detaches = false;
    assert!(alone.run().await.unwrap().quit.is_done());
    assert_eq!((archived(&alone).await, count(&shop, "p9").await), (tokens(60..150), 0));

    // In the order of another index, of which a table that was taken out has no name.
    let mut ordered = nested(&shop, &shop, 150).await;
    let index = "CREATE UNIQUE INDEX parted_token ON parted (token, id)";
    shop.client().await.batch_execute(index).await.unwrap();
    ordered.rule.key = Some("parted_token".to_owned());
    let report = ordered.run().await.unwrap();
    assert_eq!((report.quit.is_done(), report.pruned_rows), (true, 90), "{report:?}");
    assert_eq!((archived(&ordered).await, count(&shop, "p9").await), (tokens(60..150), 0));

    let mut yard = nested(&shop, &shop, 150).await;
    let items = "CREATE TABLE items (id int PRIMARY KEY, order_id int NOT NULL REFERENCES parted,
        token text NOT NULL); CREATE INDEX ON items (order_id);
        INSERT INTO items SELECT id, id, 'i' || id FROM parted";
    shop.client().await.batch_execute(items).await.unwrap();
    let error = yard.run().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Refused && count(&shop, "parted").await == 160, "{error:?}");
    yard.rule.includes_unlisted = true;
    let report = yard.run().await.unwrap();
    assert_eq!((report.quit.is_done(), report.pruned_rows), (true, 180), "{report:?}");
    assert_eq!((count(&shop, "p9").await, count(&shop, "items").await), (0, 70));
    assert_eq!(yard.archived("items").await.len(), 90);
}

/// Somebody else drops, or takes out, a partition whose rows are in files.
#[tokio::test(flavor = "multi_thread")]
async fn i12_a_partition_that_somebody_else_takes_away_is_counted_once() {
    let Some(shop) = InPostgres::new(18).await else { return };
    for (take, is_archived) in
        [("DROP TABLE p9", true), ("ALTER TABLE parted DETACH PARTITION p9", false)]
    {
        let mut yard = nested(&shop, &shop, 100).await;
        yard.limits.keeps_source = true;
        assert_eq!(yard.run().await.unwrap().quit, Quit::KeptSource);
        assert_eq!((count(&shop, "p9").await, archived(&yard).await.len()), (40, 0));
        shop.client().await.batch_execute(take).await.unwrap();
        yard.limits.keeps_source = false;
        assert!(yard.run().await.unwrap().quit.is_done(), "{take}");
        assert_eq!(archived(&yard).await.len(), if is_archived { 40 } else { 0 }, "{take}");
        assert_eq!(everything(&yard, &shop).await, 160, "{take}");
        assert!(yard.run().await.unwrap().quit.is_done());
    }
}

/// Writes orders, through the whole table and into its partitions, while they leave.
async fn write(shop: &InPostgres, known: &mut Vec<(i64, String)>, dice: &Dice, number: &mut u64) {
    *number += 1;
    let id = 60 + i64::try_from(dice.below(160)).unwrap();
    let table = ["parted", "p9", "\"Old Ones\".\"p \"\"1\"\"\"", "p11"][dice.below(4)];
    let token = format!("t{number}");
    let client = shop.client().await;
    let statement = match dice.below(3) {
        0 => format!(
            "INSERT INTO {table} VALUES ({id}, '{token}', 'closed', NULL, 1) ON CONFLICT DO NOTHING
             RETURNING NULL::text"
        ),
        1 => format!(
            "WITH old AS (SELECT id, token FROM {table} WHERE id = {id} FOR UPDATE)
             UPDATE {table} AS t SET token = '{token}' FROM old WHERE t.id = old.id
             RETURNING old.token"
        ),
        // What the archive has already, nobody takes out of it from the side.
        _ => format!("DELETE FROM parted WHERE id = {id} RETURNING token"),
    };
    // There is no partition, or no table, for some of them.
    let Ok(rows) = client.query(&statement, &[]).await else { return };
    let Some(row) = rows.first() else { return };
    let old: Option<String> = row.get(0);
    if let Some(old) = old {
        let place = known.iter().position(|(_, one)| *one == old);
        known.swap_remove(place.unwrap_or_else(|| panic!("{old} was nowhere")));
    }
    if !statement.starts_with("DELETE") {
        known.push((id, token));
    }
}

/// Invariant 12 with a writer that aims at partitions while they leave, and kills.
#[tokio::test(flavor = "multi_thread")]
async fn i12_orders_in_partitions_survive_writers_and_kills() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let first = crate::site::seed();
    for seed in first..first + crate::site::setting("STILLPOINT_RUNS", 8) {
        let dice = Dice::new(seed);
        let mut yard = nested(&shop, &shop, 175).await;
        yard.rule.slice_rows = 1 + dice.below(30) as u64;
        let mut known: Vec<(i64, String)> = (60..220).map(|id| (id, format!("o{id}"))).collect();
        let mut number = 0;
        for _ in 0..3 {
            let step = 1 + i64::try_from(dice.below(40)).unwrap();
            let done = AtomicBool::new(false);
            let run = async {
                let run = yard.run_until(step).await;
                done.store(true, Ordering::Relaxed);
                run
            };
            let writes = async {
                while !done.load(Ordering::Relaxed) {
                    write(&shop, &mut known, &dice, &mut number).await;
                }
            };
            let (run, ()) = tokio::join!(run, writes);
            if let Some(run) = run {
                run.unwrap();
            }
        }
        let last = yard.run().await.unwrap();
        assert!(last.quit.is_done(), "STILLPOINT_SEED={seed}: {last:?}");
        let mut found = [yard.live("parted").await, archived(&yard).await].concat();
        found.sort();
        let mut wanted: Vec<String> = known.into_iter().map(|(_, token)| token).collect();
        wanted.sort();
        assert_eq!(found, wanted, "STILLPOINT_SEED={seed} STILLPOINT_RUNS=1");
    }
}

/// Rows of partitions that do not say which rows come there.
#[tokio::test(flavor = "multi_thread")]
async fn i12_a_partition_is_archived_by_itself_too() {
    let Some(shop) = InPostgres::new(18).await else { return };
    shop.client().await.batch_execute(PARTED).await.unwrap();
    // Coldfront 71: `p10` comes before `p9`, and says nothing of it.
    let newer = yard(&shop, "public.p10");
    assert_eq!(newer.run().await.unwrap().pruned_rows, 50);
    assert_eq!((count(&shop, "p9").await, count(&shop, "p10").await), (50, 0));
    assert_eq!(archived(&newer).await.len(), 50);
    let mut whole = yard(&shop, "public.parted");
    "whole".clone_into(&mut whole.rule.name);
    whole.place = stillpoint::archiver::Place::new(Arc::clone(&whole.store), "whole").unwrap();
    assert_eq!(whole.run().await.unwrap().pruned_rows, 50);
    assert_eq!((count(&shop, "parted").await, archived(&whole).await.len()), (0, 50));
    assert_eq!((count(&shop, "p9").await, newer.put_back().await.unwrap().inserted), (0, 50));
    assert_eq!(count(&shop, "parted").await, 50);
}

/// Coldfront 20: a row that moves to another partition between its copy and its deletion.
#[tokio::test(flavor = "multi_thread")]
async fn coldfront_20_a_row_that_moves_to_another_partition_is_not_lost() {
    let Some(shop) = InPostgres::new(17).await else { return };
    shop.client().await.batch_execute(PARTED).await.unwrap();
    let shop = Arc::new(shop);
    let yard = yard(Arc::clone(&shop), "public.p9");
    let moved = "UPDATE public.parted SET id = id + 100, token = 'moved' WHERE id = 77";
    let statements = Mutex::new(vec![moved.to_owned()]);
    let meddler = Meddler { shop: Arc::clone(&shop), when: SHELVED, statements };
    let report = yard.run_seen(&meddler).await.unwrap();
    assert!(report.quit.is_done() && !report.differences.is_empty(), "{report:?}");
    let archived = archived(&yard).await;
    assert!(archived.len() == 49 && !archived.contains(&"o77".to_owned()), "{archived:?}");
    assert_eq!((count(&shop, "p9").await, count(&shop, "p10").await), (0, 51));
    let found = shop.ask("SELECT token FROM p10 WHERE id = 177").await;
    assert_eq!(found, ["moved"]);
}
