//! How references compare, and those whose rows cannot be told from files.
//!
//! The server finds the rows that hang on one by operators of the foreign key: so they are read,
//! deleted, and put back. Whoever takes somebody's rows out of files, or some of them, has values
//! only, which then must say by themselves which are one.

use stillpoint_contract::{
    Alike, ArchiveSet, Class, Finding, Likeness, Link, Member, Result, Table, UNTOLD_REFERENCE,
    Weight,
};
use tokio_postgres::{Client, Row};

use super::{failure::failed, table::number_of};
use crate::tally::quoted;

const STEP: &str = "look at a reference";

/// Texts of fixed length, to which spaces at the end say nothing.
/// Source: PostgreSQL 18 documentation, 8.3, "Character Types".
const PADDED: &str = "bpchar";

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
    /// The type that it has, or that its domain is made of.
    base: String,
    is_domain: bool,
    /// What it is compared as; none where its values do not say which of them are one.
    family: Option<String>,
    /// Whether its values are ranges, or several of them.
    is_range: bool,
    is_deterministic: bool,
}

impl Side {
    fn of(row: &Row) -> std::result::Result<Self, tokio_postgres::Error> {
        let (base, kind): (String, &str) = (row.try_get(3)?, row.try_get(4)?);
        let (is_domain, is_own) = (row.try_get(2)?, row.try_get(5)?);
        Ok(Self {
            name: row.try_get(0)?,
            shown: row.try_get(1)?,
            family: family(&base, kind, (is_own, is_domain)),
            is_range: matches!(kind, "r" | "m"),
            base,
            is_domain,
            is_deterministic: row.try_get(6)?,
        })
    }
}

/// Types whose values are compared with each other by what they say: as numbers, as texts, and so
/// on. A domain compares as what it is made of, and has a name of its own in files, which does not
/// say how its addresses are written. Operators of extensions are their own affair; small and
/// capital letters of `citext` are those of the server.
fn family(name: &str, kind: &str, (is_own, is_domain): (bool, bool)) -> Option<String> {
    let family = match (kind, name) {
        ("b", _) if !is_own => return None,
        ("b", "int2" | "int4" | "int8" | "numeric") => "number",
        ("b", "text" | "varchar" | "name" | PADDED) => "text",
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

/// Only the server compares them.
const UNTOLD: Likeness = Likeness { becomes: None, alike: Alike::Same, is_untold: true };

/// How a reference compares two columns.
fn alike(own: &Side, other: &Side) -> Likeness {
    // Its values are texts without their spaces to the other column, and in files those of a
    // domain have them.
    let is_cut = own.is_domain && own.base == PADDED && other.base != PADDED;
    if own.family.is_none() || own.family != other.family || !other.is_deterministic || is_cut {
        return UNTOLD;
    }
    // In files, the name of a domain does not say that its texts are numbers.
    let is_number = |side: &Side| side.is_domain && side.base == "numeric";
    let becomes = (is_number(own) || is_number(other)).then_some(Class::Integer);
    let alike = if other.base == PADDED { Alike::Spaces } else { Alike::Same };
    Likeness { becomes, alike, is_untold: false }
}

/// How a reference compares, by the numbers and columns of the two tables. It is said of all of
/// them, since plans that say nothing are taken for those of older versions.
pub(super) async fn likeness(
    client: &Client,
    own: (u32, &[String]),
    other: (u32, &[String]),
) -> Result<Vec<Likeness>> {
    let pairs = pairs(client, own, other).await?;
    let of = |pair: &Option<(Side, Side)>| {
        pair.as_ref().map_or(UNTOLD, |(own, other)| alike(own, other))
    };
    Ok(pairs.iter().map(of).collect())
}

/// The columns of a reference; none where one is gone by now.
async fn pairs(
    client: &Client,
    (table, columns): (u32, &[String]),
    (parent, parent_columns): (u32, &[String]),
) -> Result<Vec<Option<(Side, Side)>>> {
    let own = sides(client, table, columns).await?;
    let others = sides(client, parent, parent_columns).await?;
    let of = |sides: &[Side], name: &String| sides.iter().find(|one| one.name == *name).cloned();
    let pairs = columns.iter().zip(parent_columns);
    Ok(pairs.map(|(name, other)| Some((of(&own, name)?, of(&others, other)?))).collect())
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
    let own = (number_of(client, &member.table).await?, &**columns);
    let other = (number_of(client, &parent.table).await?, &**parent_columns);
    let pairs = pairs(client, own, other).await?;
    let told = |(own, other): &(Side, Side)| finding((&member.table, own), (&parent.table, other));
    Ok(pairs.iter().flatten().filter_map(told).collect())
}

async fn sides(client: &Client, table: u32, columns: &[String]) -> Result<Vec<Side>> {
    let rows = client.query(COLUMNS, &[&table, &columns]).await.map_err(|e| failed(e, STEP))?;
    rows.iter().map(|row| Side::of(row).map_err(|e| failed(e, STEP))).collect()
}

/// Why not even the server is to say which rows hang on which, where files do not.
fn why_never(
    (table, own): (&Table, &Side),
    (parent, other): (&Table, &Side),
) -> Option<&'static str> {
    // Source: PostgreSQL 18 documentation, CREATE TABLE, "PERIOD".
    if own.is_range || other.is_range {
        return Some("a row may hang on several, of which only some are old enough");
    }
    let is_zoned = |side: &Side| ["timestamptz", "timetz"].contains(&&*side.base);
    if own.family != other.family && (is_zoned(own) || is_zoned(other)) {
        return Some("which rows hang on which depends on the time zone of whoever asks");
    }
    let is_key = |table: &Table, side: &Side| {
        let mut key = table.key.iter().filter_map(|at| table.columns.get(*at));
        side.family.is_none() && key.any(|column| column.name == side.name)
    };
    let names_rows = is_key(table, own) || is_key(parent, other);
    names_rows.then_some("it is part of a key, by which rows are told apart in files")
}

/// What does not work in files, by the name of the table that is referred to.
fn consequence(parent: &str) -> String {
    format!(
        "files do not tell which rows hang on which: of rows of {parent}, they do not go with an \
         erasure, or with an event, and do not come back by a condition, which is refused then; \
         who is held keeps whole files"
    )
}

fn finding((table, own): (&Table, &Side), (parent, other): (&Table, &Side)) -> Option<Finding> {
    if !alike(own, other).is_untold {
        return None;
    }
    let never = why_never((table, own), (parent, other));
    let (table, parent) = (&table.name, &parent.name);
    let then = never.map_or_else(|| consequence(parent), str::to_owned);
    let alter = |table: &str, side: &Side, to: &str| {
        format!("ALTER TABLE {table} ALTER COLUMN {} TYPE {to}", quoted(&side.name))
    };
    let is_by_collation = own.family.is_some() && own.family == other.family;
    let (found, statement) = if is_by_collation && !other.is_deterministic {
        let found = format!(
            "{table}.{} refers to {parent}.{}, whose collation takes several texts for one: {then}",
            own.name, other.name
        );
        let to = format!("{} COLLATE \"C\"", other.shown);
        (found, Some(alter(parent, other, &to)))
    } else {
        let found = format!(
            "{table}.{} is of type {}, and {parent}.{}, which it refers to, of type {}: {then}",
            own.name, own.shown, other.name, other.shown
        );
        (found, other.family.is_some().then(|| alter(table, own, &other.shown)))
    };
    let (subject, weight) = match never {
        Some(_) => ("reference", Weight::Lacking),
        None => (UNTOLD_REFERENCE, Weight::Advice),
    };
    Some(Finding { subject, found, weight, statement })
}

#[cfg(test)]
mod tests {
    use stillpoint_contract::{Column, Kind};

    use super::*;

    #[test]
    fn values_are_compared_with_those_that_they_can_be() {
        let of = |name, is_domain| family(name, "b", (true, is_domain));
        assert_eq!(of("int4", true), of("numeric", false));
        assert_eq!(of("int8", false), of("numeric", true));
        assert_eq!(of("bpchar", true), of("name", true));
        assert_ne!(of("timestamp", false), of("timestamptz", false));
        for none in ["float8", "jsonb", "_int4", "tsvector"] {
            assert_eq!(of(none, false), None, "{none}");
        }
        assert!(of("inet", true).is_none() && of("inet", false).is_some());
        assert_eq!(family("citext", "b", (false, false)), None);
        assert_eq!(family("mood", "e", (false, false)).as_deref(), Some("mood"));
        assert_eq!(family("int4range", "r", (true, false)), None);
    }

    fn side(base: &str, is_domain: bool) -> Side {
        let is_range = base.ends_with("range");
        Side {
            name: "k".to_owned(),
            shown: base.to_owned(),
            base: base.to_owned(),
            is_domain,
            family: family(base, if is_range { "r" } else { "b" }, (base != "citext", is_domain)),
            is_range,
            is_deterministic: true,
        }
    }

    #[test]
    fn a_domain_is_compared_as_what_it_is_made_of() {
        let plain = Likeness::default();
        let numbers = Likeness { becomes: Some(Class::Integer), ..plain };
        let padded = Likeness { alike: Alike::Spaces, ..plain };
        for (own, other, expected) in [
            (("int8", true), ("int8", false), plain),
            (("int4", false), ("int8", true), plain),
            (("uuid", true), ("uuid", true), plain),
            (("text", true), ("varchar", true), plain),
            (("numeric", false), ("numeric", false), plain),
            (("numeric", true), ("numeric", false), numbers),
            (("int4", false), ("numeric", true), numbers),
            (("bpchar", false), ("text", true), plain),
            (("text", false), ("bpchar", true), padded),
            (("bpchar", true), ("bpchar", false), padded),
            (("bpchar", true), ("text", false), UNTOLD),
            (("inet", true), ("inet", true), UNTOLD),
            (("date", false), ("timestamp", false), UNTOLD),
        ] {
            let found = alike(&side(own.0, own.1), &side(other.0, other.1));
            assert_eq!(found, expected, "{own:?} {other:?}");
        }
    }

    fn table(name: &str, key: &str) -> Table {
        let column = Column {
            name: key.to_owned(),
            id: 1,
            engine_type: "text".to_owned(),
            kind: Kind::Text,
            is_cast: false,
            is_nullable: false,
            is_generated: false,
        };
        Table {
            name: name.to_owned(),
            identity: name.to_owned(),
            columns: vec![column],
            key: vec![0],
            alike: Vec::new(),
            fingerprint: String::new(),
        }
    }

    #[test]
    fn what_only_the_server_compares_is_advice_where_it_says_the_same_to_all() {
        for (own, other, keys, expected) in [
            ("int4", "int8", ("id", "id"), None),
            ("citext", "citext", ("id", "id"), Some(Weight::Advice)),
            ("float8", "float8", ("id", "id"), Some(Weight::Advice)),
            ("date", "timestamp", ("k", "k"), Some(Weight::Advice)),
            // Rows of such keys would be others in files.
            ("citext", "citext", ("k", "id"), Some(Weight::Lacking)),
            ("citext", "citext", ("id", "k"), Some(Weight::Lacking)),
            ("timestamp", "timestamptz", ("id", "id"), Some(Weight::Lacking)),
            ("timetz", "time", ("id", "id"), Some(Weight::Lacking)),
            ("int4range", "int4range", ("id", "id"), Some(Weight::Lacking)),
        ] {
            let (child, parent) = (table("c", keys.0), table("p", keys.1));
            let found = finding((&child, &side(own, false)), (&parent, &side(other, false)));
            assert_eq!(found.as_ref().map(|found| found.weight), expected, "{own} {other}");
            let is_advice = found.is_some_and(|found| found.subject == UNTOLD_REFERENCE);
            assert_eq!(is_advice, expected == Some(Weight::Advice), "{own} {other}");
        }
    }
}
