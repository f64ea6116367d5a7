//! Restores through the engine: to each commit, to the copy alone, and refusals.

use std::{collections::BTreeMap, fs, path::Path};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use stillpoint_conformance::memory::{MemoryLog, RealClock};
use stillpoint_contract::{
    Clock as _, Engine as _, ErrorKind, LogEvent, LogEventKind, LogMark, LogPosition, LogRange,
    LogSegment, LogSource, Overwrite, Reached, Recovery, RecoveryTarget, RestoreExtras,
    RestorePlan, RestoreRequest, Result, SegmentHead,
};
use stillpoint_postgres::PostgresEngine;
use stillpoint_testcontainers::{Postgres, PostgresOptions};
use tempfile::TempDir;

use super::stage::{Copy, Stage, connect, engine};

const SEGMENT_BYTES: u64 = 1 << 20;

/// Commits of one row each, with where and when they ended.
#[derive(Debug)]
struct Story {
    stage: Stage,
    copy: Copy,
    log: MemoryLog,
    commits: Vec<(LogPosition, DateTime<Utc>)>,
}

fn with_programs(major: u32) -> PostgresEngine {
    engine().with_programs(vec![Postgres::programs(major).unwrap()])
}

fn lsn(text: &str) -> u64 {
    let (high, low) = text.split_once('/').unwrap();
    (u64::from_str_radix(high, 16).unwrap() << 32) | u64::from_str_radix(low, 16).unwrap()
}

/// WAL as the server keeps it.
fn wal(data: &Path, start: u64, end: u64) -> Bytes {
    let mut bytes = Vec::new();
    for number in start / SEGMENT_BYTES..=end / SEGMENT_BYTES {
        let (log, low) = (number / 4096, number % 4096);
        let path = data.join("pg_wal").join(format!("00000001{log:08X}{low:08X}"));
        bytes.extend(fs::read(path).unwrap_or_default());
    }
    let from = (start % SEGMENT_BYTES) as usize;
    bytes[from..from + (end - start) as usize].to_vec().into()
}

impl Story {
    async fn tell(major: u32) -> Option<Self> {
        let settings = ["checkpoint_timeout = 1h", "autovacuum = off", "wal_keep_size = 200MB"];
        let settings = settings.map(str::to_owned).into();
        let options =
            PostgresOptions { wal_segment_mib: 1, settings, ..PostgresOptions::default() };
        let stage = Stage::open_with(major, &options).await?;
        let copy = stage.back_up("").await;
        let start = copy.evidence.consistent_at.clone().unwrap();
        let log = MemoryLog::at(start.clone());
        let (client, clock) = (stage.client().await, RealClock::new());
        let (mut commits, mut before) = (Vec::new(), start);
        for number in 1..=8 {
            // Some of them fill more than one file.
            let rows = if number % 4 == 0 { 30_000 } else { 1 };
            let row = client
                .query_one(
                    &format!(
                        "WITH t AS (INSERT INTO ledger SELECT {number} FROM \
                         generate_series(1, {rows}) RETURNING 1) SELECT count(*) FROM t"
                    ),
                    &[],
                )
                .await
                .unwrap();
            assert_eq!(row.get::<_, i64>(0), rows);
            let row = client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await;
            let end = before.at(u128::from(lsn(row.unwrap().get(0))));
            let at = clock.now();
            let (from, to) = (before.offset as u64, end.offset as u64);
            let event = LogEvent { offset: end.offset, at, what: LogEventKind::Commit };
            let head = SegmentHead {
                range: LogRange::new(before.clone(), end.clone()).unwrap(),
                succeeds: None,
                events: vec![event],
                not_before: None,
                cursor: Bytes::new(),
                index: Bytes::new(),
            };
            log.append(LogSegment { head, body: wal(stage.server.data(), from, to) }).unwrap();
            commits.push((end.clone(), at));
            before = end;
            // A running server writes such things at any time; no segment needs to end there.
            clock.sleep(std::time::Duration::from_millis(3)).await;
        }
        Some(Self { stage, copy, log, commits })
    }

    async fn plan(
        &self,
        until: &RecoveryTarget,
        (target, staging): (&Path, &Path),
        overwrite: Overwrite,
    ) -> Result<RestorePlan> {
        let request = RestoreRequest {
            evidence: &self.copy.evidence,
            version: "",
            settings: &BTreeMap::new(),
            parts: &self.copy.parts,
            extras: &RestoreExtras::default(),
            target,
            staging,
            until,
            overwrite,
        };
        engine().plan_restore(&request).await
    }

    async fn recover(&self, plan: &RestorePlan, log: &mut dyn LogSource) -> Result<Reached> {
        self.copy.parts.lay_out(plan)?;
        let Copy { evidence, parts } = &self.copy;
        with_programs(self.stage.server.major())
            .recover(Recovery { plan, evidence, parts, log })
            .await
    }

    /// Restores into `directory`, and counts the rows of each commit.
    async fn restore(&self, until: RecoveryTarget) -> Result<(Vec<i64>, Reached)> {
        let directory = open_directory();
        let (target, staging) = (directory.path().join("restored"), directory.path().join("s"));
        fs::create_dir(&staging).unwrap();
        let plan = self.plan(&until, (&target, &staging), Overwrite::Never).await?;
        let mut log = self.log.from(self.copy.evidence.consistent_at.as_ref().unwrap());
        let reached = self.recover(&plan, &mut log).await?;
        let said = engine().check(&plan).await?;
        assert!(said.contains("ok"), "{said}");
        engine().publish(&plan).await?;
        let server = Postgres::start_on(self.stage.server.major(), &target).unwrap();
        let query = "SELECT DISTINCT number FROM ledger ORDER BY number";
        let rows = connect(&server.conninfo()).await.query(query, &[]).await.unwrap();
        Ok((rows.iter().map(|row| row.get(0)).collect(), reached))
    }
}

/// A directory that the server's user may enter.
fn open_directory() -> TempDir {
    use std::os::unix::fs::PermissionsExt as _;

    let directory = TempDir::with_prefix("stillpoint-restores-").unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

async fn every_point_on(major: u32) {
    let Some(story) = Story::tell(major).await else { return };
    for (number, (position, at)) in (1..).zip(&story.commits) {
        let until = RecoveryTarget::Position(position.clone());
        let (rows, reached) = story.restore(until).await.unwrap();
        assert_eq!(rows, (0..=number).collect::<Vec<_>>(), "{position}");
        assert_eq!(reached.position.as_ref(), Some(position));
        assert_eq!(reached.transactions, number as u64);
        let (rows, reached) = story.restore(RecoveryTarget::Time(*at)).await.unwrap();
        assert_eq!(rows, (0..=number).collect::<Vec<_>>(), "{at}");
        assert_eq!(reached.committed_at, Some(*at));
    }
    let (rows, _) = story.restore(RecoveryTarget::Latest).await.unwrap();
    assert_eq!(rows.len(), 9);
    let (rows, reached) = story.restore(RecoveryTarget::Consistent).await.unwrap();
    assert_eq!((rows, reached.transactions), (vec![0], 0));
    assert_eq!(reached.position, story.copy.evidence.consistent_at);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_point_can_be_restored_on_13() {
    every_point_on(13).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_point_can_be_restored_on_15() {
    every_point_on(15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_point_can_be_restored_on_18() {
    every_point_on(18).await;
}

/// A restore works in a directory that is its own user's alone, and the server has another user.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_replays_where_its_user_may_not_go() {
    use std::os::unix::fs::PermissionsExt as _;

    for major in [13, 15, 18] {
        let Some(story) = Story::tell(major).await else { continue };
        let directory = open_directory();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let (target, staging) = (directory.path().join("restored"), directory.path().join("s"));
        fs::create_dir(&staging).unwrap();
        let until = RecoveryTarget::Latest;
        let plan = story.plan(&until, (&target, &staging), Overwrite::Never).await.unwrap();
        let start = story.copy.evidence.consistent_at.as_ref().unwrap();
        let reached = story.recover(&plan, &mut story.log.from(start)).await.unwrap();
        assert_eq!(reached.transactions, 8);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reached_is_refused() {
    let Some(story) = Story::tell(15).await else { return };
    let (last, _) = story.commits.last().unwrap();
    for (position, kind) in [
        (last.at(last.offset - 1), ErrorKind::Invalid),
        (last.at(last.offset + 1), ErrorKind::Gap),
        (last.at(1), ErrorKind::Invalid),
    ] {
        let error = story.restore(RecoveryTarget::Position(position)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_wal_is_not_passed_off_as_the_point() {
    let Some(story) = Story::tell(15).await else { return };
    let start = story.copy.evidence.consistent_at.clone().unwrap();
    let damaged = MemoryLog::at(start.clone());
    let mark = LogMark { position: start.clone(), cursor: Bytes::new() };
    let mut source = story.log.from(&mark.position);
    while let Some(head) = source.next().await.unwrap() {
        let mut body = source.body().await.unwrap().to_vec();
        let middle = body.len() / 2;
        body[middle] ^= 0xff;
        damaged.append(LogSegment { head, body: body.into() }).unwrap();
    }
    let story = Story { log: damaged, ..story };
    let error = story.restore(RecoveryTarget::Latest).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_replaced_in_one_step_unless_it_runs() {
    let Some(story) = Story::tell(15).await else { return };
    let directory = open_directory();
    let (target, staging) = (directory.path().join("restored"), directory.path().join("s"));
    let until = RecoveryTarget::Consistent;
    for round in 0..2 {
        fs::create_dir(&staging).unwrap();
        let overwrite = if round == 0 { Overwrite::Never } else { Overwrite::Replace };
        let plan = story.plan(&until, (&target, &staging), overwrite).await.unwrap();
        let start = story.copy.evidence.consistent_at.as_ref().unwrap();
        story.recover(&plan, &mut story.log.from(start)).await.unwrap();
        engine().publish(&plan).await.unwrap();
        assert!(target.join("PG_VERSION").is_file());
        fs::remove_dir_all(&staging).unwrap();
    }
    fs::create_dir(&staging).unwrap();
    let place = (target.as_path(), staging.as_path());
    let refused = story.plan(&until, place, Overwrite::Never).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    let _running = Postgres::start_on(15, &target).unwrap();
    let refused = story.plan(&until, place, Overwrite::Replace).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    let other = directory.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("letter"), "dear").unwrap();
    let place = (other.as_path(), staging.as_path());
    let refused = story.plan(&until, place, Overwrite::Replace).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_is_found() {
    use std::os::unix::fs::FileExt as _;

    let Some(story) = Story::tell(15).await else { return };
    let directory = open_directory();
    let (target, staging) = (directory.path().join("restored"), directory.path().join("s"));
    fs::create_dir(&staging).unwrap();
    let until = RecoveryTarget::Consistent;
    let plan = story.plan(&until, (&target, &staging), Overwrite::Never).await.unwrap();
    let start = story.copy.evidence.consistent_at.as_ref().unwrap();
    story.recover(&plan, &mut story.log.from(start)).await.unwrap();
    engine().check(&plan).await.unwrap();
    let query = "SELECT pg_relation_filepath('still')";
    let row = story.stage.client().await.query_one(query, &[]).await.unwrap();
    let path = staging.join("data").join(row.get::<_, String>(0));
    let file = fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(b"damage", 5 * 8192 + 4000).unwrap();
    let error = engine().check(&plan).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.facts().iter().any(|(_, fact)| fact.starts_with("page 5 of ")), "{error:?}");
}
