//! Putting rows back.

use stillpoint_contract::{
    Column, Conflict, Error, ErrorKind, KeyRange, PutBackTally, RowBatch, RowWriter, Rows, Table,
    code, values,
};

use super::moved::{Kept, PATIENCE, alone, exported, fill, name};
use crate::stage::{Failure, Outcome, Stage, Verdict, ensure, kind_of};

/// Rows as they were handed over.
pub(super) fn batch(rows: &[Vec<u8>]) -> Result<RowBatch, Failure> {
    let mut writer = RowWriter::default();
    for row in rows {
        let row: Vec<_> = values(row).collect::<stillpoint_contract::Result<_>>()?;
        writer.begin(row.len());
        for value in row {
            match value {
                Some(value) => writer.value(&[value]),
                None => writer.null(),
            }
        }
        writer.end()?;
    }
    Ok(writer.take())
}

async fn put(
    rows: &mut dyn Rows,
    table: &Table,
    all: &[Vec<u8>],
    conflict: &Conflict,
    staging: Option<&str>,
) -> Result<stillpoint_contract::Result<PutBackTally>, Failure> {
    let mut put_back = rows.put_back().await?;
    put_back.begin(table, conflict, staging).await?;
    for some in all.chunks(7) {
        if let Err(error) = put_back.rows(batch(some)?).await {
            return Ok(Err(error));
        }
    }
    match put_back.end().await {
        Ok(tally) => Ok(put_back.commit().await.map(|()| tally)),
        Err(error) => Ok(Err(error)),
    }
}

pub(crate) async fn rows_come_back_as_they_were(stage: &Stage) -> Verdict {
    fill(stage).await?;
    for table in ["samples", "orders"] {
        let mut rows = stage.driver.rows().await?;
        let mut set = alone(stage, rows.as_mut(), table, "id > 0").await?;
        let all = KeyRange::default();
        for is_promoted in [false, true] {
            if is_promoted {
                for column in &mut set.members[0].table.columns {
                    let promoted = Column::promoted(column);
                    *column = promoted.unwrap_or_else(|| column.clone());
                }
            }
            let before = exported(rows.as_mut(), &set, 0, &all).await?.0;
            ensure!(!before.is_empty(), "{table} is empty");
            if table == "orders" {
                stage.server.execute("DELETE FROM parts; DELETE FROM items").await?;
            }
            rows.lock("set", PATIENCE).await?;
            let mut pruning = rows.prune().await?;
            let mut deleted = Kept::default();
            pruning.delete(&set, 0, &all, &mut deleted).await?;
            ensure!(deleted.sorted().len() == before.len(), "not all of {table} was deleted");
            pruning.commit().await?;
            let shown = &set.root().table;
            let tally = put(rows.as_mut(), shown, &before, &Conflict::Fail, None).await??;
            let inserted = before.len() as u64;
            ensure!(tally == PutBackTally { inserted, ..PutBackTally::default() }, "{tally:?}");
            let after = exported(rows.as_mut(), &set, 0, &all).await?.0;
            ensure!(after == before, "{table} came back different, promoted: {is_promoted}");
        }
        let staging = format!("put back {table}");
        let before = exported(rows.as_mut(), &set, 0, &all).await?.0;
        let shown = &set.root().table;
        put(rows.as_mut(), shown, &before, &Conflict::Fail, Some(&format!("\"{staging}\"")))
            .await??;
        let staged = alone(stage, rows.as_mut(), &format!("\"{staging}\""), "id > 0").await?;
        let mut staged = staged;
        staged.members[0].table.columns.clone_from(&set.root().table.columns);
        let after = exported(rows.as_mut(), &staged, 0, &all).await?.0;
        ensure!(after == before, "{table} is different in a table of its own");
    }
    Ok(Outcome::Proven)
}

pub(crate) async fn rows_that_are_there_are_treated_as_asked(stage: &Stage) -> Verdict {
    fill(stage).await?;
    let mut rows = stage.driver.rows().await?;
    let set = alone(stage, rows.as_mut(), "named", "v IS NOT NULL OR v IS NULL").await?;
    let table = &set.root().table;
    let all = KeyRange::default();
    let reset =
        "DELETE FROM named; INSERT INTO named (name, v) VALUES ('a', 1), ('b', 2), ('c''', 3)";
    stage.server.execute(reset).await?;
    let archived = exported(rows.as_mut(), &set, 0, &all).await?.0;
    let now = "DELETE FROM named; INSERT INTO named (name, v) VALUES ('b', 9), ('c''', 1)";

    for (conflict, tally, left) in [
        (Conflict::Skip, (1, 0, 2), "1,9,1"),
        (Conflict::Overwrite, (1, 2, 0), "1,2,3"),
        (Conflict::Newer("v".to_owned()), (1, 1, 1), "1,9,3"),
    ] {
        stage.server.execute(now).await?;
        let done = put(rows.as_mut(), table, &archived, &conflict, None).await??;
        let found = (done.inserted, done.replaced, done.skipped);
        ensure!(found == tally, "{conflict:?}: {done:?}");
        let values = stage.server.ask("SELECT v FROM named ORDER BY name").await?.join(",");
        ensure!(values == left, "{conflict:?} leaves {values}");
    }
    stage.server.execute(now).await?;
    let refused = put(rows.as_mut(), table, &archived, &Conflict::Fail, None).await?;
    ensure!(kind_of(&refused) == Some(ErrorKind::Refused), "{refused:?}");
    let told = refused.err().map(|error| format!("{:?}", error.facts())).unwrap_or_default();
    ensure!(told.contains('b'), "no key is told: {told}");
    let values = stage.server.ask("SELECT v FROM named ORDER BY name").await?.join(",");
    ensure!(values == "9,1", "something was put back: {values}");
    drop(rows);

    let mut rows = stage.driver.rows().await?;
    let mut put_back = rows.put_back().await?;
    put_back.begin(table, &Conflict::Overwrite, None).await?;
    put_back.rows(batch(&archived)?).await?;
    put_back.end().await?;
    drop(put_back);
    drop(rows);
    stage.settled().await?;
    let values = stage.server.ask("SELECT v FROM named ORDER BY name").await?.join(",");
    ensure!(values == "9,1", "what was dropped was put back: {values}");

    stage.server.execute("ALTER TABLE named RENAME COLUMN v TO w").await?;
    let mut rows = stage.driver.rows().await?;
    let refused = put(rows.as_mut(), table, &archived, &Conflict::Skip, None).await;
    ensure!(refused.is_err(), "a column is gone, and it was put back");
    let table = rows.table(&name(stage, "named")?).await?;
    let newer = Conflict::Newer("v".to_owned());
    let refused = rows.put_back().await?.begin(&table, &newer, None).await;
    ensure!(kind_of(&refused) == Some(ErrorKind::Invalid), "{refused:?}");
    Ok(Outcome::Proven)
}

pub(crate) async fn values_that_are_computed_by_now_are_not_lost(stage: &Stage) -> Verdict {
    fill(stage).await?;
    let create = "CREATE TABLE computed (id INTEGER PRIMARY KEY, v INTEGER";
    let insert = "INSERT INTO computed VALUES (1, 2), (2, 5)";
    stage.server.execute(&format!("{create}); {insert}")).await?;
    let mut rows = stage.driver.rows().await?;
    let set = alone(stage, rows.as_mut(), "computed", "id > 0").await?;
    let (table, all) = (&set.root().table, KeyRange::default());
    let archived = exported(rows.as_mut(), &set, 0, &all).await?.0;
    let computed = format!("{create} GENERATED ALWAYS AS (id + 1) STORED)");
    stage.server.execute(&format!("DROP TABLE computed; {computed}")).await?;

    for conflict in [Conflict::Fail, Conflict::Skip, Conflict::Overwrite] {
        let refused = put(rows.as_mut(), table, &archived, &conflict, None).await?;
        let found = refused.as_ref().err().map(Error::code);
        ensure!(found == Some(code::ROWS_DIFFER), "{conflict:?}: {refused:?}");
        let left = stage.server.ask("SELECT count(*) FROM computed").await?.join("");
        ensure!(left == "0", "{conflict:?}: {left} rows were put back");
    }
    let staging = "\"computed then\"";
    put(rows.as_mut(), table, &archived, &Conflict::Fail, Some(staging)).await??;
    let staged = alone(stage, rows.as_mut(), staging, "id > 0").await?;
    let after = exported(rows.as_mut(), &staged, 0, &all).await?.0;
    ensure!(after == archived, "rows are different in a table of their own");
    // What is computed is what it was.
    let tally = put(rows.as_mut(), table, &archived[..1], &Conflict::Fail, None).await??;
    ensure!(tally.inserted == 1, "{tally:?}");
    Ok(Outcome::Proven)
}

pub(crate) async fn rows_of_many_tables_come_back_at_once_or_not_at_all(stage: &Stage) -> Verdict {
    fill(stage).await?;
    let mut rows = stage.driver.rows().await?;
    let samples = alone(stage, rows.as_mut(), "samples", "id > 0").await?;
    let named = alone(stage, rows.as_mut(), "named", "v IS NOT NULL OR v IS NULL").await?;
    let reset = "DELETE FROM named; INSERT INTO named (name, v) VALUES ('a', 1), ('b', 2)";
    stage.server.execute(reset).await?;
    let all = KeyRange::default();
    let of_samples = exported(rows.as_mut(), &samples, 0, &all).await?.0;
    let of_named = exported(rows.as_mut(), &named, 0, &all).await?.0;
    stage.server.execute("DELETE FROM samples; DELETE FROM named WHERE name = 'a'").await?;
    let count = "SELECT (SELECT count(*) FROM samples) || ',' || (SELECT count(*) FROM named)";
    let staging = Some("\"put back many\"");
    for conflict in [Conflict::Fail, Conflict::Overwrite] {
        let mut put_back = rows.put_back().await?;
        for staging in [staging, None] {
            put_back.begin(&samples.root().table, &conflict, staging).await?;
            put_back.rows(batch(&of_samples)?).await?;
            let tally = put_back.end().await?;
            ensure!(tally.inserted == of_samples.len() as u64, "{tally:?}");
        }
        let table = &named.root().table;
        put_back.begin(table, &conflict, None).await?;
        // An engine may refuse a row at once.
        let ended = match put_back.rows(batch(&of_named)?).await {
            Ok(()) => put_back.end().await,
            Err(error) => Err(error),
        };
        if conflict == Conflict::Fail {
            ensure!(kind_of(&ended) == Some(ErrorKind::Refused), "{ended:?}");
            ensure!(put_back.commit().await.is_err(), "what was refused was put back");
            drop(rows);
            stage.settled().await?;
            let found = stage.server.ask(count).await?.join("");
            ensure!(found == "0,1", "after a refusal: {found}");
            rows = stage.driver.rows().await?;
            continue;
        }
        let tally = ended?;
        ensure!((tally.inserted, tally.replaced) == (1, 1), "{tally:?}");
        // Once more, on rows of the same transaction.
        put_back.begin(table, &conflict, None).await?;
        put_back.rows(batch(&of_named)?).await?;
        let tally = put_back.end().await?;
        ensure!((tally.inserted, tally.replaced) == (0, 2), "{tally:?}");
        put_back.commit().await?;
    }
    let after = exported(rows.as_mut(), &samples, 0, &all).await?.0;
    ensure!(after == of_samples, "rows came back different");
    let after = exported(rows.as_mut(), &named, 0, &all).await?.0;
    ensure!(after == of_named, "rows of the second table came back different");
    // What was refused did not leave the table of its own, or it could not have been made again.
    rows.table("\"put back many\"").await?;
    Ok(Outcome::Proven)
}
