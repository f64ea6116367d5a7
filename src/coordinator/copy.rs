//! One copy of one database: what it lacks, and bringing that to it.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    reach::windows,
    terms::{HeldBack, Terms},
};
use crate::{
    pipeline::Meter,
    policy::{Candidate, CopyKind, Stock, Verdict},
    repository::{
        COPIED_FROM, Holdings, LogToCopy, Pace, Problem, Replication, Repository, Road,
        history::{Committed, History},
    },
    world::World,
};

/// A copy of a database.
#[derive(Clone, Copy, Debug)]
pub struct Copying<'a> {
    /// What is said of it.
    pub terms: Terms<'a>,
    /// The copy.
    pub target: &'a Repository,
}

/// What a copy has, and what it lacks.
#[derive(Clone, Debug, Default)]
pub struct CopyStanding {
    /// Backups that it has.
    pub backups: usize,
    /// What they take, in bytes, where that is known.
    pub stored_bytes: Option<u64>,
    /// The newest point that can be restored from it.
    pub newest: Option<DateTime<Utc>>,
    /// Backups that were handed over and that nobody has acknowledged; nothing of a repository.
    pub unacknowledged: Option<usize>,
    /// Backups that it lacks, in the order in which they were made.
    pub lacking: Vec<Committed>,
    /// Backups that it has and that nobody has proven there.
    pub unproven: Vec<Committed>,
    /// Backups of the source that are damaged there, and proven in the copy.
    pub damaged: Vec<Committed>,
    /// Log that it lacks.
    pub log: LogToCopy,
    /// Backups of the source that do not go, and why: nobody has proven them, or something is wrong
    /// with them.
    pub held_back: Vec<HeldBack>,
    /// Since when the oldest of what it lacks waits.
    pub waiting_since: Option<DateTime<Utc>>,
    /// From when on it could have been copied, by every window, if that is known.
    pub could_since: Option<DateTime<Utc>>,
}

/// What copying came to.
#[derive(Clone, Debug, Default)]
pub struct CopyReport {
    /// Backups that were copied, and what each added there, in bytes.
    pub copied: Vec<(Committed, u64)>,
    /// Segments of log that were copied.
    pub segments: u64,
    /// Objects of the copy that were brought back.
    pub mended: Vec<String>,
    /// Objects of the source that were brought back from the copy.
    pub repaired: Vec<String>,
    /// Backups that were handed over and are gone from there.
    pub expired: Vec<String>,
    /// What is not as it was written, and was not copied because of that.
    pub problems: Vec<Problem>,
    /// Objects and bytes that were sent.
    pub sent: (u64, u64),
    /// Why it stopped before its end, if it may go on later.
    pub paused: Option<String>,
    /// What is left to do.
    pub left: CopyStanding,
}

impl CopyStanding {
    /// Whether the copy has everything that it should have.
    pub fn is_complete(&self) -> bool {
        !self.needs_job() && self.log.segments.is_empty()
    }

    /// Whether it lacks anything but log.
    pub fn needs_job(&self) -> bool {
        !(self.lacking.is_empty() && self.unproven.is_empty() && self.damaged.is_empty())
    }
}

impl Copying<'_> {
    /// The backups of the copy that nothing keeps.
    pub fn gone(&self, holdings: &Holdings, now: DateTime<Utc>) -> Vec<String> {
        let holdings = holdings.clone().about(&self.terms.subjects());
        let kept = self.terms.rules().retain(&holdings.stock(self.terms.state), now);
        let gone = kept.verdicts.into_iter().filter(|verdict| !Verdict::is_kept(verdict));
        gone.map(|verdict| verdict.id).collect()
    }

    /// From when on the copy needs log.
    pub fn log_begin(&self, holdings: &Holdings, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let holdings = holdings.clone().about(&self.terms.subjects());
        self.terms.rules().retain(&holdings.stock(self.terms.state), now).log_begin()
    }

    /// What the copy has, and what it lacks.
    ///
    /// # Errors
    ///
    /// What keeps either repository from being read.
    pub async fn look(&self, now: DateTime<Utc>) -> Result<CopyStanding> {
        let (theirs, own) = (self.terms.source.history().await?, self.target.history().await?);
        let (source, target) = (self.terms.holdings(&theirs), self.terms.holdings(&own));
        let mut standing =
            CopyStanding { backups: target.backups.len(), ..CopyStanding::default() };
        let mut candidates = Vec::new();
        for backup in source.backups {
            let Some(committed) = theirs.commit(&backup.id) else { continue };
            // What was given up there is not brought back.
            if let Some(known) = own.commit(&backup.id) {
                // What is wrong with a backup beside its bytes is the same in every copy.
                if theirs.is_suspect(&backup.id) && is_whole(&own, &backup.id) && !known.forgotten {
                    standing.damaged.push(committed.clone());
                }
                continue;
            }
            let kind = kind_of(committed);
            candidates.push(Candidate { backup, kind });
        }
        let holds: Vec<_> = target.holds.iter().chain(&source.holds).cloned().collect();
        let Holdings { backups, events, .. } = &target;
        let there = Stock { backups, holds: &holds, events, state: self.terms.state };
        let wanted = self.terms.rule.wanted(self.terms.policy, &candidates, &there, now);
        standing.held_back = self.terms.held_back(&theirs, &candidates, &there, now);
        let mut since: Vec<DateTime<Utc>> = Vec::new();
        for id in &wanted {
            let Some(committed) = theirs.commit(id) else { continue };
            // Its proof is renewed from time to time, and would make nothing ever late.
            since.push(committed.commit.finished_at);
            standing.lacking.push(committed.clone());
        }
        standing.lacking.sort_by_key(Committed::made);
        for backup in target.backups.iter().filter(|backup| !is_whole(&own, &backup.id)) {
            let Some(committed) = own.commit(&backup.id) else { continue };
            let found = own.proof(&backup.id).map(|proof| proof.at);
            since.push(found.unwrap_or(committed.commit.finished_at));
            standing.unproven.push(committed.clone());
        }
        if self.terms.rule.takes(CopyKind::Logs) {
            let from = self.log_begin(&target, now);
            standing.log =
                self.terms.source.log_to_copy(self.target, self.terms.database, from).await?;
            since.extend(standing.log.since);
        }
        standing.waiting_since = since.into_iter().min();
        standing.could_since =
            standing.waiting_since.and_then(|at| self.terms.hours().next_open(at));
        let live = own.live_of(self.terms.database);
        standing.stored_bytes = Some(live.map(|one| one.commit.stored_bytes).sum());
        if !target.backups.is_empty() {
            let reached = windows(&self.target.timeline(self.terms.database).await?);
            standing.newest = reached.iter().map(|window| window.to.at).max();
        }
        Ok(standing)
    }

    /// Brings to the copy what it lacks. What is damaged at the source stays there, is written down
    /// there, and keeps nothing else from being copied.
    ///
    /// # Errors
    ///
    /// What keeps anything from being copied; what was copied before stays.
    pub async fn run(&self, world: &World, pace: &Pace, meter: &Arc<Meter>) -> Result<CopyReport> {
        let may_go = || self.terms.may_go(world.clock.now());
        let road = Road { pace, may_go: &may_go, meter };
        let replication = Replication::new(self.terms.source, self.target, road)?;
        let mut report = CopyReport::default();
        let done = self.carry(world, &replication, &mut report).await;
        report.sent = replication.sent();
        match done {
            Err(error) if error.code() == code::COPY_PAUSED => {
                report.paused = Some(error.to_string());
            }
            done => done?,
        }
        report.left = self.look(world.clock.now()).await?;
        Ok(report)
    }

    /// Brings to the copy the log that it lacks, and what was said and found at the source. Returns
    /// how many segments.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub async fn run_log(
        &self,
        world: &World,
        pace: &Pace,
        meter: &Arc<Meter>,
    ) -> Result<CopyReport> {
        let may_go = || self.terms.may_go(world.clock.now());
        let road = Road { pace, may_go: &may_go, meter };
        let replication = Replication::new(self.terms.source, self.target, road)?;
        let mut report = CopyReport::default();
        let done = async {
            replication.custody(self.terms.database).await?;
            self.carry_log(world, &replication, &mut report).await
        };
        match done.await {
            Err(error) if error.code() == code::COPY_PAUSED => {
                report.paused = Some(error.to_string());
            }
            done => done?,
        }
        report.sent = replication.sent();
        Ok(report)
    }

    /// Tells the copy what people said at the source, and what drills found damaged there: that is
    /// a few bytes, and waits for no window.
    ///
    /// # Errors
    ///
    /// What keeps either repository from being used.
    pub async fn learn(&self, world: &World) -> Result<()> {
        let (pace, meter) = (Pace::new(Arc::clone(&world.clock), None), Arc::new(Meter::default()));
        let road = Road { pace: &pace, may_go: &|| Ok(()), meter: &meter };
        Replication::new(self.terms.source, self.target, road)?.custody(self.terms.database).await
    }

    async fn carry(
        &self,
        world: &World,
        replication: &Replication<'_>,
        report: &mut CopyReport,
    ) -> Result<()> {
        self.terms.may_go(world.clock.now())?;
        replication.slots().await?;
        replication.custody(self.terms.database).await?;
        let standing = self.look(world.clock.now()).await?;
        for committed in standing.lacking {
            match replication.backup(&committed).await {
                Ok(Some(bytes)) => report.copied.push((committed, bytes)),
                Ok(None) => {}
                Err(error) if is_finding(&error) => {
                    let is_of_source = error.facts().iter().any(|(label, _)| *label == COPIED_FROM);
                    let found = problem(&committed.commit.backup, &error);
                    let noted = self.terms.note(&committed, found, is_of_source).await?;
                    report.problems.extend(noted);
                }
                Err(error) => return Err(error),
            }
        }
        for committed in standing.unproven {
            let backup = &committed.commit.backup;
            let mended = match replication.mend(&committed).await {
                Ok(mended) => {
                    report.mended.extend(mended);
                    replication.prove(backup).await
                }
                Err(error) => Err(error),
            };
            match mended {
                Err(error) if is_finding(&error) => report.problems.push(problem(backup, &error)),
                mended => mended?,
            }
        }
        self.repair(world, standing.damaged, (replication, report)).await?;
        self.carry_log(world, replication, report).await?;
        // What is held may only now be there.
        replication.custody(self.terms.database).await
    }

    /// Brings back to the source what is damaged there, of backups that the copy has.
    async fn repair(
        &self,
        world: &World,
        damaged: Vec<Committed>,
        (replication, report): (&Replication<'_>, &mut CopyReport),
    ) -> Result<()> {
        let pace = Pace::new(Arc::clone(&world.clock), None);
        let back = replication.back(&pace)?;
        for committed in damaged {
            let backup = &committed.commit.backup;
            let repaired = match back.mend(&committed).await {
                Ok(repaired) => {
                    report.repaired.extend(repaired);
                    back.prove(backup).await
                }
                Err(error) => Err(error),
            };
            match repaired {
                Err(error) if is_finding(&error) => report.problems.push(problem(backup, &error)),
                repaired => repaired?,
            }
        }
        Ok(())
    }

    async fn carry_log(
        &self,
        world: &World,
        replication: &Replication<'_>,
        report: &mut CopyReport,
    ) -> Result<()> {
        if !self.terms.rule.takes(CopyKind::Logs) {
            return Ok(());
        }
        let own = self.target.history().await?;
        let from = self.log_begin(&self.terms.holdings(&own), world.clock.now());
        let copied = replication.log(self.terms.database, from).await?;
        report.segments += copied.segments;
        for (object, what) in copied.problems {
            report.problems.push(Problem { object, what, backups: Vec::new() });
        }
        Ok(())
    }
}

/// Whether every stored byte of a backup was read back, and is as it was written.
fn is_whole(history: &History, backup: &str) -> bool {
    history.proof(backup).is_some_and(|proof| proof.problem.is_none())
}

/// Of which kind a backup is.
pub fn kind_of(committed: &Committed) -> CopyKind {
    if committed.commit.incremental { CopyKind::Incremental } else { CopyKind::Full }
}

/// Whether it is about objects that are not as they were written.
fn is_finding(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Missing)
}

/// What is wrong with a backup: with a pack of it, where that is known.
pub(super) fn problem(backup: &str, error: &Error) -> Problem {
    let mut what = error.to_string();
    for (label, value) in error.facts() {
        what = format!("{what}, {label} {value}");
    }
    let facts = error.facts();
    let named = facts.iter().find(|(label, _)| *label == "pack");
    let object = named.map_or_else(|| format!("backup {backup}"), |(_, pack)| (*pack).to_owned());
    Problem { object, what, backups: vec![backup.to_owned()] }
}
