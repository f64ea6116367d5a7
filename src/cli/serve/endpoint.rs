//! `stillpoint endpoint`: what is known of endpoints, and what a deployment says of its own.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use clap::{Args, Subcommand};
use serde::Serialize;
use stillpoint_contract::{Error, ErrorKind, Result, code, quoted};

use super::{
    super::{
        answer::{Answer, Stamp},
        choice::Labels,
        exit,
        page::{Page, Table, printable},
        session::{Session, length},
    },
    desk::Desk,
    discovery::BY_HAND,
};
use crate::{
    config::Config,
    policy::{Belongs, Change, Drain, End, Registration, Registry, Sighting, Wanted, observe},
};

/// How long a drain goes on, where nothing is said.
const DRAIN_MAX: Duration = Duration::from_mins(10);

/// How often it is looked whether an endpoint is drained.
const LOOK_PERIOD: Duration = Duration::from_millis(300);

/// What to do with endpoints.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List endpoints, and to which databases they belong.
    List(ListOptions),
    /// Register an endpoint, or give a sign of life of one.
    ///
    /// It belongs to the database that the rules of the configuration make of its labels. With a
    /// lease, it is lost unless it is registered again in time.
    Register(RegisterOptions),
    /// Give up an endpoint: store everything on it, then leave it.
    ///
    /// It keeps its role until everything that is committed now can be restored; then another one
    /// has it. With --wait, ends with 0 only after that: the endpoint may be terminated. Ends with
    /// 8 where that did not come about in time (10 minutes, or --timeout).
    Drain(DrainOptions),
    /// Take back the registration of an endpoint that was registered by this command.
    Remove(RemoveOptions),
}

/// What `endpoint list` is told.
#[derive(Debug, Args)]
pub(crate) struct ListOptions {
    /// Only those of this database.
    database: Option<String>,
    #[command(flatten)]
    labels: Labels,
    /// Also those that are gone.
    #[arg(long)]
    all: bool,
}

/// What `endpoint register` is told.
#[derive(Debug, Args)]
pub(crate) struct RegisterOptions {
    /// Its name.
    id: String,
    /// Where it is, such as HOST:PORT.
    #[arg(long, value_name = "TARGET")]
    target: String,
    /// What is said of it; may be given several times.
    #[arg(long = "label", value_name = "LABEL=VALUE")]
    labels: Vec<String>,
    /// How long it is there without another sign of life [default: until it is taken back].
    #[arg(long, value_name = "LENGTH")]
    ttl: Option<String>,
    /// It is not there yet; registered again without this, it is.
    #[arg(long)]
    pending: bool,
}

/// What `endpoint drain` is told.
#[derive(Debug, Args)]
pub(crate) struct DrainOptions {
    /// The endpoint.
    id: String,
    /// Wait until it is drained.
    #[arg(long)]
    wait: bool,
}

/// What `endpoint remove` is told.
#[derive(Debug, Args)]
pub(crate) struct RemoveOptions {
    /// The endpoint.
    id: String,
}

#[derive(Debug, Serialize)]
struct EndpointsAnswer {
    endpoints: Vec<Row>,
}

/// An endpoint on the wire.
#[derive(Debug, Serialize)]
struct Row {
    id: String,
    database: Option<String>,
    /// `pending`, `active`, `draining`, `gone(expected)` or `gone(lost)`.
    state: &'static str,
    target: String,
    labels: BTreeMap<String, String>,
    source: String,
    since: Stamp,
    leased_until: Option<Stamp>,
    identity: Option<String>,
    silent_since: Option<Stamp>,
    drained_at: Option<Stamp>,
    ended_at: Option<Stamp>,
    /// What stands in the way: what it said when it was asked, or why it belongs to no database.
    trouble: Option<String>,
}

impl Answer for EndpointsAnswer {
    const SCHEMA: &'static str = "endpoints/1";

    fn write(&self, page: &mut Page<'_>) {
        if self.endpoints.is_empty() {
            page.line("No endpoint is registered.");
            return;
        }
        let heading = ["ENDPOINT", "DATABASE", "STATE", "TARGET", "SINCE", "LEASE", "FROM"];
        let mut table = Table::new(&heading);
        for row in &self.endpoints {
            let until = row.leased_until.filter(|_| row.ended_at.is_none());
            table.row(vec![
                row.id.clone(),
                row.database.clone().unwrap_or_else(|| "UNPROTECTED".to_owned()),
                row.state.to_owned(),
                row.target.clone(),
                page.time(row.since.0),
                until.map_or_else(|| "-".to_owned(), |at| page.time(at.0)),
                row.source.clone(),
            ]);
        }
        page.table(&table);
        for row in &self.endpoints {
            if let Some(trouble) = row.trouble.as_ref().filter(|_| row.ended_at.is_none()) {
                page.line(format!("{}: {}", printable(&row.id), printable(trouble)));
            }
        }
    }
}

#[derive(Debug, Serialize)]
struct EndpointAnswer {
    endpoint: String,
    database: Option<String>,
    /// `registered`, `draining`, `drained` or `removed`.
    said: &'static str,
    drained_at: Option<Stamp>,
    /// The endpoint that has its role from now on.
    successor: Option<String>,
}

impl Answer for EndpointAnswer {
    const SCHEMA: &'static str = "endpoint/1";

    fn write(&self, page: &mut Page<'_>) {
        let (id, said) = (printable(&self.endpoint), self.said);
        let of = self.database.as_ref().map(|name| format!("{}: ", printable(name)));
        let of = of.unwrap_or_default();
        let Some(at) = self.drained_at else {
            page.line(format!("{of}{id} is {said}"));
            return;
        };
        let next = self.successor.as_ref().map_or_else(
            || "no other endpoint is registered".to_owned(),
            |next| format!("its successor is {}", printable(next)),
        );
        let at = page.time(at.0);
        page.line(format!("{of}everything on {id} was stored at {at}; {next}; safe to terminate"));
    }
}

/// Runs one.
pub(crate) async fn run(session: &Session, command: Command) -> Result<u8> {
    let desk = Desk::open(session).await?;
    match command {
        Command::List(options) => list(session, &desk, &options).await?,
        Command::Register(options) => register(session, &desk, options).await?,
        Command::Drain(options) => drain(session, &desk, options).await?,
        Command::Remove(options) => remove(session, &desk, &options).await?,
    }
    Ok(exit::OK)
}

async fn list(session: &Session, desk: &Desk, options: &ListOptions) -> Result<()> {
    let held = desk.held(session).await?;
    let config = held.config();
    let names = match (&options.database, &options.labels.labels) {
        (Some(name), _) => Some(vec![name.clone()]),
        (None, Some(_)) => Some(options.labels.names(config)?),
        (None, None) => None,
    };
    let is_shown = |one: &&Registration| {
        let owner = config.owner(one);
        let is_own = |names: &Vec<String>| owner.is_some_and(|owner| names.contains(&owner));
        (options.all || one.is_there()) && names.as_ref().is_none_or(is_own)
    };
    let shown = held.registry.values().filter(is_shown);
    let mut endpoints: Vec<Row> = shown.map(|one| row(config, one)).collect();
    endpoints.sort_by(|one, other| {
        (&one.database, one.since.0, &one.id).cmp(&(&other.database, other.since.0, &other.id))
    });
    session.answer(&EndpointsAnswer { endpoints })
}

fn row(config: &Config, one: &Registration) -> Row {
    let (database, why) = match config.belongs(one) {
        Belongs::To { database, .. } => (Some(database), None),
        Belongs::ToNone { why } => (None, Some(why)),
    };
    let chosen = database.as_ref().and_then(|name| chosen(config, name));
    Row {
        id: one.id.clone(),
        state: one.phase(chosen).name(),
        database,
        target: one.target.clone(),
        labels: one.labels.clone(),
        source: one.source.clone(),
        since: Stamp(one.since),
        leased_until: one.leased_until().map(Stamp),
        identity: one.identity.clone(),
        silent_since: one.silent.map(Stamp),
        drained_at: one.drain.and_then(|drain| drain.done).map(Stamp),
        ended_at: one.end.map(|(at, _)| Stamp(at)),
        trouble: why.or_else(|| one.trouble.clone()),
    }
}

/// The endpoint of a database that is backed up.
fn chosen<'a>(config: &'a Config, database: &str) -> Option<&'a str> {
    let found = config.databases.get(database)?.found.as_ref()?;
    found.chosen.as_ref().map(|chosen| chosen.id.as_str())
}

async fn register(session: &Session, desk: &Desk, options: RegisterOptions) -> Result<()> {
    let RegisterOptions { id, target, labels, ttl, pending } = options;
    let bad = |given: &str, why| {
        Error::new(ErrorKind::Invalid, code::USAGE, "register an endpoint")
            .with("given", given)
            .why(why)
    };
    let is_text = |text: &str| !text.is_empty() && !text.chars().any(char::is_control);
    if !is_text(&id) || !is_text(&target) || target.contains(char::is_whitespace) {
        return Err(bad(&target, "an id or target is empty, or has blanks or control characters"));
    }
    if Sighting::names_password(&target) {
        return Err(bad("--target", "a password does not belong into a target"));
    }
    let mut all = BTreeMap::new();
    for pair in &labels {
        let pair = pair.split_once('=').filter(|(label, _)| !label.is_empty());
        let (label, value) = pair.ok_or_else(|| bad("--label", "its form is LABEL=VALUE"))?;
        all.insert(label.to_owned(), value.to_owned());
    }
    let ttl = ttl.as_deref().map(length).transpose()?;
    let wanted = if pending { Wanted::Pending } else { Wanted::Active };
    let sighting = Sighting { id: id.clone(), target, labels: all, wanted, ttl, sign: None };
    let mut is_taken = false;
    let change = |registry: &mut Registry, now: DateTime<Utc>| {
        let known = registry.get(&id);
        is_taken = known.is_some_and(|known| known.is_there() && known.source != BY_HAND);
        if is_taken {
            return Vec::new();
        }
        // It alone is told of: of others nothing is said.
        observe(registry, BY_HAND, (std::slice::from_ref(&sighting), false), now)
    };
    desk.state.change_endpoints(&session.user(), change).await?;
    if is_taken {
        return Err(Error::new(ErrorKind::Refused, code::USAGE, "register an endpoint")
            .with("endpoint", &id)
            .why("somebody else registers one of that name")
            .next("stillpoint endpoint list"));
    }
    answer(session, desk, &id, "registered").await
}

async fn answer(session: &Session, desk: &Desk, id: &str, said: &'static str) -> Result<()> {
    let held = desk.held(session).await?;
    let one = held.registry.get(id);
    let database = one.and_then(|one| held.config().owner(one));
    let successor = database.as_ref().and_then(|name| chosen(held.config(), name));
    let successor = successor.filter(|other| *other != id).map(str::to_owned);
    let drained_at = one.and_then(|one| one.drain?.done).map(Stamp);
    session.answer(&EndpointAnswer {
        endpoint: id.to_owned(),
        database,
        said,
        drained_at,
        successor,
    })
}

fn missing(id: &str) -> Error {
    Error::new(ErrorKind::Missing, code::CONFIG_NAME, "find the endpoint")
        .with("given", id)
        .next("stillpoint endpoint list --all")
}

async fn drain(session: &Session, desk: &Desk, options: DrainOptions) -> Result<()> {
    let DrainOptions { id, wait } = options;
    let limit = session.timeout.unwrap_or(DRAIN_MAX);
    let limit = TimeDelta::from_std(limit).unwrap_or(TimeDelta::MAX);
    let mut is_there = false;
    let change = |registry: &mut Registry, now: DateTime<Utc>| {
        let Some(own) = registry.get_mut(&id).filter(|own| own.is_there()) else {
            return Vec::new();
        };
        is_there = true;
        let until = now.checked_add_signed(limit).unwrap_or(DateTime::<Utc>::MAX_UTC);
        // What is committed now is asked for, also where somebody asked before.
        own.drain = Some(Drain { since: now, until, done: None });
        let detail = format!("until {until}");
        vec![Change { id: own.id.clone(), what: "endpoint.draining", detail }]
    };
    desk.state.change_endpoints(&session.user(), change).await?;
    if !is_there {
        return Err(missing(&id));
    }
    if !wait {
        return answer(session, desk, &id, "draining").await;
    }
    let begun = session.world.clock.elapsed();
    // What is said here says more than what would be said at the end of --timeout.
    let limit = session.timeout.unwrap_or(DRAIN_MAX).saturating_sub(LOOK_PERIOD * 2);
    loop {
        let registry = desk.state.endpoints().await?;
        let own = registry.get(&id);
        if own.and_then(|own| own.drain?.done).is_some() {
            return answer(session, desk, &id, "drained").await;
        }
        let is_late = limit <= session.world.clock.elapsed().saturating_sub(begun);
        let is_gone = own.is_none_or(|own| !own.is_there());
        if is_late || is_gone {
            let error = Error::new(ErrorKind::TimedOut, code::INTERRUPTED, "drain the endpoint")
                .with("endpoint", &id);
            let trouble = own.and_then(|own| own.trouble.as_ref());
            let error = trouble.into_iter().fold(error, |error, why| error.with("trouble", why));
            let why = if is_gone {
                "it went away before everything on it was stored"
            } else {
                "what is committed there cannot all be restored yet; is `stillpoint serve` running?"
            };
            return Err(error
                .why(why)
                .next("stillpoint status")
                .next(format!("stillpoint endpoint drain {} --wait", quoted(&id))));
        }
        session.world.clock.sleep(LOOK_PERIOD).await;
    }
}

async fn remove(session: &Session, desk: &Desk, options: &RemoveOptions) -> Result<()> {
    let id = &options.id;
    let mut source = None;
    let change = |registry: &mut Registry, now: DateTime<Utc>| {
        let Some(own) = registry.get_mut(id).filter(|own| own.is_there()) else {
            return Vec::new();
        };
        source = Some(own.source.clone());
        if own.source != BY_HAND {
            return Vec::new();
        }
        own.end = Some((now, End::Expected));
        let detail = "expected: it was taken back".to_owned();
        vec![Change { id: own.id.clone(), what: "endpoint.gone", detail }]
    };
    desk.state.change_endpoints(&session.user(), change).await?;
    match source {
        None => Err(missing(id)),
        Some(source) if source != BY_HAND => {
            Err(Error::new(ErrorKind::Refused, code::USAGE, "take back a registration")
                .with("endpoint", id)
                .with("registered by", source)
                .why("whoever registers it would do so again")
                .next("take it out there, such as by removing its file")
                .next(format!("stillpoint endpoint drain {}", quoted(id))))
        }
        Some(_) => answer(session, desk, id, "removed").await,
    }
}
