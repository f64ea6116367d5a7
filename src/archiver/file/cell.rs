//! A value between a row's bytes and a file.
//!
//! Taking bytes apart is where it is decided that they fit: what [`take`] takes, [`put`] writes
//! again as the same bytes.

use stillpoint_contract::{Class, Kind};

use super::{
    decimal,
    list::{Elements, ListWriter},
};

/// A value that is not NULL.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Cell<'a> {
    Bool(bool),
    Int16(i16),
    Int32(i32),
    Int64(i64),
    /// The bits of the number: numbers that are none have some, too.
    Float32(u32),
    Float64(u64),
    /// Times 10^scale.
    Decimal(i128),
    Text(&'a str),
    Bytes(&'a [u8]),
    /// Text that is no UTF-8, where each value says what it is.
    RawText(&'a [u8]),
    Uuid(&'a [u8; 16]),
    /// Days since 1970.
    Date(i32),
    /// Microseconds since midnight.
    Time(i64),
    /// The same in UTC, and how many seconds east of Greenwich the clock showed it.
    TimeTz {
        utc: i64,
        east: i32,
    },
    /// Microseconds since 1970.
    Timestamp(i64),
    Interval {
        months: i32,
        days: i32,
        microseconds: i64,
    },
    List(Elements<'a>),
}

pub(super) const MICROSECONDS: i64 = 1_000_000;
pub(super) const DAY: i64 = 86_400 * MICROSECONDS;

/// 2000-01-01, from which PostgreSQL counts.
const EPOCH_DAYS: i32 = 10_957;
const EPOCH: i64 = EPOCH_DAYS as i64 * DAY;

/// Before the text of a `jsonb`. Source: PostgreSQL, `jsonb_send`.
const JSONB_VERSION: u8 = 1;

/// Takes a value apart; `None` when a column of that kind does not hold it exactly.
pub(super) fn take<'a>(kind: &'a Kind, bytes: &'a [u8]) -> Option<Cell<'a>> {
    Some(match kind {
        Kind::Bool => match bytes {
            [0] => Cell::Bool(false),
            [1] => Cell::Bool(true),
            _ => return None,
        },
        Kind::Int16 => Cell::Int16(i16::from_be_bytes(bytes.try_into().ok()?)),
        Kind::Int32 => Cell::Int32(i32::from_be_bytes(bytes.try_into().ok()?)),
        Kind::Int64 => Cell::Int64(long(bytes)?),
        Kind::Float32 => Cell::Float32(u32::from_be_bytes(bytes.try_into().ok()?)),
        Kind::Float64 => Cell::Float64(u64::from_be_bytes(bytes.try_into().ok()?)),
        Kind::Decimal { precision, scale } => {
            Cell::Decimal(decimal::take(bytes, (*precision).max(*scale), *scale)?)
        }
        Kind::Text | Kind::Enum { .. } | Kind::Json => Cell::Text(str::from_utf8(bytes).ok()?),
        Kind::Jsonb => match bytes {
            [JSONB_VERSION, text @ ..] => Cell::Text(str::from_utf8(text).ok()?),
            _ => return None,
        },
        Kind::Bytes => Cell::Bytes(bytes),
        Kind::Uuid => Cell::Uuid(bytes.try_into().ok()?),
        Kind::Date => {
            let days = i32::from_be_bytes(bytes.try_into().ok()?);
            // The two ends are infinite here, and what readers take for infinite there.
            let days = days.checked_add(EPOCH_DAYS).filter(|_| days != i32::MIN)?;
            Cell::Date(Some(days).filter(|days| *days != i32::MAX)?)
        }
        Kind::Time => Cell::Time(long(bytes).filter(|time| is_time(*time))?),
        Kind::TimeTz => {
            let (time, west) = bytes.split_first_chunk()?;
            let time = Some(i64::from_be_bytes(*time)).filter(|time| is_time(*time))?;
            let east = i32::from_be_bytes(west.try_into().ok()?).checked_neg()?;
            let utc = (time - i64::from(east) * MICROSECONDS).rem_euclid(DAY);
            Cell::TimeTz { utc, east }
        }
        Kind::Timestamp | Kind::TimestampTz => {
            let time = long(bytes)?;
            let time = time.checked_add(EPOCH).filter(|_| time != i64::MIN)?;
            Cell::Timestamp(Some(time).filter(|time| *time != i64::MAX)?)
        }
        Kind::Interval => {
            let bytes: &[u8; 16] = bytes.try_into().ok()?;
            let (microseconds, rest) = bytes.split_first_chunk()?;
            let (days, months) = rest.split_first_chunk()?;
            Cell::Interval {
                months: i32::from_be_bytes(months.try_into().ok()?),
                days: i32::from_be_bytes(*days),
                microseconds: i64::from_be_bytes(*microseconds),
            }
        }
        Kind::List { element, element_type } => {
            Cell::List(Elements::take(element, *element_type, bytes)?)
        }
        Kind::Dynamic { declared } => return take_dynamic(*declared, bytes),
    })
}

fn take_dynamic(declared: Class, bytes: &[u8]) -> Option<Cell<'_>> {
    let (class, bytes) = bytes.split_first()?;
    let class = Class::of(*class)?;
    let is_any = declared == Class::Any;
    if class != declared && !is_any {
        return None;
    }
    match class {
        Class::Integer => Some(Cell::Int64(long(bytes)?)),
        Class::Real => Some(Cell::Float64(u64::from_be_bytes(bytes.try_into().ok()?))),
        Class::Text => match str::from_utf8(bytes) {
            Ok(text) => Some(Cell::Text(text)),
            Err(_) => is_any.then_some(Cell::RawText(bytes)),
        },
        Class::Blob => Some(Cell::Bytes(bytes)),
        Class::Any => None,
    }
}

fn long(bytes: &[u8]) -> Option<i64> {
    Some(i64::from_be_bytes(bytes.try_into().ok()?))
}

/// PostgreSQL knows 24:00, files do not.
const fn is_time(time: i64) -> bool {
    0 <= time && time < DAY
}

/// Writes a value of a column of that kind; `None` when the column holds no such values, as those
/// of a file can be.
pub(super) fn put(kind: &Kind, cell: &Cell<'_>, out: &mut Vec<u8>) -> Option<()> {
    match (kind, cell) {
        (Kind::Dynamic { .. }, cell) => return put_dynamic(cell, out),
        (Kind::Bool, Cell::Bool(value)) => out.push(u8::from(*value)),
        (Kind::Int16, Cell::Int16(value)) => out.extend_from_slice(&value.to_be_bytes()),
        (Kind::Int32, Cell::Int32(value)) => out.extend_from_slice(&value.to_be_bytes()),
        (Kind::Int64, Cell::Int64(value)) => out.extend_from_slice(&value.to_be_bytes()),
        (Kind::Float32, Cell::Float32(bits)) => out.extend_from_slice(&bits.to_be_bytes()),
        (Kind::Float64, Cell::Float64(bits)) => out.extend_from_slice(&bits.to_be_bytes()),
        (Kind::Decimal { scale, .. }, Cell::Decimal(number)) => decimal::put(*number, *scale, out),
        (Kind::Text | Kind::Enum { .. } | Kind::Json, Cell::Text(text)) => {
            out.extend_from_slice(text.as_bytes());
        }
        (Kind::Jsonb, Cell::Text(text)) => {
            out.push(JSONB_VERSION);
            out.extend_from_slice(text.as_bytes());
        }
        (Kind::Bytes, Cell::Bytes(bytes)) => out.extend_from_slice(bytes),
        (Kind::Uuid, Cell::Uuid(bytes)) => out.extend_from_slice(*bytes),
        (Kind::Date, Cell::Date(days)) => {
            out.extend_from_slice(&days.checked_sub(EPOCH_DAYS)?.to_be_bytes());
        }
        (Kind::Time, Cell::Time(time)) => out.extend_from_slice(&time.to_be_bytes()),
        (Kind::TimeTz, Cell::TimeTz { utc, east }) => {
            let utc = Some(*utc).filter(|utc| is_time(*utc))?;
            let time = (utc + i64::from(*east) * MICROSECONDS).rem_euclid(DAY);
            out.extend_from_slice(&time.to_be_bytes());
            out.extend_from_slice(&east.checked_neg()?.to_be_bytes());
        }
        (Kind::Timestamp | Kind::TimestampTz, Cell::Timestamp(time)) => {
            out.extend_from_slice(&time.checked_sub(EPOCH)?.to_be_bytes());
        }
        (Kind::Interval, Cell::Interval { months, days, microseconds }) => {
            out.extend_from_slice(&microseconds.to_be_bytes());
            out.extend_from_slice(&days.to_be_bytes());
            out.extend_from_slice(&months.to_be_bytes());
        }
        (Kind::List { element, element_type }, Cell::List(elements)) => {
            let mut list = ListWriter::begin(*element_type, out);
            for value in elements.iter() {
                match value {
                    None => list.null(),
                    Some(value) => list.value(|out| put(element, &value, out))?,
                }
            }
            list.end()?;
        }
        _ => return None,
    }
    Some(())
}

fn put_dynamic(cell: &Cell<'_>, out: &mut Vec<u8>) -> Option<()> {
    let number: [u8; 8];
    let (class, bytes) = match cell {
        Cell::Int64(value) => {
            number = value.to_be_bytes();
            (Class::Integer, &number[..])
        }
        Cell::Float64(bits) => {
            number = bits.to_be_bytes();
            (Class::Real, &number[..])
        }
        Cell::Text(text) => (Class::Text, text.as_bytes()),
        Cell::RawText(bytes) => (Class::Text, *bytes),
        Cell::Bytes(bytes) => (Class::Blob, *bytes),
        _ => return None,
    };
    out.push(class as u8);
    out.extend_from_slice(bytes);
    Some(())
}
