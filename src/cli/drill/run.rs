//! `stillpoint drill run`: brings a point back into a sandbox and looks at it in every way.

use std::{
    fs::{DirBuilder, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use chrono::SecondsFormat;
use clap::{Args, Subcommand};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{html, show};
use crate::{
    cli::{
        choice::{Labels, each},
        environment::Environment,
        exit,
        open::{Need, Opened},
        restore::wanted,
        run::out_of_time,
        session::Session,
        source::{self, SourceOptions, Sources},
    },
    coordinator::{self, DrillJob, Expectation, ScratchPlace, Wanted, Way},
    pipeline::Meter,
};

/// What to do with drills.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Restore a point into a throw-away server, check everything, and keep the evidence.
    ///
    /// Ends with 12 when the point could not be reached, or not within --timeout, or when anything
    /// was not as it should be.
    Run(Options),
    /// List drills.
    List(show::ListOptions),
    /// Show what a drill found out.
    Show(show::Options),
}

/// What `drill run` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The database, by the name that `list` shows.
    #[arg(required_unless_present = "labels")]
    database: Option<String>,
    #[command(flatten)]
    labels: Labels,
    /// The moment, as `restore --at` takes it.
    #[arg(
        long,
        value_name = "POINT",
        default_value = "latest",
        allow_hyphen_values = true,
        conflicts_with = "random"
    )]
    at: String,
    /// A moment drawn from all that can be restored; it is printed, so that --at repeats it.
    #[arg(long)]
    random: bool,
    /// A statement to run on what was restored, which may read everything and write nothing. May be
    /// given several times, each with --expect.
    #[arg(long, value_name = "SQL", requires = "expect")]
    check: Vec<String>,
    /// What the statement must answer: columns apart by |, rows by line feeds, nothing for NULL,
    /// SQLite's real numbers with 15 digits. Of several statements in one --check, the last
    /// answers.
    #[arg(long, value_name = "VALUE", requires = "check", allow_hyphen_values = true)]
    expect: Vec<String>,
    /// Which of a server's databases --check runs in [default: the only one beside those that every
    /// server has, or the one that is always there].
    #[arg(long, value_name = "DATABASE", requires = "check")]
    inside: Option<String>,
    /// Restore the whole backup, also where it could be mounted: slower to begin, and as fast as
    /// the disk from then on. It is mounted otherwise, where the system has FUSE; the report says
    /// which, and why.
    #[arg(long)]
    no_mount: bool,
    /// Where the sandbox is made; a restored one needs room for the whole database, a mounted one
    /// for what is written [default: TMPDIR, or /var/tmp].
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    scratch: Option<PathBuf>,
    /// Also write the evidence into this directory, as DRILL.json and DRILL.html.
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    evidence: Option<PathBuf>,
    #[command(flatten)]
    source: SourceOptions,
}

impl Command {
    /// The place that was chosen for a sandbox.
    pub(crate) fn scratch(&self) -> Option<&Path> {
        match self {
            Self::Run(options) => options.scratch.as_deref(),
            Self::List(_) | Self::Show(_) => None,
        }
    }
}

/// Does what is to be done with drills.
pub(crate) async fn run(session: &Session, command: Command) -> Result<u8> {
    match command {
        Command::Run(options) => Box::pin(all(session, options)).await,
        Command::List(options) => show::list(session, options).await,
        Command::Show(options) => show::show(session, options).await,
    }
}

/// Removes what killed commands left behind, and tells of it.
pub(crate) async fn sweep(session: &Session, chosen: Option<&Path>) {
    let scratch = place(&session.environment, chosen);
    let found = tokio::task::spawn_blocking(move || scratch.sweep()).await.unwrap_or_default();
    for what in &found {
        session.note(what);
    }
}

/// Where sandboxes are made.
pub(crate) fn place(environment: &Environment, chosen: Option<&Path>) -> ScratchPlace {
    let usual = || PathBuf::from(environment.get("TMPDIR").unwrap_or("/var/tmp"));
    ScratchPlace {
        root: chosen.map_or_else(usual, Path::to_owned),
        notes: environment.state_folder().map(|folder| folder.join("sandboxes")),
        program: std::env::current_exe().ok(),
    }
}

/// Rehearses one database, or one after the other.
async fn all(session: &Session, options: Options) -> Result<u8> {
    let Some(database) = &options.database else {
        let names = options.labels.names(&source::configured(session).await?)?;
        let work = async |name: &str| Box::pin(drill(session, &options, name)).await;
        return Ok(each(session, &names, work).await);
    };
    Box::pin(drill(session, &options, database)).await
}

async fn drill(session: &Session, options: &Options, database: &str) -> Result<u8> {
    let scratch = place(&session.environment, options.scratch.as_deref());
    let expectations = expectations(options)?;
    let moment = session.moment(&options.at)?;
    // The copy that the policy rehearses is the one that would really be used.
    let from = options.source.from.clone();
    let from = match from {
        None => source::drilled_from(session, database).await,
        named => named,
    };
    let of = (Some(database), Need::Content);
    let source = Sources::of(session, &SourceOptions { from }, of).await?.first(session).await?;
    let repository = source.repository;
    let (wanted, asked) = if options.random {
        drawn(session, &repository, database).await?
    } else {
        let wanted = wanted(session, &repository, database, moment).await?;
        (wanted, options.at.clone())
    };
    let asked = match &wanted {
        // What a person typed, such as -10m, means another moment tomorrow.
        Wanted::Time(at) => at.to_rfc3339_opts(SecondsFormat::Micros, true),
        _ => asked,
    };
    if options.random {
        session.note(&format!("The point was drawn; to repeat it: --at {asked}"));
    }
    // One that never began says nothing of its database.
    if session.ends_at.is_some_and(|end| end <= session.world.clock.elapsed()) {
        return Err(out_of_time());
    }
    let job = DrillJob {
        engines: &session.engines,
        database,
        wanted,
        asked: &asked,
        is_random: options.random,
        expectations: &expectations,
        inside: options.inside.as_deref(),
        scratch: &scratch,
        way: if options.no_mount { Way::Restore } else { Way::Mount },
        started_by: &session.user(),
        ends_at: session.ends_at,
    };
    let meter = Arc::new(Meter::default());
    let work = Box::pin(coordinator::drill(&session.world, &repository, &job, &meter));
    let mut record = session.watch(database, &meter, work).await?;
    if source.name.is_some() {
        record.notes.push(format!("restored from {}", source.told));
    }
    let page = html::page(&record);
    let kept = repository.keep_drill(&record, &page).await?;
    repository.remember().await?;
    let passed = record.passed;
    let written = match &options.evidence {
        None => Ok(()),
        Some(directory) => {
            write_evidence(directory, &record.drill, &record.encode()?, page.as_bytes())
        }
    };
    session.answer(&show::DrillAnswer::new(kept, record))?;
    match written {
        Ok(()) if passed => Ok(exit::OK),
        Ok(()) => Ok(exit::DRILL_FAILED),
        Err(error) if passed => Err(error),
        // That it failed is what must not be missed.
        Err(error) => Ok(session.report(&error, exit::DRILL_FAILED)),
    }
}

async fn drawn(session: &Session, repository: &Opened, name: &str) -> Result<(Wanted, String)> {
    let timeline = repository.timeline(name).await?;
    let engine = coordinator::engine_of(&session.engines, &timeline)?;
    let entropy = &*session.world.entropy;
    let at = coordinator::draw(repository, &timeline, &*engine, entropy).await?;
    Ok((Wanted::Time(at), String::new()))
}

fn expectations(options: &Options) -> Result<Vec<Expectation>> {
    if options.check.len() != options.expect.len() {
        return Err(Error::new(
            ErrorKind::Invalid,
            code::USAGE,
            "tell what statements must answer",
        )
        .with("--check", options.check.len())
        .with("--expect", options.expect.len())
        .why("each --check needs an --expect of its own")
        .next("--check \"SELECT count(*) FROM t\" --expect 7"));
    }
    if options.check.iter().any(|sql| sql.trim().is_empty()) {
        let step = "tell what statements must answer";
        return Err(Error::new(ErrorKind::Invalid, code::USAGE, step)
            .why("a --check without a statement proves nothing")
            .next("--check \"SELECT count(*) FROM t\" --expect 7"));
    }
    let pairs = options.check.iter().zip(&options.expect);
    let pair = |(sql, expected): (&String, &String)| Expectation {
        sql: sql.clone(),
        expected: expected.clone(),
    };
    Ok(pairs.map(pair).collect())
}

/// Writes both forms of the evidence, durably, and never over anything.
pub(crate) fn write_evidence(
    directory: &Path,
    drill: &str,
    record: &[u8],
    page: &[u8],
) -> Result<()> {
    let write = |name: String, bytes: &[u8]| {
        let path = directory.join(name);
        let written = || -> io::Result<()> {
            DirBuilder::new().recursive(true).create(directory)?;
            let mut file = File::create_new(&path)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            File::open(directory)?.sync_all()
        };
        written().map_err(|cause| {
            Error::new(ErrorKind::Config, code::FILE, format!("write {}", path.display()))
                .caused_by(cause)
                .next(format!("stillpoint drill show {drill} --evidence DIR"))
        })
    };
    write(format!("{drill}.json"), record)?;
    write(format!("{drill}.html"), page)
}
