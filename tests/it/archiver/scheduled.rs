//! Runs that those who serve begin, and that cannot move everything.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says what it tried")]

use rusqlite::Connection;

use super::few::few;
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
