//! A session that moves rows of one database.

use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use chrono::{DateTime, Utc};
use stillpoint_contract::{
    ArchiveSet, Burden, Cutoff, Error, ErrorKind, Estimate, Exporting, Finding, Keeping, Lag,
    LedgerEntry, LockTaken, LogUsed, Measure, Named, Outlook, Partition, Partitioned, Pruning,
    PutBack, Referrer, Result, Rows, Space, Table, Weight, code,
};
use tokio_postgres::{Client, error::SqlState};

use super::{
    examine::{at_origin, examine, unset, why_no_versions},
    export::{self, Export},
    failure::failed,
    keep::{self, Keep},
    ledger,
    members::Members,
    outlook, partition, predicate,
    prune::{self, Prune},
    put_back::Return,
    space, standbys,
    table::{self, number_of},
    transaction::Connection,
};
use crate::{
    connect::{APPLICATION, Cluster},
    error::unexpected,
    facts::unlimited,
    version::Version,
};

/// How many rows are counted; whether there are many more does not change what is done.
const COUNTED_MAX: u64 = 100_000;

/// How long a lock of others is waited for; somebody else's work waits behind us meanwhile.
pub(super) const LOCK_WAIT: Duration = Duration::from_secs(2);

/// Settings that say how values are written, whatever role, database and server have, and what is
/// done when we are not heard of. Source: PostgreSQL 18 documentation, 19.11, "Client Connection
/// Defaults", and 19.3.2, "TCP Settings".
const SETTINGS: &str = "
    SET search_path = ''; SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD';
    SET IntervalStyle = 'postgres'; SET extra_float_digits = 1; SET bytea_output = 'hex';
    SET client_encoding = 'UTF8'; SET lc_monetary = 'C'; SET xmloption = 'content';
    SET standard_conforming_strings = on; SET row_security = off;
    SET transform_null_equals = off; SET idle_in_transaction_session_timeout = '10min';
    SET default_transaction_deferrable = off; SET constraint_exclusion = on;
    SET array_nulls = on; SET quote_all_identifiers = off;
    SELECT set_config('synchronous_commit', 'local', false)
        WHERE current_setting('synchronous_commit') = 'off'";

/// Opens a session.
pub(crate) async fn open(cluster: &Cluster) -> Result<Box<dyn Rows>> {
    const STEP: &str = "prepare a session that moves rows";
    let sql = cluster.sql().await?;
    unlimited(&sql).await?;
    let query = "SELECT pg_catalog.pg_is_in_recovery(),
        pg_catalog.current_setting('server_version_num')::int4,
        pg_catalog.current_setting('default_transaction_read_only') = 'on',
        pg_catalog.current_setting('search_path')";
    let row = sql.client.query_one(query, &[]).await.map_err(|e| failed(e, STEP))?;
    let get = |at: usize| row.try_get::<_, bool>(at).map_err(|e| failed(e, STEP));
    if get(0)? {
        return Err(Error::new(ErrorKind::Unsupported, code::UNSUITABLE_DATABASE, "move rows")
            .with("host", &sql.host)
            .why("it is a standby, to which nobody can write")
            .next("connect to its primary: postgres://one,other/…?target_session_attrs=primary"));
    }
    if get(2)? {
        return Err(Error::new(ErrorKind::Unsupported, code::UNSUITABLE_DATABASE, "move rows")
            .with("host", &sql.host)
            .why("default_transaction_read_only is on: nobody is to write to it"));
    }
    let number: i32 = row.try_get(1).map_err(|e| failed(e, STEP))?;
    let version = Version::new(u32::try_from(number).unwrap_or(0))?;
    let mut settings = format!("{SETTINGS}; SET lock_timeout = {}", LOCK_WAIT.as_millis());
    if version.major() >= 14 {
        // A server that works for somebody who is gone notices it.
        settings.push_str("; SET idle_session_timeout = 0");
        settings.push_str("; SET client_connection_check_interval = '1s'");
    }
    if version.major() >= 17 {
        settings.push_str("; SET transaction_timeout = 0");
    }
    sql.client.batch_execute(&settings).await.map_err(|e| failed(e, STEP))?;
    let usual_path = row.try_get(3).map_err(|e| failed(e, STEP))?;
    let slot = cluster.config.slot.clone();
    Ok(Box::new(Session { connection: Connection::new(sql, usual_path), slot }))
}

#[derive(Debug)]
struct Session {
    connection: Connection,
    /// The slot of our own that holds log for us: it is no replica's, whoever reads from it.
    slot: String,
}

#[async_trait]
impl Rows for Session {
    async fn now(&mut self) -> Result<DateTime<Utc>> {
        const STEP: &str = "ask the server for the time";
        let query = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8";
        let row = self.connection.client()?.query_one(query, &[]).await;
        let micros = row.and_then(|row| row.try_get(0)).map_err(|e| failed(e, STEP))?;
        DateTime::from_timestamp_micros(micros).ok_or_else(|| unexpected("no time", STEP))
    }

    async fn table(&mut self, name: &str) -> Result<Table> {
        table::table(self.connection.client()?, name).await
    }

    async fn table_by(&mut self, name: &str, index: &str) -> Result<Table> {
        table::table_by(self.connection.client()?, name, index).await
    }

    async fn named(&mut self, name: &str) -> Result<Named> {
        table::named(self.connection.client()?, name).await
    }

    async fn partitions(&mut self, name: &str) -> Result<Option<Partitioned>> {
        partition::partitions(self.connection.client()?, name).await
    }

    async fn why_not_whole(
        &mut self,
        set: &ArchiveSet,
        partition: &Partition,
    ) -> Result<Option<String>> {
        partition::why_not_whole(self.connection.client()?, set, partition).await
    }

    async fn strays(&mut self, set: &ArchiveSet) -> Result<u64> {
        partition::strays(self.connection.client()?, set).await
    }

    async fn why_no_versions(&mut self, set: &ArchiveSet) -> Result<Option<String>> {
        why_no_versions(self.connection.client()?, set).await
    }

    async fn detach(&mut self, partition: &Partition) -> Result<Option<Table>> {
        let step = self.connection.step()?;
        let done = partition::detach(step.client()?, partition).await;
        step.end(done)
    }

    async fn leaving(&mut self, partition: &Partition) -> Result<Vec<LockTaken>> {
        partition::leaving(self.connection.client()?, partition).await
    }

    async fn referrers(&mut self, table: &Table) -> Result<Vec<Referrer>> {
        let client = self.connection.client()?;
        table::referrers(client, number_of(client, table).await?).await
    }

    async fn bind(
        &mut self,
        table: &Table,
        predicate: &str,
        cutoff: Option<&Cutoff>,
    ) -> Result<String> {
        predicate::bind(&mut self.connection, table, predicate, cutoff).await
    }

    async fn examine(&mut self, set: &ArchiveSet) -> Result<Vec<Finding>> {
        examine(self.connection.client()?, set).await
    }

    async fn deletion_triggers(&mut self, set: &ArchiveSet) -> Result<Vec<String>> {
        let members = Members::look(self.connection.client()?, set).await?;
        Ok(members.deletion_triggers)
    }

    async fn estimate(&mut self, set: &ArchiveSet) -> Result<Estimate> {
        const STEP: &str = "count rows";
        let (table, client) = (&set.root().table, self.connection.client()?);
        let selected = format!("SELECT FROM ONLY {} WHERE ({})", table.name, set.predicate);
        let query = format!(
            "SELECT count(*), pg_total_relation_size($1::oid), (SELECT reltuples::float8
                FROM pg_class WHERE oid = $1::oid)
            FROM ({selected} LIMIT {COUNTED_MAX} + 1) AS counted"
        );
        let number = number_of(client, table).await?;
        let row = client.query_one(&query, &[&number]).await.map_err(|e| failed(e, STEP))?;
        let get = |at: usize| row.try_get::<_, i64>(at).map_err(|e| failed(e, STEP));
        let (mut rows, bytes) = (get(0)?.cast_unsigned(), get(1)?.cast_unsigned());
        let is_estimated = rows > COUNTED_MAX;
        if is_estimated {
            let explain = format!("EXPLAIN (FORMAT TEXT) {selected}");
            let row = client.query(&explain, &[]).await.map_err(|e| failed(e, STEP))?;
            let first = row.first().map(|row| row.try_get::<_, String>(0)).transpose();
            let first = first.map_err(|e| failed(e, STEP))?;
            rows = rows.max(first.as_deref().and_then(expected).unwrap_or(0));
        }
        // -1 where nobody has counted yet.
        let all: f64 = row.try_get(2).map_err(|e| failed(e, STEP))?;
        let share = (rows as f64 / all.max(rows as f64).max(1.0)).clamp(0.0, 1.0);
        Ok(Estimate { rows, bytes: (bytes as f64 * share) as u64, is_estimated })
    }

    async fn outlook(
        &mut self,
        set: &ArchiveSet,
        rows: u64,
        estimate: Estimate,
    ) -> Result<Outlook> {
        let mut transaction = self.connection.begin(outlook::BEGIN).await?;
        let step = transaction.step()?;
        let done = outlook::outlook(step.client()?, set, (rows, estimate)).await;
        let mut outlook = step.end(done)?;
        let step = transaction.step()?;
        let done = outlook::ends(step.client()?, set).await;
        match step.end(done) {
            Ok(ends) => [outlook.first, outlook.last] = ends,
            // Nobody waits for what is only nice to know.
            Err(error) => tracing::debug!("keys are not known: {error}"),
        }
        transaction.roll_back().await?;
        Ok(outlook)
    }

    async fn lock(&mut self, set: &str, patience: Duration) -> Result<()> {
        let step = self.connection.step()?;
        let done = lock(step.client()?, set, patience).await;
        step.end(done)
    }

    async fn open_ledger(&mut self) -> Result<()> {
        let step = self.connection.step()?;
        let done = ledger::open(step.client()?).await;
        step.end(done)
    }

    async fn ledger(&mut self, set: &str) -> Result<Vec<LedgerEntry>> {
        ledger::read(self.connection.client()?, set).await
    }

    async fn snapshot(&mut self) -> Result<Box<dyn Exporting + '_>> {
        Ok(Box::new(Export(self.connection.begin(export::BEGIN).await?)))
    }

    async fn prune(&mut self) -> Result<Box<dyn Pruning + '_>> {
        at_origin(self.connection.client()?).await?;
        Ok(Box::new(Prune::new(self.connection.begin(prune::BEGIN).await?)))
    }

    async fn put_back(&mut self) -> Result<Box<dyn PutBack + '_>> {
        at_origin(self.connection.client()?).await?;
        Ok(Box::new(Return::open(&mut self.connection).await?))
    }

    async fn whose(&mut self) -> Result<String> {
        table::whose(self.connection.client()?).await
    }

    async fn twin(&mut self, of: &Table, schema: Option<&str>) -> Result<Option<Table>> {
        keep::twin(self.connection.client()?, of, schema).await
    }

    async fn keep(&mut self) -> Result<Box<dyn Keeping + '_>> {
        Ok(Box::new(Keep::new(self.connection.begin(prune::BEGIN).await?)))
    }

    async fn burden(&mut self, set: &ArchiveSet) -> Result<Burden> {
        burden(self.connection.client()?, set, &self.slot).await
    }

    async fn untold(&mut self, measure: Measure) -> Result<Option<Finding>> {
        untold(self.connection.client()?, measure).await
    }

    async fn space(&mut self, table: &Table) -> Result<Space> {
        space::space(self.connection.client()?, table).await
    }

    async fn reclaim(&mut self, table: &Table, method: &str) -> Result<String> {
        const STEP: &str = "let the server use free space again";
        if method != "vacuum" {
            return Err(Error::new(ErrorKind::Unsupported, code::USAGE, STEP)
                .with("method", method)
                .with("methods of PostgreSQL", "vacuum"));
        }
        let statement = format!("VACUUM {}", table.name);
        let step = self.connection.step()?;
        let mut done = step.client()?.batch_execute(&statement).await;
        if done.is_ok() {
            done = step.client()?.batch_execute(PUBLISHED).await;
        }
        step.end(done.map_err(|e| failed(e, STEP)))?;
        Ok(format!("{statement}: the table keeps its length, and new rows use what is free"))
    }
}

/// Waits until it is known what vacuuming counted. Before version 15 a process of its own was sent
/// that, and told it to others twice a second.
/// Source: PostgreSQL 14 documentation, 28.2, "The Statistics Collector".
const PUBLISHED: &str = "SELECT pg_catalog.pg_sleep(1)
    WHERE pg_catalog.current_setting('server_version_num')::int4 < 150000";

/// How many rows a step of a plan is expected to give.
/// Source: PostgreSQL 18 documentation, 14.1.1, "EXPLAIN Basics".
fn expected(step: &str) -> Option<u64> {
    let (_, rest) = step.rsplit_once("rows=")?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Locks of a session live as long as it does in the server, whoever is gone: what a transaction
/// of ours does is over when the next one gets the lock.
/// Source: PostgreSQL 18 documentation, 13.3.5, "Advisory Locks".
async fn lock(client: &Client, set: &str, patience: Duration) -> Result<()> {
    const STEP: &str = "keep others from moving rows of the set";
    let hash = digest(&SHA256, format!("stillpoint archive {set}").as_bytes());
    let number = hash.as_ref().first_chunk().map_or(0, |first| i64::from_be_bytes(*first));
    // Zero would mean to wait for ever.
    let limit = |wait: Duration| format!("SET lock_timeout = {}", wait.as_millis().max(1));
    client.batch_execute(&limit(patience)).await.map_err(|e| failed(e, STEP))?;
    let locked = client.execute("SELECT pg_advisory_lock($1)", &[&number]).await;
    client.batch_execute(&limit(LOCK_WAIT)).await.map_err(|e| failed(e, STEP))?;
    match locked {
        Ok(_) => Ok(()),
        Err(e) if e.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
            Err(Error::new(ErrorKind::Busy, code::ROWS_LOCKED, STEP)
                .with("set", set)
                .why("another session moves rows of this set, or has not ended yet")
                .next(
                    "SELECT a.* FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) \
                     WHERE l.locktype = 'advisory' shows who it is",
                )
                .next("wait for it, then run the same command again")
                .caused_by(e))
        }
        Err(e) => Err(failed(e, STEP)),
    }
}

/// Who only stores log, such as `pg_receivewal`, never says how far it has replayed it.
///
/// A replica that has everything says no lag after a while, and neither does one that has never
/// said anything: they are told apart by how far they are.
/// One that dropped off says nothing at all: it is missed by its slot, or by the name that the
/// server is to wait for.
///
/// What sessions of others do is hidden from most roles, and looks like nothing; sessions may also
/// not say it (`track_activities`), and nobody may count dead rows (`track_counts`).
/// Sources: PostgreSQL 18 documentation, 27.2.2, "Viewing Statistics", 27.2.3, "pg_stat_activity",
/// 27.2.4, "pg_stat_replication", and 53.20, "pg_replication_slots".
async fn burden(client: &Client, set: &ArchiveSet, slot: &str) -> Result<Burden> {
    const STEP: &str = "ask the server how it fares";
    let query = "
        SELECT count(*), count(*) FILTER (WHERE state IS NULL OR replay_lag IS NULL
                AND (replay_lsn IS NULL OR replay_lsn < sent_lsn)),
            (extract(epoch FROM max(replay_lag)) * 1000000)::int8,
            (pg_current_wal_insert_lsn() - '0/0')::int8,
            (SELECT CASE WHEN pg_has_role('pg_read_all_stats', 'USAGE')
                    AND NOT coalesce(bool_or(state = 'disabled'), false)
                    THEN count(*) FILTER (WHERE state = 'active') END
                FROM pg_stat_activity
                WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'),
            has_function_privilege('pg_ls_waldir()', 'EXECUTE'),
            (SELECT count(*) FROM pg_replication_slots WHERE slot_type = 'physical' AND NOT active
                AND restart_lsn IS NOT NULL AND slot_name::text NOT IN ($2, 'stillpoint')),
            current_setting('synchronous_standby_names'),
            ARRAY(SELECT lower(application_name) FROM pg_stat_replication)
        FROM pg_stat_replication
        WHERE application_name IS DISTINCT FROM $1 AND state IS DISTINCT FROM 'backup'
            AND NOT coalesce(replay_lsn IS NULL AND flush_lsn IS NOT NULL, false)";
    let row = client.query_one(query, &[&APPLICATION, &slot]).await.map_err(|e| failed(e, STEP))?;
    let get = |at: usize| row.try_get::<_, Option<i64>>(at).map_err(|e| failed(e, STEP));
    let (replicas, unknown) = (get(0)?.unwrap_or(0), get(1)?.unwrap_or(0));
    let connected: Vec<String> = row.try_get(8).map_err(|e| failed(e, STEP))?;
    let wanted = standbys::named(row.try_get(7).map_err(|e| failed(e, STEP))?);
    let are_missed =
        get(6)? != Some(0) || wanted.iter().any(|standby| !connected.contains(standby));
    let lag = match (replicas, unknown, get(2)?) {
        _ if are_missed => Lag::Unknown,
        (0, ..) => Lag::NoReplica,
        (_, 0, lag) => {
            Lag::Behind(Duration::from_micros(u64::try_from(lag.unwrap_or(0)).unwrap_or(0)))
        }
        _ => Lag::Unknown,
    };
    let log = get(3)?.and_then(|bytes| u128::try_from(bytes).ok());
    let active = get(4)?.and_then(|count| u32::try_from(count).ok());
    let may_look = row.try_get(5);
    let names: Vec<_> = set.members.iter().map(|member| member.table.name.as_str()).collect();
    let query = "SELECT CASE WHEN current_setting('track_counts')::bool
            THEN sum(n_dead_tup)::int8 END FROM pg_stat_all_tables
        WHERE relid = ANY (SELECT to_regclass(name) FROM unnest($1::text[]) AS name)";
    let row = client.query_one(query, &[&names]).await;
    let dead: Option<i64> = row.and_then(|row| row.try_get(0)).map_err(|e| failed(e, STEP))?;
    let dead_rows = dead.and_then(|dead| u64::try_from(dead).ok());
    let may_look: bool = may_look.map_err(|e| failed(e, STEP))?;
    let log_used = if may_look { Some(log_used(client).await?) } else { None };
    Ok(Burden { lag, log_bytes: log, dead_rows, active, log_used })
}

/// What [`burden`] does not tell, and who can change that.
async fn untold(client: &Client, measure: Measure) -> Result<Option<Finding>> {
    const STEP: &str = "ask what the role may see";
    let query = "SELECT quote_ident(current_user), pg_has_role('pg_read_all_stats', 'USAGE'),
        has_function_privilege('pg_ls_waldir()', 'EXECUTE'),
        current_setting('track_counts')::bool";
    let row = client.query_one(query, &[]).await.map_err(|e| failed(e, STEP))?;
    let role: String = row.try_get(0).map_err(|e| failed(e, STEP))?;
    let is = |at: usize| row.try_get::<_, bool>(at).map_err(|e| failed(e, STEP));
    let grant = || format!("GRANT pg_monitor TO {role}");
    let (found, statement) = match measure {
        Measure::Sessions if !is(1)? => ("the role does not see what other sessions do", grant()),
        Measure::LogUsed if !is(2)? => ("the role does not see how much log is kept", grant()),
        Measure::DeadRows if !is(3)? => {
            ("track_counts is off: nobody counts dead rows", unset(client, "track_counts").await?)
        }
        _ => return Ok(None),
    };
    Ok(Some(Finding {
        subject: "throttle",
        found: format!("{found}; nothing is deleted as long as it is so"),
        weight: Weight::Advice,
        statement: Some(statement),
    }))
}

/// What the server has to keep of its log, of what `max_wal_size` lets it have: segments up to the
/// one that is written to, which a checkpoint, an archiver or a slot needs. Those behind that one
/// were recycled, and are free.
/// Source: PostgreSQL 18 documentation, 28.5, "WAL Configuration".
async fn log_used(client: &Client) -> Result<LogUsed> {
    const STEP: &str = "ask the server how much log it keeps";
    // Names of segments, behind that of the timeline, are in the order of the log.
    let query = "SELECT coalesce(sum(size) FILTER (WHERE name ~ '^[0-9A-F]{24}$'
            AND substr(name, 9) <= substr(pg_walfile_name(pg_current_wal_lsn()), 9)), 0)::int8,
            pg_size_bytes(current_setting('max_wal_size'))
        FROM pg_ls_waldir()";
    let row = client.query_one(query, &[]).await.map_err(|e| failed(e, STEP))?;
    let get = |at: usize| row.try_get::<_, i64>(at).map_err(|e| failed(e, STEP));
    let (bytes, room) = (get(0)?.cast_unsigned(), get(1)?.cast_unsigned());
    Ok(LogUsed { bytes, room })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_how_many_rows_it_expects() {
        let step = "Seq Scan on orders  (cost=0.00..18334.00 rows=1000021 width=0)";
        assert_eq!(expected(step), Some(1_000_021));
        assert_eq!(expected("Result"), None);
    }
}
