//! `stillpoint pickup`: files that applications left, taken as backups.

use std::{path::Path, sync::Arc};

use clap::{Args, Subcommand};
use serde::Serialize;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    answer::Answer,
    choice::Labels,
    config::reach,
    drill, exit,
    open::Opened,
    page::{Page, Tone, printable},
    serve::{applied_already, found, written_digest},
    session::Session,
};
use crate::{
    config::Database,
    coordinator::{Dump, PickUp, ScratchPlace, Successor, pick_up},
    pipeline::Meter,
};

/// What to do with files that were left.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Take what was left, now.
    ///
    /// Of databases whose endpoint is `pickup:FOLDER`: every file with a marker `NAME.ready` beside
    /// it that stands still, is what the marker says, and is a complete database. `NAME.done` says
    /// that it was taken; the file is never removed. Files that are not complete end it with 5.
    Run(RunOptions),
}

/// What `pickup run` is told.
#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    /// The database [default: all that have a folder].
    database: Option<String>,
    #[command(flatten)]
    labels: Labels,
}

#[derive(Debug, Serialize)]
struct RunAnswer {
    databases: Vec<Ran>,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Ran {
    database: String,
    folder: String,
    files: Vec<Taken>,
}

/// What became of a file.
#[derive(Debug, Serialize)]
struct Taken {
    file: String,
    backup: Option<String>,
    problem: Option<String>,
}

impl From<Dump> for Taken {
    fn from(Dump { name: file, backup, problem }: Dump) -> Self {
        Self { file, backup, problem }
    }
}

impl Answer for RunAnswer {
    const SCHEMA: &'static str = "pickup.run/1";

    fn write(&self, page: &mut Page<'_>) {
        if self.databases.is_empty() {
            page.line("No database has a folder in which files are left.");
        }
        for ran in &self.databases {
            let name = printable(&ran.database);
            if ran.files.is_empty() {
                page.line(format!("{name}: no file was left since"));
            }
            for file in &ran.files {
                let (word, said) = match (&file.backup, &file.problem) {
                    (Some(backup), _) => (page.paint(Tone::Good, "taken"), backup.clone()),
                    (None, problem) => {
                        let said = printable(problem.as_deref().unwrap_or_default());
                        (page.paint(Tone::Bad, "not taken"), said)
                    }
                };
                page.line(format!("{name}: {} {word}: {said}", printable(&file.file)));
            }
        }
    }
}

/// Does it.
pub(crate) async fn run(session: &Session, command: Command) -> Result<u8> {
    let Command::Run(options) = command;
    let configured = found(session).await?.config;
    let held = applied_already(session, &configured.coordinator).await?;
    let config = held.as_ref().map_or(&configured, |held| held.config());
    let digest = match &held {
        Some(held) => held.digest.clone(),
        None => written_digest(session)?,
    };
    let scratch = drill::place(&session.environment, None);
    let mut answer = RunAnswer { databases: Vec::new(), warnings: Vec::new() };
    let mut failures: Vec<Error> = Vec::new();
    for database in options.labels.of(&config.databases, options.database.as_deref())? {
        let Some(folder) = reach::drop_folder(database) else {
            if options.database.is_some() {
                let step = "pick files up";
                return Err(Error::new(ErrorKind::Invalid, code::CONFIG_VALUE, step)
                    .with("database", &database.name)
                    .why("its endpoint is no folder in which files are left")
                    .next("endpoint = \"pickup:FOLDER\""));
            }
            continue;
        };
        let work = async {
            let repository = reach::repository(session, config, &database.repository).await?;
            take(session, &repository, (database, &folder), (&scratch, &digest)).await
        };
        match Box::pin(work).await {
            Ok(dumps) => answer.databases.push(Ran {
                database: database.name.clone(),
                folder: folder.display().to_string(),
                files: dumps.into_iter().map(Taken::from).collect(),
            }),
            Err(error) => failures.push(error.with("database", &database.name)),
        }
    }
    answer.warnings = failures.iter().skip(1).map(ToString::to_string).collect();
    answer.warnings.iter().for_each(|warning| session.warn(warning));
    let mut files = answer.databases.iter().flat_map(|ran| &ran.files);
    let is_refused = files.any(|file| file.backup.is_none());
    if !answer.databases.is_empty() || failures.is_empty() {
        session.answer(&answer)?;
    }
    match failures.into_iter().next() {
        Some(first) => Err(first),
        None if is_refused => Ok(exit::status(ErrorKind::Refused)),
        None => Ok(exit::OK),
    }
}

/// Takes what was left of one database.
pub(crate) async fn take(
    session: &Session,
    repository: &Opened,
    (database, folder): (&Database, &Path),
    (scratch, configuration): (&ScratchPlace, &str),
) -> Result<Vec<Dump>> {
    let meter = Arc::new(Meter::default());
    let (engine, _) = reach::endpoint(session, database).await?;
    let job = PickUp {
        engine: &*engine,
        folder,
        database: &database.name,
        successor: Successor::InPlace,
        scratch,
        configuration: Some(configuration),
    };
    let work = Box::pin(pick_up(&session.world, repository, &job, &meter));
    let dumps = session.watch(&database.name, &meter, work).await;
    repository.remember().await?;
    dumps
}
