//! What is due is done; whoever is killed, at whatever moment.

use std::{fs, thread::sleep, time::Duration};

use super::ward::{HEAD, Ward, fill, listening, rows};

/// Row 74: six lines are enough. Row 15: nobody is listened to.
#[test]
fn row_15_74_the_shortest_configuration_makes_a_scheduled_backup() {
    let ward = Ward::new("");
    ward.ok(&["config", "init", "--out", "six.toml"]);
    let six = fs::read_to_string(ward.path("six.toml")).unwrap();
    assert_eq!(six.lines().count(), 6);
    // The very lines, with other places.
    let here = ward.path("").display().to_string();
    let six = six.replace("/srv/stillpoint", &format!("{here}repo"));
    ward.configure(&six.replace("/var/lib/shop/", &here));
    let application = ward.create("orders.db");
    let serving = ward.serve();
    ward.wait_for_backups("shop/orders", 1);
    assert_eq!(listening(serving.pid()), 0, "nobody asked for a port");
    // Log is captured from then on: what is committed now can be restored.
    ward.wait_until("a capture", || ward.said().contains("capture.started"));
    application.execute("INSERT INTO t DEFAULT VALUES", []).unwrap();
    let committed = rows(&application);
    sleep(Duration::from_secs(3));
    assert_eq!(ward.restored_rows("shop/orders"), committed);
    let status = ward.status("shop/orders");
    assert_eq!((&status["rpo"], &status["state"]), (&"ok".into(), &"active".into()));
    let jobs = ward.jobs("shop/orders");
    assert_eq!((&jobs[0]["kind"], &jobs[0]["why"]), (&"full".into(), &"first".into()));
    assert_eq!(jobs[0]["outcome"], "succeeded");
    assert_eq!(serving.stop(), 143);
    ward.ok(&["audit", "verify"]);
    ward.ok(&["verify", "--repo", "repo"]);
}

#[test]
fn a_coordinator_that_is_killed_amid_a_backup_is_followed_by_one_that_makes_it() {
    let policy = "[policy.default]\nlogs = \"never\"\nrpo = \"2d\"\n";
    let database = "[database.app]\nendpoint = \"sqlite:app.db\"\n";
    let ward = Ward::new(&format!("{HEAD}{policy}{database}"));
    let application = ward.create("app.db");
    fill(&application, 100_000);
    let mut killed = 0;
    for pause in [40, 80, 160, 320] {
        let serving = ward.serve();
        ward.wait_until("a claim", || ward.jobs("app").first().is_some_and(is_running));
        sleep(Duration::from_millis(pause));
        serving.kill();
        if !ward.jobs("app").first().is_some_and(is_running) {
            break;
        }
        killed += 1;
        // Nobody can know yet that it is dead: its lease has to end.
        let listed = ward.run(&["list", "app", "--repo", "repo"]).1;
        assert!(!listed.contains("incomplete"), "{listed}");
        let serving = ward.serve();
        ward.wait_until("that it is missed", || {
            ward.jobs("app").iter().filter(|job| job["outcome"] == "lost").count() == killed
        });
        serving.kill();
        // Each takes a minute to be missed.
        if killed == 1 {
            break;
        }
    }
    assert!(killed > 0, "no kill came amid a job");
    let serving = ward.serve();
    ward.wait_for_backups("app", 1);
    ward.wait_until("its end", || ward.jobs("app")[0]["outcome"] == "succeeded");
    assert_eq!(serving.stop(), 143);
    // For one due time there is one backup, however many tried.
    let backups = ward.json(&["list", "app", "--repo", "repo"])["backups"].clone();
    assert_eq!(backups.as_array().unwrap().len(), 1, "{backups}");
    ward.ok(&["verify", "--repo", "repo"]);
    ward.ok(&["audit", "verify"]);
    assert_eq!(ward.restored_rows("app"), rows(&application));
}

fn is_running(job: &serde_json::Value) -> bool {
    job["state"] == "running"
}

/// Row 47: a cap holds although everything is due at once.
#[test]
fn row_47_caps_hold_when_everything_is_due_at_once() {
    let databases: Vec<_> = (0..12).map(|n| format!("app{n}")).collect();
    let block = |name: &String| format!("[database.{name}]\nendpoint = \"sqlite:{name}.db\"\n");
    let caps = "[coordinator]\nrunning = 6\nrunning_per_host = 2\n";
    let policy = "[policy.default]\nlogs = \"never\"\nrpo = \"2d\"\n";
    let blocks: String = databases.iter().map(block).collect();
    let ward = Ward::new(&format!("{HEAD}{caps}{policy}{blocks}"));
    for name in &databases {
        fill(&ward.create(&format!("{name}.db")), 4_000);
    }
    let serving = ward.serve();
    let (mut most, mut done) = (0, 0);
    ward.wait_until("all backups", || {
        let jobs = ward.json(&["jobs", "list", "--count", "1000"]);
        let jobs = jobs["jobs"].as_array().unwrap().clone();
        let fulls: Vec<_> = jobs.iter().filter(|job| job["kind"] == "full").collect();
        most = most.max(fulls.iter().filter(|job| job["state"] == "running").count());
        done = fulls.iter().filter(|job| job["outcome"] == "succeeded").count();
        done == databases.len()
    });
    assert!(most <= 2, "{most} ran at once");
    // The spans of jobs say the same, also of what nobody saw.
    let jobs = ward.json(&["jobs", "list", "--count", "1000"])["jobs"].clone();
    let text = |job: &serde_json::Value, key: &str| job[key].as_str().unwrap().to_owned();
    let jobs = jobs.as_array().unwrap().iter().filter(|job| job["kind"] == "full");
    let spans: Vec<_> = jobs.map(|job| (text(job, "started_at"), text(job, "ended_at"))).collect();
    let beside = |(from, to): &(String, String)| {
        spans.iter().filter(|other| other.0 <= *from && *from < other.1 && *from < *to).count()
    };
    assert!(spans.iter().map(beside).max().unwrap() <= 2, "{spans:?}");
    assert_eq!(serving.stop(), 143);
}

#[test]
fn a_repository_that_was_there_and_is_gone_is_not_made_anew() {
    let database = "[database.app]\nendpoint = \"sqlite:app.db\"\n";
    let ward = Ward::new(&format!("{HEAD}{database}"));
    ward.create("app.db");
    let serving = ward.serve();
    ward.wait_for_backups("app", 1);
    serving.stop();
    fs::rename(ward.path("repo"), ward.path("elsewhere")).unwrap();
    let serving = ward.serve();
    assert_eq!(serving.wait(), 6, "{}", ward.said());
    assert!(!ward.path("repo").exists(), "an empty mount point must not be filled");
    let status = ward.status("app");
    assert_eq!(status["rpo"], "unknown");
    assert!(status["problem"].as_str().unwrap().starts_with("SP"), "{status}");
    assert_eq!(ward.run(&["status", "--fail"]).0, 7);
    fs::rename(ward.path("elsewhere"), ward.path("repo")).unwrap();
    assert_eq!(ward.status("app")["rpo"], "ok");
}

#[test]
fn a_paused_database_is_left_alone_and_its_log_is_not() {
    let database = "[database.app]\nendpoint = \"sqlite:app.db\"\n";
    let ward = Ward::new(&format!("{HEAD}{database}"));
    let application = ward.create("app.db");
    // Even its first backup, which is due at once, waits.
    ward.ok(&["db", "pause", "app", "--reason", "a test"]);
    let serving = ward.serve();
    ward.wait_until("the upkeep", || ward.said().contains("upkeep"));
    sleep(Duration::from_secs(5));
    assert_eq!(ward.status("app")["paused"], true);
    assert!(ward.jobs("app").is_empty(), "nothing may be begun");
    ward.ok(&["db", "resume", "app"]);
    ward.wait_for_backups("app", 1);
    ward.wait_until("a capture", || ward.said().contains("capture.started"));
    ward.ok(&["db", "pause", "app", "--until", "2099-01-01"]);
    assert!(ward.status("app")["paused_until"].is_string());
    application.execute("INSERT INTO t DEFAULT VALUES", []).unwrap();
    sleep(Duration::from_secs(3));
    assert_eq!(ward.restored_rows("app"), 2);
    serving.stop();
}
