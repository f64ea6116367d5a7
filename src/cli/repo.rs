//! `stillpoint repo`: the repository itself.

use std::{collections::BTreeMap, sync::Arc};

use clap::{Args, Subcommand};
use serde::Serialize;
use stillpoint_contract::Result;

use super::{
    answer::Answer,
    check, exit, key,
    open::{self, Need},
    page::{Page, Table, Tone},
    session::{Session, length},
    storage, units,
};
use crate::{
    pipeline::Meter,
    repository::{CollectOptions, CollectReport, Stats},
};

/// What to do with the repository.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show how much is stored, and for what.
    Stats,
    /// Tell what the configured repositories will hold in 30 days, and what is written until then.
    ///
    /// By what was stored in the 30 days before, what the calendars make due, and what the policies
    /// will keep of it. What is read and listed is not in it: that depends on who looks.
    Forecast,
    /// Delete what no backup needs any more.
    ///
    /// First marks what is not needed, and writes that into the repository's log; what was marked
    /// longer ago than the grace period is deleted. Backups may run at the same time.
    Gc(GcOptions),
    /// Manage who can open the repository.
    #[command(subcommand)]
    Key(key::Command),
    /// Check that the repository's log is whole and every object of every backup is there.
    Check(check::RepositoryOptions),
}

/// What `repo gc` is told.
#[derive(Debug, Args)]
pub(crate) struct GcOptions {
    /// Only tell what would be done; change nothing.
    #[arg(long)]
    dry_run: bool,
    /// How long what is not needed stays, for restores that began before.
    #[arg(long, value_name = "LENGTH", default_value = "3d")]
    grace: String,
    /// How old something that no backup ever named must be: its writer may still be at work
    /// [default: 7d, in a copy 60d].
    #[arg(long, value_name = "LENGTH")]
    orphan_age: Option<String>,
}

/// Objects and their bytes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Amount {
    objects: u64,
    bytes: u64,
}

impl From<(u64, u64)> for Amount {
    fn from((objects, bytes): (u64, u64)) -> Self {
        Self { objects, bytes }
    }
}

impl Amount {
    fn text(self) -> String {
        format!(
            "{} in {}",
            units::bytes(self.bytes),
            units::count(self.objects, "object", "objects")
        )
    }
}

#[derive(Debug, Serialize)]
struct StatsAnswer {
    repository: String,
    place: String,
    encrypted: bool,
    /// The own id of a copy; nothing where it is none.
    replica: Option<String>,
    databases: u64,
    backups: u64,
    protected_bytes: u64,
    stored: BTreeMap<String, Amount>,
    unneeded: Amount,
    doomed: Amount,
    log_entries: u64,
}

impl StatsAnswer {
    fn stored_bytes(&self) -> u64 {
        self.stored.values().map(|amount| amount.bytes).sum()
    }
}

impl Answer for StatsAnswer {
    const SCHEMA: &'static str = "repo.stats/1";

    fn write(&self, page: &mut Page<'_>) {
        let backups = units::count(self.backups, "backup", "backups");
        let databases = units::count(self.databases, "database", "databases");
        let encryption = if self.encrypted { "AES-256-GCM" } else { "none" };
        let what = match &self.replica {
            Some(own) => format!("copy {own} of {} in {}", self.repository, self.place),
            None => format!("{} in {}", self.repository, self.place),
        };
        page.facts(
            0,
            &[
                ("repository", what),
                ("encryption", encryption.to_owned()),
                (
                    "protects",
                    format!("{backups} of {databases}, {}", units::bytes(self.protected_bytes)),
                ),
                ("stored", units::bytes(self.stored_bytes())),
                ("not needed", self.unneeded.text()),
                ("to be deleted", self.doomed.text()),
                ("log", units::count(self.log_entries, "entry", "entries")),
            ],
        );
        page.blank();
        let mut table = Table::new(&["STORED AS", ">OBJECTS", ">SIZE"]);
        for (kind, amount) in &self.stored {
            table.row(vec![
                kind.clone(),
                units::grouped(amount.objects),
                units::bytes(amount.bytes),
            ]);
        }
        page.table(&table);
    }
}

#[derive(Debug, Serialize)]
struct GcAnswer {
    dry_run: bool,
    marked: Amount,
    repacked: Amount,
    marked_objects: u64,
    marked_indexes: u64,
    deleted: Amount,
    retained_objects: u64,
    waiting: Amount,
}

impl GcAnswer {
    fn new(report: &CollectReport, dry_run: bool) -> Self {
        Self {
            dry_run,
            marked: report.doomed.into(),
            repacked: report.repacked.into(),
            marked_objects: report.doomed_objects,
            marked_indexes: report.doomed_indexes,
            deleted: report.swept.into(),
            retained_objects: report.retained,
            waiting: report.waiting.into(),
        }
    }
}

impl Answer for GcAnswer {
    const SCHEMA: &'static str = "repo.gc/1";

    fn write(&self, page: &mut Page<'_>) {
        if self.dry_run {
            page.line(page.paint(Tone::Warning, "Nothing was changed. It would be:"));
        }
        let mut facts = vec![
            ("marked packs", self.marked.text()),
            (
                "marked others",
                units::count(self.marked_objects + self.marked_indexes, "object", "objects"),
            ),
            ("copied first", self.repacked.text()),
            ("deleted", self.deleted.text()),
            ("waiting", format!("{}, until the grace period is over", self.waiting.text())),
        ];
        if self.retained_objects > 0 {
            let kept = units::count(self.retained_objects, "object", "objects");
            facts.push(("locked", format!("{kept} that the store does not give up yet")));
        }
        page.facts(0, &facts);
    }
}

/// Does it.
pub(crate) async fn run(session: &Session, command: Command) -> Result<u8> {
    match command {
        Command::Stats => stats(session).await?,
        Command::Forecast => Box::pin(storage::run(session)).await?,
        Command::Gc(options) => gc(session, options).await?,
        Command::Key(command) => key::run(session, command).await?,
        Command::Check(options) => return check::repository(session, options).await,
    }
    Ok(exit::OK)
}

async fn stats(session: &Session) -> Result<()> {
    let repository = open::repository(session, Need::Names).await?;
    let stats: Stats = repository.stats().await?;
    let amounts = stats.stored.into_iter().map(|(kind, amount)| (kind, amount.into()));
    session.answer(&StatsAnswer {
        repository: repository.id().to_owned(),
        place: repository.location(),
        encrypted: repository.descriptor().signing_key.is_some(),
        replica: repository.descriptor().replica.clone(),
        databases: stats.databases,
        backups: stats.backups,
        protected_bytes: stats.protected_bytes,
        stored: amounts.collect(),
        unneeded: stats.unneeded.into(),
        doomed: stats.doomed.into(),
        log_entries: stats.log_entries,
    })
}

async fn gc(session: &Session, options: GcOptions) -> Result<()> {
    let grace = length(&options.grace)?;
    let orphan_age = options.orphan_age.as_deref().map(length).transpose()?;
    let repository = open::repository(session, Need::Content).await?;
    let dry_run = options.dry_run;
    let options = CollectOptions { grace, orphan_age, dry_run, ..CollectOptions::default() };
    let meter = Arc::new(Meter::default());
    let work = repository.collect(options, &meter);
    let report = session.watch("gc", &meter, work).await?;
    repository.remember().await?;
    session.answer(&GcAnswer::new(&report, dry_run))
}
