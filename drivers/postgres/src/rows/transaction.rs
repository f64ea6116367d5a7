//! A session's transaction: whatever becomes of the futures that use it, the server rolls it back
//! unless it is committed.

use futures::FutureExt as _;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{failure::failed, literal};
use crate::connect::Sql;

/// A session, as long as it can be used.
#[derive(Debug)]
pub(super) struct Connection {
    sql: Option<Sql>,
    /// Where sessions of the role look for names, unless they say something else.
    usual_path: String,
}

impl Connection {
    /// Takes a session.
    pub(super) fn new(sql: Sql, usual_path: String) -> Self {
        Self { sql: Some(sql), usual_path }
    }

    /// The session.
    pub(super) fn client(&self) -> Result<&tokio_postgres::Client> {
        let sql = self.sql.as_ref().filter(|sql| !sql.client.is_closed());
        sql.map(|sql| &sql.client).ok_or_else(|| {
            Error::new(ErrorKind::Transient, code::SOURCE_VANISHED, "use the session")
                .why("it ended, or was ended in the middle of a statement")
        })
    }

    /// Begins something that must not be left half done: when the step is dropped before its end,
    /// the session ends, and with it whatever the server is doing for it.
    pub(super) fn step(&mut self) -> Result<Step<'_>> {
        self.client()?;
        Ok(Step { connection: self, is_disturbed: None, is_over: false })
    }

    /// Begins a transaction.
    pub(super) async fn begin(&mut self, statement: &str) -> Result<Transaction<'_>> {
        let step = self.step()?;
        let begun = step.client()?.batch_execute(statement).await;
        step.end(begun.map_err(|e| failed(e, "begin a transaction")))?;
        Ok(Transaction { connection: self, is_open: true, is_disturbed: false })
    }
}

/// Something that a session is in the middle of.
#[derive(Debug)]
pub(super) struct Step<'a> {
    connection: &'a mut Connection,
    /// Of the transaction that it is part of.
    is_disturbed: Option<&'a mut bool>,
    is_over: bool,
}

impl Step<'_> {
    /// The session.
    pub(super) fn client(&self) -> Result<&tokio_postgres::Client> {
        self.connection.client()
    }

    /// Ends it.
    pub(super) fn end<T>(mut self, done: Result<T>) -> Result<T> {
        self.is_over = true;
        if let Some(is_disturbed) = &mut self.is_disturbed {
            **is_disturbed = done.is_err();
        }
        done
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.connection.sql = None;
        }
    }
}

/// An open transaction. Dropped, it is rolled back.
#[derive(Debug)]
pub(super) struct Transaction<'a> {
    connection: &'a mut Connection,
    is_open: bool,
    is_disturbed: bool,
}

impl Transaction<'_> {
    /// A condition that holds, and after which names in functions of triggers mean what they mean
    /// to applications: those look for them along their own path, and not along ours, which is
    /// empty.
    ///
    /// Names in the statement itself are understood before any of it is carried out, and the
    /// condition is looked at before the first row is.
    /// Sources: PostgreSQL 18 documentation, 5.10.3, "The Schema Search Path"; 52.5, "Planner and
    /// Optimizer"; `src/backend/executor/nodeResult.c`, "one-time filter".
    pub(super) fn usual_names(&self) -> String {
        format!("(SELECT {}) IS NOT NULL", self.set_usual_path())
    }

    /// What sets the usual path, where an expression is carried out.
    pub(super) fn set_usual_path(&self) -> String {
        let path = literal::text(&self.connection.usual_path);
        format!("pg_catalog.set_config('search_path', {path}, true)")
    }

    /// Begins something in it.
    pub(super) fn step(&mut self) -> Result<Step<'_>> {
        if self.is_disturbed {
            return Err(Error::new(ErrorKind::Refused, code::ROWS_DIFFER, "go on")
                .why("something before that in the same transaction did not end"));
        }
        self.connection.client()?;
        self.is_disturbed = true;
        let is_disturbed = Some(&mut self.is_disturbed);
        Ok(Step { connection: self.connection, is_disturbed, is_over: false })
    }

    /// Ends it.
    pub(super) async fn commit(mut self) -> Result<()> {
        let step = self.step()?;
        let done = commit(step.client()?).await;
        step.end(done)?;
        self.is_open = false;
        Ok(())
    }

    /// Ends it as if it had never been.
    pub(super) async fn roll_back(mut self) -> Result<()> {
        let step = self.connection.step()?;
        let done = step.client()?.batch_execute("ROLLBACK").await;
        step.end(done.map_err(|e| failed(e, "roll back")))?;
        self.is_open = false;
        Ok(())
    }
}

/// A server answers a `COMMIT` of a transaction that failed with `ROLLBACK`, and not with an
/// error: whether it failed is asked first. Source: PostgreSQL 18, `src/backend/tcop/utility.c`,
/// `standard_ProcessUtility`.
async fn commit(client: &tokio_postgres::Client) -> Result<()> {
    client.batch_execute("SELECT 1").await.map_err(|e| failed(e, "commit"))?;
    client.batch_execute("COMMIT").await.map_err(|e| {
        let failed = failed(e, "commit");
        match failed.kind() {
            ErrorKind::Transient => failed.why("whether it was committed is not known"),
            _ => failed,
        }
    })
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if !self.is_open {
            return;
        }
        // The first poll sends it, and what the session is asked next comes behind it.
        let sent = self.connection.client().is_ok_and(|client| {
            client.batch_execute("ROLLBACK").now_or_never().is_none_or(|done| done.is_ok())
        });
        if !sent {
            self.connection.sql = None;
        }
    }
}
