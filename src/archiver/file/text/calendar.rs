//! Dates, times and durations as ISO 8601 has them, for all years.

use std::io::Write;

use super::super::cell::MICROSECONDS;

const WRITTEN: &str = "memory takes whatever is written";

/// Days of 400 years, after which the calendar repeats.
const CYCLE: i64 = 146_097;
/// From 0000-03-01 to 1970-01-01.
const SHIFT: i64 = 719_468;
const DAY_SECONDS: i64 = 86_400;

/// Year, month and day of a day since 1970, in the Gregorian calendar, with a year 0.
///
/// Years begin with March here, so that a leap day is the last one.
fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + SHIFT;
    let (cycle, day) = (days.div_euclid(CYCLE), days.rem_euclid(CYCLE));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (cycle * 400 + year + carry, month, day)
}

/// The reverse; days that a month does not have are counted on.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (cycle, year) = (year.div_euclid(400), year.rem_euclid(400));
    let month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    cycle * CYCLE + year * 365 + year / 4 - year / 100 + day_of_year - SHIFT
}

/// `2019-03-01`; years of other than four digits have a sign.
pub(super) fn write_date(days: i64, out: &mut Vec<u8>) {
    let (year, month, day) = date_of(days);
    if (0..=9999).contains(&year) {
        write!(out, "{year:04}-{month:02}-{day:02}").expect(WRITTEN);
    } else {
        write!(out, "{year:+05}-{month:02}-{day:02}").expect(WRITTEN);
    }
}

/// `23:59:59.5`, with as many digits behind the point as there are.
pub(super) fn write_time(microseconds: i64, out: &mut Vec<u8>) {
    let (seconds, fraction) = (microseconds / MICROSECONDS, microseconds % MICROSECONDS);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    write!(out, "{hours:02}:{minutes:02}:{seconds:02}").expect(WRITTEN);
    write_fraction(fraction, out);
}

fn write_fraction(microseconds: i64, out: &mut Vec<u8>) {
    if microseconds > 0 {
        write!(out, ".{microseconds:06}").expect(WRITTEN);
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
}

/// `+02:00`, and the seconds where there are some.
pub(super) fn write_offset(east: i32, out: &mut Vec<u8>) {
    let sign = if east < 0 { '-' } else { '+' };
    let east = east.unsigned_abs();
    write!(out, "{sign}{:02}:{:02}", east / 3600, east / 60 % 60).expect(WRITTEN);
    if !east.is_multiple_of(60) {
        write!(out, ":{:02}", east % 60).expect(WRITTEN);
    }
}

/// `2019-03-01T23:59:59.5`.
pub(super) fn write_timestamp(microseconds: i64, out: &mut Vec<u8>) {
    let day = DAY_SECONDS * MICROSECONDS;
    write_date(microseconds.div_euclid(day), out);
    out.push(b'T');
    write_time(microseconds.rem_euclid(day), out);
}

/// `P14M-3DT0.5S`: what has different lengths stays apart.
pub(super) fn write_interval(months: i32, days: i32, microseconds: i64, out: &mut Vec<u8>) {
    let sign = if microseconds < 0 { "-" } else { "" };
    let microseconds = microseconds.unsigned_abs();
    let (seconds, fraction) = (microseconds / 1_000_000, microseconds % 1_000_000);
    write!(out, "P{months}M{days}DT{sign}{seconds}").expect(WRITTEN);
    write_fraction(fraction.cast_signed(), out);
    out.push(b'S');
}

pub(super) fn read_date(text: &str) -> Option<i64> {
    // A year may have a sign.
    let (rest, day) = text.rsplit_once('-')?;
    let (year, month) = rest.rsplit_once('-')?;
    let (year, month, day) = (year.parse().ok()?, month.parse().ok()?, day.parse().ok()?);
    let is_possible = (-300_000_000..300_000_000).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day);
    is_possible.then(|| days_of(year, month, day))
}

pub(super) fn read_time(text: &str) -> Option<i64> {
    let (hours, rest) = text.split_once(':')?;
    let (minutes, seconds) = rest.split_once(':')?;
    let seconds = read_seconds(seconds)?;
    let minutes = 60 * digits(hours)?.min(24) + digits(minutes)?.min(60);
    Some(60 * MICROSECONDS * minutes + i64::try_from(seconds).ok()?)
}

/// Microseconds from seconds with a fraction, in absolute terms.
fn read_seconds(text: &str) -> Option<u64> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 6 {
        return None;
    }
    let missing = 6 - fraction.len() as u32;
    let fraction = if fraction.is_empty() { 0 } else { digits(fraction)?.cast_unsigned() };
    let seconds: u64 = seconds.parse().ok()?;
    seconds.checked_mul(1_000_000)?.checked_add(fraction * 10_u64.pow(missing))
}

/// A short number without a sign.
fn digits(text: &str) -> Option<i64> {
    let is_number = text.len() <= 9 && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

/// A time and how many seconds east of Greenwich a clock showed it.
pub(super) fn read_time_and_offset(text: &str) -> Option<(i64, i32)> {
    let at = text.find(['+', '-'])?;
    let (time, offset) = text.split_at(at);
    let is_west = offset.starts_with('-');
    let mut seconds = 0_i64;
    for (part, unit) in offset[1..].splitn(3, ':').zip([3600, 60, 1]) {
        seconds += unit * digits(part)?;
    }
    let seconds = if is_west { -seconds } else { seconds };
    Some((read_time(time)?, seconds.try_into().ok()?))
}

pub(super) fn read_timestamp(text: &str) -> Option<i64> {
    let (date, time) = text.split_once('T')?;
    let days = i128::from(read_date(date)?);
    let microseconds = days * i128::from(DAY_SECONDS * MICROSECONDS) + i128::from(read_time(time)?);
    microseconds.try_into().ok()
}

/// Months, days and microseconds.
pub(super) fn read_interval(text: &str) -> Option<(i32, i32, i64)> {
    let (months, rest) = text.strip_prefix('P')?.split_once('M')?;
    let (days, rest) = rest.split_once("DT")?;
    let seconds = rest.strip_suffix('S')?;
    let microseconds = match seconds.strip_prefix('-') {
        Some(seconds) => 0_i64.checked_sub_unsigned(read_seconds(seconds)?)?,
        None => i64::try_from(read_seconds(seconds)?).ok()?,
    };
    Some((months.parse().ok()?, days.parse().ok()?, microseconds))
}

#[cfg(test)]
mod tests {
    use chrono::{Datelike, NaiveDate};
    use proptest::prelude::proptest;

    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn texts_are_those_of_iso_8601() {
        for (days, date) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (11_016, "2000-02-29"),
            (2_932_897, "+10000-01-01"),
            (-719_528, "0000-01-01"),
            (-719_529, "-0001-12-31"),
            (i64::from(i32::MAX), "+5881580-07-11"),
            (i64::from(i32::MIN), "-5877641-06-23"),
        ] {
            assert_eq!(text(|out| write_date(days, out)), date);
        }
        assert_eq!(text(|out| write_timestamp(-1, out)), "1969-12-31T23:59:59.999999");
        assert_eq!(text(|out| write_timestamp(1_500_000, out)), "1970-01-01T00:00:01.5");
        assert_eq!(text(|out| write_offset(-5400, out)), "-01:30");
        assert_eq!(text(|out| write_offset(3661, out)), "+01:01:01");
        assert_eq!(text(|out| write_interval(14, -3, -500_000, out)), "P14M-3DT-0.5S");
    }

    proptest! {
        #[test]
        fn dates_are_those_of_another_calendar(days in -90_000_000..90_000_000_i32) {
            let date = NaiveDate::from_epoch_days(days).unwrap();
            let (year, month, day) = date_of(i64::from(days));
            assert_eq!(i64::from(date.year()), year);
            assert_eq!((i64::from(date.month()), i64::from(date.day())), (month, day));
        }

        #[test]
        fn what_is_written_is_read(
            days: i32, time in 0..86_400_000_000_i64, east: i32, instant: i64, months: i32,
        ) {
            assert_eq!(read_date(&text(|out| write_date(i64::from(days), out))), Some(days.into()));
            assert_eq!(read_time(&text(|out| write_time(time, out))), Some(time));
            let both = text(|out| {
                write_time(time, out);
                write_offset(east, out);
            });
            assert_eq!(read_time_and_offset(&both), Some((time, east)));
            let timestamp = text(|out| write_timestamp(instant, out));
            assert_eq!(read_timestamp(&timestamp), Some(instant));
            let interval = text(|out| write_interval(months, days, instant, out));
            assert_eq!(read_interval(&interval), Some((months, days, instant)));
        }

        #[test]
        fn any_text_is_survived(text in "[-+PTMDS:.0-9é]{0,24}") {
            let _ = (read_date(&text), read_time(&text), read_time_and_offset(&text));
            let _ = (read_timestamp(&text), read_interval(&text));
        }
    }

    #[test]
    fn the_ends_are_read() {
        for microseconds in [i64::MIN, i64::MAX] {
            let interval = text(|out| write_interval(0, 0, microseconds, out));
            assert_eq!(read_interval(&interval), Some((0, 0, microseconds)));
            let timestamp = text(|out| write_timestamp(microseconds, out));
            assert_eq!(read_timestamp(&timestamp), Some(microseconds));
        }
    }
}
