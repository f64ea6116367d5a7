//! From what a person asks for to a backup and a target: or the nearest points that can be had.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use stillpoint_contract::{
    Engine, Error, ErrorKind, LogPosition, LogSource as _, NativePoint, RecoveryTarget, Result,
    code, quoted,
};

use super::native;
use crate::repository::{Repository, Timeline, Unwatched, history::Committed};

/// How advice begins that names a point which can be had: whatever is to be done there. The point
/// follows.
pub const SAME_COMMAND_AT: &str = "the same command with --at ";

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

/// From which backup a point is reached, where several lead there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preference {
    /// From the newest: what comes of it is proven of that one.
    Newest,
    /// From the newest in which nothing is known to be damaged, if any of those leads there.
    Sound,
}

/// Backups in which something is known to be damaged, by their ids, and what.
type Damaged = BTreeMap<String, String>;

/// How it can be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The backup to begin with.
    pub backup: Committed,
    /// Where recovery stops.
    pub until: RecoveryTarget,
    /// Whether captured log is replayed on top of the backup.
    pub replays_log: bool,
    /// Until when the state is known to hold everything that was committed, where it is the
    /// latest.
    pub complete_until: DateTime<Utc>,
    /// What a person should know of the point that was chosen.
    pub warnings: Vec<String>,
}

/// Chooses the newest backup from which the point can be reached, or an older one that is sound.
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
    preference: Preference,
) -> Result<Chosen> {
    if timeline.backups.is_empty() {
        return Err(no_backup(&timeline.database));
    }
    let at = (repository, timeline);
    let mut newest = find(at, engine, wanted, &Damaged::new()).await?;
    let history = repository.history().await?;
    let damage = |backup: &Committed| history.damage(&backup.commit.backup).map(str::to_owned);
    let Some(found) = damage(&newest.backup) else { return Ok(newest) };
    let id = newest.backup.commit.backup.clone();
    if preference == Preference::Sound && !matches!(wanted, Wanted::Backup(_)) {
        let damaged = timeline.backups.iter();
        let damaged = damaged.filter_map(|one| Some((one.commit.backup.clone(), damage(one)?)));
        let other = find(at, engine, wanted, &damaged.collect()).await;
        // A time or a position says which state is meant; the newest one is the end of its log.
        let log = |chosen: &Chosen| timeline.coverage_of(&chosen.backup);
        let is_same = |other: &Chosen| log(other).is_some() && log(other) == log(&newest);
        let leads_there = |other: &Chosen| *wanted != Wanted::Latest || is_same(other);
        if let Some(mut other) = other.ok().filter(leads_there) {
            let warning = format!("backup {id} was passed over, for it is suspect: {found}");
            other.warnings.push(warning);
            return Ok(other);
        }
    }
    newest.warnings.push(format!("backup {id} is suspect: {found}"));
    Ok(newest)
}

/// The newest backup from which the point can be reached, save those in which something is damaged.
async fn find(
    (repository, timeline): (&Repository, &Timeline),
    engine: &dyn Engine,
    wanted: &Wanted,
    without: &Damaged,
) -> Result<Chosen> {
    let at = (repository, timeline, without);
    let mut chosen = match wanted {
        Wanted::Backup(id) => return choose_backup(timeline, id),
        Wanted::Position(position) => return choose_position(at, engine, position).await,
        Wanted::Native(point) => {
            let position = native::locate(repository, timeline, engine, point).await?;
            return choose_position(at, engine, &position).await;
        }
        Wanted::Latest => choose_latest(timeline, without)?,
        Wanted::Time(instant) => choose_time(at, *instant).await?,
    };
    chosen.warnings.extend(timeline.clock_doubt());
    Ok(chosen)
}

/// The backups of a timeline, in the order of their commits, save some.
fn among<'a>(
    timeline: &'a Timeline,
    without: &'a Damaged,
) -> impl DoubleEndedIterator<Item = &'a Committed> {
    timeline.backups.iter().filter(|backup| !without.contains_key(&backup.commit.backup))
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
    Chosen {
        backup: backup.clone(),
        until: RecoveryTarget::Consistent,
        replays_log: false,
        complete_until: backup.commit.consistent_time,
        warnings: Vec::new(),
    }
}

fn replayed(backup: &Committed, until: RecoveryTarget) -> Chosen {
    Chosen { until, replays_log: true, ..alone(backup) }
}

/// The backup that can be brought furthest; the newest of those. Positions and the order of commits
/// say which that is: clocks may have been wrong.
fn choose_latest(timeline: &Timeline, without: &Damaged) -> Result<Chosen> {
    let reach = |backup: &Committed| match timeline.coverage_of(backup) {
        Some(coverage) => Some(coverage.end.position.clone()),
        None => backup.commit.consistent_at.clone(),
    };
    let further = |best: &'_ Committed, next: &'_ Committed| {
        reach(best).partial_cmp(&reach(next)) == Some(std::cmp::Ordering::Greater)
    };
    let newest = among(timeline, without);
    let newest = newest.reduce(|best, next| if further(best, next) { best } else { next });
    let newest = newest.ok_or_else(|| no_backup(&timeline.database))?;
    let coverage = timeline.coverage_of(newest);
    if let Some((coverage, lost)) = coverage.and_then(|c| Some((c, c.lost.as_deref()?))) {
        return Err(lost_end(timeline, coverage.until.max(coverage.end.at), lost));
    }
    let own = timeline.stood_until(newest);
    if let Some(lost) = timeline.open_gap().filter(|_| timeline.is_holed()) {
        let nearest = coverage.map_or(own, |coverage| coverage.until.max(own));
        return Err(lost_end(timeline, nearest, lost));
    }
    let replays_log = coverage.is_some();
    let until = if replays_log { RecoveryTarget::Latest } else { RecoveryTarget::Consistent };
    let complete_until = coverage.map_or(own, |coverage| coverage.until.max(own));
    let gap = timeline.open_gap();
    let gap = gap.map(|why| format!("log that was captured later cannot be restored: {why}"));
    let warnings = gap.into_iter().collect();
    Ok(Chosen { backup: newest.clone(), until, replays_log, complete_until, warnings })
}

/// The newest state is known to have existed here and cannot be had: an older one only on demand.
fn lost_end(timeline: &Timeline, nearest: DateTime<Utc>, lost: &str) -> Error {
    let nearest = exact(nearest);
    Error::new(ErrorKind::Missing, code::MISSING_OBJECT, "reach the newest captured commit")
        .with("database", &timeline.database)
        .with("found", lost)
        .with("nearest before", &nearest)
        .why("what was committed later was captured, and this copy of the repository lost it")
        .next("restore from another copy of the repository, or complete this one from it")
        .next(format!("{SAME_COMMAND_AT}{nearest}"))
}

async fn choose_time(
    (repository, timeline, without): (&Repository, &Timeline, &Damaged),
    at: DateTime<Utc>,
) -> Result<Chosen> {
    for backup in among(timeline, without).rev() {
        if backup.commit.consistent_time == at || timeline.stood_still(backup, at) {
            return Ok(alone(backup));
        }
        let Some(coverage) = timeline.coverage_of(backup) else { continue };
        let begins = begin_of(repository, timeline, backup).await?;
        // Between the copy and the capture's next look lies less than the error of any time.
        let own = backup.commit.consistent_time;
        if own <= at && at < begins && (Unwatched { from: own, to: begins }).is_short() {
            return Ok(alone(backup));
        }
        if begins <= at && at <= coverage.until {
            if let Some(unwatched) =
                repository.unwatched_at(&timeline.database, coverage, at).await?
                && !unwatched.since(own).is_short()
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
    (repository, timeline, without): (&Repository, &Timeline, &Damaged),
    engine: &dyn Engine,
    position: &LogPosition,
) -> Result<Chosen> {
    for backup in among(timeline, without).rev() {
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
        error = error.next(format!("{SAME_COMMAND_AT}{}", exact(*point)));
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
        .next(format!("{SAME_COMMAND_AT}{}", exact(before.min(after))))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::entry::Commit;

    fn backup(seq: u64, second: i64, position: Option<&str>) -> Committed {
        let at = DateTime::from_timestamp(second, 0).unwrap();
        let commit = Commit {
            backup: format!("backup-{seq}"),
            database: "db".to_owned(),
            engine: "sim".to_owned(),
            incarnation: "i".to_owned(),
            location: "/db".to_owned(),
            started_at: at,
            finished_at: at,
            consistent_time: at,
            consistent_at: position.map(|text| text.parse().unwrap()),
            incremental: false,
            size_bytes: 1,
            stored_bytes: 1,
            manifest: String::new(),
            manifest_hash: String::new(),
            packs: String::new(),
            packs_hash: String::new(),
            damage: None,
            origin: None,
            task: None,
        };
        Committed { seq, commit, forgotten: false }
    }

    fn latest(backups: Vec<Committed>) -> (u64, bool) {
        let timeline = Timeline {
            database: "db".to_owned(),
            backups,
            coverage: Vec::new(),
            beat: None,
            problems: Vec::new(),
        };
        let chosen = choose_latest(&timeline, &Damaged::new()).unwrap();
        (chosen.backup.seq, timeline.clock_doubt().is_some())
    }

    #[test]
    fn the_newest_backup_is_the_one_that_was_made_last_whatever_the_clocks_said() {
        assert_eq!(latest(vec![backup(2, 10, None), backup(3, 20, None)]), (3, false));
        assert_eq!(latest(vec![backup(2, 3610, None), backup(3, 20, None)]), (3, true));
        let at = |seq, second, position| backup(seq, second, Some(position));
        assert_eq!(latest(vec![at(2, 3610, "a:5"), at(3, 20, "b:1")]), (3, true));
        // Of one history, the further state counts: an older one was restored to this repository.
        assert_eq!(latest(vec![at(2, 10, "a:5"), at(3, 20, "a:4")]), (2, false));
    }
}
