//! What a restore will take, by what drills of the same database took, and what it loses.

use std::time::Duration;

use chrono::{DateTime, Utc};
use stillpoint_contract::{
    ErrorKind, LogEventKind, LogPosition, LogSource as _, RecoveryTarget, Result,
};

use super::restore::ResolvedRestore;
use crate::repository::{Repository, Timeline, drill::DrillRecord};

/// How many drills are looked at, the newest.
const DRILLS_MAX: usize = 6;

/// How many segments of log are looked at for commits after the point.
const SEGMENTS_MAX: usize = 4096;

/// What is known of a restore before it is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// How long it will take; `None` when no drill tells.
    pub estimate: Option<Estimate>,
    /// What was captured and will not be in the restored database.
    pub lost: Lost,
    /// Where it will stop; `None` where that is the end of the log, or too much log lies before.
    pub stop: Option<Stop>,
}

/// The state that a point really is: that after the last commit before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// When that was committed; of a backup without log, the instant of its own state.
    pub at: DateTime<Utc>,
    /// Where, where the engine has positions.
    pub position: Option<LogPosition>,
    /// Whether it is a commit of the log, and not the state of the backup.
    pub is_commit: bool,
}

/// How long a restore will take: as fast as the fastest drill and as slow as the slowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// At least.
    pub least: Duration,
    /// At most.
    pub most: Duration,
    /// How many drills it rests on.
    pub drills: usize,
    /// Whether the time for replaying log is missing, because no drill replayed any.
    pub lacks_replay: bool,
    /// Whether the time for writing is missing, because every drill was mounted.
    pub lacks_writing: bool,
}

/// What was captured after a point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Transactions, as far as the log that follows lists them.
    pub transactions: u64,
    /// Whether there are more, which were not counted.
    pub is_more: bool,
    /// When the newest state was current that is known; `None` when the point is that state.
    pub newest: Option<DateTime<Utc>>,
}

/// Looks at past drills, and at what comes after the point. Reads records and heads of segments.
///
/// # Errors
///
/// What keeps it from reading those.
pub async fn forecast(repository: &Repository, resolved: &ResolvedRestore) -> Result<Forecast> {
    let database = &resolved.manifest.database;
    let mut records = Vec::new();
    let drills = repository.drills(Some(database)).await?;
    for drill in drills.iter().rev().filter(|drill| drill.passed).take(DRILLS_MAX) {
        match repository.drill_record(drill).await {
            // `report verify` tells of it.
            Err(error) if error.kind() == ErrorKind::Corrupt => {}
            record => records.push(record?),
        }
    }
    let estimate = estimate(&records, resolved.manifest.size_bytes, resolved.log_bytes);
    let timeline = repository.timeline(database).await?;
    let (lost, stop) = follow(repository, &timeline, resolved).await?;
    Ok(Forecast { estimate, lost, stop })
}

fn estimate(records: &[DrillRecord], size_bytes: u64, log_bytes: u64) -> Option<Estimate> {
    let fetches = records.iter().filter_map(|record| fetch_ms(record, size_bytes));
    let (least, most, drills) = fetches.fold((u64::MAX, 0, 0), |(least, most, drills), ms| {
        (least.min(ms), most.max(ms), drills + 1)
    });
    if drills == 0 {
        return None;
    }
    let replay_ms = if log_bytes == 0 { Some(0) } else { replay_ms(records, log_bytes) };
    let time = |ms| Duration::from_millis(ms + replay_ms.unwrap_or(0));
    let writes = |record: &DrillRecord| phase(record, "fetch").is_some();
    Some(Estimate {
        least: time(least),
        most: time(most),
        drills,
        lacks_replay: replay_ms.is_none(),
        lacks_writing: !records.iter().any(writes),
    })
}

/// Milliseconds that everything but replay takes of a restore of such a size that goes like a
/// drill; `None` when the drill does not tell. What is mounted is fetched when it is read back.
fn fetch_ms(record: &DrillRecord, size_bytes: u64) -> Option<u64> {
    let (bytes, took_ms) = phase(record, "fetch").or_else(|| phase(record, "read back"))?;
    let scale = size_bytes as f64 / bytes;
    let mut time = scale * took_ms;
    for phase in &record.phases {
        time += match phase.name.as_str() {
            "choose" => phase.took_ms as f64,
            "check files" | "make durable" => scale * phase.took_ms as f64,
            _ => 0.0,
        };
    }
    Some(time as u64)
}

/// Milliseconds that replay takes, by the drill that replayed most: of little log, most of the time
/// is that of starting a server.
fn replay_ms(records: &[DrillRecord], log_bytes: u64) -> Option<u64> {
    let replays = records.iter().filter_map(|record| phase(record, "replay"));
    let (bytes, took_ms) = replays.max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    Some(took_ms.max(took_ms * log_bytes as f64 / bytes) as u64)
}

/// Bytes and milliseconds of a phase that read something.
fn phase(record: &DrillRecord, name: &str) -> Option<(f64, f64)> {
    let found = record.phases.iter().find(|phase| phase.name == name)?;
    let bytes = found.bytes.filter(|bytes| *bytes > 0)?;
    Some((bytes as f64, found.took_ms as f64))
}

/// Follows the log to the point and beyond it: what is lost, and where a restore will stop.
async fn follow(
    repository: &Repository,
    timeline: &Timeline,
    resolved: &ResolvedRestore,
) -> Result<(Lost, Option<Stop>)> {
    let backup = &resolved.chosen.backup;
    let own = &backup.commit.consistent_at;
    let (until, mut reached) = match &resolved.chosen.until {
        RecoveryTarget::Latest => return Ok((Lost::default(), None)),
        RecoveryTarget::Time(at) => (Until::Time(*at), Some(*at)),
        RecoveryTarget::Position(at) => (Until::Position(at.clone()), None),
        RecoveryTarget::Consistent => match own {
            Some(own) => (Until::Position(own.clone()), Some(backup.commit.consistent_time)),
            None => (Until::Time(backup.commit.consistent_time), None),
        },
    };
    let mut lost = Lost::default();
    let (at, position) = (backup.commit.consistent_time, own.clone());
    let mut stop = Some(Stop { at, position, is_commit: false });
    let mut passed = Passed { until, is_there: false };
    if timeline.coverage_of(backup).is_some() {
        let mut log = repository.log_in(timeline, backup).await?;
        for looked in 0.. {
            let Some(head) = log.next().await? else { break };
            if looked == SEGMENTS_MAX {
                lost.is_more = true;
                stop = stop.filter(|_| lost.transactions > 0);
                break;
            }
            for event in head.events.iter().filter(|event| event.what == LogEventKind::Commit) {
                let position = head.range.start().at(event.offset);
                if own.as_ref().is_some_and(|own| is_at_or_before(&position, own)) {
                    continue;
                }
                if passed.by(&position, event.at) {
                    lost.transactions += 1;
                } else {
                    reached = reached.max(Some(event.at));
                    stop = Some(Stop { at: event.at, position: Some(position), is_commit: true });
                }
            }
        }
    }
    let ends = timeline.coverage.iter().map(|coverage| coverage.end.at);
    let backups = timeline.backups.iter().map(|backup| backup.commit.consistent_time);
    let reached = reached.unwrap_or(backup.commit.consistent_time);
    // Commits that were seen at once bear one time.
    let is_later = |newest: &DateTime<Utc>| *newest > reached || lost.transactions > 0;
    lost.newest = ends.chain(backups).max().filter(is_later);
    Ok((lost, stop))
}

fn is_at_or_before(position: &LogPosition, other: &LogPosition) -> bool {
    position.lineage == other.lineage && position.offset <= other.offset
}

enum Until {
    Time(DateTime<Utc>),
    Position(LogPosition),
}

/// Walks over commits in the order of the log.
struct Passed {
    until: Until,
    /// Whether the lineage of the target was entered.
    is_there: bool,
}

impl Passed {
    /// Whether a commit comes after the target.
    fn by(&mut self, position: &LogPosition, at: DateTime<Utc>) -> bool {
        match &self.until {
            Until::Time(until) => at > *until,
            Until::Position(until) if until.lineage == position.lineage => {
                self.is_there = true;
                position.offset > until.offset
            }
            Until::Position(_) => self.is_there,
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone as _;
    use stillpoint_contract::Lineage;

    use super::*;
    use crate::repository::drill::{Phase, RECORD_FORMAT};

    fn record(phases: &[(&str, u64, Option<u64>)]) -> DrillRecord {
        let at = Utc.timestamp_opt(0, 0).unwrap();
        let phases = phases.iter().map(|(name, took_ms, bytes)| Phase {
            name: (*name).to_owned(),
            from_ms: 0,
            took_ms: *took_ms,
            bytes: *bytes,
            bytes_per_second: None,
        });
        DrillRecord {
            format: RECORD_FORMAT,
            program: String::new(),
            repository: String::new(),
            drill: String::new(),
            started_by: String::new(),
            database: String::new(),
            started_at: at,
            finished_at: at,
            asked: String::new(),
            is_random: false,
            backup: None,
            presented: None,
            reached: None,
            rpo_ms: None,
            rto_ms: None,
            phases: phases.collect(),
            restored_bytes: 0,
            log_bytes: 0,
            sandbox: None,
            checks: Vec::new(),
            rows: None,
            assertions: Vec::new(),
            teardown: String::new(),
            notes: Vec::new(),
            causes: Vec::new(),
            passed: true,
        }
    }

    #[test]
    fn an_estimate_goes_by_the_bytes_of_the_drills() {
        let fast = record(&[("choose", 50, None), ("fetch", 1000, Some(1000)), ("count", 9, None)]);
        let slow = record(&[("replay", 10, Some(100)), ("read back", 3000, Some(1000))]);
        let both = [fast, slow];
        let milliseconds = |estimate: Estimate| {
            (estimate.least.as_millis(), estimate.most.as_millis(), estimate.drills)
        };
        let whole = estimate(&both, 2000, 0).unwrap();
        assert_eq!((milliseconds(whole), whole.lacks_replay), ((2050, 6000, 2), false));
        // Only one of them says how long replay takes, which begins with a fixed time.
        for (log_bytes, more) in [(500, 50), (100, 10), (1, 10)] {
            let replayed = estimate(&both, 2000, log_bytes).unwrap();
            assert_eq!(milliseconds(replayed), (2050 + more, 6000 + more, 2));
            assert!(!replayed.lacks_replay && !replayed.lacks_writing);
        }
        let without = estimate(&both[..1], 2000, 500).unwrap();
        assert_eq!((milliseconds(without), without.lacks_replay), ((2050, 2050, 1), true));
        assert!(estimate(&both[1..], 2000, 0).unwrap().lacks_writing);
        assert_eq!(estimate(&[], 2000, 0), None);
        assert_eq!(estimate(&[record(&[("fetch", 5, Some(0))])], 2000, 0), None);
    }

    #[test]
    fn commits_behind_the_point_are_told_apart_across_lineages() {
        let at = |seconds| Utc.timestamp_opt(seconds, 0).unwrap();
        let position =
            |lineage: &str, offset| LogPosition { lineage: Lineage::new(lineage).unwrap(), offset };
        let mut by_time = Passed { until: Until::Time(at(5)), is_there: false };
        assert!(!by_time.by(&position("a", 9), at(5)) && by_time.by(&position("a", 1), at(6)));
        let mut passed = Passed { until: Until::Position(position("b", 5)), is_there: false };
        assert!(!passed.by(&position("a", 9), at(1)));
        assert!(!passed.by(&position("b", 5), at(1)) && passed.by(&position("b", 6), at(1)));
        assert!(passed.by(&position("c", 1), at(1)));
    }
}
