//! One database under test, and the steps that the sentences are made of.

use std::{
    error::Error as _,
    fmt,
    fs::{self, Permissions},
    future::{Future, poll_fn},
    io,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use chrono::{DateTime, Utc};
use stillpoint_contract::{
    BackupRequest, Base, Clock, Driver, Error, ErrorKind, Evidence, LogMark, LogSource, Overwrite,
    Probe, Reached, Recovery, RecoveryTarget, RestoreExtras, RestorePlan, RestoreRequest, Result,
    Sink,
};
use tempfile::TempDir;

use crate::{
    Bank, Fixture, Server, Transfer, WRITERS,
    harness::{Claim, Ledger},
    memory::{MemoryBackup, MemoryLog, MemorySink, RealClock, SeededEntropy},
    watch::WatchedSink,
};

/// What became of one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It holds.
    Proven,
    /// It does not.
    Failed,
    /// It cannot be asked of this server, for this reason.
    NotApplicable(String),
}

/// Why a sentence does not hold.
#[derive(Debug)]
pub(crate) struct Failure(String);

/// What a test returns.
pub(crate) type Verdict = Result<Outcome, Failure>;

impl Failure {
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(told(&error))
    }
}

/// The whole story of an error on one line.
pub(crate) fn told(error: &Error) -> String {
    let mut text = format!("{:?} {}: {error}", error.kind(), error.code());
    let mut cause = error.source();
    while let Some(deeper) = cause {
        text = format!("{text}: {deeper}");
        cause = deeper.source();
    }
    format!("{text} {:?}", error.facts())
}

/// Fails the sentence unless the condition holds.
macro_rules! ensure {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err($crate::stage::Failure::new(format!($($why)+)));
        }
    };
}
pub(crate) use ensure;

/// A finished backup.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    pub(crate) evidence: Evidence,
    pub(crate) parts: MemoryBackup,
}

impl Copy {
    /// From where capture joins the copy.
    pub(crate) fn mark(&self) -> Result<LogMark, Failure> {
        let position = self.evidence.consistent_at.clone();
        let position = position.ok_or_else(|| Failure::new("a logged server has positions"))?;
        Ok(LogMark { position, cursor: self.evidence.cursor.clone() })
    }
}

/// When a transfer was known to be committed, and its number.
type Committed = (DateTime<Utc>, u64);

/// A started database, a driver connected to it, and a directory for restores.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) fixture: Arc<dyn Fixture>,
    pub(crate) server: Arc<dyn Server>,
    pub(crate) driver: Box<dyn Driver>,
    pub(crate) entropy: SeededEntropy,
    ledger: Arc<Ledger>,
    progress: [AtomicU64; WRITERS as usize],
    /// Of each writer, when which of its transfers was known to be committed.
    committed: [Mutex<Vec<Committed>>; WRITERS as usize],
    dir: TempDir,
    restores: AtomicU64,
}

/// How long a client of the workload waits between two transactions.
const THINK_TIME: Duration = Duration::from_millis(1);

/// How often a backup is repeated that ends in a way that asks for it.
const ATTEMPTS_MAX: u32 = 20;

/// How many parts a backup may write at once, unless a sentence is about that.
const STREAMS: std::num::NonZeroUsize = std::num::NonZeroUsize::new(3).expect("three is not zero");

impl Stage {
    /// Starts a database of `fixture` and connects to it.
    pub(crate) async fn open(
        fixture: Arc<dyn Fixture>,
        ledger: Arc<Ledger>,
    ) -> Result<Self, Failure> {
        let server = fixture.start().await?;
        let driver = server.engine().connect(&server.endpoint()).await?;
        // A server that works there may have a user of its own.
        let failed = |error: io::Error| Failure::new(error.to_string());
        let dir = fixture.directory().map_err(failed)?;
        fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).map_err(failed)?;
        let entropy = SeededEntropy::new(ledger.seed);
        let (progress, committed) = Default::default();
        let restores = AtomicU64::new(0);
        Ok(Self { fixture, server, driver, entropy, ledger, progress, committed, dir, restores })
    }

    /// Starts another database beside this one.
    pub(crate) async fn neighbour(&self) -> Result<Self, Failure> {
        Self::open(Arc::clone(&self.fixture), Arc::clone(&self.ledger)).await
    }

    /// A second connection of its own.
    pub(crate) async fn connect(&self) -> Result<Box<dyn Driver>> {
        self.server.engine().connect(&self.server.endpoint()).await
    }

    pub(crate) fn exercise(&self, claim: Claim) {
        self.ledger.exercise(claim);
    }

    /// Makes the next transfer of `writer`.
    pub(crate) async fn transfer(&self, writer: u32) -> Result<()> {
        let progress = &self.progress[writer as usize];
        let number = progress.load(Ordering::Relaxed) + 1;
        self.server.transact(Transfer::new(writer, number)).await?;
        progress.store(number, Ordering::Relaxed);
        let committed = (self.server.clock().now(), number);
        let known = &self.committed[writer as usize];
        known.lock().unwrap_or_else(PoisonError::into_inner).push(committed);
        Ok(())
    }

    /// What each writer knew to be committed before an instant.
    pub(crate) fn committed_before(&self, at: DateTime<Utc>) -> Vec<u64> {
        let newest = |known: &Mutex<Vec<Committed>>| {
            let known = known.lock().unwrap_or_else(PoisonError::into_inner);
            known.iter().rfind(|(then, _)| *then < at).map_or(0, |(_, number)| *number)
        };
        self.committed.iter().map(newest).collect()
    }

    /// Makes `count` transfers, of all writers in turn.
    pub(crate) async fn work(&self, count: u32) -> Result<()> {
        for writer in (0..WRITERS).cycle().take(count as usize) {
            self.transfer(writer).await?;
        }
        Ok(())
    }

    /// Keeps all writers busy until `task` is done.
    pub(crate) async fn while_busy<T>(&self, task: impl Future<Output = T>) -> Result<T> {
        let done = AtomicBool::new(false);
        let writers = (0..WRITERS).map(|writer| self.write_until(writer, &done));
        let writers = futures::future::try_join_all(writers);
        let task = async {
            let output = task.await;
            done.store(true, Ordering::Relaxed);
            output
        };
        let (output, written) = tokio::join!(task, writers);
        written.map(|_| output)
    }

    async fn write_until(&self, writer: u32, done: &AtomicBool) -> Result<()> {
        while !done.load(Ordering::Relaxed) {
            self.transfer(writer).await?;
            // Clients think now and then; without that, some engines let no reader in at all.
            self.server.clock().sleep(THINK_TIME).await;
        }
        Ok(())
    }

    /// What the workload has committed so far.
    pub(crate) fn truth(&self) -> Bank {
        let progress = self.progress.each_ref().map(|last| last.load(Ordering::Relaxed));
        Bank::after(&progress)
    }

    /// Backs up into a sink that is already there.
    pub(crate) async fn back_up_into(&self, sink: &dyn Sink) -> Result<Evidence> {
        self.driver.backup(BackupRequest { base: None, streams_max: STREAMS }, sink).await
    }

    /// Takes a full backup.
    pub(crate) async fn back_up(&self) -> Result<Copy> {
        let sink = MemorySink::new();
        let evidence = self.back_up_into(&sink).await?;
        Ok(Copy { evidence, parts: sink.seal()? })
    }

    /// Takes a full backup into a sink that yields, and repeats it while it ends as transient: a
    /// busy server may ask for that.
    pub(crate) async fn back_up_patiently(&self) -> Result<Copy> {
        let mut attempts = 1;
        loop {
            let sink = WatchedSink::yielding();
            match self.back_up_into(&sink).await {
                Ok(evidence) => return Ok(Copy { evidence, parts: sink.inner.seal()? }),
                Err(error) if error.kind().is_transient() && attempts < ATTEMPTS_MAX => {
                    attempts += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes a backup that may build on `base`.
    pub(crate) async fn back_up_on(&self, base: &Copy, log: &mut dyn LogSource) -> Result<Copy> {
        let sink = MemorySink::on(&base.parts);
        let base = Base { evidence: &base.evidence, parts: &base.parts, log };
        let request = BackupRequest { base: Some(base), streams_max: STREAMS };
        let evidence = self.driver.backup(request, &sink).await?;
        Ok(Copy { evidence, parts: sink.seal()? })
    }

    /// A path for a restored database, at which nothing is yet, and a staging directory beside it.
    pub(crate) fn site(&self) -> Result<(PathBuf, PathBuf), Failure> {
        let number = self.restores.fetch_add(1, Ordering::Relaxed);
        let staging = self.dir.path().join(format!("staging-{number}"));
        fs::create_dir(&staging).map_err(|error| Failure::new(error.to_string()))?;
        Ok((self.dir.path().join(format!("restored-{number}")), staging))
    }

    /// Plans the restore of `copy` to a new place.
    pub(crate) async fn plan(
        &self,
        copy: &Copy,
        until: &RecoveryTarget,
    ) -> Result<RestorePlan, Failure> {
        let (target, staging) = self.site()?;
        Ok(self.plan_at(copy, until, (&target, &staging), Overwrite::Never).await?)
    }

    /// Plans the restore of `copy` to a given target and staging directory.
    pub(crate) async fn plan_at(
        &self,
        copy: &Copy,
        until: &RecoveryTarget,
        (target, staging): (&std::path::Path, &std::path::Path),
        overwrite: Overwrite,
    ) -> Result<RestorePlan> {
        let Probe { version, settings, .. } = self.driver.probe().await?;
        let request = RestoreRequest {
            evidence: &copy.evidence,
            version: &version,
            settings: &settings,
            parts: &copy.parts,
            extras: &RestoreExtras::default(),
            target,
            staging,
            until,
            overwrite,
        };
        self.server.engine().plan_restore(&request).await
    }

    /// Lays `copy` out under `plan` and recovers it.
    pub(crate) async fn recover(
        &self,
        plan: &RestorePlan,
        copy: &Copy,
        log: &mut dyn LogSource,
    ) -> Result<Reached> {
        copy.parts.lay_out(plan)?;
        let recovery = Recovery { plan, evidence: &copy.evidence, parts: &copy.parts, log };
        self.server.engine().recover(recovery).await
    }

    /// Restores `copy` and reads what came of it; the engine's check must pass.
    pub(crate) async fn restore(
        &self,
        copy: &Copy,
        log: &mut dyn LogSource,
        until: RecoveryTarget,
    ) -> Result<(Bank, Reached), Failure> {
        let plan = self.plan(copy, &until).await?;
        let reached = self.recover(&plan, copy, log).await?;
        let engine = self.server.engine();
        ensure!(!engine.check(&plan).await?.is_empty(), "the check says nothing of what it ran");
        ensure!(!plan.target.exists(), "the target exists before it was published");
        engine.publish(&plan).await?;
        let bank = self.server.bank_at(&plan.target).await?;
        ensure!(bank.is_whole(), "part of a transaction was restored: {bank:?}");
        Ok((bank, reached))
    }

    /// Restores `copy` alone.
    pub(crate) async fn restore_alone(&self, copy: &Copy) -> Result<Bank, Failure> {
        let mut log = Absent;
        let (bank, _) = self.restore(copy, &mut log, RecoveryTarget::Consistent).await?;
        Ok(bank)
    }

    /// Opens a capture at `since` and notes it in `log`.
    pub(crate) async fn capture(
        &self,
        log: &MemoryLog,
        since: Option<&LogMark>,
    ) -> Result<stillpoint_contract::OpenedLog> {
        let opened = self.driver.open_log(since).await?;
        log.open(since, &opened);
        Ok(opened)
    }

    /// Lets the clock move, so that two commits have two times, also where a file system counts
    /// time in steps of some milliseconds.
    pub(crate) async fn tick(&self) {
        self.server.clock().sleep(Duration::from_millis(15)).await;
    }

    /// Waits until the server holds nothing for us any more; cleaning up may take a moment.
    pub(crate) async fn settled(&self) -> Result<(), Failure> {
        let clock = RealClock::new();
        let mut left = self.server.leftovers().await?;
        while !left.is_empty() && clock.elapsed() < Duration::from_secs(5) {
            clock.sleep(Duration::from_millis(5)).await;
            left = self.server.leftovers().await?;
        }
        ensure!(left.is_empty(), "left behind in the server: {left:?}");
        Ok(())
    }
}

/// A [`LogSource`] without any log, for copies that are restored alone.
#[derive(Debug)]
pub(crate) struct Absent;

#[async_trait::async_trait]
impl LogSource for Absent {
    async fn next(&mut self) -> Result<Option<stillpoint_contract::SegmentHead>> {
        Ok(None)
    }

    async fn body(&mut self) -> Result<bytes::Bytes> {
        Err(Error::bug("read a body before a head"))
    }

    async fn reaches(&mut self, _: &stillpoint_contract::LogPosition) -> Result<bool> {
        Ok(false)
    }
}

/// Polls `future` until it was pending more often than `pendings`, then drops it.
pub(crate) async fn abandon<F: Future>(future: F, pendings: u64) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = pendings;
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if left == 0 => Poll::Ready(None),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

/// The kind of error a call must end with.
pub(crate) fn kind_of<T: fmt::Debug>(result: &Result<T>) -> Option<ErrorKind> {
    result.as_ref().err().map(Error::kind)
}
