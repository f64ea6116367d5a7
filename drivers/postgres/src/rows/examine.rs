//! What speaks against moving rows of a set.

use stillpoint_contract::{
    ArchiveSet, Error, ErrorKind, Finding, KeyRange, Kind, Member, Referrer, Result, Weight, code,
};
use tokio_postgres::{Client, Row};

use super::{
    conditions::{condition, key_columns, listed},
    failure::failed,
    ledger,
    members::Members,
    prune::tracks,
    reference,
    table::{number_of, referrers},
};
use crate::tally::quoted;

const STEP: &str = "look at the tables of the set";

fn finding(
    subject: &'static str,
    found: impl Into<String>,
    weight: Weight,
    statement: Option<String>,
) -> Finding {
    Finding { subject, found: found.into(), weight, statement }
}

fn lacking(subject: &'static str, found: String, statement: impl Into<Option<String>>) -> Finding {
    finding(subject, found, Weight::Lacking, statement.into())
}

/// Everything that speaks against moving a set.
pub(super) async fn examine(client: &Client, set: &ArchiveSet) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    findings.extend(ledger_rights(client).await?);
    findings.extend(role_of_session(client).await?);
    findings.extend(encoding(client).await?);
    let key = key(client, set.root()).await?;
    findings.push(key);
    for (at, member) in set.members.iter().enumerate() {
        let number = number_of(client, &member.table).await?;
        findings.extend(table(client, set, at, number).await?);
        findings.extend(triggers(client, set, member, number).await?);
        findings.extend(folding_key(client, member, number).await?);
        findings.extend(member.without_key().filter(|_| at > 0).map(|found| {
            let add = format!("ALTER TABLE {} ADD PRIMARY KEY (…)", member.table.name);
            finding("key", found, Weight::Advice, Some(add))
        }));
        if let Some(link) = &member.link {
            findings.extend(index(client, &member.table.name, &link.columns).await?);
            findings.extend(reference::findings(client, set, member).await?);
        }
        for referrer in referrers(client, number).await? {
            if !is_in_set(set, at, &referrer) {
                findings.push(outside(set, member, &referrer));
            }
            findings.extend(index(client, &referrer.table, &referrer.columns).await?);
        }
    }
    let members = Members::look(client, set).await?;
    if !members.deletion_triggers.is_empty() && !tracks(client).await? {
        let found = "track_counts is off: nobody can tell what triggers delete".to_owned();
        findings.push(lacking("track_counts", found, unset(client, "track_counts").await?));
    }
    // What lacks a key or a privilege cannot be asked that.
    if findings.iter().all(|finding| finding.weight < Weight::Lacking) {
        findings.extend(way(client, set).await?);
    }
    let mut told: Vec<Finding> = Vec::new();
    for finding in findings {
        if !told.contains(&finding) {
            told.push(finding);
        }
    }
    Ok(told)
}

/// Only heaps are known never to change a row where it is.
/// Source: PostgreSQL 18 documentation, 62, "Table Access Method Interface Definition".
pub(super) async fn why_no_versions(client: &Client, set: &ArchiveSet) -> Result<Option<String>> {
    let query = "SELECT a.amname::text FROM pg_class AS c LEFT JOIN pg_am AS a ON a.oid = c.relam
        WHERE c.oid = $1 AND a.amname IS DISTINCT FROM 'heap'";
    for member in &set.members {
        let number = number_of(client, &member.table).await?;
        let other = client.query_opt(query, &[&number]).await.map_err(|e| failed(e, STEP))?;
        if let Some(row) = other {
            let method: Option<String> = row.try_get(0).map_err(|e| failed(e, STEP))?;
            let method = method.unwrap_or_else(|| "another one".to_owned());
            let name = &member.table.name;
            return Ok(Some(format!("{name} has the access method {method}, not heap")));
        }
    }
    Ok(None)
}

async fn ledger_rights(client: &Client) -> Result<Option<Finding>> {
    let query = "SELECT quote_ident(current_user), quote_ident(current_database()),
        EXISTS (SELECT FROM pg_namespace WHERE nspname = 'stillpoint'),
        has_database_privilege(current_database(), 'CREATE'),
        has_database_privilege(current_database(), 'TEMPORARY'),
        coalesce((SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace
            WHERE nspname = 'stillpoint'), false)";
    let row = client.query_one(query, &[]).await.map_err(|e| failed(e, STEP))?;
    let text = |at: usize| row.try_get::<_, String>(at).map_err(|e| failed(e, STEP));
    let is = |at: usize| row.try_get::<_, bool>(at).map_err(|e| failed(e, STEP));
    let (role, database) = (text(0)?, text(1)?);
    if !is(4)? {
        return Ok(Some(lacking(
            "temporary tables",
            "the role may make none, and needs them".to_owned(),
            format!("GRANT TEMPORARY ON DATABASE {database} TO {role}"),
        )));
    }
    if ledger::is_there(client).await? {
        let query = format!(
            "SELECT has_schema_privilege('stillpoint', 'USAGE') AND
                has_table_privilege('{0}', 'SELECT') AND has_table_privilege('{0}', 'INSERT')
                AND has_table_privilege('{0}', 'DELETE')",
            ledger::LEDGER
        );
        let row = client.query_one(&query, &[]).await.map_err(|e| failed(e, STEP))?;
        let may: bool = row.try_get(0).map_err(|e| failed(e, STEP))?;
        let grant = format!(
            "GRANT USAGE ON SCHEMA stillpoint TO {role}; \
             GRANT SELECT, INSERT, DELETE ON {} TO {role}",
            ledger::LEDGER
        );
        return Ok((!may).then(|| lacking("ledger", "the role may not use it".to_owned(), grant)));
    }
    let (may, grant) = if is(2)? {
        (is(5)?, format!("GRANT USAGE, CREATE ON SCHEMA stillpoint TO {role}"))
    } else {
        (is(3)?, format!("CREATE SCHEMA stillpoint AUTHORIZATION {role}"))
    };
    Ok((!may).then(|| lacking("ledger", "the role may not make it".to_owned(), grant)))
}

/// Such a database takes bytes without asking what letters they are, and hands them over as they
/// are: those that are no UTF-8 would end a run half-way.
/// Source: PostgreSQL 18 documentation, 23.3.4, "Automatic Character Set Conversion Between Server
/// and Client".
async fn encoding(client: &Client) -> Result<Option<Finding>> {
    let query = "SELECT quote_ident(current_database())
        WHERE current_setting('server_encoding') = 'SQL_ASCII'";
    let row = client.query_opt(query, &[]).await.map_err(|e| failed(e, STEP))?;
    let Some(row) = row else { return Ok(None) };
    let database: String = row.try_get(0).map_err(|e| failed(e, STEP))?;
    let found = "it is SQL_ASCII: texts are whatever bytes somebody wrote, and nobody can say \
                 which letters those are, or that they are UTF-8";
    let make = format!(
        "CREATE DATABASE … TEMPLATE template0 ENCODING 'UTF8'; then pg_dump --encoding=ENCODING \
         {database} | psql …, with the encoding in which applications wrote"
    );
    Ok(Some(lacking("server_encoding", found.to_owned(), make)))
}

/// On a replica, most triggers do not fire, and foreign keys are among them.
/// Source: PostgreSQL 18 documentation, 19.11.1, "session_replication_role".
async fn role_of_session(client: &Client) -> Result<Option<Finding>> {
    const NAME: &str = "session_replication_role";
    let row = client.query_one("SHOW session_replication_role", &[]).await;
    let role: String = row.and_then(|row| row.try_get(0)).map_err(|e| failed(e, STEP))?;
    if role == "origin" {
        return Ok(None);
    }
    let found = format!(
        "it is {role}, which is for replication systems: references may not be checked, and \
         triggers may not fire"
    );
    Ok(Some(lacking(NAME, found, unset(client, NAME).await?)))
}

/// Refuses to change rows where references may not be checked.
pub(super) async fn at_origin(client: &Client) -> Result<()> {
    let Some(finding) = role_of_session(client).await? else { return Ok(()) };
    let error = Error::new(ErrorKind::Refused, code::UNSUITABLE_DATABASE, "move rows")
        .with(finding.subject, finding.found)
        .why("rows could be deleted or put back that others refer to, or that refer to none");
    Err(finding.statement.into_iter().fold(error, Error::next))
}

/// What takes a setting of sessions away, where it comes from.
/// Source: PostgreSQL 18 documentation, 19.1.3, "Parameter Interaction via SQL"; 53.25,
/// "pg_settings".
pub(super) async fn unset(client: &Client, name: &str) -> Result<String> {
    let query = "SELECT source, quote_ident(current_user), quote_ident(current_database())
        FROM pg_settings WHERE name = $1";
    let row = client.query_one(query, &[&name]).await.map_err(|e| failed(e, STEP))?;
    let text = |at: usize| row.try_get::<_, String>(at).map_err(|e| failed(e, STEP));
    let (source, role, database) = (text(0)?, text(1)?, text(2)?);
    Ok(match source.as_str() {
        "user" => format!("ALTER ROLE {role} RESET {name}"),
        "database" => format!("ALTER DATABASE {database} RESET {name}"),
        "database user" => format!("ALTER ROLE {role} IN DATABASE {database} RESET {name}"),
        "global" => format!("ALTER ROLE ALL RESET {name}"),
        // What is written in other files, or said when the server starts, stays.
        _ => format!("ALTER SYSTEM RESET {name}; SELECT pg_reload_conf()"),
    })
}

async fn key(client: &Client, root: &Member) -> Result<Finding> {
    let table = &root.table;
    let told = |found: String, statement: Option<String>| {
        lacking("key", format!("{}: {found}", table.name), statement)
    };
    if table.key.is_empty() {
        let statement = format!("ALTER TABLE {} ADD PRIMARY KEY (…)", table.name);
        return Ok(told("no unique columns that are all NOT NULL".to_owned(), Some(statement)));
    }
    let columns: Vec<_> = table.key.iter().filter_map(|at| table.columns.get(*at)).collect();
    for column in &columns {
        let is_inexact = matches!(
            column.kind,
            Kind::Float32 | Kind::Float64 | Kind::List { .. } | Kind::Json | Kind::Jsonb
        );
        if is_inexact {
            let found = format!("{} is a {}", column.name, column.engine_type);
            return Ok(told(format!("{found}, which has no exact order"), None));
        }
    }
    // Operators are looked for in `pg_catalog` alone.
    let query = "
        WITH RECURSIVE b AS (
            SELECT attname, atttypid AS typ FROM pg_attribute WHERE attrelid = to_regclass($1)
                AND attname = ANY ($2::text[])
            UNION ALL SELECT b.attname, t.typbasetype FROM b
                JOIN pg_type AS t ON t.oid = b.typ WHERE t.typtype = 'd')
        SELECT b.attname::text FROM b JOIN pg_type AS t ON t.oid = b.typ
            JOIN pg_namespace AS n ON n.oid = t.typnamespace
        WHERE n.nspname <> 'pg_catalog' AND t.typtype NOT IN ('d', 'e')";
    let names: Vec<_> = columns.iter().map(|column| column.name.as_str()).collect();
    let rows = client.query(query, &[&table.name, &names]).await.map_err(|e| failed(e, STEP))?;
    if let Some(row) = rows.first() {
        let name: String = row.try_get(0).map_err(|e| failed(e, STEP))?;
        return Ok(told(
            format!("{name} has a type of an extension, with an order of its own"),
            None,
        ));
    }
    Ok(finding("key", format!("{}: {}", table.name, names.join(", ")), Weight::Fine, None))
}

/// A key by which texts of other bytes are the same: versions of its rows would not be told from
/// other rows.
async fn folding_key(client: &Client, member: &Member, number: u32) -> Result<Vec<Finding>> {
    let query = "SELECT a.attname::text, quote_ident(l.collname)
        FROM pg_attribute AS a JOIN pg_collation AS l ON l.oid = a.attcollation
        WHERE a.attrelid = $1 AND a.attname::text = ANY ($2::text[]) AND NOT l.collisdeterministic
        ORDER BY a.attnum";
    let table = &member.table;
    let key = table.key.iter().filter_map(|at| table.columns.get(*at));
    let key: Vec<&str> = key.map(|column| column.name.as_str()).collect();
    let rows = client.query(query, &[&number, &key]).await.map_err(|e| failed(e, STEP))?;
    let mut findings = Vec::new();
    for row in &rows {
        let text = |at: usize| row.try_get::<_, String>(at).map_err(|e| failed(e, STEP));
        let (name, collation) = (text(0)?, text(1)?);
        let found = format!(
            "{}: {name} compares texts by {collation}, by which those of other bytes are the same; \
             key = \"INDEX\" names another unique index of the root",
            table.name
        );
        let of = table.columns.iter().find(|column| column.name == name);
        let of = of.map(|column| column.engine_type.as_str()).unwrap_or_default();
        let change = format!(
            "ALTER TABLE {} ALTER COLUMN {} TYPE {of} COLLATE \"C\"",
            table.name,
            quoted(&name)
        );
        findings.push(lacking("key", found, change));
    }
    Ok(findings)
}

/// Rights and settings of a table. Rows that others of the set refer to are locked before they are
/// deleted, which needs to be allowed to change at least one column of them.
/// Source: PostgreSQL 18 documentation, SELECT, "The Locking Clause".
async fn table(client: &Client, set: &ArchiveSet, at: usize, number: u32) -> Result<Vec<Finding>> {
    let query = "
        SELECT has_table_privilege(c.oid, 'SELECT'), has_table_privilege(c.oid, 'DELETE'),
            quote_ident(current_user), row_security_active(c.oid), c.relpersistence = 'u',
            coalesce('autovacuum_enabled=false' = ANY (c.reloptions), false),
            EXISTS (SELECT FROM pg_rewrite WHERE ev_class = c.oid AND ev_type = '4'
                AND ev_enabled <> 'D'),
            EXISTS (SELECT FROM pg_publication_tables AS p WHERE p.schemaname = n.nspname
                AND p.tablename = c.relname) AND (c.relreplident = 'n' OR c.relreplident = 'd'
                AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisprimary)),
            EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid),
            has_any_column_privilege(c.oid, 'UPDATE')
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = $1";
    let row = client.query_one(query, &[&number]).await.map_err(|e| failed(e, STEP))?;
    let is = |at: usize| row.try_get::<_, bool>(at).map_err(|e| failed(e, STEP));
    let role: String = row.try_get(2).map_err(|e| failed(e, STEP))?;
    let name = &set.members[at].table.name;
    let told = |what: &str| format!("{name}: {what}");
    let mut findings = Vec::new();
    let hangs_on = |one: &Member| one.link.as_ref().is_some_and(|link| link.parent == at);
    let is_parent = set.members.iter().any(hangs_on);
    if !is(0)? || !is(1)? || (is_parent && !is(9)?) {
        let (rights, what) = if is_parent {
            ("SELECT, UPDATE, DELETE", "the role may not read, lock and delete rows")
        } else {
            ("SELECT, DELETE", "the role may not read and delete rows")
        };
        let grant = format!("GRANT {rights} ON {name} TO {role}");
        findings.push(lacking("privileges", told(what), grant));
    }
    if is(3)? {
        let bypass = format!("ALTER ROLE {role} BYPASSRLS");
        findings.push(lacking("row security", told("the role does not see all rows"), bypass));
    }
    if is(6)? {
        findings.push(lacking("rule", told("a rule does something else than to delete"), None));
    }
    if is(7)? {
        let identity = format!("ALTER TABLE {name} REPLICA IDENTITY FULL");
        let what = "it is published, and rows without identity cannot be deleted";
        findings.push(lacking("replica identity", told(what), identity));
    }
    let advice = |subject, what: &str, statement: String| {
        finding(subject, told(what), Weight::Advice, Some(statement))
    };
    if is(4)? {
        let logged = format!("ALTER TABLE {name} SET LOGGED");
        findings.push(advice("unlogged table", "a crash empties it, and not the ledger", logged));
    }
    if is(5)? {
        let reset = format!("ALTER TABLE {name} RESET (autovacuum_enabled)");
        findings.push(advice("autovacuum", "nobody makes the space of rows free", reset));
    }
    if is(8)? {
        let what = format!("{name}: rows of tables that inherit from it stay");
        findings.push(finding("inheritance", what, Weight::Advice, None));
    }
    Ok(findings)
}

/// The triggers of a table that fire for rows which are deleted, each with whether it may keep
/// them.
/// Source of the bits: PostgreSQL 18, `src/include/catalog/pg_trigger.h`, `TRIGGER_TYPE_DELETE`,
/// `TRIGGER_TYPE_BEFORE` and `TRIGGER_TYPE_ROW`.
async fn firing(client: &Client, number: u32) -> Result<Vec<(String, bool)>> {
    let query = "SELECT quote_ident(tgname), tgtype & 3 = 3 FROM pg_trigger
        WHERE tgrelid = $1 AND (NOT tgisinternal OR tgparentid <> 0 AND tgconstraint = 0)
            AND tgenabled NOT IN ('D', 'R')
            AND tgtype & 8 = 8 ORDER BY tgname";
    let rows = client.query(query, &[&number]).await.map_err(|e| failed(e, STEP))?;
    let read = |row: &Row| Ok((row.try_get::<_, String>(0)?, row.try_get::<_, bool>(1)?));
    rows.iter().map(|row| read(row).map_err(|e| failed(e, STEP))).collect()
}

async fn triggers(
    client: &Client,
    set: &ArchiveSet,
    member: &Member,
    number: u32,
) -> Result<Vec<Finding>> {
    let outside = if set.derived.is_empty() {
        "tables outside the set".to_owned()
    } else {
        format!("tables outside the set, save {}", set.derived.join(", "))
    };
    let told = |(name, is_before): (String, bool)| {
        let then = if is_before {
            format!(
                "it may keep rows from being deleted, or change others of the set: what it keeps \
                 or changes is not pruned; where it deletes rows of {outside}, nothing is"
            )
        } else {
            format!(
                "it fires for what is pruned: rows of the set that it changes are not pruned, and \
                 where it deletes rows of {outside}, nothing is"
            )
        };
        let found = format!("{}: trigger {name}: {then}", member.table.name);
        finding("trigger", found, Weight::Advice, None)
    };
    Ok(firing(client, number).await?.into_iter().map(told).collect())
}

/// Nothing makes an index on columns that refer, and without one each deletion reads the whole
/// table. Source: PostgreSQL 18 documentation, 5.5.5, "Foreign Keys".
pub(super) async fn index(
    client: &Client,
    table: &str,
    columns: &[String],
) -> Result<Option<Finding>> {
    let query = "
        SELECT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = to_regclass($1)
            AND i.indisvalid AND i.indpred IS NULL AND NOT EXISTS (
                SELECT FROM unnest($2::text[]) AS wanted WHERE wanted NOT IN (
                    SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS u(k, n)
                        JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = u.k
                    WHERE n <= cardinality($2::text[])))),
            (SELECT relname::text FROM pg_class WHERE oid = to_regclass($1))";
    let row = client.query_one(query, &[&table, &columns]).await.map_err(|e| failed(e, STEP))?;
    if row.try_get(0).map_err(|e| failed(e, STEP))? {
        return Ok(None);
    }
    let own: Option<String> = row.try_get(1).map_err(|e| failed(e, STEP))?;
    let name = format!("{}_{}_idx", own.unwrap_or_default(), columns.join("_"));
    let create = format!(
        "CREATE INDEX CONCURRENTLY {} ON {table} ({})",
        quoted(&name),
        listed(columns.iter().map(String::as_str))
    );
    let columns = columns.join(", ");
    let found = format!("{table}: none on ({columns}), so that each deletion reads all of it");
    Ok(Some(lacking("index", found, create)))
}

/// Whether a table of the set refers by the same columns: another reference of the same table would
/// let other rows go, or keep these.
fn is_in_set(set: &ArchiveSet, parent: usize, referrer: &Referrer) -> bool {
    set.members.iter().any(|member| {
        member.table.name == referrer.table
            && member.link.as_ref().is_some_and(|link| {
                link.parent == parent
                    && link.columns.len() == referrer.columns.len()
                    && link.columns.iter().zip(&link.parent_columns).all(|pair| {
                        referrer.columns.iter().zip(&referrer.parent_columns).any(|p| p == pair)
                    })
            })
    })
}

fn outside(set: &ArchiveSet, member: &Member, referrer: &Referrer) -> Finding {
    let (found, statement) = referrer.outside(set, &member.table.name);
    finding("reference", found, Weight::Lacking, statement)
}

/// Whether a range of keys is found without reading the whole table.
async fn way(client: &Client, set: &ArchiveSet) -> Result<Option<Finding>> {
    /// Reading a table of so many pages from end to end is as good as any way.
    const PAGES_MIN: i32 = 1000;
    let table = &set.root().table;
    let condition = condition(client, set, 0, &KeyRange::default()).await?;
    let key = key_columns(table)?;
    let query = format!(
        "EXPLAIN (FORMAT TEXT) SELECT FROM ONLY {} WHERE {condition} ORDER BY {key} LIMIT 1000",
        table.name
    );
    let rows = client.query(&query, &[]).await.map_err(|e| failed(e, STEP))?;
    let lines: std::result::Result<Vec<String>, _> =
        rows.iter().map(|row| row.try_get(0)).collect();
    let lines = lines.map_err(|e| failed(e, STEP))?;
    let query = "SELECT relpages FROM pg_class WHERE oid = to_regclass($1)";
    let row = client.query_one(query, &[&table.name]).await.map_err(|e| failed(e, STEP))?;
    let pages: i32 = row.try_get(0).map_err(|e| failed(e, STEP))?;
    if pages < PAGES_MIN || !lines.iter().any(|line| line.contains("Seq Scan")) {
        return Ok(None);
    }
    let found = format!("{}: each step reads the whole table ({})", table.name, lines[0].trim());
    let analyze = format!("ANALYZE {}", table.name);
    Ok(Some(finding("plan", found, Weight::Advice, Some(analyze))))
}
