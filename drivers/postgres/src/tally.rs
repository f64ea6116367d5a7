//! What each database of a cluster holds: how many rows tables have, as the server's statistics say
//! or counted, and which extensions there are.

use std::collections::BTreeMap;

use stillpoint_contract::{Error, Extensions, Result, TALLIES_MAX, Tally};

use crate::{
    connect::{Cluster, Sql},
    error,
};

/// The most databases that a backup asks for what they hold, each through a session of its own.
const DATABASES_MAX: usize = 64;

const STEP: &str = "count rows";

/// Statistics of permanent tables, without those that the server keeps for itself. A number of zero
/// also means that nothing is known.
const ESTIMATES: &str = "
    SELECT s.schemaname::text, s.relname::text, s.n_live_tup
    FROM pg_catalog.pg_stat_user_tables s JOIN pg_catalog.pg_class c ON c.oid = s.relid
    WHERE s.n_live_tup > 0 AND c.relpersistence = 'p' AND c.relkind IN ('r', 'm')
    ORDER BY s.n_live_tup DESC LIMIT ";

const TABLES: &str = "
    SELECT n.nspname::text, c.relname::text
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p' AND c.relispopulated
        AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    ORDER BY 1, 2 LIMIT ";

const EXTENSIONS: &str = "SELECT extname::text, extversion FROM pg_catalog.pg_extension";

const DATABASES: &str = "
    SELECT datname::text FROM pg_catalog.pg_database WHERE datallowconn ORDER BY datname";

/// Every database that accepts connections.
pub(crate) async fn databases(sql: &Sql) -> Result<Vec<String>> {
    let failed = |e| error::sql(e, STEP);
    let rows = sql.client.query(DATABASES, &[]).await.map_err(failed)?;
    rows.iter().map(|row| row.try_get(0).map_err(failed)).collect()
}

/// What a backup records: estimates, since a count would read every table. Never fails a backup:
/// a database that the role may not enter is left out.
pub(crate) async fn recorded(cluster: &Cluster, sql: &Sql) -> (Vec<Tally>, Extensions) {
    let mut tallies = Vec::new();
    // However many databases there are, the one that we are connected to is asked.
    let own = extensions(sql).await.unwrap_or_default();
    let mut all = Extensions::from([(cluster.config.database.clone(), own)]);
    let databases = databases(sql).await.unwrap_or_default();
    for database in databases.iter().filter(|name| *name != "template1").take(DATABASES_MAX) {
        let found = async {
            let own = cluster.in_database(database).sql_on(&sql.host).await?;
            Ok::<_, Error>((estimated(&own, database).await?, extensions(&own).await?))
        };
        match found.await {
            Ok((found, extensions)) => {
                tallies.extend(found);
                all.insert(database.clone(), extensions);
            }
            Err(error) => tracing::debug!(database, "its rows are not recorded: {error}"),
        }
    }
    tallies.sort_by_key(|tally| std::cmp::Reverse(tally.rows));
    tallies.truncate(TALLIES_MAX);
    tallies.sort_by(|one, other| one.table.cmp(&other.table));
    (tallies, all)
}

/// The extensions of a database, with their versions.
async fn extensions(sql: &Sql) -> Result<BTreeMap<String, String>> {
    let failed = |e| error::sql(e, "list extensions");
    let rows = sql.client.query(EXTENSIONS, &[]).await.map_err(failed)?;
    let pair = |row: &tokio_postgres::Row| {
        Ok((row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?))
    };
    rows.iter().map(pair).collect()
}

async fn estimated(sql: &Sql, database: &str) -> Result<Vec<Tally>> {
    let failed = |e| error::sql(e, STEP);
    let query = format!("{ESTIMATES}{TALLIES_MAX}");
    let rows = sql.client.query(&query, &[]).await.map_err(failed)?;
    let tally = |row: &tokio_postgres::Row| {
        let (schema, table) = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        let rows: i64 = row.try_get(2).map_err(failed)?;
        Ok(Tally { table: name(database, schema, table), rows: rows.max(0) as u64, exact: false })
    };
    rows.iter().map(tally).collect()
}

/// Counts the rows of every permanent table of a database.
pub(crate) async fn counted(sql: &Sql, database: &str) -> Result<Vec<Tally>> {
    let failed = |e| error::sql(e, STEP);
    let mut tallies = Vec::new();
    let query = format!("{TABLES}{TALLIES_MAX}");
    let tables = sql.client.query(&query, &[]).await.map_err(failed)?;
    for row in &tables {
        let (schema, table): (&str, &str) =
            (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        let table_name = name(database, schema, table);
        let count = format!("SELECT count(*) FROM ONLY {}.{}", quoted(schema), quoted(table));
        let count = sql.client.query_one(&count, &[]).await;
        let count = count.map_err(|e| failed(e).with("table", &table_name))?;
        let rows: i64 = count.try_get(0).map_err(failed)?;
        tallies.push(Tally { table: table_name, rows: rows.max(0) as u64, exact: true });
    }
    Ok(tallies)
}

fn name(database: &str, schema: &str, table: &str) -> String {
    format!("{database}.{schema}.{table}")
}

/// An identifier in a statement.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
