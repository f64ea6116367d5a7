//! A folder with a database, a repository, and copies of it, as a configuration names them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rusqlite::Connection;
use serde_json::Value;

use crate::serving::ward::{HEAD, Ward};

/// The repositories that copies go to, beside `repo`.
pub(crate) const PLACES: &str = "[repository.dr]\nurl = \"dr\"\n";

/// The copy of everything.
pub(crate) const DR: &str = "[[policy.default.copy]]\nname = \"dr\"\nto = \"dr\"\n";

/// The database.
const DATABASE: &str = "[database.app]\nendpoint = \"sqlite:app.db\"\n";

/// A folder with an empty repository without encryption, and a database `app` in `app.db`.
pub(crate) fn yard(places: &str, policy: &str, copies: &str) -> (Ward, Connection) {
    let policy = format!("[policy.default]\nlogs = \"never\"\nrpo = \"2d\"\nfloor = 1\n{policy}\n");
    let ward = Ward::new(&format!("{HEAD}{places}{policy}{copies}{DATABASE}"));
    ward.ok(&["init", "--no-encryption", "--repo", "repo"]);
    let application = ward.create("app.db");
    (ward, application)
}

/// Adds rows of noise.
pub(crate) fn grow(application: &Connection, rows: u32) {
    let grow = format!(
        "CREATE TABLE IF NOT EXISTS big (noise BLOB);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         INSERT INTO big SELECT randomblob(1000) FROM n"
    );
    application.execute_batch(&grow).unwrap();
}

/// Backs up without proving it. Returns the id.
pub(crate) fn back_up(ward: &Ward, more: &[&str]) -> String {
    let words = ["backup", "sqlite:app.db", "--name", "app", "--repo", "repo"];
    let made = ward.json(&[&words[..], more].concat());
    made["backup"]["id"].as_str().unwrap().to_owned()
}

/// Backs up, and proves it.
pub(crate) fn prove(ward: &Ward, more: &[&str]) -> String {
    let backup = back_up(ward, more);
    ward.ok(&["verify", &backup, "--repo", "repo"]);
    backup
}

/// The backups in a place.
pub(crate) fn listed(ward: &Ward, place: &str) -> Vec<String> {
    let list = ward.json(&["list", "app", "--repo", place]);
    let backups = list["backups"].as_array().unwrap().iter();
    backups.map(|backup| backup["id"].as_str().unwrap().to_owned()).collect()
}

/// What `copy run` says of the only copy.
pub(crate) fn copy(ward: &Ward) -> Value {
    ward.json(&["copy", "run"])["copies"][0].clone()
}

/// Rows of a restored database, which is checked.
pub(crate) fn rows_in(path: &Path, table: &str) -> i64 {
    let restored = Connection::open(path).unwrap();
    let check: String = restored.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
    assert_eq!(check, "ok");
    restored.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

/// The packs in a place.
pub(crate) fn packs(ward: &Ward, place: &str) -> Vec<PathBuf> {
    let mut packs = Vec::new();
    let folders = fs::read_dir(ward.path(place).join("packs")).into_iter().flatten();
    for folder in folders {
        let files = fs::read_dir(folder.unwrap().path()).unwrap();
        packs.extend(files.map(|file| file.unwrap().path()));
    }
    packs.sort();
    packs
}

/// Flips a byte in the middle of a file.
pub(crate) fn damage(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    replace(path, &bytes);
}

/// Puts other bytes into a file that is kept from being written to.
pub(crate) fn replace(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Runs the program without a configuration; returns its exit status and what it said.
pub(crate) fn alone(ward: &Ward, words: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stillpoint"));
    command.args(words).current_dir(ward.path(".")).env_clear().stdin(Stdio::null());
    let output = command.env("XDG_STATE_HOME", ward.path("state")).output().unwrap();
    let told = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8(told).unwrap())
}
