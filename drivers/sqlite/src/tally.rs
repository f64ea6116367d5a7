//! How many rows each table has: counted where that is cheap beside the copy, else as `ANALYZE`
//! left it.

use rusqlite::Connection;
use stillpoint_contract::{TALLIES_MAX, Tally};

/// The longest database of which every page is read for its copy, and whose rows are counted.
const WHOLE_BYTES_MAX: u64 = 1 << 30;

/// The longest one of which only changed pages are read.
const CHANGED_BYTES_MAX: u64 = 64 << 20;

/// What a backup records of the state that `connection` sees. Never fails a backup: a table that
/// cannot be counted, such as a damaged one, is left out.
pub(crate) fn recorded(connection: &Connection, length_bytes: u64, is_whole: bool) -> Vec<Tally> {
    let limit = if is_whole { WHOLE_BYTES_MAX } else { CHANGED_BYTES_MAX };
    if length_bytes > limit {
        return estimated(connection).unwrap_or_default();
    }
    each(connection, |_| Ok(())).unwrap_or_default()
}

/// Counts the rows of every table that has any of its own; a table that only the application can
/// read is left out.
///
/// # Errors
///
/// When one is damaged.
pub(crate) fn counted(connection: &Connection) -> rusqlite::Result<Vec<Tally>> {
    each(connection, |error| match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::Unknown) => Ok(()),
        _ => Err(error),
    })
}

fn each(
    connection: &Connection,
    failed: impl Fn(rusqlite::Error) -> rusqlite::Result<()>,
) -> rusqlite::Result<Vec<Tally>> {
    let names = format!(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0 \
         AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name LIMIT {TALLIES_MAX}"
    );
    let mut names = connection.prepare(&names)?;
    let names = names.query_map([], |row| row.get::<_, String>(0))?;
    let mut tallies = Vec::new();
    for table in names {
        let table = table?;
        let count = format!("SELECT count(*) FROM main.\"{}\"", table.replace('"', "\"\""));
        match connection.query_row(&count, [], |row| row.get::<_, i64>(0)) {
            Ok(rows) => tallies.push(Tally { table, rows: rows.cast_unsigned(), exact: true }),
            Err(error) => failed(error)?,
        }
    }
    Ok(tallies)
}

/// The first number of each row is about how many rows its table had.
/// Source: <https://www.sqlite.org/fileformat2.html#the_sqlite_stat1_table>.
fn estimated(connection: &Connection) -> rusqlite::Result<Vec<Tally>> {
    let rows = format!(
        "SELECT tbl, max(CAST(stat AS INTEGER)) FROM sqlite_stat1 GROUP BY tbl \
         ORDER BY tbl LIMIT {TALLIES_MAX}"
    );
    let mut rows = connection.prepare(&rows)?;
    let tally = |row: &rusqlite::Row<'_>| {
        Ok(Tally { table: row.get(0)?, rows: row.get::<_, i64>(1)?.max(0) as u64, exact: false })
    };
    rows.query_map([], tally)?.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(table: &str, rows: u64, exact: bool) -> Tally {
        Tally { table: table.to_owned(), rows, exact }
    }

    #[test]
    fn small_databases_are_counted_and_large_ones_estimated() {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch(
                "CREATE TABLE \"o\"\"dd\" (n); INSERT INTO \"o\"\"dd\" VALUES (1), (2);
                 CREATE TABLE t (n PRIMARY KEY) WITHOUT ROWID; INSERT INTO t VALUES (1);
                 CREATE VIEW v AS SELECT 1; ANALYZE; INSERT INTO t VALUES (2);",
            )
            .unwrap();
        let exact = [tally("o\"dd", 2, true), tally("t", 2, true)];
        assert_eq!(recorded(&connection, CHANGED_BYTES_MAX, false), exact);
        assert_eq!(recorded(&connection, WHOLE_BYTES_MAX, true), exact);
        let estimates = [tally("o\"dd", 2, false), tally("t", 1, false)];
        assert_eq!(recorded(&connection, CHANGED_BYTES_MAX + 1, false), estimates);
        assert_eq!(recorded(&connection, WHOLE_BYTES_MAX + 1, true), estimates);
    }
}
