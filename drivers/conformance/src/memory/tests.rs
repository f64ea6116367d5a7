//! The doubles refuse what the contract forbids.

use std::collections::BTreeMap;

use bytes::Bytes;
use stillpoint_contract::{
    EXTENT_BYTES, EXTENTS_OPEN_MAX, LogEvent, LogEventKind, LogPosition, LogRange, LogSegment,
    LogSource, PartName, PartSpec, PartWriter, SegmentHead, Shape, Sink, Source,
};

use super::*;

const PAGED: Shape = Shape::Paged { page_bytes: 512 };

fn name() -> PartName {
    PartName::new("main").unwrap()
}

async fn writer(sink: &MemorySink, shape: Shape) -> Box<dyn PartWriter> {
    sink.create(PartSpec { name: name(), shape, attributes: BTreeMap::new() }).await.unwrap()
}

fn bytes(fill: u8, length: usize) -> Bytes {
    vec![fill; length].into()
}

#[tokio::test]
async fn a_part_is_read_back_as_it_was_written_and_kept() {
    let sink = MemorySink::new();
    let part = writer(&sink, PAGED).await;
    part.write(512, bytes(2, 1024)).await.unwrap();
    part.write(0, bytes(1, 512)).await.unwrap();
    part.finish(1536).await.unwrap();
    let base = sink.seal().unwrap();

    let sink = MemorySink::on(&base);
    let part = writer(&sink, PAGED).await;
    part.keep(0..1024).await.unwrap();
    part.write(1024, bytes(3, 700)).await.unwrap();
    part.finish(1724).await.unwrap();
    let next = sink.seal().unwrap();

    let whole = [bytes(1, 512), bytes(2, 512), bytes(3, 700)].concat();
    assert_eq!(next.read(&name(), 0..9000).await.unwrap(), whole);
    assert_eq!(next.read(&name(), 500..1030).await.unwrap(), whole[500..1030]);
    assert_eq!((next.kept_bytes(), next.written_bytes()), (1024, 700));
}

#[tokio::test]
async fn holes_overlaps_ragged_pages_and_forgotten_parts_are_found() {
    type Case = (&'static str, &'static [(u64, usize)], u64);
    let cases: &[Case] = &[
        ("written twice or kept twice", &[(0, 1024), (512, 512)], 1024),
        ("neither written nor kept", &[(0, 512), (1024, 512)], 1536),
        ("past the end", &[(0, 1024)], 512),
        ("ends inside a page", &[(0, 100), (512, 512)], 1024),
        ("begins inside a page", &[(1, 511)], 512),
    ];
    for (rule, writes, length) in cases {
        let sink = MemorySink::new();
        let part = writer(&sink, PAGED).await;
        for &(offset, length) in *writes {
            let _ = part.write(offset, bytes(0, length)).await;
        }
        let _ = part.finish(*length).await;
        assert!(sink.seal().is_err(), "{rule}");
    }
    let sink = MemorySink::new();
    drop(writer(&sink, PAGED).await);
    assert!(sink.seal().is_err(), "a forgotten part");
}

#[tokio::test]
async fn partly_written_extents_are_limited() {
    let sink = MemorySink::new();
    let part = writer(&sink, PAGED).await;
    for extent in 0..EXTENTS_OPEN_MAX as u64 {
        part.write(extent * EXTENT_BYTES, bytes(0, 512)).await.unwrap();
    }
    assert!(part.write(EXTENTS_OPEN_MAX as u64 * EXTENT_BYTES, bytes(0, 512)).await.is_err());
}

fn segment(range: (&str, &str), succeeds: Option<&str>, events: &[u128]) -> LogSegment {
    let at = |text: &str| text.parse::<LogPosition>().unwrap();
    let commit = |&offset: &u128| LogEvent {
        offset,
        at: chrono::DateTime::UNIX_EPOCH,
        what: LogEventKind::Commit,
    };
    let head = SegmentHead {
        range: LogRange::new(at(range.0), at(range.1)).unwrap(),
        succeeds: succeeds.map(at),
        events: events.iter().map(commit).collect(),
        not_before: None,
        cursor: Bytes::new(),
        index: Bytes::new(),
    };
    LogSegment { head, body: Bytes::new() }
}

#[tokio::test]
async fn a_log_is_a_chain_that_is_read_from_its_anchor() {
    let log = MemoryLog::at("a:0".parse().unwrap());
    log.append(segment(("a:0", "a:5"), None, &[3, 5])).unwrap();
    assert!(log.append(segment(("a:6", "a:7"), None, &[7])).is_err(), "a hole");
    assert!(log.append(segment(("b:0", "b:7"), Some("a:4"), &[7])).is_err(), "a fork");
    assert!(log.append(segment(("a:5", "a:7"), None, &[5])).is_err(), "a commit twice");
    log.append(segment(("b:0", "b:7"), Some("a:5"), &[7])).unwrap();

    let anchor = "a:5".parse().unwrap();
    let commits: Vec<_> = log.commits(&anchor).into_iter().map(|(at, _)| at.to_string()).collect();
    assert_eq!(commits, ["b:7"]);
    let mut source = log.from(&anchor);
    assert!(source.reaches(&"b:7".parse().unwrap()).await.unwrap());
    assert!(!source.reaches(&"a:3".parse().unwrap()).await.unwrap());
    assert_eq!(source.next().await.unwrap().unwrap().range.end().to_string(), "a:5");
}
