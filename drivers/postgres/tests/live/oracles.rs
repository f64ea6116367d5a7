//! The server's own programs as judges of what we copy, decode and put together.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use stillpoint_conformance::memory::MemoryLog;
use stillpoint_contract::{Engine as _, LogEventKind, SegmentHead};
use stillpoint_testcontainers::{Postgres, PostgresOptions};
use tempfile::TempDir;

use super::stage::{Copy, Stage, engine, lay_out};

const WAYS: [&str; 3] = ["sql", "local", "base_backup"];

/// Nothing is written by itself, so that two copies of a quiet server are the same.
const QUIET: [&str; 3] = ["autovacuum = off", "checkpoint_timeout = 1h", "max_wal_size = 1GB"];

/// What no two copies have in common: where each began, and which tablespaces it says to have.
const DIFFERENT: [&str; 4] =
    ["backup_label", "global/pg_control", "backup_manifest", "tablespace_map"];

async fn quiet(major: u32, more: &[&str]) -> Option<Stage> {
    Stage::open(major, &[&QUIET[..], more].concat()).await
}

fn run(major: u32, program: &str, arguments: &[&str]) -> Output {
    let path = Postgres::program(major, program).unwrap();
    let mut command = Command::new(path);
    command.args(arguments).env("TZ", "UTC").env("LC_ALL", "C").env("PGUSER", "postgres");
    command.output().unwrap()
}

fn ok(major: u32, program: &str, arguments: &[&str]) -> String {
    let output = run(major, program, arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {}: {said}", arguments.join(" "));
    String::from_utf8(output.stdout).unwrap()
}

/// A base backup by the server's own program.
fn base_backup(stage: &Stage, to: &Path, more: &[&str]) {
    let port = stage.server.port().to_string();
    let to = to.to_str().unwrap();
    let fixed = ["-h", "127.0.0.1", "-p", &port, "-D", to, "-c", "fast", "-X", "none", "--no-sync"];
    ok(stage.server.major(), "pg_basebackup", &[&fixed[..], more].concat());
}

/// The files below a directory.
fn files(root: &Path) -> BTreeMap<String, PathBuf> {
    let (mut found, mut left) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap();
                found.insert(name.to_owned(), path.clone());
            }
        }
    }
    found.retain(|name, _| !name.starts_with("pg_wal/") && !DIFFERENT.contains(&name.as_str()));
    found
}

/// What a copy holds of the same.
fn parts(copy: &Copy) -> BTreeMap<String, bytes::Bytes> {
    let names = copy.parts.records().map(|record| &record.spec.name);
    let ours = names.filter(|name| {
        let name = name.as_str();
        !name.starts_with("stillpoint/")
            && !name.starts_with("pg_wal/")
            && !DIFFERENT.contains(&name)
    });
    ours.map(|name| (name.as_str().to_owned(), copy.parts.bytes(name).unwrap())).collect()
}

/// Byte for byte: free space maps and hint bits as well, since nobody writes meanwhile. Returns
/// visibility maps that differ: an increment of the server's misses bits that were cleared, which
/// WAL does not name as changes of the map, and ours must be what the server has.
fn assert_same(stage: &Stage, copy: &Copy, reference: &Path, way: &str) -> Vec<String> {
    let (theirs, ours) = (files(reference), parts(copy));
    let only_theirs: Vec<_> = theirs.keys().filter(|name| !ours.contains_key(*name)).collect();
    let only_ours: Vec<_> = ours.keys().filter(|name| !theirs.contains_key(*name)).collect();
    assert!(only_theirs.is_empty() && only_ours.is_empty(), "{way}: {only_theirs:?} {only_ours:?}");
    let mut maps = Vec::new();
    for (name, bytes) in &ours {
        if bytes.as_ref() == fs::read(&theirs[name]).unwrap() {
            continue;
        }
        assert!(name.ends_with("_vm"), "{way}: {name} differs");
        let live = fs::read(stage.server.data().join(name)).unwrap();
        assert!(bytes.as_ref() == live, "{way}: {name} differs from what the server has");
        maps.push(name.clone());
    }
    assert!(ours.len() > 800, "{way}: {} files", ours.len());
    maps
}

/// Whether the server's program takes what we copied for what its manifest lists.
fn verify(major: u32, copy: &Copy, manifest: &Path, (way, maps): (&str, &[String])) {
    let directory = TempDir::with_prefix("stillpoint-verified-").unwrap();
    lay_out(copy, directory.path()).unwrap();
    let data = directory.path().join("data");
    fs::copy(manifest, data.join("backup_manifest")).unwrap();
    let place = data.to_str().unwrap();
    let ignored = DIFFERENT.into_iter().chain(maps.iter().map(String::as_str));
    let mut words = vec!["-n", place];
    words.extend(ignored.flat_map(|name| ["-i", name]));
    let said = ok(major, "pg_verifybackup", &words);
    assert!(said.contains("successfully verified"), "{way}: {said}");
    let damaged = File::options().write(true).open(data.join("base/1/1259")).unwrap();
    damaged.write_all_at(b"x", 4000).unwrap();
    assert!(!run(major, "pg_verifybackup", &words).status.success(), "{way}: it says yes to all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_what_the_servers_own_manifest_lists() {
    for major in [15, 17] {
        let Some(stage) = quiet(major, &[]).await else { continue };
        stage.run("UPDATE accounts SET balance = balance").await;
        stage.run(SETTLE).await;
        let directory = TempDir::with_prefix("stillpoint-reference-").unwrap();
        let reference = directory.path().join("reference");
        base_backup(&stage, &reference, &["--manifest-checksums=SHA256"]);
        for way in WAYS {
            let copy = stage.back_up(&format!("method={way}")).await;
            assert!(assert_same(&stage, &copy, &reference, way).is_empty());
            verify(major, &copy, &reference.join("backup_manifest"), (way, &[]));
        }
    }
}

const CHANGES: &str = "
    UPDATE still SET t = reverse(t) WHERE n % 500 = 0;
    CREATE TABLE made AS SELECT generate_series(1, 9000) AS n;
    CREATE INDEX ON made (n);
    DELETE FROM cut WHERE n > 700;
    VACUUM cut;
    TRUNCATE emptied;
    DROP TABLE dropped;
    VACUUM FULL rewritten;
    DROP DATABASE reborn;
    CREATE DATABASE reborn STRATEGY file_copy;
    CREATE DATABASE born STRATEGY wal_log;
    SELECT lo_from_bytea(0, convert_to(repeat('large', 9000), 'UTF8'));
    INSERT INTO emptied VALUES (7);
    UPDATE accounts SET balance = balance";

/// So that nobody who looks at a row leaves a mark on it afterwards.
const SETTLE: &str = "VACUUM; CHECKPOINT";

async fn an_increment_is_what_is_put_together(major: u32) {
    let Some(stage) = quiet(major, &["summarize_wal = on"]).await else { return };
    stage
        .run(
            "CREATE TABLE cut AS SELECT generate_series(1, 30000) AS n;
             CREATE TABLE emptied AS SELECT generate_series(1, 30000) AS n;
             CREATE TABLE dropped AS SELECT generate_series(1, 30000) AS n;
             CREATE TABLE rewritten AS SELECT n, md5(n::text) FROM generate_series(1, 20000) AS n;
             CREATE DATABASE reborn;
             CHECKPOINT",
        )
        .await;
    let directory = TempDir::with_prefix("stillpoint-reference-").unwrap();
    let place = |name: &str| directory.path().join(name);
    let mut bases = Vec::new();
    for way in WAYS {
        bases.push(stage.back_up(&format!("method={way}")).await);
    }
    base_backup(&stage, &place("full"), &[]);
    let mut before = "full".to_owned();
    let mut chain = vec![before.clone()];
    for round in 0..2 {
        if round == 0 {
            stage.run(CHANGES).await;
        } else {
            stage.run("UPDATE still SET t = t WHERE n < 40; INSERT INTO cut VALUES (1)").await;
            stage.run("DROP DATABASE born").await;
        }
        stage.run(SETTLE).await;
        let (next, whole) = (format!("increment-{round}"), format!("whole-{round}"));
        let manifest = place(&before).join("backup_manifest");
        base_backup(&stage, &place(&next), &["--incremental", manifest.to_str().unwrap()]);
        chain.push(next.clone());
        let paths: Vec<PathBuf> = chain.iter().map(|name| place(name)).collect();
        let mut words: Vec<&str> = paths.iter().map(|path| path.to_str().unwrap()).collect();
        let whole = place(&whole);
        words.extend(["--no-sync", "-o", whole.to_str().unwrap()]);
        ok(major, "pg_combinebackup", &words);
        for (way, base) in WAYS.iter().zip(&mut bases) {
            let copy = stage.try_back_up(&format!("method={way}"), Some(&*base)).await.unwrap();
            assert!(copy.evidence.incremental, "{way}: {}", copy.evidence.method);
            let maps = assert_same(&stage, &copy, &whole, way);
            // That of 18 is not installed.
            if major == 17 {
                verify(major, &copy, &whole.join("backup_manifest"), (way, &maps));
            }
            *base = copy;
        }
        before = next;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_increment_is_what_17_puts_together_from_its_own() {
    an_increment_is_what_is_put_together(17).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_increment_is_what_18_puts_together_from_its_own() {
    an_increment_is_what_is_put_together(18).await;
}

/// What the server's program finds in WAL that we have in our index.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    /// Where its record begins; ours say where it ends.
    start: u64,
    at: String,
    /// The transaction, or the name of the point.
    what: String,
}

/// Reads lines such as `rmgr: Transaction len … tx: 734, lsn: 0/156B2E0, prev …, desc: COMMIT …`.
fn seen(dump: &str) -> (Vec<Seen>, Vec<Seen>) {
    let (mut commits, mut points) = (Vec::new(), Vec::new());
    for line in dump.lines() {
        let field = |name: &str, end: char| {
            let rest = line.split_once(name)?.1.trim_start();
            Some(rest.split(end).next()?.trim().to_owned())
        };
        let Some(start) = field("lsn: ", ',').map(|text| lsn(&text)) else { continue };
        let desc = line.split_once("desc: ").map_or("", |(_, desc)| desc);
        if let Some(rest) = desc.strip_prefix("COMMIT_PREPARED ") {
            let (what, rest) = rest.split_once(": ").unwrap();
            commits.push(Seen { start, at: rest[..26].to_owned(), what: what.to_owned() });
        } else if let Some(rest) = desc.strip_prefix("COMMIT ") {
            let what = field("tx: ", ',').unwrap();
            commits.push(Seen { start, at: rest[..26].to_owned(), what });
        } else if let Some(what) = desc.strip_prefix("RESTORE_POINT ") {
            points.push(Seen { start, at: String::new(), what: what.to_owned() });
        }
    }
    (commits, points)
}

fn lsn(text: &str) -> u64 {
    let (high, low) = text.split_once('/').unwrap();
    (u64::from_str_radix(high, 16).unwrap() << 32) | u64::from_str_radix(low, 16).unwrap()
}

fn events(heads: &[SegmentHead], wanted: impl Fn(&LogEventKind) -> bool) -> Vec<(u64, String)> {
    let events = heads.iter().flat_map(|head| &head.events);
    let wanted = events.filter(|event| wanted(&event.what));
    let shown = wanted.map(|event| {
        let at = event.at.format("%Y-%m-%d %H:%M:%S%.6f").to_string();
        (u64::try_from(event.offset).unwrap(), at)
    });
    shown.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn our_index_of_wal_has_what_the_servers_program_finds_in_it() {
    for major in [15, 17] {
        let mut settings = QUIET.map(str::to_owned).to_vec();
        settings
            .extend(["max_prepared_transactions = 3", "wal_keep_size = 500MB"].map(str::to_owned));
        let options =
            PostgresOptions { wal_segment_mib: 1, settings, ..PostgresOptions::default() };
        let Some(stage) = Stage::open_with(major, &options).await else { continue };
        stage.run("CREATE DATABASE one").await;
        let mut opened = stage.driver("").await.open_log(None).await.unwrap();
        let log = MemoryLog::new();
        log.open(None, &opened);
        for round in 0..40 {
            stage
                .run(&format!(
                    "UPDATE accounts SET balance = balance WHERE id % 40 = {round};
                     CREATE TABLE t{round} AS SELECT generate_series(1, 3000) AS n;
                     SELECT pg_create_restore_point('point {round}');
                     BEGIN; SAVEPOINT s; INSERT INTO t{round} VALUES (1); RELEASE s; COMMIT;
                     BEGIN; DROP TABLE t{round}; CREATE TABLE p{round} (n int);
                     DROP TABLE p{round}; PREPARE TRANSACTION 'p{round}';
                     COMMIT PREPARED 'p{round}';
                     BEGIN; INSERT INTO accounts VALUES (-1, 0); ROLLBACK"
                ))
                .await;
        }
        stage.run("DROP DATABASE one").await;
        log.drain(opened.capture.as_mut()).await.unwrap();
        let heads: Vec<SegmentHead> = log.heads().into_iter().flatten().collect();
        let from = u64::try_from(opened.start.offset).unwrap();
        let to = u64::try_from(heads.last().unwrap().range.end().offset).unwrap();

        let wal = stage.server.data().join("pg_wal");
        let show = |at: u64| format!("{:X}/{:X}", at >> 32, at & 0xffff_ffff);
        let (from, to) = (show(from), show(to));
        let dump = ok(major, "pg_waldump", &["-p", wal.to_str().unwrap(), "-s", &from, "-e", &to]);
        let (commits, points) = seen(&dump);
        assert!(commits.len() > 150 && points.len() == 40, "{} {}", commits.len(), points.len());

        let ours = events(&heads, |what| *what == LogEventKind::Commit);
        let times = |seen: &[Seen]| seen.iter().map(|s| s.at.clone()).collect::<Vec<_>>();
        assert_eq!(ours.iter().map(|(_, at)| at.clone()).collect::<Vec<_>>(), times(&commits));
        let engine = engine();
        for (number, ((end, _), commit)) in ours.iter().zip(&commits).enumerate() {
            // Behind the record's first byte, and not behind that of the next.
            let next = commits.get(number + 1).map_or(u64::MAX, |next| next.start);
            assert!(commit.start < *end && *end <= next, "{commit:?} {end:X}");
            let found = heads.iter().find_map(|head| engine.commit_of(&commit.what, head));
            assert_eq!(found, Some(u128::from(*end)), "PostgreSQL {major}: {commit:?}");
        }
        for point in &points {
            let named = LogEventKind::RestorePoint(point.what.clone());
            let found = events(&heads, |what| *what == named);
            assert!(found.len() == 1 && point.start < found[0].0, "{point:?}: {found:?}");
        }
        let told =
            |what: &LogEventKind| matches!(what, LogEventKind::Dropped(name) if name == "one");
        assert_eq!(events(&heads, told).len(), 1);
        assert_eq!(dump.matches("desc: DROP dir").count(), 1);
    }
}
