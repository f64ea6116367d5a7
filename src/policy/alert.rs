//! What somebody has to know about a database.
//!
//! Alerts follow from what is promised for a database and never from a job, a host or an endpoint:
//! those may come and go as long as the promise is kept.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use super::{
    anomaly::{Anomaly, Oddity},
    facts::Pause,
    model::{Policy, State},
    promise::{Interval, Reach},
    window::next_begin,
};

/// From this priority on, a hole in the window gets somebody out of bed.
pub const PAGE_PRIORITY: u8 = 80;

/// A copy may be behind for so long, not counting the time until its next window begins.
pub const COPY_LAG_MAX: TimeDelta = TimeDelta::days(1);

/// What is to be archived may wait for so long after it was due, for a gate or the night's window.
pub const ARCHIVE_LAG_MAX: TimeDelta = TimeDelta::days(1);

/// Kinds of what somebody has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// The newest restorable point is older than promised.
    RpoBreached,
    /// Part of the window cannot be restored.
    RestorableGap,
    /// Stored bytes are not what they should be.
    Corruption,
    /// A rehearsed restore found something.
    DrillFailed,
    /// Restoring was not rehearsed for too long.
    DrillOverdue,
    /// The last rehearsed restore took longer than promised.
    RtoBreached,
    /// A copy is behind.
    CopyLag,
    /// Much of it was rewritten where it lies, or is gone.
    SuspiciousChange,
    /// It grew far more than usual.
    UnusualSize,
    /// Rows that were to be archived are still in their tables.
    ArchiveOverdue,
    /// No policy applies to the database.
    Unprotected,
}

/// How soon somebody has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// During working hours.
    Ticket,
    /// Now.
    Page,
}

/// Something that somebody has to know. Class and database tell it from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// What kind.
    pub class: Class,
    /// Of which database.
    pub database: String,
    /// How soon.
    pub urgency: Urgency,
    /// Since when.
    pub since: DateTime<Utc>,
    /// What is the matter, for people.
    pub what: String,
    /// The probable cause. Alerts with the same one belong together.
    pub cause: Option<String>,
    /// Until when nobody is told, because somebody knows.
    pub muted_until: Option<DateTime<Utc>>,
}

/// What is known of how a database is protected.
#[derive(Clone, Copy, Debug)]
pub struct Protection<'a> {
    /// Its name.
    pub database: &'a str,
    /// What can be restored.
    pub reach: Reach<'a>,
    /// The pause that it is in.
    pub pause: Option<Pause>,
    /// The end of the last drill that passed.
    pub drill_passed: Option<DateTime<Utc>>,
    /// How long the last drill that passed needed until the restored database answered.
    pub drill_took: Option<Duration>,
    /// The end of the last drill that found something.
    pub drill_failed: Option<DateTime<Utc>>,
    /// Why nobody does the next one, such as that nobody is at its site.
    pub drill_trouble: Option<&'a str>,
    /// Its copies.
    pub copies: &'a [CopyState<'a>],
    /// Since when it is known that stored bytes are damaged, if they are.
    pub corrupt_since: Option<DateTime<Utc>>,
    /// Since when it is known that the database itself is damaged, if the newest look found that.
    pub damaged_since: Option<DateTime<Utc>>,
    /// The newest of its last backups that is not like those before it.
    pub anomaly: Option<Anomaly>,
    /// Its archive sets for which something is due.
    pub archives: &'a [ArchiveState],
    /// What probably stands in the way, such as `repository primary cannot be reached`.
    pub cause: Option<&'a str>,
}

/// What is due for an archive set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveState {
    /// Its name.
    pub set: String,
    /// Since when.
    pub since: DateTime<Utc>,
    /// How the newest attempt ended, for people.
    pub ended: Option<String>,
}

/// How far a copy has come.
#[derive(Clone, Copy, Debug)]
pub struct CopyState<'a> {
    /// Its name in the policy.
    pub name: &'a str,
    /// Since when the oldest of what it lacks waits for being copied, if anything does.
    pub waiting_since: Option<DateTime<Utc>>,
    /// From when on that could have been copied, by the windows of the repository as well, if that
    /// is known.
    pub could_since: Option<DateTime<Utc>>,
    /// What stands in the way, such as that nobody could look at it.
    pub problem: Option<&'a str>,
}

impl Urgency {
    /// All of them, in their order.
    pub const ALL: [Self; 2] = [Self::Ticket, Self::Page];

    /// Its name in configuration, metrics and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ticket => "ticket",
            Self::Page => "page",
        }
    }
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::RpoBreached,
        Self::RestorableGap,
        Self::Corruption,
        Self::DrillFailed,
        Self::DrillOverdue,
        Self::RtoBreached,
        Self::CopyLag,
        Self::SuspiciousChange,
        Self::UnusualSize,
        Self::ArchiveOverdue,
        Self::Unprotected,
    ];

    /// Their names.
    pub const NAMES: [&str; 11] = {
        let mut names = [""; 11];
        let mut at = 0;
        while at < names.len() {
            names[at] = Self::ALL[at].name();
            at += 1;
        }
        names
    };

    /// Its name in configuration, metrics and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RpoBreached => "rpo-breached",
            Self::RestorableGap => "restorable-gap",
            Self::Corruption => "corruption",
            Self::DrillFailed => "drill-failed",
            Self::DrillOverdue => "drill-overdue",
            Self::RtoBreached => "rto-breached",
            Self::CopyLag => "copy-lag",
            Self::SuspiciousChange => "suspicious-change",
            Self::UnusualSize => "unusual-size",
            Self::ArchiveOverdue => "archive-overdue",
            Self::Unprotected => "unprotected",
        }
    }
}

/// What somebody has to know of a database, at most one of each class, in the order of classes.
///
/// Of a database that retires or is retired, only damage is told.
pub fn alerts(known: &Protection<'_>, policy: Option<&Policy>, now: DateTime<Utc>) -> Vec<Alert> {
    let Some(policy) = policy else {
        let what = "no policy applies to it: nothing is backed up".to_owned();
        let (class, since) = (Class::Unprotected, known.reach.since);
        let alert = Alert { cause: None, ..known.alert(class, Urgency::Ticket, since, what) };
        return (known.reach.state == State::Active).then_some(alert).into_iter().collect();
    };
    let found = [
        known.breach(policy, now),
        known.gap(policy, now),
        known.corruption(policy),
        known.failed_drill(policy),
        known.overdue_drill(policy, now),
        known.slow_drill(policy),
        known.copy_lag(policy, now),
        known.odd(policy),
        known.overdue_archive(policy, now),
    ];
    let is_active = known.reach.state == State::Active;
    let is_told = |alert: &Alert| is_active || alert.class == Class::Corruption;
    found.into_iter().flatten().filter(is_told).collect()
}

impl Protection<'_> {
    fn alert(&self, class: Class, urgency: Urgency, since: DateTime<Utc>, what: String) -> Alert {
        // A pause without an end may have been forgotten: it hides nothing.
        let is_late = matches!(class, Class::RpoBreached | Class::DrillOverdue | Class::CopyLag);
        let muted_until = self.pause.and_then(|pause| pause.until).filter(|_| is_late);
        let (database, cause) = (self.database.to_owned(), self.cause.map(str::to_owned));
        Alert { class, database, urgency, since, what, cause, muted_until }
    }

    fn breach(&self, policy: &Policy, now: DateTime<Utc>) -> Option<Alert> {
        let fresh = self.reach.freshness(policy, now)?;
        let since = fresh.breached_since?;
        let promised = span(policy.rpo);
        let age = length(fresh.age);
        let what = match fresh.newest {
            Some(newest) => format!(
                "the newest restorable point is {}, {age} old; {promised} are promised",
                time(newest, policy.zone)
            ),
            None => format!("there is no backup, {age} after it was added; promised: {promised}"),
        };
        Some(self.alert(Class::RpoBreached, Urgency::Page, since, what))
    }

    fn gap(&self, policy: &Policy, now: DateTime<Utc>) -> Option<Alert> {
        let gaps = self.reach.gaps(policy, now);
        let since = gaps.first()?.from;
        let told = |Interval { from, to }: &Interval| {
            format!("{} - {}", time(*from, policy.zone), time(*to, policy.zone))
        };
        let newest = gaps.last().map(told).unwrap_or_default();
        let what = match gaps.len() {
            1 => format!("nothing can be restored at {newest}"),
            many => format!("{many} gaps in what can be restored; the newest is {newest}"),
        };
        let pages = PAGE_PRIORITY <= policy.priority;
        let urgency = if pages { Urgency::Page } else { Urgency::Ticket };
        Some(self.alert(Class::RestorableGap, urgency, since, what))
    }

    fn corruption(&self, policy: &Policy) -> Option<Alert> {
        let stored = self.corrupt_since.map(|since| (since, "stored bytes are damaged"));
        let copied = self.damaged_since.map(|since| (since, "what is backed up is damaged"));
        let (since, what) = stored.or(copied)?;
        let what = format!("{what}, known since {}", time(since, policy.zone));
        Some(self.alert(Class::Corruption, Urgency::Page, since, what))
    }

    fn failed_drill(&self, policy: &Policy) -> Option<Alert> {
        let failed = self.drill_failed.filter(|failed| self.drill_passed < Some(*failed))?;
        let what = format!("the drill of {} failed", time(failed, policy.zone));
        Some(self.alert(Class::DrillFailed, Urgency::Ticket, failed, what))
    }

    /// A quarter of the period is left for a drill to wait for its turn and to end.
    fn overdue_drill(&self, policy: &Policy, now: DateTime<Utc>) -> Option<Alert> {
        let every = policy.drill.as_ref()?.every;
        let drilled = self.drill_passed.max(self.drill_failed);
        let first_point = self.reach.coverage.iter().map(|interval| interval.from).min();
        let last = drilled.or_else(|| first_point.map(|first| first.max(self.reach.since)))?;
        let due = every.after(last, policy.zone);
        let since = due + (due - last) / 4;
        let what = match drilled {
            Some(last) => format!("the last drill was at {}", time(last, policy.zone)),
            None => "there never was a drill".to_owned(),
        };
        let what = [Some(&*what), self.drill_trouble].into_iter().flatten().collect::<Vec<_>>();
        let what = what.join("; ");
        let alert = self.alert(Class::DrillOverdue, Urgency::Ticket, since, what);
        (since <= now).then_some(alert)
    }

    /// What was measured last counts: one drill that is fast enough ends it.
    fn slow_drill(&self, policy: &Policy) -> Option<Alert> {
        let (at, took) = self.drill_passed.zip(self.drill_took)?;
        let promised = policy.rto.filter(|promised| *promised < took)?;
        let (when, took, promised) = (time(at, policy.zone), span(took), span(promised));
        let what = format!(
            "the drill of {when} needed {took} until the database answered; \
             {promised} are promised"
        );
        Some(self.alert(Class::RtoBreached, Urgency::Ticket, at, what))
    }

    fn copy_lag(&self, policy: &Policy, now: DateTime<Utc>) -> Option<Alert> {
        let late = self.copies.iter().filter_map(|copy| {
            let rule = policy.copies.iter().find(|rule| rule.name == copy.name)?;
            let waiting = copy.waiting_since?;
            let begins = next_begin(&rule.windows, policy.zone, waiting).unwrap_or(waiting);
            let since = begins.max(copy.could_since.unwrap_or(begins)) + COPY_LAG_MAX;
            (since <= now).then_some((since, copy.name, waiting, copy.problem))
        });
        let mut late: Vec<_> = late.collect();
        late.sort_unstable();
        let since = late.first()?.0;
        let told = late.iter().map(|(_, name, waiting, problem)| {
            let waiting = time(*waiting, policy.zone);
            let why = problem.map(|problem| format!(": {problem}")).unwrap_or_default();
            format!("copy {name} lacks what is there since {waiting}{why}")
        });
        let what = told.collect::<Vec<_>>().join("; ");
        Some(self.alert(Class::CopyLag, Urgency::Ticket, since, what))
    }

    fn overdue_archive(&self, policy: &Policy, now: DateTime<Utc>) -> Option<Alert> {
        let late = |archive: &&ArchiveState| archive.since + ARCHIVE_LAG_MAX <= now;
        let mut late: Vec<_> = self.archives.iter().filter(late).collect();
        late.sort_unstable_by_key(|archive| archive.since);
        let first = late.first()?.since + ARCHIVE_LAG_MAX;
        let told = late.iter().map(|archive| {
            let since = time(archive.since, policy.zone);
            let ended = archive.ended.as_deref().unwrap_or("no attempt has ended yet");
            format!("archive set {} is due since {since}: {ended}", archive.set)
        });
        let what = told.collect::<Vec<_>>().join("; ");
        Some(self.alert(Class::ArchiveOverdue, Urgency::Ticket, first, what))
    }

    fn odd(&self, policy: &Policy) -> Option<Alert> {
        let Anomaly { oddity, at, bytes: own, usual_bytes } = self.anomaly?;
        let (when, own, usual) = (time(at, policy.zone), bytes(own), bytes(usual_bytes));
        let (class, what) = match oddity {
            Oddity::Rewritten => {
                let what = format!("{own} were rewritten in the backup of {when}, usually {usual}");
                (Class::SuspiciousChange, what)
            }
            Oddity::Shrunk => {
                let what = format!("it has {own} in the backup of {when}, and had {usual} before");
                (Class::SuspiciousChange, what)
            }
            Oddity::Grown => {
                let what = format!("it has {own} in the backup of {when}, and had {usual} before");
                (Class::UnusualSize, what)
            }
        };
        Some(self.alert(class, Urgency::Ticket, at, what))
    }
}

/// Bytes, as people read them.
fn bytes(bytes: u64) -> String {
    let units = [(1_u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| *unit <= bytes) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} B"),
    }
}

/// A time in the policy's zone, which it names: whoever reads it may be in another one.
fn time(at: DateTime<Utc>, zone: Tz) -> String {
    format!("{} {}", at.with_timezone(&zone).format("%Y-%m-%d %H:%M:%S"), zone.name())
}

/// The two largest units of a length of time, as in `2h 5m`.
fn length(length: TimeDelta) -> String {
    let seconds = length.num_seconds();
    let units = [
        (seconds / 86_400, 'd'),
        (seconds / 3_600 % 24, 'h'),
        (seconds / 60 % 60, 'm'),
        (seconds % 60, 's'),
    ];
    let first = units.iter().position(|(count, _)| *count > 0).unwrap_or(3);
    let told = units[first..].iter().take(2).filter(|(count, _)| *count > 0);
    let told: Vec<_> = told.map(|(count, unit)| format!("{count}{unit}")).collect();
    if told.is_empty() { "0s".to_owned() } else { told.join(" ") }
}

/// The same of what is never negative.
fn span(of: Duration) -> String {
    TimeDelta::from_std(of).map_or_else(|_| String::new(), length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{
        model::{
            CopyRule, CopyWhen, DrillPoint, DrillRule, Keep, Period, PeriodUnit,
            tests::{DAY, HOUR, policy},
        },
        promise::tests::{at, intervals},
    };

    fn promises() -> Policy {
        let every = Period { count: 4, unit: PeriodUnit::Days };
        let copy = CopyRule {
            name: "dr".to_owned(),
            to: "dr".to_owned(),
            from: None,
            when: CopyWhen::Verified,
            kinds: Vec::new(),
            keep: Keep::default(),
            windows: Vec::new(),
            site: None,
        };
        let (point, checks) = (DrillPoint::Latest, Vec::new());
        let drill = DrillRule { every, from: None, point, checks, site: None };
        Policy {
            zone: Tz::UTC,
            rpo: 2 * HOUR,
            pitr_window: 9 * DAY,
            drill: Some(drill),
            copies: vec![copy],
            ..policy()
        }
    }

    fn protection(coverage: &[Interval]) -> Protection<'_> {
        Protection {
            database: "shop/orders",
            reach: Reach { state: State::Active, since: at(0), coverage },
            pause: None,
            drill_passed: Some(at(1)),
            drill_took: None,
            drill_failed: None,
            drill_trouble: None,
            copies: &[],
            corrupt_since: None,
            damaged_since: None,
            anomaly: None,
            archives: &[],
            cause: None,
        }
    }

    fn told(known: &Protection<'_>, policy: &Policy, hour: i64) -> Vec<String> {
        let alerts = alerts(known, Some(policy), at(hour));
        let told = |alert: Alert| {
            let since = (alert.since - at(0)).num_hours();
            format!("{} {:?} since {since}: {}", alert.class.name(), alert.urgency, alert.what)
        };
        alerts.into_iter().map(told).collect()
    }

    #[test]
    fn each_class_says_what_is_the_matter_and_since_when() {
        let policy = promises();
        let coverage = intervals(&[(1, 9), (12, 20)]);
        let waiting_since = Some(at(12));
        let copies = [CopyState { name: "dr", waiting_since, could_since: None, problem: None }];
        let quiet = protection(&coverage[1..]);
        assert_eq!(told(&quiet, &policy, 22), Vec::<String>::new());
        let loud = Protection {
            drill_failed: Some(at(8)),
            copies: &copies,
            corrupt_since: Some(at(7)),
            damaged_since: Some(at(6)),
            ..protection(&coverage)
        };
        assert_eq!(
            told(&loud, &policy, 36),
            [
                "rpo-breached Page since 22: the newest restorable point is \
                 2026-11-01 20:00:00 UTC, 16h old; 2h are promised",
                "restorable-gap Ticket since 9: nothing can be restored at \
                 2026-11-01 09:00:00 UTC - 2026-11-01 12:00:00 UTC",
                "corruption Page since 7: stored bytes are damaged, known since \
                 2026-11-01 07:00:00 UTC",
                "drill-failed Ticket since 8: the drill of 2026-11-01 08:00:00 UTC failed",
                "copy-lag Ticket since 36: copy dr lacks what is there since \
                 2026-11-01 12:00:00 UTC",
            ]
        );
        let damaged = Protection { corrupt_since: None, ..loud };
        assert_eq!(
            told(&damaged, &policy, 36)[2],
            "corruption Page since 6: what is backed up is damaged, known since \
             2026-11-01 06:00:00 UTC"
        );
        // Nothing is late that no window let go.
        let waits = [CopyState { could_since: Some(at(20)), ..copies[0] }];
        let waits = Protection { copies: &waits, ..loud };
        let is_late =
            |now| told(&waits, &policy, now).iter().any(|one| one.starts_with("copy-lag"));
        assert_eq!((is_late(43), is_late(44)), (false, true));
        let important = Policy { priority: PAGE_PRIORITY, ..policy.clone() };
        assert!(told(&loud, &important, 36)[1].starts_with("restorable-gap Page"));
        let abroad = Policy { zone: Tz::Europe__Berlin, ..policy.clone() };
        let told_there = told(&loud, &abroad, 36);
        assert!(told_there[3].contains("of 2026-11-01 09:00:00 Europe/Berlin"), "{told_there:?}");
        let state = State::Retired;
        let retired = Protection { reach: Reach { state, ..loud.reach }, ..loud };
        assert_eq!(told(&retired, &policy, 360).len(), 1);
    }

    #[test]
    fn a_drill_is_overdue_a_quarter_of_its_period_late() {
        let policy = Policy { rpo: 90 * DAY, ..promises() };
        let coverage = intervals(&[(1, 9)]);
        let drilled = protection(&coverage);
        assert_eq!(told(&drilled, &policy, 120), Vec::<String>::new());
        assert_eq!(
            told(&drilled, &policy, 121),
            ["drill-overdue Ticket since 121: the last drill was at 2026-11-01 01:00:00 UTC"]
        );
        let never = Protection { drill_passed: None, ..drilled };
        assert_eq!(
            told(&never, &policy, 121),
            ["drill-overdue Ticket since 121: \
             there never was a drill"]
        );
        let empty = Protection { drill_passed: None, ..protection(&[]) };
        assert_eq!(told(&empty, &policy, 999), Vec::<String>::new());
    }

    /// Row 79: what is promised for a restore is measured by drills, and who promises more is told.
    #[test]
    fn row_79_a_drill_that_takes_longer_than_promised_is_told() {
        let policy = Policy { rto: Some(HOUR), ..promises() };
        let coverage = intervals(&[(1, 9)]);
        let of = |took: Option<Duration>| Protection { drill_took: took, ..protection(&coverage) };
        for took in [None, Some(HOUR / 2), Some(HOUR)] {
            assert_eq!(told(&of(took), &policy, 9), Vec::<String>::new(), "{took:?}");
        }
        let slow = of(Some(HOUR + Duration::from_mins(12)));
        let says = "rto-breached Ticket since 1: the drill of 2026-11-01 01:00:00 UTC needed \
                    1h 12m until the database answered; 1h are promised";
        assert_eq!(told(&slow, &policy, 9), [says]);
        // Nothing is promised there, or nothing any more.
        assert_eq!(told(&slow, &promises(), 9), Vec::<String>::new());
        let state = State::Retired;
        let retired = Protection { reach: Reach { state, ..slow.reach }, ..slow };
        assert_eq!(told(&retired, &policy, 9), Vec::<String>::new());
        // A pause keeps nothing of it quiet: no time makes it better.
        let paused =
            Protection { pause: Some(Pause { since: at(0), until: Some(at(40)) }), ..slow };
        assert_eq!(alerts(&paused, Some(&policy), at(9))[0].muted_until, None);
    }

    #[test]
    fn what_is_to_be_archived_may_wait_for_a_day() {
        let of = |set: &str, hour, ended: Option<&str>| ArchiveState {
            set: set.to_owned(),
            since: at(hour),
            ended: ended.map(str::to_owned),
        };
        let sets = [of("orders", 3, None), of("events", 1, Some("the gate is closed"))];
        let coverage = intervals(&[(0, 40)]);
        let known = Protection { archives: &sets, ..protection(&coverage) };
        assert_eq!(told(&known, &promises(), 24), Vec::<String>::new());
        let events = "archive set events is due since 2026-11-01 01:00:00 UTC: the gate is closed";
        let told = |hour| told(&known, &promises(), hour);
        assert_eq!(told(25), [format!("archive-overdue Ticket since 25: {events}")]);
        let orders = "archive set orders is due since 2026-11-01 03:00:00 UTC: \
                      no attempt has ended yet";
        assert_eq!(told(27), [format!("archive-overdue Ticket since 25: {events}; {orders}")]);
    }

    #[test]
    fn only_a_pause_with_an_end_keeps_quiet() {
        let coverage = intervals(&[(1, 9)]);
        let muted = |until: Option<DateTime<Utc>>| {
            let pause = Some(Pause { since: at(0), until });
            let known = Protection { pause, ..protection(&coverage) };
            alerts(&known, Some(&promises()), at(30))[0].muted_until
        };
        assert_eq!(muted(Some(at(40))), Some(at(40)));
        assert_eq!(muted(None), None);
    }

    #[test]
    fn a_database_without_a_policy_is_told() {
        let known = protection(&[]);
        let found = alerts(&known, None, at(1));
        assert_eq!(found.iter().map(|a| a.class.name()).collect::<Vec<_>>(), ["unprotected"]);
    }

    #[test]
    fn lengths_are_short() {
        let told = |seconds| length(TimeDelta::seconds(seconds));
        assert_eq!(
            [0, 59, 61, 7500, 86_400, 90_061].map(told),
            ["0s", "59s", "1m 1s", "2h 5m", "1d", "1d 1h"]
        );
    }
}
