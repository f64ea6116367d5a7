//! One endpoint takes over from another: jobs move on to it, and nothing is begun where there is
//! none.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use stillpoint_contract::{Error, ErrorKind, quoted};
use tokio::sync::watch;

use super::{
    fleet::{Fleet, Member},
    hands::Ending,
    run::Coordinator,
    standing::Standing,
    work::told,
};
use crate::{
    coordinator::{Successor, state::Claim},
    policy::{
        Alert, Attempt, Interval, Kind, Lifecycle, Need, Outcome, Protection, Reach, Registered,
        State, Unprotected, alerts,
    },
};

/// Whether an endpoint is gone is known so long after a server is, where others say so at once.
const WORD_MAX: Duration = Duration::from_secs(10);

/// How a question begins that a person has to answer.
const QUESTION: &str = "nothing is backed up:";

impl Member {
    /// Whether its endpoints come and go, and there is none.
    pub fn is_absent(&self) -> bool {
        self.state == State::Active && self.endpoints.is_discovered && self.place.is_none()
    }

    /// Whether its endpoint said that it is another server than the one that was backed up.
    fn is_another(&self, incarnation: Option<&String>) -> Option<&Registered> {
        let chosen = self.endpoints.chosen.as_ref()?;
        let is_another = match (&chosen.identity, incarnation) {
            (Some(found), Some(backed_up)) => found != backed_up,
            _ => false,
        };
        is_another.then_some(chosen)
    }

    /// That a full backup is needed at once, since another incarnation has begun.
    pub(super) fn need(&self, standing: &Standing) -> Option<Need> {
        let incarnation = standing.incarnation.as_ref();
        let adopted = self.endpoints.adopted.as_ref();
        let adopted = adopted.filter(|adopted| incarnation == Some(&adopted.incarnation));
        let asked = adopted.map(|adopted| adopted.at).filter(|at| standing.newest_full < Some(*at));
        let Some(chosen) = self.is_another(incarnation) else {
            return asked.map(Need::First);
        };
        let may_follow = match self.endpoints.successor() {
            Successor::Anybody => true,
            Successor::After(adopted) => incarnation.is_some_and(|owner| owner == adopted),
            Successor::InPlace | Successor::Nobody => false,
        };
        may_follow.then_some(Need::First(chosen.since))
    }

    /// What a person has to say before another server is backed up under its name.
    fn question(&self, standing: &Standing) -> Option<String> {
        let chosen = self.is_another(standing.incarnation.as_ref())?;
        let is_answered = self.need(standing).is_some();
        (!is_answered).then(|| {
            format!(
                "{QUESTION} endpoint {} is another server than the one that was backed up; if \
                 that is right: stillpoint db adopt {} --new-incarnation",
                chosen.id,
                quoted(&self.name)
            )
        })
    }

    /// What can be restored, without the time in which one server took over from another: where
    /// they come and go, that may last as long as the RPO allows.
    pub fn continuous(&self, standing: &Standing) -> Vec<Interval> {
        let mut coverage = standing.coverage.clone();
        if self.endpoints.lifecycle != Some(Lifecycle::Ephemeral) {
            return coverage;
        }
        let allowed = TimeDelta::from_std(self.policy.rpo).unwrap_or(TimeDelta::MAX);
        for to in &standing.successions {
            let before = standing.coverage.iter().map(|interval| interval.to);
            let from = before.filter(|before| before < to).max();
            if let Some(from) = from.filter(|from| *to - *from <= allowed) {
                coverage.push(Interval { from, to: *to });
            }
        }
        coverage
    }

    /// Whether there is a backup that its log can join.
    pub(super) fn may_join(&self, standing: &Standing) -> bool {
        standing.backups > 0 && self.is_another(standing.incarnation.as_ref()).is_none()
    }

    /// What failed before its endpoint was there, or was adopted, says nothing about this one.
    pub(super) fn excuse(&self, attempts: &mut [Attempt]) {
        let since = self.endpoints.chosen.as_ref().map(|chosen| chosen.since);
        let since = since.max(self.endpoints.adopted.as_ref().map(|adopted| adopted.at));
        for attempt in attempts.iter_mut().filter(|attempt| attempt.kind != Kind::Drill) {
            if let Some((at, outcome)) = &mut attempt.ended
                && *outcome == Outcome::Failed
                && Some(*at) < since
            {
                *outcome = Outcome::Superseded;
            }
        }
    }

    /// Why a job on this endpoint is better done elsewhere, by what is known now. A server that
    /// only lost its role to an equal one goes on with what it has begun.
    fn displaced_by(&self, now: &Self, has_failed: bool) -> Option<String> {
        let own = self.endpoints.chosen.as_ref()?;
        let next = now.endpoints.chosen.as_ref();
        let is_there = now.endpoints.present.contains(&own.id);
        match next {
            Some(next) if next.id == own.id && next.since == own.since => None,
            Some(next) if has_failed || !is_there || next.identity != own.identity => {
                Some(format!("endpoint {} took over from {}", next.id, own.id))
            }
            None if !is_there => Some(format!("endpoint {} is gone", own.id)),
            _ => None,
        }
    }
}

impl Fleet {
    /// What somebody has to know of endpoints that belong to no database.
    pub(super) fn unprotected(&self) -> Vec<Alert> {
        let told = |one: &Unprotected| {
            let reach = Reach { state: State::Active, since: one.since, coverage: &[] };
            let protection = Protection {
                database: &one.name,
                reach,
                pause: None,
                drill_passed: None,
                drill_took: None,
                drill_failed: None,
                drill_trouble: None,
                copies: &[],
                corrupt_since: None,
                damaged_since: None,
                anomaly: None,
                archives: &[],
                cause: Some(&one.why),
            };
            alerts(&protection, None, one.since)
        };
        self.unprotected.iter().flat_map(told).collect()
    }

    /// Is done once a database, or its repository, is another than here.
    pub(super) async fn is_left_for_another(
        &self,
        fleets: &mut watch::Receiver<Arc<Self>>,
        name: &str,
    ) {
        // Whoever sent it is gone: nothing will change any more.
        while fleets.changed().await.is_ok() {
            if !self.has_same(&fleets.borrow_and_update(), name) {
                return;
            }
        }
    }

    /// Is done once a job is better done elsewhere; says why.
    pub(super) async fn is_displaced(
        &self,
        fleets: &watch::Receiver<Arc<Self>>,
        claim: &Claim,
    ) -> String {
        self.displaced(fleets, claim, false).await
    }

    async fn displaced(
        &self,
        fleets: &watch::Receiver<Arc<Self>>,
        claim: &Claim,
        has_failed: bool,
    ) -> String {
        let member = self.members.get(&claim.task.database);
        let reads = [Kind::Full, Kind::Incremental].map(Kind::name);
        let member = member.filter(|_| reads.contains(&&*claim.task.kind));
        if let Some(member) = member.filter(|member| member.endpoints.chosen.is_some()) {
            let mut fleets = fleets.clone();
            loop {
                {
                    let now = fleets.borrow_and_update();
                    let now = now.members.get(&member.name);
                    if let Some(why) = now.and_then(|now| member.displaced_by(now, has_failed)) {
                        return why;
                    }
                }
                if fleets.changed().await.is_err() {
                    break;
                }
            }
        }
        std::future::pending().await
    }
}

impl Coordinator {
    /// Asks about a server that is another one, where that is not to be taken for granted.
    pub(super) fn ask_about(&self, member: &Member, standing: &Standing) {
        let question = member.question(standing);
        let known = self.shared.trouble_of(&member.name);
        if question.is_some() || known.is_some_and(|known| known.starts_with(QUESTION)) {
            self.shared.trouble(&member.name, question);
        }
    }

    /// How a job ended that broke off. Whether its server went away with its endpoint is waited
    /// for.
    pub(super) async fn broken_off(
        &self,
        fleets: &watch::Receiver<Arc<Fleet>>,
        fleet: &Fleet,
        claim: &Claim,
        error: &Error,
    ) -> Ending {
        let failed = || Ending::failed(told(error));
        let is_of_server = matches!(
            error.kind(),
            ErrorKind::Transient
                | ErrorKind::TimedOut
                | ErrorKind::Departed
                | ErrorKind::Missing
                | ErrorKind::Denied
        );
        let member = fleet.members.get(&claim.task.database);
        if !is_of_server || member.is_none_or(|member| member.endpoints.chosen.is_none()) {
            return failed();
        }
        tokio::select! {
            biased;
            why = fleet.displaced(fleets, claim, true) => {
                Ending::superseded(format!("{why}: {}", told(error)))
            }
            () = self.world.clock.sleep(WORD_MAX) => failed(),
        }
    }
}
