//! Windows of a week: whether one is open, until when, and when the next one is.

use chrono::{DateTime, Datelike as _, Days, NaiveDate, Utc};
use chrono_tz::Tz;

use super::{
    civil::{first_instant, last_instant},
    model::Window,
};

/// Every window begins at least once in so many days, also where the calendar skips one.
const DAYS_AHEAD: u64 = 9;

/// Windows that follow each other without a break for longer than this have no end.
const CHAINED_MAX: usize = 64;

impl Window {
    /// From when until when it is open, if it begins on that day.
    ///
    /// Both are read off a wall clock: one that begins in an hour that is shown twice begins the
    /// first time, and one that ends there ends the last time.
    fn on(&self, date: NaiveDate, zone: Tz) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
        let zone = self.zone.unwrap_or(zone);
        if !self.days.contains(&date.weekday()) {
            return None;
        }
        let last = if self.to <= self.from { date.succ_opt()? } else { date };
        let (from, to) = (date.and_time(self.from), last.and_time(self.to));
        let (start, end) = (first_instant(zone, from), last_instant(zone, to));
        // The clock skipped all of it, or the day itself.
        (start < end).then_some((start, end))
    }

    /// The day that its clock shows.
    fn today(&self, at: DateTime<Utc>, zone: Tz) -> NaiveDate {
        at.with_timezone(&self.zone.unwrap_or(zone)).date_naive()
    }
}

/// When the windows close that are open at an instant: `None` when none is.
///
/// Those that follow each other without a break count as one. When they never close, the answer
/// is the latest time that was looked at, and asking again then gives a later one.
pub fn open_until(windows: &[Window], zone: Tz, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let end_at = |at: DateTime<Utc>| {
        let all = windows.iter().flat_map(|window| {
            let today = window.today(at, zone);
            let dates = [today.pred_opt(), Some(today)].into_iter().flatten();
            dates.filter_map(move |date| window.on(date, zone))
        });
        all.filter(|(start, end)| *start <= at && at < *end).map(|(_, end)| end).max()
    };
    std::iter::successors(end_at(at), |end| end_at(*end)).take(CHAINED_MAX).last()
}

/// Whether an instant is in one of the windows.
pub fn is_open(windows: &[Window], zone: Tz, at: DateTime<Utc>) -> bool {
    open_until(windows, zone, at).is_some()
}

/// When the next window begins after an instant.
pub fn next_begin(windows: &[Window], zone: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let all = windows.iter().flat_map(|window| {
        let today = window.today(after, zone);
        let dates = (0..DAYS_AHEAD).filter_map(move |day| today.checked_add_days(Days::new(day)));
        dates.filter_map(move |date| window.on(date, zone))
    });
    all.map(|(start, _)| start).filter(|start| after < *start).min()
}

#[cfg(test)]
pub(super) mod tests {
    use chrono::{TimeDelta, Weekday};
    use proptest::prelude::*;

    use super::*;
    use crate::policy::civil::tests::{ZONES, berlin, utc};

    const WEEK: [Weekday; 7] = [
        Weekday::Mon,
        Weekday::Tue,
        Weekday::Wed,
        Weekday::Thu,
        Weekday::Fri,
        Weekday::Sat,
        Weekday::Sun,
    ];

    pub(in crate::policy) fn window(days: &[Weekday], from: &str, to: &str) -> Window {
        let time = |text: &str| format!("{text}:00").parse().unwrap();
        Window { days: days.to_vec(), from: time(from), to: time(to), zone: None }
    }

    fn until(windows: &[Window], at: &str) -> Option<DateTime<Utc>> {
        open_until(windows, Tz::Europe__Berlin, berlin(at))
    }

    #[test]
    fn a_window_is_open_from_its_beginning_until_before_its_end() {
        let work = [window(&WEEK[..5], "08:00", "18:00")];
        assert_eq!(until(&work, "2026-11-26T07:59:59"), None);
        assert_eq!(until(&work, "2026-11-26T08:00:00"), Some(berlin("2026-11-26T18:00:00")));
        assert_eq!(until(&work, "2026-11-26T18:00:00"), None);
        assert_eq!(until(&work, "2026-11-28T12:00:00"), None);
        let friday = berlin("2026-11-27T08:00:00");
        assert_eq!(
            next_begin(&work, Tz::Europe__Berlin, friday),
            Some(berlin("2026-11-30T08:00:00"))
        );
        assert_eq!(next_begin(&[], Tz::Europe__Berlin, friday), None);
        let once = [window(&[Weekday::Fri], "08:00", "09:00")];
        assert_eq!(
            next_begin(&once, Tz::Europe__Berlin, friday),
            Some(berlin("2026-12-04T08:00:00"))
        );
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
        let night = [window(&[Weekday::Sun], "20:00", "06:00")];
        assert_eq!(until(&night, "2026-11-29T23:00:00"), Some(berlin("2026-11-30T06:00:00")));
        assert_eq!(until(&night, "2026-11-30T05:59:59"), Some(berlin("2026-11-30T06:00:00")));
        assert_eq!(until(&night, "2026-11-29T05:00:00"), None);
        let day = [window(&[Weekday::Sat], "00:00", "00:00")];
        assert_eq!(until(&day, "2026-11-28T00:00:00"), Some(berlin("2026-11-29T00:00:00")));
    }

    #[test]
    fn windows_that_touch_are_one_and_some_never_close() {
        let both =
            [window(&[Weekday::Thu], "20:00", "00:00"), window(&[Weekday::Fri], "00:00", "06:00")];
        assert_eq!(until(&both, "2026-11-26T21:00:00"), Some(berlin("2026-11-27T06:00:00")));
        let always = [window(&WEEK, "00:00", "00:00")];
        let end = until(&always, "2026-11-26T21:00:00").unwrap();
        assert!(berlin("2026-12-26T21:00:00") < end);
        assert!(is_open(&always, Tz::Europe__Berlin, end));
    }

    #[test]
    fn changed_clocks_make_windows_shorter_or_longer() {
        let night = [window(&WEEK, "01:30", "02:30")];
        // 02:30 was skipped: it ends where the clock went on, at three.
        assert_eq!(until(&night, "2026-03-29T01:45:00"), Some(utc("2026-03-29T01:00:00")));
        // It came twice, and each time it is not yet half past two.
        let second = utc("2026-10-25T01:15:00");
        assert_eq!(until(&night, "2026-10-25T01:45:00"), Some(utc("2026-10-25T01:30:00")));
        assert!(is_open(&night, Tz::Europe__Berlin, second));
        let skipped = [window(&WEEK, "02:00", "03:00")];
        assert_eq!(until(&skipped, "2026-03-29T03:00:00"), None);
        assert_eq!(
            next_begin(&skipped, Tz::Europe__Berlin, berlin("2026-03-28T12:00:00")),
            Some(berlin("2026-03-30T02:00:00"))
        );
    }

    pub(in crate::policy) fn windows() -> impl Strategy<Value = Vec<Window>> {
        let day = proptest::sample::select(WEEK.to_vec());
        let one = (proptest::collection::vec(day, 1..4), 0..96u32, 0..96u32);
        let one = one.prop_map(|(days, from, to)| {
            let time = |quarter: u32| format!("{:02}:{:02}", quarter / 4, quarter % 4 * 15);
            window(&days, &time(from), &time(to))
        });
        proptest::collection::vec(one, 0..4)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn ends_are_outside_and_beginnings_inside(
            windows in windows(),
            zone in proptest::sample::select(ZONES.to_vec()),
            minutes in 0..2 * 365 * 24 * 60i64,
        ) {
            let at = utc("2026-01-01T00:00:00") + TimeDelta::minutes(minutes);
            if let Some(end) = open_until(&windows, zone, at) {
                prop_assert!(at < end);
                prop_assert!(!is_open(&windows, zone, end));
                prop_assert!(is_open(&windows, zone, end - TimeDelta::seconds(1)));
            }
            if let Some(begin) = next_begin(&windows, zone, at) {
                prop_assert!(at < begin && is_open(&windows, zone, begin));
                if !is_open(&windows, zone, at) {
                    let quarter = TimeDelta::minutes(15);
                    let mut before = std::iter::successors(Some(at), |at| Some(*at + quarter))
                        .take_while(|at| *at < begin);
                    prop_assert!(before.all(|at| !is_open(&windows, zone, at)));
                }
            }
        }
    }
}
