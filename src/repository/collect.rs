//! Garbage: mark what no backup needs, doom it by a log entry, sweep it after a grace.
//!
//! Safe without clocks and locks: a commit after a doom entry has folded it, so it refers to
//! nothing doomed; a doom entry has folded every earlier commit, so it dooms nothing they need.
//! The grace only lets readers finish that began before.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use stillpoint_contract::{Error, Result};

use super::{
    entry::{Action, Commit, Doom},
    handle::Repository,
    history::{Committed, History, PackList},
    index_run::RunName,
    names,
    pack::PackName,
    repack::Repacked,
    stock::Holdings,
    store::{Deleted, Key, Listed},
    timeline::Coverage,
};
use crate::pipeline::Meter;

/// Packs named by one doom entry. What is left over waits for the next run.
const DOOM_PACKS_MAX: usize = 20_000;

/// Other objects named by one doom entry, an even number.
const DOOM_OBJECTS_MAX: usize = 50_000;

/// How old orphans are that go.
const ORPHAN_AGE: Duration = Duration::from_hours(7 * 24);

/// In a copy, a first backup may be on its way for weeks, within narrow windows.
const REPLICA_ORPHAN_AGE: Duration = Duration::from_hours(60 * 24);

/// How garbage is collected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CollectOptions {
    /// How long doomed objects stay for readers that began before.
    pub grace: Duration,
    /// How old a pack must be that no backup ever named: its writer may still be at work. Without
    /// it, what is usual, which in a copy is longer.
    pub orphan_age: Option<Duration>,
    /// How much of the stored bytes one run may copy out of half-empty packs, from 0 to 1.
    pub repack_max: f64,
    /// Only say what would be done.
    pub dry_run: bool,
}

impl Default for CollectOptions {
    fn default() -> Self {
        Self { grace: Duration::from_hours(72), orphan_age: None, repack_max: 0.1, dry_run: false }
    }
}

/// What a collection did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CollectReport {
    /// Packs doomed now, and their bytes.
    pub doomed: (u64, u64),
    /// Packs of those that were half empty: what they still held was copied first, in bytes.
    pub repacked: (u64, u64),
    /// Log segments, manifests and pack lists doomed now.
    pub doomed_objects: u64,
    /// Index runs that others replace now.
    pub doomed_indexes: u64,
    /// Objects deleted now, and their bytes as far as known.
    pub swept: (u64, u64),
    /// Objects that the store keeps under a lock.
    pub retained: u64,
    /// Packs that wait for the grace to end, and their bytes.
    pub waiting: (u64, u64),
}

/// What a mark found, as of one entry of the log.
struct Marked {
    needed: BTreeSet<PackName>,
    garbage: PackList,
    objects: Vec<String>,
}

impl Repository {
    /// Dooms what is no longer needed, and deletes what was doomed long enough ago.
    ///
    /// # Errors
    ///
    /// Damage that would make it delete the wrong thing stops it before it deletes anything.
    pub async fn collect(
        &self,
        options: CollectOptions,
        meter: &Arc<Meter>,
    ) -> Result<CollectReport> {
        self.domain()?;
        let mut report = CollectReport::default();
        meter.begin("mark", 0);
        self.doom(options, meter, &mut report).await?;
        self.sweep(options, meter, &mut report).await?;
        if !options.dry_run {
            let young = self.young(options);
            self.sweep_beats(young, &mut report).await?;
        }
        Ok(report)
    }

    async fn doom(
        &self,
        options: CollectOptions,
        meter: &Arc<Meter>,
        report: &mut CollectReport,
    ) -> Result<()> {
        let history = self.history().await?;
        let listed = self.store.list(names::PACKS).await?;
        let marked = self.mark(&history, &listed, options).await?;
        let repacked = if options.dry_run {
            Repacked::default()
        } else {
            self.repack(&history, &marked.needed, options.repack_max, meter).await?
        };
        let sizes: BTreeMap<PackName, u64> = listed.iter().filter_map(sized).collect();
        let mut packs: BTreeSet<PackName> = marked.garbage.keys().copied().collect();
        packs.extend(repacked.moved.keys());
        // Emptied packs first: a pack that moved and is not doomed could be referred to again.
        let (emptied, garbage): (Vec<_>, Vec<_>) =
            packs.into_iter().partition(|pack| repacked.moved.contains_key(pack));
        let packs: Vec<PackName> =
            emptied.into_iter().chain(garbage).take(DOOM_PACKS_MAX).collect();
        let mut moved = repacked.moved;
        let kept: HashSet<&PackName> = packs.iter().collect();
        moved.retain(|pack, _| kept.contains(pack));
        let mut objects = marked.objects;
        // Pairs first, and then the log of each stretch from its beginning: what is cut off waits.
        objects.truncate(DOOM_OBJECTS_MAX);
        let doom = Doom { moved, packs, indexes: repacked.superseded, objects };
        let mut settled = doom.clone();
        if !options.dry_run {
            self.append(async |now| {
                settled = self.spare(now, &history, doom.clone()).await?;
                let is_empty = settled == Doom::default();
                Ok((!is_empty).then(|| Action::Doom(Box::new(settled.clone()))))
            })
            .await?;
        }
        let bytes = |pack: &PackName| sizes.get(pack).copied().unwrap_or(0);
        report.doomed = (settled.packs.len() as u64, settled.packs.iter().map(bytes).sum());
        report.repacked = (settled.moved.len() as u64, repacked.copied_bytes);
        report.doomed_objects = settled.objects.len() as u64;
        report.doomed_indexes = settled.indexes.len() as u64;
        Ok(())
    }

    async fn mark(
        &self,
        history: &History,
        listed: &[Listed],
        options: CollectOptions,
    ) -> Result<Marked> {
        let mut needed = BTreeSet::new();
        for committed in history.live() {
            // A pack list that cannot be read stops everything: what it names must not go.
            let listed = self.pack_list(committed).await.map_err(|error| {
                let Commit { backup, database, .. } = &committed.commit;
                error
                    .during(format!("find out what backup {backup} of {database} needs"))
                    .why("nothing was deleted: as long as the backup exists, it keeps everything")
                    .next("copy the object back from another copy of the repository")
                    .next(format!("or give the backup up: stillpoint forget {backup}"))
            })?;
            needed.extend(history.resolve(listed).into_keys());
        }
        let mut forgotten = BTreeSet::new();
        let mut objects = Vec::new();
        for committed in history.commits().filter(|c| c.forgotten) {
            let commit = &committed.commit;
            if history.is_doomed_object(&commit.packs) {
                continue;
            }
            if let Ok(packs) = self.pack_list(committed).await {
                forgotten.extend(history.resolve(packs).into_keys());
            }
            objects.extend([commit.manifest.clone(), commit.packs.clone()]);
        }
        let young = self.young(options);
        objects.extend(self.stale_segments(history, young).await?);
        let unneeded = listed.iter().filter_map(|object| {
            let pack = PackName::from_key(&object.key)?;
            let is_unneeded = !needed.contains(&pack) && !history.is_doomed_pack(&pack);
            is_unneeded.then_some((pack, object))
        });
        let (left, mut orphans): (Vec<_>, Vec<_>) =
            unneeded.partition(|(pack, _)| forgotten.contains(pack));
        // A copy of a backup takes as long as it takes: as long as anything comes, what came before
        // may be of the same one.
        let comes = orphans.iter().any(|(_, object)| object.modified >= young);
        let may_wait = comes && self.descriptor().is_replica();
        orphans.retain(|(_, object)| object.modified < young && !may_wait);
        let garbage = left.into_iter().chain(orphans);
        let garbage = garbage.map(|(pack, object)| (pack, object.size_bytes)).collect();
        Ok(Marked { needed, garbage, objects })
    }

    /// When what nobody names is younger than this, its writer may still be at work.
    fn young(&self, options: CollectOptions) -> DateTime<Utc> {
        let usual = if self.descriptor().is_replica() { REPLICA_ORPHAN_AGE } else { ORPHAN_AGE };
        self.world.clock.now() - age(options.orphan_age.unwrap_or(usual))
    }

    /// Captured log that no backup can use: before the oldest backup in it, or without any backup
    /// and not the newest; and all log of a database that nobody protects any more. Where somebody
    /// said from when on log is needed, older backups do not count, and nor does log that ended
    /// before then.
    async fn stale_segments(&self, history: &History, young: DateTime<Utc>) -> Result<Vec<String>> {
        let mut stale = Vec::new();
        for database in self.databases().await? {
            if !history.protects(&database) {
                stale.extend(self.abandoned_segments(history, &database, young).await?);
                continue;
            }
            let timeline = self.timeline(&database).await?;
            if !timeline.problems.is_empty() {
                continue;
            }
            let needed_from = needed_from(history, &database);
            // Older ones are points by themselves: no log is kept for their sake.
            let leads = |b: &Committed| {
                needed_from.is_none_or(|needed_from| needed_from <= b.commit.consistent_time)
            };
            let newest = timeline.coverage.len().saturating_sub(1);
            for (number, coverage) in timeline.coverage.iter().enumerate() {
                let mut keep_from = if number == newest { 0 } else { coverage.segments.len() };
                let joined = |b: &&Committed| coverage.backups.contains(&b.commit.backup);
                let (mut leading, points): (Vec<_>, Vec<_>) =
                    timeline.backups.iter().filter(joined).partition(|b| leads(b));
                let is_over = number != newest && ended_before(coverage, needed_from);
                if leading.is_empty() && !is_over {
                    leading = points;
                }
                if !leading.is_empty() {
                    keep_from = self.oldest_anchor(&database, coverage, &leading).await?;
                }
                for id in &coverage.segments[..keep_from] {
                    let key = names::segment(&database, &id.stream, id.seq)?;
                    if !history.is_doomed_object(key.as_str()) {
                        stale.push(key.to_string());
                    }
                }
            }
        }
        Ok(stale)
    }

    /// All log of a database without backups, once none of it is young: its first backup may be
    /// on its way. Damage in it does not matter any more.
    async fn abandoned_segments(
        &self,
        history: &History,
        database: &str,
        young: DateTime<Utc>,
    ) -> Result<Vec<String>> {
        let listed = self.store.list(&names::streams(database)).await?;
        let is_young = listed.iter().any(|object| object.modified >= young);
        if is_young || self.running_capture(database).await?.is_some() {
            return Ok(Vec::new());
        }
        let names = listed.into_iter().map(|object| object.key.to_string());
        Ok(names.filter(|name| !history.is_doomed_object(name)).collect())
    }

    /// Deletes signs of life that say nothing: older ones of a stream, and those of streams that
    /// are gone, except the newest of its database while anything else is left of that or is young.
    async fn sweep_beats(&self, young: DateTime<Utc>, report: &mut CollectReport) -> Result<()> {
        let history = self.history().await?;
        let mut streams: BTreeMap<(String, String), Vec<(u64, Listed)>> = BTreeMap::new();
        for object in self.store.list(names::ALL_BEATS).await? {
            let database = names::beat_database(&object.key);
            if let (Some(database), Some((stream, beat))) = (database, names::beat_of(&object.key))
            {
                streams.entry((database, stream)).or_default().push((beat, object));
            }
        }
        let mut before: Option<String> = None;
        // Backwards: the newest stream of each database comes first.
        for ((database, stream), mut beats) in streams.into_iter().rev() {
            beats.sort_unstable_by_key(|(beat, _)| *beat);
            let is_newest_stream = before.replace(database.clone()).as_ref() != Some(&database);
            let prefix = if is_newest_stream {
                names::streams(&database)
            } else {
                format!("{}{stream}/", names::streams(&database))
            };
            let newest = beats.last().map(|(_, object)| object.modified);
            let is_kept = history.protects(&database)
                || newest.is_some_and(|newest| newest >= young)
                || self.running_capture(&database).await?.is_some();
            let is_used =
                is_newest_stream && is_kept || !self.store.list(&prefix).await?.is_empty();
            if is_used {
                beats.pop();
            }
            for (_, object) in beats {
                if self.store.delete(&object.key).await? == Deleted::Gone {
                    report.swept.0 += 1;
                    report.swept.1 += object.size_bytes;
                }
            }
        }
        Ok(())
    }

    /// Takes back what commits since `marked` refer to, and what others doomed meanwhile.
    async fn spare(&self, now: &History, marked: &History, mut doom: Doom) -> Result<Doom> {
        let seen = marked.head().seq;
        let newer: Vec<&Committed> = now.live().into_iter().filter(|c| c.seq > seen).collect();
        let mut spared = HashSet::new();
        for committed in &newer {
            spared.extend(now.resolve(self.pack_list(committed).await?).into_keys());
        }
        // Another collector may have moved blobs into packs that looked like orphans to us.
        let moves =
            now.dooms().range(seen + 1..).flat_map(|(_, doomed)| doomed.doom.moved.values());
        spared.extend(moves.flatten().map(|(home, _)| *home));
        let is_settled = |pack: &PackName| spared.contains(pack) || now.is_doomed_pack(pack);
        let emptied: HashSet<PackName> = doom.moved.keys().copied().collect();
        // And it may have taken our new packs for orphans: what went there stays where it was.
        doom.moved.retain(|pack, homes| {
            !is_settled(pack) && !homes.iter().any(|(home, _)| now.is_doomed_pack(home))
        });
        let moved = &doom.moved;
        doom.packs.retain(|pack| {
            !is_settled(pack) && (!emptied.contains(pack) || moved.contains_key(pack))
        });
        doom.indexes.retain(|run| !now.is_doomed_index(run));
        if newer.is_empty() && now.agrees_on_custody(marked) {
            doom.objects.retain(|object| !now.is_doomed_object(object));
        } else {
            // A new backup, or a hold, may need log that looked stale.
            doom.objects.retain(|object| {
                !object.starts_with(names::STREAMS) && !now.is_doomed_object(object)
            });
        }
        Ok(doom)
    }

    async fn sweep(
        &self,
        options: CollectOptions,
        meter: &Arc<Meter>,
        report: &mut CollectReport,
    ) -> Result<()> {
        let history = self.history().await?;
        let sizes: BTreeMap<Key, u64> =
            self.store.list("").await?.into_iter().map(|o| (o.key, o.size_bytes)).collect();
        let (ripe, now) = (self.world.clock.now() - age(options.grace), self.world.clock.now());
        let sized = |key: &Key| sizes.get(key).copied().unwrap_or(0);
        let mut to_go = 0;
        for doomed in history.dooms().values().filter(|d| !d.swept && is_ripe(d.at, ripe, now)) {
            to_go += keys_of(&doomed.doom)?.iter().map(sized).sum::<u64>();
        }
        meter.begin("sweep", to_go);
        for (seq, doomed) in history.dooms().iter().filter(|(_, doomed)| !doomed.swept) {
            let keys = keys_of(&doomed.doom)?;
            if !is_ripe(doomed.at, ripe, now) || options.dry_run {
                report.waiting.0 += doomed.doom.packs.len() as u64;
                report.waiting.1 +=
                    doomed.doom.packs.iter().filter_map(|p| sizes.get(&p.key())).sum::<u64>();
                continue;
            }
            self.assert_unneeded(&history, &doomed.doom).await?;
            let mut is_swept = true;
            for key in keys {
                meter.advance(sized(&key));
                match self.store.delete(&key).await? {
                    Deleted::Gone => {
                        report.swept.0 += 1;
                        report.swept.1 += sized(&key);
                    }
                    Deleted::Retained => {
                        report.retained += 1;
                        is_swept = false;
                    }
                }
            }
            if is_swept {
                let seq = *seq;
                self.append(async |now| {
                    let is_open = now.dooms().get(&seq).is_some_and(|doomed| !doomed.swept);
                    Ok(is_open.then_some(Action::Swept { doom: seq }))
                })
                .await?;
            }
        }
        Ok(())
    }

    /// The same rule that marking keeps, asked again right before deletion.
    async fn assert_unneeded(&self, history: &History, doom: &Doom) -> Result<()> {
        let doomed: HashSet<&PackName> = doom.packs.iter().collect();
        for committed in history.live() {
            let packs = history.resolve(self.pack_list(committed).await?);
            if let Some(pack) = packs.keys().find(|pack| doomed.contains(pack)) {
                return Err(Error::bug("delete a pack that a backup needs")
                    .with("pack", pack)
                    .with("backup", &committed.commit.backup));
            }
        }
        Ok(())
    }
}

/// From when on log of a database is needed, if it is known: a hold on a stretch of time counts,
/// whatever was said before or after it.
fn needed_from(history: &History, database: &str) -> Option<DateTime<Utc>> {
    let trimmed = history.trimmed(database)?;
    let held = Holdings::of(history, database).held_log();
    Some(held.map_or(trimmed, |held| held.min(trimmed)))
}

fn ended_before(coverage: &Coverage, needed_from: Option<DateTime<Utc>>) -> bool {
    needed_from.is_some_and(|from| coverage.until < from && coverage.end.at < from)
}

fn keys_of(doom: &Doom) -> Result<Vec<Key>> {
    let mut keys: Vec<Key> = doom.packs.iter().map(PackName::key).collect();
    keys.extend(doom.indexes.iter().map(RunName::key));
    for object in &doom.objects {
        keys.push(Key::new(object.clone())?);
    }
    Ok(keys)
}

/// A doom entry from the future says nothing about how long readers had: its clock or ours is
/// wrong, and waiting costs only space.
fn is_ripe(doomed_at: DateTime<Utc>, ripe: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    doomed_at <= ripe && doomed_at <= now
}

fn age(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX / 4)
}

fn sized(object: &Listed) -> Option<(PackName, u64)> {
    Some((PackName::from_key(&object.key)?, object.size_bytes))
}
