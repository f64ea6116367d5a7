//! `stillpoint archive reclaim`: what became of the space of rows that were archived.

use clap::{Args, ValueEnum};
use serde::Serialize;
use stillpoint_contract::{ErrorKind, Result, Rows, Space};

use super::place::Set;
use crate::{
    archiver::{Shelf, hidden},
    cli::{
        answer::Answer,
        exit,
        page::{Page, Table, printable},
        session::Session,
        units,
    },
};

/// What `archive reclaim` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The archive set.
    set: String,
    /// How; no method writes a table or an index anew.
    #[arg(long, value_name = "METHOD", default_value = "none")]
    method: Method,
}

/// What is done with the space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Method {
    /// Only report.
    None,
    /// Let the space be used again, and give it back to the system where the engine can.
    Vacuum,
}

impl Method {
    /// In the word that engines know.
    fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Vacuum => "vacuum",
        }
    }
}

/// What became of the space of archived rows.
#[derive(Debug, Serialize)]
pub(super) struct ReclaimAnswer {
    set: String,
    method: String,
    /// Rows that are in files and nowhere else.
    archived_rows: u64,
    /// About what they took in their tables.
    archived_bytes: u64,
    pub(super) tables: Vec<TableRow>,
    /// The file that all tables share, where they do: what it lost, they have given back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) file: Option<SpaceRow>,
    /// Partitions that left as a whole, and are gone.
    dropped: Vec<DroppedRow>,
    /// What was done, in the engine's words.
    done: Vec<String>,
}

/// What became of the space of a table.
#[derive(Debug, Serialize)]
pub(super) struct TableRow {
    pub(super) table: String,
    #[serde(flatten)]
    pub(super) space: SpaceRow,
}

/// A partition that was dropped, with all that it took.
#[derive(Debug, Serialize)]
struct DroppedRow {
    partition: String,
    /// About how much that was when its run was planned; `null` where that was not written down.
    returned_bytes: Option<u64>,
}

/// What became of space.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "names have their units")]
pub(super) struct SpaceRow {
    pub(super) before_bytes: u64,
    pub(super) after_bytes: u64,
    /// What new rows can use inside of it, about.
    pub(super) reusable_bytes: u64,
    /// What the system got back.
    pub(super) returned_bytes: u64,
}

impl SpaceRow {
    fn of(before: Space, after: Space) -> Self {
        Self {
            before_bytes: before.total_bytes,
            after_bytes: after.total_bytes,
            reusable_bytes: after.reusable_bytes,
            returned_bytes: before.total_bytes.saturating_sub(after.total_bytes),
        }
    }

    fn tell(&self, of: String, table: &mut Table) {
        let all = [self.before_bytes, self.after_bytes, self.reusable_bytes, self.returned_bytes];
        table.row(std::iter::once(of).chain(all.map(units::bytes)).collect());
    }
}

impl Answer for ReclaimAnswer {
    const SCHEMA: &'static str = "archive-reclaim/1";

    fn write(&self, page: &mut Page<'_>) {
        self.tell(page);
    }
}

impl ReclaimAnswer {
    /// For people, also amid another answer.
    pub(super) fn tell(&self, page: &mut Page<'_>) {
        let (rows, bytes) = (units::grouped(self.archived_rows), units::bytes(self.archived_bytes));
        page.line(format!(
            "Archive set {}: {rows} rows archived, about {bytes}",
            printable(&self.set)
        ));
        let heading = ["TABLE", ">BEFORE", ">AFTER", ">REUSABLE", ">RETURNED TO THE SYSTEM"];
        let mut table = Table::new(&heading);
        for row in &self.tables {
            row.space.tell(row.table.clone(), &mut table);
        }
        if let Some(file) = &self.file {
            file.tell("the whole file".to_owned(), &mut table);
        }
        page.table(&table);
        self.tell_dropped(page);
        for done in &self.done {
            page.line(printable(done));
        }
    }

    fn tell_dropped(&self, page: &mut Page<'_>) {
        let partitions = |count: usize| {
            units::count(count as u64, "partition was dropped", "partitions were dropped")
        };
        let known: Vec<u64> = self.dropped.iter().filter_map(|one| one.returned_bytes).collect();
        if !known.is_empty() {
            let (partitions, bytes) = (partitions(known.len()), units::bytes(known.iter().sum()));
            page.line(format!("{partitions}: about {bytes} went back to the system"));
        }
        let unknown = self.dropped.len() - known.len();
        if unknown > 0 {
            let partitions = partitions(unknown);
            page.line(format!(
                "{partitions}: what they took went back to the system, and nobody knows how much"
            ));
        }
    }
}

/// Reports, and reclaims if told to.
pub(super) async fn run(session: &Session, options: Options) -> Result<u8> {
    let set = Set::of(session, &options.set).await?;
    session.answer(&reclaim(session, &set, options.method.word()).await?)?;
    Ok(exit::OK)
}

/// The same, without telling it.
pub(super) async fn reclaim(session: &Session, set: &Set, method: &str) -> Result<ReclaimAnswer> {
    let place = set.place(session).await?;
    let (shelf, hidden) = (Shelf::load(&place).await?, hidden(&place).await?);
    let (mut archived_rows, mut archived_bytes) = (0, 0);
    for (plan, batch) in shelf.sealed() {
        let row_bytes = plan.bytes.checked_div(plan.rows).unwrap_or(0);
        // What lives again takes its space again.
        for slice in hidden.shown(batch) {
            archived_rows += slice.rows();
            archived_bytes += row_bytes * slice.members[0].rows;
        }
    }
    let driver = set.driver(session).await?;
    let mut rows = driver.rows().await?;
    let (holders, beside) = holders(&mut *rows, set, &shelf).await?;
    let (mut tables, mut done) = (Vec::new(), Vec::new());
    let file_before = rows.file_space().await?;
    for name in &beside {
        let then = "stands beside its table, and its space goes back when it is dropped";
        done.push(format!("{name} {then}"));
    }
    for name in holders.iter().chain(&beside) {
        let table = rows.table(name).await?;
        let before = rows.space(&table).await?;
        // What is to be dropped has no rows that were deleted.
        if method != "none" && !beside.contains(name) {
            let said = rows.reclaim(&table, method).await?;
            // Of a whole file, it is said of each of its tables.
            if !done.contains(&said) {
                done.push(said);
            }
        }
        let after = rows.space(&table).await?;
        tables.push(TableRow { table: table.name, space: SpaceRow::of(before, after) });
    }
    let file_after = rows.file_space().await?;
    let file = file_before.zip(file_after).map(|(before, after)| SpaceRow::of(before, after));
    let dropped = dropped(&shelf);
    let (set, method) = (set.rule.name.clone(), method.to_owned());
    Ok(ReclaimAnswer { set, method, archived_rows, archived_bytes, tables, file, dropped, done })
}

/// The tables that take the space, and partitions that were taken out and are not dropped yet.
async fn holders(
    rows: &mut dyn Rows,
    set: &Set,
    shelf: &Shelf,
) -> Result<(Vec<String>, Vec<String>)> {
    let names = match shelf.runs.last() {
        Some(run) => run.plan.members.iter().map(|member| member.table.name.clone()).collect(),
        None => vec![set.rule.root.clone()],
    };
    // Of a table with partitions, they take the space.
    let mut holders: Vec<String> = Vec::new();
    for name in names {
        match rows.partitions(&name).await? {
            Some(whole) => holders.extend(whole.partitions.into_iter().map(|one| one.name)),
            None => holders.push(name),
        }
    }
    let mut beside = Vec::new();
    for run in shelf.runs.iter().filter(|run| run.end.is_none()) {
        let Some(partition) = run.plan.whole() else { continue };
        if holders.contains(&partition.name) {
            continue;
        }
        match rows.table(&partition.name).await {
            Ok(table) if table.identity == partition.identity => beside.push(table.name),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Missing => {}
            Err(error) => return Err(error),
        }
    }
    Ok((holders, beside))
}

/// Partitions whose runs have ended, and whose rows are, or were, in files: they are gone.
fn dropped(shelf: &Shelf) -> Vec<DroppedRow> {
    let ended = shelf.runs.iter().filter(|run| run.end.is_some());
    let dropped = ended.filter_map(|run| {
        let partition = run.plan.whole()?.name.clone();
        let counts = run.batches.values().any(|one| one.sealed.is_some() && one.void.is_none());
        let returned_bytes = Some(run.plan.bytes).filter(|bytes| *bytes > 0);
        counts.then_some(DroppedRow { partition, returned_bytes })
    });
    dropped.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{page::Look, zone::Zone};

    #[test]
    fn what_nobody_knows_of_dropped_partitions_is_said_in_words() {
        let dropped = |returned_bytes| DroppedRow { partition: "p".to_owned(), returned_bytes };
        let answer = ReclaimAnswer {
            set: "orders".to_owned(),
            method: "none".to_owned(),
            archived_rows: 1,
            archived_bytes: 1,
            tables: Vec::new(),
            file: None,
            dropped: vec![dropped(Some(3 << 20)), dropped(None), dropped(Some(1 << 20))],
            done: Vec::new(),
        };
        let look = Look { colour: false, width: 80, zone: Zone::UTC };
        let mut page = Page::new(&look);
        answer.tell(&mut page);
        let text = page.into_text();
        assert!(text.contains("2 partitions were dropped: about"), "{text}");
        assert!(text.contains("1 partition was dropped: what they took"), "{text}");
    }
}
