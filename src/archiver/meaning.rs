//! What a text means as a value of a column: `3`, `3.0` and `3.00` are one number where numbers
//! are kept, and three texts where texts are.

use std::{
    cmp::Ordering,
    net::{IpAddr, Ipv6Addr},
};

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use stillpoint_contract::{Class, Column, Error, ErrorKind, Kind, Result, code};

const SECOND: i128 = 1_000_000;
const DAY: i128 = 86_400 * SECOND;

/// The largest exponent with which a decimal number is read.
const EXPONENT_MAX: u32 = 1_000;

/// How values of a column are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sense {
    Number,
    /// Numbers of both kinds, and texts.
    Mixed,
    Float,
    Instant,
    Local,
    Time,
    Flag,
    Uuid,
    Interval,
    Address,
    /// Spaces at its end say nothing.
    Padded,
    /// Upper and lower case are one.
    Folded,
    Text,
    /// Nothing is known but whether two texts are the same.
    Exact,
}

impl Sense {
    /// Those for which several texts may mean one value.
    pub(super) const READING: [Self; 12] = [
        Self::Number,
        Self::Mixed,
        Self::Float,
        Self::Instant,
        Self::Local,
        Self::Time,
        Self::Flag,
        Self::Uuid,
        Self::Interval,
        Self::Address,
        Self::Padded,
        Self::Folded,
    ];

    /// What hashes of values call it, for ever.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::Mixed => "mixed",
            Self::Float => "float",
            Self::Instant => "instant",
            Self::Local => "local",
            Self::Time => "time",
            Self::Flag => "flag",
            Self::Uuid => "uuid",
            Self::Interval => "interval",
            Self::Address => "address",
            Self::Padded => "padded",
            Self::Folded => "folded",
            Self::Text | Self::Exact => "text",
        }
    }

    /// How a value of a column of a file is read: as what the value says itself, where it does, and
    /// where the column was kept as exact text, as what it was before.
    pub(super) fn of(column: &Column, planned: &[Column], value: Option<&[u8]>) -> Self {
        if let Kind::Dynamic { declared } = column.kind {
            let class = value.and_then(|value| Class::of(*value.first()?));
            return Self::of_class(class.unwrap_or(declared));
        }
        let before = planned.iter().find(|one| column.is_cast && one.id == column.id);
        Self::of_column(before.unwrap_or(column))
    }

    fn of_class(class: Class) -> Self {
        match class {
            Class::Integer | Class::Real | Class::Any => Self::Mixed,
            _ => Self::Text,
        }
    }

    /// Source: PostgreSQL 18, Data Types; citext.
    fn of_column(column: &Column) -> Self {
        match column.kind {
            Kind::Bool => Self::Flag,
            Kind::Int16 | Kind::Int32 | Kind::Int64 | Kind::Decimal { .. } => Self::Number,
            Kind::Float32 | Kind::Float64 => Self::Float,
            Kind::TimestampTz => Self::Instant,
            Kind::Timestamp | Kind::Date => Self::Local,
            Kind::Time => Self::Time,
            Kind::Interval => Self::Interval,
            Kind::Uuid => Self::Uuid,
            Kind::Dynamic { declared } => Self::of_class(declared),
            Kind::Text => {
                if column.engine_type.ends_with("[]") {
                    return Self::Exact;
                }
                let name = column.engine_type.split('(').next().unwrap_or_default().trim();
                match name.rsplit('.').next().unwrap_or_default() {
                    "numeric" => Self::Number,
                    "character" | "bpchar" => Self::Padded,
                    "citext" => Self::Folded,
                    "inet" | "cidr" => Self::Address,
                    _ if column.is_cast => Self::Exact,
                    _ => Self::Text,
                }
            }
            _ => Self::Exact,
        }
    }

    /// Whether a text is a value of a column, and can be compared so.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) when it is none, or values have no order that is known here.
    pub(super) fn admit(self, column: &Column, text: &str, needs_order: bool) -> Result<()> {
        let refused = || {
            Error::new(ErrorKind::Invalid, code::USAGE, "understand a value of a column")
                .with("column", &column.name)
                .with("its type", &column.engine_type)
                .with("given", text)
        };
        if needs_order && self == Self::Exact {
            return Err(refused()
                .why("how values of this type are ordered is known to the database alone")
                .next("compare with = or !=")
                .next("or restore into a table of its own, and ask there: --into staging"));
        }
        let is_any =
            matches!(self, Self::Mixed | Self::Padded | Self::Folded | Self::Text | Self::Exact);
        if is_any || self.parse(text).is_some() {
            return Ok(());
        }
        Err(refused()
            .why("it is no value of that type, and would be found in no row, whatever they hold")
            .next("write it as the database does"))
    }

    /// The form that all texts share which mean the same value.
    pub(super) fn meant(self, text: &str) -> String {
        self.read(text).text()
    }

    /// Whether a text is understood so.
    pub(super) fn reads(self, text: &str) -> bool {
        self.parse(text).is_some()
    }

    /// The form that all texts share which mean the same value, and what reads them so: what is
    /// not understood is the text that it is.
    pub(super) fn form(self, text: &str) -> (&'static str, String) {
        self.parse(text).map_or_else(
            || (Self::Text.name(), text.to_owned()),
            |meaning| (self.name(), meaning.text()),
        )
    }

    /// How a value of a column compares with a text.
    pub(super) fn compared(self, found: &str, wanted: &str) -> Ordering {
        match (self.read(found), self.read(wanted)) {
            (Meaning::Number(found), Meaning::Number(wanted)) => found.compare(&wanted),
            // As engines do: NaN is one value, and larger than all others.
            (Meaning::Float(found), Meaning::Float(wanted)) => {
                found.partial_cmp(&wanted).unwrap_or_else(|| found.is_nan().cmp(&wanted.is_nan()))
            }
            (Meaning::Time(found), Meaning::Time(wanted)) => found.cmp(&wanted),
            (Meaning::Local(found), Meaning::Local(wanted)) => found.cmp(&wanted),
            (Meaning::Flag(found), Meaning::Flag(wanted)) => found.cmp(&wanted),
            (Meaning::Length(found), Meaning::Length(wanted)) => found.cmp(&wanted),
            (Meaning::Address(found), Meaning::Address(wanted)) => found.compare(&wanted),
            (Meaning::Text(found), Meaning::Text(wanted)) => found.cmp(&wanted),
            (Meaning::Number(found), Meaning::Float(wanted)) => found.float().total_cmp(&wanted),
            (Meaning::Float(found), Meaning::Number(wanted)) => found.total_cmp(&wanted.float()),
            _ => found.cmp(wanted),
        }
    }

    fn read(self, text: &str) -> Meaning {
        self.parse(text).unwrap_or_else(|| Meaning::Text(text.to_owned()))
    }

    fn parse(self, text: &str) -> Option<Meaning> {
        let number = || Number::read(text).map(Meaning::Number);
        let float = || text.trim().parse().ok().map(Meaning::Float);
        match self {
            Self::Flag => flag(text).map(Meaning::Flag),
            // Where engines have a word for what is no number, and not what is too large for one.
            Self::Number => number().or_else(|| {
                let has_digits = text.bytes().any(|byte| byte.is_ascii_digit());
                if has_digits { None } else { float() }
            }),
            // What one column holds may be whole numbers and others, and texts of digits.
            Self::Mixed => {
                let digits = text.trim_start_matches(['-', '+']);
                let has_zeros = digits.len() > 1
                    && digits.starts_with('0')
                    && digits[1..].starts_with(|c: char| c.is_ascii_digit());
                if has_zeros { None } else { number().or_else(float) }
            }
            Self::Float => float(),
            Self::Instant => instant(text).map(Meaning::Time),
            Self::Local => local(text).map(Meaning::Local),
            Self::Time => clock(text.trim()).map(Meaning::Length),
            Self::Interval => interval(text).map(Meaning::Length),
            Self::Uuid => uuid(text).map(Meaning::Text),
            Self::Address => Address::read(text).map(Meaning::Address),
            Self::Padded => Some(Meaning::Text(text.trim_end_matches(' ').to_owned())),
            Self::Folded => Some(Meaning::Text(text.to_lowercase())),
            Self::Text | Self::Exact => None,
        }
    }
}

enum Meaning {
    Number(Number),
    Float(f64),
    Time(DateTime<Utc>),
    Local(NaiveDateTime),
    Flag(bool),
    /// In microseconds.
    Length(i128),
    Address(Address),
    Text(String),
}

impl Meaning {
    fn text(self) -> String {
        match self {
            Self::Number(number) => number.text(),
            Self::Float(float) => format!("{float:?}"),
            Self::Time(at) => at.to_rfc3339(),
            Self::Local(at) => at.to_string(),
            Self::Flag(flag) => flag.to_string(),
            Self::Length(length) => length.to_string(),
            Self::Address(address) => address.text(),
            Self::Text(text) => text,
        }
    }
}

fn flag(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "t" | "true" | "1" | "yes" | "on" => Some(true),
        "f" | "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// Hexadecimal digits, whatever stands between them.
fn uuid(text: &str) -> Option<String> {
    let text = text.trim();
    let bare = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text);
    let digits: String = bare.chars().filter(|c| *c != '-').collect();
    let is_whole = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_whole.then(|| {
        let digits = digits.to_ascii_lowercase();
        [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &digits[part]).join("-")
    })
}

/// `hours:minutes[:seconds]` in microseconds.
fn clock(text: &str) -> Option<i128> {
    let (is_negative, text) = match text.strip_prefix('-') {
        Some(text) => (true, text),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut parts = text.splitn(3, ':');
    let (hours, minutes) = (parts.next()?, parts.next()?);
    let seconds = scaled(parts.next().unwrap_or("0"), SECOND)?;
    let (hours, minutes) = (scaled(hours, 3_600 * SECOND)?, scaled(minutes, 60 * SECOND)?);
    let length = hours + minutes + seconds;
    Some(if is_negative { -length } else { length })
}

/// A decimal number of at most 18 digits, of which 6 are behind the point, times a unit.
fn scaled(text: &str, unit: i128) -> Option<i128> {
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, rest) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |text: &str| text.len() <= 12 && text.bytes().all(|b| b.is_ascii_digit());
    if digits.is_empty() || digits == "." || !is_number(whole) || !is_number(rest) || rest.len() > 6
    {
        return None;
    }
    let millionths: i128 = format!("0{whole}{rest:0<6}").parse().ok()?;
    let scaled = millionths * unit / SECOND;
    Some(if is_negative { -scaled } else { scaled })
}

/// The length of an interval as the engine compares it: a month has 30 days, and a day 24 hours.
/// Source: PostgreSQL 18, `src/backend/utils/adt/timestamp.c`, `interval_cmp_value`.
fn interval(text: &str) -> Option<i128> {
    let text = text.trim();
    if let Some(text) = text.strip_prefix('P') {
        let (date, time) = text.split_once('T').unwrap_or((text, ""));
        let date = lengths(date, &[('Y', 360 * DAY), ('M', 30 * DAY), ('W', 7 * DAY), ('D', DAY)])?;
        let time = lengths(time, &[('H', 3_600 * SECOND), ('M', 60 * SECOND), ('S', SECOND)])?;
        return Some(date + time);
    }
    let (mut length, mut words) = (0, text.split_whitespace().peekable());
    words.peek()?;
    while let Some(word) = words.next() {
        if word.contains(':') {
            length += clock(word)?;
            continue;
        }
        let digits = word.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = if digits.len() < word.len() { &word[digits.len()..] } else { words.next()? };
        length += scaled(digits, unit_of(unit)?)?;
    }
    Some(length)
}

fn lengths(mut text: &str, units: &[(char, i128)]) -> Option<i128> {
    let mut length = 0;
    while !text.is_empty() {
        let at = text.find(|c: char| c.is_ascii_alphabetic())?;
        let (_, unit) = units.iter().find(|(sign, _)| text[at..].starts_with(*sign))?;
        length += scaled(&text[..at], *unit)?;
        text = &text[at + 1..];
    }
    Some(length)
}

fn unit_of(word: &str) -> Option<i128> {
    let word = word.to_ascii_lowercase();
    Some(match word.strip_suffix('s').filter(|short| !short.is_empty()).unwrap_or(&word) {
        "y" | "yr" | "year" => 360 * DAY,
        "mon" | "month" => 30 * DAY,
        "w" | "week" => 7 * DAY,
        "d" | "day" => DAY,
        "h" | "hr" | "hour" => 3_600 * SECOND,
        "m" | "min" | "minute" => 60 * SECOND,
        "s" | "sec" | "second" => SECOND,
        _ => return None,
    })
}

/// An address of a network, and how many bits of it are the network's.
struct Address {
    is_six: bool,
    bits: u128,
    length: u8,
}

impl Address {
    fn read(text: &str) -> Option<Self> {
        let (host, length) = match text.trim().split_once('/') {
            Some((host, length)) => (host, Some(length.parse::<u8>().ok()?)),
            None => (text.trim(), None),
        };
        let (is_six, bits, longest) = match host.parse().ok()? {
            // At the left end, so that the first bits are the network's in both families.
            IpAddr::V4(host) => (false, u128::from(host.to_bits()) << 96, 32),
            IpAddr::V6(host) => (true, host.to_bits(), 128),
        };
        let length = length.unwrap_or(longest);
        (length <= longest).then_some(Self { is_six, bits, length })
    }

    fn text(&self) -> String {
        format!("{} {}/{}", self.is_six, Ipv6Addr::from_bits(self.bits), self.length)
    }

    /// Source: PostgreSQL 18, `src/backend/utils/adt/network.c`, `network_cmp_internal`.
    fn compare(&self, other: &Self) -> Ordering {
        let common = u32::from(self.length.min(other.length));
        let network = |one: &Self| one.bits.checked_shr(128 - common).unwrap_or(0);
        let families = self.is_six.cmp(&other.is_six);
        let networks = families.then_with(|| network(self).cmp(&network(other)));
        let lengths = networks.then_with(|| self.length.cmp(&other.length));
        lengths.then_with(|| self.bits.cmp(&other.bits))
    }
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
    match text {
        "infinity" => return Some(NaiveDateTime::MAX),
        "-infinity" => return Some(NaiveDateTime::MIN),
        _ => {}
    }
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
        let (digits, exponent) = match text.split_once(['e', 'E']) {
            Some((digits, exponent)) => (digits, exponent.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let digits = digits.strip_prefix(['-', '+']).unwrap_or(digits);
        let (whole, rest) = digits.split_once('.').unwrap_or((digits, ""));
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if (whole.is_empty() && rest.is_empty()) || !is_plain(whole) || !is_plain(rest) {
            return None;
        }
        if exponent.unsigned_abs() > EXPONENT_MAX {
            return None;
        }
        let places = exponent.unsigned_abs() as usize;
        let (whole, rest) = if exponent < 0 {
            let (whole, moved) = whole.split_at(whole.len().saturating_sub(places));
            (whole.to_owned(), format!("{moved:0>places$}{rest}"))
        } else {
            let (moved, rest) = rest.split_at(places.min(rest.len()));
            (format!("{whole}{moved:0<places$}"), rest.to_owned())
        };
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
    use super::{
        Sense::{
            Address, Exact, Flag, Float, Folded, Instant, Interval, Local, Mixed, Number, Padded,
            Text, Time, Uuid,
        },
        *,
    };

    fn column(kind: Kind, engine_type: &str, is_cast: bool) -> Column {
        Column {
            name: "a".to_owned(),
            id: 1,
            engine_type: engine_type.to_owned(),
            kind,
            is_cast,
            is_nullable: true,
            is_generated: false,
        }
    }

    #[test]
    fn numbers_are_compared_exactly_and_texts_as_they_are() {
        let order = |sense: Sense, a: &str, b: &str| sense.compared(a, b);
        assert!(order(Number, "9", "10").is_lt() && order(Number, "-9", "-10").is_gt());
        assert!(order(Number, "3.00", "3").is_eq() && order(Number, "-0.00", "0").is_eq());
        let far = "170141183460469231731687303715884105727";
        assert!(order(Number, far, "170141183460469231731687303715884105726.9").is_gt());
        assert!(order(Number, "-1.5", "0.1").is_lt() && order(Number, "0.05", "0.5").is_lt());
        assert!(order(Number, "NaN", "1").is_gt() && order(Number, "-Infinity", "-5").is_lt());
        assert!(order(Number, "1000", "1e3").is_eq() && order(Number, "0.25", "-25E-2").is_gt());
        for (text, meant) in [
            ("1.5e3", "1500"),
            ("+1.25e1", "12.5"),
            ("-120e-1", "-12"),
            ("25e-4", "0.0025"),
            ("0e9", "0"),
            ("NaN", "NaN"),
        ] {
            assert_eq!(Number.meant(text), meant, "{text}");
        }
        assert!(!Number.reads("1e2000") && !Number.reads("1e") && !Number.reads("e3"));
        assert!(order(Text, "007", "7").is_ne() && order(Text, "1e3", "1000").is_ne());
        assert!(order(Float, "NaN", "NaN").is_eq());
        assert!(order(Float, "NaN", "1").is_gt() && order(Float, "5.0", "5").is_eq());
        assert!(order(Flag, "true", "t").is_eq());
        assert!(order(Mixed, "3", "3.0").is_eq() && order(Mixed, "1e300", "5").is_gt());
        assert_eq!((&*Mixed.meant("3.0"), &*Mixed.meant("007")), ("3", "007"));
    }

    #[test]
    fn values_are_read_as_what_they_are_or_were() {
        let any = column(Kind::Dynamic { declared: Class::Any }, "", false);
        assert_eq!(Sense::of(&any, &[], Some(b"t007")), Text);
        assert_eq!(Sense::of(&any, &[], None), Mixed);
        let decimal = column(Kind::Decimal { precision: 10, scale: 2 }, "numeric(10,2)", false);
        let planned = [decimal];
        let cast = column(Kind::Text, "numeric(10,2)", true);
        assert_eq!(Sense::of(&cast, &planned, Some(b"3.00")), Number);
        for (engine_type, is_cast, sense) in [
            ("numeric", true, Number),
            ("character(8)", false, Padded),
            ("public.citext", false, Folded),
            ("inet", true, Address),
            ("macaddr", true, Exact),
            ("numeric(10,2)[]", true, Exact),
            ("text", false, Text),
        ] {
            let column = column(Kind::Text, engine_type, is_cast);
            assert_eq!(Sense::of(&column, &[], None), sense, "{engine_type}");
        }
    }

    #[test]
    fn texts_that_mean_one_value_have_one_form() {
        let id = "550e8400-e29b-41d4-a716-446655440000";
        for other in ["550E8400-E29B-41D4-A716-446655440000", "{550e8400e29b41d4a716446655440000}"]
        {
            assert_eq!(Uuid.meant(other), id);
        }
        assert_eq!(Padded.meant("AB1     "), "AB1");
        assert_eq!(Folded.meant("Foo@Example.org"), Folded.meant("foo@example.ORG"));
        assert_eq!(Number.meant("9.000"), "9");
        assert_eq!(Interval.meant("P1M0DT0S"), Interval.meant("30 days"));
        assert!(Interval.compared("P0M0DT108000S", "40:00:00").is_lt());
        assert!(Interval.compared("P0M1DT21600S", "1 day 06:00").is_eq());
        assert!(Interval.compared("P0M0DT-0.5S", "-1h").is_gt());
        assert!(Time.compared("01:00:00", "01:00").is_eq());
        assert!(Time.compared("23:59:59.5", "24:00").is_lt());
        assert!(Address.compared("10.0.0.20", "10.0.0.100").is_lt());
        assert!(Address.compared("10.0.0.0/8", "10.0.0.0").is_lt());
        assert!(Address.compared("::1", "255.0.0.1").is_gt());
        assert!(Local.compared("infinity", "9999-12-31").is_gt());
    }

    #[test]
    fn what_is_no_value_and_what_has_no_order_is_refused() {
        let of = |kind: Kind, engine_type| column(kind, engine_type, false);
        let admit = |column: &Column, text, needs_order| {
            Sense::of(column, &[], None).admit(column, text, needs_order).is_ok()
        };
        let uuid = of(Kind::Uuid, "uuid");
        assert!(admit(&uuid, "550E8400-E29B-41D4-A716-446655440000", true));
        assert!(!admit(&uuid, "550E8400", false));
        assert!(!admit(&of(Kind::Int32, "integer"), "many", false));
        let json = of(Kind::Json, "json");
        assert!(admit(&json, "{}", false) && !admit(&json, "{}", true));
        assert!(admit(&of(Kind::Text, "text"), "", true));
    }

    #[test]
    fn times_are_compared_whatever_stands_between_their_parts() {
        let order = |a: &str, b: &str| Instant.compared(a, b);
        assert!(order("2024-01-01T11:59:00Z", "2024-01-01 12:00:00").is_lt());
        assert!(order("2024-01-01T12:00:00Z", "2024-01-01 12:00:00+00").is_eq());
        assert!(order("2024-01-01T12:00:00Z", "2024-01-01 14:00:00+02:00").is_eq());
        assert!(order("2024-01-01T12:00:00Z", "2024-01-01").is_gt());
        let local = |a: &str, b: &str| Local.compared(a, b);
        assert!(local("2024-01-01T12:00:00.5", "2024-01-01 12:00:00.500").is_eq());
        assert_eq!(Local.meant("2024-01-01"), Local.meant(" 2024-01-01"));
        assert_eq!(Number.meant("+042"), "42");
    }
}
