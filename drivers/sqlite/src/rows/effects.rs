//! What the deletion of rows does besides: statements of triggers and actions of foreign keys, at
//! any depth, as SQLite names them while it prepares the deletion.

use std::{collections::BTreeSet, sync::mpsc};

use rusqlite::{
    Connection, OptionalExtension as _,
    hooks::{AuthAction, AuthContext, Authorization},
};
use stillpoint_contract::{ArchiveSet, Result};

use super::{
    examine::fires,
    schema::{own_name, quoted, triggers},
};

/// What is done to rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deed {
    Delete,
    Insert,
    Update,
}

/// What is done to rows of a table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Effect {
    pub(super) deed: Deed,
    pub(super) table: String,
    /// The trigger that does it; a foreign key has no name.
    pub(super) trigger: Option<String>,
}

impl Effect {
    /// Whether it is done to a table.
    pub(super) fn is_on(&self, own: &str) -> bool {
        self.table.eq_ignore_ascii_case(own)
    }
}

/// What deleting rows of a table does besides deleting them. Triggers are compiled whole, whatever
/// rows there are.
/// Source: <https://www.sqlite.org/c3ref/set_authorizer.html>.
pub(super) fn effects(
    connection: &mut Connection,
    own: &str,
) -> rusqlite::Result<BTreeSet<Effect>> {
    let (note, noted) = mpsc::channel();
    let hook = move |context: AuthContext<'_>| {
        let (deed, table) = match context.action {
            AuthAction::Delete { table_name } => (Deed::Delete, table_name),
            AuthAction::Insert { table_name } => (Deed::Insert, table_name),
            AuthAction::Update { table_name, .. } => (Deed::Update, table_name),
            _ => return Authorization::Allow,
        };
        let trigger = context.accessor.map(str::to_owned);
        // Whoever takes it lives longer than this.
        drop(note.send(Effect { deed, table: table.to_owned(), trigger }));
        Authorization::Allow
    };
    let explain = format!("EXPLAIN DELETE FROM main.{}", quoted(own));
    // Modules of virtual tables prepare statements of their own when those are first used.
    drop(connection.prepare(&explain)?);
    connection.authorizer(Some(hook))?;
    let prepared = connection.prepare(&explain).map(drop);
    // What is prepared from now on is nobody's business.
    connection.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)?;
    prepared?;
    let is_itself = |effect: &Effect| {
        effect.trigger.is_none() && effect.deed == Deed::Delete && effect.is_on(own)
    };
    Ok(noted.try_iter().filter(|effect| !is_itself(effect)).collect())
}

/// The own names of a set's tables.
pub(super) fn own_names(set: &ArchiveSet) -> Result<Vec<String>> {
    set.members.iter().map(|member| own_name(&member.table.name)).collect()
}

/// Whether rows are lost by an effect: it deletes some of a table that is not in the set, or may.
pub(super) fn loses(
    connection: &Connection,
    names: &[String],
    effect: &Effect,
) -> rusqlite::Result<bool> {
    let is_outside = !names.iter().any(|own| effect.is_on(own));
    let deletes = effect.deed == Deed::Delete || replaces_others(connection, effect)?;
    Ok(deletes
        && is_outside
        && !has_no_rows(connection, &effect.table)?
        && !is_filled(connection, names, &effect.table)?)
}

/// Whether a trigger that writes a row may have SQLite delete another one in its favour, which the
/// authorizer is not told. By its only key, that is the same row with other values.
/// Source: <https://www.sqlite.org/lang_conflict.html>, "REPLACE".
fn replaces_others(connection: &Connection, effect: &Effect) -> rusqlite::Result<bool> {
    let Some(trigger) = &effect.trigger else { return Ok(false) };
    let made = |kind: &str, name: &str| {
        let query = "SELECT sql FROM main.sqlite_schema \
                     WHERE type = ?1 AND name = ?2 COLLATE NOCASE AND sql IS NOT NULL";
        let sql = connection.query_row(query, [kind, name], |row| row.get(0)).optional();
        sql.map(Option::<String>::unwrap_or_default)
    };
    if !replaces(&made("trigger", trigger)?) && !replaces(&made("table", &effect.table)?) {
        return Ok(false);
    }
    let query = "SELECT (SELECT count(*) FROM pragma_index_list(?1, 'main') \
                    WHERE \"unique\" AND origin <> 'pk') \
                 + EXISTS (SELECT 1 FROM pragma_table_info(?1, 'main') WHERE pk > 0)";
    let keys: i64 = connection.query_row(query, [&effect.table], |row| row.get(0))?;
    Ok(keys > 1)
}

/// Whether a statement says that rows are replaced; the function of that name does not.
fn replaces(sql: &str) -> bool {
    let sql = sql.to_uppercase();
    let words = sql.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|one| !one.is_empty());
    let words: Vec<&str> = words.collect();
    let pairs = [["OR", "REPLACE"], ["REPLACE", "INTO"], ["CONFLICT", "REPLACE"]];
    words.windows(2).any(|pair| pairs.iter().any(|one| one == pair))
}

/// Whether a virtual table, such as an R-Tree or a full-text index, has what a trigger puts there
/// for each row of the set that is inserted: it comes back with the row.
fn is_filled(connection: &Connection, names: &[String], name: &str) -> rusqlite::Result<bool> {
    let query = "SELECT EXISTS (SELECT 1 FROM pragma_table_list \
                 WHERE schema = 'main' AND type = 'virtual' AND name = ?1 COLLATE NOCASE)";
    if !connection.query_row(query, [name], |row| row.get::<_, bool>(0))? {
        return Ok(false);
    }
    for own in names {
        let mut found = triggers(connection, own)?.into_iter();
        if found.any(|(trigger, sql)| fires(&trigger, &sql, "INSERT") && puts_into(&sql, name)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a trigger inserts into a table. Names of schemas cannot stand there.
/// Source: <https://www.sqlite.org/lang_createtrigger.html>, 2.1.
fn puts_into(sql: &str, name: &str) -> bool {
    let (sql, name) = (sql.to_uppercase(), name.to_uppercase());
    let is_it = |into: &str| {
        let into = into.trim_start().trim_start_matches(['"', '`', '[', '\'']);
        let behind = into.strip_prefix(&*name);
        behind.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    };
    sql.split("INTO").skip(1).any(is_it)
}

/// Whether a table has no rows of its own: a view, whose triggers are named themselves, or a
/// full-text index of what is in another table.
fn has_no_rows(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    let query = "SELECT type, coalesce(sql, '') FROM main.sqlite_schema \
                 WHERE type IN ('table', 'view') AND name = ?1 COLLATE NOCASE";
    let found = connection
        .query_row(query, [name], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
        .optional()?;
    Ok(found.is_some_and(|(kind, sql)| kind == "view" || is_mere_index(&sql)))
}

/// Whether a statement makes a full-text index without content of its own.
/// Sources: <https://www.sqlite.org/fts5.html>, 4.4, "External Content and Contentless Tables";
/// <https://www.sqlite.org/fts3.html>, 6.2, "FTS4 Options".
fn is_mere_index(sql: &str) -> bool {
    const MODULES: [&str; 2] = ["fts4", "fts5"];
    let Some((head, arguments)) = sql.split_once('(') else { return false };
    let mut words = head.split_whitespace();
    let is_virtual = words.nth(1).is_some_and(|word| word.eq_ignore_ascii_case("virtual"));
    let module = words.next_back().unwrap_or_default();
    let is_content = |argument: &str| {
        let name = argument.split_once('=').map(|(name, _)| name.trim());
        name.is_some_and(|name| name.eq_ignore_ascii_case("content"))
    };
    is_virtual
        && MODULES.iter().any(|known| known.eq_ignore_ascii_case(module))
        && arguments.split(',').any(is_content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_without_content_of_their_own_are_told_from_tables() {
        for (sql, expected) in [
            ("CREATE VIRTUAL TABLE f USING fts5(a, content='t', content_rowid='id')", true),
            ("create virtual table f using FTS4 ( Content = \"t\", a )", true),
            ("CREATE VIRTUAL TABLE f USING fts5(a, content='')", true),
            ("CREATE VIRTUAL TABLE f USING fts5(a, content)", false),
            ("CREATE VIRTUAL TABLE f USING fts5(a, content_rowid='id')", false),
            ("CREATE VIRTUAL TABLE f USING fts3(content=x)", false),
            ("CREATE VIRTUAL TABLE f USING rtree(id, a, b)", false),
            ("CREATE TABLE fts5(content CHECK (content = 1))", false),
        ] {
            assert_eq!(is_mere_index(sql), expected, "{sql}");
        }
    }

    #[test]
    fn a_row_that_makes_way_for_another_one_is_lost() {
        for (table, then, expected) in [
            ("id INTEGER PRIMARY KEY, a UNIQUE", "REPLACE INTO o VALUES (old.id, 'same')", true),
            ("id INTEGER PRIMARY KEY, a UNIQUE", "UPDATE OR REPLACE o SET a = 'same'", true),
            (
                "id INTEGER PRIMARY KEY, a UNIQUE ON CONFLICT REPLACE",
                "INSERT INTO o VALUES (old.id, 'same')",
                true,
            ),
            ("a TEXT PRIMARY KEY, b UNIQUE", "INSERT OR REPLACE INTO o VALUES (1, 2)", true),
            // A running total.
            ("id INTEGER PRIMARY KEY, n", "INSERT OR REPLACE INTO o VALUES (1, 2)", false),
            ("id TEXT PRIMARY KEY, n", "REPLACE INTO o VALUES (1, 2)", false),
            ("a, b, PRIMARY KEY (a, b)", "REPLACE INTO o VALUES (1, 2)", false),
            ("id INTEGER PRIMARY KEY, a UNIQUE", "INSERT INTO o VALUES (old.id, old.v)", false),
            (
                "id INTEGER PRIMARY KEY, a UNIQUE",
                "INSERT INTO o VALUES (old.id, replace(old.v, 'a', 'b'))",
                false,
            ),
        ] {
            let mut connection = Connection::open_in_memory().unwrap();
            let make = format!(
                "CREATE TABLE t (id INTEGER PRIMARY KEY, v); CREATE TABLE o ({table});
                 CREATE TRIGGER x AFTER DELETE ON t BEGIN {then}; END"
            );
            connection.execute_batch(&make).unwrap();
            let found = effects(&mut connection, "t").unwrap();
            let lost = found.iter().any(|one| loses(&connection, &["t".to_owned()], one).unwrap());
            assert_eq!(lost, expected, "{table}: {then}");
        }
    }

    #[test]
    fn a_trigger_that_inserts_into_a_table_is_told_from_others() {
        for (then, expected) in [
            ("INSERT INTO places VALUES (new.id, 1, 1)", true),
            ("insert or replace into \"Places\"(id) SELECT new.id", true),
            ("INSERT INTO log VALUES (1); REPLACE INTO\n [places] VALUES (1)", true),
            ("INSERT INTO places_log VALUES (new.id)", false),
            ("INSERT INTO log SELECT id FROM places", false),
            ("UPDATE places SET id = new.id", false),
        ] {
            let sql = format!("CREATE TRIGGER t AFTER INSERT ON a BEGIN {then}; END");
            assert_eq!(puts_into(&sql, "places"), expected, "{then}");
        }
    }

    #[test]
    fn what_modules_do_when_they_are_first_used_is_no_effect() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Connection::open(folder.path().join("places.db")).unwrap();
        open()
            .execute_batch(
                "CREATE TABLE t (id INTEGER PRIMARY KEY, x);
                 CREATE VIRTUAL TABLE places USING rtree(id, low, high);
                 CREATE VIRTUAL TABLE words USING fts4(a);
                 CREATE TRIGGER x AFTER DELETE ON t
                 BEGIN DELETE FROM places WHERE id = old.id; DELETE FROM words; END",
            )
            .unwrap();
        let effect = |table: &str| Effect {
            deed: Deed::Delete,
            table: table.to_owned(),
            trigger: Some("x".to_owned()),
        };
        let (mut connection, names) = (open(), ["t".to_owned()]);
        let found = effects(&mut connection, "t").unwrap();
        assert_eq!(found, BTreeSet::from([effect("places"), effect("words")]));
        let loses = |table| loses(&connection, &names, &effect(table)).unwrap();
        assert!(loses("places") && loses("words"));
        // The function is the application's.
        connection
            .execute_batch(
                "CREATE TRIGGER fill AFTER INSERT ON t WHEN new.x NOT NULL
                 BEGIN INSERT OR REPLACE INTO \"places\" VALUES (new.id, low(new.x), 1); END;
                 CREATE TRIGGER other AFTER UPDATE ON t BEGIN INSERT INTO words VALUES (1); END",
            )
            .unwrap();
        assert!(!loses("places") && loses("words"));
    }

    #[test]
    fn what_a_deletion_does_besides_is_told_at_any_depth_and_once_only() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch(
                "PRAGMA foreign_keys = ON;
                 CREATE TABLE t (id INTEGER PRIMARY KEY); CREATE TABLE log (id);
                 CREATE TABLE other (id); CREATE TABLE sum (n);
                 CREATE TABLE child (t REFERENCES t ON DELETE CASCADE);
                 CREATE TRIGGER one AFTER DELETE ON t BEGIN INSERT INTO log VALUES (old.id); END;
                 CREATE TRIGGER two AFTER INSERT ON log BEGIN DELETE FROM other; END;
                 CREATE TRIGGER three AFTER DELETE ON child BEGIN UPDATE sum SET n = n - 1; END;
                 CREATE TRIGGER idle AFTER UPDATE ON t BEGIN DELETE FROM sum; END",
            )
            .unwrap();
        let effect = |deed, table: &str, trigger: Option<&str>| {
            let (table, trigger) = (table.to_owned(), trigger.map(str::to_owned));
            Effect { deed, table, trigger }
        };
        let expected = BTreeSet::from([
            effect(Deed::Delete, "child", None),
            effect(Deed::Insert, "log", Some("one")),
            effect(Deed::Delete, "other", Some("two")),
            effect(Deed::Update, "sum", Some("three")),
        ]);
        assert_eq!(effects(&mut connection, "t").unwrap(), expected);
        // Nobody is asked any more.
        connection.execute_batch("INSERT INTO t VALUES (1); DELETE FROM t").unwrap();
        assert_eq!(effects(&mut connection, "t").unwrap(), expected);
        assert_eq!(effects(&mut connection, "other").unwrap(), BTreeSet::new());
        assert!(effects(&mut connection, "none").is_err());
        connection.execute_batch("DROP TRIGGER two; UPDATE t SET id = 1").unwrap();
    }
}
