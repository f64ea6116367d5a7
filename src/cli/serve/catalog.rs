//! `stillpoint catalog rebuild`: a state database that is lost or doubted is filled again with what
//! the repositories say.

use std::collections::BTreeSet;

use clap::Subcommand;
use serde::Serialize;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    super::{
        answer::{Answer, Stamp},
        page::{Page, Table, Tone, printable},
        session::Session,
    },
    desk::Desk,
};
use crate::coordinator::{standing, told};

/// What to do with it.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Read from the repositories what the state database should know.
    ///
    /// Nothing is lost with a state database but the queue and its history: backups, proofs, holds
    /// and events are in the repositories. `serve` finds them by itself; this tells at once what
    /// there is, also of databases that are not configured any more.
    Rebuild,
}

#[derive(Debug, Serialize)]
struct RebuildAnswer {
    databases: Vec<Row>,
    /// Repositories that could not be read, and why.
    unread: Vec<Unread>,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    repository: String,
    configured: bool,
    backups: usize,
    restorable_to: Option<Stamp>,
}

#[derive(Debug, Serialize)]
struct Unread {
    repository: String,
    why: String,
}

impl Answer for RebuildAnswer {
    const SCHEMA: &'static str = "catalog-rebuild/1";

    fn write(&self, page: &mut Page<'_>) {
        let mut table =
            Table::new(&["DATABASE", "REPOSITORY", "BACKUPS", "RESTORABLE TO", "CONFIGURED"]);
        for row in &self.databases {
            table.row(vec![
                row.name.clone(),
                row.repository.clone(),
                row.backups.to_string(),
                row.restorable_to.map_or_else(|| "nothing".to_owned(), |to| page.time(to.0)),
                if row.configured { "yes" } else { "no" }.to_owned(),
            ]);
        }
        page.table(&table);
        for unread in &self.unread {
            let why = page.paint(Tone::Bad, &printable(&unread.why));
            page.line(format!("repository {}: {why}", printable(&unread.repository)));
        }
    }
}

/// Does it.
pub(crate) async fn catalog(session: &Session, Command::Rebuild: Command) -> Result<()> {
    let desk = Desk::open(session).await?;
    let (fleet, seen) = desk.fleet(session).await?;
    let (mut databases, mut known) = (Vec::new(), BTreeSet::new());
    let mut unread: Vec<Unread> = seen
        .unopened
        .iter()
        .map(|(name, error)| Unread { repository: name.clone(), why: told(error) })
        .collect();
    for (repository, opened) in &fleet.repositories {
        let found = async {
            let mut rows = Vec::new();
            let mut names: BTreeSet<String> = opened.databases().await?.into_iter().collect();
            let own = fleet.members.values().filter(|member| member.repository == *repository);
            names.extend(own.map(|member| member.name.clone()));
            for name in names {
                let member = fleet.members.get(&name);
                let configured = member.is_some_and(|member| member.repository == *repository);
                let since = member.map_or_else(|| session.world.clock.now(), |one| one.since);
                let standing = standing(opened, &name, since).await?;
                let newest = standing.coverage.iter().map(|interval| interval.to).max();
                rows.push((
                    Row {
                        name,
                        repository: repository.clone(),
                        configured,
                        backups: standing.backups,
                        restorable_to: newest.map(Stamp),
                    },
                    newest.filter(|_| configured),
                ));
            }
            Ok::<_, Error>(rows)
        };
        match found.await {
            Ok(rows) => {
                for (row, newest) in rows {
                    if let Some(newest) = newest {
                        desk.state.look_after([&*row.name]).await?;
                        desk.state.saw(&row.name, newest).await?;
                        known.insert(row.name.clone());
                    }
                    databases.push(row);
                }
            }
            Err(error) => {
                unread.push(Unread { repository: repository.clone(), why: told(&error) });
            }
        }
    }
    let detail = format!("{} databases, {} repositories", known.len(), fleet.repositories.len());
    desk.state.note(&session.user(), "catalog.rebuilt", "", &detail).await?;
    let lacks = unread.len();
    session.answer(&RebuildAnswer { databases, unread })?;
    if lacks == 0 {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Denied, code::STORE_UNREACHABLE, "read every repository")
        .with("not read", lacks)
        .why("what they hold is not known here; it is not lost")
        .next("stillpoint catalog rebuild, once they can be reached"))
}
