//! References whose rows could not be told from files.
//!
//! The server finds the rows that hang on one by operators of the foreign key. Whoever takes
//! somebody's rows out of files has values only, which then must say by themselves which are one.

use stillpoint_contract::{ArchiveSet, Finding, Link, Member, Result, Weight};
use tokio_postgres::{Client, Row};

use super::{failure::failed, table::number_of};
use crate::tally::quoted;

const STEP: &str = "look at a reference";

/// Columns of a table with the types that domains are made of, and whether different texts can be
/// one by their collation. Source: PostgreSQL 18 documentation, 23.2.2.4, "Nondeterministic
/// Collations".
const COLUMNS: &str = "
    WITH RECURSIVE b AS (
        SELECT attname, atttypid AS typ, attcollation, false AS is_domain,
            format_type(atttypid, atttypmod) AS shown FROM pg_attribute
            WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND attname = ANY ($2::text[])
        UNION ALL SELECT b.attname, t.typbasetype, b.attcollation, true, b.shown FROM b
            JOIN pg_type AS t ON t.oid = b.typ WHERE t.typtype = 'd')
    SELECT b.attname::text, b.shown, b.is_domain, t.typname::text, t.typtype::text,
        n.nspname = 'pg_catalog', coalesce(l.collisdeterministic, true)
    FROM b JOIN pg_type AS t ON t.oid = b.typ AND t.typtype <> 'd'
        JOIN pg_namespace AS n ON n.oid = t.typnamespace
        LEFT JOIN pg_collation AS l ON l.oid = b.attcollation";

/// A column of a reference.
#[derive(Clone, Debug)]
struct Side {
    name: String,
    /// Its type, as users write it.
    shown: String,
    /// What it is compared as; none where its values do not say which of them are one.
    family: Option<String>,
    is_deterministic: bool,
}

impl Side {
    fn of(row: &Row) -> std::result::Result<Self, tokio_postgres::Error> {
        let (name, kind): (&str, &str) = (row.try_get(3)?, row.try_get(4)?);
        let (is_domain, is_own) = (row.try_get(2)?, row.try_get(5)?);
        Ok(Self {
            name: row.try_get(0)?,
            shown: row.try_get(1)?,
            family: family(name, kind, (is_own, is_domain)),
            is_deterministic: row.try_get(6)?,
        })
    }
}

/// Types whose values are compared with each other by what they say: as numbers, as texts, and so
/// on. A domain has a name of its own in files, and how its values are written is not known there.
/// Operators of extensions are their own affair; small and capital letters of `citext` are those of
/// the server.
fn family(name: &str, kind: &str, (is_own, is_domain): (bool, bool)) -> Option<String> {
    let family = match (kind, name) {
        ("b", _) if !is_own => return None,
        ("b", "int2" | "int4" | "int8") => "number",
        ("b", "numeric") if !is_domain => "number",
        ("b", "text" | "varchar" | "name") => "text",
        ("b", "bpchar") if !is_domain => "text",
        ("b", "inet" | "cidr") if !is_domain => "address",
        ("e", _)
        | (
            "b",
            "bool" | "char" | "bytea" | "bit" | "varbit" | "uuid" | "date" | "time" | "timetz"
            | "timestamp" | "timestamptz" | "interval" | "oid" | "macaddr" | "macaddr8" | "money"
            | "pg_lsn",
        ) => name,
        _ => return None,
    };
    Some(family.to_owned())
}

/// What speaks against the reference by which a member hangs on another one.
pub(super) async fn findings(
    client: &Client,
    set: &ArchiveSet,
    member: &Member,
) -> Result<Vec<Finding>> {
    let Some(link) = &member.link else { return Ok(Vec::new()) };
    let Some(parent) = set.members.get(link.parent) else { return Ok(Vec::new()) };
    let Link { columns, parent_columns, .. } = link;
    let own = sides(client, member, columns).await?;
    let others = sides(client, parent, parent_columns).await?;
    let mut findings = Vec::new();
    for (column, of) in columns.iter().zip(parent_columns) {
        let own = own.iter().find(|one| one.name == *column);
        let other = others.iter().find(|one| one.name == *of);
        if let (Some(own), Some(other)) = (own, other) {
            findings.extend(finding((&member.table.name, own), (&parent.table.name, other)));
        }
    }
    Ok(findings)
}

async fn sides(client: &Client, member: &Member, columns: &[String]) -> Result<Vec<Side>> {
    let number = number_of(client, &member.table).await?;
    let rows = client.query(COLUMNS, &[&number, &columns]).await.map_err(|e| failed(e, STEP))?;
    rows.iter().map(|row| Side::of(row).map_err(|e| failed(e, STEP))).collect()
}

fn finding((table, own): (&str, &Side), (parent, other): (&str, &Side)) -> Option<Finding> {
    let then = "which rows hang on which could not be told from files";
    let alter = |table: &str, side: &Side, to: &str| {
        format!("ALTER TABLE {table} ALTER COLUMN {} TYPE {to}", quoted(&side.name))
    };
    let (found, statement) = if own.family.is_none() || own.family != other.family {
        let found = format!(
            "{table}.{} is of type {}, and {parent}.{}, which it refers to, of type {}: {then}",
            own.name, own.shown, other.name, other.shown
        );
        (found, other.family.is_some().then(|| alter(table, own, &other.shown)))
    } else if !other.is_deterministic {
        let found = format!(
            "{table}.{} refers to {parent}.{}, whose collation takes several texts for one: {then}",
            own.name, other.name
        );
        let to = format!("{} COLLATE \"C\"", other.shown);
        (found, Some(alter(parent, other, &to)))
    } else {
        return None;
    };
    Some(Finding { subject: "reference", found, weight: Weight::Lacking, statement })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_compared_with_those_that_they_can_be() {
        let of = |name, is_domain| family(name, "b", (true, is_domain));
        assert_eq!(of("int4", true), of("numeric", false));
        assert_eq!(of("bpchar", false), of("name", true));
        assert_ne!(of("timestamp", false), of("timestamptz", false));
        for none in ["float8", "jsonb", "_int4", "tsvector"] {
            assert_eq!(of(none, false), None, "{none}");
        }
        for name in ["numeric", "bpchar", "inet"] {
            assert!(of(name, true).is_none() && of(name, false).is_some(), "{name}");
        }
        assert_eq!(family("citext", "b", (false, false)), None);
        assert_eq!(family("mood", "e", (false, false)).as_deref(), Some("mood"));
        assert_eq!(family("int4range", "r", (true, false)), None);
    }
}
