//! Which database the rows of a set come from.
//!
//! Rows of different tables are never mixed, and what a ledger does not say means something only
//! in the database that it belongs to. A copy of a database and the same database after a restore
//! cannot be told apart by what they hold: that one follows the other, somebody has to say.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use stillpoint_contract::{Driver, Error, ErrorKind, LedgerEntry, Result, Rows, code};

use super::{place::Place, shelf::Shelf};
use crate::world::World;

const NOTICES: &str = "adopted";

/// That a table follows the one that rows came from, as a document: the newest one counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// What tells the table from all others.
    pub identity: String,
    /// When, by the coordinator's clock.
    pub at: DateTime<Utc>,
}

/// What tells the table that the rows of a set come from; none where nothing was archived.
pub(super) async fn known(place: &Place, shelf: &Shelf) -> Result<Option<String>> {
    let adopted: Vec<Adopted> = place.notices(NOTICES).await?;
    let last = adopted.into_iter().next_back().map(|adopted| adopted.identity);
    let planned = || Some(shelf.runs.last()?.plan.members.first()?.table.identity.clone());
    Ok(last.or_else(planned))
}

/// What tells a table, whether or not it is partitioned, from all others.
pub(super) async fn of_table(rows: &mut dyn Rows, name: &str) -> Result<String> {
    match rows.partitions(name).await? {
        Some(whole) => Ok(whole.identity),
        None => Ok(rows.table(name).await?.identity),
    }
}

/// Refuses a table that rows do not come from.
pub(super) async fn check(place: &Place, shelf: &Shelf, identity: &str) -> Result<()> {
    let Some(known) = known(place, shelf).await?.filter(|known| known != identity) else {
        return Ok(());
    };
    let set = place.set();
    Err(Error::new(ErrorKind::Refused, code::FOREIGN_DATABASE, "go on with an archive set")
        .with("set", set)
        .with("place", place.location())
        .with("known", known)
        .with("found", identity)
        .why("the set holds rows of another table; those of two tables are never mixed")
        .next(format!(
            "stillpoint archive reconcile {set} --adopt   if the database was restored, and this \
             table takes the place of the other one"
        ))
        .next("else give the new table a set of its own: [archive.OTHER-NAME]"))
}

/// Writes down that a table takes the place of the one that rows come from.
pub(super) async fn adopt(
    place: &Place,
    shelf: &Shelf,
    world: &World,
    identity: &str,
) -> Result<()> {
    if known(place, shelf).await?.is_none_or(|known| known == identity) {
        return Ok(());
    }
    let adopted = Adopted { identity: identity.to_owned(), at: world.clock.now() };
    place.add_notice(world, NOTICES, &adopted).await
}

/// What the ledger of the set's database says; none where the table is not the one that rows come
/// from, so that it knows nothing of them, or is gone, so that nobody can tell.
///
/// # Errors
///
/// When the database cannot be asked.
pub async fn ledger_of(place: &Place, driver: &dyn Driver) -> Result<Option<Vec<LedgerEntry>>> {
    let shelf = Shelf::load(place).await?;
    let Some(root) = shelf.runs.last().and_then(|run| run.plan.members.first()) else {
        return Ok(None);
    };
    let mut rows = driver.rows().await?;
    let identity = match of_table(&mut *rows, &root.table.name).await {
        // Something else may have its name, such as a view.
        Err(error) if matches!(error.code(), code::NO_SUCH_TABLE | code::ROWS_REFUSED) => {
            return Ok(None);
        }
        identity => identity?,
    };
    if known(place, &shelf).await?.is_some_and(|known| known != identity) {
        return Ok(None);
    }
    rows.ledger(place.set()).await.map(Some)
}
