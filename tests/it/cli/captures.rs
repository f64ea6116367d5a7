//! Captures that are killed, doubled, misdirected, or find damage.

use std::{fs, path::PathBuf, process::Command, thread::sleep, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::Connection;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::bench::{Bench, Streaming, files_below};

fn signal(stream: &Streaming, signal: Signal) {
    kill_process(Pid::from_raw(stream.pid()).unwrap(), signal).unwrap();
}

fn insert(application: &Connection) {
    application.execute("INSERT INTO t DEFAULT VALUES", []).unwrap();
}

fn bench() -> (Bench, Connection) {
    let bench = Bench::new();
    bench.ok(&["init"]);
    let application = bench.create("app.db");
    bench.ok(&["backup", "sqlite:app.db"]);
    (bench, application)
}

fn restored_rows(bench: &Bench) -> i64 {
    bench.ok(&["restore", "app.db", "--to", "newest.db", "--force"]);
    bench.rows("newest.db")
}

/// For how long a busy machine may keep everybody from looking.
const STALL: TimeDelta = TimeDelta::seconds(3);

/// The longest time for which nobody looked.
fn longest_gap(bench: &Bench) -> TimeDelta {
    let timeline = bench.ok(&["timeline", "app.db", "-o", "json"]).out;
    let timeline: Value = serde_json::from_str(&timeline).unwrap();
    let at = |gap: &Value, side: &str| -> DateTime<Utc> {
        gap[side]["at"].as_str().unwrap().parse().unwrap()
    };
    let gaps = timeline["gaps"].as_array().unwrap().iter();
    gaps.map(|gap| at(gap, "before") - at(gap, "after")).max().unwrap_or_default()
}

#[test]
fn a_capture_that_sleeps_through_a_take_over_costs_nothing_when_it_wakes() {
    let (bench, application) = bench();
    for wakes in [false, true] {
        let old = bench.stream();
        bench.wait_until_capturing();
        insert(&application);
        sleep(Duration::from_millis(1500));
        if wakes {
            signal(&old, Signal::STOP);
            insert(&application);
        }
        let new = bench.stream_with(&["--take-over"]);
        for number in 0..13 {
            sleep(Duration::from_secs(1));
            insert(&application);
            if wakes && number == 2 {
                signal(&old, Signal::CONT);
            }
        }
        sleep(Duration::from_millis(1500));
        assert_eq!(old.wait(), 11, "the one that began last goes on");
        assert_eq!(new.stop(), 0);
        let source: i64 =
            application.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(restored_rows(&bench), source, "wakes: {wakes}");
        bench.ok(&["verify"]);
        // What was committed while the only capture slept has no exact time. A machine that lets
        // neither of two look for a second makes a gap as well, and a shorter one.
        let gap = longest_gap(&bench);
        assert!(if wakes { gap > TimeDelta::zero() } else { gap < STALL }, "{wakes}: {gap}");
    }
}

#[test]
fn a_killed_capture_keeps_nobody_waiting() {
    let (bench, application) = bench();
    for _ in 0..3 {
        let stream = bench.stream();
        bench.wait_until_capturing();
        insert(&application);
        sleep(Duration::from_millis(1500));
        signal(&stream, Signal::KILL);
        stream.wait();
        let rows = restored_rows(&bench);
        let again = bench.ok(&["logs", "stream", "sqlite:app.db", "--stop-at-eof"]);
        assert!(!again.err.contains("gap"), "{}", again.err);
        assert_eq!(restored_rows(&bench), rows);
    }
    assert_eq!(bench.rows("newest.db"), 13);
}

#[test]
fn another_database_under_the_name_is_refused() {
    let (bench, _application) = bench();
    fs::create_dir(bench.path("other")).unwrap();
    drop(bench.create("other/app.db"));
    let words = ["logs", "stream", "sqlite:other/app.db", "--stop-at-eof"];
    let ran = bench.refused(&words, "SP0520", 5);
    assert!(ran.err.contains("--name"), "{}", ran.err);
    assert_eq!(newest(&bench, "repo/streams", ".seg"), None);
}

/// A database that is not the one of [`bench`], and that nobody uses.
fn other(bench: &Bench) -> PathBuf {
    let other = bench.create("other.db");
    other.execute_batch("CREATE TABLE other(a); INSERT INTO other VALUES (1)").unwrap();
    bench.path("other.db")
}

#[test]
fn a_database_that_is_written_over_in_place_is_a_gap_and_is_read_in_full() {
    let (bench, application) = bench();
    let stream = bench.stream();
    bench.wait_until_capturing();
    insert(&application);
    sleep(Duration::from_millis(1500));
    let copied = Command::new("cp").arg(other(&bench)).arg(bench.path("app.db")).status();
    assert!(copied.unwrap().success());
    // The capture goes on behind the gap.
    let said = || fs::read_to_string(bench.path("stream.log")).unwrap();
    bench.wait_until("a gap", || said().contains("wrote over the database file in place"));
    assert_eq!(stream.stop(), 0);
    let backup = bench.ok(&["backup", "sqlite:app.db"]);
    assert!(backup.out.contains("full"), "{}", backup.out);
    let capture = ["logs", "stream", "sqlite:app.db", "--stop-at-eof"];
    assert!(!bench.ok(&capture).err.contains("no backup joins"));
    let timeline = bench.ok(&["timeline", "app.db"]);
    for said in ["gap of ", "-over-"] {
        assert!(timeline.out.contains(said), "{said}\n{}", timeline.out);
    }
    drop(application);
}

#[test]
fn a_database_that_is_put_in_the_place_of_another_is_its_new_incarnation() {
    let (bench, application) = bench();
    drop(application);
    fs::rename(other(&bench), bench.path("app.db")).unwrap();
    let backup = bench.ok(&["backup", "sqlite:app.db"]);
    assert!(backup.out.contains("re-created since its last backup"), "{}", backup.out);
    assert!(backup.out.contains("full"), "{}", backup.out);
    // One is the heading's.
    assert_eq!(bench.ok(&["list"]).out.matches("app.db").count(), 3);
}

fn newest(bench: &Bench, folder: &str, ending: &str) -> Option<PathBuf> {
    let folder = bench.path(folder);
    let all = if folder.exists() { files_below(&folder) } else { Vec::new() };
    all.into_iter().filter(|path| path.to_string_lossy().ends_with(ending)).max()
}

#[test]
fn damage_to_the_newest_segment_or_sign_of_life_stops_no_capture() {
    for (folder, ending) in [("repo/streams", ".seg"), ("repo/control/streams", ".beat")] {
        let (bench, application) = bench();
        let capture = ["logs", "stream", "sqlite:app.db", "--stop-at-eof"];
        for _ in 0..2 {
            insert(&application);
            bench.ok(&capture);
        }
        let path = newest(&bench, folder, ending).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[70] ^= 1;
        fs::write(&path, bytes).unwrap();
        insert(&application);
        bench.ok(&capture);
        assert_eq!(restored_rows(&bench), 13, "after damage to {}", path.display());
    }
}
