//! The coordinator at work: it looks, settles, claims and captures until it is told to end.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    convert::Infallible,
    fmt,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use futures::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use stillpoint_contract::Result;
use tokio::sync::{Notify, mpsc, watch};

use super::{
    agent::reported,
    copies::Shelf,
    evaluate::{Looked, Said},
    fleet::{Fleet, Member},
    hands::Hands,
    standing::Standing,
    tally::Tally,
    watch::Notifier,
};
use crate::{
    coordinator::{
        ScratchPlace,
        state::{Claim, LEAD, Scope, State},
    },
    world::World,
};

/// Whatever claims to run and was not heard of for so long does not. Its worker ends it earlier.
const STUCK_MAX: Duration = Duration::from_hours(12);

/// How long what a repository said of a database may be used.
const STANDING_AGE_MAX: Duration = Duration::from_secs(20);

/// How often ranks of what waits grow.
const RANKS_GROW: Duration = Duration::from_secs(30);

/// So far apart at least, on average, databases are looked at although nothing is known to have
/// changed.
const LOOKS_APART: Duration = Duration::from_millis(60);

/// How long after an error a database is looked at again.
const LOOK_AFTER_ERROR: TimeDelta = TimeDelta::seconds(30);

/// One part in so many of a tick is a moment.
const MOMENT: u32 = 10;

/// A point is noted where it is so much newer than the one that was.
const NEWS_AGE_MIN: TimeDelta = TimeDelta::seconds(30);

/// How long running jobs may take to end once the coordinator is told to.
const DRAIN_MAX: Duration = Duration::from_mins(1);

/// A coordinator.
pub struct Coordinator {
    /// Time, randomness, threads.
    pub world: World,
    /// The queue, shared with other coordinators.
    pub state: State,
    /// A name that it drew when it began.
    pub worker: String,
    /// Where it is, for people.
    pub place: String,
    /// What it works with.
    pub hands: Arc<dyn Hands>,
    /// Who is told of what is the matter.
    pub notifier: Arc<dyn Notifier>,
    /// Where what is handed over is restored before; otherwise, where its folder says.
    pub scratch: Option<ScratchPlace>,
    /// How often it looks.
    pub rhythm: Rhythm,
    /// What the rest knows of each other.
    pub(super) shared: Shared,
}

/// How often a coordinator looks.
#[derive(Clone, Copy, Debug)]
pub struct Rhythm {
    /// Whether something can be begun.
    pub tick: Duration,
    /// It says that it lives.
    pub renew: Duration,
    /// When it was not heard of for so long, it has lost what it works on.
    pub lease: Duration,
    /// Jobs say how far they are, what was not sent is sent, and what is not captured is captured.
    pub report: Duration,
    /// At a database, at the latest: what was done elsewhere is seen then.
    pub look: Duration,
    /// Whether something has become the matter.
    pub watch: Duration,
    /// At a database that nothing is the matter with, at the latest.
    pub well: Duration,
}

impl Default for Rhythm {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(500),
            renew: Duration::from_secs(8),
            lease: Duration::from_secs(30),
            report: Duration::from_secs(5),
            look: Duration::from_mins(1),
            watch: Duration::from_secs(2),
            well: Duration::from_mins(5),
        }
    }
}

/// A period, or a longer one in a large fleet: each of its databases is asked for more rarely, so
/// that a repository is not asked more often than [`LOOKS_APART`] allows.
pub(super) fn spaced(period: Duration, fleet: &Fleet) -> TimeDelta {
    let count = u32::try_from(fleet.members.len()).unwrap_or(u32::MAX);
    let period = period.max(LOOKS_APART.saturating_mul(count));
    TimeDelta::from_std(period).unwrap_or(TimeDelta::MAX)
}

/// What the loops of a coordinator share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Up to when each database could be restored, as it was noted.
    noted: Mutex<HashMap<String, DateTime<Utc>>>,
    /// What was found out, and when; an old one is better than none.
    standings: Mutex<HashMap<String, (Option<Duration>, Standing)>>,
    troubles: Mutex<BTreeMap<String, String>>,
    untold: Mutex<BTreeMap<String, Option<String>>>,
    to_schedule: Mutex<BTreeSet<String>>,
    to_watch: Mutex<BTreeSet<String>>,
    copies: Mutex<Shelf>,
    tally: Mutex<Tally>,
    pub(super) woken: Notify,
    ended: Notify,
    /// Something is to be sent.
    pub(super) posted: Notify,
    leads: AtomicBool,
    /// Somebody's log can join a backup from now on.
    pub(super) joinable: Notify,
    dropped: watch::Sender<bool>,
}

impl fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coordinator").field("worker", &self.worker).finish_non_exhaustive()
    }
}

impl Shared {
    fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
        of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a database looked at soon, since something about it has changed.
    pub(super) fn change(&self, database: &str) {
        if let Some((at, _)) = Self::lock(&self.standings).get_mut(database) {
            *at = None;
        }
        for changed in [&self.to_schedule, &self.to_watch] {
            Self::lock(changed).insert(database.to_owned());
        }
        self.copies().changed.insert(database.to_owned());
        self.woken.notify_one();
    }

    /// What is known of copies.
    pub(super) fn copies(&self) -> MutexGuard<'_, Shelf> {
        Self::lock(&self.copies)
    }

    /// What was counted.
    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        Self::lock(&self.tally)
    }

    /// Whether this coordinator led when it last looked.
    pub(super) fn leads(&self) -> bool {
        self.leads.load(Ordering::Relaxed)
    }

    /// What was found out of these may be of another repository.
    fn doubt(&self, changed: &[String]) {
        let mut standings = Self::lock(&self.standings);
        for name in changed {
            if let Some((at, _)) = standings.get_mut(name) {
                *at = None;
            }
        }
    }

    /// What has changed since the schedule asked.
    fn to_schedule(&self) -> BTreeSet<String> {
        std::mem::take(&mut *Self::lock(&self.to_schedule))
    }

    /// What has changed since somebody asked what is the matter.
    pub(super) fn to_watch(&self) -> BTreeSet<String> {
        std::mem::take(&mut *Self::lock(&self.to_watch))
    }

    /// What was last known of a database, and when that was found out if it may still hold.
    pub(super) fn known(&self, database: &str) -> Option<(Option<Duration>, Standing)> {
        Self::lock(&self.standings).get(database).cloned()
    }

    /// Whether a point is so much newer than what was last noted that it is worth noting.
    pub(super) fn is_news(&self, database: &str, newest: DateTime<Utc>) -> bool {
        let mut noted = Self::lock(&self.noted);
        let is_news = noted.get(database).is_none_or(|known| NEWS_AGE_MIN <= newest - *known);
        if is_news {
            noted.insert(database.to_owned(), newest);
        }
        is_news
    }

    /// Notes what stands in the way of capturing a database's log; nothing, once it works.
    pub(super) fn trouble(&self, database: &str, what: Option<String>) {
        let mut troubles = Self::lock(&self.troubles);
        let before = match &what {
            Some(what) => troubles.insert(database.to_owned(), what.clone()),
            None => troubles.remove(database),
        };
        if before != what {
            Self::lock(&self.untold).insert(database.to_owned(), what);
        }
    }

    /// Troubles that began or are over, and were not written down yet.
    pub(super) fn untold(&self) -> BTreeMap<String, Option<String>> {
        std::mem::take(&mut *Self::lock(&self.untold))
    }

    /// One that could not be written down, unless there is newer word of it.
    fn tell_again(&self, database: String, trouble: Option<String>) {
        Self::lock(&self.untold).entry(database).or_insert(trouble);
    }

    /// What stands in the way of capturing a database's log.
    pub(super) fn trouble_of(&self, database: &str) -> Option<String> {
        Self::lock(&self.troubles).get(database).cloned()
    }
}

impl Coordinator {
    /// One that begins now, under a name of its own.
    pub fn new(
        world: World,
        state: State,
        place: String,
        hands: Arc<dyn Hands>,
        notifier: Arc<dyn Notifier>,
    ) -> Self {
        let mut random = [0; 8];
        world.entropy.fill(&mut random);
        let worker = data_encoding::HEXLOWER.encode(&random);
        let (scratch, rhythm, shared) = (None, Rhythm::default(), Shared::default());
        Self { world, state, worker, place, hands, notifier, scratch, rhythm, shared }
    }

    /// Runs the policies of a fleet until `stop` is true: then nothing is begun any more, captures
    /// end, and what runs may take a minute to do so.
    ///
    /// # Errors
    ///
    /// What keeps it from beginning. Later, whatever fails is noted, and tried again.
    pub async fn serve(
        &self,
        fleet: watch::Receiver<Arc<Fleet>>,
        stop: watch::Receiver<bool>,
    ) -> Result<()> {
        self.alive(async {
            let first = Arc::clone(&fleet.borrow());
            self.set_caps(&first).await?;
            // Whatever wakes one of them leaves the others asleep.
            let mut all = FuturesUnordered::from_iter([
                self.schedule(fleet.clone(), stop.clone()).boxed_local(),
                self.labour(fleet.clone(), stop.clone()).boxed_local(),
                self.capture(fleet.clone(), stop.clone()).boxed_local(),
                self.watch(fleet.clone(), stop.clone()).boxed_local(),
                self.make_copies(fleet.clone(), stop.clone()).boxed_local(),
            ]);
            while all.next().await.is_some() {}
            Ok(())
        })
        .await
    }

    /// Says that it lives until something is done.
    pub(super) async fn alive<T>(&self, done: impl Future<Output = Result<T>>) -> Result<T> {
        self.state.renew(&self.worker, &self.place, self.rhythm.lease).await?;
        tokio::select! {
            biased;
            done = done => done,
            never = self.live() => match never {},
        }
    }

    async fn set_caps(&self, fleet: &Fleet) -> Result<()> {
        let caps = &fleet.caps;
        let repositories = caps.repositories.iter();
        let mut of: Vec<(Scope, &str, u32)> =
            repositories.map(|(name, most)| (Scope::Repository, name.as_str(), *most)).collect();
        if let Some(most) = caps.host {
            let hosts: BTreeSet<&str> =
                fleet.members.values().map(|member| member.host()).collect();
            let hosts = hosts.into_iter().filter(|host| !host.is_empty());
            of.extend(hosts.map(|host| (Scope::Host, host, most)));
        }
        self.state.set_caps(caps.all, &of).await
    }

    /// Says that it lives, for as long as it does, and ends what nobody is heard of any more.
    async fn live(&self) -> Infallible {
        loop {
            self.world.clock.sleep(self.rhythm.renew).await;
            let renewed = self.state.renew(&self.worker, &self.place, self.rhythm.lease).await;
            let reaped = match renewed {
                Ok(()) => self.tidy().await,
                Err(error) => Err(error),
            };
            for (database, trouble) in self.shared.untold() {
                let told = self.state.set_trouble(&database, trouble.as_deref()).await;
                if let Err(error) = told {
                    tracing::warn!(event = "state.unreachable", database, "{error}");
                    self.shared.tell_again(database, trouble);
                }
            }
            if let Err(error) = reaped {
                tracing::warn!(event = "state.unreachable", "{error}");
            }
        }
    }

    /// Ends what nobody is heard of any more, and lets what waits become more urgent.
    async fn tidy(&self) -> Result<()> {
        self.state.reap(STUCK_MAX, &self.worker).await?;
        self.state.let_ranks_grow(RANKS_GROW).await
    }

    /// Looks at each database when something may be due for it.
    async fn schedule(
        &self,
        mut fleets: watch::Receiver<Arc<Fleet>>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut fleet = Arc::clone(&fleets.borrow_and_update());
        let mut wakes = Wakes::of(&fleet, self.world.clock.now());
        let mut stores = fleet.stores();
        let (mut looked, mut heard) = (None, 0);
        let (mut is_reassigned, mut has_agents) = (false, fleet.has_agents());
        loop {
            tokio::select! {
                biased;
                () = is_true(&mut stop) => return,
                () = self.world.clock.sleep(self.rhythm.tick) => {}
                // Much happens at once in a large fleet: what follows within a moment is looked at
                // together.
                () = self.shared.woken.notified() => {
                    self.world.clock.sleep(self.rhythm.tick / MOMENT).await;
                }
            }
            if fleets.has_changed().unwrap_or(false) {
                let next = Arc::clone(&fleets.borrow_and_update());
                self.shared.doubt(&wakes.follow(&fleet, &next, self.world.clock.now()));
                fleet = next;
                (stores, has_agents) = (fleet.stores(), fleet.has_agents());
                is_reassigned = false;
                if let Err(error) = self.set_caps(&fleet).await {
                    tracing::warn!(event = "state.unreachable", "{error}");
                }
            }
            let heard = async {
                if !is_reassigned && self.leads() {
                    self.reassign(&fleet).await?;
                    is_reassigned = true;
                }
                if has_agents { self.hear(&mut heard).await } else { Ok(()) }
            };
            if let Err(error) = heard.await {
                tracing::warn!(event = "state.unreachable", "{error}");
            }
            for name in self.shared.to_schedule() {
                wakes.set(name, self.world.clock.now());
            }
            let settled = self.settle((&fleet, &stores), &mut wakes, &mut looked, &stop).await;
            if let Err(error) = settled {
                tracing::warn!(event = "state.unreachable", "{error}");
                looked = None;
            }
        }
    }

    /// Looks at what may have become due, if this coordinator is the one that decides.
    async fn settle(
        &self,
        (fleet, stores): (&Fleet, &[String]),
        wakes: &mut Wakes,
        looked: &mut Option<Looked>,
        stop: &watch::Receiver<bool>,
    ) -> Result<()> {
        let leads = self.state.lead(&self.worker).await?;
        self.shared.leads.store(leads, Ordering::Relaxed);
        if !leads {
            *looked = None;
            return Ok(());
        }
        let looked = match looked {
            Some(looked) => looked,
            None => looked.insert(self.state.all_looked().await?),
        };
        self.settle_upkeep(fleet, stores, looked).await?;
        let said = Said::new(&self.state.marks().await?);
        let mut led_at = self.world.clock.elapsed();
        while let Some(name) = wakes.due(self.world.clock.now()) {
            let Some(member) = fleet.members.get(&name) else { continue };
            let again = match self.look(fleet, member, (&said, looked)).await {
                Ok(again) => again,
                Err(error) => {
                    tracing::warn!(event = "schedule.failed", database = name, "{error}");
                    self.world.clock.now() + LOOK_AFTER_ERROR
                }
            };
            wakes.set(name, again);
            let is_old = LEAD / 2 < self.world.clock.elapsed().saturating_sub(led_at);
            if *stop.borrow() || is_old && !self.state.lead(&self.worker).await? {
                break;
            }
            if is_old {
                led_at = self.world.clock.elapsed();
            }
        }
        Ok(())
    }

    /// Takes jobs that may run, and does them.
    pub(super) async fn labour(
        &self,
        fleets: watch::Receiver<Arc<Fleet>>,
        stop: watch::Receiver<bool>,
    ) {
        let (give, take) = mpsc::channel(1);
        tokio::join!(self.claim(give, stop.clone()), self.work_off(take, &fleets, stop));
    }

    /// Takes whatever may run.
    async fn claim(&self, give: mpsc::Sender<Claim>, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let claimed = self.state.claim(&self.worker).await;
            match claimed {
                Ok(Some(claim)) => {
                    if give.send(claim).await.is_err() {
                        return;
                    }
                    continue;
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(event = "claim.failed", "{error}"),
            }
            tokio::select! {
                biased;
                () = is_true(&mut stop) => return,
                () = self.world.clock.sleep(self.rhythm.tick) => {}
                () = self.shared.ended.notified() => {}
            }
        }
    }

    /// Does what was taken. Nothing is waited for here but its end: what runs may hold what others
    /// wait for.
    async fn work_off(
        &self,
        mut take: mpsc::Receiver<Claim>,
        fleets: &watch::Receiver<Arc<Fleet>>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut running = FuturesUnordered::new();
        let mut is_open = true;
        let mut patience = pin!(self.lose_patience(&mut stop));
        while is_open || !running.is_empty() {
            tokio::select! {
                biased;
                never = &mut patience => match never {},
                claim = take.recv(), if is_open => match claim {
                    None => is_open = false,
                    Some(claim) => {
                        let fleet = Arc::clone(&fleets.borrow());
                        running.push(async move {
                            self.work(fleets, &fleet, &claim).await;
                            self.shared.change(&claim.task.database);
                            self.shared.ended.notify_one();
                        });
                    }
                },
                Some(()) = running.next(), if !running.is_empty() => {}
            }
        }
    }

    /// Has running jobs dropped a while after it is told to end; is never done.
    pub(super) async fn lose_patience(&self, stop: &mut watch::Receiver<bool>) -> Infallible {
        is_true(stop).await;
        self.world.clock.sleep(DRAIN_MAX).await;
        self.shared.dropped.send_replace(true);
        std::future::pending().await
    }

    /// Is done once running jobs are to be dropped.
    pub(super) async fn dropped(&self) {
        is_true(&mut self.shared.dropped.subscribe()).await;
    }

    /// Whether it decides what is due, and tells people.
    pub fn leads(&self) -> bool {
        self.shared.leads()
    }

    /// What it has counted since it began.
    pub fn tally(&self) -> Tally {
        self.shared.tally().clone()
    }

    /// Has a database looked at soon, since something about it has changed.
    pub fn look_at(&self, database: &str) {
        self.shared.change(database);
    }

    /// What was last found out about a database.
    pub fn known(&self, database: &str) -> Option<Standing> {
        self.shared.known(database).map(|(_, standing)| standing)
    }

    /// What the repository says of a database, or said a moment ago.
    pub(super) async fn standing(&self, fleet: &Fleet, member: &Member) -> Result<Standing> {
        let now = self.world.clock.elapsed();
        if let Some((at, standing)) = self.shared.known(&member.name)
            && at.is_some_and(|at| now.saturating_sub(at) < STANDING_AGE_MAX)
        {
            return Ok(standing);
        }
        self.standing_now(fleet, member).await
    }

    async fn asked(&self, fleet: &Fleet, member: &Member) -> Result<Standing> {
        match self.hands.standing(fleet, member).await {
            Err(error) if member.agent.is_some() && !self.state.is_agent() => {
                let report = reported(&self.state, &member.name).await?;
                report.map(|report| report.standing).ok_or(error)
            }
            asked => asked,
        }
    }

    /// What the repository says of a database.
    pub(super) async fn standing_now(&self, fleet: &Fleet, member: &Member) -> Result<Standing> {
        let now = self.world.clock.elapsed();
        let mut standing = self.asked(fleet, member).await?;
        if let Some(drills) = self.shared.copies().drills.get(&member.name).copied() {
            standing.add(drills);
        }
        let known = (Some(now), standing.clone());
        let before = Shared::lock(&self.shared.standings).insert(member.name.clone(), known);
        if standing.backups > 0 && before.is_none_or(|(_, before)| before.backups == 0) {
            self.shared.joinable.notify_one();
        }
        Ok(standing)
    }
}

/// Is done once the value is true, or nobody can make it so any more.
pub(super) async fn is_true(value: &mut watch::Receiver<bool>) {
    drop(value.wait_for(|is_so| *is_so).await);
}

/// When to look at each database.
#[derive(Debug, Default)]
pub(super) struct Wakes {
    order: BTreeSet<(DateTime<Utc>, String)>,
    of: HashMap<String, DateTime<Utc>>,
}

impl Wakes {
    pub(super) fn of(fleet: &Fleet, now: DateTime<Utc>) -> Self {
        let mut wakes = Self::default();
        fleet.members.keys().for_each(|name| wakes.set(name.clone(), now));
        wakes
    }

    /// Has what is new or different looked at now. Returns what that is.
    pub(super) fn follow(
        &mut self,
        before: &Fleet,
        next: &Fleet,
        now: DateTime<Utc>,
    ) -> Vec<String> {
        let changed = next.members.keys().filter(|name| !next.has_same(before, name));
        let changed: Vec<String> = changed.cloned().collect();
        for name in &changed {
            self.set(name.clone(), now);
        }
        changed
    }

    pub(super) fn set(&mut self, name: String, at: DateTime<Utc>) {
        if let Some(before) = self.of.insert(name.clone(), at) {
            self.order.remove(&(before, name.clone()));
        }
        self.order.insert((at, name));
    }

    /// A database that is to be looked at now; it is taken out.
    pub(super) fn due(&mut self, now: DateTime<Utc>) -> Option<String> {
        let (at, _) = self.order.first()?;
        if now < *at {
            return None;
        }
        let (_, name) = self.order.pop_first()?;
        self.of.remove(&name);
        Some(name)
    }
}
