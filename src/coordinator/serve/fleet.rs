//! What one coordinator looks after.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    path::PathBuf,
    sync::Arc,
};

use chrono::{DateTime, Utc};
use stillpoint_contract::{Endpoint, Engine, Error, ErrorKind, Result, code};

use crate::{
    coordinator::{
        BackupJob, Outbox, Successor,
        state::{self, ARCHIVE, Adoption, Overdue},
    },
    policy::{ArchiveState, Lifecycle, Policy, Registered, State, Unprotected, Window},
    repository::{Repository, WriteOptions},
};

/// Everything that policies are run for.
#[derive(Debug, Default)]
pub struct Fleet {
    /// What is protected, or was, by name.
    pub members: BTreeMap<String, Arc<Member>>,
    /// Where backups are kept, by name.
    pub repositories: BTreeMap<String, Arc<Repository>>,
    /// Folders from which others fetch copies, by name.
    pub outboxes: BTreeMap<String, Outbox>,
    /// Why others could not be opened, by name.
    pub unopened: BTreeMap<String, String>,
    /// How many jobs may run at once.
    pub caps: Caps,
    /// How repositories may be written to by copies, by name.
    pub links: BTreeMap<String, Link>,
    /// Whether anything may expire: not before a person has said by what.
    pub may_expire: bool,
    /// Endpoints that belong to no database.
    pub unprotected: Vec<Unprotected>,
    /// The digest of the configuration that all of it follows from; each backup bears it.
    pub configuration: Option<String>,
}

/// How a repository may be written to by copies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// How many bytes each second; as many as go, if nobody says.
    pub bytes_per_second: Option<u64>,
    /// When; always, if there is none.
    pub windows: Vec<Window>,
}

/// How many jobs may run at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Of everything.
    pub all: u32,
    /// Of each host.
    pub host: Option<u32>,
    /// Of repositories, by name.
    pub repositories: BTreeMap<String, u32>,
}

impl Default for Caps {
    fn default() -> Self {
        Self { all: 4, host: None, repositories: BTreeMap::new() }
    }
}

/// A database and what is promised for it.
#[derive(Debug)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Whether it is still protected.
    pub state: State,
    /// Since when somebody looks after it.
    pub since: DateTime<Utc>,
    /// Where it is. Of one that is retired, nobody has to know.
    pub place: Option<Place>,
    /// Why that is not known although it should be, such as a password that cannot be read.
    pub obstacle: Option<String>,
    /// What is promised for it.
    pub policy: Arc<Policy>,
    /// The name of its repository.
    pub repository: String,
    /// Words to choose it by.
    pub labels: BTreeMap<String, String>,
    /// Whom it concerns, where retention follows from events about somebody.
    pub subjects: Vec<String>,
    /// What is known of its endpoints.
    pub endpoints: Endpoints,
    /// The agent that reaches it, if whoever serves does not.
    pub agent: Option<String>,
    /// Whether it is only watched: nothing is written for it.
    pub is_observed: bool,
    /// The sets of its rows that are archived by a schedule.
    pub archives: Vec<String>,
}

/// What is known of the endpoints of a database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// What it means when its server says that it is another one, if somebody said.
    pub lifecycle: Option<Lifecycle>,
    /// The incarnation in place of which a person lets another one begin.
    pub adopted: Option<Adoption>,
    /// Whether they come and go, so that there may be none.
    pub is_discovered: bool,
    /// The one that is backed up, if it was discovered.
    pub chosen: Option<Registered>,
    /// All that are registered.
    pub present: BTreeSet<String>,
}

impl Endpoints {
    /// Which other server may be the database from now on.
    pub fn successor(&self) -> Successor<'_> {
        match (self.lifecycle, &self.adopted) {
            (Some(Lifecycle::Ephemeral), _) => Successor::Anybody,
            (_, Some(adopted)) => Successor::After(&adopted.incarnation),
            (Some(Lifecycle::Fixed), None) => Successor::Nobody,
            (None, None) => Successor::InPlace,
        }
    }
}

/// Where a database is.
#[derive(Debug)]
pub struct Place {
    /// Its engine.
    pub engine: Arc<dyn Engine>,
    /// How to reach it.
    pub endpoint: Endpoint,
    /// Which machine it burdens.
    pub host: String,
    /// Connections, and parts copied at once.
    pub streams_max: NonZeroUsize,
    /// The folder in which files of it are left, where that is all that there is.
    pub pickup: Option<PathBuf>,
}

impl Fleet {
    /// Whether a database and its repository are in both the very same.
    pub(super) fn has_same(&self, other: &Self, name: &str) -> bool {
        let (Some(own), Some(theirs)) = (self.members.get(name), other.members.get(name)) else {
            return false;
        };
        let repositories =
            [self, other].map(|fleet| fleet.repositories.get(&own.repository).map(Arc::as_ptr));
        Arc::ptr_eq(own, theirs) && repositories[0] == repositories[1]
    }

    /// The agent that is to look after a repository, because it cannot be opened here.
    pub(super) fn keeper(&self, repository: &str) -> Option<&str> {
        let mut own = self.members.values().filter(|member| member.repository == repository);
        own.find_map(|member| member.agent.as_deref())
            .filter(|_| self.unopened.contains_key(repository))
    }

    /// The repository of a member.
    pub fn repository(&self, member: &Member) -> Result<&Arc<Repository>> {
        self.opened(&member.repository)
    }

    /// A repository by its name.
    pub fn opened(&self, name: &str) -> Result<&Arc<Repository>> {
        self.repositories.get(name).ok_or_else(|| {
            let why = self.unopened.get(name).cloned().unwrap_or_default();
            Error::new(ErrorKind::Transient, code::STORE_UNREACHABLE, "use the repository")
                .with("repository", name)
                .why(why)
        })
    }
}

impl Member {
    /// Whether nothing about it is different.
    pub fn is_as(&self, other: &Self) -> bool {
        let is_same_place = match (&self.place, &other.place) {
            (None, None) => true,
            (Some(own), Some(theirs)) => {
                let of = |place: &Place| (place.engine.name(), place.host.clone());
                own.endpoint == theirs.endpoint
                    && of(own) == of(theirs)
                    && own.streams_max == theirs.streams_max
                    && own.pickup == theirs.pickup
            }
            _ => false,
        };
        let of = |one: &Self| (one.name.clone(), one.state, one.since, one.obstacle.clone());
        is_same_place
            && of(self) == of(other)
            && self.policy == other.policy
            && self.repository == other.repository
            && self.labels == other.labels
            && self.subjects == other.subjects
            && self.endpoints == other.endpoints
            && self.agent == other.agent
            && self.is_observed == other.is_observed
            && self.archives == other.archives
    }

    /// Its archive sets for which something is due.
    ///
    /// # Errors
    ///
    /// What keeps the state database from being used.
    pub async fn archives_due(&self, state: &state::State) -> Result<Vec<ArchiveState>> {
        let mut due = Vec::new();
        for set in &self.archives {
            let found = state.overdue(&self.name, &format!("{ARCHIVE}{set}")).await?;
            let of_set = |Overdue { since, ended }| ArchiveState { set: set.clone(), since, ended };
            due.extend(found.map(of_set));
        }
        Ok(due)
    }

    /// Which machine it burdens, as far as that is known.
    pub(super) fn host(&self) -> &str {
        let place = self.place.as_ref().map(|place| place.host.as_str());
        place.or(self.agent.as_deref()).unwrap_or_default()
    }

    /// How it is backed up, whoever asks for it.
    ///
    /// # Errors
    ///
    /// As [`Member::place`].
    pub fn backup(&self) -> Result<BackupJob<'_>> {
        let place = self.place()?;
        Ok(BackupJob {
            engine: &*place.engine,
            endpoint: &place.endpoint,
            database: &self.name,
            full: false,
            successor: self.endpoints.successor(),
            streams_max: place.streams_max,
            options: WriteOptions::default(),
            task: None,
            configuration: None,
        })
    }

    /// Where it is.
    pub fn place(&self) -> Result<&Place> {
        self.place.as_ref().ok_or_else(|| {
            let error = Error::new(ErrorKind::Denied, code::CONFIG_VALUE, "reach the database");
            match &self.obstacle {
                Some(obstacle) => error.with("obstacle", obstacle),
                None if self.agent.is_some() => error.why("only its agent reaches it"),
                None => error.why("it is retired, and nobody has to know where it is"),
            }
        })
    }
}
