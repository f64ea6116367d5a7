//! What a machine has to have for what is promised: by what the records of backups and jobs say,
//! and by the limits that this program keeps to. Nothing is measured for it.

use chrono::{DateTime, TimeDelta, Utc};
use stillpoint_contract::{Error, Result};

use super::{
    state::{Job, Outcome, Phase},
    storage::MadeBy,
};
use crate::{
    policy::{Kind, Logs, Policy},
    repository::{entry::Commit, history::History},
};

/// Memory that a backup takes at most, with being read back, however large the database is and
/// however many connections read it. A test holds it to that.
pub const JOB_MEMORY_BYTES: u64 = 256 << 20;

/// Memory that a capture takes at most: log that was read ahead, and the segment in hand.
const CAPTURE_MEMORY_BYTES: u64 = 48 << 20;

/// So far is looked ahead.
const AHEAD: TimeDelta = TimeDelta::days(7);

/// Records are that old at most.
const RECORDS: TimeDelta = TimeDelta::days(30);

/// Nothing takes less.
const SHORTEST: TimeDelta = TimeDelta::milliseconds(1);

/// What there is to do for one database.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// Its name.
    pub database: String,
    /// When backups of it begin in the week to come.
    pub begins: Vec<DateTime<Utc>>,
    /// How long one takes, if any was recorded.
    pub took: Option<TimeDelta>,
    /// How long the newest state of it is.
    pub size_bytes: u64,
    /// What is stored for one backup.
    pub stored_bytes: u64,
    /// How fast backups read it that read all of it, in bytes each second.
    pub reads: Vec<f64>,
    /// How many backups tell that.
    pub backups: usize,
    /// How many jobs do.
    pub jobs: usize,
    /// Whether its log is captured.
    pub is_captured: bool,
    /// Whether restoring it is rehearsed.
    pub is_drilled: bool,
}

/// What all of it together needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Sizing {
    /// How many backups run at once, at most, where none waits for another.
    pub at_once: usize,
    /// How many run at once on average.
    pub busy: f64,
    /// How many will, where no more than some may.
    pub jobs: usize,
    /// Memory that those and all captures take at most.
    pub memory_bytes: u64,
    /// The largest database of which restoring is rehearsed.
    pub scratch_bytes: u64,
    /// What is read from databases on a day, where every backup reads all of it.
    pub read_bytes: u64,
    /// What is stored on a day.
    pub stored_bytes: u64,
    /// How fast backups read, the one in the middle, in bytes each second.
    pub read_rate: Option<f64>,
    /// Databases of which no record tells how long a backup takes.
    pub unmeasured: Vec<String>,
}

impl Load {
    /// What the records of its repository, and of its jobs, say.
    ///
    /// # Errors
    ///
    /// When a pattern of its policy is no pattern.
    pub fn of(
        (database, policy): (&str, &Policy),
        made_by: MadeBy,
        (history, jobs): (&History, &[Job]),
        now: DateTime<Utc>,
    ) -> Result<Self> {
        let coming = policy
            .coming(database, now, now + AHEAD)
            .map_err(|bad| Error::bug("use a schedule that was checked").caused_by(bad.why))?;
        let all = || history.commits_of(database).map(|committed| &committed.commit);
        let recent: Vec<&Commit> = all().filter(|one| now - RECORDS < one.finished_at).collect();
        let begins = match made_by {
            MadeBy::Calendar => coming.backups.into_keys().collect(),
            MadeBy::Others => {
                let last = all().map(|one| one.started_at).filter(|at| now - AHEAD < *at);
                last.map(|at| at + AHEAD).collect()
            }
            MadeBy::Nobody => Vec::new(),
        };
        let of_jobs: Vec<TimeDelta> = jobs.iter().filter_map(job_took).collect();
        let of_backups: Vec<TimeDelta> = recent.iter().map(|one| backup_took(one)).collect();
        // A job reads the backup back as well.
        let took = mean(if of_jobs.is_empty() { &of_backups } else { &of_jobs });
        // The first one stores everything, and stands for others as long as there is no other.
        let usual = recent.get(1..).filter(|usual| !usual.is_empty()).unwrap_or(&recent);
        let stored: u64 = usual.iter().map(|one| one.stored_bytes).sum();
        let whole = recent.iter().filter(|one| !one.incremental);
        let reads = whole.map(|one| one.size_bytes as f64 / backup_took(one).as_seconds_f64());
        Ok(Self {
            database: database.to_owned(),
            begins,
            took,
            size_bytes: all().max_by_key(|one| one.finished_at).map_or(0, |one| one.size_bytes),
            stored_bytes: stored / (usual.len().max(1) as u64),
            reads: reads.collect(),
            backups: recent.len(),
            jobs: of_jobs.len(),
            is_captured: made_by == MadeBy::Calendar && policy.logs != Logs::Never,
            is_drilled: policy.drill.is_some(),
        })
    }
}

/// How long a backup took that was recorded, without being read back.
fn backup_took(commit: &Commit) -> TimeDelta {
    (commit.finished_at - commit.started_at).max(SHORTEST)
}

/// How long a job took that made a backup.
fn job_took(job: &Job) -> Option<TimeDelta> {
    let is_backup = [Kind::Full, Kind::Incremental].iter().any(|kind| kind.name() == job.task.kind);
    let Phase::Ended { started: Some(started), at, outcome: Outcome::Succeeded, .. } = &job.phase
    else {
        return None;
    };
    is_backup.then(|| (*at - *started).max(SHORTEST))
}

fn mean(all: &[TimeDelta]) -> Option<TimeDelta> {
    let count = i32::try_from(all.len()).ok().filter(|count| *count > 0)?;
    Some(all.iter().sum::<TimeDelta>() / count)
}

impl Sizing {
    /// What these need where so many jobs may run at once.
    pub fn of(loads: &[Load], running: usize) -> Self {
        let spans = loads.iter().flat_map(|load| {
            let took = load.took;
            load.begins.iter().filter_map(move |from| Some((*from, *from + took?)))
        });
        let spans: Vec<_> = spans.collect();
        let at_once = most_at_once(&spans);
        let worked: TimeDelta = spans.iter().map(|(from, to)| *to - *from).sum();
        let jobs = at_once.clamp(1, running.max(1));
        let captures = loads.iter().filter(|load| load.is_captured).count() as u64;
        let daily = |of: fn(&Load) -> u64| {
            let week = loads.iter().map(|load| load.begins.len() as u64 * of(load)).sum::<u64>();
            week / AHEAD.num_days().unsigned_abs()
        };
        let drilled = loads.iter().filter(|load| load.is_drilled);
        let unmeasured = loads.iter().filter(|load| load.took.is_none());
        let mut reads: Vec<f64> = loads.iter().flat_map(|load| load.reads.clone()).collect();
        reads.sort_by(f64::total_cmp);
        Self {
            at_once,
            busy: worked.as_seconds_f64() / AHEAD.as_seconds_f64(),
            jobs,
            memory_bytes: jobs as u64 * JOB_MEMORY_BYTES + captures * CAPTURE_MEMORY_BYTES,
            scratch_bytes: drilled.map(|load| load.size_bytes).max().unwrap_or_default(),
            read_bytes: daily(|load| load.size_bytes),
            stored_bytes: daily(|load| load.stored_bytes),
            read_rate: reads.get(reads.len() / 2).copied(),
            unmeasured: unmeasured.map(|load| load.database.clone()).collect(),
        }
    }
}

/// How many stretches of time have an instant in common, at most. An end is no part of its own.
fn most_at_once(spans: &[(DateTime<Utc>, DateTime<Utc>)]) -> usize {
    let ends = spans.iter().flat_map(|(from, to)| [(*from, 1), (*to, -1)]);
    let mut turns: Vec<(DateTime<Utc>, isize)> = ends.collect();
    turns.sort_unstable();
    let (mut now, mut most) = (0, 0);
    for (_, by) in turns {
        now += by;
        most = most.max(now);
    }
    most.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hour: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::hours(hour)
    }

    fn load(database: &str, begins: &[i64], took: Option<i64>) -> Load {
        Load {
            database: database.to_owned(),
            begins: begins.iter().map(|hour| at(*hour)).collect(),
            took: took.map(TimeDelta::hours),
            size_bytes: 700,
            stored_bytes: 7,
            reads: Vec::new(),
            backups: 1,
            jobs: 0,
            is_captured: false,
            is_drilled: false,
        }
    }

    #[test]
    fn row_25_a_machine_needs_what_runs_at_once_on_it() {
        let loads = [
            load("a", &[0, 24, 48], Some(4)),
            Load { is_captured: true, ..load("b", &[2, 26], Some(2)) },
            Load { is_drilled: true, reads: vec![9.0, 1.0, 5.0], ..load("c", &[3], Some(1)) },
            load("new", &[3], None),
        ];
        let sizing = Sizing::of(&loads, 2);
        assert_eq!((sizing.at_once, sizing.jobs), (3, 2));
        // Three times four hours, two times two, and one, in a week.
        assert!((sizing.busy - 17.0 / 168.0).abs() < 1e-9, "{sizing:?}");
        assert_eq!(sizing.memory_bytes, (2 * 256 + 48) << 20);
        assert_eq!((sizing.scratch_bytes, sizing.read_bytes, sizing.stored_bytes), (700, 700, 7));
        assert_eq!(sizing.read_rate, Some(5.0));
        assert_eq!(sizing.unmeasured, ["new"]);
    }

    #[test]
    fn row_25_where_nothing_was_recorded_only_limits_tell() {
        let sizing = Sizing::of(&[load("new", &[1, 2], None)], 4);
        assert_eq!((sizing.at_once, sizing.jobs), (0, 1));
        assert_eq!((sizing.memory_bytes, sizing.read_rate), (JOB_MEMORY_BYTES, None));
        assert_eq!(sizing.unmeasured, ["new"]);
    }

    #[test]
    fn what_begins_when_another_ends_is_not_beside_it() {
        let span = |from, to| (at(from), at(to));
        assert_eq!(most_at_once(&[span(0, 2), span(2, 4), span(1, 3)]), 2);
        assert_eq!(most_at_once(&[]), 0);
    }

    #[test]
    fn a_mean_is_that_of_all_and_of_none_there_is_none() {
        let of = |hours: &[i64]| {
            let all: Vec<_> = hours.iter().map(|hours| TimeDelta::hours(*hours)).collect();
            mean(&all)
        };
        assert_eq!((of(&[1, 2, 6]), of(&[])), (Some(TimeDelta::hours(3)), None));
    }
}
