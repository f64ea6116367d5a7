//! A batch written anew, without some of its rows: files hold what was deleted from the tables, and
//! nothing that is to be nowhere.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use stillpoint_contract::{Error, Result, RowBatch};

use super::{
    bounds::Ends,
    destination::Opened,
    document::{Batch, BatchMember, Noted, Plan, Slice, Tally, Void},
    file::{Encoded, Encoder, Layout, Origin, SliceHash},
    garbage::{Removed, discard},
    place::{Place, Sheet},
    shelve::{Written, keep_slices, read_back, verified},
};
use crate::pipeline::cpu::CpuPool;

/// How many bytes of rows are encoded at once.
const CHUNK_BYTES: usize = 256 << 10;

/// Whether a row of a slice is kept, of the table with that place in the plan.
pub(super) type Keeps = Arc<dyn Fn(&Slice, usize, &[u8]) -> Result<bool> + Send + Sync>;

/// Writes a batch anew with only some of its slices, and of those only some rows. The files before
/// are removed, and their keys destroyed, once the new ones were read back. No batch when no slice
/// is left: it is void then.
pub(super) async fn rewrite(
    place: &Place,
    cpu: &CpuPool,
    plan: &Plan,
    old: &Batch,
    slices: Vec<Slice>,
    keeps: &Keeps,
    (reason, now): (&str, DateTime<Utc>),
) -> Result<(Option<Batch>, Removed)> {
    if slices.is_empty() {
        return Ok((None, void(place, old, reason, now).await?));
    }
    let new = write_anew(place, cpu, plan, old, slices, keeps, (reason, now)).await?;
    let withdrawn = place.withdraw(old, Some(&new)).await?;
    let removed = replace(place, plan, (old, &new), withdrawn).await?;
    Ok((Some(new), removed))
}

/// Lets a batch that was written anew count in place of the one before, whose files go. Rows that
/// it lacks were withdrawn from destination tables, where nobody brings any meanwhile.
pub(super) async fn replace(
    place: &Place,
    plan: &Plan,
    (old, new): (&Batch, &Batch),
    withdrawn: Option<Opened>,
) -> Result<Removed> {
    let sheet = Sheet::Batch { batch: new.number, generation: new.generation };
    place.write(&plan.run, sheet, new).await?;
    drop(withdrawn);
    discard(place, old, Some(new)).await
}

/// Writes only some slices of a batch, and of those only some rows, to files that nothing names
/// yet, and reads them back.
pub(super) async fn write_anew(
    place: &Place,
    cpu: &CpuPool,
    plan: &Plan,
    old: &Batch,
    slices: Vec<Slice>,
    keeps: &Keeps,
    (reason, now): (&str, DateTime<Utc>),
) -> Result<Batch> {
    let mut slices: Vec<Slice> = slices.into_iter().map(noted).collect();
    let (mut members, mut root) = (Vec::new(), vec![Ends::default(); slices.len()]);
    for (number, member) in old.members.iter().enumerate() {
        let file = match &member.file {
            Some(file) => {
                let bytes = verified(place, cpu, file).await?;
                let of = Filter { plan, old, number, slices: &slices, keeps };
                let Filtered { bytes, rows, tallies, ends } = of.run(cpu, bytes).await?;
                for (slice, tally) in slices.iter_mut().zip(tallies) {
                    slice.members[number] = tally;
                }
                if number == 0 {
                    root = ends;
                }
                let of = Written {
                    plan,
                    table: &plan.members[number].table.name,
                    batch: old.number,
                    generation: old.generation + 1,
                };
                if rows > 0 { Some(of.write(place, cpu, bytes, rows).await?) } else { None }
            }
            None => None,
        };
        members.push(BatchMember { file, ..member.clone() });
    }
    // What is taken out is no end of anything.
    for (slice, ends) in slices.iter_mut().zip(root) {
        ends.bound(slice, &plan.members[0].table.key)?;
    }
    let mut new = Batch {
        generation: old.generation + 1,
        made: now,
        reason: reason.to_owned(),
        members,
        slices,
        ..old.clone()
    };
    new.check(plan)?;
    read_back(place, cpu, plan, &new).await?;
    place.seal_bounds(&mut new).await?;
    Ok(new)
}

/// A slice that remembers what the ledger says of it, whatever is taken out of it.
fn noted(slice: Slice) -> Slice {
    let noted = slice.noted.clone().or_else(|| {
        let members = slice.members.clone();
        Some(Noted { rows: slice.rows(), hash: slice.hash(), members })
    });
    Slice { noted, ..slice }
}

/// Says that nothing of a batch counts, and removes its files.
pub(super) async fn void(
    place: &Place,
    batch: &Batch,
    reason: &str,
    at: DateTime<Utc>,
) -> Result<Removed> {
    let void = Void { reason: reason.to_owned(), at };
    let held = place.withdraw(batch, None).await?;
    place.mark(&batch.run, Sheet::Void { batch: batch.number }, &void).await?;
    drop(held);
    discard(place, batch, None).await
}

/// One table of a batch that is written anew.
struct Filter<'a> {
    plan: &'a Plan,
    old: &'a Batch,
    number: usize,
    /// Those that are kept.
    slices: &'a [Slice],
    keeps: &'a Keeps,
}

/// The file of the rows that are kept.
struct Filtered {
    bytes: Bytes,
    rows: u64,
    /// Which those are in each slice.
    tallies: Vec<Tally>,
    /// The first and the last of each slice.
    ends: Vec<Ends>,
}

impl Filter<'_> {
    async fn run(&self, cpu: &CpuPool, bytes: Bytes) -> Result<Filtered> {
        let (plan, old, number) = (self.plan, self.old, self.number);
        let table = plan.members[number].table.clone();
        let columns = old.members[number].columns.clone();
        let origin = Origin {
            set: plan.set.clone(),
            table: table.name.clone(),
            identity: table.identity.clone(),
            fingerprint: old.members[number].fingerprint.clone(),
            run: plan.run.clone(),
            batch: old.number,
            cutoff: plan.cutoff.map(|cutoff| cutoff.to_rfc3339()),
        };
        let (format, lookup, all) = (plan.format, plan.lookup.clone(), old.slices.clone());
        let (kept, keeps) = (self.slices.to_vec(), Arc::clone(self.keeps));
        let work = move || {
            let layout = Layout {
                columns: &columns,
                key: &table.key,
                is_sorted: number == 0,
                lookup: &lookup,
                format,
                origin: &origin,
            };
            let mut encoder = Encoder::new(&layout)?;
            let mut hashes = vec![SliceHash::default(); kept.len()];
            let mut all_ends = vec![Ends::default(); kept.len()];
            let (mut rows, mut ends) = (Vec::new(), Vec::new());
            keep_slices(&bytes, &columns, format, &all, number, |slice, row| {
                let place = kept.binary_search_by_key(&slice.number, |one| one.number);
                if let Ok(place) = place {
                    let is_kept = keeps(slice, number, row)?;
                    if number == 0 {
                        all_ends[place].see(row, is_kept);
                    }
                    if is_kept {
                        hashes[place].add(row);
                        rows.extend_from_slice(row);
                        ends.push(u32::try_from(rows.len()).map_err(|_| Error::bug("hold rows"))?);
                    }
                }
                if rows.len() >= CHUNK_BYTES {
                    let rows = Bytes::from(std::mem::take(&mut rows));
                    encoder.push(&RowBatch::new(rows, std::mem::take(&mut ends)))?;
                }
                Ok(())
            })?;
            encoder.push(&RowBatch::new(rows.into(), ends))?;
            Ok::<_, Error>((encoder.finish()?, hashes, all_ends))
        };
        let (encoded, hashes, ends) = cpu.run(move |_| work()).await??;
        match encoded {
            Encoded::File { bytes, rows } => {
                Ok(Filtered { bytes, rows, tallies: hashes.iter().map(Tally::of).collect(), ends })
            }
            Encoded::Misfits(_) => {
                Err(Error::bug("write rows in the form in which they were read"))
            }
        }
    }
}
