//! Replaying captured log onto the staged file, to exactly the commit that was asked for.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use stillpoint_contract::{
    Error, ErrorKind, LogEvent, LogEventKind, LogPosition, Reached, Recovery, RecoveryTarget,
    Result, SegmentHead, code,
};

use crate::{
    error,
    permissions::Permissions,
    restore::staged,
    segment::Body,
    snapshot::blocking,
    wal::{Checksum, Frame},
};

/// How many commits around an unreachable position are named.
const NEIGHBOURS_MAX: usize = 2;

/// Replays `recovery.log` onto the staged file, and makes it readable to those who could read the
/// source. Until then it is ours alone.
pub(crate) async fn recover(recovery: Recovery<'_>) -> Result<Reached> {
    let path = staged(&recovery.plan.staging);
    let permissions = Permissions::recorded(recovery.parts).await?;
    let reached = replay(recovery).await?;
    blocking(move || {
        permissions.apply(&path).map_err(|e| error::file(e, "set the file's permissions", &path))
    })
    .await?;
    Ok(reached)
}

async fn replay(recovery: Recovery<'_>) -> Result<Reached> {
    let Recovery { plan, evidence, log, .. } = recovery;
    let Some(start) = evidence.consistent_at.clone().filter(|_| plan.replays_log) else {
        return Ok(Reached {
            position: evidence.consistent_at.clone(),
            committed_at: None,
            transactions: 0,
        });
    };
    let mut aim = Aim::new(plan.until.clone(), start.clone())?;
    let staging = plan.staging.clone();
    let mut replay = blocking(move || Replay::open(&staging)).await?;
    while !aim.is_reached {
        let Some(head) = log.next().await? else { break };
        let Some(share) = aim.share(&head)? else { continue };
        if head.index.is_empty() {
            continue;
        }
        if aim.is_reached && share.until.is_none() {
            break;
        }
        let body = log.body().await?;
        replay = blocking(move || {
            replay.apply(body, &share)?;
            Ok(replay)
        })
        .await?;
    }
    aim.check_reached()?;
    blocking(move || replay.finish()).await?;
    Ok(Reached {
        position: Some(aim.reached),
        committed_at: aim.committed_at,
        transactions: aim.transactions,
    })
}

/// Where recovery is going and how far it got.
struct Aim {
    until: RecoveryTarget,
    /// The last position that the log was followed to.
    at: LogPosition,
    /// The last commit that is or will be applied.
    reached: LogPosition,
    committed_at: Option<DateTime<Utc>>,
    transactions: u64,
    /// Whether nothing more needs to be read.
    is_reached: bool,
    /// Commits seen around a position that is none.
    neighbours: Vec<LogPosition>,
}

/// Which frames of a segment count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    /// Frames up to this one are in the copy already.
    after: u128,
    /// The last commit to apply; later frames wait for a commit in a later segment.
    until: Option<u128>,
    /// Whether such frames can still count.
    is_last: bool,
    start: u128,
    end: u128,
}

impl Aim {
    fn new(until: RecoveryTarget, start: LogPosition) -> Result<Self> {
        let is_reached = match &until {
            RecoveryTarget::Consistent => true,
            RecoveryTarget::Position(position) if *position < start => {
                return Err(unreachable_position(position, &[start])
                    .why("the position lies before this backup; an earlier backup reaches it"));
            }
            RecoveryTarget::Position(position) => *position == start,
            RecoveryTarget::Time(_) | RecoveryTarget::Latest => false,
        };
        Ok(Self {
            until,
            at: start.clone(),
            reached: start,
            committed_at: None,
            transactions: 0,
            is_reached,
            neighbours: Vec::new(),
        })
    }

    /// Decides what to take of the next segment; `None` when there is nothing in it for us.
    fn share(&mut self, head: &SegmentHead) -> Result<Option<Share>> {
        let (start, end) = (head.range.start(), head.range.end());
        if start.lineage == self.at.lineage {
            if *end < self.at || (*end == self.at && start != end) {
                return Ok(None);
            }
            if self.at < *start {
                return Err(broken(&self.at));
            }
        } else if head.succeeds.as_ref() == Some(&self.at) {
            self.at = start.clone();
            self.reached = start.clone();
            if self.until == RecoveryTarget::Position(start.clone()) {
                self.is_reached = true;
                return Ok(None);
            }
        } else {
            return Err(broken(&self.at));
        }
        let after = self.at.offset;
        let until = self.choose(head, after)?;
        self.at = end.clone();
        let is_last = self.is_reached;
        Ok(Some(Share { after, until, is_last, start: start.offset, end: end.offset }))
    }

    /// Finds the last commit of the segment to apply.
    fn choose(&mut self, head: &SegmentHead, after: u128) -> Result<Option<u128>> {
        let lineage = head.range.start();
        let is_commit = |event: &&LogEvent| event.what == LogEventKind::Commit;
        let mut until = None;
        for event in head.events.iter().filter(is_commit).filter(|event| after < event.offset) {
            let position = lineage.at(event.offset);
            let is_past = match &self.until {
                RecoveryTarget::Time(time) => *time < event.at,
                RecoveryTarget::Position(target) => *target < position,
                RecoveryTarget::Latest | RecoveryTarget::Consistent => false,
            };
            if is_past {
                self.neighbours = vec![self.reached.clone(), position];
                self.is_reached = true;
                break;
            }
            until = Some(event.offset);
            self.reached = position;
            self.committed_at = Some(event.at);
            self.transactions += 1;
        }
        if let RecoveryTarget::Position(target) = &self.until {
            self.is_reached = self.is_reached || *target == self.reached;
            if self.is_reached && *target != self.reached {
                return Err(unreachable_position(target, &self.neighbours)
                    .why("no transaction ends at this position"));
            }
        }
        Ok(until)
    }

    fn check_reached(&self) -> Result<()> {
        match &self.until {
            RecoveryTarget::Position(target) if *target != self.reached => {
                Err(Error::new(ErrorKind::Gap, code::UNREACHABLE_POINT, "replay the log")
                    .with("asked", target)
                    .with("last reachable", &self.reached)
                    .why("the captured log ends before this position")
                    .next("stillpoint timeline lists the positions that can be reached"))
            }
            _ => Ok(()),
        }
    }
}

fn unreachable_position(target: &LogPosition, nearest: &[LogPosition]) -> Error {
    let error = Error::new(ErrorKind::Missing, code::UNREACHABLE_POINT, "replay the log")
        .with("asked", target)
        .next("stillpoint timeline lists the positions that can be reached");
    nearest.iter().take(NEIGHBOURS_MAX).fold(error, |error, near| error.with("nearest", near))
}

fn broken(at: &LogPosition) -> Error {
    Error::new(ErrorKind::Gap, code::UNREACHABLE_POINT, "replay the log")
        .with("last reachable", at)
        .why("the captured log does not continue from here")
}

/// The staged file and what waits to be written into it.
struct Replay {
    file: File,
    path: PathBuf,
    length_bytes: u64,
    /// The end of the chain of checksums, with the frame it belongs to.
    chain: Option<([u8; 8], u32, Checksum)>,
    /// Frames of a transaction whose commit has not been seen: page numbers and pages. A file
    /// without a name, since a transaction may be larger than memory.
    waiting: Option<File>,
    waiting_page_bytes: u32,
}

impl Replay {
    fn open(staging: &Path) -> Result<Self> {
        let path = staged(staging);
        let open = || -> std::io::Result<(File, u64)> {
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            let length = file.metadata()?.len();
            Ok((file, length))
        };
        let (file, length_bytes) =
            open().map_err(|e| error::file(e, "open the staged database", &path))?;
        Ok(Self { file, path, length_bytes, chain: None, waiting: None, waiting_page_bytes: 0 })
    }

    fn apply(&mut self, body: Bytes, share: &Share) -> Result<()> {
        let body = Body::decode(body)?;
        self.check_place(&body, share)?;
        if share.until.is_some() {
            self.take_waiting()?;
        }
        for (number, frame) in body.frames() {
            let number = u128::from(number);
            if number <= share.after {
                continue;
            }
            if share.until.is_some_and(|until| number <= until) {
                self.write(&frame)?;
            } else if share.is_last {
                break;
            } else {
                self.wait(&frame)?;
            }
        }
        Ok(())
    }

    /// The body is the one that its head describes, and continues the one before.
    fn check_place(&mut self, body: &Body, share: &Share) -> Result<()> {
        let (first, last) = (u128::from(body.first), u128::from(body.last()));
        if first != share.start + 1 || last != share.end {
            return Err(error::broken_segment("frames of another segment"));
        }
        let salts = body.generation.salts.0;
        let breaks = self.chain.is_some_and(|(generation, frame, after)| {
            generation == salts && frame + 1 == body.first && after != body.before
        });
        if breaks {
            return Err(error::broken_segment("frames that do not continue those before"));
        }
        self.chain = Some((salts, body.last(), body.after));
        Ok(())
    }

    fn write(&mut self, frame: &Frame<'_>) -> Result<()> {
        let page_bytes = frame.page.len() as u64;
        let offset = u64::from(frame.number - 1) * page_bytes;
        self.file.write_all_at(frame.page, offset).map_err(|e| self.failed(e))?;
        self.length_bytes = self.length_bytes.max(offset + page_bytes);
        let committed = u64::from(frame.db_pages) * page_bytes;
        if frame.db_pages != 0 && committed != self.length_bytes {
            // A database that shrinks and grows again has new pages beyond, never the old ones.
            self.file.set_len(committed).map_err(|e| self.failed(e))?;
            self.length_bytes = committed;
        }
        Ok(())
    }

    fn wait(&mut self, frame: &Frame<'_>) -> Result<()> {
        let write = |waiting: &mut Option<File>, path: &Path| -> std::io::Result<()> {
            let file = match waiting {
                Some(file) => file,
                None => waiting.insert(tempfile::tempfile_in(path)?),
            };
            file.write_all(&frame.number.to_be_bytes())?;
            file.write_all(&frame.db_pages.to_be_bytes())?;
            file.write_all(frame.page)
        };
        let directory = self.path.parent().unwrap_or(Path::new(".")).to_owned();
        self.waiting_page_bytes = frame.page.len() as u32;
        write(&mut self.waiting, &directory).map_err(|e| self.failed(e))
    }

    /// Writes the waiting frames: their transaction has committed.
    fn take_waiting(&mut self) -> Result<()> {
        let Some(mut waiting) = self.waiting.take() else { return Ok(()) };
        let length = waiting.stream_position().map_err(|e| self.failed(e))?;
        waiting.rewind().map_err(|e| self.failed(e))?;
        let mut frame = vec![0; 8 + self.waiting_page_bytes as usize];
        for _ in 0..length / frame.len() as u64 {
            waiting.read_exact(&mut frame).map_err(|e| self.failed(e))?;
            let (header, page) = frame.split_at(8);
            let be32 = crate::wal::be32;
            self.write(&Frame { number: be32(header, 0), db_pages: be32(header, 4), page })?;
        }
        Ok(())
    }

    fn finish(self) -> Result<()> {
        self.file.sync_all().map_err(|e| self.failed(e))
    }

    fn failed(&self, error: std::io::Error) -> Error {
        error::file(error, "replay the log", &self.path)
    }
}
