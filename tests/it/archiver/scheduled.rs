//! Runs that those who serve begin, and when they may work: what they leave is told.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says what it tried")]

use chrono::TimeDelta;
use chrono_tz::{Asia::Tokyo, Europe::Berlin, Tz};
use rusqlite::Connection;
use serde_json::Value;
use stillpoint::world::World;

use super::few::{configured, few};
use crate::serving::ward::Ward;

/// A row takes a second.
const SLOW: &str = r#"
schedule = "0 0 1 1 *"
max_runtime = "3s"
slice_rows = 1
throttle = { dead_tuples_per_hour = 3600 }
[[alert]]
name = "file"
when = ["archive-overdue"]
to = [{ exec = ["sh", "-c", "cat >> told; echo >> told"] }]
"#;

fn rows(shop: &Connection) -> i64 {
    shop.query_row("SELECT count(*) FROM few", [], |row| row.get(0)).unwrap()
}

fn state(ward: &Ward) -> Connection {
    Connection::open(ward.path("state/stillpoint/state.db")).unwrap()
}

/// It goes on when it is due again, and until then whoever is responsible hears that rows are left.
#[test]
fn a_set_whose_time_is_too_short_is_put_off_and_told_after_a_day() {
    let (ward, shop) = few(60, SLOW);
    shop.pragma_update(None, "journal_mode", "WAL").unwrap();
    let serving = ward.serve();
    ward.wait_until("the run", || ward.said().contains("archive.ended"));
    let job = || ward.jobs("shop").into_iter().find(|job| job["kind"] == "archive few");
    ward.wait_until("the end", || job().is_some_and(|job| job["outcome"].is_string()));
    let first = job().unwrap();
    assert_eq!(first["outcome"], "deferred", "{first:#}");
    let left = rows(&shop);
    assert!((1..60).contains(&left), "{left}");
    let reason = first["reason"].as_str().unwrap();
    assert!(reason.starts_with("its time is over: ") && !reason.contains("left"), "{reason}");
    assert_eq!(serving.stop(), 143);

    // As if it had been queued, and had ended, when it was due.
    let earlier = "UPDATE job SET id = '01B0000000' || substr(id, 11), ended = due
        WHERE kind = 'archive few'";
    assert_eq!(state(&ward).execute(earlier, []).unwrap(), 1);
    let told = || std::fs::read_to_string(ward.path("told")).unwrap_or_default();
    assert_eq!(told(), "", "it may wait for a day");
    let serving = ward.serve();
    ward.wait_until("a ticket", || told().contains("archive-overdue"));
    assert!(told().contains("its time is over"), "{}", told());
    assert_eq!(serving.stop(), 143);
    assert_eq!((ward.said().matches("archive.started").count(), rows(&shop)), (1, left));

    // A time later it goes on.
    let before = "UPDATE job SET due = due - 1000000 WHERE kind = 'archive few'";
    assert_eq!(state(&ward).execute(before, []).unwrap(), 1);
    let serving = ward.serve();
    ward.wait_until("more of it", || rows(&shop) < left);
    assert_eq!(serving.stop(), 143);
}

/// It is one run, however often it lets others have its room.
#[test]
fn a_run_that_goes_on_has_what_is_left_of_its_time() {
    let (ward, shop) = few(60, SLOW);
    shop.pragma_update(None, "journal_mode", "WAL").unwrap();
    let ended = || {
        let jobs = ward.jobs("shop").into_iter();
        let is_ended = |job: &Value| job["kind"] == "archive few" && job["outcome"].is_string();
        jobs.filter(is_ended).collect::<Vec<_>>()
    };
    let serving = ward.serve();
    ward.wait_until("the run", || ended().len() == 1);
    assert_eq!(serving.stop(), 143);
    let left = rows(&shop);
    assert!((1..60).contains(&left), "{left}");

    // As if it had begun an hour ago, and had rested for too long.
    let rested = "UPDATE job SET reason = 'rested, 3 rows deleted: replicas are behind',
            started = started - 3600000000, ended = ended - 600000000
        WHERE kind = 'archive few'";
    assert_eq!(state(&ward).execute(rested, []).unwrap(), 1);
    let serving = ward.serve();
    ward.wait_until("its end", || ended().len() == 2);
    assert_eq!(serving.stop(), 143);
    let jobs = ended();
    let is_over = |job: &Value| job["reason"] == "its time is over: 0 rows deleted";
    assert!(jobs.iter().any(is_over), "{jobs:#?}");
    assert_eq!(rows(&shop), left);
}

/// A window of an hour around what clocks show now in a zone, which it does not name.
fn around_now(zone: Tz) -> String {
    let now = World::real(1).clock.now().with_timezone(&zone).naive_local();
    let [from, to] = [-30, 30].map(|minutes| (now + TimeDelta::minutes(minutes)).format("%H:%M"));
    format!("window = [\"{from}-{to}\"]\n")
}

/// The configuration is one of Berlin.
#[test]
fn a_window_is_in_the_zone_of_the_cutoff_or_else_in_that_of_the_configuration() {
    let (ward, shop) = few(9, "");
    let own = "cutoff_timezone = \"Asia/Tokyo\"\n";
    for (own, zone, quit) in [
        ("", Tz::UTC, "window-closed"),
        (own, Berlin, "window-closed"),
        (own, Tokyo, "finished"),
        ("", Berlin, "nothing-selected"),
    ] {
        ward.configure(&configured(&format!("{own}{}", around_now(zone))));
        let run = ward.json(&["archive", "run", "few"]);
        assert_eq!(run["quit"], quit, "{own}, {zone}: {run:#}");
    }
    assert_eq!(rows(&shop), 0);
}
