//! Laying a database out, checking it and putting it in its place.

use std::{
    fs, io,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, config::DbConfig};
use stillpoint_contract::{
    Error, ErrorKind, Overwrite, Placement, RecoveryTarget, RestorePlan, RestoreRequest, Result,
    code,
};

use crate::{
    PART,
    config::Config,
    connect::{checkpoint, schema_version},
    error,
};

/// Files that SQLite keeps beside a database and would apply to another one of the same name.
const COMPANIONS: [&str; 3] = ["-wal", "-journal", "-shm"];

/// What each of the two checks may keep in memory, in KiB.
const CHECK_CACHE_KIB: i64 = 24 << 10;

/// How many lines of a failed check are reported.
const FINDINGS_MAX: usize = 8;

/// Decides where everything goes. Changes nothing.
pub(crate) fn plan(request: &RestoreRequest<'_>) -> Result<RestorePlan> {
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
        files: Vec::new(),
        replays_log: replays_log && request.evidence.consistent_at.is_some(),
        until: request.until.clone(),
        overwrite: request.overwrite,
        proof: "every frame's checksum, then PRAGMA integrity_check".to_owned(),
    })
}

fn is_latest(until: &RecoveryTarget) -> bool {
    matches!(until, RecoveryTarget::Latest)
}

/// Where the database is built.
pub(crate) fn staged(staging: &Path) -> PathBuf {
    staging.join("database")
}

/// The target with its directory resolved, so that its companions are found beside it.
fn absolute(target: &Path) -> Result<PathBuf> {
    // A link to a database names that database; its companions lie beside the real file.
    if let Ok(real) = fs::canonicalize(target) {
        return Ok(real);
    }
    let invalid = |why: &'static str| {
        Error::new(ErrorKind::Invalid, code::FILE, "find the target's directory")
            .with("target", target.display())
            .why(why)
    };
    let name = target.file_name().ok_or_else(|| invalid("it names no file"))?;
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let parent = fs::canonicalize(parent).map_err(|e| {
        invalid("the directory does not exist or cannot be entered")
            .next(format!("mkdir -p {}", error::quoted(parent)))
            .caused_by(e)
    })?;
    Ok(parent.join(name))
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
    let path = staged(&plan.staging);
    let (integrity, references) = std::thread::scope(|scope| {
        let references = scope.spawn(|| check_references(&path));
        let integrity = open_to_check(&path).and_then(|connection| check_integrity(&connection));
        (integrity, references.join())
    });
    let references = references.map_err(|_| Error::bug("check references"))?;
    match integrity.map_err(|e| error::sqlite(e, "check the restored database", &path))? {
        Integrity::Sound => Ok(format!("integrity_check: ok; {references}")),
        Integrity::Unknown(why) => Ok(format!(
            "integrity_check of each table that can be checked: ok ({why}); {references}"
        )),
        Integrity::Damaged(findings) => Err(damaged(&findings)),
    }
}

fn open_to_check(path: &Path) -> rusqlite::Result<Connection> {
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
    let is_sound = |findings: &[String]| findings == ["ok"];
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
/// in place; no log of one ever lies beside the file of the other.
pub(crate) fn publish(plan: &RestorePlan) -> Result<()> {
    let staged = staged(&plan.staging);
    let target = plan.target.as_path();
    let failed = |e| error::file(e, "put the database in its place", target);
    check_target(target, plan.overwrite)?;
    sync(&staged)?;
    match plan.overwrite {
        Overwrite::Never => {
            // Unlike a rename, a link fails when somebody else was quicker.
            fs::hard_link(&staged, target)
                .or_else(|e| rename_where_no_links(e, &staged, target))
                .map_err(|e| match e.kind() {
                io::ErrorKind::AlreadyExists => exists_already(target, "it was made just now"),
                _ => failed(e),
            })?;
            sync_parent(target)?;
            remove(&staged).map_err(failed)
        }
        Overwrite::Replace => {
            let lock = lock_out(target)?;
            if let Ok(metadata) = fs::metadata(target) {
                inherit(&staged, &metadata).map_err(failed)?;
            }
            if let Some(lock) = &lock {
                // From here on the old file is whole without its log. Should that fail, the copy
                // that is set aside has the log.
                if let Err(error) = checkpoint(lock, "TRUNCATE") {
                    tracing::debug!(%error, "could not copy the old log back");
                }
            }
            let aside = set_aside(target)?;
            fs::rename(&staged, target).map_err(failed)?;
            sync_parent(target)?;
            drop(lock);
            aside.iter().try_for_each(|path| remove(path)).map_err(failed)?;
            sync_parent(target)
        }
    }
}

fn rename_where_no_links(error: io::Error, from: &Path, to: &Path) -> io::Result<()> {
    let has_no_links =
        matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied);
    if has_no_links && !to.try_exists()? { fs::rename(from, to) } else { Err(error) }
}

/// Gives the new file the old one's mode and, where allowed, its owner.
fn inherit(staged: &Path, old: &fs::Metadata) -> io::Result<()> {
    fs::set_permissions(staged, fs::Permissions::from_mode(old.mode() & 0o7777))?;
    match chown(staged, Some(old.uid()), Some(old.gid())) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        result => result,
    }
}

/// Gives the target and its companions second names in the same directory, and takes the first
/// names from the companions: whatever happens from here on, the old database opens under its
/// second name with all of its log, and no companion of it meets the new one.
fn set_aside(target: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| error::file(e, "set the old database aside", target);
    let base = (1..u32::MAX)
        .map(|number| Config::beside(target, &format!(".replaced-{number}")))
        .find(|base| fs::symlink_metadata(base).is_err() && companions(base).is_empty())
        .ok_or_else(|| Error::bug("find a name for the old database"))?;
    let mut aside = Vec::new();
    for suffix in [""].iter().chain(&COMPANIONS) {
        let (from, to) = (Config::beside(target, suffix), Config::beside(&base, suffix));
        match fs::hard_link(&from, &to) {
            Ok(()) => aside.push(to),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => {
                rename_where_no_links(e, &from, &to).map_err(failed)?;
                aside.push(to);
            }
        }
    }
    sync_parent(target)?;
    for suffix in COMPANIONS {
        remove(&Config::beside(target, suffix)).map_err(failed)?;
    }
    sync_parent(target)?;
    Ok(aside)
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
