//! Rows that were put back, where triggers may have made others of them: they are kept beside their
//! table until the end of the transaction, and compared with it then.

use std::collections::BTreeSet;

use stillpoint_contract::{Error, ErrorKind, Result, code};
use tokio_postgres::Client;

use super::{conditions::listed, failure::failed};
use crate::tally::quoted;

const STEP: &str = "compare rows that were put back";

/// How many triggers an error names.
const NAMED_MAX: i64 = 10;

/// A table that takes rows.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) table: String,
    pub(super) is_parted: bool,
    /// The columns that are given, and what they are given of a row that passes.
    pub(super) names: Vec<String>,
    pub(super) values: Vec<String>,
    /// By which its rows are found; empty where nothing of it is given.
    pub(super) key: Vec<String>,
}

/// The rows of a transaction that have to be in their tables at its end.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// A key of a table is in one of them, in that of the row that was put last; without one, each
    /// row is as often as it was put.
    kept: Vec<Kept>,
    tables: BTreeSet<String>,
}

#[derive(Debug)]
struct Kept {
    name: String,
    of: Target,
}

impl Watch {
    /// Whether something in the database could make other rows of those that are put back: a
    /// trigger of one table also changes rows of others. Without any, nothing can.
    ///
    /// Rules with smaller numbers are the server's own. Source: PostgreSQL 18,
    /// `src/include/access/transam.h`, `FirstNormalObjectId`.
    pub(super) async fn is_needed(&self, client: &Client) -> Result<bool> {
        let query = "SELECT EXISTS (SELECT FROM pg_trigger
                WHERE NOT tgisinternal AND tgenabled <> 'D')
            OR EXISTS (SELECT FROM pg_rewrite WHERE ev_type <> '1' AND oid >= 16384)
            OR EXISTS (SELECT FROM pg_class WHERE relkind = 'f')";
        let row = client.query_one(query, &[]).await.map_err(|e| failed(e, STEP))?;
        row.try_get(0).map_err(|e| failed(e, STEP))
    }

    /// Notes a table into which rows were put.
    pub(super) fn put_into(&mut self, table: &str) {
        self.tables.insert(table.to_owned());
    }

    /// Keeps the rows that have passed and were put into their table.
    pub(super) async fn keep(
        &mut self,
        client: &Client,
        target: Target,
        through: &str,
    ) -> Result<()> {
        let sql = async |statement: String| {
            client.execute(&statement, &[]).await.map_err(|e| failed(e, STEP))
        };
        let names = listed(target.names.iter().map(String::as_str));
        let key = listed(target.key.iter().map(String::as_str));
        let is_same = |of: &Target| of.table == target.table;
        let known = self.kept.iter().position(|kept| {
            is_same(&kept.of) && kept.of.names == target.names && kept.of.key == target.key
        });
        let name = format!("pg_temp.stillpoint_kept_{}", known.unwrap_or(self.kept.len()));
        if known.is_none() {
            // Values become in it what they become in the columns of the table.
            sql(format!(
                "CREATE TEMPORARY TABLE {name} ON COMMIT DROP AS SELECT {names} FROM {} \
                 WITH NO DATA",
                target.table
            ))
            .await?;
            if !target.key.is_empty() {
                sql(format!("CREATE UNIQUE INDEX ON {name} ({key})")).await?;
            }
        }
        if target.key.is_empty() {
            let values = target.values.join(", ");
            sql(format!("INSERT INTO {name} ({names}) SELECT {values} FROM {through}")).await?;
            if known.is_none() {
                self.kept.push(Kept { name, of: target });
            }
            return Ok(());
        }
        let sets = target.names.iter().filter(|name| !target.key.contains(name));
        let sets: Vec<_> = sets.map(|name| format!("{0} = excluded.{0}", quoted(name))).collect();
        let again = match sets.join(", ") {
            sets if sets.is_empty() => "NOTHING".to_owned(),
            sets => format!("UPDATE SET {sets}"),
        };
        sql(format!(
            "INSERT INTO {name} ({names}) SELECT {} FROM {through} ON CONFLICT ({key}) DO {again}",
            target.values.join(", ")
        ))
        .await?;
        // The same rows may have been put before, as files had them that have other columns.
        let others = self.kept.iter().filter(|kept| !kept.of.key.is_empty());
        let others = others.filter(|kept| is_same(&kept.of) && kept.name != name);
        for other in others {
            let same = same(&target.key, "later", "earlier");
            let other = &other.name;
            sql(format!("DELETE FROM {other} AS earlier USING {name} AS later WHERE {same}"))
                .await?;
        }
        if known.is_none() {
            self.kept.push(Kept { name, of: target });
        }
        Ok(())
    }

    /// Compares what was kept with what is there, by the bytes of every value.
    /// Source: PostgreSQL 18 documentation, 9.25.6, "Composite Type Comparison".
    pub(super) async fn compare(&self, client: &Client) -> Result<()> {
        for Kept { name, of } in &self.kept {
            let only = if of.is_parted { "" } else { "ONLY " };
            let record = |table: &str| {
                let columns = of.names.iter().map(|name| format!("{table}.{}", quoted(name)));
                format!("ROW({})::record", columns.collect::<Vec<_>>().join(", "))
            };
            let query = if of.key.is_empty() {
                // As texts, they can be grouped whatever types they are of.
                let [put, there] =
                    ["put", "there"].map(|of| format!("{}::text COLLATE \"C\"", record(of)));
                lacking((name, &put), (&format!("{only}{}", of.table), &there))
            } else {
                format!(
                    "SELECT count(*) FROM {name} AS put WHERE NOT EXISTS
                        (SELECT FROM {only}{} AS there WHERE {} AND {} *= {})",
                    of.table,
                    same(&of.key, "put", "there"),
                    record("put"),
                    record("there"),
                )
            };
            let row = client.query_one(&query, &[]).await.map_err(|e| failed(e, STEP))?;
            let rows: i64 = row.try_get(0).map_err(|e| failed(e, STEP))?;
            if rows != 0 {
                return Err(self.differ(client, &of.table, rows.unsigned_abs()).await?);
            }
        }
        Ok(())
    }

    /// Says that rows of a table differ, which triggers there are, and what to do about them.
    pub(super) async fn differ(&self, client: &Client, table: &str, rows: u64) -> Result<Error> {
        let query =
            "WITH tables AS (SELECT to_regclass(name) AS number FROM unnest($1::text[]) AS name),
                parts AS (SELECT number FROM tables
                    UNION SELECT relid FROM tables, pg_partition_tree(number))
            SELECT format('%I.%I', n.nspname, c.relname), quote_ident(t.tgname)
            FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
                JOIN pg_namespace AS n ON n.oid = c.relnamespace
            WHERE t.tgrelid IN (SELECT number FROM parts) AND NOT t.tgisinternal
                AND t.tgparentid = 0 AND t.tgenabled <> 'D' AND t.tgtype & 20 <> 0
            ORDER BY 1, 2 LIMIT $2";
        let tables: Vec<&str> = self.tables.iter().map(String::as_str).collect();
        let found = client.query(query, &[&tables, &NAMED_MAX]).await;
        let mut error = Error::new(ErrorKind::Refused, code::ROWS_DIFFER, STEP)
            .with("table", table)
            .with("rows that differ", rows)
            .why("a trigger changes them, or keeps them out of their table")
            .next("--staging NAME puts all of them into a table of their own");
        for row in found.map_err(|e| failed(e, STEP))? {
            let name = |at: usize| row.try_get::<_, String>(at).map_err(|e| failed(e, STEP));
            let (table, trigger) = (name(0)?, name(1)?);
            error = error
                .with("trigger", format!("{trigger} ON {table}"))
                .next(format!("ALTER TABLE {table} DISABLE TRIGGER {trigger}"));
        }
        Ok(error)
    }
}

/// What counts the rows that are in a table less often than they were put, by what tells each from
/// others.
fn lacking((put, of_put): (&str, &str), (table, of_table): (&str, &str)) -> String {
    format!(
        "SELECT coalesce(sum(greatest(put.n - coalesce(there.n, 0), 0)), 0)::int8
         FROM (SELECT {of_put} AS image, count(*) AS n FROM {put} AS put GROUP BY 1) AS put
         LEFT JOIN (SELECT {of_table} AS image, count(*) AS n FROM {table} AS there
            WHERE {of_table} IN (SELECT {of_put} FROM {put} AS put) GROUP BY 1) AS there
         ON there.image = put.image"
    )
}

/// Whether rows of two tables have the same key.
fn same(key: &[String], one: &str, other: &str) -> String {
    let same = key.iter().map(|name| format!("{one}.{0} = {other}.{0}", quoted(name)));
    same.collect::<Vec<_>>().join(" AND ")
}
