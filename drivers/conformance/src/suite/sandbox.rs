//! Throw-away servers on restored copies.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use stillpoint_contract::{
    Clock as _, ErrorKind, RecoveryTarget, Result, Sandbox, SandboxRequest, Verdict as Found,
};

use crate::{
    harness::Claim,
    memory::RealClock,
    stage::{Absent, Copy, Failure, Outcome, Stage, Verdict, ensure, kind_of},
};

const TOKEN: &str = "0123456789ab";

/// How long what was dropped may take to be gone.
const ENDING_MAX: Duration = Duration::from_secs(5);

/// A restored copy with a directory beside it.
struct Place {
    around: PathBuf,
    database: PathBuf,
    directory: PathBuf,
}

impl Place {
    async fn make(stage: &Stage, copy: &Copy) -> Result<Self, Failure> {
        let plan = stage.plan(copy, &RecoveryTarget::Consistent).await?;
        stage.recover(&plan, copy, &mut Absent).await?;
        let directory = plan.staging.join("run");
        fs::create_dir(&directory).map_err(|error| Failure::new(error.to_string()))?;
        Ok(Self { around: plan.staging, database: plan.database, directory })
    }

    async fn open(&self, stage: &Stage) -> Result<Box<dyn Sandbox>> {
        let (database, directory) = (&self.database, &self.directory);
        stage.server.engine().sandbox(SandboxRequest { database, directory, token: TOKEN }).await
    }

    /// What is at work there: processes, and files that this one has open.
    fn users(&self) -> Vec<PathBuf> {
        let processes = entries("/proc".as_ref()).map(|process| process.join("cwd"));
        let files = entries("/proc/self/fd".as_ref());
        let at_work =
            |link: &PathBuf| fs::read_link(link).is_ok_and(|place| place.starts_with(&self.around));
        processes.chain(files).filter(at_work).collect()
    }

    /// Removes all of it, of which nobody makes use any more.
    async fn remove(self) -> Result<(), Failure> {
        let clock = RealClock::new();
        while !self.users().is_empty() && clock.elapsed() < ENDING_MAX {
            clock.sleep(Duration::from_millis(5)).await;
        }
        ensure!(self.users().is_empty(), "still at work: {:?}", self.users());
        fs::remove_dir_all(&self.around).map_err(|error| Failure::new(error.to_string()))
    }
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// What the fixture's statement answers for the state of a copy.
fn balances(stage: &Stage) -> String {
    let balances = stage.truth().balances;
    balances.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn statement(stage: &Stage) -> Result<&'static str, Failure> {
    stage.fixture.balances_statement().map_err(Failure::new)
}

pub(crate) async fn a_sandbox_answers_from_the_copy_and_reaches_nothing(stage: &Stage) -> Verdict {
    stage.work(3).await?;
    let copy = stage.back_up().await?;
    let copied = balances(stage);
    stage.work(4).await?;
    let place = Place::make(stage, &copy).await?;
    let sandbox = place.open(stage).await?;
    ensure!(!sandbox.description().is_empty(), "it does not say what keeps it to itself");
    sandbox.greet().await?;
    for statement in stage.server.escapes() {
        let answered = sandbox.query(None, &statement).await;
        ensure!(answered.is_err(), "{statement} answers {answered:?}");
    }
    let answer = sandbox.query(None, statement(stage)?).await?;
    ensure!(answer == copied, "it answers {answer:?}, and the copy holds {copied:?}");
    let failed = sandbox.check().await?.into_iter().find(|found| found.verdict == Found::Failed);
    ensure!(failed.is_none(), "it finds damage: {failed:?}");
    ensure!(!sandbox.tally().await?.is_empty(), "it counts no table");
    sandbox.stop().await?;
    ensure!(place.users().is_empty(), "stopped, it is at work: {:?}", place.users());
    place.remove().await?;
    ensure!(stage.server.bank().await? == stage.truth(), "the live database changed");
    stage.settled().await?;
    stage.exercise(Claim::Sandbox);
    Ok(Outcome::Proven)
}

pub(crate) async fn a_dropped_sandbox_ends(stage: &Stage) -> Verdict {
    let copy = stage.back_up().await?;
    let place = Place::make(stage, &copy).await?;
    let sandbox = place.open(stage).await?;
    sandbox.query(None, statement(stage)?).await?;
    drop(sandbox);
    place.remove().await?;
    Ok(Outcome::Proven)
}

pub(crate) async fn no_sandbox_is_unsupported(stage: &Stage) -> Verdict {
    let copy = stage.back_up().await?;
    let kind = kind_of(&Place::make(stage, &copy).await?.open(stage).await);
    ensure!(kind == Some(ErrorKind::Unsupported), "it ends as {kind:?}");
    Ok(Outcome::Proven)
}
