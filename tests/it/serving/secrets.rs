//! Secrets of the environment are seen nowhere else.

use std::{
    collections::BTreeSet,
    env, fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::Duration,
};

use rustix::process::geteuid;
use stillpoint::{registry, world::World};
use stillpoint_testcontainers::{Postgres, PostgresOptions};

use super::ward::Ward;
use crate::postgres::connect;

const PASSWORD: &str = "pw-6f1d0c52a9";

/// Nobody listens there.
const SECRETS: [(&str, &str); 5] = [
    ("SHOP_PASSWORD", PASSWORD),
    ("REPO_PASSPHRASE", "pp-93be47c810 of eight"),
    ("PAGER_URL", "http://127.0.0.1:9/hook?token=tk-d45e7ab2f6"),
    ("PAGER_KEY", "ky-0b8c31f97e"),
    ("BEAT_URL", "http://127.0.0.1:9/beat/bt-7a2e96d0c4"),
];

const WRONG: &str = "no-58c2f04b1d";

/// What nobody may find: no word of it is in any other text.
const NEEDLES: [&str; 6] =
    [PASSWORD, "pp-93be47c810", "tk-d45e7ab2f6", "ky-0b8c31f97e", "bt-7a2e96d0c4", WRONG];

const CONFIG: &str = r#"version = 1
timezone = "Europe/Berlin"
[repository.primary]
url = "repo"
encryption = { passphrase = { env = "REPO_PASSPHRASE" } }
[policy.default]
rpo = "1h"
[policy.quick]
rpo = "3s"
logs = "never"
[database.shop]
endpoint = "ENDPOINT"
password = { env = "SHOP_PASSWORD" }
[database.gone]
endpoint = "sqlite:gone.db"
policy = "quick"
[[alert]]
name = "all"
to = [{ webhook = { env = "PAGER_URL" } }, { exec = ["cat"] }]
sign = { env = "PAGER_KEY" }
heartbeat = { url = { env = "BEAT_URL" }, every = "1s" }
"#;

/// What of the secrets is in some bytes.
fn found_in(bytes: &[u8]) -> Vec<&'static str> {
    let is_in = |needle: &&&str| bytes.windows(needle.len()).any(|part| part == needle.as_bytes());
    NEEDLES.iter().filter(is_in).copied().collect()
}

/// Somebody who lists processes, as `ps` does, again and again.
struct Watch {
    is_over: Arc<AtomicBool>,
    looking: JoinHandle<BTreeSet<String>>,
}

impl Watch {
    fn start() -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let looking = thread::spawn(move || {
            let mut seen = BTreeSet::new();
            while !over.load(Ordering::SeqCst) {
                look(&mut seen);
                sleep(Duration::from_millis(3));
            }
            seen
        });
        Self { is_over, looking }
    }

    fn end(self) -> BTreeSet<String> {
        self.is_over.store(true, Ordering::SeqCst);
        self.looking.join().unwrap()
    }
}

/// Looks at every command line, and at the environment of what runs as somebody else, such as a
/// server.
fn look(seen: &mut BTreeSet<String>) {
    let user = geteuid().as_raw();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let path = process.path();
        let words = fs::read(path.join("cmdline")).unwrap_or_default();
        let shown = String::from_utf8_lossy(&words).replace('\0', " ");
        for secret in found_in(&words) {
            seen.insert(format!("{secret} in the command line: {shown}"));
        }
        if fs::metadata(&path).is_ok_and(|process| process.uid() != user) {
            for secret in found_in(&fs::read(path.join("environ")).unwrap_or_default()) {
                seen.insert(format!("{secret} in the environment of: {shown}"));
            }
        }
    }
}

/// Runs the program with the secrets, but for those that are given; returns its exit status and
/// what it said.
fn run(ward: &Ward, words: &[&str], others: &[(&str, &str)]) -> (i32, String) {
    let mut places = vec![Postgres::programs(17).unwrap()];
    places.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let mut command = ward.command(words);
    command.env("PATH", env::join_paths(places).unwrap());
    command.envs(SECRETS).envs(others.iter().copied());
    let output = command.output().unwrap();
    let told = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8(told).unwrap())
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            found.extend(files(&path));
        } else if kind.is_file() {
            found.push(path);
        }
    }
    found
}

/// Row 26: a password, a passphrase, URLs and keys that come from the environment are in no command
/// line of ours or of a program that we start, in no environment of another user's process, in no
/// log, answer, error or report, nor in any file that is written.
#[tokio::test(flavor = "multi_thread")]
async fn row_26_secrets_of_the_environment_are_seen_nowhere() {
    let hba = ["all", "replication"].map(|database| {
        format!("host {database} postgres all trust\nhost {database} all all scram-sha-256")
    });
    let options = PostgresOptions { hba: hba.into(), ..PostgresOptions::default() };
    let Some(server) = Postgres::required_with(17, &options) else { return };
    let roles = format!(
        "CREATE ROLE keeper SUPERUSER LOGIN PASSWORD '{PASSWORD}';
         CREATE TABLE entry AS SELECT generate_series(1, 100) AS n"
    );
    connect(&server).await.batch_execute(&roles).await.unwrap();
    let url = format!("postgres://keeper@127.0.0.1:{}/postgres?method=sql", server.port());
    let ward = Ward::new(&CONFIG.replace("ENDPOINT", &url));
    // The server that replays log has a user of its own.
    fs::set_permissions(ward.path("."), fs::Permissions::from_mode(0o755)).unwrap();

    let watch = Watch::start();
    drop(ward.create("gone.db"));
    let serving = ward.start(&["serve", "-vv", "-o", "json"], &SECRETS);
    ward.wait_until("a backup", || ward.said().contains("\"database\":\"gone\""));
    for file in ["gone.db", "gone.db-wal", "gone.db-shm"] {
        drop(fs::remove_file(ward.path(file)));
    }
    for event in ["capture.started", "notice.failed", "heartbeat.failed"] {
        ward.wait_until(event, || ward.said().contains(event));
    }
    let mut all = String::new();
    for words in [
        &["status"][..],
        &["status", "-o", "json"],
        &["config", "show", "-o", "json"],
        &["config", "explain", "shop"],
        &["plan", "-o", "json"],
        &["jobs", "list", "-o", "json"],
        &["audit", "export"],
        &["explain", "alert", "gone"],
        &["backup", "shop", "-vv"],
        &["drill", "run", "shop", "--no-mount", "--evidence", "proofs", "-o", "json"],
        &["restore", "shop", "--to", "back", "-vv"],
        &["report", "monthly", "--evidence", "reports", "-o", "json"],
    ] {
        let (status, told) = run(&ward, words, &[]);
        assert_eq!(status, 0, "stillpoint {}\n{told}", words.join(" "));
        all += &told;
    }
    for format in ["text", "json"] {
        let denied = ["backup", "shop", "-vv", "-o", format];
        let (status, told) = run(&ward, &denied, &[("SHOP_PASSWORD", WRONG)]);
        assert_eq!(status, 4, "{told}");
        all += &told;
        let locked = ["drill", "run", "shop", "-vv", "-o", format];
        let (status, told) = run(&ward, &locked, &[("REPO_PASSPHRASE", WRONG)]);
        assert_eq!(status, 4, "{told}");
        all += &told;
    }
    assert_eq!(serving.stop(), 143);
    assert_eq!(watch.end(), BTreeSet::new());

    assert_eq!(found_in(all.as_bytes()), Vec::<&str>::new(), "{all}");
    // What was restored is the server's own, in which passwords are hashed.
    let written = files(&ward.path(".")).into_iter();
    for file in written.filter(|file| !file.starts_with(ward.path("back"))) {
        let found = found_in(&fs::read(&file).unwrap_or_default());
        assert_eq!(found, Vec::<&str>::new(), "{}", file.display());
    }

    // Nor do values print what they hold.
    let world = World::real(1);
    let engines = registry::engines(&world.clock);
    let (engine, mut endpoint) = registry::endpoint(&engines, &url).unwrap();
    endpoint.settings.insert("password".to_owned(), WRONG.to_owned());
    let error = engine.connect(&endpoint).await.unwrap_err();
    let values = format!("{error:?} {error:#?} {error} {endpoint:?} {engine:?}");
    assert_eq!(found_in(values.as_bytes()), Vec::<&str>::new(), "{values}");
}
