//! What an engine must be able to do to be protected.

use std::{
    collections::BTreeMap,
    fmt,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    Capabilities, Error, ErrorKind, Finding, Lineage, LogArchive, LogMark, LogPosition, LogRange,
    LogSource, NativePoint, OpenedLog, PartName, Result, Rows, Sandbox, SandboxRequest,
    SegmentHead, ShareRequest, Sink, Source, Tally, code,
};

/// A file with certificates.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Certificate {
    /// Which file.
    pub file: PathBuf,
    /// Until when the first of them to end is valid.
    pub ends_at: DateTime<Utc>,
}

/// One kind of database server: how to reach one, and how to build one from a backup.
///
/// Restoring needs no live server, so it lives here and not in [`Driver`].
#[async_trait]
pub trait Engine: fmt::Debug + Send + Sync {
    /// The engine's name in output and stored objects, such as `sqlite`.
    fn name(&self) -> &'static str;

    /// The URL schemes that name this engine's databases, without `:`.
    fn schemes(&self) -> &'static [&'static str];

    /// The name a database gets when the user gives none, such as its file name.
    fn default_name(&self, endpoint: &Endpoint) -> Result<String>;

    /// Reaches a server, without changing anything there.
    ///
    /// # Errors
    ///
    /// [`Missing`](crate::ErrorKind::Missing) or [`Transient`](crate::ErrorKind::Transient) when
    /// it cannot be reached, [`Denied`](crate::ErrorKind::Denied) when it refuses us,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) when it is not of this engine.
    async fn connect(&self, endpoint: &Endpoint) -> Result<Box<dyn Driver>>;

    /// Decides how a backup becomes a database again. Looks at the target but changes nothing.
    ///
    /// # Errors
    ///
    /// [`Refused`](crate::ErrorKind::Refused) when the target exists and may not be overwritten.
    async fn plan_restore(&self, request: &RestoreRequest<'_>) -> Result<RestorePlan>;

    /// Brings what was laid out under the plan's staging directory to the target: replays log,
    /// starts and steers a server where the engine needs one.
    ///
    /// Reads the log only as far as the target needs. Returns the point that was reached.
    ///
    /// # Errors
    ///
    /// [`Gap`](crate::ErrorKind::Gap) when the log ends before the target.
    async fn recover(&self, recovery: Recovery<'_>) -> Result<Reached>;

    /// Runs the engine's own consistency check on what was recovered, and says what it ran.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](crate::ErrorKind::Corrupt) with what the engine said.
    async fn check(&self, plan: &RestorePlan) -> Result<String>;

    /// How a restored database is used by whoever has the engine and nothing of ours, a sentence a
    /// line. `file` is the name of its file; of a database that is a directory, of the tar of it.
    fn native_use(&self, version: &str, file: &str) -> Vec<String>;

    /// Whether a file that an application left is a complete and sound database. `left` is where it
    /// was left, with whatever lies beside it; `copy` is a copy of our own, which is read.
    ///
    /// # Errors
    ///
    /// [`Refused`](crate::ErrorKind::Refused) when it is not;
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where no file is a database of this engine.
    async fn check_dump(&self, left: &Path, copy: &Path) -> Result<String> {
        let step = format!("take {} for a database of {}", left.display(), self.name());
        let _ = copy;
        Err(Error::new(ErrorKind::Unsupported, code::UNSUITABLE_DATABASE, step)
            .why("only files that are complete databases are picked up, such as those of SQLite"))
    }

    /// Whether a database is one file; otherwise it is a directory.
    fn is_one_file(&self) -> bool {
        false
    }

    /// Whether a sandbox finds in what it reads whatever [`check`](Self::check) would find there,
    /// so that a part of a database can be read without checking all of it.
    fn checks_as_it_reads(&self) -> bool {
        false
    }

    /// Puts the recovered database in its place, durably and in one step. What was written into
    /// the plan's directories before is durable already.
    ///
    /// Nothing that stood there is lost before the new database is in place.
    async fn publish(&self, plan: &RestorePlan) -> Result<()>;

    /// Starts a server on a database that was published, waits until it accepts connections, and
    /// says where. The server outlives us.
    ///
    /// # Errors
    ///
    /// What the server said; the database stays where it is.
    async fn start(&self, _plan: &RestorePlan) -> Result<String> {
        Err(Error::new(ErrorKind::Unsupported, code::USAGE, "start a server"))
    }

    /// Opens a throw-away server on a restored copy of a database.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported) when that cannot be done on this machine;
    /// else what the server said.
    async fn sandbox(&self, _request: SandboxRequest<'_>) -> Result<Box<dyn Sandbox>> {
        Err(Error::new(ErrorKind::Unsupported, code::USAGE, "open a sandbox"))
    }

    /// Which of a server's databases an endpoint names; `None` where there is only one.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) for an endpoint that says nothing sensible.
    fn database_of(&self, _endpoint: &Endpoint) -> Result<Option<String>> {
        Ok(None)
    }

    /// Looks at a server that lives, before a copy is restored of which a share shall go there:
    /// whether that can be done, and whether the chosen name is free. Changes nothing.
    ///
    /// # Errors
    ///
    /// [`Refused`](crate::ErrorKind::Refused) when the name is taken;
    /// [`Unsupported`](crate::ErrorKind::Unsupported) when the engine cannot do it.
    async fn admit_share(&self, _request: &ShareRequest<'_>) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, code::USAGE, "restore a part of a database"))
    }

    /// What a restore of a share leaves in the server that lives when it is killed, for people;
    /// `None` where that is nothing.
    fn remains_of_share(&self, _share: &crate::Share, _token: &str) -> Option<String> {
        None
    }

    /// Removes from a server that lives what killed restores of shares left behind there, and says
    /// what that was.
    ///
    /// # Errors
    ///
    /// What the server said; the next one tries again.
    async fn sweep_share(&self, _request: &ShareRequest<'_>) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// The certificates that an endpoint names as files, which somebody has to renew in time.
    ///
    /// # Errors
    ///
    /// A file that cannot be read.
    fn certificates(&self, _endpoint: &Endpoint) -> Result<Vec<Certificate>> {
        Ok(Vec::new())
    }

    /// The statements that make a role with the least privileges for backups and log capture, for
    /// servers of a major version; the newest one's, unless it is said. `None` for an engine
    /// without roles.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for a version that is not known.
    fn grants(&self, _role: &str, _major: Option<u32>) -> Result<Option<String>> {
        Ok(None)
    }

    /// How points look that [`read_point`](Self::read_point) reads, for help texts; empty where
    /// the engine has none of its own.
    fn point_forms(&self) -> &'static str {
        ""
    }

    /// Reads a point in the engine's own notation; `None` when the text is nothing of the kind.
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) when it is, and cannot be meant.
    fn read_point(&self, _text: &str) -> Result<Option<NativePoint>> {
        Ok(None)
    }

    /// Where in a segment a transaction committed: the offset of the state that includes it.
    fn commit_of(&self, _transaction: &str, _head: &SegmentHead) -> Option<u128> {
        None
    }

    /// What the engine knows of the files that its servers' archiver names; `None` where servers
    /// hand over no files.
    fn archive(&self) -> Option<&dyn LogArchive> {
        None
    }

    /// Writes a position as the engine's own tools print it, such as `0/16B3748`.
    fn render(&self, position: &LogPosition) -> String {
        position.to_string()
    }
}

/// Where a server is.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The URL's scheme.
    pub scheme: String,
    /// What follows the scheme and its colon, as it was typed.
    pub address: String,
    /// Settings that do not belong into a URL, such as a password read from a file.
    pub settings: BTreeMap<String, String>,
}

impl fmt::Debug for Endpoint {
    /// Prints no settings: they may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("scheme", &self.scheme).finish_non_exhaustive()
    }
}

/// One connected database server.
///
/// A driver knows its engine and nothing else: no repository, no schedule, no retention.
/// It asks the engine for copies through the engine's own online mechanism and reports positions,
/// so that others can reason about time.
///
/// # Contract
///
/// Checked by `stillpoint-conformance` for every engine:
///
/// - A copy never holds part of a transaction: restoring it yields a state that some client could
///   have seen.
/// - Dropping any of these futures leaves the server as it was: no open backup mode, no leaked
///   replication slot, no lock.
/// - Any method may run while any other runs.
#[async_trait]
pub trait Driver: fmt::Debug + Send + Sync {
    /// Asks the server who it is and what it allows today.
    async fn probe(&self) -> Result<Probe>;

    /// Looks at everything that backups and log capture need from the server, without changing
    /// anything there.
    async fn examine(&self) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }

    /// Copies the server into `sink`.
    ///
    /// With a base, pages that did not change since it may be kept instead of written; without
    /// one, everything is written.
    ///
    /// # Errors
    ///
    /// [`Departed`](crate::ErrorKind::Departed) when the server went away or its identity changed.
    async fn backup(&self, request: BackupRequest<'_>, sink: &dyn Sink) -> Result<Evidence>;

    /// Begins to capture the log from `since`, or from what the engine has now.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported) when the server keeps no log, with the
    /// statement that would change it.
    async fn open_log(&self, since: Option<&LogMark>) -> Result<OpenedLog>;

    /// Opens a session that moves rows of its tables.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported) when the server cannot be written to, such as
    /// a standby.
    async fn rows(&self) -> Result<Box<dyn Rows>> {
        Err(Error::new(ErrorKind::Unsupported, code::USAGE, "move rows")
            .why("rows of this engine are not moved"))
    }

    /// How far its log goes by now: everything that is committed lies before that. `None` where
    /// positions cannot be asked for.
    ///
    /// # Errors
    ///
    /// As [`probe`](Self::probe).
    async fn position(&self) -> Result<Option<LogPosition>> {
        Ok(None)
    }

    /// Lets the server forget, for good, what it keeps for captures, such as a replication slot.
    /// Returns what it was; `None` when there was nothing, as in engines that keep nothing.
    ///
    /// # Errors
    ///
    /// [`Busy`](crate::ErrorKind::Busy) while a capture uses it.
    async fn retire_log(&self) -> Result<Option<String>> {
        Ok(None)
    }
}

/// Who a server is, as it says itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The identity of the database, compared before and after each backup.
    pub identity: Identity,
    /// The engine's version as the server reports it.
    pub version: String,
    /// What this server allows.
    pub capabilities: Capabilities,
    /// How much a full backup would read, in bytes, as far as known.
    pub size_bytes: u64,
    /// Settings worth recording with the backup and comparing at restore.
    pub settings: BTreeMap<String, String>,
}

/// Which database this is: what must stay the same for positions to be comparable.
///
/// PostgreSQL has its system identifier, MySQL the server uuid, SQL Server the database guid.
/// An engine without one generates it from what cannot be shared by two databases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Unique and stable for one incarnation.
    pub id: String,
    /// Where it was found: a path or host, for people and for telling a replaced database from
    /// another one.
    pub location: String,
}

/// What to copy.
#[derive(Debug)]
pub struct BackupRequest<'a> {
    /// The earlier backup this one may build on.
    pub base: Option<Base<'a>>,
    /// Upper limit of connections, and of parts written at once.
    pub streams_max: NonZeroUsize,
}

/// The earlier backup of the same incarnation that a new one builds on.
#[derive(Debug)]
pub struct Base<'a> {
    /// Its proof.
    pub evidence: &'a Evidence,
    /// Its parts.
    pub parts: &'a dyn Source,
    /// The log captured since, from its `evidence.consistent_at`.
    pub log: &'a mut dyn LogSource,
}

/// Names and versions of extensions, by the name of the database that they are in.
pub type Extensions = BTreeMap<String, BTreeMap<String, String>>;

/// The engine's own proof of a finished copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The position of the state that a restore of this copy alone yields; with a log, recovery
    /// starts here. `None` for an engine or a mode without positions.
    pub consistent_at: Option<LogPosition>,
    /// When that state was the newest one, by the server's clock: whatever was committed before is
    /// in it, and what else is in it was committed within the second after. On a standby it is the
    /// time of the copy: what had not been replayed by then is not in it.
    pub consistent_time: DateTime<Utc>,
    /// What capture needs to join its log to this copy; empty where the position suffices.
    pub cursor: Bytes,
    /// Log that must be replayed before the copy is consistent; `None` for snapshots.
    pub replay: Option<LogRange>,
    /// Whether unchanged pages were kept from the base without reading them.
    pub incremental: bool,
    /// How the copy was taken, in a few words for the report, such as `online backup API`.
    pub method: String,
    /// How many rows tables have, as far as that was cheap to know; at most [`TALLIES_MAX`] of
    /// them.
    ///
    /// [`TALLIES_MAX`]: crate::TALLIES_MAX
    pub tallies: Vec<Tally>,
    /// The extensions of each database and their versions, as far as the role may ask.
    pub extensions: Extensions,
    /// What the engine's own checksums say against pages that were copied, if they do. Such a
    /// backup is stored, and nobody takes it for a good one.
    pub damage: Option<String>,
}

/// What to build, where, and where to stop.
#[derive(Clone, Copy, Debug)]
pub struct RestoreRequest<'a> {
    /// The backup's proof.
    pub evidence: &'a Evidence,
    /// The version of the engine that made the backup, and the settings recorded with it.
    pub version: &'a str,
    /// The settings recorded with the backup.
    pub settings: &'a BTreeMap<String, String>,
    /// The backup's parts.
    pub parts: &'a dyn Source,
    /// Where the database shall be: a file or a directory, as the engine has it.
    pub target: &'a Path,
    /// A directory on the target's file system that is new, empty and ours.
    pub staging: &'a Path,
    /// Where recovery stops.
    pub until: &'a RecoveryTarget,
    /// Whether an existing target may be replaced.
    pub overwrite: Overwrite,
    /// What is wanted beside the usual.
    pub extras: &'a RestoreExtras,
}

/// What a sandbox is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SandboxUse {
    /// None is opened.
    #[default]
    None,
    /// It is looked at.
    Look,
    /// Parts of it are brought into a server that lives.
    Bring,
}

/// What a restore can be told to do beside the usual.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreExtras {
    /// Where what lived outside of the database's own place goes, such as a tablespace.
    pub relocations: Vec<Relocation>,
    /// Whether a server is started on the database afterwards.
    pub starts: bool,
    /// How the server is reached that the restored one shall follow, in the engine's own notation:
    /// then no state of its own begins with what is restored.
    pub follows: Option<String>,
    /// What a sandbox is opened on the database for afterwards: a machine on which that cannot be
    /// done is refused.
    pub sandbox: SandboxUse,
    /// Whether what stands at the target is turned into the database, block by block.
    pub rewrites: bool,
    /// Lineages of the database that are kept: what is restored must begin none of them again.
    pub lineages: Vec<Lineage>,
}

impl RestoreExtras {
    /// Refuses all of them, for an engine that has none.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) when any is wanted.
    pub fn refuse(&self) -> Result<()> {
        let wanted = [
            (self.starts, "--start", "this engine has no server to start"),
            (self.follows.is_some(), "--as standby", "this engine has no standbys"),
            (self.rewrites, "--delta", "databases of this engine are always written anew"),
            (!self.relocations.is_empty(), "--tablespace", "this engine has no tablespaces"),
        ];
        match wanted.iter().find(|(is_wanted, ..)| *is_wanted) {
            None => Ok(()),
            Some((_, option, why)) => {
                let step = "restore in this way";
                let error = Error::new(ErrorKind::Unsupported, code::USAGE, step);
                Err(error.with("option", option).why(*why))
            }
        }
    }
}

/// Where something goes that lived outside of the database's own place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relocation {
    /// What, as the engine's users name it.
    pub from: String,
    /// A directory that is empty, or not there yet.
    pub to: PathBuf,
}

/// What to do when the target of a restore exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwrite {
    /// Refuse.
    Never,
    /// Replace it, unless somebody is using it.
    Replace,
}

/// Where recovery stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoveryTarget {
    /// As soon as the copy is consistent.
    Consistent,
    /// After the last transaction committed at or before this instant.
    Time(DateTime<Utc>),
    /// The state at this position, which is the end of a commit.
    Position(LogPosition),
    /// At the end of the log that was captured.
    Latest,
}

/// How a backup becomes a database again, as a value: printed by `--plan`, carried out by others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestorePlan {
    /// Where the database shall be.
    pub target: PathBuf,
    /// Where it is built.
    pub staging: PathBuf,
    /// The file or directory below that which becomes the database; a sandbox can be opened on it
    /// without publishing it.
    pub database: PathBuf,
    /// Where parts are laid out: the first rule whose prefix fits decides. A part that no rule
    /// fits is not laid out; the driver reads it from the source itself.
    pub placements: Vec<Placement>,
    /// Files to write beside the parts.
    pub files: Vec<GeneratedFile>,
    /// Whether log is replayed after the parts are laid out.
    pub replays_log: bool,
    /// Where recovery stops.
    pub until: RecoveryTarget,
    /// Whether an existing target may be replaced.
    pub overwrite: Overwrite,
    /// What will prove that the point was reached, in a few words.
    pub proof: String,
    /// Directories outside of the staging directory that are filled, empty or not there yet.
    pub relocated: Vec<PathBuf>,
    /// Set when what stands at the target is turned into the database.
    pub rewrite: Option<Rewrite>,
    /// What a person should know before, such as how this machine differs.
    pub notes: Vec<String>,
    /// The user and group whom everything will belong to in the end, if not to us.
    pub owner: Option<(u32, u32)>,
    /// The permission bits that directories and files will have in the end, if others than their
    /// owner may look at them.
    pub modes: Option<(u32, u32)>,
}

/// How what stands at a target is turned into the database: it is moved to where it is built, and
/// only there rewritten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// Where the target's directory is moved to, below the staging directory. Files in it that no
    /// part belongs to are removed.
    pub directory: PathBuf,
    /// The part that is removed first and written last: without it the engine does not start.
    pub last: String,
}

/// Where the parts below a prefix go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The part itself, or a prefix that ends with `/`.
    pub prefix: String,
    /// The file, or the directory that replaces the prefix; below the staging directory or, for
    /// tablespaces, where the user mapped them.
    pub path: PathBuf,
}

impl RestorePlan {
    /// Where `part` is laid out, if at all.
    pub fn place(&self, part: &PartName) -> Option<PathBuf> {
        let name = part.as_str();
        self.placements.iter().find_map(|rule| match name.strip_prefix(rule.prefix.as_str())? {
            "" => Some(rule.path.clone()),
            rest if rule.prefix.ends_with('/') || rule.prefix.is_empty() => {
                Some(rule.path.join(rest))
            }
            _ => None,
        })
    }
}

/// A file that a restore writes beside the parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeneratedFile {
    /// Where.
    pub path: PathBuf,
    /// What.
    pub bytes: Bytes,
    /// Permission bits.
    pub mode: u32,
}

/// What recovery works on.
#[derive(Debug)]
pub struct Recovery<'a> {
    /// The plan, whose parts and files are in place.
    pub plan: &'a RestorePlan,
    /// The backup's proof.
    pub evidence: &'a Evidence,
    /// The backup's parts, for engines that read them through us.
    pub parts: &'a dyn Source,
    /// The captured log from the backup on.
    pub log: &'a mut dyn LogSource,
}

/// The point that recovery reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// Its position, where the engine has positions.
    pub position: Option<LogPosition>,
    /// When the last transaction included was committed; `None` when no log was replayed.
    pub committed_at: Option<DateTime<Utc>>,
    /// How many transactions were replayed.
    pub transactions: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_fits_places_a_part() {
        let rule = |prefix: &str, path: &str| Placement {
            prefix: prefix.to_owned(),
            path: PathBuf::from(path),
        };
        let plan = RestorePlan {
            target: "/t".into(),
            staging: "/s".into(),
            database: "/s/db".into(),
            placements: vec![rule("main", "/s/db"), rule("spc/1/", "/x"), rule("base/", "/s/base")],
            files: Vec::new(),
            replays_log: false,
            until: RecoveryTarget::Latest,
            overwrite: Overwrite::Never,
            proof: String::new(),
            relocated: Vec::new(),
            rewrite: None,
            notes: Vec::new(),
            owner: None,
            modes: None,
        };
        let place = |name: &str| plan.place(&PartName::new(name).unwrap());
        assert_eq!(place("main"), Some("/s/db".into()));
        assert_eq!(place("mainly"), None);
        assert_eq!(place("spc/1/a/b"), Some("/x/a/b".into()));
        assert_eq!(place("other"), None);
    }
}
