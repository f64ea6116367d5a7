//! How a plan tells what a restore will take, and what it loses.

use std::path::Path;

use serde::Serialize;

use super::{answer::Stamp, page::Page, units, wire::milliseconds};
use crate::coordinator::{Estimate, Forecast, Lost};

/// How long it will take, and what is lost.
#[derive(Debug, Serialize)]
pub(crate) struct Outlook {
    estimate: Option<EstimatedTime>,
    lost: LostHistory,
    free_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct EstimatedTime {
    least_ms: u64,
    most_ms: u64,
    drills: usize,
    lacks_replay: bool,
    lacks_writing: bool,
}

#[derive(Debug, Serialize)]
struct LostHistory {
    transactions: u64,
    is_more: bool,
    newest: Option<Stamp>,
}

impl Outlook {
    /// What is known of a restore to a place, if it goes to one.
    pub(crate) fn of(forecast: &Forecast, target: Option<&Path>) -> Self {
        let Forecast { estimate, lost: Lost { transactions, is_more, newest }, .. } = *forecast;
        let time = |estimate: Estimate| EstimatedTime {
            least_ms: milliseconds(estimate.least),
            most_ms: milliseconds(estimate.most),
            drills: estimate.drills,
            lacks_replay: estimate.lacks_replay,
            lacks_writing: estimate.lacks_writing,
        };
        Self {
            estimate: estimate.map(time),
            lost: LostHistory { transactions, is_more, newest: newest.map(Stamp) },
            free_bytes: target.and_then(free_bytes),
        }
    }

    /// Whether what is restored does not fit into what is free.
    pub(crate) fn is_too_small(&self, needed: u64) -> bool {
        self.free_bytes.is_some_and(|free| free < needed)
    }

    /// The same for people. `lost` is what is said of commits after the point: whoever restores in
    /// place loses them, and a copy beside what lives only lacks them.
    pub(crate) fn facts(&self, page: &Page<'_>, lost: &'static str) -> Vec<(&'static str, String)> {
        let free = self.free_bytes.map(|free| ("Free", units::bytes(free)));
        let mut facts = vec![("Time", self.time()), (lost, self.losses(page))];
        facts.extend(free);
        facts
    }

    fn time(&self) -> String {
        let Some(estimate) = &self.estimate else {
            return "not known: no drill of this database that passed has read all of it yet"
                .to_owned();
        };
        let EstimatedTime { least_ms, most_ms, drills, lacks_replay, lacks_writing } = *estimate;
        let length = |ms| units::duration(std::time::Duration::from_millis(ms));
        let (least, most) = (length(least_ms), length(most_ms));
        let time = if least == most { least } else { format!("{least} to {most}") };
        let by = units::count(drills as u64, "drill", "drills");
        let without = if lacks_replay { ", none of which replayed log" } else { "" };
        let writing = if lacks_writing { ", without writing: they were mounted" } else { "" };
        format!("{time}, by {by}{without}{writing}")
    }

    fn losses(&self, page: &Page<'_>) -> String {
        let LostHistory { transactions, is_more, newest } = &self.lost;
        let Some(newest) = newest else {
            return "nothing that was captured".to_owned();
        };
        let more = if *is_more { "more than " } else { "" };
        let what = match transactions {
            0 => "what was committed since".to_owned(),
            number => format!("{more}{}", units::count(*number, "commit", "commits")),
        };
        format!("{what}; the newest state that is known is of {}", page.time(newest.0))
    }
}

/// What is free where a path is, or will be.
pub(super) fn free_bytes(target: &Path) -> Option<u64> {
    let place = std::path::absolute(target).ok()?;
    let there = place.ancestors().find(|place| place.exists())?;
    let found = rustix::fs::statvfs(there).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}
