//! Endpoints are looked for, asked who they are, and given up when they are drained: by whoever
//! leads, for everybody.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use stillpoint_contract::{Error, ErrorKind, Result, code};
use tokio::sync::{Notify, watch};

use super::{super::session::Session, applied::Held, fleet};
use crate::{
    config::{Config, Discover, DiscoverKind},
    coordinator::{
        Ask, Coordinator, Discovery, Draining, Fleet, Told, Whom,
        state::{Mark, State},
        told,
    },
    policy::{
        Absence, Change, End, Registration, Registry, Wanted, forgettable, is_over, lapse,
        make_way, observe, succeeded,
    },
};

/// How often it is looked; of many endpoints, more rarely.
const TICK: Duration = Duration::from_secs(1);
const TICK_EACH: Duration = Duration::from_millis(1);

/// How often it is looked what need not be remembered.
const FORGET_PERIOD: Duration = Duration::from_mins(10);

/// How long an endpoint is waited for that is asked who it is.
const PROBE_MAX: Duration = Duration::from_secs(5);

/// How many are asked at once, and how often one that did not answer.
const PROBES_MAX: usize = 8;
const PROBE_AGAIN: Duration = Duration::from_secs(3);

/// How often one that answered is asked again, at least so far apart from others.
const PROBE_PERIOD: Duration = Duration::from_secs(30);
const PROBES_APART: Duration = Duration::from_millis(60);

/// What ended is remembered for so long.
const REMEMBERED: TimeDelta = TimeDelta::days(7);

/// Who registers endpoints by hand.
pub(super) const BY_HAND: &str = "command line";

/// Why a database is retired by itself, which makes it active again by itself.
const ABSENT: &str = "its last endpoint is gone, and its rule says that it ends with it";

/// Whether more, less or other things were discovered than are looked after.
pub(super) fn finds_more(held: &Held, registry: &Registry, now: DateTime<Utc>) -> bool {
    if held.config().rules.is_empty() {
        return false;
    }
    let Some(next) = held.with(registry, now) else { return false };
    let view = |config: &Config| {
        let databases = config.databases.values().filter(|database| database.found.is_some());
        let databases = databases
            .map(|one| (one.name.clone(), one.endpoint.clone(), one.found.clone()))
            .collect::<Vec<_>>();
        (databases, config.unprotected.clone())
    };
    view(held.config()) != view(&next)
}

/// An endpoint, since when it is registered, and since when it is being given up.
type Drained = (String, DateTime<Utc>, DateTime<Utc>);

/// What is known of one round to the next.
struct Rounds {
    discovery: Discovery,
    /// When endpoints were last asked who they are.
    asked: BTreeMap<String, Duration>,
    /// Those that are being given up, by which endpoint it is and since when it was asked.
    draining: BTreeMap<Drained, Draining>,
    /// Since when sources are listened to without a break, and when each last answered.
    listening: Option<Duration>,
    answered: BTreeMap<String, Duration>,
    /// When it was last looked what need not be remembered.
    forgot: Option<Duration>,
    /// Databases of whose lack of an endpoint somebody was told.
    absent: BTreeSet<String>,
}

/// Looks for endpoints for as long as it is polled; tells `found` of what is new.
pub(super) async fn run(
    session: &Session,
    coordinator: &Coordinator,
    (mut helds, fleets): (watch::Receiver<Arc<Held>>, watch::Receiver<Arc<Fleet>>),
    found: &Notify,
) {
    let clock = &session.world.clock;
    let first = Arc::clone(&helds.borrow_and_update());
    let mut rounds = Rounds {
        discovery: Discovery::new(&asks(first.config()), Arc::clone(clock)),
        asked: BTreeMap::new(),
        draining: BTreeMap::new(),
        listening: None,
        answered: BTreeMap::new(),
        forgot: None,
        absent: BTreeSet::new(),
    };
    let mut tick = TICK;
    loop {
        clock.sleep(tick).await;
        if helds.has_changed().unwrap_or(false) {
            let held = Arc::clone(&helds.borrow_and_update());
            rounds.discovery.change(&asks(held.config()));
        }
        if !coordinator.leads() {
            rounds.pause();
            continue;
        }
        let held = Arc::clone(&helds.borrow());
        let fleet = Arc::clone(&fleets.borrow());
        let state = &coordinator.state;
        let round = Round { session, coordinator, state, held: &held, fleet: &fleet };
        match round.go(&mut rounds).await {
            Ok(registry) => {
                let count = u32::try_from(registry.len()).unwrap_or(u32::MAX);
                tick = TICK.max(TICK_EACH.saturating_mul(count));
                if finds_more(&held, &registry, clock.now()) {
                    found.notify_one();
                }
            }
            Err(error) => {
                rounds.listening = None;
                tracing::warn!(event = "discovery.failed", why = told(&error));
            }
        }
    }
}

impl Rounds {
    /// Whoever does not lead hears nobody: what was heard before is old by the time it leads again.
    fn pause(&mut self) {
        self.discovery.forget();
        self.listening = None;
        self.draining.clear();
    }

    /// Whether silence means something: its source was listened to, and answered, for as long as
    /// the endpoint may be silent.
    fn heard_of(&self, one: &Registration, now: Duration) -> bool {
        let Some((ttl, since)) = one.ttl.zip(self.listening) else { return false };
        let is_long = ttl <= now.saturating_sub(since);
        let answered = self.answered.get(&one.source);
        let is_answered = answered.is_some_and(|at| now.saturating_sub(*at) <= ttl);
        is_long && (one.source == BY_HAND || is_answered)
    }
}

fn asks(config: &Config) -> Vec<Ask> {
    let ask = |one: &Discover| Ask {
        whom: match one.kind.clone() {
            DiscoverKind::Files(path) => Whom::Files(path),
            DiscoverKind::Program(words) => Whom::Program(words),
            DiscoverKind::Dns { name, is_service, port, server } => {
                Whom::Dns { name, is_service, port, server }
            }
        },
        every: one.every,
        ttl: one.ttl,
        labels: one.labels.clone(),
    };
    config.discover.iter().map(ask).collect()
}

/// What one round is about.
struct Round<'a> {
    session: &'a Session,
    coordinator: &'a Coordinator,
    state: &'a State,
    held: &'a Held,
    fleet: &'a Fleet,
}

impl Round<'_> {
    async fn go(&self, rounds: &mut Rounds) -> Result<Registry> {
        let heard = rounds.discovery.look().await;
        let names = rounds.discovery.names();
        let now = self.session.world.clock.elapsed();
        let forgets = rounds.forgot.is_none_or(|at| FORGET_PERIOD <= now.saturating_sub(at));
        rounds.forgot = if forgets { Some(now) } else { rounds.forgot };
        rounds.listening.get_or_insert(now);
        rounds.answered.extend(heard.iter().map(|told| (told.source.clone(), now)));
        rounds.answered.retain(|source, _| names.contains(source));
        self.take_in(&heard, (&names, forgets), |one| rounds.heard_of(one, now)).await?;
        let registry = self.state.endpoints().await?;
        if registry.is_empty() {
            return Ok(registry);
        }
        let now = self.session.world.clock.now();
        let Some(config) = self.held.with(&registry, now) else { return Ok(registry) };
        self.probe(&config, &registry, &mut rounds.asked).await?;
        self.drain(&config, &registry, &mut rounds.draining).await?;
        self.end(&config, &mut rounds.absent, now).await?;
        self.state.endpoints().await
    }

    /// Takes in what was heard, and ends what ran out.
    async fn take_in(
        &self,
        heard: &[Told],
        (names, forgets): (&[String], bool),
        is_silent: impl Fn(&Registration) -> bool + Sync,
    ) -> Result<()> {
        let rules: Vec<_> = self.held.config().rules.iter().map(|one| one.rule.clone()).collect();
        let who = &self.coordinator.worker;
        let change = |registry: &mut Registry, now: DateTime<Utc>| {
            let mut changes = Vec::new();
            for Told { source, seen, is_complete } in heard {
                let owner = |one: &Registration| self.held.owner(one);
                changes.extend(make_way(registry, source, seen, owner, now));
                changes.extend(observe(registry, source, (seen, *is_complete), now));
            }
            // Nobody is asked for them any more.
            let sources: BTreeSet<String> =
                registry.values().map(|one| one.source.clone()).collect();
            for source in sources.iter().filter(|name| *name != BY_HAND && !names.contains(name)) {
                changes.extend(observe(registry, source, (&[], true), now));
            }
            let others = succeeded(&rules, registry, now);
            changes.extend(lapse(registry, &is_silent, |id| others.contains(id), now));
            if forgets {
                for id in forgettable(registry, |one| self.held.owner(one), now - REMEMBERED) {
                    registry.remove(&id);
                }
            }
            changes
        };
        for Change { id, what, detail } in self.state.change_endpoints(who, change).await? {
            tracing::info!(event = what, endpoint = id, detail);
        }
        Ok(())
    }

    /// Asks endpoints who they are: those that did not say so yet, and now and then the others.
    async fn probe(
        &self,
        config: &Config,
        registry: &Registry,
        asked: &mut BTreeMap<String, Duration>,
    ) -> Result<()> {
        let clock = &self.session.world.clock;
        let now = clock.elapsed();
        asked.retain(|id, _| registry.get(id).is_some_and(Registration::is_there));
        let chosen =
            config.databases.values().filter_map(|one| one.found.as_ref()?.chosen.as_ref());
        let chosen: BTreeSet<&str> = chosen.map(|chosen| chosen.id.as_str()).collect();
        let count = u32::try_from(chosen.len()).unwrap_or(u32::MAX);
        let period = PROBE_PERIOD.max(PROBES_APART.saturating_mul(count));
        let is_due = |one: &&Registration| {
            let last = asked.get(&one.id);
            let age = last.map(|last| now.saturating_sub(*last));
            let is_new = one.active.is_none() && one.wanted != Wanted::Pending;
            let every = if is_new { PROBE_AGAIN } else { period };
            // One that fell silent and answers again may be the newest.
            let is_asked = is_new || one.silent.is_some() || chosen.contains(&*one.id);
            one.is_there() && is_asked && age.is_none_or(|age| every <= age)
        };
        let is_meant = |one: &&Registration| config.candidate(one).is_some();
        let (mut new, mut due): (Vec<&Registration>, Vec<_>) =
            registry.values().filter(is_due).filter(is_meant).partition(|one| one.active.is_none());
        for all in [&mut new, &mut due] {
            all.sort_by_key(|one| asked.get(&one.id).copied());
        }
        // Those that never answer leave room for those that serve, and the other way round.
        let room = PROBES_MAX.saturating_sub(due.len()).max(PROBES_MAX / 2);
        new.truncate(room);
        due.truncate(PROBES_MAX - new.len());
        due.extend(new);
        asked.extend(due.iter().map(|one| (one.id.clone(), now)));
        let answers = join_all(due.iter().map(|one| self.ask(config, one))).await;
        let answers: Vec<_> =
            due.into_iter().zip(answers).filter_map(|(one, answer)| Some((one, answer?))).collect();
        if answers.is_empty() {
            return Ok(());
        }
        let note = |registry: &mut Registry, now: DateTime<Utc>| {
            let mut changes = Vec::new();
            for (asked, answer) in &answers {
                let own = registry.get_mut(&asked.id);
                // Meanwhile it may be another one.
                let own = own.filter(|one| one.is_there() && one.since == asked.since);
                changes.extend(own.and_then(|own| answered(own, answer, now)));
            }
            changes
        };
        for Change { id, what, detail } in
            self.state.change_endpoints(&self.coordinator.worker, note).await?
        {
            tracing::info!(event = what, endpoint = id, detail);
        }
        Ok(())
    }

    /// Asks one; nothing if it belongs to no database.
    async fn ask(&self, config: &Config, one: &Registration) -> Option<Result<String, String>> {
        let candidate = config.candidate(one)?;
        let asked = async {
            let place = fleet::place(self.session, &candidate).await?;
            let driver = place.engine.connect(&place.endpoint).await?;
            Ok::<_, Error>(driver.probe().await?.identity.id)
        };
        let answer = tokio::select! {
            biased;
            answer = asked => answer,
            () = self.session.world.clock.sleep(PROBE_MAX) => {
                Err(Error::new(ErrorKind::TimedOut, code::SOURCE_VANISHED, "reach the endpoint"))
            }
        };
        Some(answer.map_err(|error| told(&error)))
    }

    /// Looks whether everything is stored of endpoints that are being given up.
    async fn drain(
        &self,
        config: &Config,
        registry: &Registry,
        draining: &mut BTreeMap<Drained, Draining>,
    ) -> Result<()> {
        let now = self.session.world.clock.now();
        let is_open = |one: &Registration| {
            one.is_there()
                && one.drain.is_some_and(|drain| drain.done.is_none() && now < drain.until)
        };
        let key =
            |one: &Registration| one.drain.map(|drain| (one.id.clone(), one.since, drain.since));
        draining.retain(|known, _| {
            registry
                .get(&known.0)
                .is_some_and(|one| is_open(one) && key(one).as_ref() == Some(known))
        });
        for one in registry.values().filter(|one| is_open(one)) {
            let Some(key) = key(one) else { continue };
            let looked = self.drained(config, one, draining.entry(key).or_default());
            let (done, trouble) = match looked.await {
                Ok(done) => (done, None),
                Err(error) => (None, Some(told(&error))),
            };
            if done.is_none() && trouble == one.trouble {
                continue;
            }
            let who = &self.coordinator.worker;
            let note = |registry: &mut Registry, now: DateTime<Utc>| {
                // Asked anew meanwhile, it is to be looked at anew.
                let asked = |one: &Registration| (one.since, one.drain.map(|drain| drain.since));
                let own = registry.get_mut(&one.id).filter(|own| asked(own) == asked(one));
                let Some(own) = own else { return Vec::new() };
                own.trouble.clone_from(&trouble);
                let Some(told) = &done else { return Vec::new() };
                if let Some(drain) = &mut own.drain {
                    drain.done = Some(now);
                }
                let (id, detail) = (own.id.clone(), told.clone());
                vec![Change { id, what: "endpoint.drained", detail }]
            };
            for Change { id, what, detail } in self.state.change_endpoints(who, note).await? {
                tracing::info!(event = what, endpoint = id, detail);
            }
        }
        Ok(())
    }

    async fn drained(
        &self,
        config: &Config,
        one: &Registration,
        draining: &mut Draining,
    ) -> Result<Option<String>> {
        let missing =
            |why| Error::new(ErrorKind::Refused, code::CONFIG_VALUE, "drain the endpoint").why(why);
        let candidate = config.candidate(one);
        let candidate = candidate
            .ok_or_else(|| missing("it belongs to no database: nothing of it was ever stored"))?;
        // A database that was only just discovered is looked after a moment later.
        let Some(member) = self.fleet.members.get(&candidate.name) else { return Ok(None) };
        let repository = self.fleet.repository(member)?;
        let place = fleet::place(self.session, &candidate).await?;
        let chosen = member.endpoints.chosen.as_ref();
        let is_chosen = chosen.is_some_and(|chosen| chosen.id == one.id);
        let Some(drain) = &one.drain else { return Ok(None) };
        let (with, of) = ((&**repository, self.state), (member.as_ref(), &place));
        draining.look(with, of, (is_chosen, drain), &self.coordinator.worker).await
    }

    /// Retires databases that end with their last endpoint, and takes that back where there is one
    /// again. Of others it is said that they have none, once.
    async fn end(
        &self,
        config: &Config,
        absent: &mut BTreeSet<String>,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let marks = self.state.marks().await?;
        let is_ended = |name: &str| {
            let own = marks.iter().find(|marked| marked.database == name && marked.holds(now));
            own.is_some_and(|marked| marked.mark == Mark::Retired && marked.reason == ABSENT)
        };
        for database in config.databases.values() {
            let (name, Some(found)) = (&database.name, &database.found) else { continue };
            if !found.present.is_empty() {
                absent.remove(name);
                if is_ended(name) {
                    let why = "it has an endpoint again";
                    self.state.set_mark(name, None, why, &self.coordinator.worker).await?;
                }
                continue;
            }
            if !is_over(found.absence.as_ref(), found.handoff, now) {
                continue;
            }
            let backups = self.coordinator.known(name).map_or(0, |standing| standing.backups);
            // What a person said of it holds; and one that was lost is to be known of.
            let is_marked = marks.iter().any(|one| one.database == *name && one.holds(now));
            let is_lost = matches!(found.absence, Some((_, End::Lost, _)));
            if found.on_absence == Absence::Retire && !is_lost {
                if backups == 0 || is_marked {
                    continue;
                }
                let mark = Some(Mark::Retired);
                self.state.set_mark(name, mark, ABSENT, &self.coordinator.worker).await?;
                tracing::info!(event = "database.retired", database = name, why = ABSENT);
            } else if absent.insert(name.clone()) {
                let why = found.obstacle().unwrap_or_default();
                tracing::warn!(event = "endpoint.absent", database = name, is_lost, why);
            }
        }
        Ok(())
    }
}

/// Notes what an endpoint answered.
fn answered(
    own: &mut Registration,
    answer: &Result<String, String>,
    now: DateTime<Utc>,
) -> Option<Change> {
    let id = own.id.clone();
    match answer {
        Ok(identity) => {
            let is_new = own.active.is_none();
            let is_another = own.identity.as_ref().is_some_and(|known| known != identity);
            own.active.get_or_insert(now);
            (own.silent, own.trouble) = (None, None);
            own.identity = Some(identity.clone());
            let detail = format!("it is {identity}");
            match (is_new, is_another) {
                (true, _) => Some(Change { id, what: "endpoint.active", detail }),
                (false, true) => Some(Change { id, what: "endpoint.replaced", detail }),
                (false, false) => None,
            }
        }
        Err(why) => {
            if own.active.is_some() {
                own.silent.get_or_insert(now);
            }
            own.trouble = Some(why.clone());
            None
        }
    }
}
