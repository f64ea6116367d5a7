//! The server that lives: whether it takes a share, and what killed ones left in it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use stillpoint_contract::{
    Clock, Error, ErrorKind, Result, Share, ShareRequest, TablePattern, code,
};

use super::rename::{chosen, is_taken};
use crate::{
    config::Config,
    connect::{Cluster, Sql},
    error,
    tally::quoted,
};

const STEP: &str = "look at the live server";

/// How the name of a database begins that is not complete yet.
const PREFIX: &str = "stillpoint_partial_";

/// The first half of the advisory lock of whoever makes a database; the second is its own.
const LOCK: i32 = 0x5350_5254;

/// How long a server may take to notice that a client is gone: it looks each second.
const LOOKS_MAX: u32 = 30;
const PAUSE: Duration = Duration::from_millis(200);

/// Settings of our sessions there. A server notices within a second that we are gone, and lets go
/// of everything; from 14 on.
/// Source: <https://www.postgresql.org/docs/14/runtime-config-connection.html>.
const SETTINGS: &str = "
    SET statement_timeout = 0; SET lock_timeout = '10s'; SET synchronous_commit = on;
    SET idle_in_transaction_session_timeout = 0; SET default_transaction_read_only = off;
    SET array_nulls = on";

/// A session with the live server.
pub(super) async fn connect(
    request: &ShareRequest<'_>,
    clock: &Arc<dyn Clock>,
) -> Result<(Cluster, Sql, u32)> {
    let cluster = Cluster::new(Config::new(request.into)?, Arc::clone(clock))?;
    let sql = cluster.sql().await.map_err(|error| match error.code() {
        code::NO_DATABASE => error.during(STEP).next("name one that is there, in --into URL"),
        _ => error.during(STEP),
    })?;
    let failed = |e| error::sql(e, STEP);
    let query = "SELECT current_setting('server_version_num')::int4 / 10000, pg_is_in_recovery()";
    let row = sql.client.query_one(query, &[]).await.map_err(failed)?;
    let major: i32 = row.try_get(0).map_err(failed)?;
    let is_standby: bool = row.try_get(1).map_err(failed)?;
    if is_standby && !request.compares {
        return Err(Error::new(ErrorKind::Unsupported, code::UNSUITABLE_DATABASE, STEP)
            .why("it is a standby, in which nothing can be made")
            .next("connect to its primary"));
    }
    sql.client.batch_execute(SETTINGS).await.map_err(failed)?;
    if major >= 14 {
        let wakes = "SET idle_session_timeout = 0";
        sql.client.batch_execute(wakes).await.map_err(failed)?;
        let notices = "SET client_connection_check_interval = '1s'";
        // Systems that cannot tell refuse it.
        drop(sql.client.batch_execute(notices).await);
    }
    Ok((cluster, sql, major.unsigned_abs()))
}

/// Looks at the live server before anything is restored.
pub(crate) async fn admit(request: &ShareRequest<'_>, clock: &Arc<dyn Clock>) -> Result<()> {
    let (_, sql, major) = connect(request, clock).await?;
    let failed = |e| error::sql(e, STEP);
    if let (Share::Tables(patterns), false) = (request.share, request.compares) {
        let schema = request.name.map(chosen).transpose()?.and_then(|(schema, _)| schema);
        let names = patterns.iter().filter_map(schema_of);
        let schemas = schema.map_or_else(|| names.collect(), |schema| vec![schema]);
        refuse_published((&sql, major), &schemas).await?;
    }
    if let (Share::Tables(patterns), true) = (request.share, request.compares)
        && let [pattern] = patterns.as_slice()
        && pattern.is_exact()
        && homes(&sql, pattern).await?.is_empty()
    {
        return Err(not_there(&pattern.to_string()));
    }
    match (request.share, request.name) {
        (Share::Database, Some(name)) => check_database(&sql, name).await?,
        (Share::Tables(patterns), Some(name)) => {
            let (schema, own) = chosen(name)?;
            let of_pattern = match patterns.as_slice() {
                [one] => match (schema_of(one), homes(&sql, one).await?) {
                    // It is likely to be where it was.
                    (None, homes) if homes.len() == 1 => homes.into_iter().next(),
                    (schema, _) => schema,
                },
                _ => None,
            };
            if let Some(schema) = schema.or(of_pattern) {
                let query = "SELECT pg_catalog.to_regclass($1) IS NOT NULL";
                let quoted = format!("{}.{}", quoted(&schema), quoted(&own));
                let row = sql.client.query_one(query, &[&quoted]).await.map_err(failed)?;
                if row.try_get(0).map_err(failed)? {
                    return Err(is_taken(&schema, &own, true));
                }
            }
        }
        (_, None) => {}
    }
    Ok(())
}

/// Schemas of live tables that fit a pattern, whichever database that may name.
async fn homes(sql: &Sql, pattern: &TablePattern) -> Result<BTreeSet<String>> {
    let failed = |e| error::sql(e, STEP);
    let query = "SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p')";
    let names = pattern.names();
    let database = if names.len() > 2 { names[0] } else { "" };
    let mut homes = BTreeSet::new();
    for row in sql.client.query(query, &[]).await.map_err(failed)? {
        let (schema, name): (String, &str) =
            (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        if pattern.fits(&[database, &schema, name]) {
            homes.insert(schema);
        }
    }
    Ok(homes)
}

/// The error for a table that only the copy has.
pub(super) fn not_there(table: &str) -> Error {
    Error::new(ErrorKind::Missing, code::NO_SUCH_TABLE, STEP)
        .with("table", table)
        .why("the live database has no table of this name to compare with")
        .next(stillpoint_contract::without_compare(table))
}

/// The schema that a pattern says, if it does.
fn schema_of(pattern: &TablePattern) -> Option<String> {
    pattern.names().iter().rev().nth(1).map(|schema| (*schema).to_owned())
}

/// Refuses new tables in schemas in which they would be published: a subscriber that lacks a table
/// stops. Schemas are published from 15 on.
/// Source: PostgreSQL 18 documentation, 29.1, Publication, and 29.7, Conflicts; 52.43,
/// `pg_publication_namespace`.
pub(super) async fn refuse_published((sql, major): (&Sql, u32), schemas: &[String]) -> Result<()> {
    let failed = |e| error::sql(e, STEP);
    let by_schema = "SELECT min(p.pubname)::text FROM pg_catalog.pg_publication_namespace s
            JOIN pg_catalog.pg_namespace n ON n.oid = s.pnnspid
            JOIN pg_catalog.pg_publication p ON p.oid = s.pnpubid
        WHERE n.nspname = ANY ($1)";
    let by_schema = if major < 15 { "SELECT NULL WHERE $1::text[] IS NULL" } else { by_schema };
    let query = format!(
        "SELECT min(pubname)::text, ({by_schema}) FROM pg_catalog.pg_publication
         WHERE puballtables"
    );
    let row = sql.client.query_one(&query, &[&schemas]).await.map_err(failed)?;
    let whole: Option<String> = row.try_get(0).map_err(failed)?;
    let of_schema: Option<String> = row.try_get(1).map_err(failed)?;
    let (name, what) = match (whole, of_schema) {
        (Some(name), _) => (name, "all tables"),
        (None, Some(name)) => (name, "all tables of their schema"),
        (None, None) => return Ok(()),
    };
    Err(Error::new(ErrorKind::Refused, code::UNSUITABLE_DATABASE, STEP)
        .with("publication", name)
        .why(format!("it publishes {what}, also new ones: subscribers that lack them would stop"))
        .next("bring the tables into another schema or database of the server, or --compare"))
}

/// Refuses the name of a database that exists.
pub(super) async fn check_database(sql: &Sql, name: &str) -> Result<()> {
    let failed = |e| error::sql(e, STEP);
    if name.is_empty() || name.len() > stillpoint_contract::CHOSEN_NAME_BYTES_MAX {
        return Err(Error::new(ErrorKind::Invalid, code::BAD_NAME, "use the new name")
            .with("given", name)
            .why("the name of a database has 1 to 63 bytes"));
    }
    if name.starts_with(PREFIX) {
        return Err(Error::new(ErrorKind::Invalid, code::BAD_NAME, "use the new name")
            .with("given", name)
            .why("databases whose names begin like this are taken for incomplete, and removed"));
    }
    let query = "SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = $1)";
    let row = sql.client.query_one(query, &[&name]).await.map_err(failed)?;
    if row.try_get(0).map_err(failed)? {
        return Err(Error::new(ErrorKind::Refused, code::TARGET_EXISTS, "bring a database back")
            .with("name", name)
            .why("the live server has a database of this name already; nothing was changed")
            .next("choose a name that is free: --as NAME"));
    }
    Ok(())
}

/// The name of a database that is not complete yet.
pub(crate) fn unfinished(token: &str) -> String {
    format!("{PREFIX}{token}")
}

/// Says that the maker of an unfinished database lives; until the session ends.
pub(super) async fn lock(sql: &Sql, token: &str) -> Result<()> {
    let lock = "SELECT pg_catalog.pg_advisory_lock($1, $2)";
    let locked = sql.client.query_one(lock, &[&LOCK, &lock_of(token)]).await;
    locked.map(drop).map_err(|e| error::sql(e, STEP))
}

/// The second half of a lock.
fn lock_of(token: &str) -> i32 {
    let bytes = token
        .bytes()
        .fold(0xcbf2_9ce4_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    bytes.cast_signed()
}

/// How many digits a token has.
const TOKEN_LENGTH: usize = 12;

/// Removes databases that were never completed, and whose makers are gone. A maker holds its lock
/// before there is a name, and a server takes a while to notice that one is gone.
pub(crate) async fn sweep(
    request: &ShareRequest<'_>,
    clock: &Arc<dyn Clock>,
) -> Result<Vec<String>> {
    let (_, sql, _) = connect(request, clock).await?;
    let failed = |e| error::sql(e, STEP);
    for _ in 0..LOOKS_MAX {
        if makers(&sql).await?.is_empty() {
            break;
        }
        clock.sleep(PAUSE).await;
    }
    let names = "SELECT datname::text FROM pg_catalog.pg_database
        WHERE pg_catalog.starts_with(datname::text, $1) ORDER BY 1";
    let names = sql.client.query(names, &[&PREFIX]).await.map_err(failed)?;
    let living = makers(&sql).await?;
    let mut removed = Vec::new();
    for row in names {
        let name: String = row.try_get(0).map_err(failed)?;
        let token = &name[PREFIX.len()..];
        let is_ours =
            token.len() == TOKEN_LENGTH && token.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_ours || living.contains(&i64::from(lock_of(token).cast_unsigned())) {
            continue;
        }
        let dropped = sql.client.batch_execute(&drop_database(&name)).await;
        removed.push(match dropped {
            Ok(()) => format!("removed database {name}, which an earlier command left behind"),
            Err(e) => {
                let said = error::sql(e, STEP);
                let facts = said.facts();
                let why = facts.first().map_or("", |(_, why)| *why);
                format!("database {name}, which an earlier command left behind, stays: {why}")
            }
        });
    }
    Ok(removed)
}

/// The locks of those who make databases.
async fn makers(sql: &Sql) -> Result<Vec<i64>> {
    let failed = |e| error::sql(e, STEP);
    let locks = "SELECT objid::int8 FROM pg_catalog.pg_locks
        WHERE locktype = 'advisory' AND classid = $1::int8::oid";
    let rows = sql.client.query(locks, &[&i64::from(LOCK)]).await.map_err(failed)?;
    rows.iter().map(|row| row.try_get(0).map_err(failed)).collect()
}

/// Removes a database with whoever is in it.
pub(super) fn drop_database(name: &str) -> String {
    format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quoted(name))
}
