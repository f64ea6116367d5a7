//! What speaks against moving rows of a set.

use std::collections::{BTreeMap, BTreeSet};

use stillpoint_contract::{
    ArchiveSet, Class, Finding, Kind, Member, Referrer, Result, Weight, say_derived,
};

use super::{
    effects::{Deed, Effect, effects, is_derived, loses, own_names},
    reference::{Pair, alike},
    schema::{
        Term, is_indexed, key_of, listed, own_name, quoted, referrers, row_id, shown, triggers,
    },
    select::{pairs, tuple},
    worker::Desk,
};
use crate::connect::Journal;

const STEP: &str = "look at the tables of the set";

fn finding(
    subject: &'static str,
    found: impl Into<String>,
    weight: Weight,
    statement: Option<String>,
) -> Finding {
    Finding { subject, found: found.into(), weight, statement }
}

/// Everything that speaks against moving a set.
pub(super) fn examine(desk: &mut Desk, set: &ArchiveSet) -> Result<Vec<Finding>> {
    let (mut findings, mut told) = (vec![journal(desk)?], Triggers::default());
    for (at, member) in set.members.iter().enumerate() {
        let own = own_name(&member.table.name)?;
        if at == 0 {
            findings.extend(root(desk, member, &own)?);
        } else if let Some(found) = member.without_key() {
            let add = format!("CREATE UNIQUE INDEX … ON {} (…)", member.table.name);
            findings.push(finding("key", found, Weight::Advice, Some(add)));
        }
        for one in deletion(desk, set, member, (&own, &mut told))? {
            // It may go with rows of several members.
            if !findings.contains(&one) {
                findings.push(one);
            }
        }
        findings.extend(reused(desk, set, at, &own)?);
        findings.extend(link(desk, set, member, &own)?);
        let connection = desk.connection();
        for referrer in desk.sql(referrers(connection, &own), STEP)? {
            if !is_in_set(set, at, &referrer) {
                findings.push(outside(set, member, &referrer));
            }
            findings.extend(index(desk, &own, &referrer)?);
        }
        for (trigger, sql) in desk.sql(triggers(connection, &own), STEP)? {
            told.fires(&member.table.name, &trigger, &sql);
        }
    }
    findings.extend(told.0.into_values());
    findings.dedup();
    Ok(findings)
}

/// Source: <https://www.sqlite.org/wal.html>, 1, "Overview".
fn journal(desk: &Desk) -> Result<Finding> {
    Ok(match desk.database.journal(desk.connection())? {
        Journal::Wal => finding("journal_mode", "wal", Weight::Fine, None),
        Journal::Rollback => finding(
            "journal_mode",
            "a rollback journal: nobody can write while rows are read",
            Weight::Advice,
            Some("PRAGMA journal_mode = WAL".to_owned()),
        ),
    })
}

fn root(desk: &Desk, member: &Member, own: &str) -> Result<Vec<Finding>> {
    let table = &member.table;
    let terms = desk.sql(key_of(desk.connection(), own, table), STEP)?;
    let lacking = |found: String, statement| {
        vec![finding("key", format!("{}: {found}", table.name), Weight::Lacking, statement)]
    };
    if terms.is_empty() {
        let statement = format!("CREATE UNIQUE INDEX … ON {} (…)", table.name);
        return Ok(lacking("no unique columns that are all NOT NULL".to_owned(), Some(statement)));
    }
    for term in &terms {
        let column = table.columns.iter().find(|column| column.name == term.name);
        let is_real =
            column.is_some_and(|column| column.kind == Kind::Dynamic { declared: Class::Real });
        if is_real {
            return Ok(lacking(format!("{} holds floating-point numbers", term.name), None));
        }
        if let Some(collation) = &term.collation
            && alike(collation).is_none()
        {
            return Ok(lacking(format!("only the application can compare by {collation}"), None));
        }
    }
    let names = terms.iter().map(|term| term.name.as_str()).collect::<Vec<_>>().join(", ");
    Ok(vec![finding("key", format!("{}: {names}", table.name), Weight::Fine, None)])
}

/// A row id is one more than the largest that is there, unless the column is `AUTOINCREMENT`: once
/// the last row is gone, the next one gets its key, and no file tells the two from versions of one
/// row. Source: <https://www.sqlite.org/autoinc.html>.
fn reused(desk: &Desk, set: &ArchiveSet, at: usize, own: &str) -> Result<Option<Finding>> {
    let (connection, table) = (desk.connection(), &set.members[at].table);
    let Some(id) = desk.sql(row_id(connection, own), STEP)? else { return Ok(None) };
    let key = table.key.iter().map(|at| &table.columns[*at].name);
    if !key.eq([&id]) {
        return Ok(None);
    }
    let metadata = connection.column_metadata(Some("main"), own, id.as_str());
    let is_autoincrement = desk.sql(metadata, STEP)?.4;
    if is_autoincrement || !is_last_selected(desk, set, at, (own, &id))? {
        return Ok(None);
    }
    let found = format!(
        "{}: the row with the largest {id} goes, and SQLite gives that to a new row again: once \
         both are archived, archive restore takes the older one for a version of the other; a \
         column that is INTEGER PRIMARY KEY AUTOINCREMENT never gets a number twice",
        table.name
    );
    Ok(Some(finding("key", found, Weight::Advice, None)))
}

/// Whether the row with the largest row id hangs on a row of the root that is selected. Only that
/// row and those above it are looked at.
fn is_last_selected(
    desk: &Desk,
    set: &ArchiveSet,
    at: usize,
    (own, id): (&str, &str),
) -> Result<bool> {
    let id = quoted(id);
    let mut row = format!("{id} = (SELECT max({id}) FROM main.{})", quoted(own));
    let mut member = at;
    while let Some(link) = set.members[member].link.as_ref().filter(|link| link.parent < member) {
        row = format!(
            "({}) = (SELECT {} FROM main.{} WHERE {row})",
            listed(link.parent_columns.iter().map(String::as_str)),
            listed(link.columns.iter().map(String::as_str)),
            quoted(&own_name(&set.members[member].table.name)?),
        );
        member = link.parent;
    }
    let root = quoted(&own_name(&set.root().table.name)?);
    let query =
        format!("SELECT EXISTS (SELECT 1 FROM main.{root} WHERE {row} AND ({}))", set.predicate);
    desk.sql(desk.connection().query_row(&query, [], |row| row.get(0)), STEP)
}

/// Whether rows can be deleted at all, and what happens then: a trigger, an index or a check may
/// need functions or collations that only the application has, and a trigger may do anything.
fn deletion(
    desk: &mut Desk,
    set: &ArchiveSet,
    member: &Member,
    (own, told): (&str, &mut Triggers),
) -> Result<Vec<Finding>> {
    let table = &member.table.name;
    let found = match effects(desk.connection_mut(), own) {
        Err(e) if matches!(e, rusqlite::Error::SqlInputError { .. }) => {
            let found = format!("{table}: rows cannot be deleted here: {e}");
            return Ok(vec![finding("deletion", found, Weight::Lacking, None)]);
        }
        found => desk.sql(found, STEP)?,
    };
    let names = own_names(set)?;
    let mut findings = Vec::new();
    for effect in &found {
        let is_lost = !is_derived(set, effect)?
            && desk.sql(loses(desk.connection(), &names, effect), STEP)?;
        let is_member = names.iter().any(|own| effect.is_on(own));
        let Some(trigger) = &effect.trigger else {
            // Who refers to rows of the set is looked at by itself.
            if is_lost || is_member {
                findings.extend(behind(desk, set, &found, (effect, is_member))?);
            }
            continue;
        };
        if let Some((what, weight)) = besides(desk, effect, is_lost, is_member) {
            told.tell(table, trigger, &what, weight);
        }
    }
    Ok(findings)
}

/// Rows that go with those of a table whose rows only derive from others.
fn behind(
    desk: &Desk,
    set: &ArchiveSet,
    found: &BTreeSet<Effect>,
    (effect, is_member): (&Effect, bool),
) -> Result<Option<Finding>> {
    for name in &set.derived {
        let derived = own_name(name)?;
        if !found.iter().any(|one| one.is_on(&derived)) {
            continue;
        }
        for referrer in desk.sql(referrers(desk.connection(), &derived), STEP)? {
            let table = &referrer.table;
            if referrer.is_cascading && effect.is_on(&own_name(table)?) {
                if is_member {
                    let found = format!(
                        "{table} refers to {name}, of which triggers delete rows: its own go or \
                         change with them, and nothing is pruned that would take rows along which \
                         were not copied"
                    );
                    return Ok(Some(finding("reference", found, Weight::Advice, None)));
                }
                let found = format!(
                    "{table} refers to {name} and is not in the set: triggers delete rows of \
                     {name}, and its own would be gone without having been copied; {}",
                    say_derived(table)
                );
                return Ok(Some(finding("reference", found, Weight::Lacking, None)));
            }
        }
    }
    Ok(None)
}

/// What a trigger does to other rows, and how that weighs.
fn besides(
    desk: &Desk,
    effect: &Effect,
    is_lost: bool,
    is_member: bool,
) -> Option<(String, Weight)> {
    let table = &effect.table;
    if is_lost && is_member {
        let what = format!(
            "may replace rows of {table}, which is in the set: they would be gone without having \
             been copied"
        );
        return Some((what, Weight::Lacking));
    }
    if is_lost {
        let what = format!(
            "deletes or replaces rows of {table}, which is not in the set: they would be gone \
             without having been copied; add {table} to the set, or drop the trigger; {}",
            say_derived(&shown(desk.connection(), table))
        );
        return Some((what, Weight::Lacking));
    }
    if effect.deed != Deed::Update {
        return None;
    }
    // Rows of children go first, so that their trigger makes each parent another row than the file
    // has, each time anew.
    Some(if is_member {
        let what = format!(
            "changes rows of {table}, which is in the set: they would no longer be what was \
             copied, and would never be pruned"
        );
        (what, Weight::Lacking)
    } else {
        (format!("changes rows of {table} for rows that are pruned"), Weight::Advice)
    })
}

/// What is told of triggers: of each one in one place, whatever it does.
#[derive(Debug, Default)]
struct Triggers(BTreeMap<String, Finding>);

impl Triggers {
    /// Adds what a trigger does where rows of a table go.
    fn tell(&mut self, table: &str, trigger: &str, what: &str, weight: Weight) {
        let drop = format!("DROP TRIGGER {}", quoted(trigger));
        let statement = (weight == Weight::Lacking).then_some(drop);
        let Some(known) = self.0.get_mut(trigger) else {
            let found = format!("{table}: trigger {trigger} {what}");
            self.0.insert(trigger.to_owned(), finding("trigger", found, weight, statement));
            return;
        };
        // It may fire for rows of several members.
        if !known.found.contains(what) {
            known.found = format!("{}; it {what}", known.found);
            known.weight = known.weight.max(weight);
            known.statement = known.statement.take().or(statement);
        }
    }

    /// Adds what a trigger of a table may do to rows that are deleted. Of one of which nothing else
    /// is known, it is told that it fires.
    fn fires(&mut self, table: &str, trigger: &str, sql: &str) {
        if !fires(trigger, sql, "DELETE") {
            return;
        }
        if sql.to_uppercase().contains("IGNORE") {
            let what = "may keep rows from being deleted: what it keeps is not pruned";
            self.tell(table, trigger, what, Weight::Advice);
        } else if !self.0.contains_key(trigger) {
            let what = "fires for each row that is pruned: rows that it puts back are not pruned";
            self.tell(table, trigger, what, Weight::Advice);
        }
    }
}

/// Without an index, each deletion reads the whole table.
/// Source: <https://www.sqlite.org/foreignkeys.html>, 3, "Required and Suggested Database Indexes".
fn link(desk: &Desk, set: &ArchiveSet, member: &Member, own: &str) -> Result<Vec<Finding>> {
    let Some(link) = &member.link else { return Ok(Vec::new()) };
    let (name, pairs) = (&member.table.name, pairs(desk, set, member)?);
    let lacking = lacks_index(desk, (name, own), &link.columns, &pairs)?;
    let mut findings: Vec<Finding> = lacking.into_iter().collect();
    if let Some(parent) = set.members.get(link.parent) {
        let parent = &parent.table.name;
        findings.extend(pairs.iter().filter_map(|pair| pair.finding(name, parent)));
    }
    Ok(findings)
}

fn index(desk: &Desk, parent: &str, referrer: &Referrer) -> Result<Option<Finding>> {
    let Referrer { table, columns, parent_columns, .. } = referrer;
    let own = own_name(table)?;
    let pairs = Pair::any(desk.connection(), (&*own, columns), (parent, parent_columns));
    lacks_index(desk, (table, &*own), columns, &desk.sql(pairs, STEP)?)
}

/// The index by which the rows that refer to one would be found. What SQLite does not understand
/// has fewer pairs than columns.
fn lacks_index(
    desk: &Desk,
    (shown, own): (&str, &str),
    columns: &[String],
    pairs: &[Pair],
) -> Result<Option<Finding>> {
    let as_it_is = |name: &String| Term { name: name.clone(), collation: None };
    let terms: Vec<Term> = if pairs.len() == columns.len() {
        pairs.iter().map(Pair::term).collect()
    } else {
        columns.iter().map(as_it_is).collect()
    };
    if desk.sql(is_indexed(desk.connection(), own, &terms), STEP)? {
        return Ok(None);
    }
    let on = terms.iter().map(|term| match &term.collation {
        Some(collation) => format!("{} COLLATE {collation}", term.name),
        None => term.name.clone(),
    });
    let on = on.collect::<Vec<_>>().join(", ");
    let has_other = terms.iter().any(|term| term.collation.is_some());
    let why = if has_other { ", by which the reference compares" } else { "" };
    let found = format!("{shown}: none on ({on}){why}, so that each deletion reads all of it");
    let name = free_name(desk, &format!("{own}_{}", columns.join("_")))?;
    let statement = format!("CREATE INDEX {} ON {shown} ({})", quoted(&name), tuple(&terms));
    Ok(Some(finding("index", found, Weight::Lacking, Some(statement))))
}

/// A name that nothing has: an index of the same columns may have the first one.
fn free_name(desk: &Desk, name: &str) -> Result<String> {
    let query = "SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE name = ?1 COLLATE NOCASE)";
    let (mut free, mut number) = (name.to_owned(), 1);
    loop {
        let taken = desk.connection().query_row(query, [&free], |row| row.get::<_, bool>(0));
        if !desk.sql(taken, STEP)? {
            return Ok(free);
        }
        number += 1;
        free = format!("{name}_{number}");
    }
}

/// Whether a table of the set refers by the same columns: another reference of the same table would
/// let other rows go, or keep these.
fn is_in_set(set: &ArchiveSet, parent: usize, referrer: &Referrer) -> bool {
    let same = |left: &[String], right: &[String]| {
        left.len() == right.len()
            && left.iter().zip(right).all(|(left, right)| left.eq_ignore_ascii_case(right))
    };
    set.members.iter().any(|member| {
        member.table.name == referrer.table
            && member.link.as_ref().is_some_and(|link| {
                link.parent == parent
                    && same(&link.columns, &referrer.columns)
                    && same(&link.parent_columns, &referrer.parent_columns)
            })
    })
}

fn outside(set: &ArchiveSet, member: &Member, referrer: &Referrer) -> Finding {
    let (found, statement) = referrer.outside(set, &member.table.name);
    finding("reference", found, Weight::Lacking, statement)
}

/// The triggers of a set's tables that fire for rows which are deleted.
pub(super) fn deletion_triggers(desk: &Desk, set: &ArchiveSet) -> Result<Vec<String>> {
    let mut named = Vec::new();
    for member in &set.members {
        let own = own_name(&member.table.name)?;
        let of_table = desk.sql(triggers(desk.connection(), &own), STEP)?.into_iter();
        let firing = of_table.filter(|(trigger, sql)| fires(trigger, sql, "DELETE"));
        named.extend(firing.map(|(trigger, _)| format!("{trigger} of {}", member.table.name)));
    }
    Ok(named)
}

/// Whether a trigger fires for rows that are deleted, or inserted: what it fires for is behind its
/// name. Source: <https://www.sqlite.org/lang_createtrigger.html>.
pub(super) fn fires(trigger: &str, sql: &str, event: &str) -> bool {
    let unnamed = sql.to_uppercase().replacen(&trigger.to_uppercase(), "", 1);
    let mut words = unnamed.split(|c: char| !c.is_alphanumeric() && c != '_');
    words.find(|word| ["DELETE", "INSERT", "UPDATE"].contains(word)) == Some(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triggers_that_fire_for_deleted_rows_are_told_from_others() {
        for (trigger, sql, expected) in [
            ("t", "CREATE TRIGGER t AFTER DELETE ON a BEGIN UPDATE b SET c = 1; END", true),
            ("T", "create trigger if not exists T delete on a begin select 1; end", true),
            ("t", "CREATE TRIGGER t UPDATE OF deleted ON a BEGIN DELETE FROM b; END", false),
            ("on_delete", "CREATE TRIGGER on_delete INSERT ON a BEGIN SELECT 1; END", false),
            ("a delete", "CREATE TRIGGER \"a delete\" INSERT ON a BEGIN SELECT 1; END", false),
            ("insert", "CREATE TRIGGER \"insert\"\nDELETE ON a BEGIN SELECT 1; END", true),
        ] {
            assert_eq!(fires(trigger, sql, "DELETE"), expected, "{sql}");
        }
    }

    #[test]
    fn a_trigger_is_told_once_whatever_it_does() {
        let mut told = Triggers::default();
        told.tell("t", "x", "changes rows of sums", Weight::Advice);
        told.tell("c", "x", "changes rows of sums", Weight::Advice);
        let sql = |of: &str, then: &str| {
            format!("CREATE TRIGGER {of} BEFORE DELETE ON t BEGIN {then}; END")
        };
        for (trigger, then) in [("x", "SELECT 1"), ("y", "SELECT RAISE(IGNORE)"), ("z", "SELECT 1")]
        {
            told.fires("t", trigger, &sql(trigger, then));
        }
        told.fires("t", "w", "CREATE TRIGGER w INSERT ON t BEGIN SELECT 1; END");
        let found: Vec<&str> = told.0.values().map(|one| &*one.found).collect();
        let [x, y, z] = found[..] else { panic!("{found:?}") };
        assert_eq!(x, "t: trigger x changes rows of sums");
        assert!(y.starts_with("t: trigger y may keep rows"), "{y}");
        assert!(z.starts_with("t: trigger z fires for each row"), "{z}");
        assert!(told.0.values().all(|one| one.weight == Weight::Advice && one.statement.is_none()));

        told.tell("t", "x", "deletes rows of other", Weight::Lacking);
        told.fires("t", "x", &sql("x", "SELECT RAISE(IGNORE)"));
        let x = &told.0["x"];
        let all = "t: trigger x changes rows of sums; it deletes rows of other; it may keep rows";
        assert!(x.found.starts_with(all), "{x:?}");
        assert_eq!(x.weight, Weight::Lacking);
        assert_eq!(x.statement.as_deref(), Some("DROP TRIGGER \"x\""));
    }
}
