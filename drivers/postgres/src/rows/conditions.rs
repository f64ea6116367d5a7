//! Which rows a step is about, as SQL.

use stillpoint_contract::{
    ArchiveSet, Column, Error, ErrorKind, KeyRange, Member, Result, Table, code,
};
use tokio_postgres::Client;

use super::{failure::failed, literal, table::number_of};
use crate::tally::quoted;

/// Columns of a table, one after the other.
pub(super) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(quoted).collect::<Vec<_>>().join(", ")
}

/// A table's key, to be compared or ordered by.
pub(super) fn key_columns(table: &Table) -> Result<String> {
    let columns = table.key.iter().filter_map(|at| table.columns.get(*at));
    let columns = listed(columns.map(|column| column.name.as_str()));
    if columns.is_empty() {
        return Err(Error::bug("use the key of a table that has none").with("table", &table.name));
    }
    Ok(columns)
}

/// A table's key, to order rows by that are selected as [`columns`] says. A bare name would be that
/// of a column of the result, and where that is text, so would be its order.
/// Source: PostgreSQL 18 documentation, SELECT, "ORDER BY Clause".
pub(super) fn key_order(table: &Table) -> Result<String> {
    key_columns(table)?;
    let columns = table.key.iter().filter_map(|at| table.columns.get(*at));
    let names = columns.map(|column| format!("{}.{}", table.name, quoted(&column.name)));
    Ok(names.collect::<Vec<_>>().join(", "))
}

/// What tells a version of a row from all others: where it is, and which transaction wrote it. It
/// stays as it is as long as it is there, and its place is given away once nobody sees it any more;
/// whoever rewrites a table leaves the transaction, and changes the place. Another table may have
/// got the name meanwhile, and another server may have taken over, which gives numbers of
/// transactions that are lost to others.
/// Source: PostgreSQL 18 documentation, 5.6, "System Columns".
pub(super) const VERSION: &str = "tableoid, ctid, xmin, pg_catalog.pg_postmaster_start_time()";

/// A table's columns, as they stand in rows.
pub(super) fn columns(table: &Table) -> String {
    let shown = |column: &Column| {
        let name = quoted(&column.name);
        if column.is_cast { format!("{name}::text") } else { name }
    };
    table.columns.iter().map(shown).collect::<Vec<_>>().join(", ")
}

/// A table's columns as [`columns`] has them, in a statement that gives functions of triggers the
/// usual names while it is carried out: what a value is as text may depend on those, and a file
/// has it as it is without them. `usual_names` says what comes behind.
///
/// Elements of an array are made one after the other. If ever they are not, the text is another
/// one than in the file, and nothing is deleted.
/// Source: PostgreSQL 18, `src/backend/executor/execExpr.c`, `T_ArrayExpr`.
pub(super) fn columns_amid(table: &Table, usual_names: &str) -> String {
    let shown = |column: &Column| {
        let name = quoted(&column.name);
        if !column.is_cast {
            return name;
        }
        let without = "pg_catalog.set_config('search_path', '', true)";
        format!("(ARRAY[{without}, {name}::text, {usual_names}])[2]")
    };
    table.columns.iter().map(shown).collect::<Vec<_>>().join(", ")
}

/// Which rows of a member hang on rows of the root in a range.
pub(super) async fn condition(
    client: &Client,
    set: &ArchiveSet,
    member: usize,
    range: &KeyRange,
) -> Result<String> {
    let root = &set.root().table;
    let names = key_columns(root)?;
    let mut parts = Vec::new();
    for (sign, key) in [(">", &range.after), (">=", &range.from), ("<=", &range.to)] {
        if let Some(key) = key {
            let values = literal::key(client, root, key).await?;
            parts.push(format!("({names}) {sign} ({})", values.join(", ")));
        }
    }
    parts.push(format!("({})", set.predicate));
    let mut condition = parts.join(" AND ");
    for (child, parent) in path(set, member)?.into_iter().rev() {
        let equal = equal(client, child, parent).await?;
        condition = format!(
            "EXISTS (SELECT FROM ONLY {} WHERE {} AND {condition})",
            parent.table.name,
            equal.join(" AND "),
        );
    }
    Ok(condition)
}

/// How a foreign key compares: by operators of its own, which need not be those that names and
/// types lead to, and where the columns have different collations, by that of the one that is
/// referred to. Those that take only the same bytes for one text are one here, and an index has
/// that of the column that refers. In an expression, two collations are none.
/// Sources: PostgreSQL 18 documentation, 52.13, "pg_constraint", `conpfeqop`, and 23.2, "Collation
/// Support"; `src/backend/utils/adt/ri_triggers.c`, `ri_GenerateQualCollation`.
const OPERATORS: &str = "
    SELECT n.nspname::text, o.oprname::text,
        (SELECT '::' || format_type(oid, -1) FROM pg_type WHERE oid = o.oprleft AND typtype <> 'p'),
        (SELECT '::' || format_type(oid, -1) FROM pg_type
            WHERE oid = o.oprright AND typtype <> 'p'),
        (SELECT format(' COLLATE %I.%I', m.nspname, l.collname)
            FROM pg_collation AS l JOIN pg_namespace AS m ON m.oid = l.collnamespace
            WHERE a.attcollation <> p.attcollation AND l.oid = CASE
                WHEN ac.collisdeterministic AND pc.collisdeterministic THEN ac.oid ELSE pc.oid END)
    FROM pg_constraint AS c
        CROSS JOIN LATERAL unnest(c.conpfeqop, c.conkey, c.confkey) WITH ORDINALITY
            AS k(operator, own, other, at)
        JOIN pg_operator AS o ON o.oid = k.operator
        JOIN pg_namespace AS n ON n.oid = o.oprnamespace
        JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = k.own
        JOIN pg_attribute AS p ON p.attrelid = c.confrelid AND p.attnum = k.other
        LEFT JOIN pg_collation AS ac ON ac.oid = a.attcollation
        LEFT JOIN pg_collation AS pc ON pc.oid = p.attcollation
    WHERE c.oid = (SELECT min(c.oid::int8)::oid FROM pg_constraint AS c
        WHERE c.contype = 'f' AND c.conrelid = $1 AND c.confrelid = $2
            AND ARRAY(SELECT a.attname::text FROM unnest(c.conkey) WITH ORDINALITY AS u(k, n)
                JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = u.k
                ORDER BY n) = $3
            AND ARRAY(SELECT a.attname::text FROM unnest(c.confkey) WITH ORDINALITY AS u(k, n)
                JOIN pg_attribute AS a ON a.attrelid = c.confrelid AND a.attnum = u.k
                ORDER BY n) = $4)
    ORDER BY k.at";

/// That rows of a child refer to one of its parent's, as the foreign key sees it.
async fn equal(client: &Client, child: &Member, parent: &Member) -> Result<Vec<String>> {
    const STEP: &str = "look at a foreign key";
    let link = child.link.as_ref().ok_or_else(unknown)?;
    let own = number_of(client, &child.table).await?;
    let other = number_of(client, &parent.table).await?;
    let found = client
        .query(OPERATORS, &[&own, &other, &link.columns, &link.parent_columns])
        .await
        .map_err(|e| failed(e, STEP))?;
    let mut operators = Vec::new();
    for row in &found {
        let get = |at: usize| row.try_get::<_, Option<String>>(at).map_err(|e| failed(e, STEP));
        let text = |at: usize| get(at).map(Option::unwrap_or_default);
        operators.push((text(0)?, text(1)?, text(2)?, text(3)?, text(4)?));
    }
    if operators.len() != link.columns.len() {
        return Err(Error::new(ErrorKind::Refused, code::ROWS_DIFFER, STEP)
            .with("table", &child.table.name)
            .with("columns", link.columns.join(", "))
            .why("there is no such foreign key any more"));
    }
    let pairs = link.columns.iter().zip(&link.parent_columns).zip(operators);
    let compared = pairs.map(|((own, other), (schema, name, left, right, collate))| {
        let (own, other) = (quoted(own), quoted(other));
        let (child, parent) = (&child.table.name, &parent.table.name);
        let schema = quoted(&schema);
        format!("{parent}.{other}{left} OPERATOR({schema}.{name}) {child}.{own}{right}{collate}")
    });
    Ok(compared.collect())
}

/// From a member to the root, each with what it refers to.
fn path(set: &ArchiveSet, member: usize) -> Result<Vec<(&Member, &Member)>> {
    let (mut at, mut path) = (member, Vec::new());
    while let Some(link) = &set.members.get(at).ok_or_else(unknown)?.link {
        let is_fit = link.parent < at && link.columns.len() == link.parent_columns.len();
        if !is_fit || link.columns.is_empty() {
            return Err(unknown());
        }
        path.push((&set.members[at], &set.members[link.parent]));
        at = link.parent;
    }
    Ok(path)
}

fn unknown() -> Error {
    Error::bug("find the table in the set")
}
