//! Rows as an independent reader of Iceberg shows them, and as the archive has them, in one form:
//! exact numbers, bits and bytes.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{collections::BTreeMap, path::Path, sync::Arc};

use serde_json::{Value, json};
use stillpoint::{
    archiver::{FoundRows, PublishedTable, Shelf, Wanted, file::value_text, find, iceberg_tables},
    repository::store::{LocalStore, RealFs, Store, Writers},
    world::World,
};
use stillpoint_contract::{Class, Kind, Result, values};
use stillpoint_testcontainers::Iceberg;

use super::shop::{Shop, Yard};

/// A row, by the names of its columns.
pub(super) type Row = BTreeMap<String, Value>;

/// Days, and microseconds, from 1970 to 2000.
const DAYS: i32 = 10_957;
const MICROSECONDS: i64 = DAYS as i64 * DAY;
const DAY: i64 = 86_400_000_000;

/// A store that another program can read.
pub(super) async fn local(root: &Path) -> Arc<dyn Store> {
    let world = World::real(3);
    let entropy = Arc::clone(&world.entropy);
    let store = LocalStore::open(RealFs, root, Writers::Several, &*world.clock, entropy).await;
    Arc::new(store.unwrap())
}

pub(super) async fn publish<S: Shop>(yard: &Yard<S>, into: &Path) -> Result<Vec<PublishedTable>> {
    let shelf = Shelf::load(&yard.place).await.unwrap();
    Box::pin(iceberg_tables(&yard.place, &shelf, into, &yard.world)).await
}

/// The rows of a table, by its directory or its metadata.
pub(super) fn seen(iceberg: &Iceberg, table: &Path) -> Vec<Row> {
    let table = table.to_str().unwrap();
    let rows = iceberg.rows(table).unwrap_or_else(|error| panic!("{table}\n{error}"));
    rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The rows of a table that the archive has in files that count, as its files name columns.
pub(super) async fn archived<S: Shop>(yard: &Yard<S>, table: Option<&str>) -> Vec<Row> {
    let wanted = Wanted { table: table.map(str::to_owned), ..Wanted::default() };
    let mut rows = Vec::new();
    let take = async |found: FoundRows| {
        for bytes in found.rows.rows() {
            let mut row = Row::new();
            for (column, value) in found.columns.iter().zip(values(bytes)) {
                let value = value?;
                if column.kind == Kind::TimeTz {
                    let (utc, east) = value.map(time_tz).unzip();
                    row.insert(column.name.clone(), text(utc));
                    row.insert(format!("{}__offset", column.name), text(east));
                    continue;
                }
                let shown = match (value, &column.kind) {
                    (Some(value), kind) => shown(kind, value),
                    (None, kind) if is_list_of_structures(kind) => json!([]),
                    (None, _) => Value::Null,
                };
                row.insert(column.name.clone(), shown);
            }
            rows.push(row);
        }
        Ok(())
    };
    let found = find(&yard.place, &yard.world.cpu, &wanted, None, take);
    assert_eq!(Box::pin(found).await.unwrap() as usize, rows.len());
    rows
}

/// Lists of which the reader shows NULL as an empty one; where it is NULL in a file is looked at by
/// others. Source: PyIceberg 0.12, `ArrowProjectionVisitor.list`, which makes them anew of offsets.
fn is_list_of_structures(kind: &Kind) -> bool {
    matches!(kind, Kind::List { element, .. }
        if matches!(**element, Kind::Interval | Kind::TimeTz | Kind::Dynamic { .. }))
}

/// Both have the same rows, whatever their order; what a row lacks is NULL.
pub(super) fn assert_same(found: Vec<Row>, mut wanted: Vec<Row>, what: &str) {
    let names: Vec<String> = found.iter().flat_map(|row| row.keys().cloned()).collect();
    for row in &mut wanted {
        for name in &names[..names.len() / found.len().max(1)] {
            row.entry(name.clone()).or_insert(Value::Null);
        }
    }
    let sorted = |rows: Vec<Row>| {
        let mut rows: Vec<String> = rows.iter().map(|row| json!(row).to_string()).collect();
        rows.sort();
        rows
    };
    let (found, wanted) = (sorted(found), sorted(wanted));
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (found, wanted) in found.iter().zip(&wanted) {
        let at = found.bytes().zip(wanted.bytes()).take_while(|(one, other)| one == other).count();
        let about = |text: &str| {
            let bytes = &text.as_bytes()[at.saturating_sub(80)..text.len().min(at + 80)];
            String::from_utf8_lossy(bytes).into_owned()
        };
        assert!(found == wanted, "{what}: {}\ninstead of {}", about(found), about(wanted));
    }
}

fn text(value: Option<impl ToString>) -> Value {
    value.map_or(Value::Null, |value| json!(value.to_string()))
}

fn hex(bytes: &[u8]) -> Value {
    json!(data_encoding::HEXLOWER.encode(bytes))
}

fn int(bytes: &[u8]) -> i32 {
    i32::from_be_bytes(bytes.try_into().unwrap())
}

fn long(bytes: &[u8]) -> i64 {
    i64::from_be_bytes(bytes.try_into().unwrap())
}

/// The time in UTC, and seconds east of Greenwich.
fn time_tz(value: &[u8]) -> (i64, i32) {
    let (time, west) = (long(&value[..8]), int(&value[8..]));
    ((time + i64::from(west) * 1_000_000).rem_euclid(DAY), -west)
}

/// A value that a file has in that form.
fn shown(kind: &Kind, value: &[u8]) -> Value {
    let utf8 = |bytes: &[u8]| json!(std::str::from_utf8(bytes).unwrap());
    match kind {
        Kind::Bool => json!(value == [1]),
        Kind::Int16 => text(Some(i16::from_be_bytes(value.try_into().unwrap()))),
        Kind::Int32 => text(Some(int(value))),
        Kind::Int64 | Kind::Time => text(Some(long(value))),
        Kind::Float32 | Kind::Float64 | Kind::Bytes | Kind::Uuid => hex(value),
        Kind::Decimal { .. } => json!(value_text(kind, value).unwrap()),
        Kind::Text | Kind::Enum { .. } | Kind::Json => utf8(value),
        Kind::Jsonb => utf8(&value[1..]),
        Kind::Date => text(Some(int(value) + DAYS)),
        Kind::TimeTz => {
            let (utc, east) = time_tz(value);
            json!([utc.to_string(), east.to_string()])
        }
        Kind::Timestamp | Kind::TimestampTz => text(Some(long(value) + MICROSECONDS)),
        Kind::Interval => json!([
            int(&value[12..]).to_string(),
            int(&value[8..12]).to_string(),
            long(&value[..8]).to_string(),
        ]),
        Kind::List { element, .. } => {
            let dimensions = int(&value[..4]);
            let mut rest = &value[12 + 8 * dimensions as usize..];
            let mut list = Vec::new();
            while !rest.is_empty() {
                let (length, behind) = rest.split_at(4);
                let of = usize::try_from(int(length)).ok();
                let (value, behind) = behind.split_at(of.unwrap_or(0));
                list.push(of.map_or(Value::Null, |_| shown(element, value)));
                rest = behind;
            }
            Value::Array(list)
        }
        Kind::Dynamic { declared } => dynamic(*declared, value),
    }
}

fn dynamic(declared: Class, value: &[u8]) -> Value {
    let (class, bytes) = value.split_first().unwrap();
    let (place, value) = match Class::of(*class).unwrap() {
        Class::Integer => (0, text(Some(long(bytes)))),
        Class::Real => (1, hex(bytes)),
        Class::Blob => (3, hex(bytes)),
        _ => match std::str::from_utf8(bytes) {
            Ok(text) => (2, json!(text)),
            Err(_) => (4, hex(bytes)),
        },
    };
    if declared != Class::Any {
        return value;
    }
    let mut members = vec![Value::Null; 5];
    members[place] = value;
    Value::Array(members)
}
