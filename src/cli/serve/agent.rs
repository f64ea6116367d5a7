//! `stillpoint agent`: does beside a database what whoever serves has decided.

use std::sync::Arc;

use clap::{Args, builder::NonEmptyStringValueParser};
use stillpoint_contract::{Error, ErrorKind, Result, code, quoted};
use tokio::sync::{Notify, watch};

use super::{
    super::{config::files, exit, session::Session},
    applied,
    fleet::Seat,
    notify::Channels,
    run::{self, Following},
    state,
};
use crate::{
    config::Coordinator as Settings,
    coordinator::state::{Outcome, State},
};

/// What `agent` is told.
#[derive(Debug, Args)]
pub(crate) struct AgentOptions {
    /// Its name: it looks after databases with `agent = "NAME"`, and, with --site, does what is
    /// bound to that.
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// The state database of those that serve, postgres://USER@HOST/DB [default: that of the
    /// configuration].
    #[arg(long, value_name = "URL")]
    state: Option<String>,
    /// Do what is due now, and end.
    #[arg(long)]
    once: bool,
    /// How it works.
    #[command(flatten)]
    pub(in crate::cli) work: run::Options,
}

/// Works until it is told to end, or once.
pub(crate) async fn run(session: &Session, options: AgentOptions) -> Result<u8> {
    let settings = match &options.state {
        Some(url) => Settings::at(url),
        None => files::sound(session)?.config.coordinator,
    };
    let name = options.name.as_str();
    let state = open(session, &settings).await?.of_agent(name);
    let state = options.work.placed(state);
    let Some(held) = applied::held(session, &state).await? else {
        return Err(nothing_holds());
    };
    options.work.tell_idle(&held);
    let (config, seat) = (held.config(), Seat::agent(name, options.work.site.as_deref()));
    if !config.databases.values().any(|database| seat.minds(config, database)) {
        if options.once {
            return Err(nobodys(name));
        }
        tracing::warn!(event = "agent.idle", agent = name, "no database names this agent");
    }
    let fleet = Arc::new(run::open(session, &state, (&held, seat), None).await?);
    let (worker, databases) = (session.user(), fleet.members.len());
    tracing::info!(event = "agent.started", agent = name, worker, databases);
    // It tells nobody anything: whoever serves does.
    let channels = Channels::of(held.config(), &session.world, &session.environment);
    let agent = options.work.coordinator(session, &state, Arc::new(channels));
    let (send_fleet, fleets) = watch::channel(fleet);
    let (send_held, _helds) = watch::channel(Arc::new(held));
    let (send_stop, stop) = watch::channel(false);
    let found = Notify::new();
    let following =
        Following { seat, helds: &send_held, fleets: &send_fleet, channels: None, found: &found };
    run::tell(sd_notify::NotifyState::Ready);
    let worked = async {
        if options.once {
            return Box::pin(agent.assist_once(fleets, stop)).await;
        }
        agent.assist(fleets, stop).await.map(|()| Vec::new())
    };
    let outcomes = tokio::select! {
        outcomes = worked => outcomes?,
        () = run::signalled(session, &send_stop) => Vec::new(),
        () = run::follow(session, &state, &following) => Vec::new(),
    };
    tracing::info!(event = "agent.ended", agent = name, jobs = outcomes.len());
    let is_good = |outcome: &Outcome| matches!(outcome, Outcome::Succeeded | Outcome::Superseded);
    let is_all_good = outcomes.iter().all(is_good);
    Ok(if is_all_good { exit::OK } else { exit::status(ErrorKind::TimedOut) })
}

/// An agent makes no state database: one that is not there is somewhere else.
async fn open(session: &Session, settings: &Settings) -> Result<State> {
    if state::is_there(session, settings)? {
        return state::open(session, settings).await;
    }
    let place = settings.state.as_deref().unwrap_or("the usual file");
    Err(Error::new(ErrorKind::Missing, code::STATE, "find the state database")
        .with("place", place)
        .why("an agent works for those that serve, with the state database that they share")
        .next("in the configuration: [coordinator] state = \"postgres://USER@HOST/DB\"")
        .next(format!("stillpoint agent --state {}", quoted("postgres://USER@HOST/DB"))))
}

fn nobodys(name: &str) -> Error {
    Error::new(ErrorKind::Missing, code::CONFIG_NAME, "find what the agent is for")
        .with("agent", name)
        .why("no database that was applied names it")
        .next(format!("in the configuration: [database.NAME] agent = {}", quoted(name)))
        .next("stillpoint apply")
}

fn nothing_holds() -> Error {
    Error::new(ErrorKind::Missing, code::STATE, "find out what to do")
        .why("nothing was applied: whoever serves decides what agents do")
        .next("stillpoint serve")
}
