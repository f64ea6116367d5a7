//! Kills at the beginning of each phase of a drill and of a partial restore, as the program names
//! them.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use super::remains::assert_none;
use crate::{
    mounts::mounts,
    partial::{shop, sqlite},
    postgres::{Story, connect},
    site::Site,
};

/// Tells its phases, and nothing but.
fn start(command: &mut Command) -> (Child, impl Iterator<Item = String> + use<>) {
    command.env("STILLPOINT_LOG", "stillpoint::pipeline=info");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let phase = |line: String| Some(line.split_once(" phase: ")?.1.to_owned());
    (child, lines.filter_map(phase))
}

/// Kills as soon as each phase begins, and amid it; `after` runs the next command, and looks.
#[expect(clippy::disallowed_methods, reason = "the test measures real time")]
fn kill_at_each(
    site: &Site,
    command: &dyn Fn() -> Command,
    expected: &[&str],
    after: &dyn Fn(&str),
) {
    let (mut child, phases) = start(&mut command());
    let (phases, mut begun): (Vec<_>, Vec<_>) = phases.map(|p| (p, Instant::now())).unzip();
    assert!(child.wait().unwrap().success(), "{phases:?}");
    begun.push(Instant::now());
    assert_eq!(phases, expected);
    after("the whole");
    let lengths = begun.windows(2).map(|pair| pair[1] - pair[0]);
    for (number, length) in lengths.enumerate() {
        for pause in [Duration::ZERO, length / 2] {
            let (mut child, mut told) = start(&mut command());
            let phase = told.nth(number).unwrap();
            sleep(pause);
            child.kill().unwrap();
            child.wait().unwrap();
            after(&phase);
            assert_none(site);
            assert_eq!(mounts(&site.path("scratch")), 0, "killed at {phase}");
        }
    }
}

const DRILL: [&str; 4] = ["drill", "run", "--scratch", "scratch"];
const QUESTION: [&str; 4] = ["--check", "SELECT 1", "--expect", "1"];

/// Phases of a drill, mounted and restored.
const MOUNTED: [&str; 10] = [
    "choose",
    "replay",
    "open",
    "first query",
    "check",
    "count",
    "ask",
    "check files",
    "read back",
    "remove",
];
const RESTORED: [&str; 10] =
    ["choose", "copy", "replay", "check", "open", "first query", "check", "count", "ask", "remove"];

/// Phases of a partial restore, by what it does with a copy that is there.
const BROUGHT: [&str; 5] = ["open", "prepare", "rows", "commit", "remove"];
const COMPARED: [&str; 4] = ["open", "prepare", "compare", "remove"];

/// Phases until a copy is there: mounted, which SQLite has to check for itself, and restored.
const MOUNTING: [&str; 2] = ["choose", "replay"];
const CHECKING: [&str; 3] = ["choose", "replay", "check"];
const RESTORING: [&str; 4] = ["choose", "copy", "replay", "check"];

#[test]
fn a_drill_of_sqlite_that_is_killed_at_any_phase_leaves_nothing() {
    let site = Site::new();
    drop(site.create("app.db", 3000));
    fs::create_dir(site.path("scratch")).unwrap();
    site.ok(&["backup", "sqlite:app.db"]);
    let after = |_: &str| drop(site.ok(&["drill", "list"]));
    for (more, phases) in [(&[][..], &MOUNTED), (&["--no-mount"], &RESTORED)] {
        let words = [&DRILL[..], &["app.db"], &QUESTION, more].concat();
        kill_at_each(&site, &|| site.command(&words), phases, &after);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_of_postgresql_that_is_killed_at_any_phase_leaves_nothing() {
    let Some(mut story) = Story::begin(15, "local").await else { return };
    story.write(3).await;
    story.back_up();
    fs::create_dir(story.site.path("scratch")).unwrap();
    let after = |_: &str| drop(story.site.ok(&["drill", "list"]));
    for (more, phases) in [(&[][..], &MOUNTED), (&["--no-mount"], &RESTORED)] {
        let words = [&DRILL[..], &["shop"], &QUESTION, more].concat();
        let command = || shop::command(&story, &words);
        tokio::task::block_in_place(|| kill_at_each(&story.site, &command, phases, &after));
    }
    assert_eq!(story.ask("SELECT count(*)::text FROM pg_replication_slots").await, "0");
}

#[test]
fn a_partial_restore_of_sqlite_that_is_killed_at_any_phase_leaves_nothing() {
    let site = sqlite::site(3000);
    let words = ["restore", "app.db", "--into", "sqlite:app.db", "--scratch", "scratch"];
    let before = sqlite::state(&site);
    let after = |phase: &str| {
        sqlite::forget(&site);
        site.ok(&[&words[..], &["--table", "small", "--as", "last"]].concat());
        assert!(!sqlite::has_passing(&site), "killed at {phase}");
        sqlite::sql(&site).execute_batch("DROP TABLE last").unwrap();
        assert_eq!(sqlite::state(&site), before, "killed at {phase}");
    };
    let script = ["--compare", "--script", "merge.sql"];
    for (more, phases) in [
        (&[][..], [&CHECKING[..], &BROUGHT].concat()),
        (&["--no-mount"], [&RESTORING[..], &BROUGHT].concat()),
        (&script, [&CHECKING[..], &COMPARED].concat()),
    ] {
        let words = [&words[..], &["--table", "t"], more].concat();
        kill_at_each(&site, &|| site.command(&words), &phases, &|phase| {
            // A script is there as a whole or not at all.
            if let Ok(script) = fs::read_to_string(site.path("merge.sql")) {
                assert!(script.ends_with("COMMIT;\n"), "killed at {phase}");
                fs::remove_file(site.path("merge.sql")).unwrap();
            }
            after(phase);
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_restore_of_postgresql_that_is_killed_at_any_phase_leaves_nothing() {
    let Some(story) = shop::begin(15).await else { return };
    let all = ["--create", "-T", "public.last*"];
    let before = shop::dump(&story, "postgres", &all);
    let into = shop::url(&story, "postgres");
    let words = ["restore", "shop", "--into", &into, "--scratch", "scratch"];
    let run = |statements: String| {
        let work = async { connect(&story.server).await.batch_execute(&statements).await.unwrap() };
        tokio::runtime::Handle::current().block_on(work);
    };
    let ask = |query: &str| tokio::runtime::Handle::current().block_on(story.ask(query));
    let after = |phase: &str| {
        // What a killed client asked for last, its server process may still be at.
        let busy = "SELECT count(*)::text FROM pg_stat_activity
            WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND state <> 'idle'";
        for _ in 0..50 {
            if ask(busy) == "0" {
                break;
            }
            sleep(Duration::from_millis(100));
        }
        run(ask(
            "SELECT coalesce(string_agg(format('DROP TABLE %s CASCADE;', oid::regclass), ''), '')
            FROM pg_class WHERE relname ~ '_restored_' AND relkind = 'r'",
        ));
        shop::ok(&story, &["--table", "customers", "--as", "last"]);
        run("DROP TABLE last".to_owned());
        assert_eq!(ask("SELECT count(*)::text FROM pg_database WHERE datname ~ 'stillpoint'"), "0");
        let made = ask("SELECT coalesce(min(datname), '') FROM pg_database
            WHERE datname ~ '_restored_'");
        if !made.is_empty() {
            run(format!("DROP DATABASE \"{made}\" WITH (FORCE)"));
        }
        assert_eq!(shop::dump(&story, "postgres", &all), before, "killed at {phase}");
        assert_eq!(ask("SELECT count(*)::text FROM pg_replication_slots"), "0");
    };
    let orders = ["--table", "orders"];
    for (more, phases) in [
        (orders.to_vec(), [&MOUNTING[..], &BROUGHT].concat()),
        (vec!["--database", "postgres"], [&MOUNTING[..], &BROUGHT].concat()),
        ([&orders[..], &["--no-mount"]].concat(), [&RESTORING[..], &BROUGHT].concat()),
        ([&orders[..], &["--compare"]].concat(), [&MOUNTING[..], &COMPARED].concat()),
    ] {
        let words = [&words[..], &more].concat();
        let command = || shop::command(&story, &words);
        tokio::task::block_in_place(|| kill_at_each(&story.site, &command, &phases, &after));
    }
}
