//! What a repository will hold, and be asked to write, in the time to come: by what was stored
//! until now, by what the calendar makes due, and by what the rules will keep of it.

use std::collections::{BTreeSet, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use stillpoint_contract::{Error, Result};

use super::{capture::BEAT_PERIOD, serve::LOOK_AGAIN};
use crate::{
    policy::{
        Backup, Coming, CopyKind, CopyRule, Kind, Logs, Policy, Proof, Retention, Rules, State,
        Stock,
    },
    repository::{
        CollectOptions, Holdings, Inventory, Repository,
        history::{Committed, History},
        names,
        pack::PackBuilder,
    },
};

/// So far is looked ahead, and as far back for what is usual.
const AHEAD: TimeDelta = TimeDelta::days(30);

/// How often a repository is looked after.
const UPKEEP: TimeDelta = TimeDelta::days(1);

/// A manifest and a list of packs.
const SNAPSHOT_OBJECTS: f64 = 2.0;

/// Entries of the log about a backup: that it was made, and that it was read back.
const BACKUP_ENTRIES: f64 = 2.0;

/// Entries of each upkeep: what is to be deleted, and what was.
const UPKEEP_ENTRIES: f64 = 2.0;

/// A record and a page.
const EVIDENCE_OBJECTS: f64 = 2.0;

/// How much of what was stored between two backups that are kept is needed by the later one, as
/// long as nothing in the repository tells.
const BETWEEN_SHARE: f64 = 0.5;

/// What was captured in less time is taken for what is captured in so long.
const LOG_SECONDS_MIN: f64 = 3_600.0;

/// Who makes backups of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MadeBy {
    /// The calendar of its policy.
    Calendar,
    /// An application, which leaves files as often as until now.
    Others,
    /// Nobody any more.
    Nobody,
}

/// What is promised for a database in one repository.
#[derive(Clone, Debug)]
pub struct Stake<'a> {
    /// Its name.
    pub database: &'a str,
    /// What is promised for it.
    pub policy: &'a Policy,
    /// The copy that lies there; without one, it is the original.
    pub copy: Option<&'a CopyRule>,
    /// Whether it is still protected.
    pub state: State,
    /// Who makes its backups.
    pub made_by: MadeBy,
    /// Whom it concerns, where retention follows from events about somebody.
    pub subjects: Vec<String>,
}

/// Objects and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many.
    pub objects: u64,
    /// How long all of them are.
    pub bytes: u64,
}

/// What is to be expected of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageForecast {
    /// The end of the time that it is about.
    pub until: DateTime<Utc>,
    /// What lies there.
    pub now: Amount,
    /// What will lie there.
    pub then: Amount,
    /// Bytes that are stored meanwhile.
    pub stored_bytes: u64,
    /// Requests meanwhile that create an object.
    pub created: u64,
    /// Requests meanwhile that delete one.
    pub deleted: u64,
    /// Objects among the new ones that never go: entries of the log, evidence of drills.
    pub lasting: u64,
    /// Backups that exist.
    pub backups_now: u64,
    /// Backups that will exist.
    pub backups_then: u64,
    /// How many backups tell what is usual.
    pub observed: u64,
    /// Databases of which there is no backup yet: nothing of them is reckoned with.
    pub unknown: Vec<String>,
}

/// Looks at what a repository holds, and reckons. Everything that is promised for databases there
/// has to be among `stakes`; what is not stays as it is.
///
/// # Errors
///
/// What keeps the repository from being listed.
pub async fn forecast_storage(
    repository: &Repository,
    stakes: &[Stake<'_>],
    now: DateTime<Utc>,
) -> Result<StorageForecast> {
    let history = repository.history().await?;
    let inventory = repository.inventory().await?;
    let swept = history.dooms().values().filter(|doomed| doomed.swept);
    let gone = swept.flat_map(|doomed| doomed.doom.objects.iter().map(String::as_str)).collect();
    Past { history: &history, inventory: &inventory, gone, now }.reckon(stakes)
}

/// Objects and their bytes, in parts of them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Heap {
    objects: f64,
    bytes: f64,
}

impl Heap {
    fn add(&mut self, other: Self) {
        self.objects += other.objects;
        self.bytes += other.bytes;
    }

    fn times(self, factor: f64) -> Self {
        Self { objects: self.objects * factor, bytes: self.bytes * factor }
    }

    /// So many that are as long as these.
    fn like(self, objects: f64) -> Self {
        Self { objects, bytes: objects * self.bytes / self.objects.max(1.0) }
    }

    fn whole(self) -> Amount {
        Amount { objects: whole(self.objects), bytes: whole(self.bytes) }
    }
}

fn whole(number: f64) -> u64 {
    number.max(0.0).round() as u64
}

/// A backup that was made, or is to come.
#[derive(Clone, Debug)]
struct Made {
    id: String,
    at: DateTime<Utc>,
    kind: Kind,
    /// Bytes that it would take alone.
    alone: f64,
    /// Bytes that were stored for it.
    stored: f64,
    /// Whether it is the first of its incarnation.
    is_first: bool,
    /// Whether it exists.
    is_live: bool,
    /// Whether its bytes are there: those of one that was forgotten are, for a while.
    is_there: bool,
}

/// What backups take together: the oldest all of its bytes, and each later one what was stored for
/// it, and part of what was stored for those between it and the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Taken {
    alone: f64,
    own: f64,
    between: f64,
}

impl Taken {
    fn of<'a>(all: impl Iterator<Item = &'a Made>, is_kept: impl Fn(&Made) -> bool) -> Self {
        let (mut taken, mut between) = (Self::default(), None);
        for made in all {
            match (between, is_kept(made)) {
                (None, false) => {}
                (None, true) => (taken.alone, between) = (made.alone, Some(0.0)),
                (Some(sum), false) => between = Some(sum + made.stored),
                (Some(sum), true) => {
                    taken.own += made.stored;
                    // No more is different than there is.
                    taken.between += f64::min(sum, (made.alone - made.stored).max(0.0));
                    between = Some(0.0);
                }
            }
        }
        taken
    }

    fn add(&mut self, other: Self) {
        self.alone += other.alone;
        self.own += other.own;
        self.between += other.between;
    }

    fn bytes(self, share: f64) -> f64 {
        self.alone + self.own + share * self.between
    }

    /// How much is needed of what was stored in between, where all of it takes so many bytes.
    /// Pages that are written again and again leave nothing; pages that are written once, all.
    fn share(self, bytes: f64) -> f64 {
        if self.between <= 0.0 {
            return BETWEEN_SHARE;
        }
        ((bytes - self.alone - self.own) / self.between).clamp(0.0, 1.0)
    }
}

/// What is usual of a database.
#[derive(Clone, Copy, Debug)]
struct Usual {
    /// Bytes that are stored for a backup.
    stored: f64,
    /// By how many bytes it grows, each second.
    growth: f64,
    /// How many backups tell.
    observed: usize,
}

impl Usual {
    /// By the newest backups of its present incarnation, in the order of their times. The first one
    /// stored everything.
    fn of(made: &[Made], now: DateTime<Utc>) -> Option<Self> {
        let last = made.last()?;
        let first = made.iter().rposition(|one| one.is_first).unwrap_or_default();
        let recent = made.partition_point(|one| one.at <= now - AHEAD);
        let recent = &made[first.max(recent).min(made.len() - 1)..];
        let stored: Vec<f64> = recent.iter().filter(|m| !m.is_first).map(|m| m.stored).collect();
        let lasted = (last.at - recent[0].at).as_seconds_f64();
        let grown = last.alone - recent[0].alone;
        Some(Self {
            stored: stored.iter().sum::<f64>() / (stored.len().max(1) as f64),
            growth: if lasted > 0.0 { grown / lasted } else { 0.0 },
            observed: stored.len(),
        })
    }

    /// Packs that one backup fills, or begins: of data, and one of metadata.
    fn packs(self) -> f64 {
        1.0 + (self.stored / PackBuilder::DATA_TARGET_BYTES as f64).ceil()
    }
}

/// Sums over the databases of a repository.
#[derive(Debug, Default)]
struct Sum {
    taken_now: Taken,
    taken_then: Taken,
    /// Backups whose bytes are there.
    there_now: f64,
    there_then: f64,
    /// Packs of those, as far as what is usual tells, and how many are created.
    packs_now: f64,
    packs_then: f64,
    packs_new: f64,
    /// Backups to come, and bytes that are stored for them.
    new: Heap,
    /// Captured log then, and what comes of it.
    log_then: Heap,
    log_new: Heap,
    /// Signs of life of captures.
    beats: f64,
    entries: f64,
    drills: f64,
    live_now: usize,
    live_then: usize,
    observed: usize,
    unknown: Vec<String>,
}

/// What became of a repository until now.
struct Past<'a> {
    history: &'a History,
    inventory: &'a Inventory,
    /// Objects that were deleted.
    gone: HashSet<&'a str>,
    now: DateTime<Utc>,
}

impl Past<'_> {
    fn reckon(&self, stakes: &[Stake<'_>]) -> Result<StorageForecast> {
        let mut sum = Sum::default();
        let mut others: BTreeSet<&str> =
            self.history.commits().map(|one| one.commit.database.as_str()).collect();
        others.extend(self.inventory.segments.keys().map(String::as_str));
        for stake in stakes {
            self.add(&mut sum, stake)?;
            others.remove(stake.database);
        }
        for database in others {
            self.add_rest(&mut sum, database);
        }
        if !stakes.is_empty() {
            sum.entries += UPKEEP_ENTRIES * upkeeps();
        }
        Ok(self.close(sum))
    }

    /// What was made of a database.
    fn made(&self, database: &str) -> Vec<Made> {
        let mut all: Vec<&Committed> = self.history.commits_of(database).collect();
        all.sort_by_key(|one| (one.commit.consistent_time, one.made()));
        let (mut made, mut before, mut compressed) = (Vec::new(), None, 1.0);
        for one in all {
            let commit = &one.commit;
            let (size, stored) = (commit.size_bytes as f64, commit.stored_bytes as f64);
            let is_first = before != Some(commit.incarnation.as_str());
            before = Some(commit.incarnation.as_str());
            if is_first && size > 0.0 {
                compressed = stored / size;
            }
            made.push(Made {
                id: commit.backup.clone(),
                at: commit.consistent_time,
                kind: if commit.incremental { Kind::Incremental } else { Kind::Full },
                alone: size * compressed,
                stored,
                is_first,
                is_live: !one.forgotten,
                is_there: !one.forgotten || !self.gone.contains(commit.manifest.as_str()),
            });
        }
        made
    }

    /// Adds a database for which something is promised here.
    fn add(&self, sum: &mut Sum, stake: &Stake<'_>) -> Result<()> {
        let (now, until) = (self.now, self.now + AHEAD);
        let coming = stake
            .policy
            .coming(stake.database, now, until)
            .map_err(|bad| Error::bug("use a schedule that was checked").caused_by(bad.why))?;
        let mut all = self.made(stake.database);
        let Some(usual) = Usual::of(&all, now) else {
            if stake.made_by != MadeBy::Nobody {
                sum.unknown.push(stake.database.to_owned());
            }
            return Ok(());
        };
        let live = all.iter().filter(|one| one.is_live).count();
        let there_now = all.iter().filter(|one| one.is_there).count() as f64;
        sum.taken_now.add(Taken::of(all.iter(), |one| one.is_there));
        let new = stake.made(&coming, &all, (usual, now));
        let count = new.len();
        all.extend(new);
        // What is given up by then is not yet deleted.
        let lagged = until - lag();
        let holdings = Holdings::of(self.history, stake.database).about(&stake.subjects);
        let kept = |at| stake.kept(&holdings, &all[all.len() - count..], at);
        let (retained, live_then) = (kept(lagged), ids(&kept(until)).len());
        let log_begin = retained.log_begin();
        let retained = ids(&retained);
        let is_there_then = |one: &Made| lagged < one.at || retained.contains(&one.id);
        sum.taken_then.add(Taken::of(all.iter(), is_there_then));
        let there_then = all.iter().filter(|one| is_there_then(one)).count() as f64;
        sum.there_now += there_now;
        sum.there_then += there_then;
        sum.packs_now += there_now * usual.packs();
        sum.packs_then += there_then * usual.packs();
        sum.packs_new += count as f64 * usual.packs();
        sum.new.add(Heap { objects: count as f64, bytes: count as f64 * usual.stored });
        sum.live_now += live;
        sum.live_then += live_then;
        sum.observed += usual.observed;
        let gone = (live + count).saturating_sub(live_then) as f64;
        let trims = if count > 0 { upkeeps() } else { 0.0 };
        sum.entries += BACKUP_ENTRIES * count as f64 + trims + gone.min(upkeeps());
        if stake.is_drilled() {
            sum.drills += coming.drills.len() as f64;
        }
        let segments = self.segments(stake.database);
        let (then, new) = log(segments, (now, until), log_begin, stake.has_log());
        sum.log_then.add(then);
        sum.log_new.add(new);
        if stake.has_log() {
            let copied = LOOK_AGAIN.as_seconds_f64();
            let period = stake.copy.map_or(BEAT_PERIOD.as_secs_f64(), |_| copied);
            sum.beats += AHEAD.as_seconds_f64() / period;
        }
        Ok(())
    }

    /// Adds a database for which nothing is promised here any more: what there is stays.
    fn add_rest(&self, sum: &mut Sum, database: &str) {
        let all = self.made(database);
        sum.taken_now.add(Taken::of(all.iter(), |one| one.is_there));
        sum.taken_then.add(Taken::of(all.iter(), |one| one.is_live));
        sum.there_now += all.iter().filter(|one| one.is_there).count() as f64;
        let live = all.iter().filter(|one| one.is_live).count();
        sum.there_then += live as f64;
        sum.live_now += live;
        sum.live_then += live;
        let segments = self.segments(database);
        sum.log_then.add(log(segments, (self.now, self.now + AHEAD), None, false).0);
    }

    fn segments(&self, database: &str) -> &[(DateTime<Utc>, u64)] {
        self.inventory.segments.get(database).map(Vec::as_slice).unwrap_or_default()
    }

    /// What lies below a prefix.
    fn stored(&self, prefix: &str) -> Heap {
        let found = self.inventory.stored.get(prefix.trim_end_matches('/'));
        let (objects, bytes) = found.copied().unwrap_or_default();
        Heap { objects: objects as f64, bytes: bytes as f64 }
    }

    /// What the last upkeeps moved out of packs that were half empty: all that they created for it,
    /// and how many packs of it are still there.
    fn moved(&self) -> (Heap, f64) {
        let (mut homes, mut runs) = (BTreeSet::new(), 0);
        let dooms = self.history.dooms().values();
        for doomed in dooms.filter(|doomed| self.now - AHEAD < doomed.at) {
            let doom = &doomed.doom;
            homes.extend(doom.moved.values().flatten().copied());
            runs += usize::from(!doom.moved.is_empty()) + usize::from(!doom.indexes.is_empty());
        }
        let bytes = homes.iter().map(|(_, bytes)| *bytes as f64).sum();
        let left = homes.iter().filter(|(pack, _)| !self.history.is_doomed_pack(pack)).count();
        (Heap { objects: (homes.len() + runs) as f64, bytes }, left as f64)
    }

    /// Holds what the sums say of today against what is there, and says what that makes of then.
    fn close(&self, sum: Sum) -> StorageForecast {
        let mut now = Heap::default();
        for (objects, bytes) in self.inventory.stored.values() {
            now.add(Heap { objects: *objects as f64, bytes: *bytes as f64 });
        }
        let packs = self.stored(names::PACKS);
        let share = sum.taken_now.share(packs.bytes);
        let reckoned = sum.taken_now.bytes(share);
        let truth = if reckoned > 0.0 { packs.bytes / reckoned } else { 1.0 };
        // What changes little may begin no pack.
        let usual =
            if sum.packs_now > 0.0 { (packs.objects / sum.packs_now).min(1.0) } else { 1.0 };
        let growth = (sum.taken_then.alone - sum.taken_now.alone) * truth;
        let (moved, left) = self.moved();
        let entries = self.stored(names::LOG).like(sum.entries);
        let evidence = self.stored(names::DRILLS).like(EVIDENCE_OBJECTS * sum.drills);
        let snapshots = SNAPSHOT_OBJECTS * (sum.there_then - sum.there_now);
        let mut more = Heap {
            objects: (sum.packs_then - sum.packs_now) * usual
                + left
                + growth / PackBuilder::DATA_TARGET_BYTES as f64,
            bytes: sum.taken_then.bytes(share) * truth - packs.bytes,
        };
        more.add(self.stored(names::SNAPSHOTS).like(snapshots));
        more.add(entries);
        more.add(evidence);
        more.add(sum.log_then);
        more.add(self.stored(names::STREAMS).times(-1.0));
        let mut then = now;
        then.add(more);
        // A manifest, a list of packs and an index run beside the packs.
        let created = (SNAPSHOT_OBJECTS + 1.0) * sum.new.objects
            + sum.packs_new * usual
            + moved.objects
            + entries.objects
            + evidence.objects
            + sum.log_new.objects
            + sum.beats;
        let stored = [sum.new, moved, entries, evidence, sum.log_new];
        StorageForecast {
            until: self.now + AHEAD,
            now: now.whole(),
            then: then.whole(),
            stored_bytes: whole(stored.iter().map(|heap| heap.bytes).sum()),
            created: whole(created),
            deleted: whole(created - more.objects),
            lasting: whole(entries.objects + evidence.objects),
            backups_now: sum.live_now as u64,
            backups_then: sum.live_then as u64,
            observed: sum.observed as u64,
            unknown: sum.unknown,
        }
    }
}

impl Stake<'_> {
    /// Whether log of it comes.
    fn has_log(&self) -> bool {
        let is_taken = self.copy.is_none_or(|copy| copy.takes(CopyKind::Logs));
        self.made_by == MadeBy::Calendar && self.policy.logs != Logs::Never && is_taken
    }

    /// Whether evidence of drills is kept here.
    fn is_drilled(&self) -> bool {
        let from = self.policy.drill.as_ref().and_then(|drill| drill.from.as_ref());
        self.made_by != MadeBy::Nobody && from == self.copy.map(|copy| &copy.name)
    }

    /// The backups that come, each as what is usual says.
    fn made(
        &self,
        coming: &Coming,
        made: &[Made],
        (usual, now): (Usual, DateTime<Utc>),
    ) -> Vec<Made> {
        let before = made.iter().filter(|one| now - AHEAD < one.at);
        let times: Vec<(DateTime<Utc>, Kind)> = match self.made_by {
            MadeBy::Calendar => coming.backups.iter().map(|(at, kind)| (*at, *kind)).collect(),
            MadeBy::Others => before.map(|one| (one.at + AHEAD, one.kind)).collect(),
            MadeBy::Nobody => Vec::new(),
        };
        let is_taken = |kind: Kind| {
            let kind = if kind == Kind::Full { CopyKind::Full } else { CopyKind::Incremental };
            self.copy.is_none_or(|copy| copy.takes(kind))
        };
        let last = made.last().map_or((now, 0.0), |last| (last.at, last.alone));
        let new = |(at, kind): (DateTime<Utc>, Kind)| Made {
            id: format!("of {at}"),
            at,
            kind,
            alone: (last.1 + usual.growth * (at - last.0).as_seconds_f64()).max(0.0),
            stored: usual.stored,
            is_first: false,
            is_live: true,
            is_there: true,
        };
        times.into_iter().filter(|(_, kind)| is_taken(*kind)).map(new).collect()
    }

    /// What is kept at an instant, where each backup that comes was read back.
    fn kept(&self, holdings: &Holdings, coming: &[Made], at: DateTime<Utc>) -> Retention {
        let stock = holdings.stock(self.state);
        let newest = stock.backups.iter().map(|backup| backup.seq).max().unwrap_or_default();
        let come = (newest + 1..).zip(coming).filter(|(_, one)| one.at <= at);
        let come = come.map(|(seq, one)| Backup {
            id: one.id.clone(),
            at: one.at,
            seq,
            proof: Proof::Verified,
            own_log: None,
            subjects: self.subjects.clone(),
            is_acknowledged: false,
            is_odd: false,
        });
        let backups: Vec<Backup> = stock.backups.iter().cloned().chain(come).collect();
        let rules = match self.copy {
            Some(copy) => Rules::of_copy(self.policy, copy),
            None => Rules::of(self.policy),
        };
        rules.retain(&Stock { backups: &backups, ..stock }, at)
    }
}

/// The backups that are kept, by their ids.
fn ids(retention: &Retention) -> BTreeSet<String> {
    let kept = retention.verdicts.iter().filter(|verdict| verdict.is_kept());
    kept.map(|verdict| verdict.id.clone()).collect()
}

/// What is given up is found by the next upkeep, and stays for the grace after that.
fn lag() -> TimeDelta {
    UPKEEP + TimeDelta::from_std(CollectOptions::default().grace).unwrap_or_default()
}

fn upkeeps() -> f64 {
    AHEAD.as_seconds_f64() / UPKEEP.as_seconds_f64()
}

/// What there will be of captured log, and what comes of it, where it goes on as it did. What was
/// stored before `begin` goes.
fn log(
    segments: &[(DateTime<Utc>, u64)],
    (now, until): (DateTime<Utc>, DateTime<Utc>),
    begin: Option<DateTime<Utc>>,
    goes_on: bool,
) -> (Heap, Heap) {
    let since = |from: DateTime<Utc>| {
        let mut heap = Heap::default();
        for (_, bytes) in segments.iter().filter(|(at, _)| from <= *at) {
            heap.add(Heap { objects: 1.0, bytes: *bytes as f64 });
        }
        heap
    };
    let oldest = segments.iter().map(|(at, _)| *at).min().unwrap_or(now);
    let recent = oldest.max(now - AHEAD);
    let lasted = (now - recent).as_seconds_f64().max(LOG_SECONDS_MIN);
    let rate = if goes_on { (until - now).as_seconds_f64() / lasted } else { 0.0 };
    let new = since(recent).times(rate);
    let begin = begin.unwrap_or(DateTime::<Utc>::MIN_UTC);
    let left = (until - begin.max(now)).as_seconds_f64() / (until - now).as_seconds_f64();
    let mut then = since(begin);
    then.add(new.times(left.clamp(0.0, 1.0)));
    (then, new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::days(day)
    }

    /// Backups of one day after the other: what each would take alone, and what was stored for it.
    fn made(sizes: &[(f64, f64)]) -> Vec<Made> {
        let one = |(day, (alone, stored)): (i64, &(f64, f64))| Made {
            id: day.to_string(),
            at: at(day),
            kind: Kind::Full,
            alone: *alone,
            stored: *stored,
            is_first: day == 0,
            is_live: true,
            is_there: true,
        };
        (0..).zip(sizes).map(one).collect()
    }

    #[test]
    fn the_oldest_takes_all_of_its_bytes_and_others_what_was_stored_for_them() {
        let all = made(&[(100.0, 100.0), (101.0, 5.0), (102.0, 6.0), (103.0, 7.0)]);
        let taken = |kept: &[&str]| Taken::of(all.iter(), |one| kept.contains(&one.id.as_str()));
        let of = |alone, own, between| Taken { alone, own, between };
        assert_eq!(taken(&["0", "1", "2", "3"]), of(100.0, 18.0, 0.0));
        assert_eq!(taken(&["1", "3"]), of(101.0, 7.0, 6.0));
        assert_eq!(taken(&["3"]), of(103.0, 0.0, 0.0));
        assert_eq!(taken(&[]), Taken::default());
        // Everything was written anew, again and again.
        let rewritten = made(&[(10.0, 10.0), (10.0, 9.0), (10.0, 9.0), (10.0, 8.0)]);
        let ends = Taken::of(rewritten.iter(), |one| one.id == "0" || one.id == "3");
        assert_eq!(ends, of(10.0, 8.0, 2.0));
    }

    #[test]
    fn what_is_needed_of_what_lies_between_follows_from_what_is_there() {
        let taken = Taken { alone: 100.0, own: 10.0, between: 40.0 };
        assert!((taken.share(130.0) - 0.5).abs() < 1e-9 && (taken.bytes(0.5) - 130.0).abs() < 1e-9);
        assert!(taken.share(90.0).abs() < 1e-9 && (taken.share(900.0) - 1.0).abs() < 1e-9);
        let unknown = Taken { between: 0.0, ..taken };
        assert!((unknown.share(130.0) - BETWEEN_SHARE).abs() < 1e-9);
    }

    #[test]
    fn the_first_backup_says_nothing_of_what_is_usual_and_old_ones_neither() {
        let sizes: Vec<(f64, f64)> = (0..50).map(|day| (100.0 + f64::from(day), 7.0)).collect();
        let mut all = made(&sizes);
        all[0].stored = 100.0;
        all[5].stored = 90.0;
        let usual = Usual::of(&all, at(49)).unwrap();
        assert!((usual.stored - 7.0).abs() < 1e-9 && usual.observed == 30);
        assert!((usual.growth * 86_400.0 - 1.0).abs() < 1e-9 && (usual.packs() - 2.0).abs() < 1e-9);
        let first = Usual::of(&all[..1], at(0)).unwrap();
        assert!(first.observed == 0 && first.stored.abs() < 1e-9 && first.growth.abs() < 1e-9);
        // Nobody has made any for long: the newest one tells.
        assert_eq!(Usual::of(&all[..9], at(80)).unwrap().observed, 1);
        assert!(Usual::of(&[], at(0)).is_none());
    }

    #[test]
    fn log_comes_as_it_came_and_goes_as_the_rules_say() {
        let segments: Vec<_> = (0..10).map(|day| (at(day), 4)).collect();
        let (now, until) = (at(10), at(40));
        let told = |(then, new): (Heap, Heap)| (then.whole(), new.whole());
        let amount = |objects, bytes| Amount { objects, bytes };
        let all = told(log(&segments, (now, until), None, true));
        assert_eq!(all, (amount(40, 160), amount(30, 120)));
        let window = told(log(&segments, (now, until), Some(at(33)), true));
        assert_eq!(window, (amount(7, 28), amount(30, 120)));
        let over = told(log(&segments, (now, until), Some(at(4)), false));
        assert_eq!(over, (amount(6, 24), amount(0, 0)));
        let nothing = (Amount::default(), Amount::default());
        assert_eq!(told(log(&[], (now, until), None, true)), nothing);
    }
}
