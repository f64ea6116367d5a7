//! Which moments of a database can be restored, from its backups and its captured log.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use stillpoint_contract::LogPosition;

use crate::repository::{Coverage, Timeline, entry::Commit};

/// A moment that can be restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restorable {
    /// When.
    pub at: DateTime<Utc>,
    /// Where in the log, where that is known.
    pub position: Option<LogPosition>,
}

/// Moments that can be restored, end to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first.
    pub from: Restorable,
    /// The last.
    pub to: Restorable,
    /// Why it does not continue the window before it, where that is known.
    pub gap: Option<String>,
}

/// Why a moment between two captures cannot be had although no commit is missing.
const UNWATCHED: &str =
    "nobody looked at the log; commits of that time can be restored by position, not by time";

/// Works the windows out, oldest first. Captured log without a backup before it restores nothing
/// and is left out.
pub fn windows(timeline: &Timeline) -> Vec<Window> {
    let mut found: Vec<Window> = Vec::new();
    let mut anchored = HashSet::new();
    for coverage in &timeline.coverage {
        let Some(first) = first_backup(timeline, coverage) else { continue };
        anchored.extend(coverage.backups.iter().map(String::as_str));
        found.extend(of_coverage(first, coverage));
    }
    for backup in &timeline.backups {
        let commit = &backup.commit;
        let at = commit.consistent_time;
        let inside = |window: &Window| window.from.at <= at && at <= window.to.at;
        let is_alone = !anchored.contains(commit.backup.as_str());
        if is_alone && !found.iter().any(inside) {
            let to = Restorable { at: timeline.stood_until(backup), ..state_of(commit) };
            found.push(Window { from: state_of(commit), to, gap: None });
        }
    }
    found.sort_by_key(|window| window.from.at);
    found
}

fn first_backup<'a>(timeline: &'a Timeline, coverage: &Coverage) -> Option<&'a Commit> {
    let in_coverage = |commit: &&Commit| coverage.backups.contains(&commit.backup);
    let commits = timeline.backups.iter().map(|backup| &backup.commit);
    commits.filter(in_coverage).min_by_key(|commit| commit.consistent_time)
}

/// What can be restored of one coverage.
fn of_coverage(first: &Commit, coverage: &Coverage) -> Vec<Window> {
    let mut from = state_of(first);
    let mut gap = coverage.gap.clone();
    if coverage.until < first.consistent_time {
        return vec![Window { to: from.clone(), from, gap }];
    }
    let mut found = Vec::new();
    let instant = |at| Restorable { at, position: None };
    let later = coverage.unwatched.iter().filter(|u| first.consistent_time < u.to);
    for unwatched in later.map(|u| u.since(first.consistent_time)).filter(|u| !u.is_short()) {
        let to = instant(unwatched.from.max(from.at));
        found.push(Window { from, to, gap: gap.replace(UNWATCHED.to_owned()) });
        from = instant(unwatched.to);
    }
    let to = Restorable { at: coverage.until, position: Some(coverage.end.position.clone()) };
    found.push(Window { from, to, gap });
    found
}

fn state_of(commit: &Commit) -> Restorable {
    Restorable { at: commit.consistent_time, position: commit.consistent_at.clone() }
}
