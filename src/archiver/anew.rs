//! Slices that readers pass over, and whose rows are not in their tables any more: which of them
//! later runs archived anew, in files that count instead.

use std::collections::{BTreeMap, BTreeSet};

use stillpoint_contract::{Error, LedgerEntry, Result};

use super::{
    document::{Batch, Slice},
    names::Names,
    newest::Keyed,
    place::Place,
    read::Visible,
    reconcile::{Hidden, LiveSlice, live},
    shelf::Shelf,
    shelve::{keep_slices, verified},
};
use crate::pipeline::cpu::CpuPool;

/// Slices are looked for together until there are so many keys.
const KEYS_MAX: usize = 2_000_000;

/// Of some slices, those of whose keys newer files have some that count: files of slices that the
/// ledger knows, or would if it were not lost. `passed` are all slices that readers pass over.
pub(super) async fn archived_anew(
    (place, cpu): (&Place, &CpuPool),
    (shelf, ledger): (&Shelf, &[LedgerEntry]),
    slices: &[LiveSlice],
    passed: &[LiveSlice],
) -> Result<Vec<LiveSlice>> {
    let mut found = Vec::new();
    if slices.is_empty() {
        return Ok(found);
    }
    let (names, wanted) = (Names::of(shelf), Hidden::of(slices));
    let counting = counting(shelf, ledger, &Hidden::of(passed))?;
    let mut sought = Sought::default();
    let batches: Vec<Visible<'_>> = shelf
        .sealed()
        .map(|(plan, batch)| {
            let slices = numbers(batch, |slice| wanted.has_slice(batch, slice));
            Visible { plan, batch, slices }
        })
        .filter(|one| !one.slices.is_empty())
        .collect();
    for (at, one) in batches.iter().enumerate() {
        sought = sought.add((place, cpu), &names, one).await?;
        if sought.keys.len() < KEYS_MAX && at + 1 < batches.len() {
            continue;
        }
        sought.keys.sort_unstable();
        for newer in &counting {
            if sought.is_over() {
                break;
            }
            sought = sought.search((place, cpu), &names, newer).await?;
        }
        let all = std::mem::take(&mut sought).slices;
        found.extend(all.into_iter().filter(|(_, is_found)| *is_found).map(|(slice, _)| slice));
    }
    Ok(found)
}

/// The batches whose rows count, oldest first.
fn counting<'a>(
    shelf: &'a Shelf,
    ledger: &[LedgerEntry],
    passed: &Hidden,
) -> Result<Vec<Visible<'a>>> {
    let mut all = Vec::new();
    for run in &shelf.runs {
        for one in run.batches.values().filter(|one| one.is_there()) {
            let (plan, batch) = (&run.plan, &one.batch);
            let slices = if one.is_sealed() {
                numbers(batch, |slice| !passed.has_slice(batch, slice))
            } else {
                one.gone(plan, ledger)?.iter().map(|slice| slice.number).collect()
            };
            if !slices.is_empty() {
                all.push(Visible { plan, batch, slices });
            }
        }
    }
    Ok(all)
}

fn numbers(batch: &Batch, is_it: impl Fn(&Slice) -> bool) -> BTreeSet<u32> {
    batch.slices.iter().filter(|slice| is_it(slice)).map(|slice| slice.number).collect()
}

/// Slices whose keys are looked for in newer files.
#[derive(Debug, Default)]
struct Sought {
    /// Each, and whether one of its keys was found.
    slices: Vec<(LiveSlice, bool)>,
    /// Hashes of their keys, and the places of the slices that have them; a key may be in several.
    keys: Vec<([u8; 16], u32)>,
}

impl Sought {
    /// Adds slices of a batch.
    async fn add(
        mut self,
        (place, cpu): (&Place, &CpuPool),
        names: &Names,
        one: &Visible<'_>,
    ) -> Result<Self> {
        let member = &one.batch.members[0];
        let (Some(keyed), Some(file)) = (Keyed::of(names, one, 0), &member.file) else {
            return Ok(self);
        };
        let mut places: BTreeMap<u32, u32> = BTreeMap::new();
        for slice in one.batch.slices.iter().filter(|slice| one.slices.contains(&slice.number)) {
            places.insert(slice.number, self.slices.len() as u32);
            self.slices.push((live(one.batch, slice), false));
        }
        let bytes = verified(place, cpu, file).await?;
        let (columns, format) = (member.columns.clone(), one.plan.format);
        let all = one.batch.slices.clone();
        let work = move || {
            keep_slices(&bytes, &columns, format, &all, 0, |slice, row| {
                if let Some(place) = places.get(&slice.number)
                    && let Some(parts) = keyed.parts(row)?
                {
                    self.keys.push((keyed.hash(&parts), *place));
                }
                Ok(())
            })?;
            Ok::<_, Error>(self)
        };
        cpu.run(move |_| work()).await?
    }

    /// Looks for their keys in another batch.
    async fn search(
        self,
        (place, cpu): (&Place, &CpuPool),
        names: &Names,
        one: &Visible<'_>,
    ) -> Result<Self> {
        let Some(keyed) = Keyed::of(names, one, 0) else { return Ok(self) };
        let (run, batch) = (one.batch.run.clone(), one.batch.number);
        let see = move |sought: &mut Self, _: u64, row: &[u8]| -> Result<()> {
            if let Some(parts) = keyed.parts(row)? {
                sought.see(&keyed.hash(&parts), (&run, batch));
            }
            Ok(())
        };
        one.fold(place, cpu, 0, self, see).await
    }

    /// A key that a batch has.
    fn see(&mut self, hash: &[u8; 16], newer: (&str, u32)) {
        let from = self.keys.partition_point(|(key, _)| key < hash);
        for (_, place) in self.keys[from..].iter().take_while(|(key, _)| key == hash) {
            let (slice, is_found) = &mut self.slices[*place as usize];
            *is_found |= (&*slice.run, slice.batch) < newer;
        }
    }

    fn is_over(&self) -> bool {
        self.slices.iter().all(|(_, is_found)| *is_found)
    }
}
