//! A configuration that was understood.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use chrono_tz::Tz;
use zeroize::Zeroizing;

use super::found::Found;
use crate::policy::{ArchiveRule, Class, Lifecycle, Mode, Policy, Rule, Unprotected, Window};

/// Everything that was configured.
#[derive(Clone, Debug)]
pub struct Config {
    /// The zone of calendars that name none.
    pub zone: Tz,
    /// The program that runs the policies.
    pub coordinator: Coordinator,
    /// Where backups are kept, by name.
    pub repositories: BTreeMap<String, Repository>,
    /// What is promised, by name; among them `default`.
    pub policies: BTreeMap<String, Policy>,
    /// What is protected, by name.
    pub databases: BTreeMap<String, Database>,
    /// Which rows are moved out of live tables, by name.
    pub archives: BTreeMap<String, ArchiveRule>,
    /// Who is told of what.
    pub alerts: Vec<Alerting>,
    /// Who knows which endpoints there are.
    pub discover: Vec<Discover>,
    /// Which of them belong to which database, in the order of the file.
    pub rules: Vec<Ruling>,
    /// Endpoints that belong to none.
    pub unprotected: Vec<Unprotected>,
}

/// Who knows which endpoints there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discover {
    /// How it is asked.
    pub kind: DiscoverKind,
    /// How often.
    pub every: Duration,
    /// How long an endpoint is there without a sign of life.
    pub ttl: Option<Duration>,
    /// What each of its endpoints is labelled with.
    pub labels: BTreeMap<String, String>,
}

/// How somebody is asked which endpoints there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiscoverKind {
    /// By the files in a directory.
    Files(PathBuf),
    /// By what a program prints.
    Program(Vec<String>),
    /// By what a name stands for.
    Dns {
        /// The name.
        name: String,
        /// Whether services are asked for, or addresses.
        is_service: bool,
        /// The port, where none is told.
        port: Option<u16>,
        /// Who is asked; otherwise as the system does.
        server: Option<SocketAddr>,
    },
}

/// Which endpoints belong to which database, and what is promised for it.
#[derive(Clone, Debug)]
pub struct Ruling {
    /// Which, and to which.
    pub rule: Rule,
    /// The name of their engine, where the URL does not say it.
    pub engine: Option<String>,
    /// The password of their user.
    pub password: Option<Secret>,
    /// The name of their policy.
    pub policy: String,
    /// The name of their repository.
    pub repository: String,
}

impl Config {
    /// Whether a repository is a folder in which files are left for others.
    pub fn is_handoff(&self, repository: &str) -> bool {
        self.repositories.get(repository).is_some_and(|repository| repository.is_handoff)
    }

    /// Whether a database is only watched: nothing is written for it.
    pub fn is_observed(&self, database: &Database) -> bool {
        let of_policy = self.policies.get(&database.policy).map(|policy| policy.mode);
        database.mode.or(of_policy) == Some(Mode::Observe)
    }

    /// Whether all that is kept in a repository is only watched.
    pub fn is_only_observed(&self, repository: &str) -> bool {
        let mut own = self.databases.values().filter(|one| one.repository == repository);
        let mut rules = self.rules.iter().filter(|one| one.repository == repository);
        let is_used = own.clone().next().is_some() || rules.clone().next().is_some();
        let of_policy = |name: &String| self.policies.get(name).map(|policy| policy.mode);
        is_used
            && own.all(|one| self.is_observed(one))
            && rules.all(|one| of_policy(&one.policy) == Some(Mode::Observe))
    }

    /// The sites that there are: those of repositories, and others that are named.
    pub fn sites(&self) -> BTreeSet<&str> {
        let of_repositories = self.repositories.values().filter_map(|one| one.site.as_deref());
        of_repositories.chain(self.coordinator.sites.iter().map(String::as_str)).collect()
    }

    /// The sites that a copy or a drill is bound to.
    pub fn sites_in_use(&self) -> BTreeSet<&str> {
        self.policies.values().flat_map(Policy::sites).collect()
    }

    /// The repositories that something can be restored from, by name.
    pub fn restorable(&self) -> impl Iterator<Item = &String> {
        let all = self.repositories.iter().filter(|(_, repository)| !repository.is_handoff);
        all.map(|(name, _)| name)
    }

    /// The repository that a copy is fed from in the end, if the named one is a copy: the first
    /// repository of a database, or of what a rule finds, whose policy copies there.
    pub fn origin_of(&self, repository: &str) -> Option<&str> {
        let feeds = |(policy, _): &(&String, &String)| {
            let policy = self.policies.get(*policy);
            policy.is_some_and(|policy| policy.copies.iter().any(|copy| copy.to == repository))
        };
        self.stored().find(feeds).map(|(_, repository)| &**repository)
    }

    /// The policy and the repository of everything that is, or may be, backed up.
    fn stored(&self) -> impl Iterator<Item = (&String, &String)> {
        let databases = self.databases.values().map(|one| (&one.policy, &one.repository));
        databases.chain(self.rules.iter().map(|one| (&one.policy, &one.repository)))
    }
}

/// The program that runs the policies.
#[derive(Clone, Debug)]
pub struct Coordinator {
    /// The URL of its state database, if one was given.
    pub state: Option<String>,
    /// How many backups and drills run at once.
    pub running: u32,
    /// How many of them burden one host at once.
    pub running_per_host: Option<u32>,
    /// Sites at which workers are and no repository is.
    pub sites: Vec<String>,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// How mail is sent.
    pub mail: Option<Mail>,
}

impl Coordinator {
    /// One of which only its state database is known.
    pub fn at(state: &str) -> Self {
        Self {
            state: Some(state.to_owned()),
            running: 1,
            running_per_host: None,
            sites: Vec::new(),
            metrics: None,
            mail: None,
        }
    }
}

/// How mail is sent.
#[derive(Clone, Debug)]
pub struct Mail {
    /// Its server, as a URL.
    pub server: String,
    /// Whom it comes from.
    pub from: String,
    /// The user that logs in there.
    pub user: Option<String>,
    /// The password of that user.
    pub password: Option<Secret>,
}

/// Who is told of what.
#[derive(Clone, Debug)]
pub struct Alerting {
    /// Its name.
    pub name: String,
    /// Of what.
    pub when: Vec<Class>,
    /// Who.
    pub to: Vec<Channel>,
    /// The key with which what webhooks get is signed.
    pub sign: Option<Secret>,
    /// Who is told that all is well.
    pub heartbeat: Option<Heartbeat>,
}

/// How somebody is told.
#[derive(Clone, Debug)]
pub enum Channel {
    /// By a request to a URL.
    Webhook(Secret),
    /// By mail to an address.
    Email(String),
    /// By a program.
    Program(Vec<String>),
}

/// Who is told that all is well.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    /// The URL that is asked.
    pub url: Secret,
    /// How often.
    pub every: Duration,
}

/// A place for backups.
#[derive(Clone, Debug)]
pub struct Repository {
    /// Where it is.
    pub url: String,
    /// Whether it is a folder in which complete native files are left for others, and no
    /// repository that anything is restored from.
    pub is_handoff: bool,
    /// What opens it.
    pub encryption: Option<Encryption>,
    /// The site that it is at.
    pub site: Option<String>,
    /// How many jobs write there at once.
    pub running: Option<u32>,
    /// How fast copies may be written there, in bytes each second.
    pub upload: Option<u64>,
    /// When copies may be written there; always, if there is none.
    pub windows: Vec<Window>,
    /// How many bytes a handoff may hold.
    pub quota: Option<u64>,
}

/// What opens a repository.
#[derive(Clone, Debug)]
pub enum Encryption {
    /// A passphrase.
    Passphrase(Secret),
    /// What is in a key file.
    Key(Secret),
}

/// Something protected.
#[derive(Clone, Debug)]
pub struct Database {
    /// Its name.
    pub name: String,
    /// Where it is, as a URL without a password.
    pub endpoint: String,
    /// The name of its engine, where the URL does not say it.
    pub engine: Option<String>,
    /// The password of its user.
    pub password: Option<Secret>,
    /// The name of its policy.
    pub policy: String,
    /// Whether anything is done for it, where it says another thing than its policy.
    pub mode: Option<Mode>,
    /// The name of its repository.
    pub repository: String,
    /// Words to choose it by.
    pub labels: BTreeMap<String, String>,
    /// What it means when its server says that it is another one, if somebody said.
    pub lifecycle: Option<Lifecycle>,
    /// The name of the agent that reaches it, if whoever serves does not.
    pub agent: Option<String>,
    /// What was found of it, where its endpoints come and go.
    pub found: Option<Found>,
}

/// Where a secret is; not the secret.
#[derive(Clone)]
pub enum Secret {
    /// In a file.
    File(PathBuf),
    /// In a variable of the environment.
    Variable(String),
    /// What a program prints.
    Program(Vec<String>),
    /// In the configuration itself.
    Literal(Zeroizing<String>),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{{ file = {path:?} }}"),
            Self::Variable(name) => write!(f, "{{ env = {name:?} }}"),
            Self::Program(words) => write!(f, "{{ exec = {words:?} }}"),
            Self::Literal(_) => write!(f, "{{ insecure_literal = ... }}"),
        }
    }
}
