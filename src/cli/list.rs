//! `stillpoint list`: databases and backups on one screen.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use stillpoint_contract::Result;

use super::{
    answer::{Answer, Stamp},
    open::{self, Need},
    page::{Page, Table, Tone},
    session::Session,
    units,
    wire::Backup,
};

/// What `list` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only this database.
    database: Option<String>,
}

#[derive(Debug, Serialize)]
struct ListAnswer {
    repository: String,
    place: String,
    now: Stamp,
    databases: Vec<Database>,
    backups: Vec<Backup>,
}

#[derive(Debug, Serialize)]
struct Database {
    name: String,
    engine: String,
    backups: usize,
    size_bytes: u64,
    stored_bytes: u64,
    restorable_from: Option<Stamp>,
    restorable_to: Option<Stamp>,
    gaps: usize,
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
                database.engine.clone(),
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

/// Lists.
pub(crate) async fn run(session: &Session, options: Options) -> Result<()> {
    let repository = open::repository(session, Need::Names).await?;
    let history = repository.history().await?;
    let wanted = |name: &str| options.database.as_deref().is_none_or(|wanted| wanted == name);
    let backups: Vec<Backup> = history
        .live()
        .iter()
        .filter(|committed| wanted(&committed.commit.database))
        .map(|committed| Backup::from(&committed.commit))
        .collect();
    session.answer(&ListAnswer {
        repository: repository.id().to_owned(),
        place: repository.location(),
        now: Stamp(session.world.clock.now()),
        databases: Vec::new(),
        backups,
    })
}
