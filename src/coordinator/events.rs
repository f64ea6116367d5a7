//! What happened in the captured log that a person may want to go back to.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};
use stillpoint_contract::{
    Error, ErrorKind, LogEvent, LogEventKind, LogPosition, LogSource as _, Result, code, quoted,
};

use super::{native::first_backup, point::no_backup};
use crate::repository::{Point, Repository, Timeline};

/// How many similar names are told when one is not found.
const NAMES_MAX: usize = 5;

/// An event in the log, and the newest state before it that can be restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    /// The state that includes it.
    pub point: Point,
    /// What it was.
    pub what: LogEventKind,
    /// The newest state without it.
    pub before: Point,
}

/// Events of a timeline, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// The newest of them.
    pub newest: Vec<Happened>,
    /// How many older ones were found and left out.
    pub left_out: usize,
}

/// Collects restore points and losses that `wanted` accepts, at most `max` of them.
pub async fn events(
    repository: &Repository,
    timeline: &Timeline,
    max: usize,
    wanted: impl Fn(&LogEvent) -> bool,
) -> Result<Events> {
    let (mut newest, mut left_out) = (VecDeque::new(), 0);
    for coverage in &timeline.coverage {
        let Some(first) = first_backup(timeline, coverage) else { continue };
        let Some(own) = &first.commit.consistent_at else { continue };
        let mut passed =
            Passed::new(Point { at: first.commit.consistent_time, position: own.clone() });
        let mut log = repository.log_in(timeline, first).await?;
        while let Some(head) = log.next().await? {
            passed.enter(head.range.start());
            for event in &head.events {
                let Some((point, before)) = passed.pass(head.range.start(), event) else {
                    continue;
                };
                if event.what == LogEventKind::Commit || !wanted(event) {
                    continue;
                }
                if newest.len() == max {
                    newest.pop_front();
                    left_out += 1;
                }
                newest.push_back(Happened { point, what: event.what.clone(), before });
            }
        }
    }
    Ok(Events { newest: newest.into(), left_out })
}

/// The state that was passed last, and the one before it.
struct Passed {
    at: Point,
    before: Point,
}

impl Passed {
    fn new(at: Point) -> Self {
        Self { before: at.clone(), at }
    }

    fn enter(&mut self, start: &LogPosition) {
        if start.lineage != self.at.position.lineage {
            *self = Self::new(Point { at: self.at.at, position: start.clone() });
        }
    }

    /// The state with an event, and the newest without it; `None` for one that the backup holds.
    fn pass(&mut self, lineage: &LogPosition, event: &LogEvent) -> Option<(Point, Point)> {
        let point = Point { at: event.at, position: lineage.at(event.offset) };
        if event.offset < self.at.position.offset || self.before.position == point.position {
            return None;
        }
        // Several events end where their commit ends.
        if self.at.position.offset < event.offset {
            self.before = std::mem::replace(&mut self.at, point.clone());
        }
        (self.before.position != point.position).then(|| (point, self.before.clone()))
    }
}

/// The newest loss of what a person calls `name`: its drop, or else the loss of its contents.
///
/// # Errors
///
/// [`Missing`](ErrorKind::Missing) with what was lost instead.
pub async fn last_loss(
    repository: &Repository,
    timeline: &Timeline,
    name: &str,
) -> Result<Happened> {
    if timeline.backups.is_empty() {
        return Err(no_backup(&timeline.database));
    }
    let is_drop = |event: &LogEvent| event.what.is_loss_of(name) && !event.what.is_emptied();
    let mut found = events(repository, timeline, 1, is_drop).await?;
    if found.newest.is_empty() {
        found = events(repository, timeline, 1, |event| event.what.is_loss_of(name)).await?;
    }
    if let Some(loss) = found.newest.pop() {
        return Ok(loss);
    }
    let database = quoted(&timeline.database);
    let mut error = Error::new(ErrorKind::Missing, code::UNREACHABLE_POINT, "find the drop")
        .with("asked", name)
        .why("nothing of this name was dropped in the captured log that a backup leads into");
    let lost = |event: &LogEvent| {
        matches!(event.what, LogEventKind::Dropped(_)) && !event.what.is_unnamed()
    };
    let lost = events(repository, timeline, NAMES_MAX, lost).await?;
    for other in lost.newest.iter().rev() {
        if let LogEventKind::Dropped(what) = &other.what {
            error = error.with("dropped", format!("{what} at {}", exact(other.point.at)));
        }
    }
    Err(error.next(format!("stillpoint timeline {database}")))
}

fn exact(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(offset: u128, what: LogEventKind) -> LogEvent {
        LogEvent { offset, at: DateTime::UNIX_EPOCH, what }
    }

    #[test]
    fn before_a_drop_is_the_commit_before_its_own() {
        let at = |text: &str| text.parse::<LogPosition>().unwrap();
        let point = |text| Point { at: DateTime::UNIX_EPOCH, position: at(text) };
        let mut passed = Passed::new(point("a:10"));
        let lineage = at("a:0");
        let mut pass = |offset, what| {
            let found = passed.pass(&lineage, &event(offset, what));
            found.map(|(_, before)| before.position.offset)
        };
        let dropped = || LogEventKind::Dropped("t".to_owned());
        assert_eq!(pass(5, dropped()), None);
        assert_eq!(pass(10, dropped()), None);
        assert_eq!(pass(20, dropped()), Some(10));
        assert_eq!(pass(20, LogEventKind::Commit), Some(10));
        assert_eq!(pass(30, LogEventKind::Commit), Some(20));
        assert_eq!(pass(40, dropped()), Some(30));
        passed.enter(&at("b:40"));
        assert_eq!(passed.before.position, at("b:40"));
    }
}
