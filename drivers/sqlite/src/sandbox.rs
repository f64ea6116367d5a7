//! A restored file, opened in our own process: it needs no server, and is kept from other files.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use rusqlite::{
    Batch, Connection, InterruptHandle, OpenFlags, fallible_iterator::FallibleIterator as _,
    limits::Limit, types::ValueRef,
};
use stillpoint_contract::{
    ANSWER_BYTES_MAX, Brought, Clock, Comparison, Endpoint, Error, ErrorKind, Examined, Progress,
    Result, Sandbox, SandboxRequest, Script, ShareRequest, Tally, Verdict, code,
};

use crate::{error, restore::open_to_check, share, snapshot::blocking, tally};

/// How many broken references are named.
const FINDINGS_MAX: i64 = 8;

/// A restored database.
#[derive(Debug)]
struct FileSandbox {
    path: PathBuf,
    directory: PathBuf,
    clock: Arc<dyn Clock>,
    description: String,
}

/// Opens a sandbox, which for SQLite is to find the file.
pub(crate) fn open(
    request: SandboxRequest<'_>,
    clock: &Arc<dyn Clock>,
) -> Result<Box<dyn Sandbox>> {
    let path = request.database.to_owned();
    drop(connect(&path)?);
    let version = rusqlite::version();
    let description = format!("SQLite {version} in this process; other files cannot be attached");
    let (directory, clock) = (request.directory.to_owned(), Arc::clone(clock));
    Ok(Box::new(FileSandbox { path, directory, clock, description }))
}

/// Opens the file without any way from it to another one: no database can be attached, and
/// extensions are not loaded.
///
/// Source: <https://www.sqlite.org/limits.html#max_attached>; `VACUUM INTO` attaches its target.
pub(crate) fn connect(path: &Path) -> Result<Connection> {
    connect_to(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
}

fn connect_to(path: &Path, access: OpenFlags) -> Result<Connection> {
    let open = || {
        let connection =
            Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
        Ok(connection)
    };
    open().map_err(|e| error::sqlite(e, "open the restored database", path))
}

/// Ends what a connection is doing when it is dropped.
struct Interrupting(InterruptHandle);

impl Drop for Interrupting {
    fn drop(&mut self) {
        self.0.interrupt();
    }
}

/// Works with a connection on a thread for such work; dropping the future ends the work.
async fn with<T: Send + 'static>(
    connection: Connection,
    work: impl FnOnce(Connection) -> Result<T> + Send + 'static,
) -> Result<T> {
    let _ending = Interrupting(connection.get_interrupt_handle());
    blocking(move || work(connection)).await
}

#[async_trait]
impl Sandbox for FileSandbox {
    fn description(&self) -> &str {
        &self.description
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint {
            scheme: "sqlite".to_owned(),
            address: self.path.display().to_string(),
            settings: std::collections::BTreeMap::new(),
        }
    }

    async fn greet(&self) -> Result<()> {
        self.query(None, "SELECT count(*) FROM sqlite_schema").await.map(drop)
    }

    async fn query(&self, database: Option<&str>, sql: &str) -> Result<String> {
        if let Some(database) = database {
            return Err(failed(sql).with("database", database).why("a file holds one database"));
        }
        let sql = sql.to_owned();
        let connection = connect_to(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        with(connection, move |connection| {
            answer(&connection, &sql).map_err(|e| failed(&sql).caused_by(e)).and_then(|text| {
                text.ok_or_else(|| {
                    Error::new(ErrorKind::Exhausted, code::SANDBOX_STATEMENT, "read an answer")
                        .with("statement", &sql)
                        .why("it is longer than 64 KiB")
                })
            })
        })
        .await
    }

    async fn check(&self) -> Result<Vec<Examined>> {
        let failed = |e, path: &Path| error::sqlite(e, "check the restored database", path);
        let connection = open_to_check(&self.path).map_err(|e| failed(e, &self.path))?;
        let references = with(connection, |connection| Ok(references(&connection))).await?;
        Ok(vec![references])
    }

    async fn tally(&self) -> Result<Vec<Tally>> {
        let path = self.path.clone();
        with(connect(&self.path)?, move |connection| {
            tally::counted(&connection).map_err(|e| error::sqlite(e, "count rows", &path))
        })
        .await
    }

    async fn bring(&self, request: &ShareRequest<'_>, progress: &dyn Progress) -> Result<Brought> {
        share::bring(&self.path, &self.clock, request, progress).await
    }

    async fn compare(
        &self,
        request: &ShareRequest<'_>,
        progress: &dyn Progress,
        script: &mut Script<'_>,
    ) -> Result<Comparison> {
        let places = (self.path.as_path(), self.directory.as_path());
        share::compare(places, &self.clock, request, progress, script).await
    }

    async fn stop(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

fn failed(sql: &str) -> Error {
    Error::new(ErrorKind::Invalid, code::SANDBOX_STATEMENT, "run a statement on the restored copy")
        .with("statement", sql)
}

/// What the last of the statements answers; `None` for an answer that is too long.
fn answer(connection: &Connection, sql: &str) -> rusqlite::Result<Option<String>> {
    let mut statements = Batch::new(connection, sql);
    let mut text = String::new();
    while let Some(mut statement) = statements.next()? {
        text.clear();
        let columns = statement.column_count();
        let mut rows = statement.query([])?;
        let mut is_first = true;
        while let Some(row) = rows.next()? {
            for column in 0..columns {
                match (column, is_first) {
                    (0, true) => {}
                    (0, false) => text.push('\n'),
                    _ => text.push('|'),
                }
                text.push_str(&shown(connection, row.get_ref(column)?)?);
            }
            is_first = false;
            if text.len() > ANSWER_BYTES_MAX {
                return Ok(None);
            }
        }
    }
    Ok(Some(text))
}

fn shown(connection: &Connection, value: ValueRef<'_>) -> rusqlite::Result<String> {
    Ok(match value {
        ValueRef::Null => String::new(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => {
            // As many digits as its shell prints; the newest ones print 17.
            connection.query_row("SELECT printf('%!.15g', ?1)", [number], |row| row.get(0))?
        }
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
        ValueRef::Blob(bytes) => {
            let mut digits = String::with_capacity(bytes.len() * 2);
            for byte in bytes {
                write!(digits, "{byte:02X}").expect("a String grows");
            }
            digits
        }
    })
}

/// Rows that refer to rows which are missing, table by table: where a reference to what is not
/// unique keeps one from being looked at, the others are.
fn references(connection: &Connection) -> Examined {
    let check = "foreign_key_check".to_owned();
    let tables = || -> rusqlite::Result<Vec<String>> {
        let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name";
        connection.prepare(tables)?.query_map([], |row| row.get(0))?.collect()
    };
    let tables = match tables() {
        Ok(tables) => tables,
        Err(e) => {
            let says = vec![format!("it could not run: {e}")];
            return Examined { check, verdict: Verdict::Skipped, is_damage: false, says };
        }
    };
    let (mut broken, mut says, mut unlooked) = (0, Vec::new(), Vec::new());
    for table in tables {
        match references_of(connection, &table) {
            Ok((count, lines)) => {
                broken += count;
                says.extend(lines);
            }
            Err(e) => unlooked.push(format!("{table}: it could not run: {e}")),
        }
    }
    says.truncate(FINDINGS_MAX as usize);
    let verdict = match (broken, unlooked.is_empty()) {
        (0, true) => Verdict::Passed,
        (0, false) => Verdict::Skipped,
        _ => Verdict::Failed,
    };
    if broken > 0 {
        says.insert(0, format!("{broken} rows refer to missing rows"));
    }
    says.extend(unlooked);
    if says.is_empty() {
        says.push("ok".to_owned());
    }
    // An application may have left them so.
    Examined { check, verdict, is_damage: false, says }
}

fn references_of(connection: &Connection, table: &str) -> rusqlite::Result<(i64, Vec<String>)> {
    let count = "SELECT count(*) FROM pragma_foreign_key_check(?1)";
    let count: i64 = connection.query_row(count, [table], |row| row.get(0))?;
    if count == 0 {
        return Ok((0, Vec::new()));
    }
    let named = "SELECT rowid, parent FROM pragma_foreign_key_check(?1) LIMIT ?2";
    let mut named = connection.prepare(named)?;
    let line = |row: &rusqlite::Row<'_>| {
        let place = row.get::<_, Option<i64>>(0)?;
        let place = place.map_or_else(String::new, |rowid| format!(", row {rowid}"));
        let parent: String = row.get(1)?;
        Ok(format!("{table}{place}: what it refers to in {parent} is missing"))
    };
    let lines = named.query_map(rusqlite::params![table, FINDINGS_MAX], line)?;
    Ok((count, lines.collect::<rusqlite::Result<_>>()?))
}

#[cfg(test)]
mod tests {
    use stillpoint_conformance::memory::RealClock;
    use stillpoint_contract::Sandbox;

    use super::*;

    fn sandbox(directory: &Path, schema: &str) -> Box<dyn Sandbox> {
        let database = directory.join("database");
        Connection::open(&database).unwrap().execute_batch(schema).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(RealClock::new());
        open(SandboxRequest { database: &database, directory, token: "0" }, &clock).unwrap()
    }

    #[tokio::test]
    async fn answers_look_as_the_engines_own_shell_prints_them() {
        let directory = tempfile::tempdir().unwrap();
        let sandbox = sandbox(directory.path(), "CREATE TABLE t (n); INSERT INTO t VALUES (7)");
        for (sql, answer) in [
            ("SELECT count(*) FROM t", "1"),
            ("SELECT 1, NULL, 'x' UNION ALL SELECT 2, 0.5, x'0aff'", "1||x\n2|0.5|0AFF"),
            ("SELECT n FROM t WHERE n = 8", ""),
            ("SELECT 0.1 + 0.2, 1e20, -2.0, 1e-7, 9e999", "0.3|1.0e+20|-2.0|1.0e-07|Inf"),
            ("PRAGMA case_sensitive_like = 1; SELECT count(*) FROM t;", "1"),
        ] {
            assert_eq!(sandbox.query(None, sql).await.unwrap(), answer, "{sql}");
        }
        let error = sandbox.query(None, "SELECT * FROM nothing").await.unwrap_err();
        assert_eq!(error.code(), code::SANDBOX_STATEMENT);
        let long = "SELECT printf('%.*c', 70000, 'x')";
        assert_eq!(sandbox.query(None, long).await.unwrap_err().kind(), ErrorKind::Exhausted);
    }

    #[tokio::test]
    async fn no_statement_writes() {
        for mode in ["WAL", "DELETE"] {
            let directory = tempfile::tempdir().unwrap();
            let schema = "CREATE TABLE t (n UNIQUE); INSERT INTO t VALUES (7)";
            let schema = format!("PRAGMA journal_mode = {mode}; {schema}");
            let sandbox = sandbox(directory.path(), &schema);
            let before = std::fs::read(directory.path().join("database")).unwrap();
            for sql in [
                "DELETE FROM t; SELECT count(*) FROM t",
                "PRAGMA query_only = 0; REINDEX; SELECT 1",
                "COMMIT; BEGIN IMMEDIATE; DELETE FROM t; COMMIT",
                "PRAGMA user_version = 5",
                "VACUUM",
            ] {
                drop(sandbox.query(None, sql).await.unwrap_err());
            }
            assert_eq!(sandbox.query(None, "SELECT n FROM t").await.unwrap(), "7", "{mode}");
            assert_eq!(std::fs::read(directory.path().join("database")).unwrap(), before);
        }
    }

    #[tokio::test]
    async fn no_statement_reaches_another_file() {
        let directory = tempfile::tempdir().unwrap();
        let live = directory.path().join("live");
        Connection::open(&live).unwrap().execute_batch("CREATE TABLE t (n)").unwrap();
        let sandbox = sandbox(directory.path(), "CREATE TABLE t (n)");
        let (live, new) = (live.display(), directory.path().join("new"));
        for sql in [
            format!("ATTACH '{live}' AS live; DELETE FROM live.t"),
            format!("VACUUM INTO '{}'", new.display()),
            format!("SELECT load_extension('{live}')"),
        ] {
            sandbox.query(None, &sql).await.unwrap_err();
        }
        assert!(!new.exists());
    }

    #[tokio::test]
    async fn a_broken_reference_is_found_and_named() {
        let directory = tempfile::tempdir().unwrap();
        let schema = "PRAGMA foreign_keys = 0; CREATE TABLE p (n PRIMARY KEY);
                      CREATE TABLE c (n REFERENCES p);
                      INSERT INTO c VALUES (5)";
        let found = sandbox(directory.path(), schema).check().await.unwrap();
        assert_eq!(found[0].verdict, Verdict::Failed);
        assert!(found[0].says[1].contains("c, row 1") && found[0].says[1].contains("in p"));
    }

    #[tokio::test]
    async fn a_reference_to_what_is_not_unique_hides_no_other() {
        let broken = "PRAGMA foreign_keys = 0; CREATE TABLE up (n);
            CREATE TABLE bad (n REFERENCES up); CREATE TABLE p (n PRIMARY KEY);
            CREATE TABLE \"it's\" (n REFERENCES p); INSERT INTO bad VALUES (1);";
        let directory = tempfile::tempdir().unwrap();
        let found = sandbox(directory.path(), broken).check().await.unwrap();
        assert_eq!(found[0].verdict, Verdict::Skipped);
        assert!(found[0].says[0].starts_with("bad: it could not run"), "{found:?}");
        let directory = tempfile::tempdir().unwrap();
        let broken = format!("{broken} INSERT INTO \"it's\" VALUES (5)");
        let found = sandbox(directory.path(), &broken).check().await.unwrap();
        assert_eq!(found[0].verdict, Verdict::Failed);
        assert!(found[0].says[1].starts_with("it's, row 1: what it refers to in p"), "{found:?}");
    }
}
