//! What the SQLite library that is linked in must offer.
//!
//! | needed | since | for |
//! |---|---|---|
//! | `PRAGMA wal_checkpoint(NOOP)` | 3.51.0 | the log's published length, without touching it |
//! | `sqlite_dbpage` | compile option | whole pages inside a read transaction |
//!
//! Sources: <https://www.sqlite.org/pragma.html#pragma_wal_checkpoint>,
//! <https://www.sqlite.org/dbpage.html>.

use rusqlite::Connection;
use stillpoint_contract::{Error, ErrorKind, Result, code};

/// 3.51.0, as `sqlite3_libversion_number` counts.
const VERSION_MIN: i32 = 3_051_000;

/// Refuses a library that lacks what the driver stands on. It is asked apart from any file, whose
/// schema may be damaged.
pub(crate) fn check() -> Result<()> {
    let query = "SELECT 1 FROM pragma_module_list WHERE name = 'sqlite_dbpage'";
    let found = Connection::open_in_memory().and_then(|c| c.query_row(query, [], |_| Ok(())));
    let has_dbpage = found.is_ok();
    if rusqlite::version_number() < VERSION_MIN || !has_dbpage {
        return Err(Error::new(ErrorKind::Unsupported, code::BUG, "use the SQLite library")
            .with("version", rusqlite::version())
            .with("sqlite_dbpage", has_dbpage)
            .why("this build's SQLite is older than 3.51 or was compiled without sqlite_dbpage")
            .next("build with LIBSQLITE3_FLAGS=-DSQLITE_ENABLE_DBPAGE_VTAB"));
    }
    Ok(())
}
