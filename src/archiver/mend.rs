//! A batch that waits for its rows to be deleted, and a file of it that is damaged or gone: as long
//! as the rows are in their tables, or a second copy has the file, nothing is lost.

use std::{borrow::Cow, sync::Arc};

use stillpoint_contract::{Error, ErrorKind, Finding, Result, Weight, code};

use super::{
    document::{Batch, Plan, Slice, Void},
    file::json_line,
    place::{Place, Sheet},
    prune::batch_name,
    rewrite::{Keeps, rewrite, void},
    run::Archiving,
    shelf::ShelvedBatch,
    shelve::read_back,
    work::Work,
};

/// What a batch is once it was read back, and mended.
pub(super) enum Mended<'a> {
    /// Its files are what was written, here or in a later generation; and which of its slices are
    /// still to go.
    Whole(Cow<'a, Batch>, Vec<Slice>),
    /// None of it counts: its rows are read again.
    Void(ShelvedBatch),
}

impl<'a> Mended<'a> {
    fn whole(batch: Cow<'a, Batch>, gone: &[bool]) -> Self {
        let left = batch.slices.iter().zip(gone).filter(|(_, gone)| !**gone);
        let left = left.map(|(slice, _)| slice.clone()).collect();
        Self::Whole(batch, left)
    }
}

impl Work<'_, '_> {
    /// Reads a batch back of which rows may be deleted, and mends it where a file of it is not what
    /// was written.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) when rows were deleted that only that file had: which.
    pub(super) async fn read_and_mend<'a>(
        &mut self,
        plan: &Plan,
        batch: &'a Batch,
        gone: &[bool],
    ) -> Result<Mended<'a>> {
        let Archiving { place, world, .. } = self.archiving;
        match read_back(place, &world.cpu, plan, batch).await {
            Ok(()) => Ok(Mended::whole(Cow::Borrowed(batch), gone)),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.mend(plan, batch, gone, error).await
            }
            Err(error) => Err(error),
        }
    }

    /// Mends a batch of which a file is not what was written.
    async fn mend(
        &mut self,
        plan: &Plan,
        batch: &Batch,
        gone: &[bool],
        damage: Error,
    ) -> Result<Mended<'static>> {
        let archiving = self.archiving;
        let (place, world) = (archiving.place, archiving.world);
        let (name, now) = (batch_name(batch), world.clock.now());
        tracing::warn!(batch = name, %damage, "a file of a batch is not what was written");
        if gone.iter().all(|gone| !gone) {
            let reason = format!("a file of it was damaged or gone: {damage}");
            self.let_all_go(batch, &reason).await?;
            self.tell(format!(
                "batch {name}: {reason}; none of its rows had been deleted, they are read again"
            ));
            let void = Some(Void { reason, at: now });
            let batch = batch.clone();
            return Ok(Mended::Void(ShelvedBatch { batch, sealed: None, void, expired: None }));
        }
        for copy in archiving.gates.iter().filter_map(|gate| gate.copy()) {
            let from = Place::clone(place).with_second(Place::clone(copy));
            let all: Keeps = Arc::new(|_, _, _| Ok(true));
            let reason = ("a file was damaged or gone, and a second copy of it was not", now);
            let slices = batch.slices.clone();
            let written = rewrite(&from, &world.cpu, plan, batch, slices, &all, reason).await;
            let written = match written {
                Ok((Some(written), _)) => written,
                Ok((None, _)) => continue,
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    tracing::warn!(batch = name, %error, "the second copy is damaged, too");
                    continue;
                }
                Err(error) => return Err(error),
            };
            for gate in archiving.gates {
                gate.renew(plan, batch, &written).await?;
            }
            self.report.recount(batch, Some(&written));
            self.tell(format!("batch {name}: {}: {damage}", reason.0));
            return Ok(Mended::whole(Cow::Owned(written), gone));
        }
        let slices = place.known_bounds(batch).await?;
        Err(lost(plan, &Batch { slices, ..batch.clone() }, gone, damage))
    }

    /// Says that nothing of a batch counts of which nothing was deleted, here and in second copies.
    pub(super) async fn let_all_go(&mut self, batch: &Batch, reason: &str) -> Result<()> {
        let archiving = self.archiving;
        let now = archiving.world.clock.now();
        void(archiving.place, batch, reason, now).await?;
        for copy in archiving.gates.iter().filter_map(|gate| gate.copy()) {
            // Whoever was killed may have brought files of it, and no manifest yet.
            if copy.read::<Plan>(&batch.run, Sheet::Plan).await?.is_some() {
                void(copy, batch, reason, now).await?;
            }
        }
        self.report.recount(batch, None);
        Ok(())
    }

    pub(super) fn tell(&mut self, found: String) {
        let weight = Weight::Advice;
        let finding = Finding { subject: "file", found, weight, statement: None };
        if !self.report.findings.contains(&finding) {
            self.report.findings.push(finding);
        }
    }
}

/// Which rows are nowhere but in a file that is damaged or gone.
fn lost(plan: &Plan, batch: &Batch, gone: &[bool], damage: Error) -> Error {
    let step = "go on with a batch of which rows were deleted";
    let mut error =
        Error::new(ErrorKind::Corrupt, code::ARCHIVE_FILE, step).with("batch", batch_name(batch));
    let slices = || batch.slices.iter().zip(gone);
    for (slice, _) in slices().filter(|(_, gone)| **gone) {
        error = error.with("deleted", stretch(plan, batch, slice));
    }
    let kept: u64 = slices().filter(|(_, gone)| !**gone).map(|(one, _)| one.rows()).sum();
    error
        .with("rows that are still in their tables", kept)
        .why("rows were deleted that only this file had, and no second copy of it is whole")
        .next("put the file back from a copy of the repository, or restore a backup of before")
        .next(format!("stillpoint archive verify {}", plan.set))
        .caused_by(damage)
}

/// A slice for people: its keys, and how many rows of which table.
fn stretch(plan: &Plan, batch: &Batch, slice: &Slice) -> String {
    let root = &plan.members[0].table;
    let columns = batch.members.first().map_or(&root.columns, |member| &member.columns);
    let columns: Vec<_> = root.key.iter().filter_map(|at| columns.get(*at).cloned()).collect();
    let shown = |key: Option<stillpoint_contract::Key>| {
        let mut line = Vec::new();
        let key = key.filter(|key| json_line(&key.0, &columns, &mut line).is_ok());
        key.map(|_| String::from_utf8_lossy(&line).trim_end().to_owned())
    };
    let range = slice.range().ok().flatten().unwrap_or_default();
    let (from, to) = (shown(range.from), shown(range.to));
    let begin = match (from, shown(range.after)) {
        (Some(from), _) => format!("from {from}"),
        (None, after) => format!("behind {}", after.as_deref().unwrap_or("the beginning")),
    };
    let tables = plan.members.iter().zip(&slice.members);
    let counts: Vec<String> =
        tables.map(|(one, tally)| format!("{} of {}", tally.rows, one.table.name)).collect();
    format!("rows {}: {begin} to {}", counts.join(", "), to.as_deref().unwrap_or("the end"))
}
