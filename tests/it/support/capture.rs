//! A capture of log, by hand: segments whose bodies follow from their place.

use bytes::Bytes;
use stillpoint::repository::{Repository, StreamWriter, history::Committed, store::Dice};
use stillpoint_contract::{
    Entropy as _, LogEvent, LogEventKind, LogRange, LogSegment, LogSource as _, Result, SegmentHead,
};

use super::session::{Driver, position};

/// The body of the segment that starts at `offset`.
pub(crate) fn body(offset: u128) -> Bytes {
    let mut bytes = vec![0; 200];
    Dice::new(offset as u64).fill(&mut bytes);
    bytes.into()
}

/// The segment from `offset` to the next, which holds one commit.
pub(crate) fn segment(driver: &Driver, offset: u128) -> LogSegment {
    let (start, end) = (position(&driver.database, offset), position(&driver.database, offset + 1));
    let at = driver.world.clock.now();
    let head = SegmentHead {
        range: LogRange::new(start, end).unwrap(),
        succeeds: None,
        events: vec![LogEvent { offset: offset + 1, at, what: LogEventKind::Commit }],
        not_before: None,
        cursor: Bytes::new(),
        index: Bytes::new(),
    };
    LogSegment { head, body: body(offset) }
}

/// Stores segments `offsets`, and a beat after them.
pub(crate) async fn capture(
    driver: &Driver,
    stream: &mut StreamWriter<'_>,
    offsets: std::ops::Range<u128>,
) -> Result<()> {
    for offset in offsets.clone() {
        stream.append(segment(driver, offset), driver.world.clock.now()).await?;
    }
    stream.beat(&position(&driver.database, offsets.end), driver.world.clock.now(), false).await
}

/// Replays all log from a backup on, and answers the offset that was reached. Fails when a body is
/// not what was captured.
pub(crate) async fn replay(repository: &Repository, from: &Committed) -> Result<u128> {
    let mut log = repository.log_from(from).await?;
    let mut reached = from.commit.consistent_at.as_ref().map_or(0, |position| position.offset);
    while let Some(head) = log.next().await? {
        let start = head.range.start().offset;
        assert_eq!(log.body().await?, body(start), "the body of the segment at {start}");
        if start > reached {
            break;
        }
        reached = head.range.end().offset.max(reached);
    }
    Ok(reached)
}
