//! A changed configuration does nothing before it is applied, and says before what it would do.

use std::{fs, sync::Arc, thread::sleep, time::Duration};

use rusqlite::Connection;
use serde_json::Value;
use stillpoint::{
    repository::{
        Repository,
        drill::DrillRecord,
        store::{LocalStore, RealFs, Writers},
    },
    world::World,
};

use super::ward::{HEAD, Ward};

fn block(name: &str) -> String {
    format!("[database.{name}]\nendpoint = \"sqlite:{name}.db\"\n")
}

const QUIET: &str = "[policy.default]\nlogs = \"never\"\nrpo = \"2d\"\n";

fn changes(ward: &Ward) -> Vec<(String, String)> {
    let (status, told) = ward.run(&["plan", "-o", "json"]);
    let plan: Value = serde_json::from_str(&told).unwrap();
    let changes = plan["changes"].as_array().unwrap();
    assert_eq!(status, if changes.is_empty() { 0 } else { 10 }, "{told}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    changes.iter().map(|change| (text(&change["kind"]), text(&change["what"]))).collect()
}

fn pair(kind: &str, what: &str) -> (String, String) {
    (kind.to_owned(), what.to_owned())
}

/// Row 40: what holds is what was applied, and whoever edits a file is shown the difference.
#[test]
fn row_40_a_changed_file_changes_nothing_before_it_is_applied() {
    let ward = Ward::new(&format!("{HEAD}{QUIET}{}", block("one")));
    ward.create("one.db");
    ward.create("two.db");
    let serving = ward.serve();
    ward.wait_for_backups("one", 1);
    assert_eq!(changes(&ward), []);

    ward.configure(&format!("{HEAD}{QUIET}{}{}", block("one"), block("two")));
    assert_eq!(changes(&ward), [pair("added", "database two")]);
    assert!(ward.run(&["plan"]).1.contains("    first full due at once\n"));
    sleep(Duration::from_secs(7));
    assert_eq!(ward.run(&["status", "two"]).0, 6, "it is not applied");
    ward.ok(&["apply"]);
    ward.wait_for_backups("two", 1);
    assert_eq!(changes(&ward), []);

    // Taken out, it is retired: nothing is deleted, and nobody misses it.
    ward.configure(&format!("{HEAD}{QUIET}{}", block("two")));
    assert_eq!(changes(&ward), [pair("removed", "database one")]);
    ward.ok(&["apply"]);
    let status = ward.status("one");
    assert_eq!((&status["state"], &status["backups"]), (&"retired".into(), &1.into()));
    assert_eq!(status["rpo"], Value::Null);
    assert_eq!(status["kept"]["undated"], 1, "{status}");
    let told = ward.ok(&["status"]);
    assert!(told.contains("one: retired, 1 backup kept until forgotten"), "{told}");
    assert!(told.contains("1 ok  1 retired") && !told.contains("try: "), "{told}");
    // Put in again, it goes on.
    ward.configure(&format!("{HEAD}{QUIET}{}{}", block("one"), block("two")));
    ward.ok(&["apply"]);
    assert_eq!(ward.status("one")["state"], "active");
    assert_eq!(serving.stop(), 143);
    let audit = ward.ok(&["audit", "log", "--count", "100"]);
    assert_eq!(audit.matches("config.applied").count(), 4, "{audit}");
}

/// Row 40: whoever edits a file is shown what would be different, with status 10. Each backup bears
/// the digest of the configuration that held when it was made, and the audit log says since when.
#[test]
fn row_40_an_edit_is_shown_and_each_backup_bears_the_digest_of_what_held() {
    let policy = |rpo: &str| format!("[policy.default]\nlogs = \"never\"\nrpo = \"{rpo}\"\n");
    let ward = Ward::new(&format!("{HEAD}{}{}", policy("2d"), block("app")));
    ward.create("app.db");
    ward.serve_until_backed_up("app");
    let shown = |id: &str| ward.json(&["show", id, "--repo", "repo"])["configuration"].clone();
    let list = ward.json(&["list", "app", "--repo", "repo"]);
    let first = shown(list["backups"][0]["id"].as_str().unwrap());

    ward.configure(&format!("{HEAD}{}{}", policy("3d"), block("app")));
    let (status, told) = ward.run(&["plan", "-o", "json"]);
    assert_eq!(status, 10, "{told}");
    let plan: Value = serde_json::from_str(&told).unwrap();
    let change = &plan["changes"][0];
    assert_eq!(change["what"], "policy default: rpo", "{plan:#}");
    assert_eq!((&change["before"], &change["after"]), (&"\"2d\"".into(), &"\"3d\"".into()));
    let (status, told) = ward.run(&["plan"]);
    let difference = "policy default: rpo   \"2d\" -> \"3d\"";
    assert!(status == 10 && told.contains(difference), "{status}: {told}");

    let back_up = || ward.json(&["backup", "app"])["backup"]["id"].as_str().unwrap().to_owned();
    assert_eq!(shown(&back_up()), first, "what is not applied does not hold");
    ward.ok(&["apply"]);
    let second = shown(&back_up());
    assert_eq!(second, plan["plan"]);
    assert_ne!(second, first);
    let audit = ward.json(&["audit", "log", "--count", "100"]);
    let lines = audit["lines"].as_array().unwrap().iter();
    let applied = lines.filter(|line| line["action"] == "config.applied");
    let applied: Vec<&Value> = applied.map(|line| &line["subject"]).collect();
    for digest in [&first, &second] {
        assert!(digest.is_string() && applied.contains(&digest), "{digest}: {applied:?}");
    }
}

#[test]
fn what_shortens_retention_has_to_be_accepted() {
    let policy = |keep: &str| {
        format!("{HEAD}[policy.default]\nlogs = \"never\"\nrpo = \"2d\"\nkeep = {keep}\n")
    };
    let ward = Ward::new(&format!("{}{}", policy("{ weekly = 8 }"), block("app")));
    ward.create("app.db");
    ward.serve_until_backed_up("app");
    ward.configure(&format!("{}{}", policy("{ weekly = 4 }"), block("app")));
    let (status, told) = ward.run(&["apply"]);
    assert_eq!(status, 5, "{told}");
    assert!(told.contains("--accept-expire"), "{told}");
    // The only backup stays, and is promised for a shorter time.
    let says = "app: nothing expires at once, and what there is does sooner";
    assert!(told.contains(says) && !told.contains("expire 0"), "{told}");
    assert_eq!(changes(&ward).len(), 2);
    let plan = serde_json::from_str::<Value>(&ward.run(&["plan", "-o", "json"]).1).unwrap();
    let plan = plan["plan"].as_str().unwrap();
    // Somebody edits the file between the look and the deed.
    ward.configure(&format!("{}{}", policy("{ weekly = 3 }"), block("app")));
    let (status, told) = ward.run(&["apply", "--accept-expire", "--plan", plan]);
    assert_eq!(status, 5, "{told}");
    ward.ok(&["apply", "--accept-expire"]);
    assert_eq!(changes(&ward), []);
    // More is never asked about.
    ward.configure(&format!("{}{}", policy("{ weekly = 30 }"), block("app")));
    ward.ok(&["apply"]);
}

#[test]
fn where_there_is_nothing_nothing_has_to_be_accepted() {
    let with = |keep: &str| {
        let policy = format!("[policy.default]\nlogs = \"never\"\nrpo = \"2d\"\nkeep = {keep}\n");
        format!("{HEAD}{policy}{}", block("app"))
    };
    let ward = Ward::new(&with("{ weekly = 8 }"));
    ward.ok(&["init", "--no-encryption", "--repo", "repo"]);
    ward.ok(&["apply"]);
    ward.configure(&with("{ weekly = 4 }"));
    let (status, told) = ward.run(&["plan"]);
    assert_eq!((status, told.contains("expire")), (10, false), "{told}");
    ward.ok(&["apply"]);
}

/// Rows 1 and 79: a plan says of a promise that is new that the last drill did not keep it, and
/// somebody has to know as long as that is so.
#[tokio::test]
async fn row_79_a_promise_that_the_last_drill_did_not_keep_is_told() {
    let promising = |rto: &str| format!("{HEAD}{QUIET}rto = \"{rto}\"\n{}", block("app"));
    let ward = Ward::new(&promising("2h"));
    ward.create("app.db");
    ward.serve_until_backed_up("app");
    ward.ok(&["drill", "run", "app", "--no-mount", "--evidence", "out"]);
    drill_that_takes(&ward, Duration::from_mins(72)).await;
    let classes = || {
        let alerts = ward.status("app")["alerts"].as_array().unwrap().clone();
        let told = |one: &Value| format!("{} {}", one["urgency"], one["class"]).replace('"', "");
        alerts.iter().map(told).collect::<Vec<_>>()
    };
    assert_eq!((classes(), changes(&ward)), (Vec::new(), Vec::new()));

    ward.configure(&promising("1h"));
    assert_eq!(changes(&ward), [pair("changed", "policy default: rto")]);
    let says = "app: the last drill took 1h12m, and 1h00m are promised: more than was measured";
    let (_, told) = ward.run(&["plan"]);
    assert!(told.contains(&format!("    {says}\n")), "{told}");
    // It keeps nobody from promising it, and is said again only by whoever is to know.
    ward.ok(&["apply"]);
    assert_eq!((classes(), changes(&ward)), (vec!["ticket rto-breached".to_owned()], Vec::new()));
    let alerts = ward.status("app")["alerts"].to_string();
    assert!(alerts.contains("needed 1h 12m until the database answered; 1h are promised"));

    ward.configure(&promising("3h"));
    assert!(!ward.run(&["plan"]).1.contains("the last drill"));
    ward.ok(&["apply"]);
    assert_eq!(classes(), Vec::<String>::new());
}

/// Writes a drill down like the one whose evidence lies there, later and for so long.
async fn drill_that_takes(ward: &Ward, long: Duration) {
    let files = fs::read_dir(ward.path("out")).unwrap().map(|entry| entry.unwrap().path());
    let mut records = files.filter(|path| path.extension().is_some_and(|end| end == "json"));
    let mut record = DrillRecord::decode(&fs::read(records.next().unwrap()).unwrap()).unwrap();
    let (world, root) = (World::real(1), ward.path("repo"));
    let (clock, entropy) = (&*world.clock, Arc::clone(&world.entropy));
    let store = LocalStore::open(RealFs, &root, Writers::Several, clock, entropy).await.unwrap();
    let store = Arc::new(store);
    let repository = Repository::open(world.clone(), store, None, None).await.unwrap();
    let now = world.clock.now();
    (record.started_at, record.finished_at, record.drill) = (now, now, repository.new_drill());
    record.rto_ms = Some(long.as_millis().try_into().unwrap());
    repository.keep_drill(&record, "a page").await.unwrap();
}

#[test]
fn row_83_a_changed_line_of_the_audit_log_is_noticed() {
    let ward = Ward::new(&format!("{HEAD}{QUIET}{}", block("app")));
    ward.create("app.db");
    ward.serve_until_backed_up("app");
    ward.ok(&["audit", "verify"]);
    let state = ward.path("state/stillpoint/state.db");
    let changed = Connection::open(&state).unwrap();
    changed.execute("UPDATE audit SET who = 'nobody' WHERE seq = 2", []).unwrap();
    drop(changed);
    let (status, told) = ward.run(&["audit", "verify"]);
    assert_eq!(status, 9, "{told}");
    assert!(told.contains("SP0611"), "{told}");
    // Losing the state database loses no backup.
    fs::remove_file(&state).unwrap();
    assert_eq!(ward.status("app")["backups"], 1);
}

impl Ward {
    fn serve_until_backed_up(&self, name: &str) {
        let serving = self.serve();
        self.wait_for_backups(name, 1);
        serving.stop();
    }
}
