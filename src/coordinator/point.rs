//! From what a person asks for to a backup and a target: or the nearest points that can be had.

use chrono::{DateTime, SecondsFormat, Utc};
use stillpoint_contract::{
    Engine, Error, ErrorKind, LogPosition, LogSource as _, NativePoint, RecoveryTarget, Result,
    code, quoted,
};

use super::native;
use crate::repository::{
    Repository, TIME_ERROR_SECONDS_MAX, Timeline, Unwatched, history::Committed,
};

/// What a person asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The newest state.
    Latest,
    /// The state at an instant.
    Time(DateTime<Utc>),
    /// The state at a position.
    Position(LogPosition),
    /// A state that is named in the engine's own way.
    Native(NativePoint),
    /// The state of one backup, by id or a unique beginning of it.
    Backup(String),
}

/// How it can be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The backup to begin with.
    pub backup: Committed,
    /// Where recovery stops.
    pub until: RecoveryTarget,
    /// Whether captured log is replayed on top of the backup.
    pub replays_log: bool,
    /// Why log that was captured later does not count, where the newest state was asked for.
    pub open_gap: Option<String>,
}

/// Chooses the newest backup from which the point can be reached.
///
/// # Errors
///
/// [`Missing`](ErrorKind::Missing) with the nearest points when it cannot be reached: then nothing
/// is restored at all.
pub async fn choose(
    repository: &Repository,
    timeline: &Timeline,
    engine: &dyn Engine,
    wanted: &Wanted,
) -> Result<Chosen> {
    if timeline.backups.is_empty() {
        return Err(no_backup(&timeline.database));
    }
    match wanted {
        Wanted::Backup(id) => choose_backup(timeline, id),
        Wanted::Latest => Ok(choose_latest(timeline)),
        Wanted::Time(at) => choose_time(repository, timeline, *at).await,
        Wanted::Position(position) => choose_position(repository, timeline, engine, position).await,
        Wanted::Native(point) => {
            let position = native::locate(repository, timeline, engine, point).await?;
            choose_position(repository, timeline, engine, &position).await
        }
    }
}

/// Captured log, if anything, is all there is.
pub(super) fn no_backup(database: &str) -> Error {
    Error::new(ErrorKind::Missing, code::NO_SUCH_BACKUP, "find a backup")
        .with("database", database)
        .why("captured log alone cannot be restored: it needs a backup to begin with")
        .next(format!("take one: stillpoint backup … --name {}", quoted(database)))
}

fn choose_backup(timeline: &Timeline, id: &str) -> Result<Chosen> {
    let matching: Vec<_> =
        timeline.backups.iter().filter(|b| b.commit.backup.starts_with(id)).collect();
    match matching.as_slice() {
        [backup] => Ok(alone(backup)),
        found => Err(Error::new(ErrorKind::Missing, code::NO_SUCH_BACKUP, "find the backup")
            .with("asked", id)
            .with("matching", found.len())
            .next(format!("stillpoint list {}", quoted(&timeline.database)))),
    }
}

fn alone(backup: &Committed) -> Chosen {
    let until = RecoveryTarget::Consistent;
    Chosen { backup: backup.clone(), until, replays_log: false, open_gap: None }
}

fn replayed(backup: &Committed, until: RecoveryTarget) -> Chosen {
    Chosen { backup: backup.clone(), until, replays_log: true, open_gap: None }
}

/// The backup that can be brought furthest; the newest of those.
fn choose_latest(timeline: &Timeline) -> Chosen {
    let reach = |backup: &&Committed| {
        let own = backup.commit.consistent_time;
        (timeline.coverage_of(backup).map_or(own, |c| c.end.at.max(own)), backup.seq)
    };
    let newest = timeline.backups.iter().max_by_key(reach).expect("checked by the caller");
    let replays_log = timeline.coverage_of(newest).is_some();
    let until = if replays_log { RecoveryTarget::Latest } else { RecoveryTarget::Consistent };
    let open_gap = timeline.open_gap().map(str::to_owned);
    Chosen { backup: newest.clone(), until, replays_log, open_gap }
}

async fn choose_time(
    repository: &Repository,
    timeline: &Timeline,
    at: DateTime<Utc>,
) -> Result<Chosen> {
    for backup in timeline.backups.iter().rev() {
        if backup.commit.consistent_time == at {
            return Ok(alone(backup));
        }
        let Some(coverage) = timeline.coverage_of(backup) else { continue };
        let begins = begin_of(repository, timeline, backup).await?;
        // Between the copy and the capture's next look lies less than the error of any time.
        let own = backup.commit.consistent_time;
        if own <= at && at < begins && (begins - own).num_seconds() < TIME_ERROR_SECONDS_MAX {
            return Ok(alone(backup));
        }
        if begins <= at && at <= coverage.until {
            if let Some(unwatched) =
                repository.unwatched_at(&timeline.database, coverage, at).await?
            {
                return Err(unwatched_time(timeline, backup, begins, unwatched, at));
            }
            let until = RecoveryTarget::Time(at);
            return Ok(replayed(backup, until));
        }
    }
    Err(unreachable_time(repository, timeline, at).await?)
}

/// The earliest instant to which a backup can be brought: when its own last transaction was seen.
///
/// A backup may hold transactions that the capture saw only after the copy was done; going back to
/// before that would need an older backup.
async fn begin_of(
    repository: &Repository,
    timeline: &Timeline,
    backup: &Committed,
) -> Result<DateTime<Utc>> {
    let Some(position) = &backup.commit.consistent_at else {
        return Ok(backup.commit.consistent_time);
    };
    let mut log = repository.log_in(timeline, backup).await?;
    while let Some(head) = log.next().await? {
        if !head.range.touches(position) {
            break;
        }
        let own = head.events.iter().rev().find(|event| event.offset <= position.offset);
        if let Some(own) = own {
            return Ok(own.at);
        }
    }
    Ok(backup.commit.consistent_time)
}

async fn choose_position(
    repository: &Repository,
    timeline: &Timeline,
    engine: &dyn Engine,
    position: &LogPosition,
) -> Result<Chosen> {
    for backup in timeline.backups.iter().rev() {
        let Some(own) = &backup.commit.consistent_at else { continue };
        if own == position {
            return Ok(alone(backup));
        }
        if timeline.coverage_of(backup).is_none() || position < own {
            continue;
        }
        let mut log = repository.log_in(timeline, backup).await?;
        while let Some(head) = log.next().await? {
            if head.range.touches(position) {
                let until = RecoveryTarget::Position(position.clone());
                return Ok(replayed(backup, until));
            }
        }
    }
    let mut error =
        Error::new(ErrorKind::Missing, code::UNREACHABLE_POINT, "reach the chosen position")
            .with("asked", engine.render(position))
            .with("database", &timeline.database);
    let oldest = timeline.backups.first().and_then(|backup| backup.commit.consistent_at.as_ref());
    if let Some(oldest) = oldest {
        error = error.with("oldest", engine.render(oldest));
    }
    if let Some(newest) = timeline.coverage.last() {
        error = error.with("newest", engine.render(&newest.end.position));
    }
    Err(error.next(format!("stillpoint timeline {}", quoted(&timeline.database))))
}

/// Says why an instant cannot be had, and which ones can.
async fn unreachable_time(
    repository: &Repository,
    timeline: &Timeline,
    at: DateTime<Utc>,
) -> Result<Error> {
    let mut points: Vec<DateTime<Utc>> =
        timeline.backups.iter().map(|b| b.commit.consistent_time).collect();
    for coverage in &timeline.coverage {
        let Some(first) = coverage.backups.first() else { continue };
        let backup = timeline.backups.iter().find(|b| b.commit.backup == *first);
        if let Some(backup) = backup {
            points.push(begin_of(repository, timeline, backup).await?);
            points.push(coverage.until.max(coverage.end.at));
        }
    }
    let before = points.iter().filter(|point| **point <= at).max();
    let after = points.iter().filter(|point| **point > at).min();
    let mut error =
        Error::new(ErrorKind::Missing, code::UNREACHABLE_POINT, "reach the chosen time")
            .with("asked", exact(at));
    error = match (before, after) {
        (None, _) => error.why("it is before the first backup"),
        (Some(_), None) => error.why(match timeline.open_gap() {
            Some(why) => format!("it lies in or after a gap that no backup has closed yet: {why}"),
            None => "it is after the newest transaction that was captured".to_owned(),
        }),
        (Some(_), Some(_)) => error.why(gap_reason(timeline, at)),
    };
    let near = [(before, "nearest before"), (after, "nearest after")];
    for (point, label) in near {
        if let Some(point) = point {
            error = error.with(label, exact(*point));
        }
    }
    if let Some(point) = before.or(after) {
        let database = quoted(&timeline.database);
        error =
            error.next(format!("stillpoint restore {database} --at {} --to PATH", exact(*point)));
    }
    Ok(error)
}

/// Says that the commits around an instant are there, but not when each was made.
fn unwatched_time(
    timeline: &Timeline,
    backup: &Committed,
    begins: DateTime<Utc>,
    unwatched: Unwatched,
    at: DateTime<Utc>,
) -> Error {
    // Before its own last transaction the backup knows one instant only, its own.
    let before =
        if unwatched.from < begins { backup.commit.consistent_time } else { unwatched.from };
    let after = unwatched.to;
    let database = quoted(&timeline.database);
    let mut error =
        Error::new(ErrorKind::Missing, code::UNREACHABLE_POINT, "reach the chosen time")
            .with("asked", exact(at))
            .why(
                "nobody looked at the log then: its commits were captured later, all at once, and \
                 can be told apart by position only",
            );
    if before <= at {
        error = error.with("nearest before", exact(before));
    }
    error
        .with("nearest after", exact(after))
        .next(format!("stillpoint restore {database} --at {} --to PATH", exact(before.min(after))))
        .next(format!("stillpoint timeline {database} shows the positions"))
}

fn gap_reason(timeline: &Timeline, at: DateTime<Utc>) -> String {
    let next = timeline.coverage.iter().find(|coverage| coverage.start.at > at);
    match next.and_then(|coverage| coverage.gap.as_deref()) {
        Some(why) => format!("it lies in a gap of the captured log: {why}"),
        None => "it lies between two backups, and no log was captured there".to_owned(),
    }
}

/// An instant that reads back as itself.
fn exact(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}
