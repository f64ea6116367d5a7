//! A backup and its log become a file that another server can be started on.

use std::path::{Path, PathBuf};

use stillpoint_contract::{
    Error, ErrorKind, LogEventKind, LogPosition, LogSource, Overwrite, PartName, Placement,
    Reached, Recovery, RecoveryTarget, RestorePlan, RestoreRequest, Result, SegmentHead, Source,
    code,
};
use tokio::{fs, io};

use crate::{
    Table, Write,
    error::{no_commit, too_early, unreachable},
    history::WRITE_BYTES,
    snapshot::{LOG, TABLE},
};

/// How much of a part is read at a time, in bytes: whole writes, and less than the limit.
const READ_BYTES: u64 = (WRITE_BYTES as u64) << 20;

/// Decides where things go; see [`Engine`](stillpoint_contract::Engine).
pub(crate) fn plan(request: &RestoreRequest<'_>) -> Result<RestorePlan> {
    request.extras.refuse()?;
    let target = request.target;
    if target.exists() && request.overwrite == Overwrite::Never {
        let step = "restore to a place where something is";
        return Err(Error::new(ErrorKind::Refused, code::TARGET_EXISTS, step)
            .with("target", target.display())
            .next("choose another target, or repeat with --force"));
    }
    Ok(RestorePlan {
        target: target.to_owned(),
        staging: request.staging.to_owned(),
        database: staged(request.staging),
        placements: vec![Placement { prefix: TABLE.to_owned(), path: staged(request.staging) }],
        files: Vec::new(),
        replays_log: *request.until != RecoveryTarget::Consistent,
        until: request.until.clone(),
        overwrite: request.overwrite,
        proof: "the position of the last transaction that was replayed".to_owned(),
        relocated: Vec::new(),
        rewrite: None,
        notes: Vec::new(),
        owner: None,
        modes: None,
    })
}

fn staged(staging: &Path) -> PathBuf {
    staging.join(TABLE)
}

/// Replays the log that the copy brought along, and then the captured one.
pub(crate) async fn recover(recovery: Recovery<'_>) -> Result<Reached> {
    let Recovery { plan, evidence, parts, log } = recovery;
    let path = staged(&plan.staging);
    let bytes = fs::read(&path).await.map_err(|error| failed("read the table", &path, error))?;
    let mut table = Table::decode(&bytes)?;
    if evidence.replay.is_some() {
        replay_part(&mut table, parts).await?;
    }
    let mut replay = Replay::new(table, evidence.consistent_at.clone());
    if plan.until != RecoveryTarget::Consistent {
        replay.run(log, &plan.until).await?;
    }
    write_durably(&path, &replay.table).await?;
    Ok(replay.reached)
}

async fn replay_part(table: &mut Table, parts: &dyn Source) -> Result<()> {
    let name = PartName::new(LOG)?;
    for offset in (0..).step_by(READ_BYTES as usize) {
        let bytes = parts.read(&name, offset..offset + READ_BYTES).await?;
        Write::decode_all(&bytes)?.try_for_each(|write| table.set(write.cell, write.value))?;
        if (bytes.len() as u64) < READ_BYTES {
            break;
        }
    }
    Ok(())
}

/// A table on its way to the target.
struct Replay {
    table: Table,
    /// What the log was read to: behind `reached` while a transaction is incomplete.
    at: Option<LogPosition>,
    /// The writes of a transaction whose commit was not read yet.
    pending: Vec<Write>,
    reached: Reached,
}

impl Replay {
    fn new(table: Table, start: Option<LogPosition>) -> Self {
        let reached = Reached { position: start.clone(), committed_at: None, transactions: 0 };
        Self { table, at: start, pending: Vec::new(), reached }
    }

    async fn run(&mut self, log: &mut dyn LogSource, until: &RecoveryTarget) -> Result<()> {
        let Some(start) = self.at.clone() else { return Ok(()) };
        if let RecoveryTarget::Position(wanted) = until {
            if *wanted == start {
                return Ok(());
            }
            if *wanted < start {
                return Err(too_early(wanted));
            }
        }
        while let Some(head) = log.next().await? {
            let (end, last) = stop(&head, until)?;
            let from = self.enter(&head)?;
            if end > from {
                let body = log.body().await?;
                self.apply(&head, &body, from, end)?;
            }
            if last {
                return Ok(());
            }
        }
        match until {
            RecoveryTarget::Position(_) => Err(unreachable(&start)),
            RecoveryTarget::Time(_) | RecoveryTarget::Latest | RecoveryTarget::Consistent => Ok(()),
        }
    }

    /// The offset in `head` from which on everything is new.
    fn enter(&self, head: &SegmentHead) -> Result<u128> {
        let (start, at) = (head.range.start(), self.at.as_ref());
        match at {
            Some(at) if head.range.touches(at) => Ok(at.offset),
            // The first segment may end before the copy; a later one may begin another lineage.
            Some(at) if *head.range.end() <= *at => Ok(head.range.end().offset),
            Some(at) if head.succeeds.as_ref() == Some(at) => Ok(start.offset),
            _ => Err(broken("join a segment to what was replayed").with("segment", start)),
        }
    }

    /// Applies the writes of a segment between two offsets, transaction by transaction.
    fn apply(&mut self, head: &SegmentHead, body: &[u8], from: u128, end: u128) -> Result<()> {
        let start = head.range.start().offset;
        let length = head.range.end().offset - start;
        if body.len() as u128 != length * WRITE_BYTES as u128 {
            return Err(broken("read a segment").with("segment", head.range.start()));
        }
        let mut commits = head.events.iter().filter(|e| e.what == LogEventKind::Commit);
        let mut commit = commits.find(|event| event.offset > from);
        for (offset, write) in (start + 1..=end).zip(Write::decode_all(body)?) {
            if offset <= from {
                continue;
            }
            self.pending.push(write);
            if let Some(event) = commit.filter(|event| event.offset == offset) {
                for write in self.pending.drain(..) {
                    self.table.set(write.cell, write.value)?;
                }
                self.reached = Reached {
                    position: Some(head.range.start().at(offset)),
                    committed_at: Some(event.at),
                    transactions: self.reached.transactions + 1,
                };
                commit = commits.next();
            }
        }
        self.at = Some(head.range.start().at(end));
        Ok(())
    }
}

/// Up to which offset a segment is wanted, and whether it is the last one.
fn stop(head: &SegmentHead, until: &RecoveryTarget) -> Result<(u128, bool)> {
    let (start, end) = (head.range.start(), head.range.end());
    let commits = || head.events.iter().filter(|event| event.what == LogEventKind::Commit);
    match until {
        RecoveryTarget::Position(wanted) if wanted <= end => {
            let is_commit = commits().any(|event| event.offset == wanted.offset);
            let is_start = head.succeeds.is_some() && wanted == start;
            if is_commit || is_start { Ok((wanted.offset, true)) } else { Err(no_commit(wanted)) }
        }
        RecoveryTarget::Time(instant) => {
            let late = commits().position(|event| event.at > *instant);
            let in_time = late.map(|late| commits().take(late).last());
            Ok(in_time.map_or((end.offset, false), |last| {
                (last.map_or(start.offset, |event| event.offset), true)
            }))
        }
        RecoveryTarget::Position(_) | RecoveryTarget::Latest | RecoveryTarget::Consistent => {
            Ok((end.offset, false))
        }
    }
}

/// Reads every page again and compares its checksum.
pub(crate) async fn check(plan: &RestorePlan) -> Result<String> {
    let path = staged(&plan.staging);
    let bytes = fs::read(&path).await.map_err(|error| failed("read the table", &path, error))?;
    let table = Table::decode(&bytes)?;
    Ok(format!("the checksums of {} pages", table.page_count()))
}

/// Puts the file in its place in one step.
pub(crate) async fn publish(plan: &RestorePlan) -> Result<()> {
    let (from, to) = (staged(&plan.staging), &plan.target);
    let placed = match plan.overwrite {
        // A link, unlike a rename, fails when something is there.
        Overwrite::Never => fs::hard_link(&from, to).await,
        Overwrite::Replace => fs::rename(&from, to).await,
    };
    placed.map_err(|error| failed("put the table in its place", to, error))?;
    sync_parent(to).await
}

async fn write_durably(path: &Path, table: &Table) -> Result<()> {
    let bytes: Vec<u8> = (0..table.page_count()).flat_map(|page| table.encode_page(page)).collect();
    let written = async {
        fs::write(path, bytes).await?;
        fs::File::open(path).await?.sync_all().await
    };
    written.await.map_err(|error| failed("write the table", path, error))?;
    sync_parent(path).await
}

async fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    let synced = async { fs::File::open(parent).await?.sync_all().await };
    synced.await.map_err(|error| failed("sync the directory", parent, error))
}

fn failed(step: &'static str, path: &Path, error: io::Error) -> Error {
    Error::new(ErrorKind::Config, code::FILE, step).with("file", path.display()).caused_by(error)
}

fn broken(step: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, code::BROKEN_SEGMENT, step)
}
