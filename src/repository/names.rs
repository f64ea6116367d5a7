//! Where objects live: every name in a repository is built here and nowhere else.

use chrono::{DateTime, Datelike as _, Utc};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::store::Key;

/// The object that makes a place a repository.
pub const DESCRIPTOR: &str = "stillpoint-repo.json";
/// Prefix of the log.
pub const LOG: &str = "log/";
/// Prefix of key slots.
pub const KEYS: &str = "keys/";
/// Prefix of manifests and pack lists.
pub const SNAPSHOTS: &str = "snap/";
/// Prefix of index runs.
pub const INDEX: &str = "index/";
/// Prefix of packs.
pub const PACKS: &str = "packs/";
/// Prefix of log segments.
pub const STREAMS: &str = "streams/";
/// Prefix of what drills found out.
pub const DRILLS: &str = "drills/";
/// Prefix of reports on months.
pub const REPORTS: &str = "reports/";
/// Prefix of rows that were moved out of live tables.
pub const ARCHIVE: &str = "archive/";
/// Prefix of short-lived objects; never under object lock. Of them, a copy has the newest sign of
/// life of a capture alone.
pub const CONTROL: &str = "control/";

/// What people and machines keep beside a repository without harm.
const TOLERATED: &str = "lost+found";

/// Whether a name right below the place of a repository is somebody else's.
pub fn is_foreign(name: &str) -> bool {
    let prefixes =
        [LOG, KEYS, SNAPSHOTS, INDEX, PACKS, STREAMS, DRILLS, REPORTS, ARCHIVE, CONTROL, "tmp/"];
    let is_ours = name == DESCRIPTOR || prefixes.iter().any(|p| p.strip_suffix('/') == Some(name));
    !is_ours && !name.starts_with('.') && name != TOLERATED
}

/// Longest name of a database, in bytes.
pub const DATABASE_NAME_BYTES_MAX: usize = 200;

/// The log entry with number `seq`.
pub fn log_entry(seq: u64) -> Key {
    key(format!("{LOG}{:08}/{seq:012}.json", seq / 1_000_000))
}

/// The number of a log entry, read from its name.
pub fn log_seq(key: &Key) -> Option<u64> {
    let rest = key.as_str().strip_prefix(LOG)?;
    let (_, file) = rest.split_once('/')?;
    file.strip_suffix(".json")?.parse().ok()
}

/// The descriptor.
pub fn descriptor() -> Key {
    key(DESCRIPTOR.to_owned())
}

/// A manifest.
pub fn manifest(at: DateTime<Utc>, database: &str, backup: &str) -> Result<Key> {
    snapshot(at, database, backup, "manifest")
}

/// The list of the packs that a backup needs. The list of a later attempt to commit has another
/// name, since nothing is ever overwritten.
pub fn pack_list(at: DateTime<Utc>, database: &str, backup: &str, attempt: u32) -> Result<Key> {
    match attempt {
        0 => snapshot(at, database, backup, "packs"),
        _ => snapshot(at, database, backup, &format!("{attempt}.packs")),
    }
}

fn snapshot(at: DateTime<Utc>, database: &str, backup: &str, suffix: &str) -> Result<Key> {
    dated(SNAPSHOTS, at, database, &format!("{backup}.{suffix}"))
}

/// The record of a drill.
pub fn drill_record(at: DateTime<Utc>, database: &str, drill: &str) -> Result<Key> {
    dated(DRILLS, at, database, &format!("{drill}.record"))
}

/// The page that shows the record of a drill.
pub fn drill_page(at: DateTime<Utc>, database: &str, drill: &str) -> Result<Key> {
    dated(DRILLS, at, database, &format!("{drill}.page"))
}

/// A part of a report on a month: its `record`, or the `page` that shows it.
pub fn report(month: &str, report: &str, part: &str) -> Result<Key> {
    Key::new(format!("{REPORTS}{}/{report}.{part}", month.replace('-', "/")))
}

fn dated(prefix: &str, at: DateTime<Utc>, database: &str, file: &str) -> Result<Key> {
    let (year, month, source) = (at.year(), at.month(), encode(database));
    Key::new(format!("{prefix}{year:04}/{month:02}/{source}/{file}"))
}

/// The BLAKE3 in the name of a pack or index run.
pub fn content_hash(key: &Key) -> Option<&str> {
    let file = key.as_str().rsplit('/').next()?;
    let (hash, _) = file.split_once('.')?;
    (hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit())).then_some(hash)
}

/// The prefix of every stream of a database.
pub fn streams(database: &str) -> String {
    format!("{STREAMS}{}/", encode(database))
}

/// One segment of a stream.
pub fn segment(database: &str, stream: &str, seq: u64) -> Result<Key> {
    Key::new(format!("{}{stream}/{seq:012}.seg", streams(database)))
}

/// The stream and number of a segment, read from its name.
pub fn segment_of(key: &Key) -> Option<(String, u64)> {
    let rest = key.as_str().strip_prefix(STREAMS)?;
    let mut fields = rest.split('/').skip(1);
    let (stream, file) = (fields.next()?, fields.next()?);
    Some((stream.to_owned(), file.strip_suffix(".seg")?.parse().ok()?))
}

/// The prefix of the beats of every capture of a database.
pub fn all_beats(database: &str) -> String {
    format!("{CONTROL}streams/{}/", encode(database))
}

/// The prefix of the beats of every capture.
pub const ALL_BEATS: &str = "control/streams/";

/// The database of a beat, read from its name.
pub fn beat_database(key: &Key) -> Option<String> {
    decode(key.as_str().strip_prefix(ALL_BEATS)?.split('/').next()?)
}

/// One beat of a stream's capture.
pub fn beat(database: &str, stream: &str, beat: u64) -> Result<Key> {
    Key::new(format!("{}{stream}/{beat:012}.beat", all_beats(database)))
}

/// The stream and number of a beat, read from its name.
pub fn beat_of(key: &Key) -> Option<(String, u64)> {
    let mut fields = key.as_str().rsplit('/');
    let (file, stream) = (fields.next()?, fields.next()?);
    Some((stream.to_owned(), file.strip_suffix(".beat")?.parse().ok()?))
}

/// Checks the name of a database.
///
/// # Errors
///
/// [`Invalid`](ErrorKind::Invalid) when it is empty, too long or holds control characters.
pub fn check_database(name: &str) -> Result<()> {
    let good = (1..=DATABASE_NAME_BYTES_MAX).contains(&name.len())
        && !name.chars().any(char::is_control)
        && encode(name).len() <= 3 * DATABASE_NAME_BYTES_MAX;
    if good {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Invalid, code::BAD_NAME, "name a database")
        .with("name", name.escape_debug())
        .with("allowed", "1 to 200 bytes without control characters")
        .next("choose another one with --name"))
}

/// Writes any text as one segment of an object name.
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for (index, byte) in text.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'_')
            || (byte == b'.' && index > 0);
        if plain {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.push_str(&data_encoding::HEXUPPER.encode(&[byte]));
        }
    }
    encoded
}

/// Reads back what [`encode`] wrote; `None` for anything else.
pub fn decode(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first == b'%' {
            let (hex, tail) = rest.split_at_checked(2)?;
            bytes.extend(data_encoding::HEXUPPER.decode(hex).ok()?);
            rest = tail;
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

fn key(name: String) -> Key {
    Key::new(name).expect("built from letters, digits, dots and slashes only")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_database_name_becomes_one_segment_and_comes_back() {
        for name in ["app.db", ".", "..", ".hidden", "shop/orders", "Größe 1 %~.db", "日本.db"]
        {
            let encoded = encode(name);
            assert!(Key::new(format!("a/{encoded}/b")).is_ok(), "{encoded}");
            assert!(!encoded.contains('/'));
            assert_eq!(decode(&encoded).as_deref(), Some(name));
        }
        assert!(check_database("").is_err());
        assert!(check_database("a\nb").is_err());
    }

    #[test]
    fn numbers_come_back_from_names() {
        assert_eq!(log_entry(42).as_str(), "log/00000000/000000000042.json");
        assert_eq!(log_seq(&log_entry(7_000_001)), Some(7_000_001));
        let segment = segment("a/b", "01J", 9).unwrap();
        assert_eq!(segment.as_str(), "streams/a%2Fb/01J/000000000009.seg");
        assert_eq!(segment_of(&segment), Some(("01J".to_owned(), 9)));
    }
}
