//! Backup of a rollback-journal database through SQLite's online backup API.
//!
//! The API copies a few pages at a time and lets writers commit in between. When another process
//! commits it starts again, so after a few restarts the rest is copied in one step, during which
//! writers wait as they would for any long reader.
//! Source: <https://www.sqlite.org/backup.html>.

use std::{fs::File, os::unix::fs::FileExt, path::Path, time::Duration};

use bytes::Bytes;
use rusqlite::{
    Connection,
    backup::{Backup, StepResult},
};
use stillpoint_contract::{
    EXTENT_BYTES, Error, ErrorKind, Evidence, PartWriter, Result, Sink, code,
};
use tempfile::TempDir;

use crate::{
    connect::Database,
    error,
    pages::Extent,
    snapshot::{blocking, create},
};

/// How much is copied while writers wait.
const STEP_BYTES: i32 = 4 << 20;

/// How long writers get between two steps.
const PAUSE: Duration = Duration::from_millis(3);

/// How often other processes may make us start again.
const RESTARTS_MAX: u32 = 4;

/// Copies the database into a scratch file and that into `sink`.
pub(crate) async fn backup(
    database: &Database,
    source: Connection,
    sink: &dyn Sink,
) -> Result<Evidence> {
    let owned = database.clone();
    let (scratch, extent) = blocking(move || copy(&owned, &source)).await?;
    let copied_at = database.clock.now();
    let part = create(sink, extent).await?;
    let mut offset = 0;
    while offset < extent.length_bytes() {
        let length = EXTENT_BYTES.min(extent.length_bytes() - offset);
        let file = scratch.file.try_clone();
        let file = file.map_err(|e| error::file(e, "read the copy", scratch.directory.path()))?;
        let bytes = blocking(move || read(&file, offset, length)).await?;
        part.write(offset, bytes).await?;
        offset += length;
    }
    let owned = database.clone();
    blocking(move || owned.check_identity()).await?;
    PartWriter::finish(part, extent.length_bytes()).await?;
    Ok(Evidence {
        consistent_at: None,
        consistent_time: Some(copied_at),
        cursor: Bytes::new(),
        replay: None,
        incremental: false,
        method: "online backup API".to_owned(),
    })
}

/// A copy that disappears when it is dropped.
struct Scratch {
    directory: TempDir,
    file: File,
}

fn copy(database: &Database, source: &Connection) -> Result<(Scratch, Extent)> {
    let directory = match &database.config.scratch {
        Some(directory) => TempDir::with_prefix_in("stillpoint-", directory),
        None => TempDir::with_prefix("stillpoint-"),
    };
    let directory = directory.map_err(|e| {
        let scratch = database.config.scratch.as_deref().unwrap_or(Path::new("TMPDIR"));
        error::file(e, "make a scratch directory", scratch)
            .next("setting `scratch` names a directory with room for a copy of the database")
    })?;
    let path = directory.path().join("copy.db");
    let mut target = Connection::open(&path).map_err(|e| error::sqlite(e, STEP, &path))?;
    let prepared = target.execute_batch("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;");
    prepared.map_err(|e| error::sqlite(e, STEP, &path))?;
    run(database, source, &mut target, &path)?;
    let extent = Extent {
        page_bytes: database.page_bytes(&target)?,
        page_count: database.page_count(&target)?,
    };
    drop(target);
    let file = File::open(&path).map_err(|e| error::file(e, "read the copy", &path))?;
    Ok((Scratch { directory, file }, extent))
}

/// The step that errors of the copy name.
const STEP: &str = "copy the database";

fn run(
    database: &Database,
    source: &Connection,
    target: &mut Connection,
    path: &Path,
) -> Result<()> {
    let page_bytes = database.page_bytes(source)?.cast_signed();
    let failed = |e| error::sqlite(e, STEP, path);
    let backup = Backup::new(source, target).map_err(failed)?;
    let deadline = |database: &Database| database.clock.elapsed() + database.config.busy_timeout;
    let (mut step, mut busy_until) = (STEP_BYTES / page_bytes, deadline(database));
    let (mut restarts, mut copied) = (0, 0);
    loop {
        match database.sql(backup.step(step), STEP)? {
            StepResult::Done => return Ok(()),
            StepResult::Busy | StepResult::Locked => {
                if busy_until < database.clock.elapsed() {
                    return Err(busy(database));
                }
            }
            _ => {
                busy_until = deadline(database);
                let progress = backup.progress();
                let now = progress.pagecount - progress.remaining;
                restarts += u32::from(now <= copied);
                copied = now;
                if RESTARTS_MAX <= restarts {
                    step = -1;
                }
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

fn read(file: &File, offset: u64, length: u64) -> Result<Bytes> {
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, offset)
        .map_err(|e| error::file(e, "read the copy", Path::new("copy.db")))?;
    Ok(bytes.into())
}
