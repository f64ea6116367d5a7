//! Opening a sandbox, and what can be done in one.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt as _, lchown},
    path::{Path, PathBuf},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::TryStreamExt as _;
use stillpoint_contract::{
    ANSWER_BYTES_MAX, Brought, Clock, Comparison, Endpoint, Error, ErrorKind, Examined, Progress,
    Result, Sandbox, SandboxRequest, Script, ShareRequest, Tally, code,
};
use tokio_postgres::SimpleQueryMessage;

use super::{amcheck, pages, process::Process, references, settings};
use crate::{
    config::Config,
    connect::{Cluster, Sql},
    error,
    recover::{Server, blocking, give_to},
    share, tally,
};

/// How long a server may take until it accepts connections: ten minutes.
const LOOKS_MAX: u32 = 12_000;
const PAUSE: Duration = Duration::from_millis(50);

/// The database that every cluster has.
const ALWAYS: &str = "template1";

const STEP: &str = "start the server of a sandbox";

/// A server on a restored cluster.
#[derive(Debug)]
pub(crate) struct ServerSandbox {
    pub(crate) server: Server,
    pub(crate) cluster: Cluster,
    pub(crate) directory: PathBuf,
    pub(crate) role: String,
    /// Every database that accepts connections.
    pub(crate) databases: Vec<String>,
    usual: String,
    description: String,
    process: Mutex<Process>,
}

/// Starts a server and waits until it answers.
pub(crate) async fn open(
    request: SandboxRequest<'_>,
    places: &[PathBuf],
    clock: &Arc<dyn Clock>,
) -> Result<Box<dyn Sandbox>> {
    let (data, directory) = (request.database.to_owned(), request.directory.to_owned());
    let server = server_for(&data, places).await?;
    if !settings::has_room_for_socket(&directory) {
        return Err(Error::new(ErrorKind::Config, code::SANDBOX_SERVER, STEP)
            .with("directory", directory.display())
            .why("the path of its socket would be longer than the system takes")
            .next("choose a shorter one: --scratch DIR"));
    }
    let (from, owner) = ((data.clone(), directory.clone()), server.owner);
    blocking(&directory, move || {
        settings::write(&from.0, &from.1)?;
        let Some(owner) = owner else { return Ok(()) };
        let root = from.1.parent().unwrap_or(&from.1);
        lchown(root, Some(owner.0), Some(owner.1))?;
        give_to(&from.1, owner)?;
        // It was the same user that replayed, unless the database was restored in another way.
        if fs::metadata(&from.0)?.uid() == owner.0 { Ok(()) } else { give_to(&from.0, owner) }
    })
    .await?;
    let role = format!("stillpoint_sandbox_{}", request.token);
    let process = Process::start(&server, (&data, &directory), &role).await?;
    let major = major_of(&data);
    let cluster =
        Cluster::new(Config::new(&endpoint(&directory, &role, major))?, Arc::clone(clock))?;
    let description = format!("PostgreSQL {}, alone: {}", server.version(), process.cage);
    let mut sandbox = ServerSandbox {
        server,
        cluster,
        directory,
        role,
        databases: Vec::new(),
        usual: ALWAYS.to_owned(),
        description,
        process: Mutex::new(process),
    };
    sandbox.wait().await?;
    Ok(Box::new(sandbox))
}

fn major_of(data: &Path) -> u32 {
    fs::read_to_string(data.join("PG_VERSION")).unwrap_or_default().trim().parse().unwrap_or(0)
}

async fn server_for(data: &Path, places: &[PathBuf]) -> Result<Server> {
    let major = major_of(data);
    Server::find(places, major).await.ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, code::UNSUITABLE_DATABASE, STEP)
            .with("needed", format!("PostgreSQL {major}"))
            .next(format!("install PostgreSQL {major}, and run the same command again"))
    })
}

fn endpoint(directory: &Path, role: &str, major: u32) -> Endpoint {
    let mut settings = BTreeMap::from([
        ("host", directory.display().to_string()),
        ("port", settings::PORT.to_string()),
        ("user", role.to_owned()),
        ("dbname", ALWAYS.to_owned()),
        ("options", settings::session_options(major)),
    ]);
    let settings = std::mem::take(&mut settings);
    let settings = settings.into_iter().map(|(name, value)| (name.to_owned(), value));
    Endpoint { scheme: "postgres".to_owned(), address: String::new(), settings: settings.collect() }
}

impl ServerSandbox {
    /// Waits until it answers, and learns which databases there are.
    async fn wait(&mut self) -> Result<()> {
        let mut last = None;
        for _ in 0..LOOKS_MAX {
            let failure = {
                let process = self.process.get_mut();
                process.unwrap_or_else(PoisonError::into_inner).failure()
            };
            if let Some(failure) = failure {
                return Err(failure);
            }
            match self.cluster.sql().await {
                Ok(sql) => return self.learn(&sql).await,
                Err(error) => last = Some(error),
            }
            self.cluster.clock.sleep(PAUSE).await;
        }
        Err(last.unwrap_or_else(|| Error::bug(STEP)).during(STEP))
    }

    async fn learn(&mut self, sql: &Sql) -> Result<()> {
        self.databases = tally::databases(sql).await?;
        self.end_prepared(sql).await?;
        let templates = ["template0", ALWAYS, "postgres"];
        let mut own = self.databases.iter().filter(|name| !templates.contains(&name.as_str()));
        let usual = match (own.next(), own.next()) {
            (Some(only), None) => Some(only.clone()),
            _ => self.databases.iter().find(|name| *name == "postgres").cloned(),
        };
        self.usual = usual.unwrap_or_else(|| ALWAYS.to_owned());
        Ok(())
    }

    /// Rolls back what was prepared and not committed at the point: nobody will, and whoever looks
    /// at what it has locked would wait for ever.
    async fn end_prepared(&self, sql: &Sql) -> Result<()> {
        let failed = |e| error::sql(e, "end prepared transactions");
        // Into others nobody looks.
        let query = "SELECT x.gid, d.datname::text FROM pg_catalog.pg_prepared_xacts x
            JOIN pg_catalog.pg_database d ON d.datname = x.database AND d.datallowconn";
        for row in sql.client.query(query, &[]).await.map_err(failed)? {
            let text = |column| row.try_get::<_, &str>(column).map_err(failed);
            let inside = self.cluster.in_database(text(1)?).sql().await?;
            let statement = format!("ROLLBACK PREPARED '{}'", text(0)?.replace('\'', "''"));
            inside.client.batch_execute(&statement).await.map_err(failed)?;
        }
        Ok(())
    }
}

#[async_trait]
impl Sandbox for ServerSandbox {
    fn description(&self) -> &str {
        &self.description
    }

    fn endpoint(&self) -> Endpoint {
        let mut endpoint = endpoint(&self.directory, &self.role, 0);
        endpoint.settings.insert("dbname".to_owned(), self.usual.clone());
        if let Some(options) = &self.cluster.config.options {
            endpoint.settings.insert("options".to_owned(), options.clone());
        }
        endpoint
    }

    fn databases(&self) -> &[String] {
        &self.databases
    }

    async fn greet(&self) -> Result<()> {
        self.query(None, "SELECT count(*) FROM pg_catalog.pg_class").await.map(drop)
    }

    async fn query(&self, database: Option<&str>, sql: &str) -> Result<String> {
        let database = database.unwrap_or(&self.usual);
        let failed = || {
            let step = "run a statement on the restored copy";
            let error = Error::new(ErrorKind::Invalid, code::SANDBOX_STATEMENT, step)
                .with("statement", sql)
                .with("database", database);
            if self.databases.len() < 2 {
                return error;
            }
            let all = self.databases.join(", ");
            error.with("there are", all).next("ask another one: --inside DATABASE")
        };
        let session = self.cluster.in_database(database).sql().await;
        let session = session.map_err(|e| failed().caused_by(e))?;
        let answered = read(&session, sql).await.map_err(|e| failed().caused_by(e))?;
        answered.ok_or_else(|| {
            failed().why("it writes, or ends the transaction that keeps it from writing")
        })
    }

    async fn check(&self) -> Result<Vec<Examined>> {
        Ok(vec![amcheck::run(self).await?, pages::run(self).await?, references::run(self).await?])
    }

    async fn tally(&self) -> Result<Vec<Tally>> {
        let mut tallies = Vec::new();
        for database in &self.databases {
            let sql = self.cluster.in_database(database).sql().await?;
            tallies.extend(tally::counted(&sql, database).await?);
        }
        Ok(tallies)
    }

    async fn bring(&self, request: &ShareRequest<'_>, progress: &dyn Progress) -> Result<Brought> {
        share::bring(self, request, progress).await
    }

    async fn compare(
        &self,
        request: &ShareRequest<'_>,
        progress: &dyn Progress,
        script: &mut Script<'_>,
    ) -> Result<Comparison> {
        share::compare(self, request, progress, script).await
    }

    async fn stop(self: Box<Self>) -> Result<()> {
        let process = self.process.into_inner();
        process.unwrap_or_else(PoisonError::into_inner).stop().await
    }
}

/// The transaction of a session, and how many relations it locks in another way than whoever only
/// reads. That it has a number proves nothing: `txid_current()` asks for one.
const TRANSACTION: &str = "
    SELECT t.virtualtransaction, (
        SELECT count(*) FROM pg_catalog.pg_locks l
        WHERE l.pid = t.pid AND l.locktype = 'relation' AND l.mode <> 'AccessShareLock')
    FROM pg_catalog.pg_locks t
    WHERE t.virtualxid = t.virtualtransaction AND t.pid = pg_catalog.pg_backend_pid()";

/// What the last of the statements answers, which can change nothing; `None` where they tried to.
/// The server itself refuses most of that in such a transaction, but not `REINDEX`, `CLUSTER` and
/// `ANALYZE`; these keep their locks until it ends, which takes back what they wrote.
///
/// Source: <https://www.postgresql.org/docs/current/sql-set-transaction.html>: once something was
/// read, it cannot be made one that writes.
async fn read(sql: &Sql, statements: &str) -> Result<Option<String>> {
    let failed = |e| error::sql(e, "keep a statement from writing");
    // Also what follows a `COMMIT` among them; by itself, so that no `ROLLBACK` takes it back.
    let usual = "SET default_transaction_read_only = on";
    sql.client.batch_execute(usual).await.map_err(failed)?;
    sql.client.batch_execute("BEGIN READ ONLY").await.map_err(failed)?;
    let begun = answer(sql, TRANSACTION).await?;
    let text = answer(sql, statements).await?;
    let is_same = answer(sql, TRANSACTION).await? == begun;
    sql.client.batch_execute("ROLLBACK").await.map_err(failed)?;
    Ok(is_same.then_some(text))
}

/// What the last of the statements answers.
async fn answer(sql: &Sql, statements: &str) -> Result<String> {
    let step = "read an answer";
    let failed = |e| error::sql(e, step);
    let messages = sql.client.simple_query_raw(statements).await.map_err(failed)?;
    let mut messages = pin!(messages);
    let (mut text, mut is_first) = (String::new(), true);
    while let Some(message) = messages.try_next().await.map_err(failed)? {
        match message {
            SimpleQueryMessage::RowDescription(_) => (text, is_first) = (String::new(), true),
            SimpleQueryMessage::Row(row) => {
                if !is_first {
                    text.push('\n');
                }
                is_first = false;
                for column in 0..row.len() {
                    text.push_str(if column > 0 { "|" } else { "" });
                    text.push_str(row.try_get(column).map_err(failed)?.unwrap_or_default());
                }
            }
            _ => {}
        }
        if text.len() > ANSWER_BYTES_MAX {
            return Err(Error::new(ErrorKind::Exhausted, code::SANDBOX_STATEMENT, step)
                .why("it is longer than 64 KiB"));
        }
    }
    Ok(text)
}
