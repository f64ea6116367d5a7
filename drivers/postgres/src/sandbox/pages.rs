//! Tables, indexes and sequences whose files are shorter than the server knows them to have been:
//! the end of one was cut off, and with it rows that only their indexes know of.
//!
//! Sources: PostgreSQL 18 documentation, 52.11, `pg_class`, `relpages`; F.1, amcheck, which looks
//! for rows of a table in its indexes and not the other way round.

use stillpoint_contract::{Examined, Result, Verdict};

use super::{amcheck::examined, open::ServerSandbox};
use crate::{connect::Sql, error, tally::quoted};

const CHECK: &str = "lengths of tables";

/// Sequences that are empty or not there: each has one page from the beginning.
const EMPTY_SEQUENCES: &str = "
    SELECT n.nspname::text, c.relname::text
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'S' AND c.relpersistence = 'p' AND pg_catalog.pg_relation_size(c.oid) = 0
    ORDER BY 1, 2";

/// Indexes that are shorter than when they were built or last looked at. They never become shorter
/// but by being built anew; and amcheck looks at no others than B-trees.
const SHORT_INDEXES: &str = "
    SELECT n.nspname::text, c.relname::text, c.relpages, p.pages
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        CROSS JOIN LATERAL (
            SELECT pg_catalog.pg_relation_size(c.oid)
                / pg_catalog.current_setting('block_size')::int8 AS pages) p
    WHERE c.relkind = 'i' AND c.relpersistence = 'p' AND p.pages < c.relpages
    ORDER BY 1, 2";

/// Tables that are shorter than when they were last looked at, and what an index of all of their
/// rows is sorted by.
const SHORT: &str = "
    SELECT n.nspname::text, c.relname::text, c.relpages, p.pages, (
        SELECT pg_catalog.pg_get_indexdef(i.indexrelid, 1, false)
        FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
            JOIN pg_catalog.pg_am a ON a.oid = x.relam
        WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL AND a.amname = 'btree'
        ORDER BY NOT i.indisprimary, i.indexrelid LIMIT 1)
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        CROSS JOIN LATERAL (
            SELECT pg_catalog.pg_relation_size(c.oid)
                / pg_catalog.current_setting('block_size')::int8 AS pages) p
    WHERE c.relkind IN ('r', 'm', 't') AND c.relpersistence = 'p' AND p.pages < c.relpages
    ORDER BY 1, 2";

/// Reads tables by an index: an entry for a row behind the end of the file is an error.
const BY_INDEX: &str = "
    BEGIN READ ONLY; SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off;
    SET LOCAL enable_sort = off; SET LOCAL enable_indexonlyscan = off;
    SET LOCAL max_parallel_workers_per_gather = 0";

/// Looks at every table of every database.
pub(super) async fn run(sandbox: &ServerSandbox) -> Result<Examined> {
    let (mut found, mut unjudged) = (Vec::new(), Vec::new());
    for database in &sandbox.databases {
        let sql = sandbox.cluster.in_database(database).sql().await?;
        let failed = |e| error::sql(e, "list tables that are short");
        for row in sql.client.query(SHORT_INDEXES, &[]).await.map_err(failed)? {
            let text = |column| row.try_get::<_, &str>(column).map_err(failed);
            let known: i32 = row.try_get(2).map_err(failed)?;
            let pages: i64 = row.try_get(3).map_err(failed)?;
            let index = format!("{}.{}", quoted(text(0)?), quoted(text(1)?));
            found.push(format!("{database}: index {index} has {pages} pages, and had {known}"));
        }
        for row in sql.client.query(EMPTY_SEQUENCES, &[]).await.map_err(failed)? {
            let text = |column| row.try_get::<_, &str>(column).map_err(failed);
            let sequence = format!("{}.{}", quoted(text(0)?), quoted(text(1)?));
            found.push(format!(
                "{database}: sequence {sequence} has no page: its file is cut off or gone"
            ));
        }
        for row in sql.client.query(SHORT, &[]).await.map_err(failed)? {
            let text = |column| row.try_get::<_, &str>(column).map_err(failed);
            let known: i32 = row.try_get(2).map_err(failed)?;
            let pages: i64 = row.try_get(3).map_err(failed)?;
            let sorted_by: Option<&str> = row.try_get(4).map_err(failed)?;
            let table = format!("{}.{}", quoted(text(0)?), quoted(text(1)?));
            let told = format!("{database}: {table} has {pages} pages, and had {known}");
            match sorted_by {
                None => unjudged.push(format!("{told}; no index tells what was in them")),
                Some(by) => match read(&sql, &table, by).await {
                    Ok(()) => {}
                    Err(e) => {
                        let said = e
                            .as_db_error()
                            .map_or_else(|| e.to_string(), |said| said.message().to_owned());
                        found.push(format!("{told}, with rows: {said}"));
                    }
                },
            }
        }
    }
    let is_sound = found.is_empty();
    if is_sound && !unjudged.is_empty() {
        let verdict = Verdict::Skipped;
        return Ok(Examined { check: CHECK.to_owned(), verdict, is_damage: false, says: unjudged });
    }
    found.extend(unjudged);
    if found.is_empty() {
        found.push("ok".to_owned());
    }
    Ok(Examined { is_damage: !is_sound, ..examined(CHECK, is_sound, found) })
}

async fn read(
    sql: &Sql,
    table: &str,
    sorted_by: &str,
) -> std::result::Result<(), tokio_postgres::Error> {
    let query = format!(
        "{BY_INDEX}; SELECT count(*) FROM (SELECT ctid FROM ONLY {table} ORDER BY {sorted_by} \
         OFFSET 0) r"
    );
    let outcome = sql.client.batch_execute(&query).await;
    sql.client.batch_execute("ROLLBACK").await?;
    outcome
}
