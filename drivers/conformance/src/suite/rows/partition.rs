//! Partitions that leave their table.

use stillpoint_contract::{ArchiveSet, KeyRange, Partition, Rows};

use super::moved::{Kept, PATIENCE, alone, entry, exported, fill, name, number, settles};
use crate::stage::{Failure, Outcome, Stage, Verdict, abandon, ensure};

/// The ids of both partitions: 40 in the first one, and 60 in the other.
const IDS: std::ops::Range<u32> = 60..160;

/// Makes the partitions and fills them; or says why there are none.
async fn ready(stage: &Stage) -> Result<Result<Box<dyn Rows>, Outcome>, Failure> {
    let tables = stage.fixture.row_tables().map_err(Failure::new)?;
    let make = match tables.partitions {
        Ok(make) => make,
        Err(why) => return Ok(Err(Outcome::NotApplicable(why.to_owned()))),
    };
    fill(stage).await?;
    stage.server.execute(make).await?;
    let rows = IDS.map(|id| format!("({id}, 'v{id}')")).collect::<Vec<_>>().join(", ");
    stage.server.execute(&format!("INSERT INTO parted (id, v) VALUES {rows}")).await?;
    let mut rows = stage.driver.rows().await?;
    rows.lock("set", PATIENCE).await?;
    rows.open_ledger().await?;
    Ok(Ok(rows))
}

/// The partition of that name, and a set of its rows.
async fn of(
    stage: &Stage,
    rows: &mut dyn Rows,
    own: &str,
    predicate: &str,
) -> Result<(Partition, ArchiveSet), Failure> {
    let all = rows.partitions(&name(stage, "parted")?).await?;
    let all = all.ok_or_else(|| Failure::new("it looks like one without partitions"))?;
    ensure!(all.partitions.len() == 2, "its partitions are {:?}", all.partitions);
    let name = name(stage, own)?;
    let found = all.partitions.into_iter().find(|one| one.name == name);
    let partition = found.ok_or_else(|| Failure::new(format!("no partition is {name}")))?;
    Ok((partition, alone(stage, rows, own, predicate).await?))
}

pub(crate) async fn a_partition_leaves_as_a_table(stage: &Stage) -> Verdict {
    let mut rows = match ready(stage).await? {
        Ok(rows) => rows,
        Err(outcome) => return Ok(outcome),
    };
    ensure!(rows.partitions(&name(stage, "orders")?).await?.is_none(), "orders have partitions");
    let (late, older) = of(stage, rows.as_mut(), "late", "id < 150").await?;
    ensure!(rows.strays(&older).await? == 10, "rows that are not selected are not counted");
    ensure!(rows.why_not_whole(&older, &late).await?.is_some(), "new rows would go there");
    let (early, set) = of(stage, rows.as_mut(), "early", "id < 150").await?;
    let why = rows.why_not_whole(&set, &early).await?;
    ensure!(why.is_none() && rows.strays(&set).await? == 0, "what keeps it: {why:?}");
    let before = exported(rows.as_mut(), &set, 0, &KeyRange::default()).await?.0;
    for pendings in [0, 1, 2, 3, 5, 8, 13] {
        abandon(async { rows.detach(&early).await.map(drop) }, pendings).await.transpose()?;
        rows = stage.driver.rows().await?;
    }
    let table = rows.detach(&early).await?;
    let table = table.ok_or_else(|| Failure::new("it is gone"))?;
    let root = &set.root().table;
    ensure!(
        (&table.name, &table.identity, &table.columns)
            == (&root.name, &root.identity, &root.columns),
        "another table: {table:?}"
    );
    ensure!(rows.detach(&early).await? == Some(table), "it leaves a second time");
    settles(stage, "parted", 60).await?;
    let after = exported(rows.as_mut(), &set, 0, &KeyRange::default()).await?.0;
    ensure!(after == before && after.len() == 40, "{} rows are in it", after.len());
    Ok(Outcome::Proven)
}

pub(crate) async fn a_partition_is_dropped_or_put_back_in_one_step(stage: &Stage) -> Verdict {
    let mut rows = match ready(stage).await? {
        Ok(rows) => rows,
        Err(outcome) => return Ok(outcome),
    };
    let (early, mut set) = of(stage, rows.as_mut(), "early", "id < 90").await?;
    let table = rows.detach(&early).await?;
    set.members[0].table = table.ok_or_else(|| Failure::new("it is gone"))?;

    let mut pruning = rows.prune().await?;
    pruning.seize(&set).await?;
    let mut kept = Kept::default();
    let count = pruning.look(&set, &KeyRange::default(), &mut kept).await?;
    ensure!((count, kept.0.len()) == (40, 40), "{count} rows, selected or not");
    pruning.note(&entry(1)).await?;
    pruning.discard(&set).await?;
    drop(pruning);
    settles(stage, "early", 40).await?;
    ensure!(rows.ledger("set").await?.is_empty(), "the ledger tells of what never was");

    let mut pruning = rows.prune().await?;
    pruning.seize(&set).await?;
    pruning.attach(&set, &early).await?;
    pruning.commit().await?;
    settles(stage, "parted", 100).await?;

    let table = rows.detach(&early).await?;
    set.members[0].table = table.ok_or_else(|| Failure::new("it is gone"))?;
    let mut pruning = rows.prune().await?;
    pruning.seize(&set).await?;
    pruning.note(&entry(1)).await?;
    pruning.discard(&set).await?;
    pruning.commit().await?;
    ensure!(rows.ledger("set").await?.len() == 1, "the ledger does not tell of it");
    ensure!(rows.detach(&early).await?.is_none(), "it is still there");
    ensure!(number(stage, "SELECT count(*) FROM parted").await? == 60, "others are gone");
    Ok(Outcome::Proven)
}
