//! What a server says of itself and what the role may do there.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use stillpoint_contract::{
    Capabilities, Consistency, Error, ErrorKind, Identity, Incremental, Lineage, LogPosition,
    LogSupply, Probe, Result, code,
};
use tokio_postgres::error::SqlState;

use crate::{
    config::Method,
    connect::{Cluster, Sql, location},
    copy::control,
    error,
    layout::Tablespace,
    version::Version,
};

/// Settings that are worth recording: what replay needs, and what tells servers apart.
const SETTINGS: &[&str] = &[
    "block_size",
    "config_file",
    "data_checksums",
    "data_directory",
    "data_directory_mode",
    "hba_file",
    "ident_file",
    "lc_collate",
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_replication_slots",
    "max_slot_wal_keep_size",
    "max_wal_senders",
    "max_worker_processes",
    "archive_command",
    "archive_mode",
    "port",
    "segment_size",
    "server_encoding",
    "server_version_num",
    "shared_preload_libraries",
    "summarize_wal",
    "track_commit_timestamp",
    "wal_level",
    "wal_log_hints",
    "wal_segment_size",
];

/// Of those, what a backup records.
const RECORDED: &[&str] = &[
    "block_size",
    "data_checksums",
    "lc_collate",
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_worker_processes",
    "server_encoding",
    "server_version_num",
    "shared_preload_libraries",
    "track_commit_timestamp",
    "wal_level",
    "wal_segment_size",
];

/// Functions that read files, with their argument types.
pub(crate) const READ_FUNCTIONS: [&str; 3] = [
    "pg_read_binary_file(text, bigint, bigint, boolean)",
    "pg_stat_file(text, boolean)",
    "pg_ls_dir(text, boolean, boolean)",
];

const STEP: &str = "ask the server what it is";

/// What was found.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) version: Version,
    /// As the server says it.
    pub(crate) version_text: String,
    pub(crate) system_identifier: String,
    pub(crate) may_replicate: bool,
    pub(crate) may_begin_backup: bool,
    pub(crate) may_read_files: bool,
    pub(crate) size_bytes: u64,
    pub(crate) started_at_s: i64,
    /// Those that the role may see.
    pub(crate) settings: BTreeMap<String, String>,
    pub(crate) tablespaces: Vec<Tablespace>,
    location: String,
}

impl Facts {
    /// Asks.
    pub(crate) async fn ask(sql: &Sql) -> Result<Self> {
        let failed = |e| error::sql(e, STEP);
        unlimited(sql).await?;
        let number: i32 = {
            let query = "SELECT current_setting('server_version_num')::int4";
            sql.client.query_one(query, &[]).await.map_err(failed)?.try_get(0).map_err(failed)?
        };
        let version = Version::new(u32::try_from(number).unwrap_or(0))?;
        quieten(sql, version).await?;
        let may = |functions: &[&str]| {
            let each =
                functions.iter().map(|f| format!("has_function_privilege('{f}', 'EXECUTE')"));
            each.collect::<Vec<_>>().join(" AND ")
        };
        let query = format!(
            "SELECT current_setting('server_version'),
                (SELECT system_identifier::text FROM pg_control_system()),
                (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user),
                {}, {},
                (SELECT coalesce(sum(pg_database_size(oid)), 0)::int8 FROM pg_database
                    WHERE has_database_privilege(oid, 'CONNECT')),
                extract(epoch FROM pg_postmaster_start_time())::int8",
            may(&version.backup_functions()),
            may(&READ_FUNCTIONS),
        );
        let row = sql.client.query_one(&query, &[]).await.map_err(failed)?;
        let size: i64 = row.try_get(5).map_err(failed)?;
        let settings = settings(sql).await?;
        let directory = settings.get("data_directory").map_or("", String::as_str);
        Ok(Self {
            version,
            version_text: row.try_get(0).map_err(failed)?,
            system_identifier: row.try_get(1).map_err(failed)?,
            may_replicate: row.try_get::<_, Option<bool>>(2).map_err(failed)?.unwrap_or(false),
            may_begin_backup: row.try_get(3).map_err(failed)?,
            may_read_files: row.try_get(4).map_err(failed)?,
            size_bytes: u64::try_from(size).unwrap_or(0),
            started_at_s: row.try_get(6).map_err(failed)?,
            location: location(&sql.host, Path::new(directory)).trim_end().to_owned(),
            tablespaces: tablespaces(sql).await?,
            settings,
        })
    }

    /// A setting as a number.
    pub(crate) fn number(&self, setting: &str) -> Option<u32> {
        self.settings.get(setting)?.parse().ok()
    }

    pub(crate) fn is_on(&self, setting: &str) -> bool {
        self.settings.get(setting).is_some_and(|value| value == "on")
    }

    pub(crate) fn page_bytes(&self) -> u32 {
        self.number("block_size").unwrap_or(8192)
    }

    /// How many pages a file of a relation holds.
    pub(crate) fn segment_pages(&self) -> u32 {
        self.number("segment_size").unwrap_or(131_072)
    }

    /// In the view, the length of a WAL segment is in bytes.
    pub(crate) fn wal_segment_bytes(&self) -> Result<u32> {
        let bytes = self.number("wal_segment_size");
        let valid = bytes.filter(|b| b.is_power_of_two() && (1 << 20..=1 << 30).contains(b));
        valid.ok_or_else(|| error::unexpected("no wal_segment_size", STEP))
    }

    /// Permission bits of directories and of files.
    pub(crate) fn modes(&self) -> (u32, u32) {
        match self.settings.get("data_directory_mode").map(String::as_str) {
            Some("0750") => (0o750, 0o640),
            _ => (0o700, 0o600),
        }
    }

    /// The lineage of a timeline of this cluster.
    pub(crate) fn lineage(&self, timeline: u32) -> Result<Lineage> {
        Lineage::new(format!("{}/{timeline}", self.system_identifier))
    }

    pub(crate) fn position(&self, timeline: u32, lsn: u64) -> Result<LogPosition> {
        Ok(LogPosition { lineage: self.lineage(timeline)?, offset: u128::from(lsn) })
    }

    /// How far WAL was written; `None` for a standby.
    pub(crate) async fn written(&self, sql: &Sql) -> Result<Option<LogPosition>> {
        let step = "ask how far WAL was written";
        // Both in one statement: the name of the file begins with the timeline.
        let query = "SELECT (l.lsn - '0/0')::int8, pg_walfile_name(l.lsn)
             FROM (SELECT pg_current_wal_insert_lsn() AS lsn WHERE NOT pg_is_in_recovery()) AS l";
        let row = sql.client.query_opt(query, &[]).await.map_err(|e| error::sql(e, step))?;
        let Some(row) = row else { return Ok(None) };
        let failed = |e| error::sql(e, step);
        let lsn: i64 = row.try_get(0).map_err(failed)?;
        let file: String = row.try_get(1).map_err(failed)?;
        let timeline = file.get(..8).and_then(|text| u32::from_str_radix(text, 16).ok());
        let timeline = timeline.ok_or_else(|| error::unexpected("no timeline", step))?;
        self.position(timeline, lsn.cast_unsigned()).map(Some)
    }

    /// What the contract wants to know.
    pub(crate) fn probe(&self) -> Probe {
        let wal_is_kept = self.settings.get("wal_level").is_some_and(|level| level != "minimal");
        let recorded = RECORDED
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), self.settings.get(*name)?.clone())));
        Probe {
            identity: Identity {
                id: self.system_identifier.clone(),
                location: self.location.clone(),
            },
            version: self.version_text.clone(),
            capabilities: Capabilities {
                consistency: Consistency::AtEnd,
                incremental: if self.version.has_wal_summaries() && self.is_on("summarize_wal") {
                    Incremental::SincePrevious
                } else {
                    Incremental::Never
                },
                log: if wal_is_kept && self.may_replicate {
                    LogSupply::Stream
                } else {
                    LogSupply::Never
                },
                restores_single_database: false,
            },
            size_bytes: self.size_bytes,
            settings: recorded.collect(),
        }
    }

    /// Tablespaces that lie inside the data directory, relative to it.
    pub(crate) fn tablespaces_inside(&self) -> Vec<String> {
        let Some(directory) = self.settings.get("data_directory") else { return Vec::new() };
        let inside = self.tablespaces.iter().filter_map(|space| {
            let rest = space.location.as_ref()?.strip_prefix(directory.as_str())?;
            Some(rest.strip_prefix('/')?.to_owned())
        });
        inside.collect()
    }

    /// The data directory, if it is on this machine, we may read it, and it is this server's.
    pub(crate) fn local_directory(&self, sql: &Sql) -> Option<PathBuf> {
        if !sql.host.place.is_local() {
            return None;
        }
        let directory = PathBuf::from(self.settings.get("data_directory")?);
        let lock = fs::read_to_string(directory.join("postmaster.pid")).ok()?;
        let mut lines = lock.lines();
        let started_at: i64 = lines.nth(2)?.trim().parse().ok()?;
        let port = lines.next()?.trim();
        let control = fs::read(directory.join(control::CONTROL_FILE)).ok()?;
        let control = control::decode(&control)?;
        // A standby may lie at the same place of another machine; it was started at another time.
        let is_ours = control.system_identifier.to_string() == self.system_identifier
            && (started_at - self.started_at_s).abs() <= 30
            && self.settings.get("port").is_some_and(|own| own == port);
        is_ours.then_some(directory)
    }

    /// Chooses the way of a backup.
    pub(crate) fn choose(&self, cluster: &Cluster, sql: &Sql) -> Result<(Method, Option<PathBuf>)> {
        let local = self.local_directory(sql);
        let can = |method| match method {
            Method::Local => self.may_begin_backup && local.is_some(),
            Method::Sql => self.may_begin_backup && self.may_read_files,
            Method::BaseBackup => self.may_replicate,
        };
        let ways = [Method::Local, Method::Sql, Method::BaseBackup];
        let chosen = match cluster.config.method {
            Some(forced) => Some(forced).filter(|forced| can(*forced)),
            None => ways.into_iter().find(|way| can(*way)),
        };
        chosen.map(|method| (method, local)).ok_or_else(|| self.no_way(cluster.config.method))
    }

    fn no_way(&self, forced: Option<Method>) -> Error {
        let asked = forced.map_or("any", Method::name);
        Error::new(ErrorKind::Denied, code::UNSUITABLE_DATABASE, "choose a way to copy the cluster")
            .with("method", asked)
            .with("may begin a backup", self.may_begin_backup)
            .with("may read files through SQL", self.may_read_files)
            .with("may replicate", self.may_replicate)
            .why("the role lacks privileges")
            .next("stillpoint grants postgres")
    }
}

/// Lifts the time that a role's statements may take, which counts for this one, too.
pub(crate) async fn unlimited(sql: &Sql) -> Result<()> {
    const TRIES_MAX: u32 = 100;
    let mut tries = 0;
    loop {
        match sql.client.batch_execute("SET statement_timeout = 0").await {
            Err(e) if e.code() == Some(&SqlState::QUERY_CANCELED) && tries < TRIES_MAX => {
                tries += 1;
            }
            done => return done.map_err(|e| error::sql(e, "prepare a session")),
        }
    }
}

/// Keeps limits that were set for applications from ending our sessions.
pub(crate) async fn quieten(sql: &Sql, version: Version) -> Result<()> {
    unlimited(sql).await?;
    let mut settings = "SET lock_timeout = 0; SET search_path = pg_catalog; \
                        SET synchronous_commit = off"
        .to_owned();
    if version.major() >= 14 {
        settings.push_str("; SET idle_session_timeout = 0");
    }
    sql.client.batch_execute(&settings).await.map_err(|e| error::sql(e, "prepare a session"))
}

async fn settings(sql: &Sql) -> Result<BTreeMap<String, String>> {
    let failed = |e| error::sql(e, STEP);
    let query = "SELECT name, setting FROM pg_settings WHERE name = ANY ($1)";
    let rows = sql.client.query(query, &[&SETTINGS]).await.map_err(failed)?;
    let pair = |row: &tokio_postgres::Row| {
        let setting: Option<String> = row.try_get(1).map_err(failed)?;
        Ok((row.try_get(0).map_err(failed)?, setting.unwrap_or_default()))
    };
    rows.iter().map(pair).collect()
}

async fn tablespaces(sql: &Sql) -> Result<Vec<Tablespace>> {
    let failed = |e| error::sql(e, STEP);
    let query = "SELECT oid::int8, pg_tablespace_location(oid), spcname::text FROM pg_tablespace \
                 WHERE spcname !~ '^pg_' ORDER BY oid";
    let rows = sql.client.query(query, &[]).await.map_err(failed)?;
    let space = |row: &tokio_postgres::Row| {
        let oid: i64 = row.try_get(0).map_err(failed)?;
        let location: String = row.try_get(1).map_err(failed)?;
        let location = Some(location).filter(|location| location.starts_with('/'));
        let name = Some(row.try_get(2).map_err(failed)?);
        Ok(Tablespace { oid: u32::try_from(oid).unwrap_or(0), name, location })
    };
    rows.iter().map(space).collect()
}
