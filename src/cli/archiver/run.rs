//! `stillpoint archive run`: rows into files, and then out of their tables.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use clap::Args;
use serde::Serialize;
use stillpoint_contract::Result;

use super::{
    control::OverrideRow,
    place::Set,
    plan::Found,
    reclaim::{self, ReclaimAnswer},
    until,
};
use crate::{
    archiver::{Archiving, Limits, Quit, RunReport, Step, Witness, control},
    cli::{
        answer::Answer,
        exit,
        page::{Page, Tone, printable},
        session::Session,
        units,
    },
    coordinator::told,
    pipeline::Meter,
};

/// What `archive run` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The archive set.
    set: String,
    /// Stop at this time: 05:00 when it is that time next, +2h, or a date and a time; the next run
    /// goes on.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,
    /// Stop after so many rows of the root; the next run goes on.
    #[arg(long, value_name = "NUMBER")]
    max_rows: Option<u64>,
    /// Write files only; a later run deletes the rows.
    #[arg(long)]
    keep_source: bool,
}

#[derive(Debug, Serialize)]
struct RunAnswer {
    set: String,
    run: Option<String>,
    /// `finished`, `nothing-selected`, `rows-max`, `out-of-time`, `window-closed`, `gate`,
    /// `kept-source` or `critical`.
    quit: &'static str,
    why: String,
    planned_rows: u64,
    /// Rows of all tables in files that count: none twice that were read again.
    exported_rows: u64,
    /// Rows of somebody who was erased, taken out of files again.
    erased_rows: u64,
    file_bytes: u64,
    pruned_rows: u64,
    left_rows: u64,
    differences: Vec<DifferenceRow>,
    /// Why destination tables lack what files have.
    lacking_copies: Vec<String>,
    rested: Vec<Rest>,
    /// Settings that count instead of the policy's, as they were at its end.
    overrides: Vec<OverrideRow>,
    findings: Vec<Found>,
    /// What became of the space of rows, where the policy wants to know.
    #[serde(skip_serializing_if = "Option::is_none")]
    reclaimed: Option<ReclaimAnswer>,
    elapsed_ms: u64,
}

#[derive(Debug, Serialize)]
struct DifferenceRow {
    table: String,
    slice: u32,
    how: String,
}

#[derive(Debug, Serialize)]
struct Rest {
    /// In a word, such as `replica-lag` or `paused`.
    cause: &'static str,
    why: String,
    ms: u64,
}

impl Answer for RunAnswer {
    const SCHEMA: &'static str = "archive-run/1";

    fn write(&self, page: &mut Page<'_>) {
        let is_well = self.left_rows == 0 && self.quit != "critical";
        let tone = if is_well { Tone::Good } else { Tone::Warning };
        let why = page.paint(tone, &self.why);
        page.line(format!("Archive set {}: {why}", printable(&self.set)));
        let took = Duration::from_millis(self.elapsed_ms);
        let written = format!(
            "{} rows, {}",
            units::grouped(self.exported_rows),
            units::bytes(self.file_bytes)
        );
        let mut facts = vec![
            ("run", self.run.clone().unwrap_or_else(|| "none".to_owned())),
            ("into files", written),
            ("deleted", format!("{} rows", units::grouped(self.pruned_rows))),
            ("took", units::duration(took)),
        ];
        if self.left_rows > 0 {
            let left = units::grouped(self.left_rows);
            facts.push(("left", format!("{left} rows of the root; the next run tries again")));
        }
        if self.erased_rows > 0 {
            let erased = units::grouped(self.erased_rows);
            facts.push(("erased", format!("{erased} rows of somebody who was erased before")));
        }
        page.facts(2, &facts);
        for one in &self.differences {
            let (table, how) = (printable(&one.table), printable(&one.how));
            page.line(format!("  not deleted at first: {table}, slice {}: {how}", one.slice));
        }
        for why in &self.lacking_copies {
            page.line(format!("  not copied: {}", printable(why)));
        }
        for rest in &self.rested {
            let length = units::duration(Duration::from_millis(rest.ms));
            page.line(format!("  rested {length}: {}", printable(&rest.why)));
        }
        OverrideRow::write(&self.overrides, &self.set, page);
        for finding in &self.findings {
            finding.write(page);
        }
        if let Some(reclaimed) = &self.reclaimed {
            reclaimed.tell(page);
        }
    }
}

/// Carries it out.
pub(super) async fn run(session: &Session, options: Options) -> Result<u8> {
    let until = options.until.as_deref().map(|text| until::end(session, text)).transpose()?;
    let set = Set::of(session, &options.set).await?;
    let meter = Arc::new(Meter::default());
    let witness = Arc::new(Watcher::new(Arc::clone(&meter)));
    let place = set.home_seen(session, Arc::<Watcher>::clone(&witness)).await?;
    let driver = set.driver(session).await?;
    let gates = set.gates(session, &place, &*driver).await?;
    let archiving = Archiving {
        driver: &*driver,
        place: &place,
        world: &session.world,
        rule: &set.rule,
        gates: &gates,
        limits: Limits {
            until,
            rows_max: options.max_rows,
            keeps_source: options.keep_source,
            rests_max: None,
        },
        witness: &*witness,
    };
    let begun = session.world.clock.elapsed();
    let report = session.watch(&set.rule.name, &meter, Box::pin(archiving.run())).await?;
    let took = session.world.clock.elapsed().saturating_sub(begun);
    let status = status_of(&report);
    let reclaimed = reclaimed(session, &set, &report).await;
    let mut answer = answer_of(&set.rule.name, report, took);
    answer.reclaimed = reclaimed;
    answer.overrides = OverrideRow::all(&control(&place).await?);
    session.answer(&answer)?;
    Ok(status)
}

/// Does with the space of deleted rows as the policy says, unless the run's time is over, somebody
/// paused it, or the server could not stand more. Whatever becomes of that, they are archived.
pub(super) async fn reclaimed(
    session: &Session,
    set: &Set,
    report: &RunReport,
) -> Option<ReclaimAnswer> {
    let is_to_rest = matches!(
        report.quit,
        Quit::OutOfTime | Quit::Closed(_) | Quit::Critical(_) | Quit::Paused(_) | Quit::Rested(_)
    );
    let may = report.pruned_rows > 0 && !is_to_rest;
    let method = set.rule.reclaim.as_deref().filter(|_| may)?;
    match reclaim::reclaim(session, set, method).await {
        Ok(answer) => Some(answer),
        Err(error) => {
            let set = &set.rule.name;
            tracing::warn!(event = "archive.not-reclaimed", set, why = told(&error));
            None
        }
    }
}

fn status_of(report: &RunReport) -> u8 {
    // Rows that kept changing are left for the next run, and somebody should know.
    let is_well = report.left_rows == 0
        && report.lacking_copies.is_empty()
        && !matches!(report.quit, Quit::Critical(_));
    if is_well { exit::OK } else { exit::CHECK_FAILED }
}

fn answer_of(set: &str, report: RunReport, took: Duration) -> RunAnswer {
    let (quit, why) = (report.word(), report.words());
    let differences = report.differences.into_iter();
    let rested = report.rested.into_iter();
    RunAnswer {
        set: set.to_owned(),
        run: report.run,
        quit,
        why,
        planned_rows: report.planned_rows,
        exported_rows: report.exported_rows,
        erased_rows: report.erased_rows,
        file_bytes: report.file_bytes,
        pruned_rows: report.pruned_rows,
        left_rows: report.left_rows,
        differences: differences
            .map(|one| DifferenceRow { table: one.table, slice: one.slice, how: one.how })
            .collect(),
        lacking_copies: report.lacking_copies,
        rested: rested
            .map(|(cause, length)| Rest {
                cause: cause.word(),
                why: cause.to_string(),
                ms: length.as_millis() as u64,
            })
            .collect(),
        overrides: Vec::new(),
        findings: report
            .findings
            .iter()
            .filter(|finding| finding.weight != stillpoint_contract::Weight::Fine)
            .map(Found::of)
            .collect(),
        reclaimed: None,
        elapsed_ms: took.as_millis() as u64,
    }
}

/// Shows progress, and writes steps to the log.
#[derive(Debug)]
pub(super) struct Watcher {
    meter: Arc<Meter>,
    /// What a row takes in its table, as far as that is known.
    row_bytes: AtomicU64,
}

impl Watcher {
    pub(super) fn new(meter: Arc<Meter>) -> Self {
        Self { meter, row_bytes: AtomicU64::new(0) }
    }
}

impl Witness for Watcher {
    fn see(&self, step: &Step) {
        match step {
            Step::Planned { rows, bytes } => {
                self.row_bytes.store(bytes.checked_div(*rows).unwrap_or(0), Ordering::Relaxed);
                self.meter.begin("archiving", *bytes);
            }
            Step::Committed { rows, .. } => {
                self.meter.count(*rows);
                self.meter.advance(rows * self.row_bytes.load(Ordering::Relaxed));
            }
            // Rests that anybody has to hear of are told once, and not each time it looks.
            Step::Deferred { .. } => tracing::warn!(?step, "archiving"),
            _ => {}
        }
        tracing::debug!(?step, "archiving");
    }
}
