//! Which backups are kept, why, and until when.
//!
//! Nothing but the times of backups, their proofs and what was recorded goes in: no names of hosts,
//! no order of ids, no flags that were set when a job ran. Every backup can be restored by itself,
//! so what a backup needs is its own stretch of log, and nothing else.
//!
//! Of hours, days and so on, the last so many count *that have a verified backup*: a database that
//! could not be backed up for a month does not lose a month of what was kept. Once it is retired,
//! nothing new comes, and the last ones of the calendar count, so that what is kept comes to an
//! end; all but the last.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use super::{
    anomaly::KEPT_BEFORE,
    civil::{Cycle, Stretch},
    event::{Event, EventEnd},
    model::{CopyKind, CopyRule, Keep, Policy, State},
    reason::{Reason, Until},
};

/// So many backups from before a suspicious change are kept.
const BEFORE_ODD: usize = 2;

/// What is promised about keeping, in one repository.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// The zone of the calendar.
    pub zone: Tz,
    /// What is kept beyond the window.
    pub keep: &'a Keep,
    /// How far back every instant can be reached; nothing where there is no log.
    pub window: Duration,
    /// So many of the newest verified ones are never removed; one at least.
    pub floor: u32,
}

/// What there is of a database in one repository.
#[derive(Clone, Copy, Debug)]
pub struct Stock<'a> {
    /// Its backups, in any order.
    pub backups: &'a [Backup],
    /// What somebody holds of it.
    pub holds: &'a [Hold],
    /// What was recorded, in that order.
    pub events: &'a [Event],
    /// Whether it is still protected.
    pub state: State,
}

/// A backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Its id. Nothing follows from it.
    pub id: String,
    /// The time of the state that it holds.
    pub at: DateTime<Utc>,
    /// Its place in the repository's log, which orders those of the same time.
    pub seq: u64,
    /// Whether it can be restored.
    pub proof: Proof,
    /// From when until when it needs log to be consistent, if it does.
    pub own_log: Option<(DateTime<Utc>, DateTime<Utc>)>,
    /// Whom it concerns, where retention follows from events.
    pub subjects: Vec<String>,
    /// Whether whoever it was handed to has confirmed to have it.
    pub is_acknowledged: bool,
    /// Whether so much was rewritten or is gone in it that what was there before may be wanted.
    pub is_odd: bool,
}

/// Whether a backup can be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proof {
    /// Nobody tried.
    Unverified,
    /// It was read back, and is what it should be.
    Verified,
    /// Something about it is wrong. It stands for no other.
    Suspect,
}

impl Proof {
    /// The same in a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unverified => "unverified",
            Self::Verified => "verified",
            Self::Suspect => "suspect",
        }
    }
}

/// What nobody may remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// In which case.
    pub case: String,
    /// What.
    pub of: Held,
}

/// What a hold is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// One backup, by its id.
    Backup(String),
    /// Every point from one time to another, and what it takes to reach them.
    Range {
        /// The first.
        from: DateTime<Utc>,
        /// The last; without one, everything from the first on.
        to: Option<DateTime<Utc>>,
    },
}

/// What is kept of a database in one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Every backup, in the order of their times.
    pub verdicts: Vec<Verdict>,
    /// Stretches of log that are kept; they may overlap.
    pub log: Vec<LogRange>,
    /// The state of the newest verified backup, or of the oldest one that is kept if none is:
    /// from there, log leads to now.
    pub leads_from: Option<DateTime<Utc>>,
}

/// Whether a backup is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Its id.
    pub id: String,
    /// The time of its state.
    pub at: DateTime<Utc>,
    /// Why it is kept; it is not when there is no reason.
    pub reasons: Vec<Reason>,
    /// Until when, as far as that is known now.
    pub until: Until,
}

/// A stretch of log that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRange {
    /// Its beginning.
    pub from: DateTime<Utc>,
    /// Its end; without one, all that follows.
    pub to: Option<DateTime<Utc>>,
    /// Why.
    pub why: LogReason,
}

/// Why log is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogReason {
    /// For every point of the window.
    Window,
    /// For a backup that is not consistent without it, by its id.
    Own(String),
    /// For every point of a hold, by its case.
    Held(String),
}

impl<'a> Rules<'a> {
    /// Those of a database's first repository.
    pub fn of(policy: &'a Policy) -> Self {
        let Policy { zone, keep, pitr_window, floor, .. } = policy;
        Self { zone: *zone, keep, window: *pitr_window, floor: *floor }
    }

    /// Those of a copy. Without log, it has points but no window. What was handed over and is
    /// confirmed to have arrived needs no floor here.
    pub fn of_copy(policy: &Policy, copy: &'a CopyRule) -> Self {
        let has_log = copy.kinds.contains(&CopyKind::Logs);
        Self {
            zone: policy.zone,
            keep: &copy.keep,
            window: if has_log { policy.pitr_window } else { Duration::ZERO },
            floor: if copy.keep.until_acknowledged { 1 } else { policy.floor },
        }
    }

    /// What of a stock is kept.
    pub fn retain(&self, stock: &Stock<'_>, now: DateTime<Utc>) -> Retention {
        let mut inventory = Inventory::of(self, stock, now);
        inventory.window();
        inventory.last();
        for cycle in Cycle::ALL {
            inventory.cycle(cycle);
        }
        inventory.each();
        inventory.floor();
        inventory.unproven();
        inventory.before_odd();
        inventory.held();
        inventory.close()
    }
}

impl Stock<'_> {
    /// The backups that are held, whatever else is promised: for each the places of its holds in
    /// [`holds`](Self::holds).
    pub fn held(&self) -> BTreeMap<String, Vec<usize>> {
        let keep = Keep::default();
        let rules = Rules { zone: Tz::UTC, keep: &keep, window: Duration::ZERO, floor: 1 };
        let inventory = Inventory::of(&rules, self, DateTime::<Utc>::MIN_UTC);
        let mut held: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (place, hold) in self.holds.iter().enumerate() {
            for index in inventory.held_by(&hold.of) {
                held.entry(inventory.backups[index].id.clone()).or_default().push(place);
            }
        }
        held
    }
}

impl Retention {
    /// From when on log is needed: what was captured before leads to no point that is kept. The
    /// newest backup that can be restored always needs what follows it.
    pub fn log_begin(&self) -> Option<DateTime<Utc>> {
        let leads_from = self.leads_from?;
        Some(self.log.iter().fold(leads_from, |begin, range| begin.min(range.from)))
    }
}

impl Verdict {
    /// Whether it is kept.
    pub fn is_kept(&self) -> bool {
        !self.reasons.is_empty()
    }
}

/// From which backup points are reached once they are newer than that, in place of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heir {
    /// From one that is yet to come.
    Future,
    /// From this one.
    Backup(usize),
}

/// Points are reached from the newest verified backup before them. One that is not verified may
/// turn out to be the one that can be restored, also one of which something was wrong when it was
/// last read: what lacks may be brought back from elsewhere. It goes when the next verified one
/// stands for it.
fn heirs(backups: &[&Backup]) -> Vec<Heir> {
    let mut next = Heir::Future;
    let mut heirs: Vec<_> = (0..backups.len())
        .rev()
        .map(|index| match backups[index].proof {
            Proof::Verified => std::mem::replace(&mut next, Heir::Backup(index)),
            Proof::Unverified | Proof::Suspect => next,
        })
        .collect();
    heirs.reverse();
    heirs
}

/// A stock, and what was found about it so far.
struct Inventory<'a> {
    rules: &'a Rules<'a>,
    stock: &'a Stock<'a>,
    /// From the oldest to the newest.
    backups: Vec<&'a Backup>,
    heirs: Vec<Heir>,
    kept: Vec<(Vec<Reason>, Until)>,
    now: DateTime<Utc>,
}

impl<'a> Inventory<'a> {
    fn of(rules: &'a Rules<'a>, stock: &'a Stock<'a>, now: DateTime<Utc>) -> Self {
        let mut backups: Vec<&Backup> = stock.backups.iter().collect();
        backups.sort_by_key(|backup| (backup.at, backup.seq));
        let kept = backups.iter().map(|backup| (Vec::new(), Until::Gone(backup.at))).collect();
        let heirs = heirs(&backups);
        Self { rules, stock, backups, heirs, kept, now }
    }

    /// A reason that has ended is none, but it says since when.
    fn keep(&mut self, index: usize, reason: Reason, until: Until) {
        let (reasons, so_far) = &mut self.kept[index];
        let is_over = match until {
            Until::Gone(_) => true,
            Until::Instant(end) => end <= self.now,
            Until::Replaced(_) | Until::Told => false,
        };
        *so_far = so_far.or(match until {
            Until::Instant(end) if is_over => Until::Gone(end),
            until => until,
        });
        if !is_over {
            reasons.push(reason);
        }
    }

    /// Verified ones, from the newest to the oldest.
    fn verified(&self) -> Vec<usize> {
        let all = (0..self.backups.len()).rev();
        all.filter(|index| self.backups[*index].proof == Proof::Verified).collect()
    }

    fn window_length(&self) -> TimeDelta {
        TimeDelta::from_std(self.rules.window).unwrap_or(TimeDelta::MAX)
    }

    fn window(&mut self) {
        let length = self.window_length();
        if length.is_zero() {
            return;
        }
        let leaves =
            |at: DateTime<Utc>| at.checked_add_signed(length).unwrap_or(DateTime::<Utc>::MAX_UTC);
        for index in 0..self.backups.len() {
            let own = leaves(self.backups[index].at);
            let reason = if self.now < own { Reason::Window } else { Reason::WindowBase };
            let until = match self.heirs[index] {
                Heir::Future => Until::Replaced(Some(own)),
                Heir::Backup(heir) => Until::Instant(leaves(self.backups[heir].at)),
            };
            self.keep(index, reason, until);
        }
    }

    /// Those from which points at an instant are reached: one, if any was verified before it.
    fn bases(&self, at: DateTime<Utc>) -> impl Iterator<Item = usize> {
        let later = self.backups.partition_point(|backup| backup.at <= at);
        (0..later).filter(move |index| match self.heirs[*index] {
            Heir::Future => true,
            Heir::Backup(heir) => later <= heir,
        })
    }

    fn last(&mut self) {
        let count = self.rules.keep.last as usize;
        self.newest(count, |rank| Reason::Last { rank, of: count });
    }

    fn floor(&mut self) {
        if self.stock.state == State::Retired {
            self.newest(1, |_| Reason::Remains);
        } else {
            let count = self.rules.floor.max(1) as usize;
            self.newest(count, |rank| Reason::Floor { rank, of: count });
            // A clock that was wrong gives times that are wrong, and another order.
            for (place, index) in self.last_made().into_iter().take(count).enumerate() {
                let reason = Reason::Floor { rank: place + 1, of: count };
                if !self.kept[index].0.contains(&reason) {
                    self.keep(index, reason, Until::Replaced(None));
                }
            }
        }
    }

    /// Verified ones, from the one that was made last.
    fn last_made(&self) -> Vec<usize> {
        let mut verified = self.verified();
        verified.sort_by_key(|index| std::cmp::Reverse(self.backups[*index].seq));
        verified
    }

    fn newest(&mut self, count: usize, reason: impl Fn(usize) -> Reason) {
        let verified = self.verified();
        for (rank, index) in verified.iter().enumerate() {
            let until = match rank.checked_sub(count) {
                None => Until::Replaced(None),
                Some(_) if count == 0 => return,
                Some(newer) => Until::Gone(self.backups[verified[newer]].at),
            };
            self.keep(*index, reason(rank + 1), until);
        }
    }

    fn cycle(&mut self, cycle: Cycle) {
        let Keep { hourly, daily, weekly, monthly, yearly, .. } = *self.rules.keep;
        let count = match cycle {
            Cycle::Hourly => hourly,
            Cycle::Daily => daily,
            Cycle::Weekly => weekly,
            Cycle::Monthly => monthly,
            Cycle::Yearly => yearly,
        };
        let zone = self.rules.zone;
        let verified = self.verified();
        let stretches = verified.iter().map(|i| Stretch::of(cycle, self.backups[*i].at, zone));
        let mut firsts: Vec<(Stretch, usize)> = stretches.zip(verified.iter().copied()).collect();
        // From the newest to the oldest: of each stretch, the last one is its first.
        firsts.reverse();
        firsts.dedup_by_key(|(stretch, _)| *stretch);
        firsts.reverse();
        if count == 0 {
            return;
        }
        self.stand_ins(cycle, count, &firsts);
        let Some((newest, _)) = firsts.first().copied() else { return };
        for (rank, (stretch, index)) in (0..).zip(&firsts) {
            let until = if self.stock.state != State::Active {
                Until::Instant(stretch.later(count, zone))
            } else if rank < count {
                Until::Replaced(Some(newest.later(count - rank, zone)))
            } else {
                let (_, newer) = firsts[(rank - count) as usize];
                Until::Gone(self.backups[newer].at)
            };
            self.keep(*index, Reason::First(*stretch), until);
        }
    }

    /// Of a stretch that has no verified backup, any may be all that there is: they stay as long as
    /// the stretch may count.
    fn stand_ins(&mut self, cycle: Cycle, count: u32, firsts: &[(Stretch, usize)]) {
        let zone = self.rules.zone;
        let oldest = firsts.get(count as usize - 1).map(|(_, index)| *index);
        for index in 0..self.backups.len() {
            let stretch = Stretch::of(cycle, self.backups[index].at, zone);
            if firsts.iter().any(|(verified, _)| *verified == stretch) {
                continue;
            }
            let until = match oldest {
                _ if self.stock.state != State::Active => {
                    Until::Instant(stretch.later(count, zone))
                }
                Some(oldest) if index < oldest => Until::Gone(self.backups[oldest].at),
                _ => Until::Replaced(None),
            };
            self.keep(index, Reason::First(stretch), until);
        }
    }

    /// What is said about every backup.
    fn each(&mut self) {
        let Rules { zone, keep, .. } = *self.rules;
        for index in 0..self.backups.len() {
            let backup = self.backups[index];
            if let Some(period) = keep.every {
                let end = period.after(backup.at, zone);
                self.keep(index, Reason::Every(period), Until::Instant(end));
            }
            if let Some(rule) = &keep.event {
                let end = rule.end(&backup.subjects, self.stock.events, zone);
                let until = match &end {
                    EventEnd::Unknown(_) => Until::Told,
                    EventEnd::Known { end, .. } => Until::Instant(*end),
                };
                self.keep(index, Reason::Event(rule.clone(), end), until);
            }
            if keep.until_acknowledged && !backup.is_acknowledged {
                self.keep(index, Reason::Unacknowledged, Until::Told);
            }
        }
    }

    /// What was not verified may be all that is left of its time: it goes once a newer one was.
    fn unproven(&mut self) {
        let mut until = Until::Replaced(None);
        for index in (0..self.backups.len()).rev() {
            match self.backups[index].proof {
                Proof::Verified => until = Until::Gone(self.backups[index].at),
                Proof::Unverified | Proof::Suspect => self.keep(index, Reason::Unproven, until),
            }
        }
    }

    /// Whoever finds out late that most of a database was rewritten wants what was there before.
    fn before_odd(&mut self) {
        let verified = self.verified();
        let odd = (0..self.backups.len()).filter(|index| self.backups[*index].is_odd);
        // The newest first: what is before several stays the longest.
        for odd in odd.rev().collect::<Vec<_>>() {
            let until = self.backups[odd].at.checked_add_signed(KEPT_BEFORE);
            let until = Until::Instant(until.unwrap_or(DateTime::<Utc>::MAX_UTC));
            let before = verified.iter().copied().filter(|index| *index < odd);
            for index in before.take(BEFORE_ODD.max(self.rules.floor as usize)) {
                if !self.kept[index].0.contains(&Reason::BeforeChange) {
                    self.keep(index, Reason::BeforeChange, until);
                }
            }
        }
    }

    fn held(&mut self) {
        for Hold { case, of } in self.stock.holds {
            for index in self.held_by(of) {
                self.keep(index, Reason::Held { case: case.clone() }, Until::Told);
            }
        }
    }

    /// What a hold is on, and what that needs.
    fn held_by(&self, held: &Held) -> Vec<usize> {
        let all = 0..self.backups.len();
        match held {
            Held::Backup(id) => all.filter(|index| self.backups[*index].id == *id).collect(),
            Held::Range { from, to } => {
                let is_in = |at| *from <= at && to.is_none_or(|to| at <= to);
                let mut held: Vec<_> = all.filter(|i| is_in(self.backups[*i].at)).collect();
                held.extend(self.bases(*from));
                held.sort_unstable();
                held.dedup();
                held
            }
        }
    }

    fn log(&self) -> Vec<LogRange> {
        let mut log = Vec::new();
        let mut window_from = DateTime::<Utc>::MAX_UTC;
        if !self.window_length().is_zero() {
            let start = self.now.checked_sub_signed(self.window_length());
            let start = start.unwrap_or(DateTime::<Utc>::MIN_UTC);
            // Log before the first backup leads nowhere.
            let first = self.bases(start).next().or((!self.backups.is_empty()).then_some(0));
            if let Some(first) = first {
                window_from = self.backups[first].at;
                log.push(LogRange { from: window_from, to: None, why: LogReason::Window });
            }
        }
        for (backup, (reasons, _)) in self.backups.iter().zip(&self.kept) {
            let Some((from, to)) = backup.own_log.filter(|_| !reasons.is_empty()) else { continue };
            if from < window_from {
                let why = LogReason::Own(backup.id.clone());
                log.push(LogRange { from, to: Some(to), why });
            }
        }
        for Hold { case, of } in self.stock.holds {
            let Held::Range { to, .. } = of else { continue };
            let Some(first) = self.held_by(of).first().copied() else { continue };
            let why = LogReason::Held(case.clone());
            log.push(LogRange { from: self.backups[first].at, to: *to, why });
        }
        log
    }

    fn close(self) -> Retention {
        let log = self.log();
        let newest = self.verified().first().copied();
        let last_made = self.last_made().first().copied();
        let kept = self.kept.iter().position(|(reasons, _)| !reasons.is_empty());
        let leads_from = newest.min(last_made).or(kept).map(|index| self.backups[index].at);
        let verdicts = self.backups.iter().zip(self.kept).map(|(backup, (reasons, until))| {
            Verdict { id: backup.id.clone(), at: backup.at, reasons, until }
        });
        Retention { verdicts: verdicts.collect(), log, leads_from }
    }
}
