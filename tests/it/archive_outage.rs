//! `wal-get` when what it relies on goes away: the process that fetches ahead, and the store.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{collections::BTreeSet, fs, path::PathBuf, thread, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use stillpoint::world::World;
use stillpoint_testcontainers::{POSTGRES_USER, Postgres, PostgresOptions};

use crate::{
    archive::{called, connect, count, files, give_away, name, wait, with_waiting_files},
    site::Site,
};

/// The process that fetches ahead for calls in the site's folder.
fn prefetcher(site: &Site) -> Option<Pid> {
    let folder = site.path(".").canonicalize().unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut ours = processes.filter(|process| {
        let words = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let is_ahead = words.split(|byte| *byte == 0).any(|word| word == b"--ahead");
        is_ahead && fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == folder)
    });
    ours.find_map(|process| Pid::from_raw(process.file_name().to_str()?.parse().ok()?))
}

/// What lies in the spool: files that are kept, and halves of files.
fn spooled(site: &Site) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let folders = fs::read_dir(site.path("stillpoint.spool")).into_iter().flatten().flatten();
    let all: Vec<_> = folders.flat_map(|folder| files(&folder.path())).collect();
    let logs = all.into_iter().filter(|path| name(path).starts_with("0000"));
    logs.partition(|path| path.extension().is_some_and(|end| end == "kept"))
}

/// When a process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    AtOnce,
    /// While it writes a file.
    Half,
    /// Once it has kept some.
    Kept,
}

/// How often is looked for the moment to kill, without a pause.
const LOOKS_MAX: usize = 20_000;

/// Kills a process, with all that it holds. Whether it left half a file.
fn kill(site: &Site, process: Pid, when: When) -> bool {
    let looks = if when == When::AtOnce { 0 } else { LOOKS_MAX };
    for _ in 0..looks {
        let (kept, halves) = spooled(site);
        if when == When::Kept && kept.len() >= 3 {
            break;
        }
        if when == When::Half && !halves.is_empty() {
            let _ = kill_process(process, Signal::STOP);
            if !spooled(site).1.is_empty() {
                break;
            }
            let _ = kill_process(process, Signal::CONT);
        }
    }
    let _ = kill_process(process, Signal::KILL);
    while prefetcher(site) == Some(process) {
        thread::sleep(Duration::from_millis(1));
    }
    !spooled(site).1.is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_fetches_ahead_may_be_killed_at_any_time() {
    let (site, world) = (Site::of_clusters(), World::real(1));
    let Some((_server, waiting)) = with_waiting_files(&site, 70).await else { return };
    for file in &waiting {
        site.ok(&["wal-push", &format!("wal/{file}"), "--name", "shop"]);
    }
    let (mut killed, mut halves) = (BTreeSet::new(), 0);
    let mut plan = [When::Half, When::AtOnce, When::Kept, When::Half].into_iter().cycle();
    // Calls since one was killed, until there is another.
    let mut alone = None;
    for file in &waiting {
        site.ok(&["wal-get", file, "fetched", "--name", "shop"]);
        let own = fs::read(site.path("wal").join(file)).unwrap();
        assert!(own == fs::read(site.path("fetched")).unwrap(), "{file}, after {killed:?}");
        match prefetcher(&site) {
            Some(process) => {
                alone = Some(0);
                halves += usize::from(kill(&site, process, plan.next().unwrap()));
                killed.insert(process.as_raw_nonzero());
            }
            None => alone = alone.map(|calls| calls + 1),
        }
        // What a killed one kept is used up first: 16 files at most.
        assert!(alone.is_none_or(|calls| calls < 18), "nobody took the place of {killed:?}");
    }
    assert!(killed.len() >= 4 && halves > 0, "{killed:?}, {halves} halves");

    // The last one is left in peace, and tidies up behind the dead.
    let first = &waiting[0];
    wait(&world, "one that lives has fetched what follows", async || {
        site.ok(&["wal-get", first, "fetched", "--name", "shop"]);
        let (kept, halves) = spooled(&site);
        prefetcher(&site).is_some() && kept.len() == 16 && halves.is_empty()
    })
    .await;
    fs::remove_dir_all(site.path("stillpoint.spool")).unwrap();
    wait(&world, "it ended", async || prefetcher(&site).is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_stops_a_recovery_and_does_not_end_it() {
    for major in [13, 17] {
        let settings = ["autovacuum = off", "archive_mode = on", "archive_command = ''"];
        let settings = settings.map(str::to_owned).to_vec();
        let options =
            PostgresOptions { settings, wal_segment_mib: 1, ..PostgresOptions::default() };
        let Some(mut server) = Postgres::required_with(major, &options) else { continue };
        let (site, world) = (Site::of_clusters(), World::real(1));
        connect(&server).await.batch_execute("CREATE TABLE entry (n int, t text)").await.unwrap();
        let url = format!("postgres://{POSTGRES_USER}@127.0.0.1:{}/postgres", server.port());
        site.ok(&["backup", &url, "--name", "shop"]);
        let mut replica = server.standby().unwrap();
        replica.stop().unwrap();
        let client = connect(&server).await;
        let position = "SELECT pg_walfile_name(pg_current_wal_lsn())";
        let mut written = Vec::new();
        for _ in 0..40 {
            let insert = "INSERT INTO entry SELECT g, md5(g::text) FROM generate_series(1, 100) g";
            client.batch_execute(insert).await.unwrap();
            written.push(client.query_one(position, &[]).await.unwrap().get::<_, String>(0));
            client.batch_execute("SELECT pg_switch_wal()").await.unwrap();
        }
        let wal = server.data().join("pg_wal");
        for file in &written {
            let path = wal.join(file).display().to_string();
            site.ok(&["wal-push", &path, "--name", "shop"]);
        }
        server.kill();

        // The store goes away when a certain file is asked for.
        let (gate, repo) = (site.path("gate"), site.path("repo"));
        let away = site.path("away");
        let get = format!(
            "if [ -e {}.%f ]; then rm {}.%f; mv {} {}; fi; {}",
            gate.display(),
            gate.display(),
            repo.display(),
            away.display(),
            called(&site, "wal-get %f %p")
        );
        let conf = replica.data().join("postgresql.conf");
        let lines = ["primary_conninfo = ''", "archive_mode = off"];
        let text = fs::read_to_string(&conf).unwrap();
        let lines = lines.join("\n");
        fs::write(&conf, format!("{text}\n{lines}\nrestore_command = '{get}'\n")).unwrap();
        let signal = replica.data().join("recovery.signal");
        fs::rename(replica.data().join("standby.signal"), &signal).unwrap();
        for (round, file) in [&written[0], &written[3], &written[30]].into_iter().enumerate() {
            fs::write(site.path(&format!("gate.{file}")), "").unwrap();
            give_away(&site);
            // It may be open to readers before it ends.
            let _ = replica.restart();
            let lock = replica.data().join("postmaster.pid");
            wait(&world, "the server gives up", async || !lock.exists()).await;
            let said = replica.log();
            let refused = said.matches("could not restore file").count();
            assert_eq!(refused, round + 1, "{major}: {said}");
            assert!(signal.exists() && away.exists(), "{major}, {round}: recovery ended\n{said}");
            assert!(!replica.data().join("pg_wal/00000002.history").exists());
            // Alone it says why, to whoever asks.
            let words = ["wal-get", file, "fetched", "--name", "shop"];
            site.fails(&words, 126, &["SP0", "next:"]);
            fs::rename(&away, &repo).unwrap();
        }
        replica.restart().unwrap();
        wait(&world, "recovery ended", async || !signal.exists()).await;
        assert_eq!(count(&replica).await, 4000, "PostgreSQL {major}");
    }
}
