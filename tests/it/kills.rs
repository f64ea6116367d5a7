//! Restores and backups that are killed at any moment, and what is there afterwards.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use stillpoint::repository::store::Dice;

use crate::site::{Site, add, rows, seed, setting};

const ROWS: u32 = 6_000;

/// How often the program is killed in each test; `STILLPOINT_KILLS` says otherwise.
fn kills() -> u64 {
    setting("STILLPOINT_KILLS", 15)
}

#[expect(clippy::disallowed_methods, reason = "the test measures real time")]
fn now() -> Instant {
    Instant::now()
}

/// How long something takes that nobody kills.
fn measure(work: impl FnOnce()) -> Duration {
    let start = now();
    work();
    start.elapsed()
}

/// Runs the program and kills it somewhere in the time that it needs; `true` if it lived.
fn kill_within(site: &Site, words: &[&str], takes: Duration, dice: &Dice) -> bool {
    let mut running = site.spawn(words, "killed");
    sleep(Duration::from_micros(dice.below(takes.as_micros() as usize) as u64));
    if let Some(status) = running.ended() {
        assert_eq!(status, 0, "{}", fs::read_to_string(site.path("killed.log")).unwrap());
        true
    } else {
        running.kill();
        false
    }
}

fn names(folder: &Path, part: &str) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains(part)).collect()
}

fn remove(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let mut path = path.as_os_str().to_owned();
        path.push(suffix);
        drop(fs::remove_file(path));
    }
}

#[test]
fn a_killed_restore_leaves_the_target_absent_or_complete_and_the_next_one_cleans_up() {
    let (site, dice) = (Site::new(), Dice::new(seed()));
    drop(site.create("app.db", ROWS));
    site.ok(&["backup", "sqlite:app.db"]);
    fs::create_dir(site.path("back")).unwrap();
    let target = site.path("back/app.db");
    let words = ["restore", "app.db", "--to", "back/app.db"];
    let takes = measure(|| drop(site.ok(&words)));
    remove(&target);
    let mut struck = 0;
    for _ in 0..kills() {
        let lived = kill_within(&site, &words, takes, &dice);
        for name in names(&site.path("back"), "restoring") {
            struck += 1;
            let mode = fs::metadata(site.path("back").join(name)).unwrap().mode();
            assert_eq!(mode & 0o777, 0o700, "others can look into an unfinished restore");
        }
        assert!(!lived || target.exists());
        if target.exists() {
            assert_eq!(rows(&target), ROWS);
            remove(&target);
        }
        assert!(names(&site.path("back"), "restoring").len() <= 1, "nobody cleans up");
    }
    println!("{struck} restores left something behind");
    site.ok(&words);
    assert_eq!(rows(&target), ROWS);
    assert_eq!(names(&site.path("back"), "restoring"), [] as [String; 0]);
}

#[test]
fn a_killed_replacement_leaves_the_old_database_or_the_new_one() {
    let (site, dice) = (Site::new(), Dice::new(seed()));
    drop(site.create("app.db", ROWS));
    site.ok(&["backup", "sqlite:app.db"]);
    fs::create_dir(site.path("back")).unwrap();
    let words = ["restore", "app.db", "--to", "back/app.db", "--force"];
    let takes = measure(|| drop(site.ok(&words)));
    let target = site.path("back/app.db");
    for _ in 0..kills() {
        remove(&target);
        drop(site.create("back/app.db", 17));
        kill_within(&site, &words, takes, &dice);
        let aside = names(&site.path("back"), ".replaced-");
        let old = aside.iter().find(|name| name.ends_with("replaced-1"));
        match (target.exists(), old) {
            (true, _) => assert!([17, ROWS].contains(&rows(&target))),
            (false, Some(old)) => assert_eq!(rows(&site.path("back").join(old)), 17),
            (false, None) => panic!("both are gone: {aside:?}"),
        }
        for name in &aside {
            remove(&site.path("back").join(name));
        }
    }
    site.ok(&words);
    assert_eq!(rows(&target), ROWS);
    assert_eq!(names(&site.path("back"), "restoring"), [] as [String; 0]);
}

/// Two restores of one target at once: one does not take the other's work away.
#[test]
fn a_restore_at_work_is_not_cleaned_up() {
    let site = Site::new();
    drop(site.create("app.db", ROWS));
    site.ok(&["backup", "sqlite:app.db"]);
    let words = ["restore", "app.db", "--to", "back.db"];
    let all: Vec<_> = (0..3).map(|_| site.spawn(&words, "restore")).collect();
    let statuses: Vec<i32> = all.into_iter().map(crate::site::Running::end).collect();
    let log = fs::read_to_string(site.path("restore.log")).unwrap();
    assert!(statuses.contains(&0), "{statuses:?} {log}");
    assert!(statuses.iter().all(|status| [0, 5].contains(status)), "{statuses:?} {log}");
    assert_eq!(rows(&site.path("back.db")), ROWS);
    assert_eq!(names(&site.path(""), "restoring"), [] as [String; 0]);
}

#[test]
fn a_killed_backup_is_none_and_stands_in_nobodys_way() {
    let (site, dice) = (Site::new(), Dice::new(seed()));
    let application = site.create("app.db", ROWS);
    let words = ["backup", "sqlite:app.db", "--full"];
    let takes = measure(|| drop(site.ok(&words)));
    let (mut expected, mut killed) = (1, 0);
    for _ in 0..kills() {
        add(&application, 500);
        let lived = kill_within(&site, &words, takes, &dice);
        killed += u32::from(!lived);
        let found = site.json(&["list"])["backups"].as_array().unwrap().len();
        // Whoever is killed after the commit has committed.
        assert!(found == expected + usize::from(lived) || found == expected + 1);
        expected = found;
    }
    println!("{killed} backups were killed, {expected} exist");
    site.ok(&words);
    site.ok(&["verify"]);
    site.ok(&["restore", "app.db", "--to", "back.db"]);
    assert_eq!(rows(&site.path("back.db")), rows(&site.path("app.db")));
}
