//! `stillpoint archive ls` and `show`: sets, runs, batches and files.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::place::Set;
use crate::{
    archiver::{Batch, Hidden, Shelf, Shelved, ShelvedBatch, Slice, hidden},
    cli::{
        answer::{Answer, Stamp},
        exit,
        page::{Page, Table, printable},
        serve,
        session::Session,
        units,
    },
};

/// What `archive ls` is told.
#[derive(Debug, Args)]
pub(crate) struct ListOptions {
    /// The archive set [default: all of the configuration].
    set: Option<String>,
}

/// What `archive show` is told.
#[derive(Debug, Args)]
pub(crate) struct ShowOptions {
    /// The archive set.
    set: String,
    /// The run [default: the newest one].
    run: Option<String>,
}

#[derive(Debug, Serialize)]
struct ListAnswer {
    runs: Vec<RunRow>,
}

#[derive(Debug, Serialize)]
struct RunRow {
    set: String,
    run: String,
    made: Stamp,
    cutoff: Option<Stamp>,
    /// Rows that are in files and nowhere else.
    archived_rows: u64,
    /// Rows that are in files, and may be in their tables.
    pending_rows: u64,
    /// Rows that are in files and live in their tables again after a restore, or did: readers pass
    /// over them.
    passed_rows: u64,
    files: u64,
    bytes: u64,
    ended: Option<Stamp>,
    /// Why it ended, or `null`.
    why: Option<String>,
}

impl RunRow {
    fn of(set: &str, run: &Shelved, hidden: &Hidden) -> Self {
        let rows = |is_wanted: fn(&ShelvedBatch) -> bool| {
            let batches = run.batches.values().filter(|one| is_wanted(one));
            batches.map(|one| one.batch.rows()).sum::<u64>()
        };
        let sealed = run.batches.values().filter(|one| one.is_sealed());
        let shown = sealed.flat_map(|one| hidden.shown(&one.batch));
        let archived_rows = shown.map(Slice::rows).sum::<u64>();
        let live = run.batches.values().filter(|one| one.void.is_none());
        let files: Vec<u64> = live.flat_map(|one| file_bytes(&one.batch)).collect();
        Self {
            set: set.to_owned(),
            run: run.plan.run.clone(),
            made: Stamp(run.plan.made),
            cutoff: run.plan.cutoff.map(Stamp),
            archived_rows,
            pending_rows: rows(|one| one.sealed.is_none() && one.void.is_none()),
            passed_rows: rows(ShelvedBatch::is_sealed) - archived_rows,
            files: files.len() as u64,
            bytes: files.iter().sum(),
            ended: run.end.as_ref().map(|end| Stamp(end.at)),
            why: run.end.as_ref().map(|end| end.reason.clone()),
        }
    }
}

fn file_bytes(batch: &Batch) -> Vec<u64> {
    batch.members.iter().filter_map(|member| member.file.as_ref()).map(|file| file.bytes).collect()
}

impl Answer for ListAnswer {
    const SCHEMA: &'static str = "archive-list/1";

    fn write(&self, page: &mut Page<'_>) {
        if self.runs.is_empty() {
            page.line("Nothing was archived yet.");
            return;
        }
        let heading = ["SET", "RUN", "MADE", ">ARCHIVED", ">PENDING", ">FILES", ">SIZE", "ENDED"];
        let mut table = Table::new(&heading);
        for run in &self.runs {
            table.row(vec![
                run.set.clone(),
                run.run.clone(),
                page.time(run.made.0),
                units::grouped(run.archived_rows),
                units::grouped(run.pending_rows),
                run.files.to_string(),
                units::bytes(run.bytes),
                run.why.clone().unwrap_or_else(|| "not yet".to_owned()),
            ]);
        }
        page.table(&table);
        let mut passed: BTreeMap<&str, u64> = BTreeMap::new();
        for run in &self.runs {
            *passed.entry(&run.set).or_default() += run.passed_rows;
        }
        for (set, rows) in passed.into_iter().filter(|(_, rows)| *rows > 0) {
            let (set, rows) = (printable(set), units::grouped(rows));
            page.line(format!(
                "{rows} rows in files of {set} do not count: they live in their tables again, or \
                 did until they were archived anew; see stillpoint archive reconcile {set}"
            ));
        }
    }
}

/// Lists them.
pub(super) async fn list(session: &Session, options: ListOptions) -> Result<u8> {
    let names = match options.set {
        Some(name) => vec![name],
        None => serve::found(session).await?.config.archives.into_keys().collect(),
    };
    let mut runs = Vec::new();
    for name in names {
        let place = Set::of(session, &name).await?.place(session).await?;
        let (shelf, hidden) = (Shelf::load(&place).await?, hidden(&place).await?);
        runs.extend(shelf.runs.iter().map(|run| RunRow::of(&name, run, &hidden)));
    }
    session.answer(&ListAnswer { runs })?;
    Ok(exit::OK)
}

#[derive(Debug, Serialize)]
struct ShowAnswer {
    run: RunRow,
    predicate: String,
    tables: Vec<String>,
    batches: Vec<BatchRow>,
    /// Columns that are kept as exact text or bytes in some files, since a value did not fit.
    promoted: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct BatchRow {
    batch: u32,
    generation: u32,
    /// `archived`, `pending` or `void`.
    state: &'static str,
    slices: usize,
    rows: u64,
    /// Those of an archived batch that readers pass over, since they live in their tables again
    /// after a restore, or did.
    passed_rows: u64,
    position: Option<String>,
    files: Vec<FileRow>,
}

#[derive(Debug, Serialize)]
struct FileRow {
    table: String,
    key: String,
    bytes: u64,
    rows: u64,
    blake3: String,
    encrypted: bool,
}

impl Answer for ShowAnswer {
    const SCHEMA: &'static str = "archive-run-shown/1";

    fn write(&self, page: &mut Page<'_>) {
        let cutoff = self.run.cutoff.map_or_else(|| "none".to_owned(), |at| page.time(at.0));
        let made = page.time(self.run.made.0);
        page.facts(
            0,
            &[
                ("set", self.run.set.clone()),
                ("run", self.run.run.clone()),
                ("made", made),
                ("cutoff", cutoff),
                ("selects", self.predicate.clone()),
                ("tables", self.tables.join(", ")),
                ("ended", self.run.why.clone().unwrap_or_else(|| "not yet".to_owned())),
            ],
        );
        for (column, form) in &self.promoted {
            page.line(format!("{column} is kept as {form} in some files: a value did not fit"));
        }
        page.blank();
        let mut table = Table::new(&[">BATCH", "STATE", ">SLICES", ">ROWS", ">SIZE", "FILE"]);
        for batch in &self.batches {
            let mut first = true;
            for file in &batch.files {
                let of_batch = |text: String| if first { text } else { String::new() };
                table.row(vec![
                    of_batch(batch.batch.to_string()),
                    of_batch(batch.state.to_owned()),
                    of_batch(batch.slices.to_string()),
                    units::grouped(file.rows),
                    units::bytes(file.bytes),
                    file.key.clone(),
                ]);
                first = false;
            }
        }
        page.table(&table);
    }
}

/// Shows one.
pub(super) async fn show(session: &Session, options: ShowOptions) -> Result<u8> {
    let set = Set::of(session, &options.set).await?;
    let place = set.place(session).await?;
    let (shelf, hidden) = (Shelf::load(&place).await?, hidden(&place).await?);
    let newest = shelf.runs.last().ok_or_else(|| {
        Error::new(ErrorKind::Missing, code::NO_SUCH_ARCHIVE, "find a run")
            .with("set", place.set())
            .with("place", place.location())
            .why("nothing was archived yet")
            .next(format!("stillpoint archive run {}", place.set()))
    })?;
    let run = options.run.as_ref().map_or(Ok(newest), |name| shelf.run(name))?;
    let mut promoted = BTreeMap::new();
    for one in run.batches.values() {
        for (member, planned) in one.batch.members.iter().zip(&run.plan.members) {
            for (column, before) in member.columns.iter().zip(&planned.table.columns) {
                if column.kind != before.kind {
                    let form = if column.is_cast { "exact text" } else { "what it was exactly" };
                    let name = format!("{}.{}", planned.table.name, column.name);
                    promoted.insert(name, form.to_owned());
                }
            }
        }
    }
    session.answer(&ShowAnswer {
        run: RunRow::of(&options.set, run, &hidden),
        predicate: run.plan.predicate.clone(),
        tables: run.plan.members.iter().map(|member| member.table.name.clone()).collect(),
        batches: run.batches.values().map(|one| batch_row(run, one, &hidden)).collect(),
        promoted,
    })?;
    Ok(exit::OK)
}

fn batch_row(run: &Shelved, one: &ShelvedBatch, hidden: &Hidden) -> BatchRow {
    let shown = hidden.shown(&one.batch).map(Slice::rows).sum::<u64>();
    let passed_rows = if one.is_sealed() { one.batch.rows() - shown } else { 0 };
    let state = match (&one.void, one.is_sealed()) {
        (Some(_), _) => "void",
        (None, true) => "archived",
        (None, false) => "pending",
    };
    let members = one.batch.members.iter().zip(&run.plan.members);
    let files = members.filter_map(|(member, planned)| {
        let file = member.file.as_ref().filter(|_| one.void.is_none())?;
        Some(FileRow {
            table: planned.table.name.clone(),
            key: file.key.clone(),
            bytes: file.bytes,
            rows: file.rows,
            blake3: file.hash.clone(),
            encrypted: file.encryption.is_some(),
        })
    });
    BatchRow {
        batch: one.batch.number,
        generation: one.batch.generation,
        state,
        slices: one.batch.slices.len(),
        rows: one.batch.rows(),
        passed_rows,
        position: one.batch.position.clone(),
        files: files.collect(),
    }
}
