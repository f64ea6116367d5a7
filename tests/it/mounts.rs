//! Mounted backups: the bytes of a restore, an overlay that behaves as a directory does, and
//! nothing left of it.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::Duration,
};

use rusqlite::Connection;
use serde_json::Value;
use stillpoint::{repository::store::Dice, world::World};
use stillpoint_contract::Entropy as _;

use crate::{
    postgres::{Story, exact, rows as server_rows},
    site::{Running, Site, add, rows, seed, setting},
};

/// How long something may take to be there or gone.
pub(crate) const LOOKS_MAX: u32 = 600;
pub(crate) const PAUSE: Duration = Duration::from_millis(50);

/// Whether backups can be mounted here. Where tests must not be skipped, it is a failure.
pub(crate) fn can_mount() -> bool {
    let device = File::options().read(true).write(true).open("/dev/fuse");
    let is_root = rustix::process::geteuid().is_root();
    if device.is_ok() && is_root {
        return true;
    }
    let missing = "/dev/fuse, and the right to mount";
    assert!(std::env::var_os("CI").is_none(), "missing: {missing}");
    #[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
    {
        eprintln!("SKIPPED: missing {missing}");
    }
    false
}

/// A mounted backup; unmounted by force when this is dropped.
pub(crate) struct Mounted {
    pub(crate) point: PathBuf,
    pub(crate) running: Option<Running>,
    pub(crate) answer: Value,
}

impl Mounted {
    /// Mounts in the background, and waits until it says so.
    pub(crate) fn begin(site: &Site, words: &[&str], point: &str) -> Self {
        Self::with(site, site.command(&[&["mount"], words].concat()), point)
    }

    pub(crate) fn with(site: &Site, mut command: Command, point: &str) -> Self {
        let path = site.path(point);
        fs::create_dir_all(&path).unwrap();
        let said = site.path(&format!("{point}.log"));
        let log = File::create(&said).unwrap();
        command.args([point, "--output", "json"]);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let mut running = Running(command.spawn().unwrap());
        for _ in 0..LOOKS_MAX {
            let text = fs::read_to_string(&said).unwrap();
            if text.ends_with('\n') && text.contains("stillpoint.mount/1") {
                let line = text.lines().find(|line| line.contains("mount/1")).unwrap();
                let answer = serde_json::from_str(line).unwrap();
                return Self { point: path, running: Some(running), answer };
            }
            assert!(running.ended().is_none(), "{text}");
            sleep(PAUSE);
        }
        panic!("it is not mounted");
    }

    pub(crate) fn end(mut self) -> i32 {
        umount(&self.point);
        self.running.take().unwrap().end()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            drop(running);
            let mut command = Command::new("umount");
            drop(command.args(["-l", "-q"]).arg(&self.point).status());
        }
    }
}

fn umount(point: &Path) {
    assert!(Command::new("umount").arg(point).status().unwrap().success(), "{}", point.display());
}

/// Mounts below a folder.
pub(crate) fn mounts(folder: &Path) -> usize {
    // As the kernel names it, without a dot at its end.
    let folder = fs::canonicalize(folder).unwrap();
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines().filter(|line| line.contains(folder.to_str().unwrap())).count()
}

/// Everything below a directory by name: a mode, and bytes or where a link leads.
fn everything(directory: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    fn walk(root: &Path, at: &Path, found: &mut BTreeMap<String, (u32, Vec<u8>)>) {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let bytes = if metadata.is_dir() {
                walk(root, &path, found);
                Vec::new()
            } else if metadata.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else {
                fs::read(&path).unwrap()
            };
            found.insert(name, (metadata.permissions().mode(), bytes));
        }
    }
    let mut found = BTreeMap::new();
    walk(directory, directory, &mut found);
    found
}

/// A site with a backed up SQLite database of `count` rows.
pub(crate) fn site(count: u32) -> Site {
    let site = Site::new();
    drop(site.create("app.db", count));
    fs::create_dir(site.path("scratch")).unwrap();
    site.ok(&["backup", "sqlite:app.db"]);
    site
}

pub(crate) const READ_WRITE: [&str; 4] = ["app.db", "--read-write", "--scratch", "scratch"];

#[test]
fn a_mounted_file_is_the_restored_one_and_refuses_writes() {
    if !can_mount() {
        return;
    }
    let site = site(3000);
    site.ok(&["restore", "app.db", "--to", "restored.db"]);
    let mounted = Mounted::begin(&site, &["app.db"], "m");
    crate::cli::golden::assert_shape("mount", &mounted.answer);
    assert_eq!(mounted.answer["read_only"], true);
    let file = mounted.point.join("app.db");
    let restored = fs::read(site.path("restored.db")).unwrap();
    assert!(fs::read(&file).unwrap() == restored);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&file), 0o100_600);
    // In any order, and across the end.
    let (dice, open) = (Dice::new(seed()), File::open(&file).unwrap());
    for _ in 0..300 {
        let mut random = [0; 8];
        dice.fill(&mut random);
        let at = u64::from_le_bytes(random) % (restored.len() as u64 + 10_000);
        let mut bytes = vec![0; 1 + (random[0] as usize) * 1000];
        let read = open.read_at(&mut bytes, at).unwrap();
        let from = (at as usize).min(restored.len());
        assert_eq!(bytes[..read], restored[from..(from + read).min(restored.len())], "{at}");
        assert!(read > 0 || at >= restored.len() as u64);
    }
    drop(open);
    for refused in [
        fs::write(mounted.point.join("new"), "x"),
        fs::write(&file, "x"),
        fs::remove_file(&file),
        fs::create_dir(mounted.point.join("new")),
        fs::set_permissions(&file, fs::Permissions::from_mode(0o777)),
    ] {
        assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    }
    assert_eq!(mounted.end(), 0);
    assert_eq!((mounts(&site.path(".")), fs::read_dir(site.path("m")).unwrap().count()), (0, 0));
}

#[test]
fn points_between_backups_are_reached_for_writing_and_named_for_reading() {
    if !can_mount() {
        return;
    }
    let site = site(10);
    sleep(Duration::from_millis(1100));
    let world = World::real(1);
    let between = exact(world.clock.now());
    sleep(Duration::from_millis(50));
    add(&Connection::open(site.path("app.db")).unwrap(), 5);
    site.ok(&["backup", "sqlite:app.db"]);
    let shown = |at: &str| {
        let mounted = Mounted::begin(&site, &["app.db", "--at", at], "m");
        let count = site.path("copy.db");
        fs::copy(mounted.point.join("app.db"), &count).unwrap();
        let backup = mounted.answer["backup"]["at"].clone();
        assert_eq!(
            (&mounted.answer["shows"], &mounted.answer["recovered"]),
            (&backup, &false.into())
        );
        assert_eq!(mounted.end(), 0);
        rows(&count)
    };
    assert_eq!((shown("latest"), shown(&between)), (15, 10));
    site.fails(&["mount", "app.db", "--at", "2001-01-01T00:00:00Z", "m"], 6, &["oldest backup"]);
}

#[test]
fn sqlite_writes_on_a_mount_and_what_it_wrote_vanishes() {
    if !can_mount() {
        return;
    }
    let site = site(2000);
    for round in 0..2 {
        let mounted = Mounted::begin(&site, &READ_WRITE, "m");
        let file = mounted.point.join("app.db");
        assert_eq!(rows(&file), 2000, "round {round}");
        // Two that share memory: a write-ahead log is read by the one and written by the other.
        let (writer, reader) = (Connection::open(&file).unwrap(), Connection::open(&file).unwrap());
        let mode: String = writer.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
        assert_eq!(mode, "wal");
        add(&writer, 500);
        writer.execute("UPDATE t SET v = randomblob(900) WHERE n % 7 = 0", []).unwrap();
        let count: u32 = reader.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(count, 2500);
        writer
            .execute_batch("PRAGMA wal_checkpoint(TRUNCATE); DELETE FROM t WHERE n > 100; VACUUM")
            .unwrap();
        drop((writer, reader));
        assert_eq!(rows(&file), 100);
        assert_eq!(mounted.end(), 0);
        assert_eq!(fs::read_dir(site.path("scratch")).unwrap().count(), 0);
    }
}

/// A number below a bound.
fn draw(dice: &Dice, bound: u64) -> u64 {
    let mut random = [0; 8];
    dice.fill(&mut random);
    u64::from_le_bytes(random) % bound
}

/// The same on a mount and on a plain directory, whatever is done.
#[test]
fn an_overlay_behaves_as_a_plain_directory_does() {
    if !can_mount() {
        return;
    }
    // One plan may lose the mounted part early; of several, none loses it in all.
    (0..4).for_each(|round| follow(seed() + round, setting("STILLPOINT_STEPS", 2500)));
}

fn follow(seed: u64, steps: u64) {
    let site = site(1200);
    let dice = Dice::new(seed);
    let mounted = Mounted::begin(&site, &READ_WRITE, "m");
    let (ours, plain) = (mounted.point.clone(), site.path("plain"));
    fs::create_dir(&plain).unwrap();
    fs::copy(ours.join("app.db"), plain.join("app.db")).unwrap();
    let names = ["app.db", "a", "b", "d/a", "d/b", "e/app.db"];
    let name = || names[draw(&dice, names.len() as u64) as usize];
    for step in 0..steps {
        let (one, two, what) = (name(), name(), draw(&dice, 12));
        // Often at the ends of blocks and parts, where it is easiest to be wrong.
        let edge = [0, 4096, 8192, 262_144, 1_048_576][draw(&dice, 5) as usize];
        let at = (edge + draw(&dice, 40)).saturating_sub(20);
        let length = draw(&dice, [10, 5000, 300_000][draw(&dice, 3) as usize]) as usize;
        let mut fill = [0; 1];
        dice.fill(&mut fill);
        let bytes = vec![fill[0]; length];
        let act = |root: &Path| -> std::io::Result<Vec<u8>> {
            let (one, two) = (root.join(one), root.join(two));
            match what {
                0 | 1 => {
                    let file =
                        File::options().write(true).create(true).truncate(false).open(&one)?;
                    file.write_all_at(&bytes, at)?;
                }
                2 => {
                    use std::io::Write as _;
                    File::options().append(true).open(&one)?.write_all(&bytes)?;
                }
                3 => File::options().write(true).open(&one)?.set_len(at)?,
                4 => fs::rename(&one, &two)?,
                5 if step % 5 == 0 => fs::remove_file(&one)?,
                6 => {
                    fs::create_dir(root.join("d"))?;
                }
                7 => fs::rename(root.join("d"), root.join("e"))?,
                8 if step % 5 == 0 => fs::remove_dir(root.join("e"))?,
                9 => fs::hard_link(&one, &two)?,
                10 => {
                    let file = File::options().read(true).write(true).open(&one)?;
                    // It is read and written after its name is gone.
                    if step % 7 == 0 {
                        fs::remove_file(&one)?;
                    }
                    file.write_all_at(b"unlinked", at)?;
                    let mut read = vec![0; 20];
                    let count = file.read_at(&mut read, at.saturating_sub(5))?;
                    read.truncate(count);
                    return Ok(read);
                }
                _ => {
                    let mut read = vec![0; length];
                    let count = File::open(&one)?.read_at(&mut read, at)?;
                    read.truncate(count);
                    return Ok(read);
                }
            }
            Ok(Vec::new())
        };
        let kind = |done: std::io::Result<Vec<u8>>| done.map_err(|error| error.raw_os_error());
        let (there, here) = (kind(act(&ours)), kind(act(&plain)));
        assert!(there == here, "step {step}: {what} {one} {two} {at} {length}");
        if step % 100 == 0 || step + 1 == steps {
            let (there, here) = (everything(&ours), everything(&plain));
            assert!(there.keys().eq(here.keys()), "step {step}");
            for (name, (_, bytes)) in &here {
                assert!(there[name].1 == *bytes, "step {step}: {name}");
            }
        }
    }
    assert_eq!(mounted.end(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_starts_on_a_mounted_cluster_at_the_point_and_writes_there() {
    for major in [15, 18] {
        if !can_mount() {
            return;
        }
        let Some(mut story) = Story::begin(major, "local").await else { continue };
        fs::create_dir(story.site.path("scratch")).unwrap();
        story.write(2).await;
        story.back_up();
        let capture = story.capture().await;
        story.write(3).await;
        story.end(capture).await;
        let programs = stillpoint_testcontainers::Postgres::programs(major).unwrap();
        let mut places = vec![programs];
        places.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        let begin = |words: &[&str], name: &str| {
            let mut command = story.site.command(&[&["mount", "shop"], words].concat());
            command.env("PATH", std::env::join_paths(&places).unwrap());
            Mounted::with(&story.site, command, name)
        };

        // As it was copied: each file is a part of the backup, byte by byte.
        let copied = begin(&[], "copied");
        assert_eq!(
            fs::read_to_string(copied.point.join("PG_VERSION")).unwrap().trim(),
            major.to_string()
        );
        let answer = story.ok(&["restore", "shop", "--to", "restored"]);
        assert!(answer["check"].as_str().unwrap().contains("checksums"), "{answer}");
        let (there, here) = (everything(&copied.point), everything(&story.site.path("restored")));
        let same = there.iter().filter(|(name, (mode, bytes))| {
            here.get(*name).is_some_and(|(m, b)| m == mode && b == bytes)
        });
        assert!(same.count() > 900, "files that replay does not touch are the restored ones");
        assert_eq!(copied.end(), 0);

        let instant = exact(story.instants[3]);
        let scratch = ["--read-write", "--scratch", "scratch", "--at", instant.as_str()];
        let mounted = begin(&scratch, "m");
        assert_eq!(mounted.answer["recovered"], true, "{}", mounted.answer);
        {
            let server =
                stillpoint_testcontainers::Postgres::start_on(major, &mounted.point).unwrap();
            assert_eq!(server_rows(&server).await, [1, 2, 3, 4]);
            let client = crate::postgres::connect(&server).await;
            let write = "INSERT INTO entry SELECT n, repeat('y', 500)
                    FROM generate_series(10, 5009) n;
                CHECKPOINT; CREATE TABLE other AS SELECT * FROM entry; DROP TABLE other;
                VACUUM FULL";
            for statement in write.split(';') {
                client.batch_execute(statement).await.unwrap();
            }
            assert_eq!(server_rows(&server).await.len(), 5004);
        }
        assert_eq!(mounted.end(), 0);
        assert_eq!(fs::read_dir(story.site.path("scratch")).unwrap().count(), 0);
    }
}

/// Every pack of data in a repository.
pub(crate) fn packs(site: &Site) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![site.path("repo/packs")];
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            found.push(path);
        }
    }
    found
}

#[test]
fn damage_is_an_error_to_whoever_reads_it_and_fails_a_drill() {
    if !can_mount() {
        return;
    }
    let site = site(3000);
    let pack = packs(&site).into_iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let length = pack.metadata().unwrap().len();
    fs::set_permissions(&pack, fs::Permissions::from_mode(0o600)).unwrap();
    File::options().write(true).open(&pack).unwrap().write_all_at(b"damage", length / 2).unwrap();

    let mounted = Mounted::begin(&site, &["app.db"], "m");
    let file = File::open(mounted.point.join("app.db")).unwrap();
    let original = fs::read(site.path("app.db")).unwrap();
    let (mut failed, mut read) = (0, 0);
    for at in (0..original.len()).step_by(4096) {
        let mut page = [0; 4096];
        match file.read_exact_at(&mut page, at as u64) {
            Ok(()) => {
                assert!(page[..] == original[at..at + 4096], "wrong bytes at {at}");
                read += 1;
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(5));
                failed += 1;
            }
        }
    }
    assert!(failed > 0 && read > failed, "{failed} {read}");
    drop(file);
    assert_eq!(mounted.end(), 0);
    let told = fs::read_to_string(site.path("m.log")).unwrap();
    assert!(told.contains("part") && told.contains("offset"), "{told}");

    let ran = site.run(&["drill", "run", "app.db", "--scratch", "scratch", "-o", "json"]);
    assert_eq!(ran.status, 12, "{}{}", ran.out, ran.err);
    let drill: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(drill["presented"]["mounted"], true);
    assert!(drill["causes"].to_string().contains("pack"), "{drill:#}");
    // A repository that goes away is an error as well, and the mount can be ended.
    let mounted = Mounted::begin(&site, &["app.db"], "m");
    fs::rename(site.path("repo"), site.path("gone")).unwrap();
    assert!(fs::read(mounted.point.join("app.db")).is_err());
    assert_eq!(mounted.end(), 0);
}

#[test]
fn drills_say_how_the_backup_was_presented_and_why() {
    if !can_mount() {
        return;
    }
    let site = site(100);
    let words = ["drill", "run", "app.db", "--scratch", "scratch"];
    let names = |drill: &Value| {
        let phases = drill["phases"].as_array().unwrap().iter();
        phases.map(|phase| phase["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let drill = site.json(&words);
    assert_eq!(
        (&drill["presented"]["mounted"], &drill["presented"]["why_not"]),
        (&true.into(), &Value::Null)
    );
    let place = |drill: &Value, name: &str| names(drill).iter().position(|n| n == name);
    assert!(place(&drill, "first query") < place(&drill, "check files"), "{drill:#}");
    assert!(place(&drill, "read back").is_some() && place(&drill, "fetch").is_none());

    let drill = site.json(&[&words[..], &["--no-mount"]].concat());
    assert_eq!(drill["presented"]["mounted"], false);
    assert!(drill["presented"]["why_not"].to_string().contains("asked for"), "{drill:#}");
    assert!(place(&drill, "fetch").is_some());

    // A system without the device, as far as the program can see.
    let hidden = |words: &[&str]| {
        let inner = site.command(words);
        let mut command = Command::new("unshare");
        let script = "mount --bind \"$0\" /dev/fuse && exec \"$@\"";
        command.args(["-m", "sh", "-c", script]).arg(site.path("key")).arg(inner.get_program());
        command.args(inner.get_args()).current_dir(site.path("."));
        for (name, value) in inner.get_envs() {
            command.env(name, value.unwrap());
        }
        fs::set_permissions(site.path("key"), fs::Permissions::from_mode(0o600)).unwrap();
        command.output().unwrap()
    };
    let output = hidden(&[&words[..], &["-o", "json"]].concat());
    let drill: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(drill["presented"]["mounted"], false, "{drill:#}");
    assert!(drill["presented"]["why_not"].as_str().unwrap().len() > 5, "{drill:#}");
    assert_eq!(drill["passed"], true, "{drill:#}");
}

#[test]
fn what_cannot_be_mounted_on_is_refused() {
    if !can_mount() {
        return;
    }
    let site = site(10);
    fs::create_dir(site.path("full")).unwrap();
    fs::write(site.path("full/file"), "x").unwrap();
    site.fails(&["mount", "app.db", "full"], 5, &["not empty"]);
    site.fails(&["mount", "app.db", "nowhere"], 6, &["mkdir"]);
    site.fails(&["mount", "app.db", "full/file"], 5, &["no directory"]);
    let mounted = Mounted::begin(&site, &["app.db"], "m");
    site.fails(&["mount", "app.db", "m"], 5, &["mounted there already"]);
    // One that is alive is never swept.
    site.ok(&["drill", "list"]);
    assert!(mounted.point.join("app.db").exists());
    assert_eq!(mounted.end(), 0);
}

#[test]
fn a_signal_ends_a_mount_that_is_in_use_and_sigkill_leaves_nothing_after_the_next_command() {
    if !can_mount() {
        return;
    }
    let site = site(2000);
    for (words, name) in [(&["app.db"][..], "m"), (&READ_WRITE[..], "n")] {
        let mut mounted = Mounted::begin(&site, words, name);
        let open = File::open(mounted.point.join("app.db")).unwrap();
        let running = mounted.running.take().unwrap();
        let id = running.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        assert_eq!(running.end(), 143);
        drop(open);
        assert_eq!(mounts(&site.path(".")), 0);

        let mut mounted = Mounted::begin(&site, words, name);
        let open = File::open(mounted.point.join("app.db")).unwrap();
        mounted.running.take().unwrap().kill();
        assert_eq!(mounts(&site.path(name)), 1);
        assert!(fs::read_dir(&mounted.point).is_err());
        site.ok(&["drill", "list"]);
        assert_eq!(mounts(&site.path(".")), 0);
        assert_eq!(fs::read_dir(site.path("scratch")).unwrap().count(), 0);
        drop(open);
    }
    // At any moment on the way there.
    for number in 0..setting("STILLPOINT_KILLS", 15) {
        let running = site.spawn(&[&["mount"], &READ_WRITE[..], &["m"]].concat(), "killed");
        sleep(Duration::from_millis(number * 6));
        running.kill();
        site.ok(&["drill", "list"]);
        assert_eq!(mounts(&site.path(".")), 0, "kill {number}");
        assert_eq!(fs::read_dir(site.path("scratch")).unwrap().count(), 0, "kill {number}");
    }
}
