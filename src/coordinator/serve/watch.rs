//! Whoever has to know of something is told, once, and once more when it is over.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use stillpoint_contract::Result;
use tokio::sync::watch;

use super::{
    copies::CopyKnown,
    evaluate::Said,
    fleet::{Fleet, Member},
    notice::{Notice, Outgoing},
    run::{Coordinator, Wakes, is_true, spaced},
    standing::Standing,
    tally::Suppressed,
    work::told,
};
use crate::policy::{Alert, AlertKey, Interval, Protection, Reach, alerts};

/// One that something is the matter with, so often.
const LOOK_AT_TROUBLE: TimeDelta = TimeDelta::seconds(15);

/// A way on which something did not get through is tried again after so long.
const DELIVER_AGAIN: Duration = Duration::from_secs(15);

/// What is the matter with one database.
struct Found {
    alerts: Vec<Alert>,
    /// Whether its repository could be asked.
    is_known: bool,
    /// When that may change by itself.
    again: DateTime<Utc>,
}

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

/// What is the matter with every database that was looked at since this coordinator leads.
#[derive(Debug, Default)]
struct Matters {
    of: BTreeMap<String, Vec<Alert>>,
    /// Databases whose repository cannot be read.
    unknown: BTreeSet<String>,
    /// What nobody is told of, because somebody knows.
    muted: BTreeSet<AlertKey>,
}

impl Coordinator {
    /// Finds out what is the matter, and tells it.
    pub(super) async fn watch(
        &self,
        fleets: watch::Receiver<Arc<Fleet>>,
        stop: watch::Receiver<bool>,
    ) {
        let ways = async { tokio::join!(self.deliver(), self.beat()) };
        tokio::select! {
            biased;
            () = self.find_out(fleets, stop) => {}
            _ = ways => {}
        }
    }

    async fn find_out(
        &self,
        mut fleets: watch::Receiver<Arc<Fleet>>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut fleet = Arc::clone(&fleets.borrow_and_update());
        let mut wakes = Wakes::of(&fleet, self.world.clock.now());
        let mut matters = Matters::default();
        let mut has_led = false;
        loop {
            tokio::select! {
                biased;
                () = is_true(&mut stop) => return,
                () = self.world.clock.sleep(self.rhythm.watch) => {}
            }
            if fleets.has_changed().unwrap_or(false) {
                let next = Arc::clone(&fleets.borrow_and_update());
                wakes.follow(&fleet, &next, self.world.clock.now());
                fleet = next;
                matters.of.retain(|name, _| fleet.members.contains_key(name));
                matters.unknown.retain(|name| fleet.members.contains_key(name));
            }
            match self.tell(&fleet, &mut wakes, &mut matters).await {
                Ok(true) => has_led = true,
                Ok(false) if has_led => {
                    // Whoever leads meanwhile knows more.
                    has_led = false;
                    matters = Matters::default();
                    wakes = Wakes::of(&fleet, self.world.clock.now());
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(event = "state.unreachable", "{error}"),
            }
        }
    }

    /// Whether this coordinator leads; then everybody is told of what is new.
    async fn tell(&self, fleet: &Fleet, wakes: &mut Wakes, matters: &mut Matters) -> Result<bool> {
        if !self.state.lead(&self.worker).await? {
            return Ok(false);
        }
        for name in self.shared.to_watch() {
            if fleet.members.contains_key(&name) {
                wakes.set(name, self.world.clock.now());
            }
        }
        let said = Said::new(&self.state.marks().await?);
        while let Some(name) = wakes.due(self.world.clock.now()) {
            let Some(member) = fleet.members.get(&name) else { continue };
            let again = match self.matters(fleet, member, &said).await {
                Ok(Found { alerts, is_known, again }) => {
                    matters.of.insert(name.clone(), alerts);
                    if is_known {
                        matters.unknown.remove(&name);
                    } else {
                        matters.unknown.insert(name.clone());
                    }
                    again
                }
                Err(error) => {
                    // What was the matter before still is, as far as anybody knows.
                    tracing::warn!(event = "watch.failed", database = name, "{error}");
                    self.world.clock.now() + LOOK_AT_TROUBLE
                }
            };
            wakes.set(name, again);
        }
        // Of what nobody has looked at yet, nothing is over.
        if fleet.members.keys().all(|name| matters.of.contains_key(name)) {
            self.post(fleet, matters).await?;
        }
        Ok(true)
    }

    /// Writes down what is new and what is over, and what is to be sent because of it.
    async fn post(&self, fleet: &Fleet, matters: &mut Matters) -> Result<()> {
        let mut current: Vec<Alert> = matters.of.values().flatten().cloned().collect();
        let muted = current.iter().filter(|alert| alert.muted_until.is_some()).map(Alert::key);
        let muted: BTreeSet<AlertKey> = muted.collect();
        let new = muted.difference(&matters.muted).count() as u64;
        if new > 0 {
            *self.shared.tally().suppressed.entry(Suppressed::Paused).or_default() += new;
        }
        matters.muted = muted;
        current.extend(fleet.unprotected());
        let mut kept = self.state.board().await?;
        let lasting = kept.board.open().filter(|((_, database), _)| {
            // What was told of it before cannot be over as long as nobody can look.
            matters.unknown.contains(database)
        });
        let lasting: Vec<Alert> = lasting
            .filter(|(key, _)| !current.iter().any(|alert| alert.key() == **key))
            .map(|((class, database), told)| Alert {
                class: *class,
                database: database.clone(),
                urgency: told.urgency,
                since: told.since,
                what: String::new(),
                cause: told.cause.clone(),
                muted_until: None,
            })
            .collect();
        current.extend(lasting);
        let messages = kept.board.step(&current);
        if messages.is_empty() {
            return Ok(());
        }
        let now = self.world.clock.now();
        let mut outgoing = Vec::new();
        for message in messages {
            let notice = Notice::of(message, self.world.new_id(), now);
            tracing::warn!(event = "alert", notice = notice.title());
            for (route, notice) in self.notifier.routes(&notice) {
                outgoing.push(Outgoing { route, notice }.write()?);
            }
        }
        // Where somebody else was first, all of it is found out again.
        self.state.set_board(&kept, &outgoing).await?;
        self.shared.posted.notify_one();
        Ok(())
    }

    /// Sends what was not sent yet, along all routes side by side.
    async fn deliver(&self) {
        let mut patient: BTreeMap<String, Duration> = BTreeMap::new();
        loop {
            tokio::select! {
                biased;
                () = self.shared.posted.notified() => {}
                () = self.world.clock.sleep(self.rhythm.report) => {}
            }
            let unsent = match self.state.lead(&self.worker).await {
                Ok(true) => self.state.unsent().await,
                Ok(false) => continue,
                Err(error) => Err(error),
            };
            let unsent = match unsent {
                Ok(unsent) => unsent,
                Err(error) => {
                    tracing::warn!(event = "state.unreachable", "{error}");
                    continue;
                }
            };
            let mut routes: BTreeMap<String, Vec<(String, Notice)>> = BTreeMap::new();
            for unsent in unsent {
                if let Some(Outgoing { route, notice }) = Outgoing::read(&unsent.body) {
                    routes.entry(route).or_default().push((unsent.id, notice));
                } else {
                    tracing::error!(event = "notice.unreadable", id = unsent.id);
                }
            }
            let now = self.world.clock.elapsed();
            let due = routes
                .into_iter()
                .filter(|(route, _)| patient.get(route).is_none_or(|until| *until <= now));
            let sent = join_all(due.map(|(route, notices)| self.send(route, notices))).await;
            for (route, is_well) in sent {
                if is_well {
                    patient.remove(&route);
                } else {
                    patient.insert(route, self.world.clock.elapsed() + DELIVER_AGAIN);
                }
            }
        }
    }

    /// Sends along one route, in order, until something does not get through.
    async fn send(&self, route: String, notices: Vec<(String, Notice)>) -> (String, bool) {
        for (id, notice) in notices {
            let sent = match self.notifier.send(&route, &notice).await {
                Ok(()) => self.state.sent(&id).await,
                Err(error) => Err(error),
            };
            if let Err(error) = sent {
                let (error, notice) = (told(&error), &notice.id);
                tracing::error!(event = "notice.failed", route, notice, error);
                return (route, false);
            }
        }
        (route, true)
    }

    /// Says that all is well, as long as this coordinator leads.
    async fn beat(&self) {
        loop {
            self.world.clock.sleep(self.rhythm.tick).await;
            if self.shared.leads() {
                self.notifier.live().await;
            }
        }
    }

    /// Notes up to when a database can be restored, for whoever cannot ask the repository later.
    pub(super) async fn remember(&self, member: &Member, standing: &Standing) -> Result<()> {
        match standing.coverage.iter().map(|interval| interval.to).max() {
            Some(newest) if self.shared.is_news(&member.name, newest) => {
                self.state.saw(&member.name, newest).await
            }
            _ => Ok(()),
        }
    }

    /// What was last known of a database, by this coordinator or by another one: whoever knew it
    /// last led last.
    async fn recalled(&self, member: &Member) -> Result<Standing> {
        let mut standing = self.shared.known(&member.name).map_or_else(Standing::default, |k| k.1);
        let known = self.state.known(&member.name).await?;
        let newest = known.and_then(|known| known.newest);
        standing.coverage.extend(newest.map(|newest| Interval { from: newest, to: newest }));
        Ok(standing)
    }

    /// What is the matter with a database, and when that may change by itself.
    async fn matters(&self, fleet: &Fleet, member: &Member, said: &Said) -> Result<Found> {
        // What was known a while ago may be what makes it look late.
        let asked = self.standing_now(fleet, member).await;
        let mut is_known = true;
        let now = self.world.clock.now();
        let (standing, cause) = match asked {
            Ok(standing) => {
                self.remember(member, &standing).await?;
                let own = member.obstacle.clone().or_else(|| self.shared.trouble_of(&member.name));
                (standing, self.trouble_of_agent(member).await?.or(own))
            }
            Err(error) => {
                tracing::warn!(event = "repository.unreachable", "{error}");
                let cause = format!("repository {} cannot be read", member.repository);
                is_known = false;
                let silence = self.trouble_of_agent(member).await?;
                (self.recalled(member).await?, Some(silence.unwrap_or(cause)))
            }
        };
        let Member { state, since, .. } = *member;
        let coverage = member.continuous(&standing);
        let reach = Reach { state, since, coverage: &coverage };
        let copies = self.copies_of(&member.name);
        let copies: Vec<_> = copies.iter().map(CopyKnown::state).collect();
        let protection = Protection {
            database: &member.name,
            reach,
            pause: said.pauses(&member.name).iter().find(|pause| pause.covers(now)).copied(),
            drill_passed: standing.drill_passed,
            drill_failed: standing.drill_failed,
            copies: &copies,
            corrupt_since: standing.corrupt_since,
            anomaly: standing.anomaly,
            cause: cause.as_deref(),
        };
        let found = alerts(&protection, Some(&member.policy), now);
        let deadline = reach.freshness(&member.policy, now).map(|fresh| fresh.deadline);
        let deadline = deadline.filter(|deadline| now < *deadline);
        let again =
            if found.is_empty() { spaced(self.rhythm.well, fleet) } else { LOOK_AT_TROUBLE };
        let soonest = deadline.map(|deadline| deadline + TimeDelta::milliseconds(100));
        let again = soonest.unwrap_or(now + again).min(now + again);
        Ok(Found { alerts: found, is_known, again })
    }
}
