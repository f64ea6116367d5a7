//! The columns of a table over files of any time: Iceberg knows them by the numbers that they have
//! in files, whatever they are called there.

use std::collections::HashSet;

use arrow_schema::{DataType, Field};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use serde_json::{Value, json};
use stillpoint_contract::{Class, Column, Error, ErrorKind, Kind, Result, code};

use super::super::{document::Plan, file, names::Names, publish::Counted};

/// A column as files have it, under the name that it has now.
struct Known<'a> {
    column: Column,
    /// The table that it was seen in, and whether numbers tell columns there.
    identity: &'a str,
    is_numbered: bool,
}

/// The columns of some files of a table, those of the newest one first.
///
/// # Errors
///
/// [`Refused`](ErrorKind::Refused) when files number them differently, or have them in forms
/// which Iceberg does not unite.
pub(super) fn united(plan: &Plan, names: &Names, files: &[Counted<'_>]) -> Result<Vec<Column>> {
    let mut known: Vec<Known<'_>> = Vec::new();
    for file in files.iter().rev() {
        let is_numbered = Names::is_numbered(file.plan, file.member);
        let identity = &*file.plan.members[file.member].table.identity;
        for column in file.columns {
            let name = names.column_now(file.plan, file.member, column);
            let seen = Known { column: Column { name, ..column.clone() }, identity, is_numbered };
            match known.iter_mut().find(|one| one.column.id == column.id) {
                Some(one) => one.unite(plan, seen)?,
                None => known.push(seen),
            }
        }
    }
    let mut columns: Vec<Column> = Vec::new();
    for (at, one) in known.iter().enumerate() {
        let mut column = one.column.clone();
        if let Some(other) = known[..at].iter().find(|other| other.column.name == column.name) {
            if !one.is_told_from(other) {
                return Err(refused(plan, &column, "its number is not the same in all files")
                    .with("numbers", format!("{}, {}", other.column.id, column.id)));
            }
            // One that was dropped; a newer one has its name.
            column.name = format!("{}__{}", column.name, column.id);
            while known.iter().any(|other| other.column.name == column.name) {
                column.name.push('_');
            }
        }
        columns.push(column);
    }
    Ok(columns)
}

impl Known<'_> {
    /// Whether their numbers say whether both are the same column.
    fn is_told_from(&self, other: &Self) -> bool {
        self.is_numbered && other.is_numbered && self.identity == other.identity
    }

    /// Makes it a column that holds the values of an older one with the same number, too.
    fn unite(&mut self, plan: &Plan, older: Self) -> Result<()> {
        if self.column.name != older.column.name && !self.is_told_from(&older) {
            let why = "another column has its number in older files, and nobody knows whether it \
                       was called that then";
            let error = refused(plan, &self.column, why);
            return Err(error.with("the other one", older.column.name));
        }
        let of = |column: &Column| format!("{:?}", column.kind);
        let kind = wider(&self.column.kind, &older.column.kind).ok_or_else(|| {
            let why = "files have it in different forms, for values that the usual one does not \
                       hold, and no type of Iceberg has both";
            refused(plan, &self.column, why)
                .with("type", &self.column.engine_type)
                .with("forms", format!("{}, {}", of(&self.column), of(&older.column)))
        })?;
        self.column.kind = kind;
        Ok(())
    }
}

fn refused(plan: &Plan, column: &Column, why: &'static str) -> Error {
    let set = &plan.set;
    Error::new(ErrorKind::Refused, code::ARCHIVE_PUBLISH, "publish an archive set for Iceberg")
        .with("set", set)
        .with("column", &column.name)
        .why(why)
        .next(format!("stillpoint archive publish {set} --for duckdb"))
}

/// The form that holds values of both, which readers make of either.
/// Source: Table Spec, "Schema Evolution", valid type promotions.
fn wider(one: &Kind, other: &Kind) -> Option<Kind> {
    use Kind::{Decimal, Float32, Float64, Int16, Int32, Int64, List};

    let (one, other) = (plain(one), plain(other));
    let is_one_of = |kinds: &[Kind]| kinds.contains(&one) && kinds.contains(&other);
    if one == other {
        return Some(one);
    }
    match (&one, &other) {
        (Decimal { precision, scale }, Decimal { precision: also, scale: same })
            if scale == same =>
        {
            Some(Decimal { precision: *precision.max(also), scale: *scale })
        }
        (List { element, element_type }, List { element: also, .. }) => {
            let element = Box::new(wider(element, also)?);
            Some(List { element, element_type: *element_type })
        }
        _ if is_one_of(&[Int16, Int32]) => Some(Int32),
        _ if is_one_of(&[Int16, Int32, Int64]) => Some(Int64),
        _ if is_one_of(&[Float32, Float64]) => Some(Float64),
        _ => None,
    }
}

/// One kind of those that are of one type to Iceberg.
fn plain(kind: &Kind) -> Kind {
    match kind {
        Kind::Enum { .. } | Kind::Json | Kind::Jsonb | Kind::Dynamic { declared: Class::Text } => {
            Kind::Text
        }
        Kind::Dynamic { declared: Class::Integer } => Kind::Int64,
        Kind::Dynamic { declared: Class::Real } => Kind::Float64,
        Kind::Dynamic { declared: Class::Blob } => Kind::Bytes,
        kind => kind.clone(),
    }
}

/// Columns as Iceberg has them, and the largest number in them: what `file/FORMAT.md` says that
/// they are in files.
///
/// # Errors
///
/// [`Refused`](ErrorKind::Refused) when it would take one for what is within another one.
pub(super) fn schema(plan: &Plan, columns: &[Column]) -> Result<(Vec<Value>, i32)> {
    let schema = file::parquet_schema(columns);
    let (mut fields, mut names, mut last) = (Vec::new(), HashSet::new(), 0);
    for field in schema.fields() {
        fields.push(of_field(field, &mut last)?);
        let mut all = Vec::new();
        full_names(field, "", &mut all);
        for name in all {
            if !names.insert(name.clone()) {
                let column = columns.iter().find(|column| column.name == name);
                let why = "what is within another column has its name";
                return Err(refused(plan, column.unwrap_or(&columns[0]), why).with("name", name));
            }
        }
    }
    Ok((fields, last))
}

fn of_field(field: &Field, last: &mut i32) -> Result<Value> {
    let id = id(field, last)?;
    let of = of_type(field.data_type(), last)?;
    let is_required = !field.is_nullable();
    Ok(json!({ "id": id, "name": field.name(), "required": is_required, "type": of }))
}

fn id(field: &Field, last: &mut i32) -> Result<i32> {
    let id = field.metadata().get(PARQUET_FIELD_ID_META_KEY).and_then(|id| id.parse().ok());
    let id: i32 = id.ok_or_else(|| Error::bug("number a column").with("name", field.name()))?;
    *last = id.max(*last);
    Ok(id)
}

fn of_type(of: &DataType, last: &mut i32) -> Result<Value> {
    Ok(match of {
        DataType::Boolean => json!("boolean"),
        DataType::Int16 | DataType::Int32 => json!("int"),
        DataType::Int64 => json!("long"),
        DataType::Float32 => json!("float"),
        DataType::Float64 => json!("double"),
        DataType::Decimal128(digits, scale) => json!(format!("decimal({digits}, {scale})")),
        DataType::Utf8 => json!("string"),
        DataType::Binary => json!("binary"),
        DataType::FixedSizeBinary(16) => json!("uuid"),
        DataType::Date32 => json!("date"),
        DataType::Time64(_) => json!("time"),
        DataType::Timestamp(_, None) => json!("timestamp"),
        DataType::Timestamp(_, Some(_)) => json!("timestamptz"),
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|field| of_field(field, last));
            let fields = fields.collect::<Result<Vec<Value>>>()?;
            json!({ "type": "struct", "fields": fields })
        }
        DataType::List(element) => json!({
            "type": "list",
            "element-id": id(element, last)?,
            "element-required": !element.is_nullable(),
            "element": of_type(element.data_type(), last)?,
        }),
        other => return Err(Error::bug("find a type of Iceberg").with("type", other)),
    })
}

/// The names by which Iceberg finds a column, and what is within it.
fn full_names(field: &Field, before: &str, into: &mut Vec<String>) {
    let name = format!("{before}{}", field.name());
    let inner = format!("{name}.");
    into.push(name);
    match field.data_type() {
        DataType::Struct(fields) => {
            fields.iter().for_each(|field| full_names(field, &inner, into));
        }
        DataType::List(element) => full_names(element, &inner, into),
        _ => {}
    }
}
