//! What the state database knows of a month: alerts that were told, and how jobs ended.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use stillpoint_contract::Result;

use super::record::{AuditEnd, Breach, Jobs};
use crate::{
    cli::answer::Stamp,
    coordinator::{
        HISTORY_DAYS,
        state::{Filter, Line, Phase, State},
    },
};

/// Jobs that are read in one go.
const PAGE: u32 = 1_000;

/// What it knows.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) audit: Option<AuditEnd>,
    /// From when on alerts were written down, if any of the month was.
    pub(super) alerts_from: Option<DateTime<Utc>>,
    /// By database.
    pub(super) alerts: BTreeMap<String, Vec<Breach>>,
    pub(super) jobs_from: Option<DateTime<Utc>>,
    /// By database.
    pub(super) jobs: BTreeMap<String, Jobs>,
}

impl Known {
    /// Reads it. A month ends at `to`, or has come so far.
    ///
    /// # Errors
    ///
    /// What keeps the state database from being read, and an audit log that is not as it was
    /// written: then nothing of it is believed.
    pub(super) async fn read(
        state: &State,
        (from, to): (DateTime<Utc>, DateTime<Utc>),
        now: DateTime<Utc>,
    ) -> Result<Self> {
        let end = state.prove_audit().await?;
        let mut told = Told::default();
        let mut first = None;
        let mut after = 0;
        loop {
            let lines = state.audit(after).await?;
            let Some(last) = lines.last() else { break };
            after = last.seq;
            first = first.or(lines.first().map(|line| line.at));
            for line in &lines {
                told.take(line);
            }
        }
        let since = |known: DateTime<Utc>| Some(known.max(from)).filter(|known| *known < to);
        let alerts_from = first.and_then(since);
        let jobs_from =
            first.and_then(|first| since(first.max(now - TimeDelta::days(HISTORY_DAYS.into()))));
        let mut known = Self {
            audit: end.map(|line| AuditEnd { lines: line.seq, hash: line.hash }),
            alerts_from,
            alerts: told.between(from, to),
            jobs_from,
            jobs: BTreeMap::new(),
        };
        if let Some(jobs_from) = jobs_from {
            known.read_jobs(state, (from, to), jobs_from).await?;
        }
        Ok(known)
    }

    async fn read_jobs(
        &mut self,
        state: &State,
        (from, to): (DateTime<Utc>, DateTime<Utc>),
        known_from: DateTime<Utc>,
    ) -> Result<()> {
        let mut filter = Filter { most: PAGE, ..Filter::default() };
        loop {
            let jobs = state.jobs(&filter).await?;
            for job in &jobs {
                let Phase::Ended { at, outcome, .. } = &job.phase else { continue };
                if from <= *at && *at < to {
                    let blank = || Jobs { known_from: Stamp(known_from), ended: BTreeMap::new() };
                    let own = self.jobs.entry(job.task.database.clone()).or_insert_with(blank);
                    let kind = own.ended.entry(job.task.kind.clone()).or_default();
                    *kind.entry(outcome.word()).or_default() += 1;
                }
            }
            match jobs.last() {
                Some(last) if jobs.len() == PAGE as usize => filter.before = Some(last.id.clone()),
                _ => return Ok(()),
            }
        }
    }
}

/// Alerts, line by line.
#[derive(Debug, Default)]
struct Told {
    open: BTreeMap<(String, String), DateTime<Utc>>,
    over: Vec<(String, Breach)>,
}

impl Told {
    fn take(&mut self, line: &Line) {
        let (class, since) = line.detail.split_once(" since ").unwrap_or((&line.detail, ""));
        let key = (line.subject.clone(), class.to_owned());
        match line.action.as_str() {
            "alert.raised" => {
                let since = since.parse().unwrap_or(line.at);
                self.open.entry(key).or_insert(since);
            }
            "alert.over" => {
                if let Some(since) = self.open.remove(&key) {
                    let over = Some(Stamp(line.at));
                    self.over.push((key.0, Breach { class: key.1, since: Stamp(since), over }));
                }
            }
            _ => {}
        }
    }

    /// Those of a stretch of time, by database.
    fn between(self, from: DateTime<Utc>, to: DateTime<Utc>) -> BTreeMap<String, Vec<Breach>> {
        let lasting = self.open.into_iter().map(|((database, class), since)| {
            (database, Breach { class, since: Stamp(since), over: None })
        });
        let mut all: BTreeMap<String, Vec<Breach>> = BTreeMap::new();
        for (database, mut one) in self.over.into_iter().chain(lasting) {
            if one.since.0 < to && one.over.is_none_or(|over| from <= over.0) {
                // What came after the month is not its affair.
                one.over = one.over.filter(|over| over.0 < to);
                all.entry(database).or_default().push(one);
            }
        }
        for own in all.values_mut() {
            own.sort_by_key(|one| one.since);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: u32) -> DateTime<Utc> {
        format!("2026-10-{day:02}T00:00:00Z").parse().unwrap()
    }

    fn line(day: u32, action: &str, detail: &str) -> Line {
        Line {
            seq: 1,
            at: at(day),
            who: String::new(),
            action: action.to_owned(),
            subject: "app".to_owned(),
            detail: detail.to_owned(),
            hash: String::new(),
        }
    }

    #[test]
    fn what_was_broken_is_known_by_when_it_began_and_was_over() {
        let mut told = Told::default();
        for line in [
            line(2, "alert.raised", "rpo-breached since 2026-10-01T12:00:00.000000Z"),
            line(4, "alert.over", "rpo-breached"),
            line(5, "alert.over", "drill-failed"),
            line(6, "job.ended", "rpo-breached since 2026-10-06T00:00:00.000000Z"),
            line(9, "alert.raised", "corruption since 2026-10-08T00:00:00.000000Z"),
            line(25, "alert.over", "corruption"),
            line(28, "alert.raised", "rpo-breached since 2026-10-27T00:00:00.000000Z"),
        ] {
            told.take(&line);
        }
        let own = told.between(at(3), at(20)).remove("app").unwrap();
        let told: Vec<_> = own.iter().map(|one| (&*one.class, one.over.is_some())).collect();
        assert_eq!(told, [("rpo-breached", true), ("corruption", false)]);
        assert_eq!(own[0].since.0, at(1) + TimeDelta::hours(12));
    }
}
