//! Mounts of a user who is not root, through `fusermount3`.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    fs::{self, File},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::Path,
    process::{Command, Output, Stdio},
    thread::sleep,
    time::Duration,
};

use crate::{
    mounts::{Mounted, READ_WRITE, can_mount, mounts, packs, site},
    site::{Running, Site, setting},
};

/// A user for each test: commands of one and the same sweep each other's dead mounts.
const USERS: [u32; 4] = [65534, 1, 2, 3];

/// Whether somebody else can mount as well. Where tests must not be skipped, it is a failure.
fn can_others_mount() -> bool {
    if !can_mount() {
        return false;
    }
    let is_there = Path::new("/usr/bin/fusermount3").exists();
    let is_open = fs::metadata("/dev/fuse").unwrap().permissions().mode() & 0o6 == 0o6;
    let has_control = fs::read_to_string("/proc/mounts").unwrap().contains(" fusectl ");
    if is_there && is_open && has_control {
        return true;
    }
    let missing = "fusermount3, a /dev/fuse that everybody may open, and fusectl mounted";
    assert!(std::env::var_os("CI").is_none(), "missing: {missing}");
    #[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
    {
        eprintln!("SKIPPED: missing {missing}");
    }
    false
}

/// Gives everything below a folder to another user.
fn give(folder: &Path, user: u32) {
    chown(folder, Some(user), Some(user)).unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            give(&path, user);
        } else {
            chown(&path, Some(user), Some(user)).unwrap();
        }
    }
}

/// A program, about to be run by whoever owns the site.
fn other(site: &Site, program: &Path) -> Command {
    let user = fs::metadata(site.path(".")).unwrap().uid().to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "--"]).arg(program);
    command.current_dir(site.path(".")).env_clear().stdin(Stdio::null());
    command
}

/// The program under test, about to be run by that user.
fn command(site: &Site, words: &[&str]) -> Command {
    let inner = site.command(words);
    let mut command = other(site, &site.path("stillpoint"));
    command.args(inner.get_args());
    command.envs(inner.get_envs().map(|(name, value)| (name, value.unwrap())));
    command
}

fn ok(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

fn shell(site: &Site, script: &str) -> Output {
    let mut command = other(site, "/bin/sh".as_ref());
    command.args(["-c", script]);
    ok(command)
}

/// A backed up database of that user, with all that there is around it.
fn begin(rows: u32, user: u32) -> Site {
    let site = site(rows);
    // The way to where it was built may not be open to everybody.
    // Not by us: what another test starts meanwhile would have the file open to write, and nobody
    // could run it as long as that has not begun.
    let mut copy = Command::new("cp");
    copy.arg(env!("CARGO_BIN_EXE_stillpoint")).arg(site.path("stillpoint"));
    assert!(copy.status().unwrap().success());
    fs::create_dir(site.path("m")).unwrap();
    give(&site.path("."), user);
    site
}

#[test]
fn a_user_mounts_reads_and_writes_and_nobody_else_ends_it() {
    if !can_others_mount() {
        return;
    }
    let site = begin(2000, USERS[0]);
    ok(command(&site, &["restore", "app.db", "--to", "restored.db"]));
    let restored = fs::read(site.path("restored.db")).unwrap();

    let mut mounted = Mounted::with(&site, command(&site, &["mount", "app.db"]), "m");
    assert!(shell(&site, "cat m/app.db").stdout == restored);
    // It is that user's alone.
    assert!(File::open(mounted.point.join("app.db")).is_err());
    let output = other(&site, "/bin/sh".as_ref()).args(["-c", "echo > m/new"]).output().unwrap();
    assert!(!output.status.success());
    // As the command says how it ends.
    shell(&site, "umount m");
    assert_eq!(mounted.running.take().unwrap().end(), 0);
    assert_eq!(mounts(&site.path(".")), 0);

    let words = [&["mount"], &READ_WRITE[..]].concat();
    let mut mounted = Mounted::with(&site, command(&site, &words), "m");
    let script = "cat m/app.db && printf more >> m/app.db && tail -c 4 m/app.db && echo x > m/new";
    let said = shell(&site, script).stdout;
    assert!(said.len() == restored.len() + 4 && said.ends_with(b"more"));
    mounted.running.take().unwrap().kill();
    assert_eq!(mounts(&site.path("m")), 1);
    // Another one leaves it alone, also root.
    drop(site.ok(&["drill", "list"]));
    assert_eq!(mounts(&site.path("m")), 1);
    give(&site.path("repo"), USERS[0]);
    let output = ok(command(&site, &["drill", "list"]));
    assert!(String::from_utf8(output.stderr).unwrap().contains("unmounted"));
    assert_eq!(mounts(&site.path(".")), 0);
    assert_eq!(fs::read_dir(site.path("scratch")).unwrap().count(), 0);
}

#[test]
fn a_store_that_gives_nothing_proves_nothing_about_a_backup() {
    if !can_others_mount() {
        return;
    }
    let site = begin(3000, USERS[1]);
    // What cannot be read, and is neither missing nor damaged.
    let pack = packs(&site).into_iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    fs::set_permissions(&pack, fs::Permissions::from_mode(0o0)).unwrap();
    let words = ["drill", "run", "app.db", "--scratch", "scratch"];
    let output = command(&site, &words).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains(pack.file_name().unwrap().to_str().unwrap()), "{said}");
    assert_eq!(fs::read_dir(site.path("scratch")).unwrap().count(), 0);
    let output = ok(command(&site, &["drill", "list", "-o", "json"]));
    let drills: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(drills["drills"].as_array().unwrap().len(), 0);
    fs::set_permissions(&pack, fs::Permissions::from_mode(0o400)).unwrap();
    ok(command(&site, &words));
}

/// The same where the kernel's means to free a process that reads its own mount are hidden.
fn without_control(site: &Site, words: &[&str]) -> Command {
    let inner = command(site, words);
    let mut hidden = Command::new("unshare");
    let script = "umount /sys/fs/fuse/connections && exec timeout 60 \"$@\"";
    hidden.args(["-m", "sh", "-c", script, "sh"]).arg(inner.get_program()).args(inner.get_args());
    hidden.current_dir(site.path(".")).env_clear().stdin(Stdio::null());
    hidden.envs(inner.get_envs().map(|(name, value)| (name, value.unwrap())));
    hidden
}

#[test]
fn where_nobody_could_free_a_killed_process_it_mounts_nothing_that_it_reads_itself() {
    if !can_others_mount() {
        return;
    }
    let site = begin(2000, USERS[3]);
    let control = "/sys/fs/fuse/connections";
    let words = ["drill", "run", "app.db", "--scratch", "scratch", "-o", "json"];
    let output = ok(without_control(&site, &words));
    let drill: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(drill["presented"]["mounted"], false, "{drill:#}");
    let why = drill["presented"]["why_not"].as_str().unwrap();
    assert!(why.contains(control), "{why}");

    let words = [&["mount"], &READ_WRITE[..], &["m"]].concat();
    let output = without_control(&site, &words).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains(control) && said.contains("without --read-write"), "{said}");
    assert_eq!(fs::read_dir(site.path("scratch")).unwrap().count(), 0);
}

#[test]
fn a_killed_drill_of_a_user_leaves_nothing_after_the_next_command() {
    if !can_others_mount() {
        return;
    }
    let site = begin(6000, USERS[2]);
    let words = ["drill", "run", "app.db", "--scratch", "scratch"];
    let output = ok(command(&site, &[&words[..], &["-o", "json"]].concat()));
    let drill: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(drill["presented"]["mounted"], true, "{drill:#}");

    let mut struck = 0;
    for number in 0..setting("STILLPOINT_KILLS", 15) {
        let mut drill = command(&site, &words);
        let drill = drill.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let running = Running(drill);
        sleep(Duration::from_millis(20 + number * 12));
        running.kill();
        struck += fs::read_dir(site.path("scratch")).unwrap().count();
        let said = String::from_utf8(ok(command(&site, &["drill", "list"])).stderr).unwrap();
        assert_eq!(mounts(&site.path(".")), 0, "kill {number}\n{said}");
        let left = fs::read_dir(site.path("scratch")).unwrap().count();
        assert_eq!(left, 0, "kill {number}\n{said}");
    }
    assert!(struck > 2, "{struck} kills struck a sandbox");
}
