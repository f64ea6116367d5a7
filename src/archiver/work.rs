//! A run as it is carried out: what is pending is deleted, what is left is read, and of both one
//! while the other.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use stillpoint_contract::{ArchiveSet, ErrorKind, Key, KeyRange, LedgerEntry, Result, Rows};

use super::{
    control::Control,
    document::{Batch, End, Plan, Sealed, Slice, Void},
    export::{Manner, export},
    garbage::settle,
    mend::Mended,
    pace::Pace,
    place::{Place, Sheet},
    prepare::refuse_misfits,
    prune::{Difference, Pruned, Stride, Versions, ledgered, prune},
    rewrite::{Keeps, rewrite, void},
    run::{Archiving, Quit, RunReport, may_be},
    shelf::{Shelved, ShelvedBatch},
    shelve::shelve,
    witness::Step,
    word::Rests,
};
use crate::policy::{Verification, is_open, next_begin};

/// How often rows are read again that were changed between being read and being deleted.
const PASSES_MAX: u32 = 3;

/// How many times smaller slices are each time rows are read again.
const NARROWER: u64 = 20;

/// How many slices of a batch somebody else may hold, when they are small: each of them is waited
/// for, and the rest of such a batch is left.
const BUSY_MAX: usize = 16;

/// How many differences a report names.
const DIFFERENCES_MAX: usize = 100;

/// A run as it is carried out.
pub(super) struct Work<'a, 'b> {
    pub(super) archiving: &'b Archiving<'a>,
    pub(super) stride: Stride,
    /// How many rows of the root a slice has.
    slice_rows: u64,
    pub(super) pace: Pace,
    pub(super) rests: Rests,
    begun: Duration,
    /// What somebody told it, and when it looked.
    pub(super) told: Control,
    pub(super) looked: Option<Duration>,
    /// Whether the policy or the tables are not those of the plan any more.
    pub(super) is_outdated: bool,
    /// Whether rows stay in their tables.
    pub(super) keeps_rows: bool,
    pub(super) report: &'b mut RunReport,
}

/// What became of a batch.
#[derive(Default)]
pub(super) struct Outcome {
    /// Why the run stops.
    pub(super) quit: Option<Quit>,
    /// How many rows of the root were left.
    left_rows: u64,
    /// What the batch is now, if it is done with.
    became: Option<ShelvedBatch>,
    /// Whether the tables are not those of the plan any more.
    is_other_schema: bool,
}

impl<'a, 'b> Work<'a, 'b> {
    pub(super) fn new(archiving: &'b Archiving<'a>, report: &'b mut RunReport) -> Self {
        Self {
            archiving,
            stride: Stride::new(archiving.rule.transaction),
            slice_rows: archiving.rule.slice_rows,
            pace: Pace::new(archiving.rule.throttle.clone(), report.debts),
            rests: Rests::default(),
            begun: report.begun,
            told: Control::default(),
            looked: None,
            is_outdated: false,
            keeps_rows: archiving.limits.keeps_source,
            report,
        }
    }

    /// Moves what the plan of a run selects, as far as that goes now.
    pub(super) async fn carry_out(
        &mut self,
        pruner: &mut dyn Rows,
        reader: &mut dyn Rows,
        mut run: Shelved,
    ) -> Result<Quit> {
        let ledger = pruner.ledger(&run.plan.set).await?;
        self.settle(&mut run, &ledger).await?;
        if let Some(why) = self.why_given_up(reader, &run.plan).await? {
            self.is_outdated = true;
            return self.let_go(pruner, run, why).await;
        }
        let keeps_source = self.keeps_rows;
        let (mut gate, mut lost) = (None, None);
        let pending: Vec<Batch> = run.pending().cloned().collect();
        for batch in pending.iter().filter(|_| !keeps_source) {
            let outcome = match self.prune_again(pruner, &run.plan, batch, &ledger).await {
                // What is lost is lost: the others go on, and then it is told.
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    lost = lost.or(Some(error));
                    continue;
                }
                outcome => outcome?,
            };
            run.batches.extend(outcome.became.map(|one| (batch.number, one)));
            match outcome.quit {
                Some(Quit::Gate(why)) => gate = Some(why),
                Some(quit) => return Ok(quit),
                None => {}
            }
        }
        if let Some(lost) = lost {
            return Err(lost);
        }
        if !self.is_current(reader, &run.plan).await? {
            if let Some(why) = gate {
                return Ok(Quit::Gate(why));
            }
            // What is pending may be deleted in part: only pruning brings that to an end.
            if keeps_source {
                return Ok(Quit::KeptSource);
            }
            self.is_outdated = true;
            return self.end(&run.plan, "the policy or the tables are others now", 0).await;
        }
        let mut left = 0;
        for _ in 0..PASSES_MAX {
            refuse_misfits(reader, self.archiving.rule, &run.plan).await?;
            // Rows that are read again count once.
            self.report.read_rows = self.report.read_rows.saturating_sub(left);
            let set = set_after(&run);
            let outcome = self.pass(pruner, reader, &mut run, set).await?;
            match outcome.quit {
                Some(Quit::Gate(why)) => gate = Some(why),
                Some(quit) => return Ok(quit),
                None => {}
            }
            left = outcome.left_rows;
            if outcome.is_other_schema {
                self.is_outdated = true;
                return self.end(&run.plan, "the tables are others now", left).await;
            }
            if left == 0 || gate.is_some() || keeps_source {
                break;
            }
            // What one row keeps back gets smaller each time.
            self.slice_rows = (self.slice_rows / NARROWER).max(1);
        }
        self.report.left_rows = left;
        match gate {
            _ if keeps_source => Ok(Quit::KeptSource),
            Some(why) => Ok(Quit::Gate(why)),
            None if left == 0 => self.end(&run.plan, "everything selected is moved", 0).await,
            None => {
                let reason = self.report.why_left();
                self.end(&run.plan, &reason, left).await
            }
        }
    }

    /// Ends a run of which nothing is pending.
    pub(super) async fn end(&mut self, plan: &Plan, reason: &str, left_rows: u64) -> Result<Quit> {
        let end = End {
            reason: reason.to_owned(),
            rows: self.report.pruned_rows,
            left_rows,
            left_until: None,
            at: self.archiving.world.clock.now(),
        };
        self.archiving.place.mark(&plan.run, Sheet::End, &end).await?;
        Ok(Quit::Finished)
    }

    /// Whether the policy and the tables are those of the plan.
    async fn is_current(&self, reader: &mut dyn Rows, plan: &Plan) -> Result<bool> {
        let rule = self.archiving.rule;
        if plan.selects != rule.selects || plan.format != rule.format || plan.lookup != rule.lookup
        {
            return Ok(false);
        }
        for member in &plan.archive_set().members {
            let table = reader.table(&member.table.name).await?;
            if table.fingerprint != member.table.fingerprint {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Removes files that no document names, and seals batches that were deleted completely.
    pub(super) async fn settle(&mut self, run: &mut Shelved, ledger: &[LedgerEntry]) -> Result<()> {
        let Archiving { place, world, witness, .. } = self.archiving;
        let files = settle(place, run).await?.files;
        if files > 0 {
            witness.see(&Step::Removed { files });
        }
        let plan = run.plan.clone();
        let open = run.batches.values_mut().filter(|one| one.sealed.is_none() && one.is_there());
        for one in open {
            if ledgered(&one.batch, ledger, &plan)?.iter().all(|gone| *gone) {
                one.sealed = Some(self.seal(&one.batch, world.clock.now()).await?);
            }
        }
        Ok(())
    }

    pub(super) async fn seal(&mut self, batch: &Batch, at: DateTime<Utc>) -> Result<Sealed> {
        let sealed = Sealed { generation: batch.generation, rows: batch.rows(), at };
        let place = self.archiving.place;
        place.mark(&batch.run, Sheet::Sealed { batch: batch.number }, &sealed).await?;
        self.archiving.witness.see(&Step::Sealed { batch: batch.number });
        Ok(sealed)
    }

    /// Deletes what is left of a batch that an earlier process wrote.
    async fn prune_again(
        &mut self,
        pruner: &mut dyn Rows,
        plan: &Plan,
        batch: &Batch,
        ledger: &[LedgerEntry],
    ) -> Result<Outcome> {
        let gone = ledgered(batch, ledger, plan)?;
        if gone.iter().all(|gone| *gone) {
            return Ok(Outcome::default());
        }
        // Its rows were counted when they were read, where this run did that before it began anew.
        let is_counted = self.report.has_written(batch);
        let (batch, slices) = match self.read_and_mend(plan, batch, &gone).await? {
            Mended::Whole(batch, left) => (batch, (left, Versions::default())),
            Mended::Void(void) => {
                return Ok(Outcome { became: Some(void), ..Outcome::default() });
            }
        };
        let max = self.archiving.limits.rows_max.filter(|_| !is_counted);
        let left = max.map(|max| max.saturating_sub(self.report.read_rows));
        let mut outcome = self.prune_batch(pruner, plan, &batch, slices, left).await?;
        if outcome.became.is_none()
            && let Cow::Owned(batch) = batch
        {
            let one = ShelvedBatch { batch, sealed: None, void: None, expired: None };
            outcome.became = Some(one);
        }
        Ok(outcome)
    }

    /// Brings rows into files, and deletes those of one batch while the next one is read.
    pub(super) async fn pass(
        &mut self,
        pruner: &mut dyn Rows,
        reader: &mut dyn Rows,
        run: &mut Shelved,
        mut set: ArchiveSet,
    ) -> Result<Outcome> {
        let plan = run.plan.clone();
        let mut range = resume_after(self.archiving.place, run).await?;
        let mut number = run.next_batch();
        let mut outcome = Outcome::default();
        let mut ready: Option<(Batch, Versions)> = None;
        let mut is_last = false;
        let mut read_rows = self.report.read_rows;
        let tells_versions = !self.keeps_rows
            && self.archiving.rule.verification == Verification::Tuple
            && reader.why_no_versions(&set).await?.is_none();
        loop {
            let quit = match self.resumed().await? {
                None => self.quit(read_rows),
                quit => quit,
            };
            let archiving = self.archiving;
            let left = archiving.limits.rows_max.map(|max| max - read_rows.min(max));
            let left = left.unwrap_or(u64::MAX);
            // What is read again goes in small slices, whatever somebody said.
            let is_narrow = self.slice_rows < archiving.rule.slice_rows;
            let told = self.told.said.slice_rows.filter(|_| !is_narrow);
            let slice_rows = told.unwrap_or(self.slice_rows);
            let keeps_rows = self.keeps_rows;
            let mut manner = Manner::new(archiving.rule.file_bytes, slice_rows, left);
            manner.tells_versions = tells_versions;
            let reads = quit.is_none() && !is_last && left > 0;
            let reading = async {
                if reads {
                    read_batch(archiving, reader, &plan, &mut set, number, &range, manner).await
                } else {
                    Ok(None)
                }
            };
            let pruning = async {
                match ready.take().filter(|_| !keeps_rows) {
                    Some((batch, versions)) => {
                        let slices = (batch.slices.clone(), versions);
                        // Its rows were counted when they were read.
                        self.prune_batch(pruner, &plan, &batch, slices, None).await
                    }
                    None => Ok(Outcome::default()),
                }
            };
            let (read, pruned) = tokio::join!(reading, pruning);
            let pruned = pruned?;
            run.batches.extend(pruned.became.map(|one| (one.batch.number, one)));
            outcome.left_rows += pruned.left_rows;
            outcome.is_other_schema |= pruned.is_other_schema;
            let read = read?;
            if let Some(read) = &read {
                self.report.count(&read.batch);
                read_rows += read.root_rows;
                self.report.read_rows += read.root_rows;
                let batch = read.batch.clone();
                let one = ShelvedBatch { batch, sealed: None, void: None, expired: None };
                run.batches.insert(number, one);
                range.after = Some(read.last.clone());
                is_last = read.is_last;
                number += 1;
            } else {
                is_last |= reads;
            }
            let has_batch = read.is_some();
            ready = read.map(|read| (read.batch, read.versions));
            match pruned.quit {
                Some(Quit::Gate(why)) => outcome.quit = Some(Quit::Gate(why)),
                Some(quit) => return Ok(Outcome { quit: Some(quit), ..outcome }),
                None => {}
            }
            if outcome.is_other_schema {
                if let Some((batch, _)) = ready.take() {
                    let now = archiving.world.clock.now();
                    void(archiving.place, &batch, "the tables are others now", now).await?;
                    self.report.recount(&batch, None);
                    run.batches.remove(&batch.number);
                }
                return Ok(outcome);
            }
            if !has_batch {
                let max = Some(Quit::RowsMax).filter(|_| left == 0 && !is_last);
                outcome.quit = quit.or(outcome.quit).or(max);
                return Ok(outcome);
            }
        }
    }

    /// Deletes slices of a batch whose files are durable and were read back, and then seals it.
    async fn prune_batch(
        &mut self,
        pruner: &mut dyn Rows,
        plan: &Plan,
        batch: &Batch,
        (mut slices, mut versions): (Vec<Slice>, Versions),
        mut rows_left: Option<u64>,
    ) -> Result<Outcome> {
        let Archiving { world, witness, gates, .. } = self.archiving;
        if let Some(quit) = self.resumed().await? {
            return Ok(Outcome { quit: Some(quit), ..Outcome::default() });
        }
        for gate in *gates {
            if let Some(why) = gate.closed(plan, batch, world.clock.now()).await? {
                return Ok(Outcome { quit: Some(Quit::Gate(why)), ..Outcome::default() });
            }
        }
        slices = self.archiving.place.open_bounds(batch, slices).await?;
        let set = batch.set_of(plan);
        let mut deferred: Vec<Slice> = Vec::new();
        let (mut is_other_schema, mut busy) = (false, 0);
        while !slices.is_empty() {
            if let Some(quit) = self.turn(pruner, &set).await? {
                return Ok(Outcome { quit: Some(quit), ..Outcome::default() });
            }
            let wanted = self.stride.of(slices.len());
            // A slice goes as a whole.
            let some = 0..within(&slices[wanted], rows_left).max(1);
            if rows_left == Some(0) {
                return Ok(Outcome { quit: Some(Quit::RowsMax), ..Outcome::default() });
            }
            let begun = world.clock.elapsed();
            let some_of = (&slices[some.clone()], &versions);
            let pruned = prune(pruner, &world.cpu, batch, &set, some_of, *witness).await;
            let difference = match pruned {
                Ok(Pruned::Gone) => {
                    let gone: Vec<Slice> = slices.drain(some).collect();
                    if let Some(left) = &mut rows_left {
                        let rows = gone.iter().map(|slice| slice.members[0].rows).sum::<u64>();
                        *left = left.saturating_sub(rows);
                        self.report.read_rows += rows;
                    }
                    self.learn(begun, gone.iter().map(Slice::rows).sum());
                    continue;
                }
                // Other versions may be the same rows.
                Ok(Pruned::Differs(difference))
                    if versions.are_known() && !difference.is_schema =>
                {
                    versions = Versions::default();
                    continue;
                }
                Ok(Pruned::Differs(difference)) => self.suspect(pruner, &set, difference).await,
                // Somebody holds a lock on some of its rows for long.
                Err(error) if error.kind() == ErrorKind::Busy => {
                    busy += usize::from(some.len() == 1);
                    Difference {
                        slice: slices[0].number,
                        table: set.root().table.name.clone(),
                        how: format!("somebody else holds its rows: {error}"),
                        is_schema: false,
                    }
                }
                Err(error) => return Err(error),
            };
            if some.len() > 1 && !difference.is_schema {
                self.stride.single();
                continue;
            }
            is_other_schema |= difference.is_schema;
            let is_narrow = self.slice_rows < self.archiving.rule.slice_rows;
            deferred.extend(if is_other_schema || (is_narrow && busy >= BUSY_MAX) {
                std::mem::take(&mut slices)
            } else {
                vec![slices.remove(0)]
            });
            self.differs(difference);
        }
        self.settle_debts(pruner, &set).await?;
        let why = "rows had changed, and were not deleted";
        let (became, left_rows) = self.close(plan, batch, &deferred, why).await?;
        Ok(Outcome { quit: None, left_rows, became: Some(became), is_other_schema })
    }

    /// Learns from a transaction that began then, and deleted so many rows.
    pub(super) fn learn(&mut self, begun: Duration, rows: u64) {
        let now = self.archiving.world.clock.elapsed();
        let took = now.saturating_sub(begun);
        self.stride.learn(took);
        self.report.pruned_rows += rows;
        self.pace.learn(took, rows, now);
        self.report.debts = self.pace.debts;
    }

    /// Adds to a difference which triggers may be its cause: rows that one changes in the
    /// transaction that deletes are others than those of the file. Somebody else may have changed
    /// them as well.
    async fn suspect(
        &mut self,
        pruner: &mut dyn Rows,
        set: &ArchiveSet,
        difference: Difference,
    ) -> Difference {
        if difference.is_schema {
            return difference;
        }
        let triggers = pruner.deletion_triggers(set).await.unwrap_or_else(|error| {
            tracing::debug!("triggers are not known: {error}");
            Vec::new()
        });
        let triggers: BTreeSet<String> = triggers.into_iter().collect();
        let Some(cause) = may_be(&triggers) else { return difference };
        self.report.triggers.extend(triggers);
        Difference { how: format!("{}; {cause}", difference.how), ..difference }
    }

    /// Tells that something differs.
    pub(super) fn differs(&mut self, difference: Difference) {
        let (slice, why) = (difference.slice, difference.how.clone());
        self.archiving.witness.see(&Step::Deferred { slice, why });
        if self.report.differences.len() < DIFFERENCES_MAX {
            self.report.differences.push(difference);
        }
    }

    /// Seals what was deleted of a batch, and takes the rest out of its files; returns how many
    /// rows of the root that rest has.
    pub(super) async fn close(
        &mut self,
        plan: &Plan,
        batch: &Batch,
        deferred: &[Slice],
        why: &str,
    ) -> Result<(ShelvedBatch, u64)> {
        let Archiving { place, world, gates, .. } = self.archiving;
        let left_rows = deferred.iter().map(|slice| slice.members[0].rows).sum();
        let now = world.clock.now();
        let written = if deferred.is_empty() {
            Some(batch.clone())
        } else {
            let mut kept = batch.slices.clone();
            kept.retain(|slice| deferred.iter().all(|one| one.number != slice.number));
            let all: Keeps = Arc::new(|_, _, _| Ok(true));
            let reason = (why, now);
            let (written, _) = rewrite(place, &world.cpu, plan, batch, kept, &all, reason).await?;
            if let Some(written) = &written {
                for gate in *gates {
                    gate.renew(plan, batch, written).await?;
                }
            }
            written
        };
        self.report.recount(batch, written.as_ref());
        let mut became =
            ShelvedBatch { batch: batch.clone(), sealed: None, void: None, expired: None };
        if let Some(written) = written {
            became.sealed = Some(self.seal(&written, now).await?);
            became.batch = written;
        } else {
            became.void = Some(Void { reason: why.to_owned(), at: now });
        }
        Ok((became, left_rows))
    }

    /// Why the run stops here, if it does.
    pub(super) fn quit(&self, read_rows: u64) -> Option<Quit> {
        let Archiving { limits, rule, world, .. } = self.archiving;
        let now = world.clock.now();
        let worked = world.clock.elapsed().saturating_sub(self.begun);
        let zone = rule.zone.unwrap_or(chrono_tz::Tz::UTC);
        if limits.until.is_some_and(|until| now >= until)
            || rule.runtime_max.is_some_and(|max| worked >= max)
        {
            return Some(Quit::OutOfTime);
        }
        if !rule.windows.is_empty() && !is_open(&rule.windows, zone, now) {
            return Some(Quit::Closed(next_begin(&rule.windows, zone, now)));
        }
        limits.rows_max.is_some_and(|max| read_rows > max).then_some(Quit::RowsMax)
    }
}

/// How many of some slices, from the first one, have no more rows of the root than that.
fn within(slices: &[Slice], rows: Option<u64>) -> usize {
    let Some(mut left) = rows else { return slices.len() };
    let mut fits = |slice: &&Slice| match left.checked_sub(slice.members[0].rows) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    };
    slices.iter().take_while(|slice| fits(slice)).count()
}

/// Where reading goes on: behind what was read and is not deleted yet.
async fn resume_after(place: &Place, run: &Shelved) -> Result<KeyRange> {
    let Some(last) = last_pending(run) else { return Ok(KeyRange::default()) };
    let slices = place.open_bounds(last, last.slices.clone()).await?;
    let range = slices.iter().rev().find_map(|slice| slice.range().transpose()).transpose()?;
    Ok(KeyRange { after: range.and_then(|range| range.to), ..KeyRange::default() })
}

/// The set, with columns in the forms of that key.
pub(super) fn set_after(run: &Shelved) -> ArchiveSet {
    last_pending(run).map_or_else(|| run.plan.archive_set(), |last| last.set_of(&run.plan))
}

/// The last batch that was read and is not deleted yet. Of one whose rows were all taken out of its
/// files, nobody knows where it ended.
fn last_pending(run: &Shelved) -> Option<&Batch> {
    let ends =
        |slice: &Slice| slice.to.is_some() || slice.sealed.is_some() && slice.members[0].rows > 0;
    run.pending().filter(|batch| batch.slices.iter().any(ends)).last()
}

/// A batch that was just written.
struct JustRead {
    batch: Batch,
    versions: Versions,
    last: Key,
    is_last: bool,
    root_rows: u64,
}

async fn read_batch(
    archiving: &Archiving<'_>,
    reader: &mut dyn Rows,
    plan: &Plan,
    set: &mut ArchiveSet,
    number: u32,
    range: &KeyRange,
    manner: Manner,
) -> Result<Option<JustRead>> {
    let Archiving { world, place, witness, .. } = archiving;
    let draft = export(reader, &world.cpu, plan, set, number, range, manner).await?;
    let Some(mut draft) = draft else { return Ok(None) };
    witness.see(&Step::Read { rows: draft.slices.iter().map(Slice::rows).sum() });
    let (last, is_last) = (draft.last.clone(), draft.is_last);
    let versions = std::mem::take(&mut draft.versions);
    let batch = shelve(place, &world.cpu, plan, draft, number, world.clock.now()).await?;
    let (rows, bytes) = (batch.rows(), batch.file_bytes());
    witness.see(&Step::Shelved { batch: number, rows, bytes });
    let root_rows = batch.slices.iter().map(|slice| slice.members[0].rows).sum();
    Ok(Some(JustRead { batch, versions, last, is_last, root_rows }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archiver::document::Tally;

    #[test]
    fn as_many_slices_as_have_no_more_rows_than_that() {
        let slice = |rows| Slice {
            number: 0,
            after: None,
            from: None,
            to: None,
            sealed: None,
            is_cut: false,
            members: vec![Tally { rows, hash: String::new() }],
            noted: None,
        };
        let slices = [slice(300), slice(200), slice(8)];
        assert_eq!(within(&slices, None), 3);
        assert_eq!(within(&slices, Some(500)), 2);
        assert_eq!(within(&slices, Some(499)), 1);
        assert_eq!(within(&slices, Some(299)), 0);
    }
}
