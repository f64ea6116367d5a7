//! The base copy: every page of one committed state, or only those that changed.

use chrono::{DateTime, Utc};
use rusqlite::Connection;
use stillpoint_contract::{
    BackupRequest, Base, Error, Evidence, Extensions, LogPosition, PartName, PartSpec, PartWriter,
    Result, Shape, Sink,
};
use tokio::task;

use crate::{
    PART,
    changes::{self, Verdict},
    connect::{Database, Journal},
    copy, first_page,
    generation::{LogState, Observer},
    pages::{self, Extent},
    permissions,
    position::{self, Cursor},
    resume::OVERWRITTEN,
    tally,
};

/// Runs blocking work on a thread for such work.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    task::spawn_blocking(work).await.map_err(|e| Error::bug("run blocking work").caused_by(e))?
}

/// Copies the database into `sink`.
pub(crate) async fn backup(
    database: &Database,
    request: BackupRequest<'_>,
    sink: &dyn Sink,
) -> Result<Evidence> {
    let found = {
        let database = database.clone();
        blocking(move || {
            database.check_identity()?;
            let reader = database.open()?;
            let journal = database.journal(&reader)?;
            Ok((reader, journal))
        })
        .await?
    };
    match found {
        (reader, Journal::Rollback) => copy::backup(database, reader, sink).await,
        (reader, Journal::Wal) => backup_log_mode(database, reader, request.base, sink).await,
    }
}

/// A read that sees one committed state for as long as it lives, and what that state is.
struct Snapshot {
    reader: Connection,
    observer: Observer,
    state: LogState,
    taken_at: DateTime<Utc>,
    position: LogPosition,
    cursor: bytes::Bytes,
    extent: Extent,
}

impl Snapshot {
    fn take(database: &Database, reader: Connection) -> Result<Self> {
        let observer = Observer::open(database)?;
        let (state, taken_at) = observer.pin(&reader)?;
        let (position, cursor) = observer.mark(&state)?;
        let extent = Extent {
            page_bytes: database.page_bytes(&reader)?,
            page_count: database.page_count(&reader)?,
        };
        Ok(Self { reader, observer, state, taken_at, position, cursor, extent })
    }
}

async fn backup_log_mode(
    database: &Database,
    reader: Connection,
    base: Option<Base<'_>>,
    sink: &dyn Sink,
) -> Result<Evidence> {
    let snapshot = {
        let database = database.clone();
        blocking(move || Snapshot::take(&database, reader)).await?
    };
    let Snapshot { reader, observer, state, taken_at, mut position, cursor, extent } = snapshot;
    let wal = observer.wal.clone();
    let mut verdict = match base {
        None => Verdict::Unknown("first backup"),
        Some(mut base) => {
            changes::since(&mut base, &wal, &state, &mut position, extent.page_bytes).await?
        }
    };
    let observer = if let Verdict::Known(changes, Some(mark)) = verdict {
        let looked = blocking(move || {
            let belongs = first_page::belongs_to(&observer, &state, &mark)?;
            let in_file = first_page::in_file(&observer.database.path);
            Ok((observer, belongs, in_file.unwrap_or(first_page::UNKNOWN)))
        });
        let (observer, belongs, in_file) = looked.await?;
        verdict = match belongs {
            Some(true) => Verdict::Known(changes, None),
            Some(false) => {
                position.lineage = position::over(&database.identity.id, mark.salts, in_file)?;
                Verdict::Unknown(OVERWRITTEN)
            }
            None => Verdict::Unknown("the log was restarted before its file could be looked at"),
        };
        observer
    } else {
        observer
    };
    let (runs, incremental, method) = match verdict {
        Verdict::Known(changes, _) => {
            (changes.runs(extent.page_count), true, "changed pages of a read transaction".into())
        }
        Verdict::Unknown(why) => {
            let all = 1..extent.page_count + 1;
            (vec![all], false, format!("all pages of a read transaction ({why})"))
        }
    };
    let part = create(database, sink, extent).await?;
    let reader = pages::write(database, reader, runs, extent, part.as_ref()).await?;
    let database = database.clone();
    let evidence = Evidence {
        consistent_at: Some(position),
        consistent_time: taken_at,
        cursor,
        replay: None,
        incremental,
        method,
        tallies: Vec::new(),
        extensions: Extensions::new(),
        damage: None,
    };
    let length_bytes = extent.length_bytes();
    let finished = blocking(move || {
        let tallies = tally::recorded(&reader, length_bytes, !incremental);
        finish(&database, reader, observer, &state, Evidence { tallies, ..evidence })
    });
    let evidence = finished.await?;
    part.finish(extent.length_bytes()).await?;
    Ok(evidence)
}

/// Checks that it was the same database all the time, and lets go of it.
fn finish(
    database: &Database,
    reader: Connection,
    observer: Observer,
    state: &LogState,
    mut evidence: Evidence,
) -> Result<Evidence> {
    database.check_identity()?;
    let generation = |state: &LogState| state.live.map(|(generation, _)| generation);
    let now = generation(&observer.observe()?);
    if let Some(begun) = now.filter(|_| now != generation(state)) {
        // The log was restarted while we read: then our read began with everything copied back,
        // and the new generation from exactly this state (see `hold.rs`). A capture that begins
        // later knows that one only.
        evidence.consistent_at = Some(position::at_frame(&database.identity.id, begun.salts, 0)?);
        let pages = first_page::at(database, &observer.wal, Some((begun, 0)))?;
        evidence.cursor = Cursor::new(&begun, 0, begun.checksum, pages).encode();
    }
    database.sql(reader.execute_batch("ROLLBACK"), "end a read")?;
    Database::close(reader);
    Database::close(observer.connection);
    Ok(evidence)
}

/// Opens the part that holds the database.
pub(crate) async fn create(
    database: &Database,
    sink: &dyn Sink,
    extent: Extent,
) -> Result<Box<dyn PartWriter>> {
    let spec = PartSpec {
        name: PartName::new(PART)?,
        shape: Shape::Paged { page_bytes: extent.page_bytes },
        attributes: permissions::attributes(&database.path)?,
    };
    sink.create(spec).await
}
