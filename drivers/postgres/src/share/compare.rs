//! Live tables beside those of the sandbox, row by row in the order of their keys.

use std::{cmp::Ordering, collections::BTreeSet, path::Path};

use stillpoint_contract::{
    Comparison, Difference, Error, ErrorKind, Progress, RUN_ONCE, Result, Script, Share,
    ShareRequest, Tallied, code,
};

use super::{
    admit::{connect, not_there},
    bring::database_of,
    choose::{Table, choose, warnings, with_heirs},
    merge::{Column, Later, Merge, Out, Sequence, Target, unwritten},
    obstacle::obstacles,
    rows::{FORMS, Order, Rows, compare as order_of},
    unique::{self, Unique},
};
use crate::{connect::Sql, error, sandbox::ServerSandbox, tally::quoted};

const STEP: &str = "compare tables";

/// What has the name: its kind, and whether it may have heirs.
const LIVE: &str = "
    SELECT c.oid, c.relkind IN ('r', 'p'), c.relkind = 'r' AND c.relhassubclass
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = $2";

const HEIRS: &str =
    "SELECT relkind = 'r' AND relhassubclass FROM pg_catalog.pg_class WHERE oid = $1";

const COLUMNS: &str = "
    SELECT a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod),
        pg_catalog.format_type(t.oid, NULL), a.attgenerated::text <> '',
        a.attidentity::text = 'a', pg_catalog.format_type(t.oid, -1), t.typtype = 'c'
    FROM pg_catalog.pg_attribute a CROSS JOIN LATERAL (
            WITH RECURSIVE below AS (
                SELECT t.oid, t.typtype, t.typbasetype FROM pg_catalog.pg_type t
                    WHERE t.oid = a.atttypid
                UNION ALL SELECT t.oid, t.typtype, t.typbasetype
                    FROM below JOIN pg_catalog.pg_type t ON t.oid = below.typbasetype)
            SELECT oid, typtype FROM below WHERE typtype <> 'd') t
    WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

/// Sequences that give a table's columns their values, whether they belong to these or are only
/// named in their defaults; and whether they count up.
const SEQUENCES: &str = "
    SELECT DISTINCT pg_catalog.format('%I.%I', n.nspname, c.relname), a.attname::text,
        s.seqincrement > 0
    FROM (
            SELECT d.objid AS sequence, d.refobjsubid AS place FROM pg_catalog.pg_depend d
            WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                AND d.refclassid = d.classid AND d.refobjid = $1 AND d.deptype IN ('a', 'i')
            UNION SELECT d.refobjid, e.adnum FROM pg_catalog.pg_attrdef e
                JOIN pg_catalog.pg_depend d ON d.objid = e.oid
            WHERE e.adrelid = $1 AND d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
                AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass) u
        JOIN pg_catalog.pg_sequence s ON s.seqrelid = u.sequence
        JOIN pg_catalog.pg_class c ON c.oid = u.sequence
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_catalog.pg_attribute a ON a.attrelid = $1 AND a.attnum = u.place
    ORDER BY 2, 1";

/// Partitions of a table, those above before those below: their names, and what makes them.
const PARTITIONS: &str = "
    SELECT pg_catalog.format('%I.%I', n.nspname, c.relname),
        pg_catalog.format('CREATE TABLE %I.%I PARTITION OF %I.%I %s%s;', n.nspname, c.relname,
            m.nspname, p.relname, pg_catalog.pg_get_expr(c.relpartbound, c.oid),
            ' PARTITION BY ' || pg_catalog.pg_get_partkeydef(c.oid))
    FROM pg_catalog.pg_partition_tree($1::oid) t
        JOIN pg_catalog.pg_class c ON c.oid = t.relid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_catalog.pg_class p ON p.oid = t.parentrelid
        JOIN pg_catalog.pg_namespace m ON m.oid = p.relnamespace
    WHERE t.level > 0 ORDER BY t.level, 1";

/// Columns that refer to rows of the same table.
const OWN_REFERENCES: &str = "
    SELECT DISTINCT a.attname::text FROM pg_catalog.pg_constraint c
        JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)
    WHERE c.contype = 'f' AND c.conrelid = $1 AND c.confrelid = $1";

/// In how many ways rows are unique, in a table or in one of its partitions.
const UNIQUE: &str = "
    SELECT count(*) FROM pg_catalog.pg_index i
    WHERE (i.indisunique OR i.indisexclusion)
        AND (i.indrelid = $1 OR i.indrelid IN (
            SELECT relid FROM pg_catalog.pg_partition_tree($1::oid)))
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhrelid = i.indexrelid)";

/// Columns of unique indexes in which every row can be, the primary key first; whether none of
/// them can be NULL.
const KEYS: &str = "
    SELECT NOT EXISTS (
            SELECT FROM pg_catalog.pg_attribute a
            WHERE a.attrelid = i.indrelid AND NOT a.attnotnull
                AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])),
        ARRAY(
        SELECT a.attname::text
        FROM pg_catalog.unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) WITH ORDINALITY k (n, place)
            JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.n
        ORDER BY k.place)
    FROM pg_catalog.pg_index i
    WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
        AND i.indexprs IS NULL
    ORDER BY NOT i.indisprimary, i.indnkeyatts, i.indexrelid";

const REFERENCES: &str = "
    SELECT conrelid, confrelid FROM pg_catalog.pg_constraint
    WHERE contype = 'f' AND conrelid = ANY ($1) AND confrelid = ANY ($1)";

const HEAD: &str = "\
-- Read this before you run it. It makes live tables like they were at the restored point:
-- rows that differ get their old values unless a column that they had then was changed since, rows
-- that are missing come back unless another row has by now what must be unique in them: the server
-- then says INSERT 0 0. Rows that are extra stay: their removal is commented out.
-- Triggers fire as for every other statement. One that fails, as where rows exchanged or passed on
-- what must be unique, or where rows of two tables refer to each other, ends all of it, and nothing
-- is changed.
BEGIN READ WRITE;
SET CONSTRAINTS ALL DEFERRED;
SET LOCAL standard_conforming_strings = on;
SET LOCAL client_encoding = 'UTF8';
SET LOCAL DateStyle = 'ISO, YMD';
SET LOCAL TimeZone = 'UTC';
SET LOCAL IntervalStyle = 'postgres';
SET LOCAL extra_float_digits = 3;
SET LOCAL bytea_output = 'hex';
SET LOCAL lc_monetary = 'C';
SET LOCAL quote_all_identifiers = off;
SET LOCAL xmloption = content;
SET LOCAL array_nulls = on;
";

/// Compares tables, and writes what would merge them.
pub(crate) async fn compare(
    sandbox: &ServerSandbox,
    request: &ShareRequest<'_>,
    progress: &dyn Progress,
    script: &mut Script<'_>,
) -> Result<Comparison> {
    let Share::Tables(patterns) = request.share else {
        return Err(Error::new(ErrorKind::Unsupported, code::USAGE, STEP)
            .next("name tables: --table SCHEMA.TABLE"));
    };
    progress.begin("prepare", 0);
    let (cluster, live, _) = connect(request, &sandbox.cluster.clock).await?;
    let database = database_of(sandbox, request, &cluster)?;
    let own = sandbox.cluster.in_database(&database).sql().await?;
    let (chosen, mut notes) = choose(&own, &database, patterns).await?;
    let mut tables = with_heirs(&own, chosen).await?;
    notes.extend(refuse_unlogged(&mut tables)?);
    // Rows of partitions are those of their parents, and rows of heirs their own.
    let partitioned = tables.iter().filter(|table| table.of.is_none() && table.is_partitioned());
    let partitioned: BTreeSet<u32> = partitioned.map(|table| table.id).collect();
    tables.retain(|table| table.of.is_none_or(|of| !partitioned.contains(&of)));
    let circular = parents_first(&own, &mut tables).await?;
    let failed = |e| error::sql(e, STEP);
    own.client.batch_execute(FORMS).await.map_err(failed)?;
    live.client.batch_execute(FORMS).await.map_err(failed)?;
    for sql in [&own, &live] {
        if encoding(sql).await? == UNKNOWN {
            // It would refuse what is no UTF-8, which it takes as it comes.
            let raw = "SET client_encoding = 'SQL_ASCII'";
            sql.client.batch_execute(raw).await.map_err(failed)?;
        }
    }
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    live.client.batch_execute(begin).await.map_err(failed)?;
    let (mut shapes, mut gone) = (Vec::new(), BTreeSet::new());
    for table in &tables {
        match Shape::find((&own, &live), table).await {
            Ok(shape) => shapes.push(shape),
            // What is known of the others is worth having.
            Err(error) if tables.len() > 1 && error.code() == code::NO_SUCH_TABLE => {
                gone.insert(table.id);
            }
            Err(error) => return Err(error),
        }
    }
    let (dropped, tables): (Vec<_>, Vec<_>) =
        tables.into_iter().partition(|table| gone.contains(&table.id));
    progress.begin("compare", shapes.iter().map(|shape| shape.size).sum());
    Out(script).line(HEAD.trim_end())?;
    for note in &notes {
        Out(script).line(&format!("-- {}", note.replace(['\n', '\r'], " ")))?;
    }
    let mut found = Vec::new();
    for (table, shape) in tables.iter().zip(shapes) {
        let how = (circular.contains(&table.id), &*sandbox.directory);
        let compared = one((&own, &live), table, shape, how, progress, script).await?;
        Out(script).line(&format!(
            "-- {}: {} missing, {} different, {} extra",
            compared.table.replace(['\n', '\r'], " "),
            compared.missing.rows,
            compared.different.rows,
            compared.extra.rows
        ))?;
        found.push(compared);
    }
    for table in &dropped {
        let whole = missing_table(&own, table).await?;
        Out(script).line(&format!(
            "-- {}: all {} rows are missing, since the table is gone",
            whole.table.replace(['\n', '\r'], " "),
            whole.missing.rows
        ))?;
        found.push(whole);
    }
    Out(script).line("COMMIT;")?;
    live.client.batch_execute("COMMIT").await.map_err(failed)?;
    Ok(Comparison { tables: found, notes })
}

/// Leaves out tables of which no backup has rows, as long as others are meant as well, and says so.
fn refuse_unlogged(tables: &mut Vec<Table>) -> Result<Vec<String>> {
    let warnings = warnings(tables);
    tables.retain(|table| !table.is_unlogged());
    if let (true, Some(warning)) = (tables.is_empty(), warnings.first()) {
        return Err(Error::new(ErrorKind::Unsupported, code::NO_TABLE, STEP)
            .why(warning.clone())
            .next("name other tables: nothing is known of what its rows were"));
    }
    Ok(warnings)
}

/// What is said of a table that only the copy has.
async fn missing_table(own: &Sql, table: &Table) -> Result<Difference> {
    // Rows of partitions are those of their parents, and rows of heirs their own.
    let only = if table.is_partitioned() { "" } else { "ONLY " };
    let query = format!("SELECT count(*) FROM {only}{}", table.quoted());
    let failed = |e| error::sql(e, STEP);
    let row = own.client.query_one(&query, &[]).await.map_err(failed)?;
    let rows: i64 = row.try_get(0).map_err(failed)?;
    let missing = Tallied { rows: rows.unsigned_abs(), examples: Vec::new() };
    let columns = columns(own, table.id).await?;
    let columns_missing = columns.iter().map(|column| format!("{} {}", column.name, column.kind));
    let key = keys(own, table.id).await?.into_iter().next().map(|key| key.columns);
    Ok(Difference {
        table: table.shown(),
        key: key.unwrap_or_default(),
        missing,
        columns_missing: columns_missing.collect(),
        notes: vec![stillpoint_contract::gone_table(&table.shown())],
        ..Difference::default()
    })
}

/// What both tables have.
struct Shape {
    columns: Vec<Column>,
    key: Vec<usize>,
    /// What no two live rows share, if `ON CONFLICT` does not take it for that.
    unique: Option<Vec<Unique>>,
    /// Whether more than the key is unique, or the key is by another equality than that of bytes.
    has_more: bool,
    sequences: Vec<Sequence>,
    /// What a person should know before the statements are run.
    notes: Vec<String>,
    /// What makes partitions that are gone.
    partitions: Vec<String>,
    /// Which columns refer to rows of the same live table.
    own_references: Vec<usize>,
    /// Whether either table may have heirs, whose rows are not its own.
    has_heirs: (bool, bool),
    sort: Vec<(String, Order)>,
    columns_missing: Vec<String>,
    columns_extra: Vec<String>,
    size: u64,
}

/// A column of one table.
struct Found {
    name: String,
    kind: String,
    base: String,
    is_row: bool,
    is_generated: bool,
    is_always: bool,
    cast: String,
}

/// A key of a table.
struct Key {
    columns: Vec<String>,
    /// Whether no row has a NULL in it.
    is_total: bool,
}

impl Shape {
    async fn find((own, live): (&Sql, &Sql), table: &Table) -> Result<Self> {
        let failed = |e| error::sql(e, STEP);
        let row = live.client.query_opt(LIVE, &[&table.schema, &table.name]).await;
        let row = row.map_err(failed)?;
        let is_table = row.as_ref().map(|row| row.try_get(1)).transpose().map_err(failed)?;
        let Some(row) = row.filter(|_| is_table == Some(true)) else {
            return Err(not_there(&table.shown()));
        };
        let id: u32 = row.try_get(0).map_err(failed)?;
        let lives_with_heirs: bool = row.try_get(2).map_err(failed)?;
        let heirs = own.client.query_one(HEIRS, &[&table.id]).await.map_err(failed)?;
        let has_heirs = (heirs.try_get(0).map_err(failed)?, lives_with_heirs);
        let (copied, living) = (columns(own, table.id).await?, columns(live, id).await?);
        let only_in = |these: &[Found], those: &[Found]| -> Vec<String> {
            let is_there =
                |c: &&Found| those.iter().any(|d| (&d.name, &d.kind) == (&c.name, &c.kind));
            let lacking = these.iter().filter(|column| !is_there(column));
            lacking.map(|column| format!("{} {}", column.name, column.kind)).collect()
        };
        let (columns_missing, columns_extra) =
            (only_in(&copied, &living), only_in(&living, &copied));
        let (mut ours, mut theirs) = (keys(own, table.id).await?, keys(live, id).await?);
        for (sql, keys) in [(own, &mut ours), (live, &mut theirs)] {
            for key in keys {
                key.is_total = key.is_total || !has_null(sql, table, key).await?;
            }
        }
        let both = shared_columns(&copied, &living, &ours);
        let same = |key: &Key, is_total: bool| {
            let sorted = |key: &Key| key.columns.iter().cloned().collect::<BTreeSet<_>>();
            let mut others = theirs.iter().filter(|other| sorted(other) == sorted(key));
            others.any(|other| !is_total || other.is_total && key.is_total)
        };
        let place = |name: &String| both.iter().position(|column| column.name == *name);
        let places = |key: &Key| {
            let places = key.columns.iter().map(place).collect::<Option<Vec<_>>>();
            places.filter(|places| !places.is_empty())
        };
        let of = |is_total| ours.iter().filter(|key| same(key, is_total)).find_map(places);
        let (key, has_nulls) = match of(true) {
            Some(key) => (key, false),
            None => (of(false).unwrap_or_default(), true),
        };
        for place in &key {
            check_type(table, &both[*place].name, (&copied, &living))?;
        }
        let names: Vec<String> = key.iter().map(|place| both[*place].name.clone()).collect();
        let asked = if key.iter().any(|place| both[*place].is_generated) { &[] } else { &*names };
        let written = both.iter().filter(|column| !column.is_generated);
        let written = written.map(|column| column.name.as_str()).collect();
        let (unique, unasked) = unique::find(live, id, asked, &written).await?.unzip();
        let all = live.client.query_one(UNIQUE, &[&id]).await.map_err(failed)?;
        let all: i64 = all.try_get(0).map_err(failed)?;
        let is_exact = |place: &usize| is_exact(&both[*place].base);
        let has_more = i64::from(!key.is_empty()) < all || !key.iter().all(is_exact);
        let sequences = sequences(live, id, &both).await?;
        let own_references = own_references(live, id, &both).await?;
        let partitions = gone_partitions((own, table.id), (live, id)).await?;
        let known = (unasked.unwrap_or_default(), &*partitions);
        let notes = obstacles((own, table.id), (live, id), &both, known).await?;
        let is_unicode = is_unicode(own).await? && is_unicode(live).await?;
        let apart = has_nulls.then(|| apart(&both, &key));
        let sort = apart.into_iter().chain(key.iter().map(|k| sorted_by(&both[*k], is_unicode)));
        let sort = sort.collect();
        let query = "SELECT coalesce(sum(pg_catalog.pg_table_size(t.id)), 0)::int8 FROM (
            SELECT $1::oid UNION SELECT relid FROM pg_catalog.pg_partition_tree($1::oid)) t (id)";
        let size = own.client.query_one(query, &[&table.id]).await.map_err(failed)?;
        let size = size.try_get::<_, i64>(0).map_err(failed)?.unsigned_abs();
        Ok(Self {
            columns: both,
            key,
            unique,
            has_more,
            sequences,
            notes,
            partitions,
            own_references,
            has_heirs,
            sort,
            columns_missing,
            columns_extra,
            size,
        })
    }

    fn query(&self, table: &Table, has_heirs: bool) -> String {
        let only = if has_heirs { "ONLY " } else { "" };
        let sort: Vec<_> = self.sort.iter().map(|(by, _)| by.as_str()).collect();
        let columns = self.columns.iter().map(|column| quoted(&column.name));
        let all: Vec<_> = sort.iter().map(|by| (*by).to_owned()).chain(columns).collect();
        let (all, table, sort) = (all.join(", "), table.quoted(), sort.join(", "));
        format!("SELECT {all} FROM {only}{table} ORDER BY {sort}")
    }
}

/// Columns that both tables have and that statements can set; and those that the server makes,
/// where they tell rows apart.
fn shared_columns(copied: &[Found], living: &[Found], keys: &[Key]) -> Vec<Column> {
    let shared = copied.iter().filter_map(|column| {
        let other = living.iter().find(|other| other.name == column.name)?;
        let is_key = keys.iter().any(|key| key.columns.contains(&column.name));
        let is_generated = column.is_generated && other.is_generated && is_key;
        (is_generated || !column.is_generated && !other.is_generated).then(|| Column {
            name: column.name.clone(),
            base: column.base.clone(),
            live: other.base.clone(),
            is_row: column.is_row || other.is_row,
            cast: other.cast.clone(),
            is_always: other.is_always,
            is_generated,
        })
    });
    shared.collect()
}

/// What rows are sorted by first that have a NULL in their key, which may be there twice: all that
/// is in them.
fn apart(all: &[Column], key: &[usize]) -> (String, Order) {
    let names: Vec<_> = all.iter().map(|column| quoted(&column.name)).collect();
    let hash = format!("pg_catalog.md5(ROW({})::text)", names.join(", "));
    let is_null = key.iter().map(|place| format!("{} IS NULL", names[*place]));
    let is_null = is_null.collect::<Vec<_>>().join(" OR ");
    let text = if is_null.is_empty() {
        hash
    } else {
        format!("(CASE WHEN {is_null} THEN {hash} ELSE '' END)")
    };
    (format!("{text} COLLATE \"C\""), Order::Bytes)
}

/// Refuses a key whose values are other texts, or sorted in another way, on one of the sides.
fn check_type(table: &Table, column: &str, (copied, living): (&[Found], &[Found])) -> Result<()> {
    let of = |all: &[Found]| {
        let found = all.iter().find(|found| found.name == column);
        found.map(|found| (found.kind.clone(), family(&found.base).to_owned()))
    };
    let (Some((ours, one)), Some((theirs, other))) = (of(copied), of(living)) else {
        return Err(Error::bug(STEP));
    };
    if one == other {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unsupported, code::UNSUITABLE_DATABASE, STEP)
        .with("table", table.shown())
        .with("key", column)
        .with("type at the point", ours)
        .with("type now", theirs)
        .why("values of the two types are written and sorted differently: no row would be found")
        .next(format!(
            "bring it back beside the live one: --table {} without --compare",
            stillpoint_contract::quoted(&table.shown())
        )))
}

/// Types whose equal values are equal texts, in one order.
pub(super) fn family(base: &str) -> &str {
    match base {
        "smallint" | "integer" | "bigint" | "oid" => "whole number",
        "text" | "character varying" => "text",
        base => base,
    }
}

/// Whether two values of a type are equal only as the same text.
fn is_exact(base: &str) -> bool {
    let exact = ["smallint", "integer", "bigint", "oid", "uuid", "bytea", "date", "boolean"];
    exact.contains(&base) || base.starts_with("timestamp ")
}

/// What a column of a key is sorted by, so that all servers have one order.
fn sorted_by(column: &Column, is_unicode: bool) -> (String, Order) {
    let name = quoted(&column.name);
    match column.base.as_str() {
        "smallint" | "integer" | "bigint" | "oid" => (name, Order::Number),
        "uuid" => (name, Order::Bytes),
        // Equal numbers may have different ends.
        "numeric" => {
            let text = format!("pg_catalog.trim_scale({name})::text COLLATE \"C\"");
            (text, Order::Bytes)
        }
        _ if is_unicode => (format!("{name}::text COLLATE \"C\""), Order::Bytes),
        _ => (format!("pg_catalog.convert_to({name}::text, 'UTF8')"), Order::Bytes),
    }
}

/// The encoding of databases that take bytes without asking what letters they are.
/// Source: PostgreSQL 18 documentation, 23.3, Character Set Support.
pub(super) const UNKNOWN: &str = "SQL_ASCII";

pub(super) async fn encoding(sql: &Sql) -> Result<String> {
    let failed = |e| error::sql(e, STEP);
    let query = "SELECT pg_catalog.current_setting('server_encoding')";
    sql.client.query_one(query, &[]).await.map_err(failed)?.try_get(0).map_err(failed)
}

/// Whether texts are sorted by the bytes that are compared here.
async fn is_unicode(sql: &Sql) -> Result<bool> {
    Ok(["UTF8", UNKNOWN].contains(&&*encoding(sql).await?))
}

async fn columns(sql: &Sql, table: u32) -> Result<Vec<Found>> {
    let failed = |e| error::sql(e, STEP);
    let rows = sql.client.query(COLUMNS, &[&table]).await.map_err(failed)?;
    let column = |row: &tokio_postgres::Row| {
        Ok(Found {
            name: row.try_get(0)?,
            kind: row.try_get(1)?,
            base: row.try_get(2)?,
            is_generated: row.try_get(3)?,
            is_always: row.try_get(4)?,
            cast: row.try_get(5)?,
            is_row: row.try_get(6)?,
        })
    };
    rows.iter().map(column).collect::<std::result::Result<_, _>>().map_err(failed)
}

/// Sequences, and the columns that count by them.
async fn sequences(live: &Sql, table: u32, all: &[Column]) -> Result<Vec<Sequence>> {
    let failed = |e| error::sql(e, STEP);
    let mut sequences = Vec::new();
    for row in live.client.query(SEQUENCES, &[&table]).await.map_err(failed)? {
        let column: String = row.try_get(1).map_err(failed)?;
        let counts = |one: &Column| {
            one.name == column && ["smallint", "integer", "bigint"].contains(&&*one.live)
        };
        if all.iter().any(counts) {
            let (name, is_up) = (row.try_get(0).map_err(failed)?, row.try_get(2).map_err(failed)?);
            sequences.push(Sequence { name, column, is_up });
        }
    }
    Ok(sequences)
}

/// What makes the partitions that only the copy has.
async fn gone_partitions(
    (own, table): (&Sql, u32),
    (live, now): (&Sql, u32),
) -> Result<Vec<String>> {
    let failed = |e| error::sql(e, STEP);
    let there = live.client.query(PARTITIONS, &[&now]).await.map_err(failed)?;
    let there: BTreeSet<String> = there
        .iter()
        .map(|row| row.try_get(0))
        .collect::<std::result::Result<_, _>>()
        .map_err(failed)?;
    let mut gone = Vec::new();
    for row in own.client.query(PARTITIONS, &[&table]).await.map_err(failed)? {
        if !there.contains(row.try_get::<_, &str>(0).map_err(failed)?) {
            gone.push(row.try_get(1).map_err(failed)?);
        }
    }
    Ok(gone)
}

async fn own_references(live: &Sql, table: u32, all: &[Column]) -> Result<Vec<usize>> {
    let failed = |e| error::sql(e, STEP);
    let rows = live.client.query(OWN_REFERENCES, &[&table]).await.map_err(failed)?;
    let names = rows.iter().map(|row| row.try_get::<_, String>(0).map_err(failed));
    let names: BTreeSet<String> = names.collect::<Result<_>>()?;
    Ok((0..all.len()).filter(|place| names.contains(&all[*place].name)).collect())
}

async fn keys(sql: &Sql, table: u32) -> Result<Vec<Key>> {
    let failed = |e| error::sql(e, STEP);
    let rows = sql.client.query(KEYS, &[&table]).await.map_err(failed)?;
    let key =
        |row: &tokio_postgres::Row| Ok(Key { is_total: row.try_get(0)?, columns: row.try_get(1)? });
    rows.iter().map(key).collect::<std::result::Result<_, _>>().map_err(failed)
}

/// Whether rows have a NULL in a key.
async fn has_null(sql: &Sql, table: &Table, key: &Key) -> Result<bool> {
    let is_null = key.columns.iter().map(|name| format!("{} IS NULL", quoted(name)));
    let is_null = is_null.collect::<Vec<_>>().join(" OR ");
    let query = format!("SELECT EXISTS (SELECT FROM {} WHERE {is_null})", table.quoted());
    let failed = |e| error::sql(e, STEP);
    sql.client.query_one(&query, &[]).await.map_err(failed)?.try_get(0).map_err(failed)
}

/// Puts tables behind those that they refer to; returns those that refer to themselves.
async fn parents_first(sql: &Sql, tables: &mut Vec<Table>) -> Result<BTreeSet<u32>> {
    let failed = |e| error::sql(e, STEP);
    let ids: Vec<u32> = tables.iter().map(|table| table.id).collect();
    let mut links = Vec::<(u32, u32)>::new();
    for row in sql.client.query(REFERENCES, &[&ids]).await.map_err(failed)? {
        links.push((row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?));
    }
    let circular = links.iter().filter(|(from, to)| from == to).map(|(id, _)| *id).collect();
    links.retain(|(from, to)| from != to);
    let mut sorted = Vec::with_capacity(tables.len());
    while !tables.is_empty() {
        let waits = |table: &Table| {
            links.iter().any(|(from, to)| *from == table.id && tables.iter().any(|t| t.id == *to))
        };
        // Where all wait for each other, any order is as good.
        let next = tables.iter().position(|table| !waits(table)).unwrap_or(0);
        sorted.push(tables.remove(next));
    }
    *tables = sorted;
    Ok(circular)
}

async fn one(
    (own, live): (&Sql, &Sql),
    table: &Table,
    shape: Shape,
    (is_circular, scratch): (bool, &Path),
    progress: &dyn Progress,
    script: &mut Script<'_>,
) -> Result<Difference> {
    let (ours, theirs) = shape.has_heirs;
    let (ours, theirs, keys) =
        (shape.query(table, ours), shape.query(table, theirs), shape.sort.len());
    let orders: Vec<Order> = shape.sort.iter().map(|(_, order)| *order).collect();
    let mut found = Difference {
        table: table.shown(),
        key: shape.key.iter().map(|place| shape.columns[*place].name.clone()).collect(),
        columns_missing: shape.columns_missing,
        columns_extra: shape.columns_extra,
        notes: shape.notes,
        ..Difference::default()
    };
    for line in found.notes.iter().chain(&shape.partitions) {
        Out(script).line(&format!("-- {}", line.replace(['\n', '\r'], " ")))?;
    }
    let target = Target {
        table: table.quoted(),
        has_heirs: shape.has_heirs.1,
        columns: shape.columns,
        key: shape.key,
        unique: shape.unique,
        sequences: shape.sequences,
        own_references: shape.own_references,
    };
    let file = |is_needed: bool| {
        is_needed.then(|| tempfile::tempfile_in(scratch)).transpose().map_err(unwritten)
    };
    let later =
        Later { missing: file(is_circular || shape.has_more)?, references: file(is_circular)? };
    let mut merge = Merge::new(target, later, script);
    let (mut ours, mut theirs) =
        (Rows::open(own, &ours, keys).await?, Rows::open(live, &theirs, keys).await?);
    let (mut copy, mut living) = (ours.next().await?, theirs.next().await?);
    let (mut told, mut comes_again) = (0, false);
    let mut advance = |bytes: u64| {
        let more = bytes.min(shape.size - told);
        told += more;
        progress.advance(more);
    };
    loop {
        let order = match (&copy, &living) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(one), Some(other)) => order_of(one, other, &orders),
        };
        match (order, &copy, &living) {
            (Ordering::Less, Some(row), _) => {
                merge.missing(row)?;
                comes_again |= merge.is_apart(row);
                found.missing.add(|| merge.shown(row));
            }
            (Ordering::Greater, _, Some(row)) => {
                merge.extra(row)?;
                found.extra.add(|| merge.shown(row));
            }
            (_, Some(row), Some(other)) if row.values == other.values => found.equal += 1,
            (_, Some(row), Some(other)) => {
                merge.different(row, other)?;
                found.different.add(|| merge.shown(row));
            }
            _ => return Err(Error::bug(STEP)),
        }
        if order != Ordering::Greater {
            advance(copy.as_ref().map_or(0, |row| row.length));
            copy = ours.next().await?;
        }
        if order != Ordering::Less {
            living = theirs.next().await?;
        }
    }
    advance(u64::MAX);
    merge.close()?;
    if comes_again {
        Out(script).line(&format!("-- {RUN_ONCE}"))?;
        found.notes.push(RUN_ONCE.to_owned());
    }
    Ok(found)
}
