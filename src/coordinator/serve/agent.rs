//! An agent: it does what is queued for it, captures the log of its databases, and says where they
//! stand. At a site, it does what is bound to that. It decides nothing else, and nobody connects to
//! it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use stillpoint_contract::{Error, Result};
use tokio::sync::watch;

use super::{
    fleet::{Fleet, Member},
    run::{Coordinator, is_true, spaced},
    standing::Standing,
};
use crate::{
    coordinator::state::{Outcome, State},
    policy::Kind,
};

/// How often an agent looks where its databases stand.
const REPORT_PERIOD: Duration = Duration::from_secs(15);

/// An agent of which nothing was heard for so long is missed.
pub(super) const MISSED_AFTER: TimeDelta = TimeDelta::seconds(30);

/// How long an agent that does what is due once waits for whoever serves to have looked at what it
/// said.
const PATIENCE: Duration = Duration::from_secs(20);

impl Fleet {
    /// Whether any database is reached by an agent.
    pub(super) fn has_agents(&self) -> bool {
        self.members.values().any(|member| member.agent.is_some())
    }

    /// Who is to do something for a database: an agent, or workers of a site; neither, if whoever
    /// serves does. Restores are rehearsed here, if the backups are within reach.
    pub(super) fn doer<'a>(&self, member: &'a Member, kind: Kind) -> (&'a str, &'a str) {
        let site = member.policy.drill.as_ref().and_then(|drill| drill.site.as_deref());
        if let Some(site) = site.filter(|_| kind == Kind::Drill) {
            return ("", site);
        }
        let is_near = kind == Kind::Drill && self.drilled(member).is_ok();
        (member.agent.as_deref().filter(|_| !is_near).unwrap_or_default(), "")
    }
}

impl Coordinator {
    /// Works as an agent until `stop` is true: then nothing is begun any more, captures end, and
    /// what runs may take a minute to do so.
    ///
    /// # Errors
    ///
    /// What keeps it from beginning. Later, whatever fails is noted, and tried again.
    pub async fn assist(
        &self,
        fleet: watch::Receiver<Arc<Fleet>>,
        stop: watch::Receiver<bool>,
    ) -> Result<()> {
        self.alive(async {
            tokio::join!(
                self.keep_reporting(fleet.clone(), stop.clone()),
                self.labour(fleet.clone(), stop.clone()),
                self.capture(fleet.clone(), stop.clone()),
                self.make_copies(fleet.clone(), stop.clone()),
            );
            Ok(())
        })
        .await
    }

    /// Does what is due now, one after the other, and nothing that becomes due once nothing was
    /// for a moment. Returns how it went.
    ///
    /// # Errors
    ///
    /// What keeps the state database from being used.
    pub async fn assist_once(
        &self,
        fleets: watch::Receiver<Arc<Fleet>>,
        stop: watch::Receiver<bool>,
    ) -> Result<Vec<Outcome>> {
        let fleet = Arc::clone(&fleets.borrow());
        let clock = &self.world.clock;
        let done = async {
            let mut outcomes = Vec::new();
            self.report_all(&fleet, &mut BTreeMap::new()).await;
            self.look_after_own_copies(&fleet).await;
            let mut idle_since = clock.elapsed();
            while !*stop.borrow() && clock.elapsed().saturating_sub(idle_since) < PATIENCE {
                match self.state.claim(&self.worker).await? {
                    Some(claim) => {
                        outcomes.push(self.work(&fleets, &fleet, &claim).await);
                        idle_since = clock.elapsed();
                    }
                    None => clock.sleep(self.rhythm.tick).await,
                }
            }
            Ok(outcomes)
        };
        let mut stopping = stop.clone();
        let working = self.alive(async {
            tokio::select! {
                biased;
                done = done => done,
                never = self.lose_patience(&mut stopping) => match never {},
            }
        });
        Box::pin(working).await
    }

    /// Says where its databases stand, again and again.
    async fn keep_reporting(
        &self,
        mut fleets: watch::Receiver<Arc<Fleet>>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut said = BTreeMap::new();
        loop {
            let fleet = Arc::clone(&fleets.borrow_and_update());
            self.report_all(&fleet, &mut said).await;
            let pause = spaced(REPORT_PERIOD, &fleet).to_std().unwrap_or(REPORT_PERIOD);
            tokio::select! {
                biased;
                () = is_true(&mut stop) => return,
                () = self.world.clock.sleep(pause) => {}
                () = self.shared.woken.notified() => {}
            }
        }
    }

    async fn report_all(&self, fleet: &Fleet, said: &mut BTreeMap<String, Report>) {
        let is_own = |one: &&Arc<Member>| self.state.is_agent_of(one.agent.as_deref());
        for member in fleet.members.values().filter(is_own) {
            let reported = async {
                let report = Report::of(member, self.standing_now(fleet, member).await?);
                if said.get(&member.name) != Some(&report) {
                    self.report(&member.name, &report).await?;
                    said.insert(member.name.clone(), report);
                }
                Ok::<_, Error>(())
            };
            if let Err(error) = reported.await {
                tracing::warn!(event = "report.failed", database = member.name, "{error}");
            }
        }
    }

    /// Says where a database stands, if this is an agent: before its job ends, so that nobody has
    /// the same done again.
    pub(super) async fn report(&self, database: &str, report: &Report) -> Result<()> {
        if !self.state.is_agent() {
            return Ok(());
        }
        let body = serde_json::to_string(report)
            .map_err(|cause| Error::bug("write where a database stands").caused_by(cause))?;
        self.state.report(database, &body).await
    }

    /// What waits for an agent, for a site, or for whoever serves, goes to who is to do it now.
    pub(super) async fn reassign(&self, fleet: &Fleet) -> Result<()> {
        let doer_of = |database: &str, kind: &str| fleet.doer_of(database, kind);
        self.state.reassign(doer_of, &self.worker).await.map(drop)
    }

    /// Has those databases looked at of which agents said something else since.
    pub(super) async fn hear(&self, heard: &mut i64) -> Result<()> {
        let (names, newest) = self.state.reported_since(*heard).await?;
        for name in &names {
            self.shared.change(name);
        }
        *heard = newest;
        Ok(())
    }

    /// What is the matter with the agent of a database, or what it says is the matter.
    pub(super) async fn trouble_of_agent(&self, member: &Member) -> Result<Option<String>> {
        let Some(agent) = member.agent.as_ref().filter(|_| !self.state.is_agent()) else {
            return Ok(None);
        };
        let seen = self.state.agents().await?.get(agent).copied();
        if let Some(silence) = silence(agent, seen, self.world.clock.now()) {
            return Ok(Some(silence));
        }
        let report = reported(&self.state, &member.name).await?;
        if let Some(obstacle) = report.and_then(|report| report.obstacle) {
            return Ok(Some(obstacle));
        }
        Ok(self.state.known(&member.name).await?.and_then(|known| known.trouble))
    }
}

/// What an agent says of a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Where it stands, by its repository.
    pub standing: Standing,
    /// Why the agent cannot reach it, such as a password that cannot be read.
    pub obstacle: Option<String>,
}

impl Report {
    pub(super) fn of(member: &Member, standing: Standing) -> Self {
        Self { standing, obstacle: member.obstacle.clone() }
    }
}

/// What was last said of a database by its agent. What a newer agent says may not be understood
/// here: then it is as if it said nothing.
///
/// # Errors
///
/// What keeps the state database from being used.
pub async fn reported(state: &State, database: &str) -> Result<Option<Report>> {
    let body = state.reported(database).await?;
    Ok(body.and_then(|body| serde_json::from_str(&body).ok()))
}

/// That nothing was heard of an agent for a while, in words; nothing, if something was.
pub fn silence(agent: &str, seen: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Option<String> {
    match seen {
        None => Some(format!("agent {agent} was never heard of")),
        Some(seen) if MISSED_AFTER <= now - seen => {
            let seen = seen.format("%Y-%m-%d %H:%M:%S UTC");
            Some(format!("agent {agent} was last heard of {seen}"))
        }
        Some(_) => None,
    }
}
