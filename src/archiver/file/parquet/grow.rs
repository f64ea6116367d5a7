//! Columns as they grow, value by value.

use std::{mem, sync::Arc};

use arrow_array::{
    Array, ArrayRef, ListArray, StructArray,
    builder::{
        BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, FixedSizeBinaryBuilder,
        Float32Builder, Float64Builder, Int16Builder, Int32Builder, Int64Builder, StringBuilder,
        Time64MicrosecondBuilder, TimestampMicrosecondBuilder,
    },
};
use arrow_buffer::{NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Fields};
use stillpoint_contract::{Class, Error, Kind, Result};

use super::super::cell::Cell;

/// The values of a column that are not written yet.
pub(super) enum Grow {
    Bool(BooleanBuilder),
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    Decimal(Decimal128Builder),
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    Uuid(FixedSizeBinaryBuilder),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    TimeTz { time: Time64MicrosecondBuilder, offset: Int32Builder },
    Timestamp(TimestampMicrosecondBuilder),
    Struct { parts: Box<Parts>, fields: Fields, validity: NullBufferBuilder },
    List { element: Box<Self>, field: FieldRef, offsets: Vec<i32>, validity: NullBufferBuilder },
}

/// The members of a value that has several.
pub(super) enum Parts {
    TimeTz(Time64MicrosecondBuilder, Int32Builder),
    Interval(Int32Builder, Int32Builder, Int64Builder),
    Dynamic(Box<Classes>),
}

/// Appends a value that matches, or NULL.
macro_rules! append {
    ($to:expr, $cell:expr, $pattern:pat => $value:expr) => {
        match $cell {
            None => $to.append_null(),
            Some($pattern) => $to.append_value($value),
            Some(_) => return Err(mismatch()),
        }
    };
}

/// The members of a value that says itself what it is.
pub(super) struct Classes {
    integer: Int64Builder,
    real: Float64Builder,
    text: StringBuilder,
    blob: BinaryBuilder,
    raw_text: BinaryBuilder,
}

impl Grow {
    /// A column of that kind, with the field that it has in the schema.
    pub(super) fn new(kind: &Kind, field: &Field) -> Result<Self> {
        let validity = NullBufferBuilder::new(0);
        Ok(match (kind, field.data_type()) {
            (Kind::TimeTz, DataType::Struct(fields)) => {
                let parts = Parts::TimeTz(Time64MicrosecondBuilder::new(), Int32Builder::new());
                Self::Struct { parts: Box::new(parts), fields: fields.clone(), validity }
            }
            (Kind::Interval, DataType::Struct(fields)) => {
                let (months, days) = (Int32Builder::new(), Int32Builder::new());
                let parts = Parts::Interval(months, days, Int64Builder::new());
                Self::Struct { parts: Box::new(parts), fields: fields.clone(), validity }
            }
            (Kind::Dynamic { declared: Class::Any }, DataType::Struct(fields)) => {
                let parts = Parts::Dynamic(Box::new(Classes {
                    integer: Int64Builder::new(),
                    real: Float64Builder::new(),
                    text: StringBuilder::new(),
                    blob: BinaryBuilder::new(),
                    raw_text: BinaryBuilder::new(),
                }));
                Self::Struct { parts: Box::new(parts), fields: fields.clone(), validity }
            }
            (Kind::List { element, .. }, DataType::List(field)) => Self::List {
                element: Box::new(Self::new(element, field)?),
                field: Arc::clone(field),
                offsets: vec![0],
                validity,
            },
            (Kind::TimeTz, _) => {
                Self::TimeTz { time: Time64MicrosecondBuilder::new(), offset: Int32Builder::new() }
            }
            (_, DataType::Boolean) => Self::Bool(BooleanBuilder::new()),
            (_, DataType::Int16) => Self::Int16(Int16Builder::new()),
            (_, DataType::Int32) => Self::Int32(Int32Builder::new()),
            (_, DataType::Int64) => Self::Int64(Int64Builder::new()),
            (_, DataType::Float32) => Self::Float32(Float32Builder::new()),
            (_, DataType::Float64) => Self::Float64(Float64Builder::new()),
            (_, decimal @ DataType::Decimal128(..)) => {
                Self::Decimal(Decimal128Builder::new().with_data_type(decimal.clone()))
            }
            (_, DataType::Utf8) => Self::Text(StringBuilder::new()),
            (_, DataType::Binary) => Self::Bytes(BinaryBuilder::new()),
            (_, DataType::FixedSizeBinary(16)) => Self::Uuid(FixedSizeBinaryBuilder::new(16)),
            (_, DataType::Date32) => Self::Date(Date32Builder::new()),
            (_, DataType::Time64(_)) => Self::Time(Time64MicrosecondBuilder::new()),
            (_, timestamp @ DataType::Timestamp(..)) => Self::Timestamp(
                TimestampMicrosecondBuilder::new().with_data_type(timestamp.clone()),
            ),
            _ => return Err(mismatch()),
        })
    }

    /// Adds a value, `None` for NULL.
    pub(super) fn append(&mut self, cell: Option<&Cell<'_>>) -> Result<()> {
        match self {
            Self::Bool(to) => append!(to, cell, Cell::Bool(value) => *value),
            Self::Int16(to) => append!(to, cell, Cell::Int16(value) => *value),
            Self::Int32(to) => append!(to, cell, Cell::Int32(value) => *value),
            Self::Int64(to) => append!(to, cell, Cell::Int64(value) => *value),
            Self::Float32(to) => append!(to, cell, Cell::Float32(bits) => f32::from_bits(*bits)),
            Self::Float64(to) => append!(to, cell, Cell::Float64(bits) => f64::from_bits(*bits)),
            Self::Decimal(to) => append!(to, cell, Cell::Decimal(number) => *number),
            Self::Text(to) => append!(to, cell, Cell::Text(text) => text),
            Self::Bytes(to) => append!(to, cell, Cell::Bytes(bytes) => bytes),
            Self::Uuid(to) => match cell {
                None => to.append_null(),
                Some(Cell::Uuid(bytes)) => to.append_value(*bytes).map_err(refused)?,
                Some(_) => return Err(mismatch()),
            },
            Self::Date(to) => append!(to, cell, Cell::Date(days) => *days),
            Self::Time(to) => append!(to, cell, Cell::Time(time) => *time),
            Self::TimeTz { time, offset } => {
                append!(time, cell, Cell::TimeTz { utc, .. } => *utc);
                append!(offset, cell, Cell::TimeTz { east, .. } => *east);
            }
            Self::Timestamp(to) => append!(to, cell, Cell::Timestamp(time) => *time),
            Self::Struct { parts, validity, .. } => {
                parts.append(cell)?;
                validity.append(cell.is_some());
            }
            Self::List { element, offsets, validity, .. } => {
                let mut end = *offsets.last().expect("there is a first one");
                match cell {
                    None => {}
                    Some(Cell::List(elements)) => {
                        for value in elements.iter() {
                            element.append(value.as_ref())?;
                            end = end.checked_add(1).ok_or_else(mismatch)?;
                        }
                    }
                    Some(_) => return Err(mismatch()),
                }
                offsets.push(end);
                validity.append(cell.is_some());
            }
        }
        Ok(())
    }

    /// Hands over what has grown, one array or, for times with an offset, two.
    pub(super) fn finish(&mut self, into: &mut Vec<ArrayRef>) -> Result<()> {
        let array: ArrayRef = match self {
            Self::Bool(from) => Arc::new(from.finish()),
            Self::Int16(from) => Arc::new(from.finish()),
            Self::Int32(from) => Arc::new(from.finish()),
            Self::Int64(from) => Arc::new(from.finish()),
            Self::Float32(from) => Arc::new(from.finish()),
            Self::Float64(from) => Arc::new(from.finish()),
            Self::Decimal(from) => Arc::new(from.finish()),
            Self::Text(from) => Arc::new(from.finish()),
            Self::Bytes(from) => Arc::new(from.finish()),
            Self::Uuid(from) => Arc::new(from.finish()),
            Self::Date(from) => Arc::new(from.finish()),
            Self::Time(from) => Arc::new(from.finish()),
            Self::TimeTz { time, offset } => {
                into.push(Arc::new(time.finish()));
                Arc::new(offset.finish())
            }
            Self::Timestamp(from) => Arc::new(from.finish()),
            Self::Struct { parts, fields, validity } => {
                let made = StructArray::try_new(fields.clone(), parts.finish(), validity.finish());
                Arc::new(made.map_err(refused)?)
            }
            Self::List { element, field, offsets, validity } => {
                let mut inner = Vec::new();
                element.finish(&mut inner)?;
                let inner = inner.pop().ok_or_else(mismatch)?;
                let offsets = ScalarBuffer::from(mem::replace(offsets, vec![0]));
                let offsets = OffsetBuffer::new(offsets);
                let field = Arc::clone(field);
                let made = ListArray::try_new(field, offsets, inner, validity.finish());
                Arc::new(made.map_err(refused)?)
            }
        };
        into.push(array);
        Ok(())
    }
}

impl Parts {
    fn append(&mut self, cell: Option<&Cell<'_>>) -> Result<()> {
        match (self, cell) {
            // Members that are never NULL by themselves have any value where the whole is.
            (Self::TimeTz(time, offset), cell) => {
                let (utc, east) = match cell {
                    None => (0, 0),
                    Some(Cell::TimeTz { utc, east }) => (*utc, *east),
                    Some(_) => return Err(mismatch()),
                };
                time.append_value(utc);
                offset.append_value(east);
            }
            (Self::Interval(to_months, to_days, to_microseconds), cell) => {
                let (months, days, microseconds) = match cell {
                    None => (0, 0, 0),
                    Some(Cell::Interval { months, days, microseconds }) => {
                        (*months, *days, *microseconds)
                    }
                    Some(_) => return Err(mismatch()),
                };
                to_months.append_value(months);
                to_days.append_value(days);
                to_microseconds.append_value(microseconds);
            }
            (Self::Dynamic(members), cell) => {
                let mut is_known = cell.is_none();
                macro_rules! member {
                    ($to:expr, $pattern:pat => $value:expr) => {
                        if let Some($pattern) = cell {
                            is_known = true;
                            $to.append_value($value);
                        } else {
                            $to.append_null();
                        }
                    };
                }
                member!(members.integer, Cell::Int64(value) => *value);
                member!(members.real, Cell::Float64(bits) => f64::from_bits(*bits));
                member!(members.text, Cell::Text(value) => value);
                member!(members.blob, Cell::Bytes(value) => value);
                member!(members.raw_text, Cell::RawText(value) => value);
                if !is_known {
                    return Err(mismatch());
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Vec<ArrayRef> {
        fn shared(array: impl Array + 'static) -> ArrayRef {
            Arc::new(array)
        }
        match self {
            Self::TimeTz(time, offset) => vec![shared(time.finish()), shared(offset.finish())],
            Self::Interval(months, days, microseconds) => {
                vec![shared(months.finish()), shared(days.finish()), shared(microseconds.finish())]
            }
            Self::Dynamic(members) => vec![
                shared(members.integer.finish()),
                shared(members.real.finish()),
                shared(members.text.finish()),
                shared(members.blob.finish()),
                shared(members.raw_text.finish()),
            ],
        }
    }
}

fn mismatch() -> Error {
    Error::bug("write a value into a column of another kind")
}

pub(super) fn refused(error: ArrowError) -> Error {
    Error::bug("put columns together").caused_by(error)
}
