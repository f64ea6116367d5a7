//! The state database, opened.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use stillpoint_contract::{Entropy, Result};

use super::{
    database::Database,
    tables,
    workers::{AWAY, LEAD},
};

/// What coordinators share.
#[derive(Clone, Debug)]
pub struct State {
    pub(super) database: Arc<dyn Database>,
    /// Claims of each worker of which it is not known whether they were made.
    pub(super) unsure: Arc<Mutex<BTreeMap<String, Vec<String>>>>,
    /// The newest id of this process.
    newest: Arc<Mutex<u128>>,
    entropy: Arc<dyn Entropy>,
    /// When nobody looked for so long who was not heard of, everybody gets as long again.
    pub(super) away: Duration,
    /// The agent that this is, if it is one: it takes what it is to do, and nothing else.
    pub(super) agent: String,
    /// The site that this is at, if it is at one: it takes what is bound to it as well.
    pub(super) site: String,
    /// How long whoever decides what is due leads.
    pub(super) lead_term: Duration,
}

impl State {
    /// Makes the tables where there are none.
    ///
    /// # Errors
    ///
    /// What keeps the database from being used; a newer program made it.
    pub async fn open(database: Arc<dyn Database>, entropy: Arc<dyn Entropy>) -> Result<Self> {
        tables::prepare(&*database).await?;
        let (unsure, newest) = (Arc::default(), Arc::default());
        let (agent, site) = (String::new(), String::new());
        let (away, lead_term) = (AWAY, LEAD);
        Ok(Self { database, unsure, newest, entropy, away, agent, site, lead_term })
    }

    /// The same for coordinators that say more rarely that they live: those of a simulation.
    #[must_use]
    pub fn with_term(mut self, term: Duration) -> Self {
        (self.away, self.lead_term) = (term, term);
        self
    }

    /// The same for an agent, which is at no site unless that is said as well.
    #[must_use]
    pub fn of_agent(mut self, name: &str) -> Self {
        name.clone_into(&mut self.agent);
        self.site.clear();
        self
    }

    /// The same for workers of a site.
    #[must_use]
    pub fn at_site(mut self, name: &str) -> Self {
        name.clone_into(&mut self.site);
        self
    }

    /// The site that this is at.
    pub fn site(&self) -> Option<&str> {
        Some(&*self.site).filter(|site| !site.is_empty())
    }

    /// Whether this is the agent of that name.
    pub fn is_agent_of(&self, name: Option<&str>) -> bool {
        self.is_agent() && name == Some(self.agent.as_str())
    }

    /// Whether this is an agent.
    pub fn is_agent(&self) -> bool {
        !self.agent.is_empty()
    }

    /// A new id, which sorts by the time, and after all others of this process.
    pub(super) fn new_id(&self, now: i64) -> String {
        let mut random = [0; 16];
        self.entropy.fill(&mut random);
        let milliseconds = u64::try_from(now / 1_000).unwrap_or_default();
        let drawn = ulid::Ulid::from_parts(milliseconds, u128::from_le_bytes(random)).0;
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        *newest = drawn.max(*newest + 1);
        ulid::Ulid(*newest).to_string()
    }
}
