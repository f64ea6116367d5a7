//! Predicates, and the cutoff in them.

use stillpoint_contract::{Cutoff, CutoffForm, ErrorKind, KeyRange};

use super::moved::{alone, exported, fill, name};
use crate::stage::{Failure, Outcome, Stage, Verdict, ensure, kind_of};

pub(crate) async fn predicates_that_are_none_are_refused(stage: &Stage) -> Verdict {
    fill(stage).await?;
    let mut rows = stage.driver.rows().await?;
    let table = rows.table(&name(stage, "orders")?).await?;
    for broken in [
        "1 = 1) OR (1 = 1",
        "id = 1; DELETE FROM orders",
        "id = 1 -- x",
        "id = 1 /* x",
        "",
        " ",
        "note = 'x",
        "id IN (SELECT order_id FROM items)",
        "nosuch = 1",
        "id = $1",
        "(id = 1",
        "placed < CURRENT_TIMESTAMP",
        "placed < :cutoff",
        "id = 1 LIMIT 1",
        "count(*) > 1",
        "random() < 0.5",
        "id = 1 ORDER BY id",
        "placed < :nosuch",
    ] {
        let bound = rows.bind(&table, broken, None).await;
        ensure!(kind_of(&bound) == Some(ErrorKind::Invalid), "{broken:?}: {bound:?}");
    }
    for fine in ["id > 3", "(id > 3) AND (note = 'it''s; -- fine' OR note IS NULL)"] {
        rows.bind(&table, fine, None).await?;
    }
    ensure!(rows.table(&name(stage, "orders")?).await? == table, "it left something there");
    Ok(Outcome::Proven)
}

pub(crate) async fn a_cutoff_is_bound_as_what_it_is(stage: &Stage) -> Verdict {
    fill(stage).await?;
    let at = "2020-01-01T00:00:00.250Z".parse().map_err(|_| Failure::new("no time"))?;
    let local = "2020-01-01T00:00:00.250".parse().ok();
    let cutoff = Cutoff { at, local, form: Some(CutoffForm::Datetime) };
    let predicate = "placed < :cutoff AND status = ':cutoff' OR placed < :cutoff";
    let bind = async |settings: &str| {
        if !settings.is_empty() {
            stage.server.execute(settings).await?;
        }
        let mut rows = stage.connect().await?.rows().await?;
        let table = rows.table(&name(stage, "orders")?).await?;
        Ok::<_, Failure>(rows.bind(&table, predicate, Some(&cutoff)).await?)
    };
    let bound = bind("").await?;
    ensure!(bound.contains("':cutoff'") && bound.matches("2020-01-01").count() == 2, "{bound}");
    let tables = stage.fixture.row_tables().map_err(Failure::new)?;
    let other = bind(tables.other_settings).await?;
    ensure!(bound == other, "{bound} has become {other}");
    let mut rows = stage.driver.rows().await?;
    let mut set = alone(stage, rows.as_mut(), "orders", "id > 0").await?;
    set.predicate = bound;
    let old = exported(rows.as_mut(), &set, 0, &KeyRange::default()).await?.0.len();
    ensure!(old == 40, "{old} orders are older");
    let unknown = Cutoff { local: None, form: None, ..cutoff };
    let table = rows.table(&name(stage, "zoneless")?).await?;
    let refused = rows.bind(&table, "at < :cutoff", Some(&unknown)).await;
    ensure!(kind_of(&refused) == Some(ErrorKind::Invalid), "no zone: {refused:?}");
    rows.bind(&table, "at < :cutoff", Some(&cutoff)).await?;
    Ok(Outcome::Proven)
}
