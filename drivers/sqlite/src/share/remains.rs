//! Passing names, and what killed commands left under them.

use std::{fs, thread, time::Duration};

use rusqlite::{Connection, ErrorCode};

use super::definition::quoted;

/// How the name of a table begins that is not complete yet.
const PREFIX: &str = "stillpoint_partial_";

/// How many rows are removed in one transaction.
const ROWS_MAX: u32 = 1000;

/// What is left to others between two of those.
const PAUSE: Duration = Duration::from_millis(5);

/// How often the lock is waited for in a row, each time as long as the settings say.
const WAITS_MAX: u32 = 12;

/// A name that tells who works at the table: a process, and when it began.
pub(super) fn passing(number: usize) -> String {
    let process = std::process::id();
    format!("{PREFIX}{process}_{}_{number}", began(process).unwrap_or_default())
}

/// What may have such a name when work was given up, for people.
pub(crate) fn remains() -> String {
    format!("tables {PREFIX}{}_…", std::process::id())
}

/// Whether a name is one of ours.
pub(super) fn is_passing(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// When a process began, in ticks since the machine did; `None` when it has ended.
/// Source: proc_pid_stat(5), field 22.
fn began(process: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let fields = stat.rsplit_once(") ")?.1;
    fields.split(' ').nth(19)?.parse().ok()
}

fn is_abandoned(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    let mut fields = rest.split('_').map(str::parse::<u64>);
    let (Some(Ok(process)), Some(Ok(start)), Some(Ok(_)), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return false;
    };
    u32::try_from(process).is_ok_and(|process| began(process) != Some(start))
}

/// Removes what killed commands left, and says what that was.
pub(super) fn sweep(live: &Connection) -> rusqlite::Result<Vec<String>> {
    let names = {
        let query = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name";
        let mut query = live.prepare(query)?;
        let names = query.query_map([], |row| row.get::<_, String>(0))?;
        names.collect::<rusqlite::Result<Vec<_>>>()?
    };
    let mut removed = Vec::new();
    for name in names.into_iter().filter(|name| is_abandoned(name)) {
        remove(live, &name)?;
        removed.push(format!("removed table {name}, which an earlier command left behind"));
    }
    Ok(removed)
}

/// Removes a table row by row, so that nobody waits for long.
pub(super) fn remove(live: &Connection, name: &str) -> rusqlite::Result<()> {
    let exists = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1)";
    if !live.query_row(exists, [name], |row| row.get::<_, bool>(0))? {
        return Ok(());
    }
    let name = quoted(name);
    let some =
        format!("DELETE FROM {name} WHERE rowid IN (SELECT rowid FROM {name} LIMIT {ROWS_MAX})");
    let mut waits = 0;
    loop {
        match live.execute(&some, []) {
            Ok(0) => break,
            Ok(_) => waits = 0,
            Err(e) if e.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                waits += 1;
                if waits == WAITS_MAX {
                    return Err(e);
                }
            }
            // One without row ids goes at once.
            Err(_) => break,
        }
        thread::sleep(PAUSE);
    }
    live.execute(&format!("DROP TABLE {name}"), []).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tables_whose_process_has_ended_are_removed() {
        let live = Connection::open_in_memory().unwrap();
        let (own, gone) = (passing(0), format!("{PREFIX}4000000000_1_0"));
        for name in [own.as_str(), gone.as_str(), "stillpoint_partial_x", "t"] {
            live.execute_batch(&format!("CREATE TABLE {name} (n); INSERT INTO {name} VALUES (1)"))
                .unwrap();
        }
        let removed = sweep(&live).unwrap();
        assert!(removed.len() == 1 && removed[0].contains(&gone), "{removed:?}");
        let left: u32 =
            live.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
        assert_eq!(left, 3);
    }
}
