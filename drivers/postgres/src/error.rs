//! What PostgreSQL reports, as what to do about it: one table.

use std::{error, fmt, io};

use stillpoint_contract::{Code, Error, ErrorKind, code};

/// What a server said in an error or notice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// The five letters of its class.
    pub(crate) state: String,
    pub(crate) message: String,
    pub(crate) detail: Option<String>,
    pub(crate) hint: Option<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server said: {} (SQLSTATE {})", self.message, self.state)?;
        self.detail.as_ref().map_or(Ok(()), |detail| write!(f, ": {detail}"))
    }
}

impl error::Error for Report {}

/// The one table from SQLSTATE to kinds.
///
/// Source: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn classify(state: &str) -> (ErrorKind, Code) {
    match state {
        "28000" | "28P01" | "42501" => (ErrorKind::Denied, code::UNSUITABLE_DATABASE),
        "3D000" => (ErrorKind::Missing, code::NO_DATABASE),
        "55006" | "42710" => (ErrorKind::Busy, code::DATABASE_BUSY),
        "55000" => (ErrorKind::Config, code::UNSUITABLE_DATABASE),
        "58P01" => (ErrorKind::Gap, code::UNREACHABLE_POINT),
        "53100" | "53200" | "53400" => (ErrorKind::Exhausted, code::UNSUITABLE_DATABASE),
        "0A000" | "42883" => (ErrorKind::Unsupported, code::UNSUITABLE_DATABASE),
        state if state.starts_with("08") || state.starts_with("57") => {
            (ErrorKind::Transient, code::SOURCE_VANISHED)
        }
        state if state.starts_with("53") => (ErrorKind::Transient, code::DATABASE_BUSY),
        state if state.starts_with("40") => (ErrorKind::Transient, code::DATABASE_BUSY),
        state if state.starts_with("XX001") || state.starts_with("XX002") => {
            (ErrorKind::Corrupt, code::UNSUITABLE_DATABASE)
        }
        state if state.starts_with("42") => (ErrorKind::Bug, code::BUG),
        _ => (ErrorKind::Unsupported, code::UNSUITABLE_DATABASE),
    }
}

/// What a server said, as an error of the contract.
pub(crate) fn server(report: Report, step: &'static str) -> Error {
    let (kind, number) = match report.state.as_str() {
        // A server that noticed it while it was sending says no better code.
        "XX000" if report.message.ends_with("has already been removed") => classify("58P01"),
        state => classify(state),
    };
    let mut error = Error::new(kind, number, step).with("server", &report.message);
    if let Some(hint) = report.hint.clone() {
        error = error.next(hint);
    }
    if report.state == "42501" {
        error = error.why("the role lacks a privilege").next("stillpoint grants postgres");
    }
    error.caused_by(report)
}

/// A SQL session failed.
pub(crate) fn sql(error: tokio_postgres::Error, step: &'static str) -> Error {
    match error.as_db_error() {
        Some(db) => {
            let owned = |text: Option<&str>| text.map(str::to_owned);
            let report = Report {
                state: db.code().code().to_owned(),
                message: db.message().to_owned(),
                detail: owned(db.detail()),
                hint: owned(db.hint()),
            };
            server(report, step)
        }
        None => Error::new(ErrorKind::Transient, code::SOURCE_VANISHED, step).caused_by(error),
    }
}

/// A connection broke.
pub(crate) fn broken(cause: io::Error, step: &'static str) -> Error {
    let kind = match cause.kind() {
        io::ErrorKind::InvalidData => ErrorKind::Unsupported,
        _ => ErrorKind::Transient,
    };
    Error::new(kind, code::SOURCE_VANISHED, step).caused_by(cause)
}

/// The server sent what the protocol does not allow here.
pub(crate) fn unexpected(what: impl fmt::Display, step: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, code::NOT_A_DATABASE, step).with("received", what)
}

/// A primary answers that others have left behind.
pub(crate) fn left_behind(timeline: u32, known: u32) -> Error {
    Error::new(ErrorKind::Refused, code::FOREIGN_DATABASE, "go on with the history that is kept")
        .with("timeline of the server", timeline)
        .with("timeline that is kept", known)
        .why(
            "another server was promoted in its place: what is committed here is on a branch \
             that was left",
        )
        .next("connect to the server that was promoted, or name both: postgres://old,new/…")
        .next("is this one the right one after all? give it a name of its own: --name NAME")
}

/// A file of the server's cannot be read.
pub(crate) fn file(cause: io::Error, step: &'static str, path: &std::path::Path) -> Error {
    let (kind, number) = match cause.kind() {
        io::ErrorKind::NotFound => (ErrorKind::Missing, code::FILE),
        io::ErrorKind::PermissionDenied => (ErrorKind::Denied, code::FILE),
        _ => (ErrorKind::Transient, code::FILE),
    };
    Error::new(kind, number, step).with("file", path.display()).caused_by(cause)
}
