//! Runs that go on: behind files that were damaged, keys that need another form, and rows that
//! somebody holds.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says what it tried")]

use std::sync::Arc;

use stillpoint::{
    archiver::{Place, Quit, Returning, SecondCopy, Wanted, put_back, verify},
    repository::store::{Key, MemoryStore, Store},
};
use stillpoint_contract::{Conflict, ErrorKind};

use super::shop::{InPostgres, Shop as _, Sqlite, Yard, tokens};

/// The first file of orders, damaged or taken away.
async fn damage(store: &dyn Store, is_removed: bool) -> Key {
    let files = store.list("archive/orders/orders/").await.unwrap();
    let key = files[0].key.clone();
    let mut bytes = store.read(&key, 1 << 20).await.unwrap().unwrap().to_vec();
    store.delete(&key).await.unwrap();
    if !is_removed {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        store.create(&key, bytes.into()).await.unwrap();
    }
    key
}

/// A batch of which some rows were deleted, and others were not.
async fn half_deleted(second: Option<&Place>) -> Yard<Sqlite> {
    let mut yard = Yard::new(Sqlite::new().await, false);
    yard.fill(0..300, 0).await;
    yard.rule.file_bytes = 1;
    yard.limits.keeps_source = true;
    assert_eq!(yard.run().await.unwrap().quit, Quit::KeptSource);
    if let Some(to) = second {
        let (from, cpu) = (yard.place.clone(), yard.world.cpu.clone());
        yard.gates.push(Box::new(SecondCopy { from, to: to.clone(), cpu }));
    }
    yard.limits.keeps_source = false;
    yard.limits.rows_max = Some(40);
    assert_eq!(yard.run().await.unwrap().pruned_rows, 40);
    yard.limits.rows_max = None;
    yard
}

/// Rows were deleted, and their file is damaged: a second copy has them, and the run goes on.
#[tokio::test(flavor = "multi_thread")]
async fn i5_a_batch_that_is_half_deleted_is_mended_from_its_second_copy() {
    for is_removed in [false, true] {
        let to = Place::new(Arc::new(MemoryStore::default()), "orders").unwrap();
        let yard = half_deleted(Some(&to)).await;
        damage(&*yard.store, is_removed).await;
        let read = yard.place.clone().with_second(to.clone());
        let found = verify(&read, &yard.world.cpu, None, |_| true).await.unwrap();
        assert_eq!(found.damages.len(), 1, "a second copy hides no damage");
        let report = yard.run().await.unwrap();
        assert_eq!((report.quit.clone(), report.pruned_rows), (Quit::Finished, 260), "{report:?}");
        assert!(report.findings.iter().any(|one| one.subject == "file"), "{report:?}");
        assert_eq!(
            (yard.archived("orders").await, yard.live("orders").await.len()),
            (tokens(0..300), 0)
        );
        for place in [&yard.place, &to] {
            let found = verify(place, &yard.world.cpu, None, |_| true).await.unwrap();
            assert_eq!((found.rows, found.damages.len()), (300, 0));
        }
    }
}

/// No second copy: which rows are lost is said, the others stay or go on, and no more are lost.
#[tokio::test(flavor = "multi_thread")]
async fn i5_rows_that_are_lost_with_a_file_are_told_and_the_others_go_on() {
    let yard = half_deleted(None).await;
    damage(&*yard.store, false).await;
    let error = yard.run().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    let told = format!("{error:?}");
    for part in ["10 of", "behind the beginning to {", "9}", "39}", "still in their tables"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let live = yard.live("orders").await;
    assert!(live.len() < 260 && live.contains(&"o40".to_owned()), "{}", live.len());
    assert!(!live.contains(&"o299".to_owned()), "another batch waits for nothing");
}

/// The policy is corrected when half of a batch is gone, and the file of it is damaged: a second
/// copy has what was deleted, and the rest stays. Without one, it is told what is lost.
#[tokio::test(flavor = "multi_thread")]
async fn i5_a_batch_that_is_let_go_is_mended_as_one_that_goes_on() {
    for has_copy in [true, false] {
        let to = Place::new(Arc::new(MemoryStore::default()), "orders").unwrap();
        let mut yard = half_deleted(has_copy.then_some(&to)).await;
        damage(&*yard.store, false).await;
        "state = 'closed' AND id < 100".clone_into(&mut yard.rule.selects);
        let done = yard.run().await;
        if !has_copy {
            let error = done.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
            assert!(format!("{error:?}").contains("still in their tables"), "{error:?}");
            assert_eq!(yard.live("orders").await.len(), 260);
            continue;
        }
        let report = done.unwrap();
        assert_eq!((report.quit.clone(), report.pruned_rows), (Quit::Finished, 60), "{report:?}");
        let told = report.findings.iter().any(|one| one.found.contains("a second copy of it"));
        assert!(told, "{report:?}");
        assert_eq!(
            (yard.archived("orders").await, yard.live("orders").await.len()),
            (tokens(0..100), 200)
        );
        for place in [&yard.place, &to] {
            let found = verify(place, &yard.world.cpu, None, |_| true).await.unwrap();
            assert_eq!((found.rows, found.damages.len()), (100, 0));
        }
    }
}

/// Keys that files hold only as text: behind one of them a run goes on, and a later one, too.
#[tokio::test(flavor = "multi_thread")]
async fn i3_runs_go_on_behind_keys_that_do_not_fit() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let finite = "timestamptz '2020-01-01 00:00Z' + n * interval '1 hour'";
    let cases = [
        ("timestamptz", format!("CASE WHEN n < 60 THEN '-infinity' ELSE {finite} END")),
        ("timestamptz", format!("CASE WHEN n < 200 THEN {finite} ELSE 'infinity' END")),
        ("numeric(20,4)", "CASE WHEN n < 200 THEN n + 0.5 ELSE 'NaN' END".to_owned()),
    ];
    for (of, key) in cases {
        for resumes in [false, true] {
            shop.execute(&format!(
                "DROP TABLE IF EXISTS spans; DROP SCHEMA IF EXISTS stillpoint CASCADE;
                     CREATE TABLE spans (k {of}, id int, token text, state text,
                         PRIMARY KEY (k, id));
                     INSERT INTO spans SELECT {key}, n, 'o' || n, 'closed'
                         FROM generate_series(0, 399) AS n"
            ))
            .await;
            let mut yard = Yard::new(&shop, false);
            "public.spans".clone_into(&mut yard.rule.root);
            yard.rule.file_bytes = 1;
            if resumes {
                yard.limits.keeps_source = true;
                yard.limits.rows_max = Some(130);
                yard.run().await.unwrap();
                yard.limits.rows_max = Some(90);
                yard.run().await.unwrap();
                yard.limits.rows_max = None;
                let kept = yard.run().await.unwrap();
                assert_eq!(kept.quit, Quit::KeptSource, "{of}, {key}");
                yard.limits.keeps_source = false;
            }
            let done = yard.run().await.unwrap_or_else(|e| panic!("{of}, {key}: {e:?}"));
            assert_eq!((&done.quit, done.left_rows), (&Quit::Finished, 0), "{key}: {done:?}");
            assert_eq!(done.pruned_rows, 400, "{key}: {done:?}");
            assert_eq!(yard.archived("spans").await, tokens(0..400), "{of}, {key}");
        }
    }
    shop.execute("DROP TABLE spans").await;
}

/// What a value is as text depends on where names are looked for, and triggers have a path of
/// their own: files and deletions say the same of it, and triggers that act last have theirs.
#[tokio::test(flavor = "multi_thread")]
async fn i4_names_of_objects_are_deleted_beside_triggers() {
    let Some(shop) = InPostgres::new(18).await else { return };
    shop.execute(
        "DROP TABLE IF EXISTS named, audit;
         CREATE TYPE pair AS (one regclass, other regtype);
         CREATE TABLE audit (id int);
         CREATE TABLE named (id int PRIMARY KEY, token text, state text, r regclass, p regproc,
             t regtype, l regclass[], c pair);
         CREATE OR REPLACE FUNCTION seen() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO audit VALUES (old.id);
             IF TG_WHEN = 'BEFORE' THEN RETURN old; END IF; RETURN NULL; END $$;
         CREATE TRIGGER one BEFORE DELETE ON named FOR EACH ROW EXECUTE FUNCTION seen();
         CREATE TRIGGER other AFTER DELETE ON named FOR EACH ROW EXECUTE FUNCTION seen();
         INSERT INTO named SELECT n, 'o' || n, 'closed', 'named', 'seen', 'pair', '{named,audit}',
             ('named', 'pair')::pair FROM generate_series(0, 29) AS n;
         INSERT INTO named (id, token, state) VALUES (30, 'o30', 'closed')",
    )
    .await;
    let mut yard = Yard::new(&shop, false);
    "public.named".clone_into(&mut yard.rule.root);
    let done = yard.run().await.unwrap();
    assert_eq!(
        (&done.quit, done.pruned_rows, done.left_rows),
        (&Quit::Finished, 31, 0),
        "{done:?}"
    );
    assert_eq!(shop.ask("SELECT count(*)::text FROM audit").await, ["62"]);
    assert_eq!(yard.put_back().await.unwrap().inserted, 31);
    let same = "SELECT count(*)::text FROM named WHERE r = 'named'::regclass
        AND p = 'seen'::regproc AND t = 'pair'::regtype AND l = '{named,audit}'
        AND c = ('named', 'pair')::pair";
    assert_eq!(shop.ask(same).await, ["30"]);
    shop.execute("DROP TABLE named, audit; DROP TYPE pair").await;
}

/// A number that only the server gives is left as it is where it is the same, and refused where
/// it is another.
#[tokio::test(flavor = "multi_thread")]
async fn rows_with_numbers_that_the_server_gives_are_replaced() {
    let Some(shop) = InPostgres::new(18).await else { return };
    shop.execute(
        "DROP TABLE IF EXISTS numbered;
         CREATE TABLE numbered (id int PRIMARY KEY, n bigint GENERATED ALWAYS AS IDENTITY,
             token text, state text, at int);
         INSERT INTO numbered (id, token, state, at) SELECT n, 'o' || n, 'closed', 5
             FROM generate_series(0, 9) AS n",
    )
    .await;
    let mut yard = Yard::new(&shop, false);
    "public.numbered".clone_into(&mut yard.rule.root);
    yard.run().await.unwrap();
    yard.put_back().await.unwrap();
    let change = "UPDATE numbered SET token = 'x', at = CASE WHEN id < 3 THEN 1 ELSE 9 END";
    for (conflict, replaced) in [(Conflict::Newer("at".to_owned()), 3), (Conflict::Overwrite, 10)] {
        shop.execute(change).await;
        let driver = yard.shop.driver().await;
        let wanted = Wanted { table: Some(yard.rule.root.clone()), ..Wanted::default() };
        let returning = Returning { wanted, conflict, staging: None };
        let back =
            async || Box::pin(put_back(&yard.place, &yard.world, &*driver, &returning)).await;
        let did = back().await.unwrap();
        assert_eq!(did[0].tally.replaced, replaced);
        let count = "SELECT count(*)::text FROM numbered WHERE token <> 'x'";
        assert_eq!(shop.ask(count).await, [replaced.to_string()]);
        // The row is another one: its number cannot become what it was.
        shop.execute(
            "DELETE FROM numbered WHERE id = 1;
             INSERT INTO numbered (id, token, state, at) VALUES (1, 'y', 'closed', 1)",
        )
        .await;
        let error = back().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
        assert_eq!(shop.ask("SELECT token FROM numbered WHERE id = 1").await, ["y"]);
        let again = "DELETE FROM numbered WHERE id = 1;
             INSERT INTO numbered (id, n, token, state, at) OVERRIDING SYSTEM VALUE
             VALUES (1, 2, 'o1', 'closed', 5)";
        shop.execute(again).await;
    }
    shop.execute("DROP TABLE numbered").await;
}

/// One row that somebody holds keeps few others back, and nobody says that all are moved.
#[tokio::test(flavor = "multi_thread")]
async fn i7_one_row_that_is_held_keeps_few_others() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let mut yard = Yard::new(&shop, false);
    yard.fill(0..200, 0).await;
    yard.rule.slice_rows = 100;
    let mut client = shop.client().await;
    let holding = client.transaction().await.unwrap();
    holding.batch_execute("SELECT FROM orders WHERE id = 77 FOR UPDATE").await.unwrap();
    let report = yard.run().await.unwrap();
    holding.rollback().await.unwrap();
    assert_eq!((report.left_rows, report.pruned_rows), (1, 199), "{report:?}");
    assert!(report.words().contains("were left"), "{}", report.words());
    assert_eq!(yard.live("orders").await, ["o77"]);
}
