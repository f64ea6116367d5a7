//! Tables and databases, brought from a sandbox into a live server.

use std::{collections::BTreeMap, time::Duration};

use stillpoint_contract::{
    Brought, BroughtTable, Error, ErrorKind, Progress, Result, Share, ShareRequest, TablePattern,
    chosen_name, code,
};

use super::{
    admit::{check_database, connect, drop_database, lock, refuse_published, unfinished},
    choose::{Table, choose, large_objects, shown, warnings, with_heirs},
    compare::{UNKNOWN, encoding},
    dump::{Dumper, find, only},
    pour::{Mode, Target},
    rename,
    unfinished::Unfinished,
};
use crate::{
    connect::{Cluster, Sql},
    error,
    sandbox::ServerSandbox,
    tally::quoted,
};

const STEP: &str = "make the restored copy ready";

/// How long sessions of the sandbox may take to end.
const TRIES_MAX: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);

/// What is in the way of changing tables in a sandbox: triggers for changed definitions.
const NO_EVENTS: &str = "
    SET search_path = ''; UPDATE pg_catalog.pg_event_trigger SET evtenabled = 'D'";

/// What no dump of ours has, and why.
const LEFT_BEHIND: [(&str, &str); 2] = [
    (
        "SELECT ARRAY(SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind = 'r' AND c.relpersistence = 'u' ORDER BY 1)",
        "no backup has rows of unlogged tables",
    ),
    (
        "SELECT ARRAY(SELECT s.subname::text FROM pg_catalog.pg_subscription s
            JOIN pg_catalog.pg_database d ON d.oid = s.subdbid
         WHERE d.datname = pg_catalog.current_database() ORDER BY 1)",
        "a subscription is left out, which would take changes from its publisher",
    ),
];

/// Foreign keys of tables to others, and those keys that lead elsewhere.
const OUTWARD: &str = "
    SELECT r.oid, c.conname::text, pg_catalog.pg_get_constraintdef(c.oid),
        n.nspname::text, r.relname::text, p.nspname::text, t.relname::text
    FROM pg_catalog.pg_constraint c
        JOIN pg_catalog.pg_class r ON r.oid = c.conrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
        JOIN pg_catalog.pg_class t ON t.oid = c.confrelid
        JOIN pg_catalog.pg_namespace p ON p.oid = t.relnamespace
    WHERE c.contype = 'f' AND c.conparentid = 0 AND c.conrelid = ANY ($1)
        AND NOT c.confrelid = ANY ($1)
    ORDER BY 4, 5, 2";

/// What ties tables to parents that stay behind.
const PARENTS: &str = "
    SELECT n.nspname::text, c.relname::text, q.nspname::text, p.relname::text, c.relispartition
    FROM pg_catalog.pg_inherits i
        JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_catalog.pg_class p ON p.oid = i.inhparent
        JOIN pg_catalog.pg_namespace q ON q.oid = p.relnamespace
    WHERE i.inhrelid = ANY ($1) AND NOT i.inhparent = ANY ($1)";

const SIZES: &str = "
    SELECT n.nspname::text, c.relname::text, pg_catalog.pg_table_size(c.oid)
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND ($1::oid[] IS NULL OR c.oid = ANY ($1))
        AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'";

/// The statements that make extended statistics what they are. A target that nobody chose is -1,
/// and NULL from 17 on.
/// Source: PostgreSQL 13 and 17 documentation, `pg_statistic_ext`.
const STATISTICS: &str = "
    SELECT pg_catalog.pg_get_statisticsobjdef(e.oid),
        CASE WHEN e.stxstattarget >= 0 THEN pg_catalog.format(
            'ALTER STATISTICS %I.%I SET STATISTICS %s', n.nspname, e.stxname, e.stxstattarget) END,
        pg_catalog.format('COMMENT ON STATISTICS %I.%I IS ', n.nspname, e.stxname)
            || pg_catalog.quote_literal(pg_catalog.obj_description(e.oid, 'pg_statistic_ext')),
        pg_catalog.format('ALTER STATISTICS %I.%I OWNER TO %I', n.nspname, e.stxname,
            pg_catalog.pg_get_userbyid(e.stxowner))
    FROM pg_catalog.pg_statistic_ext e JOIN pg_catalog.pg_namespace n ON n.oid = e.stxnamespace
    WHERE e.oid = $1";

const SPACES: &str =
    "SELECT spcname::text FROM pg_catalog.pg_tablespace WHERE spcname !~ '^pg_' ORDER BY 1";

/// Brings a share into a live server.
pub(crate) async fn bring(
    sandbox: &ServerSandbox,
    request: &ShareRequest<'_>,
    progress: &dyn Progress,
) -> Result<Brought> {
    let (cluster, live, live_major) = connect(request, &sandbox.cluster.clock).await?;
    let database = database_of(sandbox, request, &cluster)?;
    let major = sandbox.server.version().split('.').next().unwrap_or_default();
    let major = major.parse().unwrap_or_default();
    let dumper = Dumper {
        program: find(&sandbox.server, major).await?,
        directory: sandbox.directory.clone(),
        role: sandbox.role.clone(),
        options: sandbox.cluster.config.options.clone(),
    };
    let transfer = Transfer { sandbox, request, progress, dumper, database, live_major };
    match request.share {
        Share::Tables(patterns) => Box::pin(transfer.tables(patterns, live)).await,
        Share::Database => Box::pin(transfer.whole(&cluster, live)).await,
    }
}

/// The database that is meant: the one that is named, else that of the same name as the live one.
pub(super) fn database_of(
    sandbox: &ServerSandbox,
    request: &ShareRequest<'_>,
    live: &Cluster,
) -> Result<String> {
    let wanted = request.database.unwrap_or(&live.config.database);
    if sandbox.databases.iter().any(|name| name == wanted) {
        return Ok(wanted.to_owned());
    }
    Err(Error::new(ErrorKind::Missing, code::NO_SUCH_TABLE, "find the database in the copy")
        .with("asked", wanted)
        .with("there are", sandbox.databases.join(", "))
        .why("the cluster had no database of this name at the chosen point")
        .next("name one that it had: --database NAME"))
}

/// One share on its way.
struct Transfer<'a> {
    sandbox: &'a ServerSandbox,
    request: &'a ShareRequest<'a>,
    progress: &'a dyn Progress,
    dumper: Dumper,
    database: String,
    live_major: u32,
}

impl Transfer<'_> {
    /// Tables, in one transaction: they appear as a whole or not at all.
    async fn tables(&self, patterns: &[TablePattern], live: Sql) -> Result<Brought> {
        self.progress.begin("prepare", 0);
        let own = self.sandbox.cluster.in_database(&self.database).sql().await?;
        make_ready(&own).await?;
        let (chosen, mut notes) = choose(&own, &self.database, patterns).await?;
        let tables = with_heirs(&own, chosen).await?;
        let mut asked = tables.iter().filter(|table| table.of.is_none()).map(Table::shown);
        if let (Some(name), Some(one), Some(other)) =
            (self.request.name, asked.next(), asked.next())
        {
            return Err(Error::new(ErrorKind::Invalid, code::USAGE, "give tables a new name")
                .with("--as", name)
                .with(
                    "tables",
                    format!("{one}, {other}{}", if asked.next().is_some() { ", …" } else { "" }),
                )
                .why("one name cannot be that of several tables")
                .next("leave --as out, or name one table"));
        }
        notes.extend(warnings(&tables));
        let ids: Vec<u32> = tables.iter().map(|table| table.id).collect();
        notes.extend(large_objects(&own, &tables).await?);
        untie(&own, &ids).await?;
        let outward = cut(&own, &ids).await?;
        let (name, suffix) = (self.request.name, self.request.suffix);
        let renaming = rename::plan((&own, &live), &tables, name, suffix).await?;
        let new = renaming.all.iter().filter(|one| one.kind == "TABLE");
        let schemas: Vec<String> = new.map(|one| one.schema.clone()).collect();
        refuse_published((&live, self.live_major), &schemas).await?;
        rename::carry_out(&own, &renaming).await?;
        let mut left_out = Vec::new();
        for key in &outward {
            if let Some(table) = renaming.all.iter().find(|one| one.id == key.table) {
                let to = table.quoted();
                left_out.push(format!(
                    "ALTER TABLE {to} ADD CONSTRAINT {} {} NOT VALID;",
                    quoted(&key.name),
                    key.definition
                ));
                notes.push(format!(
                    "foreign key {} to {} is left out: it would bind a table that is in use",
                    key.name, key.to
                ));
            }
        }
        let is_relation = |one: &&rename::Renamed| one.kind == "TABLE" || one.kind == "SEQUENCE";
        let relations = renaming.all.iter().filter(is_relation);
        let relations: Vec<String> = relations.map(rename::Renamed::quoted).collect();
        let mut arguments: Vec<String> = relations.iter().map(|name| only(name)).collect();
        arguments.push("--no-publications".to_owned());
        arguments.extend(spaces_of((&own, &live), &mut notes).await?);
        if encoding(&live).await? == UNKNOWN {
            arguments.extend(raw(&own).await?);
        }
        let sizes = sizes(&own, Some(&ids)).await?;
        let statistics = statistics(&own, &renaming).await?;
        drop(own);

        // Everything but rows is tried first, so that what lacks is known before any row moves.
        let failed = |e| error::sql(e, STEP);
        let nothing = BTreeMap::new();
        let mut target = self.target(live, Mode::One, None, &nothing);
        target.relations = &relations;
        target.sql.client.batch_execute("BEGIN").await.map_err(failed)?;
        let rehearsal = [&arguments[..], &["--schema-only".to_owned()]].concat();
        target.pour(self.dumper.start(&self.database, &rehearsal)?).await?;
        target.run_all(&statistics, &mut Vec::new()).await?;
        target.sql.client.batch_execute("ROLLBACK").await.map_err(failed)?;

        self.progress.begin("rows", sizes.values().sum());
        target.sizes = &sizes;
        target.sql.client.batch_execute("BEGIN").await.map_err(failed)?;
        let mut poured = target.pour(self.dumper.start(&self.database, &arguments)?).await?;
        target.run_all(&statistics, &mut poured.notes).await?;
        self.progress.begin("commit", 0);
        target.sql.client.batch_execute("COMMIT").await.map_err(failed)?;

        notes.extend(poured.notes);
        let mut brought = BTreeMap::<u32, BroughtTable>::new();
        for (table, renamed) in tables.iter().zip(&renaming.all) {
            let rows = poured.rows.get(&renamed.quoted()).copied().unwrap_or_default();
            let root = table.of.unwrap_or(table.id);
            let to = shown(&renamed.schema, &renamed.to);
            let from = table.shown();
            brought.entry(root).or_insert(BroughtTable { from, to, rows: 0 }).rows += rows;
        }
        let tables = tables.iter().filter_map(|table| brought.remove(&table.id)).collect();
        Ok(Brought { database: None, tables, notes, left_out })
    }

    /// A database, under another name until it is complete.
    async fn whole(&self, cluster: &Cluster, live: Sql) -> Result<Brought> {
        self.progress.begin("prepare", 0);
        let name = match self.request.name {
            Some(name) => name.to_owned(),
            None => chosen_name(&self.database, self.request.suffix),
        };
        check_database(&live, &name).await?;
        let unfinished = unfinished(self.request.token);
        let own = self.sandbox.cluster.in_database(&self.database).sql().await?;
        let sizes = sizes(&own, None).await?;
        let raw = raw(&own).await?;
        let mut notes = left_behind(&own).await?;
        drop(own);
        let elsewhere = if self.database == "template1" { "postgres" } else { "template1" };
        let other = self.sandbox.cluster.in_database(elsewhere).sql().await?;
        self.rename_in_sandbox(&other, &unfinished).await?;
        let mut arguments = vec!["--create".to_owned()];
        arguments.extend(raw);
        arguments.extend(spaces_of((&other, &live), &mut notes).await?);

        lock(&live, self.request.token).await?;
        let mut remains = Unfinished::new(cluster, self.request.token, self.progress);
        self.progress.begin("rows", sizes.values().sum());
        let made = cluster.in_database(&unfinished);
        // The session that makes the database has the lock: it goes when nothing is made any more.
        let mut target = self.target(live, Mode::Each, Some(&made), &sizes);
        let poured = match self.dumper.start(&unfinished, &arguments) {
            Ok(dump) => target.pour(dump).await,
            Err(error) => Err(error),
        };
        let live = target.maker.take().unwrap_or(target.sql);
        let done = match poured {
            Ok(poured) => self.publish(&live, &unfinished, &name).await.map(|()| poured),
            Err(error) => Err(error),
        };
        if done.is_err() {
            // If that fails as well, the next one of the kind finds it.
            if live.client.batch_execute(&drop_database(&unfinished)).await.is_err() {
                remains.tell();
            }
        }
        remains.are_there = false;
        let poured = done?;
        notes.extend(poured.notes);
        let tables = poured.rows.into_iter().map(|(table, rows)| BroughtTable {
            from: table.clone(),
            to: table,
            rows,
        });
        Ok(Brought { database: Some(name), tables: tables.collect(), notes, left_out: Vec::new() })
    }

    async fn publish(&self, live: &Sql, from: &str, to: &str) -> Result<()> {
        self.progress.begin("commit", 0);
        check_database(live, to).await?;
        let rename = format!("ALTER DATABASE {} RENAME TO {}", quoted(from), quoted(to));
        let mut tries = 0;
        loop {
            match live.client.batch_execute(&rename).await {
                Ok(()) => return Ok(()),
                // Our own session in it may still be ending.
                Err(e) if tries < TRIES_MAX && e.code().is_some_and(|c| c.code() == "55006") => {
                    tries += 1;
                    self.sandbox.cluster.clock.sleep(PAUSE).await;
                }
                Err(e) => return Err(error::sql(e, "put the database in its place")),
            }
        }
    }

    async fn rename_in_sandbox(&self, other: &Sql, to: &str) -> Result<()> {
        let statement = format!(
            "UPDATE pg_catalog.pg_database SET datistemplate = false, datallowconn = true
             WHERE datname = '{from}'; ALTER DATABASE {} RENAME TO {}",
            quoted(&self.database),
            quoted(to),
            from = self.database.replace('\'', "''"),
        );
        let mut tries = 0;
        loop {
            match other.client.batch_execute(&statement).await {
                Ok(()) => return Ok(()),
                Err(e) if tries < TRIES_MAX && e.code().is_some_and(|c| c.code() == "55006") => {
                    tries += 1;
                    self.sandbox.cluster.clock.sleep(PAUSE).await;
                }
                Err(e) => return Err(error::sql(e, STEP)),
            }
        }
    }

    fn target<'a>(
        &'a self,
        sql: Sql,
        mode: Mode,
        made: Option<&'a Cluster>,
        sizes: &'a BTreeMap<String, u64>,
    ) -> Target<'a> {
        Target {
            sql,
            mode,
            major: self.live_major,
            made,
            relations: &[],
            sizes,
            progress: self.progress,
            maker: None,
        }
    }
}

/// What of a database does not come along with it.
async fn left_behind(own: &Sql) -> Result<Vec<String>> {
    let failed = |e| error::sql(e, STEP);
    let mut notes = Vec::new();
    for (query, why) in LEFT_BEHIND {
        let row = own.client.query_one(query, &[]).await.map_err(failed)?;
        let names: Vec<String> = row.try_get(0).map_err(failed)?;
        if let Some(first) = names.first() {
            let more = names.len() - 1;
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            notes.push(format!("{first}{more}: {why}"));
        }
    }
    Ok(notes)
}

/// Takes texts as they come where the server does not know what letters they are.
async fn raw(own: &Sql) -> Result<Option<String>> {
    Ok((encoding(own).await? == UNKNOWN).then(|| format!("--encoding={UNKNOWN}")))
}

/// Leaves tablespaces out if the live server lacks any.
async fn spaces_of((own, live): (&Sql, &Sql), notes: &mut Vec<String>) -> Result<Option<String>> {
    let there = spaces(live).await?;
    let mut missing = spaces(own).await?;
    missing.retain(|space| !there.contains(space));
    if missing.is_empty() {
        return Ok(None);
    }
    notes.push(format!(
        "everything lies in the usual tablespace: the live server lacks {}",
        missing.join(", ")
    ));
    Ok(Some("--no-tablespaces".to_owned()))
}

async fn spaces(sql: &Sql) -> Result<Vec<String>> {
    let failed = |e| error::sql(e, STEP);
    let rows = sql.client.query(SPACES, &[]).await.map_err(failed)?;
    rows.iter().map(|row| row.try_get(0).map_err(failed)).collect()
}

/// Lets nothing in the sandbox be in the way.
pub(super) async fn make_ready(own: &Sql) -> Result<()> {
    own.client.batch_execute(NO_EVENTS).await.map_err(|e| error::sql(e, STEP))
}

/// Makes partitions and heirs tables of their own whose parents stay behind.
async fn untie(own: &Sql, ids: &[u32]) -> Result<()> {
    let failed = |e| error::sql(e, STEP);
    for row in own.client.query(PARENTS, &[&ids]).await.map_err(failed)? {
        let text = |column| row.try_get::<_, &str>(column).map_err(failed);
        let child = format!("{}.{}", quoted(text(0)?), quoted(text(1)?));
        let parent = format!("{}.{}", quoted(text(2)?), quoted(text(3)?));
        let is_partition: bool = row.try_get(4).map_err(failed)?;
        let statement = if is_partition {
            format!("ALTER TABLE {parent} DETACH PARTITION {child}")
        } else {
            format!("ALTER TABLE {child} NO INHERIT {parent}")
        };
        own.client.batch_execute(&statement).await.map_err(failed)?;
    }
    Ok(())
}

/// A foreign key that is left out.
struct Outward {
    table: u32,
    name: String,
    definition: String,
    to: String,
}

/// Removes foreign keys to tables that stay behind: they would lock those that live, and bind them
/// from then on.
async fn cut(own: &Sql, ids: &[u32]) -> Result<Vec<Outward>> {
    let failed = |e| error::sql(e, STEP);
    let mut found = Vec::new();
    for row in own.client.query(OUTWARD, &[&ids]).await.map_err(failed)? {
        let text = |column| row.try_get::<_, &str>(column).map_err(failed);
        let (name, table) = (text(1)?, format!("{}.{}", quoted(text(3)?), quoted(text(4)?)));
        let statement = format!("ALTER TABLE {table} DROP CONSTRAINT {}", quoted(name));
        own.client.batch_execute(&statement).await.map_err(failed)?;
        found.push(Outward {
            table: row.try_get(0).map_err(failed)?,
            name: name.to_owned(),
            definition: text(2)?.to_owned(),
            to: shown(text(5)?, text(6)?),
        });
    }
    Ok(found)
}

/// Extended statistics, which `pg_dump` takes for objects of a schema and not of a table.
/// What makes extended statistics, which `pg_dump` leaves out of a part of a database.
async fn statistics(own: &Sql, renaming: &rename::Renaming) -> Result<Vec<String>> {
    let failed = |e| error::sql(e, STEP);
    let mut statements = Vec::new();
    for one in renaming.all.iter().filter(|one| one.kind == "STATISTICS") {
        let row = own.client.query_one(STATISTICS, &[&one.id]).await.map_err(failed)?;
        for column in 0..row.len() {
            let statement: Option<String> = row.try_get(column).map_err(failed)?;
            statements.extend(statement);
        }
    }
    Ok(statements)
}

async fn sizes(own: &Sql, ids: Option<&[u32]>) -> Result<BTreeMap<String, u64>> {
    let failed = |e| error::sql(e, STEP);
    let rows = own.client.query(SIZES, &[&ids]).await.map_err(failed)?;
    let size = |row: &tokio_postgres::Row| {
        let (schema, table): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
        let bytes: i64 = row.try_get(2)?;
        Ok((format!("{}.{}", quoted(schema), quoted(table)), bytes.unsigned_abs()))
    };
    rows.iter().map(size).collect::<std::result::Result<_, _>>().map_err(failed)
}
