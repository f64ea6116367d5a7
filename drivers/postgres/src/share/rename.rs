//! New names for tables and what belongs to them, given in the sandbox, whose definitions then are
//! those that the live server gets.

use std::collections::{BTreeMap, BTreeSet};

use stillpoint_contract::{Error, ErrorKind, Result, TablePattern, chosen_name, code};

use super::choose::{Table, shown};
use crate::{connect::Sql, error, tally::quoted};

const STEP: &str = "give the restored tables their new names";

/// How often another name is tried.
const NAMES_MAX: u32 = 1000;

/// Indexes, sequences that columns own or take their values from, and extended statistics.
const BELONGINGS: &str = "
    SELECT i.indexrelid, 'INDEX', n.nspname::text, c.relname::text, i.indrelid
    FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE i.indrelid = ANY ($1)
    UNION
    SELECT s.oid, 'SEQUENCE', n.nspname::text, s.relname::text, u.owner
    FROM (
        SELECT d.objid AS id, d.refobjid AS owner FROM pg_catalog.pg_depend d
        WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
            AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
            AND d.refobjid = ANY ($1) AND d.deptype IN ('a', 'i')
        UNION
        SELECT d.refobjid, min(a.adrelid) FROM pg_catalog.pg_depend d
            JOIN pg_catalog.pg_attrdef a ON a.oid = d.objid
        WHERE d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
            AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
            AND a.adrelid = ANY ($1)
        GROUP BY d.refobjid) u
        JOIN pg_catalog.pg_class s ON s.oid = u.id AND s.relkind = 'S'
        JOIN pg_catalog.pg_namespace n ON n.oid = s.relnamespace
    UNION
    SELECT e.oid, 'STATISTICS', n.nspname::text, e.stxname::text, e.stxrelid
    FROM pg_catalog.pg_statistic_ext e JOIN pg_catalog.pg_namespace n ON n.oid = e.stxnamespace
    WHERE e.stxrelid = ANY ($1)
    ORDER BY 2, 3, 4";

/// Names that relations, types and extended statistics of a schema have.
const TAKEN: &str = "
    SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = ANY ($1)
    UNION SELECT n.nspname::text, t.typname::text FROM pg_catalog.pg_type t
        JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE n.nspname = ANY ($1)
    UNION SELECT n.nspname::text, e.stxname::text FROM pg_catalog.pg_statistic_ext e
        JOIN pg_catalog.pg_namespace n ON n.oid = e.stxnamespace WHERE n.nspname = ANY ($1)";

const SCHEMAS: &str = "SELECT nspname::text FROM pg_catalog.pg_namespace WHERE nspname = ANY ($1)";

const IN_THE_WAY: &str = "
    SELECT c.oid FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind <> 'c'";

/// One thing that gets a new name.
#[derive(Clone, Debug)]
pub(super) struct Renamed {
    pub(super) id: u32,
    pub(super) kind: String,
    pub(super) schema: String,
    pub(super) from: String,
    pub(super) to: String,
}

impl Renamed {
    /// Its new name as statements have it.
    pub(super) fn quoted(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.to))
    }
}

/// Everything that gets a new name; tables as they were chosen, then what belongs to them.
#[derive(Debug)]
pub(super) struct Renaming {
    pub(super) all: Vec<Renamed>,
    /// The schema that the tables move to.
    moves_to: Option<String>,
}

/// A schema and a name that a person chose.
pub(super) fn chosen(name: &str) -> Result<(Option<String>, String)> {
    let pattern = TablePattern::new(name)?;
    let invalid = |why| {
        Error::new(ErrorKind::Invalid, code::BAD_NAME, "use the new name")
            .with("given", name)
            .why(why)
            .next("--as NAME, or --as SCHEMA.NAME")
    };
    match pattern.names().as_slice() {
        _ if !pattern.is_exact() => Err(invalid("a new name has no wildcards")),
        [.., own] if own.len() > stillpoint_contract::CHOSEN_NAME_BYTES_MAX => {
            Err(invalid("PostgreSQL has no names that are longer than 63 bytes"))
        }
        [own] => Ok((None, (*own).to_owned())),
        [schema, own] => Ok((Some((*schema).to_owned()), (*own).to_owned())),
        _ => Err(invalid("it has too many dots")),
    }
}

/// Chooses names that are free in the live database.
pub(super) async fn plan(
    (sandbox, live): (&Sql, &Sql),
    tables: &[Table],
    name: Option<&str>,
    suffix: &str,
) -> Result<Renaming> {
    let failed = |e| error::sql(e, STEP);
    let (moves_to, own) = match name.map(chosen).transpose()? {
        Some((schema, own)) => (schema, Some(own)),
        None => (None, None),
    };
    let schema_of = |schema: &str| moves_to.clone().unwrap_or_else(|| schema.to_owned());
    let ids: Vec<u32> = tables.iter().map(|table| table.id).collect();
    let mut belongings = Vec::new();
    for row in sandbox.client.query(BELONGINGS, &[&ids]).await.map_err(failed)? {
        let kind: String = row.try_get(1).map_err(failed)?;
        let (schema, from): (String, String) =
            (row.try_get(2).map_err(failed)?, row.try_get(3).map_err(failed)?);
        let owner: u32 = row.try_get(4).map_err(failed)?;
        let id: u32 = row.try_get(0).map_err(failed)?;
        belongings.push((id, kind, schema, from, owner));
    }
    let mut schemas: BTreeSet<String> = tables.iter().map(|t| schema_of(&t.schema)).collect();
    schemas.extend(belongings.iter().map(|(_, _, schema, ..)| schema.clone()));
    let schemas: Vec<String> = schemas.into_iter().collect();
    check_schemas(live, &schemas).await?;
    let mut taken = BTreeSet::new();
    for row in live.client.query(TAKEN, &[&schemas]).await.map_err(failed)? {
        let name: (String, String) =
            (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        taken.insert(name);
    }

    let mut all: Vec<Renamed> = Vec::new();
    let mut names = BTreeMap::<u32, (String, String)>::new();
    for table in tables {
        let schema = schema_of(&table.schema);
        let to = match (&own, table.of.and_then(|of| names.get(&of))) {
            (Some(own), None) => own.clone(),
            (_, Some((from, to))) => inherited(&table.name, from, to, suffix),
            (None, None) => chosen_name(&table.name, suffix),
        };
        // Only the name that was asked for has to be that and no other.
        let is_asked = table.of.is_none();
        let is_ours = all.iter().any(|one| one.schema == schema && one.to == to);
        let to = if !is_asked || is_ours {
            // Long names may have one beginning.
            free(&mut taken, &schema, &[to])?
        } else if taken.insert((schema.clone(), to.clone())) {
            to
        } else {
            return Err(is_taken(&schema, &to, own.is_some()));
        };
        names.insert(table.id, (table.name.clone(), to.clone()));
        let (kind, from) = ("TABLE".to_owned(), table.name.clone());
        all.push(Renamed { id: table.id, kind, schema, from, to });
    }
    for (id, kind, schema, from, owner) in belongings {
        let schema = if kind == "STATISTICS" { schema } else { schema_of(&schema) };
        let mut wanted = Vec::new();
        wanted.extend(own.is_some().then(|| from.clone()));
        if let Some((old, new)) = names.get(&owner) {
            wanted.push(inherited(&from, old, new, suffix));
        }
        wanted.push(chosen_name(&from, suffix));
        let to = free(&mut taken, &schema, &wanted)?;
        all.push(Renamed { id, kind, schema, from, to });
    }
    Ok(Renaming { all, moves_to })
}

/// The name of what belongs to a table that had one name and gets another.
fn inherited(name: &str, from: &str, to: &str, suffix: &str) -> String {
    let rest = name.strip_prefix(from);
    match rest.filter(|rest| rest.is_empty() || rest.starts_with(|c: char| !c.is_alphanumeric())) {
        Some(rest) if to.len() + rest.len() <= stillpoint_contract::CHOSEN_NAME_BYTES_MAX => {
            format!("{to}{rest}")
        }
        _ => chosen_name(name, suffix),
    }
}

fn free(taken: &mut BTreeSet<(String, String)>, schema: &str, wanted: &[String]) -> Result<String> {
    let numbered = |number| {
        let last = wanted.last().map_or("", String::as_str);
        chosen_name(last, &format!("_{number}"))
    };
    let names = wanted.iter().cloned().chain((2..NAMES_MAX).map(numbered));
    for name in names {
        if taken.insert((schema.to_owned(), name.clone())) {
            return Ok(name);
        }
    }
    Err(Error::bug(STEP))
}

/// The error for a name that is not free.
pub(super) fn is_taken(schema: &str, name: &str, is_chosen: bool) -> Error {
    let error = Error::new(ErrorKind::Refused, code::TARGET_EXISTS, "bring a table back")
        .with("name", shown(schema, name))
        .why("something has this name in the live database already; nothing was changed");
    if is_chosen {
        return error.next("choose a name that is free: --as NAME");
    }
    error.next("choose another name: --as NAME, for one table at a time")
}

async fn check_schemas(live: &Sql, schemas: &[String]) -> Result<()> {
    let failed = |e| error::sql(e, STEP);
    let rows = live.client.query(SCHEMAS, &[&schemas]).await.map_err(failed)?;
    let there = rows.iter().map(|row| row.try_get(0)).collect::<std::result::Result<_, _>>();
    let there: BTreeSet<String> = there.map_err(failed)?;
    match schemas.iter().find(|schema| !there.contains(*schema)) {
        None => Ok(()),
        Some(missing) => {
            Err(Error::new(ErrorKind::Missing, code::LACKING_TARGET, "bring a table back")
                .with("schema", missing)
                .why("the live database has no such schema; nothing was changed")
                .next(format!("CREATE SCHEMA {}", quoted(missing)))
                .next("or bring it into another one: --as SCHEMA.NAME"))
        }
    }
}

/// Gives the names, in two steps: a name may belong to another one of them now.
pub(super) async fn carry_out(sandbox: &Sql, renaming: &Renaming) -> Result<()> {
    let failed = |e| error::sql(e, STEP);
    let run =
        async |statement: String| sandbox.client.batch_execute(&statement).await.map_err(failed);
    let passing = |id: u32| quoted(&format!("stillpoint {id}"));
    for one in &renaming.all {
        let name = format!("{}.{}", quoted(&schema_now(sandbox, one).await?), quoted(&one.from));
        run(format!("ALTER {} {name} RENAME TO {}", one.kind, passing(one.id))).await?;
    }
    if let Some(schema) = &renaming.moves_to {
        run(format!("CREATE SCHEMA IF NOT EXISTS {}", quoted(schema))).await?;
        for table in renaming.all.iter().filter(|one| one.kind == "TABLE") {
            let now = schema_now(sandbox, table).await?;
            if now != *schema {
                let name = format!("{}.{}", quoted(&now), passing(table.id));
                run(format!("ALTER TABLE {name} SET SCHEMA {}", quoted(schema))).await?;
            }
        }
        for one in renaming.all.iter().filter(|one| one.kind == "SEQUENCE") {
            let now = schema_now(sandbox, one).await?;
            if now != *schema {
                let name = format!("{}.{}", quoted(&now), passing(one.id));
                run(format!("ALTER SEQUENCE {name} SET SCHEMA {}", quoted(schema))).await?;
            }
        }
    }
    for one in &renaming.all {
        let row = sandbox.client.query_opt(IN_THE_WAY, &[&one.schema, &one.to]).await;
        if let Some(row) = row.map_err(failed)? {
            let other: u32 = row.try_get(0).map_err(failed)?;
            let aside = quoted(&format!("stillpoint aside {other}"));
            run(format!("ALTER TABLE {} RENAME TO {aside}", one.quoted())).await?;
        }
        let name = format!("{}.{}", quoted(&one.schema), passing(one.id));
        run(format!("ALTER {} {name} RENAME TO {}", one.kind, quoted(&one.to))).await?;
    }
    Ok(())
}

async fn schema_now(sandbox: &Sql, one: &Renamed) -> Result<String> {
    let query = match one.kind.as_str() {
        "STATISTICS" => {
            "SELECT n.nspname::text FROM pg_catalog.pg_statistic_ext e
             JOIN pg_catalog.pg_namespace n ON n.oid = e.stxnamespace WHERE e.oid = $1"
        }
        _ => {
            "SELECT n.nspname::text FROM pg_catalog.pg_class c
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1"
        }
    };
    let failed = |e| error::sql(e, STEP);
    let row = sandbox.client.query_one(query, &[&one.id]).await.map_err(failed)?;
    row.try_get(0).map_err(failed)
}
