//! `stillpoint list`: databases and backups on one screen.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use stillpoint_contract::Result;

use super::{
    answer::{Answer, Stamp},
    native::Native,
    open::Need,
    page::{Page, Table, Tone},
    reach::Reach,
    session::Session,
    source::{self, SourceOptions},
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
            gaps: reach.gaps.len(),
        }
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
    let of = (options.database.as_deref(), Need::Names);
    let repository = source::open(session, &options.source, of).await?;
    let names = match options.database {
        Some(name) => vec![name],
        None => repository.databases().await?,
    };
    let mut answer = ListAnswer {
        repository: repository.id().to_owned(),
        place: repository.location(),
        now: Stamp(session.world.clock.now()),
        databases: Vec::new(),
        backups: Vec::new(),
        warnings: Vec::new(),
    };
    let native = session.native();
    for name in names {
        let timeline = repository.timeline(&name).await?;
        answer.warnings.extend(Reach::of(&timeline, native).warning(&name));
        answer.warnings.extend(timeline.clock_doubt());
        answer.databases.push(Database::of(&timeline, native));
        answer.backups.extend(timeline.backups.iter().map(|b| Backup::of(&b.commit, native)));
        answer.warnings.extend(timeline.problems);
    }
    if !repository.is_unlocked() {
        answer.warnings.push("without its key, captured logs are not counted".to_owned());
    }
    answer.warnings.iter().for_each(|warning| session.warn(warning));
    session.answer(&answer)
}
