//! The configuration that holds: files as they were applied, and what became of databases that are
//! not in them any more.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::super::{config::files, session::Session};
use crate::{
    config::{Config, Database, Loaded, Source, load},
    coordinator::state::{Applied, Mark, Marked, State},
    policy::{self, Registration, Registry},
};

/// The newest form of what is kept.
const FORMAT: u32 = 1;

/// Files, and the databases that were in earlier ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Document {
    format: u32,
    files: Vec<File>,
    /// What is promised for databases that were taken out: what the files said before.
    former: Vec<Former>,
    /// Whether anything may expire by it.
    expires: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct File {
    path: String,
    text: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Former {
    databases: Vec<String>,
    files: Vec<File>,
}

/// The configuration that holds, understood.
#[derive(Debug)]
pub(crate) struct Held {
    /// What tells it from others.
    pub(crate) digest: String,
    pub(super) document: Document,
    /// With everything in it that was discovered.
    pub(super) config: Config,
    former: Vec<(Config, Vec<String>)>,
    /// What is remembered of endpoints.
    pub(super) registry: Registry,
    /// The same as they were written: of the files, and of former ones.
    written: Vec<Config>,
}

fn kept(sources: &[Source]) -> Vec<File> {
    let file = |source: &Source| File { path: source.path.clone(), text: source.text.clone() };
    sources.iter().map(file).collect()
}

fn sources(files: &[File]) -> Vec<Source> {
    let source = |file: &File| Source { path: file.path.clone(), text: file.text.clone() };
    files.iter().map(source).collect()
}

impl Document {
    /// What is to hold from now on: these files, and what is left of what held before.
    pub(super) fn next(session: &Session, given: &[Source], before: Option<&Held>) -> Self {
        let files = kept(given);
        let now = session.world.clock.now();
        let mut loaded = load(given.to_vec(), now);
        if let Some(held) = before {
            loaded.config.discover(&held.registry, now);
        }
        let is_back = |name: &String| loaded.config.databases.contains_key(name);
        let mut former = Vec::new();
        if let Some(held) = before {
            for one in &held.document.former {
                let databases: Vec<_> =
                    one.databases.iter().filter(|name| !is_back(name)).cloned().collect();
                if !databases.is_empty() {
                    former.push(Former { databases, files: one.files.clone() });
                }
            }
            let gone = held.config.databases.keys().filter(|name| !is_back(name));
            let databases: Vec<_> = gone.cloned().collect();
            if !databases.is_empty() {
                former.push(Former { databases, files: held.document.files.clone() });
            }
        }
        Self { format: FORMAT, files, former, expires: true }
    }

    /// The same, by which nothing may expire: nobody has said yet that this is what was promised
    /// for the backups that there are.
    pub(super) fn cautious(self) -> Self {
        Self { expires: false, ..self }
    }

    pub(super) fn write(&self) -> Result<(String, String)> {
        let text = serde_json::to_string(self)
            .map_err(|cause| Error::bug("write a configuration").caused_by(cause))?;
        let digest = blake3::hash(text.as_bytes()).to_hex()[..12].to_owned();
        Ok((digest, text))
    }
}

impl Held {
    /// Understands what holds.
    pub(super) fn read(session: &Session, applied: &Applied, registry: Registry) -> Result<Self> {
        let document: Document = serde_json::from_str(&applied.text).map_err(|cause| {
            Error::new(ErrorKind::Unsupported, code::STATE, "read the configuration that holds")
                .caused_by(cause)
                .next("stillpoint apply")
        })?;
        let now = session.world.clock.now();
        let config = sound(load(sources(&document.files), now))?.config;
        let former = document
            .former
            .iter()
            .map(|one| Ok((sound(load(sources(&one.files), now))?.config, one.databases.clone())));
        let former = former.collect::<Result<Vec<_>>>()?;
        let written = former.iter().map(|(config, _)| config);
        let written = [&config].into_iter().chain(written).cloned().collect();
        let (digest, empty) = (applied.digest.clone(), Registry::new());
        let mut held = Self { digest, config, former, document, registry: empty, written };
        held.discover(registry, now);
        Ok(held)
    }

    /// What would hold, where nothing was applied yet.
    pub(super) fn written(session: &Session, registry: Registry) -> Result<Self> {
        let document = Document::next(session, &files::sources(session)?, None);
        let (digest, text) = document.write()?;
        let who = session.user();
        let applied = Applied { digest, text, who, at: session.world.clock.now() };
        Self::read(session, &applied, registry)
    }

    /// Every database that is looked after, or was, with the configuration that says how, and
    /// whether it is still protected.
    pub(crate) fn databases(
        &self,
        marks: &[Marked],
        now: DateTime<Utc>,
    ) -> Vec<(&Config, &Database, policy::State)> {
        let is_retired = |name: &str| {
            let mut own = marks.iter().filter(|marked| marked.database == name);
            own.any(|marked| marked.mark == Mark::Retired && marked.holds(now))
        };
        let own = self.config.databases.values().map(|database| {
            let is_over = is_retired(&database.name);
            let state = if is_over { policy::State::Retired } else { policy::State::Active };
            (&self.config, database, state)
        });
        let former = self.former().into_iter().filter_map(|(config, name)| {
            Some((config, config.databases.get(name)?, policy::State::Retired))
        });
        own.chain(former).collect()
    }

    /// Puts in what is remembered of endpoints now, in place of what was.
    pub(super) fn discover(&mut self, registry: Registry, now: DateTime<Utc>) {
        let former = self.former.iter_mut().map(|(config, _)| config);
        let all = [&mut self.config].into_iter().chain(former);
        for (config, written) in all.zip(&self.written) {
            config.clone_from(written);
            config.discover(&registry, now);
        }
        self.registry = registry;
    }

    /// What it says with these endpoints.
    pub(super) fn with(&self, registry: &Registry, now: DateTime<Utc>) -> Option<Config> {
        let mut config = self.written.first()?.clone();
        config.discover(registry, now);
        Some(config)
    }

    /// The database that an endpoint belongs to, or belonged to.
    pub(super) fn owner(&self, one: &Registration) -> Option<String> {
        self.written.iter().find_map(|config| config.owner(one))
    }

    /// Everything that it says, layer by layer.
    pub(super) fn effective(&self, session: &Session) -> serde_json::Value {
        load(sources(&self.document.files), session.world.clock.now()).effective()
    }

    /// What it says.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Whether only agents back up to a repository.
    pub(super) fn is_of_agents(&self, repository: &str) -> bool {
        let config = &self.config;
        let is_ruled = config.rules.iter().any(|one| one.repository == repository);
        let mut own = config.databases.values().filter(|one| one.repository == repository);
        let is_used = own.clone().next().is_some();
        is_used && !is_ruled && own.all(|one| one.agent.is_some())
    }

    /// Whether anything may expire by it.
    pub(crate) fn may_expire(&self) -> bool {
        self.document.expires
    }

    /// What was promised for databases that are not in the files any more.
    pub(super) fn former(&self) -> Vec<(&Config, &str)> {
        let pairs = self.former.iter();
        pairs.flat_map(|(config, names)| names.iter().map(move |name| (config, &**name))).collect()
    }
}

/// What was sound when it was applied may not be for another version of this program: then nothing
/// of it is left out without a word.
fn sound(loaded: Loaded) -> Result<Loaded> {
    let first = loaded.problems.iter().find(|problem| !problem.is_warning);
    match first.map(|problem| problem.what.clone()) {
        None => Ok(loaded),
        Some(what) => {
            let step = "understand the configuration that was applied";
            Err(Error::new(ErrorKind::Config, code::BAD_CONFIG, step)
                .caused_by(what)
                .why("another version of this program applied it")
                .next("stillpoint plan"))
        }
    }
}

/// The digest that the files as they are now would have if they were the first to be applied.
pub(crate) fn written_digest(session: &Session) -> Result<String> {
    let document = Document::next(session, &files::sources(session)?, None);
    document.write().map(|(digest, _)| digest)
}

/// What holds, if anything was applied.
pub(super) async fn held(session: &Session, state: &State) -> Result<Option<Held>> {
    let Some(applied) = state.applied().await? else { return Ok(None) };
    Held::read(session, &applied, state.endpoints().await?).map(Some)
}
