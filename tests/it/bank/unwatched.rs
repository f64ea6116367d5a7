//! Commits that were made while no capture ran, and captured later.

use std::{thread::sleep, time::Duration};

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::teller::now;
use crate::site::{Running, Site, rows};

const PAUSE: Duration = Duration::from_millis(1_500);

fn capture(site: &Site) -> Running {
    let words = ["logs", "stream", "sqlite:app.db", "--stop-at-eof", "--take-over", "-v"];
    let begun = || {
        let log = std::fs::read_to_string(site.path("capture.log")).unwrap_or_default();
        log.matches("Capturing the log").count()
    };
    let before = begun();
    let mut capture = site.spawn(&words, "capture");
    while begun() == before {
        assert_eq!(capture.ended(), None, "the capture did not begin");
        sleep(PAUSE / 10);
    }
    // Longer than a flush: what was committed by now is stored.
    sleep(PAUSE);
    capture
}

/// Whoever asks for such a time must not get a state that lacks what had long been committed.
#[test]
fn a_time_at_which_nobody_looked_is_refused() {
    let site = Site::new();
    let application = site.create("app.db", 10);
    site.ok(&["backup", "sqlite:app.db"]);
    capture(&site).kill();
    let mut times: Vec<DateTime<Utc>> = Vec::new();
    for _ in 0..3 {
        sleep(PAUSE);
        application.execute("INSERT INTO t (v) VALUES (x'00')", []).unwrap();
        times.push(now());
    }
    sleep(PAUSE);
    let late = capture(&site);
    let seen = now();
    application.execute("INSERT INTO t (v) VALUES (x'00')", []).unwrap();
    sleep(PAUSE);
    sleep(PAUSE);
    assert_eq!(late.end(), 0);

    for time in &times[..2] {
        let at = (*time + PAUSE / 2).to_rfc3339();
        let said = ["SP0704", "nobody looked", "nearest before", "nearest after"];
        site.fails(&["restore", "app.db", "--at", &at, "--to", "x.db"], 6, &said);
    }
    assert!(!site.path("x.db").exists());
    let timeline = site.json(&["timeline", "app.db"]);
    let gaps = timeline["gaps"].as_array().unwrap();
    let time = |value: &Value| value["at"].as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
    let gap = gaps.iter().find(|gap| time(&gap["after"]) < times[0]).unwrap();
    assert!(times[1] < time(&gap["before"]) && time(&gap["before"]) <= seen, "{timeline}");

    let at = seen.to_rfc3339();
    site.ok(&["restore", "app.db", "--at", &at, "--to", "seen.db"]);
    assert_eq!(rows(&site.path("seen.db")), 13);
    let before = gap["after"]["at"].as_str().unwrap();
    site.ok(&["restore", "app.db", "--at", before, "--to", "before.db"]);
    assert_eq!(rows(&site.path("before.db")), 10);
    site.ok(&["restore", "app.db", "--to", "latest.db"]);
    assert_eq!(rows(&site.path("latest.db")), 14);
}
