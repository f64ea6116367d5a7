//! Between instants and the calendar of a zone, whose days can have 23 or 25 hours.

use std::fmt;

use chrono::{
    DateTime, Datelike, Days, LocalResult, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta,
    TimeZone as _, Timelike, Utc,
};
use chrono_tz::Tz;

use super::model::{Period, PeriodUnit};

/// A clock and its zone's wall clock are never further apart, also across a change of zone.
const OFFSET_HOURS_MAX: i64 = 26;

/// When a wall clock first showed `local`, or, if it skipped that, what came after it.
pub(super) fn first_instant(zone: Tz, local: NaiveDateTime) -> DateTime<Utc> {
    match zone.from_local_datetime(&local) {
        LocalResult::Single(once) => once.to_utc(),
        LocalResult::Ambiguous(first, _) => first.to_utc(),
        LocalResult::None => end_of_gap(zone, local),
    }
}

/// When a wall clock last showed `local`, or, if it skipped that, what came after it.
pub(super) fn last_instant(zone: Tz, local: NaiveDateTime) -> DateTime<Utc> {
    match zone.from_local_datetime(&local) {
        LocalResult::Ambiguous(_, last) => last.to_utc(),
        _ => first_instant(zone, local),
    }
}

/// When a day begins.
pub fn midnight(zone: Tz, date: NaiveDate) -> DateTime<Utc> {
    first_instant(zone, date.and_time(NaiveTime::MIN))
}

/// The first instant at which the wall clock is past what it skipped.
fn end_of_gap(zone: Tz, skipped: NaiveDateTime) -> DateTime<Utc> {
    let (mut before, mut after) = (-OFFSET_HOURS_MAX * 60 * 60, OFFSET_HOURS_MAX * 60 * 60);
    let at = |second: i64| skipped.and_utc() + TimeDelta::seconds(second);
    while before + 1 < after {
        let middle = i64::midpoint(before, after);
        if at(middle).with_timezone(&zone).naive_local() < skipped {
            before = middle;
        } else {
            after = middle;
        }
    }
    at(after)
}

/// What would be further away than this is never reached, and could not be computed with.
const FAR: NaiveDate = match NaiveDate::from_ymd_opt(9999, 12, 31) {
    Some(date) => date,
    None => NaiveDate::MAX,
};

impl Period {
    /// The date so much later. Hours count as the whole days they fill.
    pub fn after_date(self, date: NaiveDate) -> NaiveDate {
        self.after_local(date.and_time(NaiveTime::MIN)).date()
    }

    /// The instant so much later, on the calendar of a zone.
    pub fn after(self, instant: DateTime<Utc>, zone: Tz) -> DateTime<Utc> {
        if self.unit == PeriodUnit::Hours {
            let later = instant.checked_add_signed(TimeDelta::hours(self.count.into()));
            let far = FAR.and_time(NaiveTime::MIN).and_utc();
            return later.unwrap_or(far).min(far);
        }
        first_instant(zone, self.after_local(instant.with_timezone(&zone).naive_local()))
    }

    fn after_local(self, local: NaiveDateTime) -> NaiveDateTime {
        let later = match self.unit {
            PeriodUnit::Hours => local.checked_add_signed(TimeDelta::hours(self.count.into())),
            PeriodUnit::Days => local.checked_add_days(Days::new(self.count.into())),
            PeriodUnit::Weeks => local.checked_add_days(Days::new(u64::from(self.count) * 7)),
            PeriodUnit::Months => add_months(local, self.count.into()),
            PeriodUnit::Years => add_months(local, i64::from(self.count) * 12),
        };
        let far = FAR.and_time(NaiveTime::MIN);
        later.unwrap_or(far).min(far)
    }
}

/// A day that the month does not have becomes the first of the next one: what is kept until the
/// 29th of a February without one is kept until 1 March, not let go a day early.
fn add_months(local: NaiveDateTime, months: i64) -> Option<NaiveDateTime> {
    let month = i64::from(local.year()) * 12 + i64::from(local.month0()) + months;
    let first = |month: i64| {
        let year = i32::try_from(month.div_euclid(12)).ok()?;
        NaiveDate::from_ymd_opt(year, month.rem_euclid(12) as u32 + 1, 1)
    };
    let date = first(month)?.with_day(local.day()).or_else(|| first(month + 1))?;
    Some(date.and_time(local.time()))
}

/// The stretches of a calendar of which one backup each is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cycle {
    /// Hours.
    Hourly,
    /// Days.
    Daily,
    /// Weeks, which begin on Monday.
    Weekly,
    /// Months.
    Monthly,
    /// Years.
    Yearly,
}

impl Cycle {
    /// From the shortest to the longest.
    pub const ALL: [Self; 5] =
        [Self::Hourly, Self::Daily, Self::Weekly, Self::Monthly, Self::Yearly];

    /// Its name in a policy.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
        }
    }

    fn period(self, count: u32) -> Period {
        let unit = match self {
            Self::Hourly => PeriodUnit::Hours,
            Self::Daily => PeriodUnit::Days,
            Self::Weekly => PeriodUnit::Weeks,
            Self::Monthly => PeriodUnit::Months,
            Self::Yearly => PeriodUnit::Years,
        };
        Period { count, unit }
    }
}

/// One stretch of a calendar, such as a week. Ordered in time among those of one cycle and zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stretch {
    cycle: Cycle,
    start: DateTime<Utc>,
    /// What the wall clock shows when it begins.
    local: NaiveDateTime,
}

impl Stretch {
    /// What kind of stretch it is.
    pub fn cycle(self) -> Cycle {
        self.cycle
    }

    /// The one in which an instant is.
    pub(super) fn of(cycle: Cycle, instant: DateTime<Utc>, zone: Tz) -> Self {
        let shown = instant.with_timezone(&zone).naive_local();
        let date = shown.date();
        let first = match cycle {
            // An hour that is shown twice is two: nothing that is further away tells them apart.
            Cycle::Hourly => {
                let since = TimeDelta::nanoseconds(shown.nanosecond().into())
                    + TimeDelta::seconds((shown.minute() * 60 + shown.second()).into());
                return Self { cycle, start: instant - since, local: shown - since };
            }
            Cycle::Daily => Some(date),
            Cycle::Weekly => {
                let days = date.weekday().num_days_from_monday();
                date.checked_sub_days(Days::new(days.into()))
            }
            Cycle::Monthly => date.with_day(1),
            Cycle::Yearly => NaiveDate::from_ymd_opt(date.year(), 1, 1),
        };
        let local = first.unwrap_or(date).and_time(NaiveTime::MIN);
        Self { cycle, start: first_instant(zone, local), local }
    }

    /// When the stretch begins that is so many later.
    pub(super) fn later(self, count: u32, zone: Tz) -> DateTime<Utc> {
        match self.cycle {
            Cycle::Hourly => self.cycle.period(count).after(self.start, zone),
            cycle => first_instant(zone, cycle.period(count).after_local(self.local)),
        }
    }
}

/// As in `7 years`.
impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            PeriodUnit::Hours => "hour",
            PeriodUnit::Days => "day",
            PeriodUnit::Weeks => "week",
            PeriodUnit::Months => "month",
            PeriodUnit::Years => "year",
        };
        write!(f, "{} {unit}{}", self.count, if self.count == 1 { "" } else { "s" })
    }
}

/// As in `weekly 2026-W48`.
impl fmt::Display for Stretch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pattern = match self.cycle {
            Cycle::Hourly => "%Y-%m-%d %H:00",
            Cycle::Daily => "%Y-%m-%d",
            Cycle::Weekly => "%G-W%V",
            Cycle::Monthly => "%Y-%m",
            Cycle::Yearly => "%Y",
        };
        write!(f, "{} {}", self.cycle.name(), self.local.format(pattern))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Zones whose clocks change on other days, in other directions and by other lengths; the last
    /// but one has summer when others have winter, and the last one changes by half an hour.
    pub(in crate::policy) const ZONES: [Tz; 6] = [
        Tz::Europe__Berlin,
        Tz::America__New_York,
        Tz::Africa__Cairo,
        Tz::America__Santiago,
        Tz::Asia__Kolkata,
        Tz::Australia__Lord_Howe,
    ];

    pub(in crate::policy) fn utc(text: &str) -> DateTime<Utc> {
        format!("{text}Z").parse().unwrap()
    }

    pub(in crate::policy) fn local(text: &str) -> NaiveDateTime {
        text.parse().unwrap()
    }

    pub(in crate::policy) fn berlin(text: &str) -> DateTime<Utc> {
        first_instant(Tz::Europe__Berlin, local(text))
    }

    #[test]
    fn skipped_times_are_the_end_of_the_gap_and_repeated_ones_are_two() {
        let zone = Tz::Europe__Berlin;
        for skipped in ["2026-03-29T02:00:00", "2026-03-29T02:30:00", "2026-03-29T02:59:59"] {
            assert_eq!(first_instant(zone, local(skipped)), utc("2026-03-29T01:00:00"));
            assert_eq!(last_instant(zone, local(skipped)), utc("2026-03-29T01:00:00"));
        }
        let twice = local("2026-10-25T02:30:00");
        assert_eq!(first_instant(zone, twice), utc("2026-10-25T00:30:00"));
        assert_eq!(last_instant(zone, twice), utc("2026-10-25T01:30:00"));
        // Samoa went from the 29th straight to the 31st.
        let samoa = first_instant(Tz::Pacific__Apia, local("2011-12-30T12:00:00"));
        assert_eq!(samoa, utc("2011-12-30T10:00:00"));
        // A day that begins at one o'clock.
        let cairo = NaiveDate::from_ymd_opt(2026, 4, 24).unwrap();
        assert_eq!(midnight(Tz::Africa__Cairo, cairo), utc("2026-04-23T22:00:00"));
    }

    #[test]
    fn years_and_months_end_on_days_that_exist_and_never_early() {
        let date = |text: &str| text.parse::<NaiveDate>().unwrap();
        let after = |count, unit, from| Period { count, unit }.after_date(date(from)).to_string();
        assert_eq!(after(7, PeriodUnit::Years, "2028-02-29"), "2035-03-01");
        assert_eq!(after(4, PeriodUnit::Years, "2028-02-29"), "2032-02-29");
        assert_eq!(after(7, PeriodUnit::Years, "2026-03-31"), "2033-03-31");
        assert_eq!(after(1, PeriodUnit::Months, "2026-01-31"), "2026-03-01");
        assert_eq!(after(13, PeriodUnit::Months, "2026-12-31"), "2028-01-31");
        assert_eq!(after(1, PeriodUnit::Months, "2026-11-30"), "2026-12-30");
        assert_eq!(after(2, PeriodUnit::Weeks, "2026-12-25"), "2027-01-08");
        assert_eq!(after(47, PeriodUnit::Hours, "2026-12-25"), "2026-12-26");
        for unit in [PeriodUnit::Hours, PeriodUnit::Weeks, PeriodUnit::Months, PeriodUnit::Years] {
            let never = Period { count: u32::MAX, unit };
            for zone in ZONES {
                let far = never.after(utc("2026-12-25T12:00:00"), zone);
                assert!(far.year() >= 9999 && midnight(zone, far.date_naive()).year() >= 9999);
            }
            assert_eq!(never.after_date(date("2026-12-25")), FAR);
        }
    }

    #[test]
    fn a_day_later_is_the_same_time_of_day_and_24_hours_are_not() {
        let zone = Tz::Europe__Berlin;
        let before = berlin("2026-03-28T12:00:00");
        let day = Period { count: 1, unit: PeriodUnit::Days };
        let hours = Period { count: 24, unit: PeriodUnit::Hours };
        assert_eq!(day.after(before, zone), berlin("2026-03-29T12:00:00"));
        assert_eq!(hours.after(before, zone), berlin("2026-03-29T13:00:00"));
    }

    #[test]
    fn stretches_have_names_and_order() {
        let names = |instant: DateTime<Utc>| {
            Cycle::ALL.map(|cycle| Stretch::of(cycle, instant, Tz::Europe__Berlin).to_string())
        };
        assert_eq!(
            names(utc("2026-12-31T23:30:00")),
            [
                "hourly 2027-01-01 00:00",
                "daily 2027-01-01",
                "weekly 2026-W53",
                "monthly 2027-01",
                "yearly 2027"
            ]
        );
        let hours = ["2026-10-25T00:10:00", "2026-10-25T00:50:00", "2026-10-25T01:10:00"];
        let [first, same, second] =
            hours.map(|at| Stretch::of(Cycle::Hourly, utc(at), Tz::Europe__Berlin));
        assert_eq!(first, same);
        assert!(first < second, "an hour that comes twice is two hours");
        let week = Stretch::of(Cycle::Weekly, berlin("2026-11-26T12:00:00"), Tz::Europe__Berlin);
        assert_eq!(week.later(8, Tz::Europe__Berlin), berlin("2027-01-18T00:00:00"));
    }
}
