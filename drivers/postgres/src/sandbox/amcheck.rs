//! PostgreSQL's own check of tables and indexes: `pg_amcheck`, or the extension that it uses.

use std::process::Stdio;

use stillpoint_contract::{Error, ErrorKind, Examined, Result, Verdict, code};
use tokio_postgres::error::SqlState;

use super::{open::ServerSandbox, settings};
use crate::{connect::Sql, error};

/// How many lines of a finding are kept.
const LINES_MAX: usize = 50;

/// Makes the extension's functions known by their names.
const PATH: &str = "
    SELECT set_config('search_path', n.nspname || ', pg_catalog', false)
    FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
    WHERE e.extname = 'amcheck'";

/// Every index that the server checks; `true` also looks for rows that are missing in it.
const INDEXES: &str = "
    SELECT c.oid::regclass::text
    FROM pg_catalog.pg_index i
        JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
        JOIN pg_catalog.pg_am a ON a.oid = c.relam
    WHERE a.amname = 'btree' AND c.relpersistence <> 't' AND c.relkind = 'i'
        AND i.indisvalid AND i.indisready
    ORDER BY c.oid";

const INDEX: &str = "SELECT bt_index_check($1::text::regclass, true)";

const TABLES: &str = "
    SELECT c.oid::regclass::text FROM pg_catalog.pg_class c
    WHERE c.relkind IN ('r', 'm', 't') AND c.relpersistence = 'p' ORDER BY c.oid";

const TABLE: &str = "
    SELECT blkno::text || ', ' || coalesce(offnum::text, '-') || ': ' || msg
    FROM verify_heapam($1::text::regclass) LIMIT 10";

/// Runs the program where it is installed beside the server, else the functions of the extension.
pub(super) async fn run(sandbox: &ServerSandbox) -> Result<Examined> {
    let program = sandbox.server.program.canonicalize();
    let has_program = program.is_ok_and(|program| program.with_file_name("pg_amcheck").is_file());
    let known = sandbox.server.extensions();
    if known.is_some_and(|known| !known.contains("amcheck")) {
        return Ok(Examined {
            check: "amcheck".to_owned(),
            verdict: Verdict::Skipped,
            is_damage: false,
            says: vec!["the extension amcheck is not installed here".to_owned()],
        });
    }
    if has_program { by_program(sandbox).await } else { by_extension(sandbox).await }
}

/// What came of a check that finds no damage, with as many lines as are kept.
pub(super) fn examined(check: &str, is_sound: bool, mut says: Vec<String>) -> Examined {
    let more = says.len().saturating_sub(LINES_MAX);
    says.truncate(LINES_MAX);
    if more > 0 {
        says.push(format!("and {more} lines more"));
    }
    let verdict = if is_sound { Verdict::Passed } else { Verdict::Failed };
    Examined { check: check.to_owned(), verdict, is_damage: false, says }
}

async fn by_program(sandbox: &ServerSandbox) -> Result<Examined> {
    let mut command = sandbox.server.beside("pg_amcheck", sandbox.server.owner);
    command.args(["--all", "--install-missing", "--heapallindexed", "--no-password"]);
    command.arg("--host").arg(&sandbox.directory);
    command.args(["--port", &settings::PORT.to_string(), "--username", &sandbox.role]);
    command.current_dir("/").env_clear().env("LC_ALL", "C").kill_on_drop(true);
    let options = sandbox.cluster.config.options.as_deref().unwrap_or_default();
    command.env("PGOPTIONS", format!("{options} -c client_min_messages=warning"));
    command.stdin(Stdio::null());
    let output = command.output().await.map_err(|cause| {
        Error::new(ErrorKind::Config, code::FILE, "run pg_amcheck").caused_by(cause)
    })?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let mut says: Vec<String> = text.lines().map(str::to_owned).collect();
    // Whatever keeps it from looking ends it as damage does, and an index is in another order where
    // collations are those of another system: of a table's blocks it says which, and of what.
    let is_damage =
        says.iter().any(|line| line.starts_with("heap table ") && line.contains(", block "));
    if output.status.success() {
        let all = format!("every table and index of {} databases: ok", sandbox.databases.len());
        says.insert(0, all);
    }
    let examined = examined("pg_amcheck", output.status.success(), says);
    Ok(Examined { is_damage, ..examined })
}

async fn by_extension(sandbox: &ServerSandbox) -> Result<Examined> {
    let (mut found, mut indexes, mut tables) = (Vec::new(), 0, 0);
    let mut is_damage = false;
    for database in &sandbox.databases {
        let sql = sandbox.cluster.in_database(database).sql().await?;
        let create = "CREATE EXTENSION IF NOT EXISTS amcheck";
        let made = sql.client.batch_execute(create).await;
        made.map_err(|e| error::sql(e, "install the extension amcheck"))?;
        names(&sql, PATH).await?;
        for index in names(&sql, INDEXES).await? {
            indexes += 1;
            if let Err(e) = sql.client.query(INDEX, &[&index]).await {
                found.push(format!("{database}: {index}: {}", told(&e)));
            }
        }
        if sandbox.server.version().starts_with("13") {
            continue;
        }
        for table in names(&sql, TABLES).await? {
            tables += 1;
            match sql.client.query(TABLE, &[&table]).await {
                Ok(rows) => {
                    is_damage |= !rows.is_empty();
                    found.extend(rows.iter().filter_map(|row| {
                        let block = row.try_get::<_, String>(0).ok()?;
                        Some(format!("{database}: {table}: block {block}"))
                    }));
                }
                Err(e) => {
                    is_damage |= is_corruption(&e);
                    found.push(format!("{database}: {table}: {}", told(&e)));
                }
            }
        }
    }
    let is_sound = found.is_empty();
    if is_sound {
        found.push(format!("{indexes} indexes and {tables} tables: ok"));
    }
    Ok(Examined { is_damage, ..examined("amcheck", is_sound, found) })
}

/// Whether the server says that what it reads is damaged, and not that it cannot look.
fn is_corruption(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| *code == SqlState::DATA_CORRUPTED)
}

/// What the server said, without our words.
fn told(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |said| said.message().to_owned())
}

async fn names(sql: &Sql, query: &str) -> Result<Vec<String>> {
    let failed = |e| error::sql(e, "list what is to be checked");
    let rows = sql.client.query(query, &[]).await.map_err(failed)?;
    rows.iter().map(|row| row.try_get(0).map_err(failed)).collect()
}
