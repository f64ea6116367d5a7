//! `stillpoint forget`: gives up backups that are no longer wanted.

use clap::Args;
use serde::Serialize;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    answer::{Answer, Stamp},
    native::Native,
    open::{self, Need, Opened},
    page::{Page, Tone, printable},
    reach::Reach,
    session::Session,
    wire::Backup,
};
use crate::repository::{Timeline, history::Committed};

/// What `forget` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The backups, or how their ids begin.
    #[arg(required = true, value_name = "BACKUP")]
    backups: Vec<String>,
    /// Why, for those who read the repository's log later.
    #[arg(long, value_name = "TEXT", default_value = "asked for on the command line")]
    reason: String,
    /// Only tell what would be forgotten; change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Forget also the last backup of a database, after which it cannot be restored at all.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Serialize)]
struct ForgetAnswer {
    dry_run: bool,
    forgotten: Vec<Backup>,
    databases: Vec<Change>,
}

/// What can be restored of a database, before and after.
#[derive(Debug, Serialize)]
struct Change {
    name: String,
    backups_left: usize,
    restorable_from_before: Option<Stamp>,
    restorable_from_after: Option<Stamp>,
}

impl Answer for ForgetAnswer {
    const SCHEMA: &'static str = "forget/1";

    fn write(&self, page: &mut Page<'_>) {
        let (word, tone) =
            if self.dry_run { ("Would forget", Tone::Warning) } else { ("Forgot", Tone::Strong) };
        page.line(page.paint(tone, word));
        Backup::table(page, &self.forgotten);
        for change in &self.databases {
            let time = |stamp: Option<Stamp>| {
                stamp.map_or_else(|| "nothing can be restored".to_owned(), |at| page.time(at.0))
            };
            page.line(format!(
                "{}: backups left {}; oldest restorable moment {}, before {}",
                printable(&change.name),
                change.backups_left,
                time(change.restorable_from_after),
                time(change.restorable_from_before),
            ));
        }
        if !self.dry_run {
            page.line(page.paint(Tone::Faint, "The space is freed by: stillpoint repo gc"));
        }
    }
}

/// Forgets.
pub(crate) async fn run(session: &Session, options: Options) -> Result<()> {
    let repository = open::repository(session, Need::Content).await?;
    let mut chosen = Vec::new();
    for id in &options.backups {
        chosen.push(repository.find_backup(id).await?);
    }
    chosen.sort_by_key(|committed| committed.seq);
    chosen.dedup();
    repository.refuse_held(&chosen).await?;
    let databases = changes(&repository, &chosen, session.native()).await?;
    if !options.force
        && let Some(bare) = databases.iter().find(|d| d.backups_left == 0)
    {
        return Err(last_backup(&bare.name));
    }
    if !options.dry_run {
        let ids: Vec<_> = chosen.iter().map(|c| c.commit.backup.clone()).collect();
        repository.forget(&ids, &options.reason).await?;
        repository.remember().await?;
    }
    session.answer(&ForgetAnswer {
        dry_run: options.dry_run,
        forgotten: chosen.iter().map(|c| Backup::of(&c.commit, session.native())).collect(),
        databases,
    })
}

async fn changes(
    repository: &Opened,
    chosen: &[Committed],
    native: Native<'_>,
) -> Result<Vec<Change>> {
    let mut names: Vec<&str> = chosen.iter().map(|c| c.commit.database.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let mut changes = Vec::new();
    for name in names {
        let mut timeline = repository.timeline(name).await?;
        let before = Reach::of(&timeline, native).from();
        without(&mut timeline, chosen);
        changes.push(Change {
            name: name.to_owned(),
            backups_left: timeline.backups.len(),
            restorable_from_before: before,
            restorable_from_after: Reach::of(&timeline, native).from(),
        });
    }
    Ok(changes)
}

/// The timeline as it will be once these backups are gone.
fn without(timeline: &mut Timeline, chosen: &[Committed]) {
    let gone = |id: &str| chosen.iter().any(|c| c.commit.backup == id);
    timeline.backups.retain(|backup| !gone(&backup.commit.backup));
    for coverage in &mut timeline.coverage {
        coverage.backups.retain(|id| !gone(id));
    }
}

fn last_backup(database: &str) -> Error {
    Error::new(ErrorKind::Refused, code::NO_SUCH_BACKUP, "forget the last backup of a database")
        .with("database", database)
        .why("captured log restores nothing without a backup, so all of its history would go")
        .next("take another backup first, or add --force")
}
