//! The configuration that holds: files as they were applied, and what became of databases that are
//! not in them any more.

use serde::{Deserialize, Serialize};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::super::session::Session;
use crate::{
    config::{Config, Loaded, Source, load},
    coordinator::state::{Applied, State},
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
    pub(super) digest: String,
    pub(super) document: Document,
    pub(super) loaded: Loaded,
    former: Vec<(Config, Vec<String>)>,
}

fn files(sources: &[Source]) -> Vec<File> {
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
        let files = files(given);
        let loaded = load(given.to_vec(), session.world.clock.now());
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
            let gone = held.loaded.config.databases.keys().filter(|name| !is_back(name));
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
    pub(super) fn read(session: &Session, applied: &Applied) -> Result<Self> {
        let document: Document = serde_json::from_str(&applied.text).map_err(|cause| {
            Error::new(ErrorKind::Unsupported, code::STATE, "read the configuration that holds")
                .caused_by(cause)
                .next("stillpoint apply")
        })?;
        let now = session.world.clock.now();
        let loaded = sound(load(sources(&document.files), now))?;
        let former = document
            .former
            .iter()
            .map(|one| Ok((sound(load(sources(&one.files), now))?.config, one.databases.clone())));
        let former = former.collect::<Result<_>>()?;
        Ok(Self { digest: applied.digest.clone(), loaded, former, document })
    }

    /// What it says.
    pub(crate) fn config(&self) -> &Config {
        &self.loaded.config
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

/// What holds, if anything was applied.
pub(super) async fn held(session: &Session, state: &State) -> Result<Option<Held>> {
    let applied = state.applied().await?;
    applied.map(|applied| Held::read(session, &applied)).transpose()
}
