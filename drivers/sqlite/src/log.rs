//! Log capture: every commit of the write-ahead log, in order, on a thread of its own.

use std::{
    fmt,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use stillpoint_contract::{
    Error, ErrorKind, LogCapture, LogMark, LogPosition, LogSegment, OpenedLog, Result, code,
};
use tokio::sync::oneshot;

use crate::{capture::Capture, connect::Database};

/// How often the log stands being asked for news.
pub(crate) const POLL_PERIOD: Duration = Duration::from_millis(100);

/// How many requests wait for the thread. More than two means that callers drop them unanswered.
const REQUESTS_MAX: usize = 16;

/// How often we look at the log although nobody asks: to date commits, and to move the hold along
/// so that checkpoints of others get through.
const TEND_PERIOD: Duration = Duration::from_millis(50);

enum Request {
    Next(oneshot::Sender<Result<Option<LogSegment>>>),
    Confirm(LogPosition, oneshot::Sender<Result<()>>),
}

/// A capture that runs on a thread of its own. Dropping it ends the thread, and with it every
/// connection, lock and read.
pub(crate) struct CaptureThread {
    requests: SyncSender<Request>,
    /// The answer to a call of `next` that was dropped before it came: the segment is not lost.
    unanswered: Option<oneshot::Receiver<Result<Option<LogSegment>>>>,
}

impl fmt::Debug for CaptureThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaptureThread").finish_non_exhaustive()
    }
}

/// Begins a capture.
pub(crate) async fn open(database: &Database, since: Option<&LogMark>) -> Result<OpenedLog> {
    let (opened, answer) = oneshot::channel();
    let (requests, inbox) = sync_channel(REQUESTS_MAX);
    let (database, since) = (database.clone(), since.cloned());
    let run = move || match Capture::open(&database, since.as_ref()) {
        Err(error) => drop(opened.send(Err(error))),
        Ok((capture, start, gap)) => {
            if opened.send(Ok((start, gap))).is_ok() {
                serve(capture, &inbox);
            } else {
                capture.release();
            }
        }
    };
    thread::Builder::new()
        .name("sqlite-log".to_owned())
        .spawn(run)
        .map_err(|e| Error::new(ErrorKind::Exhausted, code::FILE, "start a thread").caused_by(e))?;
    let (start, gap) = answer.await.map_err(|_| dead())??;
    let capture = Box::new(CaptureThread { requests, unanswered: None });
    Ok(OpenedLog { capture, start, gap })
}

/// Answers until nobody is left to ask.
fn serve(mut capture: Capture, inbox: &Receiver<Request>) {
    loop {
        let patience = capture.patience().unwrap_or(TEND_PERIOD).min(TEND_PERIOD);
        let is_idle = match inbox.recv_timeout(patience) {
            Ok(Request::Next(answer)) => answer.send(capture.next()).is_err(),
            Ok(Request::Confirm(position, answer)) => {
                answer.send(capture.confirm(&position)).is_err()
            }
            Err(RecvTimeoutError::Timeout) => true,
            Err(RecvTimeoutError::Disconnected) => return capture.release(),
        };
        if is_idle {
            // What is wrong is found again by the next request, and reported there.
            if let Err(error) = capture.tend() {
                tracing::debug!(%error, "could not move the hold on the log along");
            }
        }
    }
}

#[async_trait]
impl LogCapture for CaptureThread {
    async fn next(&mut self) -> Result<Option<LogSegment>> {
        if self.unanswered.is_none() {
            let (sender, receiver) = oneshot::channel();
            self.send(Request::Next(sender))?;
            self.unanswered = Some(receiver);
        }
        let Some(receiver) = self.unanswered.as_mut() else { return Err(dead()) };
        let answer = receiver.await;
        self.unanswered = None;
        answer.map_err(|_| dead())?
    }

    async fn confirm(&mut self, position: &LogPosition) -> Result<()> {
        let (sender, answer) = oneshot::channel();
        self.send(Request::Confirm(position.clone(), sender))?;
        answer.await.map_err(|_| dead())?
    }
}

impl CaptureThread {
    fn send(&self, request: Request) -> Result<()> {
        self.requests.try_send(request).map_err(|e| match e {
            TrySendError::Disconnected(_) => dead(),
            TrySendError::Full(_) => {
                Error::new(ErrorKind::Busy, code::DATABASE_BUSY, "ask the log capture")
            }
        })
    }
}

fn dead() -> Error {
    Error::bug("reach the thread that captures the log")
}
