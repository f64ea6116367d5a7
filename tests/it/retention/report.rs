//! Row 85: what is kept of every database, by what promise, and until when.

use serde_json::Value;

use crate::{
    cli::golden::{assert_shape, assert_text},
    site::Site,
};

const CONFIG: &str = r#"
version = 1
timezone = "Europe/Berlin"
[repository.primary]
url = "repo"
encryption = { key = { file = "key" } }
[repository.dr]
url = "dr"
[policy.law]
logs = "never"
pitr_window = "14d"
floor = 1
keep = { last = 2, weekly = 8, for = "7y", after_event = "relationship_end", subject = "customer" }
[[policy.law.copy]]
name = "dr"
to = "dr"
keep = { monthly = 12 }
[policy.short]
logs = "never"
pitr_window = "1s"
keep = { for = "1d" }
[database."app.db"]
endpoint = "sqlite:app.db"
policy = "law"
labels = { customer = "4711, 12" }
[database."old.db"]
endpoint = "sqlite:old.db"
policy = "short"
"#;

fn report(site: &Site) -> Value {
    site.json(&["report", "retention", "-c", "stillpoint.toml"])
}

/// The entry of a database, of its original or of a copy.
fn of<'a>(report: &'a Value, database: &str, copy: Option<&str>) -> &'a Value {
    let mut all = report["databases"].as_array().unwrap().iter();
    let found = all.find(|one| one["database"] == database && one["copy"].as_str() == copy);
    found.unwrap_or_else(|| panic!("{database} {copy:?} in {report:#}"))
}

fn site() -> Site {
    let site = Site::new();
    std::fs::write(site.path("stillpoint.toml"), CONFIG).unwrap();
    for name in ["app.db", "old.db"] {
        site.create(name, 20);
        site.ok(&["backup", &format!("sqlite:{name}")]);
        site.ok(&["backup", &format!("sqlite:{name}")]);
    }
    site
}

/// Row 85.
#[test]
fn row_85_what_is_kept_is_told_of_originals_copies_and_what_is_retired() {
    let site = site();
    let unmade = report(&site);
    let copy = of(&unmade, "app.db", Some("dr"));
    assert_eq!(copy["holdings"], Value::Null, "what is not known is not 0: {copy:#}");
    assert_eq!(copy["problem"], "no copy was made there yet");
    assert!(!site.path("state/stillpoint/state.db").exists(), "who looks makes nothing");

    site.ok(&["verify"]);
    site.ok(&["copy", "run", "-c", "stillpoint.toml"]);
    site.ok(&["db", "retire", "old.db", "-c", "stillpoint.toml"]);
    site.ok(&["hold", "add", "app.db", "--case", "LEG-9", "--from", "2026-11-01T00:00:00Z"]);
    let event = ["event", "record", "relationship_end", "--database", "app.db"];
    site.ok(&[&event[..], &["--subject", "4711", "--on", "2028-02-29"]].concat());

    let told = report(&site);
    let app = of(&told, "app.db", None);
    assert_eq!(
        app["event"]["says"],
        "kept for ever: no event, relationship_end of 12 is not known"
    );
    assert_eq!(app["event"]["ends"], Value::Null);
    assert_eq!(app["event"]["subjects"][0]["ends"], "2035-03-01T23:00:00.000000Z");
    assert_eq!(app["event"]["subjects"][1]["on"], Value::Null);
    assert_eq!(app["holdings"]["next"]["until"]["when"], "told", "{app:#}");
    let old = of(&told, "old.db", None);
    assert_eq!((&old["state"], &old["event"]), (&"retired".into(), &Value::Null));
    assert_eq!(old["holdings"]["next"]["until"]["when"], "at", "{old:#}");
    // A hold goes for the copy as well, also before anything was copied since.
    let copy = of(&told, "app.db", Some("dr"));
    assert_eq!(copy["holdings"]["holds"][0]["case"], "LEG-9", "{copy:#}");
    assert!(copy["holdings"]["bytes"].as_u64().unwrap() > 0);

    site.ok(&[&event[..], &["--subject", "12", "--on", "2027-01-31"]].concat());
    let told = report(&site);
    let app = of(&told, "app.db", None);
    let says = "7 years after relationship_end of 4711 on 2028-02-29: kept until 2035-03-02";
    assert_eq!(app["event"]["says"], says);
    assert_shape("report-retention", &told);
    let text = site.ok(&["report", "retention", "-c", "stillpoint.toml"]).out;
    assert_text("report-retention", &text);
    let one = site.json(&["report", "retention", "old.db", "-c", "stillpoint.toml"]);
    assert_eq!(one["databases"].as_array().unwrap().len(), 1);
    site.fails(&["report", "retention", "x", "-c", "stillpoint.toml"], 6, &["SP0112"]);
}

/// Row 85: a repository that does not answer is told as such, and fails.
#[test]
fn row_85_what_cannot_be_looked_at_is_absent_and_a_failure() {
    let site = site();
    std::fs::rename(site.path("repo"), site.path("away")).unwrap();
    let words = ["report", "retention", "-c", "stillpoint.toml", "-o", "json"];
    let ran = site.fails(&words, 6, &["SP02"]);
    let told: Value = serde_json::from_str(&ran.out).unwrap();
    for one in told["databases"].as_array().unwrap() {
        assert_eq!(one["holdings"], Value::Null, "{one:#}");
        assert!(one["problem"].is_string() && one["rules"][0].is_object(), "{one:#}");
    }
}
