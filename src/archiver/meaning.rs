//! What a text means as a value of a column: `3`, `3.0` and `3.00` are one number where numbers
//! are kept, and three texts where texts are.

use std::cmp::Ordering;

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use stillpoint_contract::{Class, Column, Kind};

/// What a value of a column of a file is read as: what the value says itself, where it does, and
/// where the column was kept as exact text, what it was before.
pub(super) fn kind_of(column: &Column, planned: &[Column], value: &[u8]) -> Kind {
    if let Kind::Dynamic { declared } = column.kind {
        let class = value.first().copied().and_then(Class::of);
        return Kind::Dynamic { declared: class.unwrap_or(declared) };
    }
    let before = planned.iter().find(|one| column.is_cast && one.id == column.id);
    before.map_or(&column.kind, |before| &before.kind).clone()
}

/// The form that all texts share which mean the same value.
pub(super) fn meant(kind: &Kind, text: &str) -> String {
    match read(kind, text) {
        Meaning::Number(number) => number.text(),
        Meaning::Float(float) => format!("{float:?}"),
        Meaning::Time(at) => at.to_rfc3339(),
        Meaning::Local(at) => at.to_string(),
        Meaning::Flag(flag) => flag.to_string(),
        Meaning::Text => text.to_owned(),
    }
}

/// How a value of a column compares with a text.
pub(super) fn compared(kind: &Kind, found: &str, wanted: &str) -> Ordering {
    match (read(kind, found), read(kind, wanted)) {
        (Meaning::Number(found), Meaning::Number(wanted)) => found.compare(&wanted),
        // As engines do: NaN is one value, and larger than all others.
        (Meaning::Float(found), Meaning::Float(wanted)) => {
            found.partial_cmp(&wanted).unwrap_or_else(|| found.is_nan().cmp(&wanted.is_nan()))
        }
        (Meaning::Time(found), Meaning::Time(wanted)) => found.cmp(&wanted),
        (Meaning::Local(found), Meaning::Local(wanted)) => found.cmp(&wanted),
        (Meaning::Flag(found), Meaning::Flag(wanted)) => found.cmp(&wanted),
        (Meaning::Number(found), Meaning::Float(wanted)) => found.float().total_cmp(&wanted),
        (Meaning::Float(found), Meaning::Number(wanted)) => found.total_cmp(&wanted.float()),
        _ => found.cmp(wanted),
    }
}

enum Meaning {
    Number(Number),
    Float(f64),
    Time(DateTime<Utc>),
    Local(NaiveDateTime),
    Flag(bool),
    Text,
}

fn read(kind: &Kind, text: &str) -> Meaning {
    let number = || Number::read(text).map(Meaning::Number);
    let float = || text.trim().parse().ok().map(Meaning::Float);
    let meaning = match kind {
        Kind::Bool => match text.trim().to_ascii_lowercase().as_str() {
            "t" | "true" | "1" | "yes" | "on" => Some(Meaning::Flag(true)),
            "f" | "false" | "0" | "no" | "off" => Some(Meaning::Flag(false)),
            _ => None,
        },
        Kind::Int16 | Kind::Int32 | Kind::Int64 | Kind::Decimal { .. } => number(),
        // What one column holds may be whole numbers and others, and texts of digits.
        Kind::Dynamic { declared: Class::Integer | Class::Real | Class::Any } => {
            let digits = text.trim_start_matches(['-', '+']);
            let has_zeros = digits.len() > 1
                && digits.starts_with('0')
                && digits[1..].starts_with(|c: char| c.is_ascii_digit());
            if has_zeros { None } else { number().or_else(float) }
        }
        Kind::Float32 | Kind::Float64 => float(),
        Kind::TimestampTz => instant(text).map(Meaning::Time),
        Kind::Timestamp | Kind::Date => local(text).map(Meaning::Local),
        _ => None,
    };
    meaning.unwrap_or(Meaning::Text)
}

/// A time with its distance from UTC; in UTC where that is not said.
fn instant(text: &str) -> Option<DateTime<Utc>> {
    let text = text.trim();
    // `+00` is short for `+00:00`.
    let long = format!("{text}:00");
    let forms = ["%Y-%m-%d %H:%M:%S%.f%:z", "%Y-%m-%dT%H:%M:%S%.f%:z"];
    let zoned = DateTime::parse_from_rfc3339(text).ok().or_else(|| {
        let texts = [text, long.as_str()].into_iter();
        let mut read = texts.flat_map(|text| forms.map(|form| (text, form)));
        read.find_map(|(text, form)| DateTime::parse_from_str(text, form).ok())
    });
    zoned.map(|at| at.to_utc()).or_else(|| local(text).map(|at| at.and_utc()))
}

fn local(text: &str) -> Option<NaiveDateTime> {
    const FORMS: [&str; 4] =
        ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M"];
    let text = text.trim();
    let read = FORMS.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
    read.or_else(|| text.parse::<NaiveDate>().ok()?.and_hms_opt(0, 0, 0))
}

/// A decimal number of any length, exactly.
struct Number {
    is_negative: bool,
    /// Digits before the point, without zeros before them.
    whole: String,
    /// Digits behind it, without zeros behind them.
    rest: String,
}

impl Number {
    fn read(text: &str) -> Option<Self> {
        let text = text.trim();
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        let (whole, rest) = digits.split_once('.').unwrap_or((digits, ""));
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if (whole.is_empty() && rest.is_empty()) || !is_plain(whole) || !is_plain(rest) {
            return None;
        }
        let whole = whole.trim_start_matches('0').to_owned();
        let rest = rest.trim_end_matches('0').to_owned();
        let is_zero = whole.is_empty() && rest.is_empty();
        Some(Self { is_negative: text.starts_with('-') && !is_zero, whole, rest })
    }

    fn text(&self) -> String {
        let sign = if self.is_negative { "-" } else { "" };
        let whole = if self.whole.is_empty() { "0" } else { &self.whole };
        let point = if self.rest.is_empty() { "" } else { "." };
        format!("{sign}{whole}{point}{}", self.rest)
    }

    fn float(&self) -> f64 {
        self.text().parse().unwrap_or(f64::NAN)
    }

    fn compare(&self, other: &Self) -> Ordering {
        let size = |one: &Self| (one.whole.len(), one.whole.clone(), one.rest.clone());
        match (self.is_negative, other.is_negative) {
            (false, false) => size(self).cmp(&size(other)),
            (true, true) => size(other).cmp(&size(self)),
            (mine, others) => others.cmp(&mine),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compared_exactly_and_texts_as_they_are() {
        let int = Kind::Int64;
        let order = |kind: &Kind, a: &str, b: &str| compared(kind, a, b);
        assert!(order(&int, "9", "10").is_lt() && order(&int, "-9", "-10").is_gt());
        let decimal = Kind::Decimal { precision: 38, scale: 2 };
        assert!(order(&decimal, "3.00", "3").is_eq() && order(&decimal, "-0.00", "0").is_eq());
        let far = "170141183460469231731687303715884105727";
        assert!(order(&decimal, far, "170141183460469231731687303715884105726.9").is_gt());
        assert!(order(&decimal, "-1.5", "0.1").is_lt() && order(&decimal, "0.05", "0.5").is_lt());
        assert!(
            order(&Kind::Text, "007", "7").is_ne() && order(&Kind::Text, "1e3", "1000").is_ne()
        );
        assert!(order(&Kind::Float64, "NaN", "NaN").is_eq());
        assert!(
            order(&Kind::Float64, "NaN", "1").is_gt() && order(&Kind::Float64, "5.0", "5").is_eq()
        );
        assert!(order(&Kind::Bool, "true", "t").is_eq());
        let real = Kind::Dynamic { declared: Class::Real };
        assert!(order(&real, "3", "3.0").is_eq() && order(&real, "1e300", "5").is_gt());
        let any = Kind::Dynamic { declared: Class::Any };
        assert_eq!((&*meant(&any, "3.0"), &*meant(&any, "007")), ("3", "007"));
        let text = Kind::Dynamic { declared: Class::Text };
        assert!(order(&text, "007", "7").is_ne());
    }

    #[test]
    fn values_are_read_as_what_they_are_or_were() {
        let column = |kind: Kind, is_cast| Column {
            name: "a".to_owned(),
            id: 1,
            engine_type: String::new(),
            kind,
            is_cast,
            is_nullable: true,
            is_generated: false,
        };
        let any = column(Kind::Dynamic { declared: Class::Any }, false);
        assert_eq!(kind_of(&any, &[], b"t007"), Kind::Dynamic { declared: Class::Text });
        let decimal = Kind::Decimal { precision: 10, scale: 2 };
        let planned = [column(decimal.clone(), false)];
        assert_eq!(kind_of(&column(Kind::Text, true), &planned, b"3.00"), decimal);
        assert_eq!(kind_of(&column(Kind::Text, false), &planned, b"3.00"), Kind::Text);
    }

    #[test]
    fn times_are_compared_whatever_stands_between_their_parts() {
        let order = |a: &str, b: &str| compared(&Kind::TimestampTz, a, b);
        assert!(order("2024-01-01T11:59:00Z", "2024-01-01 12:00:00").is_lt());
        assert!(order("2024-01-01T12:00:00Z", "2024-01-01 12:00:00+00").is_eq());
        assert!(order("2024-01-01T12:00:00Z", "2024-01-01 14:00:00+02:00").is_eq());
        assert!(order("2024-01-01T12:00:00Z", "2024-01-01").is_gt());
        let local = |a: &str, b: &str| compared(&Kind::Timestamp, a, b);
        assert!(local("2024-01-01T12:00:00.5", "2024-01-01 12:00:00.500").is_eq());
        assert_eq!(meant(&Kind::Date, "2024-01-01"), meant(&Kind::Date, " 2024-01-01"));
        assert_eq!(meant(&Kind::Int32, "+042"), "42");
    }
}
