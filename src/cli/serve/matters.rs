//! What is the matter with a database, for whoever looks.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::{
    coordinator::{
        CopyKnown, Member, Standing,
        state::{Mark, Marked},
    },
    policy::{Alert, ArchiveState, Pause, Protection, Reach, alerts},
};

/// The pause that a database is in.
pub(super) fn pause(marks: &[Marked], database: &str, now: DateTime<Utc>) -> Option<Pause> {
    let own = |marked: &&Marked| {
        let is_pause = matches!(marked.mark, Mark::Paused { .. });
        marked.database == database && is_pause && marked.holds(now)
    };
    marks.iter().find(own).map(|marked| Pause { since: marked.since, until: marked.until })
}

/// What can be restored of it.
pub(super) fn reach<'a>(member: &Member, standing: &'a Standing) -> Reach<'a> {
    Reach { state: member.state, since: member.since, coverage: &standing.coverage }
}

/// What somebody has to know of it.
pub(super) fn matters(
    member: &Member,
    (standing, copies, archives): (&Standing, &[CopyKnown], &[ArchiveState]),
    pause: Option<Pause>,
    now: DateTime<Utc>,
) -> Vec<Alert> {
    let copies: Vec<_> = copies.iter().map(CopyKnown::state).collect();
    let coverage = member.continuous(standing);
    let protection = Protection {
        database: &member.name,
        reach: Reach { coverage: &coverage, ..reach(member, standing) },
        pause,
        drill_passed: standing.drill_passed,
        drill_took: standing.rehearsed.rto_ms.map(Duration::from_millis),
        drill_failed: standing.drill_failed,
        drill_trouble: None,
        copies: &copies,
        corrupt_since: standing.corrupt_since,
        damaged_since: standing.damaged_since,
        anomaly: standing.anomaly,
        archives,
        cause: None,
    };
    alerts(&protection, Some(&member.policy), now)
}
