//! The first page as it lies in the database file, whatever the log says.
//!
//! Read through SQLite as well: closing a descriptor of our own would drop every lock that this
//! process has on the file.
//! Source: <https://www.sqlite.org/howtocorrupt.html> 2.2.

use std::{os::unix::ffi::OsStrExt, path::Path};

use rusqlite::{Connection, OpenFlags};

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
