//! Files that an application leaves in a folder, and what is never taken for one.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
};

use rusqlite::Connection;
use serde_json::Value;

use super::consumer::walk;
use crate::{
    copies::yard::{listed, rows_in},
    serving::ward::{HEAD, Ward},
};

/// A folder in which dumps are left, and nothing else to reach the database by.
fn ward(more: &str) -> Ward {
    let ward = Ward::new(&format!(
        "{HEAD}[policy.default]\nlogs = \"never\"\nrpo = \"2d\"\nfloor = 1\n{more}\
         [database.app]\nendpoint = \"pickup:drop\"\n"
    ));
    ward.ok(&["init", "--no-encryption", "--repo", "repo"]);
    fs::create_dir(ward.path("drop")).unwrap();
    ward
}

/// A dump of a database with so many rows, as bytes.
fn dump(ward: &Ward, rows: u32) -> Vec<u8> {
    let path = ward.path("dump.db");
    drop(fs::remove_file(&path));
    let application = Connection::open(&path).unwrap();
    let fill = format!(
        "CREATE TABLE t (a); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE \
         i < {rows}) INSERT INTO t SELECT randomblob(500) FROM n"
    );
    application.execute_batch(&fill).unwrap();
    drop(application);
    fs::read(&path).unwrap()
}

fn pick_up(ward: &Ward) -> (i32, Vec<Value>) {
    let output = ward.command(&["pickup", "run", "-o", "json"]).output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let files = answer["databases"][0]["files"].as_array().cloned().unwrap_or_default();
    (output.status.code().unwrap_or(-1), files)
}

fn restored(ward: &Ward, to: &str) -> i64 {
    let to = ward.path(to);
    ward.ok(&["restore", "app", "--repo", "repo", "--to", to.to_str().unwrap()]);
    rows_in(&to, "t")
}

fn sha256(path: &Path) -> String {
    let output = std::process::Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Row 16: a file with its marker becomes a backup of the database that its folder is for, is
/// restored equal, and stays where it is; the application is told. Another file is the next one.
#[test]
fn row_16_a_dump_and_its_marker_become_a_backup() {
    let ward = ward("");
    let drop_folder = ward.path("drop");
    let bytes = dump(&ward, 300);
    fs::write(drop_folder.join("monday.db"), &bytes).unwrap();
    assert_eq!(pick_up(&ward), (0, Vec::new()), "it has no marker");
    let sum = sha256(&drop_folder.join("monday.db"));
    fs::write(drop_folder.join("monday.db.ready"), sum).unwrap();
    let (status, files) = pick_up(&ward);
    assert_eq!((status, files.len()), (0, 1), "{files:?}");
    let backup = files[0]["backup"].as_str().unwrap().to_owned();
    assert_eq!(listed(&ward, "repo"), [&*backup]);
    let done = fs::read_to_string(drop_folder.join("monday.db.done")).unwrap();
    assert_eq!(done.trim(), backup);
    assert_eq!(fs::read(drop_folder.join("monday.db")).unwrap(), bytes, "it is left alone");
    assert_eq!(restored(&ward, "back.db"), 300);
    assert_eq!(pick_up(&ward), (0, Vec::new()), "it was taken");
    fs::remove_file(drop_folder.join("monday.db.done")).unwrap();
    assert_eq!(pick_up(&ward).1[0]["backup"], backup, "once is enough, whatever was killed");
    fs::write(drop_folder.join("tuesday.db"), dump(&ward, 400)).unwrap();
    File::create(drop_folder.join("tuesday.db.ready")).unwrap();
    assert_eq!(pick_up(&ward).1.len(), 1);
    assert_eq!(listed(&ward, "repo").len(), 2);
    assert_eq!(restored(&ward, "newer.db"), 400);
    let proven = ward.json(&["explain", "retention", "app"]).to_string();
    assert!(proven.contains("verified") && !proven.contains("unverified"), "{proven}");
}

/// Row 16: what is half-written is never taken, whatever its marker says; once it is whole, it is.
#[test]
fn row_16_48_what_is_half_written_is_never_taken() {
    let ward = ward("");
    let folder = ward.path("drop");
    let bytes = dump(&ward, 300);
    let (file, marker) = (folder.join("app.db"), folder.join("app.db.ready"));
    let refused = |why: &str| {
        let (status, files) = pick_up(&ward);
        let problem = files.first().map(|file| file["problem"].to_string()).unwrap_or_default();
        assert!(status == 5 && problem.contains(why), "{status} {files:?}");
        assert_eq!(files[0]["backup"], Value::Null);
        assert!(!folder.join("app.db.done").exists());
    };
    // A marker that came too early, by a program that is wrong.
    for length in [bytes.len() - 4096, 0] {
        fs::write(&file, &bytes[..length]).unwrap();
        fs::write(&marker, "").unwrap();
        refused("complete database");
    }
    // Bytes that are not those of which the marker speaks.
    fs::write(&file, &bytes).unwrap();
    fs::write(&marker, "0".repeat(64)).unwrap();
    refused("as it was left");
    // One that is open elsewhere.
    fs::write(&marker, "").unwrap();
    fs::write(folder.join("app.db-wal"), "frames").unwrap();
    refused("complete database");
    fs::remove_file(folder.join("app.db-wal")).unwrap();
    // Written to after its marker: it is not looked at.
    File::options().append(true).open(&file).unwrap().write_all(&[0]).unwrap();
    assert_eq!(pick_up(&ward), (0, Vec::new()));
    // No database at all.
    fs::write(&file, "dump").unwrap();
    fs::write(&marker, "").unwrap();
    refused("complete database");
    let stored = walk(&ward.path("repo").join("snap"));
    assert!(stored.iter().all(|path| path.is_dir()), "{stored:?}");

    fs::write(&file, &bytes).unwrap();
    fs::write(&marker, "").unwrap();
    assert_eq!(pick_up(&ward).0, 0);
    assert_eq!(restored(&ward, "back.db"), 300);
}

/// Row 16: a file that grows while it is looked at is not taken.
#[test]
fn row_16_a_file_that_does_not_stand_still_waits() {
    let ward = ward("");
    let folder = ward.path("drop");
    let bytes = dump(&ward, 300);
    let (file, marker) = (folder.join("app.db"), folder.join("app.db.ready"));
    fs::write(&file, &bytes).unwrap();
    fs::write(&marker, "").unwrap();
    let mut command = ward.command(&["pickup", "run", "-o", "json"]);
    let mut running = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut tries = 0;
    // Each time it is written anew, its marker comes again.
    while running.try_wait().unwrap().is_none() {
        fs::write(&file, &bytes).unwrap();
        fs::write(&marker, "").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        tries += 1;
    }
    assert!(tries > 0, "it was written to all the time");
    let mut told = String::new();
    std::io::Read::read_to_string(&mut running.stdout.take().unwrap(), &mut told).unwrap();
    assert!(!folder.join("app.db.done").exists(), "{told}");
    assert_eq!(pick_up(&ward).0, 0);
}

/// Row 16: a coordinator takes what is left, by the calendar of its policy.
#[test]
fn row_16_a_job_takes_what_was_left() {
    let ward = ward("");
    let folder = ward.path("drop");
    fs::write(folder.join("app.db"), dump(&ward, 20)).unwrap();
    fs::write(folder.join("app.db.ready"), "").unwrap();
    let serving = ward.serve();
    ward.wait_until("a file that was taken", || folder.join("app.db.done").exists());
    ward.wait_for_backups("app", 1);
    assert_eq!(serving.stop(), 143);
    assert_eq!(restored(&ward, "back.db"), 20);
}
