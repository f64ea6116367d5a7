//! An endpoint is given up once everything on it can be restored.

use std::time::Duration;

use chrono::{DateTime, Utc};
use stillpoint_contract::{LogPosition, Result};

use super::{
    fleet::{Member, Place},
    standing::unjoined,
};
use crate::{
    coordinator::state::{Filter, Outcome, Phase, State, Task},
    policy::{Drain, Kind, Logs},
    repository::{Coverage, Repository, Timeline},
};

/// How often a capture has to find nothing more, of which the first time may have been before
/// somebody asked.
const DRY_LOOKS: u32 = 2;

/// It is waited for.
const RANK: u64 = 1_000_000;

/// How far a server is on its way.
#[derive(Debug, Default)]
pub struct Draining {
    /// Whether it is known how far its log went when somebody asked, and how far that was.
    is_asked: bool,
    asked: Option<LogPosition>,
    /// When a capture last found nothing more, and how often since somebody asked.
    dry: Option<(DateTime<Utc>, u32)>,
}

impl Draining {
    /// Looks whether everything can be restored that was committed when somebody asked; then says
    /// up to where.
    ///
    /// # Errors
    ///
    /// What keeps the server from being asked, or the repository from being read.
    pub async fn look(
        &mut self,
        (repository, state): (&Repository, &State),
        (member, place): (&Member, &Place),
        (is_chosen, drain): (bool, &Drain),
        who: &str,
    ) -> Result<Option<String>> {
        if !self.is_asked {
            let driver = place.engine.connect(&place.endpoint).await?;
            self.asked = driver.position().await?;
            self.is_asked = true;
        }
        let timeline = repository.timeline(&member.name).await?;
        if let Some(asked) = &self.asked
            && has_stored(&timeline, asked)
        {
            return Ok(Some(format!("its log is stored up to {}", place.engine.render(asked))));
        }
        if !is_chosen {
            return Ok(None);
        }
        if member.policy.logs == Logs::Never {
            return backed_up(state, member, place, (drain, who)).await;
        }
        Ok(self.has_run_dry(&timeline).then(|| "its log is stored up to its end".to_owned()))
    }

    /// A capture looks again only after it has noted what it found before: what it finds the
    /// second time, it looked for after somebody asked. No clocks are compared.
    fn has_run_dry(&mut self, timeline: &Timeline) -> bool {
        // What a capture that began anew will find joins nothing before the next backup.
        let is_joined = unjoined(timeline).is_none()
            && timeline.coverage.last().is_some_and(|last| !last.backups.is_empty());
        let Some(beat) = timeline.beat.as_ref().filter(|beat| is_joined && !beat.is_last) else {
            return false;
        };
        let (at, looks) = self.dry.get_or_insert((beat.at, 0));
        if *at != beat.at {
            (*at, *looks) = (beat.at, *looks + 1);
        }
        DRY_LOOKS <= *looks
    }
}

/// Whether log up to a position can be restored.
fn has_stored(timeline: &Timeline, asked: &LogPosition) -> bool {
    let reaches =
        |coverage: &Coverage| !coverage.backups.is_empty() && *asked <= coverage.end.position;
    timeline.coverage.iter().any(reaches)
}

/// Without log, a backup that begins after somebody asked is the last word.
async fn backed_up(
    state: &State,
    member: &Member,
    place: &Place,
    (drain, who): (&Drain, &str),
) -> Result<Option<String>> {
    let task = Task {
        database: member.name.clone(),
        kind: Kind::Incremental.name().to_owned(),
        due: drain.since,
        why: "drain".to_owned(),
        repository: member.repository.clone(),
        host: place.host.clone(),
        rank: RANK,
        rpo: Duration::ZERO,
        agent: member.agent.clone().unwrap_or_default(),
        site: String::new(),
    };
    let filter = Filter {
        database: Some(member.name.clone()),
        kind: Some(task.kind.clone()),
        ..Filter::default()
    };
    let jobs = state.jobs(&filter).await?;
    let is_good = |phase: &Phase| matches!(phase, Phase::Ended { outcome: Outcome::Succeeded, .. });
    let mut own = jobs.iter().filter(|job| job.task.due == drain.since).peekable();
    if own.peek().is_none() {
        // What fails is tried again as any backup is.
        state.enqueue(&task, who).await?;
    }
    let is_done = own.any(|job| is_good(&job.phase));
    Ok(is_done.then(|| "a backup of it was made".to_owned()))
}
