//! Values in statements: `COPY` takes no parameters, so keys become literals.

use std::{error, fmt::Write as _};

use bytes::BytesMut;
use stillpoint_contract::{
    Column, Error, ErrorKind, Key, Kind, Result, RowWriter, Table, code, values,
};
use tokio_postgres::{
    Client,
    types::{Format, IsNull, ToSql, Type, to_sql_checked},
};

use super::failure::failed;

const STEP: &str = "say which rows are meant";

/// Text in a statement. Backslashes mean nothing with `standard_conforming_strings`.
/// Source: PostgreSQL 18 documentation, 4.1.2.1, "String Constants".
pub(super) fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// A value as the server sent it.
#[derive(Debug)]
struct Raw<'a>(&'a [u8]);

impl ToSql for Raw<'_> {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn error::Error + Sync + Send>> {
        out.extend_from_slice(self.0);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Binary
    }

    to_sql_checked!();
}

/// The values of a key, each as a literal of its column's type.
pub(super) async fn key(client: &Client, table: &Table, key: &Key) -> Result<Vec<String>> {
    let columns: Vec<_> = table.key.iter().filter_map(|at| table.columns.get(*at)).collect();
    let values: Vec<_> = values(&key.0).collect::<Result<_>>()?;
    if columns.len() != values.len() || columns.is_empty() {
        return Err(Error::bug(STEP).with("values", values.len()).with("columns", columns.len()));
    }
    let mut literals = Vec::new();
    for (column, value) in columns.into_iter().zip(values) {
        let value = value.ok_or_else(|| unusable(column, "it is NULL"))?;
        let shown = shown(client, column, value).await?;
        literals.push(format!("{}::{}", text(&shown), column.engine_type));
    }
    Ok(literals)
}

/// A key with those values as text that are text in `to`, and are not in `from`.
pub(super) async fn convert(client: &Client, from: &Table, to: &Table, key: &Key) -> Result<Key> {
    let mut writer = RowWriter::default();
    writer.begin(from.key.len());
    for (at, value) in from.key.iter().zip(values(&key.0)) {
        let value = value?;
        match (from.columns.get(*at), to.columns.get(*at), value) {
            (Some(old), Some(new), Some(value)) if new.is_cast && !old.is_cast => {
                writer.value(&[shown(client, old, value).await?.as_bytes()]);
            }
            // Text that is kept as bytes is the same bytes.
            (Some(_), Some(_), Some(value)) => writer.value(&[value]),
            _ => return Err(Error::bug("keep a key in another form").with("table", &from.name)),
        }
    }
    writer.end()?;
    Ok(Key(writer.take().bytes().clone()))
}

/// The text of a value, from which the server makes the same value again.
async fn shown(client: &Client, column: &Column, value: &[u8]) -> Result<String> {
    let wrong = || unusable(column, "its bytes are none of that type");
    let as_text = || String::from_utf8(value.to_vec()).map_err(|_| wrong());
    if column.is_cast {
        return as_text();
    }
    let number = |bytes: Option<i64>| bytes.map(|n| n.to_string()).ok_or_else(wrong);
    let asked = match &column.kind {
        Kind::Bool => return Ok((value == [1]).to_string()),
        Kind::Int16 => return number(value.try_into().ok().map(|v| i16::from_be_bytes(v).into())),
        Kind::Int32 => return number(value.try_into().ok().map(|v| i32::from_be_bytes(v).into())),
        Kind::Int64 => return number(value.try_into().ok().map(i64::from_be_bytes)),
        Kind::Bytes if column.engine_type == "bytea" => {
            let mut hex = String::from("\\x");
            for byte in value {
                // Writing to a string does not fail.
                let _ = write!(hex, "{byte:02x}");
            }
            return Ok(hex);
        }
        Kind::Bytes if column.engine_type.starts_with("bit varying") => Type::VARBIT,
        Kind::Bytes if column.engine_type.starts_with("bit") => Type::BIT,
        // Bytes of other types are those of a column that is text, and had a value that is none.
        Kind::Text | Kind::Enum { .. } | Kind::Bytes => return as_text(),
        Kind::Uuid => Type::UUID,
        Kind::Date => Type::DATE,
        Kind::Time => Type::TIME,
        Kind::TimeTz => Type::TIMETZ,
        Kind::Timestamp => Type::TIMESTAMP,
        Kind::TimestampTz => Type::TIMESTAMPTZ,
        Kind::Interval => Type::INTERVAL,
        Kind::Decimal { .. } => Type::NUMERIC,
        Kind::Float32
        | Kind::Float64
        | Kind::Json
        | Kind::Jsonb
        | Kind::List { .. }
        | Kind::Dynamic { .. } => return Err(unusable(column, "its type has no exact order")),
    };
    let raw = Raw(value);
    let row = client.query_typed_one("SELECT ($1)::text", &[(&raw, asked)]).await;
    row.and_then(|row| row.try_get(0)).map_err(|e| failed(e, STEP))
}

fn unusable(column: &Column, why: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, code::ROWS_REFUSED, STEP)
        .with("column", &column.name)
        .with("type", &column.engine_type)
        .why(why)
}
