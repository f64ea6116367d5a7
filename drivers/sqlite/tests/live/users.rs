//! Databases of other users: what we may do to them, and what must never stay behind.

use std::{
    env, fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
};

use rusqlite::Connection;
use stillpoint_contract::{Engine, ErrorKind, code};
use tempfile::TempDir;

use crate::doubles::{application, back_up, connect, endpoint, engine};

/// A user and group that own nothing here.
const STRANGER: u32 = 65_534;

/// This test is the main function of a process under another user: it connects, and prints what
/// came of it.
#[tokio::test]
async fn another_user() {
    let Some(path) = env::var_os("STILLPOINT_TEST_USER") else { return };
    println!("{}", attempt(Path::new(&path)).await);
}

async fn attempt(path: &Path) -> String {
    match engine().connect(&endpoint(path)).await {
        Ok(driver) => back_up(driver.as_ref(), None).await.unwrap().evidence.method,
        Err(error) => format!("refused {:?} {} {:?}", error.kind(), error.code(), error.advice()),
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A directory that anybody may write, with a database of this process's user that nobody uses.
fn public(journal: &str) -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    set_mode(directory.path(), 0o777);
    let path = directory.path().join("app ü%3f.db");
    let db = Connection::open(&path).unwrap();
    db.execute_batch(&format!("PRAGMA journal_mode={journal}; CREATE TABLE t(a)")).unwrap();
    (directory, path)
}

fn names(directory: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(directory.path()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name != "test").collect();
    names.sort();
    names
}

/// What a stranger meets at `path`. Only root can play one; anybody else is denied their own file
/// by its mode instead.
async fn as_stranger(directory: &TempDir, path: &Path, group: u32) -> String {
    if !is_root() {
        return attempt(path).await;
    }
    // Where the test was built, strangers may not be able to read it.
    let program = directory.path().join("test");
    fs::copy(env::current_exe().unwrap(), &program).unwrap();
    set_mode(&program, 0o755);
    let start = || {
        Command::new(&program)
            .args(["--exact", "users::another_user", "--nocapture"])
            .env("STILLPOINT_TEST_USER", path)
            .current_dir(directory.path())
            .uid(STRANGER)
            .gid(group)
            .output()
    };
    // While another test starts a process, that one has our copy open to be written.
    let busy = |e: &std::io::Error| e.kind() == std::io::ErrorKind::ExecutableFileBusy;
    let mut output = start();
    while output.as_ref().is_err_and(busy) {
        std::thread::sleep(std::time::Duration::from_millis(10));
        output = start();
    }
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_database_that_we_may_not_write_is_refused_and_left_alone() {
    for mode in [0o644, 0o444] {
        let (directory, path) = public("WAL");
        set_mode(&path, if is_root() { mode } else { 0o444 });
        let before = names(&directory);
        let told = as_stranger(&directory, &path, STRANGER).await;
        assert!(told.contains(&format!("refused Denied {}", code::UNSUITABLE_DATABASE)), "{told}");
        assert!(told.contains("grant write permission on"), "{told}");
        assert_eq!(names(&directory), before, "{mode:o}");
        set_mode(&path, 0o644);
        application(&path).execute_batch("INSERT INTO t VALUES (1)").unwrap();
    }
}

#[tokio::test]
async fn a_database_whose_owner_could_not_write_our_files_is_refused_until_it_is_in_use() {
    if !is_root() {
        return;
    }
    let (directory, path) = public("WAL");
    set_mode(&path, 0o646);
    assert!(!as_stranger(&directory, &path, STRANGER).await.contains("refused"));
    set_mode(&path, 0o660);
    chown(&path, None, Some(STRANGER)).unwrap();
    assert!(!as_stranger(&directory, &path, STRANGER).await.contains("refused"));
    // What is made here gets the group of the directory, which is not that of the file.
    set_mode(directory.path(), 0o2777);
    let told = as_stranger(&directory, &path, STRANGER).await;
    assert!(told.contains("refused Denied"), "{told}");
    let db = application(&path);
    db.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    for suffix in ["-wal", "-shm"] {
        let beside = directory.path().join(format!("app ü%3f.db{suffix}"));
        chown(&beside, None, Some(STRANGER)).unwrap();
    }
    assert!(!as_stranger(&directory, &path, STRANGER).await.contains("refused"));
    drop(db);
    assert_eq!(names(&directory), ["app ü%3f.db"]);
}

#[tokio::test]
async fn a_rollback_journal_database_that_we_may_only_read_is_backed_up() {
    let (directory, path) = public("DELETE");
    set_mode(&path, 0o444);
    let told = as_stranger(&directory, &path, STRANGER).await;
    assert!(told.contains("online backup API"), "{told}");
    assert_eq!(names(&directory), ["app ü%3f.db"]);
}

#[tokio::test]
async fn what_root_makes_beside_a_database_belongs_to_the_owner_of_the_database() {
    let (directory, path) = public("WAL");
    if is_root() {
        chown(&path, Some(STRANGER), Some(STRANGER)).unwrap();
    }
    let opened = connect(&path).await.open_log(None).await.unwrap();
    let owner = |path: &Path| fs::metadata(path).map(|m| (m.uid(), m.gid())).unwrap();
    for suffix in ["-wal", "-shm"] {
        let beside = directory.path().join(format!("app ü%3f.db{suffix}"));
        assert_eq!(owner(&beside), owner(&path), "{suffix}");
    }
    drop(opened);
}

#[tokio::test]
async fn a_file_that_is_no_database_and_that_we_may_not_write_is_told_as_such() {
    let (directory, path) = public("WAL");
    fs::write(&path, "not a database at all, just text ".repeat(100)).unwrap();
    set_mode(&path, 0o444);
    let told = as_stranger(&directory, &path, STRANGER).await;
    let refused = format!("refused {:?} {}", ErrorKind::Unsupported, code::NOT_A_DATABASE);
    assert!(told.contains(&refused), "{told}");
}
