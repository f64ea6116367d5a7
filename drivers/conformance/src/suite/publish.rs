//! Planning, checking and putting a restored database in its place.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use stillpoint_contract::{ErrorKind, Overwrite, RecoveryTarget};

use crate::{
    Bank,
    stage::{Absent, Copy, Failure, Outcome, Stage, Verdict, abandon, ensure, kind_of},
};

const UNTIL: RecoveryTarget = RecoveryTarget::Consistent;

/// Every file below `path` with its bytes.
fn files(path: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>, Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("{}: {error}", path.display()));
    if path.is_file() {
        return Ok([(path.to_owned(), fs::read(path).map_err(failed)?)].into());
    }
    let mut found = BTreeMap::new();
    if path.is_dir() {
        for entry in fs::read_dir(path).map_err(failed)? {
            found.extend(files(&entry.map_err(failed)?.path())?);
        }
    }
    Ok(found)
}

pub(crate) async fn planning_changes_nothing(stage: &Stage) -> Verdict {
    let copy = stage.back_up().await?;
    let (target, staging) = stage.site()?;
    let place = (target.as_path(), staging.as_path());
    let plan = stage.plan_at(&copy, &UNTIL, place, Overwrite::Never).await?;
    let again = stage.plan_at(&copy, &UNTIL, place, Overwrite::Never).await?;
    ensure!(plan == again, "{plan:?} and {again:?}");
    ensure!(plan.target == target && plan.staging == staging, "it plans for elsewhere: {plan:?}");
    let places = plan.placements.iter().map(|rule| &rule.path);
    let outside =
        places.chain(plan.files.iter().map(|f| &f.path)).find(|p| !p.starts_with(&staging));
    ensure!(outside.is_none(), "{outside:?} is not below the staging directory");
    ensure!(!target.exists() && files(&staging)?.is_empty(), "planning wrote something");
    ensure!(!plan.proof.is_empty(), "it does not say what will prove the point");
    Ok(Outcome::Proven)
}

pub(crate) async fn an_existing_target_is_refused(stage: &Stage) -> Verdict {
    let (copy, target) = with_target(stage).await?;
    let before = files(&target)?;
    let (_, staging) = stage.site()?;
    let place = (target.as_path(), staging.as_path());
    let kind = kind_of(&stage.plan_at(&copy, &UNTIL, place, Overwrite::Never).await);
    ensure!(kind == Some(ErrorKind::Refused), "it ends as {kind:?}");
    ensure!(files(&target)? == before, "the target changed");
    Ok(Outcome::Proven)
}

/// A restored database at a target, and a later copy to put in its place.
async fn with_target(stage: &Stage) -> Result<(Copy, PathBuf), Failure> {
    stage.work(3).await?;
    let first = stage.back_up().await?;
    let plan = stage.plan(&first, &UNTIL).await?;
    stage.recover(&plan, &first, &mut Absent).await?;
    stage.server.engine().publish(&plan).await?;
    stage.work(3).await?;
    Ok((stage.back_up().await?, plan.target))
}

/// Prepares the replacement of `target` by `copy`, up to the last step.
async fn prepare(
    stage: &Stage,
    copy: &Copy,
    target: &Path,
) -> Result<stillpoint_contract::RestorePlan, Failure> {
    let (_, staging) = stage.site()?;
    let plan = stage.plan_at(copy, &UNTIL, (target, &staging), Overwrite::Replace).await?;
    stage.recover(&plan, copy, &mut Absent).await?;
    stage.server.engine().check(&plan).await?;
    Ok(plan)
}

pub(crate) async fn an_existing_target_is_replaced(stage: &Stage) -> Verdict {
    let (copy, target) = with_target(stage).await?;
    let plan = prepare(stage, &copy, &target).await?;
    ensure!(stage.server.bank_at(&target).await?.transfers() == 3, "it changed too early");
    stage.server.engine().publish(&plan).await?;
    let bank: Bank = stage.server.bank_at(&target).await?;
    ensure!(bank == stage.truth(), "it holds {:?}", bank.progress);
    Ok(Outcome::Proven)
}

pub(crate) async fn publishing_is_one_step(stage: &Stage) -> Verdict {
    for pendings in 0..6 {
        let (copy, target) = with_target(stage).await?;
        let old = stage.server.bank_at(&target).await?;
        let plan = prepare(stage, &copy, &target).await?;
        let engine = stage.server.engine();
        let finished = abandon(engine.publish(&plan), pendings).await;
        // What a thread of the driver began may go on for a moment after the future was dropped.
        stage.settled().await?;
        let bank = stage.server.bank_at(&target).await?;
        ensure!(bank == old || bank == stage.truth(), "cut after {pendings}: {:?}", bank.progress);
        if let Some(published) = finished {
            published?;
            ensure!(bank == stage.truth(), "it was published and is not there");
        }
    }
    Ok(Outcome::Proven)
}

pub(crate) async fn damage_is_found(stage: &Stage) -> Verdict {
    stage.work(3).await?;
    let copy = stage.back_up().await?;
    let plan = stage.plan(&copy, &UNTIL).await?;
    stage.recover(&plan, &copy, &mut Absent).await?;
    stage.server.damage(&plan)?;
    let kind = kind_of(&stage.server.engine().check(&plan).await);
    ensure!(kind == Some(ErrorKind::Corrupt), "it ends as {kind:?}");
    Ok(Outcome::Proven)
}
