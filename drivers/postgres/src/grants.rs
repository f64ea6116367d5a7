//! The least that a role needs, as SQL to run, and what a server still lacks.

use std::fmt::Write as _;

use chrono::TimeDelta;
use stillpoint_contract::{Certificate, Finding, Result, Weight};

use crate::{
    connect::{Cluster, Sql},
    error,
    facts::{Facts, READ_FUNCTIONS},
    tls,
    version::Version,
};

/// The SQL that makes a role with the least privileges for backups and for capture of WAL.
///
/// The role reads files through functions that stay inside the data directory, begins and ends
/// backups, and replicates. It can neither read tables nor change anything.
///
/// # Errors
///
/// For a version that is not supported.
pub(crate) fn grants(role: &str, server_version_num: u32) -> Result<String> {
    let version = Version::new(server_version_num)?;
    let role = format!("\"{}\"", role.replace('"', "\"\""));
    let mut sql = format!("CREATE ROLE {role} LOGIN REPLICATION;\n");
    let switch = ["pg_switch_wal()", "pg_create_restore_point(text)"];
    let functions = version.backup_functions().into_iter().chain(READ_FUNCTIONS).chain(switch);
    for function in functions {
        // Writing to a string does not fail.
        let _ = writeln!(sql, "GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {role};");
    }
    let _ = writeln!(sql, "GRANT pg_read_all_settings, pg_read_all_stats TO {role};");
    Ok(sql)
}

/// Looks at everything that backups and capture need from a server.
///
/// # Errors
///
/// When the server cannot be reached or asked.
pub(crate) async fn examine(cluster: &Cluster) -> Result<Vec<Finding>> {
    let sql = cluster.sql().await?;
    let facts = Facts::ask(&sql).await?;
    let user = &cluster.config.user;
    let mut findings = vec![finding("version", facts.version_text.clone(), Weight::Fine, None)];
    findings.extend(rights(&facts, user));
    findings.extend(settings(&facts));
    findings.extend(slots(&sql, &facts).await?);
    findings.extend(archive(&sql, &facts).await?);
    findings.push(match facts.choose(cluster, &sql) {
        Ok((method, _)) => finding("way of backups", method.name(), Weight::Fine, None),
        Err(_) => finding("way of backups", "none", Weight::Lacking, None),
    });
    findings.extend(certificates(cluster)?);
    Ok(findings)
}

/// How long before its end a certificate is to be renewed.
const RENEWED_BEFORE: TimeDelta = TimeDelta::days(30);

fn certificates(cluster: &Cluster) -> Result<Vec<Finding>> {
    let now = cluster.clock.now();
    let of = |one: Certificate| {
        let until = tls::instant(one.ends_at);
        let weight = match one.ends_at {
            ends_at if ends_at < now => Weight::Lacking,
            ends_at if ends_at < now + RENEWED_BEFORE => Weight::Advice,
            _ => Weight::Fine,
        };
        let found = format!("{} is valid until {until}", one.file.display());
        finding("certificate", found, weight, None)
    };
    Ok(tls::ends(&cluster.config)?.into_iter().map(of).collect())
}

fn finding(
    subject: &'static str,
    found: impl Into<String>,
    weight: Weight,
    statement: Option<String>,
) -> Finding {
    Finding { subject, found: found.into(), weight, statement }
}

fn rights(facts: &Facts, user: &str) -> Vec<Finding> {
    let role = format!("\"{}\"", user.replace('"', "\"\""));
    let grant = |functions: &[&str]| {
        let functions = functions.join(", ");
        Some(format!("GRANT EXECUTE ON FUNCTION {functions} TO {role}"))
    };
    let judge = |has: bool, weight, statement: Option<String>| {
        if has { ("yes", Weight::Fine, None) } else { ("no", weight, statement) }
    };
    // Any one way of taking backups is enough.
    let needs_files = if facts.may_replicate { Weight::Advice } else { Weight::Lacking };
    let begin = grant(&facts.version.backup_functions());
    let (found, weight, statement) = judge(facts.may_begin_backup, needs_files, begin);
    let begins = finding("may begin a backup", found, weight, statement);
    let (found, weight, statement) =
        judge(facts.may_read_files, needs_files, grant(&READ_FUNCTIONS));
    let reads = finding("may read files", found, weight, statement);
    let replicate = Some(format!("ALTER ROLE {role} REPLICATION"));
    let (found, weight, statement) = judge(facts.may_replicate, Weight::Lacking, replicate);
    vec![begins, reads, finding("may replicate", found, weight, statement)]
}

fn settings(facts: &Facts) -> Vec<Finding> {
    let value = |name: &str| facts.settings.get(name).cloned().unwrap_or_default();
    let mut findings = Vec::new();
    let level = value("wal_level");
    let is_enough = level == "replica" || level == "logical";
    findings.push(finding(
        "wal_level",
        level,
        if is_enough { Weight::Fine } else { Weight::Lacking },
        (!is_enough).then(|| "ALTER SYSTEM SET wal_level = replica; -- and restart".to_owned()),
    ));
    for (name, least) in [("max_wal_senders", 3), ("max_replication_slots", 2)] {
        let is_enough = facts.number(name).is_some_and(|number| number >= least);
        let statement = format!("ALTER SYSTEM SET {name} = 10; -- and restart");
        let weight = if is_enough { Weight::Fine } else { Weight::Lacking };
        findings.push(finding(name, value(name), weight, (!is_enough).then_some(statement)));
    }
    let checksums = facts.is_on("data_checksums");
    findings.push(finding(
        "data_checksums",
        value("data_checksums"),
        if checksums { Weight::Fine } else { Weight::Advice },
        (!checksums).then(|| "pg_checksums --enable, while the server is stopped".to_owned()),
    ));
    if facts.version.has_wal_summaries() {
        let summaries = facts.is_on("summarize_wal");
        findings.push(finding(
            "summarize_wal",
            value("summarize_wal"),
            if summaries { Weight::Fine } else { Weight::Advice },
            (!summaries)
                .then(|| "ALTER SYSTEM SET summarize_wal = on; SELECT pg_reload_conf()".to_owned()),
        ));
    }
    findings
}

/// How much WAL each slot keeps: a slot that nobody reads fills the disk.
async fn slots(sql: &Sql, facts: &Facts) -> Result<Vec<Finding>> {
    let step = "ask for replication slots";
    let failed = |e| error::sql(e, step);
    let query = "SELECT slot_name::text, active, coalesce(wal_status, ''),
            coalesce((CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                ELSE pg_current_wal_lsn() END - restart_lsn)::int8, 0)
        FROM pg_replication_slots WHERE NOT temporary ORDER BY slot_name";
    let rows = sql.client.query(query, &[]).await.map_err(failed)?;
    let mut findings = Vec::new();
    for row in &rows {
        let (name, active): (String, bool) =
            (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        let (status, kept): (String, i64) =
            (row.try_get(2).map_err(failed)?, row.try_get(3).map_err(failed)?);
        let used = if active { "in use" } else { "not in use" };
        // Lost, or about to be.
        let is_lost = status == "lost" || status == "unreserved";
        let drop = format!("SELECT pg_drop_replication_slot('{}')", name.replace('\'', "''"));
        let keep = "ALTER SYSTEM RESET max_slot_wal_keep_size; SELECT pg_reload_conf()".to_owned();
        findings.push(finding(
            "replication slot",
            format!("{name}: {used}, {status}, keeps {kept} B of WAL"),
            if is_lost || !active { Weight::Advice } else { Weight::Fine },
            match (active, status.as_str()) {
                (true, "unreserved") => Some(keep),
                (true, _) if !is_lost => None,
                _ => Some(drop),
            },
        ));
    }
    let is_bounded =
        facts.settings.get("max_slot_wal_keep_size").is_some_and(|value| value != "-1");
    if !is_bounded {
        findings.push(finding(
            "max_slot_wal_keep_size",
            "without bound",
            Weight::Advice,
            Some(
                "ALTER SYSTEM SET max_slot_wal_keep_size = '…GB'; SELECT \
            pg_reload_conf()"
                    .into(),
            ),
        ));
    }
    Ok(findings)
}

/// Whether the server's own archiving works, where it is on: WAL that it cannot archive fills the
/// disk as well.
async fn archive(sql: &Sql, facts: &Facts) -> Result<Vec<Finding>> {
    let mode = facts.settings.get("archive_mode").cloned().unwrap_or_default();
    if mode == "off" || mode.is_empty() {
        return Ok(Vec::new());
    }
    let failed = |e| error::sql(e, "ask for the archiver");
    let query = "SELECT failed_count, coalesce(last_failed_wal, ''),
            coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false)
        FROM pg_stat_archiver";
    let row = sql.client.query_one(query, &[]).await.map_err(failed)?;
    let (count, file): (i64, String) =
        (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
    let is_failing: bool = row.try_get(2).map_err(failed)?;
    let command = facts.settings.get("archive_command").map_or("", String::as_str);
    let is_missing = command.is_empty() || command == "(disabled)";
    let found = if is_failing {
        format!("{mode}, fails at {file} ({count} times so far)")
    } else if is_missing && !facts.settings.contains_key("archive_library") {
        format!("{mode}, without an archive_command: WAL piles up")
    } else {
        mode
    };
    let is_fine = !is_failing && !found.contains("without");
    let statement = "ALTER SYSTEM SET archive_command = 'stillpoint wal-push %p'; \
                     SELECT pg_reload_conf()";
    Ok(vec![finding(
        "archive_mode",
        found,
        if is_fine { Weight::Fine } else { Weight::Advice },
        (!is_fine).then(|| statement.to_owned()),
    )])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_and_versions_differ() {
        let old = grants("we\"ird", 130_023).unwrap();
        assert!(old.starts_with("CREATE ROLE \"we\"\"ird\" LOGIN REPLICATION;\n"));
        assert!(old.contains("pg_start_backup(text, boolean, boolean)"));
        assert!(grants("x", 180_004).unwrap().contains("pg_backup_start(text, boolean)"));
        assert!(grants("x", 120_000).is_err());
    }
}
