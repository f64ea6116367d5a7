//! What is due for one database, and what becomes of everything that is due.
//!
//! Every due time ends in exactly one way: it is run, it is covered by another run, or it is
//! skipped for a reason. Until then it stays open, and is looked at again.

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    calendar::{BadPattern, Calendar},
    facts::{Facts, Need},
    model::{Kind, Missed, Policy, State, Timing},
    series::Series,
    window::open_until,
};

/// A due time that is no older than this is on time: nobody looks every second.
pub const GRACE: TimeDelta = TimeDelta::minutes(5);

/// Due times that are settled in one go. What is left comes the next time.
pub const DUE_TIMES_MAX: usize = 10_000;

/// What to do for one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Due times that are settled by this, in order.
    pub settled: Vec<Settled>,
    /// Until when all of them are; what is open is later.
    pub looked: DateTime<Utc>,
    /// What comes next.
    pub step: Step,
}

/// A due time, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// When it was due.
    pub due: DateTime<Utc>,
    /// What became of it.
    pub fate: Fate,
}

/// What became of a due time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is run.
    Run,
    /// The run for another due time stands for it.
    Coalesced(DateTime<Utc>),
    /// It is left out.
    Skipped(Skip),
}

/// Why a due time is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// The database is retired, or about to be.
    Retired,
    /// It was paused then, or before anything was made up for.
    Paused,
    /// It was in a blackout, and is not made up for.
    Blackout,
    /// Nothing could run then, and it is too long ago.
    TooOld,
    /// There is no backup whose changes could be read.
    NoBackup,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Begin now.
    Run {
        /// The due time that it is for. Together with database and kind it names the run.
        due: DateTime<Utc>,
        /// Why.
        why: Why,
    },
    /// Look again then; with no time, when something else happens.
    Wait {
        /// When.
        until: Option<DateTime<Utc>>,
        /// For what.
        what: Waiting,
    },
}

/// Why something is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The calendar says so.
    Calendar,
    /// The calendar said so when nothing could run.
    CatchUp,
    /// What is promised demands it, and no calendar is given.
    Promise,
    /// There is no backup.
    First,
    /// Captured log joins no backup.
    Gap,
    /// The last attempt did not end well.
    Retry,
}

/// For what is waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// For the next due time.
    Due,
    /// For the end of a blackout.
    Blackout,
    /// For the end of a pause.
    Pause,
    /// For the end of another attempt.
    Running,
    /// Until a failed attempt may be repeated.
    Backoff,
    /// For the first backup.
    NoBackup,
    /// For nothing: the database is retired, or about to be.
    Retired,
}

/// A policy's calendars, ready for use. All databases with the policy share them.
#[derive(Clone, Debug)]
pub struct Schedule<'a> {
    policy: &'a Policy,
    full: Option<Calendar>,
    incremental: Option<Calendar>,
}

impl<'a> Schedule<'a> {
    /// Reads the patterns of a policy.
    ///
    /// # Errors
    ///
    /// What is wrong with one of them.
    pub fn new(policy: &'a Policy) -> Result<Self, BadPattern> {
        let calendar = |timing: &Option<Timing>| {
            timing.as_ref().map(|timing| Calendar::new(timing, policy.zone)).transpose()
        };
        let (full, incremental) = (calendar(&policy.full)?, calendar(&policy.incremental)?);
        Ok(Self { policy, full, incremental })
    }

    /// What is due of each kind.
    pub fn decide(&self, facts: &Facts<'_>, now: DateTime<Utc>) -> [(Kind, Decision); 3] {
        let full = self.decide_one(Kind::Full, facts, None, now);
        let beside = match full.step {
            Step::Run { due, .. } => Some(due),
            Step::Wait { .. } => None,
        };
        let incremental = self.decide_one(Kind::Incremental, facts, beside, now);
        let drill = self.decide_one(Kind::Drill, facts, None, now);
        [(Kind::Full, full), (Kind::Incremental, incremental), (Kind::Drill, drill)]
    }

    /// The next due time after an instant, whatever stands against it.
    pub fn next(
        &self,
        kind: Kind,
        facts: &Facts<'_>,
        after: DateTime<Utc>,
    ) -> Option<DateTime<Utc>> {
        self.series(kind, facts).next(after)
    }

    /// How much later than the calendar of a kind says a database comes.
    pub fn offset(&self, kind: Kind, database: &str) -> TimeDelta {
        let calendar = match kind {
            Kind::Full => &self.full,
            Kind::Incremental => &self.incremental,
            Kind::Drill => &None,
        };
        calendar.as_ref().map_or_else(TimeDelta::zero, |one| one.turns(database).offset())
    }

    fn series<'s>(&'s self, kind: Kind, facts: &Facts<'_>) -> Series<'s> {
        let turns = |calendar: &'s Option<Calendar>| match calendar {
            Some(calendar) => Series::Calendar(calendar.turns(facts.database)),
            None => Series::Never,
        };
        match kind {
            Kind::Full => turns(&self.full),
            Kind::Incremental if self.full.is_none() && self.incremental.is_none() => {
                Series::derived(self.policy, facts)
            }
            Kind::Incremental => turns(&self.incremental),
            Kind::Drill => Series::drills(self.policy, facts),
        }
    }

    /// `beside` is the due time of a full backup that begins at the same time.
    fn decide_one(
        &self,
        kind: Kind,
        facts: &Facts<'_>,
        beside: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Decision {
        let series = self.series(kind, facts);
        let open = Open::new(&series, facts.looked_until(kind), now);
        let mut question = Question { policy: self.policy, kind, facts, series, open, now };
        let step = question.obstacle(beside).unwrap_or_else(|| question.begin());
        question.open.decide(step, now)
    }
}

/// What is due of one kind.
struct Question<'a> {
    policy: &'a Policy,
    kind: Kind,
    facts: &'a Facts<'a>,
    series: Series<'a>,
    open: Open,
    now: DateTime<Utc>,
}

impl Question<'_> {
    /// What stands against it for longer than a blackout does.
    fn obstacle(&mut self, beside: Option<DateTime<Utc>>) -> Option<Step> {
        let (kind, facts, now) = (self.kind, self.facts, self.now);
        let wait = |until, what| Some(Step::Wait { until, what });
        if facts.state != State::Active {
            self.open.skip_all(Skip::Retired);
            return wait(None, Waiting::Retired);
        }
        if let Some(pause) = facts.pauses.iter().find(|pause| pause.covers(now)) {
            self.open.skip_all(Skip::Paused);
            return wait(pause.until, Waiting::Pause);
        }
        // Its end fires nothing: neither what it kept from running, nor what had waited before.
        let was_paused = |due| facts.pauses.iter().any(|pause| pause.ended_after(due, now));
        self.open.skip(was_paused, |_| Skip::Paused);
        if let Some(running) = facts.running(kind) {
            // An increment does not stand for a full backup that becomes due meanwhile.
            if running.kind <= kind && !self.is_each_made_up_for() {
                self.open.coalesce(running.due);
            }
            return wait(None, Waiting::Running);
        }
        let has_none = matches!(facts.need, Some(Need::First(_)));
        match (kind, beside) {
            (Kind::Incremental, Some(full)) => {
                self.open.coalesce(full);
                wait(None, Waiting::Running)
            }
            (Kind::Incremental, None) if has_none => {
                self.open.skip_all(Skip::NoBackup);
                wait(None, Waiting::NoBackup)
            }
            (Kind::Drill, _) if has_none => wait(None, Waiting::NoBackup),
            _ => None,
        }
    }

    fn begin(&mut self) -> Step {
        let (kind, facts, now) = (self.kind, self.facts, self.now);
        self.leave_out_missed();
        let next = self.open.next.or_else(|| self.series.next(now));
        let need = facts.need.filter(|_| kind == Kind::Full);
        let retry = facts.retry(kind, now);
        if let Some(end) = self.policy.closed_until(now) {
            let is_waiting = need.is_some() || retry.is_some() || !self.open.is_empty();
            return if is_waiting || next.is_some_and(|next| next < end) {
                Step::Wait { until: Some(end), what: Waiting::Blackout }
            } else {
                Step::Wait { until: next, what: Waiting::Due }
            };
        }
        let ready = facts.ready_at(kind);
        if let Some((due, why)) = need.map(Need::run).filter(|_| ready.is_none_or(|at| at <= now)) {
            self.open.coalesce(due);
            return Step::Run { due, why };
        }
        if let Some(due) = self.open.run(self.is_each_made_up_for()) {
            let why = if self.series.is_derived() {
                Why::Promise
            } else if now - due <= GRACE {
                Why::Calendar
            } else {
                Why::CatchUp
            };
            return Step::Run { due, why };
        }
        let again = ready.filter(|_| need.is_some() || retry.is_some());
        match (retry, again) {
            (Some(due), Some(at)) if at <= now => Step::Run { due, why: Why::Retry },
            (_, Some(at)) if next.is_none_or(|next| at < next) => {
                Step::Wait { until: Some(at), what: Waiting::Backoff }
            }
            _ => Step::Wait { until: next, what: Waiting::Due },
        }
    }

    fn is_each_made_up_for(&self) -> bool {
        matches!(self.policy.missed, Missed::All(_)) && !self.series.is_derived()
    }

    fn leave_out_missed(&mut self) {
        if self.series.is_derived() {
            return;
        }
        let within = match self.policy.missed {
            Missed::None => GRACE,
            Missed::Latest(within) | Missed::All(within) => {
                TimeDelta::from_std(within).unwrap_or(TimeDelta::MAX).max(GRACE)
            }
        };
        let (policy, now) = (self.policy, self.now);
        let reason = |due| match policy.closed_until(due) {
            Some(_) => Skip::Blackout,
            None => Skip::TooOld,
        };
        self.open.skip(|due| within < now - due, reason);
    }
}

impl Policy {
    /// Until when nothing may be started: `None` when something may.
    pub fn closed_until(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let windows = [self.blackout.as_slice(), &self.blackout_hard].concat();
        open_until(&windows, self.zone, at)
    }
}

/// Due times that are not settled yet, in order, and those that were settled on the way.
#[derive(Debug)]
struct Open {
    looked: DateTime<Utc>,
    settled: Vec<Settled>,
    due: Vec<DateTime<Utc>>,
    /// The first one after those, if there is one.
    next: Option<DateTime<Utc>>,
    /// Whether there were more than fit.
    is_cut: bool,
}

impl Open {
    fn new(series: &Series<'_>, looked: DateTime<Utc>, now: DateTime<Utc>) -> Self {
        let (due, next) = series.between(looked, now, DUE_TIMES_MAX);
        let is_cut = due.len() == DUE_TIMES_MAX;
        // A clock that was set back has others before it again.
        let next = next.filter(|_| looked <= now && !is_cut);
        Self { looked, settled: Vec::new(), due, next, is_cut }
    }

    fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    /// Settles the first `count`. Later ones are never settled before earlier ones, so that what
    /// is open can be told by one instant.
    fn settle(&mut self, count: usize, fate: impl Fn(DateTime<Utc>) -> Fate) {
        let settled = self.due.drain(..count);
        self.settled.extend(settled.map(|due| Settled { due, fate: fate(due) }));
    }

    fn skip(
        &mut self,
        is_skipped: impl Fn(DateTime<Utc>) -> bool,
        reason: impl Fn(DateTime<Utc>) -> Skip,
    ) {
        let count = self.due.iter().take_while(|due| is_skipped(**due)).count();
        self.settle(count, |due| Fate::Skipped(reason(due)));
    }

    fn skip_all(&mut self, reason: Skip) {
        self.skip(|_| true, |_| reason);
    }

    fn coalesce(&mut self, into: DateTime<Utc>) {
        self.settle(self.due.len(), |_| Fate::Coalesced(into));
    }

    /// Runs the oldest, and leaves the others open; or the latest, which stands for all.
    fn run(&mut self, is_each: bool) -> Option<DateTime<Utc>> {
        let count = if is_each { 1 } else { self.due.len() };
        let due = *self.due.get(count.checked_sub(1)?)?;
        self.settle(count, |at| if at == due { Fate::Run } else { Fate::Coalesced(due) });
        Some(due)
    }

    fn decide(self, step: Step, now: DateTime<Utc>) -> Decision {
        let settled = self.settled.last().map(|settled| settled.due);
        let is_done = self.due.is_empty() && !self.is_cut;
        // A clock that was set back does not make what is settled due again.
        let looked = if is_done { now } else { settled.unwrap_or(self.looked) };
        let step = match step {
            Step::Wait { what, .. } if self.is_cut => Step::Wait { until: Some(now), what },
            step => step,
        };
        Decision { settled: self.settled, looked: looked.max(self.looked), step }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::policy::{
        civil::tests::berlin,
        facts::{Attempt, Outcome, Pause},
        model::{
            DrillPoint, DrillRule, Logs, Period, PeriodUnit,
            tests::{HOUR, policy, timing},
        },
        window::tests::window,
    };

    /// A Thursday; everything before midnight is settled.
    fn at(time: &str) -> DateTime<Utc> {
        berlin(&format!("2026-11-26T{time}:00"))
    }

    #[derive(Default)]
    struct Known {
        state: State,
        pauses: Vec<Pause>,
        attempts: Vec<Attempt>,
        need: Option<Need>,
    }

    impl Known {
        fn attempt(mut self, kind: Kind, from: &str, ended: Option<(&str, Outcome)>) -> Self {
            let ended = ended.map(|(time, outcome)| (at(time), outcome));
            self.attempts.push(Attempt { kind, due: at(from), started_at: at(from), ended });
            self
        }

        fn paused(mut self, since: &str, until: Option<&str>) -> Self {
            self.pauses.push(Pause { since: at(since), until: until.map(at) });
            self
        }

        fn decide(&self, policy: &Policy, now: DateTime<Utc>) -> [(Kind, Decision); 3] {
            let looked = [Kind::Full, Kind::Incremental, Kind::Drill].map(|k| (k, at("00:00")));
            let facts = Facts {
                database: "db",
                state: self.state,
                since: at("00:00") - TimeDelta::days(9),
                looked: &BTreeMap::from(looked),
                pauses: &self.pauses,
                attempts: &self.attempts,
                need: self.need,
            };
            Schedule::new(policy).unwrap().decide(&facts, now)
        }

        /// As in `02:00 coalesced 03:00, 03:00 run; run 03:00 Calendar`.
        fn told(&self, policy: &Policy, kind: Kind, now: &str) -> String {
            let decisions = self.decide(policy, at(now));
            let (_, decision) = decisions.iter().find(|(of, _)| *of == kind).unwrap();
            let time = |at: &DateTime<Utc>| {
                let local = at.with_timezone(&policy.zone);
                let is_today = local.date_naive().to_string() == "2026-11-26";
                local.format(if is_today { "%H:%M" } else { "%d. %H:%M" }).to_string()
            };
            let settled = decision.settled.iter().map(|Settled { due, fate }| match fate {
                Fate::Run => format!("{} run", time(due)),
                Fate::Coalesced(into) => format!("{} coalesced {}", time(due), time(into)),
                Fate::Skipped(reason) => format!("{} {reason:?}", time(due)),
            });
            let step = match &decision.step {
                Step::Run { due, why } => format!("run {} {why:?}", time(due)),
                Step::Wait { until, what } => {
                    format!("{what:?} {}", until.as_ref().map_or("?".to_owned(), time))
                }
            };
            format!("{}; {step}", settled.collect::<Vec<_>>().join(", "))
        }
    }

    fn hourly() -> Policy {
        Policy { full: Some(timing("0 * * * *")), missed: Missed::Latest(3 * HOUR), ..policy() }
    }

    #[test]
    fn row_22_of_several_missed_times_the_latest_is_made_up_for() {
        let known = Known::default();
        assert_eq!(known.told(&hourly(), Kind::Full, "00:59"), "; Due 01:00");
        assert_eq!(known.told(&hourly(), Kind::Full, "01:04"), "01:00 run; run 01:00 Calendar");
        assert_eq!(known.told(&hourly(), Kind::Full, "01:06"), "01:00 run; run 01:00 CatchUp");
        assert_eq!(
            known.told(&hourly(), Kind::Full, "04:06"),
            "01:00 TooOld, 02:00 coalesced 04:00, 03:00 coalesced 04:00, 04:00 run; \
             run 04:00 CatchUp"
        );
        let none = Policy { missed: Missed::None, ..hourly() };
        assert_eq!(known.told(&none, Kind::Full, "02:06"), "01:00 TooOld, 02:00 TooOld; Due 03:00");
        assert_eq!(
            known.told(&none, Kind::Full, "02:05"),
            "01:00 TooOld, 02:00 run; run 02:00 Calendar"
        );
        let all = Policy { missed: Missed::All(3 * HOUR), ..hourly() };
        assert_eq!(
            known.told(&all, Kind::Full, "04:06"),
            "01:00 TooOld, 02:00 run; run 02:00 CatchUp"
        );
        let (_, decision) = &known.decide(&all, at("04:06"))[0];
        assert_eq!(decision.looked, at("02:00"));
        let daily = Policy { full: Some(timing("0 2 * * *")), ..hourly() };
        assert_eq!(known.told(&daily, Kind::Full, "05:01"), "02:00 TooOld; Due 27. 02:00");
    }

    #[test]
    fn the_first_backup_is_due_at_once_except_in_a_blackout() {
        let known = Known { need: Some(Need::First(at("00:30"))), ..Known::default() };
        let weekly = Policy {
            full: Some(timing("@weekly")),
            incremental: Some(timing("@hourly")),
            ..policy()
        };
        assert_eq!(known.told(&weekly, Kind::Full, "01:10"), "; run 00:30 First");
        assert_eq!(
            known.told(&weekly, Kind::Incremental, "01:10"),
            "01:00 coalesced 00:30; Running ?"
        );
        let closed = vec![window(&[chrono::Weekday::Thu], "01:00", "06:00")];
        let closed = Policy { blackout: closed, ..weekly.clone() };
        assert_eq!(known.told(&closed, Kind::Full, "01:10"), "; Blackout 06:00");
        assert_eq!(
            known.told(&closed, Kind::Incremental, "02:10"),
            "01:00 NoBackup, 02:00 NoBackup; NoBackup ?"
        );
        let failed = known.attempt(Kind::Full, "01:00", Some(("01:09", Outcome::Failed)));
        assert_eq!(failed.told(&weekly, Kind::Full, "01:09"), "; Backoff 01:10");
        assert_eq!(failed.told(&weekly, Kind::Full, "01:10"), "; run 00:30 First");
        let gap = Known { need: Some(Need::Gap(at("01:07"))), ..Known::default() };
        assert_eq!(gap.told(&weekly, Kind::Full, "01:10"), "; run 01:07 Gap");
    }

    #[test]
    fn what_falls_into_a_blackout_follows_the_rule_for_missed_times() {
        let closed = vec![window(&[chrono::Weekday::Thu], "01:00", "06:00")];
        let latest = Policy { blackout_hard: closed, ..hourly() };
        let known = Known::default();
        assert_eq!(known.told(&latest, Kind::Full, "02:30"), "; Blackout 06:00");
        assert_eq!(known.told(&latest, Kind::Full, "04:30"), "01:00 Blackout; Blackout 06:00");
        assert_eq!(
            known.told(&latest, Kind::Full, "06:00"),
            "01:00 Blackout, 02:00 Blackout, 03:00 coalesced 06:00, 04:00 coalesced 06:00, \
             05:00 coalesced 06:00, 06:00 run; run 06:00 Calendar"
        );
        let none = Policy { missed: Missed::None, ..latest };
        assert_eq!(known.told(&none, Kind::Full, "01:06"), "01:00 Blackout; Blackout 06:00");
    }

    #[test]
    fn never_two_backups_at_a_time() {
        let both = Policy { incremental: Some(timing("30 * * * *")), ..hourly() };
        let full = Known::default().attempt(Kind::Full, "01:00", None);
        assert_eq!(
            full.told(&both, Kind::Full, "02:10"),
            "01:00 coalesced 01:00, 02:00 coalesced 01:00; Running ?"
        );
        assert_eq!(
            full.told(&both, Kind::Incremental, "01:40"),
            "00:30 coalesced 01:00, 01:30 coalesced 01:00; Running ?"
        );
        let increment = Known::default().attempt(Kind::Incremental, "00:30", None);
        assert_eq!(increment.told(&both, Kind::Full, "01:10"), "; Running ?");
        let idle = Known::default();
        assert_eq!(
            idle.told(&both, Kind::Incremental, "01:10"),
            "00:30 coalesced 01:00; Running ?"
        );
    }

    #[test]
    fn the_end_of_a_pause_fires_nothing() {
        let paused = Known::default().paused("00:30", None);
        assert_eq!(paused.told(&hourly(), Kind::Full, "01:10"), "01:00 Paused; Pause ?");
        let over = Known::default().paused("01:30", Some("03:30"));
        assert_eq!(
            over.told(&hourly(), Kind::Full, "03:30"),
            "01:00 Paused, 02:00 Paused, 03:00 Paused; Due 04:00"
        );
        assert_eq!(
            over.told(&hourly(), Kind::Full, "04:00"),
            "01:00 Paused, 02:00 Paused, 03:00 Paused, 04:00 run; run 04:00 Calendar"
        );
        let failed = over.attempt(Kind::Full, "01:00", Some(("01:20", Outcome::Failed)));
        assert!(failed.told(&hourly(), Kind::Full, "03:30").ends_with("; Due 04:00"));
        let later = Known::default().paused("05:00", None);
        assert_eq!(later.told(&hourly(), Kind::Full, "01:04"), "01:00 run; run 01:00 Calendar");
    }

    #[test]
    fn what_failed_is_tried_again_later_and_later() {
        let daily = Policy { full: Some(timing("0 0 * * *")), ..policy() };
        let failed = |outcome| {
            let known = Known::default();
            known.attempt(Kind::Full, "00:00", Some(("01:00", outcome)))
        };
        let once = failed(Outcome::Failed);
        assert_eq!(once.told(&daily, Kind::Full, "01:00"), "; Backoff 01:01");
        assert_eq!(once.told(&daily, Kind::Full, "01:01"), "; run 00:00 Retry");
        let thrice = once.attempt(Kind::Full, "00:00", Some(("02:00", Outcome::Failed))).attempt(
            Kind::Full,
            "00:00",
            Some(("03:00", Outcome::Failed)),
        );
        assert_eq!(thrice.told(&daily, Kind::Full, "03:00"), "; Backoff 03:04");
        let superseded = failed(Outcome::Superseded);
        assert_eq!(superseded.told(&daily, Kind::Full, "01:00"), "; run 00:00 Retry");
        let both = Policy { incremental: Some(timing("0 0 * * *")), ..daily.clone() };
        let done = Some(("02:00", Outcome::Succeeded));
        let made_up = Known::default()
            .attempt(Kind::Incremental, "00:00", Some(("01:00", Outcome::Failed)))
            .attempt(Kind::Full, "01:30", done);
        assert_eq!(made_up.told(&both, Kind::Incremental, "03:00"), "; Due 27. 00:00");
        let cancelled = failed(Outcome::Cancelled);
        assert_eq!(cancelled.told(&daily, Kind::Full, "09:00"), "; Due 27. 00:00");
    }

    #[test]
    fn without_a_calendar_the_promise_sets_the_pace() {
        let backup = |to| {
            let done = Some((to, Outcome::Succeeded));
            Known::default().attempt(Kind::Incremental, "01:00", done)
        };
        let alone = Policy { logs: Logs::Never, ..policy() };
        // An RPO of an hour, less twice the ten minutes that it takes.
        assert_eq!(backup("01:10").told(&alone, Kind::Incremental, "01:30"), "; Due 01:40");
        assert_eq!(
            backup("01:10").told(&alone, Kind::Incremental, "01:41"),
            "01:40 run; run 01:40 Promise"
        );
        assert_eq!(backup("01:29").told(&alone, Kind::Incremental, "01:14"), "; Due 01:15");
        // However long nothing could run.
        assert_eq!(
            backup("01:10").told(&alone, Kind::Incremental, "23:00").split("; ").last(),
            Some("run 23:00 Promise")
        );
        assert_eq!(backup("01:10").told(&policy(), Kind::Incremental, "09:00"), "; Due 27. 01:00");
        assert_eq!(backup("01:10").told(&policy(), Kind::Full, "09:00"), "; Due ?");
    }

    #[test]
    fn drills_follow_each_other_and_their_findings_are_not_tried_again() {
        let every = Period { count: 1, unit: PeriodUnit::Days };
        let (point, checks) = (DrillPoint::Random, Vec::new());
        let drill = DrillRule { every, from: None, point, checks, site: None };
        let policy = Policy { drill: Some(drill), ..policy() };
        let done = Known::default().attempt(Kind::Drill, "02:00", Some(("02:30", Outcome::Failed)));
        assert_eq!(done.told(&policy, Kind::Drill, "09:00"), "; Due 27. 02:00");
        let new = Known { need: Some(Need::First(at("00:00"))), ..Known::default() };
        assert_eq!(new.told(&policy, Kind::Drill, "09:00"), "; NoBackup ?");
        let never = Known::default().decide(&policy, at("00:00") + TimeDelta::days(1))[2].clone();
        assert!(matches!(never.1.step, Step::Run { why: Why::Promise, .. }), "{never:?}");
    }

    #[test]
    fn a_retired_database_is_left_alone() {
        for state in [State::Retiring, State::Retired] {
            let known = Known { state, need: Some(Need::First(at("00:00"))), ..Known::default() };
            assert_eq!(known.told(&hourly(), Kind::Full, "01:10"), "01:00 Retired; Retired ?");
        }
    }

    #[test]
    fn a_year_of_minutes_is_settled_in_several_goes() {
        let minutely = Policy { full: Some(timing("* * * * *")), missed: Missed::None, ..policy() };
        let now = at("00:00") + TimeDelta::days(8);
        let (_, decision) = &Known::default().decide(&minutely, now)[0];
        assert_eq!(decision.settled.len(), DUE_TIMES_MAX);
        assert_eq!(decision.looked, decision.settled[DUE_TIMES_MAX - 1].due);
        assert_eq!(decision.step, Step::Wait { until: Some(now), what: Waiting::Due });
    }

    #[test]
    fn a_clock_that_was_set_back_makes_nothing_due_again() {
        let (_, decision) =
            &Known::default().decide(&hourly(), at("00:00") - TimeDelta::days(1))[0];
        assert_eq!((decision.looked, decision.settled.len()), (at("00:00"), 0));
    }
}
