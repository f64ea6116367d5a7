//! `stillpoint logs stream`: captures a database's log until stopped.

use std::{
    future::Future,
    io::Read,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use clap::Args;
use serde::Serialize;
use stillpoint_contract::{Engine, Result};

use super::{
    answer::{Answer, Format, Stamp},
    open::{self, Need},
    page::{Page, printable},
    process,
    session::{Session, length},
    units,
};
use crate::coordinator::{self, CaptureEvent, CaptureJob, CaptureReport, Process, capture};

/// How often a text answer tells how far the capture is, where nobody asked for more.
const NEWS_PERIOD: Duration = Duration::from_mins(1);

/// What `logs stream` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The database, as an engine and an address: sqlite:app.db, or postgres://user@host.
    #[arg(value_name = "URL")]
    database: String,
    /// The name of the database in the repository [default: that of its file or host].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// How long a commit may wait, for company, before it is stored; at most that much is lost
    /// when this machine is.
    #[arg(long, value_name = "LENGTH", default_value = "1s")]
    flush: String,
    /// How long to wait out what may pass by itself once the capture runs, such as a restart of
    /// the server, before giving up.
    #[arg(long, value_name = "LENGTH", default_value = "1h")]
    retry_for: String,
    /// Take over from a capture that seems to be running.
    #[arg(long)]
    take_over: bool,
    /// Stop, cleanly, when standard input ends.
    #[arg(long)]
    stop_at_eof: bool,
}

/// One event of a capture; the only answer that is printed more than once.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum StreamAnswer {
    Started {
        database: String,
        stream: String,
        position: String,
        engine_position: String,
        gap: Option<String>,
        joins_backup: bool,
    },
    Interrupted {
        reason: String,
    },
    Stored {
        position: String,
        engine_position: String,
        at: Option<Stamp>,
        transactions: u64,
        stored_bytes: u64,
    },
    Stopped {
        stream: String,
        position: String,
        engine_position: String,
        segments: u64,
        transactions: u64,
        stored_bytes: u64,
    },
}

impl Answer for StreamAnswer {
    const SCHEMA: &'static str = "logs.stream/1";

    fn write(&self, page: &mut Page<'_>) {
        match self {
            Self::Started { database, engine_position: position, .. } => {
                page.line(format!("Capturing the log of {} from {position}", printable(database)));
            }
            Self::Interrupted { reason } => {
                page.line(format!("Interrupted, trying again: {}", printable(reason)));
            }
            Self::Stored { engine_position: position, at, transactions, stored_bytes, .. } => {
                let at = at.map_or_else(String::new, |at| format!(" of {}", page.time(at.0)));
                let commits = units::count(*transactions, "commit", "commits");
                let size = units::bytes(*stored_bytes);
                page.line(format!("Stored {commits}{at} in {size}, up to {position}"));
            }
            Self::Stopped { engine_position: position, transactions, stored_bytes, .. } => {
                let commits = units::count(*transactions, "commit", "commits");
                let size = units::bytes(*stored_bytes);
                page.line(format!("Stopped at {position}: {commits} captured, {size} stored"));
            }
        }
    }
}

impl StreamAnswer {
    fn of(report: CaptureReport, engine: &dyn Engine) -> Self {
        Self::Stopped {
            engine_position: engine.render(&report.position),
            stream: report.stream,
            position: report.position.to_string(),
            segments: report.segments,
            transactions: report.transactions,
            stored_bytes: report.stored_bytes,
        }
    }
}

/// Captures until a signal comes or, if so asked, standard input ends.
pub(crate) async fn run(session: &Session, options: Options) -> Result<()> {
    let (engine, endpoint) = session.endpoint(&options.database)?;
    let flush = length(&options.flush)?;
    let name = match options.name {
        Some(name) => name,
        None => engine.default_name(&endpoint)?,
    };
    let repository = open::repository(session, Need::Content).await?;
    let process = process::own();
    let job = CaptureJob {
        engine: &*engine,
        endpoint: &endpoint,
        database: &name,
        flush,
        retry_for: length(&options.retry_for)?,
        take_over: options.take_over,
        process: Process { name: process.as_deref(), is_gone: &process::is_gone },
    };
    let news = Arc::new(Mutex::new(News::default()));
    let tell = |event| {
        let mut news = news.lock().unwrap_or_else(PoisonError::into_inner);
        news.hear(session, &*engine, (&name, &options.database), event);
    };
    let stop = stopped(session, options.stop_at_eof);
    let report = capture(&session.world, &repository, job, stop, tell).await?;
    session.answer(&StreamAnswer::of(report, &*engine))
}

/// What `logs retire` is told.
#[derive(Debug, Args)]
pub(crate) struct RetireOptions {
    /// The database, as an engine and an address.
    #[arg(value_name = "URL")]
    database: String,
    /// The name of the database in the repository [default: that of its file or host].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

#[derive(Debug, Serialize)]
struct RetireAnswer {
    database: String,
    dropped: Option<String>,
}

impl Answer for RetireAnswer {
    const SCHEMA: &'static str = "logs.retire/1";

    fn write(&self, page: &mut Page<'_>) {
        let database = printable(&self.database);
        match &self.dropped {
            Some(dropped) => page.line(format!("Dropped {dropped} of {database}")),
            None => page.line(format!("The server keeps nothing for captures of {database}")),
        }
    }
}

/// Lets a server forget what it keeps for captures.
pub(crate) async fn retire(session: &Session, options: RetireOptions) -> Result<()> {
    let (engine, endpoint) = session.endpoint(&options.database)?;
    let name = match options.name {
        Some(name) => name,
        None => engine.default_name(&endpoint)?,
    };
    let repository = open::repository(session, Need::Content).await?;
    let process = process::own();
    let job = CaptureJob {
        engine: &*engine,
        endpoint: &endpoint,
        database: &name,
        flush: Duration::ZERO,
        retry_for: Duration::ZERO,
        take_over: false,
        process: Process { name: process.as_deref(), is_gone: &process::is_gone },
    };
    let dropped = coordinator::retire(&repository, job).await?;
    session.answer(&RetireAnswer { database: name, dropped })
}

/// What was stored since it was last told.
#[derive(Debug, Default)]
struct News {
    told_at: Duration,
    transactions: u64,
    stored_bytes: u64,
}

impl News {
    fn hear(
        &mut self,
        session: &Session,
        engine: &dyn Engine,
        (database, url): (&str, &str),
        event: CaptureEvent,
    ) {
        let answer = match event {
            CaptureEvent::Started { stream, position, gap, is_anchored } => {
                warn_at_start(session, url, gap.as_deref(), is_anchored);
                self.told_at = session.world.clock.elapsed();
                StreamAnswer::Started {
                    database: database.to_owned(),
                    stream,
                    engine_position: engine.render(&position),
                    position: position.to_string(),
                    gap,
                    joins_backup: is_anchored,
                }
            }
            CaptureEvent::Interrupted { reason } => StreamAnswer::Interrupted { reason },
            CaptureEvent::Stored { position, at, transactions, stored_bytes } => {
                self.transactions += transactions;
                self.stored_bytes += stored_bytes;
                if !self.is_due(session) {
                    return;
                }
                let (at, engine_position) = (at.map(Stamp), engine.render(&position));
                let position = position.to_string();
                let (transactions, stored_bytes) = (self.transactions, self.stored_bytes);
                (self.transactions, self.stored_bytes) = (0, 0);
                self.told_at = session.world.clock.elapsed();
                StreamAnswer::Stored { position, engine_position, at, transactions, stored_bytes }
            }
        };
        // Capture goes on when nobody listens: standard output may be closed or full.
        if let Err(error) = session.answer(&answer) {
            tracing::warn!("cannot tell how far the capture is: {error}");
        }
    }

    fn is_due(&self, session: &Session) -> bool {
        let is_asked = session.global.output == Format::Json || session.global.verbose > 0;
        let since = session.world.clock.elapsed().saturating_sub(self.told_at);
        is_asked || (!session.global.quiet && since >= NEWS_PERIOD)
    }
}

fn warn_at_start(session: &Session, url: &str, gap: Option<&str>, is_anchored: bool) {
    if let Some(gap) = gap {
        session.warn(&format!("the log has a gap before this point: {gap}"));
    }
    if !is_anchored {
        session.note(&format!(
            "No backup joins this log yet. Take one now: stillpoint backup {}",
            printable(url)
        ));
    }
}

/// Becomes ready when the capture shall stop.
fn stopped(session: &Session, at_eof: bool) -> impl Future<Output = ()> {
    let mut signal = session.stop.clone();
    let (tell, eof) = tokio::sync::oneshot::channel();
    if at_eof {
        // A thread of its own: a blocking read would keep the runtime from ending.
        std::thread::spawn(move || {
            let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
            let _ = tell.send(());
        });
    }
    async move {
        let ended = async {
            match (at_eof, eof.await) {
                (true, Ok(())) => {}
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = signal.wait_for(Option::is_some) => {}
            () = ended => {}
        }
    }
}
