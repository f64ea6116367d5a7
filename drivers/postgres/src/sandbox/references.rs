//! Foreign keys, validated by the server as when they were made.
//!
//! A server trusts a constraint that is marked as valid. In a throw-away cluster the mark can be
//! taken away, and `VALIDATE CONSTRAINT` then looks at every row.
//!
//! Source: <https://www.postgresql.org/docs/current/sql-altertable.html>, VALIDATE CONSTRAINT.

use stillpoint_contract::{Examined, Result};

use super::{amcheck::examined, open::ServerSandbox};
use crate::{connect::Sql, error, tally::quoted};

/// Constraints of ordinary tables that are marked as valid. What refers to a partitioned table has
/// one more constraint for each partition, which does not hold alone.
const CONSTRAINTS: &str = "
    SELECT c.oid::int8, n.nspname::text, r.relname::text, c.conname::text
    FROM pg_catalog.pg_constraint c
        JOIN pg_catalog.pg_class r ON r.oid = c.conrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
    WHERE c.contype = 'f' AND c.convalidated AND r.relkind = 'r'
        AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_constraint p
            WHERE p.oid = c.conparentid AND p.conrelid = c.conrelid)
    ORDER BY 2, 3, 4";

/// Validates every foreign key of every database.
pub(super) async fn run(sandbox: &ServerSandbox) -> Result<Examined> {
    let (mut found, mut count) = (Vec::new(), 0);
    for database in &sandbox.databases {
        let sql = sandbox.cluster.in_database(database).sql().await?;
        let failed = |e| error::sql(e, "list foreign keys");
        for row in sql.client.query(CONSTRAINTS, &[]).await.map_err(failed)? {
            let text = |column| row.try_get::<_, &str>(column).map_err(failed);
            let id: i64 = row.try_get(0).map_err(failed)?;
            let (schema, table, name) = (text(1)?, text(2)?, text(3)?);
            count += 1;
            let table = format!("{}.{}", quoted(schema), quoted(table));
            if let Err(e) = validate(&sql, id, &table, name).await {
                let said = e.as_db_error().map_or_else(
                    || e.to_string(),
                    |said| {
                        let detail = said.detail().map_or_else(String::new, |d| format!(": {d}"));
                        format!("{}{detail}", said.message())
                    },
                );
                found.push(format!("{database}: {said}"));
            }
        }
    }
    let is_sound = found.is_empty();
    if is_sound {
        found.push(format!("{count} foreign keys: ok"));
    }
    Ok(examined("foreign keys", is_sound, found))
}

async fn validate(
    sql: &Sql,
    id: i64,
    table: &str,
    name: &str,
) -> std::result::Result<(), tokio_postgres::Error> {
    let name = quoted(name);
    let statements = format!(
        "BEGIN; UPDATE pg_catalog.pg_constraint SET convalidated = false WHERE oid = {id};
         ALTER TABLE {table} VALIDATE CONSTRAINT {name}"
    );
    let outcome = sql.client.batch_execute(&statements).await;
    sql.client.batch_execute("ROLLBACK").await?;
    outcome
}
