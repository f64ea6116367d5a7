//! Reading a stretch of frames out of the log and packing it as the body of a segment.

use std::collections::BTreeSet;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use stillpoint_contract::{Error, LogEvent, LogEventKind, Result};

use crate::{
    first_page::{PageHash, hash},
    resume::Tail,
    segment::{BODY_HEADER_BYTES, Index, frames_max, write_body_header},
    wal::{FRAME_HEADER_BYTES, WalFile},
};

/// Frames that were read and checked.
#[derive(Debug)]
pub(crate) struct Stretch {
    pub(crate) body: Bytes,
    pub(crate) index: Bytes,
    /// The end of the stretch.
    pub(crate) tail: Tail,
    /// The frames that end a transaction.
    pub(crate) commits: Vec<u32>,
    /// The database's first page after it, if it was written.
    pub(crate) first_page: Option<PageHash>,
}

/// Reads from after `tail` to frame `end`, or as far as one segment goes; cut at a commit where
/// there is one. `None` when a frame is not, or no longer, there.
pub(crate) fn read(wal: &WalFile, tail: &Tail, end: u32) -> Result<Option<Stretch>> {
    let generation = tail.generation;
    let count = (end - tail.frame).min(frames_max(&generation));
    let mut body = vec![0; BODY_HEADER_BYTES + count as usize * generation.frame_bytes()];
    if !wal.frames(&generation, tail.frame + 1, &mut body[BODY_HEADER_BYTES..])? {
        return Ok(None);
    }
    let Some(scan) = scan(tail, &body[BODY_HEADER_BYTES..]) else { return Ok(None) };
    if tail.frame + count == end && scan.committed.is_none_or(|last| last.frame != end) {
        return Err(Error::bug("find a commit at the end of the log"));
    }
    let cut = match scan.committed {
        Some(last) if last.frame < scan.end.frame => last,
        _ => scan.end,
    };
    let kept = (cut.frame - tail.frame) as usize;
    body.truncate(BODY_HEADER_BYTES + kept * generation.frame_bytes());
    write_body_header(&mut body, &generation, tail.chain, tail.frame + 1, kept as u32);
    let pages: BTreeSet<u32> = scan.pages[..kept].iter().copied().collect();
    let index = Index {
        page_bytes: generation.page_bytes,
        db_pages_min: scan.db_pages_min,
        pages: pages.into_iter().collect(),
    };
    let index = index.encode();
    let first_page = scan.pages[..kept].iter().rposition(|page| *page == 1).map(|at| {
        let frames = body[BODY_HEADER_BYTES..].chunks_exact(generation.frame_bytes());
        frames.skip(at).map(|frame| hash(&frame[FRAME_HEADER_BYTES..])).next()
    });
    let (tail, commits, first_page) = (cut, scan.commits, first_page.flatten());
    Ok(Some(Stretch { body: body.into(), index, tail, commits, first_page }))
}

/// The commits as events, each with the time that `seen_at` says of its frame.
pub(crate) fn events(
    commits: &[u32],
    mut seen_at: impl FnMut(u32) -> DateTime<Utc>,
) -> Vec<LogEvent> {
    let event = |frame: &u32| LogEvent {
        offset: u128::from(*frame),
        at: seen_at(*frame),
        what: LogEventKind::Commit,
    };
    commits.iter().map(event).collect()
}

struct Scan {
    end: Tail,
    /// The last commit inside.
    committed: Option<Tail>,
    commits: Vec<u32>,
    db_pages_min: u32,
    pages: Vec<u32>,
}

/// Checks the chain of frames that follows `tail`.
fn scan(tail: &Tail, frames: &[u8]) -> Option<Scan> {
    let mut scan = Scan {
        end: *tail,
        committed: None,
        commits: Vec::new(),
        db_pages_min: u32::MAX,
        pages: Vec::new(),
    };
    for bytes in frames.chunks_exact(tail.generation.frame_bytes()) {
        let (frame, chain) = tail.generation.check(bytes, scan.end.chain)?;
        scan.end = Tail { frame: scan.end.frame + 1, chain, ..scan.end };
        scan.pages.push(frame.number);
        if frame.db_pages != 0 {
            scan.committed = Some(scan.end);
            scan.commits.push(scan.end.frame);
            scan.db_pages_min = scan.db_pages_min.min(frame.db_pages);
        }
    }
    Some(scan)
}
