//! What a partial restore or a comparison says when it is done.

use std::{path::Path, time::Duration};

use serde::Serialize;
use stillpoint_contract::{Brought, Comparison, Difference, Tallied};

use crate::{
    cli::{
        answer::{Answer, Stamp},
        page::{Page, Table, Tone, printable},
        session::Session,
        units,
        wire::{Backup, milliseconds},
    },
    coordinator::PartialReport,
    repository::drill::PresentedBackup,
};

/// The state that was restored for it.
#[derive(Debug, Serialize)]
struct State {
    database: String,
    into: String,
    backup: Backup,
    reached_position: Option<String>,
    reached_engine_position: Option<String>,
    last_commit_at: Option<Stamp>,
    transactions_replayed: u64,
    damage: Vec<String>,
    warnings: Vec<String>,
    presented: PresentedBackup,
    log_bytes: u64,
    open_ms: u64,
    elapsed_ms: u64,
}

impl State {
    fn of<T>(session: &Session, database: &str, into: &str, report: &PartialReport<T>) -> Self {
        let native = session.native();
        let (resolved, reached) = (&report.resolved, &report.reached);
        let position = reached.position.as_ref();
        let engine = resolved.manifest.engine.as_str();
        let warnings = report.removed.iter().chain(&resolved.chosen.warnings);
        Self {
            database: database.to_owned(),
            into: into.to_owned(),
            backup: Backup::of(&resolved.chosen.backup.commit, native),
            reached_position: position.map(ToString::to_string),
            reached_engine_position: position.map(|p| session.native().render(engine, p)),
            last_commit_at: reached.committed_at.map(Stamp),
            transactions_replayed: reached.transactions,
            damage: report.damage.clone(),
            warnings: warnings.cloned().collect(),
            presented: report.presented.recorded(),
            log_bytes: report.log_bytes,
            open_ms: milliseconds(report.opened_after),
            elapsed_ms: milliseconds(report.took),
        }
    }

    fn write(&self, page: &mut Page<'_>) {
        let state = match self.last_commit_at {
            Some(at) => format!("after the commit of {}", page.time(at.0)),
            None => format!("of the backup, {}", page.time(self.backup.at.0)),
        };
        let mut facts = vec![("state", state)];
        facts.extend(self.reached_engine_position.clone().map(|position| ("position", position)));
        let opened = units::duration(Duration::from_millis(self.open_ms));
        facts.push(("copy", format!("{}; open after {opened}", self.presented.told())));
        page.facts(2, &facts);
        for found in &self.damage {
            page.line(format!("{}: {}", page.paint(Tone::Bad, "damaged"), printable(found)));
        }
    }

    fn took(&self) -> String {
        units::duration(Duration::from_millis(self.elapsed_ms))
    }

    fn warn(&self, session: &Session) {
        self.warnings.iter().for_each(|warning| session.warn(warning));
    }
}

#[derive(Debug, Serialize)]
struct BroughtTable {
    from: String,
    to: String,
    rows: u64,
}

/// The answer to a partial restore.
#[derive(Debug, Serialize)]
pub(super) struct PartialAnswer {
    #[serde(flatten)]
    state: State,
    created_database: Option<String>,
    tables: Vec<BroughtTable>,
    rows: u64,
    left_out: Vec<String>,
    notes: Vec<String>,
}

impl PartialAnswer {
    pub(super) fn of(
        session: &Session,
        database: &str,
        into: &str,
        report: PartialReport<Brought>,
    ) -> Self {
        let state = State::of(session, database, into, &report);
        let Brought { database, tables, notes, left_out } = report.outcome;
        let rows = tables.iter().map(|table| table.rows).sum();
        let table = |table: stillpoint_contract::BroughtTable| BroughtTable {
            from: table.from,
            to: table.to,
            rows: table.rows,
        };
        let tables = tables.into_iter().map(table).collect();
        Self { state, created_database: database, tables, rows, left_out, notes }
    }

    pub(super) fn warn(&self, session: &Session) {
        self.state.warn(session);
    }
}

impl Answer for PartialAnswer {
    const SCHEMA: &'static str = "restore.partial/1";

    fn write(&self, page: &mut Page<'_>) {
        let (into, took) = (printable(&self.state.into), self.state.took());
        let rows = units::count(self.rows, "row", "rows");
        if let Some(name) = &self.created_database {
            let name = printable(name);
            page.line(format!("Restored database {name} with {rows} into {into} in {took}"));
        } else {
            let count = units::count(self.tables.len() as u64, "table", "tables");
            page.line(format!("Restored {count} with {rows} into {into} in {took}"));
        }
        self.state.write(page);
        if self.created_database.is_none() {
            let mut table = Table::new(&["TABLE", "RESTORED AS", ">ROWS"]);
            for row in &self.tables {
                table.row(vec![row.from.clone(), row.to.clone(), units::grouped(row.rows)]);
            }
            page.table(&table);
        }
        for note in &self.notes {
            page.line(format!("note: {}", printable(note)));
        }
        if !self.left_out.is_empty() {
            page.line("To add what was left out:");
            for statement in &self.left_out {
                page.line(format!("  {}", printable(statement)));
            }
        }
    }
}

#[derive(Debug, Serialize)]
struct Examples {
    missing: Vec<String>,
    extra: Vec<String>,
    different: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ComparedTable {
    table: String,
    key: Vec<String>,
    missing: u64,
    extra: u64,
    different: u64,
    equal: u64,
    examples: Examples,
    columns_missing: Vec<String>,
    columns_extra: Vec<String>,
}

/// The answer to a comparison.
#[derive(Debug, Serialize)]
pub(super) struct CompareAnswer {
    #[serde(flatten)]
    state: State,
    tables: Vec<ComparedTable>,
    missing: u64,
    extra: u64,
    different: u64,
    script: String,
}

impl CompareAnswer {
    pub(super) fn of(
        session: &Session,
        database: &str,
        into: &str,
        script: &Path,
        report: PartialReport<Comparison>,
    ) -> Self {
        let mut state = State::of(session, database, into, &report);
        state.warnings.extend(report.outcome.notes.iter().cloned());
        for found in &report.outcome.tables {
            let notes = found.notes.iter().map(|note| format!("{}: {note}", found.table));
            state.warnings.extend(notes);
        }
        let sum = |rows: fn(&Difference) -> &Tallied| -> u64 {
            report.outcome.tables.iter().map(|found| rows(found).rows).sum()
        };
        let (missing, extra, different) =
            (sum(|d| &d.missing), sum(|d| &d.extra), sum(|d| &d.different));
        let table = |found: Difference| ComparedTable {
            table: found.table,
            key: found.key,
            missing: found.missing.rows,
            extra: found.extra.rows,
            different: found.different.rows,
            equal: found.equal,
            examples: Examples {
                missing: found.missing.examples,
                extra: found.extra.examples,
                different: found.different.examples,
            },
            columns_missing: found.columns_missing,
            columns_extra: found.columns_extra,
        };
        let tables = report.outcome.tables.into_iter().map(table).collect();
        let script = script.display().to_string();
        Self { state, tables, missing, extra, different, script }
    }

    pub(super) fn warn(&self, session: &Session) {
        self.state.warn(session);
    }
}

impl Answer for CompareAnswer {
    const SCHEMA: &'static str = "restore.compare/1";

    fn write(&self, page: &mut Page<'_>) {
        let count = units::count(self.tables.len() as u64, "table", "tables");
        let into = printable(&self.state.into);
        page.line(format!("Compared {count} with {into} in {}", self.state.took()));
        self.state.write(page);
        let mut table = Table::new(&["TABLE", ">MISSING", ">EXTRA", ">DIFFERENT", ">EQUAL", "KEY"]);
        for row in &self.tables {
            let key = if row.key.is_empty() { "whole rows".to_owned() } else { row.key.join(", ") };
            table.row(vec![
                row.table.clone(),
                units::grouped(row.missing),
                units::grouped(row.extra),
                units::grouped(row.different),
                units::grouped(row.equal),
                key,
            ]);
        }
        page.table(&table);
        for row in &self.tables {
            let examples = [
                ("missing", &row.examples.missing),
                ("extra", &row.examples.extra),
                ("different", &row.examples.different),
            ];
            for (what, keys) in examples.into_iter().filter(|(_, keys)| !keys.is_empty()) {
                page.line(format!(
                    "{} in {}, such as: {}",
                    what,
                    printable(&row.table),
                    printable(&keys.join("; "))
                ));
            }
            for (who, columns) in
                [("the point", &row.columns_missing), ("the live table", &row.columns_extra)]
            {
                if !columns.is_empty() {
                    let columns = printable(&columns.join(", "));
                    let table = printable(&row.table);
                    page.line(format!("columns of {table} that only {who} has: {columns}"));
                }
            }
        }
        page.line(format!(
            "Nothing was changed. Read the script, then run it: {}",
            printable(&self.script)
        ));
    }
}
