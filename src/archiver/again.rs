//! Rows that live again on their way out of their tables once more: after the same gates, and as
//! slowly, as in a run. There may be more of them than any run ever had.

use std::time::Duration;

use stillpoint_contract::{ArchiveSet, Error, ErrorKind, Result, Rows};

use super::{
    document::{Batch, Plan, Slice},
    homes::Homes,
    prepare::derived_tables,
    prune::{Pruned, Versions, prune},
    reconcile::{Hidden, LiveSlice, Overlap, left_alone, live},
    run::{Archiving, Limits, Quit, RunReport},
    shelf::Shelf,
    shelve::read_back,
    work::Work,
};

/// Rows that live again, and were not deleted yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Why.
    pub why: String,
    /// How many, of all tables.
    pub rows: u64,
}

/// Deletes rows again that live again, as far as that goes now, and tells what became of them.
pub(super) async fn delete_again(
    archiving: &Archiving<'_>,
    rows: &mut dyn Rows,
    (shelf, homes): (&Shelf, &Homes),
    overlap: &mut Overlap,
) -> Result<()> {
    let alive = Hidden::of(&overlap.live);
    let mut report = RunReport::default();
    report.begun = archiving.world.clock.elapsed();
    // Whoever paused it may do so for days, and the lock of the set is held.
    let rests_max = archiving.limits.rests_max.or(Some(Duration::MAX));
    let archiving = Archiving { limits: Limits { rests_max, ..archiving.limits }, ..*archiving };
    let work = Work::new(&archiving, &mut report);
    let mut again = Again { work, overlap, gone: Vec::new(), stopped: None, failed: None };
    let mut done = Ok(());
    for (plan, batch) in left_alone(shelf) {
        let of_batch = batch.slices.iter().filter(|slice| alive.has_slice(batch, slice));
        let slices: Vec<Slice> = of_batch.filter(|slice| slice.rows() > 0).cloned().collect();
        if slices.is_empty() {
            continue;
        }
        if homes.is_gone(plan) {
            let others = slices.iter().map(|slice| live(batch, slice));
            again.overlap.differing.extend(others);
            continue;
        }
        done = again.batch(rows, plan, batch, &slices).await;
        if done.is_err() {
            break;
        }
    }
    let Again { overlap, gone, failed, .. } = again;
    let gone = Hidden::of(&gone);
    overlap.live.retain(|one| !gone.has(one));
    done?;
    failed.map_or(Ok(()), Err)
}

/// Rows as they are deleted again.
struct Again<'a, 'b> {
    /// Which knows how fast.
    work: Work<'a, 'b>,
    overlap: &'b mut Overlap,
    /// The slices that are gone.
    gone: Vec<LiveSlice>,
    /// Why nothing more is deleted.
    stopped: Option<String>,
    /// The first error of a slice: its table does not keep those of others from being deleted.
    failed: Option<Error>,
}

impl Again<'_, '_> {
    async fn batch(
        &mut self,
        rows: &mut dyn Rows,
        plan: &Plan,
        batch: &Batch,
        slices: &[Slice],
    ) -> Result<()> {
        let Archiving { place, world, rule, gates, witness, .. } = self.work.archiving;
        let mut set = batch.set_of(plan);
        if !self.goes_on(rows, &set, slices).await? {
            return Ok(());
        }
        for gate in *gates {
            if let Some(why) = gate.closed(plan, batch, world.clock.now()).await? {
                self.leave(&Quit::Gate(why).words(), slices);
                return Ok(());
            }
        }
        // What triggers may take along is what the policy says now, not what it said then.
        set.derived = match derived_tables(rows, rule, &set).await {
            Ok(derived) => derived,
            Err(error) => return self.fail(error),
        };
        read_back(place, &world.cpu, plan, batch).await?;
        let slices = &place.open_bounds(batch, slices.to_vec()).await?[..];
        for (number, slice) in slices.iter().enumerate() {
            if !self.goes_on(rows, &set, &slices[number..]).await? {
                return Ok(());
            }
            let begun = world.clock.elapsed();
            let by_row = (std::slice::from_ref(slice), &Versions::default());
            match prune(rows, &world.cpu, batch, &set, by_row, *witness).await {
                Err(error) => self.fail(error)?,
                Ok(Pruned::Gone) => {
                    self.work.learn(begun, slice.rows());
                    self.overlap.pruned_rows += slice.rows();
                    self.overlap.archived.0 += 1;
                    self.overlap.archived.1 += slice.rows();
                    self.gone.push(live(batch, slice));
                }
                Ok(Pruned::Differs(_)) => self.overlap.differing.push(live(batch, slice)),
            }
        }
        Ok(())
    }

    /// Keeps the first error of a table, unless nothing more can be done at all.
    fn fail(&mut self, error: Error) -> Result<()> {
        if error.kind() == ErrorKind::Transient {
            return Err(error);
        }
        self.failed = self.failed.take().or(Some(error));
        Ok(())
    }

    /// Whether rows may be deleted, once the server can stand it. Slices are left where something
    /// is in the way that somebody else has to end: nobody goes on with this later.
    async fn goes_on(
        &mut self,
        rows: &mut dyn Rows,
        set: &ArchiveSet,
        slices: &[Slice],
    ) -> Result<bool> {
        if self.stopped.is_none() {
            let Some(quit) = self.work.turn(rows, set).await? else { return Ok(true) };
            self.stopped = Some(quit.words());
        }
        let why = self.stopped.clone().unwrap_or_default();
        self.leave(&why, slices);
        Ok(false)
    }

    fn leave(&mut self, why: &str, slices: &[Slice]) {
        let rows: u64 = slices.iter().map(Slice::rows).sum();
        if let Some(one) = self.overlap.left.iter_mut().find(|one| one.why == why) {
            one.rows += rows;
        } else {
            self.overlap.left.push(Left { why: why.to_owned(), rows });
        }
    }
}
