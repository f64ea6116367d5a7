//! Names of tables by the numbers of their files: WAL knows the numbers only, and once a table is
//! dropped nobody can be asked any more.
//!
//! Names are a convenience: whatever fails here costs a name, never the capture.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use stillpoint_contract::{Clock, LogEventKind, Result};
use tokio_postgres::Row;

use crate::{
    config::Host,
    connect::{Cluster, Sql},
    error,
    facts::quieten,
    version::Version,
};

/// The most databases whose tables are named, and the most relations that are remembered.
const DATABASES_MAX: i64 = 64;
const RELATIONS_MAX: usize = 100_000;

/// How many new files are looked up at once.
const FILES_MAX: usize = 1000;

/// How long all of it may take, at the beginning and later on.
const LOAD_MAX: Duration = Duration::from_secs(4);
const LEARN_MAX: Duration = Duration::from_secs(2);

/// A commit is in the log a moment before others see what it did. How often new files are asked for
/// until all are known, and after what time; those of transactions that failed never are.
const LOOKS_MAX: u32 = 3;
const LOOK_PAUSE: Duration = Duration::from_millis(50);

const STEP: &str = "ask for the names of tables";

/// The file of a relation: its database and its number.
pub(crate) type File = (u32, u32);

/// What is known.
#[derive(Debug, Default)]
pub(crate) struct Names {
    databases: BTreeMap<u32, String>,
    relations: HashMap<File, Relation>,
    /// The newest file of each relation, by database and identity.
    newest: HashMap<(u32, u32), u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Relation {
    oid: u32,
    /// From the database on, such as `shop.public.orders`.
    name: String,
    /// Whether it is not just an index or a sequence, which go with their table.
    is_table: bool,
}

impl Names {
    /// Asks every database for all its tables.
    pub(crate) async fn load(&mut self, cluster: &Cluster, sql: &Sql, major: u32) {
        let work = async {
            self.ask_databases(sql).await?;
            let databases: Vec<u32> = self.databases.keys().copied().collect();
            for database in databases {
                // One that cannot be entered costs its own names only.
                if let Err(error) = self.ask(cluster, sql, (database, major), None).await {
                    tracing::debug!(%error, database, "its tables have no names");
                }
            }
            Ok(())
        };
        within(&cluster.clock, LOAD_MAX, work).await;
    }

    /// Asks for the names of files that were just made.
    pub(crate) async fn learn(
        &mut self,
        cluster: &Cluster,
        sql: &Sql,
        major: u32,
        files: &BTreeSet<File>,
    ) {
        let work = async {
            for look in 0..LOOKS_MAX {
                let new = self.unknown(files);
                let databases: BTreeSet<u32> = new.iter().map(|file| file.0).collect();
                if databases.is_empty() {
                    break;
                }
                if look > 0 {
                    cluster.clock.sleep(LOOK_PAUSE).await;
                }
                if databases.iter().any(|database| !self.databases.contains_key(database)) {
                    self.ask_databases(sql).await?;
                }
                for database in databases {
                    let files = new.iter().filter(|file| file.0 == database);
                    let numbers: Vec<u32> = files.map(|file| file.1).collect();
                    self.ask(cluster, sql, (database, major), Some(&numbers)).await?;
                }
            }
            Ok(())
        };
        within(&cluster.clock, LEARN_MAX, work).await;
    }

    /// Files that have no name yet.
    fn unknown(&self, files: &BTreeSet<File>) -> Vec<File> {
        let unknown = files.iter().filter(|file| !self.relations.contains_key(*file));
        unknown.take(FILES_MAX).copied().collect()
    }

    async fn ask_databases(&mut self, sql: &Sql) -> Result<()> {
        let query = "SELECT oid, datname::text FROM pg_database \
                     WHERE datallowconn AND NOT datistemplate ORDER BY oid LIMIT $1";
        let rows = sql.client.query(query, &[&DATABASES_MAX]).await;
        for row in rows.map_err(|e| error::sql(e, STEP))? {
            if let (Ok(oid), Ok(name)) = (row.try_get::<_, u32>(0), row.try_get(1)) {
                self.databases.insert(oid, name);
            }
        }
        Ok(())
    }

    /// Asks one database, in a session that ends at once: a longer one would be in the way of
    /// whoever wants to drop it.
    async fn ask(
        &mut self,
        cluster: &Cluster,
        sql: &Sql,
        (database, major): (u32, u32),
        files: Option<&[u32]>,
    ) -> Result<()> {
        let Some(name) = self.databases.get(&database).cloned() else { return Ok(()) };
        let own;
        let session = if name == cluster.config.database {
            sql
        } else {
            own = enter(cluster, &sql.host, &name, major).await?;
            &own
        };
        let query = "SELECT c.oid, c.relfilenode, n.nspname::text, c.relname::text, \
                     c.relkind::text IN ('r', 'm') \
                     FROM pg_catalog.pg_class AS c \
                     JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
                     WHERE c.relfilenode <> 0 AND c.oid >= 16384 AND c.relpersistence <> 't' \
                     AND ($1::oid[] IS NULL OR c.relfilenode = ANY ($1)) \
                     ORDER BY c.oid DESC LIMIT $2";
        let left = RELATIONS_MAX.saturating_sub(self.relations.len());
        let left = i64::try_from(left).unwrap_or(0);
        let rows = session.client.query(query, &[&files, &left]).await;
        for row in rows.map_err(|e| error::sql(e, STEP))? {
            self.keep((database, &name), &row);
        }
        Ok(())
    }

    fn keep(&mut self, (database, name): (u32, &str), row: &Row) -> Option<()> {
        let (oid, file) = (row.try_get::<_, u32>(0).ok()?, row.try_get::<_, u32>(1).ok()?);
        let (schema, table): (String, String) = (row.try_get(2).ok()?, row.try_get(3).ok()?);
        let name = format!("{name}.{schema}.{table}");
        let is_table = row.try_get(4).ok()?;
        self.relations.insert((database, file), Relation { oid, name, is_table });
        self.newest.insert((database, oid), file);
        Some(())
    }

    /// What the loss of a file means to people; `None` when it goes with something that is told
    /// itself, as an index with its table.
    pub(crate) fn tell(&self, file: File) -> Option<String> {
        let Some(relation) = self.relations.get(&file) else {
            let (database, number) = file;
            let database = self.databases.get(&database);
            let database = database.cloned().unwrap_or_else(|| format!("database {}", file.0));
            return Some(format!("{}{number} of {database}", LogEventKind::FILE));
        };
        let is_rewritten = self.newest.get(&(file.0, relation.oid)) != Some(&file.1);
        let prefix = if is_rewritten { LogEventKind::CONTENTS_OF } else { "" };
        relation.is_table.then(|| format!("{prefix}{}", relation.name))
    }

    /// The name of a database.
    pub(crate) fn database(&self, number: u32) -> String {
        self.databases.get(&number).cloned().unwrap_or_else(|| format!("database {number}"))
    }

    /// Forgets files that are gone.
    pub(crate) fn forget(&mut self, files: impl Iterator<Item = File>) {
        for file in files {
            if let Some(relation) = self.relations.remove(&file) {
                let key = (file.0, relation.oid);
                if self.newest.get(&key) == Some(&file.1) {
                    self.newest.remove(&key);
                }
            }
        }
    }
}

async fn enter(cluster: &Cluster, host: &Host, database: &str, major: u32) -> Result<Sql> {
    let sql = cluster.in_database(database).sql_on(host).await?;
    quieten(&sql, Version(major * 10_000)).await?;
    Ok(sql)
}

async fn within(clock: &Arc<dyn Clock>, limit: Duration, work: impl Future<Output = Result<()>>) {
    let outcome = tokio::select! {
        outcome = work => outcome,
        () = clock.sleep(limit) => return tracing::debug!("names of tables took too long"),
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "some tables have no names");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_by_the_tables_that_they_belong_to() {
        let mut names = Names::default();
        names.databases.insert(5, "shop".to_owned());
        let mut add = |oid, file, name: &str, is_table| {
            let name = format!("shop.public.{name}");
            names.relations.insert((5, file), Relation { oid, name, is_table });
            names.newest.insert((5, oid), file);
        };
        add(16_384, 16_384, "orders", true);
        add(16_385, 16_385, "orders_pkey", false);
        add(16_386, 16_386, "items", true);
        add(16_386, 16_400, "items", true);
        assert_eq!(names.tell((5, 16_384)).as_deref(), Some("shop.public.orders"));
        assert_eq!(names.tell((5, 16_385)), None);
        assert_eq!(names.tell((5, 16_386)).as_deref(), Some("contents of shop.public.items"));
        assert_eq!(names.tell((5, 17_000)).as_deref(), Some("file 17000 of shop"));
        assert_eq!(names.tell((6, 17_000)).as_deref(), Some("file 17000 of database 6"));
        names.forget([(5, 16_386), (5, 16_384)].into_iter());
        assert_eq!(names.tell((5, 16_400)).as_deref(), Some("shop.public.items"));
        assert_eq!(names.tell((5, 16_384)).as_deref(), Some("file 16384 of shop"));
    }
}
