//! A captured log in memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use stillpoint_contract::{
    Error, LogCapture, LogEvent, LogEventKind, LogMark, LogPosition, LogSegment, LogSource,
    OpenedLog, Result, SEGMENT_BODY_BYTES_MAX, SEGMENT_INDEX_BYTES_MAX, SegmentHead,
};

/// The longest cursor of a mark, a segment or a backup's proof, in bytes.
pub const CURSOR_BYTES_MAX: usize = 4096;

/// How often a capture is asked for what it has, while it says that it may have it soon.
const ATTEMPTS_MAX: u32 = 3;

/// Captured segments, checked against the contract as they arrive. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct MemoryLog {
    chains: Arc<Mutex<Vec<Chain>>>,
}

/// Segments that follow each other without a hole.
#[derive(Clone, Debug)]
struct Chain {
    start: LogPosition,
    segments: Vec<LogSegment>,
}

impl Chain {
    /// The state after everything in the chain.
    fn end(&self) -> &LogPosition {
        self.segments.last().map_or(&self.start, |segment| segment.head.range.end())
    }
}

impl MemoryLog {
    /// A log in which nothing was captured.
    pub fn new() -> Self {
        Self::default()
    }

    /// A log whose first segment follows `start`.
    pub fn at(start: LogPosition) -> Self {
        let chain = Chain { start, segments: Vec::new() };
        Self { chains: Arc::new(Mutex::new(vec![chain])) }
    }

    /// Notes how a capture began: it continues what is here, joins a backup, or leaves a gap.
    pub fn open(&self, since: Option<&LogMark>, opened: &OpenedLog) {
        let mut chains = self.lock();
        let continued = since.is_some() && opened.gap.is_none();
        let known = chains
            .last()
            .is_some_and(|chain| since.is_some_and(|mark| mark.position == *chain.end()));
        if !(continued && known) {
            // A capture may join a backup that no segment precedes, or begin after a gap.
            let start = since.filter(|_| continued).map_or(&opened.start, |mark| &mark.position);
            chains.push(Chain { start: start.clone(), segments: Vec::new() });
        }
    }

    /// Appends a segment.
    ///
    /// # Errors
    ///
    /// [`Bug`](stillpoint_contract::ErrorKind::Bug) when it does not follow its predecessor, its
    /// events are not in order or not inside it, or it exceeds a limit.
    pub fn append(&self, segment: LogSegment) -> Result<()> {
        check_limits(&segment)?;
        check_events(&segment.head)?;
        let mut chains = self.lock();
        let Some(chain) = chains.last_mut() else {
            return Err(Error::bug("append a segment before the capture was opened"));
        };
        check_follows(chain, &segment.head)?;
        chain.segments.push(segment);
        Ok(())
    }

    /// Takes everything that `capture` has, confirming each segment; returns how many. Does not
    /// end while others write faster.
    pub async fn drain(&self, capture: &mut dyn LogCapture) -> Result<usize> {
        let mut taken = 0;
        while self.take(capture).await? {
            taken += 1;
        }
        Ok(taken)
    }

    /// Takes and confirms the next segment, if there is one. A busy server may be silent for a
    /// moment, and is asked again.
    pub async fn take(&self, capture: &mut dyn LogCapture) -> Result<bool> {
        let mut attempts = 1;
        let next = loop {
            match capture.next().await {
                Err(e) if e.kind().is_transient() && attempts < ATTEMPTS_MAX => attempts += 1,
                next => break next?,
            }
        };
        let Some(segment) = next else { return Ok(false) };
        let end = segment.head.range.end().clone();
        self.append(segment)?;
        capture.confirm(&end).await?;
        Ok(true)
    }

    /// From where capture goes on.
    pub fn mark(&self) -> Option<LogMark> {
        let chains = self.lock();
        let head = &chains.last()?.segments.last()?.head;
        Some(LogMark { position: head.range.end().clone(), cursor: head.cursor.clone() })
    }

    /// The heads of all segments, chain by chain, in order.
    pub fn heads(&self) -> Vec<Vec<SegmentHead>> {
        let heads = |chain: &Chain| chain.segments.iter().map(|s| s.head.clone()).collect();
        self.lock().iter().map(heads).collect()
    }

    /// Every commit that can be reached from `anchor`, with its position, in order.
    pub fn commits(&self, anchor: &LogPosition) -> Vec<(LogPosition, LogEvent)> {
        let mut found = Vec::new();
        let mut past = false;
        for segment in self.from(anchor).segments() {
            let LogSegment { head: SegmentHead { range, events, .. }, .. } = segment;
            past |= range.start().lineage != anchor.lineage;
            for event in events.into_iter().filter(|event| event.what == LogEventKind::Commit) {
                if past || event.offset > anchor.offset {
                    found.push((range.start().at(event.offset), event));
                }
            }
        }
        found
    }

    /// The log from `anchor` to the end of its chain, also as it grows.
    ///
    /// It begins with the earliest segment that touches the anchor, which is the hardest reading
    /// of the contract for a driver.
    pub fn from(&self, anchor: &LogPosition) -> MemoryLogSource {
        MemoryLogSource { log: self.clone(), anchor: anchor.clone(), first: None, returned: 0 }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Chain>> {
        self.chains.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_limits(segment: &LogSegment) -> Result<()> {
    let limits = [
        ("body", segment.body.len(), SEGMENT_BODY_BYTES_MAX),
        ("index", segment.head.index.len(), SEGMENT_INDEX_BYTES_MAX),
        ("cursor", segment.head.cursor.len(), CURSOR_BYTES_MAX),
    ];
    match limits.iter().find(|(_, length, limit)| length > limit) {
        Some((what, length, limit)) => Err(Error::bug("append a segment beyond its limits")
            .with("what", what)
            .with("length", length)
            .with("limit", limit)),
        None => Ok(()),
    }
}

fn check_events(head: &SegmentHead) -> Result<()> {
    let mut before = None;
    for LogEvent { offset, what, .. } in &head.events {
        let range = head.range.start().offset..=head.range.end().offset;
        let commit = *what == LogEventKind::Commit;
        // A commit that ends where the segment starts was an event of the predecessor.
        let inside = range.contains(offset) && !(commit && offset == range.start());
        if !inside || before.is_some_and(|before| *offset < before) {
            return Err(Error::bug("append a segment whose events are not in order inside it")
                .with("range", format!("{:?}", head.range))
                .with("event", offset));
        }
        before = Some(*offset);
    }
    Ok(())
}

fn check_follows(chain: &Chain, head: &SegmentHead) -> Result<()> {
    let before = chain.end();
    let start = head.range.start();
    let follows = match &head.succeeds {
        None => start == before,
        Some(left) => left == before && start.lineage != before.lineage,
    };
    if follows {
        return Ok(());
    }
    Err(Error::bug("append a segment that does not follow its predecessor")
        .with("predecessor ends", before)
        .with("segment starts", start)
        .with("succeeds", head.succeeds.as_ref().map_or("nothing".to_owned(), ToString::to_string)))
}

/// A [`LogSource`] that follows a [`MemoryLog`] while it grows.
#[derive(Clone, Debug)]
pub struct MemoryLogSource {
    log: MemoryLog,
    anchor: LogPosition,
    /// The chain that is read and its first segment that touches the anchor.
    first: Option<(usize, usize)>,
    /// How many segments were returned so far.
    returned: usize,
}

impl MemoryLogSource {
    /// The segments from the anchor on; none while nothing touches it.
    fn segments(&mut self) -> Vec<LogSegment> {
        let chains = self.log.lock();
        if self.first.is_none() {
            self.first = find(&chains, &self.anchor);
        }
        self.first.map_or_else(Vec::new, |(chain, first)| chains[chain].segments[first..].to_vec())
    }
}

/// The chain that leads on from `anchor`, and its earliest segment that touches it.
fn find(chains: &[Chain], anchor: &LogPosition) -> Option<(usize, usize)> {
    let touches =
        |s: &LogSegment| s.head.range.touches(anchor) || s.head.succeeds.as_ref() == Some(anchor);
    let first = |chain: &Chain| chain.segments.iter().position(touches);
    let mut found = chains.iter().enumerate().rev();
    found.find_map(|(at, chain)| Some((at, first(chain)?)))
}

#[async_trait]
impl LogSource for MemoryLogSource {
    async fn next(&mut self) -> Result<Option<SegmentHead>> {
        let head = self.segments().get(self.returned).map(|segment| segment.head.clone());
        self.returned += usize::from(head.is_some());
        Ok(head)
    }

    async fn body(&mut self) -> Result<Bytes> {
        let last = self.returned.checked_sub(1);
        let segment = last.and_then(|last| self.segments().into_iter().nth(last));
        segment.map(|s| s.body).ok_or_else(|| Error::bug("read a body before a head"))
    }

    async fn reaches(&mut self, position: &LogPosition) -> Result<bool> {
        let back = position.lineage == self.anchor.lineage && position.offset < self.anchor.offset;
        let covered = self.segments().iter().any(|s| s.head.range.touches(position));
        Ok(*position == self.anchor || covered && !back)
    }
}
