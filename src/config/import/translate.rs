//! Whose configuration it is, and what becomes of it.

use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{super::load::Source, barman, pgbackrest, sheet::Left, walg};

/// The longest input, in bytes.
pub const IMPORT_BYTES_MAX: u64 = 1 << 20;

/// Whose configuration it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// `pgbackrest.conf`.
    PgBackRest,
    /// `barman.conf`, and files of servers beside it.
    Barman,
    /// `.walg.json`, or a file of variables.
    WalG,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The configuration, with the report as comments before it.
    pub text: String,
    /// Settings that were not carried over, in the order of the files.
    pub left: Vec<Left>,
    /// What had to be assumed, since the files do not say it.
    pub assumed: Vec<String>,
}

/// Translates files of another tool.
///
/// # Errors
///
/// [`Invalid`](ErrorKind::Invalid) when they cannot be understood, with the line.
pub fn import(peer: Peer, sources: &[Source]) -> Result<Imported> {
    let length: usize = sources.iter().map(|source| source.text.len()).sum();
    if length as u64 > IMPORT_BYTES_MAX {
        return Err(bad("read a configuration of that length")
            .with("bytes", length)
            .with("bytes at most", IMPORT_BYTES_MAX));
    }
    match peer {
        Peer::PgBackRest => pgbackrest::import(sources),
        Peer::Barman => barman::import(sources),
        Peer::WalG => walg::import(sources),
    }
}

/// The directory of files of servers that a file of Barman names.
pub fn barman_directory(source: &Source) -> Result<Option<String>> {
    barman::directory(source)
}

/// What cannot be understood.
pub(super) fn bad(step: &str) -> Error {
    Error::new(ErrorKind::Invalid, code::CONFIG_SYNTAX, step.to_owned())
}
