//! `stillpoint backup URL`: copies a database while it is in use.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use clap::Args;
use serde::Serialize;
use stillpoint_contract::Result;

use super::configured;
use crate::{
    cli::{
        answer::Answer,
        choice::Labels,
        config::files,
        examine, exit,
        native::Native,
        open::{self, Need},
        page::{Page, Tone, printable},
        session::Session,
        units,
        wire::{Backup, milliseconds},
    },
    coordinator::{BackupJob, BackupReport, Successor, back_up},
    pipeline::{Meter, compress::Level},
    repository::WriteOptions,
};

/// Connections to the database, and parts copied at once.
const STREAMS_DEFAULT: NonZeroUsize = NonZeroUsize::new(4).expect("four is not zero");

/// What `backup` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The database, as an engine and an address: sqlite:app.db, or postgres://user@host. Or its
    /// name in the configuration: then it goes where that says, and is read back.
    #[arg(value_name = "URL|NAME", required_unless_present = "labels")]
    pub(super) database: Option<String>,
    #[command(flatten)]
    pub(super) labels: Labels,
    /// The name of the database in the repository [default: that of its file or host].
    #[arg(long, value_name = "NAME", conflicts_with = "labels")]
    pub(super) name: Option<String>,
    /// Read everything, also what is known not to have changed.
    #[arg(long)]
    pub(super) full: bool,
    /// Accept that another database has the name from now on, such as one that was re-created in
    /// another place.
    #[arg(long, conflicts_with = "labels")]
    pub(super) new_incarnation: bool,
    /// Connections to the database, and parts copied at once [default: 4].
    #[arg(long, value_name = "NUMBER")]
    pub(super) streams: Option<NonZeroUsize>,
    /// The zstd level of new data, from -5 (fastest) to 9 (smallest) [default: 1 at first, then
    /// whatever keeps processor and repository equally busy].
    #[arg(long, value_name = "LEVEL", allow_negative_numbers = true, value_parser = level)]
    pub(super) level: Option<Level>,
}

fn level(text: &str) -> std::result::Result<Level, String> {
    let allowed = Level::FASTEST.number()..=Level::ARCHIVE.number();
    let number = text.parse().ok().filter(|number| *number != 0 && allowed.contains(number));
    number.map(Level::clamped).ok_or_else(|| "a level is one of -5 to -1 and 1 to 9".to_owned())
}

#[derive(Debug, Serialize)]
pub(super) struct BackupAnswer {
    pub(super) backup: Backup,
    method: String,
    pub(super) read_bytes: u64,
    new_bytes: u64,
    pub(super) elapsed_ms: u64,
    new_incarnation: bool,
}

impl BackupAnswer {
    pub(super) fn of(report: BackupReport, native: Native<'_>) -> Self {
        let commit = &report.committed.commit;
        Self {
            backup: Backup { problem: commit.damage.clone(), ..Backup::of(commit, native) },
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
        if let Some(problem) = &backup.problem {
            let word = page.paint(Tone::Bad, "suspect");
            page.line(format!("  {word}: {}", printable(problem)));
        }
        if self.new_incarnation {
            page.line("  The database was re-created since its last backup: this is the first of");
            page.line("  the new one. The older backups stay, under the same name.");
        }
    }
}

/// Takes the backup, or several.
pub(crate) async fn run(session: &Session, options: Options) -> Result<u8> {
    match &options.database {
        Some(url) if is_url(session, url) => by_url(session, &options, url).await,
        _ => Box::pin(configured::run(session, &options)).await,
    }
}

/// Whether it is the URL of a database, as far as that can be told from a name.
fn is_url(session: &Session, text: &str) -> bool {
    examine::is_database(session, text) || !files::are_there(session)
}

async fn by_url(session: &Session, options: &Options, url: &str) -> Result<u8> {
    let (engine, endpoint) = session.endpoint(url)?;
    let name = match &options.name {
        Some(name) => name.clone(),
        None => engine.default_name(&endpoint)?,
    };
    let repository = open::repository(session, Need::Content).await?;
    let job = BackupJob {
        engine: &*engine,
        endpoint: &endpoint,
        database: &name,
        full: options.full,
        successor: if options.new_incarnation { Successor::Anybody } else { Successor::InPlace },
        streams_max: options.streams.unwrap_or(STREAMS_DEFAULT),
        options: WriteOptions { level: options.level, ..WriteOptions::default() },
        task: None,
        configuration: None,
    };
    let meter = Arc::new(Meter::default());
    let work = back_up(&session.world, &repository, job, &meter);
    let report = session.watch(&name, &meter, Box::pin(work)).await?;
    repository.remember().await?;
    session.answer(&BackupAnswer::of(report, session.native()))?;
    Ok(exit::OK)
}
