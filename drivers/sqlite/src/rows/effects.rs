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
    schema::{own_name, quoted, referrers, row_id, triggers},
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
    /// Whether a row that is written replaces those that have its keys.
    pub(super) replaces: bool,
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
        drop(note.send(Effect { deed, table: table.to_owned(), trigger, replaces: false }));
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
    // The deletion is named once. Where it is named again, a foreign key takes rows of the table
    // along with others that go.
    let (itself, others): (Vec<Effect>, Vec<Effect>) = noted.try_iter().partition(is_itself);
    with_replacing(connection, others.into_iter().chain(itself.into_iter().skip(1)).collect())
}

/// Says of effects whether they replace rows, which the authorizer is not told: by what a trigger
/// says, by what the table says, or by what a statement says that the trigger fires for. That goes
/// before what the trigger says itself.
/// Sources: <https://www.sqlite.org/lang_conflict.html>, "REPLACE";
/// <https://www.sqlite.org/lang_createtrigger.html>, 2.
fn with_replacing(
    connection: &Connection,
    found: BTreeSet<Effect>,
) -> rusqlite::Result<BTreeSet<Effect>> {
    // Each with the table that its trigger is on.
    let mut written = Vec::new();
    for mut effect in found {
        let mut on = String::new();
        if let Some(trigger) = &effect.trigger
            && effect.deed != Deed::Delete
        {
            let (table, sql) = made(connection, "trigger", trigger)?;
            effect.replaces =
                replaces(&sql) || replaces(&made(connection, "table", &effect.table)?.1);
            on = table.to_ascii_lowercase();
        }
        written.push((effect, on));
    }
    loop {
        let replacing = written.iter().filter(|(effect, _)| effect.replaces);
        let tables: BTreeSet<_> =
            replacing.map(|(effect, _)| effect.table.to_ascii_lowercase()).collect();
        let mut is_over = true;
        for (effect, on) in &mut written {
            if !effect.replaces && tables.contains(&*on) {
                effect.replaces = true;
                is_over = false;
            }
        }
        if is_over {
            return Ok(written.into_iter().map(|(effect, _)| effect).collect());
        }
    }
}

/// The table that something belongs to, and the statement that made it.
fn made(connection: &Connection, kind: &str, name: &str) -> rusqlite::Result<(String, String)> {
    let query = "SELECT tbl_name, coalesce(sql, '') FROM main.sqlite_schema \
                 WHERE type = ?1 AND name = ?2 COLLATE NOCASE";
    let made = connection.query_row(query, [kind, name], |row| Ok((row.get(0)?, row.get(1)?)));
    made.optional().map(Option::unwrap_or_default)
}

/// The own names of a set's tables.
pub(super) fn own_names(set: &ArchiveSet) -> Result<Vec<String>> {
    set.members.iter().map(|member| own_name(&member.table.name)).collect()
}

/// Whether an effect is on a table whose rows only derive from others, so that none is lost.
pub(super) fn is_derived(set: &ArchiveSet, effect: &Effect) -> Result<bool> {
    for name in &set.derived {
        if effect.is_on(&own_name(name)?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether rows are lost by an effect: it deletes some of a table that is not in the set, or may,
/// or may replace some of one that is. Rows of the set that are deleted are counted.
pub(super) fn loses(
    connection: &Connection,
    names: &[String],
    effect: &Effect,
) -> rusqlite::Result<bool> {
    let keys = if effect.replaces { keys(connection, effect)? } else { 0 };
    if names.iter().any(|own| effect.is_on(own)) {
        return Ok(keys > 0);
    }
    // By its only key, that is the same row with other values, save that others may go with it.
    let deletes = effect.deed == Deed::Delete
        || keys > 1
        || keys > 0 && takes_along(connection, &effect.table)?;
    Ok(deletes
        && !has_no_rows(connection, &effect.table)?
        && !is_filled(connection, names, &effect.table)?)
}

/// How many keys a row that a trigger writes may share with others.
fn keys(connection: &Connection, effect: &Effect) -> rusqlite::Result<i64> {
    let query = "SELECT count(*) FROM pragma_index_list(?1, 'main') WHERE \"unique\"";
    let indexes: i64 = connection.query_row(query, [&effect.table], |row| row.get(0))?;
    let trigger = effect.trigger.as_deref().unwrap_or_default();
    let has_row_id = row_id(connection, &effect.table)?.is_some()
        || names_row_id(&made(connection, "trigger", trigger)?.1);
    Ok(indexes + i64::from(has_row_id))
}

/// Whether rows of other tables are deleted or changed along with one of a table.
fn takes_along(connection: &Connection, own: &str) -> rusqlite::Result<bool> {
    Ok(referrers(connection, own)?.iter().any(|referrer| referrer.is_cascading))
}

fn is_part(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// What stands before and behind a word wherever a statement has it.
fn around<'a>(sql: &'a str, word: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let found =
        sql.match_indices(word).map(move |(at, word)| (&sql[..at], &sql[at + word.len()..]));
    found.filter(|(before, behind)| !before.ends_with(is_part) && !behind.starts_with(is_part))
}

/// Whether a statement says that rows are replaced; the function of that name does not, nor does
/// text. A comment may stand on either side of the word.
fn replaces(sql: &str) -> bool {
    let is_said = |(before, behind): (&str, &str)| {
        !before.ends_with(['\'', '"', '`', '[']) && !behind.trim_start().starts_with('(')
    };
    around(&sql.to_uppercase(), "REPLACE").any(is_said)
}

/// Whether a statement names the row id of a table other than by the table's name.
/// Source: <https://www.sqlite.org/lang_createtable.html>, 5.
fn names_row_id(sql: &str) -> bool {
    let sql = sql.to_uppercase();
    let is_alone = |(before, _): (&str, &str)| {
        let before = before.trim_end_matches(['"', '`', '[', '\'']);
        !before.trim_end().ends_with('.')
    };
    ["ROWID", "_ROWID_", "OID"].iter().any(|name| around(&sql, name).any(is_alone))
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

    /// Tables of which `t` and `c` are in a set, and whether deleting rows of `t` loses any.
    fn is_lost(make: &str) -> bool {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("PRAGMA foreign_keys = ON").unwrap();
        connection.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, v)").unwrap();
        connection.execute_batch(make).unwrap();
        let names = ["t", "c"].map(str::to_owned);
        let found = effects(&mut connection, "t").unwrap();
        found.iter().any(|effect| loses(&connection, &names, effect).unwrap())
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
            ("a UNIQUE, b UNIQUE", "INSERT OR/**/REPLACE--\nINTO o VALUES (1, 2)", true),
            ("a UNIQUE", "REPLACE INTO o (\"rowid\", a) VALUES (1, 2)", true),
            ("a UNIQUE", "UPDATE OR REPLACE o SET _rowid_ = 1, a = 2", true),
            // A running total.
            ("id INTEGER PRIMARY KEY, n", "INSERT OR REPLACE INTO o VALUES (1, 2)", false),
            ("id TEXT PRIMARY KEY, n", "REPLACE INTO o VALUES (1, 2)", false),
            ("id TEXT PRIMARY KEY, n", "REPLACE INTO o VALUES (old.rowid, 2)", false),
            ("a, b, PRIMARY KEY (a, b)", "REPLACE INTO o VALUES (1, 2)", false),
            ("id INTEGER PRIMARY KEY, a UNIQUE", "INSERT INTO o VALUES (old.id, old.v)", false),
            (
                "id INTEGER PRIMARY KEY, a UNIQUE",
                "INSERT INTO o VALUES (old.id, replace(old.v, 'replace', 'replaced'))",
                false,
            ),
        ] {
            let make = format!(
                "CREATE TABLE o ({table}); CREATE TRIGGER x AFTER DELETE ON t BEGIN {then}; END"
            );
            assert_eq!(is_lost(&make), expected, "{table}: {then}");
        }
    }

    /// What goes with a row that makes way is lost with it, though its own values are not.
    #[test]
    fn what_hangs_on_a_row_that_makes_way_is_lost() {
        for (action, expected) in [("CASCADE", true), ("SET NULL", true), ("NO ACTION", false)] {
            for child in ["c", "d"] {
                let make = format!(
                    "CREATE TABLE sums (id INTEGER PRIMARY KEY, n);
                     CREATE TABLE {child} (s REFERENCES sums ON DELETE {action});
                     CREATE TRIGGER x AFTER DELETE ON t BEGIN REPLACE INTO sums VALUES (1, 2); END"
                );
                assert_eq!(is_lost(&make), expected, "{child}: {action}");
            }
        }
    }

    /// Rows of the set go one by one into files. By any key, those that make way do not.
    #[test]
    fn a_row_of_the_set_that_makes_way_for_another_one_is_lost() {
        for (table, then, expected) in [
            ("id INTEGER PRIMARY KEY, n", "INSERT OR REPLACE INTO c VALUES (1, 2)", true),
            ("id INTEGER PRIMARY KEY, n", "REPLACE INTO C VALUES (1, 2)", true),
            ("id TEXT PRIMARY KEY, n", "UPDATE OR REPLACE c SET id = 1", true),
            ("a, b UNIQUE ON CONFLICT REPLACE", "INSERT INTO c VALUES (1, 2)", true),
            ("a, b", "REPLACE INTO c (oid, a) VALUES (1, 2)", true),
            ("a, b", "REPLACE INTO c VALUES (1, 2)", false),
            ("id INTEGER PRIMARY KEY, n", "INSERT OR IGNORE INTO c VALUES (1, 2)", false),
            ("id INTEGER PRIMARY KEY, n", "INSERT OR ABORT INTO c VALUES (1, 2)", false),
            // What is deleted is counted when it goes.
            ("id INTEGER PRIMARY KEY, n", "DELETE FROM c WHERE n = old.id", false),
            ("id INTEGER PRIMARY KEY, n", "REPLACE INTO t VALUES (old.id, 'again')", true),
        ] {
            let make = format!(
                "CREATE TABLE c ({table}); CREATE TRIGGER x AFTER DELETE ON t BEGIN {then}; END"
            );
            assert_eq!(is_lost(&make), expected, "{table}: {then}");
        }
    }

    /// What the statement says that a trigger fires for goes before what the trigger says, at any
    /// depth, also where the trigger fires for a row that makes way.
    #[test]
    fn a_trigger_replaces_rows_where_the_statement_does_that_it_fires_for() {
        for (first, second, expected) in [
            ("INSERT OR REPLACE INTO log VALUES (1)", "AFTER INSERT ON log", true),
            ("INSERT OR REPLACE INTO log VALUES (1)", "AFTER INSERT ON \"LOG\"", true),
            ("REPLACE INTO log VALUES (1)", "AFTER DELETE ON log", true),
            ("UPDATE OR REPLACE log SET id = 1", "BEFORE UPDATE ON log", true),
            ("REPLACE INTO seen VALUES (1)", "INSTEAD OF INSERT ON seen", true),
            ("INSERT INTO kept VALUES (1)", "AFTER DELETE ON kept", true),
            ("INSERT OR REPLACE INTO deep VALUES (1)", "AFTER INSERT ON log", true),
            ("INSERT INTO log VALUES (1)", "AFTER INSERT ON log", false),
            ("INSERT INTO deep VALUES (1)", "AFTER INSERT ON log", false),
            ("DELETE FROM c; SELECT replace('a', 'b', 'c')", "AFTER DELETE ON c", false),
        ] {
            let make = format!(
                "PRAGMA recursive_triggers = ON;
                 CREATE TABLE c (id INTEGER PRIMARY KEY, n);
                 CREATE TABLE log (id INTEGER PRIMARY KEY); CREATE TABLE deep (id);
                 CREATE TABLE kept (id INTEGER PRIMARY KEY ON CONFLICT REPLACE);
                 CREATE VIEW seen AS SELECT id FROM c;
                 CREATE TRIGGER sinks AFTER INSERT ON deep BEGIN INSERT INTO log VALUES (1); END;
                 CREATE TRIGGER x AFTER DELETE ON t BEGIN {first}; END;
                 CREATE TRIGGER y {second} BEGIN INSERT INTO c VALUES (3, 4); END"
            );
            assert_eq!(is_lost(&make), expected, "{first}: {second}");
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
            replaces: false,
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
            Effect { deed, table, trigger, replaces: false }
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
        // What takes rows of the table itself along is told from the deletion.
        connection
            .execute_batch(
                "CREATE TABLE tree
                     (id INTEGER PRIMARY KEY, up REFERENCES tree ON DELETE CASCADE)",
            )
            .unwrap();
        let expected = BTreeSet::from([effect(Deed::Delete, "tree", None)]);
        assert_eq!(effects(&mut connection, "tree").unwrap(), expected);
    }
}
