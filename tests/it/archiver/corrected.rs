//! What becomes of rows when somebody corrects a policy, or the rows: whatever was put into files
//! for an earlier policy, only rows go that this one selects.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::sync::{Arc, Mutex};

use chrono_tz::{Asia::Kolkata, Tz};
use stillpoint::{
    archiver::{LiveSlice, Quit, Reconciling},
    policy::{Period, PeriodUnit},
};
use stillpoint_contract::{CutoffForm, ErrorKind};

use super::{
    protocol::{Meddler, SHELVED},
    shop::{InPostgres, Shop, Sqlite, Yard, tokens},
};

/// Exported for a predicate that is corrected before anything is deleted.
async fn corrected<S: Shop>(mut yard: Yard<S>) {
    yard.fill(0..20, 0).await;
    let orders = yard.shop.table("orders");
    let hold = format!("UPDATE {orders} SET state = 'legal-hold' WHERE id < 10");
    yard.shop.change(&[hold]).await;
    "state <> 'open'".clone_into(&mut yard.rule.selects);
    yard.limits.keeps_source = true;
    assert_eq!(yard.run().await.unwrap().exported_rows, 20);
    yard.limits.keeps_source = false;
    "state = 'closed'".clone_into(&mut yard.rule.selects);
    let report = yard.run().await.unwrap();
    assert_eq!((report.pruned_rows, &report.quit), (10, &Quit::Finished), "{report:?}");
    let told = report.findings.iter().find(|one| one.found.contains("selects other rows now"));
    assert!(told.unwrap().found.contains("20 rows in it had not been deleted"), "{report:?}");
    assert_eq!((yard.live("orders").await.len(), yard.archived("orders").await.len()), (10, 10));
    assert!(!yard.live("orders").await.contains(&"o10".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_rows_that_a_corrected_policy_does_not_select_stay_in_sqlite() {
    corrected(Yard::new(Sqlite::new().await, false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_rows_that_a_corrected_policy_does_not_select_stay_in_postgresql() {
    let Some(shop) = InPostgres::new(18).await else { return };
    corrected(Yard::new(shop, false)).await;
}

/// What was deleted before stays archived, and nothing more goes.
#[tokio::test(flavor = "multi_thread")]
async fn i3_a_policy_is_corrected_when_half_of_its_rows_are_gone() {
    for step in 1.. {
        let mut yard = Yard::new(Sqlite::new().await, false);
        yard.fill(0..60, 0).await;
        "state <> 'open'".clone_into(&mut yard.rule.selects);
        yard.rule.transaction = std::time::Duration::ZERO;
        assert!(yard.run_until(step).await.is_none(), "it was never half done");
        let left = yard.live("orders").await.len();
        assert_ne!(left, 0, "it was never half done");
        if left == 60 {
            continue;
        }
        let hold = "UPDATE orders SET state = 'legal-hold' WHERE id % 2 = 0".to_owned();
        yard.shop.change(&[hold]).await;
        "state = 'closed'".clone_into(&mut yard.rule.selects);
        assert!(yard.run().await.unwrap().quit.is_done());
        let (live, archived) = (yard.live("orders").await, yard.archived("orders").await);
        assert_eq!((live.len(), archived.len()), (left / 2, 60 - left / 2));
        assert!(live.iter().all(|token| !archived.contains(token)), "{live:?}");
        return;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_a_table_that_a_policy_leaves_out_keeps_its_rows() {
    let mut yard = Yard::new(Sqlite::new().await, true);
    yard.fill(0..20, 1).await;
    yard.limits.keeps_source = true;
    yard.run().await.unwrap();
    yard.limits.keeps_source = false;
    yard.rule.children.clear();
    assert!(yard.run().await.is_err(), "items still refer to orders");
    assert_eq!((yard.live("orders").await.len(), yard.live("items").await.len()), (20, 20));
}

/// Orders of 60, 45 and 30 hours ago in UTC, ten of each, and a policy for those of 48.
async fn aged<S: Shop>(shop: S, of: &str, written: impl Fn(u32) -> String) -> Yard<S> {
    let orders = shop.table("orders");
    let columns = format!("id INTEGER PRIMARY KEY, token TEXT NOT NULL, at {of}");
    let mut statements =
        vec![format!("DROP TABLE {orders}"), format!("CREATE TABLE {orders} ({columns})")];
    for id in 0..30 {
        let at = written([60, 45, 30][id / 10]);
        statements.push(format!("INSERT INTO {orders} VALUES ({id}, 'o{id}', {at})"));
    }
    shop.change(&statements).await;
    let mut yard = Yard::new(shop, false);
    "at < :cutoff".clone_into(&mut yard.rule.selects);
    yard.rule.age = Some(Period { count: 48, unit: PeriodUnit::Hours });
    yard
}

async fn aged_in_sqlite<S: Shop>(shop: S) -> Yard<S> {
    let mut yard = aged(shop, "", |hours| format!("datetime('now', '-{hours} hours')")).await;
    yard.rule.form = Some(CutoffForm::Datetime);
    yard
}

/// Writes files, and leaves the rows in their table; how many there are.
async fn export<S: Shop>(yard: &mut Yard<S>) -> usize {
    yard.limits.keeps_source = true;
    let report = yard.run().await.unwrap();
    assert_eq!((&report.quit, yard.live("orders").await.len()), (&Quit::KeptSource, 30));
    yard.limits.keeps_source = false;
    report.exported_rows as usize
}

/// The zone is corrected after files were written, and also when some of their rows are gone.
async fn zone_corrected<S: Shop>(mut yard: Yard<S>, wrong: Tz, right: Tz, begun: usize) {
    // Clocks of Kolkata are so far ahead that what they show as 48 hours ago was 42.5 in UTC.
    let old = |zone: Tz| if zone == Kolkata { 20 } else { 10 };
    yard.rule.zone = Some(wrong);
    let written = export(&mut yard).await;
    assert_eq!(written, old(wrong));
    if begun > 0 {
        yard.limits.rows_max = Some(begun as u64);
        let report = yard.run().await.unwrap();
        assert_eq!((&report.quit, report.pruned_rows), (&Quit::RowsMax, begun as u64));
        yard.limits.rows_max = None;
    }
    yard.rule.zone = Some(right);
    let report = yard.run().await.unwrap();
    let gone = (old(right) - begun) as u64;
    assert_eq!((&report.quit, report.pruned_rows), (&Quit::Finished, gone), "{report:?}");
    let told = report.findings.iter().any(|one| one.found.contains("means other rows now"));
    assert_eq!(told, written > begun, "{report:?}");
    assert_eq!(yard.archived("orders").await, tokens(0..old(right)));
    assert_eq!(yard.live("orders").await, tokens(old(right)..30));
}

/// In both directions, before any row is gone, and after ten.
const CORRECTIONS: [(Tz, Tz, usize); 4] =
    [(Kolkata, Tz::UTC, 0), (Kolkata, Tz::UTC, 10), (Tz::UTC, Kolkata, 0), (Tz::UTC, Kolkata, 10)];

#[tokio::test(flavor = "multi_thread")]
async fn i9_rows_of_sqlite_go_by_the_zone_that_was_corrected_before() {
    for (wrong, right, begun) in CORRECTIONS {
        let yard = aged_in_sqlite(Sqlite::new().await).await;
        zone_corrected(yard, wrong, right, begun).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i9_rows_of_postgresql_go_by_the_zone_that_was_corrected_before() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let written = |hours: u32| format!("now() AT TIME ZONE 'UTC' - interval '{hours} hours'");
    for (wrong, right, begun) in CORRECTIONS {
        shop.reset().await;
        let yard = aged(&shop, "timestamp NOT NULL", written).await;
        zone_corrected(yard, wrong, right, begun).await;
    }
}

/// What an application does that counts seconds from now on.
const COUNT_SECONDS: &str = "UPDATE orders SET at = unixepoch(at)";

/// Times are written in another form when files have them in the one before. Numbers are less than
/// all texts: until the policy says so, too, every row would be taken for an old one.
#[tokio::test(flavor = "multi_thread")]
async fn i9_rows_go_by_the_form_that_was_corrected_before() {
    for is_said_late in [false, true] {
        let mut yard = aged_in_sqlite(Sqlite::new().await).await;
        assert_eq!(export(&mut yard).await, 10);
        yard.shop.change(&[COUNT_SECONDS.to_owned()]).await;
        if is_said_late {
            let error = yard.run().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
            assert_eq!(error.advice(), ["cutoff_form = \"unix\""], "{error:?}");
            assert_eq!(yard.live("orders").await.len(), 30);
        }
        yard.rule.form = Some(CutoffForm::Unix);
        let report = yard.run().await.unwrap();
        assert_eq!((&report.quit, report.pruned_rows), (&Quit::Finished, 10), "{report:?}");
        assert_eq!(yard.archived("orders").await, tokens(0..10));
        assert_eq!(yard.live("orders").await, tokens(10..30));
    }
}

/// The same amid a run: rows that differ from their file are not read again by a cutoff that
/// selects all there are.
#[tokio::test(flavor = "multi_thread")]
async fn i9_a_form_that_changes_amid_a_run_takes_no_newer_rows_along() {
    let shop = Arc::new(Sqlite::new().await);
    let yard = aged_in_sqlite(Arc::clone(&shop)).await;
    let statements = Mutex::new(vec![COUNT_SECONDS.to_owned()]);
    let meddler = Meddler { shop, when: SHELVED, statements };
    let error = yard.run_seen(&meddler).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
    assert_eq!((yard.live("orders").await.len(), yard.archived("orders").await.len()), (30, 0));
}

/// The database was restored to before the run, and rows that came back were changed: they are
/// there, though no policy selects them. One that was put back alone hides no other one.
#[tokio::test(flavor = "multi_thread")]
async fn i15_rows_that_are_changed_after_a_restore_are_not_taken_for_a_lost_ledger() {
    let yard = Yard::new(Sqlite::new().await, false);
    yard.fill(0..20, 0).await;
    yard.shop.change(&["UPDATE orders SET id = id * 2 + 1000".to_owned()]).await;
    yard.run().await.unwrap();
    let back = [
        "DROP TABLE stillpoint_archive_ledger",
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 5)
         INSERT INTO orders SELECT 1000 + 2 * i, 'o' || i, 'reopened', 'n', 1 FROM n",
        // Of the other slice, and in its stretch, but none of its rows.
        "INSERT INTO orders VALUES (1022, 'o11', 'reopened', 'n', 1)",
        "INSERT INTO orders VALUES (1024, 'o12', 'closed', 'note 12', 12.50)",
        "INSERT INTO orders VALUES (1031, 'new', 'open', 'n', 1)",
    ];
    yard.shop.change(&back.map(str::to_owned)).await;
    let look = Reconciling::default();
    let reconcile = async |may| yard.reconcile(may).await.unwrap();
    let found = reconcile(look).await;
    let rows = |slices: &[LiveSlice]| slices.iter().map(|slice| slice.rows).sum::<u64>();
    assert_eq!((rows(&found.live), rows(&found.unnoted)), (10, 10), "{found:?}");
    // They are somebody's by now: nothing is deleted.
    let found = reconcile(Reconciling { prunes: true, ..look }).await;
    assert_eq!((found.pruned_rows, found.differing.len()), (0, 1), "{found:?}");
    assert_eq!(yard.live("orders").await.len(), 9);
    let found = reconcile(Reconciling { notes: true, ..look }).await;
    assert_eq!((rows(&found.unnoted), found.archived.1), (0, 10), "{found:?}");
    let mut archived: Vec<String> = (10..20).map(|id| format!("o{id}")).collect();
    // What is another row by now is in the archive as it was; what is the same is not there twice.
    archived.retain(|token| token != "o12");
    assert_eq!(yard.archived("orders").await, archived);
}
