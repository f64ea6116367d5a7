//! Rows on their way out of destination tables, before the files lose them: erased and expired
//! ones, and those that were not deleted where they come from.

use std::collections::HashSet;

use stillpoint_contract::{Error, Result};

use super::{
    destination::{Collected, Copies, Destination, Opened, keys_of},
    document::{Batch, Plan},
    load::{Chunks, take_out},
    place::{Place, Sheet},
};

impl Place {
    /// Takes rows of a batch out of destination tables that its next generation does not have; all
    /// of them where there is none. Nobody brings any there as long as what is returned lives: that
    /// is until the manifest says so.
    pub(super) async fn withdraw(
        &self,
        old: &Batch,
        new: Option<&Batch>,
    ) -> Result<Option<Opened>> {
        let Copies::In(destination) = &self.copies else { return Ok(None) };
        let opened = Box::pin(destination.open(self, None)).await?;
        let Some(mut opened) = opened else { return Ok(None) };
        let is_there = opened.of_batch(old).is_some();
        let is_done = new.is_some_and(|new| opened.has(new));
        if is_there && !is_done {
            Box::pin(withdraw(self, destination, &mut opened, old, new)).await?;
        }
        Ok(Some(opened))
    }
}

async fn withdraw(
    place: &Place,
    destination: &Destination,
    opened: &mut Opened,
    old: &Batch,
    new: Option<&Batch>,
) -> Result<()> {
    let plan = place.read::<Plan>(&old.run, Sheet::Plan).await?;
    let plan = plan.ok_or_else(|| Error::bug("find the plan of a batch"))?;
    let cpu = &destination.world.cpu;
    let (known, next) = (opened.of_batch(old).cloned(), new.map(|new| opened.wanted(new)));
    let tables: Vec<_> =
        (0..old.members.len()).map(|number| opened.table(&plan, old, number)).collect();
    let mut keeping = opened.rows.keep().await?;
    for (number, table) in tables.iter().enumerate() {
        let Some(table) = table else { continue };
        let mut kept: HashSet<blake3::Hash> = HashSet::new();
        if let Some(new) = new {
            let mut chunks = Chunks::open(place, cpu, &plan, &new.members[number]).await?;
            while let Some(rows) = chunks.next().await? {
                kept.extend(rows.rows().map(blake3::hash));
            }
        }
        let mut chunks = Chunks::open(place, cpu, &plan, &old.members[number]).await?;
        while let Some(rows) = chunks.next().await? {
            let is_gone = |row: &&[u8]| !kept.contains(&blake3::hash(row));
            let gone: HashSet<&[u8]> = rows.rows().filter(is_gone).collect();
            if gone.is_empty() {
                continue;
            }
            // A later row with the same key is that of another batch, and stays.
            let mut there = Collected::default();
            keeping.look(table, keys_of(gone.iter().copied(), &table.key)?, &mut there).await?;
            let doomed = there.0.iter().map(|row| &**row).filter(|row| gone.contains(row));
            take_out(&mut *keeping, table, doomed.collect()).await?;
        }
    }
    if let Some(known) = &known {
        keeping.strike(known).await?;
    }
    if let Some(next) = &next {
        keeping.note(next).await?;
    }
    keeping.commit().await.map_err(|error| destination.told(error))
}
