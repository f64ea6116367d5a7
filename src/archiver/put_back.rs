//! Archived rows on their way back into a table.

use bytes::Bytes;
use stillpoint_contract::{
    Conflict, Driver, Error, ErrorKind, PutBackTally, Result, RowBatch, Table, code,
};

use super::{
    place::Place,
    read::{FoundRows, Wanted, find},
    shelf::Shelf,
};
use crate::world::World;

/// How many bytes of rows are handed over at once.
const CHUNK_BYTES: usize = 256 << 10;

/// Puts archived rows back, those of each file in one transaction. They stay in the archive.
///
/// # Errors
///
/// [`Refused`](ErrorKind::Refused) when rows with their keys are there, and that is not allowed;
/// those of files before stay where they were put.
pub async fn put_back(
    place: &Place,
    world: &World,
    driver: &dyn Driver,
    wanted: &Wanted,
    conflict: &Conflict,
    staging: Option<&str>,
) -> Result<PutBackTally> {
    let shelf = Shelf::load(place).await?;
    let Some(run) = shelf.runs.last() else {
        return Err(Error::new(ErrorKind::Missing, code::NO_SUCH_ARCHIVE, "find the set")
            .with("set", place.set())
            .with("place", place.location()));
    };
    let number = run.plan.member_of(wanted.table.as_deref())?;
    let table = run.plan.members[number].table.clone();
    let mut rows = driver.rows().await?;
    let mut tally = PutBackTally::default();
    find(place, &world.cpu, wanted, async |found: FoundRows| {
        let table = Table { columns: found.columns, ..table.clone() };
        let mut transaction = rows.put_back(&table, conflict, staging).await?;
        for batch in batches(found.rows) {
            transaction.rows(batch).await?;
        }
        let one = transaction.commit().await?;
        tally.inserted += one.inserted;
        tally.replaced += one.replaced;
        tally.skipped += one.skipped;
        Ok(())
    })
    .await?;
    Ok(tally)
}

fn batches(rows: Vec<Bytes>) -> Vec<RowBatch> {
    let mut batches = Vec::new();
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    for row in rows {
        bytes.extend_from_slice(&row);
        ends.push(bytes.len() as u32);
        if bytes.len() >= CHUNK_BYTES {
            batches
                .push(RowBatch::new(std::mem::take(&mut bytes).into(), std::mem::take(&mut ends)));
        }
    }
    if !ends.is_empty() {
        batches.push(RowBatch::new(bytes.into(), ends));
    }
    batches
}
