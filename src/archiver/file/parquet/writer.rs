//! Writes rows into a Parquet file.

use std::{cmp::Ordering, collections::HashSet, mem, sync::Arc};

use arrow_array::{Array, RecordBatch, cast::AsArray};
use arrow_schema::{DataType, Schema, SchemaRef};
use parquet::{
    arrow::{ArrowWriter, arrow_writer::ArrowWriterOptions},
    basic::{Compression, Encoding, ZstdLevel},
    file::{
        metadata::{KeyValue, SortingColumn},
        properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder, WriterVersion},
    },
    schema::types::ColumnPath,
};
use stillpoint_contract::{Class, Column, Error, Kind, Result};

use super::{
    super::{
        cell::Cell,
        decode::{BATCH_BYTES, ROWS_MAX},
        layout::Layout,
        seal::Seal,
    },
    grow::{self, Grow},
    schema::{self, failed},
};

/// What query engines choose themselves. Source: DuckDB, Parquet Tips, Row Group Size.
const GROUP_ROWS_MAX: usize = 122_880;

/// A row group is held in memory.
const GROUP_BYTES_MAX: usize = 64 << 20;

/// The same before it is compressed, about.
const GROUP_PLAIN_BYTES_MAX: usize = 128 << 20;

/// Longer bounds of values do not make a reader skip more.
const BOUND_BYTES_MAX: usize = 64;

/// How many of a hundred lookups of values that are not there find nothing out.
const BLOOM_FALSE: f64 = 0.01;

/// The same of a key by which rows are sorted: bounds of pages find most others out, and a filter
/// half as long is a byte for each row.
const BLOOM_FALSE_SORTED: f64 = 0.05;

/// Of numbers, higher levels gain nothing.
const LEVEL: i32 = 1;

/// Of texts they may gain a tenth, and take several times as long.
const LEVEL_TEXT: i32 = 8;

/// That is worth it where it leaves at most so many of a hundred bytes of a sample, which has so
/// many at most.
const WORTH_PERCENT: usize = 95;
const WORTH_BYTES: usize = 512 << 10;

/// How long a dictionary of values other than text gets, in a row group: with more different ones
/// than that, their places in it are hardly shorter than they are.
const DICTIONARY_BYTES: usize = 64 << 10;

/// How many of a hundred values have to differ, of so many at least, for a column to have no
/// dictionary: one that most values are not in costs its length, and saves nothing.
const DISTINCT_PERCENT: usize = 90;
const DISTINCT_OF: usize = 1024;

/// The most digits of a decimal that is a number of 64 bits in the file.
/// Source: Apache Parquet, Logical Types, DECIMAL.
const NUMBER_DIGITS_MAX: u8 = 18;

/// Names in the key-value metadata.
const ORIGIN: &str = "stillpoint.origin";
const COLUMNS: &str = "stillpoint.columns";
pub(super) const SEAL: &str = "stillpoint.seal";

/// Writes rows.
pub(in super::super) struct Writer {
    schema: SchemaRef,
    columns: Vec<Grow>,
    out: Out,
    /// What has grown in `columns`.
    rows: usize,
    bytes: usize,
    /// What is in the row group, or a little more.
    group_bytes: usize,
    /// What was written, as it was and compressed, to tell how long the rest becomes.
    written_bytes: u64,
    order: Order,
}

/// Where row groups go.
enum Out {
    /// What it is like is settled once there are rows.
    Before(Box<WriterPropertiesBuilder>),
    Begun(Box<ArrowWriter<Vec<u8>>>),
}

impl Out {
    /// Begins it, if it did not begin yet, with what suits those rows.
    fn begin(&mut self, rows: &RecordBatch) -> Result<&mut ArrowWriter<Vec<u8>>> {
        if let Self::Before(properties) = self {
            let properties = suited(mem::take(&mut **properties), rows)?;
            let options = ArrowWriterOptions::new()
                .with_properties(properties.build())
                .with_skip_arrow_metadata(true);
            let out = ArrowWriter::try_new_with_options(Vec::new(), rows.schema(), options);
            *self = Self::Begun(Box::new(out.map_err(failed)?));
        }
        match self {
            Self::Begun(out) => Ok(out),
            Self::Before(_) => Err(Error::bug("begin a Parquet file")),
        }
    }

    /// About how long it is, with what is not compressed yet.
    fn len_bytes(&self) -> usize {
        match self {
            Self::Before(_) => 0,
            Self::Begun(out) => out.bytes_written() + out.in_progress_size(),
        }
    }
}

impl Writer {
    pub(in super::super) fn new(layout: &Layout<'_>) -> Result<Self> {
        let schema = Arc::new(schema::schema(layout.columns));
        let order = Order::new(layout);
        let out = Out::Before(Box::new(properties(layout, &schema, &order)?));
        let mut fields = schema.fields().iter();
        let mut columns = Vec::new();
        for column in layout.columns {
            let field = fields.nth(schema::width(&column.kind) - 1);
            let field = field.ok_or_else(|| Error::bug("lay out a Parquet file"))?;
            columns.push(Grow::new(&column.kind, field)?);
        }
        Ok(Self {
            schema,
            columns,
            out,
            rows: 0,
            bytes: 0,
            group_bytes: 0,
            written_bytes: 0,
            order,
        })
    }

    /// Begins a row of so many bytes.
    pub(in super::super) fn begin_row(&mut self, bytes: usize) -> Result<()> {
        let is_full = self.rows >= ROWS_MAX || self.bytes + bytes > BATCH_BYTES;
        if self.rows > 0 && is_full {
            self.flush()?;
        }
        self.bytes += bytes;
        self.rows += 1;
        Ok(())
    }

    /// Adds the next value of a row, `None` for NULL.
    pub(in super::super) fn append(&mut self, at: usize, cell: Option<&Cell<'_>>) -> Result<()> {
        self.order.see(at, cell);
        self.columns[at].append(cell)
    }

    pub(in super::super) fn end_row(&mut self) -> Result<()> {
        self.order.end_row()
    }

    fn flush(&mut self) -> Result<()> {
        let mut arrays = Vec::with_capacity(self.schema.fields().len());
        for column in &mut self.columns {
            column.finish(&mut arrays)?;
        }
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), arrays);
        let batch = batch.map_err(grow::refused)?;
        let out = self.out.begin(&batch)?;
        out.write(&batch).map_err(failed)?;
        // What compresses well is long again for whoever reads the row group.
        let has_begun = out.in_progress_rows() <= self.rows;
        self.group_bytes = self.bytes + if has_begun { 0 } else { self.group_bytes };
        if self.group_bytes > GROUP_PLAIN_BYTES_MAX {
            out.flush().map_err(failed)?;
        }
        self.written_bytes += self.bytes as u64;
        self.rows = 0;
        self.bytes = 0;
        Ok(())
    }

    /// About how long the file is, with what is not compressed yet.
    pub(in super::super) fn len_bytes(&self) -> u64 {
        let out = self.out.len_bytes() as u64;
        let rest = self.bytes as u64;
        // As well as what came before; half as long before anything did.
        let rest = match self.written_bytes {
            0 => rest / 2,
            written => (u128::from(rest) * u128::from(out) / u128::from(written)) as u64,
        };
        out + rest
    }

    pub(in super::super) fn finish(mut self, seal: &Seal) -> Result<Vec<u8>> {
        self.flush()?;
        let Out::Begun(mut out) = self.out else { return Err(Error::bug("end a Parquet file")) };
        out.append_key_value_metadata(KeyValue::new(SEAL.to_owned(), seal.text()));
        out.into_inner().map_err(failed)
    }
}

fn properties(
    layout: &Layout<'_>,
    schema: &Schema,
    order: &Order,
) -> Result<WriterPropertiesBuilder> {
    let json = |error: serde_json::Error| Error::bug("describe a Parquet file").caused_by(error);
    let origin = serde_json::to_string(layout.origin).map_err(json)?;
    let columns = serde_json::to_string(layout.columns).map_err(json)?;
    let about = [(ORIGIN, origin), (COLUMNS, columns)];
    let about = about.map(|(name, value)| KeyValue::new(name.to_owned(), value));
    let level = ZstdLevel::try_new(LEVEL).map_err(failed)?;
    let mut properties = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(GROUP_ROWS_MAX))
        .set_max_row_group_bytes(Some(GROUP_BYTES_MAX))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_statistics_truncate_length(Some(BOUND_BYTES_MAX))
        .set_column_index_truncate_length(Some(BOUND_BYTES_MAX))
        .set_sorting_columns(order.columns())
        .set_key_value_metadata(Some(about.to_vec()));
    // Differences take as many bits as the numbers need, and hardly any where they ascend.
    // Source: Apache Parquet, Encodings, Delta encoding.
    let mut sorted = order.columns.iter().map(|(at, _)| *at).collect::<Vec<_>>();
    sorted.extend(layout.key.iter().filter(|_| layout.key.len() == 1));
    let sorted: Vec<&str> = sorted.iter().map(|at| &*layout.columns[*at].name).collect();
    for field in schema.fields() {
        let path = ColumnPath::new(vec![field.name().clone()]);
        if let Some(encoding) = encoding(field.data_type()) {
            properties = properties.set_column_encoding(path.clone(), encoding);
        }
        let is_time = matches!(field.data_type(), DataType::Timestamp(..));
        if is_time || sorted.contains(&&**field.name()) {
            properties = properties.set_column_dictionary_enabled(path, false);
        } else if *field.data_type() != DataType::Utf8 {
            properties = properties.set_column_dictionary_page_size_limit(path, DICTIONARY_BYTES);
        }
    }
    for at in layout.sought() {
        let column = &layout.columns[at];
        if has_filter(&column.kind) && !is_found_by_bounds(layout, order, at) {
            let path = ColumnPath::new(vec![column.name.clone()]);
            let is_sorted = sorted.contains(&&*column.name);
            let share = if is_sorted { BLOOM_FALSE_SORTED } else { BLOOM_FALSE };
            properties = properties.set_column_bloom_filter_fpp(path, share);
        }
    }
    Ok(properties)
}

/// The same, without a dictionary for columns whose values hardly come twice in those rows, and
/// texts of which compressed better, if that gains something.
fn suited(
    mut properties: WriterPropertiesBuilder,
    rows: &RecordBatch,
) -> Result<WriterPropertiesBuilder> {
    for (field, column) in rows.schema().fields().iter().zip(rows.columns()) {
        let values = column.len() - column.null_count();
        let is_worth_a_look = values >= DISTINCT_OF;
        if !is_worth_a_look || distinct(column) * 100 <= values * DISTINCT_PERCENT {
            continue;
        }
        let path = ColumnPath::new(vec![field.name().clone()]);
        properties = properties.set_column_dictionary_enabled(path.clone(), false);
        if gains(column)? {
            let level = ZstdLevel::try_new(LEVEL_TEXT).map_err(failed)?;
            properties = properties.set_column_compression(path, Compression::ZSTD(level));
        }
    }
    Ok(properties)
}

/// Whether texts are shorter by far at the higher level.
fn gains(column: &dyn Array) -> Result<bool> {
    let Some(texts) = column.as_string_opt::<i32>() else { return Ok(false) };
    let mut sample = Vec::new();
    for text in texts.iter().flatten() {
        if sample.len() + text.len() > WORTH_BYTES {
            break;
        }
        sample.extend_from_slice(text.as_bytes());
    }
    let length = |level| {
        let compressed = zstd::bulk::compress(&sample, level);
        let bug = |error| Error::bug("try how well texts compress").caused_by(error);
        compressed.map(|bytes| bytes.len()).map_err(bug)
    };
    Ok(length(LEVEL_TEXT)? * 100 <= length(LEVEL)? * WORTH_PERCENT)
}

/// How many different values there are; none where that is of no use.
fn distinct(column: &dyn Array) -> usize {
    match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().iter().flatten().collect::<HashSet<_>>().len(),
        DataType::Binary => {
            column.as_binary::<i32>().iter().flatten().collect::<HashSet<_>>().len()
        }
        DataType::FixedSizeBinary(_) => {
            column.as_fixed_size_binary().iter().flatten().collect::<HashSet<_>>().len()
        }
        other => other.primitive_width().map_or(0, |width| {
            let data = column.to_data();
            let bytes = data.buffers().first().map_or(&[][..], |buffer| buffer.as_slice());
            bytes.chunks_exact(width).collect::<HashSet<_>>().len()
        }),
    }
}

/// Whether rows are in the order of a column that is all of the key: bounds of row groups and pages
/// leave one page to read, which is a fraction of what a filter is.
fn is_found_by_bounds(layout: &Layout<'_>, order: &Order, at: usize) -> bool {
    layout.key == [at]
        && order.columns.iter().any(|(sorted, _)| *sorted == at)
        && !layout.lookup.contains(&layout.columns[at].name)
}

/// How values are written of which a dictionary does not take all: numbers of 32 and 64 bits as
/// differences, what has a length behind all lengths.
fn encoding(data_type: &DataType) -> Option<Encoding> {
    match data_type {
        DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Date32
        | DataType::Time64(_)
        | DataType::Timestamp(..) => Some(Encoding::DELTA_BINARY_PACKED),
        DataType::Decimal128(digits, _) if *digits <= NUMBER_DIGITS_MAX => {
            Some(Encoding::DELTA_BINARY_PACKED)
        }
        DataType::Utf8 | DataType::Binary => Some(Encoding::DELTA_LENGTH_BYTE_ARRAY),
        _ => None,
    }
}

/// Whether a value is sought in one leaf of the file, and filters for such are of use.
pub(super) fn has_filter(kind: &Kind) -> bool {
    schema::leaves(kind) == 1 && !matches!(kind, Kind::List { .. } | Kind::Bool)
}

/// Looks whether rows come in the order that the file says.
///
/// Only the leading columns of the key count whose order is the same for every engine and for
/// Parquet: that of numbers and times.
struct Order {
    /// Their places, and the leaves that they are in the file.
    columns: Vec<(usize, i32)>,
    last: Vec<i64>,
    row: Vec<i64>,
    has_last: bool,
}

impl Order {
    fn new(layout: &Layout<'_>) -> Self {
        let leaf = |at: usize| -> i32 {
            let before = layout.columns[..at].iter();
            let leaves = before.map(|column| schema::leaves(&column.kind)).sum::<usize>();
            (leaves as u32).cast_signed()
        };
        let ordered = |at: &&usize| layout.columns.get(**at).is_some_and(is_ordered);
        let key = layout.key.iter().filter(|_| layout.is_sorted);
        let columns: Vec<_> = key.take_while(ordered).map(|at| (*at, leaf(*at))).collect();
        let none = vec![0; columns.len()];
        Self { columns, last: none.clone(), row: none, has_last: false }
    }

    fn columns(&self) -> Option<Vec<SortingColumn>> {
        let sorting = |(_, column_idx): &(usize, i32)| SortingColumn {
            column_idx: *column_idx,
            descending: false,
            nulls_first: false,
        };
        (!self.columns.is_empty()).then(|| self.columns.iter().map(sorting).collect())
    }

    fn see(&mut self, at: usize, cell: Option<&Cell<'_>>) {
        for (place, (column, _)) in self.columns.iter().enumerate() {
            if *column == at {
                // Keys have no NULLs; one would come last.
                self.row[place] = cell.map_or(i64::MAX, ordinal);
            }
        }
    }

    fn end_row(&mut self) -> Result<()> {
        if self.has_last && self.row.cmp(&self.last) == Ordering::Less {
            return Err(Error::bug("write rows in the order of their key"));
        }
        self.has_last = true;
        mem::swap(&mut self.last, &mut self.row);
        Ok(())
    }
}

fn is_ordered(column: &Column) -> bool {
    matches!(
        column.kind,
        Kind::Int16
            | Kind::Int32
            | Kind::Int64
            | Kind::Date
            | Kind::Timestamp
            | Kind::TimestampTz
            | Kind::Dynamic { declared: Class::Integer }
    )
}

fn ordinal(cell: &Cell<'_>) -> i64 {
    match cell {
        Cell::Int16(value) => (*value).into(),
        Cell::Int32(value) | Cell::Date(value) => (*value).into(),
        Cell::Int64(value) | Cell::Timestamp(value) => *value,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::{Int64Array, StringArray};

    use super::*;

    #[test]
    fn only_texts_that_gain_by_it_are_compressed_better() {
        let word = |at: usize| blake3::hash(&at.to_le_bytes()).as_bytes()[0] % 16;
        let words = |row: usize| {
            let words = (0..12).map(|at| format!("word{}", word(row * 12 + at)));
            words.collect::<Vec<_>>().join(" ")
        };
        let hash = |row: usize| blake3::hash(&row.to_le_bytes()).to_hex().to_string();
        let texts =
            |text: &dyn Fn(usize) -> String| StringArray::from_iter_values((0..4000).map(text));
        assert!(gains(&texts(&words)).unwrap());
        assert!(!gains(&texts(&hash)).unwrap());
        assert!(!gains(&StringArray::from_iter_values([""])).unwrap());
        assert!(!gains(&Int64Array::from_iter_values(0..4000)).unwrap());
    }
}
