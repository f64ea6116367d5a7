//! What a coordinator has counted since it began, for whoever measures it: the sums of several are
//! what happened.

use std::{collections::BTreeMap, time::Duration};

use crate::coordinator::state::Outcome;

/// Upper bounds of what durations are counted by, in seconds: a second, and up to a day.
pub const BOUNDS_SECONDS: [u32; 10] = [1, 5, 15, 60, 300, 900, 3_600, 14_400, 43_200, 86_400];

/// How many durations were how long.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// How many there were of up to each bound, and longer than the one before.
    pub counts: [u64; BOUNDS_SECONDS.len()],
    /// How many there were.
    pub count: u64,
    /// Their sum.
    pub sum: Duration,
}

/// Why somebody who could have been told of something was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Suppressed {
    /// The database is paused.
    Paused,
    /// A job did not matter any more: its endpoint went away, another one takes over, or nothing
    /// may be done for a while.
    Superseded,
}

/// What was counted.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Jobs that ended, by kind and outcome.
    pub jobs: BTreeMap<(String, &'static str), u64>,
    /// How long they took, by kind and engine.
    pub durations: BTreeMap<(String, &'static str), Histogram>,
    /// How much later than they were due jobs began.
    pub lateness: Histogram,
    /// Due times that became nothing, by the reason.
    pub missed: BTreeMap<String, u64>,
    /// What nobody was told of, by the reason.
    pub suppressed: BTreeMap<Suppressed, u64>,
    /// Objects that were found damaged when backups were read back.
    pub damaged: u64,
}

impl Histogram {
    /// Counts one.
    pub fn add(&mut self, long: Duration) {
        let bound = |bound: &u32| long <= Duration::from_secs(u64::from(*bound));
        if let Some(place) = BOUNDS_SECONDS.iter().position(bound) {
            self.counts[place] += 1;
        }
        self.count += 1;
        self.sum += long;
    }
}

impl Suppressed {
    /// As a label's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::Superseded => "superseded",
        }
    }
}

impl Tally {
    /// A job ended.
    pub(super) fn ended(
        &mut self,
        (kind, engine): (&str, &'static str),
        outcome: Outcome,
        took: Duration,
    ) {
        *self.jobs.entry((kind.to_owned(), outcome.word())).or_default() += 1;
        self.durations.entry((kind.to_owned(), engine)).or_default().add(took);
        if outcome == Outcome::Superseded {
            *self.suppressed.entry(Suppressed::Superseded).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_is_counted_once_by_the_first_bound_that_it_does_not_pass() {
        let mut histogram = Histogram::default();
        for seconds in [0, 1, 2, 86_400, 86_401] {
            histogram.add(Duration::from_secs(seconds));
        }
        let [first, second, .., last] = histogram.counts;
        assert_eq!((first, second, last, histogram.count), (2, 1, 1, 5));
        assert_eq!(histogram.sum, Duration::from_secs(172_804));
    }

    #[test]
    fn what_moved_to_another_endpoint_is_counted_as_what_nobody_was_told_of() {
        let mut tally = Tally::default();
        tally.ended(("full", "sqlite"), Outcome::Superseded, Duration::ZERO);
        tally.ended(("full", "sqlite"), Outcome::Failed, Duration::ZERO);
        assert_eq!(tally.suppressed, [(Suppressed::Superseded, 1)].into());
        assert_eq!(tally.jobs.len(), 2);
    }
}
