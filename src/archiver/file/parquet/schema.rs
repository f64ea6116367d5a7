//! The types of columns in Parquet files.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use arrow_schema::{
    DataType, Field, Fields, Schema, TimeUnit,
    extension::{Json, Uuid},
};
use parquet::{
    arrow::{ArrowSchemaConverter, PARQUET_FIELD_ID_META_KEY},
    errors::ParquetError,
    schema::types::SchemaDescriptor,
};
use stillpoint_contract::{Class, Column, Error, Kind, Result};

/// In the metadata of a field of times: they are times in UTC. Source: the crate `parquet`,
/// `arrow_to_parquet_type`.
const ADJUSTED_TO_UTC: &str = "adjusted_to_utc";

const UTC: &str = "UTC";

/// Numbers of fields within columns begin here, with some for each column.
const INNER_IDS: i32 = 1 << 30;
const INNER_IDS_EACH: i32 = 8;

/// The schema of a file with such columns. It depends on nothing else.
pub(in super::super::super) fn schema(columns: &[Column]) -> Schema {
    let mut taken: HashSet<String> =
        columns.iter().map(|column| column.name.to_lowercase()).collect();
    let mut fields = Vec::new();
    for column in columns {
        let mut ids = Ids { next: column.id, inner: INNER_IDS + column.id * INNER_IDS_EACH };
        fields.push(field(&column.name, &column.kind, &mut ids, true));
        if column.kind == Kind::TimeTz {
            let mut name = format!("{}__offset", column.name);
            while !taken.insert(name.to_lowercase()) {
                name.push('_');
            }
            let offset = Field::new(name, DataType::Int32, true);
            fields.push(offset.with_metadata(ids.take()));
        }
    }
    Schema::new(fields)
}

/// The same in Parquet's own terms.
pub(super) fn descriptor(schema: &Schema) -> Result<SchemaDescriptor> {
    ArrowSchemaConverter::new().convert(schema).map_err(failed)
}

/// How many fields of the schema a column has.
pub(super) fn width(kind: &Kind) -> usize {
    if *kind == Kind::TimeTz { 2 } else { 1 }
}

/// How many leaves of the schema a column has.
pub(super) fn leaves(kind: &Kind) -> usize {
    match kind {
        Kind::TimeTz => 2,
        Kind::Interval => 3,
        Kind::Dynamic { declared: Class::Any } => 5,
        Kind::List { element, .. } => leaves(element),
        _ => 1,
    }
}

/// What Arrow or Parquet refuse although the columns were looked at.
pub(super) fn failed(error: ParquetError) -> Error {
    Error::bug("write a Parquet file").caused_by(error)
}

/// Hands out the numbers of a column's fields: its own, and then those for what is within it.
struct Ids {
    next: i32,
    inner: i32,
}

impl Ids {
    /// The next number, as metadata of a field.
    fn take(&mut self) -> HashMap<String, String> {
        let id = self.next;
        self.next = if id < INNER_IDS { self.inner } else { id + 1 };
        HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())])
    }
}

fn field(name: &str, kind: &Kind, ids: &mut Ids, is_column: bool) -> Field {
    let id = ids.take();
    let plain = |data_type| Field::new(name, data_type, true).with_metadata(id.clone());
    match kind {
        Kind::Bool => plain(DataType::Boolean),
        Kind::Int16 => plain(DataType::Int16),
        Kind::Int32 => plain(DataType::Int32),
        Kind::Int64 | Kind::Dynamic { declared: Class::Integer } => plain(DataType::Int64),
        Kind::Float32 => plain(DataType::Float32),
        Kind::Float64 | Kind::Dynamic { declared: Class::Real } => plain(DataType::Float64),
        Kind::Decimal { precision, scale } => {
            plain(DataType::Decimal128((*precision).max(*scale), scale.cast_signed()))
        }
        Kind::Text | Kind::Enum { .. } | Kind::Dynamic { declared: Class::Text } => {
            plain(DataType::Utf8)
        }
        Kind::Json | Kind::Jsonb => plain(DataType::Utf8).with_extension_type(Json::default()),
        Kind::Bytes | Kind::Dynamic { declared: Class::Blob } => plain(DataType::Binary),
        Kind::Uuid => plain(DataType::FixedSizeBinary(16)).with_extension_type(Uuid),
        Kind::Date => plain(DataType::Date32),
        Kind::Time => plain(DataType::Time64(TimeUnit::Microsecond)),
        Kind::TimeTz => {
            let time = DataType::Time64(TimeUnit::Microsecond);
            if is_column {
                return in_utc(plain(time));
            }
            let time = in_utc(Field::new("time", time, false).with_metadata(ids.take()));
            let offset = Field::new("offset", DataType::Int32, false).with_metadata(ids.take());
            plain(DataType::Struct(Fields::from(vec![time, offset])))
        }
        Kind::Timestamp => plain(DataType::Timestamp(TimeUnit::Microsecond, None)),
        Kind::TimestampTz => {
            plain(DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from(UTC))))
        }
        Kind::Interval => {
            let parts = [
                ("months", DataType::Int32),
                ("days", DataType::Int32),
                ("microseconds", DataType::Int64),
            ];
            let parts =
                parts.map(|(name, part)| Field::new(name, part, false).with_metadata(ids.take()));
            plain(DataType::Struct(Fields::from(parts.to_vec())))
        }
        Kind::List { element, .. } => {
            let element = field("element", element, ids, false);
            plain(DataType::List(Arc::new(element)))
        }
        Kind::Dynamic { declared: Class::Any } => {
            let parts = [
                ("integer", DataType::Int64),
                ("real", DataType::Float64),
                ("text", DataType::Utf8),
                ("blob", DataType::Binary),
                ("raw_text", DataType::Binary),
            ];
            let parts =
                parts.map(|(name, part)| Field::new(name, part, true).with_metadata(ids.take()));
            plain(DataType::Struct(Fields::from(parts.to_vec())))
        }
    }
}

fn in_utc(field: Field) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.insert(ADJUSTED_TO_UTC.to_owned(), String::new());
    field.with_metadata(metadata)
}
