//! `stillpoint archive status`, `pause`, `resume` and `set`: runs, while they work.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::place::Set;
use crate::{
    archiver::{Control, Shelf, Standing, control, standing, tell},
    cli::{
        answer::{Answer, Stamp},
        exit,
        page::{Page, Tone, printable},
        session::{Session, length},
        units,
    },
};

/// What `archive status`, `pause` and `resume` are told.
#[derive(Debug, Args)]
pub(crate) struct NameOptions {
    /// The archive set.
    set: String,
}

/// What `archive set` is told.
#[derive(Debug, Args)]
pub(crate) struct SetOptions {
    /// The archive set.
    set: String,
    /// lag=LENGTH: rest while replicas are further behind; txn=MILLISECONDS: how long a
    /// transaction should take.
    #[arg(value_name = "NAME=VALUE", required = true)]
    values: Vec<String>,
}

#[derive(Debug, Serialize)]
struct StatusAnswer {
    set: String,
    /// The run that was begun and not ended, or `null`.
    run: Option<String>,
    planned_rows: u64,
    /// Rows of all tables that are in files of it.
    exported_rows: u64,
    /// Rows of all tables that the ledger says are gone from their tables; `null` where the
    /// database cannot be asked.
    pruned_rows: Option<u64>,
    /// Partitions that were taken out of their tables, and are not dropped yet.
    standing: Vec<StandingRow>,
    paused: bool,
    lag_max_ms: Option<u64>,
    transaction_ms: Option<u64>,
    told_by: Option<String>,
    told_at: Option<Stamp>,
}

#[derive(Debug, Serialize)]
struct StandingRow {
    partition: String,
    table: String,
    run: String,
    /// Rows that are in files.
    rows: u64,
    /// Who answers for its rows: `table` is the one that it became, until they are archived.
    answers: &'static str,
    /// Until when it stands there at least, or `null` while it is not archived.
    until: Option<Stamp>,
    /// What puts it back.
    reattach: String,
}

impl StandingRow {
    fn of(set: &str, one: Standing) -> Self {
        Self {
            reattach: format!("stillpoint archive reattach {set} {}", one.run),
            partition: one.partition.name,
            table: one.partition.parent,
            run: one.run,
            rows: one.rows,
            answers: if one.is_archived { "archive" } else { "table" },
            until: one.until.map(Stamp),
        }
    }
}

impl Answer for StatusAnswer {
    const SCHEMA: &'static str = "archive-status/1";

    fn write(&self, page: &mut Page<'_>) {
        let state = match (&self.run, self.paused) {
            (_, true) => page.paint(Tone::Warning, "paused"),
            (Some(_), false) => page.paint(Tone::Strong, "not ended"),
            (None, false) => page.paint(Tone::Good, "nothing is begun"),
        };
        page.line(format!("Archive set {}: {state}", printable(&self.set)));
        let mut facts = Vec::new();
        if let Some(run) = &self.run {
            facts.push(("run", run.clone()));
            facts.push((
                "planned",
                format!("{} rows of the root", units::grouped(self.planned_rows)),
            ));
            facts.push(("in files", format!("{} rows", units::grouped(self.exported_rows))));
            let pruned = self.pruned_rows.map_or_else(
                || "not known: the database cannot be asked".to_owned(),
                |rows| format!("{} rows", units::grouped(rows)),
            );
            facts.push(("deleted", pruned));
        }
        let length = |ms| units::duration(Duration::from_millis(ms));
        facts.extend(self.lag_max_ms.map(|ms| ("lag", length(ms))));
        facts.extend(self.transaction_ms.map(|ms| ("transactions", length(ms))));
        if let (Some(by), Some(at)) = (&self.told_by, self.told_at) {
            facts.push(("told by", format!("{by}, {}", page.time(at.0))));
        }
        page.facts(2, &facts);
        for one in &self.standing {
            let (partition, table) = (printable(&one.partition), printable(&one.table));
            let rows = units::grouped(one.rows);
            page.line(match one.until {
                Some(until) => format!(
                    "{partition} is taken out of {table}; its {rows} rows are in the archive; it \
                     is dropped after {}",
                    page.time(until.0)
                ),
                None => format!(
                    "{partition} is taken out of {table}; its rows are in it, and not in the \
                     archive yet"
                ),
            });
            page.line(format!("    {}", printable(&one.reattach)));
        }
    }
}

/// Shows how far it is.
pub(super) async fn status(session: &Session, options: NameOptions) -> Result<u8> {
    let set = Set::of(session, &options.set).await?;
    let place = set.place(session).await?;
    let told = control(&place).await?;
    answer(session, &set, told).await
}

/// Lets runs rest.
pub(super) async fn pause(session: &Session, options: NameOptions, is_paused: bool) -> Result<u8> {
    let set = Set::of(session, &options.set).await?;
    let place = set.place(session).await?;
    let change = |told: &mut Control| told.is_paused = is_paused;
    let told = tell(&place, &session.world, &session.user(), change).await?;
    answer(session, &set, told).await
}

/// Changes how they work.
pub(super) async fn set(session: &Session, options: SetOptions) -> Result<u8> {
    let set = Set::of(session, &options.set).await?;
    let place = set.place(session).await?;
    let mut lag = None;
    let mut transaction = None;
    for value in &options.values {
        match value.split_once('=') {
            Some(("lag", text)) => lag = Some(length(text)?.as_millis() as u64),
            Some(("txn", text))
                if text.parse::<u64>().is_ok_and(|ms| (1..=60_000).contains(&ms)) =>
            {
                transaction = text.parse().ok();
            }
            _ => {
                return Err(Error::new(ErrorKind::Invalid, code::USAGE, "understand a setting")
                    .with("given", value)
                    .with("forms", "lag=2s; txn=250, in milliseconds up to 60000"));
            }
        }
    }
    let change = |told: &mut Control| {
        told.lag_max_ms = lag.or(told.lag_max_ms);
        told.transaction_ms = transaction.or(told.transaction_ms);
    };
    let told = tell(&place, &session.world, &session.user(), change).await?;
    answer(session, &set, told).await
}

async fn answer(session: &Session, set: &Set, told: Control) -> Result<u8> {
    let place = set.place(session).await?;
    let shelf = Shelf::load(&place).await?;
    let run = shelf.unfinished();
    let exported = run.map_or(0, |run| {
        let live = run.batches.values().filter(|one| one.void.is_none());
        live.map(|one| one.batch.rows()).sum()
    });
    let pruned = match run {
        Some(run) => pruned(session, set, &run.plan.run).await.ok(),
        None => None,
    };
    let standing = standing(&place, set.rule.grace).await?.into_iter();
    let is_told = !told.by.is_empty();
    session.answer(&StatusAnswer {
        set: set.rule.name.clone(),
        run: run.map(|run| run.plan.run.clone()),
        planned_rows: run.map_or(0, |run| run.plan.rows),
        exported_rows: exported,
        pruned_rows: pruned,
        standing: standing.map(|one| StandingRow::of(&set.rule.name, one)).collect(),
        paused: told.is_paused,
        lag_max_ms: told.lag_max_ms,
        transaction_ms: told.transaction_ms,
        told_at: is_told.then_some(Stamp(told.at)),
        told_by: is_told.then_some(told.by),
    })?;
    Ok(exit::OK)
}

async fn pruned(session: &Session, set: &Set, run: &str) -> Result<u64> {
    let driver = set.driver(session).await?;
    let ledger = driver.rows().await?.ledger(&set.rule.name).await?;
    Ok(ledger.iter().filter(|entry| entry.run == run).map(|entry| entry.rows).sum())
}
