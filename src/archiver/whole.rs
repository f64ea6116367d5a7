//! Partitions that leave their table as a whole: taken out first, so that nobody reaches their rows
//! through the table any more, then read into files, and dropped last.
//!
//! From when one is taken out until its rows are in the ledger they are in a table of its own; from
//! then on they are in the archive, and that table is only a way back. Its rows are compared with
//! the files each time before something is made to rely on them, while nobody can write there.

use chrono::{DateTime, TimeDelta, Utc};
use stillpoint_contract::{
    ArchiveSet, Error, ErrorKind, KeyRange, LedgerEntry, Partition, Pruning, Result, Rows, code,
};

use super::{
    document::{Batch, End, Plan, Slice, Tally, Void, hash_of},
    file::SliceHash,
    place::Sheet,
    prune::{Difference, Hashing, entry, ledgered},
    rewrite::void,
    run::Quit,
    shelf::Shelved,
    shelve::read_back,
    witness::Step,
    work::{Work, set_after},
};
use crate::policy::Verification;

/// How often a partition is read again into which somebody wrote after it was taken out.
const PASSES_MAX: u32 = 3;

/// Why an attempt to compare came to nothing.
enum Compared {
    Same,
    Differs(Unlike),
}

/// How a table differs from its files.
struct Unlike {
    difference: Difference,
    /// Whether rows are gone from it: the archive may be the only place where they are.
    is_fewer: bool,
}

impl Work<'_, '_> {
    /// Moves a partition as far as that goes now.
    pub(super) async fn take_out(
        &mut self,
        pruner: &mut dyn Rows,
        reader: &mut dyn Rows,
        run: Shelved,
        partition: &Partition,
    ) -> Result<Quit> {
        if self.keeps_rows {
            return Ok(Quit::KeptSource);
        }
        self.keeps_rows = true;
        match self.through(pruner, reader, run, partition).await {
            // Others hold it, or something depends on it: it waits, and the other ones do not.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::Busy | ErrorKind::Refused | ErrorKind::Unsupported
                ) =>
            {
                let why = error.reason().map(|why| format!(": {why}")).unwrap_or_default();
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    partition = partition.name,
                    "it waits"
                );
                Ok(Quit::Gate(format!("partition {}: {error}{why}", partition.name)))
            }
            done => done,
        }
    }

    async fn through(
        &mut self,
        pruner: &mut dyn Rows,
        reader: &mut dyn Rows,
        mut run: Shelved,
        partition: &Partition,
    ) -> Result<Quit> {
        let ledger = pruner.ledger(&run.plan.set).await?;
        self.settle(&mut run, &ledger).await?;
        // What leaves its table is out of sight at once, and takes locks: it waits as rows do. What
        // is noted left it long ago.
        if !self.is_noted(pruner, &run).await?
            && let Some(quit) = self.turn(pruner, &run.plan.archive_set()).await?
        {
            return Ok(quit);
        }
        let name = || partition.name.clone();
        let witness = self.archiving.witness;
        witness.see(&Step::Detaching { partition: name() });
        if pruner.detach(partition).await?.is_none() {
            return self.adopt(pruner, run).await;
        }
        witness.see(&Step::Detached { partition: name() });
        let read_rows = self.report.read_rows;
        for _ in 0..PASSES_MAX {
            // Of what is read again, the first time does not count.
            self.report.read_rows = read_rows;
            let mut set = run.plan.archive_set();
            let table = reader.table(&partition.name).await?;
            let root = &mut set.members[0].table;
            let is_other = table.columns != root.columns || table.key != root.key;
            *root = table;
            if let Some(why) = self.why_given_up(reader, &run.plan).await? {
                return self.give_back(pruner, run, &set, partition, (why, None)).await;
            }
            if is_other || !self.is_noted(pruner, &run).await? {
                if is_other || pruner.strays(&set).await? > 0 {
                    let reason = "not every row of its partition is to be moved any more";
                    return self.give_back(pruner, run, &set, partition, (reason, None)).await;
                }
                self.forget_doubtful(pruner, &mut run).await?;
                let mut forms = set.clone();
                for (member, last) in forms.members.iter_mut().zip(set_after(&run).members) {
                    member.table.columns = last.table.columns;
                }
                let outcome = self.pass(pruner, reader, &mut run, forms).await?;
                if let Some(quit) = outcome.quit {
                    return Ok(quit);
                }
                if let Compared::Differs(unlike) = self.note(pruner, &run, &set).await? {
                    self.differs(unlike.difference);
                    self.forget(&mut run, "rows were written after they were read").await?;
                    continue;
                }
                let now = self.archiving.world.clock.now();
                let pending: Vec<Batch> = run.pending().cloned().collect();
                for batch in pending {
                    let sealed = self.seal(&batch, now).await?;
                    if let Some(one) = run.batches.get_mut(&batch.number) {
                        one.sealed = Some(sealed);
                    }
                }
            }
            if let Some(why) = self.waits(&run, partition).await? {
                return Ok(Quit::Gate(why));
            }
            if let Some(quit) = self.turn(pruner, &set).await? {
                return Ok(quit);
            }
            let Compared::Differs(unlike) = self.discard(pruner, &run, &set).await? else {
                witness.see(&Step::Dropped { partition: name() });
                self.settle_debts(pruner, &set).await?;
                return self.end(&run.plan, "everything selected is moved", 0).await;
            };
            if unlike.is_fewer {
                return Err(fewer(partition, &unlike));
            }
            self.differs(unlike.difference);
            self.strike(pruner, &run.plan).await?;
            self.forget(&mut run, "rows were written after they were archived").await?;
        }
        Ok(Quit::Gate(format!("partition {} is written to all the time", partition.name)))
    }

    /// Whether the ledger has all slices: they are noted in one transaction, after all was read.
    async fn is_noted(&self, pruner: &mut dyn Rows, run: &Shelved) -> Result<bool> {
        let ledger = pruner.ledger(&run.plan.set).await?;
        let mut has_any = false;
        for batch in counting(run) {
            if !ledgered(batch, &ledger, &run.plan)?.iter().all(|gone| *gone) {
                return Ok(false);
            }
            has_any = true;
        }
        Ok(has_any)
    }

    /// After a restore of the database, or where the process ended while it withdrew entries:
    /// batches that were sealed, and are not in the ledger.
    async fn forget_doubtful(&mut self, pruner: &mut dyn Rows, run: &mut Shelved) -> Result<()> {
        let ledger = pruner.ledger(&run.plan.set).await?;
        let has_entries = ledger.iter().any(|entry| entry.run == run.plan.run);
        let has_sealed = run.batches.values().any(|one| one.sealed.is_some() && one.void.is_none());
        if has_entries {
            let step = "go on with a partition that was taken out";
            return Err(Error::new(ErrorKind::Refused, code::LEDGER, step)
                .with("run", &run.plan.run)
                .why("the ledger has some of its slices, and not others"));
        }
        if has_sealed {
            self.forget(run, "its rows are not in the ledger").await?;
        }
        Ok(())
    }

    /// Says that no batch counts: the rows are in the partition.
    async fn forget(&mut self, run: &mut Shelved, reason: &str) -> Result<()> {
        let (place, at) = (self.archiving.place, self.archiving.world.clock.now());
        let copies = self.archiving.gates.iter().filter_map(|gate| gate.copy());
        for one in run.batches.values_mut().filter(|one| one.void.is_none()) {
            void(place, &one.batch, reason, at).await?;
            for copy in copies.clone() {
                void(copy, &one.batch, reason, at).await?;
            }
            one.void = Some(Void { reason: reason.to_owned(), at });
            self.report.recount(&one.batch, None);
        }
        Ok(())
    }

    /// Puts all slices into the ledger, if the table holds what the files hold.
    async fn note(
        &mut self,
        pruner: &mut dyn Rows,
        run: &Shelved,
        set: &ArchiveSet,
    ) -> Result<Compared> {
        let witness = self.archiving.witness;
        let mut transaction = pruner.prune().await?;
        witness.see(&Step::Begun);
        transaction.seize(set).await?;
        if let Some(unlike) = self.compare(&mut *transaction, run, set).await? {
            transaction.roll_back().await?;
            return Ok(Compared::Differs(unlike));
        }
        let (mut rows, mut slices) = (0, 0);
        for batch in counting(run) {
            for slice in &batch.slices {
                transaction.note(&entry(set, batch, slice)).await?;
                rows += slice.rows();
                slices += 1;
            }
        }
        witness.see(&Step::Committing);
        transaction.commit().await?;
        self.report.pruned_rows += rows;
        witness.see(&Step::Committed { rows, slices });
        Ok(Compared::Same)
    }

    /// Drops the table, if it still holds what the files hold.
    async fn discard(
        &mut self,
        pruner: &mut dyn Rows,
        run: &Shelved,
        set: &ArchiveSet,
    ) -> Result<Compared> {
        let witness = self.archiving.witness;
        let mut transaction = pruner.prune().await?;
        witness.see(&Step::Begun);
        transaction.seize(set).await?;
        if let Some(unlike) = self.compare(&mut *transaction, run, set).await? {
            transaction.roll_back().await?;
            return Ok(Compared::Differs(unlike));
        }
        witness.see(&Step::Dropping { partition: set.root().table.name.clone() });
        transaction.discard(set).await?;
        witness.see(&Step::Committing);
        transaction.commit().await?;
        Ok(Compared::Same)
    }

    /// Compares what a table holds now, selected or not, with what the files hold.
    async fn compare(
        &self,
        transaction: &mut dyn Pruning,
        run: &Shelved,
        set: &ArchiveSet,
    ) -> Result<Option<Unlike>> {
        let differs = |slice: u32, how: String, is_schema: bool, is_fewer: bool| {
            let table = set.root().table.name.clone();
            Some(Unlike { difference: Difference { slice, table, how, is_schema }, is_fewer })
        };
        let mut found_one = None;
        let fingerprints = transaction.fingerprints(set).await?;
        // Stretches follow each other from the first row to the last one, with nothing between.
        let mut range = KeyRange::default();
        let (mut together, mut last_forms) = (Together::default(), set.clone());
        for one in run.batches.values().filter(|one| one.void.is_none()) {
            let batch = &one.batch;
            let member = batch.members.first();
            if member.map(|one| &one.fingerprint) != fingerprints.first() {
                let how = "its columns, keys, triggers or constraints are others now".to_owned();
                found_one = found_one.or_else(|| differs(0, how, true, false));
            }
            let mut of_batch = set.clone();
            if let Some(member) = member {
                of_batch.members[0].table.columns.clone_from(&member.columns);
            }
            last_forms.clone_from(&of_batch);
            for slice in &self.archiving.place.known_bounds(batch).await? {
                together.add(entry(set, batch, slice), slice);
                range.to = slice.range()?.and_then(|range| range.to);
                if slice.is_cut || range.to.is_none() {
                    continue;
                }
                let found = self.tally(transaction, &of_batch, &range).await?;
                let wanted = std::mem::take(&mut together);
                if !wanted.are(&found) {
                    let (rows, wanted) = (found.rows, wanted.rows);
                    let how = format!("there are {rows} rows, of {wanted}, or others than in it");
                    let is_fewer = rows < wanted;
                    if is_fewer {
                        return Ok(differs(slice.number, how, false, true));
                    }
                    found_one = found_one.or_else(|| differs(slice.number, how, false, false));
                }
                self.archiving
                    .witness
                    .see(&Step::Compared { slice: slice.number, by: Verification::Row });
                range.after = range.to.take();
            }
        }
        // One that was cut has no end of its own: what follows belongs to it.
        range.to = None;
        let rest = self.tally(transaction, &last_forms, &range).await?;
        if !together.are(&rest) {
            let (rows, wanted) = (rest.rows, together.rows);
            if rows < wanted {
                let how = format!("there are {rows} rows at its end, of {wanted}");
                return Ok(differs(0, how, false, true));
            }
            let how = match rows - wanted {
                0 => "some of its last rows are others than in the files".to_owned(),
                more => format!("{more} rows are in no file"),
            };
            return Ok(found_one.or_else(|| differs(0, how, false, false)));
        }
        Ok(found_one)
    }

    async fn tally(
        &self,
        transaction: &mut dyn Pruning,
        set: &ArchiveSet,
        range: &KeyRange,
    ) -> Result<Tally> {
        let cpu = &self.archiving.world.cpu;
        let mut hash = Hashing::new(cpu);
        let told = transaction.look(set, range, &mut hash).await?;
        let found = hash.tally().await?;
        if told == found.rows {
            return Ok(found);
        }
        Err(Error::new(ErrorKind::Bug, code::ROWS_DIFFER, "count rows")
            .with("told", told)
            .with("handed over", found.rows))
    }

    /// Why the table may not be dropped yet.
    async fn waits(&self, run: &Shelved, partition: &Partition) -> Result<Option<String>> {
        let now = self.archiving.world.clock.now();
        for one in run.batches.values().filter(|one| one.is_there()) {
            for gate in self.archiving.gates {
                if let Some(why) = gate.closed(&run.plan, &one.batch, now).await? {
                    return Ok(Some(why));
                }
            }
        }
        let until = stands_until(run, self.archiving.rule.grace);
        if until.is_some_and(|until| now >= until) {
            return Ok(None);
        }
        let until = until.map_or_else(|| "for ever".to_owned(), |at| format!("until {at}"));
        Ok(Some(format!("partition {} stands beside its table {until}", partition.name)))
    }

    async fn strike(&self, pruner: &mut dyn Rows, plan: &Plan) -> Result<()> {
        let ledger = pruner.ledger(&plan.set).await?;
        let mut transaction = pruner.prune().await?;
        strike(&mut *transaction, plan, &ledger).await?;
        transaction.commit().await
    }

    /// Makes the table a partition again, and takes its rows out of the ledger in the same
    /// transaction; no batch counts then, and the run ends.
    pub(super) async fn give_back(
        &mut self,
        pruner: &mut dyn Rows,
        mut run: Shelved,
        set: &ArchiveSet,
        partition: &Partition,
        (reason, left_until): (&str, Option<DateTime<Utc>>),
    ) -> Result<Quit> {
        let witness = self.archiving.witness;
        let ledger = pruner.ledger(&run.plan.set).await?;
        let mut transaction = pruner.prune().await?;
        witness.see(&Step::Begun);
        transaction.seize(set).await?;
        if ledger.iter().any(|entry| entry.run == run.plan.run)
            && let Some(unlike) = self.compare(&mut *transaction, &run, set).await?
            && unlike.is_fewer
        {
            return Err(fewer(partition, &unlike));
        }
        transaction.attach(set, partition).await?;
        strike(&mut *transaction, &run.plan, &ledger).await?;
        witness.see(&Step::Committing);
        transaction.commit().await?;
        witness.see(&Step::Attached { partition: partition.name.clone() });
        self.forget(&mut run, reason).await?;
        let at = self.archiving.world.clock.now();
        let end = End { reason: reason.to_owned(), rows: 0, left_rows: 0, left_until, at };
        self.archiving.place.mark(&run.plan.run, Sheet::End, &end).await?;
        self.is_outdated = true;
        Ok(Quit::Finished)
    }

    /// Ends a run whose partition is gone: it was dropped and the answer was lost, or somebody else
    /// dropped it; then its files are the only place where its rows are, and count.
    pub(super) async fn adopt(&mut self, pruner: &mut dyn Rows, mut run: Shelved) -> Result<Quit> {
        let ledger = pruner.ledger(&run.plan.set).await?;
        self.settle(&mut run, &ledger).await?;
        let set = run.plan.archive_set();
        let open = run.batches.values().filter(|one| one.is_there());
        let open: Vec<Batch> = open.map(|one| one.batch.clone()).collect();
        let mut is_strange = false;
        for batch in open {
            let gone = ledgered(&batch, &ledger, &run.plan)?;
            let left: Vec<&Slice> = batch
                .slices
                .iter()
                .zip(gone)
                .filter(|(_, gone)| !gone)
                .map(|(one, _)| one)
                .collect();
            if left.is_empty() {
                continue;
            }
            is_strange = true;
            read_back(self.archiving.place, &self.archiving.world.cpu, &run.plan, &batch).await?;
            let mut transaction = pruner.prune().await?;
            for slice in left {
                transaction.note(&entry(&set, &batch, slice)).await?;
            }
            transaction.commit().await?;
            self.seal(&batch, self.archiving.world.clock.now()).await?;
        }
        let reason = if is_strange {
            "somebody else dropped its partition"
        } else {
            "everything selected is moved"
        };
        self.end(&run.plan, reason, 0).await
    }
}

/// Slices that are compared together with the table, since nobody knows any more where one of them
/// ends and the next one begins: the row that had that key was taken out of the files.
#[derive(Default)]
struct Together {
    /// How many slices, and rows, all of them had when they were written.
    slices: u64,
    rows: u64,
    /// What the ledger says of the last one.
    noted: Option<LedgerEntry>,
    /// The hash of all rows, where it is known.
    hash: Option<SliceHash>,
}

impl Together {
    fn add(&mut self, noted: LedgerEntry, slice: &Slice) {
        let of = slice.tally_noted();
        let of = of.and_then(|tally| SliceHash::from_hex(&tally.hash, tally.rows));
        self.hash = match (self.slices, self.hash.take(), of) {
            (0, _, of) => of,
            (_, Some(mut all), Some(of)) => {
                all.merge(&of);
                Some(all)
            }
            _ => None,
        };
        self.slices += 1;
        self.rows += noted.rows;
        self.noted = Some(noted);
    }

    /// Whether those are the rows.
    fn are(&self, found: &Tally) -> bool {
        match (&self.noted, &self.hash) {
            (None, _) => found.rows == 0,
            (Some(noted), _) if self.slices == 1 => {
                let hash = hash_of(std::slice::from_ref(found));
                (found.rows, hash) == (noted.rows, noted.hash.clone())
            }
            (Some(_), Some(all)) => (all.rows(), all.hex()) == (found.rows, found.hash.clone()),
            (Some(_), None) => false,
        }
    }
}

/// Refuses to believe a table that has lost rows which the archive has.
fn fewer(partition: &Partition, unlike: &Unlike) -> Error {
    let step = "compare a partition that was taken out with its files";
    Error::new(ErrorKind::Refused, code::ROWS_DIFFER, step)
        .with("partition", &partition.name)
        .with("found", &unlike.difference.how)
        .why("rows are gone from it that the archive has, and those in the archive stay")
        .next(format!("put those rows back into it, or: DROP TABLE {}", partition.name))
}

async fn strike(transaction: &mut dyn Pruning, plan: &Plan, ledger: &[LedgerEntry]) -> Result<()> {
    for entry in ledger.iter().filter(|entry| entry.run == plan.run) {
        transaction.strike(entry).await?;
    }
    Ok(())
}

/// The batches that count, also those whose time was over since.
fn counting(run: &Shelved) -> impl Iterator<Item = &Batch> {
    run.batches.values().filter(|one| one.void.is_none()).map(|one| &one.batch)
}

/// Until when the partition of a run stands beside its table: so long since its rows are in the
/// archive. `None` for ever.
pub(super) fn stands_until(run: &Shelved, grace: std::time::Duration) -> Option<DateTime<Utc>> {
    let sealed = run.batches.values().filter(|one| one.void.is_none());
    let since = sealed.filter_map(|one| one.sealed.as_ref()).map(|sealed| sealed.at).max();
    let grace = TimeDelta::from_std(grace).unwrap_or(TimeDelta::MAX);
    since.unwrap_or(run.plan.made).checked_add_signed(grace)
}
