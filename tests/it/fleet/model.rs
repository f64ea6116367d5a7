//! Databases and repositories as a model: how long what takes, what fails, and what is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use stillpoint::{
    coordinator::{BackupTask, CaptureEvent, Ending, Fleet, Hands, Member, Standing},
    pipeline::Meter,
    policy::{Backup, Held, Hold, Interval, Kind, Logs, Need, Proof, Rules, State, Stock},
    repository::store::Dice,
};
use stillpoint_contract::{Error, ErrorKind, Lineage, LogPosition, Result, code};
use tokio::sync::watch;

use super::time::Time;

/// Everything outside of coordinators and their state.
#[derive(Debug)]
pub(super) struct Vault {
    pub(super) time: Arc<Time>,
    inner: Mutex<Inner>,
    /// Something that captures have to notice.
    stirred: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    dice: Dice,
    /// In 256ths: attempts that fail, and attempts that never end.
    failing: u8,
    stuck: u8,
    median_seconds: f64,
    records: BTreeMap<String, Record>,
    unreachable: BTreeSet<String>,
    gone: BTreeSet<String>,
    wrong: Option<String>,
    fenced: u64,
    stats: Stats,
}

/// What happened, for the report.
#[derive(Clone, Debug, Default)]
pub(super) struct Stats {
    pub(super) backups: u64,
    pub(super) drills: u64,
    pub(super) expired: u64,
    pub(super) captures: u64,
    pub(super) questions: u64,
}

/// What there is of one database.
#[derive(Clone, Debug, Default)]
pub(super) struct Record {
    pub(super) backups: Vec<Made>,
    pub(super) stretches: Vec<Stretch>,
    holds: Vec<Hold>,
    drill_passed: Option<DateTime<Utc>>,
    drill_failed: Option<DateTime<Utc>>,
}

/// A backup.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub(super) id: String,
    pub(super) task: String,
    pub(super) kind: Kind,
    pub(super) at: DateTime<Utc>,
    pub(super) committed: DateTime<Utc>,
    pub(super) is_proven: bool,
    pub(super) expired: Option<DateTime<Utc>>,
}

/// Log that was captured without a gap.
#[derive(Clone, Debug)]
pub(super) struct Stretch {
    pub(super) from: DateTime<Utc>,
    pub(super) to: Option<DateTime<Utc>>,
    by: usize,
}

/// How the hands of one coordinator work.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) vault: Arc<Vault>,
    /// Which coordinator.
    pub(super) own: usize,
}

impl Vault {
    pub(super) fn new(time: &Arc<Time>, seed: u64, median: Duration, failing: u8) -> Arc<Self> {
        let inner = Inner {
            dice: Dice::new(seed ^ 0x7661_756c),
            failing,
            stuck: failing / 8,
            median_seconds: median.as_secs_f64(),
            records: BTreeMap::new(),
            unreachable: BTreeSet::new(),
            gone: BTreeSet::new(),
            wrong: None,
            fenced: 0,
            stats: Stats::default(),
        };
        let (stirred, _) = watch::channel(0);
        Arc::new(Self { time: Arc::clone(time), inner: Mutex::new(inner), stirred })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn stir(&self) {
        self.stirred.send_modify(|count| *count += 1);
    }

    pub(super) fn wrong(&self) -> Option<String> {
        self.inner().wrong.clone()
    }

    pub(super) fn stats(&self) -> Stats {
        self.inner().stats.clone()
    }

    /// How often a worker that had lost its job was refused a second backup for it.
    pub(super) fn fenced(&self) -> u64 {
        self.inner().fenced
    }

    pub(super) fn record(&self, database: &str) -> Record {
        self.inner().records.get(database).cloned().unwrap_or_default()
    }

    /// A repository stops answering, or answers again. What is captured for it breaks off.
    pub(super) fn set_reachable(&self, repository: &str, is_reachable: bool) {
        if is_reachable {
            self.inner().unreachable.remove(repository);
        } else {
            self.inner().unreachable.insert(repository.to_owned());
        }
        self.stir();
    }

    /// A database's server goes away, or is there again.
    pub(super) fn set_there(&self, database: &str, is_there: bool) {
        if is_there {
            self.inner().gone.remove(database);
        } else {
            self.inner().gone.insert(database.to_owned());
        }
        self.stir();
    }

    /// A coordinator stands still: what it captured ends here.
    pub(super) fn freeze(&self, coordinator: usize) {
        let now = self.time.now();
        for record in self.inner().records.values_mut() {
            let open = record.stretches.iter_mut().filter(|one| one.by == coordinator);
            open.for_each(|one| one.to = one.to.or(Some(now)));
        }
        self.stir();
    }

    /// Somebody holds the newest backup of a database.
    pub(super) fn hold_newest(&self, database: &str) {
        let mut inner = self.inner();
        let record = inner.records.entry(database.to_owned()).or_default();
        if let Some(newest) = record.live().last() {
            let of = Held::Backup(newest.id.clone());
            record.holds.push(Hold { case: "simulated".to_owned(), of });
        }
    }

    fn check_reachable(&self, repository: &str) -> Result<()> {
        if self.inner().unreachable.contains(repository) {
            let step = "reach the repository";
            return Err(Error::new(ErrorKind::Transient, code::STORE_UNREACHABLE, step));
        }
        Ok(())
    }

    fn check(&self, member: &Member) -> Result<()> {
        self.check_reachable(&member.repository)?;
        if self.inner().gone.contains(&member.name) {
            let step = "reach the database";
            return Err(Error::new(ErrorKind::Transient, code::NO_DATABASE, step));
        }
        Ok(())
    }

    /// How long something takes: log-normally distributed, as real ones are.
    fn draw_length(&self) -> Duration {
        let inner = self.inner();
        // The sum of twelve even numbers is close to a normal one.
        let normal = (0..12).map(|_| f64::from(inner.dice.byte()) / 256.0).sum::<f64>() - 6.0;
        Duration::from_secs_f64((inner.median_seconds * (1.354 * normal).exp()).max(1.0))
    }

    fn draw(&self, rate: impl Fn(&Inner) -> u8) -> bool {
        let inner = self.inner();
        inner.dice.happens(rate(&inner))
    }
}

impl Inner {
    fn record(&mut self, database: &str) -> &mut Record {
        if !self.records.contains_key(database) {
            self.records.insert(database.to_owned(), Record::default());
        }
        self.records.get_mut(database).unwrap()
    }
}

impl Record {
    pub(super) fn live(&self) -> impl Iterator<Item = &Made> {
        self.backups.iter().filter(|made| made.expired.is_none())
    }

    /// What can be restored at an instant.
    fn coverage(&self, now: DateTime<Utc>) -> Vec<Interval> {
        let mut all: Vec<Interval> =
            self.live().map(|made| Interval { from: made.at, to: made.at }).collect();
        for stretch in &self.stretches {
            let to = stretch.to.unwrap_or(now);
            let inside = self.live().map(|made| made.at);
            let first = inside.filter(|at| stretch.from <= *at && *at <= to).min();
            all.extend(first.map(|from| Interval { from, to }));
        }
        all
    }
}

#[async_trait(?Send)]
impl Hands for Model {
    async fn standing(&self, _: &Fleet, member: &Member) -> Result<Standing> {
        self.vault.check_reachable(&member.repository)?;
        let now = self.vault.time.now();
        let mut inner = self.vault.inner();
        inner.stats.questions += 1;
        let record = inner.record(&member.name);
        let mut standing = Standing {
            coverage: record.coverage(now),
            backups: record.live().count(),
            newest_backup: record.live().map(|made| made.at).max(),
            newest_full: record.live().filter(|m| m.kind == Kind::Full).map(|made| made.at).max(),
            drill_passed: record.drill_passed,
            drill_failed: record.drill_failed,
            ..Standing::default()
        };
        let open = record.stretches.last().filter(|stretch| stretch.to.is_none());
        standing.need = match standing.newest_backup {
            None => Some(Need::First(member.since)),
            Some(newest) => open.filter(|open| newest < open.from).map(|open| Need::Gap(open.from)),
        };
        Ok(standing)
    }

    async fn back_up(
        &self,
        _: &Fleet,
        member: &Member,
        task: BackupTask,
        meter: &Arc<Meter>,
    ) -> Result<Ending> {
        let vault = &self.vault;
        vault.check(member)?;
        let made = vault.inner().record(&member.name).place(&task.due);
        if made.is_some() {
            vault.inner().prove(&member.name, &task.due);
            return Ok(Ending::succeeded("by an earlier attempt"));
        }
        let (at, length) = (vault.time.now(), vault.draw_length());
        if vault.draw(|inner| inner.stuck) {
            std::future::pending::<()>().await;
        }
        let fails_at = vault.draw(|inner| inner.failing).then(|| vault.inner().dice.below(4));
        for step in 0..4 {
            vault.time.sleep(length / 4).await;
            meter.advance(1 << 20);
            vault.check(member)?;
            if fails_at == Some(step) {
                let step = "read the database";
                return Err(Error::new(ErrorKind::Transient, code::NO_DATABASE, step));
            }
        }
        let now = vault.time.now();
        vault.inner().commit(member, &task, (at, now))?;
        vault.time.sleep(length / 8).await;
        vault.check_reachable(&member.repository)?;
        vault.inner().prove(&member.name, &task.due);
        Ok(Ending::succeeded("a backup"))
    }

    async fn rehearse(&self, _: &Fleet, member: &Member, meter: &Arc<Meter>) -> Result<Ending> {
        let vault = &self.vault;
        vault.check_reachable(&member.repository)?;
        vault.time.sleep(vault.draw_length()).await;
        meter.advance(1 << 20);
        vault.check_reachable(&member.repository)?;
        let fails = vault.draw(|inner| inner.failing / 4);
        let now = vault.time.now();
        let mut inner = vault.inner();
        inner.stats.drills += 1;
        let record = inner.record(&member.name);
        let newest = if fails { &mut record.drill_failed } else { &mut record.drill_passed };
        *newest = Some(now);
        Ok(if fails { Ending::failed("a finding") } else { Ending::succeeded("a drill") })
    }

    async fn expire(&self, _: &Fleet, member: &Member, now: DateTime<Utc>) -> Result<Vec<String>> {
        self.vault.check_reachable(&member.repository)?;
        Ok(self.vault.inner().expire(member, now))
    }

    async fn collect(&self, _: &Fleet, repository: &str, meter: &Arc<Meter>) -> Result<u64> {
        self.vault.check_reachable(repository)?;
        self.vault.time.sleep(Duration::from_secs(30)).await;
        meter.advance(1 << 20);
        Ok(0)
    }

    async fn capture(
        &self,
        _: &Fleet,
        member: &Member,
        is_over: &mut watch::Receiver<bool>,
        tell: &dyn Fn(CaptureEvent),
    ) -> Result<()> {
        let vault = &self.vault;
        vault.check(member)?;
        if vault.inner().record(&member.name).live().next().is_none() {
            return Ok(());
        }
        let from = vault.time.now();
        let place = {
            let mut inner = vault.inner();
            inner.stats.captures += 1;
            let record = inner.record(&member.name);
            // Whoever captured before is told so when it next looks.
            record.stretches.iter_mut().for_each(|one| one.to = one.to.or(Some(from)));
            record.stretches.push(Stretch { from, to: None, by: self.own });
            record.stretches.len() - 1
        };
        let guard = Capturing { vault, database: &member.name, place };
        vault.stir();
        let lineage = Lineage::new("sim")?;
        let position = LogPosition { lineage, offset: place as u128 };
        let (stream, gap) = (place.to_string(), None);
        tell(CaptureEvent::Started { stream, position, gap, is_anchored: false });
        let mut stirred = vault.stirred.subscribe();
        loop {
            tokio::select! {
                biased;
                _ = is_over.wait_for(|is_over| *is_over) => return Ok(()),
                _ = stirred.changed() => {}
            }
            if guard.is_closed() {
                let step = "go on with a capture";
                return Err(Error::new(ErrorKind::Fenced, code::FENCED, step));
            }
            vault.check(member)?;
        }
    }
}

/// Closes a stretch when its capture ends, however it does.
struct Capturing<'a> {
    vault: &'a Vault,
    database: &'a str,
    place: usize,
}

impl Capturing<'_> {
    fn is_closed(&self) -> bool {
        self.vault.inner().record(self.database).stretches[self.place].to.is_some()
    }
}

impl Drop for Capturing<'_> {
    fn drop(&mut self) {
        let now = self.vault.time.now();
        let mut inner = self.vault.inner();
        let stretch = &mut inner.record(self.database).stretches[self.place];
        stretch.to = stretch.to.or(Some(now));
    }
}

impl Record {
    /// Where the backup for a due time is.
    fn place(&self, due: &str) -> Option<usize> {
        self.backups.iter().rposition(|made| made.task == due)
    }
}

impl Inner {
    /// The repository's log takes one backup for a due time.
    fn commit(
        &mut self,
        member: &Member,
        task: &BackupTask,
        (at, now): (DateTime<Utc>, DateTime<Utc>),
    ) -> Result<()> {
        let record = self.record(&member.name);
        if record.place(&task.due).is_some() {
            self.fenced += 1;
            let step = "commit a second backup for a due time";
            return Err(Error::new(ErrorKind::Fenced, code::FENCED, step));
        }
        record.backups.push(Made {
            id: format!("{} {}", member.name, record.backups.len()),
            task: task.due.clone(),
            kind: task.kind,
            at,
            committed: now,
            is_proven: false,
            expired: None,
        });
        self.stats.backups += 1;
        Ok(())
    }

    fn prove(&mut self, database: &str, due: &str) {
        let record = self.record(database);
        if let Some(place) = record.place(due) {
            record.backups[place].is_proven = true;
        }
    }

    /// Gives up what the policy does not keep, and looks whether it should have.
    fn expire(&mut self, member: &Member, now: DateTime<Utc>) -> Vec<String> {
        let rules = Rules::of(&member.policy);
        let record = self.record(&member.name);
        let backups: Vec<Backup> = (0..)
            .zip(&record.backups)
            .filter(|(_, made)| made.expired.is_none())
            .map(|(seq, made)| Backup {
                id: made.id.clone(),
                at: made.at,
                seq,
                proof: if made.is_proven { Proof::Verified } else { Proof::Unverified },
                own_log: None,
                subjects: Vec::new(),
                is_acknowledged: false,
                is_odd: false,
            })
            .collect();
        let stock =
            Stock { backups: &backups, holds: &record.holds, events: &[], state: State::Active };
        let gone: BTreeSet<String> = rules
            .retain(&stock, now)
            .verdicts
            .into_iter()
            .filter(|verdict| !verdict.is_kept())
            .map(|verdict| verdict.id)
            .collect();
        let wrong = wrongly_gone(member, record, &gone, now);
        for made in &mut record.backups {
            if gone.contains(&made.id) {
                made.expired = Some(now);
            }
        }
        self.stats.expired += gone.len() as u64;
        if let Some(wrong) = wrong {
            self.wrong.get_or_insert(wrong);
        }
        gone.into_iter().collect()
    }
}

/// Whether something went that is held, young or sole: told without asking the rules.
fn wrongly_gone(
    member: &Member,
    record: &Record,
    gone: &BTreeSet<String>,
    now: DateTime<Utc>,
) -> Option<String> {
    let held = record.holds.iter().find(|hold| match &hold.of {
        Held::Backup(id) => gone.contains(id),
        Held::Range { .. } => false,
    });
    if held.is_some() {
        return Some(format!("{}: a held backup expired at {now}", member.name));
    }
    let mut proven: Vec<&Made> = record.live().filter(|made| made.is_proven).collect();
    proven.sort_by_key(|made| std::cmp::Reverse(made.at));
    let newest = member.policy.keep.last.max(member.policy.floor).max(1) as usize;
    if let Some(made) = proven.iter().take(newest).find(|made| gone.contains(&made.id)) {
        return Some(format!("{}: {} of the newest {newest} expired", member.name, made.id));
    }
    let window = match member.policy.logs {
        Logs::Never => TimeDelta::zero(),
        Logs::Stream | Logs::Every(_) => TimeDelta::from_std(member.policy.pitr_window).unwrap(),
    };
    let young = record.live().find(|made| gone.contains(&made.id) && now - window < made.at);
    young.map(|made| format!("{}: {} expired, which is of {}", member.name, made.id, made.at))
}
