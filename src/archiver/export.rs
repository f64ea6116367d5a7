//! Rows on their way into files: one state of the database, one file for each table.

use async_trait::async_trait;
use bytes::Bytes;
use stillpoint_contract::{
    ArchiveSet, Error, Exporting, Key, KeyRange, Result, RowBatch, RowSink, RowWriter, Rows, values,
};

use super::{
    behind::Behind,
    document::{Plan, Slice, Tally, key_text},
    file::{Encoded, Encoder, Layout, Origin, SliceHash},
    place::{DOCUMENT_BYTES_MAX, FILE_BYTES_MAX},
};
use crate::pipeline::cpu::CpuPool;

/// How many rows are asked for at once, at least and at most: how wide they are is known only
/// once some were seen.
const PAGE_ROWS_MIN: u64 = 128;
const PAGE_ROWS_MAX: u64 = 65_536;

/// A slice ends once it has so many bytes, however few rows that are: it is deleted at once.
const SLICE_BYTES_MAX: u64 = 16 << 20;

/// The most slices of a batch, and of its first page: the manifest lists each of them, with its
/// keys, and must be short enough to be read again.
const SLICES_MAX: u64 = 50_000;
const SLICES_FIRST: u64 = 1_000;

/// What the manifest takes for its slices at most; erasures may add to that.
const SLICES_BYTES_MAX: u64 = DOCUMENT_BYTES_MAX / 2;

/// What a slice takes in a manifest beside its keys, and each of its tables in it.
const SLICE_BYTES: u64 = 200;
const TALLY_BYTES: u64 = 180;

/// A file that is aimed at stays so far below what can be read again, since pages end late.
const FILE_TARGET_MAX: u64 = FILE_BYTES_MAX / 2;

/// How large batches and their slices get.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// A file of the root is full with so many bytes.
    pub(super) file_bytes: u64,
    /// A slice is full with so many rows of the root.
    pub(super) slice_rows: u64,
    /// So many rows of the root at most.
    pub(super) rows_max: u64,
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
    sizes: Sizes,
) -> Result<Option<Draft>> {
    loop {
        let mut snapshot = rows.snapshot().await?;
        let read = read(&mut *snapshot, cpu, plan, set, batch, range, sizes).await?;
        match read {
            Read::Draft(draft) => return Ok(Some(*draft)),
            Read::Nothing => return Ok(None),
            Read::Misfits(misfits) => {
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
            }
        }
    }
}

enum Read {
    Nothing,
    Draft(Box<Draft>),
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
    sizes: Sizes,
) -> Result<Read> {
    let position = snapshot.position().await?;
    let mut fillers = Vec::new();
    for member in 0..set.members.len() {
        let mut filling = Filling::new(plan, set, batch, member)?;
        // What hangs on the root's slices ends with them.
        filling.slice_rows = if member == 0 { sizes.slice_rows } else { u64::MAX };
        fillers.push(Filler(Behind::new(cpu, filling)));
    }
    let sizes = Sizes { file_bytes: sizes.file_bytes.min(FILE_TARGET_MAX), ..sizes };
    let (range, slices) = (range.clone(), Vec::new());
    let mut reading = Reading { plan, set, sizes, range, slices, listed_bytes: 0, raw_bytes: 0 };
    let is_last = reading.fill(snapshot, &mut fillers).await?;
    let slices = reading.slices;
    let Some(last) = fillers[0].0.look(|root| root.last.clone()).await? else {
        return Ok(Read::Nothing);
    };
    let (mut files, mut misfits) = (Vec::new(), Vec::new());
    for (member, mut filler) in fillers.into_iter().enumerate() {
        let encoder = filler.0.rest().await?.encoder;
        match cpu.run(move |_| encoder.finish()).await?? {
            Encoded::File { bytes, rows } => files.push((rows > 0).then_some((bytes, rows))),
            Encoded::Misfits(columns) => misfits.extend(columns.iter().map(|one| (member, *one))),
        }
    }
    if !misfits.is_empty() {
        return Ok(Read::Misfits(misfits));
    }
    let set = set.clone();
    Ok(Read::Draft(Box::new(Draft { set, files, slices, position, last, is_last })))
}

/// A batch as it is read: pages of the root, and after each what hangs on it, so that no file
/// grows past its size, whichever table it is of.
struct Reading<'a> {
    plan: &'a Plan,
    set: &'a ArchiveSet,
    sizes: Sizes,
    /// What is left to read.
    range: KeyRange,
    slices: Vec<Slice>,
    /// What the manifest takes for those slices, about.
    listed_bytes: u64,
    /// What the rows that hang on them take as they are sent.
    raw_bytes: u64,
}

impl Reading<'_> {
    /// Reads until a file is full; whether there are no more rows.
    async fn fill(&mut self, snapshot: &mut dyn Exporting, fillers: &mut [Filler]) -> Result<bool> {
        let mut left = self.sizes.rows_max;
        loop {
            let Some(wanted) = self.page(fillers, left).await? else { return Ok(false) };
            let got = snapshot.root(self.set, &self.range, wanted, &mut fillers[0]).await?;
            left -= got.min(left);
            let ended = fillers[0].0.look(|root| {
                root.end_slice();
                std::mem::take(&mut root.ended)
            });
            for (hash, to) in ended.await? {
                self.add(snapshot, fillers, &hash, to).await?;
            }
            if got < wanted {
                return Ok(true);
            }
        }
    }

    /// How many rows of the root are read next; `None` when that is enough.
    async fn page(&self, fillers: &mut [Filler], left: u64) -> Result<Option<u64>> {
        let rows = fillers[0].0.look(|root| root.encoder.rows()).await?;
        let (mut bytes, mut has_misfit) = (0, false);
        for filler in fillers {
            let (of, count) =
                filler.0.look(|one| (one.encoder.len_bytes(), one.encoder.rows())).await?;
            bytes = of.max(bytes);
            has_misfit |= of == 0 && count > 0;
        }
        let room = self.sizes.file_bytes.saturating_sub(bytes);
        let slices = self.slices_left();
        // However small a file is to be, it gets some rows. One with a misfit is not kept.
        if left == 0 || (rows > 0 && (room == 0 || has_misfit || slices == 0)) {
            return Ok(None);
        }
        // What a row takes in the table is more than in the file: at first, rather too few.
        let planned = self.plan.bytes.checked_div(self.plan.rows);
        let row_bytes = bytes.checked_div(rows).or(planned).unwrap_or(1).max(1);
        let wanted = (room / row_bytes).clamp(PAGE_ROWS_MIN, PAGE_ROWS_MAX);
        let wanted = wanted.min(self.fanned_out(rows));
        let wanted = wanted.min(slices.saturating_mul(self.sizes.slice_rows.max(1)));
        // Slices end with pages: whole ones, where they fit.
        let whole = wanted / self.sizes.slice_rows.max(1) * self.sizes.slice_rows;
        Ok(Some(if whole > 0 { whole } else { wanted }.min(left)))
    }

    /// How many more slices the manifest has room for.
    fn slices_left(&self) -> u64 {
        let count = self.slices.len() as u64;
        let Some(each) = self.listed_bytes.checked_div(count) else { return SLICES_FIRST };
        let room = SLICES_BYTES_MAX.saturating_sub(self.listed_bytes) / each.max(1);
        // Keys may get longer than those that were seen.
        room.min(SLICES_MAX.saturating_sub(count)).min(count.max(SLICES_FIRST))
    }

    /// How many rows of the root are read at once, where others hang on them: how many is known
    /// only once some were seen, so that pages begin small. All that hangs on a page is read
    /// before anybody looks at sizes again.
    fn fanned_out(&self, rows: u64) -> u64 {
        if self.set.members.len() == 1 {
            return u64::MAX;
        }
        let Some(each) = self.raw_bytes.checked_div(rows) else { return PAGE_ROWS_MIN };
        (SLICE_BYTES_MAX / each.max(1)).clamp(1, rows.saturating_mul(4).max(PAGE_ROWS_MIN))
    }

    /// Adds a slice, and reads what hangs on it.
    async fn add(
        &mut self,
        snapshot: &mut dyn Exporting,
        fillers: &mut [Filler],
        hash: &SliceHash,
        to: Option<Key>,
    ) -> Result<()> {
        let range = KeyRange { after: self.range.after.take(), to };
        let mut members = vec![Tally::of(hash)];
        for (member, filler) in fillers.iter_mut().enumerate().skip(1) {
            snapshot.member(self.set, member, &range, filler).await?;
            let taken = |one: &mut Filling| {
                (std::mem::take(&mut one.hash), std::mem::take(&mut one.slice_bytes))
            };
            let (hash, raw_bytes) = filler.0.look(taken).await?;
            self.raw_bytes += raw_bytes;
            members.push(Tally::of(&hash));
        }
        let number = u32::try_from(self.slices.len()).map_err(|_| Error::bug("count slices"))?;
        let text = |key: &Option<Key>| key.as_ref().map(key_text);
        let (after, to) = (text(&range.after), text(&range.to));
        let keys = [&after, &to].into_iter().flatten().map(String::len).sum::<usize>() as u64;
        self.listed_bytes += SLICE_BYTES + TALLY_BYTES * members.len() as u64 + keys;
        self.slices.push(Slice { number, after, to, members, noted: None });
        self.range.after = range.to;
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
            last: None,
        })
    }

    fn take(&mut self, rows: &RowBatch) -> Result<()> {
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

/// The key of a row.
pub(super) fn key_of(row: &[u8], key: &[usize]) -> Result<Key> {
    let values = values(row).collect::<Result<Vec<_>>>()?;
    let mut writer = RowWriter::default();
    writer.begin(key.len());
    for column in key {
        match values.get(*column).copied().flatten() {
            Some(value) => writer.value(&[value]),
            None => writer.null(),
        }
    }
    writer.end()?;
    Ok(Key(writer.take().bytes().clone()))
}

struct Filler(Behind<Filling>);

#[async_trait]
impl RowSink for Filler {
    async fn put(&mut self, rows: RowBatch) -> Result<()> {
        self.0.work(move |filling| filling.take(&rows)).await
    }
}
