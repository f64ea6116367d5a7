//! Signals, closed pipes and limits of time.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use super::bench::Bench;

#[test]
fn a_capture_that_is_told_to_stop_keeps_what_it_has_and_says_by_which_signal() {
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let bench = Bench::with_database();
        bench.ok(&["backup", "sqlite:app.db"]);
        let stream = bench.stream();
        bench.wait_until_capturing();
        let application = rusqlite::Connection::open(bench.path("app.db")).unwrap();
        application.execute("INSERT INTO t DEFAULT VALUES", []).unwrap();
        kill_process(Pid::from_raw(stream.pid()).unwrap(), signal).unwrap();
        assert_eq!(stream.wait(), status);
        bench.ok(&["restore", "app.db", "--to", "back.db"]);
        assert_eq!(bench.rows("back.db"), 11, "the last commit was not captured");
    }
}

#[test]
fn what_shall_outlive_its_terminal_does() {
    let bench = Bench::with_database();
    bench.ok(&["backup", "sqlite:app.db"]);
    let words = ["-c", "trap '' HUP; exec \"$0\" logs stream sqlite:app.db --stop-at-eof"];
    let mut command = bench.command(&[]);
    let environment: Vec<_> = command
        .get_envs()
        .map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned)))
        .collect();
    command = std::process::Command::new("/bin/sh");
    command
        .args(words)
        .arg(env!("CARGO_BIN_EXE_stillpoint"))
        .current_dir(bench.path(""))
        .env_clear();
    command.envs(environment.into_iter().filter_map(|(name, value)| Some((name, value?))));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    bench.wait_until_capturing();
    let pid = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::HUP).unwrap();
    let application = rusqlite::Connection::open(bench.path("app.db")).unwrap();
    application.execute("INSERT INTO t DEFAULT VALUES", []).unwrap();
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    bench.ok(&["restore", "app.db", "--to", "back.db"]);
    assert_eq!(bench.rows("back.db"), 11);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let bench = Bench::new();
    let mut child = bench.command(&["man"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_limit_of_time_ends_the_work_and_nothing_half_done_is_visible() {
    let bench = Bench::with_database();
    bench.refused(&["backup", "sqlite:app.db", "--timeout", "0s"], "SP0002", 8);
    assert_eq!(bench.json(&["list"])["backups"].as_array().unwrap().len(), 0);
    bench.refused(&["backup", "sqlite:app.db", "--timeout", "soon"], "SP0100", 2);
}
