//! Reaching servers, and telling them apart.

use stillpoint_contract::ErrorKind;

use crate::{
    Scene,
    stage::{Failure, Outcome, Stage, Verdict, ensure, kind_of},
};

pub(crate) async fn an_engine_names_itself(stage: &Stage) -> Verdict {
    let engine = stage.server.engine();
    let plain = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    ensure!(plain(engine.name()), "{:?} is no name", engine.name());
    ensure!(!engine.schemes().is_empty(), "no scheme leads to it");
    ensure!(engine.schemes().iter().all(|s| plain(s)), "bad schemes {:?}", engine.schemes());
    let endpoint = stage.server.endpoint();
    ensure!(engine.schemes().contains(&endpoint.scheme.as_str()), "not its own scheme");
    let name = engine.default_name(&endpoint)?;
    ensure!(!name.is_empty() && name == engine.default_name(&endpoint)?, "bad name {name:?}");
    Ok(Outcome::Proven)
}

pub(crate) async fn connecting_changes_nothing(stage: &Stage) -> Verdict {
    stage.work(5).await?;
    let driver = stage.connect().await?;
    let probe = driver.probe().await?;
    ensure!(!probe.version.is_empty(), "it has no version");
    drop(driver);
    stage.settled().await?;
    ensure!(stage.server.bank().await? == stage.truth(), "the database changed");
    Ok(Outcome::Proven)
}

pub(crate) async fn the_driver_claims_what_the_server_allows(stage: &Stage) -> Verdict {
    let claimed = stage.driver.probe().await?.capabilities;
    let allowed = stage.fixture.capabilities();
    ensure!(claimed == allowed, "it claims {claimed:?}, the fixture {allowed:?}");
    Ok(Outcome::Proven)
}

/// How reaching an address ends: connecting may be lazy, probing is not.
async fn reach(
    stage: &Stage,
    endpoint: &stillpoint_contract::Endpoint,
) -> stillpoint_contract::Result<stillpoint_contract::Probe> {
    stage.server.engine().connect(endpoint).await?.probe().await
}

pub(crate) async fn nothing_there_is_missing(stage: &Stage) -> Verdict {
    let kind = kind_of(&reach(stage, &stage.server.nowhere()).await);
    let fits = matches!(kind, Some(ErrorKind::Missing | ErrorKind::Transient));
    ensure!(fits, "it ends as {kind:?}");
    Ok(Outcome::Proven)
}

pub(crate) async fn something_else_there_is_unsupported(stage: &Stage) -> Verdict {
    let foreign = stage.server.foreign().ok_or_else(|| Failure::new("offered, yet not there"))?;
    let kind = kind_of(&reach(stage, &foreign).await);
    ensure!(kind == Some(ErrorKind::Unsupported), "it ends as {kind:?}");
    Ok(Outcome::Proven)
}

pub(crate) async fn an_identity_is_unique_and_stable(stage: &Stage) -> Verdict {
    let before = stage.driver.probe().await?.identity;
    stage.work(10).await?;
    let after = stage.connect().await?.probe().await?.identity;
    ensure!(before == after, "it was {before:?} and is {after:?}");
    let other = stage.neighbour().await?.driver.probe().await?.identity;
    ensure!(!before.id.is_empty() && before.id != other.id, "two databases share {before:?}");
    Ok(Outcome::Proven)
}

pub(crate) async fn an_identity_survives_a_restart(stage: &Stage) -> Verdict {
    identity_through(stage, Scene::Restart, true).await
}

pub(crate) async fn an_identity_survives_a_crash(stage: &Stage) -> Verdict {
    identity_through(stage, Scene::Crash, true).await
}

pub(crate) async fn a_replaced_database_has_another_identity(stage: &Stage) -> Verdict {
    identity_through(stage, Scene::Replacement, false).await
}

async fn identity_through(stage: &Stage, scene: Scene, same: bool) -> Verdict {
    let before = stage.driver.probe().await?.identity.id;
    stage.server.play(scene).await?;
    let after = stage.connect().await?.probe().await?.identity.id;
    ensure!((before == after) == same, "it was {before} and is {after}");
    Ok(Outcome::Proven)
}
