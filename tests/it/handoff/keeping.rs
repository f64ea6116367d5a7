//! What stays in the folder, until when, and how much of it.

use std::{fs, process::Command};

use super::consumer::{OUTBOX, TAPE, backup, make_outbox, points, walk};
use crate::copies::yard::{copy, grow, prove, rows_in, yard};

/// Row 51: what was handed over stays until somebody acknowledges it, and the newest stays then as
/// well. What is gone is not handed over again.
#[test]
fn row_51_what_was_acknowledged_goes_and_does_not_come_back() {
    let keep = "keep = { last = 1, until_ack = true }\n";
    let (ward, application) = yard(OUTBOX, "", &format!("{TAPE}{keep}"));
    let outbox = make_outbox(&ward);
    let held = || points(&outbox).iter().map(|point| backup(point)).collect::<Vec<_>>();
    let next = || {
        application.execute("INSERT INTO t DEFAULT VALUES", []).unwrap();
        let made = prove(&ward, &["--full"]);
        let ran = copy(&ward);
        assert_eq!(ran["backups"], serde_json::json!([made]), "{ran}");
        made
    };
    let (first, second, third) = (next(), next(), next());
    assert_eq!(held(), [&*first, &second, &third], "nobody has them yet");

    let place = |made: &str| points(&outbox).into_iter().find(|point| backup(point) == made);
    fs::write(place(&second).unwrap().join(".ack"), "").unwrap();
    let ran = copy(&ward);
    assert_eq!(ran["expired"], serde_json::json!([second]), "{ran}");
    assert_eq!(held(), [&*first, &third]);
    let again = copy(&ward);
    assert_eq!((&again["backups"], &again["lacking_backups"]), (&ran["backups"], &0.into()));

    for made in [&first, &third] {
        fs::write(place(made).unwrap().join(".ack"), "").unwrap();
    }
    assert_eq!(copy(&ward)["expired"], serde_json::json!([first]));
    assert_eq!(held(), [&*third], "the newest stays");
    assert_eq!(copy(&ward)["expired"], serde_json::json!([]));
}

/// Row 19: what does not fit is refused whole, and told; what somebody took makes room.
#[test]
fn row_19_a_quota_is_never_exceeded_and_nothing_is_left_half() {
    let places = format!("{OUTBOX}quota = \"1300KiB\"\n");
    let keep = "keep = { last = 1, until_ack = true }\n";
    let (ward, application) = yard(&places, "", &format!("{TAPE}{keep}"));
    let outbox = make_outbox(&ward);
    grow(&application, 500);
    let first = prove(&ward, &["--full"]);
    copy(&ward);
    application.execute("INSERT INTO t DEFAULT VALUES", []).unwrap();
    let second = prove(&ward, &["--full"]);
    copy(&ward);
    let before = walk(&outbox);
    application.execute("INSERT INTO t DEFAULT VALUES", []).unwrap();
    let third = prove(&ward, &["--full"]);
    let (status, told) = ward.run(&["copy", "run"]);
    assert_ne!(status, 0, "{told}");
    assert!(told.contains("SP0615") && told.contains("quota"), "{told}");
    assert_eq!(walk(&outbox), before, "nothing was left of it");
    assert_eq!(ward.json(&["copy", "list"])["copies"][0]["lacking_backups"], 1);

    let ready = points(&outbox);
    assert_eq!(backup(&ready[0]), first);
    fs::write(ready[0].join(".ack"), "").unwrap();
    assert_eq!(copy(&ward)["backups"], serde_json::json!([third]));
    let ready = points(&outbox);
    assert_eq!(ready.iter().map(|point| backup(point)).collect::<Vec<_>>(), [second, third]);
    assert_eq!(rows_in(&ready[1].join("database.sqlite"), "big"), 500);
}

/// Row 51: what lies there under a name of ours, and is not ours, is neither used nor removed.
#[test]
fn row_51_what_is_not_ours_is_left_alone() {
    let (ward, _application) = yard(OUTBOX, "", &format!("{TAPE}keep = {{ last = 1 }}\n"));
    let outbox = make_outbox(&ward);
    prove(&ward, &["--full"]);
    copy(&ward);
    let folder = points(&outbox)[0].parent().unwrap().to_owned();
    let foreign = folder.join("20200101T000000Z-01JD0000000000000000000000");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join(".ready"), "").unwrap();
    fs::write(foreign.join("manifest.json"), "{}").unwrap();
    fs::create_dir(folder.join(".notes.publishing")).unwrap();
    let (status, told) = ward.run(&["copy", "run"]);
    assert_eq!(status, 5, "{told}");
    assert!(told.contains("move the folder away"), "{told}");
    assert!(foreign.join("manifest.json").exists() && folder.join(".notes.publishing").exists());
    fs::remove_dir_all(&foreign).unwrap();
    copy(&ward);
    assert!(folder.join(".notes.publishing").exists());
}

/// Whether system calls can be looked at. Where `CI` is set, nothing is skipped.
fn has_strace() -> bool {
    let version = match Command::new("strace").arg("-V").output() {
        Ok(version) => version,
        Err(missing) => {
            assert!(std::env::var_os("CI").is_none(), "strace: {missing}");
            #[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
            {
                eprintln!("SKIPPED: strace is missing: apt-get install strace");
            }
            return false;
        }
    };
    assert!(version.status.success(), "{version:?}");
    true
}

/// Row 18: a shared drive needs neither locks nor hard links nor notices of changes.
#[test]
fn row_18_nothing_is_locked_linked_or_watched_there() {
    if !has_strace() {
        return;
    }
    let keep = "keep = { last = 1 }\n";
    let (ward, application) = yard(OUTBOX, "", &format!("{TAPE}{keep}"));
    let outbox = make_outbox(&ward);
    for _ in 0..2 {
        application.execute("INSERT INTO t DEFAULT VALUES", []).unwrap();
        prove(&ward, &["--full"]);
        let own = ward.command(&["copy", "run"]);
        let mut command = Command::new("strace");
        let calls = "trace=inotify_add_watch,fanotify_mark,flock,fcntl,link,linkat,rename,renameat";
        command.args(["-f", "-y", "-o", "calls", "-e", calls]).arg(own.get_program());
        command.args(own.get_args()).current_dir(ward.path(".")).env_clear();
        command.envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = command.output().unwrap();
        let told = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success(), "{told}");
        let calls = fs::read_to_string(ward.path("calls")).unwrap();
        let there: Vec<_> = calls.lines().filter(|line| line.contains("outbox/")).collect();
        assert!(there.iter().any(|line| line.contains("rename")), "it was seen: {calls}");
        let is_bad = |line: &&&str| {
            let words = ["inotify", "fanotify", "flock(", "link(", "linkat(", "F_SETLK", "F_OFD"];
            words.iter().any(|word| line.contains(word))
        };
        assert_eq!(there.iter().find(is_bad), None);
    }
    assert_eq!(points(&outbox).len(), 1, "the older one is not kept");
}
