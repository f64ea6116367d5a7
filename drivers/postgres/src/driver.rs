//! The engine and its connected driver: the contract's methods, each handed to its module.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use stillpoint_contract::{
    BackupRequest, Certificate, Clock, Driver, Endpoint, Engine, Evidence, Finding, LogArchive,
    LogMark, LogPosition, NativePoint, OpenedLog, Probe, Reached, Recovery, RestorePlan,
    RestoreRequest, Result, Rows, Sandbox, SandboxRequest, SegmentHead, Share, ShareRequest, Sink,
};

use crate::{
    archive::Archive, config::Config, connect::Cluster, facts::Facts, grants, log, points, recover,
    restore, rows, sandbox, share, snapshot, tls, version::MAJORS, wire::lsn_text,
};

/// PostgreSQL clusters.
#[derive(Clone, Debug)]
pub struct PostgresEngine {
    clock: Arc<dyn Clock>,
    programs: Vec<PathBuf>,
}

impl PostgresEngine {
    /// An engine whose waits and times come from `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, programs: Vec::new() }
    }

    /// Looks for server programs in these directories first; a restore replays WAL with one.
    pub fn with_programs(self, programs: Vec<PathBuf>) -> Self {
        Self { programs, ..self }
    }
}

#[async_trait]
impl Engine for PostgresEngine {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn schemes(&self) -> &'static [&'static str] {
        &["postgres", "postgresql"]
    }

    fn default_name(&self, endpoint: &Endpoint) -> Result<String> {
        Ok(Config::new(endpoint)?.default_name())
    }

    fn native_use(&self, version: &str, file: &str) -> Vec<String> {
        let major = version.split(['.', ' ', 'b', 'r']).next().unwrap_or(version);
        vec![
            format!("{file} is a complete data directory with its WAL, of PostgreSQL {version}."),
            format!("As the user of the server: mkdir -m 700 DATA && tar -xpf {file} -C DATA"),
            format!("With the programs of PostgreSQL {major}: pg_ctl -D DATA start"),
            "The server replays the WAL that is there, and is consistent then.".to_owned(),
            "Settings are those of the cluster: look at postgresql.conf before it starts."
                .to_owned(),
        ]
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<Box<dyn Driver>> {
        let cluster = Cluster::new(Config::new(endpoint)?, Arc::clone(&self.clock))?;
        Facts::ask(&cluster.sql().await?).await?;
        Ok(Box::new(PostgresDriver { cluster }))
    }

    async fn plan_restore(&self, request: &RestoreRequest<'_>) -> Result<RestorePlan> {
        restore::plan(request, &self.programs, self.clock.as_ref()).await
    }

    async fn recover(&self, recovery: Recovery<'_>) -> Result<Reached> {
        Box::pin(recover::recover(recovery, &self.programs)).await
    }

    async fn check(&self, plan: &RestorePlan) -> Result<String> {
        restore::check(plan).await
    }

    async fn publish(&self, plan: &RestorePlan) -> Result<()> {
        restore::publish(plan).await
    }

    async fn start(&self, plan: &RestorePlan) -> Result<String> {
        recover::start(plan, &self.programs).await
    }

    /// A server verifies the checksum of every page that it reads, and [`Engine::check`] verifies
    /// nothing else. Source: PostgreSQL 18 documentation, 28.2, Data Checksums.
    fn checks_as_it_reads(&self) -> bool {
        true
    }

    async fn sandbox(&self, request: SandboxRequest<'_>) -> Result<Box<dyn Sandbox>> {
        Box::pin(sandbox::open(request, &self.programs, &self.clock)).await
    }

    fn database_of(&self, endpoint: &Endpoint) -> Result<Option<String>> {
        Ok(Some(Config::new(endpoint)?.database))
    }

    async fn admit_share(&self, request: &ShareRequest<'_>) -> Result<()> {
        share::admit(request, &self.clock).await
    }

    fn remains_of_share(&self, share: &Share, token: &str) -> Option<String> {
        (*share == Share::Database).then(|| format!("database {}", share::unfinished(token)))
    }

    async fn sweep_share(&self, request: &ShareRequest<'_>) -> Result<Vec<String>> {
        share::sweep(request, &self.clock).await
    }

    fn certificates(&self, endpoint: &Endpoint) -> Result<Vec<Certificate>> {
        tls::ends(&Config::new(endpoint)?)
    }

    fn grants(&self, role: &str, major: Option<u32>) -> Result<Option<String>> {
        let major = major.unwrap_or(*MAJORS.end());
        grants::grants(role, major.saturating_mul(10_000)).map(Some)
    }

    fn point_forms(&self) -> &'static str {
        points::FORMS
    }

    fn read_point(&self, text: &str) -> Result<Option<NativePoint>> {
        points::read(text)
    }

    fn commit_of(&self, transaction: &str, head: &SegmentHead) -> Option<u128> {
        points::commit_of(transaction, head)
    }

    fn archive(&self) -> Option<&dyn LogArchive> {
        Some(&Archive)
    }

    fn render(&self, position: &LogPosition) -> String {
        u64::try_from(position.offset).map_or_else(|_| position.to_string(), lsn_text)
    }
}

/// One cluster. Holds no session between calls.
#[derive(Debug)]
struct PostgresDriver {
    cluster: Cluster,
}

#[async_trait]
impl Driver for PostgresDriver {
    async fn probe(&self) -> Result<Probe> {
        Ok(Facts::ask(&self.cluster.sql().await?).await?.probe())
    }

    async fn examine(&self) -> Result<Vec<Finding>> {
        grants::examine(&self.cluster).await
    }

    async fn backup(&self, request: BackupRequest<'_>, sink: &dyn Sink) -> Result<Evidence> {
        // Boxed, since it holds the state of everything that a backup does.
        Box::pin(snapshot::backup(&self.cluster, request, sink)).await
    }

    async fn open_log(&self, since: Option<&LogMark>) -> Result<OpenedLog> {
        log::open(&self.cluster, since).await
    }

    async fn rows(&self) -> Result<Box<dyn Rows>> {
        rows::open(&self.cluster).await
    }

    async fn position(&self) -> Result<Option<LogPosition>> {
        let sql = self.cluster.sql().await?;
        Facts::ask(&sql).await?.written(&sql).await
    }

    async fn retire_log(&self) -> Result<Option<String>> {
        log::retire(&self.cluster).await
    }
}
