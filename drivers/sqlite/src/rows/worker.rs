//! A thread that owns a connection: SQLite's calls block, and a transaction lives on one
//! connection.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, InterruptHandle};
use stillpoint_contract::{Error, ErrorKind, Result, RowBatch, RowSink, RowWriter, code};
use tokio::sync::{mpsc, oneshot};

use super::lock::SetLock;
use crate::{connect::Database, error};

/// How many bytes of rows are handed over at once.
const BATCH_BYTES: usize = 256 << 10;

/// How many batches wait to be taken.
const BATCHES_READY_MAX: usize = 4;

/// How many jobs wait: one that works, and what dropped futures left behind.
const JOBS_MAX: usize = 64;

/// What the thread works with. Locks go after the connection, and so after its transaction.
pub(super) struct Desk {
    connection: Option<Connection>,
    pub(super) database: Database,
    pub(super) locks: Vec<SetLock>,
}

impl Desk {
    /// The connection.
    pub(super) fn connection(&self) -> &Connection {
        self.connection.as_ref().expect("it is there until the thread ends")
    }

    /// The connection, for who hangs something on it.
    pub(super) fn connection_mut(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("it is there until the thread ends")
    }

    /// Turns SQLite's errors into ours.
    pub(super) fn sql<T>(&self, result: rusqlite::Result<T>, step: &'static str) -> Result<T> {
        result.map_err(|e| error::sqlite(e, step, &self.database.path))
    }

    /// Leaves everything as it was, if a transaction is open.
    pub(super) fn roll_back(&self) -> Result<()> {
        let connection = self.connection();
        if connection.is_autocommit() {
            return Ok(());
        }
        self.sql(connection.execute_batch("ROLLBACK"), "roll back")
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        // A transaction that cannot be rolled back ends with its connection.
        drop(self.roll_back());
        if let Some(connection) = self.connection.take() {
            Database::close(connection);
        }
    }
}

type Job = Box<dyn FnOnce(&mut Desk) + Send>;

/// The thread. It ends when this is dropped, after what it is at.
pub(super) struct Worker {
    jobs: mpsc::Sender<Job>,
    interrupt: InterruptHandle,
    is_over: Arc<AtomicBool>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}

impl Worker {
    /// Gives a connection a thread.
    pub(super) fn start(connection: Connection, database: Database) -> Result<Self> {
        let interrupt = connection.get_interrupt_handle();
        let (jobs, mut waiting) = mpsc::channel::<Job>(JOBS_MAX);
        let is_over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&is_over);
        let mut desk = Desk { connection: Some(connection), database, locks: Vec::new() };
        let work = move || {
            while let Some(job) = waiting.blocking_recv() {
                if ends.load(Ordering::Acquire) {
                    break;
                }
                job(&mut desk);
            }
        };
        thread::Builder::new().name("sqlite rows".to_owned()).spawn(work).map_err(|e| {
            Error::new(ErrorKind::Exhausted, code::FILE, "start a thread").caused_by(e)
        })?;
        Ok(Self { jobs, interrupt, is_over })
    }

    /// Does something there.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Desk) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |desk| drop(answer.send(work(desk))));
        self.jobs.send(job).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    /// Does something there that hands over rows.
    pub(super) async fn hand_over(
        &self,
        work: impl FnOnce(&mut Desk, &mut Batches) -> Result<u64> + Send + 'static,
        into: &mut dyn RowSink,
    ) -> Result<u64> {
        let (ready, mut batches) = mpsc::channel(BATCHES_READY_MAX);
        let mut taken = Ok(());
        let work = self.run(move |desk| {
            let mut batches = Batches { rows: RowWriter::default(), ready };
            let count = work(desk, &mut batches)?;
            batches.send()?;
            Ok(count)
        });
        let take = async {
            while let Some(batch) = batches.recv().await {
                taken = into.put(batch).await;
                if taken.is_err() {
                    // Whoever sends notices.
                    batches.close();
                    return;
                }
            }
        };
        let (done, ()) = tokio::join!(work, take);
        taken.and(done)
    }

    /// Waits for the lock of a set, and keeps it as long as the thread lives.
    pub(super) async fn lock(&self, set: &str, patience: Duration) -> Result<()> {
        let set = set.to_owned();
        let take = move |desk: &mut Desk| {
            let is_ours = desk.locks.iter().any(|lock| lock.is_of(&set));
            (!is_ours).then(|| SetLock::take(&desk.database, &set, patience)).transpose()
        };
        // Nobody who drops this future in between has the lock afterwards.
        if let Some(lock) = self.run(take).await? {
            let keep: Job = Box::new(|desk| desk.locks.push(lock));
            self.jobs.try_send(keep).map_err(|_| ended())?;
        }
        Ok(())
    }

    /// Begins a transaction.
    pub(super) async fn begin(
        &mut self,
        work: impl FnOnce(&mut Desk) -> Result<()> + Send + 'static,
    ) -> Result<Transaction<'_>> {
        let transaction = Transaction { worker: self, is_open: true, is_disturbed: false };
        transaction.worker.run(work).await?;
        Ok(transaction)
    }

    /// Rolls back without waiting for that.
    fn abandon(&self) {
        // Without effect where nothing runs.
        // Source: https://www.sqlite.org/c3ref/interrupt.html
        self.interrupt.interrupt();
        // The connection's end rolls back what cannot be rolled back.
        let job: Job = Box::new(|desk| drop(desk.roll_back()));
        if self.jobs.try_send(job).is_err() {
            self.is_over.store(true, Ordering::Release);
        }
    }
}

fn ended() -> Error {
    Error::new(ErrorKind::Transient, code::DATABASE_BUSY, "use the connection").why("it was closed")
}

/// Rows that are on their way out of the thread.
pub(super) struct Batches {
    pub(super) rows: RowWriter,
    ready: mpsc::Sender<RowBatch>,
}

impl Batches {
    /// Ends a row, and sends what is enough for a batch.
    pub(super) fn end_row(&mut self) -> Result<()> {
        self.rows.end()?;
        if self.rows.len_bytes() < BATCH_BYTES { Ok(()) } else { self.send() }
    }

    fn send(&mut self) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        self.ready
            .blocking_send(self.rows.take())
            .map_err(|_| Error::new(ErrorKind::Interrupted, code::INTERRUPTED, "hand over rows"))
    }
}

/// An open transaction. Dropped, it is rolled back.
#[derive(Debug)]
pub(super) struct Transaction<'a> {
    worker: &'a Worker,
    is_open: bool,
    is_disturbed: bool,
}

impl Transaction<'_> {
    /// Does something in it.
    pub(super) async fn run<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Desk) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.enter()?;
        let done = self.worker.run(work).await;
        self.is_disturbed = done.is_err();
        done
    }

    /// Does something in it that hands over rows.
    pub(super) async fn hand_over(
        &mut self,
        work: impl FnOnce(&mut Desk, &mut Batches) -> Result<u64> + Send + 'static,
        into: &mut dyn RowSink,
    ) -> Result<u64> {
        self.enter()?;
        let done = self.worker.hand_over(work, into).await;
        self.is_disturbed = done.is_err();
        done
    }

    /// Ends it.
    pub(super) async fn commit(mut self) -> Result<()> {
        let commit = |desk: &mut Desk| match desk.connection().execute_batch("COMMIT") {
            Err(e) if e.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                Err(Error::new(ErrorKind::Refused, code::ROWS_REFUSED, "commit")
                    .why("rows would refer to others that are not there")
                    .caused_by(e))
            }
            done => desk.sql(done, "commit"),
        };
        self.run(commit).await?;
        self.is_open = false;
        Ok(())
    }

    /// Ends it as if it had never been.
    pub(super) async fn roll_back(mut self) -> Result<()> {
        self.worker.run(|desk| desk.roll_back()).await?;
        self.is_open = false;
        Ok(())
    }

    /// What failed or was dropped half-way did who knows what.
    fn enter(&mut self) -> Result<()> {
        if self.is_disturbed {
            return Err(Error::new(ErrorKind::Refused, code::ROWS_DIFFER, "go on")
                .why("something before that in the same transaction did not end"));
        }
        self.is_disturbed = true;
        Ok(())
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if self.is_open {
            self.worker.abandon();
        }
    }
}
