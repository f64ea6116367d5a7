//! Where recovery stops.

use chrono::{DateTime, Utc};
use stillpoint_contract::{ErrorKind, LogPosition, Reached, RecoveryTarget};

use crate::{
    Bank,
    memory::MemoryLog,
    stage::{Copy, Failure, Outcome, Stage, Verdict, ensure, kind_of},
    watch::WatchedLog,
};

/// A backup, its log, and the truth after each of its transactions.
struct Story {
    copy: Copy,
    anchor: LogPosition,
    log: MemoryLog,
    /// The position of each commit, an instant soon after it, and the state it left.
    moments: Vec<(LogPosition, DateTime<Utc>, Bank)>,
}

impl Story {
    async fn tell(stage: &Stage, transactions: u32) -> Result<Self, Failure> {
        stage.work(5).await?;
        let copy = stage.back_up().await?;
        let mark = copy.mark()?;
        let log = MemoryLog::new();
        let mut opened = stage.capture(&log, Some(&mark)).await?;
        let mut moments = Vec::new();
        for _ in 0..transactions {
            stage.tick().await;
            stage.work(1).await?;
            log.drain(opened.capture.as_mut()).await?;
            let last = log.commits(&mark.position).pop();
            let (position, _) = last.ok_or_else(|| Failure::new("a commit is no event"))?;
            moments.push((position, stage.server.clock().now(), stage.truth()));
        }
        Ok(Self { copy, anchor: mark.position, log, moments })
    }

    async fn restore(
        &self,
        stage: &Stage,
        until: RecoveryTarget,
    ) -> Result<(Bank, Reached), Failure> {
        stage.restore(&self.copy, &mut self.log.from(&self.anchor), until).await
    }

    /// How recovery to `until` ends; either planning or recovering may refuse.
    async fn kind(
        &self,
        stage: &Stage,
        until: RecoveryTarget,
    ) -> Result<Option<ErrorKind>, Failure> {
        let (target, staging) = stage.site()?;
        let place = (target.as_path(), staging.as_path());
        let never = stillpoint_contract::Overwrite::Never;
        let plan = match stage.plan_at(&self.copy, &until, place, never).await {
            Ok(plan) => plan,
            Err(error) => return Ok(Some(error.kind())),
        };
        let mut log = self.log.from(&self.anchor);
        Ok(kind_of(&stage.recover(&plan, &self.copy, &mut log).await))
    }
}

pub(crate) async fn every_commit_can_be_restored(stage: &Stage) -> Verdict {
    let story = Story::tell(stage, 12).await?;
    for (count, (position, _, truth)) in (1_u64..).zip(&story.moments) {
        let until = RecoveryTarget::Position(position.clone());
        let (bank, reached) = story.restore(stage, until).await?;
        ensure!(bank == *truth, "{position} yields {:?}", bank.progress);
        ensure!(reached.position.as_ref() == Some(position), "it claims {reached:?}");
        ensure!(reached.transactions == count, "{count} transactions are {reached:?}");
        ensure!(reached.committed_at.is_some(), "it does not say when that was");
    }
    Ok(Outcome::Proven)
}

pub(crate) async fn every_moment_can_be_restored(stage: &Stage) -> Verdict {
    let story = Story::tell(stage, 8).await?;
    for (position, instant, truth) in &story.moments {
        let (bank, reached) = story.restore(stage, RecoveryTarget::Time(*instant)).await?;
        ensure!(bank == *truth, "{instant} yields {:?}", bank.progress);
        ensure!(reached.position.as_ref() == Some(position), "it claims {reached:?}");
        let in_time = reached.committed_at.is_some_and(|at| at <= *instant);
        ensure!(in_time, "it claims {reached:?} for {instant}");
    }
    // The very instant of a commit includes it, and a microsecond before does not.
    let commits = story.log.commits(&story.anchor);
    let (_, event) = &commits[3];
    let (bank, _) = story.restore(stage, RecoveryTarget::Time(event.at)).await?;
    ensure!(bank == story.moments[3].2, "its own instant excludes a commit");
    let before = event.at - chrono::TimeDelta::microseconds(1);
    let (bank, _) = story.restore(stage, RecoveryTarget::Time(before)).await?;
    ensure!(bank == story.moments[2].2, "the instant before includes a commit");
    Ok(Outcome::Proven)
}

pub(crate) async fn the_latest_state_can_be_restored(stage: &Stage) -> Verdict {
    let story = Story::tell(stage, 6).await?;
    let (bank, reached) = story.restore(stage, RecoveryTarget::Latest).await?;
    ensure!(bank == stage.truth(), "it yields {:?}", bank.progress);
    ensure!(reached.transactions == 6, "six transactions are {reached:?}");
    Ok(Outcome::Proven)
}

pub(crate) async fn a_copy_alone_can_be_restored(stage: &Stage) -> Verdict {
    let story = Story::tell(stage, 4).await?;
    let (bank, reached) = story.restore(stage, RecoveryTarget::Consistent).await?;
    ensure!(bank.transfers() == 5, "it yields {:?}", bank.progress);
    ensure!(reached.transactions == 0, "it replayed {reached:?}");
    ensure!(reached.position.as_ref() == Some(&story.anchor), "it claims {reached:?}");
    Ok(Outcome::Proven)
}

pub(crate) async fn a_position_inside_a_transaction_is_refused(stage: &Stage) -> Verdict {
    let story = Story::tell(stage, 6).await?;
    let ends: Vec<_> = story.moments.iter().map(|(position, ..)| position).collect();
    let inside = ends
        .windows(2)
        .find(|pair| pair[0].lineage == pair[1].lineage && pair[0].offset + 1 < pair[1].offset);
    let Some(pair) = inside else {
        let why = "no position lies between two of its commits";
        return Ok(Outcome::NotApplicable(why.to_owned()));
    };
    let until = RecoveryTarget::Position(pair[1].at(pair[1].offset - 1));
    let kind = story.kind(stage, until).await?;
    let refused =
        matches!(kind, Some(ErrorKind::Refused | ErrorKind::Invalid | ErrorKind::Missing));
    ensure!(refused, "it ends as {kind:?}");
    Ok(Outcome::Proven)
}

pub(crate) async fn a_position_before_the_copy_is_refused(stage: &Stage) -> Verdict {
    let early = Story::tell(stage, 3).await?;
    let late = Story { copy: stage.back_up().await?, ..early };
    let anchor = late.copy.mark()?.position;
    let late = Story { anchor, ..late };
    let until = RecoveryTarget::Position(late.moments[0].0.clone());
    let kind = late.kind(stage, until).await?;
    let refused = matches!(
        kind,
        Some(ErrorKind::Refused | ErrorKind::Invalid | ErrorKind::Missing | ErrorKind::Gap)
    );
    ensure!(refused, "it ends as {kind:?}");
    Ok(Outcome::Proven)
}

pub(crate) async fn a_position_past_the_log_is_a_gap(stage: &Stage) -> Verdict {
    let story = Story::tell(stage, 3).await?;
    let (last, ..) = &story.moments[2];
    for past in [1, 1_000_000] {
        let until = RecoveryTarget::Position(last.at(last.offset + past));
        let kind = story.kind(stage, until).await?;
        ensure!(kind == Some(ErrorKind::Gap), "{past} past the end, it ends as {kind:?}");
    }
    Ok(Outcome::Proven)
}

pub(crate) async fn only_the_log_that_is_needed_is_read(stage: &Stage) -> Verdict {
    let story = Story::tell(stage, 10).await?;
    let (wanted, ..) = &story.moments[2];
    let until = RecoveryTarget::Position(wanted.clone());
    let plan = stage.plan(&story.copy, &until).await?;
    let mut log = WatchedLog::new(story.log.from(&story.anchor));
    stage.recover(&plan, &story.copy, &mut log).await?;
    let needless = log.read.iter().find(|head| head.range.start() >= wanted);
    ensure!(needless.is_none(), "it read {needless:?} to reach {wanted}");
    Ok(Outcome::Proven)
}

pub(crate) async fn corrupt_log_is_not_replayed(stage: &Stage) -> Verdict {
    let story = Story::tell(stage, 4).await?;
    let plan = stage.plan(&story.copy, &RecoveryTarget::Latest).await?;
    let mut log = WatchedLog::corrupt(story.log.from(&story.anchor));
    let kind = kind_of(&stage.recover(&plan, &story.copy, &mut log).await);
    ensure!(kind == Some(ErrorKind::Corrupt), "it ends as {kind:?}");
    ensure!(!plan.target.exists(), "it was published");
    Ok(Outcome::Proven)
}
