//! What no two rows of a live table share. `ON CONFLICT` refuses tables of which anything unique is
//! deferrable, and those with rules for what is written: their statements ask themselves whether a
//! row that comes back would meet another.
//! Source: PostgreSQL 18 documentation, INSERT, ON CONFLICT Clause, and 5.5.3.

use std::{collections::BTreeSet, iter};

use stillpoint_contract::Result;

use crate::{connect::Sql, error, tally::quoted};

/// Whether anything unique in a table, or in one of its partitions, is seen to only when a
/// transaction ends, or there is a rule for inserts or updates.
const REFUSES: &str = "
    SELECT EXISTS (SELECT FROM pg_catalog.pg_index i
        WHERE NOT i.indimmediate AND (i.indrelid = $1
            OR i.indrelid IN (SELECT relid FROM pg_catalog.pg_partition_tree($1::oid))))
        OR EXISTS (SELECT FROM pg_catalog.pg_rewrite
            WHERE ev_class = $1 AND ev_type IN ('2', '3'))";

/// What is unique in a table, and in those of its partitions that have it for themselves. What is
/// seen to only at the end counts as well: when rows come back, those that differ have theirs.
/// Servers before 15 know no NULL that equals another.
const UNIQUE: &str = "
    SELECT CASE WHEN i.indrelid <> $1 THEN pg_catalog.format('%I.%I', n.nspname, r.relname) END,
        x.relname::text,
        ARRAY(SELECT pg_catalog.pg_get_indexdef(i.indexrelid, place::int, false)
            FROM pg_catalog.generate_series(1, i.indnkeyatts) place ORDER BY place),
        ARRAY(SELECT a.attname::text
            FROM pg_catalog.unnest((i.indkey::int2[])[0:i.indnkeyatts - 1])
                WITH ORDINALITY k (n, place)
                LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.n
                    AND k.n > 0
            ORDER BY k.place),
        ARRAY(SELECT pg_catalog.format('OPERATOR(%I.%s)', m.nspname, o.oprname)
            FROM pg_catalog.pg_constraint c
                CROSS JOIN pg_catalog.unnest(c.conexclop) WITH ORDINALITY e (id, place)
                JOIN pg_catalog.pg_operator o ON o.oid = e.id
                JOIN pg_catalog.pg_namespace m ON m.oid = o.oprnamespace
            WHERE c.conindid = i.indexrelid ORDER BY e.place),
        coalesce((pg_catalog.to_jsonb(i) ->> 'indnullsnotdistinct')::bool, false),
        pg_catalog.pg_get_expr(i.indpred, i.indrelid),
        CASE WHEN i.indrelid <> $1 THEN pg_catalog.pg_get_partition_constraintdef(i.indrelid) END,
        ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
            WHERE a.attrelid = i.indrelid AND a.attnum > 0 AND (a.attnum = ANY (i.indkey)
                OR EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = i.indexrelid
                        AND d.refclassid = 'pg_catalog.pg_class'::regclass
                        AND d.refobjid = i.indrelid AND d.refobjsubid = a.attnum)))
    FROM pg_catalog.pg_index i
        JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
        JOIN pg_catalog.pg_class r ON r.oid = i.indrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
    WHERE (i.indisunique OR i.indisexclusion) AND i.indisvalid
        AND (i.indrelid = $1 OR i.indrelid IN (
            SELECT relid FROM pg_catalog.pg_partition_tree($1::oid)))
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhrelid = i.indexrelid)
    ORDER BY i.indrelid <> $1, NOT i.indisprimary, i.indexrelid";

/// What no two rows share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unique {
    /// The partition that sees to it, if it is not the whole table.
    pub(super) partition: Option<String>,
    /// What is compared, and by which operator.
    pub(super) elements: Vec<(Element, String)>,
    /// Whether NULL equals NULL.
    pub(super) nulls_are_equal: bool,
    /// Of which rows it is asked.
    pub(super) predicate: Option<String>,
    /// Which rows come into the partition.
    pub(super) routed: Option<String>,
}

/// What an index is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Element {
    Column(String),
    /// Over columns of one row, which have no other names.
    Expression(String),
}

impl Unique {
    pub(super) fn of(columns: impl IntoIterator<Item = String>) -> Self {
        let equal = |name| (Element::Column(name), "=".to_owned());
        Self { elements: columns.into_iter().map(equal).collect(), ..Self::default() }
    }

    fn is_of(&self, columns: &BTreeSet<&str>) -> bool {
        let names = self.elements.iter().map(|(element, _)| match element {
            Element::Column(name) => Some(name.as_str()),
            Element::Expression(_) => None,
        });
        self.partition.is_none()
            && self.predicate.is_none()
            && names.collect::<Option<BTreeSet<_>>>().as_ref() == Some(columns)
    }
}

/// Conditions on one row that comes back, which is `r`: whether it meets another.
#[derive(Debug, Default)]
pub(super) struct Meetings {
    /// What is asked of the row alone.
    asked: Vec<String>,
    conditions: Vec<String>,
}

impl Meetings {
    /// Adds what no two rows of `table` share.
    pub(super) fn add(&mut self, unique: &Unique, table: &str) {
        let mut same = Vec::new();
        for (element, operator) in &unique.elements {
            let (there, new) = match element {
                Element::Column(name) => {
                    (format!("t.{}", quoted(name)), format!("r.{}", quoted(name)))
                }
                Element::Expression(text) => (text.clone(), self.ask(text)),
            };
            let is_same = format!("{there} {operator} {new}");
            same.push(if unique.nulls_are_equal {
                format!("({is_same} OR {there} IS NULL AND {new} IS NULL)")
            } else {
                is_same
            });
        }
        if let Some(predicate) = &unique.predicate {
            same.push(predicate.clone());
        }
        for condition in [&unique.predicate, &unique.routed].into_iter().flatten() {
            same.push(self.ask(condition));
        }
        let table = unique.partition.as_deref().unwrap_or(table);
        let same = same.join(" AND ");
        self.conditions.push(format!("NOT EXISTS (SELECT FROM {table} t WHERE {same})"));
    }

    /// Lets an expression be asked of the row, and says under which name.
    fn ask(&mut self, expression: &str) -> String {
        self.asked.push(expression.to_owned());
        format!("u.\"{}\"", self.asked.len())
    }

    /// What follows the row in a statement.
    pub(super) fn clauses(&self) -> String {
        let names = (1..=self.asked.len()).map(|number| format!("\"{number}\""));
        let asked = match self.asked.as_slice() {
            [] => String::new(),
            asked => format!(
                " CROSS JOIN LATERAL (SELECT {}) u ({})",
                asked.join(", "),
                names.collect::<Vec<_>>().join(", ")
            ),
        };
        match self.conditions.as_slice() {
            [] => asked,
            conditions => format!("{asked} WHERE {}", conditions.join(" AND ")),
        }
    }
}

/// What no two rows of a live table share, if `ON CONFLICT` does not see to that: its key, whose
/// rows were compared, and what is seen to at once. And the names of what cannot be asked, since it
/// is about other columns than those that are written.
pub(super) async fn find(
    live: &Sql,
    table: u32,
    key: &[String],
    written: &BTreeSet<&str>,
) -> Result<Option<(Vec<Unique>, Vec<String>)>> {
    let failed = |e| error::sql(e, "look for what is unique");
    let row = live.client.query_one(REFUSES, &[&table]).await.map_err(failed)?;
    if !row.try_get::<_, bool>(0).map_err(failed)? {
        return Ok(None);
    }
    let (mut found, mut unasked) = (Vec::new(), Vec::new());
    for row in live.client.query(UNIQUE, &[&table]).await.map_err(failed)? {
        let names: Vec<String> = row.try_get(8).map_err(failed)?;
        if !names.iter().all(|name| written.contains(name.as_str())) {
            unasked.push(row.try_get(1).map_err(failed)?);
            continue;
        }
        let definitions: Vec<String> = row.try_get(2).map_err(failed)?;
        let columns: Vec<Option<String>> = row.try_get(3).map_err(failed)?;
        let operators: Vec<String> = row.try_get(4).map_err(failed)?;
        let operators = operators.into_iter().chain(iter::repeat("=".to_owned()));
        let element = |(definition, column): (String, Option<String>)| {
            column.map_or(Element::Expression(definition), Element::Column)
        };
        found.push(Unique {
            partition: row.try_get(0).map_err(failed)?,
            elements: definitions.into_iter().zip(columns).map(element).zip(operators).collect(),
            nulls_are_equal: row.try_get(5).map_err(failed)?,
            predicate: row.try_get(6).map_err(failed)?,
            routed: row.try_get(7).map_err(failed)?,
        });
    }
    let own: BTreeSet<&str> = key.iter().map(String::as_str).collect();
    if !own.is_empty() && !found.iter().any(|unique| unique.is_of(&own)) {
        found.insert(0, Unique::of(key.iter().cloned()));
    }
    Ok(Some((found, unasked)))
}
