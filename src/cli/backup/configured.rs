//! `stillpoint backup NAME` and `backup -l LABELS`: databases of the configuration, one after the
//! other, each as those that serve would back it up.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::Serialize;
use stillpoint_contract::{Error, ErrorKind, Result, code, quoted};

use super::run::{BackupAnswer, Options};
use crate::{
    cli::{
        answer::Answer,
        config::reach,
        drill, exit,
        open::Opened,
        page::{Page, Table, Tone, printable},
        pickup,
        serve::Holding,
        session::Session,
        units,
    },
    config::Database,
    coordinator::{BackupJob, BackupReport, Member, Successor, back_up, read_back, told},
    pipeline::Meter,
    repository::WriteOptions,
};

const SUCCEEDED: &str = "succeeded";
const FAILED: &str = "failed";
const SKIPPED: &str = "skipped";

#[derive(Debug, Serialize)]
struct BackupsAnswer {
    databases: Vec<Row>,
}

/// What became of one database.
#[derive(Debug, Serialize)]
struct Row {
    database: String,
    repository: String,
    /// `succeeded`, `failed` or `skipped`.
    outcome: &'static str,
    /// Why it failed, or was left alone; or what was taken of what an application left.
    why: Option<String>,
    /// The backup, as `backup` tells it of a single one.
    made: Option<BackupAnswer>,
}

impl Answer for BackupsAnswer {
    const SCHEMA: &'static str = "backups/1";

    fn write(&self, page: &mut Page<'_>) {
        let heading = ["DATABASE", "REPOSITORY", "RESULT", "BACKUP", ">SIZE", ">READ", ">TOOK"];
        let mut table = Table::new(&heading);
        for row in &self.databases {
            let of = |cell: fn(&BackupAnswer) -> String| {
                row.made.as_ref().map_or_else(|| "-".to_owned(), cell)
            };
            table.row(vec![
                row.database.clone(),
                row.repository.clone(),
                if row.outcome == FAILED { "FAILED".to_owned() } else { row.outcome.to_owned() },
                of(|made| made.backup.id.clone()),
                of(|made| units::bytes(made.backup.size_bytes)),
                of(|made| units::bytes(made.read_bytes)),
                of(|made| units::duration(Duration::from_millis(made.elapsed_ms))),
            ]);
        }
        page.table(&table);
        page.blank();
        let of = |word| self.databases.iter().filter(|row| row.outcome == word).count();
        let counts = [SUCCEEDED, FAILED, SKIPPED].map(|word| (of(word), word));
        let some = counts.iter().filter(|(count, _)| *count > 0);
        let some: Vec<_> = some.map(|(count, word)| format!("{count} {word}")).collect();
        page.line(some.join("  "));
        for row in &self.databases {
            let Some(why) = &row.why else { continue };
            let tone = match row.outcome {
                FAILED => Tone::Bad,
                SKIPPED => Tone::Warning,
                _ => Tone::Good,
            };
            let word = page.paint(tone, row.outcome);
            page.line(format!("{}: {word}: {}", printable(&row.database), printable(why)));
        }
    }
}

/// Repositories that are open, by name.
type Shelf = BTreeMap<String, Opened>;

/// Backs up the one that was named, or those that fit.
pub(super) async fn run(session: &Session, options: &Options) -> Result<u8> {
    if let Some(place) = &session.global.repo {
        let step = "back up a database of the configuration";
        return Err(Error::new(ErrorKind::Invalid, code::USAGE, step)
            .with("--repo", place)
            .why("the configuration says where it is backed up to")
            .next("leave --repo out, or give the URL of the database"));
    }
    if let Some(name) = &options.name {
        let step = "give another name to a database of the configuration";
        return Err(Error::new(ErrorKind::Invalid, code::USAGE, step)
            .with("--name", name)
            .next("leave --name out, or give the URL of the database"));
    }
    let holding = Holding::of(session).await?;
    let name = options.database.as_deref();
    let chosen = options.labels.of(&holding.config.databases, name);
    let chosen = chosen.map_err(|error| match name {
        Some(_) => error.next("or by its URL: stillpoint backup sqlite:app.db"),
        None => error,
    })?;
    let mut shelf = Shelf::new();
    if let (Some(_), [database]) = (name, chosen.as_slice()) {
        let member = holding.member(session, database).await?;
        if let Some(rest) = holding.rest(session, &member) {
            return Err(rest.refuse(&member.name));
        }
        if reach::drop_folder(database).is_some() {
            let step = "back up what only leaves files";
            return Err(Error::new(ErrorKind::Refused, code::CONFIG_VALUE, step)
                .with("database", &database.name)
                .next(format!("stillpoint pickup run {}", quoted(&database.name))));
        }
        let repository = opened(session, &holding, &mut shelf, database).await?;
        let report = one(session, options, (&member, repository), &holding.digest).await?;
        session.answer(&BackupAnswer::of(report, session.native()))?;
        return Ok(exit::OK);
    }
    let (mut databases, mut worst) = (Vec::new(), exit::OK);
    for database in chosen {
        let (outcome, why, made) =
            match Box::pin(turn(session, options, (&holding, database), &mut shelf)).await {
                Ok(Turn::Made(report)) => {
                    (SUCCEEDED, None, Some(BackupAnswer::of(*report, session.native())))
                }
                Ok(Turn::Took(what)) => (SUCCEEDED, Some(what), None),
                Ok(Turn::Skipped(why)) => (SKIPPED, Some(why), None),
                Err(error) => {
                    worst = worst.max(exit::status(error.kind()));
                    (FAILED, Some(told(&error)), None)
                }
            };
        let (database, repository) = (database.name.clone(), database.repository.clone());
        databases.push(Row { database, repository, outcome, why, made });
    }
    session.answer(&BackupsAnswer { databases })?;
    Ok(worst)
}

/// What became of one of several, unless it failed.
enum Turn {
    Made(Box<BackupReport>),
    /// What an application had left.
    Took(String),
    Skipped(String),
}

async fn turn(
    session: &Session,
    options: &Options,
    (holding, database): (&Holding, &Database),
    shelf: &mut Shelf,
) -> Result<Turn> {
    let member = holding.member(session, database).await?;
    if let Some(rest) = holding.rest(session, &member) {
        return Ok(Turn::Skipped(rest.why));
    }
    // What is only watched is backed up where a person names it.
    if member.is_observed {
        return Ok(Turn::Skipped("it is only watched: mode = \"observe\"".to_owned()));
    }
    let repository = opened(session, holding, shelf, database).await?;
    let Some(folder) = reach::drop_folder(database) else {
        return one(session, options, (&member, repository), &holding.digest)
            .await
            .map(|report| Turn::Made(Box::new(report)));
    };
    let scratch = drill::place(&session.environment, None);
    let place = (&scratch, holding.digest.as_str());
    let dumps = pickup::take(session, repository, (database, &folder), place).await?;
    if let Some((dump, problem)) = dumps.iter().find_map(|d| Some((d, d.problem.as_ref()?))) {
        return Err(Error::new(
            ErrorKind::Refused,
            code::CONFIG_VALUE,
            "take a file that was left",
        )
        .with("file", &dump.name)
        .why(problem.clone()));
    }
    let taken: Vec<&str> = dumps.iter().filter_map(|dump| dump.backup.as_deref()).collect();
    Ok(match taken.as_slice() {
        [] => Turn::Skipped("no file was left since".to_owned()),
        taken => Turn::Took(format!("backup {}", taken.join(", "))),
    })
}

/// The repository of a database.
async fn opened<'a>(
    session: &Session,
    holding: &Holding,
    shelf: &'a mut Shelf,
    database: &Database,
) -> Result<&'a Opened> {
    let name = &database.repository;
    if !shelf.contains_key(name) {
        let opened = reach::repository(session, &holding.config, name).await?;
        shelf.insert(name.clone(), opened);
    }
    shelf.get(name).ok_or_else(|| Error::bug("find an open repository"))
}

/// Backs one up and reads it back.
async fn one(
    session: &Session,
    options: &Options,
    (member, repository): (&Member, &Opened),
    configuration: &str,
) -> Result<BackupReport> {
    let job = member.backup()?;
    let job = BackupJob {
        full: options.full,
        successor: if options.new_incarnation { Successor::Anybody } else { job.successor },
        streams_max: options.streams.unwrap_or(job.streams_max),
        options: WriteOptions { level: options.level, ..job.options },
        configuration: Some(configuration),
        ..job
    };
    let meter = Arc::new(Meter::default());
    let work = async {
        let report = back_up(&session.world, repository, job, &meter).await?;
        let found = read_back(repository, &report.committed, &meter).await?;
        Ok((report, found))
    };
    let (report, found) = session.watch(&member.name, &meter, Box::pin(work)).await?;
    repository.remember().await?;
    let Some(first) = found.problems.first() else { return Ok(report) };
    Err(Error::new(ErrorKind::Corrupt, code::CORRUPT_OBJECT, "read back what was backed up")
        .with("backup", &report.committed.commit.backup)
        .with("damaged", found.problems.len())
        .with("first", format!("{}: {}", first.object, first.what)))
}
