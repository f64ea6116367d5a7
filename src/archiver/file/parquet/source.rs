//! Columns as they are read, value by value.

use arrow_array::{
    Array, BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray,
    Float32Array, Float64Array, Int16Array, Int32Array, Int64Array, ListArray, StringArray,
    StructArray, Time64MicrosecondArray, TimestampMicrosecondArray,
};
use stillpoint_contract::{Class, Kind, Result};

use super::super::{
    cell::{self, Cell},
    list::ListWriter,
    seal::corrupt,
};

/// The values of a column.
pub(super) enum Source<'a> {
    Bool(&'a BooleanArray),
    Int16(&'a Int16Array),
    Int32(&'a Int32Array),
    Int64(&'a Int64Array),
    Float32(&'a Float32Array),
    Float64(&'a Float64Array),
    Decimal(&'a Decimal128Array),
    Text(&'a StringArray),
    Bytes(&'a BinaryArray),
    Uuid(&'a FixedSizeBinaryArray),
    Date(&'a Date32Array),
    Time(&'a Time64MicrosecondArray),
    TimeTz(&'a Time64MicrosecondArray, &'a Int32Array),
    Timestamp(&'a TimestampMicrosecondArray),
    Interval(&'a Int32Array, &'a Int32Array, &'a Int64Array),
    Dynamic(Box<Members<'a>>),
    List(&'a ListArray, Box<Values<'a>>),
}

/// The members of values that say themselves what they are.
pub(super) struct Members<'a> {
    integer: &'a Int64Array,
    real: &'a Float64Array,
    text: &'a StringArray,
    blob: &'a BinaryArray,
    raw_text: &'a BinaryArray,
}

/// A column, or a list in it.
pub(super) struct Values<'a> {
    kind: &'a Kind,
    /// Where NULLs are.
    whole: &'a dyn Array,
    source: Source<'a>,
}

impl<'a> Values<'a> {
    /// The values of such a column from the arrays that it has in the file: one, or, for times with
    /// an offset, two.
    pub(super) fn new(kind: &'a Kind, arrays: &[&'a dyn Array]) -> Result<Self> {
        let [whole, others @ ..] = arrays else { return Err(other()) };
        let source = match kind {
            Kind::TimeTz => {
                if let [offset] = others {
                    Source::TimeTz(cast(*whole)?, cast(*offset)?)
                } else {
                    let parts = cast::<StructArray>(*whole)?;
                    Source::TimeTz(part(parts, 0)?, part(parts, 1)?)
                }
            }
            Kind::Bool => Source::Bool(cast(*whole)?),
            Kind::Int16 => Source::Int16(cast(*whole)?),
            Kind::Int32 => Source::Int32(cast(*whole)?),
            Kind::Int64 | Kind::Dynamic { declared: Class::Integer } => {
                Source::Int64(cast(*whole)?)
            }
            Kind::Float32 => Source::Float32(cast(*whole)?),
            Kind::Float64 | Kind::Dynamic { declared: Class::Real } => {
                Source::Float64(cast(*whole)?)
            }
            Kind::Decimal { .. } => Source::Decimal(cast(*whole)?),
            Kind::Text
            | Kind::Enum { .. }
            | Kind::Json
            | Kind::Jsonb
            | Kind::Dynamic { declared: Class::Text } => Source::Text(cast(*whole)?),
            Kind::Bytes | Kind::Dynamic { declared: Class::Blob } => Source::Bytes(cast(*whole)?),
            Kind::Uuid => Source::Uuid(cast(*whole)?),
            Kind::Date => Source::Date(cast(*whole)?),
            Kind::Time => Source::Time(cast(*whole)?),
            Kind::Timestamp | Kind::TimestampTz => Source::Timestamp(cast(*whole)?),
            Kind::Interval => {
                let parts = cast::<StructArray>(*whole)?;
                Source::Interval(part(parts, 0)?, part(parts, 1)?, part(parts, 2)?)
            }
            Kind::List { element, .. } => {
                let list = cast::<ListArray>(*whole)?;
                let element = Self::new(element, &[list.values().as_ref()])?;
                return Ok(Self {
                    kind,
                    whole: *whole,
                    source: Source::List(list, Box::new(element)),
                });
            }
            Kind::Dynamic { declared: Class::Any } => {
                let parts = cast::<StructArray>(*whole)?;
                Source::Dynamic(Box::new(Members {
                    integer: part(parts, 0)?,
                    real: part(parts, 1)?,
                    text: part(parts, 2)?,
                    blob: part(parts, 3)?,
                    raw_text: part(parts, 4)?,
                }))
            }
        };
        Ok(Self { kind, whole: *whole, source })
    }

    /// Writes the bytes of the value of a row; whether there is one that is not NULL.
    pub(super) fn put(&self, row: usize, out: &mut Vec<u8>) -> Result<bool> {
        if self.whole.is_null(row) {
            return Ok(false);
        }
        let cell = match &self.source {
            Source::Bool(array) => Cell::Bool(array.value(row)),
            Source::Int16(array) => Cell::Int16(array.value(row)),
            Source::Int32(array) => Cell::Int32(array.value(row)),
            Source::Int64(array) => Cell::Int64(array.value(row)),
            Source::Float32(array) => Cell::Float32(array.value(row).to_bits()),
            Source::Float64(array) => Cell::Float64(array.value(row).to_bits()),
            Source::Decimal(array) => Cell::Decimal(array.value(row)),
            Source::Text(array) => Cell::Text(array.value(row)),
            Source::Bytes(array) => Cell::Bytes(array.value(row)),
            Source::Uuid(array) => Cell::Uuid(array.value(row).try_into().map_err(|_| other())?),
            Source::Date(array) => Cell::Date(array.value(row)),
            Source::Time(array) => Cell::Time(array.value(row)),
            Source::TimeTz(times, offsets) => {
                Cell::TimeTz { utc: times.value(row), east: offsets.value(row) }
            }
            Source::Timestamp(array) => Cell::Timestamp(array.value(row)),
            Source::Interval(months, days, microseconds) => Cell::Interval {
                months: months.value(row),
                days: days.value(row),
                microseconds: microseconds.value(row),
            },
            Source::Dynamic(members) => members.cell(row)?,
            Source::List(array, elements) => {
                let Kind::List { element_type, .. } = self.kind else { return Err(other()) };
                let offsets = array.value_offsets();
                let mut list = ListWriter::begin(*element_type, out);
                for at in offsets[row] as usize..offsets[row + 1] as usize {
                    if elements.whole.is_null(at) {
                        list.null();
                    } else {
                        let write = |out: &mut _| elements.put(at, out).ok().map(|_| ());
                        list.value(write).ok_or_else(impossible)?;
                    }
                }
                return list.end().map(|()| true).ok_or_else(impossible);
            }
        };
        cell::put(self.kind, &cell, out).ok_or_else(impossible)?;
        Ok(true)
    }
}

impl Members<'_> {
    fn cell(&self, row: usize) -> Result<Cell<'_>> {
        let mut members = [
            self.integer.is_valid(row).then(|| Cell::Int64(self.integer.value(row))),
            self.real.is_valid(row).then(|| Cell::Float64(self.real.value(row).to_bits())),
            self.text.is_valid(row).then(|| Cell::Text(self.text.value(row))),
            self.blob.is_valid(row).then(|| Cell::Bytes(self.blob.value(row))),
            self.raw_text.is_valid(row).then(|| Cell::RawText(self.raw_text.value(row))),
        ]
        .into_iter()
        .flatten();
        match (members.next(), members.next()) {
            (Some(cell), None) => Ok(cell),
            _ => Err(corrupt("a value of it is of no class, or of several")),
        }
    }
}

fn cast<T: 'static>(array: &dyn Array) -> Result<&T> {
    array.as_any().downcast_ref().ok_or_else(other)
}

fn part<T: 'static>(parts: &StructArray, at: usize) -> Result<&T> {
    cast(parts.columns().get(at).ok_or_else(other)?.as_ref())
}

fn other() -> stillpoint_contract::Error {
    corrupt("its columns are other ones")
}

fn impossible() -> stillpoint_contract::Error {
    corrupt("a value of it is none that its column has")
}
