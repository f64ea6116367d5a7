//! What triggers do to rows of a set while some of a table are deleted.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rusqlite::{
    Connection,
    hooks::{Action, AuthAction, AuthContext, Authorization},
};
use stillpoint_contract::{ArchiveSet, Error, ErrorKind, Result, code, say_derived};

use super::{
    effects::{Deed, Effect, effects, is_derived, loses, own_names},
    schema::{is_without_rowid, quoted, shown},
    worker::Desk,
};

/// What triggers of a table do to rows of the set while some of it are deleted.
#[derive(Debug, Default)]
pub(super) struct Besides {
    shrinking: Vec<Shrinking>,
    /// Whether triggers do nothing else.
    is_all: bool,
}

/// A table of the set of which triggers delete rows.
#[derive(Debug)]
struct Shrinking {
    name: String,
    gone: Gone,
}

/// How it is known how many rows of a table are gone.
#[derive(Debug)]
enum Gone {
    /// What is changed in all says enough.
    Nobody,
    /// SQLite tells of each.
    Told(Arc<AtomicU64>),
    /// They are so many fewer than there were.
    Counted(u64),
}

impl Besides {
    /// Looks before anything is deleted, and refuses what would lose rows.
    pub(super) fn look(desk: &mut Desk, set: &ArchiveSet, own: &str) -> Result<Self> {
        const STEP: &str = "ask what triggers do";
        let (names, found) = (own_names(set)?, effects(desk.connection_mut(), own));
        let found = desk.sql(found, STEP)?;
        let connection = desk.connection();
        let is_member = |effect: &Effect| names.iter().any(|name| effect.is_on(name));
        for effect in &found {
            if is_derived(set, effect)? || !desk.sql(loses(connection, &names, effect), STEP)? {
                continue;
            }
            let error = lost(own, effect, is_member(effect));
            return Err(if is_member(effect) {
                error
            } else {
                error.next(say_derived(&shown(connection, &effect.table)))
            });
        }
        let mut has_derived = false;
        for effect in &found {
            has_derived |= is_derived(set, effect)?;
        }
        // What hangs on a row goes before it. What hangs on a row that only derives from others
        // goes with that one, whoever else needs it; so do rows of the table itself.
        let deletes = |effect: &&Effect| {
            effect.deed == Deed::Delete
                && (effect.trigger.is_some() || has_derived || effect.is_on(own))
        };
        let is_all = found.iter().all(|effect| effect.deed == Deed::Delete && is_member(effect));
        let mut shrinking = Vec::new();
        for name in &names {
            if !found.iter().filter(deletes).any(|effect| effect.is_on(name)) {
                continue;
            }
            let puts = |one: &&Effect| one.deed == Deed::Insert && one.is_on(name);
            if let Some(effect) = found.iter().find(puts) {
                return Err(lost(own, effect, true)
                    .with("also deleted from", name)
                    .why("triggers delete rows of a table and add others: nobody can tell which"));
            }
            let gone = if is_all {
                Gone::Nobody
            } else if desk.sql(is_told(connection, &found, name), STEP)? {
                Gone::Told(Arc::default())
            } else {
                Gone::Counted(rows_of(desk, name)?)
            };
            shrinking.push(Shrinking { name: name.clone(), gone });
        }
        Ok(Self { shrinking, is_all })
    }

    /// Does something, and has SQLite tell of each row that it deletes.
    pub(super) fn listen<T>(
        &self,
        desk: &mut Desk,
        work: impl FnOnce(&Desk) -> Result<T>,
    ) -> Result<T> {
        const STEP: &str = "ask which rows are deleted";
        let told = self.shrinking.iter().filter_map(|one| {
            let Gone::Told(rows) = &one.gone else { return None };
            Some((one.name.clone(), Arc::clone(rows)))
        });
        let told: Vec<(String, Arc<AtomicU64>)> = told.collect();
        if told.is_empty() {
            return work(desk);
        }
        let listening = listen(desk.connection_mut(), told);
        let done = desk.sql(listening, STEP).and_then(|()| work(desk));
        // Nobody listens any more, whatever came of it.
        let over = listen_no_more(desk.connection_mut());
        let done = done?;
        desk.sql(over, STEP)?;
        Ok(done)
    }

    /// Makes sure that triggers deleted no row that was not handed over.
    pub(super) fn check(
        &self,
        desk: &Desk,
        (own, returned): (&str, u64),
        changed: u64,
    ) -> Result<()> {
        let differ = |table: &str, gone: u64, expected: u64| {
            Err(Error::new(ErrorKind::Refused, code::ROWS_DIFFER, "delete rows")
                .with("table", table)
                .with("rows that would be gone", gone)
                .with("rows that were returned", expected)
                .why("a trigger deletes other rows of the set, too, or a foreign key does"))
        };
        if self.shrinking.is_empty() {
            return Ok(());
        }
        if self.is_all {
            return if changed == returned { Ok(()) } else { differ(own, changed, returned) };
        }
        for Shrinking { name, gone } in &self.shrinking {
            let gone = match gone {
                Gone::Nobody => continue,
                Gone::Told(rows) => rows.load(Ordering::Relaxed),
                Gone::Counted(before) => before.saturating_sub(rows_of(desk, name)?),
            };
            let expected = if name == own { returned } else { 0 };
            if gone != expected {
                return differ(name, gone, expected);
            }
        }
        Ok(())
    }
}

/// Whether SQLite tells of each row of a table that goes: not of those without a row id, nor of
/// those that make way for others, so that nothing else may be done to it.
/// Source: <https://www.sqlite.org/c3ref/update_hook.html>.
fn is_told(connection: &Connection, found: &BTreeSet<Effect>, own: &str) -> rusqlite::Result<bool> {
    let is_changed = found.iter().any(|one| one.deed != Deed::Delete && one.is_on(own));
    Ok(!is_changed && !is_without_rowid(connection, own)?)
}

/// Has SQLite tell of each row that is deleted. Of a table that is emptied at once it would tell
/// nothing: an authorizer keeps it from that.
/// Sources: <https://www.sqlite.org/c3ref/update_hook.html>;
/// <https://www.sqlite.org/c3ref/set_authorizer.html>.
fn listen(
    connection: &mut Connection,
    told: Vec<(String, Arc<AtomicU64>)>,
) -> rusqlite::Result<()> {
    let hook = move |action: Action, _: &str, table: &str, _: i64| {
        let is_it = |(name, _): &&(String, Arc<AtomicU64>)| name.eq_ignore_ascii_case(table);
        if action == Action::SQLITE_DELETE
            && let Some((_, rows)) = told.iter().find(is_it)
        {
            rows.fetch_add(1, Ordering::Relaxed);
        }
    };
    connection.update_hook(Some(hook))?;
    let one_by_one = |context: AuthContext<'_>| {
        let is_deletion = matches!(context.action, AuthAction::Delete { .. });
        if is_deletion { Authorization::Ignore } else { Authorization::Allow }
    };
    connection.authorizer(Some(one_by_one))
}

fn listen_no_more(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.update_hook(None::<fn(Action, &str, &str, i64)>)?;
    connection.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)
}

fn rows_of(desk: &Desk, own: &str) -> Result<u64> {
    let query = format!("SELECT count(*) FROM main.{}", quoted(own));
    let rows = desk.connection().query_row(&query, [], |row| row.get::<_, i64>(0));
    Ok(desk.sql(rows, "count rows")?.cast_unsigned())
}

fn lost(own: &str, effect: &Effect, is_member: bool) -> Error {
    let why = if is_member {
        "rows of the set would be replaced without being archived"
    } else {
        "rows of a table that is not in the set would be deleted without being archived"
    };
    let error = Error::new(ErrorKind::Refused, code::ROWS_REFUSED, "delete rows")
        .with("table", own)
        .with("also changed", &effect.table)
        .why(why);
    let Some(trigger) = &effect.trigger else {
        return error.with("by", "the action of a foreign key").next("add that table to the set");
    };
    let error = error.with("trigger", trigger).next(format!("DROP TRIGGER {}", quoted(trigger)));
    if is_member { error } else { error.next("or add that table to the set") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLES: &str = "
        PRAGMA foreign_keys = ON;
        CREATE TABLE t (id INTEGER PRIMARY KEY); CREATE TABLE log (id);
        CREATE TABLE c (id INTEGER PRIMARY KEY); CREATE TABLE u (id INTEGER PRIMARY KEY);
        CREATE TABLE g (u REFERENCES u ON DELETE CASCADE);
        CREATE TABLE w (id INTEGER PRIMARY KEY) WITHOUT ROWID;
        INSERT INTO t VALUES (1), (2), (3); INSERT INTO c SELECT id FROM t;
        INSERT INTO u SELECT id FROM t; INSERT INTO g SELECT id FROM t; INSERT INTO w VALUES (1);";

    #[test]
    fn each_row_that_goes_is_told_also_of_a_table_that_is_emptied_at_once() {
        for (then, expected) in [
            ("DELETE FROM C WHERE id = old.id", [2, 2, 0, 0]),
            ("DELETE FROM c", [2, 3, 0, 0]),
            ("DELETE FROM t WHERE id = 3", [3, 0, 0, 0]),
            ("DELETE FROM u WHERE id = old.id; INSERT INTO log VALUES (1)", [2, 0, 2, 2]),
            ("UPDATE c SET id = id; INSERT INTO c SELECT max(id) + 1 FROM c", [2, 0, 0, 0]),
        ] {
            let mut connection = Connection::open_in_memory().unwrap();
            connection.execute_batch(TABLES).unwrap();
            let trigger = format!("CREATE TRIGGER x AFTER DELETE ON t BEGIN {then}; END");
            connection.execute_batch(&trigger).unwrap();
            let told = ["T", "c", "u", "g"].map(|name| (name.to_owned(), Arc::default()));
            // Whoever has the statement already has it made anew.
            let delete = "DELETE FROM t WHERE id < ?1 RETURNING id";
            drop(connection.prepare_cached(delete).unwrap());
            listen(&mut connection, told.to_vec()).unwrap();
            let returned = |connection: &Connection, below: i64| {
                let mut deleted = connection.prepare_cached(delete).unwrap();
                deleted.query_map([below], |_| Ok(())).unwrap().count()
            };
            assert_eq!(returned(&connection, 3), 2, "{then}");
            listen_no_more(&mut connection).unwrap();
            returned(&connection, 9);
            let gone = told.map(|(_, rows): (_, Arc<AtomicU64>)| rows.load(Ordering::Relaxed));
            assert_eq!(gone, expected, "{then}");
        }
    }

    #[test]
    fn rows_are_counted_where_nobody_tells_of_each_that_goes() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(TABLES).unwrap();
        let effect = |deed| {
            let (table, trigger) = ("c".to_owned(), Some("x".to_owned()));
            Effect { deed, table, trigger, replaces: false }
        };
        let deletes = BTreeSet::from([effect(Deed::Delete)]);
        let is_told = |found: &BTreeSet<Effect>, own| is_told(&connection, found, own).unwrap();
        assert!(is_told(&deletes, "c") && is_told(&deletes, "T"));
        assert!(!is_told(&deletes, "w") && !is_told(&deletes, "W"));
        let changes = BTreeSet::from([effect(Deed::Delete), effect(Deed::Update)]);
        assert!(!is_told(&changes, "C") && is_told(&changes, "t"));
    }
}
