//! Disks that are really full, and places that really cannot be written.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that panics has failed, and says what it tried"
)]

use std::{env, fs, path::PathBuf, process::Command};

use rusqlite::Connection;
use rustix::process::geteuid;

use crate::site::{Site, add, rows};

/// A small file system in memory, unmounted when dropped.
#[derive(Debug)]
struct Disk(PathBuf);

impl Disk {
    /// Mounts one, or says why `test` is skipped.
    fn mount(path: PathBuf, size_kib: u64, test: &str) -> Option<Self> {
        if !geteuid().is_root() {
            println!("skipped: {test}: only root can mount a small disk");
            assert!(env::var_os("CI").is_none(), "{test} needs root");
            return None;
        }
        fs::create_dir(&path).unwrap();
        let disk = Self(path);
        disk.tell(&["-t", "tmpfs", "-o", &format!("size={size_kib}k"), "stillpoint-test"]);
        Some(disk)
    }

    fn remount(&self, option: &str) {
        self.tell(&["-o", &format!("remount,{option}")]);
    }

    fn tell(&self, words: &[&str]) {
        let done = Command::new("mount").args(words).arg(&self.0).status().unwrap();
        assert!(done.success(), "mount {words:?}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let done = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(done.unwrap().success(), "{} stays mounted", self.0.display());
    }
}

fn backups(site: &Site) -> usize {
    site.json(&["list"])["backups"].as_array().unwrap().len()
}

#[test]
fn a_full_repository_refuses_a_backup_and_takes_the_next_one_without_repair() {
    let site = Site::empty();
    let name = "a_full_repository_refuses_a_backup_and_takes_the_next_one_without_repair";
    let Some(disk) = Disk::mount(site.path("repo"), 6 << 10, name) else { return };
    site.ok(&["init"]);
    let application = site.create("app.db", 1_000);
    site.ok(&["backup", "sqlite:app.db"]);
    add(&application, 20_000);
    let path = site.path("repo/packs");
    for _ in 0..2 {
        let said = ["SP0302", path.to_str().unwrap(), "full", "next: "];
        site.fails(&["backup", "sqlite:app.db"], 8, &said);
        assert_eq!(backups(&site), 1);
        site.ok(&["verify"]);
        site.ok(&["restore", "app.db", "--to", "first.db", "--force"]);
        assert_eq!(rows(&site.path("first.db")), 1_000);
    }
    disk.remount("size=64m");
    site.ok(&["backup", "sqlite:app.db"]);
    site.ok(&["verify"]);
    site.ok(&["restore", "app.db", "--to", "second.db"]);
    assert_eq!(rows(&site.path("second.db")), 21_000);
    assert_eq!(backups(&site), 2);
}

#[test]
fn a_full_repository_stops_a_capture_and_the_next_one_loses_nothing() {
    let site = Site::empty();
    let name = "a_full_repository_stops_a_capture_and_the_next_one_loses_nothing";
    let Some(disk) = Disk::mount(site.path("repo"), 4 << 10, name) else { return };
    site.ok(&["init"]);
    let application = site.create("app.db", 100);
    // Nobody copies the log back while no capture runs.
    application.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
    site.ok(&["backup", "sqlite:app.db"]);
    add(&application, 10_000);
    let words = ["logs", "stream", "sqlite:app.db", "--stop-at-eof", "--take-over"];
    let status = site.spawn(&words, "capture").end();
    let said = fs::read_to_string(site.path("capture.log")).unwrap();
    assert_eq!(status, 8, "{said}");
    assert!(said.contains("SP0302") && said.contains("repo/"), "{said}");
    disk.remount("size=64m");
    let status = site.spawn(&words, "again").end();
    assert_eq!(status, 0, "{}", fs::read_to_string(site.path("again.log")).unwrap());
    site.ok(&["restore", "app.db", "--to", "latest.db"]);
    assert_eq!(rows(&site.path("latest.db")), 10_100);
    site.ok(&["verify"]);
}

#[test]
fn a_full_target_disk_leaves_no_target_and_nothing_else() {
    let site = Site::new();
    let name = "a_full_target_disk_leaves_no_target_and_nothing_else";
    let Some(disk) = Disk::mount(site.path("small"), 4 << 10, name) else { return };
    drop(site.create("app.db", 10_000));
    site.ok(&["backup", "sqlite:app.db"]);
    let words = ["restore", "app.db", "--to", "small/app.db"];
    let path = site.path("small");
    site.fails(&words, 8, &["SP0304", "small/", "next: "]);
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    // What stood there stays.
    fs::write(path.join("app.db"), "precious").unwrap();
    site.fails(&[&words[..], &["--force"]].concat(), 8, &["SP0304"]);
    assert_eq!(fs::read(path.join("app.db")).unwrap(), b"precious");
    assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
    disk.remount("size=64m");
    site.ok(&[&words[..], &["--force"]].concat());
    assert_eq!(rows(&path.join("app.db")), 10_000);
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let site = Site::empty();
    let name = "a_place_that_cannot_be_written_is_named";
    let Some(repo) = Disk::mount(site.path("repo"), 8 << 10, name) else { return };
    let Some(target) = Disk::mount(site.path("target"), 8 << 10, name) else { return };
    site.ok(&["init"]);
    drop(site.create("app.db", 100));
    site.ok(&["backup", "sqlite:app.db"]);
    target.remount("ro");
    let words = ["restore", "app.db", "--to", "target/app.db"];
    site.fails(&words, 4, &["SP0303", "target/", "Read-only", "next: "]);
    site.fails(&["restore", "app.db", "--to", "none/app.db"], 2, &["none/app.db", "mkdir -p"]);

    repo.remount("ro");
    let path = site.path("repo");
    let said = ["SP0301", path.to_str().unwrap(), "read-only", "next: "];
    site.fails(&["backup", "sqlite:app.db"], 4, &said);
    // What is read only can still be read.
    site.ok(&["restore", "app.db", "--to", "back.db"]);
    assert_eq!(rows(&site.path("back.db")), 100);
    repo.remount("rw");
    site.ok(&["backup", "sqlite:app.db"]);
}

#[test]
fn a_scratch_directory_without_room_is_named_with_what_was_needed_and_another_one_serves() {
    let site = Site::new();
    let name =
        "a_scratch_directory_without_room_is_named_with_what_was_needed_and_another_one_serves";
    let Some(disk) = Disk::mount(site.path("small"), 2 << 10, name) else { return };
    let application = Connection::open(site.path("old.db")).unwrap();
    application.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY, v BLOB)").unwrap();
    add(&application, 6_000);
    let missing = site.path("missing");
    for (scratch, status, said) in [
        (&disk.0, 8, ["SP0304", "needed there 6 MiB", "free there 2 MiB", "old.db"]),
        (&missing, 6, ["SP0303", "make a scratch file", "missing", "No such file"]),
    ] {
        let output = site.command(&["backup", "sqlite:old.db"]).env("TMPDIR", scratch).output();
        let output = output.unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{told}");
        let file = format!("file {}", scratch.display());
        let next = "next: TMPDIR=DIRECTORY stillpoint --key-file key backup sqlite:";
        let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
        for word in said.into_iter().chain([file.as_str(), next]) {
            assert!(told.contains(word), "{word}\n{told}");
        }
        assert_eq!(backups(&site), 0);
    }
    let room = site.command(&["backup", "sqlite:old.db"]).env("TMPDIR", site.path("")).output();
    assert!(room.unwrap().status.success());
    assert_eq!(backups(&site), 1);
}
