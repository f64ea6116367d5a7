//! `stillpoint backup`: copies a database while it is in use.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use clap::Args;
use serde::Serialize;
use stillpoint_contract::Result;

use super::{
    answer::Answer,
    native::Native,
    open::{self, Need},
    page::{Page, printable},
    session::Session,
    units,
    wire::{Backup, milliseconds},
};
use crate::{
    coordinator::{BackupJob, BackupReport, Successor, back_up},
    pipeline::{Meter, compress::Level},
    repository::WriteOptions,
};

/// Connections to the database, and parts copied at once.
const STREAMS_DEFAULT: NonZeroUsize = NonZeroUsize::new(4).expect("four is not zero");

/// What `backup` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The database, as an engine and an address: sqlite:app.db, or postgres://user@host.
    #[arg(value_name = "URL")]
    database: String,
    /// The name of the database in the repository [default: that of its file or host].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Read everything, also what is known not to have changed.
    #[arg(long)]
    full: bool,
    /// Accept that another database has the name from now on, such as one that was re-created in
    /// another place.
    #[arg(long)]
    new_incarnation: bool,
    /// Connections to the database, and parts copied at once.
    #[arg(long, value_name = "NUMBER", default_value_t = STREAMS_DEFAULT)]
    streams: NonZeroUsize,
    /// The zstd level of new data, from -5 (fastest) to 9 (smallest) [default: 1 at first, then
    /// whatever keeps processor and repository equally busy].
    #[arg(long, value_name = "LEVEL", allow_negative_numbers = true, value_parser = level)]
    level: Option<Level>,
}

fn level(text: &str) -> std::result::Result<Level, String> {
    let allowed = Level::FASTEST.number()..=Level::ARCHIVE.number();
    let number = text.parse().ok().filter(|number| *number != 0 && allowed.contains(number));
    number.map(Level::clamped).ok_or_else(|| "a level is one of -5 to -1 and 1 to 9".to_owned())
}

#[derive(Debug, Serialize)]
struct BackupAnswer {
    backup: Backup,
    method: String,
    read_bytes: u64,
    new_bytes: u64,
    elapsed_ms: u64,
    new_incarnation: bool,
}

impl BackupAnswer {
    fn of(report: BackupReport, native: Native<'_>) -> Self {
        Self {
            backup: Backup::of(&report.committed.commit, native),
            method: report.method,
            read_bytes: report.written_bytes,
            new_bytes: report.new_bytes,
            elapsed_ms: milliseconds(report.took),
            new_incarnation: report.is_new_incarnation,
        }
    }
}

impl Answer for BackupAnswer {
    const SCHEMA: &'static str = "backup/1";

    fn write(&self, page: &mut Page<'_>) {
        let backup = &self.backup;
        let took = Duration::from_millis(self.elapsed_ms);
        page.line(format!(
            "Backed up {} in {}",
            printable(&backup.database),
            units::duration(took)
        ));
        let size = units::bytes(backup.size_bytes);
        page.facts(
            2,
            &[
                ("backup", backup.id.clone()),
                ("state at", page.time(backup.at.0)),
                ("method", format!("{}, {}", backup.kind(), self.method)),
                ("size", format!("{size}, of which {} read", units::bytes(self.read_bytes))),
                (
                    "stored",
                    format!(
                        "{} for {} in new chunks",
                        units::bytes(backup.stored_bytes),
                        units::bytes(self.new_bytes)
                    ),
                ),
            ],
        );
        if self.new_incarnation {
            page.line("  The database was re-created since its last backup: this is the first of");
            page.line("  the new one. The older backups stay, under the same name.");
        }
    }
}

/// Takes the backup.
pub(crate) async fn run(session: &Session, options: Options) -> Result<()> {
    let (engine, endpoint) = session.endpoint(&options.database)?;
    let name = match options.name {
        Some(name) => name,
        None => engine.default_name(&endpoint)?,
    };
    let repository = open::repository(session, Need::Content).await?;
    let job = BackupJob {
        engine: &*engine,
        endpoint: &endpoint,
        database: &name,
        full: options.full,
        successor: if options.new_incarnation { Successor::Anybody } else { Successor::InPlace },
        streams_max: options.streams,
        options: WriteOptions { level: options.level, ..WriteOptions::default() },
        task: None,
    };
    let meter = Arc::new(Meter::default());
    let work = back_up(&session.world, &repository, job, &meter);
    let report = session.watch(&name, &meter, Box::pin(work)).await?;
    repository.remember().await?;
    session.answer(&BackupAnswer::of(report, session.native()))
}
