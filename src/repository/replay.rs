//! Captured log on its way out: in order from a backup's position, verified link by link.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use stillpoint_contract::{Error, ErrorKind, LogPosition, LogSource, Result, SegmentHead, code};

use super::{
    entry::hash_of,
    names,
    segment::{SEGMENT_BYTES_MAX, StoredHead, broken},
    timeline::{Heads, SegmentId},
};

/// How long a reader waits for a running capture to store what it has seen.
const WAIT_MAX: Duration = Duration::from_secs(5);
const WAIT_STEP: Duration = Duration::from_millis(100);

/// Reads captured log from the repository.
#[derive(Debug)]
pub struct RepositoryLog<'a> {
    heads: Heads<'a>,
    /// Where to go on; `None` at the end, or when there is no log at all.
    cursor: Option<Cursor>,
    current: Option<Arc<StoredHead>>,
    /// The hash of the segment whose body was read last.
    hash: Option<(SegmentId, String)>,
    bytes_read: u64,
}

#[derive(Clone, Debug)]
enum Cursor {
    At(SegmentId),
    After(Arc<StoredHead>),
}

impl<'a> RepositoryLog<'a> {
    pub(super) fn new(heads: Heads<'a>, start: Option<SegmentId>) -> Self {
        let cursor = start.map(Cursor::At);
        Self { heads, cursor, current: None, hash: None, bytes_read: 0 }
    }

    /// Whether there is any log to read.
    pub fn is_empty(&self) -> bool {
        self.cursor.is_none()
    }

    /// Bytes of log read so far, as they are stored.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// The head of the next segment, with its place.
    pub async fn next_stored(&mut self) -> Result<Option<Arc<StoredHead>>> {
        let Some(next) = self.step(self.cursor.clone()).await? else { return Ok(None) };
        self.check_link(&next)?;
        self.cursor = Some(Cursor::After(Arc::clone(&next)));
        self.current = Some(Arc::clone(&next));
        Ok(Some(next))
    }

    async fn step(&self, cursor: Option<Cursor>) -> Result<Option<Arc<StoredHead>>> {
        match cursor {
            None => Ok(None),
            Some(Cursor::At(id)) => self.heads.read(&id).await,
            Some(Cursor::After(head)) => {
                let next = SegmentId { stream: head.stream.clone(), seq: head.seq + 1 };
                let found = match self.heads.read(&next).await? {
                    Some(found) => Some(found),
                    None => self.heads.successor(&head).await?,
                };
                if let Some(found) = &found {
                    follows(&head, found)?;
                }
                Ok(found)
            }
        }
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
        let mut cursor = self.cursor.clone();
        if self.current.as_ref().is_some_and(|c| c.head.range.touches(position)) {
            return Ok(true);
        }
        loop {
            while let Some(head) = self.step(cursor.clone()).await? {
                if head.head.range.touches(position) {
                    return Ok(true);
                }
                cursor = Some(Cursor::After(head));
            }
            let is_over = cursor.is_none() || clock.elapsed().saturating_sub(start) > WAIT_MAX;
            if is_over || repository.running_capture(self.heads.database()).await?.is_none() {
                return Ok(false);
            }
            clock.sleep(WAIT_STEP).await;
        }
    }
}
