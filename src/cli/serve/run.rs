//! `stillpoint serve`: runs the policies until it is told to end.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::{Args, builder::NonEmptyStringValueParser};
use stillpoint_contract::{Error, Result, code};
use tokio::sync::{Notify, watch};

use super::{
    super::{archiver, config::files, drill, process, session::Session},
    applied::{self, Document, Held},
    discovery,
    fleet::{self, Seat, Seen},
    http,
    matters::pause,
    metrics::{self, Counted, Measured},
    notify::Channels,
    state,
    stock::{StockTaking, Stocks},
};
use crate::{
    coordinator::{
        Coordinator, Drivers, Fleet, Notifier, Rehearsal, Way,
        state::{Applied, Filter, Stage, State},
        told,
    },
    policy::Registry,
};

/// How often it is looked whether something else was applied.
const RELOAD_PERIOD: Duration = Duration::from_secs(5);

/// How often what could not be opened is tried again.
const REOPEN_PERIOD: Duration = Duration::from_secs(30);

/// Jobs that metrics count.
const JOBS_MAX: u32 = 100_000;

/// What `serve` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Rehearse restores on whole copies, also where backups could be mounted.
    #[arg(long)]
    no_mount: bool,
    /// Where restores are rehearsed [default: TMPDIR, or /var/tmp].
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub(in crate::cli) scratch: Option<PathBuf>,
    /// The site that it is at: it does what is bound to that (run_on = "site=NAME"), which nobody
    /// else does.
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(super) site: Option<String>,
}

impl Options {
    /// The state database, as whoever works at this site uses it.
    pub(super) fn placed(&self, state: State) -> State {
        match &self.site {
            Some(site) => state.at_site(site),
            None => state,
        }
    }

    /// Tells that nothing is bound to this site: it may be written in another way.
    pub(super) fn tell_idle(&self, held: &Held) {
        let is_idle = |site: &&String| !held.config.sites_in_use().contains(site.as_str());
        if let Some(site) = self.site.as_ref().filter(is_idle) {
            tracing::warn!(event = "site.idle", site, "nothing is bound to this site");
        }
    }

    /// Whoever does what is due, with the real drivers.
    pub(super) fn coordinator(
        &self,
        session: &Session,
        state: &State,
        notifier: Arc<dyn Notifier>,
    ) -> Coordinator {
        let (world, place) = (session.world.clone(), session.user());
        let scratch = drill::place(&session.environment, self.scratch.as_deref());
        let rehearsal = Rehearsal {
            engines: session.engines.clone(),
            scratch: scratch.clone(),
            way: if self.no_mount { Way::Restore } else { Way::Mount },
            page: drill::page,
        };
        let process = (process::own(), process::is_gone as fn(&str) -> bool);
        let drivers = Drivers { world: world.clone(), place: place.clone(), process, rehearsal };
        let drivers = Arc::new(drivers);
        let mut coordinator = Coordinator::new(world, state.clone(), place, drivers, notifier);
        coordinator.scratch = Some(scratch);
        coordinator
    }
}

/// Runs them.
pub(crate) async fn run(session: &Session, options: Options) -> Result<()> {
    let settings = files::sound(session)?.config.coordinator;
    let state = options.placed(state::open(session, &settings).await?);
    let held = hold(session, &state).await?;
    options.tell_idle(&held);
    let seat = Seat::serving(options.site.as_deref());
    let channels = Channels::of(&held.config, &session.world, &session.environment);
    let channels = Arc::new(channels);
    let fleet = Arc::new(open(session, &state, (&held, seat), None).await?);
    let listener = match held.config.coordinator.metrics {
        Some(address) => Some(http::listen(address).await?),
        None => None,
    };
    let notifier = Arc::clone(&channels) as Arc<dyn Notifier>;
    let coordinator = options.coordinator(session, &state, notifier);
    tracing::info!(
        event = "serve.started",
        worker = coordinator.worker,
        databases = fleet.members.len(),
        digest = held.digest
    );
    let (send_fleet, fleets) = watch::channel(fleet);
    let (send_held, helds) = watch::channel(Arc::new(held));
    let found = Notify::new();
    let following = Following {
        seat,
        helds: &send_held,
        fleets: &send_fleet,
        channels: Some(&channels),
        found: &found,
    };
    let (send_stop, stop) = watch::channel(false);
    let metrics = async {
        if let Some(listener) = listener {
            let taking = StockTaking::default();
            let page = async || page(session, &coordinator, &fleets, taking.taken()).await;
            tokio::join!(http::serve(listener, page), taking.run(&*session.world.clock, &fleets));
        }
        std::future::pending::<()>().await;
    };
    let leads = || coordinator.leads();
    let ended = |database: &str| coordinator.look_at(database);
    let archives = archiver::tend(session, &state, (leads, ended), helds.clone());
    tell(sd_notify::NotifyState::Ready);
    let served = tokio::select! {
        served = coordinator.serve(fleets.clone(), stop) => served,
        () = signalled(session, &send_stop) => Ok(()),
        () = metrics => Ok(()),
        () = follow(session, &state, &following) => Ok(()),
        () = archives => Ok(()),
        () = discovery::run(session, &coordinator, (helds, fleets.clone()), &found) => Ok(()),
    };
    tracing::info!(event = "serve.ended");
    served
}

/// Waits for a signal, and has everything come to its end.
pub(super) async fn signalled(session: &Session, stop: &watch::Sender<bool>) {
    let mut signals = session.stop.clone();
    drop(signals.wait_for(Option::is_some).await);
    tracing::info!(event = "serve.draining");
    tell(sd_notify::NotifyState::Stopping);
    stop.send_replace(true);
    std::future::pending::<()>().await;
}

/// Whoever supervises us is told; nobody has to.
pub(super) fn tell(what: sd_notify::NotifyState<'_>) {
    drop(sd_notify::notify(&[what]));
}

/// What holds. Where nothing was applied yet, what the files say does from now on; but nothing
/// expires by it where there are backups already: the state may be lost, and the files edited.
async fn hold(session: &Session, state: &State) -> Result<Held> {
    if let Some(held) = applied::held(session, state).await? {
        return Ok(held);
    }
    let mut document = Document::next(session, &files::sources(session)?, None);
    let now = session.world.clock.now();
    let (digest, text) = document.write()?;
    let first = Applied { digest, text, who: session.user(), at: now };
    let nothing = Registry::new();
    if has_backups(&fleet::seen(session, &Held::read(session, &first, nothing)?).await).await? {
        tracing::warn!(event = "retention.waits", "nothing expires before `stillpoint apply`");
        document = document.cautious();
    }
    let (digest, text) = document.write()?;
    state.set_applied(None, &digest, &text, &session.user()).await?;
    let held = applied::held(session, state).await?;
    held.ok_or_else(|| Error::bug("read the configuration that was applied"))
}

async fn has_backups(seen: &Seen) -> Result<bool> {
    for repository in seen.repositories.values() {
        if !repository.history().await?.live().is_empty() {
            return Ok(true);
        }
    }
    // What cannot be looked into may hold some.
    Ok(seen.unopened.values().any(|error| error.code() != code::NO_REPOSITORY))
}

pub(super) async fn open(
    session: &Session,
    state: &State,
    (held, seat): (&Held, Seat<'_>),
    before: Option<&Fleet>,
) -> Result<Fleet> {
    let names = held.config.databases.keys().map(String::as_str);
    let former = held.former();
    let all = names.chain(former.iter().map(|(_, name)| *name));
    let known = state.look_after(all).await?;
    fleet::open(session, state, (held, seat), &known, before).await
}

/// What follows what is applied.
pub(super) struct Following<'a> {
    pub(super) seat: Seat<'a>,
    pub(super) helds: &'a watch::Sender<Arc<Held>>,
    pub(super) fleets: &'a watch::Sender<Arc<Fleet>>,
    pub(super) channels: Option<&'a Channels>,
    /// Something was discovered.
    pub(super) found: &'a Notify,
}

/// Follows what is applied and said meanwhile. What cannot be followed is tried again.
pub(super) async fn follow(session: &Session, state: &State, following: &Following<'_>) {
    let Following { seat, helds, fleets, channels, found } = *following;
    let mut marks = state.marks().await.unwrap_or_default();
    let mut adoptions = state.adoptions().await.unwrap_or_default();
    let mut told_of = String::new();
    let mut opened_at = session.world.clock.elapsed();
    loop {
        tokio::select! {
            () = session.world.clock.sleep(RELOAD_PERIOD) => {}
            () = found.notified() => {}
        }
        tell(sd_notify::NotifyState::Watchdog);
        let before = Arc::clone(&fleets.borrow());
        let lacks = !before.unopened.is_empty()
            || before.members.values().any(|member| member.obstacle.is_some());
        let age = session.world.clock.elapsed().saturating_sub(opened_at);
        let looked = async {
            let applied = state.applied().await?;
            let (said, adopted) = (state.marks().await?, state.adoptions().await?);
            let registry = state.endpoints().await?;
            let now = session.world.clock.now();
            let held = Arc::clone(&helds.borrow());
            let is_new = applied.as_ref().is_some_and(|applied| applied.digest != held.digest);
            let has_said = said != marks || adopted != adoptions;
            let has_found = discovery::finds_more(&held, &registry, now);
            let is_time = lacks && REOPEN_PERIOD <= age;
            if ![is_new, has_said, has_found, is_time].contains(&true) {
                return Ok(());
            }
            let applied = applied.ok_or_else(|| Error::bug("find what was applied"))?;
            let next = Arc::new(Held::read(session, &applied, registry)?);
            let fleet = open(session, state, (&next, seat), Some(&before)).await?;
            opened_at = session.world.clock.elapsed();
            if is_new {
                channels.inspect(|channels| channels.change(&next.config));
                tracing::info!(event = "config.applied", digest = next.digest);
            }
            helds.send_replace(next);
            (marks, adoptions) = (said, adopted);
            fleets.send_replace(Arc::new(fleet));
            Ok::<_, Error>(())
        };
        match looked.await {
            Ok(()) => told_of.clear(),
            Err(error) => {
                let why = told(&error);
                if why != told_of {
                    tracing::error!(event = "config.failed", why);
                }
                told_of = why;
            }
        }
    }
}

/// What is known now, for whoever asks.
async fn page(
    session: &Session,
    coordinator: &Coordinator,
    fleets: &watch::Receiver<Arc<Fleet>>,
    stocks: Stocks,
) -> String {
    let fleet = Arc::clone(&fleets.borrow());
    let now = session.world.clock.now();
    let marks = coordinator.state.marks().await.unwrap_or_default();
    // Whoever does not lead knows what was, not what is.
    let leads = coordinator.leads();
    let measured = fleet.members.values().filter(|_| leads).map(|member| Measured {
        member,
        standing: coordinator.known(&member.name),
        pause: pause(&marks, &member.name, now),
        copies: coordinator.copies_of(&member.name),
        archives: Vec::new(),
    });
    let mut measured: Vec<_> = measured.collect();
    for one in &mut measured {
        one.archives = one.member.archives_due(&coordinator.state).await.unwrap_or_default();
    }
    let mut jobs = Vec::new();
    for stage in [Stage::Waiting, Stage::Running] {
        let filter = Filter { stage: Some(stage), most: JOBS_MAX, ..Filter::default() };
        jobs.extend(coordinator.state.jobs(&filter).await.unwrap_or_default());
    }
    let registry = coordinator.state.endpoints().await.unwrap_or_default();
    let agents = coordinator.state.agents().await.unwrap_or_default();
    let (tally, requests) = (coordinator.tally(), session.requests.read().collect());
    let certificates = {
        let fleet = Arc::clone(&fleet);
        tokio::task::spawn_blocking(move || metrics::certificates_of(&fleet)).await
    };
    let certificates = certificates.unwrap_or_default();
    let counted = Counted { tally: &tally, requests, stocks, certificates };
    metrics::page(&fleet, &measured, (&jobs, &registry, &agents), &counted, now)
}
