//! What a killed partial restore leaves behind: nothing, after the next command.

use std::{fs, path::Path, thread::sleep, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{runtime::Handle, task};

use super::{
    shop::{begin, command, dump, ok, url},
    sqlite,
};
use crate::{
    drills::remains::{assert_none, kills, measure, sandboxes},
    postgres::{Story, connect},
    site::{Running, Site},
};

fn start(story: &Story, words: &[&str]) -> Running {
    let into = url(story, "postgres");
    let all = ["restore", "shop", "--into", &into, "--scratch", "scratch"];
    let log = fs::File::create(story.site.path("killed.log")).unwrap();
    let mut command = command(story, &[&all[..], words].concat());
    Running(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_partial_restores_of_postgresql_leave_nothing_after_the_next_command() {
    let Some(story) = begin(15).await else { return };
    let all = ["--create", "-T", "public.last*"];
    let before = dump(&story, "postgres", &all);
    let number = kills();
    for words in [["--table", "public.*"], ["--database", "postgres"]] {
        let takes = measure(|| {
            let status = start(&story, &words).end();
            assert_eq!(status, 0, "{}", fs::read_to_string(story.site.path("killed.log")).unwrap());
        });
        run(&story, &forget(&story).await).await;
        drop_databases(&story).await;
        let mut struck = 0;
        for kill in 0..number {
            let running = start(&story, &words);
            sleep(takes * kill / number);
            running.kill();
            struck += u32::from(sandboxes(&story.site.path("scratch")) > 0);
            run(&story, &forget(&story).await).await;
            task::block_in_place(|| ok(&story, &["--table", "customers", "--as", "last"]));
            run(&story, "DROP TABLE last").await;
            assert_none(&story.site);
            let unfinished = "SELECT count(*)::text FROM pg_database WHERE datname ~ 'stillpoint'";
            assert_eq!(story.ask(unfinished).await, "0", "after kill {kill}");
            drop_databases(&story).await;
            assert_eq!(dump(&story, "postgres", &all), before, "after kill {kill}");
        }
        assert!(struck > number / 4, "{struck} of {number} kills struck a sandbox");
    }
}

/// Statements that remove whole families that a kill came too late for: they are there as a whole
/// or not at all.
async fn forget(story: &Story) -> String {
    let came = "FROM pg_class WHERE relname ~ '_restored_' AND NOT relispartition";
    let tables = "relkind IN ('r', 'p')";
    let found = story.ask(&format!("SELECT count(*)::text {came} AND {tables}")).await;
    assert!(found == "0" || found == "10", "{found} of 10 tables came");
    let drop = |what: &str, of: &str| {
        format!(
            "SELECT coalesce(string_agg(format('DROP {what} IF EXISTS %s CASCADE;', \
             oid::regclass), ''), '') {came} AND {of}"
        )
    };
    let tables = story.ask(&drop("TABLE", tables)).await;
    tables + &story.ask(&drop("SEQUENCE", "relkind = 'S'")).await
}

async fn drop_databases(story: &Story) {
    let names = "SELECT coalesce(string_agg(datname, ','), '') FROM pg_database
        WHERE datname LIKE '%_restored_%'";
    for name in story.ask(names).await.split(',').filter(|name| !name.is_empty()) {
        run(story, &format!("DROP DATABASE \"{name}\" WITH (FORCE)")).await;
    }
}

async fn run(story: &Story, statements: &str) {
    connect(&story.server).await.batch_execute(statements).await.unwrap();
}

#[test]
fn killed_partial_restores_of_sqlite_leave_nothing_after_the_next_command() {
    let site = sqlite::site(20_000);
    let words = ["restore", "app.db", "--table", "t", "--into", "sqlite:app.db"];
    let words = [&words[..], &["--scratch", "scratch"]].concat();
    let before = sqlite::state(&site);
    let takes = measure(|| drop(site.ok(&words)));
    sqlite::forget(&site);
    let (mut struck, mut midway) = (0, 0);
    for kill in 0..kills() {
        let running = site.spawn(&words, "killed");
        sleep(takes * kill / kills() + Duration::from_millis(1));
        running.kill();
        struck += u32::from(sandboxes(&site.path("scratch")) > 0);
        midway += u32::from(sqlite::has_passing(&site));
        sqlite::forget(&site);
        site.ok(&[&words[..2], &["--table", "small", "--as", "last"], &words[4..]].concat());
        assert_none(&site);
        assert!(!sqlite::has_passing(&site));
        sqlite::sql(&site).execute_batch("DROP TABLE last").unwrap();
        assert_eq!(sqlite::state(&site), before, "after kill {kill}");
    }
    assert!(struck > kills() / 4, "{struck} of {} kills struck a sandbox", kills());
    assert!(midway > 0, "no kill struck a table that was half there");
}

/// The process is told to stop, and does so. When it says so, `look` is had; returns what it said.
fn stop(
    mut running: Running,
    (signal, status): (Signal, i32),
    log: &Path,
    look: impl Fn(),
) -> String {
    kill_process(Pid::from_child(&running.0), signal).unwrap();
    let said = loop {
        let said = fs::read_to_string(log).unwrap();
        if said.contains("could not finish") {
            break said;
        }
        assert_eq!(running.ended(), None, "it said nothing: {said}");
        sleep(Duration::from_millis(1));
    };
    look();
    assert_eq!(running.0.wait().unwrap().code(), Some(status), "{said}");
    fs::read_to_string(log).unwrap()
}

/// What is said when nothing stays.
const NOTHING: &str = "nothing half-done is visible";

#[test]
fn a_partial_restore_of_sqlite_that_is_told_to_stop_takes_back_what_it_began() {
    let site = sqlite::site(60_000);
    let words = ["restore", "app.db", "--table", "t", "--into", "sqlite:app.db"];
    let words = [&words[..], &["--scratch", "scratch"]].concat();
    let before = sqlite::state(&site);
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut running = site.spawn(&words, "stopped");
        while !sqlite::has_passing(&site) {
            assert_eq!(running.ended(), None, "it was done too early");
            sleep(Duration::from_millis(5));
        }
        let log = site.path("stopped.log");
        let clean = || assert!(!sqlite::has_passing(&site), "it was said too early");
        let said = stop(running, (signal, status), &log, clean);
        assert!(said.contains(NOTHING), "{said}");
        fs::remove_file(log).unwrap();
        assert_none(&site);
        assert_eq!(sqlite::state(&site), before);
    }
}

#[test]
fn whoever_finds_what_was_killed_says_what_may_be_left_in_the_live_database() {
    let site = sqlite::site(60_000);
    let words = ["restore", "app.db", "--table", "t", "--into", "sqlite:app.db"];
    let words = [&words[..], &["--scratch", "scratch"]].concat();
    let mut running = site.spawn(&words, "killed");
    while !sqlite::has_passing(&site) {
        assert_eq!(running.ended(), None, "it was done too early");
        sleep(Duration::from_millis(5));
    }
    running.kill();
    let said = site.ok(&["list"]).err;
    assert!(said.contains("tables stillpoint_partial_") && said.contains("--into"), "{said}");
    assert!(sqlite::has_passing(&site));
    site.ok(&[&words[..2], &["--table", "small", "--as", "last"], &words[4..]].concat());
    assert!(!sqlite::has_passing(&site));
    assert_none(&site);
}

#[test]
fn what_a_partial_restore_of_sqlite_could_not_take_back_in_time_is_told() {
    let site = sqlite::site(20_000);
    let words = ["restore", "app.db", "--table", "t", "--into", "sqlite:app.db"];
    let words = [&words[..], &["--scratch", "scratch"]].concat();
    let before = sqlite::state(&site);
    let running = site.spawn(&words, "stopped");
    while !sqlite::has_passing(&site) {
        sleep(Duration::from_millis(1));
    }
    // Nothing can be taken back while somebody else writes.
    let application = sqlite::sql(&site);
    application.busy_timeout(Duration::from_secs(20)).unwrap();
    application.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(sqlite::has_passing(&site), "it was done too early");
    let said = stop(running, (Signal::INT, 130), &site.path("stopped.log"), || ());
    assert!(!said.contains(NOTHING) && said.contains("tables stillpoint_partial_"), "{said}");
    application.execute_batch("ROLLBACK").unwrap();
    assert!(sqlite::has_passing(&site));
    site.ok(&[&words[..2], &["--table", "small", "--as", "last"], &words[4..]].concat());
    assert!(!sqlite::has_passing(&site));
    sqlite::sql(&site).execute_batch("DROP TABLE last").unwrap();
    assert_eq!(sqlite::state(&site), before);
    assert_none(&site);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_complete_goes_when_its_maker_is_told_to_stop() {
    let Some(story) = begin(15).await else { return };
    let more = "INSERT INTO big SELECT i + 10, v FROM big, generate_series(10, 13) i
        ON CONFLICT DO NOTHING";
    connect(&story.server).await.batch_execute(more).await.unwrap();
    story.back_up();
    let count = "SELECT count(*)::text FROM pg_database WHERE datname LIKE 'stillpoint%'";
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut running = start(&story, &["--database", "postgres"]);
        while story.ask(count).await == "0" {
            assert_eq!(running.ended(), None, "it was done too early");
            sleep(Duration::from_millis(5));
        }
        let log = story.site.path("killed.log");
        let said = task::block_in_place(|| {
            let gone = || assert_eq!(Handle::current().block_on(story.ask(count)), "0");
            stop(running, (signal, status), &log, gone)
        });
        assert!(said.contains(NOTHING), "{said}");
        let all = "SELECT count(*)::text FROM pg_database";
        assert_eq!(story.ask(all).await, "3");
        assert_none(&story.site);
    }

    // Nobody can remove a database while somebody else holds the list of them.
    let mut running = start(&story, &["--database", "postgres"]);
    while story.ask(count).await == "0" {
        assert_eq!(running.ended(), None, "it was done too early");
        sleep(Duration::from_millis(5));
    }
    let other = connect(&story.server).await;
    other.batch_execute("BEGIN; LOCK pg_database IN SHARE MODE").await.unwrap();
    let log = story.site.path("killed.log");
    let said = task::block_in_place(|| stop(running, (Signal::INT, 130), &log, || ()));
    assert!(!said.contains(NOTHING) && said.contains("database stillpoint_partial_"), "{said}");
    assert_eq!(story.ask(count).await, "1");
    drop(other);
    task::block_in_place(|| ok(&story, &["--table", "customers", "--as", "last"]));
    assert_eq!(story.ask(count).await, "0");
    assert_none(&story.site);
}

#[test]
fn a_killed_comparison_leaves_no_half_of_a_script() {
    let site = sqlite::site(20_000);
    sqlite::sql(&site).execute_batch("DELETE FROM t").unwrap();
    let compare = |script: &'static str| {
        let words = ["restore", "app.db", "--table", "t", "--into", "sqlite:app.db", "--compare"];
        [&words[..], &["--script", script, "--scratch", "scratch"]].concat()
    };
    let before = names(&site);
    let takes = measure(|| drop(site.ok(&compare("whole.sql"))));
    let whole = fs::read(site.path("whole.sql")).unwrap();
    assert!(whole.ends_with(b"COMMIT;\n") && whole.len() > 20_000 * 2000);
    fs::remove_file(site.path("whole.sql")).unwrap();
    let mut unfinished = 0;
    for kill in 0..kills() {
        let running = site.spawn(&compare("killed.sql"), "killed");
        sleep(takes * kill / kills() + Duration::from_millis(1));
        running.kill();
        match fs::read(site.path("killed.sql")) {
            Ok(found) => {
                assert!(found == whole, "{} of {} bytes", found.len(), whole.len());
                fs::remove_file(site.path("killed.sql")).unwrap();
            }
            Err(_) => unfinished += 1,
        }
        site.ok(&["list"]);
        fs::remove_file(site.path("killed.log")).unwrap();
        assert_eq!(names(&site), before, "after kill {kill}");
    }
    assert!(unfinished > 0, "no kill struck a comparison");
}

fn names(site: &Site) -> Vec<String> {
    let entries = fs::read_dir(site.path("")).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    // The live database may have its log and shared memory beside it.
    names.retain(|name| !name.starts_with("app.db-"));
    names.sort();
    names
}
