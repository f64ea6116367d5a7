//! The other side: a script that takes what is ready, and says so.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::serving::ward::Ward;

/// The folder that both sides see.
pub(super) const OUTBOX: &str = "[repository.onprem]\nkind = \"handoff\"\npath = \"outbox\"\n";

/// What is handed over.
pub(super) const TAPE: &str = "[[policy.default.copy]]\nname = \"tape\"\nto = \"onprem\"\n\
                               class = [\"full\"]\n";

/// All that a backup tool does.
const SCRIPT: &str = r#"
for ready in "$1"/*/*/.ready; do
    point=$(dirname "$ready")
    if [ ! -e "$ready" ] || [ -e "$point/.ack" ]; then continue; fi
    to="$2/${point#"$1"/}"
    mkdir -p "$to" && cp "$point"/* "$to"/ || exit 1
    (cd "$to" && sha256sum --check --quiet SHA256SUMS) || exit 1
    touch "$point/.ack"
done
"#;

/// Lets the script take what is ready.
pub(super) fn take(outbox: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let mut shell = Command::new("sh");
    let shell = shell.args(["-c", SCRIPT, "sh"]).args([outbox, to]);
    assert!(shell.status().unwrap().success());
}

/// Folders of points below a folder, in order.
pub(super) fn points(of: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for database in fs::read_dir(of).into_iter().flatten() {
        for point in fs::read_dir(database.unwrap().path()).into_iter().flatten() {
            let point = point.unwrap();
            if !point.file_name().to_str().unwrap().starts_with('.') {
                found.push(point.path());
            }
        }
    }
    found.sort();
    found
}

/// Every file and folder below a folder, in order.
pub(super) fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(walk(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}

pub(super) fn manifest(point: &Path) -> Value {
    serde_json::from_slice(&fs::read(point.join("manifest.json")).unwrap()).unwrap()
}

/// The backup that a point was made of.
pub(super) fn backup(point: &Path) -> String {
    manifest(point)["backup"].as_str().unwrap().to_owned()
}

pub(super) fn make_outbox(ward: &Ward) -> PathBuf {
    let outbox = ward.path("outbox");
    fs::create_dir(&outbox).unwrap();
    outbox
}
