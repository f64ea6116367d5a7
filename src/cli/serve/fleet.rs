//! From a configuration that was applied to everything that it names, opened.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    path::Path,
    sync::Arc,
    time::Duration,
};

use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    super::{config::reach, init, open::Opened, retention::Keeping, session::Session},
    applied::Held,
    copies,
};
use crate::{
    config::{Config, Database},
    coordinator::{
        Caps, Endpoints, Fleet, Member, Place,
        state::{Adoption, Known, Mark, Marked, State as Coordinated},
        told,
    },
    policy::{ArchiveRule, CopyRule, Policy, State},
    repository::Repository,
};

/// How long somebody may take to create a repository before others try.
const CREATION_MAX: Duration = Duration::from_secs(30);

/// How long others wait before they look again whether it is there.
const CREATION_PAUSE: Duration = Duration::from_millis(200);

/// Connections to a database, and parts copied at once.
const STREAMS: NonZeroUsize = NonZeroUsize::new(4).expect("four is not zero");

/// Repositories that could be opened, and why others could not.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub repositories: BTreeMap<String, Arc<Repository>>,
    pub unopened: BTreeMap<String, Error>,
}

/// Opens everything that is needed. What is open already stays so.
pub(super) async fn open(
    session: &Session,
    state: &Coordinated,
    (held, seat): (&Held, Seat<'_>),
    known: &BTreeMap<String, Known>,
    before: Option<&Fleet>,
) -> Result<Fleet> {
    let marks = state.marks().await?;
    let adoptions = state.adoptions().await?;
    let mut members = members(session, (held, seat), known, (&marks, &adoptions)).await?;
    for (name, member) in &mut members {
        let same = before.and_then(|before| before.members.get(name));
        // Whoever works on one that is as it was need not stop.
        if let Some(same) = same.filter(|same| same.is_as(member)) {
            *member = Arc::clone(same);
        } else if let Some(why) = &member.obstacle {
            tracing::error!(event = "database.unreachable", database = member.name, why);
        }
    }
    let (mut repositories, mut unopened) = (BTreeMap::new(), BTreeMap::new());
    let mut first = None;
    for (name, config) in used(held, seat) {
        // Nothing is made where nothing is written, and it may be there only for others.
        let is_of_others = held.is_of_agents(name) || config.is_only_observed(name);
        let is_looked_at = if seat.is_serving() {
            is_of_others
        } else {
            let mut own = config.databases.values().filter(|one| one.repository == *name);
            !own.any(|one| seat.reaches(one))
        };
        let opened = match open_already(config, name, before) {
            Some(known) => Ok(known),
            // A place that has the same name here need not be the one that they mean.
            None if is_looked_at => reach::repository(session, config, name)
                .await
                .map(|opened| Arc::new(opened.into_repository())),
            None => repository(session, state, config, name).await.map(Arc::new),
        };
        if let (Err(error), true) = (&opened, is_looked_at) {
            unopened.insert(name.to_owned(), told(error));
            continue;
        }
        first = first.or(note_opened(name, opened, (&mut repositories, &mut unopened)));
    }
    let copied = (&mut repositories, &mut unopened);
    copies::open(session, (state, held, seat), before, copied).await;
    // Others are looked after all the same; but where there are none, somebody has to know now.
    match first {
        Some(error) if repositories.is_empty() => return Err(error),
        _ => {}
    }
    Ok(fleet(session, held, members, (repositories, unopened)))
}

/// What was opened, and whatever else the configuration says.
fn fleet(
    session: &Session,
    held: &Held,
    members: BTreeMap<String, Arc<Member>>,
    (repositories, unopened): (BTreeMap<String, Arc<Repository>>, BTreeMap<String, String>),
) -> Fleet {
    Fleet {
        members,
        repositories,
        outboxes: copies::outboxes(session, held),
        unopened,
        caps: caps(&held.config),
        links: copies::links(&held.config),
        may_expire: held.may_expire(),
        unprotected: held.config.unprotected.clone(),
        configuration: Some(held.digest.clone()),
    }
}

/// Keeps a repository that was opened, or why it was not. Returns that error.
pub(super) fn note_opened(
    name: &str,
    opened: Result<Arc<Repository>>,
    (repositories, unopened): (
        &mut BTreeMap<String, Arc<Repository>>,
        &mut BTreeMap<String, String>,
    ),
) -> Option<Error> {
    match opened {
        Ok(opened) => {
            repositories.insert(name.to_owned(), opened);
            None
        }
        Err(error) => {
            let why = told(&error);
            tracing::error!(event = "repository.unopened", repository = name, why);
            unopened.insert(name.to_owned(), why);
            Some(error)
        }
    }
}

/// Everything that holds, for those who only look: nothing is created, and what cannot be opened
/// is left out.
pub(super) async fn look(
    session: &Session,
    held: &Held,
    known: &BTreeMap<String, Known>,
    marks: &[Marked],
) -> Result<(Fleet, Seen)> {
    let seat = Seat::SERVING;
    let members = members(session, (held, seat), known, (marks, &BTreeMap::new())).await?;
    let seen = seen(session, held).await;
    let opened = (seen.repositories.clone(), BTreeMap::new());
    let fleet = fleet(session, held, members, opened);
    Ok((fleet, seen))
}

/// A repository that is open, and still where its configuration says.
pub(super) fn open_already(
    config: &Config,
    name: &str,
    before: Option<&Fleet>,
) -> Option<Arc<Repository>> {
    let known = before?.repositories.get(name)?;
    let url = &config.repositories.get(name)?.url;
    let is_there = known.location() == *url || Path::new(&known.location()) == Path::new(url);
    is_there.then(|| Arc::clone(known))
}

/// The repositories that can be opened.
pub(super) async fn seen(session: &Session, held: &Held) -> Seen {
    let mut seen = Seen::default();
    for (name, config) in used(held, Seat::SERVING) {
        match reach::repository(session, config, name).await {
            Ok(opened) => {
                seen.repositories.insert(name.to_owned(), Arc::new(opened.into_repository()));
            }
            Err(error) => drop(seen.unopened.insert(name.to_owned(), error)),
        }
    }
    copies::look(session, held, &mut seen).await;
    seen
}

/// The repositories in which backups are, and the configuration that says where they are.
fn used<'a>(held: &'a Held, seat: Seat<'_>) -> BTreeMap<&'a str, &'a Config> {
    let config = &held.config;
    let mut used: BTreeMap<&str, &Config> = BTreeMap::new();
    for (config, name) in held.former() {
        if let Some(database) = config.databases.get(name).filter(|one| seat.needs(config, one)) {
            used.insert(&database.repository, config);
        }
    }
    let own = config.databases.values().filter(|one| seat.needs(config, one));
    used.extend(own.map(|one| (one.repository.as_str(), config)));
    // Where the next database that is discovered goes.
    if seat.is_serving() {
        used.extend(config.rules.iter().map(|one| (one.repository.as_str(), config)));
    }
    used
}

async fn members(
    session: &Session,
    (held, seat): (&Held, Seat<'_>),
    known: &BTreeMap<String, Known>,
    (marks, adoptions): (&[Marked], &BTreeMap<String, Adoption>),
) -> Result<BTreeMap<String, Arc<Member>>> {
    let config = &held.config;
    let now = session.world.clock.now();
    let retired: BTreeSet<&str> = marks
        .iter()
        .filter(|marked| marked.mark == Mark::Retired && marked.holds(now))
        .map(|marked| marked.database.as_str())
        .collect();
    let mut members = BTreeMap::new();
    for database in config.databases.values().filter(|one| seat.minds(config, one)) {
        let state = if retired.contains(&*database.name) { State::Retired } else { State::Active };
        let mut member = member(session, (config, seat), database, state, known).await?;
        member.endpoints.adopted = adoptions.get(&database.name).cloned();
        members.insert(database.name.clone(), Arc::new(member));
    }
    for (config, name) in held.former() {
        let database = config.databases.get(name).filter(|one| seat.minds(config, one));
        let Some(database) = database else { continue };
        let member = member(session, (config, seat), database, State::Retired, known).await?;
        members.entry(database.name.clone()).or_insert_with(|| Arc::new(member));
    }
    Ok(members)
}

/// Opens a repository, or creates it: once, when nobody has ever seen it. One that was there and is
/// gone may be a file system that is not mounted.
async fn repository(
    session: &Session,
    state: &Coordinated,
    config: &Config,
    name: &str,
) -> Result<Repository> {
    let (place, key) = reach::place(session, config, name).await?;
    let seen = format!("repository {name} at {place}");
    if state.known(&seen).await?.is_some() {
        return reach::repository(session, config, name).await.map(Opened::into_repository);
    }
    // Two that create it at once would each find what the other has begun.
    let (lease, own) = (format!("creation of {seen}"), session.world.new_id());
    let mut waited = Duration::ZERO;
    while state.lease(&lease, &own, Some(CREATION_MAX)).await?.is_none() {
        if CREATION_MAX * 2 <= waited {
            return Err(Error::new(ErrorKind::Busy, code::STATE, "create a repository")
                .with("repository", name)
                .why("somebody else is at it"));
        }
        session.world.clock.sleep(CREATION_PAUSE).await;
        waited += CREATION_PAUSE;
    }
    let opened = match reach::repository(session, config, name).await {
        Err(error) if error.code() == code::NO_REPOSITORY => {
            let created = init::create(session, &place, key).await;
            created.map(|(created, _)| {
                tracing::info!(event = "repository.created", repository = name, place);
                created
            })
        }
        opened => opened.map(Opened::into_repository),
    };
    if opened.is_ok() {
        state.look_after([&*seen]).await?;
    }
    state.release(&lease, &own).await?;
    opened
}

fn caps(config: &Config) -> Caps {
    let of = config.repositories.iter();
    Caps {
        all: config.coordinator.running,
        host: config.coordinator.running_per_host,
        repositories: of.filter_map(|(name, one)| Some((name.clone(), one.running?))).collect(),
    }
}

/// Whose eyes a fleet is opened with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seat<'a> {
    /// The agent that it is; whoever serves is none, and looks after everything.
    agent: Option<&'a str>,
    /// The site that it is at.
    site: Option<&'a str>,
}

impl<'a> Seat<'a> {
    /// Of whoever serves, and is at no site: databases of agents are none of its business, but what
    /// is promised is.
    pub(super) const SERVING: Self = Self { agent: None, site: None };

    /// Of whoever serves, at a site or at none.
    pub(super) fn serving(site: Option<&'a str>) -> Self {
        Self { site, ..Self::SERVING }
    }

    /// Of an agent: nothing but its own databases, and what is bound to its site.
    pub(super) fn agent(name: &'a str, site: Option<&'a str>) -> Self {
        Self { agent: Some(name), site }
    }

    fn is_serving(self) -> bool {
        self.agent.is_none()
    }

    /// Whether it has to do with a database at all.
    pub(super) fn minds(self, config: &Config, database: &Database) -> bool {
        let policy = config.policies.get(&database.policy);
        let mut sites = policy.into_iter().flat_map(Policy::sites);
        self.is_serving() || self.reaches(database) || sites.any(|site| self.is_at(Some(site)))
    }

    /// Whether it connects to a database.
    fn reaches(self, database: &Database) -> bool {
        database.agent.as_deref() == self.agent
    }

    /// Whether it needs the repository that a database is backed up to.
    fn needs(self, config: &Config, database: &Database) -> bool {
        let Some(policy) = config.policies.get(&database.policy) else { return true };
        let mut copies = policy.copies.iter().filter(|rule| self.is_at(rule.site.as_deref()));
        let drill = policy.drill.as_ref().filter(|drill| self.is_at(drill.site.as_deref()));
        self.is_serving()
            || self.reaches(database)
            || copies.any(|rule| rule.from.is_none())
            || drill.is_some_and(|drill| drill.from.is_none())
    }

    /// Whether it needs what a copy goes to: to make it, to make another one of it, or to rehearse
    /// restoring from there.
    pub(super) fn needs_copy(self, policy: &Policy, rule: &CopyRule) -> bool {
        let is_it = |name: Option<&String>| name == Some(&rule.name);
        let mut others = policy.copies.iter().filter(|other| self.is_at(other.site.as_deref()));
        let drill = policy.drill.as_ref().filter(|drill| self.is_at(drill.site.as_deref()));
        self.is_serving()
            || self.is_at(rule.site.as_deref())
            || others.any(|other| is_it(other.from.as_ref()))
            || drill.is_some_and(|drill| is_it(drill.from.as_ref()))
    }

    /// Whether it makes copies that are bound to a site, or to none.
    pub(super) fn copies(self, site: Option<&str>) -> bool {
        site.map_or(self.is_serving(), |_| self.is_at(site))
    }

    fn is_at(self, site: Option<&str>) -> bool {
        site.is_some() && site == self.site
    }
}

pub(super) async fn member(
    session: &Session,
    (config, seat): (&Config, Seat<'_>),
    database: &Database,
    state: State,
    known: &BTreeMap<String, Known>,
) -> Result<Member> {
    let policy = config.policies.get(&database.policy);
    let policy = policy.ok_or_else(|| Error::bug("find a policy that was checked"))?;
    let now = session.world.clock.now();
    let (place, obstacle) = match state {
        _ if !seat.reaches(database) => (None, None),
        State::Retired => (None, None),
        State::Active | State::Retiring => match obstacle(database) {
            Some(obstacle) => (None, Some(obstacle)),
            None => match place(session, database).await {
                Ok(place) => (Some(place), None),
                Err(error) => (None, Some(told(&error))),
            },
        },
    };
    Ok(Member {
        name: database.name.clone(),
        state,
        since: known.get(&database.name).map_or(now, |known| known.since),
        place,
        obstacle,
        policy: Arc::new(policy.clone()),
        repository: database.repository.clone(),
        labels: database.labels.clone(),
        subjects: Keeping { database, policy, copy: None, state }.subjects(),
        endpoints: endpoints(database),
        agent: database.agent.clone(),
        is_observed: config.is_observed(database),
        archives: scheduled_archives(config, &database.name),
    })
}

fn scheduled_archives(config: &Config, database: &str) -> Vec<String> {
    let is_own = |rule: &&ArchiveRule| rule.database == database && rule.schedule.is_some();
    config.archives.values().filter(is_own).map(|rule| rule.name.clone()).collect()
}

/// Why nobody can be asked for it now, where that is known beforehand.
fn obstacle(database: &Database) -> Option<String> {
    match &database.found {
        Some(found) => found.obstacle(),
        None if database.endpoint.is_empty() => Some("no endpoint was registered yet".to_owned()),
        None => None,
    }
}

fn endpoints(database: &Database) -> Endpoints {
    let found = database.found.as_ref();
    Endpoints {
        lifecycle: database.lifecycle,
        adopted: None,
        is_discovered: found.is_some() || database.endpoint.is_empty(),
        chosen: found.and_then(|found| found.chosen.clone()),
        present: found.map(|found| found.present.clone()).unwrap_or_default(),
    }
}

/// How to reach it.
pub(super) async fn place(session: &Session, database: &Database) -> Result<Place> {
    let pickup = reach::drop_folder(database);
    let (engine, endpoint) = reach::endpoint(session, database).await?;
    let host = reach::host(&endpoint);
    Ok(Place { engine, endpoint, host, streams_max: STREAMS, pickup })
}
