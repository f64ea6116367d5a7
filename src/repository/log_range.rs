//! Captured log by where it lies: what a server that replays asks for, file by file.

use std::sync::Arc;

use bytes::Bytes;
use stillpoint_contract::{LogPosition, LogRange, Result, SegmentHead};
use tokio::sync::Mutex;

use super::{
    handle::Repository,
    heads::{Heads, key_of},
    names,
    segment::{SEGMENT_BYTES_MAX, StoredHead, broken},
    stream::StreamWriter,
    timeline::{Coverage, SegmentId, Timeline},
};

/// What was captured of a database, as far as a timeline knows it.
#[derive(Debug)]
pub struct CapturedLog<'a> {
    heads: Heads<'a>,
    coverage: Vec<Coverage>,
    /// The body that was read last: a segment may hold the end of one file and the next one's
    /// beginning.
    body: Mutex<Option<(SegmentId, Bytes)>>,
}

impl Repository {
    /// What a timeline knows, to be read by position.
    pub fn captured(&self, timeline: &Timeline) -> CapturedLog<'_> {
        CapturedLog {
            heads: Heads::new(self, &timeline.database),
            coverage: timeline.coverage.clone(),
            body: Mutex::default(),
        }
    }

    /// Goes on with the stream of a segment that is its last, unless a capture writes that stream;
    /// otherwise begins one that continues it.
    pub async fn append_after(
        &self,
        database: &str,
        incarnation: &str,
        last: Option<&Arc<StoredHead>>,
        gap: Option<String>,
    ) -> Result<StreamWriter<'_>> {
        if let (Some(last), None) = (last, &gap)
            && !self.newest_beats(database).await?.contains_key(&last.stream)
        {
            return self.resume_stream(database, last).await;
        }
        let continues = last.filter(|_| gap.is_none()).map(|l| (l.stream.clone(), l.seq));
        self.begin_stream(database, incarnation, continues, gap).await
    }
}

impl CapturedLog<'_> {
    /// What was captured of a stretch, from its start on and without a hole; shorter where the
    /// captured log or its lineage ends earlier, and empty when nothing of its lineage is there.
    ///
    /// Offsets must grow along each coverage, also from a lineage to the one that follows.
    pub async fn bytes(&self, range: &LogRange) -> Result<Bytes> {
        for coverage in self.coverage.iter().rev().filter(|c| reaches_into(c, range)) {
            let bytes = self.bytes_in(coverage, range).await?;
            if !bytes.is_empty() {
                return Ok(bytes);
            }
        }
        Ok(Bytes::new())
    }

    /// Whether anything that was captured reaches into a stretch, on whatever lineage.
    pub fn may_hold(&self, range: &LogRange) -> bool {
        self.coverage.iter().any(|coverage| reaches_into(coverage, range))
    }

    async fn bytes_in(&self, coverage: &Coverage, range: &LogRange) -> Result<Bytes> {
        let (start, end) = (range.start().offset, range.end().offset);
        let lineage = &range.start().lineage;
        let ends_behind = |head: &StoredHead| head.head.range.end().offset > start;
        let first = self.first(&coverage.segments, 0, ends_behind).await?;
        let (mut bytes, mut has_lineage) = (Vec::new(), false);
        for id in coverage.segments.get(first..).unwrap_or_default() {
            let head = self.heads.read(id).await?;
            let head = head.map_or_else(|| Err(broken(&key_of(&self.heads, id)?)), Ok)?;
            let (from, to) = (head.head.range.start().offset, head.head.range.end().offset);
            let reached = start + bytes.len() as u128;
            let is_ours = head.head.range.start().lineage == *lineage;
            // What another lineage wrote later is not what is asked for.
            if from > reached || from >= end || (has_lineage && !is_ours) {
                break;
            }
            has_lineage |= is_ours;
            if to <= reached {
                continue;
            }
            let body = self.body(id, &head).await?;
            let (skip, take) = (reached - from, to.min(end) - reached);
            let skip = usize::try_from(skip).unwrap_or(usize::MAX);
            let take = usize::try_from(take).unwrap_or(usize::MAX);
            let piece = body.get(skip..skip.saturating_add(take)).unwrap_or_default();
            if bytes.is_empty() && to >= end && is_ours {
                return Ok(body.slice_ref(piece));
            }
            bytes.extend_from_slice(piece);
        }
        Ok(if has_lineage { bytes.into() } else { Bytes::new() })
    }

    async fn body(&self, id: &SegmentId, head: &Arc<StoredHead>) -> Result<Bytes> {
        if let Some((_, body)) = self.body.lock().await.as_ref().filter(|(known, _)| known == id) {
            return Ok(body.clone());
        }
        let repository = self.heads.repository();
        let key = names::segment(self.heads.database(), &id.stream, id.seq)?;
        let bytes = repository.store.read(&key, SEGMENT_BYTES_MAX).await?;
        let bytes = bytes.ok_or_else(|| broken(&key))?;
        let (domain, head) = (repository.domain()?, Arc::clone(head));
        let open =
            repository.world.cpu.run(move |scratch| head.open_body(&bytes, &key, &domain, scratch));
        let body = Bytes::from(open.await??);
        *self.body.lock().await = Some((id.clone(), body.clone()));
        Ok(body)
    }

    /// The segment that begins the lineage of a position, in the newest coverage in which it is
    /// what is looked for.
    pub async fn lineage_begin(
        &self,
        position: &LogPosition,
        is_sought: impl Fn(&SegmentHead) -> bool,
    ) -> Result<Option<SegmentHead>> {
        for Coverage { start, end, segments, .. } in self.coverage.iter().rev() {
            let wanted = &position.lineage;
            let is_single = start.position.lineage == end.position.lineage;
            if is_single && start.position.lineage != *wanted {
                continue;
            }
            // Each lineage is one run of segments.
            let mut index = 0;
            while let Some(id) = segments.get(index) {
                let Some(head) = self.heads.read_sound(id).await? else {
                    index += 1;
                    continue;
                };
                let lineage = &head.head.range.start().lineage;
                if lineage == wanted && is_sought(&head.head) {
                    return Ok(Some(head.head.clone()));
                }
                if *lineage == end.position.lineage {
                    break;
                }
                let is_next = |head: &StoredHead| head.head.range.start().lineage != *lineage;
                index = self.first(segments, index + 1, is_next).await?;
            }
        }
        Ok(None)
    }

    /// The number of the first segment from `low` on of which `is_so` holds; it must hold for all
    /// behind it.
    async fn first(
        &self,
        segments: &[SegmentId],
        mut low: usize,
        is_so: impl Fn(&StoredHead) -> bool,
    ) -> Result<usize> {
        let mut high = segments.len();
        while low < high {
            let middle = low + (high - low) / 2;
            match self.heads.read_sound(&segments[middle]).await? {
                Some(head) if !is_so(&head) => low = middle + 1,
                _ => high = middle,
            }
        }
        Ok(low)
    }
}

fn reaches_into(coverage: &Coverage, range: &LogRange) -> bool {
    let (from, to) = (coverage.start.position.offset, coverage.end.position.offset);
    from < range.end().offset && to > range.start().offset
}
