//! An agent and whoever serves, on databases of SQLite.

use std::{fs, os::unix::fs::PermissionsExt as _};

use rusqlite::Connection;
use serde_json::Value;

use crate::serving::ward::{HEAD, Serving, Ward, listening, rows};

/// Only an agent knows it, so that nobody else can read or write the repository.
const KEY: (&str, &str) = ("ONLY_THE_AGENT", "correct horse battery staple");

const REPOSITORY: &str = "version = 1\ntimezone = \"Europe/Berlin\"\n\
    [repository.primary]\nurl = \"repo\"\n\
    encryption = { passphrase = { env = \"ONLY_THE_AGENT\" } }\n";

const DATABASE: &str = "[database.app]\nendpoint = \"sqlite:app.db\"\nagent = \"db-7\"\n";

fn agent(ward: &Ward) -> Serving {
    ward.start(&["agent", "--name", "db-7"], &[KEY])
}

/// How many rows the newest state has, restored by somebody who has the key.
fn restored(ward: &Ward) -> i64 {
    let target = ward.path("restored.db");
    drop(fs::remove_file(&target));
    fs::write(ward.path("passphrase"), KEY.1).unwrap();
    let to = target.to_str().unwrap();
    let key = ["--passphrase-file", "passphrase"];
    ward.ok(&[&["restore", "app", "--repo", "repo", "--to", to], &key[..]].concat());
    rows(&Connection::open(&target).unwrap())
}

/// Row 3: the agent brings backups and log to the repository, to which whoever serves has no way;
/// what is due, and whether promises are kept, is decided by what the agent says. Row 5: it dials
/// out only.
#[test]
fn row_3_whoever_serves_has_no_way_to_the_repository() {
    let policy = "[policy.default]\nrpo = \"10m\"\nincremental = \"@daily\"\n";
    let ward = Ward::new(&format!("{REPOSITORY}{policy}{DATABASE}"));
    let application = ward.create("app.db");
    // An agent decides nothing: neither where the state is, nor what holds.
    let (status, told) = ward.run(&["agent", "--name", "db-7"]);
    assert!(status == 6 && told.contains("could not find the state database"), "{status}: {told}");
    ward.ok(&["jobs", "list"]);
    let (status, told) = ward.run(&["agent", "--name", "db-7"]);
    assert!(status == 6 && told.contains("stillpoint serve"), "{status}: {told}");
    let serving = ward.serve();
    ward.wait_until("whoever serves", || ward.said().contains("serve.started"));
    let alone = ward.status("app");
    assert_eq!((&alone["rpo"], &alone["agent"]), (&"unknown".into(), &"db-7".into()));
    assert!(alone["trouble"].as_str().unwrap().contains("never heard of"), "{alone}");

    let other = ward.start(&["agent", "--name", "db-8"], &[KEY]);
    let agent = agent(&ward);
    ward.wait_for_backups("app", 1);
    ward.wait_until("a capture", || ward.said().contains("capture.started"));
    let before = ward.status("app")["restorable_to"].clone();
    application.execute("INSERT INTO t DEFAULT VALUES", []).unwrap();
    ward.wait_until("news of the log", || {
        let status = ward.status("app");
        status["restorable_to"].as_str() > before.as_str() && status["rpo"] == "ok"
    });
    ward.wait_until("a row that was captured", || restored(&ward) == rows(&application));
    let jobs = ward.jobs("app");
    assert!(jobs.iter().all(|job| job["agent"] == "db-7" && job["host"] == "db-7"), "{jobs:#?}");
    let fulls = jobs.iter().filter(|job| job["kind"] == "full").count();
    assert_eq!(fulls, 1, "{jobs:#?}");
    assert_eq!(listening(agent.pid()) + listening(serving.pid()), 0);
    let secret = fs::read_to_string(format!("/proc/{}/environ", serving.pid())).unwrap();
    assert!(!secret.contains(KEY.0), "whoever serves was not to know it");
    assert_eq!((agent.stop(), other.stop(), serving.stop()), (143, 143, 143));
    ward.ok(&["audit", "verify"]);
}

/// An agent that is gone is told of once, when the promise is broken, and once more when it is
/// back. What it had begun is done again, once.
#[test]
fn an_agent_that_is_missed_is_the_cause_of_one_page() {
    let ward = Ward::new("");
    let (pager, notices) = (ward.path("pager"), ward.path("notices"));
    let program = format!("#!/bin/sh\ncat >> {0}\necho >> {0}\n", notices.display());
    fs::write(&pager, program).unwrap();
    fs::set_permissions(&pager, fs::Permissions::from_mode(0o755)).unwrap();
    let alert = format!(
        "[[alert]]\nname = \"x\"\nwhen = [\"rpo-breached\"]\nto = [{{ exec = [\"{}\"] }}]\n",
        pager.display()
    );
    let policy = "[policy.default]\nrpo = \"45s\"\nincremental = \"@daily\"\n";
    // This repository is within reach of both.
    ward.configure(&format!("{HEAD}{policy}{DATABASE}{alert}"));
    drop(ward.create("app.db"));
    let told = || {
        let text = fs::read_to_string(&notices).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    let _serving = ward.serve();
    ward.wait_until("a configuration that holds", || ward.said().contains("serve.started"));
    let first = agent(&ward);
    ward.wait_for_backups("app", 1);
    ward.wait_until("a capture", || ward.said().contains("capture.started"));
    first.kill();
    ward.wait_until("a page", || !told().is_empty());
    let page = told().remove(0);
    assert_eq!((&page["kind"], &page["urgency"]), (&"raised".into(), &"page".into()));
    assert!(page["cause"].as_str().is_some_and(|cause| cause.contains("agent db-7")), "{page}");
    let _second = agent(&ward);
    ward.wait_until("the end of it", || told().len() > 1);
    let told = told();
    assert_eq!((told.len(), &told[1]["kind"]), (2, &"resolved".into()), "{told:#?}");
    let made = ward.jobs("app").into_iter().filter(|job| job["outcome"] == "succeeded");
    let dues: Vec<_> = made.map(|job| (job["kind"].clone(), job["due"].clone())).collect();
    assert!(dues.iter().all(|due| dues.iter().filter(|one| *one == due).count() == 1), "{dues:?}");
}
