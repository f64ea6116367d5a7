//! `stillpoint explain`: why each backup is kept and until when; what runs and who is told is in
//! `serve`.

use clap::{Args, Subcommand};
use serde::Serialize;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    super::{
        answer::{Answer, Stamp},
        choice::{Labels, each},
        config::reach,
        exit,
        open::Opened,
        page::{Page, Table, Tone, printable},
        serve,
        session::Session,
    },
    keeping::{End, Keeping, Why},
};
use crate::{
    config::Config,
    repository::{Holdings, proof_of},
};

/// What to explain.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Tell why each backup of a database is kept, and until when.
    Retention(Options),
    /// Tell what runs next for a database and why, what is waited for, and what became of what was
    /// due.
    Schedule(serve::ExplainOptions),
    /// Tell what is the matter with a database, who is told of it, and when something would be.
    Alert(serve::ExplainOptions),
}

/// What `explain retention` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The database, or a backup, or how its id begins.
    #[arg(id = "database", value_name = "DATABASE|BACKUP", required_unless_present = "labels")]
    what: Option<String>,
    #[command(flatten)]
    labels: Labels,
}

#[derive(Debug, Serialize)]
struct ExplainAnswer {
    database: String,
    repository: String,
    policy: String,
    zone: String,
    now: Stamp,
    backups: Vec<Explained>,
}

#[derive(Debug, Serialize)]
struct Explained {
    id: String,
    at: Stamp,
    /// `verified`, `unverified` or `suspect`.
    proof: &'static str,
    /// What is wrong with it, where something is known to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    kept: bool,
    why: Vec<Why>,
    until: End,
}

impl Answer for ExplainAnswer {
    const SCHEMA: &'static str = "explain-retention/1";

    fn write(&self, page: &mut Page<'_>) {
        page.facts(0, &[("Database", &self.database), ("Policy", &self.policy)]);
        let mut table = Table::new(&["BACKUP", "STATE AT", "PROOF", "KEPT BECAUSE", "UNTIL"]);
        for backup in &self.backups {
            let why = backup.why.iter().map(|why| why.says.as_str()).collect::<Vec<_>>();
            table.row(vec![
                backup.id.clone(),
                page.time(backup.at.0),
                backup.proof.to_owned(),
                if why.is_empty() { "-".to_owned() } else { why.join("; ") },
                backup.until.says.clone(),
            ]);
        }
        page.table(&table);
        for backup in &self.backups {
            if let Some(problem) = &backup.problem {
                let word = page.paint(Tone::Bad, "suspect");
                page.line(format!("{word}: backup {}: {}", backup.id, printable(problem)));
            }
        }
    }
}

/// Explains.
pub(crate) async fn run(session: &Session, command: Command) -> Result<u8> {
    let options = match command {
        Command::Retention(options) => options,
        Command::Schedule(options) => return serve::explain_schedule(session, options).await,
        Command::Alert(options) => return serve::explain_alert(session, options).await,
    };
    let config = serve::found(session).await?.config;
    if let Some(what) = &options.what {
        return retention(session, &config, what).await;
    }
    let names = options.labels.names(&config)?;
    let work = async |name: &str| Box::pin(retention(session, &config, name)).await;
    Ok(each(session, &names, work).await)
}

/// Explains of one database, or one backup.
async fn retention(session: &Session, config: &Config, what: &str) -> Result<u8> {
    let (repository, name, only) = find(session, config, what).await?;
    let database = Labels::default().of(&config.databases, Some(&name))?;
    let keeping = database.into_iter().find_map(|database| Keeping::of(config, database));
    let keeping = keeping.ok_or_else(|| Error::bug("find the policy of a database"))?;
    let history = repository.history().await?;
    let holdings = Holdings::of(&history, &name);
    if holdings.backups.is_empty() {
        // Says what the repository knows instead.
        repository.timeline(&name).await?;
    }
    let now = session.world.clock.now();
    let verdicts = keeping.decide(&holdings, now).verdicts.into_iter();
    let wanted = verdicts.filter(|verdict| only.as_ref().is_none_or(|id| *id == verdict.id));
    let backups = wanted.map(|verdict| Explained {
        proof: proof_of(&history, &verdict.id).name(),
        problem: history.fault(&verdict.id).map(str::to_owned),
        kept: verdict.is_kept(),
        why: Why::all(&verdict),
        until: End::of(&verdict, keeping.policy),
        at: Stamp(verdict.at),
        id: verdict.id,
    });
    session.answer(&ExplainAnswer {
        database: name,
        repository: keeping.database.repository.clone(),
        policy: keeping.policy.name.clone(),
        zone: keeping.policy.zone.to_string(),
        now: Stamp(now),
        backups: backups.collect(),
    })?;
    Ok(exit::OK)
}

/// The repository, the database, and the backup if one was meant.
async fn find(
    session: &Session,
    config: &Config,
    what: &str,
) -> Result<(Opened, String, Option<String>)> {
    if let Some(database) = config.databases.get(what) {
        let repository = reach::repository(session, config, &database.repository).await?;
        return Ok((repository, what.to_owned(), None));
    }
    for name in config.repositories.keys() {
        let repository = reach::repository(session, config, name).await?;
        match repository.find_backup(&what.to_ascii_uppercase()).await {
            Ok(found) => return Ok((repository, found.commit.database, Some(found.commit.backup))),
            Err(error) if error.kind() == ErrorKind::Missing => {}
            Err(error) => return Err(error),
        }
    }
    let known = config.databases.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    Err(Error::new(ErrorKind::Missing, code::CONFIG_NAME, "find the database or the backup")
        .with("given", what)
        .with("configured", known)
        .next("stillpoint list"))
}
