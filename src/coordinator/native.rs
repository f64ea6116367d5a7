//! Where a point lies that was named in the engine's own way.

use stillpoint_contract::{
    Engine, Error, ErrorKind, LogEvent, LogEventKind, LogPosition, LogSource as _, NativePoint,
    Result, SegmentHead, code, quoted,
};

use crate::repository::{Coverage, Repository, Timeline, history::Committed};

/// How many names are told when one is not found.
const NAMES_MAX: usize = 5;

/// Finds the point in the newest history that has it.
///
/// # Errors
///
/// [`Missing`](ErrorKind::Missing) with the nearest points.
pub(super) async fn locate(
    repository: &Repository,
    timeline: &Timeline,
    engine: &dyn Engine,
    point: &NativePoint,
) -> Result<LogPosition> {
    let mut names = Vec::new();
    for coverage in timeline.coverage.iter().rev() {
        let Some(first) = first_backup(timeline, coverage) else { continue };
        let Some(own) = &first.commit.consistent_at else { continue };
        let mut search = Search { engine, point, at: own.clone(), found: None, names: Vec::new() };
        search.begin();
        let mut log = repository.log_in(timeline, first).await?;
        while let Some(head) = log.next().await? {
            search.follow(&head);
        }
        if search.found.is_some() {
            return search.found.ok_or_else(|| Error::bug("find a point"));
        }
        names.extend(search.names);
    }
    // Backups that no log leads to or from are points of their own.
    let mut alone = timeline.backups.iter().rev().filter_map(|b| b.commit.consistent_at.as_ref());
    let at = alone.find(|own| *point == NativePoint::Offset(own.offset));
    at.cloned().map_or_else(|| Err(unreachable(timeline, engine, point, &names)), Ok)
}

/// The first backup from which captured log can be replayed.
pub(super) fn first_backup<'a>(
    timeline: &'a Timeline,
    coverage: &Coverage,
) -> Option<&'a Committed> {
    let of = |backup: &&Committed| coverage.backups.contains(&backup.commit.backup);
    timeline.backups.iter().filter(of).min_by_key(|backup| backup.commit.consistent_time)
}

/// A walk along one history.
struct Search<'a> {
    engine: &'a dyn Engine,
    point: &'a NativePoint,
    /// The last state that was passed and can be restored.
    at: LogPosition,
    found: Option<LogPosition>,
    names: Vec<String>,
}

impl Search<'_> {
    /// The state of the backup itself.
    fn begin(&mut self) {
        if *self.point == NativePoint::Offset(self.at.offset) {
            self.found = Some(self.at.clone());
        }
    }

    fn follow(&mut self, head: &SegmentHead) {
        let start = head.range.start();
        if start.lineage != self.at.lineage {
            self.at = start.clone();
        }
        let own = self.at.offset;
        let new = head.events.iter().filter(|event| own < event.offset);
        let passed: Vec<&LogEvent> = new.collect();
        match self.point {
            NativePoint::Offset(offset) if own <= *offset && *offset <= head.range.end().offset => {
                let last = passed.iter().rev().find(|event| event.offset <= *offset);
                self.found = Some(start.at(last.map_or(own, |event| event.offset)));
            }
            NativePoint::Offset(_) => {}
            NativePoint::Named(name) => {
                for event in &passed {
                    let LogEventKind::RestorePoint(found) = &event.what else { continue };
                    if found == name {
                        self.found = Some(start.at(event.offset));
                    }
                    self.names.push(found.clone());
                }
                let excess = self.names.len().saturating_sub(NAMES_MAX);
                self.names.drain(..excess);
            }
            NativePoint::Transaction(id) => {
                let commit = self.engine.commit_of(id, head).filter(|offset| own < *offset);
                if let Some(offset) = commit {
                    self.found = Some(start.at(offset));
                }
            }
        }
        if let Some(last) = passed.last() {
            self.at = start.at(last.offset);
        }
    }
}

fn unreachable(
    timeline: &Timeline,
    engine: &dyn Engine,
    point: &NativePoint,
    names: &[String],
) -> Error {
    let joined = timeline.coverage.iter().filter(|coverage| !coverage.backups.is_empty());
    let ends: Vec<&LogPosition> = joined.map(|coverage| &coverage.end.position).collect();
    let newest = ends.last().copied();
    let at =
        |offset: u128| newest.map_or_else(|| offset.to_string(), |p| engine.render(&p.at(offset)));
    let (asked, why) = match point {
        NativePoint::Offset(offset) => {
            (at(*offset), "no backup and no captured log that a backup leads into reaches it")
        }
        NativePoint::Named(name) => (name.clone(), "no restorable point has this name"),
        NativePoint::Transaction(id) => {
            (id.clone(), "no commit of this transaction was captured after a backup")
        }
    };
    let mut error =
        Error::new(ErrorKind::Missing, code::UNREACHABLE_POINT, "reach the chosen point")
            .with("asked", asked)
            .why(why);
    if !names.is_empty() {
        error = error.with("known names", names.join(", "));
    }
    let backups = timeline.backups.iter().filter_map(|b| b.commit.consistent_at.as_ref());
    let points: Vec<&LogPosition> = backups.chain(ends).collect();
    if let NativePoint::Offset(offset) = point {
        let before = points.iter().filter(|p| p.offset <= *offset).max_by_key(|p| p.offset);
        let after = points.iter().filter(|p| p.offset > *offset).min_by_key(|p| p.offset);
        for (near, label) in [(before, "nearest before"), (after, "nearest after")] {
            if let Some(near) = near {
                error = error.with(label, engine.render(near));
            }
        }
    } else {
        for (end, label) in [(points.first(), "oldest"), (newest.as_ref(), "newest")] {
            if let Some(end) = end {
                error = error.with(label, engine.render(end));
            }
        }
    }
    error.next(format!("stillpoint timeline {}", quoted(&timeline.database)))
}
