//! Files whose time is over.

use chrono::{DateTime, Utc};
use stillpoint_contract::Result;

use super::{
    document::Expired,
    hold::held,
    place::{Place, Sheet},
    rewrite::remove_files,
    shelf::Shelf,
};

/// A batch that is, or would be, removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiring {
    /// Its run.
    pub run: String,
    /// Its number.
    pub batch: u32,
    /// How many rows it holds, of all tables.
    pub rows: u64,
    /// How many bytes its files have.
    pub bytes: u64,
    /// The month from which on it may be removed.
    pub expire: String,
    /// Whether a hold keeps it.
    pub is_held: bool,
}

/// Removes batches whose month has come, unless they are held; with `is_dry`, only says which.
///
/// A clock that goes back removes nothing: the latest time that any document of the set has is no
/// later than now, or nothing is done.
pub async fn expire(place: &Place, now: DateTime<Utc>, is_dry: bool) -> Result<Vec<Expiring>> {
    let shelf = Shelf::load(place).await?;
    let holds = held(place).await?;
    let month = now.format("%Y-%m").to_string();
    let mut expiring = Vec::new();
    for run in &shelf.runs {
        let is_over = run.plan.expire != "open" && run.plan.expire <= month;
        for one in run.batches.values().filter(|one| is_over && one.is_sealed()) {
            // What was written later than now was written by another clock than ours.
            if one.batch.made > now {
                continue;
            }
            let is_held = holds.of_run(&run.plan.run);
            let files = one.batch.members.iter().filter_map(|member| member.file.as_ref());
            expiring.push(Expiring {
                run: run.plan.run.clone(),
                batch: one.batch.number,
                rows: one.batch.rows(),
                bytes: files.map(|file| file.bytes).sum(),
                expire: run.plan.expire.clone(),
                is_held,
            });
            if !is_dry && !is_held {
                let expired = Expired { rows: one.batch.rows(), at: now };
                let sheet = Sheet::Expired { batch: one.batch.number };
                place.mark(&run.plan.run, sheet, &expired).await?;
                remove_files(place, &one.batch, None).await?;
            }
        }
    }
    Ok(expiring)
}
