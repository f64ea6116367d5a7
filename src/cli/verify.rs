//! `stillpoint verify`: reads backups back and proves that they are intact.

use std::{sync::Arc, time::Duration};

use clap::Args;
use serde::Serialize;
use stillpoint_contract::{ErrorKind, Result};

use super::{
    answer::Answer,
    choice::Labels,
    exit,
    open::{Need, Opened},
    page::{Page, Tone, printable},
    session::Session,
    source::{SourceOptions, Sources},
    units,
    wire::milliseconds,
};
use crate::{
    pipeline::Meter,
    repository::{VerifyReport, history::Committed},
};

/// What `verify` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The backups, or how their ids begin; all, and all captured log, if none is given.
    #[arg(value_name = "BACKUP", conflicts_with = "labels")]
    backups: Vec<String>,
    /// All backups and the captured log of this database.
    #[arg(long, value_name = "NAME", conflicts_with = "backups")]
    database: Option<String>,
    #[command(flatten)]
    labels: Labels,
    /// Hash every object and compare it with its name, instead of decoding it. Needs no key.
    #[arg(long, conflicts_with_all = ["backups", "database", "labels"])]
    keyless: bool,
    #[command(flatten)]
    source: SourceOptions,
}

#[derive(Debug, Serialize)]
struct VerifyAnswer {
    intact: bool,
    method: &'static str,
    backups: u64,
    objects: u64,
    bytes: u64,
    elapsed_ms: u64,
    problems: Vec<Problem>,
    /// Objects that were damaged or missing, and were brought back from another copy.
    repaired: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Problem {
    object: String,
    what: String,
    backups: Vec<String>,
}

impl VerifyAnswer {
    fn new(method: &'static str) -> Self {
        Self {
            intact: true,
            method,
            backups: 0,
            objects: 0,
            bytes: 0,
            elapsed_ms: 0,
            problems: Vec::new(),
            repaired: Vec::new(),
        }
    }

    fn add(&mut self, report: VerifyReport) {
        self.backups += report.backups;
        self.objects += report.objects;
        self.bytes += report.bytes;
        self.problems.extend(report.problems.into_iter().map(|problem| Problem {
            object: problem.object,
            what: problem.what,
            backups: problem.backups,
        }));
        self.intact = self.problems.is_empty();
    }

    /// Adds what was found elsewhere.
    fn join(&mut self, other: Self) {
        self.backups += other.backups;
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.problems.extend(other.problems);
        self.repaired.extend(other.repaired);
        self.intact = self.problems.is_empty();
    }
}

impl Answer for VerifyAnswer {
    const SCHEMA: &'static str = "verify/1";

    fn write(&self, page: &mut Page<'_>) {
        let took = Duration::from_millis(self.elapsed_ms);
        page.line(format!(
            "Verified {} ({}, {}) in {}",
            units::count(self.backups, "backup", "backups"),
            units::bytes(self.bytes),
            self.method,
            units::duration(took)
        ));
        for object in &self.repaired {
            page.line(format!("{}: {}", page.paint(Tone::Good, "repaired"), printable(object)));
        }
        if self.intact {
            page.line(format!(
                "{}: everything is as it was written",
                page.paint(Tone::Good, "intact")
            ));
            return;
        }
        for problem in &self.problems {
            page.line(format!(
                "{}: {}: {}",
                page.paint(Tone::Bad, "damaged"),
                printable(&problem.object),
                printable(&problem.what)
            ));
            if !problem.backups.is_empty() {
                page.line(format!("    affects {}", problem.backups.join(", ")));
            }
        }
        page.line(
            "next: restore these objects from another copy of the repository, then verify again",
        );
    }
}

/// Verifies. The exit status says whether everything is intact.
pub(crate) async fn run(session: &Session, options: Options) -> Result<u8> {
    let start = session.world.clock.elapsed();
    let meter = Arc::new(Meter::default());
    let need = if options.keyless { Need::Names } else { Need::Content };
    let groups = if options.labels.labels.is_some() {
        let all = Sources::labelled(session, &options.source, (&options.labels, need)).await?;
        all.into_iter().map(|(sources, names)| (sources, Some(names))).collect()
    } else {
        let database = options.database.as_deref();
        let sources = Sources::of(session, &options.source, (database, need)).await?;
        vec![(sources, options.database.map(|name| vec![name]))]
    };
    let mut answer = VerifyAnswer::new(if options.keyless { "hashed" } else { "decoded" });
    for (sources, mut databases) in groups {
        let repository = sources.first(session).await?.repository;
        if options.keyless {
            answer.add(session.watch("verify", &meter, repository.verify_names(&meter)).await?);
            continue;
        }
        if let (Some(names), true) = (&mut databases, options.labels.labels.is_some()) {
            let known = repository.databases().await?;
            names.retain(|name| known.contains(name));
        }
        let what = What { backups: &options.backups, databases: databases.as_deref() };
        let found = decode(session, &repository, what, &meter).await?;
        let found = repair(session, (&sources, &repository), what, (found, &meter));
        answer.join(Box::pin(found).await?);
    }
    let took = session.world.clock.elapsed().saturating_sub(start);
    answer.elapsed_ms = milliseconds(took);
    session.answer(&answer)?;
    Ok(if answer.intact { exit::OK } else { exit::status(ErrorKind::Corrupt) })
}

/// What is verified: these backups, or else everything of these databases, or of all.
#[derive(Clone, Copy)]
struct What<'a> {
    backups: &'a [String],
    databases: Option<&'a [String]>,
}

/// Brings back what is damaged from another copy, where a configuration names one, and looks again.
async fn repair(
    session: &Session,
    (sources, repository): (&Sources, &Opened),
    what: What<'_>,
    (found, meter): (VerifyAnswer, &Arc<Meter>),
) -> Result<VerifyAnswer> {
    if found.intact {
        return Ok(found);
    }
    let (backups, mut databases) = chosen(repository, what).await?;
    databases.extend(backups.into_iter().map(|backup| backup.commit.database));
    databases.sort();
    databases.dedup();
    let names: Vec<&str> = databases.iter().map(String::as_str).collect();
    let mended = Box::pin(sources.mend(session, repository, &names)).await;
    if mended.is_empty() {
        return Ok(found);
    }
    let mut answer = decode(session, repository, what, meter).await?;
    answer.repaired = mended.into_iter().map(|(object, _)| object).collect();
    Ok(answer)
}

async fn decode(
    session: &Session,
    repository: &Opened,
    what: What<'_>,
    meter: &Arc<Meter>,
) -> Result<VerifyAnswer> {
    let mut answer = VerifyAnswer::new("decoded");
    if what.backups.is_empty() && what.databases.is_none() {
        // Decoding sees no damage where nothing was to be decoded: key slots, indexes, tables.
        let work = repository.verify_names(meter);
        let report = session.watch("verify", meter, work).await?;
        answer.add(VerifyReport { backups: 0, bytes: 0, ..report });
    }
    let (backups, databases) = chosen(repository, what).await?;
    meter.begin("decode", backups.iter().map(|backup| backup.commit.size_bytes).sum());
    for committed in &backups {
        let work = repository.verify_backup(committed, meter);
        let report = session.watch("verify", meter, work).await?;
        if let Err(error) = repository.prove(committed, &report).await {
            // What was found is what was asked for; retention takes the backup for unproven.
            let backup = &committed.commit.backup;
            session.warn(&format!("what was found about {backup} is not recorded: {error}"));
        }
        answer.add(report);
    }
    repository.remember().await?;
    for database in &databases {
        answer.add(repository.verify_log(database).await?);
    }
    Ok(answer)
}

/// The backups to verify, and the databases whose captured log to verify.
async fn chosen(repository: &Opened, what: What<'_>) -> Result<(Vec<Committed>, Vec<String>)> {
    if !what.backups.is_empty() {
        let mut backups = Vec::new();
        for id in what.backups {
            backups.push(repository.find_backup(id).await?);
        }
        return Ok((backups, Vec::new()));
    }
    let databases = match what.databases {
        Some(names) => names.to_vec(),
        None => repository.databases().await?,
    };
    let mut backups = Vec::new();
    for database in &databases {
        backups.extend(repository.timeline(database).await?.backups);
    }
    Ok((backups, databases))
}
