//! Row 1: what was promised for a month, and what became of it.

use std::fs;

use serde_json::Value;

use super::ward::Ward;
use crate::cli::golden::assert_shape;

/// A policy that is broken as soon as the first backup is a few seconds old.
const CONFIG: &str = r#"version = 1
timezone = "UTC"
repository.primary.url = "repo"
repository.dr.url = "dr"
[policy.default]
rpo = "5s"
rto = "1h"
logs = "never"
full = "0 0 1 1 *"
incremental = "0 0 1 1 *"
pitr_window = "1d"
[[policy.default.copy]]
name = "dr"
to = "dr"
[policy.calm]
rpo = "2d"
[database.app]
endpoint = "sqlite:app.db"
[database.quiet]
endpoint = "sqlite:quiet.db"
policy = "calm"
"#;

fn of<'a>(report: &'a Value, name: &str) -> &'a Value {
    let mut all = report["databases"].as_array().unwrap().iter();
    all.find(|one| one["database"] == name).unwrap()
}

/// Row 1.
#[test]
fn row_1_a_month_of_the_whole_fleet_is_evidence() {
    let ward = Ward::new(CONFIG);
    drop((ward.create("app.db"), ward.create("quiet.db")));
    // Before anybody serves, nobody knows how promises were kept; that is not 0.
    let (status, told) = ward.run(&["report", "monthly"]);
    assert!(status == 6 && told.contains("SP02"), "{status} {told}");
    let serving = ward.serve();
    ward.wait_for_backups("app", 1);
    ward.wait_for_backups("quiet", 1);
    ward.wait_until("a copy", || ward.status("app")["copies"][0]["backups"] == 1);
    let words = ["audit", "log", "--count", "1000"];
    let raised = |line: &Value| line["action"] == "alert.raised" && line["subject"] == "app";
    ward.wait_until("an alert", || {
        ward.json(&words)["lines"].as_array().unwrap().iter().any(raised)
    });
    assert_eq!(serving.stop(), 143);
    ward.ok(&["drill", "run", "app", "--no-mount"]);
    let hold = ["hold", "add", "app", "--case", "LEG-1", "--from", "2026-01-01T00:00:00Z"];
    ward.ok(&hold);

    let month = ward.json(&["status"])["now"].as_str().unwrap()[..7].to_owned();
    let words = ["report", "monthly", "--month", &month, "--evidence", "out"];
    let report = ward.json(&words);
    assert_shape("report-monthly", &report);
    assert_eq!((&report["month"], &report["complete"]), (&month.clone().into(), &false.into()));
    assert_eq!(report["problems"], Value::Array(Vec::new()));
    let app = of(&report, "app");
    assert_eq!(app["promise"]["rpo_seconds"], 5);
    assert_eq!(app["breaches"]["alerts"][0]["class"], "rpo-breached", "{app:#}");
    assert_eq!((&app["backups"]["made"], &app["backups"]["verified"]), (&1.into(), &1.into()));
    assert_eq!(
        (&app["drills"][0]["passed"], &app["drills"][0]["in_time"]),
        (&true.into(), &true.into())
    );
    assert!(app["drills"][0]["rto_ms"].as_u64().unwrap() > 0);
    assert_eq!(app["copies"][0]["backups"], 1);
    assert_eq!(app["retention"][0]["holdings"]["holds"][0]["case"], "LEG-1");
    assert_eq!(app["jobs"]["ended"]["full"]["succeeded"], 1);
    let quiet = of(&report, "quiet");
    assert_eq!(quiet["breaches"]["alerts"], Value::Array(Vec::new()), "{quiet:#}");
    let audit = ward.json(&["audit", "verify"]);
    assert_eq!(report["audit"]["hash"], audit["hash"]);

    let id = report["report"].as_str().unwrap();
    let written = fs::read(ward.path("out").join(format!("{id}.json"))).unwrap();
    let written: Value = serde_json::from_slice(&written).unwrap();
    assert_eq!(written["databases"], report["databases"]);
    let page = fs::read_to_string(ward.path("out").join(format!("{id}.html"))).unwrap();
    for said in ["rpo-breached", "passed", "LEG-1", "quiet", "every one, and no log"] {
        assert!(page.contains(said), "{said} in {page}");
    }
    for foreign in ["http:", "https:", "src=", "url(", "@import", "<script", "<link"] {
        assert!(!page.contains(foreign), "the page is not self-contained: {foreign}");
    }

    // Of the month before nothing was written down; what the repository says is known.
    let last = ward.json(&["report", "monthly"]);
    let app = of(&last, "app");
    assert_eq!((app.get("breaches"), app.get("jobs")), (None, None), "{app:#}");
    assert_eq!((&last["complete"], &app["backups"]["made"]), (&true.into(), &0.into()));
    let verified = ward.json(&["report", "verify", "--repo", "repo"]);
    assert_eq!((&verified["reports"], &verified["intact"]), (&2.into(), &true.into()));
    for bad in ["2026-13", "9999-01", "x"] {
        assert_eq!(ward.run(&["report", "monthly", "--month", bad]).0, 2, "{bad}");
    }

    // Without the state database nobody knows what was told; without the copy, what it has.
    fs::remove_dir_all(ward.path("state")).unwrap();
    fs::rename(ward.path("dr"), ward.path("away")).unwrap();
    let lost = ward.json(&["report", "monthly", "--month", &month]);
    let app = of(&lost, "app");
    assert_eq!((app.get("breaches"), app["copies"][0].get("backups")), (None, None), "{app:#}");
    assert_eq!(app["backups"]["made"], 1);
}
