//! Rows on their way into files: one state of the database, one file for each table.

use async_trait::async_trait;
use bytes::Bytes;
use stillpoint_contract::{
    ArchiveSet, Error, ErrorKind, Exporting, Key, KeyRange, Result, RowBatch, RowSink, Rows, code,
};

use super::{
    behind::Behind,
    bounds::key_of,
    document::{Plan, Slice, Tally, key_text},
    file::{Encoded, Encoder, Layout, Origin, SliceHash},
    prune::{Hashing, Versions},
};
use crate::pipeline::cpu::CpuPool;

/// How many rows are asked for at once, at least and at most: how wide they are is known only
/// once some were seen.
const PAGE_ROWS_MIN: u64 = 128;
const PAGE_ROWS_MAX: u64 = 65_536;

/// How many rows of a root are asked for at first, as long as nobody knows how much hangs on them.
const PAGE_ROWS_FIRST: u64 = 16;

/// How many slices a batch has at most, so that its manifest stays far below the length that is
/// read, whatever the keys are.
const SLICES_MAX: u64 = 4096;

/// How many bytes rows of a batch have at most before they are encoded, and a page more: whoever
/// reads them holds them in memory.
const RAW_BYTES_MAX: u64 = 512 << 20;

/// How many times that what hangs on a single row of the root may be: it is not divided.
const SINGLE_TIMES_MAX: u64 = 4;

/// A slice ends once it has so many bytes, however few rows that are: it is deleted at once.
const SLICE_BYTES_MAX: u64 = 16 << 20;

/// How batches are read, and how large they and their slices get.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// A file of the root is full with so many bytes.
    pub(super) file_bytes: u64,
    /// A slice is full with so many rows of the root.
    pub(super) slice_rows: u64,
    /// So many rows of the root at most.
    pub(super) rows_max: u64,
    /// So many rows of the root are asked for at once, at most.
    pub(super) page_rows: u64,
    /// A batch is full with so many bytes of rows before they are encoded.
    pub(super) raw_bytes: u64,
    /// Which versions of rows were read is known besides.
    pub(super) tells_versions: bool,
}

impl Manner {
    /// As large as memory allows.
    pub(super) fn new(file_bytes: u64, slice_rows: u64, rows_max: u64) -> Self {
        let (page_rows, raw_bytes) = (PAGE_ROWS_MAX, RAW_BYTES_MAX);
        let tells_versions = false;
        Self { file_bytes, slice_rows, rows_max, page_rows, raw_bytes, tells_versions }
    }
}

/// A batch that was read and is stored nowhere yet.
#[derive(Debug)]
pub(super) struct Draft {
    /// The set, with columns in the forms of the files.
    pub(super) set: ArchiveSet,
    /// The file of each table, and how many rows it has; none for no rows.
    pub(super) files: Vec<Option<(Bytes, u64)>>,
    /// Its slices.
    pub(super) slices: Vec<Slice>,
    /// Which versions of rows those are, where that was asked.
    pub(super) versions: Versions,
    /// The position of the state that was read.
    pub(super) position: Option<String>,
    /// The last key of the root.
    pub(super) last: Key,
    /// Whether nothing of the range is left behind it.
    pub(super) is_last: bool,
}

/// Reads a batch from the beginning of a range. `None` when no row is selected there.
///
/// `set` learns which columns need another form than before, since a value did not fit.
pub(super) async fn export(
    rows: &mut dyn Rows,
    cpu: &CpuPool,
    plan: &Plan,
    set: &mut ArchiveSet,
    batch: u32,
    range: &KeyRange,
    mut manner: Manner,
) -> Result<Option<Draft>> {
    let mut range = range.clone();
    loop {
        let mut snapshot = rows.snapshot().await?;
        let read = read(&mut *snapshot, cpu, plan, set, batch, &range, manner).await?;
        match read {
            Read::Draft(draft) => return Ok(Some(*draft)),
            Read::Nothing => return Ok(None),
            Read::TooMuch { fitting } if fitting > 0 && fitting < manner.rows_max => {
                manner.rows_max = fitting;
            }
            Read::TooMuch { .. } if manner.page_rows > 1 => {
                manner.page_rows = (manner.page_rows.min(PAGE_ROWS_FIRST) / 8).max(1);
            }
            Read::TooMuch { .. } => return Err(too_much(set, manner)),
            Read::Misfits(misfits) => {
                let before = set.root().table.clone();
                for (member, column) in misfits {
                    let columns = &mut set.members[member].table.columns;
                    let promoted = columns[column].promoted().ok_or_else(|| {
                        Error::bug("hold a value in its most general form")
                            .with("column", &columns[column].name)
                    })?;
                    tracing::info!(
                        column = promoted.name,
                        "a value does not fit; the column is kept as {}",
                        if promoted.is_cast { "exact text" } else { "exact bytes" }
                    );
                    columns[column] = promoted;
                }
                // Where it goes on is known by a key in the forms until then.
                for key in [&mut range.after, &mut range.to].into_iter().flatten() {
                    *key = snapshot.convert(&before, &set.root().table, key).await?;
                }
            }
        }
    }
}

fn too_much(set: &ArchiveSet, manner: Manner) -> Error {
    let step = "hold what hangs on a row of the root";
    Error::new(ErrorKind::Exhausted, code::ROWS_REFUSED, step)
        .with("root", &set.root().table.name)
        .with("bytes at most", manner.raw_bytes * SINGLE_TIMES_MAX)
        .why("all rows that hang on one are deleted at once, and are in memory until then")
}

enum Read {
    Nothing,
    Draft(Box<Draft>),
    /// More hangs on a page of the root than is held in memory. So many rows of the root, in the
    /// pages before it, make a batch.
    TooMuch {
        fitting: u64,
    },
    /// Columns that need another form, each with the table's place.
    Misfits(Vec<(usize, usize)>),
}

async fn read(
    snapshot: &mut dyn Exporting,
    cpu: &CpuPool,
    plan: &Plan,
    set: &ArchiveSet,
    batch: u32,
    range: &KeyRange,
    manner: Manner,
) -> Result<Read> {
    let position = snapshot.position().await?;
    let mut fillers = Vec::new();
    for member in 0..set.members.len() {
        let mut filling = Filling::new(plan, set, batch, member)?;
        // What hangs on the root's slices ends with them.
        filling.slice_rows = if member == 0 { manner.slice_rows } else { u64::MAX };
        let filling = Behind::new(cpu, filling);
        fillers.push(Filler { filling, raw_bytes: 0, room: u64::MAX });
    }
    let mut reading = Reading {
        cpu,
        plan,
        set,
        manner,
        range: range.clone(),
        slices: Vec::new(),
        versions: Versions::default(),
        fitting: 0,
    };
    let is_last = match reading.fill(snapshot, &mut fillers).await {
        Ok(is_last) => is_last,
        Err(_) if fillers.iter().any(|filler| filler.raw_bytes > filler.room) => {
            return Ok(Read::TooMuch { fitting: reading.fitting });
        }
        Err(error) => return Err(error),
    };
    let (slices, versions) = (reading.slices, reading.versions);
    let Some(last) = fillers[0].filling.look(|root| root.last.clone()).await? else {
        return Ok(Read::Nothing);
    };
    let (mut files, mut misfits) = (Vec::new(), Vec::new());
    for (member, mut filler) in fillers.into_iter().enumerate() {
        let encoder = filler.filling.rest().await?.encoder;
        match cpu.run(move |_| encoder.finish()).await?? {
            Encoded::File { bytes, rows } => files.push((rows > 0).then_some((bytes, rows))),
            Encoded::Misfits(columns) => misfits.extend(columns.iter().map(|one| (member, *one))),
        }
    }
    if !misfits.is_empty() {
        return Ok(Read::Misfits(misfits));
    }
    let set = set.clone();
    Ok(Read::Draft(Box::new(Draft { set, files, slices, versions, position, last, is_last })))
}

/// A batch as it is read: pages of the root, and after each what hangs on it, so that no file
/// grows past its size, whichever table it is of.
struct Reading<'a> {
    cpu: &'a CpuPool,
    plan: &'a Plan,
    set: &'a ArchiveSet,
    manner: Manner,
    /// What is left to read.
    range: KeyRange,
    slices: Vec<Slice>,
    versions: Versions,
    /// How many rows of the root were read, with all that hangs on them.
    fitting: u64,
}

impl Reading<'_> {
    /// Reads until a file is full; whether there are no more rows.
    async fn fill(&mut self, snapshot: &mut dyn Exporting, fillers: &mut [Filler]) -> Result<bool> {
        let mut left = self.manner.rows_max;
        loop {
            let Some(wanted) = self.page(fillers, left).await? else { return Ok(false) };
            let got = snapshot.root(self.set, &self.range, wanted, &mut fillers[0]).await?;
            left -= got.min(left);
            let ended = fillers[0].filling.look(|root| {
                root.end_slice();
                std::mem::take(&mut root.ended)
            });
            for (hash, to) in ended.await? {
                self.add(snapshot, fillers, &hash, to).await?;
            }
            self.fitting += got;
            if got < wanted {
                return Ok(true);
            }
        }
    }

    /// How many rows of the root are read next; `None` when that is enough.
    async fn page(&self, fillers: &mut [Filler], left: u64) -> Result<Option<u64>> {
        let rows = fillers[0].filling.look(|root| root.encoder.rows()).await?;
        let (mut bytes, mut raw, mut has_misfit) = (0, 0, false);
        for filler in fillers {
            let look = |one: &mut Filling| (one.encoder.len_bytes(), one.encoder.rows());
            let (of, count) = filler.filling.look(look).await?;
            bytes = of.max(bytes);
            raw += filler.raw_bytes;
            has_misfit |= of == 0 && count > 0;
        }
        let room = self.manner.file_bytes.saturating_sub(bytes);
        // However small a file is to be, it gets some rows. One with a misfit is not kept.
        let slices = SLICES_MAX.saturating_sub(self.slices.len() as u64);
        let is_full = room == 0 || has_misfit || slices == 0 || raw >= self.manner.raw_bytes;
        if left == 0 || (rows > 0 && is_full) {
            return Ok(None);
        }
        // What a row takes in the table is more than in the file: at first, rather too few.
        let planned = self.plan.bytes.checked_div(self.plan.rows);
        let row_bytes = bytes.checked_div(rows).or(planned).unwrap_or(1).max(1);
        let mut wanted = (room / row_bytes).clamp(PAGE_ROWS_MIN, PAGE_ROWS_MAX);
        if let Some(raw_row) = raw.checked_div(rows) {
            let room = self.manner.raw_bytes.saturating_sub(raw) / raw_row.max(1);
            wanted = wanted.min(room.max(1));
        } else if self.set.members.len() > 1 {
            // Nobody knows yet how much hangs on a row.
            wanted = PAGE_ROWS_FIRST;
        }
        wanted = wanted.min(self.manner.page_rows);
        wanted = wanted.min(slices.max(1) * self.manner.slice_rows.max(1));
        // Slices end with pages: whole ones, where they fit.
        let whole = wanted / self.manner.slice_rows.max(1) * self.manner.slice_rows;
        Ok(Some(if whole > 0 { whole } else { wanted }.min(left)))
    }

    /// Adds a slice, and reads what hangs on it.
    async fn add(
        &mut self,
        snapshot: &mut dyn Exporting,
        fillers: &mut [Filler],
        hash: &SliceHash,
        to: Option<Key>,
    ) -> Result<()> {
        let range = KeyRange { after: self.range.after.take(), to, ..KeyRange::default() };
        let mut members = vec![Tally::of(hash)];
        // Pages are as large as what was seen lets expect: somewhat more than that is no surprise.
        let is_single = self.manner.page_rows == 1 && self.fitting == 0;
        let (times, of) = if is_single { (SINGLE_TIMES_MAX, 1) } else { (3, 2) };
        let most = self.manner.raw_bytes.saturating_mul(times) / of;
        let mut held: u64 = fillers.iter().map(|filler| filler.raw_bytes).sum();
        for (member, filler) in fillers.iter_mut().enumerate().skip(1) {
            let before = filler.raw_bytes;
            filler.room = before.saturating_add(most.saturating_sub(held));
            snapshot.member(self.set, member, &range, filler).await?;
            held += filler.raw_bytes - before;
            let hash = filler.filling.look(|one| std::mem::take(&mut one.hash)).await?;
            members.push(Tally::of(&hash));
        }
        if self.manner.tells_versions {
            self.add_versions(snapshot, &range, &members).await?;
        }
        let number = u32::try_from(self.slices.len()).map_err(|_| Error::bug("count slices"))?;
        // What ends before the batch is of another one, and may be gone from that some day.
        let first = if self.slices.is_empty() && range.after.is_some() {
            fillers[0].filling.look(|root| root.first.clone()).await?
        } else {
            None
        };
        let after = range.after.as_ref().filter(|_| first.is_none()).map(key_text);
        let (from, to) = (first.as_ref().map(key_text), range.to.as_ref().map(key_text));
        let (sealed, is_cut, noted) = (None, false, None);
        self.slices.push(Slice { number, after, from, to, sealed, is_cut, members, noted });
        self.range.after = range.to;
        Ok(())
    }

    async fn add_versions(
        &mut self,
        snapshot: &mut dyn Exporting,
        range: &KeyRange,
        rows: &[Tally],
    ) -> Result<()> {
        let mut versions = Vec::new();
        for (member, rows) in rows.iter().enumerate() {
            let mut hash = Hashing::new(self.cpu);
            snapshot.versions(self.set, member, range, &mut hash).await?;
            let found = hash.tally().await?;
            if found.rows != rows.rows {
                return Err(Error::bug("read versions of the rows that were read")
                    .with("rows", rows.rows)
                    .with("versions", found.rows));
            }
            versions.push(found);
        }
        self.versions.0.push(versions);
        Ok(())
    }
}

/// A file of one table as it fills.
struct Filling {
    encoder: Encoder,
    key: Vec<usize>,
    slice_rows: u64,
    slice_bytes: u64,
    hash: SliceHash,
    ended: Vec<(SliceHash, Option<Key>)>,
    first: Option<Key>,
    last: Option<Key>,
}

impl Filling {
    fn new(plan: &Plan, set: &ArchiveSet, batch: u32, member: usize) -> Result<Self> {
        let table = &set.members[member].table;
        let origin = Origin {
            set: plan.set.clone(),
            table: table.name.clone(),
            identity: table.identity.clone(),
            fingerprint: table.fingerprint.clone(),
            run: plan.run.clone(),
            batch,
            cutoff: plan.cutoff.map(|cutoff| cutoff.to_rfc3339()),
        };
        let layout = Layout {
            columns: &table.columns,
            key: &table.key,
            is_sorted: member == 0,
            lookup: &plan.lookup,
            format: plan.format,
            origin: &origin,
        };
        Ok(Self {
            encoder: Encoder::new(&layout)?,
            key: table.key.clone(),
            slice_rows: u64::MAX,
            slice_bytes: 0,
            hash: SliceHash::default(),
            ended: Vec::new(),
            first: None,
            last: None,
        })
    }

    fn take(&mut self, rows: &RowBatch) -> Result<()> {
        if let (None, Some(row)) = (&self.first, rows.rows().next()) {
            self.first = Some(key_of(row, &self.key)?);
        }
        let mut last = None;
        for row in rows.rows() {
            self.hash.add(row);
            self.slice_bytes += row.len() as u64;
            last = Some(row);
            let is_full =
                self.slice_bytes >= SLICE_BYTES_MAX || self.hash.rows() >= self.slice_rows;
            // What hangs on the root's slices ends with them.
            if is_full && self.slice_rows != u64::MAX {
                self.last = Some(key_of(row, &self.key)?);
                self.end_slice();
            }
        }
        if let Some(row) = last {
            self.last = Some(key_of(row, &self.key)?);
        }
        self.encoder.push(rows)
    }

    fn end_slice(&mut self) {
        if self.hash.rows() > 0 {
            self.ended.push((std::mem::take(&mut self.hash), self.last.clone()));
            self.slice_bytes = 0;
        }
    }
}

struct Filler {
    filling: Behind<Filling>,
    /// How many bytes its rows have before they are encoded.
    raw_bytes: u64,
    /// How many they may have.
    room: u64,
}

#[async_trait]
impl RowSink for Filler {
    async fn put(&mut self, rows: RowBatch) -> Result<()> {
        self.raw_bytes += rows.bytes().len() as u64;
        if self.raw_bytes > self.room {
            let step = "hold what hangs on rows of the root";
            return Err(Error::new(ErrorKind::Exhausted, code::ROWS_REFUSED, step)
                .with("bytes at most", self.room));
        }
        self.filling.work(move |filling| filling.take(&rows)).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::{DateTime, Utc};
    use stillpoint_contract::{
        Burden, Column, Cutoff, Estimate, Finding, Kind, LedgerEntry, Link, Member, Outlook,
        Pruning, PutBack, Referrer, RowWriter, Space, Table, values,
    };

    use super::*;

    /// Roots from 1 to `roots`, and what hangs on each: so many rows of 1,000 bytes.
    #[derive(Debug)]
    struct MadeUp {
        roots: i64,
        hanging: fn(i64) -> usize,
    }

    fn row(values: &[&[u8]], out: &mut RowWriter) -> Result<()> {
        out.begin(values.len());
        for value in values {
            out.value(&[value]);
        }
        out.end()
    }

    fn number(key: Option<&Key>) -> Option<i64> {
        let value = values(&key?.0).next()?.ok()??;
        Some(i64::from_be_bytes(value.try_into().ok()?))
    }

    #[async_trait]
    impl Exporting for MadeUp {
        async fn position(&mut self) -> Result<Option<String>> {
            Ok(None)
        }

        async fn root(
            &mut self,
            _: &ArchiveSet,
            range: &KeyRange,
            rows_max: u64,
            into: &mut dyn RowSink,
        ) -> Result<u64> {
            let first = number(range.after.as_ref()).unwrap_or(0) + 1;
            let mut rows = RowWriter::default();
            let mut count = 0;
            for id in (first..=self.roots).take(rows_max as usize) {
                row(&[&id.to_be_bytes()], &mut rows)?;
                count += 1;
            }
            into.put(rows.take()).await?;
            Ok(count)
        }

        async fn member(
            &mut self,
            _: &ArchiveSet,
            _: usize,
            range: &KeyRange,
            into: &mut dyn RowSink,
        ) -> Result<u64> {
            let after = number(range.after.as_ref()).unwrap_or(0);
            let to = number(range.to.as_ref()).unwrap_or(self.roots);
            let mut count = 0;
            for id in after + 1..=to {
                for _ in 0..(self.hanging)(id) {
                    let mut rows = RowWriter::default();
                    row(&[&id.to_be_bytes(), &[b'x'; 1000]], &mut rows)?;
                    into.put(rows.take()).await?;
                    count += 1;
                }
            }
            Ok(count)
        }
    }

    #[async_trait]
    impl Rows for MadeUp {
        async fn snapshot(&mut self) -> Result<Box<dyn Exporting + '_>> {
            Ok(Box::new(Self { ..*self }))
        }

        async fn now(&mut self) -> Result<DateTime<Utc>> {
            unreachable!()
        }

        async fn table(&mut self, _: &str) -> Result<Table> {
            unreachable!()
        }

        async fn table_by(&mut self, _: &str, _: &str) -> Result<Table> {
            unreachable!()
        }

        async fn referrers(&mut self, _: &Table) -> Result<Vec<Referrer>> {
            unreachable!()
        }

        async fn bind(&mut self, _: &Table, _: &str, _: Option<&Cutoff>) -> Result<String> {
            unreachable!()
        }

        async fn examine(&mut self, _: &ArchiveSet) -> Result<Vec<Finding>> {
            unreachable!()
        }

        async fn estimate(&mut self, _: &ArchiveSet) -> Result<Estimate> {
            unreachable!()
        }

        async fn outlook(&mut self, _: &ArchiveSet, _: u64, _: Estimate) -> Result<Outlook> {
            unreachable!()
        }

        async fn lock(&mut self, _: &str, _: Duration) -> Result<()> {
            unreachable!()
        }

        async fn open_ledger(&mut self) -> Result<()> {
            unreachable!()
        }

        async fn ledger(&mut self, _: &str) -> Result<Vec<LedgerEntry>> {
            unreachable!()
        }

        async fn prune(&mut self) -> Result<Box<dyn Pruning + '_>> {
            unreachable!()
        }

        async fn put_back(&mut self) -> Result<Box<dyn PutBack + '_>> {
            unreachable!()
        }

        async fn burden(&mut self, _: &ArchiveSet) -> Result<Burden> {
            unreachable!()
        }

        async fn space(&mut self, _: &Table) -> Result<Space> {
            unreachable!()
        }
    }

    fn set() -> ArchiveSet {
        let column = |id, name: &str, kind| Column {
            name: name.to_owned(),
            id,
            engine_type: name.to_owned(),
            kind,
            is_cast: false,
            is_nullable: false,
            is_generated: false,
        };
        let table = |name: &str, columns| Table {
            name: name.to_owned(),
            identity: name.to_owned(),
            columns,
            key: vec![0],
            alike: Vec::new(),
            fingerprint: String::new(),
        };
        let roots = table("roots", vec![column(1, "id", Kind::Int64)]);
        let hanging = vec![column(1, "root", Kind::Int64), column(2, "text", Kind::Text)];
        let link = Link {
            parent: 0,
            columns: vec!["root".to_owned()],
            parent_columns: vec!["id".to_owned()],
            likeness: Vec::new(),
        };
        let members = vec![
            Member { table: roots, link: None },
            Member { table: table("hanging", hanging), link: Some(link) },
        ];
        let (predicate, derived) = (String::new(), Vec::new());
        ArchiveSet { name: "made-up".to_owned(), members, predicate, derived }
    }

    fn plan(set: &ArchiveSet) -> Plan {
        let name = set.name.clone();
        Plan { set: name, rows: 100, bytes: 100, ..Plan::of_members(Plan::members_of(set)) }
    }

    /// The batches of a database, each as its rows of the root and those that hang on them.
    async fn batches(mut rows: MadeUp, raw_bytes: u64) -> Result<Vec<(u64, u64)>> {
        let cpu = CpuPool::inline();
        let mut set = set();
        let plan = plan(&set);
        let manner = Manner { raw_bytes, ..Manner::new(64 << 20, 8000, u64::MAX) };
        let (mut range, mut batches) = (KeyRange::default(), Vec::new());
        loop {
            let draft = export(&mut rows, &cpu, &plan, &mut set, 1, &range, manner).await?;
            let Some(draft) = draft else { return Ok(batches) };
            let count =
                |member: usize| draft.slices.iter().map(|one| one.members[member].rows).sum();
            batches.push((count(0), count(1)));
            range.after = Some(draft.last);
            if draft.is_last {
                return Ok(batches);
            }
        }
    }

    #[tokio::test]
    async fn no_more_hangs_on_a_batch_than_memory_holds() {
        // As much as expected, nothing at first and then much, one that has most, all have much.
        let shapes: [fn(i64) -> usize; 4] = [
            |_| 2,
            |id| if id > 500 { 20 } else { 0 },
            |id| if id == 300 { 300 } else { 1 },
            |_| 90,
        ];
        for (number, hanging) in shapes.into_iter().enumerate() {
            let found = batches(MadeUp { roots: 600, hanging }, 100_000).await.unwrap();
            let all = found.iter().fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
            let wanted: usize = (1..=600).map(hanging).sum();
            assert_eq!(all, (600, wanted as u64), "{number}");
            for (roots, rows) in &found {
                assert!(*rows <= 150 || *roots == 1, "{number}: {found:?}");
            }
            // Nor are they much smaller than that.
            assert!(found.len() <= 2 + wanted / 40, "{number}: {} batches", found.len());
        }
    }

    #[tokio::test]
    async fn what_hangs_on_one_row_and_is_too_much_is_refused() {
        let hanging = |id| if id == 30 { 500 } else { 1 };
        let error = batches(MadeUp { roots: 60, hanging }, 100_000).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Exhausted, code::ROWS_REFUSED));
        assert!(format!("{error:?}").contains("bytes at most"), "{error:?}");
    }
}
