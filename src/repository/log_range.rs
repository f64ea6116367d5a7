//! Captured log by where it lies: what a server that replays asks for, file by file.

use std::sync::Arc;

use bytes::Bytes;
use stillpoint_contract::{LogPosition, LogRange, LogSource as _, Result, SegmentHead};

use super::{
    handle::Repository,
    heads::Heads,
    replay::RepositoryLog,
    segment::StoredHead,
    stream::StreamWriter,
    timeline::{Coverage, SegmentId, Timeline},
};

/// The most segments that are searched for the beginning of a lineage.
const SEARCH_SEGMENTS_MAX: usize = 1 << 20;

impl Repository {
    /// What was captured of a stretch, from its start on and without a hole; shorter where the
    /// captured log or its lineage ends earlier, and empty when nothing of its lineage is there.
    ///
    /// Offsets must grow along each coverage, also from a lineage to the one that follows.
    pub async fn captured_bytes(&self, timeline: &Timeline, range: &LogRange) -> Result<Bytes> {
        for coverage in timeline.coverage.iter().rev() {
            let bytes = self.bytes_in(timeline, coverage, range).await?;
            if !bytes.is_empty() {
                return Ok(bytes);
            }
        }
        Ok(Bytes::new())
    }

    async fn bytes_in(
        &self,
        timeline: &Timeline,
        coverage: &Coverage,
        range: &LogRange,
    ) -> Result<Bytes> {
        let (start, end) = (range.start().offset, range.end().offset);
        let heads = Heads::new(self, &timeline.database);
        let first = first_behind(&heads, &coverage.segments, start).await?;
        let segments = coverage.segments.get(first..).unwrap_or_default().to_vec();
        let mut log = RepositoryLog::new(heads, segments);
        let (mut bytes, mut has_lineage) = (Vec::new(), false);
        while let Some(head) = log.next().await? {
            let (from, to) = (head.range.start().offset, head.range.end().offset);
            let reached = start + bytes.len() as u128;
            let is_ours = head.range.start().lineage == range.start().lineage;
            // What another lineage wrote later is not what is asked for.
            if from > reached || from >= end || (has_lineage && !is_ours) {
                break;
            }
            has_lineage |= is_ours;
            if to <= reached {
                continue;
            }
            let body = log.body().await?;
            let (skip, take) = (reached - from, to.min(end) - reached);
            let skip = usize::try_from(skip).unwrap_or(usize::MAX);
            let take = usize::try_from(take).unwrap_or(usize::MAX);
            bytes.extend_from_slice(body.get(skip..skip.saturating_add(take)).unwrap_or_default());
        }
        Ok(if has_lineage { bytes.into() } else { Bytes::new() })
    }

    /// The newest segment that begins a lineage.
    pub async fn lineage_begin(
        &self,
        timeline: &Timeline,
        position: &LogPosition,
    ) -> Result<Option<SegmentHead>> {
        let heads = Heads::new(self, &timeline.database);
        let newest = timeline.coverage.iter().rev().flat_map(|c| c.segments.iter().rev());
        for id in newest.take(SEARCH_SEGMENTS_MAX) {
            let Some(head) = heads.read_sound(id).await? else { continue };
            let is_it = head.head.range.start().lineage == position.lineage;
            if is_it && head.head.succeeds.is_some() {
                return Ok(Some(head.head.clone()));
            }
        }
        Ok(None)
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

/// The first segment that ends behind an offset.
async fn first_behind(heads: &Heads<'_>, segments: &[SegmentId], offset: u128) -> Result<usize> {
    let (mut low, mut high) = (0, segments.len());
    while low < high {
        let middle = low + (high - low) / 2;
        match heads.read_sound(&segments[middle]).await? {
            Some(head) if head.head.range.end().offset <= offset => low = middle + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}
