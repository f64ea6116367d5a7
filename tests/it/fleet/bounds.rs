//! What jobs never do: no cap is passed, of one kind of one database one job runs, and for one due
//! time one succeeds. After every commit that is asked of the jobs that it changed, whoever changed
//! them how, and now and then of all of them.

use std::collections::BTreeMap;

use rusqlite::{Connection, Row};

/// What a commit changed, as the database itself notes it.
const NOTES: &str = "
    CREATE TEMP TABLE changed (name, kind, due, repository, host, more);
    CREATE TEMP TRIGGER job_came AFTER INSERT ON main.job WHEN NEW.state <> 'waiting' BEGIN
        INSERT INTO changed VALUES
            (NEW.name, NEW.kind, NEW.due, NEW.repository, NEW.host, NEW.state = 'running');
    END;
    CREATE TEMP TRIGGER job_went_on AFTER UPDATE OF state, outcome ON main.job BEGIN
        INSERT INTO changed VALUES (NEW.name, NEW.kind, NEW.due, NEW.repository, NEW.host,
            (NEW.state = 'running') - (OLD.state = 'running'));
    END;
    CREATE TEMP TRIGGER job_went AFTER DELETE ON main.job WHEN OLD.state = 'running' BEGIN
        INSERT INTO changed VALUES (OLD.name, OLD.kind, OLD.due, OLD.repository, OLD.host, -1);
    END;";

/// What a cap counts: a scope, and a name in it.
type Counted = (&'static str, String);

/// What was found about jobs so far.
#[derive(Debug, Default)]
pub(super) struct Bounds {
    /// Whether changes are noted.
    is_noted: bool,
    running: BTreeMap<Counted, i64>,
    caps: BTreeMap<Counted, i64>,
}

/// A job that was changed.
struct Changed {
    name: String,
    kind: String,
    due: i64,
    repository: String,
    host: String,
    /// How many more run.
    more: i64,
}

impl Changed {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            name: row.get(0)?,
            kind: row.get(1)?,
            due: row.get(2)?,
            repository: row.get(3)?,
            host: row.get(4)?,
            more: row.get(5)?,
        })
    }
}

impl Bounds {
    /// Has changes noted, once there are jobs.
    pub(super) fn note(&mut self, connection: &Connection) {
        let is_there = "SELECT 1 FROM main.sqlite_schema WHERE name = 'job'";
        if !self.is_noted && connection.prepare(is_there).unwrap().exists([]).unwrap() {
            connection.execute_batch(NOTES).unwrap();
            self.is_noted = true;
        }
    }

    /// What is wrong with what was changed since the last look.
    pub(super) fn changed(&mut self, connection: &Connection) -> Option<String> {
        if !self.is_noted {
            return None;
        }
        let changed: Vec<Changed> = {
            let mut select = connection.prepare_cached("SELECT * FROM temp.changed").unwrap();
            let rows = select.query_map([], Changed::read).unwrap();
            rows.collect::<rusqlite::Result<_>>().unwrap()
        };
        if changed.is_empty() {
            return None;
        }
        connection.prepare_cached("DELETE FROM temp.changed").unwrap().execute([]).unwrap();
        for one in changed.iter().filter(|one| one.more != 0) {
            for counted in counted(&one.repository, &one.host) {
                *self.running.entry(counted).or_default() += one.more;
            }
        }
        changed.iter().find_map(|one| self.wrong(connection, one))
    }

    fn wrong(&self, connection: &Connection, one: &Changed) -> Option<String> {
        let Changed { name, kind, due, .. } = one;
        let count = |sql: &str, values: &[&dyn rusqlite::ToSql]| -> i64 {
            let mut statement = connection.prepare_cached(sql).unwrap();
            statement.query_row(values, |row| row.get(0)).unwrap()
        };
        if one.more <= 0 {
            let again = "SELECT count(*) FROM job
                 WHERE name = $1 AND kind = $2 AND due = $3 AND outcome = 'succeeded'";
            let is_again = count(again, &[name, kind, due]) > 1;
            return is_again.then(|| format!("{name} {kind} {due} succeeded twice"));
        }
        let twice = "SELECT count(*) FROM job
             WHERE state = 'running' AND name = $1 AND kind = $2";
        if count(twice, &[name, kind]) > 1 {
            return Some(format!("{name} {kind} runs twice"));
        }
        counted(&one.repository, &one.host).iter().find_map(|counted| self.passed(counted))
    }

    /// Whether more run than may.
    fn passed(&self, counted: &Counted) -> Option<String> {
        let (running, cap) = (self.running.get(counted)?, self.caps.get(counted)?);
        (cap < running).then(|| format!("{} {} passed its cap", counted.0, counted.1))
    }

    /// What is wrong with anything. What is known of it is counted anew; it was as counted before,
    /// unless the database forgot something.
    pub(super) fn all(&mut self, connection: &Connection, has_forgotten: bool) -> Option<String> {
        if !self.is_noted {
            return None;
        }
        let before = std::mem::take(&mut self.running);
        let mut burden = connection
            .prepare_cached(
                "SELECT repository, host, count(*) FROM job WHERE state = 'running'
                 GROUP BY repository, host",
            )
            .unwrap();
        let mut rows = burden.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let (repository, host): (String, String) = (row.get(0).unwrap(), row.get(1).unwrap());
            for counted in counted(&repository, &host) {
                *self.running.entry(counted).or_default() += row.get::<_, i64>(2).unwrap();
            }
        }
        self.caps = caps(connection);
        if has_forgotten {
            connection.execute("DELETE FROM temp.changed", []).unwrap();
        } else if before.iter().filter(|(_, count)| **count != 0).ne(&self.running) {
            return Some(format!("{before:?} was counted, and there is {:?}", self.running));
        }
        let ask = |sql: &str| -> Option<String> {
            let mut statement = connection.prepare_cached(sql).unwrap();
            let mut rows = statement.query([]).unwrap();
            rows.next().unwrap().map(|row| row.get(0).unwrap())
        };
        let twice = "SELECT name || ' ' || kind || ' runs twice' FROM job WHERE state = 'running'
             GROUP BY name, kind HAVING count(*) > 1";
        let again = "SELECT name || ' ' || kind || ' ' || due || ' succeeded twice' FROM job
             WHERE outcome = 'succeeded' GROUP BY name, kind, due HAVING count(*) > 1";
        let passed = || self.running.keys().find_map(|counted| self.passed(counted));
        ask(twice).or_else(passed).or_else(|| ask(again))
    }
}

fn counted(repository: &str, host: &str) -> [Counted; 3] {
    [("all", ""), ("repository", repository), ("host", host)]
        .map(|(scope, name)| (scope, name.to_owned()))
}

fn caps(connection: &Connection) -> BTreeMap<Counted, i64> {
    let mut select = connection.prepare_cached("SELECT scope, name, most FROM cap").unwrap();
    let read = |row: &Row<'_>| {
        let scope: String = row.get(0)?;
        let scope = ["all", "repository", "host"].into_iter().find(|known| *known == scope);
        Ok(((scope.unwrap(), row.get(1)?), row.get(2)?))
    };
    select.query_map([], read).unwrap().collect::<rusqlite::Result<_>>().unwrap()
}

/// A queue of a few jobs, as far as bounds look at it, and two of them that run.
fn queue() -> (Connection, Bounds) {
    let connection = Connection::open_in_memory().unwrap();
    let tables = "
        CREATE TABLE job (name TEXT, kind TEXT, due INTEGER, repository TEXT, host TEXT,
            state TEXT, outcome TEXT);
        CREATE TABLE cap (scope TEXT, name TEXT, most INTEGER);
        INSERT INTO cap VALUES ('all', '', 3), ('repository', 'r', 2), ('host', 'h', 1);";
    connection.execute_batch(tables).unwrap();
    let mut bounds = Bounds::default();
    bounds.note(&connection);
    let jobs = "
        INSERT INTO job VALUES
            ('a', 'full', 1, 'r', 'h', 'waiting', NULL),
            ('a', 'full', 2, 's', 'i', 'waiting', NULL),
            ('b', 'full', 1, 'r', 'h', 'waiting', NULL),
            ('c', 'full', 1, 'r', 'j', 'waiting', NULL),
            ('d', 'full', 1, 's', 'k', 'waiting', NULL),
            ('e', 'full', 1, 's', 'l', 'waiting', NULL);
        UPDATE job SET state = 'running' WHERE name = 'a' AND due = 1 OR name = 'c';";
    connection.execute_batch(jobs).unwrap();
    assert_eq!(bounds.all(&connection, true), None);
    (connection, bounds)
}

#[test]
fn whatever_jobs_may_not_do_is_noticed_at_once() {
    let found = |changes: &[&str]| {
        let (connection, mut bounds) = queue();
        let at_once = changes.iter().find_map(|sql| {
            connection.execute_batch(sql).unwrap();
            bounds.changed(&connection)
        });
        // A look at everything finds the same.
        assert_eq!(at_once.is_some(), bounds.all(&connection, false).is_some(), "{changes:?}");
        at_once
    };
    let run = |of: &str| format!("UPDATE job SET state = 'running' WHERE {of}");
    let end =
        |of: &str| format!("UPDATE job SET state = 'ended', outcome = 'succeeded' WHERE {of}");
    assert_eq!(found(&[&run("name = 'd'")]), None);
    assert_eq!(found(&[&run("name = 'a' AND due = 2")]).unwrap(), "a full runs twice");
    assert_eq!(found(&[&run("name = 'd'"), &run("name = 'e'")]).unwrap(), "all  passed its cap");
    let of_host = found(&[&end("name = 'c'"), &run("name = 'b'")]);
    assert_eq!(of_host.unwrap(), "host h passed its cap");
    let of_repository = "UPDATE job SET host = 'm' WHERE name = 'b'";
    let of_repository = found(&[of_repository, &run("name = 'b'")]);
    assert_eq!(of_repository.unwrap(), "repository r passed its cap");
    let again = "INSERT INTO job VALUES ('a', 'full', 1, 'r', 'h', 'ended', 'succeeded')";
    assert_eq!(found(&[&end("name = 'a' AND due = 1")]), None);
    assert_eq!(
        found(&[&end("name = 'a' AND due = 1"), again]).unwrap(),
        "a full 1 succeeded twice"
    );
    let gone = "DELETE FROM job WHERE name = 'a' AND due = 1";
    assert_eq!(found(&[gone, &run("name = 'b'")]), None);
}

#[test]
fn a_change_that_nobody_looked_at_is_noticed_by_a_look_at_everything() {
    let (connection, mut bounds) = queue();
    connection.execute_batch("UPDATE job SET state = 'ended' WHERE name = 'c'").unwrap();
    let wrong = bounds.all(&connection, false).unwrap();
    assert!(wrong.contains("was counted"), "{wrong}");
}
