//! One value as text, without quotes: exact, and the shortest that is.

use std::io::Write;

use data_encoding::HEXLOWER;
use stillpoint_contract::{Class, Kind};

use super::{
    super::cell::{self, Cell},
    calendar,
};

const WRITTEN: &str = "memory takes whatever is written";

/// Before bytes in hexadecimal digits, as PostgreSQL has it.
const HEX: &[u8] = br"\x";

/// Writes a value that is no list.
pub(super) fn write(kind: &Kind, cell: &Cell<'_>, out: &mut Vec<u8>) {
    match cell {
        Cell::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        Cell::Int16(value) => write!(out, "{value}").expect(WRITTEN),
        Cell::Int32(value) => write!(out, "{value}").expect(WRITTEN),
        Cell::Int64(value) => write!(out, "{value}").expect(WRITTEN),
        Cell::Float32(bits) => {
            let number = f32::from_bits(*bits);
            if number.is_finite() {
                write!(out, "{number:?}").expect(WRITTEN);
            } else {
                write_no_number(number.into(), f32::NAN.to_bits() == *bits, (*bits).into(), out);
            }
        }
        Cell::Float64(bits) => {
            let number = f64::from_bits(*bits);
            if number.is_finite() {
                write!(out, "{number:?}").expect(WRITTEN);
            } else {
                write_no_number(number, f64::NAN.to_bits() == *bits, *bits, out);
            }
        }
        Cell::Decimal(number) => write_decimal(kind, *number, out),
        Cell::Text(text) => out.extend_from_slice(text.as_bytes()),
        Cell::Bytes(bytes) | Cell::RawText(bytes) => {
            out.extend_from_slice(HEX);
            let begin = out.len();
            out.resize(begin + HEXLOWER.encode_len(bytes.len()), 0);
            HEXLOWER.encode_mut(bytes, &mut out[begin..]);
        }
        Cell::Uuid(bytes) => {
            let mut digits = [0; 32];
            HEXLOWER.encode_mut(*bytes, &mut digits);
            for (at, digit) in digits.iter().enumerate() {
                if matches!(at, 8 | 12 | 16 | 20) {
                    out.push(b'-');
                }
                out.push(*digit);
            }
        }
        Cell::Date(days) => calendar::write_date((*days).into(), out),
        Cell::Time(time) => calendar::write_time(*time, out),
        Cell::TimeTz { utc, east } => {
            let local = utc + i64::from(*east) * cell::MICROSECONDS;
            calendar::write_time(local.rem_euclid(cell::DAY), out);
            calendar::write_offset(*east, out);
        }
        Cell::Timestamp(time) => {
            calendar::write_timestamp(*time, out);
            if *kind == Kind::TimestampTz {
                out.push(b'Z');
            }
        }
        Cell::Interval { months, days, microseconds } => {
            calendar::write_interval(*months, *days, *microseconds, out);
        }
        // Lists are written as JSON, element by element.
        Cell::List(_) => {}
    }
}

/// A number that is infinite or none; those that are none come with their bits, unless they are
/// the usual ones.
fn write_no_number(number: f64, is_usual: bool, bits: u64, out: &mut Vec<u8>) {
    if number == f64::INFINITY {
        out.extend_from_slice(b"Infinity");
    } else if number == f64::NEG_INFINITY {
        out.extend_from_slice(b"-Infinity");
    } else if is_usual {
        out.extend_from_slice(b"NaN");
    } else {
        write!(out, "NaN({bits:x})").expect(WRITTEN);
    }
}

fn write_decimal(kind: &Kind, number: i128, out: &mut Vec<u8>) {
    let Kind::Decimal { scale, .. } = kind else { return };
    let scale = usize::from(*scale);
    let sign = if number < 0 { "-" } else { "" };
    let width = scale + 1;
    write!(out, "{sign}{:0>width$}", number.unsigned_abs()).expect(WRITTEN);
    if scale > 0 {
        out.insert(out.len() - scale, b'.');
    }
}

/// Writes the bytes of a value from its text; `None` when it is not one of that kind.
pub(super) fn read(kind: &Kind, text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    match kind {
        Kind::Bytes | Kind::Dynamic { declared: Class::Blob } => {
            if matches!(kind, Kind::Dynamic { .. }) {
                out.push(Class::Blob as u8);
            }
            return read_hex(text, out);
        }
        Kind::Uuid => {
            let mut digits = [0; 32];
            for (at, byte) in text.iter().filter(|byte| **byte != b'-').enumerate() {
                *digits.get_mut(at)? = *byte;
            }
            let mut bytes = [0; 16];
            HEXLOWER.decode_mut(&digits, &mut bytes).ok()?;
            return cell::put(kind, &Cell::Uuid(&bytes), out);
        }
        _ => {}
    }
    let text = str::from_utf8(text).ok()?;
    let cell = match kind {
        Kind::Bool => Cell::Bool(text.parse().ok()?),
        Kind::Int16 => Cell::Int16(text.parse().ok()?),
        Kind::Int32 => Cell::Int32(text.parse().ok()?),
        Kind::Int64 | Kind::Dynamic { declared: Class::Integer } => Cell::Int64(text.parse().ok()?),
        Kind::Float32 => Cell::Float32(match read_nan(text) {
            Some(bits) => bits.try_into().ok()?,
            None => text.parse::<f32>().ok()?.to_bits(),
        }),
        Kind::Float64 | Kind::Dynamic { declared: Class::Real } => {
            Cell::Float64(match read_nan(text) {
                Some(bits) => bits,
                None => text.parse::<f64>().ok()?.to_bits(),
            })
        }
        Kind::Decimal { scale, .. } => Cell::Decimal(read_decimal(text, *scale)?),
        Kind::Text
        | Kind::Enum { .. }
        | Kind::Json
        | Kind::Jsonb
        | Kind::Dynamic { declared: Class::Text } => Cell::Text(text),
        Kind::Date => Cell::Date(calendar::read_date(text)?.try_into().ok()?),
        Kind::Time => Cell::Time(calendar::read_time(text)?),
        Kind::TimeTz => {
            let (local, east) = calendar::read_time_and_offset(text)?;
            let utc = (local - i64::from(east) * cell::MICROSECONDS).rem_euclid(cell::DAY);
            Cell::TimeTz { utc, east }
        }
        Kind::Timestamp => Cell::Timestamp(calendar::read_timestamp(text)?),
        Kind::TimestampTz => Cell::Timestamp(calendar::read_timestamp(text.strip_suffix('Z')?)?),
        Kind::Interval => {
            let (months, days, microseconds) = calendar::read_interval(text)?;
            Cell::Interval { months, days, microseconds }
        }
        Kind::Bytes | Kind::Uuid | Kind::List { .. } | Kind::Dynamic { .. } => return None,
    };
    cell::put(kind, &cell, out)
}

/// Bytes from hexadecimal digits.
pub(super) fn read_hex(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let digits = text.strip_prefix(HEX)?;
    let begin = out.len();
    out.resize(begin + HEXLOWER.decode_len(digits.len()).ok()?, 0);
    HEXLOWER.decode_mut(digits, &mut out[begin..]).ok()?;
    Some(())
}

/// The bits of a number that is none, where they are said.
fn read_nan(text: &str) -> Option<u64> {
    let bits = text.strip_prefix("NaN(")?.strip_suffix(')')?;
    u64::from_str_radix(bits, 16).ok()
}

fn read_decimal(text: &str, scale: u8) -> Option<i128> {
    let scale = usize::from(scale);
    let (before, behind) = match text.split_once('.') {
        Some((before, behind)) if scale > 0 => (before, behind),
        None if scale == 0 => (text, ""),
        _ => return None,
    };
    if behind.len() != scale {
        return None;
    }
    let (is_negative, before) =
        before.strip_prefix('-').map_or((false, before), |rest| (true, rest));
    let mut number = 0_i128;
    for digit in before.bytes().chain(behind.bytes()) {
        let digit = i128::from(digit.is_ascii_digit().then_some(digit - b'0')?);
        number = number.checked_mul(10)?.checked_add(digit)?;
    }
    Some(if is_negative { -number } else { number })
}
