//! Looks whether a file can hold a value, without reading its rows.

use bytes::Bytes;
use parquet::{
    arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder},
    bloom_filter::Sbbf,
    file::statistics::Statistics,
};
use stillpoint_contract::{Column, Error, ErrorKind, Kind, Result, code};

use super::{
    super::cell::{self, Cell},
    reader::{broken, check_schema, guarded},
    schema,
    writer::has_filter,
};

/// A value as a leaf of the file has it.
enum Sought<'a> {
    Int32(i32),
    Int64(i64),
    Bytes(&'a [u8]),
}

/// Whether a Parquet file can hold rows whose column at a place has that value. What it says of its
/// values is believed; `true` where it says nothing.
///
/// # Errors
///
/// [`Corrupt`](ErrorKind::Corrupt) when it is no Parquet file with such columns.
pub fn may_hold(bytes: &Bytes, columns: &[Column], at: usize, value: &[u8]) -> Result<bool> {
    let column = columns.get(at).ok_or_else(|| {
        Error::new(ErrorKind::Invalid, code::USAGE, "look a value up").with("column", at)
    })?;
    let leaf: usize = columns[..at].iter().map(|column| schema::leaves(&column.kind)).sum();
    let Some(cell) = cell::take(&column.kind, value) else { return Ok(false) };
    guarded(|| {
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let file = ParquetRecordBatchReaderBuilder::try_new_with_options(bytes.clone(), options)
            .map_err(|error| broken().caused_by(error))?;
        check_schema(file.metadata().file_metadata(), columns)?;
        let Some(sought) = sought(&column.kind, &cell) else { return Ok(true) };
        for (group, metadata) in file.metadata().row_groups().iter().enumerate() {
            let chunk = metadata.columns().get(leaf).ok_or_else(broken)?;
            if chunk.statistics().is_some_and(|bounds| !is_within(&sought, bounds)) {
                continue;
            }
            let filter = file.get_row_group_column_bloom_filter(group, leaf);
            let filter = filter.map_err(|error| broken().caused_by(error))?;
            if filter.is_none_or(|filter| is_in(&sought, &filter)) {
                return Ok(true);
            }
        }
        Ok(false)
    })
}

/// `None` for values for which files do not say where they are.
fn sought<'a>(kind: &Kind, cell: &Cell<'a>) -> Option<Sought<'a>> {
    if !has_filter(kind) {
        return None;
    }
    Some(match *cell {
        Cell::Int16(value) => Sought::Int32(value.into()),
        Cell::Int32(value) | Cell::Date(value) => Sought::Int32(value),
        Cell::Int64(value) | Cell::Time(value) | Cell::Timestamp(value) => Sought::Int64(value),
        Cell::Text(text) => Sought::Bytes(text.as_bytes()),
        Cell::Bytes(bytes) => Sought::Bytes(bytes),
        Cell::Uuid(bytes) => Sought::Bytes(bytes),
        _ => return None,
    })
}

/// Bounds of long values are cut so that the values are still within them.
fn is_within(sought: &Sought<'_>, bounds: &Statistics) -> bool {
    fn holds<T: PartialOrd>(value: &T, least: Option<&T>, largest: Option<&T>) -> bool {
        least.is_none_or(|least| least <= value) && largest.is_none_or(|largest| value <= largest)
    }
    match (sought, bounds) {
        (Sought::Int32(value), Statistics::Int32(bounds)) => {
            holds(value, bounds.min_opt(), bounds.max_opt())
        }
        (Sought::Int64(value), Statistics::Int64(bounds)) => {
            holds(value, bounds.min_opt(), bounds.max_opt())
        }
        (Sought::Bytes(value), Statistics::ByteArray(_) | Statistics::FixedLenByteArray(_)) => {
            holds(value, bounds.min_bytes_opt().as_ref(), bounds.max_bytes_opt().as_ref())
        }
        _ => true,
    }
}

fn is_in(sought: &Sought<'_>, filter: &Sbbf) -> bool {
    match sought {
        Sought::Int32(value) => filter.check(value),
        Sought::Int64(value) => filter.check(value),
        Sought::Bytes(value) => filter.check(*value),
    }
}
