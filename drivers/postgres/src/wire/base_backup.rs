//! `BASE_BACKUP`: archives as a stream of events, good only once the server said so at the very
//! end.

use bytes::{Buf as _, Bytes};
use stillpoint_contract::{Error, Result};

use super::{
    frame::Frame,
    rows::{self, ResultSet},
    session::Session,
};
use crate::error::{self, Report};

const STEP: &str = "receive a base backup";

/// The most warnings that are kept.
const WARNINGS_MAX: usize = 1000;

/// What to ask for.
#[derive(Clone, Debug, Default)]
pub(crate) struct BackupOptions {
    pub(crate) label: String,
    /// Only what changed since the backup whose manifest was uploaded.
    pub(crate) incremental: bool,
}

/// Where a backup begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Boundary {
    pub(crate) lsn: u64,
    pub(crate) timeline: u32,
}

/// What arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BackupEvent {
    /// Another archive begins: that of a tablespace's oid, or the main one.
    Archive(Option<u32>),
    /// Bytes of the archive.
    Bytes(Bytes),
    /// The backup is complete and the server vouches for it.
    End(Boundary),
}

/// A running base backup.
#[derive(Debug)]
pub(crate) struct BaseBackup<'a> {
    session: &'a mut Session,
    /// Where it begins.
    pub(crate) start: Boundary,
    /// The oids and places of tablespaces.
    pub(crate) tablespaces: Vec<(u32, String)>,
    /// What the server warned of, such as pages with wrong checksums.
    pub(crate) warnings: Vec<Report>,
    state: State,
    /// Archives that begin untold before PostgreSQL 15.
    archives: Vec<Option<u32>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between copies.
    Between,
    /// In a copy whose messages say what they are.
    Typed {
        manifest: bool,
    },
    /// In the copy of one archive.
    Plain,
    /// In the copy of the manifest.
    PlainManifest,
    Ended,
}

impl Session {
    /// Begins a base backup.
    pub(crate) async fn base_backup(&mut self, options: &BackupOptions) -> Result<BaseBackup<'_>> {
        let command = command(options, self.version());
        self.send(&command, STEP).await?;
        let start = boundary(&self.some_answer().await?)?;
        let spaces = self.some_answer().await?;
        let mut tablespaces = Vec::new();
        for row in 0..spaces.rows.len() {
            if let (Some(oid), Some(place)) = (spaces.text(row, 0), spaces.text(row, 1)) {
                let oid = oid.parse().map_err(|_| error::unexpected("a bad tablespace", STEP))?;
                tablespaces.push((oid, place.to_owned()));
            }
        }
        let mut archives: Vec<_> = tablespaces.iter().map(|(oid, _)| Some(*oid)).collect();
        archives.push(None);
        archives.reverse();
        let warnings = Vec::new();
        Ok(BaseBackup {
            session: self,
            start,
            tablespaces,
            warnings,
            state: State::Between,
            archives,
        })
    }

    async fn some_answer(&mut self) -> Result<ResultSet> {
        let answer = self.answer(STEP).await?;
        answer.ok_or_else(|| error::unexpected("an early end", STEP))
    }
}

impl BaseBackup<'_> {
    /// Waits for what arrives next.
    pub(crate) async fn next(&mut self) -> Result<BackupEvent> {
        loop {
            if let Some(event) = self.step().await? {
                return Ok(event);
            }
        }
    }

    async fn step(&mut self) -> Result<Option<BackupEvent>> {
        let warnings = &mut self.warnings;
        let keep = |report| {
            if warnings.len() < WARNINGS_MAX {
                warnings.push(report);
            }
        };
        let Frame { tag, body } = self.session.receive(STEP, keep).await?;
        match (self.state, tag) {
            (State::Between, b'H') if self.session.version() >= 15 => {
                self.state = State::Typed { manifest: false };
                Ok(None)
            }
            (State::Between, b'H') => {
                let archive = self.archives.pop();
                self.state = if archive.is_some() { State::Plain } else { State::PlainManifest };
                Ok(archive.map(BackupEvent::Archive))
            }
            (State::Typed { manifest }, b'd') => self.typed(manifest, body),
            (State::Plain, b'd') => Ok(Some(BackupEvent::Bytes(body))),
            (State::PlainManifest, b'd') => Ok(None),
            (State::Typed { .. } | State::Plain | State::PlainManifest, b'c') => {
                self.state = State::Between;
                Ok(None)
            }
            (State::Between, b'T') => self.end().await.map(Some),
            (State::Ended, _) => Err(Error::bug("read past the end of a base backup")),
            (_, other) => Err(error::unexpected(other.escape_ascii(), STEP)),
        }
    }

    fn typed(&mut self, manifest: bool, mut body: Bytes) -> Result<Option<BackupEvent>> {
        let bad = || error::unexpected("a bad archive message", STEP);
        match body.try_get_u8().map_err(|_| bad())? {
            b'n' => {
                let name = rows::text(&mut body).ok_or_else(bad)?;
                let archive = match name.strip_suffix(".tar") {
                    Some("base") => None,
                    Some(oid) => Some(oid.parse().map_err(|_| bad())?),
                    None => return Err(bad()),
                };
                Ok(Some(BackupEvent::Archive(archive)))
            }
            b'd' if manifest => Ok(None),
            b'd' => Ok(Some(BackupEvent::Bytes(body))),
            b'm' => {
                self.state = State::Typed { manifest: true };
                Ok(None)
            }
            b'p' => Ok(None),
            _ => Err(bad()),
        }
    }

    /// Reads the last row, and what follows it up to the very end: only there the server tells of
    /// pages whose checksums failed.
    async fn end(&mut self) -> Result<BackupEvent> {
        let boundary = boundary(&self.session.some_answer().await?)?;
        while self.session.answer(STEP).await?.is_some() {}
        self.state = State::Ended;
        Ok(BackupEvent::End(boundary))
    }
}

fn boundary(answer: &ResultSet) -> Result<Boundary> {
    let parsed = || {
        Some(Boundary {
            lsn: rows::lsn_from(answer.text(0, 0)?)?,
            timeline: answer.text(0, 1)?.parse().ok()?,
        })
    };
    parsed().ok_or_else(|| error::unexpected("a bad position", STEP))
}

/// The command in the grammar of the server's version.
fn command(options: &BackupOptions, version: u32) -> String {
    let label = options.label.replace('\'', "''");
    if version < 15 {
        return format!(
            "BASE_BACKUP LABEL '{label}' FAST NOWAIT TABLESPACE_MAP \
             MANIFEST 'yes' MANIFEST_CHECKSUMS 'NONE'"
        );
    }
    let incremental = if options.incremental { ", INCREMENTAL" } else { "" };
    format!(
        "BASE_BACKUP (LABEL '{label}', CHECKPOINT 'fast', WAIT false, TABLESPACE_MAP, \
         MANIFEST 'yes', MANIFEST_CHECKSUMS 'NONE'{incremental})"
    )
}
