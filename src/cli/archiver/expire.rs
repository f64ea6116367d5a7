//! `stillpoint archive expire`: archived rows whose time is over.

use clap::Args;
use serde::Serialize;
use stillpoint_contract::Result;

use super::{kept::Gone, place::Set};
use crate::{
    archiver::{Expiring, Expiry, expire},
    cli::{
        answer::{Answer, Stamp},
        exit,
        page::{Page, Table, Tone, printable},
        session::Session,
        units,
    },
};

/// What stands in place of a month where there is none.
const OPEN: &str = "open";

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
struct ExpireAnswer {
    set: String,
    dry_run: bool,
    batches: Vec<ExpireRow>,
    #[serde(flatten)]
    gone: Gone,
    /// A time that was written down and that the clock has not reached: nothing was removed.
    ahead: Option<Stamp>,
}

#[derive(Debug, Serialize)]
struct ExpireRow {
    run: String,
    batch: u32,
    /// How many rows go.
    rows: u64,
    /// How many rows the batch has.
    of_rows: u64,
    bytes: u64,
    /// The month from which on it may go, as the policy of then said, or `open` where it said none.
    expire: String,
    /// The same as the policy of now says.
    by_policy: String,
    /// Whether it stays since that one is yet to come, or is none.
    kept: bool,
    held: bool,
    /// Whether it is held since nobody knows whose rows those are.
    unsure: bool,
}

impl Answer for ExpireAnswer {
    const SCHEMA: &'static str = "archive-expire/1";

    fn write(&self, page: &mut Page<'_>) {
        if let Some(ahead) = &self.ahead {
            let what = page.paint(Tone::Warning, "The clock went back: nothing is removed.");
            let at = page.time(ahead.0);
            page.line(what);
            page.line(format!("  Something was written down at {at}, which is later than now."));
            return;
        }
        if self.batches.is_empty() {
            page.line("No row's time is over.");
            return;
        }
        // Whose month has come, and for whom the policy of now says something else.
        let (mut is_longer, mut is_for_ever) = (false, false);
        let heading = ["RUN", ">BATCH", ">ROWS", ">OF", ">SIZE", "FROM", "WHAT"];
        let mut table = Table::new(&heading);
        for row in &self.batches {
            is_for_ever |= row.kept && row.by_policy == OPEN;
            is_longer |= row.kept && row.by_policy != OPEN;
            let what = match (row.held, self.dry_run) {
                _ if row.kept && row.by_policy == OPEN => "no `keep` now: it stays",
                _ if row.kept => "kept longer now: it stays",
                (true, _) if row.unsure => "may be held: it stays",
                (true, _) => "held: it stays",
                (false, true) => "would go",
                (false, false) => "removed",
            };
            table.row(vec![
                row.run.clone(),
                row.batch.to_string(),
                units::grouped(row.rows),
                units::grouped(row.of_rows),
                units::bytes(row.bytes),
                row.since().to_owned(),
                what.to_owned(),
            ]);
        }
        page.table(&table);
        if self.batches.iter().any(|row| row.unsure) {
            let told = "Of what may be held nobody knows whose it is: it has no column that a hold \
                        names, or only the database knows what hangs on held rows.";
            page.line(format!("  {}", page.paint(Tone::Warning, told)));
        }
        self.tell_kept(page, (is_longer, is_for_ever));
        if !self.dry_run {
            self.gone.write(page);
        }
    }
}

impl ExpireAnswer {
    /// Tells what to do where the policy of now keeps what that of then let go.
    fn tell_kept(&self, page: &mut Page<'_>, (is_longer, is_for_ever): (bool, bool)) {
        let set = printable(&self.set);
        if is_longer {
            page.line("  What is kept longer goes when its time by the policy of now is over.");
        }
        if is_for_ever {
            let told = "Files were written while the set had `keep`, which is gone: they stay for \
                        ever.";
            page.line(format!("  {}", page.paint(Tone::Warning, told)));
            page.line(format!("  To let them go, say how long:  [archive.{set}]  keep = \"7y\""));
        }
    }
}

impl ExpireRow {
    /// From when on it may go: the later one of both.
    fn since(&self) -> &str {
        let said = [&*self.expire, &*self.by_policy].into_iter().filter(|month| *month != OPEN);
        said.max().unwrap_or(OPEN)
    }
}

/// Removes what is over.
pub(super) async fn run(session: &Session, options: ExpireOptions) -> Result<u8> {
    let set = Set::of(session, &options.set).await?;
    let places = set.places(session).await?;
    let now = session.world.clock.now();
    let latest = set.latest(session).await?.filter(|latest| *latest > now);
    let expiry = match latest {
        Some(latest) => Expiry { ahead: Some(latest), ..Expiry::default() },
        None => expire(&places, &session.world, &set.rule, now, options.dry_run).await?,
    };
    let row = |one: Expiring| ExpireRow {
        run: one.run,
        batch: one.batch,
        rows: one.rows,
        of_rows: one.of_rows,
        bytes: one.bytes,
        expire: one.expire,
        by_policy: one.by_policy,
        kept: one.is_kept,
        held: one.is_held,
        unsure: one.is_unsure,
    };
    let gone = Gone::of(expiry.removed);
    let status = if expiry.ahead.is_some() { exit::CHECK_FAILED } else { gone.status() };
    session.answer(&ExpireAnswer {
        set: options.set,
        dry_run: options.dry_run,
        batches: expiry.batches.into_iter().map(row).collect(),
        gone,
        ahead: expiry.ahead.map(Stamp),
    })?;
    Ok(status)
}
