//! Backups that are not like those before them: a database that grew or shrank at once, or most of
//! which was rewritten where it lies, as whoever encrypts it would.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

/// A backup is compared with so many before it: fewer say nothing, more are history.
const LEAST: usize = 4;
const MOST: usize = 7;

/// Of the newest so many backups, one that is not like others is told.
pub const TOLD: usize = 4;

/// What changes by less is not worth a word.
const BYTES_MIN: u64 = 1 << 20;

/// So many times as large as usual, or that part of it, is unusual.
const TIMES: u64 = 3;

/// Rewritten is what stored so many times as much as usual, and one part in so many of everything.
const REWRITTEN_TIMES: u64 = 10;
const REWRITTEN_PART: u64 = 4;

/// How long backups from before are kept, whatever else is promised.
pub const KEPT_BEFORE: TimeDelta = TimeDelta::days(14);

/// How large a backup is. Those of one incarnation are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The time of its state.
    pub at: DateTime<Utc>,
    /// The database, in bytes.
    pub size_bytes: u64,
    /// What was stored for it, in bytes: what was not there before.
    pub stored_bytes: u64,
}

/// In what a backup is not like others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Oddity {
    /// The database is much larger.
    Grown,
    /// It is much smaller.
    Shrunk,
    /// Much of what was there before is something else.
    Rewritten,
}

/// A backup that is not like others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anomaly {
    /// In what.
    pub oddity: Oddity,
    /// The time of its state.
    pub at: DateTime<Utc>,
    /// How many bytes.
    pub bytes: u64,
    /// How many there usually are.
    pub usual_bytes: u64,
}

impl Oddity {
    /// Whether what was there before may be wanted soon.
    pub fn is_loss(self) -> bool {
        matches!(self, Self::Shrunk | Self::Rewritten)
    }
}

/// What is odd about backups of one incarnation, from the oldest to the newest; of each one thing
/// at most, the worst.
pub fn anomalies(backups: &[Sizes]) -> Vec<Option<Anomaly>> {
    let odd = |place: usize| {
        let own = backups[place];
        let before = &backups[place.saturating_sub(MOST)..place];
        if before.len() < LEAST {
            return None;
        }
        let size = median(before.iter().map(|one| one.size_bytes));
        let anomaly =
            |oddity, bytes, usual_bytes| Some(Anomaly { oddity, at: own.at, bytes, usual_bytes });
        // The first of all stored everything.
        let first = usize::from(place <= MOST);
        let stored = median(before[first..].iter().map(|one| one.stored_bytes));
        let grown = own.size_bytes.saturating_sub(backups[place - 1].size_bytes);
        let rewritten = own.stored_bytes.saturating_sub(grown);
        if BYTES_MIN.max(stored.saturating_mul(REWRITTEN_TIMES)) <= rewritten
            && own.size_bytes <= rewritten.saturating_mul(REWRITTEN_PART)
        {
            return anomaly(Oddity::Rewritten, rewritten, stored);
        }
        if own.size_bytes.saturating_mul(TIMES) <= size && BYTES_MIN <= size - own.size_bytes {
            return anomaly(Oddity::Shrunk, own.size_bytes, size);
        }
        let is_grown = size.saturating_mul(TIMES) <= own.size_bytes;
        if is_grown && BYTES_MIN <= own.size_bytes - size {
            return anomaly(Oddity::Grown, own.size_bytes, size);
        }
        None
    };
    (0..backups.len()).map(odd).collect()
}

/// The middle one; of two, the smaller.
fn median(values: impl Iterator<Item = u64>) -> u64 {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    let middle = values.len().saturating_sub(1) / 2;
    values.get(middle).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Backups of so many MiB, and what was stored for each after the first.
    fn backups(sizes: &[(u64, u64)]) -> Vec<Sizes> {
        let one = |(hour, (size, stored)): (i64, &(u64, u64))| Sizes {
            at: DateTime::UNIX_EPOCH + TimeDelta::hours(hour),
            size_bytes: size * MIB,
            stored_bytes: stored * MIB,
        };
        (0..).zip(sizes).map(one).collect()
    }

    fn last(sizes: &[(u64, u64)]) -> Option<Oddity> {
        let all = anomalies(&backups(sizes));
        let (last, before) = all.split_last().unwrap();
        assert!(before.iter().all(Option::is_none), "{all:?}");
        last.map(|anomaly| anomaly.oddity)
    }

    const USUAL: [(u64, u64); 5] = [(100, 100), (101, 2), (102, 1), (102, 2), (103, 1)];

    fn then(next: (u64, u64)) -> Vec<(u64, u64)> {
        [USUAL.as_slice(), &[next]].concat()
    }

    #[test]
    fn what_is_like_those_before_is_not_odd() {
        for usual in [(103, 1), (110, 9), (300, 199), (40, 1), (103, 12)] {
            assert_eq!(last(&then(usual)), None, "{usual:?}");
        }
    }

    #[test]
    fn row_57_a_database_that_grew_threefold_is_odd() {
        assert_eq!(last(&then((306, 204))), Some(Oddity::Grown));
        assert_eq!(last(&then((305, 204))), None);
    }

    #[test]
    fn row_80_one_that_was_rewritten_where_it_lies_is_odd_and_so_is_one_of_which_most_is_gone() {
        assert_eq!(last(&then((103, 100))), Some(Oddity::Rewritten));
        assert_eq!(last(&then((103, 26))), Some(Oddity::Rewritten));
        assert_eq!(last(&then((103, 25))), None, "less than a quarter");
        assert_eq!(last(&then((200, 110))), None, "most of it is new");
        assert_eq!(last(&then((34, 1))), Some(Oddity::Shrunk));
    }

    #[test]
    fn few_backups_say_nothing_and_small_ones_neither() {
        assert_eq!(last(&USUAL), None);
        assert_eq!(last(&[(1, 1), (1, 0), (1, 0), (90, 89)]), None, "three before");
        let small = |size| Sizes { at: DateTime::UNIX_EPOCH, size_bytes: size, stored_bytes: size };
        let tiny = [10, 10, 10, 10, 10, 900_000].map(small);
        assert!(anomalies(&tiny).iter().all(Option::is_none));
    }

    #[test]
    fn a_median_is_one_of_its_values() {
        assert_eq!(median([5, 1, 9].into_iter()), 5);
        assert_eq!(median([5, 1].into_iter()), 1);
        assert_eq!(median(std::iter::empty()), 0);
    }
}
