//! A policy, as it was written down.

use std::time::Duration;

use chrono::{NaiveTime, Weekday};
use chrono_tz::Tz;

/// What is promised for every database that has it, and how the promise is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// Whether anything is done for it.
    pub mode: Mode,
    /// The zone of its calendar: schedules, windows, and the days and months of what is kept.
    pub zone: Tz,
    /// How old the newest restorable point may be.
    pub rpo: Duration,
    /// How long a restore may take.
    pub rto: Option<Duration>,
    /// How far back every instant can be reached.
    pub pitr_window: Duration,
    /// When every block is read. Without this and `incremental`, what changed is read as often as
    /// the RPO demands.
    pub full: Option<Timing>,
    /// When only what changed is read.
    pub incremental: Option<Timing>,
    /// How log is captured.
    pub logs: Logs,
    /// Which backups are kept beyond the window.
    pub keep: Keep,
    /// So many of the newest verified backups are never removed.
    pub floor: u32,
    /// What happens after times at which nothing could run.
    pub missed: Missed,
    /// When nothing is started. Log is captured all the same.
    pub blackout: Vec<Window>,
    /// When copies, drills and archiving pause as well.
    pub blackout_hard: Vec<Window>,
    /// Who goes first when not all can: the larger number.
    pub priority: u8,
    /// After how long without progress an attempt is ended.
    pub stall: Duration,
    /// Where else backups are kept.
    pub copies: Vec<CopyRule>,
    /// How restoring is rehearsed.
    pub drill: Option<DrillRule>,
}

/// How far a database is on its way out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// It is protected.
    #[default]
    Active,
    /// Its last state is about to be stored; nothing else is.
    Retiring,
    /// Nothing is stored any more. What is there is kept, verified and restored as before.
    Retired,
}

/// Whether anything is done for what is promised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Whatever it takes.
    #[default]
    Protect,
    /// Nothing: it is watched and told whether others keep the promise.
    Observe,
}

impl Mode {
    /// Their names.
    pub const NAMES: [&str; 2] = ["protect", "observe"];
}

/// What is run for a database by its calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A backup that reads every block.
    Full,
    /// A backup that reads what changed.
    Incremental,
    /// A rehearsed restore.
    Drill,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Full, Self::Incremental, Self::Drill];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Incremental => "incremental",
            Self::Drill => "drill",
        }
    }
}

/// Times of a calendar, and over how long they are spread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Five fields of cron, or a word such as `@daily`.
    pub pattern: String,
    /// Each database has a place of its own in so much time after each of them.
    pub spread: Duration,
}

/// How log is captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logs {
    /// Not at all: backups are the only points.
    Never,
    /// All the time.
    Stream,
    /// Now and then.
    Every(Duration),
}

/// What happens after times at which nothing could run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    /// They are left out.
    None,
    /// The latest of them is made up for, if it is no older than this.
    Latest(Duration),
    /// Each is made up for, if it is no older than this.
    All(Duration),
}

/// Which backups are kept beyond the window: of each of the last so many periods of the calendar,
/// the first that was verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// The newest.
    pub last: u32,
    /// Of hours.
    pub hourly: u32,
    /// Of days.
    pub daily: u32,
    /// Of weeks, which begin on Monday.
    pub weekly: u32,
    /// Of months.
    pub monthly: u32,
    /// Of years.
    pub yearly: u32,
    /// Every one, for so long.
    pub every: Option<Period>,
    /// Every one, until so long after an event.
    pub event: Option<EventRule>,
    /// Until whoever it was handed to has confirmed to have it.
    pub until_acknowledged: bool,
}

/// A length of time in a calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// How many.
    pub count: u32,
    /// Of what.
    pub unit: PeriodUnit,
}

/// A unit of a calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeriodUnit {
    /// Hours, which are 3,600 seconds everywhere.
    Hours,
    /// Days.
    Days,
    /// Weeks.
    Weeks,
    /// Months; a day that a month does not have is the first of the next.
    Months,
    /// Years; after 29 February comes 1 March.
    Years,
}

/// Until so long after something happened to somebody; as long as that is not known, for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRule {
    /// How long after it.
    pub after: Period,
    /// What has to happen, such as `relationship_end`.
    pub event: String,
    /// Whom it happens to: the name of a column, or `database`.
    pub subject: String,
}

impl Policy {
    /// The sites that its copies and its drills are bound to.
    pub fn sites(&self) -> impl Iterator<Item = &str> {
        let copies = self.copies.iter().filter_map(|copy| copy.site.as_deref());
        copies.chain(self.drill.as_ref().and_then(|drill| drill.site.as_deref()))
    }

    /// Whether whatever another policy keeps is kept as long by this one. Where that cannot be
    /// told by the words alone, it is not.
    pub fn keeps_as_much_as(&self, other: &Self) -> bool {
        other.pitr_window <= self.pitr_window
            && other.floor.max(1) <= self.floor.max(1)
            && self.zone == other.zone
            && self.keep.is_as_much_as(&other.keep)
    }
}

impl Policy {
    /// Whether whatever a copy of another policy keeps is kept as long by one of this.
    pub fn copies_as_much_as(&self, own: &CopyRule, (other, theirs): (&Self, &CopyRule)) -> bool {
        let has_all = theirs.kinds.iter().all(|kind| own.kinds.contains(kind));
        let has_log = theirs.kinds.contains(&CopyKind::Logs);
        has_all
            && (!has_log || other.pitr_window <= self.pitr_window)
            && other.floor.max(1) <= self.floor.max(1)
            && self.zone == other.zone
            && own.keep.is_as_much_as(&theirs.keep)
    }
}

impl Keep {
    fn is_as_much_as(&self, other: &Self) -> bool {
        let counts = |keep: &Self| {
            [keep.last, keep.hourly, keep.daily, keep.weekly, keep.monthly, keep.yearly]
        };
        let is_longer =
            |own: Period, other: Period| own.unit == other.unit && other.count <= own.count;
        let every = match (self.every, other.every) {
            (_, None) => true,
            (Some(own), Some(other)) => is_longer(own, other),
            (None, Some(_)) => false,
        };
        let event = match (&self.event, &other.event) {
            (_, None) => true,
            (Some(own), Some(other)) => {
                (&own.event, &own.subject) == (&other.event, &other.subject)
                    && is_longer(own.after, other.after)
            }
            (None, Some(_)) => false,
        };
        let acknowledged = self.until_acknowledged || !other.until_acknowledged;
        counts(other).iter().zip(counts(self)).all(|(other, own)| *other <= own)
            && every
            && event
            && acknowledged
    }
}

/// A stretch of the days of a week. One that ends no later than it begins ends on the next day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// On which days it begins; at least one.
    pub days: Vec<Weekday>,
    /// When it begins.
    pub from: NaiveTime,
    /// When it ends; the end is no part of it.
    pub to: NaiveTime,
    /// The zone of its clock, where it is another one than that of everything else.
    pub zone: Option<Tz>,
}

/// Another place where backups are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyRule {
    /// Its name.
    pub name: String,
    /// The repository that gets them.
    pub to: String,
    /// The name of the copy that they are read from; without one, they come from the first
    /// repository.
    pub from: Option<String>,
    /// Which of them may go.
    pub when: CopyWhen,
    /// Which kinds go.
    pub kinds: Vec<CopyKind>,
    /// What is kept there.
    pub keep: Keep,
    /// When it may run; always, if there is none.
    pub windows: Vec<Window>,
    /// The site whose workers make it; without one, whoever serves does.
    pub site: Option<String>,
}

/// Which backups may be copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CopyWhen {
    /// Those whose bytes were read back, and proven.
    #[default]
    Verified,
}

/// What of a database is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CopyKind {
    /// Backups that read every block.
    Full,
    /// Backups that read what changed.
    Incremental,
    /// Log.
    Logs,
}

/// How restoring is rehearsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrillRule {
    /// How often.
    pub every: Period,
    /// The copy that is used; without one, the first repository.
    pub from: Option<String>,
    /// Which point.
    pub point: DrillPoint,
    /// Statements and the answers that are expected.
    pub checks: Vec<(String, String)>,
    /// The site whose workers do it; without one, whoever serves does.
    pub site: Option<String>,
}

/// Which point a drill restores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DrillPoint {
    /// The newest.
    Latest,
    /// Any of the window.
    #[default]
    Random,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::policy) const HOUR: Duration = Duration::from_hours(1);
    pub(in crate::policy) const DAY: Duration = Duration::from_hours(24);

    pub(in crate::policy) fn timing(pattern: &str) -> Timing {
        Timing { pattern: pattern.to_owned(), spread: Duration::ZERO }
    }

    /// One with neither calendar nor windows.
    pub(in crate::policy) fn policy() -> Policy {
        Policy {
            name: "tier1".to_owned(),
            mode: Mode::Protect,
            zone: Tz::Europe__Berlin,
            rpo: HOUR,
            rto: None,
            pitr_window: 14 * DAY,
            full: None,
            incremental: None,
            logs: Logs::Stream,
            keep: Keep::default(),
            floor: 2,
            missed: Missed::Latest(12 * HOUR),
            blackout: Vec::new(),
            blackout_hard: Vec::new(),
            priority: 50,
            stall: HOUR / 4,
            copies: Vec::new(),
            drill: None,
        }
    }

    #[test]
    fn a_policy_keeps_as_much_as_another_only_if_nothing_of_it_is_less() {
        let days = |count| Some(Period { count, unit: PeriodUnit::Days });
        let rule = |count| EventRule {
            after: Period { count, unit: PeriodUnit::Years },
            event: "end".to_owned(),
            subject: "database".to_owned(),
        };
        let base = Policy {
            floor: 2,
            pitr_window: 2 * DAY,
            keep: Keep {
                last: 2,
                weekly: 4,
                every: days(3),
                event: Some(rule(7)),
                ..Keep::default()
            },
            ..policy()
        };
        let with = |change: &dyn Fn(&mut Policy)| {
            let mut changed = base.clone();
            change(&mut changed);
            (changed.keeps_as_much_as(&base), base.keeps_as_much_as(&changed))
        };
        assert_eq!(with(&|_| ()), (true, true));
        assert_eq!(with(&|p| p.floor = 1), (false, true));
        assert_eq!(with(&|p| p.pitr_window = DAY), (false, true));
        assert_eq!(with(&|p| p.keep.weekly = 3), (false, true));
        assert_eq!(with(&|p| p.keep.yearly = 1), (true, false));
        assert_eq!(with(&|p| p.keep.every = days(2)), (false, true));
        assert_eq!(with(&|p| p.keep.every = None), (false, true));
        // Whether a month is longer than thirty days depends on the month.
        let month = Some(Period { count: 1, unit: PeriodUnit::Months });
        assert_eq!(with(&|p| p.keep.every = month), (false, false));
        assert_eq!(with(&|p| p.keep.event = Some(rule(6))), (false, true));
        assert_eq!(with(&|p| p.keep.event = None), (false, true));
        // The same hours are other days elsewhere.
        assert_eq!(with(&|p| p.zone = Tz::Asia__Tokyo), (false, false));
    }
}
