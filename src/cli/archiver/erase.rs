//! `stillpoint archive erase` and `expire`: archived rows that are to be nowhere.

use clap::Args;
use serde::Serialize;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::place::Set;
use crate::{
    archiver::{Expiring, erase, expire},
    cli::{
        answer::Answer,
        exit,
        page::{Page, Table, printable},
        session::Session,
        units,
    },
};

/// What `archive erase` is told.
#[derive(Debug, Args)]
pub(crate) struct EraseOptions {
    /// The archive set.
    set: String,
    /// Whose rows, as COLUMN=VALUE; rows of other tables that refer to them go with them.
    #[arg(long, value_name = "COLUMN=VALUE")]
    subject: String,
    /// The table that has the column [default: the root].
    #[arg(long, value_name = "TABLE")]
    table: Option<String>,
    /// Why, for those who ask later.
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// What `archive expire` is told.
#[derive(Debug, Args)]
pub(crate) struct ExpireOptions {
    /// The archive set.
    set: String,
    /// Only show what would go.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct EraseAnswer {
    set: String,
    erased_rows: u64,
    rewritten_batches: u64,
}

impl Answer for EraseAnswer {
    const SCHEMA: &'static str = "archive-erase/1";

    fn write(&self, page: &mut Page<'_>) {
        let rows = units::count(self.erased_rows, "row is", "rows are");
        let set = printable(&self.set);
        page.line(format!("{rows} erased from the files of archive set {set}."));
        let batches = units::count(self.rewritten_batches, "batch was", "batches were");
        page.line(format!("  {batches} written anew; the files before are gone."));
        page.line("  Should the subject be archived again, the same run erases it.");
    }
}

/// Erases a subject.
pub(super) async fn run(session: &Session, options: EraseOptions) -> Result<u8> {
    let subject = options.subject.split_once('=').filter(|(column, _)| !column.trim().is_empty());
    let Some((column, value)) = subject else {
        return Err(Error::new(ErrorKind::Invalid, code::USAGE, "understand --subject")
            .with("given", &options.subject)
            .with("form", "COLUMN=VALUE, such as customer_id=42"));
    };
    let set = Set::of(session, &options.set).await?;
    let places = set.places(session).await?;
    let subject = (options.table.as_deref(), column.trim(), value);
    let user = session.user();
    let erased = erase(&places, &session.world, subject, (&options.reason, &user)).await?;
    session.answer(&EraseAnswer {
        set: options.set,
        erased_rows: erased.rows,
        rewritten_batches: erased.batches,
    })?;
    Ok(exit::OK)
}

#[derive(Debug, Serialize)]
struct ExpireAnswer {
    set: String,
    dry_run: bool,
    batches: Vec<ExpireRow>,
}

#[derive(Debug, Serialize)]
struct ExpireRow {
    run: String,
    batch: u32,
    rows: u64,
    bytes: u64,
    expire: String,
    held: bool,
}

impl Answer for ExpireAnswer {
    const SCHEMA: &'static str = "archive-expire/1";

    fn write(&self, page: &mut Page<'_>) {
        if self.batches.is_empty() {
            page.line("No file's time is over.");
            return;
        }
        let mut table = Table::new(&["RUN", ">BATCH", ">ROWS", ">SIZE", "FROM", "WHAT"]);
        for row in &self.batches {
            let what = match (row.held, self.dry_run) {
                (true, _) => "held: it stays",
                (false, true) => "would go",
                (false, false) => "removed",
            };
            table.row(vec![
                row.run.clone(),
                row.batch.to_string(),
                units::grouped(row.rows),
                units::bytes(row.bytes),
                row.expire.clone(),
                what.to_owned(),
            ]);
        }
        page.table(&table);
    }
}

/// Removes files whose time is over.
pub(super) async fn run_expire(session: &Session, options: ExpireOptions) -> Result<u8> {
    let set = Set::of(session, &options.set).await?;
    let now = session.world.clock.now();
    let mut batches = Vec::new();
    for (number, place) in set.places(session).await?.iter().enumerate() {
        let expiring = expire(place, now, options.dry_run).await?;
        // The second copy goes as the first one does.
        batches.extend(expiring.into_iter().filter(|_| number == 0));
    }
    let row = |one: Expiring| ExpireRow {
        run: one.run,
        batch: one.batch,
        rows: one.rows,
        bytes: one.bytes,
        expire: one.expire,
        held: one.is_held,
    };
    session.answer(&ExpireAnswer {
        set: options.set,
        dry_run: options.dry_run,
        batches: batches.into_iter().map(row).collect(),
    })?;
    Ok(exit::OK)
}
