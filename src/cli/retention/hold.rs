//! `stillpoint hold`: what nobody may remove, whatever the policy says.

use clap::{ArgGroup, Args, Subcommand};
use serde::Serialize;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::super::{
    answer::{Answer, Stamp},
    choice::{Labels, each},
    config::reach,
    exit,
    page::{Page, Table, printable},
    serve,
    session::Session,
};
use crate::repository::{
    HoldIntent,
    custody::{Held, HeldPart, Hold},
};

/// What to do with holds.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Forbid to remove a backup, or every point of a stretch of time.
    ///
    /// Neither a policy nor a person can remove what is held, and what it needs, until every hold
    /// on it is released. Several may be on the same.
    Add(AddOptions),
    /// List holds.
    List(ListOptions),
    /// Release a hold: what it was on may go, if nothing else keeps it.
    Release(ReleaseOptions),
}

/// What `hold add` is told.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["backup", "from"]))]
pub(crate) struct AddOptions {
    /// The database, by the name that `list` shows.
    #[arg(required_unless_present = "labels")]
    database: Option<String>,
    #[command(flatten)]
    labels: Labels,
    /// In which case, such as LEG-2231.
    #[arg(long, value_name = "CASE")]
    case: String,
    /// The backup, or how its id begins.
    #[arg(long, value_name = "BACKUP", conflicts_with = "labels")]
    backup: Option<String>,
    /// The first moment of the stretch.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    from: Option<String>,
    /// Its last moment [default: all that follows].
    #[arg(long, value_name = "TIME", requires = "from", allow_hyphen_values = true)]
    to: Option<String>,
}

/// What `hold list` is told.
#[derive(Debug, Args)]
pub(crate) struct ListOptions {
    /// Only those on this database.
    database: Option<String>,
    #[command(flatten)]
    labels: Labels,
    /// Also released ones.
    #[arg(long)]
    all: bool,
}

/// What `hold release` is told.
#[derive(Debug, Args)]
pub(crate) struct ReleaseOptions {
    /// The hold, or how its id begins.
    hold: String,
    /// Why, for those who read the repository's log later.
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// A hold on the wire.
#[derive(Debug, Serialize)]
struct Shown {
    id: String,
    database: String,
    case: String,
    /// The backup that is held, or `null`.
    backup: Option<String>,
    /// The stretch that is held, or `null`.
    from: Option<Stamp>,
    to: Option<Stamp>,
    by: String,
}

#[derive(Debug, Serialize)]
struct HoldAnswer {
    hold: Shown,
    released: bool,
}

#[derive(Debug, Serialize)]
struct HoldsAnswer {
    holds: Vec<Listed>,
}

#[derive(Debug, Serialize)]
struct Listed {
    #[serde(flatten)]
    hold: Shown,
    since: Stamp,
    released_at: Option<Stamp>,
    released_by: Option<String>,
    released_because: Option<String>,
}

impl Shown {
    fn of(held: Held) -> Self {
        let (backup, from, to) = match held.of {
            HeldPart::Backup(backup) => (Some(backup), None, None),
            HeldPart::Range { from, to } => (None, Some(Stamp(from)), to.map(Stamp)),
        };
        let Held { hold: id, database, case, by, .. } = held;
        Self { id, database, case, backup, from, to, by }
    }

    fn what(&self, page: &Page<'_>) -> String {
        match (&self.backup, self.from, self.to) {
            (Some(backup), ..) => backup.clone(),
            (None, Some(from), Some(to)) => {
                format!("{} - {}", page.time(from.0), page.time(to.0))
            }
            (None, Some(from), None) => format!("from {} on", page.time(from.0)),
            (None, None, _) => String::new(),
        }
    }
}

impl Answer for HoldAnswer {
    const SCHEMA: &'static str = "hold/1";

    fn write(&self, page: &mut Page<'_>) {
        let word = if self.released { "Released" } else { "Held" };
        page.line(format!(
            "{word}: {} of {}",
            self.hold.what(page),
            printable(&self.hold.database)
        ));
        page.facts(2, &[("Case", &printable(&self.hold.case)), ("Hold", &self.hold.id)]);
    }
}

impl Answer for HoldsAnswer {
    const SCHEMA: &'static str = "holds/1";

    fn write(&self, page: &mut Page<'_>) {
        if self.holds.is_empty() {
            page.line("Nothing is held.");
            return;
        }
        let mut table =
            Table::new(&["HOLD", "DATABASE", "CASE", "WHAT", "SINCE", "BY", "RELEASED"]);
        for Listed { hold, since, released_at, .. } in &self.holds {
            table.row(vec![
                hold.id.clone(),
                hold.database.clone(),
                hold.case.clone(),
                hold.what(page),
                page.time(since.0),
                hold.by.clone(),
                released_at.map_or_else(|| "-".to_owned(), |at| page.time(at.0)),
            ]);
        }
        page.table(&table);
    }
}

/// Does what is to be done with holds.
pub(crate) async fn run(session: &Session, command: Command) -> Result<u8> {
    match command {
        Command::Add(options) => return add(session, &options).await,
        Command::List(options) => list(session, options).await?,
        Command::Release(options) => {
            let repository = reach::either(session, None).await?;
            let held = repository.release(&options.hold, &options.reason, &session.user()).await?;
            repository.remember().await?;
            session.answer(&HoldAnswer { hold: Shown::of(held), released: true })?;
        }
    }
    Ok(exit::OK)
}

async fn add(session: &Session, options: &AddOptions) -> Result<u8> {
    if let Some(database) = &options.database {
        return hold(session, options, database).await;
    }
    let names = options.labels.names(&serve::found(session).await?.config)?;
    let work = async |name: &str| Box::pin(hold(session, options, name)).await;
    Ok(each(session, &names, work).await)
}

async fn hold(session: &Session, options: &AddOptions, database: &str) -> Result<u8> {
    let time = |text: &Option<String>| text.as_deref().map(|t| session.instant(t)).transpose();
    let (from, to) = (time(&options.from)?, time(&options.to)?);
    let repository = reach::either(session, Some(database)).await?;
    let of = match (&options.backup, from) {
        (Some(id), _) => HeldPart::Backup(repository.find_backup(id).await?.commit.backup),
        (None, Some(from)) => HeldPart::Range { from, to },
        (None, None) => {
            return Err(Error::new(ErrorKind::Invalid, code::USAGE, "tell what is to be held")
                .next("--backup BACKUP, or --from TIME"));
        }
    };
    let intent = HoldIntent { database: database.to_owned(), case: options.case.clone(), of };
    let held = repository.hold(&intent, &session.user()).await?;
    repository.remember().await?;
    session.answer(&HoldAnswer { hold: Shown::of(held), released: false })?;
    Ok(exit::OK)
}

async fn list(session: &Session, options: ListOptions) -> Result<()> {
    let databases = match (&options.database, &options.labels.labels) {
        (None, Some(_)) => {
            let names = options.labels.names(&serve::found(session).await?.config)?;
            names.into_iter().map(Some).collect()
        }
        (database, _) => vec![database.clone()],
    };
    let mut holds = Vec::new();
    for database in &databases {
        let repository = reach::either(session, database.as_deref()).await?;
        holds.extend(repository.holds(database.as_deref()).await?);
    }
    let wanted = holds.into_iter().filter(|hold| options.all || hold.released.is_none());
    let listed = wanted.map(|Hold { at, held, released }| {
        let (released_at, ended) = released.unzip();
        let (released_by, released_because) = ended.map(|ended| (ended.by, ended.reason)).unzip();
        Listed {
            hold: Shown::of(held),
            since: Stamp(at),
            released_at: released_at.map(Stamp),
            released_by,
            released_because,
        }
    });
    session.answer(&HoldsAnswer { holds: listed.collect() })
}
