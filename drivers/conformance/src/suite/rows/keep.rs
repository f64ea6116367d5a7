//! Tables that keep copies of rows of another database.

use stillpoint_contract::{
    Column, ErrorKind, Keeping, KeyRange, LedgerEntry, RowBatch, Rows, Table,
};

use super::{
    back::batch,
    moved::{Kept, PATIENCE, alone, entry, exported, fill, key},
};
use crate::stage::{Failure, Outcome, Stage, Verdict, ensure, kind_of};

/// A table with rows, as those that keep copies see it; the table itself is gone.
struct Gone {
    table: Table,
    rows: Vec<Vec<u8>>,
    keys: Vec<Vec<u8>>,
}

async fn gone(stage: &Stage, rows: &mut dyn Rows, name: &str) -> Result<Gone, Failure> {
    let mut set = alone(stage, rows, name, "id > 0").await?;
    for column in &mut set.members[0].table.columns {
        // One of them in the forms of its own, the other one in those for odd values.
        let promoted = Column::promoted(column).filter(|_| name == "orders");
        *column = promoted.unwrap_or_else(|| column.clone());
    }
    let all = exported(rows, &set, 0, &KeyRange::default()).await?.0;
    let keys = all.iter().map(|row| Ok(key(&set, row)?.0.to_vec()));
    let keys = keys.collect::<Result<_, Failure>>()?;
    let before = if name == "orders" { "DROP TABLE parts; DROP TABLE items;" } else { "" };
    stage.server.execute(&format!("{before} DROP TABLE {name}")).await?;
    Ok(Gone { table: set.members.remove(0).table, rows: all, keys })
}

/// Makes the table that keeps the rows, and puts all of them there.
async fn bring(keeping: &mut dyn Keeping, gone: &Gone) -> Result<Table, Failure> {
    let made = keeping.make(&gone.table, None).await?;
    let table = Table { name: made.name, ..gone.table.clone() };
    keeping.widen(&table).await?;
    for some in gone.rows.chunks(7) {
        keeping.put(&table, batch(some)?).await?;
    }
    Ok(table)
}

fn sorted(rows: &[Vec<u8>]) -> Vec<Vec<u8>> {
    Kept(rows.to_vec()).sorted()
}

pub(crate) async fn copies_are_found_and_removed_by_their_keys(stage: &Stage) -> Verdict {
    fill(stage).await?;
    for name in ["samples", "orders"] {
        let mut rows = stage.driver.rows().await?;
        rows.lock("set", PATIENCE).await?;
        let gone = gone(stage, rows.as_mut(), name).await?;
        rows.open_ledger().await?;
        ensure!(rows.twin(&gone.table, None).await?.is_none(), "{name} is still there");
        let mut keeping = rows.keep().await?;
        bring(keeping.as_mut(), &gone).await?;
        drop(keeping);
        ensure!(rows.twin(&gone.table, None).await?.is_none(), "{name}: what was dropped is there");

        let noted = LedgerEntry { run: name.to_owned(), ..entry(0) };
        let mut keeping = rows.keep().await?;
        let table = bring(keeping.as_mut(), &gone).await?;
        keeping.note(&noted).await?;
        keeping.commit().await?;
        let found = rows.ledger("set").await?;
        ensure!(found.iter().any(|one| one.run == name), "{name}: nothing is noted");
        let there = rows.twin(&gone.table, None).await?;
        ensure!(there.is_some_and(|there| there.name == table.name), "{name} is not there");

        let mut keeping = rows.keep().await?;
        let some = || -> Result<RowBatch, Failure> { batch(&gone.keys[..2]) };
        let mut seen = Kept::default();
        let count = keeping.look(&table, some()?, &mut seen).await?;
        ensure!(seen.sorted() == sorted(&gone.rows[..2]), "{name}: other rows have those keys");
        let mut removed = Kept::default();
        let told = keeping.remove(&table, some()?, &mut removed).await?;
        ensure!((count, told) == (2, 2), "{name}: {count} and {told} rows, it says");
        ensure!(removed.sorted() == sorted(&gone.rows[..2]), "{name}: other rows were deleted");
        let mut rest = Kept::default();
        keeping.look(&table, batch(&gone.keys)?, &mut rest).await?;
        ensure!(
            rest.sorted() == sorted(&gone.rows[2..]),
            "{name}: others are there than those left"
        );
        keeping.strike(&noted).await?;
        let twice = keeping.put(&table, batch(&gone.rows[2..3])?).await;
        ensure!(kind_of(&twice) == Some(ErrorKind::Refused), "{name}: {twice:?}");
        keeping.roll_back().await?;

        let mut keeping = rows.keep().await?;
        let mut all = Kept::default();
        keeping.look(&table, batch(&gone.keys)?, &mut all).await?;
        ensure!(all.sorted() == sorted(&gone.rows), "{name}: what was rolled back counts");
        keeping.roll_back().await?;
    }
    Ok(Outcome::Proven)
}
