//! A client for the replication protocol: what libpq does for `pg_basebackup` and
//! `pg_receivewal`.
//!
//! Everything that a server sends is bounded. Every `async fn` may be dropped at any await; the
//! session is then used no more, except after [`WalStream::receive`], which loses nothing.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-replication.html>.

mod base_backup;
mod frame;
mod rows;
mod session;
mod startup;
#[cfg(test)]
mod tests;
mod wal_stream;

pub(crate) use base_backup::{BackupEvent, BackupOptions, BaseBackup, Boundary};
pub(crate) use rows::{lsn_from, lsn_text};
pub(crate) use session::Session;
pub(crate) use wal_stream::{NextTimeline, WalEvent, WalStream};
