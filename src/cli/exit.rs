//! Exit statuses: a script's view of what happened.

use stillpoint_contract::ErrorKind;

/// The work was done.
pub(crate) const OK: u8 = 0;
/// The terminal was closed.
pub(crate) const HUNG_UP: u8 = 129;
/// A signal interrupted from the keyboard.
pub(crate) const INTERRUPTED: u8 = 130;
/// A signal asked to terminate.
pub(crate) const TERMINATED: u8 = 143;

/// Every status and its meaning, as the manual prints them.
pub(crate) const MEANINGS: &[(u8, &str)] = &[
    (OK, "done"),
    (1, "internal error; please report it"),
    (2, "the command line, or what it names, cannot be understood"),
    (3, "the configuration or environment is invalid"),
    (4, "cannot reach or authenticate: network, credential, passphrase, key"),
    (5, "refused for safety, or unsupported by this server, store or version"),
    (6, "not available: no such repository, database, backup or reachable point"),
    (7, "a check failed: a database or backup is not as protected as it should be"),
    (8, "timed out or incomplete, disk full, or the source went away; nothing was committed"),
    (9, "corruption found"),
    (10, "a plan has changes"),
    (11, "busy: another process does, or now owns, this work"),
    (DRILL_FAILED, "a drill failed"),
    (HUNG_UP, "the terminal was closed (SIGHUP)"),
    (INTERRUPTED, "interrupted (SIGINT)"),
    (TERMINATED, "terminated (SIGTERM)"),
];

/// A check that looked and found something wanting.
pub(crate) const CHECK_FAILED: u8 = 7;

/// A drill that did not prove what it should.
pub(crate) const DRILL_FAILED: u8 = 12;

/// A plan has changes.
pub(crate) const CHANGES: u8 = 10;

/// The status of a failure.
pub(crate) const fn status(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Bug => 1,
        ErrorKind::Invalid => 2,
        ErrorKind::Config => 3,
        ErrorKind::Transient | ErrorKind::Denied => 4,
        ErrorKind::Unsupported | ErrorKind::Refused => 5,
        ErrorKind::Missing | ErrorKind::Gap => 6,
        ErrorKind::Exhausted | ErrorKind::TimedOut | ErrorKind::Departed => 8,
        ErrorKind::Corrupt => 9,
        ErrorKind::Busy | ErrorKind::Fenced => 11,
        ErrorKind::Interrupted => INTERRUPTED,
    }
}

/// The word for a kind in JSON.
pub(crate) const fn word(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Transient => "transient",
        ErrorKind::Invalid => "invalid",
        ErrorKind::Config => "config",
        ErrorKind::Denied => "denied",
        ErrorKind::Exhausted => "exhausted",
        ErrorKind::TimedOut => "timed_out",
        ErrorKind::Unsupported => "unsupported",
        ErrorKind::Refused => "refused",
        ErrorKind::Missing => "missing",
        ErrorKind::Gap => "gap",
        ErrorKind::Departed => "departed",
        ErrorKind::Corrupt => "corrupt",
        ErrorKind::Busy => "busy",
        ErrorKind::Fenced => "fenced",
        ErrorKind::Interrupted => "interrupted",
        ErrorKind::Bug => "bug",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_that_a_failure_can_have_is_in_the_manual() {
        for kind in [
            ErrorKind::Transient,
            ErrorKind::Invalid,
            ErrorKind::Config,
            ErrorKind::Denied,
            ErrorKind::Exhausted,
            ErrorKind::TimedOut,
            ErrorKind::Unsupported,
            ErrorKind::Refused,
            ErrorKind::Missing,
            ErrorKind::Gap,
            ErrorKind::Departed,
            ErrorKind::Corrupt,
            ErrorKind::Busy,
            ErrorKind::Fenced,
            ErrorKind::Interrupted,
            ErrorKind::Bug,
        ] {
            let status = status(kind);
            assert_ne!(status, OK);
            assert!(MEANINGS.iter().any(|(known, _)| *known == status), "{}", word(kind));
        }
    }
}
