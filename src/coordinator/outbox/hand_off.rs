//! What of a database an outbox lacks, and handing that over.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use stillpoint_contract::{Error, ErrorKind, Overwrite, RestoreExtras, Result, code};

use super::{
    folder::{Contents, Outbox, Point, failed, point_name},
    manifest::{HANDOFF_SCHEMA, PointManifest},
    payload::Payload,
    publish::{Unnamed, Way, complete, publish, store},
};
use crate::{
    coordinator::{
        copy::{CopyReport, CopyStanding, kind_of, problem},
        point::Wanted,
        restore::{RestoreJob, plan, run, staging_beside},
        scratch::Scratch,
        terms::Terms,
    },
    pipeline::Meter,
    policy::{Backup, Candidate, Proof, Stock, Verdict},
    repository::{Holdings, Pace, Problem, history::Committed},
    world::World,
};

/// Points of a database that are handed over.
#[derive(Clone, Copy, Debug)]
pub struct HandOff<'a> {
    /// What is said of what is handed over.
    pub terms: Terms<'a>,
    /// Where its files are left.
    pub outbox: &'a Outbox,
    /// Whether anything that is there may go.
    pub may_expire: bool,
}

/// A restored database, and the word for what it is.
type Restored = (Payload, String, PointManifest);

impl HandOff<'_> {
    /// Points that are there, as retention sees them.
    fn backups(&self, contents: &Contents) -> Vec<Backup> {
        let subjects = self.terms.subjects();
        let backup = |point: &Point| Backup {
            id: point.manifest.backup.clone(),
            at: point.manifest.point,
            seq: point.manifest.made,
            // It was read back before it was said to be ready.
            proof: Proof::Verified,
            own_log: None,
            subjects: subjects.clone(),
            is_acknowledged: point.is_acknowledged,
            is_odd: false,
        };
        contents.points.iter().map(backup).collect()
    }

    /// What is there, and what lacks.
    ///
    /// # Errors
    ///
    /// What keeps the source or the folder from being read.
    pub async fn look(&self, now: DateTime<Utc>) -> Result<CopyStanding> {
        let contents = self.contents().await?;
        let theirs = self.terms.source.history().await?;
        let source = self.terms.holdings(&theirs);
        let own = self.backups(&contents);
        let mut standing = CopyStanding {
            backups: own.len(),
            newest: own.iter().map(|backup| backup.at).max(),
            unacknowledged: Some(own.iter().filter(|backup| !backup.is_acknowledged).count()),
            ..CopyStanding::default()
        };
        let known = |id: &str| {
            let mut gone = contents.gone.iter().map(|(backup, _)| backup);
            own.iter().any(|backup| backup.id == id) || gone.any(|backup| backup == id)
        };
        // What was there before anything was handed over goes only where the other rules keep it.
        let times = own.iter().map(|backup| backup.at);
        let first = times.chain(contents.gone.iter().map(|(_, at)| *at)).min();
        let is_new = |at: DateTime<Utc>| first.is_some_and(|first| first < at);
        let candidates = source.backups.iter().filter(|backup| !known(&backup.id));
        let candidates = candidates.filter_map(|backup| {
            let kind = kind_of(theirs.commit(&backup.id)?);
            let is_acknowledged = !is_new(backup.at);
            Some(Candidate { backup: Backup { is_acknowledged, ..backup.clone() }, kind })
        });
        let candidates: Vec<Candidate> = candidates.collect();
        let Holdings { holds, events, .. } = &source;
        let there = Stock { backups: &own, holds, events, state: self.terms.state };
        let wanted = self.terms.rule.wanted(self.terms.policy, &candidates, &there, now);
        let waiting = wanted.iter().filter_map(|id| theirs.commit(id));
        standing.waiting_since = waiting.map(|made| made.commit.finished_at).min();
        standing.could_since =
            standing.waiting_since.and_then(|at| self.terms.hours().next_open(at));
        standing.lacking = wanted.iter().filter_map(|id| theirs.commit(id)).cloned().collect();
        standing.lacking.sort_by_key(Committed::made);
        standing.held_back = self.terms.held_back(&theirs, &candidates, &there, now);
        Ok(standing)
    }

    async fn contents(&self) -> Result<Contents> {
        let database = self.terms.database.to_owned();
        self.in_outbox(move |outbox| outbox.contents(&database)).await
    }

    async fn in_outbox<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Outbox) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let outbox = self.outbox.clone();
        let done = tokio::task::spawn_blocking(move || work(&outbox)).await;
        done.unwrap_or_else(|cause| Err(Error::bug("use an outbox").caused_by(cause)))
    }

    /// Removes the points that nothing keeps, if anything may go. Returns their backups.
    ///
    /// # Errors
    ///
    /// What keeps the source or the folder from being used.
    pub async fn expire(&self, world: &World) -> Result<Vec<String>> {
        if !self.may_expire {
            return Ok(Vec::new());
        }
        let contents = self.contents().await?;
        let history = self.terms.source.history().await?;
        let source = self.terms.holdings(&history);
        let own = self.backups(&contents);
        let Holdings { holds, events, .. } = &source;
        let stock = Stock { backups: &own, holds, events, state: self.terms.state };
        let verdicts = self.terms.rules().retain(&stock, world.clock.now()).verdicts;
        let is_gone = |point: &Point| {
            let own = verdicts.iter().find(|verdict| verdict.id == point.manifest.backup);
            own.is_some_and(|verdict| !Verdict::is_kept(verdict))
        };
        let gone: Vec<Point> =
            contents.points.iter().filter(|point| is_gone(point)).cloned().collect();
        let ids = gone.iter().map(|point| point.manifest.backup.clone()).collect();
        let (world, database) = (world.clone(), self.terms.database.to_owned());
        let known: Vec<String> = source.backups.iter().map(|backup| backup.id.clone()).collect();
        self.in_outbox(move |outbox| {
            gone.iter().try_for_each(|point| outbox.remove(&world, &database, point))?;
            outbox.forget_gone(&database, |backup| known.iter().any(|known| known == backup))
        })
        .await?;
        Ok(ids)
    }

    /// Hands over what lacks, the newest first, and ends what was interrupted. What cannot be
    /// restored keeps nothing else from being handed over.
    ///
    /// # Errors
    ///
    /// What keeps anything from being handed over; what was handed over before stays.
    pub async fn run(&self, world: &World, pace: &Pace, meter: &Arc<Meter>) -> Result<CopyReport> {
        let mut report = CopyReport::default();
        let done = self.carry(world, (pace, meter), &mut report).await;
        match done {
            Err(error) if error.code() == code::COPY_PAUSED => {
                report.paused = Some(error.to_string());
            }
            done => done?,
        }
        report.left = self.look(world.clock.now()).await?;
        Ok(report)
    }

    async fn carry(
        &self,
        world: &World,
        (pace, meter): (&Pace, &Arc<Meter>),
        report: &mut CopyReport,
    ) -> Result<()> {
        self.terms.may_go(world.clock.now())?;
        let may_go = || self.terms.may_go(world.clock.now());
        let way = Way { pace, may_go: &may_go, meter };
        let (own, database) = (world.clone(), self.terms.database.to_owned());
        self.in_outbox(move |outbox| outbox.sweep(&own, &database)).await?;
        for folder in self.contents().await?.unready {
            complete(world, self.outbox, (self.terms.database, &folder), way).await?;
        }
        report.expired = self.expire(world).await?;
        let lacking = self.look(world.clock.now()).await?.lacking;
        for committed in lacking.into_iter().rev() {
            self.terms.may_go(world.clock.now())?;
            match Box::pin(self.hand_over(world, &committed, way, meter)).await {
                Ok(bytes) => {
                    report.sent = (report.sent.0 + 1, report.sent.1 + bytes);
                    report.copied.push((committed, bytes));
                }
                Err(error) if is_finding(&error) => {
                    // What the engine finds was backed up so: the bytes are those that were stored.
                    let is_of_source = error.code() != code::RESTORE_CHECK_FAILED;
                    let backup = &committed.commit.backup;
                    let object = format!("backup {backup}");
                    let found = Problem { object, ..problem(backup, &error) };
                    let noted = self.terms.note(&committed, found, is_of_source).await?;
                    report.problems.extend(noted);
                }
                Err(error) => return Err(error),
            }
        }
        report.copied.reverse();
        // What is there by now may stand for what was there before.
        report.expired.extend(self.expire(world).await?);
        Ok(())
    }

    /// Restores one backup, and hands over what comes of it. Returns how many bytes.
    async fn hand_over(
        &self,
        world: &World,
        committed: &Committed,
        way: Way<'_>,
        meter: &Arc<Meter>,
    ) -> Result<u64> {
        // Nothing is restored that certainly does not fit.
        self.check_room(committed.commit.size_bytes).await?;
        let scratch = self.outbox.scratch.create(world)?;
        let handed = async {
            let (payload, name, mut manifest) =
                self.restore(world, committed, &scratch, meter).await?;
            self.check_room(payload.length()).await?;
            meter.begin("hand over", payload.length().saturating_mul(2));
            let point = point_name(manifest.point, &manifest.backup);
            let (own, database) = (world.clone(), self.terms.database.to_owned());
            let begun = self.in_outbox(move |outbox| {
                // It is removed also when nobody waits for it any more.
                let folder = outbox.begin(&own, &database, &point)?;
                Ok(Unnamed(Some(folder)))
            });
            let unnamed = begun.await?;
            let folder = unnamed.0.clone().unwrap_or_default();
            let file = store(payload, (&folder, &name), way).await?;
            let bytes = file.bytes;
            manifest.files.push(file);
            manifest.published_at = world.clock.now();
            self.in_outbox(move |outbox| {
                publish(outbox, &folder, &manifest)?;
                unnamed.keep();
                Ok(())
            })
            .await?;
            Ok(bytes)
        };
        let handed = handed.await;
        let removed = tokio::task::spawn_blocking(move || scratch.remove()).await;
        removed.unwrap_or_else(|cause| Err(Error::bug("remove a sandbox").caused_by(cause)))?;
        handed
    }

    async fn check_room(&self, bytes: u64) -> Result<()> {
        self.in_outbox(move |outbox| outbox.check_room(bytes)).await
    }

    /// The database as of one backup, in a scratch directory.
    async fn restore(
        &self,
        world: &World,
        committed: &Committed,
        scratch: &Scratch,
        meter: &Arc<Meter>,
    ) -> Result<Restored> {
        let commit = &committed.commit;
        let target = scratch.database();
        let job = RestoreJob {
            engines: &self.outbox.engines,
            database: self.terms.database,
            wanted: Wanted::Backup(commit.backup.clone()),
            target: &target,
            overwrite: Overwrite::Never,
            extras: RestoreExtras::default(),
        };
        let staging = staging_beside(world, &target)?;
        let resolved = Box::pin(plan(self.terms.source, &job, &staging)).await?;
        let report = Box::pin(run(world, self.terms.source, &resolved, meter)).await?;
        let is_directory = target.is_dir();
        let (engine, version) = (&resolved.manifest.engine, &resolved.manifest.version);
        let name = if is_directory { "data.tar".to_owned() } else { format!("database.{engine}") };
        let manifest = PointManifest {
            schema: HANDOFF_SCHEMA.to_owned(),
            program: concat!("stillpoint ", env!("CARGO_PKG_VERSION")).to_owned(),
            database: self.terms.database.to_owned(),
            backup: commit.backup.clone(),
            made: committed.made(),
            engine: engine.clone(),
            version: version.clone(),
            incarnation: commit.incarnation.clone(),
            point: commit.consistent_time,
            published_at: world.clock.now(),
            check: report.check,
            files: Vec::new(),
            restore: resolved.native_use(&name),
        };
        let made = tokio::task::spawn_blocking(move || {
            let payload = if is_directory { Payload::tar(&target) } else { Payload::file(&target) };
            payload.map_err(|cause| failed("hand over", &target, cause))
        });
        let payload = made.await.map_err(|cause| Error::bug("pack").caused_by(cause))??;
        Ok((payload, name, manifest))
    }
}

/// Whether it is about objects that are not as they were written, or about a database in which the
/// engine finds damage.
fn is_finding(error: &Error) -> bool {
    error.kind() == ErrorKind::Corrupt || error.code() == code::MISSING_OBJECT
}
