//! Reads rows from a Parquet file.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow_array::{Array, RecordBatch};
use bytes::Bytes;
use parquet::{
    arrow::arrow_reader::{
        ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
    },
    file::metadata::{FileMetaData, ParquetMetaData},
};
use stillpoint_contract::{Column, Error, ROW_BYTES_MAX, Result, RowBatch, RowWriter};

use super::{
    super::{
        decode::{BATCH_BYTES, ROWS_MAX},
        seal::{Seal, corrupt},
    },
    schema,
    source::Values,
    writer::SEAL,
};

/// Reads rows.
pub(in super::super) struct Reader {
    batches: ParquetRecordBatchReader,
    columns: Vec<Column>,
    seal: Seal,
    value: Vec<u8>,
}

impl Reader {
    pub(in super::super) fn new(bytes: &Bytes, columns: &[Column]) -> Result<Self> {
        let (batches, seal) = guarded(|| {
            let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
            let builder =
                ParquetRecordBatchReaderBuilder::try_new_with_options(bytes.clone(), options)
                    .map_err(|error| broken().caused_by(error))?;
            let metadata = builder.metadata().as_ref();
            check_schema(metadata.file_metadata(), columns)?;
            let seal = seal_of(metadata.file_metadata())?;
            let rows = rows_at_once(metadata);
            let batches = builder.with_batch_size(rows).build();
            Ok((batches.map_err(|error| broken().caused_by(error))?, seal))
        })?;
        Ok(Self { batches, columns: columns.to_vec(), seal, value: Vec::new() })
    }

    /// What the file says of its rows.
    pub(in super::super) const fn seal(&self) -> &Seal {
        &self.seal
    }

    /// Reads some rows, none at the end.
    pub(in super::super) fn read(&mut self) -> Result<RowBatch> {
        let batches = &mut self.batches;
        let next = guarded(|| Ok(batches.next()))?;
        let Some(batch) = next else { return Ok(RowBatch::default()) };
        let batch = batch.map_err(|error| broken().caused_by(error))?;
        put(&batch, &self.columns, &mut self.value)
    }
}

/// Calls the crate `parquet`, which panics at some files that are no such files.
pub(super) fn guarded<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    // Nothing that a panic leaves half done is used again.
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err(broken()))
}

pub(super) fn broken() -> Error {
    corrupt("it is no Parquet file, or a broken one")
}

/// Whether the file has exactly the columns that a file with such columns has.
pub(super) fn check_schema(file: &FileMetaData, columns: &[Column]) -> Result<()> {
    let expected = schema::descriptor(&schema::schema(columns))?;
    if file.schema_descr().root_schema() == expected.root_schema() {
        return Ok(());
    }
    Err(corrupt("its columns are other ones"))
}

fn seal_of(file: &FileMetaData) -> Result<Seal> {
    let pairs = file.key_value_metadata().map(Vec::as_slice).unwrap_or_default();
    let mut seals = pairs.iter().filter(|pair| pair.key == SEAL);
    let seal = match (seals.next(), seals.next()) {
        (Some(pair), None) => pair.value.as_deref().and_then(Seal::of_text),
        _ => None,
    };
    seal.ok_or_else(|| corrupt("it does not say which rows it has"))
}

/// How many rows are read at once, so that they do not take too much memory.
fn rows_at_once(metadata: &ParquetMetaData) -> usize {
    let groups = metadata.row_groups().iter();
    let most = groups.map(|group| {
        let columns = group.columns().iter();
        let bytes = columns.map(|column| {
            let values = column.unencoded_byte_array_data_bytes().unwrap_or(0);
            values.max(column.uncompressed_size()).max(0).cast_unsigned()
        });
        let bytes = bytes.fold(0, u64::saturating_add);
        let rows = group.num_rows().max(1).cast_unsigned();
        bytes.div_ceil(rows)
    });
    let each = most.max().unwrap_or(0).max(1);
    (BATCH_BYTES as u64 / each).clamp(1, ROWS_MAX as u64) as usize
}

fn put(batch: &RecordBatch, columns: &[Column], value: &mut Vec<u8>) -> Result<RowBatch> {
    let mut arrays = batch.columns();
    let mut sources = Vec::with_capacity(columns.len());
    for column in columns {
        let width = schema::width(&column.kind);
        let (these, others) = arrays.split_at_checked(width).ok_or_else(broken)?;
        let these: Vec<&dyn Array> = these.iter().map(AsRef::as_ref).collect();
        sources.push(Values::new(&column.kind, &these)?);
        arrays = others;
    }
    let mut rows = RowWriter::default();
    for row in 0..batch.num_rows() {
        rows.begin(columns.len());
        for source in &sources {
            value.clear();
            if source.put(row, value)? {
                if value.len() > ROW_BYTES_MAX {
                    return Err(corrupt("a value of it is longer than any row"));
                }
                rows.value(&[value]);
            } else {
                rows.null();
            }
        }
        rows.end()?;
    }
    Ok(rows.take())
}
