//! What SQLite reports, as what to do about it: one table.

use std::{io, path::Path};

use rusqlite::ErrorCode;
use stillpoint_contract::{Code, Error, ErrorKind, code};

/// Turns what SQLite said about the database at `path` into an error of the contract.
pub(crate) fn sqlite(error: rusqlite::Error, step: &'static str, path: &Path) -> Error {
    let code = error.sqlite_error_code();
    let (kind, number) = match code {
        Some(ErrorCode::CannotOpen) if path.exists() => {
            (ErrorKind::Denied, code::UNSUITABLE_DATABASE)
        }
        Some(code) => classify(code),
        None => (ErrorKind::Bug, code::BUG),
    };
    let error = Error::new(kind, number, step).with("file", path.display()).caused_by(error);
    match code {
        Some(ErrorCode::CannotOpen) if path.exists() => error
            .why("SQLite cannot open the file, or cannot make `-wal` and `-shm` beside it")
            .next(format!("grant write permission on {} and its directory", quoted(path))),
        Some(ErrorCode::NotADatabase) => error
            .why("the file is not a SQLite database, or it is encrypted; neither can be read")
            .next(format!("sqlite3 {} 'PRAGMA integrity_check'", quoted(path))),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => error
            .why("another connection holds the database's lock, perhaps in exclusive mode")
            .next("end the transaction, or `PRAGMA locking_mode=NORMAL` in the application")
            .next("run the same command again"),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => error
            .why("SQLite needs to write the `-shm` file beside a database to read it consistently")
            .next(format!("grant write permission on {} and its directory", quoted(path))),
        _ => error,
    }
}

/// The one table from SQLite's result codes to kinds.
///
/// Source: <https://www.sqlite.org/rescode.html>.
fn classify(code: ErrorCode) -> (ErrorKind, Code) {
    match code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
            (ErrorKind::Busy, code::DATABASE_BUSY)
        }
        ErrorCode::FileLockingProtocolFailed | ErrorCode::SchemaChanged => {
            (ErrorKind::Transient, code::DATABASE_BUSY)
        }
        ErrorCode::NotADatabase => (ErrorKind::Unsupported, code::NOT_A_DATABASE),
        ErrorCode::CannotOpen => (ErrorKind::Missing, code::NO_DATABASE),
        ErrorCode::ReadOnly | ErrorCode::PermissionDenied => {
            (ErrorKind::Denied, code::UNSUITABLE_DATABASE)
        }
        ErrorCode::DatabaseCorrupt => (ErrorKind::Corrupt, code::UNSUITABLE_DATABASE),
        ErrorCode::DiskFull => (ErrorKind::Exhausted, code::FILE_FULL),
        ErrorCode::OutOfMemory => (ErrorKind::Exhausted, code::FILE),
        ErrorCode::SystemIoFailure => (ErrorKind::Transient, code::FILE),
        ErrorCode::OperationInterrupted => (ErrorKind::Interrupted, code::INTERRUPTED),
        _ => (ErrorKind::Bug, code::BUG),
    }
}

/// Turns a failed system call on the file at `path` into an error of the contract.
pub(crate) fn file(error: io::Error, step: &'static str, path: &Path) -> Error {
    let (kind, number) = match error.kind() {
        io::ErrorKind::NotFound => (ErrorKind::Missing, code::FILE),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            (ErrorKind::Denied, code::FILE)
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            (ErrorKind::Exhausted, code::FILE_FULL)
        }
        _ => (ErrorKind::Transient, code::FILE),
    };
    Error::new(kind, number, step).with("file", path.display()).caused_by(error)
}

/// The database is gone, or another file took its place.
pub(crate) fn vanished(path: &Path) -> Error {
    Error::new(ErrorKind::Departed, code::SOURCE_VANISHED, "find the same database again")
        .with("file", path.display())
        .why("the file was removed or replaced; what was read belongs to a database that is gone")
        .next("check the path, then run the same command again")
}

/// Bytes of a segment that this driver did not write, or that changed since.
pub(crate) fn broken_segment(what: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, code::BROKEN_SEGMENT, "decode captured log").with("found", what)
}

/// The engine discarded log that was not captured.
pub(crate) fn gap(why: &'static str) -> Error {
    Error::new(ErrorKind::Gap, code::UNREACHABLE_POINT, "continue the write-ahead log").why(why)
}

/// A path as a shell takes it.
pub(crate) fn quoted(path: &Path) -> String {
    stillpoint_contract::quoted(&path.display().to_string())
}
