//! Values as SQLite keeps and sorts them, and as statements have them.
//!
//! Source: <https://www.sqlite.org/datatype3.html#comparison_expressions>.

use std::{cmp::Ordering, fmt::Write as _};

use rusqlite::types::ValueRef;
use stillpoint_contract::shown_value;

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Integer(i64),
    Real(f64),
    Text(Vec<u8>),
    Blob(Vec<u8>),
}

/// How a database keeps text, which decides on its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Utf8,
    Utf16Little,
    Utf16Big,
}

impl Encoding {
    pub(super) fn of(pragma: &str) -> Self {
        match pragma {
            "UTF-16le" => Self::Utf16Little,
            "UTF-16be" => Self::Utf16Big,
            _ => Self::Utf8,
        }
    }

    fn compare(self, one: &[u8], other: &[u8]) -> Ordering {
        let units = |text: &[u8]| -> Vec<u8> {
            let text = String::from_utf8_lossy(text);
            let bytes = text.encode_utf16().map(|unit| match self {
                Self::Utf16Big => unit.to_be_bytes(),
                _ => unit.to_le_bytes(),
            });
            bytes.flatten().collect()
        };
        if self == Self::Utf8 { one.cmp(other) } else { units(one).cmp(&units(other)) }
    }
}

impl From<ValueRef<'_>> for Value {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(number) => Self::Integer(number),
            ValueRef::Real(number) => Self::Real(number),
            ValueRef::Text(text) => Self::Text(text.to_owned()),
            ValueRef::Blob(bytes) => Self::Blob(bytes.to_owned()),
        }
    }
}

impl Value {
    /// About how much room it takes.
    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Text(bytes) | Self::Blob(bytes) => bytes.len() as u64 + 4,
            _ => 8,
        }
    }

    /// Which of two comes first.
    pub(super) fn compare(&self, other: &Self, encoding: Encoding) -> Ordering {
        match (self, other) {
            (Self::Integer(one), Self::Integer(other)) => one.cmp(other),
            (Self::Real(one), Self::Real(other)) => (one + 0.0).total_cmp(&(other + 0.0)),
            (Self::Integer(one), Self::Real(other)) => whole_and_real(*one, *other),
            (Self::Real(one), Self::Integer(other)) => whole_and_real(*other, *one).reverse(),
            (Self::Text(one), Self::Text(other)) => encoding.compare(one, other),
            (Self::Blob(one), Self::Blob(other)) => one.cmp(other),
            _ => self.class().cmp(&other.class()),
        }
    }

    /// What `typeof` says of it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Integer(_) => "integer",
            Self::Real(_) => "real",
            Self::Text(_) => "text",
            Self::Blob(_) => "blob",
        }
    }

    fn class(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Integer(_) | Self::Real(_) => 1,
            Self::Text(_) => 2,
            Self::Blob(_) => 3,
        }
    }

    /// The value as a statement has it, on one line.
    pub(super) fn literal(&self) -> String {
        match self {
            Self::Null => "NULL".to_owned(),
            Self::Integer(number) => number.to_string(),
            Self::Real(number) if *number == f64::INFINITY => "9e999".to_owned(),
            Self::Real(number) if *number == f64::NEG_INFINITY => "-9e999".to_owned(),
            Self::Real(number) => real_literal(*number),
            Self::Text(bytes) => match str::from_utf8(bytes) {
                Ok(text) => text_literal(text),
                Err(_) => format!("CAST(X'{}' AS TEXT)", digits(bytes)),
            },
            Self::Blob(bytes) => format!("X'{}'", digits(bytes)),
        }
    }

    /// The value for people.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Text(bytes) => shown_value(&String::from_utf8_lossy(bytes), true),
            _ => shown_value(&self.literal(), false),
        }
    }
}

/// Exactly, also where a real number cannot be the whole one.
fn whole_and_real(whole: i64, real: f64) -> Ordering {
    const END: f64 = 9_223_372_036_854_775_808.0;
    if real >= END {
        return Ordering::Less;
    }
    if real < -END {
        return Ordering::Greater;
    }
    let cut = real.trunc();
    whole.cmp(&(cut as i64)).then_with(|| 0.0_f64.total_cmp(&(real - cut + 0.0)))
}

/// Below this, SQLite's older parsers lose the last bit.
const TINY: f64 = 1e-270;

/// The very same number for every version of SQLite. Not all of them take the shortest digits that
/// stand for a number for the nearest one; with 17 they are never in doubt, unless it is tiny.
/// Dividing by a power of two changes no digit. Tried with 3.40 and 3.54, of
/// 600,000 numbers each.
fn real_literal(number: f64) -> String {
    const STEP: i64 = 1 << 62;
    const STEPS: usize = 8;
    if number != 0.0 && number.abs() < TINY {
        let scaled = (0..STEPS).fold(number, |scaled, _| scaled * STEP as f64);
        return format!("({}{})", real_literal(scaled), format!("/{STEP}").repeat(STEPS));
    }
    let text = format!("{number:.16e}");
    let exponent = text.split_once('e').and_then(|(_, exponent)| exponent.parse::<i32>().ok());
    match exponent.filter(|exponent| (-5..16).contains(exponent)) {
        None => text,
        Some(exponent) => {
            let text = format!("{number:.*}", (16 - exponent).unsigned_abs() as usize);
            let text = text.trim_end_matches('0');
            if text.ends_with('.') { format!("{text}0") } else { text.to_owned() }
        }
    }
}

/// Line breaks and the end of a C string would end a line, or the text.
fn text_literal(text: &str) -> String {
    let mut literal = String::from("'");
    for letter in text.chars() {
        match letter {
            '\'' => literal.push_str("''"),
            '\n' | '\r' | '\0' => {
                write!(literal, "'||char({})||'", u32::from(letter)).expect("a String grows");
            }
            _ => literal.push(letter),
        }
    }
    literal.push('\'');
    if literal.contains("'||char(") { format!("({literal})") } else { literal }
}

fn digits(bytes: &[u8]) -> String {
    let mut digits = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(digits, "{byte:02X}").expect("a String grows");
    }
    digits
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    fn samples() -> Vec<Value> {
        let text = |text: &str| Value::Text(text.as_bytes().to_vec());
        let mut samples = vec![
            Value::Null,
            Value::Blob(vec![]),
            Value::Blob(vec![0, 255, b'\'']),
            Value::Text(vec![0xff, 0x41]),
        ];
        samples.extend([i64::MIN, -1, 0, 1, 9_007_199_254_740_993, i64::MAX].map(Value::Integer));
        samples.extend(
            [
                f64::NEG_INFINITY,
                -1.5,
                -0.5,
                0.5,
                1.0,
                1e16,
                1e300,
                f64::INFINITY,
                9_007_199_254_740_992.0,
            ]
            .map(Value::Real),
        );
        samples.extend(
            ["", "a'b", "a\nb", "\r", "é", "Ω\u{ff5e}", "\u{1f600}", "a\0b", "--"].map(text),
        );
        samples
    }

    #[test]
    fn a_literal_is_the_value_and_stays_on_its_line() {
        let connection = Connection::open_in_memory().unwrap();
        for value in samples() {
            let literal = value.literal();
            assert!(!literal.contains(['\n', '\r', '\0']), "{literal:?}");
            let query = format!("SELECT {literal}");
            let read = connection.query_row(&query, [], |row| Ok(Value::from(row.get_ref(0)?)));
            assert_eq!(read.unwrap(), value, "{literal}");
        }
    }

    #[test]
    fn real_numbers_come_back_bit_by_bit() {
        let connection = Connection::open_in_memory().unwrap();
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut numbers = vec![0.0, -0.0, f64::MIN_POSITIVE, f64::MAX, f64::MIN, 5e-324, TINY];
        for round in 0..60_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            numbers.push(match round % 3 {
                0 => f64::from_bits(random),
                // Of all that can be said in few digits, and of the smallest ones.
                1 => (random >> 34) as f64 / 1e8,
                _ => f64::from_bits(random >> 10),
            });
        }
        numbers.retain(|number| number.is_finite());
        for some in numbers.chunks(200) {
            let literals: Vec<_> = some.iter().map(|n| Value::Real(*n).literal()).collect();
            let query = format!("SELECT {}", literals.join(", "));
            let read = |row: &rusqlite::Row<'_>| {
                (0..some.len()).map(|place| row.get::<_, f64>(place)).collect()
            };
            let read: Vec<f64> = connection.query_row(&query, [], read).unwrap();
            for ((number, literal), read) in some.iter().zip(&literals).zip(read) {
                assert_eq!(number.to_bits(), read.to_bits(), "{number:?} {literal} {read:?}");
            }
        }
        assert_eq!(Value::Real(12.5).literal(), "12.5");
        assert_eq!(Value::Real(-3.0).literal(), "-3.0");
    }

    #[test]
    fn values_are_in_the_order_of_the_engine() {
        for encoding in ["UTF-8", "UTF-16le", "UTF-16be"] {
            let connection = Connection::open_in_memory().unwrap();
            connection
                .execute_batch(&format!("PRAGMA encoding = '{encoding}'; CREATE TABLE t (n, v)"))
                .unwrap();
            let samples: Vec<_> = samples()
                .into_iter()
                .filter(|v| !matches!(v, Value::Text(t) if str::from_utf8(t).is_err()))
                .collect();
            for (n, value) in samples.iter().enumerate() {
                connection
                    .execute_batch(&format!("INSERT INTO t VALUES ({n}, {})", value.literal()))
                    .unwrap();
            }
            let mut query =
                connection.prepare("SELECT v FROM t ORDER BY v COLLATE BINARY").unwrap();
            let sorted = query.query_map([], |row| Ok(Value::from(row.get_ref(0)?))).unwrap();
            let sorted: Vec<_> = sorted.map(Result::unwrap).collect();
            for pair in sorted.windows(2) {
                let order = pair[0].compare(&pair[1], Encoding::of(encoding));
                assert_ne!(order, Ordering::Greater, "{encoding} {pair:?}");
            }
        }
    }
}
