//! `stillpoint archive reclaim`: what became of the space of rows that were archived.

use clap::Args;
use serde::Serialize;
use stillpoint_contract::Result;

use super::place::Set;
use crate::{
    archiver::Shelf,
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
    /// How: none only reports; vacuum lets the space be used again, and gives it back to the system
    /// where the engine can.
    #[arg(long, value_name = "METHOD", default_value = "none")]
    method: String,
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
    /// What was done, in the engine's words.
    done: Vec<String>,
}

/// What became of the space of a table.
#[derive(Debug, Serialize)]
pub(super) struct TableRow {
    pub(super) table: String,
    pub(super) before_bytes: u64,
    pub(super) after_bytes: u64,
    /// What new rows can use inside of it.
    pub(super) reusable_bytes: u64,
    /// What the system got back.
    returned_bytes: u64,
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
            table.row(vec![
                row.table.clone(),
                units::bytes(row.before_bytes),
                units::bytes(row.after_bytes),
                units::bytes(row.reusable_bytes),
                units::bytes(row.returned_bytes),
            ]);
        }
        page.table(&table);
        for done in &self.done {
            page.line(printable(done));
        }
    }
}

/// Reports, and reclaims if told to.
pub(super) async fn run(session: &Session, options: Options) -> Result<u8> {
    let set = Set::of(session, &options.set).await?;
    session.answer(&reclaim(session, &set, &options.method).await?)?;
    Ok(exit::OK)
}

/// The same, without telling it.
pub(super) async fn reclaim(session: &Session, set: &Set, method: &str) -> Result<ReclaimAnswer> {
    let shelf = Shelf::load(&set.place(session).await?).await?;
    let (mut archived_rows, mut archived_bytes) = (0, 0);
    for (plan, batch) in shelf.sealed() {
        archived_rows += batch.rows();
        let row_bytes = plan.bytes.checked_div(plan.rows).unwrap_or(0);
        archived_bytes += row_bytes * batch.slices.iter().map(|s| s.members[0].rows).sum::<u64>();
    }
    let driver = set.driver(session).await?;
    let mut rows = driver.rows().await?;
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
    let (mut tables, mut done) = (Vec::new(), Vec::new());
    for name in holders {
        let table = rows.table(&name).await?;
        let before = rows.space(&table).await?;
        if method != "none" {
            let said = rows.reclaim(&table, method).await?;
            // Of a whole file, it is said of each of its tables.
            if !done.contains(&said) {
                done.push(said);
            }
        }
        let after = rows.space(&table).await?;
        tables.push(TableRow {
            table: table.name,
            before_bytes: before.total_bytes,
            after_bytes: after.total_bytes,
            reusable_bytes: after.reusable_bytes,
            returned_bytes: before.total_bytes.saturating_sub(after.total_bytes),
        });
    }
    let (set, method) = (set.rule.name.clone(), method.to_owned());
    Ok(ReclaimAnswer { set, method, archived_rows, archived_bytes, tables, done })
}
