//! Tables, and what speaks against moving their rows.

use stillpoint_contract::{
    ArchiveSet, ErrorKind, Finding, Link, Member, Referrer, Rows, UNTOLD_REFERENCE, Weight,
};

use super::moved::{alone, family, fill, name};
use crate::stage::{Failure, Outcome, Stage, Verdict, ensure, kind_of};

pub(crate) async fn what_has_no_rows_is_refused(stage: &Stage) -> Verdict {
    fill(stage).await?;
    stage.server.execute("CREATE VIEW seen AS SELECT * FROM orders").await?;
    let mut rows = stage.driver.rows().await?;
    let found = rows.table(&name(stage, "nosuch")?).await;
    ensure!(kind_of(&found) == Some(ErrorKind::Missing), "{found:?}");
    let found = rows.table(&name(stage, "seen")?).await;
    ensure!(kind_of(&found) == Some(ErrorKind::Unsupported), "{found:?}");
    let table = rows.table(&name(stage, "orders")?).await?;
    let generated: Vec<_> = table.columns.iter().filter(|c| c.is_generated).collect();
    ensure!(generated.len() == 1, "its generated columns are {generated:?}");
    ensure!(table.key == [0], "its key is {:?}", table.key);
    ensure!(rows.table(&table.name).await? == table, "its own name leads elsewhere");
    let referrers = rows.referrers(&table).await?;
    let links: Vec<_> = referrers
        .iter()
        .map(|r| (r.table.clone(), r.columns.join(","), r.parent_columns.join(",")))
        .collect();
    let expected = (name(stage, "items")?, "order_id".to_owned(), "id".to_owned());
    ensure!(links == [expected], "what refers to it is {referrers:?}");
    Ok(Outcome::Proven)
}

pub(crate) async fn a_changed_schema_has_another_fingerprint(stage: &Stage) -> Verdict {
    fill(stage).await?;
    let mut rows = stage.driver.rows().await?;
    let mut before = rows.table(&name(stage, "orders")?).await?;
    stage.server.execute("UPDATE orders SET note = 'x'").await?;
    ensure!(rows.table(&before.name).await? == before, "rows change the fingerprint");
    for change in [
        "ALTER TABLE orders ADD COLUMN extra int",
        "ALTER TABLE orders RENAME COLUMN extra TO other",
        "CREATE TABLE late (id int PRIMARY KEY, o int REFERENCES orders (id) ON DELETE CASCADE)",
    ] {
        stage.server.execute(change).await?;
        let after = rows.table(&before.name).await?;
        ensure!(after.fingerprint != before.fingerprint, "not seen: {change}");
        ensure!(after.identity == before.identity, "another table after: {change}");
        before = after;
    }
    Ok(Outcome::Proven)
}

async fn lacking(rows: &mut dyn Rows, set: &ArchiveSet) -> Result<Vec<Finding>, Failure> {
    let findings = rows.examine(set).await?;
    Ok(findings.into_iter().filter(|finding| finding.weight == Weight::Lacking).collect())
}

pub(crate) async fn what_speaks_against_a_set_is_told(stage: &Stage) -> Verdict {
    fill(stage).await?;
    let mut rows = stage.driver.rows().await?;
    let set = family(stage, rows.as_mut()).await?;
    let found = lacking(rows.as_mut(), &set).await?;
    ensure!(found.is_empty(), "it is told: {found:?}");

    let alone = ArchiveSet { members: set.members[..1].to_vec(), ..set.clone() };
    let found = lacking(rows.as_mut(), &alone).await?;
    let names_items = found.iter().any(|finding| finding.found.contains("items"));
    ensure!(names_items, "items refer to orders, and what is told is {found:?}");

    let drop_index = stage.fixture.row_tables().map_err(Failure::new)?.drop_index;
    stage.server.execute(drop_index).await?;
    let found = lacking(rows.as_mut(), &set).await?;
    let statement = found.iter().find_map(|finding| finding.statement.clone());
    let statement = statement.ok_or_else(|| Failure::new("a lost index is not told"))?;
    stage.server.execute(&statement).await?;
    let found = lacking(rows.as_mut(), &set).await?;
    ensure!(found.is_empty(), "after {statement} it is told: {found:?}");

    for table in ["keyless", "floating"] {
        let table = rows.table(&name(stage, table)?).await?;
        let member = Member { table, link: None };
        let set = ArchiveSet { members: vec![member], ..set.clone() };
        let found = lacking(rows.as_mut(), &set).await?;
        ensure!(found.iter().any(|finding| finding.subject == "key"), "its key: {found:?}");
    }
    Ok(Outcome::Proven)
}

pub(crate) async fn a_reference_that_files_do_not_tell_is_known(stage: &Stage) -> Verdict {
    fill(stage).await?;
    let mut rows = stage.driver.rows().await?;
    let mut set = alone(stage, rows.as_mut(), "unlike", "code IS NOT NULL").await?;
    let mut referrers = rows.referrers(&set.root().table).await?;
    let referrer = referrers.pop().filter(|_| referrers.is_empty());
    let referrer = referrer.ok_or_else(|| Failure::new("there is one that refers to it"))?;
    let Referrer { table, columns, parent_columns, likeness, .. } = referrer;
    ensure!(table == name(stage, "unlike_parts")?, "what refers to it is {table}");
    let table = rows.table(&table).await?;
    let is_untold = likeness.iter().any(|one| one.is_untold);
    let link = Some(Link { parent: 0, columns, parent_columns, likeness });
    set.members.push(Member { table, link });
    let found = rows.examine(&set).await?;
    // Whoever tells by files is to know it; what the engine means itself is not to be in doubt.
    let is_told = |finding: &&Finding| {
        if finding.weight == Weight::Lacking {
            finding.subject == "reference"
        } else {
            is_untold && finding.subject == UNTOLD_REFERENCE
        }
    };
    let told = found.iter().find(is_told);
    let told = told.ok_or_else(|| Failure::new("a reference is not told that no file tells"))?;
    ensure!(told.found.contains("code"), "its columns are not named: {told:?}");
    Ok(Outcome::Proven)
}
