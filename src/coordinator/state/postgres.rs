//! State in a PostgreSQL server: for several coordinators.
//!
//! All transactions take one advisory lock first, so that each sees everything that others did
//! before it, and the server's clock is the only one.

use std::{collections::HashMap, fmt, future::Future, time::Duration};

use async_trait::async_trait;
use bytes::BytesMut;
use futures::{FutureExt as _, future::BoxFuture};
use stillpoint_contract::{Error, ErrorKind, Result, code};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::timeout,
};
use tokio_postgres::{
    Client, SimpleQueryMessage, Statement,
    error::{DbError, Severity, SqlState},
    types::{IsNull, ToSql, Type, to_sql_checked},
};

use super::database::{Database, Row, Transaction, Value};

const STEP: &str = "use the state database";

/// How long an answer is waited for. The server's own limits are shorter.
const ANSWER_MAX: Duration = Duration::from_mins(1);

/// What each session begins with.
///
/// A coordinator that is frozen within a transaction is thrown out before others give up, and what
/// was acknowledged is on disk, whatever the server's default is.
///
/// Source: <https://www.postgresql.org/docs/current/runtime-config-client.html>.
const SESSION: &str = "SET statement_timeout = '30s'; SET lock_timeout = '10s';
     SET idle_in_transaction_session_timeout = '5s';
     SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit')
         WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false)";

/// One at a time, and each statement sees what was committed before it began: the first one that
/// reads comes after the lock, whatever the server's default isolation is. Time is read then, too.
///
/// The lock's number is `stillpoi` in ASCII.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
     SELECT pg_advisory_xact_lock(8319390326056841065);
     SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// Opens a session.
pub type Connect = Box<dyn Fn() -> BoxFuture<'static, Result<Client>> + Send + Sync>;

/// A database in a server. Its sessions are its own: no pooler shares them with others.
pub struct PostgresState {
    connect: Connect,
    /// Whoever has it has the only transaction of this process.
    session: Mutex<Option<Session>>,
}

struct Session {
    client: Client,
    statements: HashMap<&'static str, Statement>,
}

impl PostgresState {
    /// Connects when it is used first, and again whenever the connection was lost.
    pub fn new(connect: Connect) -> Self {
        Self { connect, session: Mutex::new(None) }
    }

    async fn session(&self) -> Result<Session> {
        let client = (self.connect)().await.map_err(|error| error.during(STEP))?;
        answered(client.batch_execute(SESSION)).await.map_err(Lost::told)?;
        Ok(Session { client, statements: HashMap::new() })
    }
}

impl fmt::Debug for PostgresState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresState").finish_non_exhaustive()
    }
}

#[async_trait]
impl Database for PostgresState {
    async fn begin(&self) -> Result<Box<dyn Transaction + '_>> {
        let mut turn = self.session.lock().await;
        // A connection may have been lost without a word, and nothing was done with it yet.
        let is_new = turn.as_ref().is_none_or(|session| session.client.is_closed());
        if is_new {
            *turn = Some(self.session().await?);
        }
        let mut open = Open { session: turn, is_begun: true, now: 0 };
        open.now = match open.begin().await {
            Err(lost) if lost.is_away() && !is_new => {
                *open.session = Some(self.session().await?);
                open.begin().await
            }
            begun => begun,
        }
        .map_err(Lost::told)?;
        Ok(Box::new(open))
    }
}

struct Open<'a> {
    session: MutexGuard<'a, Option<Session>>,
    is_begun: bool,
    now: i64,
}

impl Open<'_> {
    async fn begin(&mut self) -> Result<i64, Lost> {
        let session = self.session.as_ref().ok_or(Lost::Answer)?;
        let answer = answered(session.client.simple_query(BEGIN)).await;
        let answer = self.kept(answer)?;
        let times = answer.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
            _ => None,
        });
        times.last().ok_or(Lost::Answer)
    }

    async fn query(&mut self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>, Lost> {
        let session = self.session.as_mut().ok_or(Lost::Answer)?;
        let statement = if let Some(statement) = session.statements.get(sql) {
            statement.clone()
        } else {
            let prepared = answered(session.client.prepare(sql)).await?;
            session.statements.insert(sql, prepared.clone());
            prepared
        };
        let values: Vec<_> = values.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
        let rows = answered(session.client.query(&statement, &values)).await?;
        rows.iter().map(loaded).collect()
    }

    /// Gives a session up that does not answer.
    fn kept<T>(&mut self, answer: Result<T, Lost>) -> Result<T, Lost> {
        if matches!(answer, Err(Lost::Answer)) {
            *self.session = None;
        }
        answer
    }
}

#[async_trait]
impl Transaction for Open<'_> {
    fn now(&self) -> i64 {
        self.now
    }

    async fn run(&mut self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>> {
        let answer = self.query(sql, values).await;
        self.kept(answer).map_err(Lost::told)
    }

    async fn commit(mut self: Box<Self>) -> Result<()> {
        let Some(session) = self.session.as_ref() else { return Err(Lost::Answer.told()) };
        let answer = answered(session.client.batch_execute("COMMIT")).await;
        let answer = self.kept(answer);
        self.is_begun = answer.is_err();
        answer.map_err(|lost| if lost.is_certain() { lost.told() } else { lost.unknown() })
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if let (true, Some(session)) = (self.is_begun, self.session.as_ref()) {
            // It is sent when it is first looked at, in its turn: before what begins next. Nobody
            // waits for the answer.
            drop(session.client.batch_execute("ROLLBACK").now_or_never());
        }
    }
}

/// Why something did not work.
#[derive(Debug)]
enum Lost {
    /// There was no answer in time.
    Answer,
    /// The server, or the connection to it, says so.
    Said(tokio_postgres::Error),
    /// The answer has a type that nobody asked for.
    Shape,
}

impl From<tokio_postgres::Error> for Lost {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Said(error)
    }
}

impl Lost {
    /// Whether the session is over.
    fn is_away(&self) -> bool {
        match self {
            Self::Answer => true,
            Self::Said(error) => !matches!(
                error.as_db_error().map(DbError::parsed_severity),
                Some(Some(Severity::Error))
            ),
            Self::Shape => false,
        }
    }

    /// Whether it is certain that a transaction did not become durable whose commit ended so. A
    /// session that is ended while it waits for a standby has committed.
    fn is_certain(&self) -> bool {
        !self.is_away()
    }

    /// As an error, where nothing was changed.
    fn told(self) -> Error {
        let error = match self {
            Self::Answer => {
                return Error::new(ErrorKind::Transient, code::STATE, STEP)
                    .with("limit", format!("{} s", ANSWER_MAX.as_secs()))
                    .why("the server did not answer in time");
            }
            Self::Shape => return Error::bug("read a row of the state database"),
            Self::Said(error) => error,
        };
        let Some(said) = error.as_db_error() else {
            return Error::new(ErrorKind::Transient, code::STATE, STEP)
                .why("the connection was lost; nothing was changed")
                .caused_by(error);
        };
        let told = |kind| {
            let told = Error::new(kind, code::STATE, STEP).with("server", said.message());
            told.with("SQLSTATE", said.code().code())
        };
        match said.code() {
            state if *state == SqlState::LOCK_NOT_AVAILABLE => {
                told(ErrorKind::Busy).why("other coordinators use it all the time, or one is stuck")
            }
            state if *state == SqlState::READ_ONLY_SQL_TRANSACTION => told(ErrorKind::Transient)
                .why("the server cannot be written to: it is a standby, or was one")
                .next("name all hosts in the address: postgres://one,other/DATABASE"),
            state if *state == SqlState::INSUFFICIENT_PRIVILEGE => told(ErrorKind::Denied)
                .why("the role may not make tables here")
                .next("CREATE DATABASE stillpoint OWNER role"),
            state => told(kind_of(state.code())),
        }
    }

    /// As an error, where nobody knows whether something was changed.
    fn unknown(self) -> Error {
        let error = Error::new(ErrorKind::Transient, code::STATE, STEP)
            .why("the connection was lost while it was committed: it may be done or not");
        match self {
            Self::Said(cause) => error.caused_by(cause),
            Self::Answer | Self::Shape => error,
        }
    }
}

/// Source: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn kind_of(state: &str) -> ErrorKind {
    match state {
        "53100" | "53200" => ErrorKind::Exhausted,
        "57014" => ErrorKind::TimedOut,
        "XX001" | "XX002" => ErrorKind::Corrupt,
        "28000" | "28P01" => ErrorKind::Denied,
        // A connection, resources, a conflict, an operator, a limit on what is idle.
        _ if ["08", "53", "40", "57", "25P03"].iter().any(|class| state.starts_with(class)) => {
            ErrorKind::Transient
        }
        // What we wrote is wrong, or meets a rule that we made.
        _ if ["42", "22", "23"].iter().any(|class| state.starts_with(class)) => ErrorKind::Bug,
        _ => ErrorKind::Config,
    }
}

async fn answered<T>(
    asked: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Lost> {
    timeout(ANSWER_MAX, asked).await.map_err(|_| Lost::Answer)?.map_err(Lost::Said)
}

fn loaded(row: &tokio_postgres::Row) -> Result<Row, Lost> {
    let value = |column: usize| -> Result<Value, Lost> {
        match *row.columns()[column].type_() {
            Type::INT8 => Ok(row.try_get::<_, Option<i64>>(column)?.into()),
            Type::TEXT => Ok(row.try_get::<_, Option<&str>>(column)?.into()),
            _ => Err(Lost::Shape),
        }
    };
    (0..row.len()).map(value).collect::<Result<_, _>>().map(Row)
}

impl ToSql for Value {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Number(number) if *kind == Type::INT8 => number.to_sql(kind, out),
            Self::Text(text) if *kind == Type::TEXT => text.to_sql(kind, out),
            _ => Err(format!("{kind} was asked for").into()),
        }
    }

    fn accepts(kind: &Type) -> bool {
        matches!(*kind, Type::INT8 | Type::TEXT)
    }

    to_sql_checked!();
}
