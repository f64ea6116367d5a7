//! Which moments of a database can be restored, as answers tell it.

use crate::{
    cli::{
        answer::Stamp,
        native::Native,
        wire::{Gap, Point, Stretch},
    },
    coordinator::{self, Restorable, Window},
    repository::Timeline,
};

/// Restorable moments, oldest first, and what lies between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Moments end to end.
    pub stretches: Vec<Stretch>,
    /// One between each two stretches.
    pub gaps: Vec<Gap>,
    /// Why log that was captured after the newest moment does not count; the next backup closes it.
    pub open_gap: Option<String>,
}

impl Reach {
    /// Works it out. Captured log without a backup before it restores nothing and is left out.
    pub(crate) fn of(timeline: &Timeline, native: Native<'_>) -> Self {
        let point = |moment: &Restorable| Point {
            at: Stamp(moment.at),
            position: moment.position.as_ref().map(ToString::to_string),
            engine_position: moment.position.as_ref().map(|p| native.render_of(timeline, p)),
        };
        let windows = coordinator::windows(timeline);
        let gaps = windows.windows(2).map(|pair| Gap {
            after: point(&pair[0].to),
            before: point(&pair[1].from),
            why: pair[1].gap.clone(),
        });
        let gaps = gaps.collect();
        let stretch =
            |window: &Window| Stretch { from: point(&window.from), to: point(&window.to) };
        let stretches = windows.iter().map(stretch).collect();
        let open_gap = timeline.open_gap().map(str::to_owned);
        Self { stretches, gaps, open_gap }
    }

    /// What a person should know of a gap that is open.
    pub(crate) fn warning(&self, database: &str) -> Option<String> {
        let why = self.open_gap.as_ref()?;
        Some(format!(
            "{database}: what was captured last cannot be restored yet: {why}; back up now"
        ))
    }

    /// The oldest restorable moment.
    pub(crate) fn from(&self) -> Option<Stamp> {
        self.stretches.first().map(|stretch| stretch.from.at)
    }

    /// The newest restorable moment.
    pub(crate) fn to(&self) -> Option<Stamp> {
        self.stretches.iter().map(|stretch| stretch.to.at).max()
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};
    use stillpoint_contract::LogPosition;

    use super::*;
    use crate::repository::{
        Beat, Coverage, Point as LogPoint, Unwatched, entry::Commit, history::Committed,
    };

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    fn backup(id: &str, second: i64, position: Option<&str>) -> Committed {
        let commit = Commit {
            backup: id.to_owned(),
            database: "db".to_owned(),
            engine: "sim".to_owned(),
            incarnation: "i".to_owned(),
            location: "/db".to_owned(),
            started_at: at(second),
            finished_at: at(second),
            consistent_time: at(second),
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
        Committed { seq: second.cast_unsigned(), commit, forgotten: false }
    }

    fn coverage(start: (i64, &str), end: (i64, &str), backups: &[&str]) -> Coverage {
        let point = |(second, position): (i64, &str)| LogPoint {
            at: at(second),
            position: position.parse::<LogPosition>().unwrap(),
        };
        Coverage {
            start: point(start),
            end: point(end),
            until: at(end.0),
            unwatched: Vec::new(),
            gap: None,
            missing: None,
            lost: None,
            backups: backups.iter().map(|id| (*id).to_owned()).collect(),
            segments: Vec::new(),
        }
    }

    fn reach(backups: Vec<Committed>, coverage: Vec<Coverage>) -> Vec<(i64, i64)> {
        reach_with(backups, coverage, None)
    }

    fn reach_with(
        backups: Vec<Committed>,
        coverage: Vec<Coverage>,
        beat: Option<Beat>,
    ) -> Vec<(i64, i64)> {
        let timeline =
            Timeline { database: "db".to_owned(), backups, coverage, beat, problems: Vec::new() };
        let reach = Reach::of(&timeline, Native(&[]));
        assert_eq!(reach.gaps.len(), reach.stretches.len().saturating_sub(1));
        let seconds = |stamp: Stamp| stamp.0.timestamp();
        reach.stretches.iter().map(|s| (seconds(s.from.at), seconds(s.to.at))).collect()
    }

    #[test]
    fn log_counts_from_the_first_backup_in_it() {
        let log = coverage((0, "a:1"), (90, "a:9"), &["x", "y"]);
        let backups = vec![backup("x", 10, Some("a:2")), backup("y", 50, Some("a:5"))];
        assert_eq!(reach(backups, vec![log]), [(10, 90)]);
    }

    #[test]
    fn time_in_which_nobody_looked_is_a_gap() {
        let mut log = coverage((0, "a:1"), (90, "a:9"), &["x"]);
        let unwatched = |from, to| Unwatched { from: at(from), to: at(to) };
        log.unwatched = vec![unwatched(0, 5), unwatched(8, 20), unwatched(60, 70)];
        let backups = vec![backup("x", 10, Some("a:2"))];
        assert_eq!(reach(backups, vec![log]), [(10, 10), (20, 60), (70, 90)]);
    }

    #[test]
    fn what_lies_between_two_backups_of_one_position_is_known() {
        let backups = vec![
            backup("x", 10, Some("a:2")),
            backup("y", 30, Some("a:2")),
            backup("z", 50, Some("a:3")),
        ];
        assert_eq!(reach(backups, vec![]), [(10, 30), (50, 50)]);
    }

    #[test]
    fn a_capture_that_saw_nothing_new_carries_its_backup_along() {
        let backups = vec![backup("x", 10, Some("a:2")), backup("y", 30, Some("a:4"))];
        let seen = |position: &str| {
            let beat = Beat {
                stream: "s".to_owned(),
                at: at(70),
                alive_at: None,
                process: None,
                position: position.parse().unwrap(),
                is_last: false,
            };
            reach_with(backups.clone(), vec![], Some(beat))
        };
        assert_eq!(seen("a:4"), [(10, 10), (30, 70)]);
        assert_eq!(seen("a:5"), [(10, 10), (30, 30)]);
        assert_eq!(seen("b:4"), [(10, 10), (30, 30)]);
    }

    #[test]
    fn a_blink_is_no_gap() {
        let mut log = coverage((10, "a:2"), (90, "a:9"), &["x"]);
        log.unwatched = vec![Unwatched { from: at(0), to: at(10) }];
        let mut first = backup("x", 10, Some("a:2"));
        first.commit.consistent_time -= chrono::Duration::milliseconds(300);
        assert_eq!(reach(vec![first], vec![log]), [(9, 90)]);
    }

    #[test]
    fn log_without_a_backup_restores_nothing() {
        assert_eq!(reach(vec![], vec![coverage((0, "a:1"), (90, "a:9"), &[])]), []);
    }

    #[test]
    fn backups_outside_of_any_log_are_single_moments() {
        let log = coverage((20, "a:1"), (90, "a:9"), &["y"]);
        let backups =
            vec![backup("x", 10, None), backup("y", 30, Some("a:2")), backup("z", 99, Some("b:2"))];
        assert_eq!(reach(backups, vec![log]), [(10, 10), (30, 90), (99, 99)]);
    }
}
