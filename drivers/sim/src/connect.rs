//! Finding simulated servers by their address, and asking them who they are.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use stillpoint_contract::{
    BackupRequest, Driver, Endpoint, Engine, Evidence, Identity, LogMark, OpenedLog, Probe,
    Reached, Recovery, RestorePlan, RestoreRequest, Result, Sink,
};

use crate::{PAGE_BYTES, SimServer, error::nobody, log, restore, session::Session, snapshot};

/// The version that every simulated server reports.
const VERSION: &str = "1";

/// The simulated servers that can be reached at `sim:NAME`.
#[derive(Debug, Default)]
pub struct SimEngine {
    servers: Mutex<BTreeMap<String, SimServer>>,
}

impl SimEngine {
    /// An engine without servers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a server reachable under its name.
    pub fn add(&self, server: &SimServer) {
        self.servers().insert(server.name().to_owned(), server.clone());
    }

    fn servers(&self) -> MutexGuard<'_, BTreeMap<String, SimServer>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Engine for SimEngine {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn schemes(&self) -> &'static [&'static str] {
        &["sim"]
    }

    fn default_name(&self, endpoint: &Endpoint) -> Result<String> {
        Ok(endpoint.address.clone())
    }

    fn native_use(&self, version: &str, file: &str) -> Vec<String> {
        vec![format!("{file} is a database of the simulated engine, version {version}.")]
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<Box<dyn Driver>> {
        let server = self.servers().get(&endpoint.address).cloned();
        let server = server.filter(|server| !server.state().gone);
        let server = server.ok_or_else(|| nobody(&endpoint.address))?;
        Session::begin(&server, "connect")?.step().await?;
        Ok(Box::new(SimDriver { server }))
    }

    async fn plan_restore(&self, request: &RestoreRequest<'_>) -> Result<RestorePlan> {
        restore::plan(request)
    }

    async fn recover(&self, recovery: Recovery<'_>) -> Result<Reached> {
        restore::recover(recovery).await
    }

    async fn check(&self, plan: &RestorePlan) -> Result<String> {
        restore::check(plan).await
    }

    async fn publish(&self, plan: &RestorePlan) -> Result<()> {
        restore::publish(plan).await
    }
}

/// A server that was reached. Each piece of work has a session of its own.
#[derive(Debug)]
struct SimDriver {
    server: SimServer,
}

#[async_trait]
impl Driver for SimDriver {
    async fn probe(&self) -> Result<Probe> {
        let session = Session::begin(&self.server, "probe")?;
        session.step().await?;
        let (table, _) = session.snapshot()?;
        Ok(Probe {
            identity: Identity {
                id: session.identity.clone(),
                location: self.server.name().to_owned(),
            },
            version: VERSION.to_owned(),
            capabilities: self.server.mode().capabilities(),
            size_bytes: u64::from(table.page_count()) * PAGE_BYTES as u64,
            settings: BTreeMap::new(),
        })
    }

    async fn backup(&self, request: BackupRequest<'_>, sink: &dyn Sink) -> Result<Evidence> {
        snapshot::back_up(&self.server, request, sink).await
    }

    async fn open_log(&self, since: Option<&LogMark>) -> Result<OpenedLog> {
        log::open(&self.server, since).await
    }
}
