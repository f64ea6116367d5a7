//! Rows that were put back, where triggers may have made others of them: they are kept beside their
//! table until the end of the transaction, and compared with it then.

use rusqlite::CachedStatement;
use stillpoint_contract::{Error, ErrorKind, Followed, Result, Table, code};

use super::{
    put_back::column,
    schema::{Term, own_name, quoted, triggers},
    select::{Dynamic, prepare, terms},
    worker::Desk,
};

const STEP: &str = "compare rows that were put back";

/// The rows of a transaction that have to be in their tables at its end.
#[derive(Debug, Default)]
pub(super) struct Watch(Vec<Kept>);

/// A temporary table with rows of another one. A key is in one of them, in that of the row that was
/// put last; without one, each row is as often as it was put.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    name: String,
    table: String,
    /// The columns that are given, and their places in a row.
    names: Vec<String>,
    given: Vec<usize>,
    key: Vec<Term>,
    /// Others of the same table, which have other columns.
    others: Vec<String>,
}

/// Whether the database has a trigger: one of a table also changes rows of others. Without any,
/// nothing makes other rows of those that are put back.
pub(super) fn has_triggers(desk: &Desk) -> Result<bool> {
    let query = "SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE type = 'trigger')";
    desk.sql(desk.connection().query_row(query, [], |row| row.get(0)), STEP)
}

impl Watch {
    /// Makes a table that keeps rows of another one, unless there is one already.
    pub(super) fn keep(
        &mut self,
        desk: &Desk,
        table: &Table,
        now: &Table,
        given: &[usize],
    ) -> Result<Kept> {
        let given_now = given
            .iter()
            .filter_map(|at| now.columns.iter().find(|one| one.name == table.columns[*at].name));
        let names: Vec<_> = given_now.clone().map(|one| one.name.clone()).collect();
        let is_same = |kept: &&Kept| kept.table == now.name;
        let known = self.0.iter().filter(is_same).find(|kept| kept.names == names).cloned();
        let others = self.0.iter().filter(is_same);
        let others = others.filter(|kept| kept.names != names && !kept.key.is_empty());
        let others = others.map(|kept| kept.name.clone()).collect();
        if let Some(known) = known {
            return Ok(Kept { given: given.to_vec(), others, ..known });
        }
        let is_given = |at: &usize| names.contains(&now.columns[*at].name);
        let has_key = !now.key.is_empty() && now.key.iter().all(is_given);
        let key = if has_key { terms(desk, now)? } else { Vec::new() };
        let name = format!("temp.stillpoint_kept_{}", self.0.len());
        // Values become in it what they become in the columns of the table.
        let mut parts: Vec<_> = given_now.map(column).collect();
        let unique: Vec<_> = key.iter().map(Term::sql).collect();
        if has_key {
            parts.push(format!("UNIQUE ({})", unique.join(", ")));
        }
        let make = format!("CREATE TABLE {name} ({})", parts.join(", "));
        desk.sql(desk.connection().execute_batch(&make), STEP)?;
        let table = now.name.clone();
        let kept = Kept { name, table, names, given: given.to_vec(), key, others };
        self.0.push(kept.clone());
        Ok(kept)
    }

    /// What says whether rows of a table refer to rows that were put back.
    pub(super) fn follows(
        &self,
        desk: &Desk,
        table: &Table,
        followed: &Followed,
    ) -> Result<Follows> {
        let place = |name: &String| table.columns.iter().position(|column| column.name == *name);
        let places: Option<Vec<usize>> = followed.columns.iter().map(place).collect();
        let places = places.ok_or_else(|| Error::bug(STEP).with("table", &table.name))?;
        // As the reference compares them: by the collation of the column that it refers to.
        let referred = (1..).zip(&followed.parent_columns);
        let referred = referred.map(|(mark, name)| format!("there.{} = ?{mark}", quoted(name)));
        let referred: Vec<_> = referred.collect();
        let mut were_put = Vec::new();
        for kept in self.0.iter().filter(|kept| kept.table == followed.parent) {
            let own = quoted(&own_name(&kept.table)?);
            let same = kept
                .key
                .iter()
                .map(|term| format!("there.{} = put.{}", term.sql(), quoted(&term.name)));
            let same: Vec<_> = same.collect();
            were_put.push(format!(
                "EXISTS (SELECT 1 FROM main.{own} AS there JOIN {} AS put ON {} WHERE {})",
                kept.name,
                same.join(" AND "),
                referred.join(" AND ")
            ));
        }
        if were_put.is_empty() {
            return Ok(Follows { query: "SELECT 0".to_owned(), places: Vec::new() });
        }
        let query = format!("SELECT {}", were_put.join(" OR "));
        // A mistake in it is told before there are rows.
        prepare(desk, desk.connection(), &query)?;
        Ok(Follows { query, places })
    }

    /// Compares what was kept with what is there, value by value, and keeps it no longer.
    pub(super) fn compare(&self, desk: &Desk) -> Result<()> {
        for kept in &self.0 {
            let own = quoted(&own_name(&kept.table)?);
            let key = kept
                .key
                .iter()
                .map(|term| format!("there.{} = put.{}", term.sql(), quoted(&term.name)));
            // As bytes of the same type, whatever collation a column has, and 1 is not 1.0.
            let same = kept.names.iter().map(|name| {
                let name = quoted(name);
                format!(
                    "there.{name} COLLATE BINARY IS put.{name} \
                     AND typeof(there.{name}) = typeof(put.{name})"
                )
            });
            let same: Vec<_> = key.chain(same).collect();
            let query = if kept.key.is_empty() {
                kept.lacking(&own)
            } else {
                format!(
                    "SELECT count(*) FROM {} AS put WHERE NOT EXISTS (SELECT 1 \
                     FROM main.{own} AS there WHERE {})",
                    kept.name,
                    same.join(" AND ")
                )
            };
            let rows = desk.connection().query_row(&query, [], |row| row.get::<_, i64>(0));
            let rows = desk.sql(rows, STEP)?;
            if rows != 0 {
                let error = Error::new(ErrorKind::Refused, code::ROWS_DIFFER, STEP)
                    .with("table", &kept.table)
                    .with("rows that differ", rows)
                    .why("a trigger changes them, or keeps them out of their table");
                let tables = self.0.iter().map(|one| one.table.as_str());
                return Err(with_triggers(desk, error, tables)?);
            }
        }
        for kept in &self.0 {
            let drop = format!("DROP TABLE {}", kept.name);
            desk.sql(desk.connection().execute_batch(&drop), STEP)?;
        }
        Ok(())
    }
}

/// Names the triggers of tables, and what to do about them.
pub(super) fn with_triggers<'a>(
    desk: &Desk,
    error: Error,
    tables: impl IntoIterator<Item = &'a str>,
) -> Result<Error> {
    let mut error = error.next("--staging NAME puts all of them into a table of their own");
    let mut named = Vec::new();
    for table in tables {
        if named.contains(&table) {
            continue;
        }
        named.push(table);
        let found = desk.sql(triggers(desk.connection(), &own_name(table)?), STEP)?;
        for (trigger, _) in found {
            let trigger = quoted(&trigger);
            error = error
                .with("trigger", format!("{trigger} ON {table}"))
                .next(format!("DROP TRIGGER {trigger}; and make it again afterwards"));
        }
    }
    Ok(error)
}

impl Kept {
    /// What counts the rows that are in a table less often than they were put.
    fn lacking(&self, own: &str) -> String {
        let image = |name: &String| {
            let name = quoted(name);
            format!("CASE typeof({name}) WHEN 'text' THEN hex({name}) ELSE quote({name}) END")
        };
        let class = |name: &String| format!("substr(typeof({}), 1, 1)", quoted(name));
        let images = self.names.iter().map(|name| format!("{} || {}", class(name), image(name)));
        let images: Vec<_> = images.collect();
        // A statement has no operators in more than a thousand others.
        let images: Vec<_> = images.chunks(50).map(|some| some.join(" || ',' || ")).collect();
        let image = format!("({})", images.join(") || ',' || ("));
        let name = &self.name;
        format!(
            "SELECT coalesce(sum(max(put.n - coalesce(there.n, 0), 0)), 0) FROM \
             (SELECT {image} AS image, count(*) AS n FROM {name} GROUP BY 1) AS put LEFT JOIN \
             (SELECT {image} AS image, count(*) AS n FROM main.{own} \
              WHERE {image} IN (SELECT {image} FROM {name}) GROUP BY 1) AS there \
             ON there.image = put.image"
        )
    }

    /// What keeps rows.
    pub(super) fn prepare<'a>(&self, desk: &'a Desk) -> Result<Keeper<'a>> {
        let connection = desk.connection();
        let marks =
            |count: usize| (1..=count).map(|n| format!("?{n}")).collect::<Vec<_>>().join(", ");
        let (name, values) = (&self.name, marks(self.names.len()));
        let insert = format!("INSERT OR REPLACE INTO {name} VALUES ({values})");
        let mut statements = vec![(prepare(desk, connection, &insert)?, self.given.clone())];
        let place = |term: &Term| self.names.iter().position(|name| *name == term.name);
        let key = self.key.iter().filter_map(place).map(|at| self.given[at]);
        let key: Vec<usize> = key.collect();
        let terms = self.key.iter().map(Term::sql).collect::<Vec<_>>().join(", ");
        // Without a key, no row takes the place of another one.
        for other in self.others.iter().filter(|_| !key.is_empty()) {
            let marks = marks(key.len());
            let delete = format!("DELETE FROM {other} WHERE ({terms}) = ({marks})");
            statements.push((prepare(desk, connection, &delete)?, key.clone()));
        }
        Ok(Keeper(statements))
    }
}

/// What says whether a row refers to one that was put back: a query, and the places in a row of
/// what it is given.
#[derive(Clone, Debug)]
pub(super) struct Follows {
    query: String,
    places: Vec<usize>,
}

impl Follows {
    /// What asks that.
    pub(super) fn prepare<'a>(&self, desk: &'a Desk) -> Result<Follower<'a>> {
        Ok(Follower(prepare(desk, desk.connection(), &self.query)?, self.places.clone()))
    }
}

/// Asks of rows whether they refer to one that was put back.
pub(super) struct Follower<'a>(CachedStatement<'a>, Vec<usize>);

impl Follower<'_> {
    /// Whether a row does.
    pub(super) fn has(&mut self, desk: &Desk, row: &[Dynamic<'_>]) -> Result<bool> {
        let Self(statement, places) = self;
        for (mark, at) in (1..).zip(&*places) {
            desk.sql(statement.raw_bind_parameter(mark, row[*at]), STEP)?;
        }
        let mut found = statement.raw_query();
        let found = desk.sql(found.next(), STEP)?;
        let found = desk.sql(found.map(|found| found.get(0)).transpose(), STEP)?;
        Ok(found.unwrap_or(false))
    }
}

/// Keeps rows: statements, and the places in a row of what they are given.
pub(super) struct Keeper<'a>(Vec<(CachedStatement<'a>, Vec<usize>)>);

impl Keeper<'_> {
    /// Keeps a row.
    pub(super) fn row(&mut self, desk: &Desk, row: &[Dynamic<'_>]) -> Result<()> {
        for (statement, places) in &mut self.0 {
            for (mark, at) in (1..).zip(&*places) {
                desk.sql(statement.raw_bind_parameter(mark, row[*at]), STEP)?;
            }
            desk.sql(statement.raw_execute(), STEP)?;
        }
        Ok(())
    }
}
