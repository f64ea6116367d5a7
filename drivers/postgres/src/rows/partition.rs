//! Partitions: which there are, whether one may leave its table as a whole, and how it leaves.

use std::time::Duration;

use stillpoint_contract::{
    ArchiveSet, Error, ErrorKind, Held, LockTaken, Partition, Partitioned, Result, Table,
    TablePattern, code,
};
use tokio_postgres::{Client, error::SqlState};

use super::{
    failure::failed,
    outlook::{READING, READING_BLOCKS},
    predicate::conjuncts,
    session::LOCK_WAIT,
    table::{self, find},
};

const STEP: &str = "look at the partitions of the table";

/// How long those are waited for who work with a table of which a partition is taken out without
/// keeping anybody from it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Looks at the partitions of a table.
pub(super) async fn partitions(client: &Client, name: &str) -> Result<Option<Partitioned>> {
    TablePattern::new(name)?;
    let found = find(client, name).await?;
    if !found.is_partitioned() {
        return Ok(None);
    }
    let number = found.number;
    let whose = table::whose(client).await?;
    // Names say nothing of an order, and numbers that of their making.
    let query = "
        SELECT c.oid, format('%I.%I', n.nspname, c.relname), format('%I.%I', pn.nspname, p.relname),
            pg_get_expr(c.relpartbound, c.oid)
        FROM pg_partition_tree($1::oid::regclass) AS t JOIN pg_class AS c ON c.oid = t.relid
            JOIN pg_namespace AS n ON n.oid = c.relnamespace
            JOIN pg_class AS p ON p.oid = t.parentrelid
            JOIN pg_namespace AS pn ON pn.oid = p.relnamespace
        WHERE t.isleaf AND t.level > 0 AND c.relkind <> 'p' ORDER BY c.oid";
    let rows = client.query(query, &[&number]).await.map_err(|e| failed(e, STEP))?;
    let read = |row: &tokio_postgres::Row| {
        Ok(Partition {
            identity: format!("{whose}/{}", row.try_get::<_, u32>(0)?),
            name: row.try_get(1)?,
            parent: row.try_get(2)?,
            bounds: row.try_get(3)?,
        })
    };
    let partitions = rows.iter().map(|row| read(row).map_err(|e| failed(e, STEP)));
    Ok(Some(Partitioned {
        identity: format!("{whose}/{number}"),
        name: found.name,
        partitions: partitions.collect::<Result<_>>()?,
    }))
}

/// The number of a table, by who it is.
fn number_of(partition: &Partition) -> Result<u32> {
    let number = partition.identity.rsplit('/').next().and_then(|number| number.parse().ok());
    number.ok_or_else(|| Error::bug(STEP).with("identity", &partition.identity))
}

/// What would make it wrong to take a partition out, one reason after the other.
///
/// Triggers of the whole table are its own as well, and look like those of the server before 15.
/// What the server sends for a deleted row is not sent for a partition that leaves.
/// Source: PostgreSQL 18 documentation, 29.1, "Publication".
const REASONS: &str = "
    WITH RECURSIVE up AS (
        SELECT $1::oid AS oid UNION ALL
        SELECT i.inhparent FROM up JOIN pg_inherits AS i ON i.inhrelid = up.oid)
    SELECT CASE
        WHEN p.partstrat = 'h' THEN 'it is one of a hash, and new rows would find no partition'
        WHEN p.partdefid = $1 THEN 'it is the default partition'
        WHEN NOT pg_has_role(c.relowner, 'USAGE') OR NOT pg_has_role(pc.relowner, 'USAGE')
            THEN 'the role does not own it and its table'
        WHEN EXISTS (SELECT FROM pg_constraint WHERE contype = 'f'
            AND confrelid IN (SELECT oid FROM up)) THEN 'other tables refer to its rows'
        WHEN EXISTS (SELECT FROM pg_trigger WHERE tgrelid = $1
            AND (NOT tgisinternal OR tgparentid <> 0 AND tgconstraint = 0)
            AND tgenabled <> 'D' AND tgtype & 8 = 8) THEN 'a trigger is to see deletions'
        WHEN EXISTS (SELECT FROM pg_publication_tables AS t JOIN pg_namespace AS n
                ON n.nspname = t.schemaname JOIN pg_class AS k ON k.relnamespace = n.oid
                AND k.relname = t.tablename WHERE k.oid IN (SELECT oid FROM up))
            THEN 'it is published, and subscribers are told of deletions only'
        WHEN EXISTS (SELECT FROM pg_depend WHERE refclassid = 'pg_class'::regclass
            AND refobjid = $1 AND deptype = 'n' AND classid = 'pg_rewrite'::regclass)
            THEN 'a view looks at it'
        END, p.partstrat::text
    FROM pg_class AS c JOIN pg_inherits AS i ON i.inhrelid = c.oid
        JOIN pg_class AS pc ON pc.oid = i.inhparent
        JOIN pg_partitioned_table AS p ON p.partrelid = pc.oid
    WHERE c.oid = $1";

/// Why a partition is better not taken out as a whole.
pub(super) async fn why_not_whole(
    client: &Client,
    set: &ArchiveSet,
    partition: &Partition,
) -> Result<Option<String>> {
    let number = number_of(partition)?;
    let row = client.query_opt(REASONS, &[&number]).await.map_err(|e| failed(e, STEP))?;
    let Some(row) = row else { return Ok(Some("it is no partition any more".to_owned())) };
    let reason: Option<String> = row.try_get(0).map_err(|e| failed(e, STEP))?;
    if reason.is_some() {
        return Ok(reason);
    }
    let strategy: String = row.try_get(1).map_err(|e| failed(e, STEP))?;
    for part in conjuncts(&set.predicate)? {
        // A value of a list comes again, unless it is one that time leaves behind.
        if (strategy != "l" || part.contains('<')) && is_proven(client, partition, &part).await? {
            return Ok(None);
        }
    }
    Ok(Some("its bounds do not say that no new rows come".to_owned()))
}

/// Whether the bounds of a partition say that a condition is not false of any row that can be
/// there: the server proves it, so that it need not look.
/// Source: PostgreSQL 18 documentation, 19.7.4, `constraint_exclusion`.
async fn is_proven(client: &Client, partition: &Partition, condition: &str) -> Result<bool> {
    let query = format!("EXPLAIN SELECT FROM ONLY {} WHERE NOT ({condition})", partition.name);
    let rows = client.query(&query, &[]).await.map_err(|e| failed(e, STEP))?;
    let lines = rows.iter().map(|row| row.try_get::<_, String>(0));
    let lines = lines.collect::<std::result::Result<Vec<_>, _>>().map_err(|e| failed(e, STEP))?;
    Ok(lines.iter().any(|line| line.trim() == "One-Time Filter: false"))
}

/// How many rows of the root are not selected.
pub(super) async fn strays(client: &Client, set: &ArchiveSet) -> Result<u64> {
    const STEP: &str = "count rows that are not selected";
    let (table, predicate) = (&set.root().table.name, &set.predicate);
    let query = format!("SELECT count(*) FROM ONLY {table} WHERE ({predicate}) IS NOT TRUE");
    let row = client.query_one(&query, &[]).await;
    let count: i64 = row.and_then(|row| row.try_get(0)).map_err(|e| failed(e, STEP))?;
    Ok(count.cast_unsigned())
}

/// Where a partition is.
enum Whereabouts {
    Nowhere,
    /// A table of its own, of that name.
    Alone(String),
    /// A partition.
    Within {
        name: String,
        parent: String,
        /// Whether it is on its way out.
        is_leaving: bool,
        /// Whether it can leave while others work with the table.
        leaves_beside: bool,
    },
}

async fn whereabouts(client: &Client, partition: &Partition) -> Result<Whereabouts> {
    // The column that says that one is on its way out is there since version 14.
    let query = "
        SELECT format('%I.%I', n.nspname, c.relname),
            CASE WHEN p.oid IS NOT NULL THEN format('%I.%I', pn.nspname, p.relname) END,
            coalesce((to_jsonb(i) ->> 'inhdetachpending')::bool, false),
            current_setting('server_version_num')::int4 >= 140000
                AND coalesce(t.partdefid, 0) = 0
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
            LEFT JOIN pg_inherits AS i ON i.inhrelid = c.oid
            LEFT JOIN pg_class AS p ON p.oid = i.inhparent
            LEFT JOIN pg_namespace AS pn ON pn.oid = p.relnamespace
            LEFT JOIN pg_partitioned_table AS t ON t.partrelid = p.oid
        WHERE c.oid = $1 AND c.relkind = 'r'";
    let number = number_of(partition)?;
    let row = client.query_opt(query, &[&number]).await.map_err(|e| failed(e, STEP))?;
    let Some(row) = row else { return Ok(Whereabouts::Nowhere) };
    let read = || -> std::result::Result<_, tokio_postgres::Error> {
        let name: String = row.try_get(0)?;
        Ok(match row.try_get::<_, Option<String>>(1)? {
            None => Whereabouts::Alone(name),
            Some(parent) => Whereabouts::Within {
                name,
                parent,
                is_leaving: row.try_get(2)?,
                leaves_beside: row.try_get(3)?,
            },
        })
    };
    read().map_err(|e| failed(e, STEP))
}

/// Who waits for a table that is locked altogether, and for one that was taken out of another one,
/// and is reached by its own name alone.
const EVERYBODY: &str = "everybody, and for up to 2 s while others keep it waiting";
const BY_NAME: &str = "whoever uses it by its own name";

/// What is locked until a partition is gone.
///
/// Beside others, it is marked in one transaction, and leaves in a second one, once nobody is left
/// who may see it as a part of its table. What it refers to gets triggers for it alone when it
/// leaves, and loses them when it is dropped.
/// Sources: PostgreSQL 18 documentation, ALTER TABLE, "DETACH PARTITION", and 13.3.1, "Table-Level
/// Locks"; `src/backend/commands/tablecmds.c`, `ATExecDetachPartition`;
/// `src/backend/commands/trigger.c`, `CreateTriggerFiringOn` and `RemoveTriggerById`.
pub(super) async fn leaving(client: &Client, partition: &Partition) -> Result<Vec<LockTaken>> {
    const DROP: &str = "its grace is over: it is compared again, and dropped (DROP TABLE)";
    let lock = |on: &str, mode: &str, during, blocks, held| LockTaken {
        on: on.to_owned(),
        mode: mode.to_owned(),
        during,
        blocks,
        held,
    };
    let exclusive = "ACCESS EXCLUSIVE";
    let referred = referred(client, partition).await?;
    let mut locks = Vec::new();
    let name = match whereabouts(client, partition).await? {
        Whereabouts::Nowhere => return Ok(locks),
        Whereabouts::Alone(name) => name,
        Whereabouts::Within { name, parent, leaves_beside, .. } => {
            let out = if leaves_beside {
                let out = "a partition leaves (DETACH PARTITION … CONCURRENTLY)";
                let blocks = "changes of the schema, VACUUM, CREATE INDEX";
                locks.push(lock(&parent, "SHARE UPDATE EXCLUSIVE", out, blocks, Held::Moment));
                locks.push(lock(&name, exclusive, out, BY_NAME, Held::Moment));
                out
            } else {
                let out = "a partition leaves (DETACH PARTITION)";
                let beside = default_of(client, &parent).await?;
                for on in [Some(&parent), beside.as_ref()].into_iter().flatten() {
                    locks.push(lock(on, exclusive, out, EVERYBODY, Held::Moment));
                }
                let of_itself = lock_of_detached(client).await?;
                locks.push(lock(&name, of_itself, out, EVERYBODY, Held::Moment));
                out
            };
            let blocks = "whoever changes rows of it, and changes of its schema";
            for on in &referred {
                locks.push(lock(on, "SHARE ROW EXCLUSIVE", out, blocks, Held::Moment));
            }
            name
        }
    };
    let compared = "its rows are compared with the files";
    locks.push(lock(&name, "ACCESS SHARE", READING, READING_BLOCKS, Held::File));
    locks.push(lock(&name, exclusive, compared, BY_NAME, Held::Table));
    locks.push(lock(&name, exclusive, DROP, BY_NAME, Held::Table));
    for on in &referred {
        locks.push(lock(on, exclusive, DROP, EVERYBODY, Held::Moment));
    }
    Ok(locks)
}

/// What DETACH takes of the partition itself: less before 14. Source: PostgreSQL 13 and 14,
/// `ATExecDetachPartition`, and `pg_locks`.
async fn lock_of_detached(client: &Client) -> Result<&'static str> {
    let query = "SELECT current_setting('server_version_num')::int >= 140000";
    let row = client.query_one(query, &[]).await.map_err(|e| failed(e, STEP))?;
    let is_exclusive: bool = row.try_get(0).map_err(|e| failed(e, STEP))?;
    Ok(if is_exclusive { "ACCESS EXCLUSIVE" } else { "SHARE UPDATE EXCLUSIVE" })
}

/// The tables to which a partition refers.
async fn referred(client: &Client, partition: &Partition) -> Result<Vec<String>> {
    let query = "SELECT DISTINCT format('%I.%I', n.nspname, r.relname)
        FROM pg_constraint AS c JOIN pg_class AS r ON r.oid = c.confrelid
            JOIN pg_namespace AS n ON n.oid = r.relnamespace
        WHERE c.contype = 'f' AND c.conrelid = $1 AND c.confrelid <> $1 ORDER BY 1";
    let number = number_of(partition)?;
    let rows = client.query(query, &[&number]).await.map_err(|e| failed(e, STEP))?;
    rows.iter().map(|row| row.try_get(0).map_err(|e| failed(e, STEP))).collect()
}

/// The default partition of a table, where it has one: its bounds change with each that leaves.
async fn default_of(client: &Client, parent: &str) -> Result<Option<String>> {
    let query = "SELECT format('%I.%I', n.nspname, c.relname)
        FROM pg_partitioned_table AS p JOIN pg_class AS c ON c.oid = p.partdefid
            JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE p.partrelid = to_regclass($1)";
    let row = client.query_opt(query, &[&parent]).await.map_err(|e| failed(e, STEP))?;
    row.map(|row| row.try_get(0)).transpose().map_err(|e| failed(e, STEP))
}

/// How often it is looked anew where a partition is, since somebody else was at it, too.
const LOOKS_MAX: u32 = 4;

/// Takes a partition out.
///
/// Beside others, it leaves in two transactions: after the first one nobody new sees it, and the
/// second one waits for those who may. Killed between, it is on its way out, which has no way back.
/// Source: PostgreSQL 18 documentation, ALTER TABLE, "DETACH PARTITION".
pub(super) async fn detach(client: &Client, partition: &Partition) -> Result<Option<Table>> {
    const STEP: &str = "take a partition out of its table";
    let foreign = |what: &'static str, name: String, why: &'static str| {
        Error::new(ErrorKind::Refused, code::ROWS_REFUSED, STEP)
            .with("partition", &partition.name)
            .with(what, name)
            .why(why)
    };
    for _ in 0..LOOKS_MAX {
        let (name, parent, how) = match whereabouts(client, partition).await? {
            Whereabouts::Nowhere => return Ok(None),
            Whereabouts::Alone(name) if name == partition.name => {
                return table::table(client, &name).await.map(Some);
            }
            Whereabouts::Alone(name) | Whereabouts::Within { name, .. }
                if name != partition.name =>
            {
                let error = foreign("table", name, "it bears another name now");
                return Err(error.next("give it its name back"));
            }
            Whereabouts::Within { parent, .. } if parent != partition.parent => {
                let why = "it has become a partition of another table";
                return Err(foreign("table", parent, why));
            }
            Whereabouts::Within { name, parent, is_leaving: true, .. } => {
                (name, parent, " FINALIZE")
            }
            Whereabouts::Within { name, parent, leaves_beside: true, .. } => {
                (name, parent, " CONCURRENTLY")
            }
            Whereabouts::Within { name, parent, .. } => (name, parent, ""),
            Whereabouts::Alone(_) => return Err(Error::bug(STEP)),
        };
        let limit = |wait: Duration| format!("SET lock_timeout = {}", wait.as_millis());
        // Whoever leaves alone keeps everybody from the table while it waits.
        let patience = if how.is_empty() { LOCK_WAIT } else { PATIENCE };
        client.batch_execute(&limit(patience)).await.map_err(|e| failed(e, STEP))?;
        let leave = format!("ALTER TABLE {parent} DETACH PARTITION {name}{how}");
        let left = client.batch_execute(&leave).await;
        client.batch_execute(&limit(LOCK_WAIT)).await.map_err(|e| failed(e, STEP))?;
        match left {
            Ok(()) => {}
            // Somebody else was at it at the same time: it is looked anew.
            Err(e)
                if matches!(
                    e.code(),
                    Some(
                        &SqlState::UNDEFINED_TABLE
                            | &SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE
                            | &SqlState::WRONG_OBJECT_TYPE
                    )
                ) => {}
            Err(e) => return Err(failed(e, STEP).with("partition", &name)),
        }
    }
    Err(Error::new(ErrorKind::Busy, code::DATABASE_BUSY, STEP)
        .with("partition", &partition.name)
        .why("another partition of the table is on its way out, or somebody puts this one back")
        .next(format!("ALTER TABLE {} DETACH PARTITION … FINALIZE", partition.parent)))
}

/// Keeps everybody else from a table.
pub(super) async fn seize(client: &Client, set: &ArchiveSet) -> Result<()> {
    let lock = format!("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE", set.root().table.name);
    client.batch_execute(&lock).await.map_err(|e| failed(e, "keep others from a table"))
}

/// Drops a table, unless something depends on it.
pub(super) async fn discard(client: &Client, set: &ArchiveSet) -> Result<()> {
    let drop = format!("DROP TABLE {} RESTRICT", set.root().table.name);
    client.batch_execute(&drop).await.map_err(|e| failed(e, "drop a partition that was taken out"))
}

/// Puts a partition back.
pub(super) async fn attach(client: &Client, set: &ArchiveSet, partition: &Partition) -> Result<()> {
    const STEP: &str = "put a partition back into its table";
    let statement = format!(
        "ALTER TABLE {} ATTACH PARTITION {} {}",
        partition.parent,
        set.root().table.name,
        partition.bounds
    );
    client.batch_execute(&statement).await.map_err(|e| match e.code() {
        Some(&SqlState::CHECK_VIOLATION | &SqlState::INVALID_OBJECT_DEFINITION) => {
            let message = e.as_db_error().map(|db| db.message().to_owned()).unwrap_or_default();
            Error::new(ErrorKind::Refused, code::ROWS_REFUSED, STEP)
                .with("server", message)
                .why("other rows, or other partitions, are where its rows belong")
                .next(statement.clone())
                .caused_by(e)
        }
        _ => failed(e, STEP).next(statement.clone()),
    })
}
