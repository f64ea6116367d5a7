//! Captured log on its way out: in order from a backup's position, verified link by link.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use stillpoint_contract::{Error, ErrorKind, LogPosition, LogSource, Result, SegmentHead, code};

use super::{
    entry::hash_of,
    heads::{Heads, key_of},
    names,
    segment::{SEGMENT_BYTES_MAX, StoredHead, broken},
    timeline::SegmentId,
};

/// How long a reader waits for a running capture to store what it has seen.
const WAIT_MAX: Duration = Duration::from_secs(5);
const WAIT_STEP: Duration = Duration::from_millis(100);

/// Reads captured log from the repository.
#[derive(Debug)]
pub struct RepositoryLog<'a> {
    heads: Heads<'a>,
    /// The branch that was chosen, as far as it is known.
    segments: Vec<SegmentId>,
    /// Which of them comes next.
    next: usize,
    current: Option<Arc<StoredHead>>,
    /// The hash of the segment whose body was read last.
    hash: Option<(SegmentId, String)>,
    bytes_read: u64,
}

impl<'a> RepositoryLog<'a> {
    pub(super) fn new(heads: Heads<'a>, segments: Vec<SegmentId>) -> Self {
        Self { heads, segments, next: 0, current: None, hash: None, bytes_read: 0 }
    }

    /// Whether there is any log to read.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Bytes of log read so far, as they are stored.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// The head of the next segment, with its place.
    pub async fn next_stored(&mut self) -> Result<Option<Arc<StoredHead>>> {
        if self.next == self.segments.len() {
            return Ok(None);
        }
        let next = self.head(self.next).await?;
        if let Some(current) = &self.current {
            follows(current, &next)?;
        }
        self.check_link(&next)?;
        self.next += 1;
        self.current = Some(Arc::clone(&next));
        Ok(Some(next))
    }

    async fn head(&self, index: usize) -> Result<Arc<StoredHead>> {
        let id = &self.segments[index];
        let head = self.heads.read(id).await?;
        head.map_or_else(|| Err(broken(&key_of(&self.heads, id)?)), Ok)
    }

    /// The stored hash of the segment before must be the one that was read.
    fn check_link(&self, next: &StoredHead) -> Result<()> {
        let Some((read, hash)) = &self.hash else { return Ok(()) };
        let is_neighbour = read.stream == next.stream && read.seq + 1 == next.seq;
        if is_neighbour && *hash != next.previous {
            return Err(broken(&names::segment(self.heads.database(), &next.stream, next.seq)?));
        }
        Ok(())
    }
}

/// Positions must join, whatever the names say.
fn follows(head: &StoredHead, next: &StoredHead) -> Result<()> {
    let end = head.head.range.end();
    if next.head.range.start() == end || next.head.succeeds.as_ref() == Some(end) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Corrupt, code::BROKEN_SEGMENT, "follow the captured log")
        .with("ends at", end)
        .with("goes on at", next.head.range.start())
        .why("a stretch of log between the two is missing"))
}

#[async_trait]
impl LogSource for RepositoryLog<'_> {
    async fn next(&mut self) -> Result<Option<SegmentHead>> {
        Ok(self.next_stored().await?.map(|stored| stored.head.clone()))
    }

    async fn body(&mut self) -> Result<Bytes> {
        let current =
            self.current.clone().ok_or_else(|| Error::bug("read a body before a head"))?;
        let key = names::segment(self.heads.database(), &current.stream, current.seq)?;
        let repository = self.heads.repository();
        let bytes = repository.store.read(&key, SEGMENT_BYTES_MAX).await?;
        let bytes = bytes.ok_or_else(|| broken(&key))?;
        self.bytes_read += bytes.len() as u64;
        let domain = repository.domain()?;
        let stored = Arc::clone(&current);
        let open = repository.world.cpu.run(move |scratch| {
            let body = stored.open_body(&bytes, &key, &domain, scratch)?;
            Ok::<_, Error>((hash_of(&bytes), body))
        });
        let (hash, body) = open.await??;
        let id = SegmentId { stream: current.stream.clone(), seq: current.seq };
        self.hash = Some((id, hash));
        Ok(body.into())
    }

    async fn reaches(&mut self, position: &LogPosition) -> Result<bool> {
        let repository = self.heads.repository();
        let clock = Arc::clone(&repository.world.clock);
        let start = clock.elapsed();
        if self.current.as_ref().is_some_and(|c| c.head.range.touches(position)) {
            return Ok(true);
        }
        let mut index = self.next;
        loop {
            while index < self.segments.len() {
                if self.head(index).await?.head.range.touches(position) {
                    return Ok(true);
                }
                index += 1;
            }
            let is_over = clock.elapsed().saturating_sub(start) > WAIT_MAX;
            if is_over || repository.running_capture(self.heads.database()).await?.is_none() {
                return Ok(false);
            }
            let Some(last) = self.segments.last() else { return Ok(false) };
            let more = repository.segments_after(&self.heads, last).await?;
            if more.is_empty() {
                clock.sleep(WAIT_STEP).await;
            }
            self.segments.extend(more);
        }
    }
}
