//! Databases that a person works on by hand, as those that serve see them.

use std::collections::BTreeMap;

use stillpoint_contract::{Error, ErrorKind, Result, code, quoted};

use super::{
    super::session::Session,
    applied,
    desk::found,
    fleet::{self, Seat},
    matters::pause,
    state,
};
use crate::{
    config::{Config, Database},
    coordinator::{
        Member,
        state::{Adoption, Mark, Marked},
    },
    policy::State,
};

/// What holds, and what people said of it. Nothing is made for it.
#[derive(Debug)]
pub(crate) struct Holding {
    /// What was applied where a coordinator serves, and otherwise what is written down.
    pub config: Config,
    /// Its digest.
    pub digest: String,
    marks: Vec<Marked>,
    adoptions: BTreeMap<String, Adoption>,
}

/// Why those that serve would leave a database alone now.
#[derive(Debug)]
pub(crate) struct Rest {
    /// For people.
    pub why: String,
    /// What ends it, if a person does.
    pub next: Option<String>,
}

impl Rest {
    /// For whoever asked for this database and no other.
    pub(crate) fn refuse(self, database: &str) -> Error {
        let error = Error::new(ErrorKind::Refused, code::CONFIG_VALUE, "back the database up")
            .with("database", database)
            .why(self.why);
        self.next.into_iter().fold(error, Error::next)
    }
}

impl Holding {
    /// Looks.
    pub(crate) async fn of(session: &Session) -> Result<Self> {
        let config = found(session).await?.config;
        if !state::is_there(session, &config.coordinator)? {
            let digest = applied::written_digest(session)?;
            return Ok(Self { config, digest, marks: Vec::new(), adoptions: BTreeMap::new() });
        }
        let state = state::open(session, &config.coordinator).await?;
        let (config, digest) = match applied::held(session, &state).await? {
            Some(held) => (held.config, held.digest),
            None => (config, applied::written_digest(session)?),
        };
        let (marks, adoptions) = (state.marks().await?, state.adoptions().await?);
        Ok(Self { config, digest, marks, adoptions })
    }

    /// A database as those that serve see it.
    pub(crate) async fn member(&self, session: &Session, database: &Database) -> Result<Member> {
        let now = session.world.clock.now();
        let is_retired = |marked: &Marked| {
            marked.database == database.name && marked.mark == Mark::Retired && marked.holds(now)
        };
        let is_retired = self.marks.iter().any(is_retired);
        let state = if is_retired { State::Retired } else { State::Active };
        let of = (&self.config, Seat::SERVING);
        let mut member = fleet::member(session, of, database, state, &BTreeMap::new()).await?;
        member.endpoints.adopted = self.adoptions.get(&database.name).cloned();
        Ok(member)
    }

    /// Why those that serve would not back it up now, unless they would.
    pub(crate) fn rest(&self, session: &Session, member: &Member) -> Option<Rest> {
        let now = session.world.clock.now();
        let resume = || Some(format!("stillpoint db resume {}", quoted(&member.name)));
        if member.state != State::Active {
            return Some(Rest { why: "it is retired".to_owned(), next: resume() });
        }
        if let Some(pause) = pause(&self.marks, &member.name, now) {
            let until = pause.until.map(|at| format!(" until {}", session.zone.exact(at)));
            let why = format!("it is paused{}", until.unwrap_or_default());
            return Some(Rest { why, next: resume() });
        }
        let why = match (&member.agent, member.policy.closed_until(now)) {
            (Some(agent), _) => format!("only its agent {agent} reaches it"),
            (None, _) if member.is_absent() => {
                let why = member.obstacle.as_deref().unwrap_or("there is none");
                format!("it has no endpoint now: {why}")
            }
            (None, Some(end)) => format!("a blackout lasts until {}", session.zone.exact(end)),
            (None, None) => return None,
        };
        Some(Rest { why, next: None })
    }
}
