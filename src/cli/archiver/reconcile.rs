//! `stillpoint archive reconcile`: after a restore of the database, which archived rows live again.

use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use stillpoint_contract::Result;

use super::{place::Set, run::Watcher};
use crate::{
    archiver::{self, Archiving, CameBack, Left, Limits, LiveSlice, Reconciling, Standing},
    cli::{
        answer::Answer,
        exit,
        page::{Page, Tone, printable},
        session::Session,
        units,
    },
    pipeline::Meter,
};

/// How many reasons why rows were left are shown.
const REASONS_MAX: usize = 10;

/// How many keys of rows of the erased are shown, of each erasure and table.
const KEYS_SHOWN: usize = 10;

/// What `archive reconcile` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The archive set, or a database: all of its sets.
    set: String,
    /// Delete those rows again; only those that are what the files hold, once the policy's gates
    /// are open, within its windows, and as slowly as its throttle says.
    #[arg(long)]
    prune: bool,
    /// Say that the database was restored, so that its table, which is another one now, takes the
    /// place of the one that rows come from.
    #[arg(long)]
    adopt: bool,
    /// Note in the ledger again what is in files and in no table, since the ledger was lost.
    #[arg(long)]
    note: bool,
}

#[derive(Debug, Serialize)]
struct ReconcileAnswer {
    set: String,
    archived_rows: u64,
    /// Rows that are in files, and in their tables again; readers of the archive pass over them.
    live_rows: u64,
    live: Vec<LiveSlice>,
    /// Rows of slices that lived again, and that a run archived anew: in newer files.
    anew_rows: u64,
    /// Rows of slices that lived again, and that somebody deleted since: in no newer file.
    deleted_rows: u64,
    /// Rows that are in files, in no table, and not in the ledger.
    unnoted_rows: u64,
    /// Rows that were deleted again.
    pruned_rows: u64,
    /// Slices that were not, since their rows are others now.
    differing: Vec<LiveSlice>,
    /// Rows that were not, since they may not be deleted now.
    left_rows: u64,
    left: Vec<LeftRow>,
    /// Rows of those who were erased, which are in their tables again; what hangs on them is not
    /// counted.
    erased_rows: u64,
    erased: Vec<ErasedRow>,
    /// Partitions that stand beside their table again, though their runs ended.
    standing: Vec<StandingRow>,
    /// Rows that the ledger says were deleted, and of whose files nothing is known here.
    unknown_rows: u64,
}

/// Rows that were not deleted again.
#[derive(Debug, Serialize)]
struct LeftRow {
    why: String,
    rows: u64,
}

impl LeftRow {
    fn of(Left { why, rows }: Left) -> Self {
        Self { why, rows }
    }

    fn write(left: &[Self], page: &mut Page<'_>, set: &str) {
        if left.is_empty() {
            return;
        }
        for Self { why, rows } in left.iter().take(REASONS_MAX) {
            page.line(format!("  left {} rows: {}", units::grouped(*rows), printable(why)));
        }
        if let Some(more) = left.len().checked_sub(REASONS_MAX).filter(|more| *more > 0) {
            let reasons = units::count(more as u64, "reason", "reasons");
            page.line(format!("  and others, for {reasons} more"));
        }
        page.line(format!(
            "  To go on once that is over: stillpoint archive reconcile {set} --prune"
        ));
    }
}

/// Rows of somebody who was erased, which are in their table again.
#[derive(Debug, Serialize)]
struct ErasedRow {
    erasure: String,
    table: String,
    rows: u64,
    /// The keys of the first hundred.
    keys: Vec<String>,
}

impl ErasedRow {
    fn of(one: CameBack) -> Self {
        let CameBack { erasure, table, rows, keys } = one;
        Self { erasure, table, rows, keys }
    }

    fn write(erased: &[Self], page: &mut Page<'_>, set: &str) {
        if erased.is_empty() {
            return;
        }
        for Self { erasure, table, rows, keys } in erased {
            let (back, table) = (page.paint(Tone::Bad, "ERASED"), printable(table));
            let live = units::count(*rows, "row lives", "rows live");
            page.line(format!(
                "  {back}: {live} again in {table}, of the subject of erasure {erasure}"
            ));
            let shown = keys.len().min(KEYS_SHOWN);
            for key in keys.iter().take(shown) {
                page.line(format!("    {}", printable(key)));
            }
            if shown > 0 && *rows > shown as u64 {
                let more = units::grouped(*rows - shown as u64);
                page.line(format!("    and {more} more"));
            }
        }
        page.line(format!(
            "  To archive and erase those that the policy selects: stillpoint archive run {set}"
        ));
        page.line("  Look at the others: some of them may never have been archived. Those that");
        page.line("  are to go, delete from their tables by these keys, with what hangs on them.");
    }
}

/// A partition that stands beside its table again.
#[derive(Debug, Serialize)]
struct StandingRow {
    partition: String,
    run: String,
    rows: u64,
    /// Whether the archive answers for its rows; else neither it nor the table does.
    is_archived: bool,
}

impl StandingRow {
    fn of(one: Standing) -> Self {
        let Standing { partition, run, rows, is_archived, .. } = one;
        Self { partition: partition.name, run, rows, is_archived }
    }

    fn write(&self, page: &mut Page<'_>, set: &str) {
        let (partition, rows) = (printable(&self.partition), units::grouped(self.rows));
        page.line(if self.is_archived {
            format!(
                "  {partition} stands beside its table again; the archive has its {rows} rows, and \
                 no run drops it."
            )
        } else {
            format!("  {partition} stands beside its table again, with {rows} rows of the archive.")
        });
        page.line(format!(
            "  To make it a partition again: stillpoint archive reattach {set} {}",
            self.run
        ));
    }
}

impl Answer for ReconcileAnswer {
    const SCHEMA: &'static str = "archive-reconcile/1";

    fn write(&self, page: &mut Page<'_>) {
        let rows = |count| format!("{} rows", units::grouped(count));
        page.line(format!("Archive set {}", printable(&self.set)));
        let mut facts = vec![
            ("only in files", rows(self.archived_rows)),
            ("live again", rows(self.live_rows)),
            ("deleted again", rows(self.pruned_rows)),
        ];
        if self.left_rows > 0 {
            facts.push(("left", rows(self.left_rows)));
        }
        page.facts(2, &facts);
        if self.unknown_rows > 0 {
            let lost = page.paint(Tone::Bad, "MISSING");
            page.line(format!(
                "  {lost}: the ledger says that {} were archived; no manifest here knows of them",
                rows(self.unknown_rows)
            ));
        }
        for standing in &self.standing {
            standing.write(page, &printable(&self.set));
        }
        if self.unnoted_rows > 0 {
            let set = printable(&self.set);
            page.line(format!(
                "  {} are in files and in no table, and the ledger does not know of them: it was \
                 lost.",
                rows(self.unnoted_rows)
            ));
            page.line(format!("  To note them again: stillpoint archive reconcile {set} --note"));
        }
        if self.anew_rows > 0 {
            page.line(format!(
                "  {} of older files lived again, and left their tables since: newer files have \
                 those that were archived anew.",
                rows(self.anew_rows)
            ));
        }
        if self.deleted_rows > 0 {
            page.line(format!(
                "  {} of files lived again, and somebody deleted them since; they are not read \
                 from the archive.",
                rows(self.deleted_rows)
            ));
        }
        if self.live_rows > 0 {
            let set = printable(&self.set);
            page.line(
                "  Rows that live again are not read from the archive until they are deleted.",
            );
            if self.left.is_empty() {
                page.line(format!("  To delete them: stillpoint archive reconcile {set} --prune"));
            }
        }
        LeftRow::write(&self.left, page, &printable(&self.set));
        ErasedRow::write(&self.erased, page, &printable(&self.set));
        if !self.differing.is_empty() {
            let slices = units::count(self.differing.len() as u64, "slice", "slices");
            page.line(format!(
                "  {slices} hold rows that are others now; a run archives those anew that the \
                 policy selects"
            ));
        }
    }
}

/// Compares, and prunes if told to; of a database, each set, whatever is wrong with another one,
/// and with an answer of its own.
pub(super) async fn run(session: &Session, options: Options) -> Result<u8> {
    let (mut status, mut wrong) = (exit::OK, None);
    for set in Set::all_of(session, &options.set).await? {
        match reconcile(session, &set, &options).await {
            Ok(one) => status = status.max(one),
            Err(error) => {
                tracing::warn!(set = set.rule.name, %error, "it is not compared");
                wrong = wrong.or(Some(error));
            }
        }
    }
    wrong.map_or(Ok(status), Err)
}

async fn reconcile(session: &Session, set: &Set, options: &Options) -> Result<u8> {
    let place = set.home(session).await?;
    let driver = set.driver(session).await?;
    let may = Reconciling { prunes: options.prune, adopts: options.adopt, notes: options.note };
    // Whoever only looks needs no other repository.
    let gates = if may.prunes { set.gates(session, &place, &*driver).await? } else { Vec::new() };
    let witness = Watcher::new(Arc::new(Meter::default()));
    let archiving = Archiving {
        driver: &*driver,
        place: &place,
        world: &session.world,
        rule: &set.rule,
        gates: &gates,
        limits: Limits::default(),
        witness: &witness,
    };
    let overlap = Box::pin(archiver::reconcile(&archiving, may)).await?;
    let left_rows: u64 = overlap.left.iter().map(|one| one.rows).sum();
    let erased_rows: u64 = overlap.erased.iter().map(|one| one.rows).sum();
    let unknown_rows: u64 = overlap.unknown.iter().map(|entry| entry.rows).sum();
    session.answer(&ReconcileAnswer {
        set: set.rule.name.clone(),
        archived_rows: overlap.archived.1,
        live_rows: overlap.live.iter().map(|slice| slice.rows).sum(),
        unnoted_rows: overlap.unnoted.iter().map(|slice| slice.rows).sum(),
        anew_rows: overlap.anew.iter().map(|slice| slice.rows).sum(),
        deleted_rows: overlap.deleted.iter().map(|slice| slice.rows).sum(),
        live: overlap.live,
        pruned_rows: overlap.pruned_rows,
        differing: overlap.differing,
        left_rows,
        left: overlap.left.into_iter().map(LeftRow::of).collect(),
        erased_rows,
        erased: overlap.erased.into_iter().map(ErasedRow::of).collect(),
        standing: overlap.standing.into_iter().map(StandingRow::of).collect(),
        unknown_rows,
    })?;
    // Nobody goes on with what was left, as the next run does with its own.
    let is_well = unknown_rows == 0 && left_rows == 0 && erased_rows == 0;
    Ok(if is_well { exit::OK } else { exit::CHECK_FAILED })
}
