//! Laying a database out, checking it and putting it in its place.

use std::{
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, config::DbConfig};
use rustix::{
    fs::{CWD, RenameFlags},
    io::Errno,
};
use stillpoint_contract::{
    Error, ErrorKind, Overwrite, Placement, RecoveryTarget, RestorePlan, RestoreRequest, Result,
    code,
};

use crate::{
    PART,
    config::Config,
    connect::{checkpoint, schema_version},
    error, permissions,
};

/// Files that SQLite keeps beside a database and would apply to another one of the same name.
const COMPANIONS: [&str; 3] = ["-wal", "-journal", "-shm"];

/// What each of the two checks may keep in memory, in KiB.
const CHECK_CACHE_KIB: i64 = 24 << 10;

/// How many lines of a failed check are reported.
const FINDINGS_MAX: usize = 8;

/// Decides where everything goes. Changes nothing.
pub(crate) fn plan(request: &RestoreRequest<'_>) -> Result<RestorePlan> {
    request.extras.refuse()?;
    let target = absolute(request.target)?;
    check_target(&target, request.overwrite)?;
    let replays_log = !matches!(request.until, RecoveryTarget::Consistent);
    if replays_log && request.evidence.consistent_at.is_none() && !is_latest(request.until) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            code::UNREACHABLE_POINT,
            "reach a point after the backup",
        )
        .why("a backup of a rollback-journal database has no position to replay log from")
        .next("restore the backup itself, without --at"));
    }
    Ok(RestorePlan {
        placements: vec![Placement { prefix: PART.to_owned(), path: staged(request.staging) }],
        target,
        staging: request.staging.to_owned(),
        database: staged(request.staging),
        files: Vec::new(),
        replays_log: replays_log && request.evidence.consistent_at.is_some(),
        until: request.until.clone(),
        overwrite: request.overwrite,
        proof: "every frame's checksum, then PRAGMA integrity_check".to_owned(),
        relocated: Vec::new(),
        rewrite: None,
        notes: Vec::new(),
        owner: None,
        modes: None,
    })
}

fn is_latest(until: &RecoveryTarget) -> bool {
    matches!(until, RecoveryTarget::Latest)
}

/// Where the database is built.
pub(crate) fn staged(staging: &Path) -> PathBuf {
    staging.join("database")
}

/// How many symbolic links in a row are followed, as the system does.
const LINKS_MAX: usize = 40;

/// The file that the target names, its directory resolved, so that its companions are found beside
/// it. A link names what it leads to, even when nothing is there yet.
fn absolute(target: &Path) -> Result<PathBuf> {
    let mut target = target.to_owned();
    for _ in 0..LINKS_MAX {
        let directory = directory_of(&target)?;
        let Ok(link) = fs::read_link(&target) else {
            return Ok(directory.join(target.file_name().unwrap_or_default()));
        };
        target = directory.join(link);
    }
    Err(Error::new(ErrorKind::Invalid, code::FILE, "follow the target's links")
        .with("target", target.display())
        .why("the links lead in a circle"))
}

fn directory_of(target: &Path) -> Result<PathBuf> {
    let invalid = |why: &'static str| {
        Error::new(ErrorKind::Invalid, code::FILE, "find the target's directory")
            .with("target", target.display())
            .why(why)
    };
    if target.file_name().is_none() {
        return Err(invalid("it names no file"));
    }
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    fs::canonicalize(parent).map_err(|e| {
        invalid("the directory does not exist or cannot be entered")
            .next(format!("mkdir -p {}", error::quoted(parent)))
            .caused_by(e)
    })
}

fn check_target(target: &Path, overwrite: Overwrite) -> Result<()> {
    let exists = fs::symlink_metadata(target).is_ok();
    if fs::metadata(target).is_ok_and(|metadata| !metadata.is_file()) {
        return Err(exists_already(target, "it is not a regular file"));
    }
    match overwrite {
        Overwrite::Never if exists => Err(exists_already(target, "a file is there already")
            .next("the same command with --force replaces it")),
        Overwrite::Never => match companions(target).first() {
            None => Ok(()),
            Some(left) => Err(exists_already(
                left,
                "it was left by a database that is gone, and SQLite would apply it to the one \
                 that is restored",
            )
            .next(format!("mv {} somewhere else", error::quoted(left)))
            .next("the same command with --force replaces it")),
        },
        Overwrite::Replace => lock_out(target).map(drop),
    }
}

fn companions(target: &Path) -> Vec<PathBuf> {
    let beside = COMPANIONS.iter().map(|suffix| Config::beside(target, suffix));
    beside.filter(|path| fs::symlink_metadata(path).is_ok()).collect()
}

fn exists_already(path: &Path, why: &'static str) -> Error {
    Error::new(ErrorKind::Refused, code::TARGET_EXISTS, "restore beside existing files")
        .with("target", path.display())
        .why(why)
}

/// Takes the target's exclusive lock, which fails while any process uses it, and holds it as long
/// as the connection lives. `None` when there is no SQLite database to lock.
///
/// In WAL mode every open connection holds a lock; with a rollback journal only those inside a
/// transaction do. Source: <https://www.sqlite.org/pragma.html#pragma_locking_mode>.
fn lock_out(target: &Path) -> Result<Option<Connection>> {
    if !fs::metadata(target).is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0) {
        return Ok(None);
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let lock = || -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(target, flags)?;
        connection.busy_timeout(Duration::ZERO)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        schema_version(&connection)?;
        // In this mode the lock stays when the transaction ends.
        connection.execute_batch("BEGIN EXCLUSIVE; ROLLBACK")?;
        Ok(connection)
    };
    match lock() {
        Ok(connection) => Ok(Some(connection)),
        Err(e) => match e.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
                Err(Error::new(ErrorKind::Refused, code::TARGET_IN_USE, "replace the target")
                    .with("target", target.display())
                    .why("a process has the database open and would go on writing to it")
                    .next("stop the application, then run the same command again")
                    .next(format!("fuser {} lists the processes", error::quoted(target))))
            }
            // What is no readable database is nobody's database in use.
            _ => Ok(None),
        },
    }
}

/// Runs SQLite's checks on the staged file without leaving anything beside it.
pub(crate) fn check(plan: &RestorePlan) -> Result<String> {
    check_at(&staged(&plan.staging))
}

/// The same for any file of our own.
pub(crate) fn check_at(path: &Path) -> Result<String> {
    let (integrity, references) = std::thread::scope(|scope| {
        let references = scope.spawn(|| check_references(path));
        (check_file(path), references.join())
    });
    let references = references.map_err(|_| Error::bug("check references"))?;
    match integrity {
        Ok((Integrity::Sound, rows)) => Ok(format!("integrity_check: ok{rows}; {references}")),
        Ok((Integrity::Unknown(why), rows)) => Ok(format!(
            "integrity_check of each table that can be checked: ok ({why}){rows}; {references}"
        )),
        Ok((Integrity::Damaged(findings), _)) => Err(damaged(&findings)),
        Err(e) if is_damage(&e) => Err(damaged(&[e.to_string()])),
        Err(e) => Err(error::sqlite(e, "check the restored database", path)),
    }
}

fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

/// How SQLite begins a finding about a row that is sound but breaks a rule of its schema.
const BROKEN_RULE: &str = "CHECK constraint failed in ";

/// Checks the file's structure, and tells of rows that break CHECK constraints.
///
/// SQLite forgets the constraints of a file that it opened for reading only, so the check is tried
/// with a connection that may write. A constraint may be broken since its row was written, or need
/// functions of the application; that is told and refuses nothing.
fn check_file(path: &Path) -> rusqlite::Result<(Integrity, String)> {
    let findings = open_with_rules(path).and_then(|c| integrity_check(&c, "100"));
    let is_rule = |finding: &String| finding.starts_with(BROKEN_RULE);
    let rows = match findings {
        Ok(findings) if is_sound(&findings) => return Ok((Integrity::Sound, String::new())),
        Ok(mut findings) if findings.iter().all(is_rule) => {
            findings.dedup();
            findings.truncate(FINDINGS_MAX);
            format!("; {}, as when the rows were written", findings.join(", "))
        }
        Ok(findings) => return Ok((Integrity::Damaged(findings), String::new())),
        Err(e) => format!("; CHECK constraints were not checked: {e}"),
    };
    let integrity = open_to_check(path).and_then(|connection| check_integrity(&connection))?;
    Ok((integrity, rows))
}

fn is_sound(findings: &[String]) -> bool {
    findings == ["ok"]
}

/// Opens the file as one that could be written, alone, hence without shared memory beside it.
/// Source: <https://www.sqlite.org/wal.html#use_of_wal_without_shared_memory>.
fn open_with_rules(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "query_only", true)?;
    connection.pragma_update(None, "cache_size", -CHECK_CACHE_KIB)?;
    Ok(connection)
}

pub(crate) fn open_to_check(path: &Path) -> rusqlite::Result<Connection> {
    // An immutable file is read without locks, log or shared memory.
    // Source: https://www.sqlite.org/uri.html#uriimmutable
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(immutable_uri(path), flags)?;
    // Every row is looked up in every index, in no order that the index has.
    connection.pragma_update(None, "cache_size", -CHECK_CACHE_KIB)?;
    Ok(connection)
}

/// A database may well break its own foreign keys, so that is told and refuses nothing.
fn check_references(path: &Path) -> String {
    let count = open_to_check(path).and_then(|connection| {
        let count = "SELECT count(*) FROM pragma_foreign_key_check";
        connection.query_row(count, [], |row| row.get::<_, i64>(0))
    });
    match count {
        Ok(0) => "foreign_key_check: ok".to_owned(),
        Ok(count) => format!(
            "foreign_key_check: {count} rows refer to missing rows, as they did when they were \
             written"
        ),
        Err(e) => format!("foreign_key_check could not run: {e}"),
    }
}

/// What the engine says about its own structures.
enum Integrity {
    Sound,
    /// Some tables need functions of the application, and the others are sound.
    Unknown(String),
    Damaged(Vec<String>),
}

/// Runs `PRAGMA integrity_check`. It cannot run on a schema that uses collations or modules which
/// only the application has; then each table is checked alone, where that is possible.
fn check_integrity(connection: &Connection) -> rusqlite::Result<Integrity> {
    let error = match integrity_check(connection, "100") {
        Ok(findings) if is_sound(&findings) => return Ok(Integrity::Sound),
        Ok(findings) => return Ok(Integrity::Damaged(findings)),
        Err(e) if e.sqlite_error_code() == Some(rusqlite::ErrorCode::Unknown) => e,
        Err(e) => return Err(e),
    };
    let tables: Vec<String> = connection
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for table in tables {
        let name = format!("'{}'", table.replace('\'', "''"));
        match integrity_check(connection, &name) {
            Ok(findings) if !is_sound(&findings) => return Ok(Integrity::Damaged(findings)),
            Err(e) if e.sqlite_error_code() != Some(rusqlite::ErrorCode::Unknown) => return Err(e),
            _ => {}
        }
    }
    Ok(Integrity::Unknown(error.to_string()))
}

fn integrity_check(connection: &Connection, of: &str) -> rusqlite::Result<Vec<String>> {
    let mut check = connection.prepare(&format!("PRAGMA integrity_check({of})"))?;
    check.query_map([], |row| row.get(0))?.collect()
}

fn damaged(findings: &[String]) -> Error {
    let error =
        Error::new(ErrorKind::Corrupt, code::RESTORE_CHECK_FAILED, "check the restored database")
            .why(
                "PRAGMA integrity_check found damage; the database may have had it when it was \
                  backed up",
            );
    findings.iter().take(FINDINGS_MAX).fold(error, |error, line| error.with("found", line))
}

fn immutable_uri(path: &Path) -> String {
    let escape = |byte: &u8| {
        let is_plain = byte.is_ascii_alphanumeric() || b"/-_.~".contains(byte);
        if is_plain { char::from(*byte).to_string() } else { format!("%{byte:02X}") }
    };
    let path: String = path.as_os_str().as_bytes().iter().map(escape).collect();
    format!("file:{path}?immutable=1")
}

/// Puts the staged database at the target, in one step: the name leads to the old database or to
/// the new one at every moment.
///
/// What stood there is kept under another name, complete with its log, until the new database is
/// in place; no log of one ever lies beside the file of the other. When the new database cannot be
/// put in place, the old one has its names back.
pub(crate) fn publish(plan: &RestorePlan) -> Result<()> {
    let staged = staged(&plan.staging);
    let target = plan.target.as_path();
    check_target(target, plan.overwrite)?;
    sync(&staged)?;
    match plan.overwrite {
        Overwrite::Never => {
            put(&staged, target).map_err(|e| match e.kind() {
                io::ErrorKind::AlreadyExists => exists_already(target, "it was made just now"),
                _ => not_placed(e, target),
            })?;
            sync_parent(target)
        }
        Overwrite::Replace => replace(&staged, target),
    }
}

fn not_placed(error: io::Error, target: &Path) -> Error {
    error::file(error, "put the database in its place", target)
}

/// Moves the file to a name that nothing has. A file with two names is one that no backup takes,
/// so it gets its second name first only where there is no better way.
fn put(staged: &Path, target: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, staged, CWD, target, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        result => return Ok(result?),
    }
    // Unlike a rename, a link fails when somebody else was quicker.
    match fs::hard_link(staged, target) {
        Ok(()) => remove(staged),
        Err(e) => rename_where_no_links(e, staged, target),
    }
}

fn replace(staged: &Path, target: &Path) -> Result<()> {
    let failed = |e| not_placed(e, target);
    let lock = lock_out(target)?;
    if let Ok(metadata) = fs::metadata(target) {
        permissions::inherit(staged, &metadata).map_err(failed)?;
    }
    if let Some(lock) = &lock {
        // From here on the old file is whole without its log. Should that fail, the copy that is
        // set aside has the log.
        if let Err(error) = checkpoint(lock, "TRUNCATE") {
            tracing::debug!(%error, "could not copy the old log back");
        }
    }
    let mut aside = Aside::default();
    let placed = aside.take(target).and_then(|()| fs::rename(staged, target).map_err(failed));
    if let Err(error) = placed {
        return Err(match aside.put_back() {
            Ok(()) => error,
            Err(e) => error
                .with("not put back", e)
                .next("what stood there is complete under the name that ends with .replaced-N"),
        });
    }
    sync_parent(target)?;
    drop(lock);
    aside.names.iter().try_for_each(|(_, second)| remove(second)).map_err(failed)?;
    sync_parent(target)
}

fn rename_where_no_links(error: io::Error, from: &Path, to: &Path) -> io::Result<()> {
    let has_no_links =
        matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied);
    if has_no_links && !to.try_exists()? { fs::rename(from, to) } else { Err(error) }
}

/// The old database under second names in the same directory: first and second name of each file.
#[derive(Debug, Default)]
struct Aside {
    names: Vec<(PathBuf, PathBuf)>,
}

impl Aside {
    /// Gives the target and its companions second names, and takes the first names from the
    /// companions: whatever happens from here on, the old database opens under its second name
    /// with all of its log, and no companion of it meets the new one.
    fn take(&mut self, target: &Path) -> Result<()> {
        let failed = |e| error::file(e, "set the old database aside", target);
        let base = (1..u32::MAX)
            .map(|number| Config::beside(target, &format!(".replaced-{number}")))
            .find(|base| fs::symlink_metadata(base).is_err() && companions(base).is_empty())
            .ok_or_else(|| Error::bug("find a name for the old database"))?;
        for suffix in [""].iter().chain(&COMPANIONS) {
            let (from, to) = (Config::beside(target, suffix), Config::beside(&base, suffix));
            match fs::hard_link(&from, &to) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => rename_where_no_links(e, &from, &to).map_err(failed)?,
            }
            self.names.push((from, to));
        }
        sync_parent(target)?;
        for suffix in COMPANIONS {
            remove(&Config::beside(target, suffix)).map_err(failed)?;
        }
        sync_parent(target)
    }

    /// Gives every file its first name back. Companions come first: the database never stands
    /// there without its log.
    fn put_back(&self) -> io::Result<()> {
        for (first, second) in self.names.iter().rev() {
            if first.try_exists()? {
                remove(second)?;
            } else {
                fs::rename(second, first)?;
            }
        }
        Ok(())
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn sync(path: &Path) -> Result<()> {
    let synced = fs::File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|e| error::file(e, "make the file durable", path))
}

fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync(parent.unwrap_or(Path::new(".")))
}
