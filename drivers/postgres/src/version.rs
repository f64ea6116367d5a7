//! What differs between PostgreSQL 13 and 18: one table.
//!
//! | what | 13, 14 | 15, 16 | 17, 18 |
//! |---|---|---|---|
//! | begin of a backup | `pg_start_backup` | `pg_backup_start` | same |
//! | end of a backup | `pg_stop_backup` | `pg_backup_stop` | same |
//! | grammar of `BASE_BACKUP` | positional | in parentheses | same |
//! | copies in `BASE_BACKUP` | one per archive | one, typed | same |
//! | WAL summaries, `INCREMENTAL` | no | no | yes |
//!
//! Sources: <https://www.postgresql.org/docs/13/functions-admin.html>,
//! <https://www.postgresql.org/docs/18/functions-admin.html>,
//! <https://www.postgresql.org/docs/18/protocol-replication.html>.

use stillpoint_contract::{Error, ErrorKind, Result, code};

/// The versions that were tried.
pub(crate) const MAJORS: std::ops::RangeInclusive<u32> = 13..=18;

/// A server's version, as `server_version_num`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) u32);

impl Version {
    /// Accepts a version that is known to work.
    pub(crate) fn new(number: u32) -> Result<Self> {
        let version = Self(number);
        if MAJORS.contains(&version.major()) {
            return Ok(version);
        }
        Err(Error::new(ErrorKind::Unsupported, code::UNSUITABLE_DATABASE, "use this PostgreSQL")
            .with("version", number)
            .with("supported", "13 to 18"))
    }

    pub(crate) fn major(self) -> u32 {
        self.0 / 10_000
    }

    /// Whether the server can tell which blocks changed.
    pub(crate) fn has_wal_summaries(self) -> bool {
        self.major() >= 17
    }

    /// The functions that begin and end a backup, with their argument types.
    pub(crate) fn backup_functions(self) -> [&'static str; 2] {
        if self.major() >= 15 {
            ["pg_backup_start(text, boolean)", "pg_backup_stop(boolean)"]
        } else {
            ["pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)"]
        }
    }

    /// Begins a backup with label `$1`; answers its position.
    pub(crate) fn start_backup(self) -> &'static str {
        if self.major() >= 15 {
            "SELECT pg_backup_start($1, true)::text"
        } else {
            "SELECT pg_start_backup($1, true, false)::text"
        }
    }

    /// Ends a backup; answers its position, two files and the server's time just before: what was
    /// committed by then is part of the copy. Until the function returns, more may be committed.
    pub(crate) fn stop_backup(self) -> &'static str {
        if self.major() >= 15 {
            "SELECT lsn::text, labelfile, spcmapfile, \
             (extract(epoch FROM before.at) * 1000000)::int8 \
             FROM (SELECT clock_timestamp() AS at OFFSET 0) AS before, \
             LATERAL pg_backup_stop(before.at IS NULL)"
        } else {
            "SELECT lsn::text, labelfile, spcmapfile, \
             (extract(epoch FROM before.at) * 1000000)::int8 \
             FROM (SELECT clock_timestamp() AS at OFFSET 0) AS before, \
             LATERAL pg_stop_backup(false, before.at IS NULL)"
        }
    }
}
