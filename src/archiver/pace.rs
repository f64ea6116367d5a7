//! How fast rows are deleted: as fast as the server, its replicas and its log can stand.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use stillpoint_contract::{ArchiveSet, Burden, Lag, LogUsed, Result, Rows};

use crate::policy::{LogShare, Throttle};

/// How long the work rests before it looks again.
pub(super) const REST: Duration = Duration::from_millis(500);

/// The longest rest before it looks again.
const REST_MAX: Duration = Duration::from_secs(10);

/// How far beyond a limit nothing helps any more but to stop.
const CRITICAL: u32 = 2;

/// Why the work rests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// Somebody said so.
    Paused {
        /// Who.
        by: String,
    },
    /// Replicas are behind.
    Lag,
    /// Nobody knows how far they are.
    UnknownLag,
    /// Too many sessions work.
    Sessions,
    /// Nobody knows how many.
    UnknownSessions,
    /// Too many rows wait for vacuum.
    DeadRows,
    /// Nobody knows how many.
    UnknownDeadRows,
    /// Rows are deleted too fast.
    DeadRowRate,
    /// Log is written too fast.
    LogRate,
    /// Others write it too fast.
    LogOfOthers,
    /// Nobody knows how fast.
    UnknownLogRate,
    /// Too much of it has to be kept.
    LogUsed,
    /// Nobody knows how much has to be kept.
    UnknownLogUsed,
    /// Others get their turn.
    Nice,
}

impl Cause {
    /// In a word, for programs.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Paused { .. } => "paused",
            Self::Lag => "replica-lag",
            Self::UnknownLag => "replica-lag-unknown",
            Self::Sessions => "threads-running",
            Self::UnknownSessions => "threads-running-unknown",
            Self::DeadRows => "dead-rows",
            Self::UnknownDeadRows => "dead-rows-unknown",
            Self::DeadRowRate => "dead-row-rate",
            Self::LogRate => "wal-rate",
            Self::LogOfOthers => "wal-rate-of-others",
            Self::UnknownLogRate => "wal-rate-unknown",
            Self::LogUsed => "log-used",
            Self::UnknownLogUsed => "log-used-unknown",
            Self::Nice => "nice",
        }
    }

    /// Whether it is how fast the work goes when all is well, and nothing that keeps it from work.
    pub(super) const fn is_pace(&self) -> bool {
        matches!(self, Self::DeadRowRate | Self::LogRate | Self::Nice)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Paused { by } => return write!(f, "{by} paused it"),
            Self::Lag => "replicas are behind",
            Self::UnknownLag => {
                "how far replicas are behind is not known: the role may not see it (GRANT \
                 pg_monitor TO the role), or one is not connected that has a replication slot, \
                 or that synchronous_standby_names names"
            }
            Self::Sessions => "too many sessions are working",
            Self::UnknownSessions => {
                "how many sessions are working is not known: the role may not see it (GRANT \
                 pg_monitor TO the role), track_activities is off for some, or it is an engine \
                 that cannot tell, such as SQLite (archive set SET threads=policy)"
            }
            Self::DeadRows => "there are too many dead rows to be vacuumed",
            Self::UnknownDeadRows => {
                "how many dead rows there are is not known: track_counts is off, or it is an \
                 engine that has none, such as SQLite (archive set SET dead_rows=policy)"
            }
            Self::DeadRowRate => "as many rows were deleted as may be in an hour, up to now",
            Self::LogRate => "log is written faster than it may be",
            Self::LogOfOthers => "others write log faster than it may be",
            Self::UnknownLogRate => {
                "how fast log is written is not known, as with a rollback journal of SQLite, \
                 which is no log"
            }
            Self::LogUsed => "the server has to keep too much log",
            Self::UnknownLogUsed => {
                "how much log the server has to keep is not known, as without \
                 GRANT pg_monitor TO the role, or with a rollback journal of SQLite"
            }
            Self::Nice => "others get their turn after each transaction",
        })
    }
}

/// A rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rest {
    pub(super) cause: Cause,
    /// What was seen, for people.
    pub(super) why: String,
    pub(super) length: Duration,
}

impl Rest {
    pub(super) fn of(cause: Cause, length: Duration) -> Self {
        Self { why: cause.to_string(), cause, length }
    }
}

/// Whether rows may be deleted now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// They may.
    Go,
    /// Not before it was looked again.
    Rest(Rest),
    /// Not by this run any more; why.
    Stop(String),
}

/// What somebody said while a run works: each of these instead of what the policy says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Said {
    /// While replicas are further behind, nothing is deleted; in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_max_ms: Option<u64>,
    /// While more sessions are working.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions_max: Option<u32>,
    /// While more log is written, in bytes a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_rate_max: Option<u64>,
    /// While more of it has to be kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_used_max: Option<LogShare>,
    /// While there are more dead rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_rows_max: Option<u64>,
    /// How long it rests after each transaction, in hundredths of what that took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nice_percent: Option<u32>,
    /// How long a transaction should take, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction_ms: Option<u64>,
    /// How many rows a slice has that is read from then on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slice_rows: Option<u64>,
}

impl Said {
    /// What counts: this, or what the policy says.
    fn of(&self, policy: &Throttle) -> Throttle {
        Throttle {
            lag: self.lag_max_ms.map_or(policy.lag, Duration::from_millis),
            active: self.sessions_max.or(policy.active),
            log_bytes_per_second: self.log_rate_max.or(policy.log_bytes_per_second),
            dead_rows: self.dead_rows_max.or(policy.dead_rows),
            dead_rows_per_hour: policy.dead_rows_per_hour,
            log_used: self.log_used_max.or(policy.log_used),
            nice_percent: self.nice_percent.unwrap_or(policy.nice_percent),
            aborts: policy.aborts,
        }
    }

    /// What is said now, and where nothing is, what was said before.
    #[must_use]
    pub fn after(self, before: Self) -> Self {
        Self {
            lag_max_ms: self.lag_max_ms.or(before.lag_max_ms),
            sessions_max: self.sessions_max.or(before.sessions_max),
            log_rate_max: self.log_rate_max.or(before.log_rate_max),
            log_used_max: self.log_used_max.or(before.log_used_max),
            dead_rows_max: self.dead_rows_max.or(before.dead_rows_max),
            nice_percent: self.nice_percent.or(before.nice_percent),
            transaction_ms: self.transaction_ms.or(before.transaction_ms),
            slice_rows: self.slice_rows.or(before.slice_rows),
        }
    }

    /// Says nothing more of a setting: what the policy says counts again. `false` where there is no
    /// setting of that name.
    pub fn unsay(&mut self, name: &str) -> bool {
        match name {
            "lag" => self.lag_max_ms = None,
            "threads" => self.sessions_max = None,
            "wal_rate" => self.log_rate_max = None,
            "log_used" => self.log_used_max = None,
            "dead_rows" => self.dead_rows_max = None,
            "nice" => self.nice_percent = None,
            "txn" => self.transaction_ms = None,
            "batch" => self.slice_rows = None,
            _ => return false,
        }
        true
    }

    /// The names of settings of which something is said.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        const NAMES: [&str; 8] =
            ["lag", "threads", "wal_rate", "log_used", "dead_rows", "nice", "txn", "batch"];
        let said = *self;
        NAMES.into_iter().filter(move |name| !said.is_same(&Self::default(), name))
    }

    /// Whether the same is said of a setting.
    pub(super) fn is_same(&self, other: &Self, name: &str) -> bool {
        match name {
            "lag" => self.lag_max_ms == other.lag_max_ms,
            "threads" => self.sessions_max == other.sessions_max,
            "wal_rate" => self.log_rate_max == other.log_rate_max,
            "log_used" => self.log_used_max == other.log_used_max,
            "dead_rows" => self.dead_rows_max == other.dead_rows_max,
            "nice" => self.nice_percent == other.nice_percent,
            "txn" => self.transaction_ms == other.transaction_ms,
            "batch" => self.slice_rows == other.slice_rows,
            _ => true,
        }
    }
}

/// What was done faster than it may be, and has to be rested for. It outlives what is planned, and
/// partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Debts {
    /// Until when the rows that were deleted are enough.
    rows_until: Duration,
    /// How many bytes of log were written more than may be, when it was looked at last.
    log_owed: u128,
    /// How many of them others have not written since it rests.
    log_own: u128,
    /// When that was.
    log_at: Duration,
    /// How long the log was then.
    log_bytes: Option<u128>,
}

impl Debts {
    /// Another session may count the log from another beginning.
    pub(super) fn of_another_session(self) -> Self {
        Self { log_bytes: None, ..self }
    }
}

/// Decides when the work rests.
#[derive(Debug)]
pub(super) struct Pace {
    policy: Throttle,
    throttle: Throttle,
    /// How long the last transaction took, unless it was rested for.
    took: Option<Duration>,
    /// What has to be rested for.
    pub(super) debts: Debts,
    /// Whether others alone have written log since it was looked at.
    is_idle: bool,
    /// Whether it rests: it goes on only once all is well, not just below a limit.
    is_resting: bool,
}

impl Pace {
    /// `debts` are those of before, in the same run.
    pub(super) fn new(policy: Throttle, debts: Debts) -> Self {
        let throttle = policy.clone();
        Self { policy, throttle, took: None, debts, is_idle: false, is_resting: false }
    }

    /// Has it follow what somebody said.
    pub(super) fn follow(&mut self, said: &Said) {
        self.throttle = said.of(&self.policy);
    }

    /// A transaction took so long until now, and deleted so many rows.
    pub(super) fn learn(&mut self, took: Duration, rows: u64, now: Duration) {
        self.took = Some(took);
        if let Some(max) = self.throttle.dead_rows_per_hour {
            let needs = Duration::from_secs_f64(rows as f64 / max.max(1) as f64 * 3600.0);
            // What was not deleted while it rested for something else is not made up for.
            let until = &mut self.debts.rows_until;
            *until = (*until).max(now.saturating_sub(took)) + needs;
        }
    }

    /// Whether it rests now in any case, for rows that it deleted.
    pub(super) fn owes_rows(&self, now: Duration) -> bool {
        self.throttle.dead_rows_per_hour.is_some() && now < self.debts.rows_until
    }

    /// Whether the work may go on now.
    pub(super) async fn turn(
        &mut self,
        rows: &mut dyn Rows,
        set: &ArchiveSet,
        elapsed: Duration,
    ) -> Result<Turn> {
        if let Some(rest) = self.nice() {
            return Ok(Turn::Rest(rest));
        }
        let burden = rows.burden(set).await?;
        Ok(self.judge(&burden, elapsed))
    }

    /// Looks how much log was written, before a time in which others alone write it.
    pub(super) async fn look(
        &mut self,
        rows: &mut dyn Rows,
        set: &ArchiveSet,
        elapsed: Duration,
    ) -> Result<()> {
        if self.throttle.log_bytes_per_second.is_some() && !self.is_idle {
            let burden = rows.burden(set).await?;
            self.count_log(&burden, elapsed);
        }
        Ok(())
    }

    /// Lets others work for a while after a transaction.
    fn nice(&mut self) -> Option<Rest> {
        let length = self.took.take()? * self.throttle.nice_percent / 100;
        (!length.is_zero()).then(|| Rest::of(Cause::Nice, length))
    }

    fn judge(&mut self, burden: &Burden, elapsed: Duration) -> Turn {
        self.count_log(burden, elapsed);
        if let Some((cause, why)) = self.over(burden, CRITICAL, 1).filter(|_| self.throttle.aborts)
        {
            return Turn::Stop(format!("{cause}, more than twice what they may: {why}"));
        }
        // Once at rest, half of a limit is where it ends.
        let ease = if self.is_resting { 2 } else { 1 };
        let rest = self.unknown(burden).map(|cause| Rest::of(cause, REST));
        let over = || {
            let (cause, why) = self.over(burden, 1, ease)?;
            Some(Rest { cause, why, length: REST })
        };
        let rest = rest.or_else(over);
        self.is_resting = rest.is_some();
        let rest = rest.or_else(|| self.log_rest()).or_else(|| self.rows_rest(elapsed));
        self.is_idle = rest.is_some();
        rest.map_or(Turn::Go, Turn::Rest)
    }

    /// What is not known, and has to be.
    fn unknown(&self, burden: &Burden) -> Option<Cause> {
        if burden.lag == Lag::Unknown {
            return Some(Cause::UnknownLag);
        }
        let (throttle, rate) = (&self.throttle, self.throttle.log_bytes_per_second);
        let is_unknown = [
            (throttle.log_used.is_some(), burden.log_used.is_some(), Cause::UnknownLogUsed),
            (rate.is_some(), burden.log_bytes.is_some(), Cause::UnknownLogRate),
            (throttle.active.is_some(), burden.active.is_some(), Cause::UnknownSessions),
            (throttle.dead_rows.is_some(), burden.dead_rows.is_some(), Cause::UnknownDeadRows),
        ];
        let unknown = is_unknown.into_iter().find(|(is_set, is_known, _)| *is_set && !is_known);
        unknown.map(|(_, _, cause)| cause)
    }

    /// Which limit is exceeded, taken so many times and divided by so much; and what was seen.
    fn over(&self, burden: &Burden, times: u32, ease: u32) -> Option<(Cause, String)> {
        let throttle = &self.throttle;
        let most = |max: u64| max.saturating_mul(times.into()) / u64::from(ease);
        if let Lag::Behind(lag) = burden.lag
            && lag > throttle.lag.saturating_mul(times) / ease
        {
            let why = format!("replicas are {:.1} s behind", lag.as_secs_f64());
            return Some((Cause::Lag, why));
        }
        if let (Some(max), Some(active)) = (throttle.active, burden.active)
            && u64::from(active) > most(max.into())
        {
            return Some((Cause::Sessions, format!("{active} sessions are working")));
        }
        if let (Some(max), Some(dead)) = (throttle.dead_rows, burden.dead_rows)
            && dead > most(max)
        {
            return Some((Cause::DeadRows, format!("there are {dead} dead rows to be vacuumed")));
        }
        if let (Some(max), Some(used)) = (throttle.log_used, burden.log_used)
            && used.bytes > most(bytes_of(max, used))
        {
            let LogUsed { bytes, room } = used;
            return Some((Cause::LogUsed, format!("{bytes} of {room} bytes of log are in use")));
        }
        None
    }

    /// Rests for as long as what was deleted needs at the rate that is allowed.
    fn rows_rest(&self, elapsed: Duration) -> Option<Rest> {
        let max = self.throttle.dead_rows_per_hour?;
        let rest = self.debts.rows_until.checked_sub(elapsed).filter(|rest| !rest.is_zero())?;
        let why = format!("{max} rows may be deleted in an hour");
        Some(Rest { cause: Cause::DeadRowRate, why, length: rest.min(REST_MAX) })
    }

    /// Counts what was written, and what the time since then allows.
    fn count_log(&mut self, burden: &Burden, elapsed: Duration) {
        let Some(max) = self.throttle.log_bytes_per_second else {
            let Debts { log_owed, log_own, log_bytes, .. } = &mut self.debts;
            (*log_owed, *log_own, *log_bytes) = (0, 0, None);
            return;
        };
        let Some(now) = burden.log_bytes else { return };
        let Debts { log_owed, log_own, log_at, log_bytes, .. } = self.debts;
        let max = u128::from(max.max(1));
        let written = log_bytes.map_or(0, |before| now.saturating_sub(before));
        let may_be = |time: Duration| max.saturating_mul(time.as_micros()) / 1_000_000;
        let allowed = may_be(elapsed.saturating_sub(log_at));
        let mut owed = (log_owed + written).saturating_sub(allowed);
        let mut own = owed;
        if self.is_idle {
            // While others write too much, it rests; but what they wrote is not made up for.
            own = log_own.saturating_sub(allowed);
            owed = owed.min(own.max(may_be(REST_MAX)));
        }
        (self.debts.log_owed, self.debts.log_own) = (owed, own);
        (self.debts.log_at, self.debts.log_bytes) = (elapsed, Some(now));
        self.is_idle = true;
    }

    /// Rests for as long as what was written needs at the rate that is allowed.
    fn log_rest(&self) -> Option<Rest> {
        let (max, owed) = (self.throttle.log_bytes_per_second?, self.debts.log_owed);
        let seconds = (owed as f64 / max.max(1) as f64).min(REST_MAX.as_secs_f64());
        let why = format!("{owed} bytes of log were written more than may be until now");
        // It would have rested enough by now for its own.
        let (cause, why) = if self.debts.log_own == 0 {
            (Cause::LogOfOthers, format!("{}: {why}", Cause::LogOfOthers))
        } else {
            (Cause::LogRate, why)
        };
        let length = Duration::from_secs_f64(seconds);
        (!length.is_zero()).then_some(Rest { cause, why, length })
    }
}

/// How many bytes of log a limit is.
fn bytes_of(max: LogShare, used: LogUsed) -> u64 {
    match max {
        LogShare::Bytes(bytes) => bytes,
        LogShare::Percent(percent) => {
            let bytes = u128::from(used.room) * u128::from(percent) / 100;
            u64::try_from(bytes).unwrap_or(u64::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Burden = Burden {
        lag: Lag::NoReplica,
        log_bytes: Some(0),
        dead_rows: Some(0),
        active: Some(0),
        log_used: Some(LogUsed { bytes: 0, room: 100 }),
    };

    fn behind(millis: u64) -> Burden {
        Burden { lag: Lag::Behind(Duration::from_millis(millis)), ..CALM }
    }

    /// Why it rests, and how long.
    fn rest(pace: &mut Pace, burden: Burden, seconds: u64) -> Option<(Cause, Duration)> {
        match pace.judge(&burden, Duration::from_secs(seconds)) {
            Turn::Go => None,
            Turn::Rest(rest) => Some((rest.cause, rest.length)),
            Turn::Stop(why) => panic!("it stops: {why}"),
        }
    }

    #[test]
    fn no_more_rows_are_deleted_in_an_hour_than_may_be() {
        let throttle = Throttle { dead_rows_per_hour: Some(3_600), ..Throttle::default() };
        let mut pace = Pace::new(throttle, Debts::default());
        let cause =
            |rest: Option<(Cause, Duration)>| rest.map(|(cause, rest)| (cause, rest.as_secs()));
        assert_eq!(rest(&mut pace, CALM, 10), None);
        pace.learn(Duration::ZERO, 30, Duration::from_secs(10));
        // One in a second: it looks again before all of that is over.
        assert_eq!(cause(rest(&mut pace, CALM, 10)), Some((Cause::DeadRowRate, 10)));
        assert_eq!(cause(rest(&mut pace, CALM, 35)), Some((Cause::DeadRowRate, 5)));
        assert_eq!(rest(&mut pace, CALM, 40), None);
        pace.learn(Duration::ZERO, 2, Duration::from_secs(100));
        assert_eq!(cause(rest(&mut pace, CALM, 100)), Some((Cause::DeadRowRate, 2)));
    }

    #[test]
    fn it_rests_until_all_is_well_and_not_just_below_the_limit() {
        let mut pace = Pace::new(Throttle::default(), Debts::default());
        let mut rests = |burden: Burden| rest(&mut pace, burden, 0).is_some();
        assert!(!rests(CALM));
        assert!(!rests(behind(1_900)));
        assert!(rests(behind(2_100)));
        assert!(rests(behind(1_900)), "just below the limit");
        assert!(!rests(behind(900)));
        assert!(!rests(behind(1_900)));
        assert!(rests(behind(20_000)), "it stops only where that was said");
        assert!(rests(Burden { lag: Lag::Unknown, ..CALM }), "unknown is not zero");
    }

    #[test]
    fn log_is_written_no_faster_than_allowed() {
        let throttle = Throttle { log_bytes_per_second: Some(1_000), ..Throttle::default() };
        let mut pace = Pace::new(throttle, Debts::default());
        let log = |bytes| Burden { log_bytes: Some(bytes), ..CALM };
        assert_eq!(rest(&mut pace, log(5_000), 0), None);
        let rested = rest(&mut pace, log(8_000), 1).expect("it rests");
        assert_eq!(rested, (Cause::LogRate, Duration::from_secs(2)));
        let rested = rest(&mut pace, log(8_500), 3).expect("what others write counts");
        assert_eq!(rested, (Cause::LogOfOthers, Duration::from_millis(500)));
        assert_eq!(rest(&mut pace, log(8_500), 4), None);
    }

    #[test]
    fn log_is_rested_for_until_all_of_it_may_have_been_written() {
        let throttle = Throttle { log_bytes_per_second: Some(1_000), ..Throttle::default() };
        let mut pace = Pace::new(throttle.clone(), Debts::default());
        let log = |bytes| Burden { log_bytes: Some(bytes), ..CALM };
        let ten = Some((Cause::LogRate, REST_MAX));
        assert_eq!(rest(&mut pace, log(0), 0), None);
        for seconds in (0..50).step_by(10) {
            assert_eq!(rest(&mut pace, log(100_000), seconds), ten, "{seconds}");
        }
        // Nor does another plan, or a rest for something else, make up for it.
        let mut pace = Pace::new(throttle, pace.debts);
        let late = Burden { log_bytes: Some(100_000), ..behind(9_000) };
        assert_eq!(rest(&mut pace, late, 55).map(|rest| rest.0), Some(Cause::Lag));
        for seconds in (60..100).step_by(10) {
            assert_eq!(rest(&mut pace, log(100_000), seconds), ten, "{seconds}");
        }
        assert_eq!(rest(&mut pace, log(100_000), 100), None);
        // A session that counts from another beginning has not written all of that.
        let debts = pace.debts.of_another_session();
        let mut pace = Pace::new(pace.policy, debts);
        assert_eq!(rest(&mut pace, log(900_000), 101), None);
        assert_eq!(rest(&mut pace, log(950_000), 101), ten);
        // What somebody says counts for what was written before as well.
        pace.follow(&Said { log_rate_max: Some(100_000), ..Said::default() });
        let length = rest(&mut pace, log(950_000), 101).map(|rest| rest.1);
        assert_eq!(length, Some(Duration::from_millis(500)));
    }

    #[test]
    fn what_others_write_meanwhile_is_not_rested_for_once_they_stop() {
        let throttle = Throttle { log_bytes_per_second: Some(1_000), ..Throttle::default() };
        let mut pace = Pace::new(throttle, Debts::default());
        let log = |bytes| Burden { log_bytes: Some(bytes), ..CALM };
        assert_eq!(rest(&mut pace, log(0), 0), None);
        assert_eq!(rest(&mut pace, log(3_000), 1), Some((Cause::LogRate, Duration::from_secs(2))));
        let ten = Some((Cause::LogOfOthers, REST_MAX));
        assert_eq!(rest(&mut pace, log(1_000_000), 3), ten);
        assert_eq!(rest(&mut pace, log(2_000_000), 13), ten);
        assert_eq!(rest(&mut pace, log(2_000_000), 23), None);
        // What it wrote itself goes first, and is its pace, whoever else writes.
        let own = |seconds| Some((Cause::LogRate, Duration::from_secs(seconds)));
        assert_eq!(rest(&mut pace, log(2_014_000), 23), own(10));
        assert_eq!(rest(&mut pace, log(3_000_000), 33), own(10));
        assert_eq!(rest(&mut pace, log(4_000_000), 43), Some((Cause::LogOfOthers, REST_MAX)));
        // That they write less for a while does not make it its own again.
        let five = Some((Cause::LogOfOthers, Duration::from_secs(5)));
        assert_eq!(rest(&mut pace, log(4_005_000), 53), five);
        assert_eq!(rest(&mut pace, log(4_005_000), 58), None);
    }

    #[test]
    fn each_limit_has_its_cause_and_what_nobody_knows_is_not_below_it() {
        let throttle = Throttle {
            active: Some(10),
            log_bytes_per_second: Some(1_000),
            dead_rows: Some(1_000),
            log_used: Some(LogShare::Percent(60)),
            ..Throttle::default()
        };
        let well = Burden { log_used: Some(LogUsed { bytes: 60, room: 100 }), ..CALM };
        for (burden, cause) in [
            (well, None),
            (Burden { active: Some(11), ..well }, Some(Cause::Sessions)),
            (Burden { dead_rows: Some(1_001), ..well }, Some(Cause::DeadRows)),
            (
                Burden { log_used: Some(LogUsed { bytes: 61, room: 100 }), ..well },
                Some(Cause::LogUsed),
            ),
            (Burden { log_used: None, ..well }, Some(Cause::UnknownLogUsed)),
            (Burden { log_bytes: None, ..well }, Some(Cause::UnknownLogRate)),
            (Burden { active: None, ..well }, Some(Cause::UnknownSessions)),
            (Burden { dead_rows: None, ..well }, Some(Cause::UnknownDeadRows)),
        ] {
            let mut pace = Pace::new(throttle.clone(), Debts::default());
            assert_eq!(rest(&mut pace, burden, 0).map(|rest| rest.0), cause, "{burden:?}");
            // Who wants no such limit need not know.
            let mut pace = Pace::new(Throttle::default(), Debts::default());
            assert_eq!(rest(&mut pace, burden, 0), None, "{burden:?}");
        }
        let bytes = Throttle { log_used: Some(LogShare::Bytes(50)), ..Throttle::default() };
        assert!(rest(&mut Pace::new(bytes, Debts::default()), well, 0).is_some());
    }

    #[test]
    fn beyond_twice_a_limit_it_stops_where_that_was_said() {
        let throttle =
            Throttle { aborts: true, log_used: Some(LogShare::Percent(40)), ..Throttle::default() };
        let mut pace = Pace::new(throttle, Debts::default());
        let used = |bytes| Burden { log_used: Some(LogUsed { bytes, room: 100 }), ..behind(0) };
        let late = |millis| Burden { log_used: used(0).log_used, ..behind(millis) };
        assert!(matches!(pace.judge(&late(3_900), Duration::ZERO), Turn::Rest(_)));
        // Also amid a rest it is twice the limit, not twice the half of it.
        assert!(matches!(pace.judge(&late(3_900), Duration::ZERO), Turn::Rest(_)));
        assert!(matches!(pace.judge(&late(4_100), Duration::ZERO), Turn::Stop(_)));
        assert!(matches!(pace.judge(&used(80), Duration::ZERO), Turn::Rest(_)));
        let Turn::Stop(why) = pace.judge(&used(81), Duration::ZERO) else { panic!("it goes on") };
        assert!(why.contains("81 of 100 bytes"), "{why}");
        let unknown = Burden { lag: Lag::Unknown, ..used(0) };
        assert!(matches!(pace.judge(&unknown, Duration::ZERO), Turn::Rest(_)), "it may be over");
    }

    #[test]
    fn others_get_their_turn_once_after_each_transaction() {
        let throttle = Throttle { nice_percent: 50, ..Throttle::default() };
        let mut pace = Pace::new(throttle, Debts::default());
        assert_eq!(pace.nice(), None);
        pace.learn(Duration::from_millis(200), 1, Duration::ZERO);
        assert_eq!(pace.nice(), Some(Rest::of(Cause::Nice, Duration::from_millis(100))));
        assert_eq!(pace.nice(), None);
        pace.follow(&Said { nice_percent: Some(0), ..Said::default() });
        pace.learn(Duration::from_millis(200), 1, Duration::ZERO);
        assert_eq!(pace.nice(), None);
    }

    #[test]
    fn what_somebody_said_counts_instead_of_the_policy() {
        let mut pace = Pace::new(Throttle::default(), Debts::default());
        pace.follow(&Said { lag_max_ms: Some(5_000), sessions_max: Some(3), ..Said::default() });
        assert_eq!(rest(&mut pace, behind(4_900), 0), None);
        let busy = Burden { active: Some(4), ..CALM };
        assert_eq!(rest(&mut pace, busy, 0).map(|rest| rest.0), Some(Cause::Sessions));
        pace.follow(&Said::default());
        assert_eq!(rest(&mut pace, behind(4_900), 0).map(|rest| rest.0), Some(Cause::Lag));
    }
}
