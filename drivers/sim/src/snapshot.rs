//! The copy of a live server.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use bytes::Bytes;
use futures::future::try_join_all;
use stillpoint_contract::{
    BackupRequest, Base, Consistency, EXTENT_BYTES, Evidence, LogPosition, LogRange, PartName,
    PartSpec, PartWriter, Result, Shape, Sink,
};

use crate::{
    Layout, PAGE_BYTES, SimServer, Table, error::disconnected, history::changed_pages,
    session::Session,
};

/// The part that holds the table, page after page.
pub(crate) const TABLE: &str = "table";

/// The part that holds what was written while an unsteady copy was taken.
pub(crate) const LOG: &str = "log";

const PAGES_PER_EXTENT: u32 = EXTENT_BYTES as u32 / PAGE_BYTES as u32;

/// More tasks than this would not make a copy in memory any faster.
const TASKS_MAX: usize = 8;

/// Copies the server; see [`Driver::backup`](stillpoint_contract::Driver::backup).
pub(crate) async fn back_up(
    server: &SimServer,
    request: BackupRequest<'_>,
    sink: &dyn Sink,
) -> Result<Evidence> {
    let session = Session::begin(server, "backup")?;
    session.step().await?;
    let began = server.clock().now();
    let (table, start) = session.snapshot()?;
    let kept = match request.base {
        Some(base) => unchanged(&session, base).await?,
        None => BTreeSet::new(),
    };
    let incremental = kept.range(..table.page_count()).next().is_some();
    let copy = Copy { session, table, kept };
    match server.mode().layout {
        Layout::Stream => copy.stream(sink).await?,
        Layout::Ascending => copy.pages(sink, 1).await?,
        Layout::Scattered => copy.pages(sink, request.streams_max.get().min(TASKS_MAX)).await?,
    }
    let (consistent_time, replay) = match server.mode().consistency {
        Consistency::AtStart => (began, None),
        Consistency::AtEnd => (server.clock().now(), Some(copy.log(sink, &start).await?)),
    };
    copy.session.step().await?;
    Ok(Evidence {
        consistent_at: Some(replay.as_ref().map_or(start, |range| range.end().clone())),
        consistent_time,
        cursor: Bytes::from(copy.session.identity.clone()),
        replay,
        incremental,
        method: if incremental { "changed pages" } else { "all pages" }.to_owned(),
        tallies: Vec::new(),
        extensions: BTreeMap::new(),
        damage: None,
    })
}

/// The pages of the base that certainly did not change since.
async fn unchanged(session: &Session, base: Base<'_>) -> Result<BTreeSet<u32>> {
    let parts = base.parts.parts(0).await?;
    let Some(changed) = changed(session, base).await? else { return Ok(BTreeSet::new()) };
    let paged = Shape::Paged { page_bytes: PAGE_BYTES as u32 };
    let part = parts.iter().find(|p| p.spec.name.as_str() == TABLE && p.spec.shape == paged);
    let pages = part.map_or(0, |part| part.length_bytes / PAGE_BYTES as u64) as u32;
    Ok((0..pages).filter(|page| !changed.contains(page)).collect())
}

/// The pages that changed since the base, or `None` when nobody knows.
async fn changed(session: &Session, base: Base<'_>) -> Result<Option<BTreeSet<u32>>> {
    let Some(mut at) = base.evidence.consistent_at.clone() else { return Ok(None) };
    if base.evidence.cursor != session.identity.as_bytes() {
        return Ok(None);
    }
    let mut changed = BTreeSet::new();
    while let Some(head) = base.log.next().await? {
        let Some(pages) = changed_pages(&head.index) else { return Ok(None) };
        changed.extend(pages);
        at = head.range.end().clone();
    }
    // What was captured may trail behind the snapshot; the server itself knows the rest.
    if session.locate(&at)?.is_none() {
        return Ok(None);
    }
    while let Some(stretch) = session.stretch(&at)? {
        let Some(pages) = changed_pages(&stretch.index) else { return Ok(None) };
        changed.extend(pages);
        at = stretch.range.end().clone();
    }
    Ok(Some(changed))
}

/// A copy being taken.
struct Copy {
    session: Session,
    table: Table,
    kept: BTreeSet<u32>,
}

impl Copy {
    /// Writes the table page by page, from as many tasks.
    async fn pages(&self, sink: &dyn Sink, tasks: usize) -> Result<()> {
        let page_bytes = PAGE_BYTES as u32;
        let writer = create(sink, TABLE, Shape::Paged { page_bytes }).await?;
        let count = self.table.page_count();
        let per_extent = PAGES_PER_EXTENT as usize;
        let mut extents: Vec<_> = (0..count).step_by(per_extent).collect();
        if self.session.server.mode().layout == Layout::Scattered {
            extents.reverse();
        }
        try_join_all((0..tasks).map(|task| {
            let own = extents.iter().skip(task).step_by(tasks);
            self.extents(
                writer.as_ref(),
                own.map(|&first| first..count.min(first + PAGES_PER_EXTENT)),
            )
        }))
        .await?;
        writer.finish(offset(count)).await
    }

    async fn extents(
        &self,
        writer: &dyn PartWriter,
        extents: impl Iterator<Item = Range<u32>>,
    ) -> Result<()> {
        for extent in extents {
            let pages: Vec<u32> = extent.collect();
            let is_kept = |page: &u32| self.kept.contains(page);
            for run in pages.chunk_by(|left, right| is_kept(left) == is_kept(right)) {
                self.session.step().await?;
                let range = offset(run[0])..offset(run[0] + run.len() as u32);
                if is_kept(&run[0]) {
                    writer.keep(range).await?;
                } else {
                    writer.write(range.start, self.read(run)?).await?;
                }
            }
        }
        Ok(())
    }

    /// Writes the table as a stream.
    async fn stream(&self, sink: &dyn Sink) -> Result<()> {
        let writer = create(sink, TABLE, Shape::Stream).await?;
        let pages: Vec<u32> = (0..self.table.page_count()).collect();
        let mut written = 0;
        for run in pages.chunks(PAGES_PER_EXTENT as usize) {
            self.session.step().await?;
            let bytes = self.read(run)?;
            writer.write(written, bytes).await?;
            written += offset(run.len() as u32);
        }
        writer.finish(written).await
    }

    /// The bytes of pages: of the snapshot; or as they are now, whatever transaction is half on
    /// one page and half on another, since the log that is replayed sets that right.
    fn read(&self, pages: &[u32]) -> Result<Bytes> {
        let read = |table: &Table| pages.iter().flat_map(|&page| table.encode_page(page)).collect();
        match self.session.server.mode().consistency {
            Consistency::AtStart => Ok(read(&self.table)),
            Consistency::AtEnd => self.session.look(|state| read(&state.table)),
        }
    }

    /// Writes what was committed since `start`, which makes an unsteady copy consistent.
    async fn log(&self, sink: &dyn Sink, start: &LogPosition) -> Result<LogRange> {
        let (mut end, mut bodies) = (start.clone(), Vec::new());
        while let Some(stretch) = self.session.stretch(&end)? {
            end = stretch.range.end().clone();
            bodies.push(stretch.body);
        }
        // A fail-over meanwhile may have undone what was copied already.
        let range = LogRange::new(start.clone(), end).ok_or_else(disconnected)?;
        let writer = create(sink, LOG, Shape::Stream).await?;
        let mut written = 0;
        for body in bodies {
            let length = body.len() as u64;
            writer.write(written, body).await?;
            written += length;
        }
        writer.finish(written).await?;
        Ok(range)
    }
}

fn offset(page: u32) -> u64 {
    u64::from(page) * PAGE_BYTES as u64
}

async fn create(sink: &dyn Sink, name: &str, shape: Shape) -> Result<Box<dyn PartWriter>> {
    let name = PartName::new(name)?;
    sink.create(PartSpec { name, shape, attributes: BTreeMap::new() }).await
}
