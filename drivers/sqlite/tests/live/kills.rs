//! Everybody is killed at random, and every commit that was captured can still be restored.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use stillpoint_contract::{LogPosition, LogSegment, OpenedLog, RecoveryTarget, SegmentHead};
use tempfile::TempDir;

use crate::{
    bank::{audit, open_bank, spawn_teller},
    dice::{Dice, seeds},
    doubles::{Copy, Log, back_up, commits, connect, mark, restore},
    process::now,
};

/// How long everybody lives dangerously.
const DURATION: Duration = Duration::from_secs(6);

/// How many points are restored.
const POINTS: usize = 100;

/// This test is the main function of a process that captures the log into a directory, or takes
/// backups for ever.
#[tokio::test]
async fn a_capturing_process() {
    let Some(task) = env::var_os("STILLPOINT_TEST_CAPTURE") else { return };
    let task = task.into_string().unwrap();
    let (kind, paths) = task.split_once('|').unwrap();
    let (path, directory) = paths.split_once('|').unwrap();
    let (path, directory) = (Path::new(path), Path::new(directory));
    loop {
        match kind {
            "capture" => ship(path, directory, true).await,
            _ => drop(back_up(connect(path).await.as_ref(), None).await),
        }
    }
}

fn spawn_capture(kind: &str, path: &Path, directory: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "kills::a_capturing_process", "--nocapture"])
        .env(
            "STILLPOINT_TEST_CAPTURE",
            format!("{kind}|{}|{}", path.display(), directory.display()),
        )
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Captures the log into files, from where the files end; for ever, or until nothing is left.
async fn ship(path: &Path, directory: &Path, for_ever: bool) {
    let stored = load(directory);
    let mut number = stored.iter().map(|(log, _)| log.0.len()).sum();
    let since = stored.last().and_then(|(log, _)| mark(log));
    let opened = connect(path).await.open_log(since.as_ref()).await;
    let Ok(OpenedLog { mut capture, mut gap, .. }) = opened else {
        assert!(for_ever, "{opened:?}");
        return;
    };
    if since.is_none() {
        gap = Some("first".into());
    }
    loop {
        match capture.next().await {
            Ok(Some(segment)) => {
                let end = segment.head.range.end().clone();
                store(directory, number, &segment, gap.take().as_deref());
                number += 1;
                capture.confirm(&end).await.unwrap();
            }
            Ok(None) if for_ever => std::thread::sleep(Duration::from_millis(20)),
            Ok(None) => return,
            Err(error) => {
                println!("capture ends: {error:?}");
                return;
            }
        }
    }
}

fn store(directory: &Path, number: usize, segment: &LogSegment, gap: Option<&str>) {
    let head = &segment.head;
    let text = json!({
        "range": head.range, "succeeds": head.succeeds, "events": head.events,
        "cursor": head.cursor.to_vec(), "index": head.index.to_vec(), "gap": gap,
    });
    let body = directory.join(format!("{number:06}.body"));
    fs::write(body, &segment.body).unwrap();
    let temporary = directory.join("temporary");
    fs::write(&temporary, text.to_string()).unwrap();
    fs::rename(temporary, directory.join(format!("{number:06}.head"))).unwrap();
}

/// What was captured: stretches without a gap, each with why it begins anew.
fn load(directory: &Path) -> Vec<(Log, String)> {
    let mut stretches: Vec<(Log, String)> = Vec::new();
    for number in 0.. {
        let Ok(text) = fs::read(directory.join(format!("{number:06}.head"))) else { break };
        let text: Value = serde_json::from_slice(&text).unwrap();
        let bytes = |name: &str| -> Vec<u8> { serde_json::from_value(text[name].clone()).unwrap() };
        let head = SegmentHead {
            range: serde_json::from_value(text["range"].clone()).unwrap(),
            succeeds: serde_json::from_value(text["succeeds"].clone()).unwrap(),
            events: serde_json::from_value(text["events"].clone()).unwrap(),
            not_before: None,
            cursor: bytes("cursor").into(),
            index: bytes("index").into(),
        };
        let body = fs::read(directory.join(format!("{number:06}.body"))).unwrap().into();
        if let Some(gap) = text["gap"].as_str() {
            stretches.push((Log::default(), gap.to_owned()));
        }
        stretches.last_mut().unwrap().0.0.push(LogSegment { head, body });
    }
    stretches
}

/// The commits that the log has after an anchor, without a gap in between.
fn later(log: &Log, anchor: &LogPosition) -> Vec<(LogPosition, DateTime<Utc>)> {
    let commits = commits(&Log(log.from(anchor).into_segments()));
    commits.into_iter().filter(|(at, _)| at > anchor || at.lineage != anchor.lineage).collect()
}

fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

struct Scene {
    directory: TempDir,
    path: PathBuf,
    log: PathBuf,
}

/// Lets writers, a capture and backups run, killing one of them every moment. Returns backups
/// that were not killed, with the number of transfers in each.
async fn live_dangerously(scene: &Scene, dice: &mut Dice) -> Vec<Copy> {
    let driver = connect(&scene.path).await;
    let mut writers: Vec<_> = (0..3).map(|_| spawn_teller(60, &scene.path)).collect();
    let mut capture = spawn_capture("capture", &scene.path, &scene.log);
    let mut backups = spawn_capture("backup", &scene.path, &scene.log);
    let mut copies = vec![back_up(driver.as_ref(), None).await.unwrap()];
    let begun = now();
    while begun.elapsed() < DURATION {
        std::thread::sleep(Duration::from_millis(100 + dice.roll(300)));
        match dice.roll(6) {
            0..2 => {
                let writer = dice.roll(3) as usize;
                kill(&mut writers[writer]);
                writers[writer] = spawn_teller(60, &scene.path);
            }
            2 => {
                kill(&mut capture);
                std::thread::sleep(Duration::from_millis(dice.roll(60)));
                capture = spawn_capture("capture", &scene.path, &scene.log);
            }
            3 => {
                kill(&mut backups);
                backups = spawn_capture("backup", &scene.path, &scene.log);
            }
            _ => copies.push(back_up(driver.as_ref(), None).await.unwrap()),
        }
    }
    writers.iter_mut().chain([&mut capture, &mut backups]).for_each(kill);
    copies
}

#[tokio::test]
async fn the_bank_balances_at_every_point_although_everybody_is_killed() {
    let seed = seeds([20_261_122])[0];
    let mut dice = Dice::new(seed);
    println!("seed {seed}");
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("bank.db");
    let log = directory.path().join("log");
    fs::create_dir(&log).unwrap();
    let scene = Scene { directory, path, log };
    let bank = open_bank(&scene.path);
    let copies = live_dangerously(&scene, &mut dice).await;
    ship(&scene.path, &scene.log, false).await;
    let check: String = bank.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");

    let stretches = load(&scene.log);
    let restored = scene.directory.path().join("restored");
    fs::create_dir(&restored).unwrap();
    let mut joined = Vec::new();
    for copy in &copies {
        let (file, _) =
            restore(copy, &Log::default(), RecoveryTarget::Consistent, &restored).await.unwrap();
        let transfers = audit(&file);
        let anchor = copy.evidence.consistent_at.clone().unwrap();
        let follows = stretches.iter().map(|(log, _)| (log, later(log, &anchor)));
        if let Some((log, commits)) = follows.into_iter().find(|(_, later)| !later.is_empty()) {
            joined.push((copy, transfers, log, commits));
        }
    }
    for _ in 0..POINTS {
        let chosen = dice.roll(joined.len() as u64) as usize;
        let (copy, transfers, log, commits) = &joined[chosen];
        let (at, time) = &commits[dice.roll(commits.len() as u64) as usize];
        let until = if dice.roll(2) == 0 {
            RecoveryTarget::Position(at.clone())
        } else {
            RecoveryTarget::Time(*time)
        };
        let (file, reached) = restore(copy, log, until, &restored).await.unwrap();
        assert_eq!(audit(&file), transfers + reached.transactions.cast_signed(), "{at}");
        assert!(reached.committed_at.is_none_or(|reached| reached <= *time));
        fs::remove_dir_all(file.parent().unwrap()).unwrap();
    }
    println!(
        "{} transfers, {} backups of which {} join the log, {POINTS} points, {} stretches: \
         {:?}",
        audit(&scene.path),
        copies.len(),
        joined.len(),
        stretches.len(),
        stretches.iter().map(|(log, gap)| (log.0.len(), gap.as_str())).collect::<Vec<_>>()
    );
}
