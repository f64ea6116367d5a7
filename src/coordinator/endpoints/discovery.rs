//! All who know which endpoints there are, each asked in its time.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use stillpoint_contract::{Clock, Error, Result};
#[cfg(not(feature = "dns"))]
use stillpoint_contract::{ErrorKind, code};
use tokio::task::JoinHandle;

#[cfg(feature = "dns")]
use super::dns;
use super::{
    files::{Files, RealFolder},
    program::print,
    shape::{Answer, Common, read},
};
use crate::policy::Sighting;

/// How long an answer is waited for before others are heard. What is late is heard the next time.
const PATIENCE: Duration = Duration::from_secs(1);

/// Somebody who knows endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// What is asked.
    pub whom: Whom,
    /// How often.
    pub every: Duration,
    /// How long an endpoint is there without a sign of life.
    pub ttl: Option<Duration>,
    /// What each endpoint is labelled with.
    pub labels: BTreeMap<String, String>,
}

/// Who is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// A directory.
    Files(PathBuf),
    /// A program.
    Program(Vec<String>),
    /// A name.
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

/// What somebody answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Who.
    pub source: String,
    /// The endpoints that it knows.
    pub seen: Vec<Sighting>,
    /// Whether there are no others.
    pub is_complete: bool,
}

/// All of them.
#[derive(Debug)]
pub struct Discovery {
    sources: Vec<Source>,
    clock: Arc<dyn Clock>,
}

type Looking = JoinHandle<(Option<Files>, Result<Answer>)>;

#[derive(Debug)]
struct Source {
    ask: Ask,
    name: String,
    files: Option<Files>,
    asked: Option<Duration>,
    running: Option<Looking>,
    /// Whether what it is about to answer is of no use any more.
    is_stale: bool,
    /// Why it did not answer the last time.
    trouble: Option<String>,
}

impl Ask {
    /// What it is called, in the same words whenever it is configured.
    pub fn name(&self) -> String {
        match &self.whom {
            Whom::Files(path) => format!("files {}", path.display()),
            Whom::Program(words) => format!("exec {}", words.join(" ")),
            Whom::Dns { name, is_service, port, server } => {
                let kind = if *is_service { "srv" } else { "a" };
                let port = port.map(|port| format!(":{port}")).unwrap_or_default();
                let server = server.map(|server| format!(" @{server}")).unwrap_or_default();
                format!("dns {kind} {name}{port}{server}")
            }
        }
    }

    fn common(&self) -> Common {
        Common { ttl: self.ttl, labels: self.labels.clone() }
    }
}

impl Discovery {
    /// Asks these from now on.
    pub fn new(asks: &[Ask], clock: Arc<dyn Clock>) -> Self {
        let source = |ask: &Ask| Source {
            ask: ask.clone(),
            name: ask.name(),
            files: None,
            asked: None,
            running: None,
            is_stale: false,
            trouble: None,
        };
        Self { sources: asks.iter().map(source).collect(), clock }
    }

    /// Asks others instead; what is known of those that stay is kept.
    pub fn change(&mut self, asks: &[Ask]) {
        let mut next = Self::new(asks, Arc::clone(&self.clock));
        for source in &mut next.sources {
            let known = self.sources.iter().position(|known| known.ask == source.ask);
            if let Some(at) = known {
                *source = self.sources.swap_remove(at);
            }
        }
        *self = next;
    }

    /// Whatever is about to be answered is not to be heard any more.
    pub fn forget(&mut self) {
        for source in &mut self.sources {
            source.is_stale = source.running.is_some();
            source.asked = None;
        }
    }

    /// The names of all that are asked.
    pub fn names(&self) -> Vec<String> {
        self.sources.iter().map(|source| source.name.clone()).collect()
    }

    /// Asks those whose time has come. Whoever does not answer says nothing: what it said before
    /// stays, and it keeps nobody else from being heard.
    pub async fn look(&mut self) -> Vec<Told> {
        let mut told = Vec::new();
        for source in &mut self.sources {
            if let Some(Answer { seen, is_complete }) = source.look(&self.clock).await {
                told.push(Told { source: source.name.clone(), seen, is_complete });
            }
        }
        told
    }
}

impl Source {
    async fn look(&mut self, clock: &Arc<dyn Clock>) -> Option<Answer> {
        let now = clock.elapsed();
        let is_due = self.asked.is_none_or(|asked| self.ask.every <= now.saturating_sub(asked));
        if self.running.is_none() {
            if !is_due {
                return None;
            }
            self.asked = Some(now);
            self.running = Some(self.begin(clock));
        }
        let running = self.running.as_mut()?;
        let ended = tokio::select! {
            biased;
            ended = running => ended,
            () = clock.sleep(PATIENCE) => return None,
        };
        self.running = None;
        let answer = match ended {
            Ok((files, answer)) => {
                self.files = files;
                answer
            }
            Err(cause) => Err(Error::bug("ask for endpoints").caused_by(cause)),
        };
        if std::mem::take(&mut self.is_stale) {
            self.asked = None;
            return None;
        }
        match answer {
            Ok(answer) => {
                self.trouble = None;
                Some(answer)
            }
            Err(error) => {
                let why = crate::coordinator::told(&error);
                if self.trouble.as_ref() != Some(&why) {
                    tracing::warn!(event = "discovery.failed", source = self.name, why);
                }
                self.trouble = Some(why);
                None
            }
        }
    }

    /// Begins to ask. It goes on by itself, since a file system may not answer for long.
    fn begin(&mut self, clock: &Arc<dyn Clock>) -> Looking {
        let common = self.ask.common();
        match &self.ask.whom {
            Whom::Files(path) => {
                let new = || Files::new(Arc::new(RealFolder(path.clone())), common);
                let mut files = self.files.take().unwrap_or_else(new);
                tokio::task::spawn_blocking(move || {
                    let seen = files.look();
                    (Some(files), seen)
                })
            }
            Whom::Program(words) => {
                let (words, clock) = (words.clone(), Arc::clone(clock));
                tokio::spawn(async move {
                    let printed = print(&words, &*clock).await;
                    let seen = printed.and_then(|bytes| read(&bytes, &common, None));
                    (None, seen.map(|seen| Answer { seen, is_complete: true }))
                })
            }
            #[cfg(feature = "dns")]
            Whom::Dns { name, is_service, port, server } => {
                let question = dns::Question {
                    name: name.clone(),
                    is_service: *is_service,
                    port: *port,
                    server: *server,
                };
                tokio::spawn(async move {
                    let seen = dns::ask(&question, &common).await;
                    (None, seen.map(|seen| Answer { seen, is_complete: true }))
                })
            }
            #[cfg(not(feature = "dns"))]
            Whom::Dns { name, .. } => {
                let name = name.clone();
                tokio::spawn(async move { (None, Err(without(&name))) })
            }
        }
    }
}

#[cfg(not(feature = "dns"))]
fn without(name: &str) -> Error {
    Error::new(ErrorKind::Unsupported, code::CONFIG_VALUE, "look up a name")
        .with("name", name)
        .why("this program was built without what asks for names")
}
