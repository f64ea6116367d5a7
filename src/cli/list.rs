//! `stillpoint list`: databases and backups on one screen.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use stillpoint_contract::Result;

use super::{
    answer::{Answer, Stamp},
    choice::Labels,
    native::Native,
    open::{Need, Opened},
    page::{Page, Table, Tone},
    reach::Reach,
    session::Session,
    source::{SourceOptions, Sources},
    units,
    wire::Backup,
};
use crate::repository::Timeline;

/// What `list` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only this database.
    database: Option<String>,
    #[command(flatten)]
    labels: Labels,
    #[command(flatten)]
    source: SourceOptions,
}

#[derive(Debug, Serialize)]
struct ListAnswer {
    repository: String,
    place: String,
    now: Stamp,
    databases: Vec<Database>,
    backups: Vec<Backup>,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Database {
    name: String,
    engine: Option<String>,
    backups: usize,
    size_bytes: u64,
    stored_bytes: u64,
    restorable_from: Option<Stamp>,
    restorable_to: Option<Stamp>,
    gaps: usize,
}

impl Database {
    fn of(timeline: &Timeline, native: Native<'_>) -> Self {
        let reach = Reach::of(timeline, native);
        let newest = timeline.backups.last().map(|backup| &backup.commit);
        Self {
            name: timeline.database.clone(),
            engine: newest.map(|commit| commit.engine.clone()),
            backups: timeline.backups.len(),
            size_bytes: newest.map_or(0, |commit| commit.size_bytes),
            stored_bytes: timeline.backups.iter().map(|b| b.commit.stored_bytes).sum(),
            restorable_from: reach.from(),
            restorable_to: reach.to(),
            gaps: reach.gaps.len() + usize::from(reach.open_gap.is_some()),
        }
    }
}

impl ListAnswer {
    /// Adds databases of one repository, of which there may be several.
    async fn add(
        &mut self,
        session: &Session,
        repository: &Opened,
        names: Vec<String>,
    ) -> Result<()> {
        for (own, one) in [
            (&mut self.repository, repository.id().to_owned()),
            (&mut self.place, repository.location()),
        ] {
            *own = if own.is_empty() { one } else { format!("{own}, {one}") };
        }
        let (native, history) = (session.native(), repository.history().await?);
        for name in names {
            let timeline = repository.timeline(&name).await?;
            self.warnings.extend(Reach::of(&timeline, native).warning(&name));
            self.warnings.extend(timeline.clock_doubt());
            self.databases.push(Database::of(&timeline, native));
            let backups = timeline.backups.iter();
            let backups = backups.map(|b| Backup::of(&b.commit, native).judged(&history));
            let backups: Vec<_> = backups.collect();
            self.warnings.extend(backups.iter().filter_map(Backup::warning));
            self.backups.extend(backups);
            self.warnings.extend(timeline.problems);
        }
        if !repository.is_unlocked() {
            self.warnings.push("without its key, captured logs are not counted".to_owned());
        }
        Ok(())
    }
}

impl Answer for ListAnswer {
    const SCHEMA: &'static str = "list/1";

    fn write(&self, page: &mut Page<'_>) {
        if self.databases.is_empty() {
            page.line(format!("Nothing is backed up in {} yet.", self.place));
            page.line(page.paint(Tone::Faint, "  stillpoint backup sqlite:app.db"));
            return;
        }
        let heading =
            ["DATABASE", "ENGINE", ">BACKUPS", ">SIZE", ">STORED", "RESTORABLE TO", "GAPS"];
        let mut table = Table::new(&heading);
        for database in &self.databases {
            let newest = database.restorable_to.map_or_else(
                || "-".to_owned(),
                |to| {
                    let age = (self.now.0 - to.0).to_std().unwrap_or(Duration::ZERO);
                    format!("{} ({} ago)", page.time(to.0), units::duration(age))
                },
            );
            table.row(vec![
                database.name.clone(),
                database.engine.clone().unwrap_or_else(|| "-".to_owned()),
                units::grouped(database.backups as u64),
                units::bytes(database.size_bytes),
                units::bytes(database.stored_bytes),
                newest,
                if database.gaps == 0 { "none".to_owned() } else { database.gaps.to_string() },
            ]);
        }
        page.table(&table);
        page.blank();
        Backup::table(page, &self.backups);
    }
}

/// Lists. Without the key, what was captured since the backups is not counted.
pub(crate) async fn run(session: &Session, options: Options) -> Result<()> {
    let mut answer = ListAnswer {
        repository: String::new(),
        place: String::new(),
        now: Stamp(session.world.clock.now()),
        databases: Vec::new(),
        backups: Vec::new(),
        warnings: Vec::new(),
    };
    if options.labels.labels.is_some() {
        let of = (&options.labels, Need::Names);
        for (sources, names) in Sources::labelled(session, &options.source, of).await? {
            let repository = sources.first(session).await?.repository;
            let known = repository.databases().await?;
            let (known, unknown): (Vec<_>, _) = names.into_iter().partition(|n| known.contains(n));
            let lacks = |name: String| format!("nothing of {name} is backed up yet");
            answer.warnings.extend(unknown.into_iter().map(lacks));
            answer.add(session, &repository, known).await?;
        }
    } else {
        let of = (options.database.as_deref(), Need::Names);
        let sources = Sources::of(session, &options.source, of).await?;
        let repository = sources.first(session).await?.repository;
        let names = match options.database {
            Some(name) => vec![name],
            None => repository.databases().await?,
        };
        answer.add(session, &repository, names).await?;
    }
    answer.warnings.iter().for_each(|warning| session.warn(warning));
    session.answer(&answer)
}
