//! What triggers do to other rows while some are deleted.

use stillpoint_contract::{ArchiveSet, Code, Error, KeyRange, Result, Rows, Weight, code};

use super::{
    moved::{OLD, ORDERS, fill, name, number, settles},
    prune::{delete_all, ready},
};
use crate::stage::{Failure, Outcome, Stage, Verdict, ensure};

/// Deletes everything of a set that is selected, or nothing.
async fn delete(rows: &mut dyn Rows, set: &ArchiveSet) -> Result<()> {
    let mut pruning = rows.prune().await?;
    delete_all(pruning.as_mut(), set, &KeyRange::default()).await?;
    pruning.commit().await
}

/// Deletes amid a trigger, which is told at least; how that ended, if it was refused.
async fn meddled(
    stage: &Stage,
    on: &str,
    then: &str,
) -> std::result::Result<Option<Code>, Failure> {
    let tables = stage.fixture.row_tables().map_err(Failure::new)?;
    stage.server.execute(&(tables.trigger)(on, then)).await?;
    let (mut rows, set) = ready(stage).await?;
    let findings = rows.examine(&set).await?;
    let told = findings.iter().find(|one| one.subject == "trigger" && one.weight > Weight::Fine);
    ensure!(told.is_some_and(|one| one.found.contains("meddle")), "{then}: it tells {findings:?}");
    let done = delete(rows.as_mut(), &set).await;
    drop(rows);
    stage.settled().await?;
    stage.server.execute(tables.drop_trigger).await?;
    Ok(done.as_ref().err().map(Error::code))
}

pub(crate) async fn what_triggers_delete_besides_is_refused(stage: &Stage) -> Verdict {
    fill(stage).await?;
    let named = "DELETE FROM named; INSERT INTO named (name, v) VALUES ('a', 1), ('b', 2)";
    stage.server.execute(named).await?;
    let (outside, inside) = (Some(code::ROWS_REFUSED), Some(code::ROWS_DIFFER));
    let log = "INSERT INTO named (name, v) VALUES ('o' || OLD.id, 0)";
    for (on, then, expected) in [
        ("orders", "DELETE FROM named WHERE v > 1", outside),
        ("parts", "DELETE FROM named WHERE v > 1", outside),
        ("orders", &*format!("{log}; DELETE FROM named WHERE v = 1"), outside),
        // Rows of the set that are not selected.
        ("orders", "DELETE FROM items WHERE order_id = 3", inside),
        ("orders", &*format!("{log}; DELETE FROM parts WHERE id = 120"), inside),
        ("orders", "DELETE FROM orders WHERE id = 3 AND OLD.id > 3", None),
    ] {
        let found = meddled(stage, on, then).await?;
        let is_refused = expected.map_or(found.is_some(), |code| found == Some(code));
        ensure!(is_refused, "{on}, {then}: it ends with {found:?}");
        for (table, rows) in [("orders", ORDERS), ("items", ORDERS * 2), ("parts", ORDERS * 2)] {
            settles(stage, table, rows.into()).await?;
        }
        let left = number(stage, "SELECT count(*) FROM named").await?;
        ensure!(left == 2, "{on}, {then}: {left} rows are left of another table");
    }

    // A log, sums, and what goes before the row that it hangs on.
    let then =
        format!("{log}; UPDATE named SET v = v + 1; DELETE FROM items WHERE order_id = OLD.id");
    let refused = meddled(stage, "orders", &then).await?;
    ensure!(refused.is_none(), "{then}: {refused:?}");
    settles(stage, "orders", u64::from(ORDERS) - OLD).await?;
    settles(stage, "items", u64::from(ORDERS) * 2 - 2 * OLD).await?;
    let logged = number(stage, "SELECT count(*) FROM named").await?;
    ensure!(logged == 2 + OLD, "{logged} rows were written down");

    // What only derives from others, as the set says.
    let tables = stage.fixture.row_tables().map_err(Failure::new)?;
    stage.server.execute(&(tables.trigger)("orders", "DELETE FROM named")).await?;
    let (mut rows, mut set) = ready(stage).await?;
    set.predicate = rows.bind(&set.root().table, "status = 'closed'", None).await?;
    set.derived.push(rows.named(&name(stage, "named")?).await?.name);
    let findings = rows.examine(&set).await?;
    ensure!(findings.iter().all(|one| one.weight < Weight::Lacking), "it tells {findings:?}");
    delete(rows.as_mut(), &set).await?;
    drop(rows);
    settles(stage, "orders", u64::from(ORDERS) - 2 * OLD).await?;
    let left = number(stage, "SELECT count(*) FROM named").await?;
    ensure!(left == 0, "{left} rows are left that only derive");
    Ok(Outcome::Proven)
}
