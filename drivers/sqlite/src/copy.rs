//! Backup of a rollback-journal database through SQLite's online backup API.
//!
//! The API copies a few pages at a time and lets writers commit in between. When another process
//! commits it starts again, so after a few restarts the rest is copied in one step, during which
//! writers wait as they would for any long reader.
//! Source: <https://www.sqlite.org/backup.html>.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use rusqlite::{
    Connection, ErrorCode,
    backup::{Backup, StepResult},
    ffi::{SQLITE_IOERR_FSYNC, SQLITE_IOERR_TRUNCATE, SQLITE_IOERR_WRITE},
};
use stillpoint_contract::{
    EXTENT_BYTES, Error, ErrorKind, Evidence, Extensions, PartWriter, Result, Sink, Tally, code,
};
use tempfile::NamedTempFile;

use crate::{
    connect::Database,
    error,
    pages::Extent,
    snapshot::{blocking, create},
    tally,
};

/// How much is copied while writers wait.
const STEP_BYTES: i32 = 4 << 20;

/// How long writers get between two steps.
const PAUSE: Duration = Duration::from_millis(3);

/// How often other processes may make us start again.
const RESTARTS_MAX: u32 = 6;

/// How long writers are left alone after the first restart; twice as long after each further one,
/// four seconds in all.
const RESTART_PAUSE: Duration = Duration::from_millis(32);

/// Copies the database into a scratch file and that into `sink`.
pub(crate) async fn backup(
    database: &Database,
    source: Connection,
    sink: &dyn Sink,
) -> Result<Evidence> {
    let owned = database.clone();
    let (scratch, extent, course, tallies) = blocking(move || copy(&owned, &source)).await?;
    let part = create(database, sink, extent).await?;
    let mut offset = 0;
    while offset < extent.length_bytes() {
        let length = EXTENT_BYTES.min(extent.length_bytes() - offset);
        let file = scratch.try_clone().map_err(|e| unreadable(database, e))?;
        let bytes = blocking(move || Ok(read(&file, offset, length))).await?;
        let bytes = bytes.map_err(|e| unreadable(database, e))?;
        part.write(offset, bytes).await?;
        offset += length;
    }
    let owned = database.clone();
    blocking(move || owned.check_identity()).await?;
    PartWriter::finish(part, extent.length_bytes()).await?;
    Ok(Evidence {
        consistent_at: None,
        consistent_time: course.copied_at,
        cursor: Bytes::new(),
        replay: None,
        incremental: false,
        method: match course.restarts {
            0 => "online backup API".to_owned(),
            RESTARTS_MAX => {
                format!("online backup API, in one step after {RESTARTS_MAX} restarts by writers")
            }
            restarts => format!("online backup API, {restarts} restarts by writers"),
        },
        tallies,
        extensions: Extensions::new(),
        damage: None,
    })
}

/// How a copy went.
#[derive(Clone, Copy)]
struct Course {
    /// How often writers made it begin again.
    restarts: u32,
    /// When the last step began: what was committed by then is part of the copy.
    copied_at: DateTime<Utc>,
}

/// Copies into a file without a name, which is gone with the process, however that ends.
fn copy(database: &Database, source: &Connection) -> Result<(File, Extent, Course, Vec<Tally>)> {
    let directory = scratch_directory(database);
    let failed = |e| elsewhere(database, error::file(e, "make a scratch file", &directory));
    // Its mode is 0600.
    let (file, path) =
        NamedTempFile::with_prefix_in("stillpoint-", &directory).map_err(failed)?.into_parts();
    let mut target = Connection::open(&path).map_err(|e| error::sqlite(e, STEP, &path))?;
    // Without a journal SQLite needs no name; the file is still empty.
    let prepared = target.execute_batch(
        "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA locking_mode=EXCLUSIVE;",
    );
    prepared.map_err(|e| error::sqlite(e, STEP, &path))?;
    path.close().map_err(failed)?;
    let course = run(database, source, &mut target, &directory)?;
    let extent = Extent {
        page_bytes: database.page_bytes(&target)?,
        page_count: database.page_count(&target)?,
    };
    let tallies = tally::recorded(&target, extent.length_bytes(), true);
    Ok((file, extent, course, tallies))
}

fn unreadable(database: &Database, error: io::Error) -> Error {
    error::file(error, "read the copy", &scratch_directory(database))
}

fn scratch_directory(database: &Database) -> PathBuf {
    database.config.scratch.clone().unwrap_or_else(std::env::temp_dir)
}

/// Says how the copy is made in another directory.
fn elsewhere(database: &Database, error: Error) -> Error {
    error.next(if database.config.scratch.is_some() {
        "give setting `scratch` a directory with room for a copy of the database".to_owned()
    } else {
        let url = format!("sqlite:{}", database.path.display());
        format!("TMPDIR=DIRECTORY stillpoint backup {}", stillpoint_contract::quoted(&url))
    })
}

/// Whether a step failed because the scratch file cannot be written: the source is only read.
fn is_about_scratch(error: &rusqlite::Error) -> bool {
    let written = [SQLITE_IOERR_WRITE, SQLITE_IOERR_FSYNC, SQLITE_IOERR_TRUNCATE];
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
        || error.sqlite_error().is_some_and(|e| written.contains(&e.extended_code))
}

/// How much a copy needs, and how much there was when it began.
#[derive(Clone, Copy)]
struct Room {
    wanted_bytes: u64,
    free_bytes: Option<u64>,
}

/// The scratch file cannot be written; says where that is, and how much was wanted there.
fn no_room(database: &Database, error: rusqlite::Error, room: Room) -> Error {
    let step = "copy the database into a scratch file";
    let failed = error::sqlite(error, step, &scratch_directory(database))
        .with("database", database.path.display())
        .with("needed there", format!("{} MiB", room.wanted_bytes.div_ceil(1 << 20)));
    let failed = match room.free_bytes {
        Some(free) => failed.with("free there", format!("{} MiB", free >> 20)),
        None => failed,
    };
    elsewhere(
        database,
        failed.why("a database with a rollback journal is copied as a whole before it is stored"),
    )
}

/// The step that errors of the copy name.
const STEP: &str = "copy the database";

fn run(
    database: &Database,
    source: &Connection,
    target: &mut Connection,
    path: &Path,
) -> Result<Course> {
    let page_bytes = database.page_bytes(source)?;
    let free = rustix::fs::statvfs(scratch_directory(database));
    let room = Room {
        wanted_bytes: u64::from(page_bytes) * u64::from(database.page_count(source)?),
        free_bytes: free.map(|free| free.f_bavail * free.f_frsize).ok(),
    };
    let failed = |e| error::sqlite(e, STEP, path);
    let backup = Backup::new(source, target).map_err(failed)?;
    let deadline = |database: &Database| database.clock.elapsed() + database.config.busy_timeout;
    let (mut step, mut busy_until) = (STEP_BYTES / page_bytes.cast_signed(), deadline(database));
    let (mut restarts, mut copied) = (0, 0);
    loop {
        let copied_at = database.clock.now();
        let stepped = match backup.step(step) {
            Err(e) if is_about_scratch(&e) => return Err(no_room(database, e, room)),
            stepped => database.sql(stepped, STEP)?,
        };
        match stepped {
            StepResult::Done => return Ok(Course { restarts, copied_at }),
            StepResult::Busy | StepResult::Locked => {
                if busy_until < database.clock.elapsed() {
                    return Err(busy(database));
                }
            }
            _ => {
                busy_until = deadline(database);
                let progress = backup.progress();
                let now = progress.pagecount - progress.remaining;
                if now <= copied {
                    restarts += 1;
                    if restarts == RESTARTS_MAX {
                        step = -1;
                    }
                    // Writers often come in bursts: the longer this one lasts, the longer we wait
                    // for its end.
                    std::thread::sleep(RESTART_PAUSE * (1 << restarts));
                }
                copied = now;
            }
        }
        std::thread::sleep(PAUSE);
    }
}

fn busy(database: &Database) -> Error {
    Error::new(ErrorKind::Busy, code::DATABASE_BUSY, STEP)
        .with("file", database.path.display())
        .why("another connection holds the database's lock, perhaps in exclusive mode")
        .next("end the transaction that holds the lock, then run the same command again")
        .next(format!(
            "sqlite3 {} 'PRAGMA journal_mode=WAL' lets readers and writers pass each other",
            error::quoted(&database.path)
        ))
}

fn read(file: &File, offset: u64, length: u64) -> io::Result<Bytes> {
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes.into())
}
