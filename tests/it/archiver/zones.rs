//! Invariant 9: which rows are old enough does not depend on whose clock is asked, and how it is
//! set.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{fmt::Write as _, time::Duration};

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use chrono_tz::America::New_York;
use stillpoint::{
    archiver::{Prepared, prepare},
    policy::{Period, PeriodUnit},
};
use stillpoint_contract::{ArchiveSet, Cutoff, ErrorKind, Member};

use super::shop::{InPostgres, Shop as _, Yard};

const ZONES: [&str; 3] = ["UTC", "America/New_York", "Asia/Kolkata"];

/// Tells the role in which zone it is; none of its sessions is.
async fn live_in(shop: &InPostgres, zone: &str) {
    let alter = format!("ALTER ROLE postgres SET TimeZone = '{zone}'");
    shop.client().await.batch_execute(&alter).await.unwrap();
    assert_eq!(shop.ask("SHOW TimeZone").await, [zone]);
}

/// A table of moments; each of them is a number, an instant, and what a clock showed.
async fn moments(shop: &InPostgres, rows: &[(i32, &str, &str)]) {
    let mut make = "DROP TABLE IF EXISTS moments; DROP SCHEMA IF EXISTS stillpoint CASCADE;
        CREATE TABLE moments (id int PRIMARY KEY, at timestamptz, shown timestamp);"
        .to_owned();
    for (id, at, shown) in rows {
        // Writing to a string does not fail.
        let _ = write!(make, "INSERT INTO moments VALUES ({id}, {at}, {shown});");
    }
    shop.client().await.batch_execute(&make).await.unwrap();
}

/// The numbers of the moments that are left.
async fn left(shop: &InPostgres) -> Vec<String> {
    shop.ask("SELECT id::text FROM moments ORDER BY id").await
}

fn yard<'a>(shop: &'a InPostgres, selects: &str) -> Yard<&'a InPostgres> {
    let mut yard = Yard::new(shop, false);
    "moments".clone_into(&mut yard.rule.root);
    selects.clone_into(&mut yard.rule.selects);
    yard
}

#[tokio::test(flavor = "multi_thread")]
async fn i9_the_same_rows_are_old_in_every_zone_of_the_role() {
    let Some(shop) = InPostgres::new(18).await else { return };
    for zone in ZONES {
        live_in(&shop, zone).await;
        // Two months ago, some hours before and behind; in no zone is a day that long.
        let ago = |hours: i32| {
            let local = "(now() AT TIME ZONE 'America/New_York' - interval '2 months'";
            format!("{local} + interval '{hours} hours')")
        };
        let rows: Vec<(i32, String)> =
            (0..).zip([-12, -6, -2, 2, 6, 12]).map(|(id, hours)| (id, ago(hours))).collect();
        for selects in ["at < :cutoff", "shown < :cutoff"] {
            let written: Vec<(i32, String, String)> = rows
                .iter()
                .map(|(id, local)| {
                    (*id, format!("{local} AT TIME ZONE 'America/New_York'"), local.clone())
                })
                .collect();
            let written: Vec<(i32, &str, &str)> =
                written.iter().map(|(id, at, shown)| (*id, &**at, &**shown)).collect();
            moments(&shop, &written).await;
            let mut yard = yard(&shop, selects);
            yard.rule.zone = Some(New_York);
            yard.rule.age = Some(Period { count: 2, unit: PeriodUnit::Months });
            assert_eq!(yard.run().await.unwrap().pruned_rows, 3, "{selects} in {zone}");
            assert_eq!(left(&shop).await, ["3", "4", "5"], "{selects} in {zone}");
            assert_eq!(yard.put_back().await.unwrap().inserted, 3);
        }
        // What is written in the predicate is in UTC, whatever the role is in.
        let rows = [
            (1, "'2019-01-31 23:59:59+00'", "NULL"),
            (2, "'2019-02-01 00:00:00+00'", "NULL"),
            (3, "'2019-02-01 04:59:59+00'", "NULL"),
            (4, "'2019-01-31 18:29:59+00'", "NULL"),
        ];
        moments(&shop, &rows).await;
        let yard = yard(&shop, "at < '2019-02-01'");
        assert_eq!(yard.run().await.unwrap().pruned_rows, 2, "{zone}");
        assert_eq!(left(&shop).await, ["2", "3"], "{zone}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i9_a_cutoff_where_clocks_are_put_forward_or_back_is_one_instant() {
    let Some(shop) = InPostgres::new(17).await else { return };
    let rows = [
        (1, "'2025-03-09 06:59:59.999999+00'", "'2025-03-09 01:59:59.999999'"),
        (2, "'2025-03-09 07:00:00+00'", "'2025-03-09 03:00:00'"),
        (3, "'2025-11-02 05:29:59.999999+00'", "'2025-11-02 01:29:59.999999'"),
        (4, "'2025-11-02 05:30:00+00'", "'2025-11-02 01:30:00'"),
        (5, "'2025-11-02 06:30:00+00'", "'2025-11-02 01:30:00'"),
    ];
    moments(&shop, &rows).await;
    for zone in ZONES {
        live_in(&shop, zone).await;
        let driver = shop.driver().await;
        let mut session = driver.rows().await.unwrap();
        let table = session.table("moments").await.unwrap();
        for (at, local, by_at, by_clock) in [
            // There is no 2:30 on that day.
            ("2025-03-09T07:00:00Z", "2025-03-09T03:00:00", 1, 1),
            // It is half past one twice.
            ("2025-11-02T05:30:00Z", "2025-11-02T01:30:00", 3, 3),
            ("2025-11-02T06:30:00Z", "2025-11-02T01:30:00", 4, 3),
        ] {
            let local: NaiveDateTime = local.parse().unwrap();
            let at: DateTime<Utc> = at.parse().unwrap();
            assert_eq!(at.with_timezone(&New_York).naive_local(), local);
            let cutoff = Cutoff { at, local: Some(local), form: None };
            for (selects, wanted) in [("at < :cutoff", by_at), ("shown < :cutoff", by_clock)] {
                let predicate = session.bind(&table, selects, Some(&cutoff)).await.unwrap();
                let members = vec![Member { table: table.clone(), link: None }];
                let (name, derived) = ("moments".to_owned(), Vec::new());
                let set = ArchiveSet { name, members, predicate, derived };
                let found = session.estimate(&set).await.unwrap().rows;
                assert_eq!(found, wanted, "{selects} {at} in {zone}");
            }
        }
    }
}

/// Half past one, and an hour later again: who wrote that when, nobody can tell. What may be
/// younger than the cutoff stays.
#[tokio::test(flavor = "multi_thread")]
async fn i9_in_an_hour_that_comes_twice_nothing_is_moved_too_early() {
    let Some(shop) = InPostgres::new(17).await else { return };
    let rows = [
        (1, "'2025-11-02 03:59:59+00'", "'2025-11-01 23:59:59'"),
        // Within the hour that comes again.
        (2, "'2025-11-02 06:00:01+00'", "'2025-11-02 01:00:01'"),
        (3, "'2025-11-02 07:00:01+00'", "'2025-11-02 02:00:01'"),
    ];
    moments(&shop, &rows).await;
    let begin: DateTime<Utc> = "2025-11-02T05:00:00Z".parse().unwrap();
    for selects in ["at < :cutoff", "shown < :cutoff"] {
        let mut yard = yard(&shop, selects);
        yard.rule.zone = Some(New_York);
        let prepared: Prepared = loop {
            // So many hours ago it was in the first of the two.
            let safe = yard.world.clock.now() - TimeDelta::minutes(1);
            let count = u32::try_from((safe - begin).num_hours()).unwrap();
            yard.rule.age = Some(Period { count, unit: PeriodUnit::Hours });
            let driver = shop.driver().await;
            let mut session = driver.rows().await.unwrap();
            let prepared = prepare(&mut *session, &yard.rule).await.unwrap();
            let into = prepared.cutoff.unwrap() - begin;
            if into > TimeDelta::seconds(2) && into < TimeDelta::minutes(60) {
                break prepared;
            }
            yard.world.clock.sleep(Duration::from_secs(1)).await;
        };
        assert_eq!(prepared.estimate.rows, 1, "{selects}: {prepared:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i9_times_without_a_zone_are_refused_until_somebody_says_whose_they_are() {
    let Some(shop) = InPostgres::new(18).await else { return };
    moments(&shop, &[(1, "'2001-01-01 00:00:00+00'", "'2001-01-01 00:00:00'")]).await;
    let mut yard = yard(&shop, "shown < :cutoff");
    yard.rule.age = Some(Period { count: 2, unit: PeriodUnit::Months });
    let error = yard.run().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    assert!(error.advice().iter().any(|one| one.contains("cutoff_timezone = ")), "{error:?}");
    assert_eq!(left(&shop).await, ["1"]);
    assert_eq!(yard.store.list("").await.unwrap(), []);
    // The other column says it by itself.
    "at < :cutoff".clone_into(&mut yard.rule.selects);
    assert_eq!(yard.run().await.unwrap().pruned_rows, 1);
}
