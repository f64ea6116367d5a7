//! Which tables of a restored file are meant.

use std::{collections::BTreeSet, path::Path};

use rusqlite::Connection;
use stillpoint_contract::{Error, ErrorKind, Result, TablePattern, code, some_of};

use super::remains::is_passing;
use crate::error;

const STEP: &str = "find the tables";

/// A table or what looks like one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) name: String,
    pub(super) has_row_ids: bool,
    kind: String,
}

impl Found {
    fn obstacle(&self) -> Option<&'static str> {
        match self.kind.as_str() {
            "table" => None,
            "view" => Some("it is a view, which has no rows of its own; restore its tables"),
            "virtual" => Some("it is a virtual table, whose rows its module keeps"),
            _ => Some("it belongs to a virtual table"),
        }
    }
}

/// The tables that fit, in the order of their names; with what a person should know.
pub(super) fn choose(
    connection: &Connection,
    path: &Path,
    patterns: &[TablePattern],
) -> Result<(Vec<Found>, Vec<String>)> {
    let all = list(connection).map_err(|e| error::sqlite(e, STEP, path))?;
    let (mut chosen, mut notes) = (BTreeSet::new(), Vec::new());
    for pattern in patterns {
        let (good, bad): (Vec<_>, Vec<_>) = all
            .iter()
            .filter(|found| is_meant(pattern, &found.name))
            .partition(|found| found.obstacle().is_none());
        if good.is_empty() {
            return Err(match bad.first() {
                Some(found) => Error::new(ErrorKind::Unsupported, code::NO_TABLE, STEP)
                    .with("asked", pattern)
                    .with("found", &found.name)
                    .why(found.obstacle().unwrap_or_default())
                    .next("name a table, or restore the whole database: restore DB --to PATH"),
                None => none_fits(pattern, &all),
            });
        }
        let told = bad.iter().filter(|found| found.kind != "shadow");
        notes.extend(told.map(|found| {
            format!("{} is left out: {}", found.name, found.obstacle().unwrap_or_default())
        }));
        chosen.extend(good.iter().map(|found| found.name.clone()));
    }
    Ok((all.into_iter().filter(|found| chosen.contains(&found.name)).collect(), notes))
}

/// Whether a pattern fits a table. A name may have a dot, and SQLite's names have no case.
pub(super) fn is_meant(pattern: &TablePattern, name: &str) -> bool {
    name.eq_ignore_ascii_case(&pattern.to_string())
        || pattern.fits(&["main", name])
        || pattern.fits(&["main", &name.to_ascii_lowercase()])
}

fn list(connection: &Connection) -> rusqlite::Result<Vec<Found>> {
    let query = "SELECT name, type, wr FROM pragma_table_list
        WHERE schema = 'main' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name";
    let mut query = connection.prepare(query)?;
    let found = query.query_map([], |row| {
        Ok(Found { name: row.get(0)?, kind: row.get(1)?, has_row_ids: !row.get::<_, bool>(2)? })
    })?;
    let found = found.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(found.into_iter().filter(|found| !is_passing(&found.name)).collect())
}

fn none_fits(pattern: &TablePattern, all: &[Found]) -> Error {
    let wanted = pattern.names().last().copied().unwrap_or_default().to_lowercase();
    let names = || all.iter().filter(|found| found.obstacle().is_none()).map(|found| &found.name);
    let is_like = |name: &&String| {
        let name = name.to_lowercase();
        name.contains(&wanted) || wanted.contains(&name)
    };
    let mut others: Vec<_> = names().filter(is_like).cloned().collect();
    if others.is_empty() {
        others = names().cloned().collect();
    }
    Error::new(ErrorKind::Missing, code::NO_SUCH_TABLE, STEP)
        .with("asked", pattern)
        .with("there are", some_of(&others))
        .why("no table of this name was there at the chosen point")
        .next("name one that was, or choose another point: --at POINT")
}
