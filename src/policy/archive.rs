//! Which rows are moved out of a live table, when they may be deleted there, and how fast.

use std::time::Duration;

use chrono::{DateTime, Datelike as _, Days, Months, NaiveDate, TimeDelta, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use stillpoint_contract::CutoffForm;

use super::{
    civil::first_instant,
    model::{EventRule, Period, PeriodUnit, Window},
};

/// What is archived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveRule {
    /// The name of the archive set.
    pub name: String,
    /// The database.
    pub database: String,
    /// The repository that the files go to.
    pub to: String,
    /// The table.
    pub root: String,
    /// The unique index by which its rows are told apart and put in order; the primary key where
    /// that is not said.
    pub key: Option<String>,
    /// Which of its rows, in the engine's SQL; `:cutoff` stands for the cutoff.
    pub selects: String,
    /// How old they are at least, by the database's clock.
    pub age: Option<Period>,
    /// The zone of that calendar, and of times that the database keeps without one.
    pub zone: Option<Tz>,
    /// How the database writes times, where its columns do not say it.
    pub form: Option<CutoffForm>,
    /// Tables whose rows refer to them and go with them.
    pub children: Vec<ArchivedChild>,
    /// Whether that also goes for tables that refer to them and are not listed.
    pub includes_unlisted: bool,
    /// Other tables whose rows only derive from others: what triggers delete of them while rows
    /// are archived is not kept.
    pub derived: Vec<String>,
    /// The format of files.
    pub format: FileFormat,
    /// What of copies of the rows in tables of another database.
    pub destination: DestinationRule,
    /// How they are encrypted; as their repository is where that is not said.
    pub encryption: Option<ArchiveEncryption>,
    /// Columns by whose values files are looked up.
    pub lookup: Vec<String>,
    /// A file is full with so many bytes.
    pub file_bytes: u64,
    /// How many rows a slice has at most: one slice is deleted at once, or none of it.
    pub slice_rows: u64,
    /// How long a transaction should take that deletes.
    pub transaction: Duration,
    /// What is compared before rows are deleted.
    pub verification: Verification,
    /// What must be so before rows are deleted.
    pub gates: Gates,
    /// Whether partitions of which all rows are selected are taken out as a whole.
    pub detaches: bool,
    /// How long such a partition stands beside its table before it is dropped.
    pub grace: Duration,
    /// When the work rests.
    pub throttle: Throttle,
    /// When those that serve begin a run; never where there is none.
    pub schedule: Option<String>,
    /// When the work may run, each in its own zone; at any time where there are none.
    pub windows: Vec<Window>,
    /// How long a run works at most.
    pub runtime_max: Option<Duration>,
    /// How a run lets the space of rows be used again that it deleted; `none` only tells what
    /// became of it, and nothing is told where that is not said.
    pub reclaim: Option<String>,
    /// The order of rows in files, where somebody says it: that of the key.
    pub sort: Vec<String>,
    /// How long files are kept from when they were written; for ever where that is not said.
    pub keep: Option<Period>,
    /// How long rows are kept from when something happened to whom they are about.
    pub retention: Option<EventRule>,
}

/// What of copies of archived rows in tables of another database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DestinationRule {
    /// There are none, and never were.
    #[default]
    None,
    /// Those that there are stay as they are, and follow no more.
    GivenUp,
    /// There are such.
    Tables {
        /// The database.
        database: String,
        /// The schema of the tables; that of those that rows come from where it is not said.
        schema: Option<String>,
    },
}

/// What is compared, of each row that a deletion returns, with the row that was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verification {
    /// All of it.
    #[default]
    Row,
    /// Which version of the row it is, where the engine tells that and nothing that deletes was
    /// begun anew meanwhile; all of the row where versions differ.
    Tuple,
}

/// How files are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveEncryption {
    /// Each with a key of its own, which the repository's secret wraps.
    Repository,
    /// Not at all, whatever repository they lie in.
    None,
}

/// A table whose rows refer to those that are archived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchivedChild {
    /// The table.
    pub table: String,
    /// The columns that refer; those of its only foreign key where that is not said.
    pub columns: Vec<String>,
}

/// How rows are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileFormat {
    /// Apache Parquet.
    #[default]
    Parquet,
    /// Comma-separated values, compressed.
    Csv,
    /// One JSON object in a line, compressed.
    Jsonl,
}

impl FileFormat {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Parquet, Self::Csv, Self::Jsonl];

    /// Its name in a policy.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Csv => "csv",
            Self::Jsonl => "jsonl",
        }
    }

    /// What the names of such files end with, without the point.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Csv => "csv.zst",
            Self::Jsonl => "jsonl.zst",
        }
    }
}

/// What must be so before rows are deleted that are in a file already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gates {
    /// The repository that must have a second copy of the file.
    pub second_copy: Option<String>,
    /// Whether a verified backup must have the rows.
    pub verified_backup: bool,
    /// How old the file must be.
    pub age: Option<Duration>,
}

/// When the work rests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Throttle {
    /// While replicas are further behind than this.
    pub lag: Duration,
    /// While more sessions are working.
    pub active: Option<u32>,
    /// While more log is written, in bytes a second.
    pub log_bytes_per_second: Option<u64>,
    /// While its tables have more dead rows.
    pub dead_rows: Option<u64>,
    /// So many of its rows are deleted in an hour at most.
    pub dead_rows_per_hour: Option<u64>,
    /// While the server has to keep more log.
    pub log_used: Option<LogShare>,
    /// How long it rests after each transaction, in hundredths of what that took.
    pub nice_percent: u32,
    /// Whether it stops, instead of resting, where twice a limit is exceeded.
    pub aborts: bool,
}

/// How much log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogShare {
    /// So many hundredths of what there may be.
    Percent(u32),
    /// So many bytes.
    Bytes(u64),
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            lag: Duration::from_secs(2),
            active: None,
            log_bytes_per_second: None,
            dead_rows: None,
            dead_rows_per_hour: None,
            log_used: None,
            nice_percent: 0,
            aborts: false,
        }
    }
}

impl ArchiveRule {
    /// Which rows are old enough at an instant: those before the result. A day that the month of
    /// the result does not have is its last one, so that nothing is older than it has to be.
    pub fn cutoff(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.age.map(|age| before(age, now, self.zone.unwrap_or(Tz::UTC)))
    }

    /// The month in which files written at an instant may be removed, as `2033-04`, or `open`.
    pub fn expire(&self, now: DateTime<Utc>) -> String {
        let zone = self.zone.unwrap_or(Tz::UTC);
        // What counts from an event has no month before the event is known.
        let keep = self.keep.filter(|_| self.retention.is_none());
        let Some(keep) = keep else { return "open".to_owned() };
        // The month after, so that none of them is removed within its time. A year of five digits
        // would have a sign in the name.
        let last = keep.after(now, zone).with_timezone(&zone).date_naive();
        let month = last.checked_add_months(Months::new(1)).filter(|month| month.year() < 10_000);
        month.unwrap_or(last).format("%Y-%m").to_string()
    }

    /// Whether such a month has begun, in the zone in which it was counted. What is no month never
    /// does.
    pub fn has_come(&self, month: &str, now: DateTime<Utc>) -> bool {
        let today = now.with_timezone(&self.zone.unwrap_or(Tz::UTC)).date_naive();
        let first = NaiveDate::parse_from_str(&format!("{month}-01"), "%Y-%m-%d");
        first.is_ok_and(|first| first <= today)
    }
}

fn before(period: Period, instant: DateTime<Utc>, zone: Tz) -> DateTime<Utc> {
    let count = period.count;
    let local = instant.with_timezone(&zone).naive_local();
    let earlier = match period.unit {
        PeriodUnit::Hours => {
            let hours = TimeDelta::hours(count.into());
            return instant.checked_sub_signed(hours).unwrap_or(DateTime::<Utc>::MIN_UTC);
        }
        PeriodUnit::Days => local.checked_sub_days(Days::new(count.into())),
        PeriodUnit::Weeks => local.checked_sub_days(Days::new(u64::from(count) * 7)),
        PeriodUnit::Months => local.checked_sub_months(Months::new(count)),
        PeriodUnit::Years => local.checked_sub_months(Months::new(count.saturating_mul(12))),
    };
    earlier.map_or(DateTime::<Utc>::MIN_UTC, |local| first_instant(zone, local))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("a time")
    }

    #[test]
    fn ages_follow_the_calendar_of_their_zone() {
        let months = |count| Period { count, unit: PeriodUnit::Months };
        let berlin = chrono_tz::Europe::Berlin;
        for (period, zone, now, cutoff) in [
            (months(24), Tz::UTC, "2026-11-27T21:14:31Z", "2024-11-27T21:14:31Z"),
            (months(1), Tz::UTC, "2026-03-31T00:00:00Z", "2026-02-28T00:00:00Z"),
            // The same time of day, in winter and in summer.
            (months(6), berlin, "2026-12-15T11:00:00Z", "2026-06-15T10:00:00Z"),
            // A time that was skipped: the first one after it.
            (months(1), berlin, "2026-04-29T00:30:00Z", "2026-03-29T01:00:00Z"),
        ] {
            assert_eq!(before(period, at(now), zone), at(cutoff), "{now}");
        }
        let hours = Period { count: 36, unit: PeriodUnit::Hours };
        assert_eq!(before(hours, at("2026-03-29T12:00:00Z"), berlin), at("2026-03-28T00:00:00Z"));
    }
}
