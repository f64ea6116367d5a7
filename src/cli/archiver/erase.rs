//! `stillpoint archive erase`: somebody's archived rows, which are to be nowhere.

use clap::Args;
use serde::Serialize;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{kept::Gone, place::Set};
use crate::{
    archiver::{Erasing, erase},
    cli::{
        answer::Answer,
        exit,
        page::{Page, Tone, printable},
        session::Session,
        units,
    },
};

/// What `archive erase` is told.
#[derive(Debug, Args)]
pub(crate) struct EraseOptions {
    /// The archive set.
    set: String,
    /// Whose rows, as COLUMN=VALUE; rows of other tables that refer to them go with them. A row
    /// whose column is NULL is nobody's.
    #[arg(long, value_name = "COLUMN=VALUE")]
    subject: String,
    /// The table that has the column [default: the root].
    #[arg(long, value_name = "TABLE")]
    table: Option<String>,
    /// Why, for those who ask later.
    #[arg(long, value_name = "TEXT", required_unless_present = "dry_run")]
    reason: Option<String>,
    /// Only show which rows would go; changes nothing.
    #[arg(long)]
    dry_run: bool,
    /// Write the erasure down also if there is no such row yet: should one be archived later, as
    /// after a restore of the database, it is erased then.
    #[arg(long, conflicts_with = "dry_run")]
    even_if_none: bool,
}

#[derive(Debug, Serialize)]
struct EraseAnswer {
    set: String,
    /// What it is called; none where nothing was written down.
    erasure: Option<String>,
    is_dry_run: bool,
    /// Rows of all tables, in the files of the set: none twice for its copies.
    erased_rows: u64,
    /// The same in second copies.
    copied_rows: u64,
    /// Rows that stay in the files of the set for now, in batches that have held rows.
    held_rows: u64,
    /// At all places.
    rewritten_batches: u64,
    /// Batches that stay as they are for now, since rows that would go are held.
    held_batches: u64,
    /// Batches whose files have no such column.
    batches_without_column: u64,
    #[serde(flatten)]
    gone: Gone,
}

impl Answer for EraseAnswer {
    const SCHEMA: &'static str = "archive-erase/1";

    fn write(&self, page: &mut Page<'_>) {
        let would = self.is_dry_run;
        let rows = if would {
            units::count(self.erased_rows, "row would be", "rows would be")
        } else {
            units::count(self.erased_rows, "row is", "rows are")
        };
        let set = printable(&self.set);
        page.line(format!("{rows} erased from the files of archive set {set}."));
        if self.copied_rows > 0 {
            let copies = units::grouped(self.copied_rows);
            page.line(format!("  In second copies: {copies}."));
        }
        let has_none = self.erased_rows + self.copied_rows == 0;
        if self.held_batches > 0 {
            let held = units::count(self.held_batches, "batch has", "batches have");
            page.line(format!(
                "  {held} such rows that somebody holds, or may hold; they are erased after that."
            ));
            if self.held_rows > 0 {
                let rows = units::count(self.held_rows, "row stays", "rows stay");
                page.line(format!("  {rows} until then."));
            }
        } else if has_none && self.erasure.is_some() {
            page.line("  No row has that value; should one be archived later, it is erased then.");
        } else if has_none {
            page.line("  No row has that value, and nothing was written down.");
            page.line("  --even-if-none  has rows erased that are archived later");
        }
        let batches = if would {
            units::count(self.rewritten_batches, "batch would be", "batches would be")
        } else {
            units::count(self.rewritten_batches, "batch was", "batches were")
        };
        page.line(format!("  {batches} written anew."));
        if self.batches_without_column > 0 {
            let lack = units::count(self.batches_without_column, "batch has", "batches have");
            let told = format!(
                "{lack} no such column: where it had another name then, erase by that name, too."
            );
            page.line(format!("  {}", page.paint(Tone::Warning, &told)));
        }
        if !would {
            self.gone.write(page);
        }
        if self.erasure.is_some() {
            page.line("  Should the subject be archived again, the same run erases it.");
        }
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
    let erasing = match (options.dry_run, options.even_if_none) {
        (true, _) => Erasing::Dry,
        (false, false) => Erasing::IfFound,
        (false, true) => Erasing::Always,
    };
    let (reason, user) = (options.reason.unwrap_or_default(), session.user());
    let erased = erase(&places, &session.world, subject, (&reason, &user), erasing).await?;
    // Whoever asks for it expects rows; a value that is written otherwise than theirs is likely.
    let is_done = erased.has_any() && (erased.held == 0 || options.dry_run);
    let gone = Gone::of(erased.removed);
    let status = if is_done { gone.status() } else { exit::CHECK_FAILED };
    session.answer(&EraseAnswer {
        set: options.set,
        erasure: erased.id,
        is_dry_run: options.dry_run,
        erased_rows: erased.rows,
        copied_rows: erased.copied_rows,
        held_rows: erased.held_rows,
        rewritten_batches: erased.batches,
        held_batches: erased.held,
        batches_without_column: erased.unlike,
        gone,
    })?;
    Ok(status)
}
