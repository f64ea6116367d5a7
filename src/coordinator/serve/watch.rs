//! Whoever has to know of something is told, once, and once more when it is over.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use stillpoint_contract::Result;
use tokio::sync::watch;

use super::{
    evaluate::Said,
    fleet::{Fleet, Member},
    notice::{Notice, Outgoing},
    run::{Coordinator, Wakes, is_true},
    standing::Standing,
    work::told,
};
use crate::policy::{Alert, Interval, Protection, Reach, alerts};

/// How often it is looked whether something has become the matter.
const TICK: Duration = Duration::from_secs(2);

/// A database that nothing is the matter with is looked at so often at least.
const LOOK_AGAIN: TimeDelta = TimeDelta::minutes(5);

/// One that something is the matter with, so often.
const LOOK_AT_TROUBLE: TimeDelta = TimeDelta::seconds(15);

/// Sends notices.
#[async_trait]
pub trait Notifier: fmt::Debug + Send + Sync {
    /// Where a notice goes: names of routes, and what each of them gets.
    fn routes(&self, notice: &Notice) -> Vec<(String, Notice)>;

    /// Sends a notice along a route.
    async fn send(&self, route: &str, notice: &Notice) -> Result<()>;

    /// Says that all is well, to whoever wants to hear it by now.
    async fn live(&self);
}

/// What is the matter with every database.
#[derive(Debug, Default)]
struct Matters(BTreeMap<String, Vec<Alert>>);

impl Coordinator {
    /// Finds out what is the matter, and tells it.
    pub(super) async fn watch(
        &self,
        mut fleets: watch::Receiver<Arc<Fleet>>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut fleet = Arc::clone(&fleets.borrow_and_update());
        let mut wakes = Wakes::of(&fleet, self.world.clock.now());
        let mut matters = Matters::default();
        loop {
            tokio::select! {
                biased;
                () = is_true(&mut stop) => return,
                () = self.world.clock.sleep(TICK) => {}
            }
            if fleets.has_changed().unwrap_or(false) {
                fleet = Arc::clone(&fleets.borrow_and_update());
                wakes = Wakes::of(&fleet, self.world.clock.now());
                matters.0.retain(|name, _| fleet.members.contains_key(name));
            }
            let told = self.tell(&fleet, &mut wakes, &mut matters).await;
            if let Err(error) = told {
                tracing::warn!(event = "state.unreachable", "{error}");
            }
        }
    }

    async fn tell(&self, fleet: &Fleet, wakes: &mut Wakes, matters: &mut Matters) -> Result<()> {
        if !self.state.lead(&self.worker).await? {
            return Ok(());
        }
        for name in self.shared.to_watch() {
            if fleet.members.contains_key(&name) {
                wakes.set(name, self.world.clock.now());
            }
        }
        let said = Said::new(&self.state.marks().await?);
        while let Some(name) = wakes.due(self.world.clock.now()) {
            let Some(member) = fleet.members.get(&name) else { continue };
            let (found, again) = self.matters(fleet, member, &said).await?;
            matters.0.insert(name.clone(), found);
            wakes.set(name, again);
        }
        let current: Vec<Alert> = matters.0.values().flatten().cloned().collect();
        let mut kept = self.state.board().await?;
        let messages = kept.board.step(&current);
        if !messages.is_empty() {
            let now = self.world.clock.now();
            let mut outgoing = Vec::new();
            for message in messages {
                let id = self.new_id(now);
                let notice = Notice::of(message, id, now);
                tracing::warn!(event = "alert", notice = notice.title());
                for (route, notice) in self.notifier.routes(&notice) {
                    outgoing.push(Outgoing { route, notice }.write()?);
                }
            }
            // Where somebody else was first, all of it is found out again.
            self.state.set_board(&kept, &outgoing).await?;
        }
        self.deliver().await?;
        self.notifier.live().await;
        Ok(())
    }

    /// Sends what was not sent yet. What cannot be sent is tried again.
    async fn deliver(&self) -> Result<()> {
        for unsent in self.state.unsent().await? {
            let Some(Outgoing { route, notice }) = Outgoing::read(&unsent.body) else {
                tracing::error!(event = "notice.unreadable", id = unsent.id);
                self.state.sent(&unsent.id).await?;
                continue;
            };
            match self.notifier.send(&route, &notice).await {
                Ok(()) => self.state.sent(&unsent.id).await?,
                Err(error) => {
                    let error = told(&error);
                    tracing::error!(event = "notice.failed", route, notice = notice.id, error);
                }
            }
        }
        Ok(())
    }

    /// Notes up to when a database can be restored, for whoever cannot ask the repository later.
    async fn remember(&self, member: &Member, standing: &Standing) -> Result<()> {
        match standing.coverage.iter().map(|interval| interval.to).max() {
            Some(newest) if self.shared.is_news(&member.name, newest) => {
                self.state.saw(&member.name, newest).await
            }
            _ => Ok(()),
        }
    }

    /// What was last known of a database, by this coordinator or by another one.
    async fn recalled(&self, member: &Member) -> Result<Option<Standing>> {
        if let Some((_, standing)) = self.shared.known(&member.name) {
            return Ok(Some(standing));
        }
        let known = self.state.known(&member.name).await?;
        let newest = known.and_then(|known| known.newest);
        Ok(newest.map(|newest| Standing {
            coverage: vec![Interval { from: newest, to: newest }],
            ..Standing::default()
        }))
    }

    /// What is the matter with a database, and when that may change by itself.
    async fn matters(
        &self,
        fleet: &Fleet,
        member: &Member,
        said: &Said,
    ) -> Result<(Vec<Alert>, DateTime<Utc>)> {
        let repository = fleet.repository(member)?;
        // What was known a while ago may be what makes it look late.
        let asked = self.standing_now(repository, member).await;
        let now = self.world.clock.now();
        let (standing, cause) = match asked {
            Ok(standing) => {
                self.remember(member, &standing).await?;
                (standing, self.shared.trouble_of(&member.name))
            }
            Err(error) => {
                tracing::warn!(event = "repository.unreachable", "{error}");
                let cause = format!("repository {} cannot be read", member.repository);
                let Some(standing) = self.recalled(member).await? else {
                    // Of what nothing was ever known, no promise is known to be broken.
                    return Ok((Vec::new(), now + LOOK_AT_TROUBLE));
                };
                (standing, Some(cause))
            }
        };
        let Member { state, since, .. } = *member;
        let reach = Reach { state, since, coverage: &standing.coverage };
        let protection = Protection {
            database: &member.name,
            reach,
            pause: said.pauses(&member.name).iter().find(|pause| pause.covers(now)).copied(),
            drill_passed: standing.drill_passed,
            drill_failed: standing.drill_failed,
            copies: &[],
            corrupt_since: standing.corrupt_since,
            cause: cause.as_deref(),
        };
        let found = alerts(&protection, Some(&member.policy), now);
        let deadline = reach.freshness(&member.policy, now).map(|fresh| fresh.deadline);
        let deadline = deadline.filter(|deadline| now < *deadline);
        let again = if found.is_empty() { LOOK_AGAIN } else { LOOK_AT_TROUBLE };
        let soonest = deadline.map(|deadline| deadline + TimeDelta::milliseconds(100));
        Ok((found, soonest.unwrap_or(now + again).min(now + again)))
    }
}
