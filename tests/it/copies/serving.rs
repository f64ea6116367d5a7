//! Copies under `serve`.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
};

use super::yard::{DR, PLACES, copy, grow, listed, packs, prove, rows_in, yard};
use crate::serving::ward::{Ward, rows};

/// A port that is free now.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn metrics(port: u16) -> String {
    let mut text = String::new();
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return text };
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    if stream.write_all(request.as_bytes()).is_ok() {
        drop(stream.read_to_string(&mut text));
    }
    text
}

fn job<'a>(jobs: &'a [serde_json::Value], kind: &str) -> Option<&'a serde_json::Value> {
    jobs.iter().find(|job| job["kind"] == kind)
}

/// Row 68: what was proven is copied by a job of its own, log follows, and how far the copy is
/// behind is measured.
#[test]
fn row_68_a_job_copies_and_the_lag_is_measured() {
    let port = free_port();
    let places = format!("{PLACES}[coordinator]\nmetrics = \"127.0.0.1:{port}\"\n");
    let (ward, application) = yard(&places, "", DR);
    let text = fs::read_to_string(ward.path("stillpoint.toml")).unwrap();
    ward.configure(&text.replace("logs = \"never\"", "logs = \"stream\""));
    let serving = ward.serve();
    ward.wait_until("a job", || {
        job(&ward.jobs("app"), "copy dr").is_some_and(|job| job["outcome"] == "succeeded")
    });
    assert_eq!(listed(&ward, "dr"), listed(&ward, "repo"));
    ward.wait_until("a capture", || ward.said().contains("capture.started"));
    for _ in 0..3 {
        application.execute("INSERT INTO t DEFAULT VALUES", []).unwrap();
    }
    let row = |page: &str, name: &str| {
        let line = page.lines().find(|line| line.starts_with(&format!("stillpoint_{name}{{")));
        line.map(str::to_owned)
    };
    ward.wait_until("a lag", || row(&metrics(port), "database_copy_lag_seconds").is_some());
    let lag = row(&metrics(port), "database_copy_lag_seconds").unwrap();
    assert!(lag.contains("copy=\"dr\"") && lag.contains("database=\"app\""), "{lag}");
    let status = ward.status("app");
    assert_eq!(status["copies"][0]["name"], "dr", "{status}");
    assert!(ward.ok(&["status"]).contains("COPIES"));
    // Log is copied without a job, within a minute or so.
    ward.wait_until("log in the copy", || {
        let to = ward.path("back.db");
        drop(fs::remove_file(&to));
        let words = ["restore", "app", "--repo", "dr", "--to", to.to_str().unwrap()];
        ward.run(&words).0 == 0 && rows_in(&to, "t") == rows(&application)
    });
    // Each repository is looked after, copies by the rules of copies.
    ward.wait_until("upkeep", || {
        let jobs = ward.jobs("repository dr");
        job(&jobs, "upkeep").is_some_and(|job| job["outcome"] == "succeeded")
    });
    let is_stable =
        |ward: &Ward| ward.jobs("app").iter().filter(|j| j["kind"] == "copy dr").count();
    assert_eq!(is_stable(&ward), 1, "log needs no job");
    assert_eq!(serving.stop(), 143);
    ward.ok(&["audit", "verify"]);
    ward.ok(&["verify", "--repo", "dr"]);
}

/// Row 69: production is gone, and what would really be used is rehearsed from the copy alone.
#[test]
fn row_69_a_drill_needs_nothing_but_the_copy() {
    let drill = "[policy.default.drill]\nevery = \"7d\"\nfrom = \"dr\"\npoint = \"latest\"\n";
    let (ward, application) = yard(PLACES, "rto = \"90s\"", &format!("{DR}{drill}"));
    prove(&ward, &[]);
    copy(&ward);
    let expected = rows(&application).to_string();
    drop(application);
    fs::rename(ward.path("app.db"), ward.path("gone.db")).unwrap();
    let check = ["--check", "SELECT count(*) FROM t", "--expect", &expected];
    let words = [&["drill", "run", "app", "--no-mount"][..], &check].concat();
    let record = ward.json(&words);
    assert_eq!(record["passed"], true, "{record:#}");
    assert!(record["notes"].to_string().contains("restored from dr ("), "{record:#}");
    let kept = |place: &str| {
        let list = ward.json(&["drill", "list", "--repo", place]);
        list["drills"].as_array().unwrap().len()
    };
    assert_eq!((kept("dr"), kept("repo")), (1, 0), "the evidence is where it was found");
    // What it needed is told beside what is promised.
    assert!(ward.status("app")["drill_rto_ms"].is_u64());
    assert!(ward.ok(&["status"]).contains(" s/1m30s"), "{}", ward.ok(&["status"]));
    // Nor does the original have to be there.
    fs::rename(ward.path("repo"), ward.path("gone")).unwrap();
    assert_eq!(ward.json(&words)["passed"], true);
}

/// What a copy keeps is not kept for a shorter time before somebody accepts that.
#[test]
fn row_66_a_copy_that_keeps_less_has_to_be_accepted() {
    let (ward, _application) = yard(PLACES, "", &format!("{DR}keep = {{ last = 9 }}\n"));
    prove(&ward, &[]);
    copy(&ward);
    ward.ok(&["apply"]);
    let text = fs::read_to_string(ward.path("stillpoint.toml")).unwrap();
    ward.configure(&text.replace("last = 9", "last = 2"));
    let (status, told) = ward.run(&["plan"]);
    assert_eq!(status, 10, "{told}");
    assert!(told.contains("copy dr keeps less") && told.contains("--accept-expire"), "{told}");
    let (status, told) = ward.run(&["apply"]);
    assert_eq!(status, 5, "{told}");
    ward.ok(&["apply", "--accept-expire"]);
    ward.configure(&text.replace("last = 9", "last = 12"));
    ward.ok(&["apply"]);
}

/// How much of a copy goes is told in backups and in bytes.
#[test]
fn row_66_what_goes_of_a_copy_is_told_in_bytes() {
    let copies = format!("{DR}keep = {{ last = 9 }}\n");
    let (ward, application) = yard(PLACES, "pitr_window = \"1s\"", &copies);
    for _ in 0..3 {
        grow(&application, 20);
        prove(&ward, &[]);
    }
    copy(&ward);
    ward.ok(&["apply"]);
    let text = fs::read_to_string(ward.path("stillpoint.toml")).unwrap();
    ward.configure(&text.replace("last = 9", "last = 1"));
    let told = || ward.run(&["plan"]).1;
    let says = "    app: will expire 2 backups of copy dr, ";
    ward.wait_until("the end of the window", || told().contains(says));
    let told = told();
    let bytes = told.lines().find_map(|line| line.strip_prefix(says)).unwrap();
    assert!(!bytes.starts_with('0') && bytes.ends_with('B'), "{told}");
}

/// Row 6: outside of its windows a copy waits, and says until when.
#[test]
fn row_6_a_copy_waits_for_its_window() {
    let day =
        stillpoint::world::World::real(1).clock.now().with_timezone(&chrono_tz::Europe::Berlin);
    let other = (day + chrono::TimeDelta::days(3)).format("%a").to_string().to_uppercase();
    let window = format!("window = [\"{other} 08:00-09:00\"]\n");
    let (ward, _application) = yard(PLACES, "", &format!("{DR}{window}"));
    prove(&ward, &[]);
    let (status, told) = ward.run(&["copy", "run"]);
    assert_eq!(status, 8, "{told}");
    assert!(told.contains("paused") && told.contains("lacks 1 backup"), "{told}");
    assert!(packs(&ward, "dr").is_empty());
    let text = fs::read_to_string(ward.path("stillpoint.toml")).unwrap();
    ward.configure(&text.replace(&window, ""));
    copy(&ward);
    assert_eq!(listed(&ward, "dr").len(), 1);
}
