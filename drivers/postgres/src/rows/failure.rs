//! What a server says about moving rows, as what to do about it.

use stillpoint_contract::{Error, ErrorKind, code};
use tokio_postgres::error::SqlState;

use crate::error;

/// A statement failed that moves rows, or looks at their tables.
/// Source: PostgreSQL 18 documentation, appendix A, "PostgreSQL Error Codes".
pub(super) fn failed(cause: tokio_postgres::Error, step: &'static str) -> Error {
    let (kind, number, why) = match cause.code() {
        Some(&SqlState::LOCK_NOT_AVAILABLE) => (
            ErrorKind::Busy,
            code::DATABASE_BUSY,
            "somebody else holds a lock on the table or its rows for longer than we may wait",
        ),
        Some(&SqlState::FOREIGN_KEY_VIOLATION | &SqlState::RESTRICT_VIOLATION) => (
            ErrorKind::Refused,
            code::ROWS_REFUSED,
            "rows of a table that is not in the set refer to them",
        ),
        Some(&SqlState::IN_FAILED_SQL_TRANSACTION) => (
            ErrorKind::Refused,
            code::ROWS_DIFFER,
            "a statement before that in the same transaction failed",
        ),
        Some(&SqlState::UNDEFINED_TABLE | &SqlState::UNDEFINED_COLUMN) => (
            ErrorKind::Unsupported,
            code::ROWS_REFUSED,
            "the table is not what it was when it was looked at",
        ),
        // What the backup role needs is something else.
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            (ErrorKind::Denied, code::UNSUITABLE_DATABASE, "the role lacks a privilege")
        }
        Some(&SqlState::RAISE_EXCEPTION) => {
            (ErrorKind::Refused, code::ROWS_REFUSED, "a trigger refuses it")
        }
        _ => return error::sql(cause, step),
    };
    let mut failed = Error::new(kind, number, step).why(why);
    if let Some(db) = cause.as_db_error() {
        failed = failed.with("server", db.message());
        if let Some(detail) = db.detail() {
            failed = failed.with("detail", detail);
        }
    }
    if kind == ErrorKind::Denied {
        failed = failed.next("stillpoint archive plan SET");
    }
    failed.caused_by(cause)
}
