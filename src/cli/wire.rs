//! Things that several answers name, in the one form that all of them use.

use std::time::Duration;

use serde::Serialize;
use stillpoint_contract::{LogEventKind, LogPosition};

use super::{
    answer::Stamp,
    native::Native,
    page::{Page, Table, printable},
    units,
};
use crate::{
    coordinator::Happened,
    repository::{entry::Commit, history::History, proof_of},
};

/// A backup.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Backup {
    /// Its id.
    pub id: String,
    /// The database's name.
    pub database: String,
    /// The engine's name.
    pub engine: String,
    /// The instant of the state that it holds.
    pub at: Stamp,
    /// The position of that state.
    pub position: Option<String>,
    /// The same, as the engine's own tools print it.
    pub engine_position: Option<String>,
    /// Whether unchanged pages were kept without reading them.
    pub incremental: bool,
    /// The database's size, in bytes.
    pub size_bytes: u64,
    /// What it added to the repository, in bytes.
    pub stored_bytes: u64,
    /// When it began.
    pub started_at: Stamp,
    /// When its last byte was stored.
    pub finished_at: Stamp,
    /// `verified`, `unverified` or `suspect`, where that is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proof: Option<&'static str>,
    /// What is wrong with it, where something is known to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl Backup {
    /// What the log of the repository says of it.
    pub(crate) fn of(commit: &Commit, native: Native<'_>) -> Self {
        let render = |position| native.render(&commit.engine, position);
        Self {
            id: commit.backup.clone(),
            database: commit.database.clone(),
            engine: commit.engine.clone(),
            at: Stamp(commit.consistent_time),
            position: commit.consistent_at.as_ref().map(ToString::to_string),
            engine_position: commit.consistent_at.as_ref().map(render),
            incremental: commit.incremental,
            size_bytes: commit.size_bytes,
            stored_bytes: commit.stored_bytes,
            started_at: Stamp(commit.started_at),
            finished_at: Stamp(commit.finished_at),
            proof: None,
            problem: None,
        }
    }

    /// The same, with what became of proving it.
    pub(crate) fn judged(self, history: &History) -> Self {
        let proof = Some(proof_of(history, &self.id).name());
        let problem = history.fault(&self.id).map(str::to_owned);
        Self { proof, problem, ..self }
    }

    /// What is wrong with it, for people.
    pub(crate) fn warning(&self) -> Option<String> {
        let problem = self.problem.as_ref()?;
        Some(format!("backup {} of {} is suspect: {problem}", self.id, self.database))
    }

    /// How it was made, in a word.
    pub(crate) fn kind(&self) -> &'static str {
        if self.incremental { "incremental" } else { "full" }
    }

    /// A table of backups.
    pub(crate) fn table(page: &mut Page<'_>, backups: &[Self]) {
        let heading = ["BACKUP", "DATABASE", "STATE AT", "READ", ">SIZE", ">STORED"];
        let mut table = Table::new(&heading);
        for backup in backups {
            table.row(vec![
                backup.id.clone(),
                backup.database.clone(),
                page.time(backup.at.0),
                backup.kind().to_owned(),
                units::bytes(backup.size_bytes),
                units::bytes(backup.stored_bytes),
            ]);
        }
        page.table(&table);
    }
}

/// A length of time on the wire.
pub(crate) fn milliseconds(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

/// A point in a database's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Point {
    /// When.
    pub at: Stamp,
    /// Where in the log, where the engine has positions.
    pub position: Option<String>,
    /// The same, as the engine's own tools print it.
    pub engine_position: Option<String>,
}

impl Point {
    /// The position as people read it.
    pub(crate) fn shown(&self) -> Option<&String> {
        self.engine_position.as_ref().or(self.position.as_ref())
    }
}

/// Something in the log that a person may want to go back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Event {
    /// What: `restore_point`, `dropped` or `emptied`.
    pub kind: &'static str,
    /// The name of the restore point, or of what was lost.
    pub name: String,
    /// The state that includes it.
    pub point: Point,
    /// The newest state without it.
    pub before: Point,
}

impl Event {
    /// What was found in the log of a database of `engine`.
    pub(crate) fn of(happened: Happened, render: &dyn Fn(&LogPosition) -> String) -> Self {
        let point = |point: &crate::repository::Point| Point {
            at: Stamp(point.at),
            position: Some(point.position.to_string()),
            engine_position: Some(render(&point.position)),
        };
        let (point, before) = (point(&happened.point), point(&happened.before));
        let is_emptied = happened.what.is_emptied();
        let (kind, name) = match happened.what {
            LogEventKind::Commit => ("commit", String::new()),
            LogEventKind::RestorePoint(name) => ("restore_point", name),
            LogEventKind::Dropped(name) if is_emptied => {
                ("emptied", name.trim_start_matches(LogEventKind::CONTENTS_OF).to_owned())
            }
            LogEventKind::Dropped(name) => ("dropped", name),
        };
        Self { kind, name, point, before }
    }

    /// What happened, for people.
    pub(crate) fn words(&self) -> String {
        let verb = match self.kind {
            "restore_point" => "named",
            "emptied" => "emptied or rewritten",
            kind => kind,
        };
        format!("{verb}: {}", printable(&self.name))
    }
}

/// Moments that can be restored, end to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Stretch {
    /// The first.
    pub from: Point,
    /// The last.
    pub to: Point,
}

/// Moments that cannot be restored, between two that can.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Gap {
    /// The last restorable moment before.
    pub after: Point,
    /// The first restorable moment after.
    pub before: Point,
    /// Why the log does not go on, where that is known.
    pub why: Option<String>,
}
