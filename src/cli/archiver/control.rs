//! `stillpoint archive status`, `pause`, `resume` and `set`: runs, while they work.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::place::Set;
use crate::{
    archiver::{
        Batch, Control, LastWord, Said, Shelf, Shelved, Since, Standing, control, gone_rows,
        last_word, measured_rate, standing, tell,
    },
    cli::{
        answer::{Answer, Stamp},
        exit,
        page::{Page, Tone, printable},
        session::{Session, length},
        units,
    },
    config::{log_share, moment, rate},
    policy::LogShare,
};

/// What `archive set` understands.
const SETTINGS: &str = "lag=2s; batch=8000, in rows; txn=250ms; threads=40; \
                        wal_rate=20MiB/s; log_used=60% or 4GiB; dead_rows=2000000; nice=50, in %; \
                        policy instead of a value, for what the policy says";

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
    /// lag=2s, threads=40, wal_rate=20MiB/s, log_used=60% or 4GiB, dead_rows=2000000: rest while
    /// there is more; nice=50: rest so many % of a transaction's time after it; txn=250ms:
    /// how long one should take; batch=8000: how many rows a slice has that is read from now on. It
    /// holds for all later runs, until lag=policy lets what the policy says count again.
    #[arg(value_name = "NAME=VALUE", required = true)]
    values: Vec<String>,
}

#[derive(Debug, Serialize)]
struct StatusAnswer {
    set: String,
    /// The run that was begun and not ended, or `null`.
    run: Option<String>,
    planned_rows: u64,
    /// About how many bytes those take in their table.
    planned_bytes: u64,
    /// Rows of all tables that are in files of it.
    exported_rows: u64,
    /// How many bytes these files have.
    file_bytes: u64,
    /// Rows of all tables that the ledger says are gone from their tables; `null` where the
    /// database cannot be asked.
    pruned_rows: Option<u64>,
    /// Rows of the root that were planned, and are in their table.
    left_rows: Option<u64>,
    /// How many rows of the root went in a second when the set was last worked on, rests included;
    /// `null` where that is not known.
    rows_per_second: Option<f64>,
    /// How long what is left takes at that rate, once it goes on.
    eta_ms: Option<u64>,
    /// How a run stopped, or why it rests; `null` where nobody said so.
    last_word: Option<WordRow>,
    /// Partitions that were taken out of their tables, and are not dropped yet.
    standing: Vec<StandingRow>,
    paused: bool,
    lag_max_ms: Option<u64>,
    transaction_ms: Option<u64>,
    slice_rows: Option<u64>,
    sessions_max: Option<u32>,
    log_rate_max: Option<u64>,
    /// As `60%`, or in bytes.
    log_used_max: Option<String>,
    dead_rows_max: Option<u64>,
    nice_percent: Option<u32>,
    told_by: Option<String>,
    told_at: Option<Stamp>,
    /// Settings that count instead of the policy's.
    overrides: Vec<OverrideRow>,
}

/// What whoever worked on the set said last.
#[derive(Debug, Serialize)]
struct WordRow {
    run: String,
    /// How it stopped, as `archive run` says it, or `failed`, or, of a scheduled run, `paused` or
    /// `rested`; or `resting`, or `working`.
    state: String,
    /// Of a rest, its cause as `archive run` says it.
    cause: Option<String>,
    why: String,
    since: Stamp,
}

impl WordRow {
    fn of(word: LastWord) -> Self {
        let LastWord { run, state, cause, why, since } = word;
        Self { run, state, cause, why, since: Stamp(since) }
    }

    /// For people: what it is about, and what it says.
    fn told(&self, page: &Page<'_>) -> (&'static str, String) {
        let (why, since) = (&self.why, page.time(self.since.0));
        match &*self.state {
            "working" => ("works", format!("since {since}, unless whoever did was killed")),
            "resting" => ("rests", format!("{why}, since {since}")),
            "finished" | "rows-left" | "nothing-selected" => ("ended", format!("{why}, {since}")),
            _ => ("stopped", format!("{why}, {since}")),
        }
    }
}

/// How far a run is, as far as the ledger tells.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    pruned: Option<u64>,
    left: Option<u64>,
    rate: Option<f64>,
    eta_ms: Option<u64>,
}

impl Progress {
    /// Nothing of it is known where the database cannot be asked.
    async fn of(session: &Session, set: &Set, shelf: &Shelf, run: &Shelved) -> Self {
        let ledger = async {
            let driver = set.driver(session).await?;
            driver.rows().await?.ledger(&set.rule.name).await
        };
        let Ok(ledger) = ledger.await else { return Self::default() };
        let own = ledger.iter().filter(|entry| entry.run == run.plan.run);
        let left = run.plan.rows.saturating_sub(gone_rows(run, &ledger));
        let rate = measured_rate(shelf, &ledger);
        Self {
            pruned: Some(own.map(|entry| entry.rows).sum()),
            left: Some(left),
            rate,
            eta_ms: rate.map(|rate| (left as f64 / rate * 1000.0) as u64),
        }
    }
}

/// A setting that counts instead of the policy's.
#[derive(Debug, Serialize)]
pub(super) struct OverrideRow {
    /// As `archive set` calls it.
    setting: &'static str,
    value: String,
    by: String,
    since: Stamp,
}

impl OverrideRow {
    /// Those of a set.
    pub(super) fn all(told: &Control) -> Vec<Self> {
        let row = |(setting, since): (&'static str, Since)| Self {
            setting,
            value: value_of(&told.said, setting).unwrap_or_default(),
            by: since.by,
            since: Stamp(since.at),
        };
        told.overrides().into_iter().map(row).collect()
    }

    /// Tells of them, and what ends them.
    pub(super) fn write(rows: &[Self], set: &str, page: &mut Page<'_>) {
        for Self { setting, value, by, since } in rows {
            let (value, by, since) = (printable(value), printable(by), page.time(since.0));
            page.line(format!("  {setting} = {value} instead of the policy's: {by}, {since}"));
        }
        if !rows.is_empty() {
            let all: Vec<String> =
                rows.iter().map(|row| format!("{}=policy", row.setting)).collect();
            let (set, all) = (printable(set), all.join(" "));
            page.line(format!("  stillpoint archive set {set} {all}   ends that"));
        }
    }
}

/// What is said of a setting, for people.
fn value_of(said: &Said, setting: &str) -> Option<String> {
    let length = |ms| units::duration(Duration::from_millis(ms));
    let rows = |rows| format!("{} rows", units::grouped(rows));
    match setting {
        "lag" => said.lag_max_ms.map(length),
        "threads" => said.sessions_max.map(|max| max.to_string()),
        "wal_rate" => said.log_rate_max.map(|max| units::rate(max as f64)),
        "log_used" => said.log_used_max.map(share_text),
        "dead_rows" => said.dead_rows_max.map(rows),
        "nice" => said.nice_percent.map(|percent| format!("{percent} %")),
        "txn" => said.transaction_ms.map(length),
        "batch" => said.slice_rows.map(rows),
        _ => None,
    }
}

fn share_text(max: LogShare) -> String {
    match max {
        LogShare::Percent(percent) => format!("{percent}%"),
        LogShare::Bytes(bytes) => units::bytes(bytes),
    }
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
            let (rows, bytes) =
                (units::grouped(self.planned_rows), units::bytes(self.planned_bytes));
            facts.push(("planned", format!("{rows} rows of the root, about {bytes}")));
            let (rows, bytes) = (units::grouped(self.exported_rows), units::bytes(self.file_bytes));
            facts.push(("in files", format!("{rows} rows, {bytes}")));
            let pruned = self.pruned_rows.map_or_else(
                || "not known: the database cannot be asked".to_owned(),
                |rows| format!("{} rows", units::grouped(rows)),
            );
            facts.push(("deleted", pruned));
            facts.extend(self.left().map(|left| ("left", left)));
        }
        facts.extend(self.last_word.as_ref().map(|word| word.told(page)));
        if let (Some(by), Some(at)) = (&self.told_by, self.told_at) {
            facts.push(("told by", format!("{by}, {}", page.time(at.0))));
        }
        page.facts(2, &facts);
        OverrideRow::write(&self.overrides, &self.set, page);
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

impl StatusAnswer {
    /// What is left, and how long that takes; none where it is not known.
    fn left(&self) -> Option<String> {
        let rows = units::grouped(self.left_rows?);
        Some(match (self.eta_ms, self.rows_per_second) {
            (Some(ms), Some(rate)) => {
                let length = units::duration(Duration::from_millis(ms));
                format!("{rows} rows of the root: about {length}, at {rate:.0} rows/s with rests")
            }
            _ => {
                format!("{rows} rows of the root; too little was deleted to say how long it takes")
            }
        })
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
    let (mut said, mut unsaid) = (Said::default(), Vec::new());
    for value in &options.values {
        match value.split_once('=') {
            Some((name, "policy")) if Said::default().unsay(name) => unsaid.push(name),
            _ => read(value, &mut said)?,
        }
    }
    let change = |told: &mut Control| {
        told.said = said.after(told.said);
        for name in unsaid {
            told.said.unsay(name);
        }
    };
    let told = tell(&place, &session.world, &session.user(), change).await?;
    answer(session, &set, told).await
}

/// Understands one setting.
fn read(given: &str, said: &mut Said) -> Result<()> {
    let (name, text) = given.split_once('=').unwrap_or((given, ""));
    let within = |least: u64, most: u64| {
        text.parse().ok().filter(|number: &u64| (least..=most).contains(number))
    };
    let is_read = match name {
        "lag" if !text.is_empty() => {
            said.lag_max_ms = Some(length(text)?.as_millis() as u64);
            said.lag_max_ms.is_some()
        }
        "txn" => {
            let length = || moment(text).ok().map(|length| length.as_millis() as u64);
            said.transaction_ms = within(1, 60_000).or_else(length);
            said.transaction_ms.is_some()
        }
        "batch" => {
            said.slice_rows = within(1, 50_000);
            said.slice_rows.is_some()
        }
        "threads" => {
            said.sessions_max = within(1, 1_000_000).map(|max| max as u32);
            said.sessions_max.is_some()
        }
        "wal_rate" => {
            said.log_rate_max = rate(text).ok();
            said.log_rate_max.is_some()
        }
        "log_used" => {
            said.log_used_max = log_share(text).ok();
            said.log_used_max.is_some()
        }
        "dead_rows" => {
            said.dead_rows_max = within(1, i64::MAX.cast_unsigned());
            said.dead_rows_max.is_some()
        }
        "nice" => {
            said.nice_percent = within(0, 10_000).map(|percent| percent as u32);
            said.nice_percent.is_some()
        }
        _ => false,
    };
    if is_read {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Invalid, code::USAGE, "understand a setting")
        .with("given", given)
        .with("forms", SETTINGS))
}

async fn answer(session: &Session, set: &Set, told: Control) -> Result<u8> {
    let place = set.place(session).await?;
    let shelf = Shelf::load(&place).await?;
    let run = shelf.unfinished();
    let live = run.iter().flat_map(|run| run.batches.values()).filter(|one| one.is_there());
    let live: Vec<&Batch> = live.map(|one| &one.batch).collect();
    let progress = match run {
        Some(run) => Box::pin(Progress::of(session, set, &shelf, run)).await,
        None => Progress::default(),
    };
    let standing = standing(&place, set.rule.grace).await?.into_iter();
    let is_told = !told.by.is_empty();
    session.answer(&StatusAnswer {
        set: set.rule.name.clone(),
        run: run.map(|run| run.plan.run.clone()),
        planned_rows: run.map_or(0, |run| run.plan.rows),
        planned_bytes: run.map_or(0, |run| run.plan.bytes),
        exported_rows: live.iter().copied().map(Batch::rows).sum(),
        file_bytes: live.iter().copied().flat_map(Batch::files).map(|file| file.bytes).sum(),
        pruned_rows: progress.pruned,
        left_rows: progress.left,
        rows_per_second: progress.rate,
        eta_ms: progress.eta_ms,
        last_word: last_word(&place).await?.map(WordRow::of),
        standing: standing.map(|one| StandingRow::of(&set.rule.name, one)).collect(),
        paused: told.is_paused,
        overrides: OverrideRow::all(&told),
        lag_max_ms: told.said.lag_max_ms,
        transaction_ms: told.said.transaction_ms,
        slice_rows: told.said.slice_rows,
        sessions_max: told.said.sessions_max,
        log_rate_max: told.said.log_rate_max,
        log_used_max: told.said.log_used_max.map(share_text),
        dead_rows_max: told.said.dead_rows_max,
        nice_percent: told.said.nice_percent,
        told_at: is_told.then_some(Stamp(told.at)),
        told_by: is_told.then_some(told.by),
    })?;
    Ok(exit::OK)
}
