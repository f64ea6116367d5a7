//! The first page as it lies in the database file, whatever the log says.
//!
//! While the log is in use, nothing but what the log holds is written into the file: its first page
//! is the one with which the log's generation began, or one that the log holds. Any other was put
//! there past SQLite, by a program that wrote over the file in place, and log and file are no
//! longer one history.
//!
//! Read through SQLite as well: closing a descriptor of our own would drop every lock that this
//! process has on the file.
//! Source: <https://www.sqlite.org/howtocorrupt.html> 2.2.

use std::{os::unix::ffi::OsStrExt, path::Path, time::Duration};

use rusqlite::{Connection, ErrorCode, OpenFlags};
use stillpoint_contract::Result;

use crate::{
    connect::Database,
    generation::{LogState, Observer},
    position::Cursor,
    wal::{FRAME_HEADER_BYTES, Generation, Salts, WalFile, be32},
};

/// How often, and after which pauses, a page is looked at that does not belong there: a checkpoint
/// may just be writing it.
const ATTEMPTS_MAX: u32 = 4;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(5);

/// Where the header says whether the file is read and written through a log, and how it says so.
/// Source: <https://www.sqlite.org/fileformat2.html#file_format_version_numbers>.
const VERSIONS: std::ops::Range<usize> = 18..20;
const LOG_VERSION: u8 = 2;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Reads the page. The connection takes no lock and makes no file.
/// Source: <https://www.sqlite.org/uri.html#uriimmutable>.
pub(crate) fn on_disk(path: &Path) -> rusqlite::Result<Vec<u8>> {
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_bytes() {
        uri.push('%');
        uri.extend([byte >> 4, byte & 0xF].map(|half| char::from(HEX[usize::from(half)])));
    }
    uri.push_str("?immutable=1");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(uri, flags)?;
    connection.query_row("SELECT data FROM sqlite_dbpage WHERE pgno = 1", [], |row| row.get(0))
}

/// Whether the file with this first page is one whose readers need a log.
pub(crate) fn needs_log(page: &[u8]) -> bool {
    page.get(VERSIONS).is_some_and(|versions| versions.contains(&LOG_VERSION))
}

/// What stands for the content of a first page.
pub(crate) type PageHash = [u8; 8];

/// Stands for a first page that is not known.
pub(crate) const UNKNOWN: PageHash = [0; 8];

/// The first pages that belong to a place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FirstPages {
    /// The one in the file.
    pub(crate) in_file: PageHash,
    /// The one that a reader sees there.
    pub(crate) seen: PageHash,
}

/// Names a first page by its content.
pub(crate) fn hash(page: &[u8]) -> PageHash {
    let mut short = UNKNOWN;
    short.copy_from_slice(&blake3::hash(page).as_bytes()[..UNKNOWN.len()]);
    short
}

/// The page in the file; [`UNKNOWN`] when it cannot be told, because a checkpoint is half done, and
/// `None` when there is no database in the file any more.
pub(crate) fn in_file(path: &Path) -> Option<PageHash> {
    match on_disk(path) {
        Ok(page) => Some(hash(&page)),
        Err(e) if e.sqlite_error_code() == Some(ErrorCode::NotADatabase) => None,
        Err(_) => Some(UNKNOWN),
    }
}

/// The newest first page among the frames up to `to`, or the newest that is `wanted`.
fn newest_in_log(
    wal: &WalFile,
    generation: &Generation,
    to: u32,
    wanted: Option<PageHash>,
) -> Result<Option<PageHash>> {
    let mut frame = vec![0; generation.frame_bytes()];
    for number in (1..=to).rev() {
        let Some(header) = wal.frame_header(generation, number)? else { continue };
        let is_first = Salts::of_frame(&header) == generation.salts && be32(&header, 0) == 1;
        if !is_first || !wal.frames(generation, number, &mut frame)? {
            continue;
        }
        let found = hash(&frame[FRAME_HEADER_BYTES..]);
        if wanted.is_none_or(|wanted| wanted == found) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The file's first page when it is one of `known`, or one that the log holds; [`UNKNOWN`] when
/// that cannot be told.
pub(crate) fn belongs(observer: &Observer, known: &[PageHash]) -> Result<Option<PageHash>> {
    for attempt in 0..ATTEMPTS_MAX {
        std::thread::sleep(ATTEMPT_PAUSE * attempt);
        let Some(found) = in_file(&observer.database.path) else { continue };
        if found == UNKNOWN || known.contains(&UNKNOWN) || known.contains(&found) {
            return Ok(Some(found));
        }
        let Some((live, frames)) = observer.observe()?.live else { continue };
        if newest_in_log(&observer.wal, &live, frames, Some(found))?.is_some() {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Whether the file is still the one that a mark in the live generation, or at the end of the one
/// before, was made of; `None` when the log was restarted meanwhile, so that it cannot be told.
pub(crate) fn belongs_to(
    observer: &Observer,
    state: &LogState,
    mark: &Cursor,
) -> Result<Option<bool>> {
    let (Some(pages), Some((live, _))) = (mark.pages, state.live) else { return Ok(Some(true)) };
    let known = if live.salts == mark.salts { pages.in_file } else { pages.seen };
    if belongs(observer, &[known])?.is_some() {
        return Ok(Some(true));
    }
    let now = observer.observe()?.live.map(|(generation, _)| generation);
    Ok((now == Some(live)).then_some(false))
}

/// The first pages at a frame of the log, the file being as it is now.
pub(crate) fn at(
    database: &Database,
    wal: &WalFile,
    frame: Option<(Generation, u32)>,
) -> Result<FirstPages> {
    let in_file = in_file(&database.path).unwrap_or(UNKNOWN);
    let in_log = match frame {
        Some((generation, frame)) => newest_in_log(wal, &generation, frame, None)?,
        None => None,
    };
    Ok(FirstPages { in_file, seen: in_log.unwrap_or(in_file) })
}
