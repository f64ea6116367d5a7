//! Reaching one database: locating the file, opening connections that change nothing, and asking
//! who it is.

use std::{
    collections::BTreeMap,
    fmt, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use rusqlite::{Connection, OpenFlags, config::DbConfig};
use rustix::{
    fs::Access,
    process::{getegid, geteuid},
};
use stillpoint_contract::{
    Capabilities, Clock, Consistency, Error, ErrorKind, Identity, Incremental, LogSupply, Probe,
    Result, code,
};

use crate::{
    config::Config,
    error, first_page,
    log::POLL_PERIOD,
    wal::{WalFile, is_page_size},
};

/// One database file, found.
#[derive(Clone)]
pub(crate) struct Database {
    /// The file without symbolic links, so that SQLite finds the log where the application does.
    pub(crate) path: PathBuf,
    pub(crate) config: Config,
    /// Who it was when it was found.
    pub(crate) identity: Identity,
    pub(crate) clock: Arc<dyn Clock>,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Database").field(&self.path).finish()
    }
}

/// How a database keeps its journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Journal {
    /// A write-ahead log.
    Wal,
    /// Any kind of rollback journal.
    Rollback,
}

impl Database {
    /// Finds the file.
    pub(crate) fn locate(config: Config, clock: Arc<dyn Clock>) -> Result<Self> {
        let path = fs::canonicalize(&config.path).map_err(|e| no_database(e, &config.path))?;
        let identity = identify(&path)?;
        refuse_second_name(&path)?;
        Ok(Self { path, config, identity, clock })
    }

    /// Opens a connection that only reads and never checkpoints, not even when it is closed.
    pub(crate) fn open(&self) -> Result<Connection> {
        let connection = self.open_writable()?;
        self.sql(connection.pragma_update(None, "query_only", true), "open the database")?;
        Ok(connection)
    }

    /// Opens a connection that can take the write lock. Nobody writes with it.
    pub(crate) fn open_writable(&self) -> Result<Connection> {
        refuse_to_leave_ours(&self.path)?;
        // The path is absolute, so SQLite does not mistake it for a URI.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let open = || -> rusqlite::Result<Connection> {
            let mut connection = Connection::open_with_flags(&self.path, flags)?;
            // SQLite's own handler looks every 100 ms at last, and starves where writers of a
            // rollback-journal database leave a millisecond between two commits.
            let tries = self.config.busy_timeout.as_millis();
            connection.busy_handler(Some(move |tried: i32| {
                std::thread::sleep(LOCK_POLL);
                u128::from(tried.unsigned_abs()) < tries
            }))?;
            // Closing the last connection would copy the log back and delete it: log that nobody
            // has captured. Source: https://www.sqlite.org/c3ref/c_dbconfig_defensive.html
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            connection.pragma_update(None, "wal_autocheckpoint", 0)?;
            // Reading the header opens the log and tells whether this is a database at all.
            schema_version(&connection)?;
            Ok(connection)
        };
        self.sql(open(), "open the database")
    }

    /// Closes a connection. When the log is empty, SQLite may tidy up as it does for anyone: the
    /// last to leave deletes the empty `-wal` and the `-shm`.
    #[expect(clippy::needless_pass_by_value, reason = "the connection ends here")]
    pub(crate) fn close(connection: Connection) {
        let is_empty = matches!(checkpoint(&connection, "NOOP"), Ok(Some((0, _))));
        if is_empty {
            let option = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
            // On failure the empty log stays behind, as after a crash of its owner.
            drop(connection.set_db_config(option, false));
        }
    }

    /// How the database keeps its journal now.
    pub(crate) fn journal(&self, connection: &Connection) -> Result<Journal> {
        let mode = connection.pragma_query_value(None, "journal_mode", |row| row.get(0));
        let mode: String = self.sql(mode, "read the journal mode")?;
        Ok(if mode == "wal" { Journal::Wal } else { Journal::Rollback })
    }

    /// Length of a page in bytes.
    pub(crate) fn page_bytes(&self, connection: &Connection) -> Result<u32> {
        let size = self.number(connection, "page_size")?;
        let size = u32::try_from(size).ok().filter(|size| is_page_size(*size));
        size.ok_or_else(|| Error::bug("read the page size").with("file", self.path.display()))
    }

    /// Number of pages in the state that the connection sees.
    pub(crate) fn page_count(&self, connection: &Connection) -> Result<u32> {
        let count = self.number(connection, "page_count")?;
        u32::try_from(count).map_err(|_| Error::bug("read the number of pages"))
    }

    fn number(&self, connection: &Connection, pragma: &str) -> Result<i64> {
        let value = connection.pragma_query_value(None, pragma, |row| row.get(0));
        self.sql(value, "read the database's header")
    }

    /// Opens the log's file, which exists while any connection of ours has the log open.
    pub(crate) fn wal(&self) -> Result<WalFile> {
        WalFile::open(&Config::beside(&self.path, "-wal"))
    }

    /// Fails when the path no longer leads to the file that was found.
    pub(crate) fn check_identity(&self) -> Result<()> {
        match identify(&self.path) {
            Ok(identity) if identity == self.identity => Ok(()),
            _ => Err(error::vanished(&self.path)),
        }
    }

    /// Turns SQLite's errors into ours.
    pub(crate) fn sql<T>(&self, result: rusqlite::Result<T>, step: &'static str) -> Result<T> {
        result.map_err(|e| error::sqlite(e, step, &self.path))
    }

    /// Asks the database who it is and what it allows.
    pub(crate) fn probe(&self) -> Result<Probe> {
        let connection = self.open()?;
        let journal = self.journal(&connection)?;
        let size_bytes =
            u64::from(self.page_bytes(&connection)?) * u64::from(self.page_count(&connection)?);
        let mut settings = BTreeMap::new();
        for name in SETTINGS {
            let value = connection.pragma_query_value(None, name, |row| {
                row.get_ref(0).map(|value| match value {
                    rusqlite::types::ValueRef::Text(text) => {
                        String::from_utf8_lossy(text).into_owned()
                    }
                    other => other.as_i64().map_or_else(|_| String::new(), |n| n.to_string()),
                })
            });
            settings.insert(name.to_owned(), self.sql(value, "read the database's header")?);
        }
        Self::close(connection);
        self.check_identity()?;
        Ok(Probe {
            identity: self.identity.clone(),
            version: rusqlite::version().to_owned(),
            capabilities: capabilities(journal),
            size_bytes,
            settings,
        })
    }
}

/// How often a lock that others hold is tried again.
const LOCK_POLL: Duration = Duration::from_millis(1);

/// Settings in the file's header that are worth recording with a backup.
const SETTINGS: [&str; 6] =
    ["page_size", "journal_mode", "auto_vacuum", "encoding", "user_version", "application_id"];

fn capabilities(journal: Journal) -> Capabilities {
    let is_wal = journal == Journal::Wal;
    Capabilities {
        consistency: Consistency::AtStart,
        incremental: if is_wal { Incremental::SincePrevious } else { Incremental::Never },
        log: if is_wal { LogSupply::Poll { period: POLL_PERIOD } } else { LogSupply::Never },
        restores_single_database: true,
    }
}

/// Starts a read, and inside a transaction pins the state that is read.
pub(crate) fn schema_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA main.schema_version", [], |row| row.get(0))
}

/// Runs a checkpoint of the given mode and returns how many frames the log has and how many of
/// them are copied into the database. `NOOP` only asks.
///
/// `None` when SQLite cannot tell: the database has no log, another checkpoint runs, or a writer
/// was just publishing its frames.
///
/// Source: <https://www.sqlite.org/pragma.html#pragma_wal_checkpoint>.
pub(crate) fn checkpoint(
    connection: &Connection,
    mode: &str,
) -> rusqlite::Result<Option<(u32, u32)>> {
    connection.query_row(&format!("PRAGMA main.wal_checkpoint({mode})"), [], |row| {
        let (log, copied): (i64, i64) = (row.get(1)?, row.get(2)?);
        Ok(u32::try_from(log).ok().zip(u32::try_from(copied).ok()))
    })
}

/// Who the file is: SQLite gives a database no identity of its own, so it is that of the file.
///
/// A file's inode is used again after it is removed, its birth time is not. Where the file system
/// keeps no birth time the device takes its place, which is weaker.
fn identify(path: &Path) -> Result<Identity> {
    let metadata = fs::metadata(path).map_err(|e| no_database(e, path))?;
    if !metadata.is_file() {
        return Err(Error::new(ErrorKind::Unsupported, code::NOT_A_DATABASE, "open the database")
            .with("file", path.display())
            .why("it is not a regular file")
            .next("name the database file itself"));
    }
    let mut hash = blake3::Hasher::new();
    hash.update(&metadata.ino().to_le_bytes());
    match metadata.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()) {
        Some(birth) => hash.update(&birth.as_nanos().to_le_bytes()),
        None => hash.update(b"device").update(&metadata.dev().to_le_bytes()),
    };
    let id = hash.finalize().to_hex().as_str()[..32].to_owned();
    Ok(Identity { id, location: path.display().to_string() })
}

/// SQLite looks for the log beside the name by which a file was opened. Under another name the same
/// file has no log or another one, so that a copy lacks commits and a writer can do damage.
///
/// Source: <https://www.sqlite.org/howtocorrupt.html#_multiple_links_to_the_same_file>.
fn refuse_second_name(path: &Path) -> Result<()> {
    let metadata = fs::metadata(path).map_err(|e| no_database(e, path))?;
    if metadata.nlink() <= 1 {
        return Ok(());
    }
    let refused = Error::new(ErrorKind::Refused, code::UNSUITABLE_DATABASE, "find the log")
        .with("file", path.display())
        .with("names of the file", metadata.nlink())
        .why(
            "the file has several names (hard links), its log lies beside the one that the \
             application uses, and which one that is cannot be told",
        );
    let others = other_names(path, &metadata);
    let refused = others.iter().fold(refused, |error, other| error.with("also", other.display()));
    Err(refused
        .next(format!("find DIRECTORY -samefile {} lists the names", error::quoted(path)))
        .next("remove all names but one; rm removes only the name")
        .next("where only one name has a `-wal` beside it, that one is complete: keep it"))
}

/// A database in WAL mode cannot be opened without `-wal` and `-shm`. Where we have to make them,
/// they are ours, with the permissions of the database; only root can give them to its owner, and
/// SQLite then does. An application that cannot write them fails with "attempt to write a readonly
/// database", while we have the file open and, if we are killed, from then on. A file that we may
/// not write at all cannot even be tidied up after.
///
/// Source: SQLite 3.54 os_unix.c, `findCreateFileMode` and `robustFchown`.
fn refuse_to_leave_ours(path: &Path) -> Result<()> {
    let is_there = |suffix| Config::beside(path, suffix).exists();
    let is_writable = rustix::fs::access(path, Access::WRITE_OK).is_ok();
    if is_writable && is_there("-wal") && is_there("-shm") {
        return Ok(());
    }
    let metadata = fs::metadata(path).map_err(|e| no_database(e, path))?;
    if is_writable && is_ours_to_share(path, &metadata) {
        return Ok(());
    }
    // What cannot be read is refused with its own reason.
    let needs_log = first_page::on_disk(path).is_ok_and(|page| first_page::needs_log(&page));
    if !needs_log {
        return Ok(());
    }
    let refused = Error::new(ErrorKind::Denied, code::UNSUITABLE_DATABASE, "open the database")
        .with("file", path.display())
        .with("its owner", metadata.uid())
        .with("our user", geteuid().as_raw());
    Err(if is_writable {
        refused
            .why(
                "`-wal` and `-shm` do not exist, and if we made them beside it, its owner could \
                 not write them: the application would fail; nothing was opened",
            )
            .next("run the same command as the user who owns the file, or while it is in use")
    } else {
        refused
            .why(
                "SQLite needs to write `-wal` and `-shm` beside a database to read it \
                 consistently, and those would stay behind as ours; nothing was opened",
            )
            .next(format!("grant write permission on {} and its directory", error::quoted(path)))
            .next("or run the same command as the user who owns the file")
    })
}

/// Whether the owner of a database could write what we make beside it.
fn is_ours_to_share(path: &Path, database: &fs::Metadata) -> bool {
    let user = geteuid();
    if user.is_root() || user.as_raw() == database.uid() {
        return true;
    }
    let lets = |bits| database.mode() & bits == bits;
    let directory = path.parent().and_then(|parent| fs::metadata(parent).ok());
    let handed_down = directory.filter(|d| d.mode() & SET_GROUP != 0).map(|d| d.gid());
    let group = handed_down.unwrap_or_else(|| getegid().as_raw());
    lets(OTHERS_WRITE) || lets(GROUP_WRITES) && group == database.gid()
}

/// Permissions to read and to write, for others and for the group.
const OTHERS_WRITE: u32 = 0o006;
const GROUP_WRITES: u32 = 0o060;

/// What is made in such a directory gets its group.
const SET_GROUP: u32 = 0o2000;

/// How many other names are told.
const NAMES_MAX: usize = 4;

/// Names of the same file in the same directory.
fn other_names(path: &Path, of: &fs::Metadata) -> Vec<PathBuf> {
    let entries = path.parent().and_then(|parent| fs::read_dir(parent).ok());
    let is_other = |entry: &PathBuf| {
        let metadata = fs::symlink_metadata(entry);
        entry != path && metadata.is_ok_and(|m| (m.dev(), m.ino()) == (of.dev(), of.ino()))
    };
    let entries = entries.into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(is_other).take(NAMES_MAX).collect()
}

fn no_database(error: std::io::Error, path: &Path) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        _ => ErrorKind::Missing,
    };
    Error::new(kind, code::NO_DATABASE, "find the database file")
        .with("file", path.display())
        .caused_by(error)
        .next(format!("ls -l {}", error::quoted(path)))
}
