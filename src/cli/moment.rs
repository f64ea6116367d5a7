//! The point in a database's history that a person means by `--at`.
//!
//! A pure function of what was typed, the time and the zone. It never guesses: a time that a
//! clock showed twice or never, or that lacks its zone, is refused with what to type instead.

use chrono::{DateTime, Days, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Utc};
use stillpoint_contract::{Error, ErrorKind, LogPosition, Result, code};

use super::zone::{Reading, Zone};

/// A point, as far as it can be told without looking into a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The last commit that was captured.
    Latest,
    /// The state at an instant: everything committed at or before it.
    Time(DateTime<Utc>),
    /// A point in the notation of an engine, which alone can read it.
    Native(String),
    /// A position, whose lineage may be shortened to where it is still unique.
    Position {
        /// The lineage's name, or how it begins.
        lineage: String,
        /// The offset in it.
        offset: u128,
    },
}

/// The shortest beginning of a lineage that is accepted: longer than the hour of a time.
const LINEAGE_PREFIX_BYTES_MIN: usize = 4;

/// Every form that is understood, for help texts and errors.
pub(crate) const FORMS: &str = "latest; 2026-11-21T13:20:05Z; \"2026-11-21 13:20:05\" (your zone); \
    \"2026-11-21 13:20:05 Europe/Berlin\"; \"today 13:20\"; \"yesterday 13:20:05\"; 13:20; \
    -10m, -1h30m, -2d (before now); LINEAGE:OFFSET (a position printed by `timeline`)";

/// Reads `text` as a point, at the time `now` in `zone`.
pub(crate) fn parse(text: &str, now: DateTime<Utc>, zone: &Zone) -> Result<Moment> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("latest") {
        return Ok(Moment::Latest);
    }
    if let Some(past) = text.strip_prefix('-') {
        let span = span(past).ok_or_else(|| refuse(text))?;
        return now.checked_sub_signed(span).map(Moment::Time).ok_or_else(|| refuse(text));
    }
    match Spoken::read(text) {
        Some(spoken) => spoken.resolve(text, now, zone).map(Moment::Time),
        None => position(text).ok_or_else(|| refuse(text)),
    }
}

fn refuse(text: &str) -> Error {
    Error::new(ErrorKind::Invalid, code::BAD_POINT, "understand the point in time")
        .with("given", text)
        .with("forms", FORMS)
        .why("it has none of the forms in which points are written")
        .next("stillpoint timeline DB tells which points there are")
}

fn refuse_because(text: &str, why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, code::BAD_POINT, "understand the point in time")
        .with("given", text)
        .with("because", why.into())
}

/// A length of time such as `1h30m`: whole numbers, each with its unit, largest unit first.
pub(crate) fn span(text: &str) -> Option<TimeDelta> {
    const UNITS: [(char, i64); 5] =
        [('w', 7 * 86_400), ('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];
    let mut rest = text;
    let mut total = TimeDelta::zero();
    let mut units = UNITS.as_slice();
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let unit = tail.chars().next()?;
        let index = units.iter().position(|(name, _)| *name == unit)?;
        let seconds = number.parse::<i64>().ok()?.checked_mul(units[index].1)?;
        total = total.checked_add(&TimeDelta::try_seconds(seconds)?)?;
        units = &units[index + 1..];
        rest = &tail[unit.len_utf8()..];
    }
    (!text.is_empty()).then_some(total)
}

fn position(text: &str) -> Option<Moment> {
    let (lineage, offset) = text.rsplit_once(':')?;
    // Reading it as a position checks both halves; its lineage may still be a prefix.
    text.parse::<LogPosition>().ok()?;
    (lineage.len() >= LINEAGE_PREFIX_BYTES_MIN)
        .then(|| {
            Some(Moment::Position { lineage: lineage.to_owned(), offset: offset.parse().ok()? })
        })
        .flatten()
}

/// A calendar time as it was typed, before anyone asked what it means.
#[derive(Debug)]
struct Spoken<'a> {
    day: Day<'a>,
    /// The time of day, with an offset that may cling to it.
    time: Option<&'a str>,
    zone: Option<&'a str>,
}

#[derive(Clone, Copy, Debug)]
enum Day<'a> {
    /// A time alone: today.
    Unsaid,
    Today,
    Yesterday,
    Date(&'a str),
}

impl<'a> Spoken<'a> {
    /// Takes `text` apart if it looks like a calendar time at all.
    fn read(text: &'a str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let first = words.next()?;
        let (day, time) = if first.eq_ignore_ascii_case("today") {
            (Day::Today, words.next())
        } else if first.eq_ignore_ascii_case("yesterday") {
            (Day::Yesterday, words.next())
        } else if looks_like_date(first) {
            let (date, rest) = first.split_at(10);
            match rest.strip_prefix(['T', 't']) {
                Some(time) => (Day::Date(date), Some(time)),
                None if rest.is_empty() => (Day::Date(date), words.next()),
                None => return None,
            }
        } else if looks_like_time(first) {
            (Day::Unsaid, Some(first))
        } else {
            return None;
        };
        let zone = words.next();
        words.next().is_none().then_some(Self { day, time, zone })
    }

    fn resolve(&self, text: &str, now: DateTime<Utc>, zone: &Zone) -> Result<DateTime<Utc>> {
        let Some(time) = self.time else {
            return Err(refuse_because(text, "a day has many moments: add a time, such as 00:00"));
        };
        let (time, clinging) = time.split_at(time.find(['Z', 'z', '+', '-']).unwrap_or(time.len()));
        let time = time_of_day(time)
            .ok_or_else(|| refuse_because(text, "the time of day is not HH:MM or HH:MM:SS"))?;
        let said = match (clinging, self.zone) {
            ("", None) => None,
            ("", Some(word)) => Some(zone_word(word)?),
            (offset, None) => Some(zone_word(offset)?),
            (_, Some(_)) => return Err(refuse_because(text, "it names two zones")),
        };
        if let (None, Some(doubt)) = (&said, zone.doubt()) {
            return Err(refuse_because(text, format!("the zone is unknown here: {doubt}"))
                .next("add a zone to the time, or give --timezone Europe/Berlin"));
        }
        let zone = said.as_ref().unwrap_or(zone);
        let today = zone.local(now).date_naive();
        let date = match self.day {
            Day::Unsaid | Day::Today => Some(today),
            Day::Yesterday => today.checked_sub_days(Days::new(1)),
            Day::Date(date) => date.parse::<NaiveDate>().ok(),
        };
        let date = date.ok_or_else(|| refuse_because(text, "there is no such day"))?;
        let instant = only(text, date.and_time(time), zone)?;
        if matches!(self.day, Day::Unsaid) && instant > now {
            return Err(refuse_because(text, "that is still to come today")
                .next(format!("--at \"yesterday {text}\"")));
        }
        Ok(instant)
    }
}

/// The one instant at which clocks showed `local`, or why there is no such.
fn only(text: &str, local: NaiveDateTime, zone: &Zone) -> Result<DateTime<Utc>> {
    let format = |time: DateTime<FixedOffset>| time.format("%Y-%m-%d %H:%M:%S%.f %:z").to_string();
    match zone.instants(local) {
        Reading::Once(instant) => Ok(instant),
        Reading::Twice([first, second]) => {
            Err(refuse_because(text, format!("clocks in {} showed this time twice", zone.name()))
                .with("first", format(first))
                .with("second", format(second))
                .next(format!("--at \"{}\"", format(first)))
                .next(format!("--at \"{}\"", format(second))))
        }
        Reading::Never(from, to) => Err(refuse_because(
            text,
            format!(
                "clocks in {} went from {} straight to {}",
                zone.name(),
                from.format("%Y-%m-%d %H:%M"),
                to.format("%Y-%m-%d %H:%M")
            ),
        )
        .next("give a time outside of that, or one in UTC")),
    }
}

fn zone_word(word: &str) -> Result<Zone> {
    if word.eq_ignore_ascii_case("z") {
        return Ok(Zone::UTC);
    }
    match offset(word) {
        Some(offset) => Ok(Zone::fixed(offset)),
        None => Zone::named(word),
    }
}

/// `+02:00`, `+0200` or `+02`.
fn offset(word: &str) -> Option<FixedOffset> {
    let sign = match word.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let digits: String = word[1..].chars().filter(|c| *c != ':').collect();
    let well_formed = matches!((word.len(), word.find(':')), (6, Some(3)) | (5 | 3, None));
    if !well_formed || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let hours: i32 = digits.get(..2)?.parse().ok()?;
    let minutes: i32 = digits.get(2..).filter(|m| !m.is_empty()).unwrap_or("0").parse().ok()?;
    (minutes < 60).then(|| FixedOffset::east_opt(sign * (hours * 3_600 + minutes * 60))).flatten()
}

/// `13:20`, `13:20:05` or `13:20:05.25`; missing digits are zero.
fn time_of_day(text: &str) -> Option<NaiveTime> {
    let (clock, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut fields = clock.split(':');
    let mut field = |width: std::ops::RangeInclusive<usize>| -> Option<u32> {
        let text = fields.next()?;
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        (digits && width.contains(&text.len())).then(|| text.parse().ok()).flatten()
    };
    let (hour, minute) = (field(1..=2)?, field(2..=2)?);
    let second = if clock.matches(':').count() == 2 { Some(field(2..=2)?) } else { None };
    if clock.matches(':').count() > 2 || (text.contains('.') && second.is_none()) {
        return None;
    }
    NaiveTime::from_hms_nano_opt(hour, minute, second.unwrap_or(0), nanoseconds(text, fraction)?)
}

fn nanoseconds(text: &str, fraction: &str) -> Option<u32> {
    if !text.contains('.') {
        return Some(0);
    }
    let well_formed =
        (1..=9).contains(&fraction.len()) && fraction.bytes().all(|b| b.is_ascii_digit());
    well_formed.then(|| format!("{fraction:0<9}").parse().ok()).flatten()
}

/// `dddd-dd-dd...`
fn looks_like_date(word: &str) -> bool {
    let bytes = word.as_bytes();
    bytes.len() >= 10
        && word.is_char_boundary(10)
        && bytes[..10].iter().enumerate().all(|(index, byte)| match index {
            4 | 7 => *byte == b'-',
            _ => byte.is_ascii_digit(),
        })
}

/// `d:...` or `dd:...`
fn looks_like_time(word: &str) -> bool {
    word.split_once(':').is_some_and(|(hour, _)| {
        (1..=2).contains(&hour.len()) && hour.bytes().all(|b| b.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Saturday afternoon in Berlin.
    const NOW: &str = "2026-11-21T14:02:07Z";

    fn read_at(text: &str, now: &str, zone: &str) -> Result<Moment> {
        parse(text, now.parse().unwrap(), &Zone::named(zone).unwrap())
    }

    fn read(text: &str) -> Result<Moment> {
        read_at(text, NOW, "Europe/Berlin")
    }

    fn facts(error: &Error) -> String {
        let facts = error
            .facts()
            .iter()
            .map(|(k, v)| [k, ": ", v, "\n"].concat())
            .collect::<Vec<_>>()
            .concat();
        format!("{facts}{}", error.advice().join("\n"))
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, expected) in [
            ("2026-11-21T12:20:05Z", "2026-11-21T12:20:05Z"),
            ("2026-11-21t12:20:05z", "2026-11-21T12:20:05Z"),
            ("2026-11-21T13:20:05.123456789+01:00", "2026-11-21T12:20:05.123456789Z"),
            ("2026-11-21 13:20:05+01:00", "2026-11-21T12:20:05Z"),
            ("2026-11-21 13:20:05-0530", "2026-11-21T18:50:05Z"),
            ("2026-11-21 13:20:05 +02:00", "2026-11-21T11:20:05Z"),
            ("2026-11-21 13:20:05 +02", "2026-11-21T11:20:05Z"),
            ("2026-11-21 13:20:05", "2026-11-21T12:20:05Z"),
            ("2026-11-21T13:20:05", "2026-11-21T12:20:05Z"),
            ("2026-11-21 13:20", "2026-11-21T12:20:00Z"),
            ("2026-11-21 13:20:05.5", "2026-11-21T12:20:05.5Z"),
            ("2026-07-21 13:20:05", "2026-07-21T11:20:05Z"),
            ("2026-11-21 13:20:05 Europe/London", "2026-11-21T13:20:05Z"),
            ("2026-11-21 13:20:05 america/new_york", "2026-11-21T18:20:05Z"),
            ("2026-11-21 13:20:05 UTC", "2026-11-21T13:20:05Z"),
            ("2026-11-21 13:20:05 Z", "2026-11-21T13:20:05Z"),
            ("today 13:20", "2026-11-21T12:20:00Z"),
            ("Today 13:20 UTC", "2026-11-21T13:20:00Z"),
            ("today 23:59", "2026-11-21T22:59:00Z"),
            ("yesterday 13:20:05", "2026-11-20T12:20:05Z"),
            ("13:20", "2026-11-21T12:20:00Z"),
            ("9:05", "2026-11-21T08:05:00Z"),
            ("  13:20:05.000001 ", "2026-11-21T12:20:05.000001Z"),
            ("-10m", "2026-11-21T13:52:07Z"),
            ("-1h30m", "2026-11-21T12:32:07Z"),
            ("-2d", "2026-11-19T14:02:07Z"),
            ("-1w2d3h4m5s", "2026-11-12T10:58:02Z"),
            ("-90s", "2026-11-21T14:00:37Z"),
        ] {
            let expected = Moment::Time(expected.parse().unwrap());
            assert_eq!(
                read(text).unwrap_or_else(|e| panic!("{text}: {}", facts(&e))),
                expected,
                "{text}"
            );
        }
        assert_eq!(read("latest").unwrap(), Moment::Latest);
    }

    #[test]
    fn today_is_the_day_in_the_zone_that_was_meant() {
        // It is still Friday in New York and already Saturday in Tokyo.
        let now = "2026-11-21T02:00:00Z";
        let time = |text: &str| Moment::Time(text.parse().unwrap());
        assert_eq!(
            read_at("today 12:00", now, "America/New_York").unwrap(),
            time("2026-11-20T17:00:00Z")
        );
        assert_eq!(
            read_at("today 09:00 Asia/Tokyo", now, "America/New_York").unwrap(),
            time("2026-11-21T00:00:00Z")
        );
    }

    #[test]
    fn positions_are_read_whole_or_by_the_beginning_of_their_lineage() {
        for (text, lineage, offset) in [
            ("0a1b2c3d4e5f-0123456789abcdef:42", "0a1b2c3d4e5f-0123456789abcdef", 42),
            ("0a1b:7", "0a1b", 7),
            (
                "7388120011467391044/2:340282366920938463463374607431768211455",
                "7388120011467391044/2",
                u128::MAX,
            ),
        ] {
            let expected = Moment::Position { lineage: lineage.to_owned(), offset };
            assert_eq!(read(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for text in [
            "",
            "-",
            "-10",
            "-m",
            "-10x",
            "-5m1h",
            "-99999999999999999999d",
            "-9223372036854775807d",
            "tomorrow 13:20",
            "now",
            "2026-11-21",
            "today",
            "2026-02-30 10:00",
            "2026-13-01 10:00",
            "24:00",
            "13:60",
            "13:20:60",
            "13:2",
            "13",
            "13:20:05.",
            "13:20.5",
            "13:20:05:06",
            "13:20:05.1234567890",
            "2026-11-21 13:20:05 Europe/Atlantis",
            "2026-11-21 13:20:05Z Europe/Berlin",
            "2026-11-21 13:20:05 +2",
            "2026-11-21 13:20:05 +25:00",
            "2026-11-21 13:20:05 +01:60",
            "2026-11-21X13:20:05",
            "21.11.2026 13:20",
            "11/21/2026 13:20",
            "abc:7",
            "abcd:",
            "abcd:x",
            "a b c d:7",
            "2026-11-21 13:20 UTC extra",
            "2026-11-2é 10:00",
            "13:20:é",
            "+1é:00",
            "13:20 +1é:0",
        ] {
            let error = read(text).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
            assert_eq!(error.code(), code::BAD_POINT, "{text}");
        }
    }

    #[test]
    fn an_hour_that_clocks_skipped_is_refused_by_name() {
        let error = read("2026-03-29 02:30").unwrap_err();
        assert_eq!(
            facts(&error),
            "given: 2026-03-29 02:30\n\
             because: clocks in Europe/Berlin went from 2026-03-29 02:00 straight to \
             2026-03-29 03:00\n\
             give a time outside of that, or one in UTC"
        );
    }

    #[test]
    fn an_hour_that_came_twice_asks_for_the_offset_and_names_both() {
        let error = read("2026-10-25 02:30:05.25").unwrap_err();
        assert_eq!(
            facts(&error),
            "given: 2026-10-25 02:30:05.25\n\
             because: clocks in Europe/Berlin showed this time twice\n\
             first: 2026-10-25 02:30:05.250 +02:00\n\
             second: 2026-10-25 02:30:05.250 +01:00\n\
             --at \"2026-10-25 02:30:05.250 +02:00\"\n\
             --at \"2026-10-25 02:30:05.250 +01:00\""
        );
        for (text, expected) in [
            ("2026-10-25 02:30:05.250 +02:00", "2026-10-25T00:30:05.25Z"),
            ("2026-10-25 02:30:05.250 +01:00", "2026-10-25T01:30:05.25Z"),
        ] {
            assert_eq!(read(text).unwrap(), Moment::Time(expected.parse().unwrap()));
        }
    }

    #[test]
    fn a_time_alone_that_is_still_to_come_is_not_taken_for_today_s() {
        let error = read("16:20").unwrap_err();
        assert_eq!(error.advice(), ["--at \"yesterday 16:20\""]);
    }

    #[test]
    fn without_a_known_zone_only_times_that_name_one_are_read() {
        let system = super::super::zone::SystemZone {
            variable: Some("CET-1CEST".to_owned()),
            ..Default::default()
        };
        let zone = Zone::of_system(&system);
        let read = |text: &str| parse(text, NOW.parse().unwrap(), &zone);
        assert!(read("today 13:20").is_err());
        assert!(read("13:20").is_err());
        assert!(read("today 13:20 UTC").is_ok());
        assert!(read("-10m").is_ok());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}") {
            drop(read(&text));
        }

        #[test]
        fn no_text_that_resembles_a_time_makes_it_panic(text in "[-+:0-9TZ ./adhmsw]{0,30}") {
            drop(read(&text));
        }

        #[test]
        fn a_time_that_we_print_is_read_as_the_same_second(seconds in 0_i64..4_000_000_000) {
            let instant = DateTime::from_timestamp(seconds, 0).unwrap();
            for name in ["Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "UTC"] {
                let zone = Zone::named(name).unwrap();
                let read = parse(&zone.show(instant), DateTime::UNIX_EPOCH, &zone).unwrap();
                prop_assert_eq!(read, Moment::Time(instant));
            }
        }
    }
}
