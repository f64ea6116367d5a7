//! Whoever has to know is told once, and nobody is told of what is no danger.

use std::{fs, os::unix::fs::PermissionsExt as _, thread::sleep, time::Duration};

use serde_json::Value;

use super::ward::{HEAD, Ward};

/// What the program of an alert was given, one notice in a line.
fn notices(ward: &Ward) -> Vec<Value> {
    let text = fs::read_to_string(ward.path("notices")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ward() -> Ward {
    let here = "here";
    let ward = Ward::new("");
    let program = ward.path("pager");
    let notices = ward.path("notices").display().to_string();
    fs::write(&program, format!("#!/bin/sh\ncat >> {notices}\necho >> {notices}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let alert = format!(
        "[[alert]]\nname = \"{here}\"\nwhen = [\"rpo-breached\"]\nto = [{{ exec = [\"{}\"] }}]\n",
        program.display()
    );
    let policy = "[policy.default]\nrpo = \"15s\"\nincremental = \"@daily\"\n";
    let database = "[database.app]\nendpoint = \"sqlite:app.db\"\n";
    ward.configure(&format!("{HEAD}{policy}{database}{alert}"));
    ward
}

/// Row 9b: a database that silently stops being backed up pages exactly once, with its cause, and
/// once more when it is over; also over a restart.
#[test]
fn row_9b_the_only_endpoint_is_lost_and_somebody_is_told_once() {
    let ward = ward();
    drop(ward.create("app.db"));
    let serving = ward.serve();
    ward.wait_for_backups("app", 1);
    ward.wait_until("a capture", || ward.said().contains("capture.started"));
    // At rest, it keeps its promise: nothing new is nothing lost.
    sleep(Duration::from_secs(25));
    assert_eq!(notices(&ward), Vec::<Value>::new(), "{}", ward.said());

    let files = ["app.db", "app.db-wal", "app.db-shm"];
    for file in files {
        drop(fs::rename(ward.path(file), ward.path(&format!("gone-{file}"))));
    }
    ward.wait_until("a page", || !notices(&ward).is_empty());
    sleep(Duration::from_secs(6));
    serving.kill();
    let serving = ward.serve();
    sleep(Duration::from_secs(40));
    let told = notices(&ward);
    assert_eq!(told.len(), 1, "{told:#?}\n{}", ward.said());
    let page = &told[0];
    assert_eq!((&page["kind"], &page["urgency"]), (&"raised".into(), &"page".into()));
    assert_eq!(page["alerts"][0]["class"], "rpo-breached");
    assert_eq!(page["alerts"][0]["database"], "app");
    assert!(page["cause"].as_str().is_some_and(|cause| cause.contains("log")), "{page}");

    for file in files {
        drop(fs::rename(ward.path(&format!("gone-{file}")), ward.path(file)));
    }
    ward.wait_until("that it is over", || notices(&ward).len() > 1);
    sleep(Duration::from_secs(6));
    let told = notices(&ward);
    assert_eq!(told.len(), 2, "{told:#?}\n{}", ward.said());
    assert_eq!(told[1]["kind"], "resolved");
    serving.stop();
}

/// Does its deed once for each event, by the key that it is given, and notes each call. The first
/// time, whoever called it is killed before it can hear that this was done.
const HOOK: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 1
notice=$(cat)
key=$(printf '%s' "$notice" | sed 's/.*"id":"\([^"]*\)".*/\1/')
echo "$key" >> calls
if mkdir "done-$key"; then printf '%s\n' "$notice" >> notices; fi
if mkdir first; then kill -9 "$PPID"; fi
"#;

/// Row 77: a drill that fails fires a hook, and so does the end of that, each once: whoever serves
/// after one that was killed amid it calls the hook with the same key, and nobody ever after.
#[test]
fn row_77_a_hook_fires_once_for_each_event_whoever_is_killed() {
    let ward = Ward::new("");
    let hook = ward.path("hook");
    fs::write(&hook, HOOK).unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let policy = "[policy.default]\nlogs = \"never\"\nrpo = \"2d\"\n";
    let database = "[database.app]\nendpoint = \"sqlite:app.db\"\n";
    let alert = format!(
        "[[alert]]\nname = \"hook\"\nwhen = [\"drill-failed\"]\nto = [{{ exec = [\"{}\"] }}]\n",
        hook.display()
    );
    ward.configure(&format!("{HEAD}{policy}{database}{alert}"));
    drop(ward.create("app.db"));
    let drill = |expected: &str, status: i32| {
        let check = ["--check", "SELECT count(*) FROM t", "--expect", expected];
        let words = ["drill", "run", "app", "--no-mount"];
        let (ended, told) = ward.run(&[words, check].concat());
        assert_eq!(ended, status, "{told}");
    };
    let calls = || {
        let text = fs::read_to_string(ward.path("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let serving = ward.serve();
    ward.wait_for_backups("app", 1);
    assert_eq!(serving.stop(), 143);

    drill("99", 12);
    let serving = ward.serve();
    ward.wait_until("the hook", || !calls().is_empty());
    assert_eq!(serving.wait(), -1, "the hook kills it");
    let serving = ward.serve();
    ward.wait_until("another call", || calls().len() == 2);
    sleep(Duration::from_secs(6));
    serving.kill();
    // Once it is known that the one before is gone, somebody looks at what lasts, and is silent.
    let serving = ward.serve();
    sleep(Duration::from_secs(40));
    drill("1", 0);
    ward.wait_until("that it is over", || notices(&ward).len() == 2);
    assert_eq!(serving.stop(), 143);
    drill("99", 12);
    let serving = ward.serve();
    ward.wait_until("the next event", || notices(&ward).len() == 3);
    sleep(Duration::from_secs(6));
    assert_eq!(serving.stop(), 143);

    let (told, called) = (notices(&ward), calls());
    let kinds: Vec<&str> = told.iter().map(|notice| notice["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["raised", "resolved", "raised"], "{told:#?}");
    assert!(told.iter().all(|notice| notice["alerts"][0]["class"] == "drill-failed"), "{told:#?}");
    let keys: Vec<&str> = told.iter().map(|notice| notice["id"].as_str().unwrap()).collect();
    assert_eq!(called, [keys[0], keys[0], keys[1], keys[2]], "{}", ward.said());
    assert!(keys[0] != keys[1] && keys[1] != keys[2] && keys[0] != keys[2], "{keys:?}");
}
