//! `stillpoint report`: what is kept, and proof that the evidence of drills is as it was written.

use clap::{Args, Subcommand};
use serde::Serialize;
use stillpoint_contract::{ErrorKind, Result};

use super::{
    answer::Answer,
    choice::Labels,
    exit, monthly,
    open::{self, Need, Opened},
    page::{Page, Tone, printable},
    retention::report,
    session::Session,
    source::{SourceOptions, Sources},
    units,
};
use crate::repository::VerifyReport;

/// What to do with reports.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check that the evidence of every drill and every report is as it was written.
    ///
    /// Each of them is an entry in the log of the repository, whose entries are chained and signed,
    /// and names the hashes of its evidence: no byte of it can change unnoticed.
    Verify(Options),
    /// Report on a month: what was promised for every database, and what became of it.
    ///
    /// The report is kept in a repository, as JSON and as a page, named by its signed log as the
    /// evidence of drills is. What is not known is left out. Ends with a failure where not every
    /// repository could be looked into; the report is made all the same, and says so.
    Monthly(monthly::Options),
    /// Tell of every database what is kept, by what promise, and until when.
    ///
    /// Of what was retired and of every copy as well. Ends with a failure where not every
    /// repository could be looked into; what could be is told all the same.
    Retention(report::Options),
}

/// What `report verify` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only that of this database.
    database: Option<String>,
    #[command(flatten)]
    labels: Labels,
}

#[derive(Debug, Serialize)]
struct VerifyAnswer {
    intact: bool,
    drills: usize,
    /// Reports on months.
    reports: usize,
    objects: u64,
    bytes: u64,
    log_entries: u64,
    head: String,
    problems: Vec<Problem>,
}

#[derive(Debug, Serialize)]
struct Problem {
    object: String,
    what: String,
}

impl Answer for VerifyAnswer {
    const SCHEMA: &'static str = "report.verify/1";

    fn write(&self, page: &mut Page<'_>) {
        page.line(format!(
            "Verified the evidence of {} and {} ({}) against {} of the log",
            units::count(self.drills as u64, "drill", "drills"),
            units::count(self.reports as u64, "report", "reports"),
            units::bytes(self.bytes),
            units::count(self.log_entries, "entry", "entries"),
        ));
        page.facts(2, &[("newest entry", &self.head)]);
        if self.intact {
            page.line(format!(
                "{}: everything is as it was written",
                page.paint(Tone::Good, "intact")
            ));
            return;
        }
        for problem in &self.problems {
            let (object, what) = (printable(&problem.object), printable(&problem.what));
            page.line(format!("{}: {object}: {what}", page.paint(Tone::Bad, "damaged")));
        }
        page.line(
            "next: restore these objects from another copy of the repository, then verify again",
        );
    }
}

/// Does what is to be done with reports.
pub(crate) async fn run(session: &Session, command: Command) -> Result<u8> {
    match command {
        Command::Verify(options) => verify(session, options).await,
        Command::Monthly(options) => Box::pin(monthly::run(session, options)).await,
        Command::Retention(options) => report::run(session, options).await.map(|()| exit::OK),
    }
}

/// Verifies one repository, or, by labels, each that databases are backed up to.
async fn verify(session: &Session, options: Options) -> Result<u8> {
    if options.labels.labels.is_none() {
        let repository = open::repository(session, Need::Names).await?;
        return verify_in(session, &repository, options.database.map(|name| vec![name])).await;
    }
    let mut worst = exit::OK;
    let of = (&options.labels, Need::Names);
    for (sources, names) in Sources::labelled(session, &SourceOptions::default(), of).await? {
        let repository = sources.first(session).await?.repository;
        worst = worst.max(verify_in(session, &repository, Some(names)).await?);
    }
    Ok(worst)
}

/// Verifies the evidence of some databases, or all that there is.
async fn verify_in(
    session: &Session,
    repository: &Opened,
    names: Option<Vec<String>>,
) -> Result<u8> {
    let is_all = names.is_none();
    let of = names.map_or_else(|| vec![None], |names| names.into_iter().map(Some).collect());
    let (mut report, mut drills) = (VerifyReport::default(), 0);
    for database in &of {
        let one = repository.verify_drills(database.as_deref()).await?;
        report.objects += one.objects;
        report.bytes += one.bytes;
        report.problems.extend(one.problems);
        drills += repository.drills(database.as_deref()).await?.len();
    }
    if is_all {
        let reports = repository.verify_reports().await?;
        report.objects += reports.objects;
        report.bytes += reports.bytes;
        report.problems.extend(reports.problems);
    }
    let history = repository.history().await?;
    let problems = report.problems.into_iter();
    let answer = VerifyAnswer {
        intact: problems.len() == 0,
        drills,
        reports: if is_all { history.reports().count() } else { 0 },
        objects: report.objects,
        bytes: report.bytes,
        log_entries: history.head().seq,
        head: history.head().hash.clone(),
        problems: problems.map(|p| Problem { object: p.object, what: p.what }).collect(),
    };
    session.answer(&answer)?;
    Ok(if answer.intact { exit::OK } else { exit::status(ErrorKind::Corrupt) })
}
