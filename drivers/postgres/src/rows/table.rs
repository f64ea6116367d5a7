//! Tables, the forms of their columns, their keys, and who refers to them.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use stillpoint_contract::{
    Column, Error, ErrorKind, Kind, Named, Referrer, Result, Table, TablePattern, code,
};
use tokio_postgres::{Client, Row};

use super::{failure::failed, reference::likeness};
use crate::tally::quoted;

const STEP: &str = "look at the table";

/// How many digits a number of fixed length has that files can hold.
const DIGITS_MAX: i32 = 38;

/// Looks at a table.
pub(super) async fn table(client: &Client, name: &str) -> Result<Table> {
    let found = find(client, name).await?;
    look(client, name, found).await
}

/// Looks at a table, the key of which is that of a unique index.
pub(super) async fn table_by(client: &Client, name: &str, index: &str) -> Result<Table> {
    let mut table = table(client, name).await?;
    let numbers = key(client, number_of(client, &table).await?, Some(index)).await?;
    if numbers.is_empty() {
        return Err(Error::new(ErrorKind::Missing, code::BAD_NAME, "choose the key of a table")
            .with("table", &table.name)
            .with("index", index)
            .why("it has no unique index of that name that holds all rows and no NULLs")
            .next("key = \"primary\""));
    }
    table.key = places(&table.columns, &numbers);
    Ok(table)
}

/// The names of a table, whose rows may be in its partitions.
pub(super) async fn named(client: &Client, name: &str) -> Result<Named> {
    let found = find(client, name).await?;
    if let Some(why) = found.unfit().filter(|_| !found.is_partitioned()) {
        return Err(unfit(name, why));
    }
    let query = "SELECT format('%I.%I', n.nspname, c.relname)
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.oid = coalesce(pg_partition_root($1::oid::regclass)::oid, $1::oid)";
    let row = client.query_one(query, &[&found.number]).await.map_err(|e| failed(e, STEP))?;
    let whole = row.try_get(0).map_err(|e| failed(e, STEP))?;
    Ok(Named { name: found.name, whole })
}

/// Looks at a table that rows are put into: its partitions take them.
pub(super) async fn target(client: &Client, name: &str) -> Result<Table> {
    let found = find(client, name).await?;
    if found.is_partitioned() {
        return read(client, found).await;
    }
    look(client, name, found).await
}

async fn look(client: &Client, name: &str, found: Found) -> Result<Table> {
    if let Some(why) = found.unfit() {
        return Err(unfit(name, why));
    }
    read(client, found).await
}

fn unfit(name: &str, why: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, code::ROWS_REFUSED, STEP).with("table", name).why(why)
}

async fn read(client: &Client, found: Found) -> Result<Table> {
    let columns = columns(client, found.number).await?;
    let key = places(&columns, &key(client, found.number, None).await?);
    let fingerprint = fingerprint(client, found.number).await?;
    let identity = format!("{}/{}", whose(client).await?, found.number);
    // Keys that compare texts otherwise than by their bytes are refused.
    let alike = Vec::new();
    Ok(Table { name: found.name, identity, columns, key, alike, fingerprint })
}

/// The places of columns, by their numbers.
fn places(columns: &[Column], numbers: &[i16]) -> Vec<usize> {
    let place = |number: &i16| columns.iter().position(|column| column.id == i32::from(*number));
    numbers.iter().filter_map(place).collect()
}

/// What names the database: its number, and that of the cluster.
pub(super) async fn whose(client: &Client) -> Result<String> {
    let query = "SELECT (SELECT system_identifier::text FROM pg_control_system()),
        (SELECT oid FROM pg_database WHERE datname = current_database())";
    let row = client.query_one(query, &[]).await.map_err(|e| failed(e, STEP))?;
    let whose = |row: &Row| Ok((row.try_get::<_, String>(0)?, row.try_get::<_, u32>(1)?));
    let (system, database) = whose(&row).map_err(|e| failed(e, STEP))?;
    Ok(format!("{system}/{database}"))
}

/// What bears a name.
pub(super) struct Found {
    pub(super) number: u32,
    pub(super) name: String,
    kind: String,
    persistence: String,
}

impl Found {
    pub(super) fn is_partitioned(&self) -> bool {
        self.kind == "p"
    }

    fn unfit(&self) -> Option<&'static str> {
        Some(match (self.kind.as_str(), self.persistence.as_str()) {
            ("r", "t") => "it is a temporary table",
            ("r", _) => return None,
            ("p", _) => "it is partitioned, and its rows are in its partitions: name those",
            ("v" | "m", _) => "it is a view: its rows are in other tables",
            ("f", _) => "it is a foreign table: its rows are elsewhere",
            _ => "it is no table",
        })
    }
}

pub(super) async fn find(client: &Client, name: &str) -> Result<Found> {
    let pattern = TablePattern::new(name)?;
    let names = pattern.names();
    let own = names.last().copied().filter(|_| pattern.is_exact()).unwrap_or_default();
    let missing = |why: &'static str| {
        Error::new(ErrorKind::Missing, code::NO_SUCH_TABLE, STEP).with("table", name).why(why)
    };
    let query = "SELECT c.oid, n.nspname::text, c.relname::text,
            format('%I.%I', n.nspname, c.relname), c.relkind::text, c.relpersistence::text
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.relname::text IN ($1, lower($1)) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
            AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'stillpoint')";
    let rows = client.query(query, &[&own]).await.map_err(|e| failed(e, STEP))?;
    let mut fitting = Vec::new();
    for row in &rows {
        let read = || -> std::result::Result<_, tokio_postgres::Error> {
            let (schema, table): (&str, &str) = (row.try_get(1)?, row.try_get(2)?);
            if !pattern.fits(&[schema, table]) {
                return Ok(None);
            }
            Ok(Some(Found {
                number: row.try_get(0)?,
                name: row.try_get(3)?,
                kind: row.try_get(4)?,
                persistence: row.try_get(5)?,
            }))
        };
        fitting.extend(read().map_err(|e| failed(e, STEP))?);
    }
    match fitting.len() {
        0 => Err(missing("this database has no table of that name, or the role cannot see it")),
        1 => Ok(fitting.remove(0)),
        _ => {
            let all: Vec<_> = fitting.iter().map(|found| found.name.as_str()).collect();
            Err(Error::new(ErrorKind::Invalid, code::BAD_NAME, STEP)
                .with("table", name)
                .with("tables", all.join(", "))
                .next("say which one, with its schema, and in double quotes if it needs them"))
        }
    }
}

/// The number that the server knows a table by now.
pub(super) async fn number_of(client: &Client, table: &Table) -> Result<u32> {
    let query = "SELECT to_regclass($1)::oid";
    let row = client.query_one(query, &[&table.name]).await.map_err(|e| failed(e, STEP))?;
    row.try_get::<_, Option<u32>>(0).map_err(|e| failed(e, STEP))?.ok_or_else(|| {
        Error::new(ErrorKind::Missing, code::NO_SUCH_TABLE, STEP).with("table", &table.name)
    })
}

/// Whether the rows of a table are in its partitions.
pub(super) async fn is_partitioned(client: &Client, name: &str) -> Result<bool> {
    find(client, name).await.map(|found| found.is_partitioned())
}

/// Columns with the type that a domain is made of, and that of an array's elements.
const COLUMNS: &str = "
    WITH RECURSIVE b AS (
        SELECT attnum, atttypid AS typ, atttypmod AS typmod FROM pg_attribute
            WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped
        UNION ALL SELECT b.attnum, t.typbasetype, t.typtypmod FROM b
            JOIN pg_type AS t ON t.oid = b.typ WHERE t.typtype = 'd')
    SELECT a.attnum, a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull,
        a.attgenerated <> '', b.typmod, t.typname::text, t.typtype::text,
        tn.nspname = 'pg_catalog', e.oid, e.typname::text,
        e.typtype = 'b' AND en.nspname = 'pg_catalog',
        ARRAY(SELECT enumlabel::text FROM pg_enum WHERE enumtypid = t.oid ORDER BY enumsortorder)
    FROM b JOIN pg_attribute AS a ON a.attrelid = $1 AND a.attnum = b.attnum
        JOIN pg_type AS t ON t.oid = b.typ AND t.typtype <> 'd'
        JOIN pg_namespace AS tn ON tn.oid = t.typnamespace
        LEFT JOIN pg_type AS e ON e.typarray = t.oid
        LEFT JOIN pg_namespace AS en ON en.oid = e.typnamespace
    ORDER BY a.attnum";

async fn columns(client: &Client, number: u32) -> Result<Vec<Column>> {
    let rows = client.query(COLUMNS, &[&number]).await.map_err(|e| failed(e, STEP))?;
    rows.iter().map(|row| column(row).map_err(|e| failed(e, STEP))).collect()
}

fn column(row: &Row) -> std::result::Result<Column, tokio_postgres::Error> {
    let (typmod, typname, typtype): (i32, &str, &str) =
        (row.try_get(5)?, row.try_get(6)?, row.try_get(7)?);
    let is_own: bool = row.try_get(8)?;
    let element: Option<u32> = row.try_get(9)?;
    let kind = match element {
        Some(element_type) if row.try_get(11)? => {
            let element = kind(row.try_get(10)?, typmod, true).map(Box::new);
            element.map(|element| Kind::List { element, element_type })
        }
        None if typtype == "e" => Some(Kind::Enum { labels: row.try_get(12)? }),
        None if typtype == "b" => kind(typname, typmod, is_own),
        _ => None,
    };
    Ok(Column {
        name: row.try_get(1)?,
        id: i32::from(row.try_get::<_, i16>(0)?),
        engine_type: row.try_get(2)?,
        is_cast: kind.is_none(),
        kind: kind.unwrap_or(Kind::Text),
        is_nullable: !row.try_get::<_, bool>(3)?,
        is_generated: row.try_get(4)?,
    })
}

/// How values of a type look in binary `COPY`; `None` for those that are turned into text.
/// Source: PostgreSQL 18, `src/backend/utils/adt/`, the functions `…_send`.
fn kind(typname: &str, typmod: i32, is_own: bool) -> Option<Kind> {
    if !is_own {
        // Types of extensions: these send text, and those their own binary form, which they read.
        return match typname {
            "citext" => Some(Kind::Text),
            "geometry" | "geography" => Some(Kind::Bytes),
            _ => None,
        };
    }
    Some(match typname {
        "bool" => Kind::Bool,
        "int2" => Kind::Int16,
        "int4" => Kind::Int32,
        "int8" => Kind::Int64,
        "float4" => Kind::Float32,
        "float8" => Kind::Float64,
        "text" | "varchar" | "bpchar" | "name" | "char" => Kind::Text,
        "bytea" | "bit" | "varbit" => Kind::Bytes,
        "uuid" => Kind::Uuid,
        "date" => Kind::Date,
        "time" => Kind::Time,
        "timetz" => Kind::TimeTz,
        "timestamp" => Kind::Timestamp,
        "timestamptz" => Kind::TimestampTz,
        "interval" => Kind::Interval,
        "json" => Kind::Json,
        "jsonb" => Kind::Jsonb,
        "numeric" => return decimal(typmod),
        _ => return None,
    })
}

/// The number of digits and the scale of a number are in its column's modifier, where it has one.
/// Source: PostgreSQL 18, `src/backend/utils/adt/numeric.c`, `make_numeric_typmod`.
fn decimal(typmod: i32) -> Option<Kind> {
    const HEADER: i32 = 4;
    let fields = typmod.checked_sub(HEADER).filter(|fields| *fields >= 0)?;
    let precision = fields >> 16 & 0xffff;
    let scale = ((fields & 0x7ff) ^ 1024) - 1024;
    if !(1..=DIGITS_MAX).contains(&precision) || !(0..=precision).contains(&scale) {
        return None;
    }
    let (precision, scale) = (u8::try_from(precision).ok()?, u8::try_from(scale).ok()?);
    Some(Kind::Decimal { precision, scale })
}

/// The columns of the primary key, or of another unique index that holds all rows and no NULLs,
/// looks at once, and tells values apart as the columns do; or of one that has a name, which for a
/// partition may be that of its table's.
async fn key(client: &Client, number: u32, wanted: Option<&str>) -> Result<Vec<i16>> {
    let query = "WITH equal AS MATERIALIZED (SELECT c.oid, c.opcdefault, c.opcintype, o.amopopr
            FROM pg_opclass AS c JOIN pg_am AS m ON m.oid = c.opcmethod AND m.amname = 'btree'
            JOIN pg_amop AS o ON o.amopfamily = c.opcfamily AND o.amopstrategy = 3
                AND o.amoplefttype = c.opcintype AND o.amoprighttype = c.opcintype)
        SELECT ARRAY(SELECT k FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS u(k, n)
                WHERE n <= i.indnkeyatts ORDER BY n)
        FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
        WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indimmediate
            AND i.indpred IS NULL AND i.indexprs IS NULL
            AND NOT EXISTS (SELECT FROM unnest(i.indkey::int2[], i.indcollation::oid[],
                    i.indclass::oid[]) WITH ORDINALITY AS u(k, coll, class, n)
                LEFT JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = u.k
                WHERE n <= i.indnkeyatts AND (a.attnotnull IS NOT TRUE
                    OR u.coll <> a.attcollation OR NOT EXISTS (SELECT FROM equal AS o
                        JOIN equal AS d ON d.opcdefault AND d.opcintype = CASE WHEN EXISTS
                            (SELECT FROM equal AS e WHERE e.opcdefault AND e.opcintype = a.atttypid)
                            THEN a.atttypid ELSE o.opcintype END
                        WHERE o.oid = u.class AND o.amopopr = d.amopopr)
                    OR EXISTS (SELECT FROM pg_constraint AS n WHERE n.conrelid = i.indrelid
                        AND n.contype = 'n' AND NOT n.convalidated AND n.conkey = ARRAY[u.k])))
            AND ($2::text IS NULL OR c.relname = $2 OR EXISTS (SELECT
                FROM pg_partition_ancestors(c.oid) AS a JOIN pg_class AS t ON t.oid = a.relid
                WHERE t.relname = $2))
        ORDER BY c.relname = $2 DESC, i.indisprimary DESC, i.indnkeyatts, c.relname LIMIT 1";
    let row = client.query_opt(query, &[&number, &wanted]).await.map_err(|e| failed(e, STEP))?;
    row.map_or(Ok(Vec::new()), |row| row.try_get(0).map_err(|e| failed(e, STEP)))
}

/// A hash of what a change of the schema changes.
pub(super) async fn fingerprint(client: &Client, number: u32) -> Result<String> {
    let query = "
        SELECT concat_ws(E'\\t', 'table', relkind, relpersistence, relrowsecurity,
                relforcerowsecurity, relnamespace::regnamespace, relname)
            FROM pg_class WHERE oid = $1
        UNION ALL SELECT concat_ws(E'\\t', 'column', attnum, attname,
                format_type(atttypid, atttypmod), atttypid, attnotnull, attgenerated, attidentity,
                attcollation) FROM pg_attribute
            WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped
        UNION ALL SELECT concat_ws(E'\\t', 'index', indisvalid, pg_get_indexdef(indexrelid))
            FROM pg_index WHERE indrelid = $1 AND indisunique
        UNION ALL SELECT concat_ws(E'\\t', 'constraint', conrelid::regclass, conname,
                pg_get_constraintdef(oid)) FROM pg_constraint
            WHERE conrelid = $1 OR confrelid = $1
        UNION ALL SELECT concat_ws(E'\\t', 'trigger', tgenabled, pg_get_triggerdef(oid))
            FROM pg_trigger WHERE tgrelid = $1
                AND (NOT tgisinternal OR tgparentid <> 0 AND tgconstraint = 0)
        UNION ALL SELECT concat_ws(E'\\t', 'rule', ev_enabled, pg_get_ruledef(oid))
            FROM pg_rewrite WHERE ev_class = $1
        UNION ALL SELECT concat_ws(E'\\t', 'policy', polname, polcmd,
                pg_get_expr(polqual, polrelid))
            FROM pg_policy WHERE polrelid = $1
        UNION ALL SELECT concat_ws(E'\\t', 'inherits', inhrelid::regclass, inhparent::regclass)
            FROM pg_inherits WHERE inhrelid = $1 OR inhparent = $1";
    let rows = client.query(query, &[&number]).await.map_err(|e| failed(e, STEP))?;
    let lines: std::result::Result<Vec<String>, _> =
        rows.iter().map(|row| row.try_get(0)).collect();
    let mut lines = lines.map_err(|e| failed(e, STEP))?;
    // In one order, whatever collation the database has.
    lines.sort();
    let mut text = String::new();
    for byte in digest(&SHA256, lines.join("\n").as_bytes()).as_ref() {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

/// The tables that refer to a table. A reference of a partition that it has from the whole table
/// is named for the partition.
pub(super) async fn referrers(client: &Client, number: u32) -> Result<Vec<Referrer>> {
    let query = "
        SELECT format('%I.%I', n.nspname, r.relname), c.conname::text,
            ARRAY(SELECT a.attname::text FROM unnest(c.conkey) WITH ORDINALITY AS u(k, n)
                JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = u.k ORDER BY n),
            ARRAY(SELECT a.attname::text FROM unnest(c.confkey) WITH ORDINALITY AS u(k, n)
                JOIN pg_attribute AS a ON a.attrelid = c.confrelid AND a.attnum = u.k ORDER BY n),
            c.confdeltype IN ('c', 'n', 'd'), c.conrelid
        FROM pg_constraint AS c JOIN pg_class AS r ON r.oid = c.conrelid
            JOIN pg_namespace AS n ON n.oid = r.relnamespace
        WHERE c.contype = 'f' AND c.confrelid = $1 AND r.relkind IN ('r', 'p')
            AND NOT EXISTS (SELECT FROM pg_constraint AS p
                WHERE p.oid = c.conparentid AND p.conrelid <> c.conrelid)
        ORDER BY 1, 2";
    let rows = client.query(query, &[&number]).await.map_err(|e| failed(e, STEP))?;
    let read = |row: &Row| {
        let referrer = Referrer {
            table: row.try_get(0)?,
            constraint: quoted(row.try_get(1)?),
            columns: row.try_get(2)?,
            parent_columns: row.try_get(3)?,
            is_cascading: row.try_get(4)?,
            likeness: Vec::new(),
        };
        Ok((row.try_get(5)?, referrer))
    };
    let mut referrers = Vec::new();
    for row in &rows {
        let (own, mut referrer): (u32, Referrer) = read(row).map_err(|e| failed(e, STEP))?;
        let columns = ((own, &*referrer.columns), (number, &*referrer.parent_columns));
        referrer.likeness = likeness(client, columns.0, columns.1).await?;
        referrers.push(referrer);
    }
    Ok(referrers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_that_files_can_hold_stay_numbers() {
        let typmod = |precision: i32, scale: i32| (precision << 16 | scale & 0x7ff) + 4;
        let kept = |precision, scale| Some(Kind::Decimal { precision, scale });
        assert_eq!(decimal(typmod(12, 2)), kept(12, 2));
        assert_eq!(decimal(typmod(38, 38)), kept(38, 38));
        for other in [-1, typmod(39, 2), typmod(3, 5), typmod(3, -2), typmod(1000, 0)] {
            assert_eq!(decimal(other), None, "{other}");
        }
    }
}
