//! The engine and its connected driver: the contract's methods, each handed to its module.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use stillpoint_contract::{
    BackupRequest, Clock, Driver, Endpoint, Engine, Evidence, LogMark, OpenedLog, Probe, Reached,
    Recovery, RestorePlan, RestoreRequest, Result, Rows, Sandbox, SandboxRequest, Share,
    ShareRequest, Sink,
};

use crate::{
    config::Config,
    connect::Database,
    dump, log, recover, restore, rows, sandbox, share,
    snapshot::{self, blocking},
    version,
};

/// SQLite databases in files.
#[derive(Clone, Debug)]
pub struct SqliteEngine {
    clock: Arc<dyn Clock>,
}

impl SqliteEngine {
    /// An engine whose waits and commit times come from `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock }
    }
}

#[async_trait]
impl Engine for SqliteEngine {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn schemes(&self) -> &'static [&'static str] {
        &["sqlite"]
    }

    fn default_name(&self, endpoint: &Endpoint) -> Result<String> {
        Config::new(endpoint)?.default_name()
    }

    async fn check_dump(&self, left: &Path, copy: &Path) -> Result<String> {
        let (left, copy) = (left.to_owned(), copy.to_owned());
        blocking(move || dump::check(&left, &copy)).await
    }

    fn native_use(&self, version: &str, file: &str) -> Vec<String> {
        vec![
            format!("{file} is a complete database, written by SQLite {version}."),
            "Copy it to where the application opens it, with no -wal or -shm beside it.".to_owned(),
            format!("To look at it: sqlite3 {file} 'PRAGMA integrity_check'"),
        ]
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<Box<dyn Driver>> {
        let config = Config::new(endpoint)?;
        let clock = Arc::clone(&self.clock);
        blocking(move || {
            let database = Database::locate(config, clock)?;
            let connection = database.open()?;
            version::check()?;
            Database::close(connection);
            Ok(Box::new(SqliteDriver { database }) as Box<dyn Driver>)
        })
        .await
    }

    fn is_one_file(&self) -> bool {
        true
    }

    async fn plan_restore(&self, request: &RestoreRequest<'_>) -> Result<RestorePlan> {
        restore::plan(request)
    }

    async fn recover(&self, recovery: Recovery<'_>) -> Result<Reached> {
        recover::recover(recovery).await
    }

    async fn check(&self, plan: &RestorePlan) -> Result<String> {
        let plan = plan.clone();
        blocking(move || restore::check(&plan)).await
    }

    async fn publish(&self, plan: &RestorePlan) -> Result<()> {
        let plan = plan.clone();
        blocking(move || restore::publish(&plan)).await
    }

    async fn sandbox(&self, request: SandboxRequest<'_>) -> Result<Box<dyn Sandbox>> {
        sandbox::open(request, &self.clock)
    }

    async fn admit_share(&self, request: &ShareRequest<'_>) -> Result<()> {
        share::admit(request, &self.clock).await
    }

    fn remains_of_share(&self, _share: &Share, _token: &str) -> Option<String> {
        Some(share::remains())
    }

    async fn sweep_share(&self, request: &ShareRequest<'_>) -> Result<Vec<String>> {
        share::sweep(request, &self.clock).await
    }
}

/// One database file. Holds no connection between calls, so it keeps nobody from anything.
#[derive(Debug)]
struct SqliteDriver {
    database: Database,
}

#[async_trait]
impl Driver for SqliteDriver {
    async fn probe(&self) -> Result<Probe> {
        let database = self.database.clone();
        blocking(move || database.probe()).await
    }

    async fn backup(&self, request: BackupRequest<'_>, sink: &dyn Sink) -> Result<Evidence> {
        snapshot::backup(&self.database, request, sink).await
    }

    async fn open_log(&self, since: Option<&LogMark>) -> Result<OpenedLog> {
        log::open(&self.database, since).await
    }

    async fn rows(&self) -> Result<Box<dyn Rows>> {
        rows::open(&self.database).await
    }
}
