//! Reading pages of one pinned state, and handing them to a sink in extents.

use std::ops::Range;

use bytes::Bytes;
use rusqlite::{Connection, Rows, Statement};
use stillpoint_contract::{EXTENT_BYTES, Error, PartWriter, Result};
use tokio::{sync::mpsc, task};

use crate::connect::Database;

/// How many extents wait between the reading thread and the sink.
const EXTENTS_QUEUED_MAX: usize = 4;

/// What a state of the database consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Length of a page in bytes.
    pub(crate) page_bytes: u32,
    /// Number of pages.
    pub(crate) page_count: u32,
}

impl Extent {
    /// Length of the database in bytes.
    pub(crate) fn length_bytes(self) -> u64 {
        u64::from(self.page_bytes) * u64::from(self.page_count)
    }
}

/// Reads `runs` of pages through `reader`, whose transaction pins their state, writes them to
/// `part` and keeps everything between them. Returns the reader, still in its transaction.
///
/// `runs` are ascending page numbers. Dropping the future ends the reading thread.
pub(crate) async fn write(
    database: &Database,
    reader: Connection,
    runs: Vec<Range<u32>>,
    extent: Extent,
    part: &dyn PartWriter,
) -> Result<Connection> {
    let (sender, mut receiver) = mpsc::channel(EXTENTS_QUEUED_MAX);
    let database = database.clone();
    let reading = task::spawn_blocking(move || {
        read(&database, &reader, &runs, extent, &sender)?;
        Ok(reader)
    });
    let mut done = 0;
    while let Some((offset, bytes)) = receiver.recv().await {
        keep(part, done..offset).await?;
        let bytes: Bytes = bytes;
        done = offset + bytes.len() as u64;
        part.write(offset, bytes).await?;
    }
    let reader =
        reading.await.map_err(|e| Error::bug("read the database's pages").caused_by(e))??;
    keep(part, done..extent.length_bytes()).await?;
    Ok(reader)
}

async fn keep(part: &dyn PartWriter, range: Range<u64>) -> Result<()> {
    if range.is_empty() { Ok(()) } else { part.keep(range).await }
}

/// Reads the runs, cut at the sink's extents, until done or until nobody listens.
fn read(
    database: &Database,
    reader: &Connection,
    runs: &[Range<u32>],
    extent: Extent,
    sender: &mpsc::Sender<(u64, Bytes)>,
) -> Result<()> {
    // Outside its argument the function reads the main database, at the transaction's state. A
    // scan yields pages in ascending order, at twice the rate of asking for each of them.
    // Source: https://www.sqlite.org/dbpage.html
    let is_whole =
        matches!(runs, [run] if run.start == 1 && run.len() == extent.page_count as usize);
    let filter = if is_whole { "" } else { " WHERE pgno = ?1" };
    let prepared = reader.prepare(&format!("SELECT data FROM sqlite_dbpage{filter}"));
    let mut statement = database.sql(prepared, READ)?;
    let mut pages = if is_whole {
        Pages::Scan(database.sql(statement.query([]), READ)?)
    } else {
        Pages::Lookup(&mut statement)
    };
    let per_extent = (EXTENT_BYTES / u64::from(extent.page_bytes)) as u32;
    for run in runs {
        let mut first = run.start;
        while first < run.end {
            let extent_end = ((first - 1) / per_extent + 1).saturating_mul(per_extent);
            let end = run.end.min(extent_end.saturating_add(1));
            let bytes = read_run(database, &mut pages, first..end, extent.page_bytes)?;
            let offset = u64::from(first - 1) * u64::from(extent.page_bytes);
            if sender.blocking_send((offset, bytes)).is_err() {
                return Ok(());
            }
            first = end;
        }
    }
    Ok(())
}

/// The step that errors of reading name.
const READ: &str = "read the database's pages";

/// How pages are asked for.
enum Pages<'a, 'connection> {
    /// One after the other, from the first.
    Scan(Rows<'a>),
    /// Each by its number.
    Lookup(&'a mut Statement<'connection>),
}

impl Pages<'_, '_> {
    /// Appends page `number`; in a scan it is the next one.
    fn append(&mut self, number: u32, to: &mut Vec<u8>) -> rusqlite::Result<()> {
        match self {
            Self::Scan(rows) => {
                let row = rows.next()?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
                to.extend_from_slice(row.get_ref(0)?.as_blob()?);
                Ok(())
            }
            Self::Lookup(statement) => statement.query_row([number], |row| {
                to.extend_from_slice(row.get_ref(0)?.as_blob()?);
                Ok(())
            }),
        }
    }
}

fn read_run(
    database: &Database,
    pages: &mut Pages<'_, '_>,
    run: Range<u32>,
    page_bytes: u32,
) -> Result<Bytes> {
    let mut bytes = Vec::with_capacity(run.len() * page_bytes as usize);
    for number in run {
        database.sql(pages.append(number, &mut bytes), READ)?;
        if bytes.len() % page_bytes as usize != 0 {
            return Err(Error::bug("read a whole page").with("page", number));
        }
    }
    Ok(bytes.into())
}
