//! Which files expire: those whose month has come by what was said when they were written, and by
//! what the policy says now.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says what it tried")]

use std::fs;

use chrono::{DateTime, Months, NaiveDate, TimeDelta, Utc};
use chrono_tz::America::Los_Angeles;
use stillpoint::{
    archiver::{Erasing, Expiry, Shelf, erase, expire, record},
    policy::{EventRule, Period, PeriodUnit, midnight},
};
use stillpoint_contract::Clock as _;

use super::{
    few::{configured, few},
    shop::{Shop as _, Sqlite, Yard},
};
use crate::support::world::TestClock;

const WHO: (&str, &str) = ("Art. 17", "dba");

fn period(count: u32, unit: PeriodUnit) -> Period {
    Period { count, unit }
}

/// A shop of which so many orders were archived, to be kept for so long.
async fn yard(orders: i64, keep: Option<Period>) -> Yard<Sqlite> {
    let mut yard = Yard::new(Sqlite::new().await, false);
    yard.rule.keep = keep;
    yard.fill(0..orders, 0).await;
    let change = ["UPDATE orders SET note = CASE WHEN id % 2 = 0 THEN 'A' ELSE 'B' END"];
    yard.shop.change(&change.map(str::to_owned)).await;
    assert!(yard.run().await.unwrap().quit.is_done());
    yard
}

async fn over(yard: &Yard<Sqlite>, now: DateTime<Utc>, is_dry: bool) -> Expiry {
    let places = [yard.place.clone()];
    Box::pin(expire(&places, &yard.world, &yard.rule, now, is_dry)).await.unwrap()
}

fn months_after(yard: &Yard<Sqlite>, months: u32) -> DateTime<Utc> {
    yard.world.clock.now().checked_add_months(Months::new(months)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn i16_files_of_before_stay_where_keep_was_made_longer_or_taken_out() {
    let mut yard = yard(20, Some(period(1, PeriodUnit::Months))).await;
    let later = months_after(&yard, 3);
    for keep in [Some(period(10, PeriodUnit::Years)), None] {
        yard.rule.keep = keep;
        let would = over(&yard, later, true).await;
        let did = over(&yard, later, false).await;
        assert_eq!(would, did, "{keep:?}");
        let [stays] = did.batches.as_slice() else { panic!("{keep:?}: {did:?}") };
        assert!(stays.is_kept && !stays.is_held && stays.expire != "open", "{did:?}");
        assert_eq!(stays.by_policy == "open", keep.is_none(), "{did:?}");
        assert_eq!((did.removed.files, yard.archived("orders").await.len()), (0, 20));
    }
    yard.rule.keep = Some(period(10, PeriodUnit::Years));
    let would = over(&yard, months_after(&yard, 123), true).await;
    assert!(would.batches.len() == 1 && !would.batches[0].is_kept, "{would:?}");
    // What was said of them holds as well where it is shorter now.
    yard.rule.keep = Some(period(1, PeriodUnit::Days));
    let soon = yard.world.clock.now() + TimeDelta::days(3);
    assert_eq!(over(&yard, soon, false).await, Expiry::default());
    let did = over(&yard, later, false).await;
    assert!(did.batches.len() == 1 && !did.batches[0].is_kept, "{did:?}");
    assert_eq!((did.removed.files, yard.archived("orders").await.len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn i16_a_keep_that_was_added_later_counts_for_files_of_before() {
    let mut yard = yard(20, None).await;
    assert_eq!(Shelf::load(&yard.place).await.unwrap().runs[0].plan.expire, "open");
    let later = months_after(&yard, 3);
    assert_eq!(over(&yard, later, false).await, Expiry::default());
    yard.rule.keep = Some(period(1, PeriodUnit::Months));
    assert_eq!(over(&yard, yard.world.clock.now(), false).await, Expiry::default());
    // For longer than a year can be written.
    yard.rule.keep = Some(period(9000, PeriodUnit::Years));
    assert_eq!(over(&yard, later, false).await, Expiry::default());
    yard.rule.keep = Some(period(1, PeriodUnit::Months));
    let would = over(&yard, later, true).await;
    let did = over(&yard, later, false).await;
    assert_eq!(would.batches, did.batches);
    assert!(did.batches.len() == 1 && did.batches[0].by_policy != "open", "{did:?}");
    assert_eq!((did.removed.files, yard.archived("orders").await.len()), (1, 0));
}

/// Rows that were taken out later do not let the others stay for longer.
#[tokio::test(flavor = "multi_thread")]
async fn i16_files_that_were_written_anew_count_from_when_their_rows_were_archived() {
    let mut yard = yard(20, Some(period(1, PeriodUnit::Months))).await;
    let clock = TestClock::new();
    let ahead = yard.world.clock.now() + TimeDelta::days(400) - clock.now();
    clock.advance(ahead.num_seconds());
    yard.world.clock = clock;
    let places = [yard.place.clone()];
    let did = erase(&places, &yard.world, (None, "id", "7"), WHO, Erasing::Always);
    assert_eq!(Box::pin(did).await.unwrap().rows, 1);
    let next_day = yard.world.clock.now() + TimeDelta::days(1);
    let did = over(&yard, next_day, false).await;
    assert!(did.batches.len() == 1 && !did.batches[0].is_kept, "{did:?}");
    assert_eq!(yard.archived("orders").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn i16_a_retention_that_was_added_later_keeps_rows_of_before_until_its_event() {
    let mut yard = yard(20, Some(period(1, PeriodUnit::Months))).await;
    yard.rule.keep = None;
    yard.rule.retention = Some(EventRule {
        after: Period { count: 7, unit: PeriodUnit::Years },
        event: "closed_at".to_owned(),
        subject: "note".to_owned(),
    });
    let later = months_after(&yard, 3);
    assert_eq!(over(&yard, later, false).await, Expiry::default());
    let on: NaiveDate = "2010-01-31".parse().unwrap();
    record(&yard.place, &yard.world, ("closed_at", "note", "A"), on, WHO).await.unwrap();
    // Not before the month that was said when they were written.
    assert_eq!(over(&yard, yard.world.clock.now(), false).await, Expiry::default());
    let would = over(&yard, later, true).await;
    let did = over(&yard, later, false).await;
    assert_eq!(would.batches, did.batches);
    assert_eq!((did.batches[0].rows, did.batches[0].of_rows), (10, 20));
    assert_eq!(yard.archived("orders").await.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn i16_months_begin_where_they_were_counted() {
    let mut yard = Yard::new(Sqlite::new().await, false);
    yard.rule.zone = Some(Los_Angeles);
    yard.rule.keep = Some(period(1, PeriodUnit::Months));
    yard.fill(0..20, 0).await;
    yard.run().await.unwrap();
    let shelf = Shelf::load(&yard.place).await.unwrap();
    let first: NaiveDate = format!("{}-01", shelf.runs[0].plan.expire).parse().unwrap();
    let begins = midnight(Los_Angeles, first);
    let in_greenwich = midnight(chrono_tz::UTC, first);
    assert!(in_greenwich < begins);
    for early in [in_greenwich, begins - TimeDelta::seconds(1)] {
        assert_eq!(over(&yard, early, false).await, Expiry::default(), "{early}");
    }
    assert_eq!(yard.archived("orders").await.len(), 20);
    assert_eq!(over(&yard, begins, false).await.batches.len(), 1);
    assert_eq!(yard.archived("orders").await.len(), 0);
}

/// The same through the program, which says what it keeps, why, and what to do.
#[test]
fn expire_says_what_stays_since_the_policy_was_corrected() {
    let (ward, _shop) = few(3, "keep = \"1d\"\n");
    ward.ok(&["archive", "run", "few"]);
    let runs = ward.json(&["archive", "ls", "few"]);
    let run = runs["runs"][0]["run"].as_str().unwrap();
    // As if so much time had gone by.
    let name = ward.path(&format!("repo/archive/few/_stillpoint/{run}/plan.json"));
    let mut plan: serde_json::Value = serde_json::from_slice(&fs::read(&name).unwrap()).unwrap();
    plan["expire"] = "2001-01".into();
    fs::write(&name, serde_json::to_vec_pretty(&plan).unwrap()).unwrap();
    for (keep, said, by_policy) in [
        ("keep = \"10y\"\n", "kept longer now: it stays", "20"),
        ("", "[archive.few]  keep = \"7y\"", "open"),
    ] {
        ward.configure(&configured(keep));
        let would = ward.json(&["archive", "expire", "few", "--dry-run"]);
        let did = ward.json(&["archive", "expire", "few"]);
        assert_eq!(would["batches"], did["batches"], "{keep}");
        let row = &did["batches"][0];
        assert!(row["kept"] == true && row["expire"] == "2001-01", "{did:#}");
        assert!(row["by_policy"].as_str().unwrap().starts_with(by_policy), "{did:#}");
        assert_eq!(did["removed_files"].as_u64(), Some(0), "{did:#}");
        for more in [&["--dry-run"][..], &[]] {
            let told = ward.ok(&[&["archive", "expire", "few"][..], more].concat());
            assert!(told.contains(said), "{told}");
        }
    }
    assert_eq!(ward.json(&["archive", "verify", "few"])["rows"].as_u64(), Some(3));
}
