//! When a pattern of cron fires in a zone, and where a database's own place after that is.

use std::{
    collections::HashMap,
    fmt,
    ops::Range,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Days, NaiveDate, Offset as _, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};

use super::{civil::midnight, model::Timing};

/// What each field of a pattern says.
const FIELDS: [&str; 5] = ["minute", "hour", "day of the month", "month", "day of the week"];

/// Words that stand for patterns.
const WORDS: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * SUN"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

/// Patterns that are remembered once they were read, since every look at a database needs its own.
const PARSED_MAX: usize = 1_000;

/// What is wrong with a pattern, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadPattern {
    /// The bytes of the pattern that are wrong.
    pub at: Range<usize>,
    /// Why, for people.
    pub why: String,
}

/// When a pattern fires in a zone. Every database with the policy shares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calendar {
    cron: Arc<Cron>,
    zone: Tz,
    spread: Duration,
}

/// When something is due for one database.
#[derive(Clone, Copy, Debug)]
pub struct Turns<'a> {
    calendar: &'a Calendar,
    offset: TimeDelta,
}

impl Calendar {
    /// The times of a pattern in a zone.
    ///
    /// # Errors
    ///
    /// What is wrong with the pattern.
    pub fn new(timing: &Timing, zone: Tz) -> Result<Self, BadPattern> {
        Ok(Self { cron: parsed(&timing.pattern)?, zone, spread: timing.spread })
    }

    /// The times of one database, each later by its own part of the spread.
    pub fn turns(&self, database: &str) -> Turns<'_> {
        Turns { calendar: self, offset: offset(database, self.spread) }
    }
}

impl Turns<'_> {
    /// How much later than the pattern says.
    pub fn offset(&self) -> TimeDelta {
        self.offset
    }

    /// The first due time after an instant.
    pub fn next(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let Calendar { cron, zone, .. } = self.calendar;
        next(cron, zone, after.checked_sub_signed(self.offset)?)?.checked_add_signed(self.offset)
    }

    /// The last due time at or before an instant.
    pub fn last(&self, until: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let Calendar { cron, zone, .. } = self.calendar;
        let until = until.checked_sub_signed(self.offset)?.with_timezone(zone);
        let found = cron.find_previous_occurrence(&until, true).ok()?;
        found.to_utc().checked_add_signed(self.offset)
    }
}

/// The first time at which a pattern fires after an instant.
fn next<Z: TimeZone>(cron: &Cron, zone: &Z, after: DateTime<Utc>) -> Option<DateTime<Utc>>
where
    DateTime<Z>: croner::CronDateTime,
{
    Some(cron.find_next_occurrence(&after.with_timezone(zone), false).ok()?.to_utc())
}

/// A database's place in the spread: the same after every restart and with every version, since
/// one that was drawn anew could come twice within one period, or not at all.
pub(super) fn offset(database: &str, spread: Duration) -> TimeDelta {
    let mut first = [0; 8];
    blake3::Hasher::new().update(database.as_bytes()).finalize_xof().fill(&mut first);
    let hash = u64::from_le_bytes(first);
    let seconds = hash.checked_rem(spread.as_secs()).unwrap_or(0);
    i64::try_from(seconds).ok().and_then(TimeDelta::try_seconds).unwrap_or_default()
}

/// Whether a pattern can be understood and ever fires.
///
/// # Errors
///
/// What is wrong with it.
pub fn check(pattern: &str) -> Result<(), BadPattern> {
    parse(pattern).map(drop)
}

fn parsed(pattern: &str) -> Result<Arc<Cron>, BadPattern> {
    static PARSED: LazyLock<Mutex<HashMap<String, Arc<Cron>>>> = LazyLock::new(Mutex::default);

    let mut parsed = PARSED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(cron) = parsed.get(pattern) {
        return Ok(Arc::clone(cron));
    }
    let cron = Arc::new(parse(pattern)?);
    if parsed.len() >= PARSED_MAX {
        parsed.clear();
    }
    parsed.insert(pattern.to_owned(), Arc::clone(&cron));
    Ok(cron)
}

fn parse(pattern: &str) -> Result<Cron, BadPattern> {
    let whole = 0..pattern.len();
    let bad = |at: Range<usize>, why: String| BadPattern { at, why };
    let written = pattern.trim();
    let word = WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(written));
    if word.is_none() && written.starts_with('@') {
        let known: Vec<_> = WORDS.iter().map(|(word, _)| *word).collect();
        return Err(bad(whole, format!("`{written}` is none of {}", known.join(", "))));
    }
    let text = word.map_or(pattern, |(_, meaning)| meaning);
    let fields = fields(text);
    if fields.len() != FIELDS.len() {
        let why = format!("{} fields where five are needed: {}", fields.len(), FIELDS.join(", "));
        return Err(bad(whole, why));
    }
    for (index, at) in fields.iter().enumerate() {
        let field = &text[at.clone()];
        // Each field is tried alone, since croner does not say in which one it found an error.
        let mut alone = ["*"; FIELDS.len()];
        alone[index] = field;
        let wrong = if field.split(',').any(str::is_empty) {
            Some("an empty place in a list".to_owned())
        } else {
            cron(&alone.join(" ")).err()
        };
        if let Some(why) = wrong {
            return Err(bad(at.clone(), format!("`{field}` is no {}: {why}", FIELDS[index])));
        }
    }
    let cron = cron(text).map_err(|why| bad(whole.clone(), why))?;
    match next(&cron, &Utc, DateTime::UNIX_EPOCH) {
        Some(_) => Ok(cron),
        None => Err(bad(whole, "no day is like that: it never fires".to_owned())),
    }
}

/// Where the words of a text are.
fn fields(text: &str) -> Vec<Range<usize>> {
    let words = text.split_whitespace();
    words
        .map(|word| {
            let start = word.as_ptr().addr() - text.as_ptr().addr();
            start..start + word.len()
        })
        .collect()
}

fn cron(text: &str) -> Result<Cron, String> {
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    parser.parse(text).map_err(|error| {
        let text = error.to_string();
        let plain = text.strip_prefix("Component error: ").unwrap_or(&text);
        plain.trim_end_matches('.').to_lowercase()
    })
}

/// A day on which a pattern does not fire as often as its fields say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnevenDay {
    /// The day.
    pub date: NaiveDate,
    /// How often it fires.
    pub fires: usize,
    /// How often it would if no clock were changed on that day.
    pub usual: usize,
}

/// The days of the next `days` on which a pattern fires more or less often than usual, because
/// clocks are changed. Only those days can differ, so only they are counted.
///
/// # Errors
///
/// What is wrong with the pattern.
pub fn uneven_days(
    pattern: &str,
    zone: Tz,
    now: DateTime<Utc>,
    days: u32,
) -> Result<Vec<UnevenDay>, BadPattern> {
    let cron = parse(pattern)?;
    let first = now.with_timezone(&zone).date_naive();
    let dates = (0..days).filter_map(|day| first.checked_add_days(Days::new(day.into())));
    let uneven = dates.filter_map(|date| {
        let (start, end) = (midnight(zone, date), midnight(zone, date.succ_opt()?));
        let offset = |at: DateTime<Utc>| zone.offset_from_utc_datetime(&at.naive_utc()).fix();
        if offset(start - TimeDelta::seconds(1)) == offset(end) {
            return None;
        }
        let fires = count(&cron, &zone, start, end);
        let usual =
            count(&cron, &Utc, midnight(Tz::UTC, date), midnight(Tz::UTC, date.succ_opt()?));
        (fires != usual).then_some(UnevenDay { date, fires, usual })
    });
    Ok(uneven.collect())
}

fn count<Z: TimeZone>(cron: &Cron, zone: &Z, start: DateTime<Utc>, end: DateTime<Utc>) -> usize
where
    DateTime<Z>: croner::CronDateTime,
{
    let fires = |after: DateTime<Utc>| next(cron, zone, after).filter(|at| *at < end);
    std::iter::successors(fires(start - TimeDelta::seconds(1)), |at| fires(*at)).count()
}

impl fmt::Display for BadPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::civil::tests::{ZONES, berlin, utc};

    const DAY: u64 = 24 * 60 * 60;

    fn calendar(pattern: &str, spread_seconds: u64, zone: Tz) -> Calendar {
        let spread = Duration::from_secs(spread_seconds);
        Calendar::new(&Timing { pattern: pattern.to_owned(), spread }, zone).unwrap()
    }

    fn fires(turns: Turns<'_>, from: DateTime<Utc>, days: i64) -> Vec<DateTime<Utc>> {
        let end = from + TimeDelta::days(days);
        let next = |after| turns.next(after).filter(|at| *at < end);
        std::iter::successors(next(from), |at| next(*at)).collect()
    }

    #[test]
    fn row_22_a_daily_time_fires_once_on_days_on_which_clocks_change() {
        let night = calendar("30 2 * * *", 0, Tz::Europe__Berlin);
        let night = night.turns("db");
        assert_eq!(
            fires(night, berlin("2026-03-28T12:00:00"), 2),
            [berlin("2026-03-29T03:00:00"), berlin("2026-03-30T02:30:00")]
        );
        assert_eq!(
            fires(night, berlin("2026-10-24T12:00:00"), 2),
            [utc("2026-10-25T00:30:00"), berlin("2026-10-26T02:30:00")]
        );
    }

    #[test]
    fn days_on_which_clock_changes_drop_or_add_firings_are_named() {
        let uneven = |pattern: &str| {
            let days = uneven_days(pattern, Tz::Europe__Berlin, utc("2026-01-15T12:00:00"), 400);
            let told = |day: UnevenDay| format!("{}: {} of {}", day.date, day.fires, day.usual);
            days.unwrap().into_iter().map(told).collect::<Vec<_>>()
        };
        assert_eq!(uneven("*/15 2 * * *"), ["2026-03-29: 0 of 4", "2026-10-25: 8 of 4"]);
        assert_eq!(uneven("@hourly"), ["2026-03-29: 23 of 24", "2026-10-25: 25 of 24"]);
        assert_eq!(uneven("30 2 * * *"), Vec::<String>::new());
        assert_eq!(uneven("*/20 2 * * MON"), Vec::<String>::new());
        assert_eq!(
            uneven_days("*/15 2 * * *", Tz::Asia__Kolkata, utc("2026-01-15T12:00:00"), 400),
            Ok(Vec::new())
        );
    }

    #[test]
    fn a_bad_pattern_is_pointed_at() {
        let wrong = |pattern: &str| {
            let bad = check(pattern).unwrap_err();
            format!("{}: {bad}", &pattern[bad.at.clone()])
        };
        assert_eq!(wrong("0 25 * * *"), "25: `25` is no hour: number out of bounds");
        assert_eq!(wrong("  61  2 * * *"), "61: `61` is no minute: number out of bounds");
        assert_eq!(wrong("0 2 * * MOO").split(':').next(), Some("MOO"));
        assert_eq!(wrong("0 2 1,,3 * *").split(':').next(), Some("1,,3"));
        assert_eq!(
            wrong("0 0 2 * * *").split(':').nth(1).unwrap().trim(),
            "6 fields where five are needed"
        );
        assert_eq!(wrong("").split(':').nth(1).unwrap().trim(), "0 fields where five are needed");
        assert!(wrong("@dayly").contains("none of @hourly, @daily"));
        assert!(wrong("0 0 30 2 *").contains("never fires"));
        for fine in ["@daily", " @Midnight ", "0 2 * * SUN", "*/15 8-18 * * MON-FRI", "0 0 L * *"] {
            assert_eq!(check(fine), Ok(()), "{fine}");
        }
        assert_eq!(check("0 0 29 2 *"), Ok(()));
    }

    #[test]
    fn a_place_in_the_spread_never_changes() {
        let night = calendar("0 2 * * *", 6 * 60 * 60, Tz::Europe__Berlin);
        let offsets: Vec<_> = ["shop/orders", "shop/stock", "crm/main"]
            .map(|database| night.turns(database).offset().num_seconds())
            .into();
        assert_eq!(offsets, [13_368, 15_381, 19_782]);
        let stock = night.turns("shop/stock");
        let due = berlin("2026-10-25T02:00:00") + stock.offset();
        assert_eq!(stock.next(berlin("2026-10-25T01:59:59") + stock.offset()), Some(due));
        assert_eq!(stock.last(due), Some(due));
        assert_eq!(stock.last(due + TimeDelta::milliseconds(1500)), Some(due));
    }

    fn patterns() -> impl Strategy<Value = &'static str> {
        let all = [
            "30 2 * * *",
            "*/20 * * * *",
            "15 0,2,3 * * *",
            "0 1 * * SUN",
            "*/40 1-3 * * *",
            "@monthly",
            "0 0 29 2 *",
            "45 23 * * *",
        ];
        proptest::sample::select(all.to_vec())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn offsets_are_within_the_spread(name in ".{0,40}", spread in 0..3 * DAY) {
            let offset = calendar("@daily", spread, Tz::UTC).turns(&name).offset().num_seconds();
            prop_assert!(offset >= 0 && (offset as u64) < spread.max(1));
        }

        #[test]
        fn looking_back_finds_what_looking_ahead_found(
            pattern in patterns(),
            zone in proptest::sample::select(ZONES.to_vec()),
            from in 0..2 * 365 * DAY.cast_signed() * 1000,
            spread in prop_oneof![Just(0), 1..6 * 60 * 60u64],
        ) {
            let calendar = calendar(pattern, spread, zone);
            let turns = calendar.turns("db");
            let from = utc("2026-01-01T00:00:00") + TimeDelta::milliseconds(from);
            let next = turns.next(from).unwrap();
            prop_assert!(from < next);
            prop_assert_eq!(turns.last(next), Some(next));
            let a_little_later = next + TimeDelta::milliseconds(999);
            prop_assert_eq!(turns.last(a_little_later), Some(next));
            let before = turns.last(next - TimeDelta::seconds(1)).unwrap();
            prop_assert!(before <= from, "{} lies between {} and {}", before, from, next);
            prop_assert_eq!(turns.next(before), Some(next));
        }
    }
}
