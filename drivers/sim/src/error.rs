//! The errors of a simulated server.

use stillpoint_contract::{Error, ErrorKind, LogPosition, code};

/// Nothing answers at the address.
pub(crate) fn nobody(address: &str) -> Error {
    Error::new(ErrorKind::Missing, code::NO_DATABASE, "reach the server").with("address", address)
}

/// The server is gone, or another one stands in its place.
pub(crate) fn departed() -> Error {
    Error::new(ErrorKind::Departed, code::SOURCE_VANISHED, "find the same database again")
        .why("What was copied so far belongs to a database that is no longer there.")
}

/// The server was restarted, and our connection broke.
pub(crate) fn disconnected() -> Error {
    Error::new(ErrorKind::Transient, code::NO_DATABASE, "reach the server on an open connection")
}

/// The server discarded log that is needed.
pub(crate) fn discarded(position: &LogPosition) -> Error {
    Error::new(ErrorKind::Gap, code::UNREACHABLE_POINT, "find the log in the server")
        .with("position", position)
        .why("The server discarded it before it was captured.")
}

/// The captured log ends before the target.
pub(crate) fn unreachable(position: &LogPosition) -> Error {
    Error::new(ErrorKind::Gap, code::UNREACHABLE_POINT, "reach the chosen position")
        .with("the captured log ends at", position)
}

/// The target is a point at which no transaction ends, or one before the copy.
pub(crate) fn no_commit(position: &LogPosition) -> Error {
    Error::new(ErrorKind::Refused, code::UNREACHABLE_POINT, "stop inside a transaction")
        .with("position", position)
}

/// The target lies before the copy.
pub(crate) fn too_early(position: &LogPosition) -> Error {
    Error::new(ErrorKind::Refused, code::UNREACHABLE_POINT, "go back behind the copy")
        .with("position", position)
}
