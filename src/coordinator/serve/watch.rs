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
use crate::{
    coordinator::state::KeptBoard,
    policy::{Alert, AlertKey, Interval, Protection, Reach, Urgency, alerts},
};

/// One that something is the matter with, so often.
const LOOK_AT_TROUBLE: TimeDelta = TimeDelta::seconds(15);

/// What wakes nobody is looked at more rarely the longer it lasts: after one part in so many of
/// the time since it began.
const LASTING: i32 = 32;

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
    /// Of those that something is the matter with.
    of: BTreeMap<String, Vec<Alert>>,
    /// Databases that nobody has looked at yet.
    unseen: BTreeSet<String>,
    /// Databases whose repository cannot be read.
    unknown: BTreeSet<String>,
    /// What nobody is told of, because somebody knows.
    muted: BTreeSet<AlertKey>,
    /// What was told, as it was last read or written.
    kept: Option<KeptBoard>,
}

impl Matters {
    fn of(fleet: &Fleet) -> Self {
        Self { unseen: fleet.members.keys().cloned().collect(), ..Self::default() }
    }

    /// Of what is not protected any more nothing is the matter; what is new was not looked at.
    fn follow(&mut self, before: &Fleet, next: &Fleet) {
        self.of.retain(|name, _| next.members.contains_key(name));
        self.unknown.retain(|name| next.members.contains_key(name));
        self.unseen.retain(|name| next.members.contains_key(name));
        let new = next.members.keys().filter(|name| !before.members.contains_key(*name));
        self.unseen.extend(new.cloned());
    }

    fn note(&mut self, name: &str, alerts: Vec<Alert>, is_known: bool) {
        self.unseen.remove(name);
        if alerts.is_empty() {
            self.of.remove(name);
        } else {
            self.of.insert(name.to_owned(), alerts);
        }
        if is_known {
            self.unknown.remove(name);
        } else {
            self.unknown.insert(name.to_owned());
        }
    }
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
        let mut matters = Matters::of(&fleet);
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
                matters.follow(&fleet, &next);
                fleet = next;
            }
            match self.tell(&fleet, &mut wakes, &mut matters).await {
                Ok(true) => has_led = true,
                Ok(false) if has_led => {
                    // Whoever leads meanwhile knows more.
                    has_led = false;
                    matters = Matters::of(&fleet);
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
                    matters.note(&name, alerts, is_known);
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
        if matters.unseen.is_empty() {
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
        let mut kept = self.state.board_since(matters.kept.take()).await?;
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
            matters.kept = Some(kept);
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
        matters.kept = self.state.set_board(&kept, &outgoing).await?;
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
        let archives = member.archives_due(&self.state).await?;
        let drill_trouble = self.trouble_of_drill(member);
        let protection = Protection {
            database: &member.name,
            reach,
            pause: said.pauses(&member.name).iter().find(|pause| pause.covers(now)).copied(),
            drill_passed: standing.drill_passed,
            drill_took: standing.rehearsed.rto_ms.map(Duration::from_millis),
            drill_failed: standing.drill_failed,
            drill_trouble: drill_trouble.as_deref(),
            copies: &copies,
            corrupt_since: standing.corrupt_since,
            damaged_since: standing.damaged_since,
            anomaly: standing.anomaly,
            archives: &archives,
            cause: cause.as_deref(),
        };
        let found = alerts(&protection, Some(&member.policy), now);
        let deadline = reach.freshness(&member.policy, now).map(|fresh| fresh.deadline);
        let deadline = deadline.filter(|deadline| now < *deadline);
        let again = spaced(self.rhythm.well, fleet).min(patience(&found, now));
        let soonest = deadline.map(|deadline| deadline + TimeDelta::milliseconds(100));
        let again = soonest.unwrap_or(now + again).min(now + again);
        Ok(Found { alerts: found, is_known, again })
    }
}

/// After how long what was found is looked at again, at the latest.
fn patience(found: &[Alert], now: DateTime<Utc>) -> TimeDelta {
    let of = |alert: &Alert| match alert.urgency {
        Urgency::Page => LOOK_AT_TROUBLE,
        Urgency::Ticket => LOOK_AT_TROUBLE.max((now - alert.since) / LASTING),
    };
    found.iter().map(of).min().unwrap_or(TimeDelta::MAX)
}
