//! Bringing back points of the bank's history, by time, by position and by backup.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt as _, stream};
use serde_json::Value;
use stillpoint::{
    coordinator::{RestoreJob, Wanted, plan, run, staging_beside},
    pipeline::Meter,
    registry,
    repository::{Repository, Timeline, store::Dice},
    world::World,
};
use stillpoint_contract::{
    Engine, LogPosition, LogSource as _, Overwrite, RestoreExtras, Result, code,
};

use super::{
    havoc::Havoc,
    ledger::{Ledger, found},
};
use crate::site::{Site, seed, setting};

/// What a restore of the bank is asked for.
const DATABASE: &str = "bank.db";

/// Points that have to be restored at least.
const POINTS_MIN: usize = 100;

/// Restores under way at once.
const RESTORES_AT_ONCE: usize = 4;

/// `STILLPOINT_BANK_SECONDS` and `STILLPOINT_BANK_POINTS` make it longer.
#[test]
fn at_every_point_of_the_past_the_bank_has_the_money_that_it_had() {
    let seed = seed();
    let length = Duration::from_secs(setting("STILLPOINT_BANK_SECONDS", 12));
    let points = setting("STILLPOINT_BANK_POINTS", POINTS_MIN as u64) as usize;
    let site = Site::new();
    found(&site.path(DATABASE));
    site.ok(&["backup", "sqlite:bank.db"]);

    let mut havoc = Havoc::new(&site, seed);
    havoc.run(length);
    let tally = havoc.end();
    site.ok(&["backup", "sqlite:bank.db"]);
    let ledger = Ledger::read(&site);
    println!("{} transfers; {tally:?}", ledger.len());
    assert!(ledger.len() > 100, "the bank was closed all day");
    assert!(tally.captures_killed > 0 && tally.backups_done > 0 && tally.backups_killed > 0);

    site.ok(&["verify"]);
    // The file that was being read all the time is as sound as those that are restored.
    assert_eq!(ledger.check(&site.path(DATABASE)), ledger.len());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(prove(&site, &ledger, &Dice::new(seed ^ 0x0b_a4), points));
    refuse(&site, &ledger);
}

struct Proof<'a> {
    site: &'a Site,
    ledger: &'a Ledger,
    world: World,
    repository: Repository,
    engines: Vec<Arc<dyn Engine>>,
    restores: AtomicUsize,
}

async fn prove(site: &Site, ledger: &Ledger, dice: &Dice, points: usize) {
    let world = World::real(2);
    let repository = site.open(&world).await;
    let engines = registry::engines(&world.clock);
    let restores = AtomicUsize::new(0);
    let proof = Proof { site, ledger, world, repository, engines, restores };
    let timeline = proof.repository.timeline(DATABASE).await.unwrap();
    assert_eq!(timeline.problems, [] as [String; 0]);

    let backups = proof.backups(&timeline).await;
    let by_position = proof.positions(&timeline, &backups, dice, points / 2).await;
    let by_time = proof.times(dice, points.saturating_sub(by_position + backups.len())).await;
    println!("{} backups, {by_position} positions, {by_time} times", backups.len());
    assert!(points <= backups.len() + by_position + by_time);
}

impl Proof<'_> {
    /// Restores a point; answers with how many transfers it has.
    async fn restore(&self, wanted: Wanted) -> Result<usize> {
        let number = self.restores.fetch_add(1, Ordering::Relaxed);
        let target = self.site.path(&format!("restored-{number}.db"));
        let staging = staging_beside(&self.world, &target)?;
        let job = RestoreJob {
            engines: &self.engines,
            database: DATABASE,
            wanted,
            target: &target,
            overwrite: Overwrite::Never,
            extras: RestoreExtras::default(),
        };
        let meter = Arc::new(Meter::default());
        let restored = match plan(&self.repository, &job, &staging).await {
            Ok(resolved) => run(&self.world, &self.repository, &resolved, &meter).await,
            Err(error) => Err(error),
        };
        if let Err(error) = restored {
            assert!(!target.exists(), "a refused restore left something: {error}");
            return Err(error);
        }
        let count = self.ledger.check(&target);
        remove(&target);
        Ok(count)
    }

    /// Restores every backup alone; answers with how many transfers each has, by id.
    async fn backups(&self, timeline: &Timeline) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for backup in &timeline.backups {
            let commit = &backup.commit;
            let count = self.restore(Wanted::Backup(commit.backup.clone())).await.unwrap();
            self.ledger.check_time(count, commit.consistent_time);
            counts.insert(commit.backup.clone(), count);
        }
        counts
    }

    /// Restores positions. One commit is one transfer, so counting says which state each must be.
    async fn positions(
        &self,
        timeline: &Timeline,
        backups: &BTreeMap<String, usize>,
        dice: &Dice,
        wanted: usize,
    ) -> usize {
        let mut known: Vec<(LogPosition, usize)> = Vec::new();
        for coverage in &timeline.coverage {
            let anchors = timeline
                .backups
                .iter()
                .filter(|backup| coverage.backups.contains(&backup.commit.backup));
            for backup in anchors {
                let own = backup.commit.consistent_at.clone().unwrap();
                let commits = self.commits_after(backup).await;
                let count = backups[&backup.commit.backup];
                let numbered = commits.into_iter().zip(count + 1..);
                known.extend(numbered.chain([(own, count)]));
            }
        }
        assert!(!known.is_empty(), "no backup joins the captured log");
        let chosen: Vec<_> = (0..wanted).map(|_| known[dice.below(known.len())].clone()).collect();
        let restored = stream::iter(chosen).map(async |(position, expected)| {
            let count = self.restore(Wanted::Position(position.clone())).await;
            let count = count.unwrap_or_else(|error| panic!("{position}: {error:?}"));
            assert_eq!(count, expected, "{position}");
        });
        restored.buffer_unordered(RESTORES_AT_ONCE).count().await
    }

    async fn commits_after(
        &self,
        backup: &stillpoint::repository::history::Committed,
    ) -> Vec<LogPosition> {
        let own = backup.commit.consistent_at.as_ref().unwrap();
        let mut log = self.repository.log_from(backup).await.unwrap();
        let mut commits = Vec::new();
        while let Some(head) = log.next().await.unwrap() {
            let positions = head.events.iter().map(|event| head.range.start().at(event.offset));
            let is_own = |position: &LogPosition| position <= own;
            commits.extend(positions.filter(|position| !is_own(position)));
        }
        commits
    }

    /// Restores times until enough could be had; what cannot be had must be refused.
    async fn times(&self, dice: &Dice, wanted: usize) -> usize {
        let stretches = self.stretches();
        println!("stretches: {stretches:?}");
        let all = Stretches(stretches.clone());
        let second = TimeDelta::seconds(1);
        let around = Stretches(vec![(all.0[0].0 - second, all.0[all.0.len() - 1].1 + second)]);
        let (mut restored, mut refused) = (0, 0);
        while restored < wanted {
            // Half of them anywhere, half where they can be had.
            let draw = |number| if number % 2 == 0 { around.draw(dice) } else { all.draw(dice) };
            let drawn: Vec<DateTime<Utc>> = (0..2 * RESTORES_AT_ONCE).map(draw).collect();
            let done = stream::iter(drawn).map(|time| self.time(time, &stretches));
            let done: Vec<bool> = done.buffer_unordered(RESTORES_AT_ONCE).collect().await;
            restored += done.iter().filter(|is_restored| **is_restored).count();
            refused += done.iter().filter(|is_restored| !**is_restored).count();
            assert!(refused < 100 + 20 * restored, "nearly every time is refused: {stretches:?}");
        }
        println!("{refused} times were refused");
        restored
    }

    async fn time(
        &self,
        time: DateTime<Utc>,
        stretches: &[(DateTime<Utc>, DateTime<Utc>)],
    ) -> bool {
        match self.restore(Wanted::Time(time)).await {
            Ok(count) => {
                self.ledger.check_time(count, time);
                true
            }
            Err(error) => {
                assert_eq!(error.code(), code::UNREACHABLE_POINT, "{time}: {error:?}");
                // What `timeline` shows to be there is there, unless the capture had no time to
                // look, and then the refusal says so.
                let edge = TimeDelta::milliseconds(2);
                let inside = |(from, to): &&(DateTime<Utc>, DateTime<Utc>)| {
                    *from + edge < time && time < *to - edge
                };
                if let Some(stretch) = stretches.iter().find(inside) {
                    let told = format!("{error:?}");
                    assert!(told.contains("nobody looked"), "{time} in {stretch:?}: {told}");
                }
                false
            }
        }
    }

    /// The stretches that `timeline` shows.
    fn stretches(&self) -> Vec<(DateTime<Utc>, DateTime<Utc>)> {
        let timeline = self.site.json(&["timeline", DATABASE]);
        let time = |point: &Value| point["at"].as_str().unwrap().parse().unwrap();
        let stretches = timeline["stretches"].as_array().unwrap();
        stretches.iter().map(|s| (time(&s["from"]), time(&s["to"]))).collect()
    }
}

/// Stretches of time.
struct Stretches(Vec<(DateTime<Utc>, DateTime<Utc>)>);

impl Stretches {
    /// An instant in one of them.
    fn draw(&self, dice: &Dice) -> DateTime<Utc> {
        let length_us = |(from, to): &(DateTime<Utc>, DateTime<Utc>)| {
            (*to - *from).num_microseconds().unwrap() as usize
        };
        let mut left_us = dice.below(self.0.iter().map(length_us).sum());
        for stretch in &self.0 {
            if left_us < length_us(stretch) {
                return stretch.0 + TimeDelta::microseconds(left_us as i64);
            }
            left_us -= length_us(stretch);
        }
        panic!("no stretch has a length: {:?}", self.0)
    }
}

/// What can be reached by nobody is refused with the status for that, and leaves nothing.
fn refuse(site: &Site, ledger: &Ledger) {
    let first = ledger.acknowledged.first().unwrap();
    let last = ledger.acknowledged.last().unwrap();
    for time in [first.began - TimeDelta::hours(1), last.done + TimeDelta::hours(1)] {
        let at = time.to_rfc3339();
        let words = ["restore", DATABASE, "--at", &at, "--to", "never.db"];
        site.fails(&words, 6, &["SP0704", "nearest"]);
        assert!(!site.path("never.db").exists());
    }
}

fn remove(database: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let mut path = database.as_os_str().to_owned();
        path.push(suffix);
        drop(std::fs::remove_file(path));
    }
}
