//! Where recovery is going, and how far the heads of captured log lead there.

use chrono::{DateTime, Utc};
use stillpoint_contract::{
    Error, ErrorKind, LogEvent, LogEventKind, LogPosition, RecoveryTarget, Result, SegmentHead,
    code,
};

use crate::wire::lsn_text;

/// Where recovery is going and how far it got.
#[derive(Debug)]
pub(super) struct Aim {
    until: RecoveryTarget,
    /// The last position that the log was followed to.
    at: LogPosition,
    /// The last point that is or will be reached.
    pub(super) reached: LogPosition,
    pub(super) committed_at: Option<DateTime<Utc>>,
    pub(super) transactions: u64,
    /// Whether nothing more needs to be read.
    pub(super) is_reached: bool,
}

/// What a segment is to recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// It holds nothing that is needed.
    Skip,
    /// Its body is needed.
    Read,
    /// Its body is needed, and it begins another timeline at this position of the old one.
    Switch(LogPosition),
}

impl Aim {
    pub(super) fn new(until: RecoveryTarget, start: LogPosition) -> Result<Self> {
        let is_reached = match &until {
            RecoveryTarget::Consistent => true,
            RecoveryTarget::Position(position) if *position < start => {
                return Err(unreachable(position, &[&start])
                    .why("the position lies before this backup; an earlier backup reaches it"));
            }
            RecoveryTarget::Position(position) => *position == start,
            RecoveryTarget::Time(_) | RecoveryTarget::Latest => false,
        };
        let (at, reached) = (start.clone(), start);
        Ok(Self { until, at, reached, committed_at: None, transactions: 0, is_reached })
    }

    /// Follows the log over a segment.
    pub(super) fn follow(&mut self, head: &SegmentHead) -> Result<Use> {
        let (start, end) = (head.range.start(), head.range.end());
        let mut switched = None;
        if start.lineage == self.at.lineage {
            if *end <= self.at {
                return Ok(Use::Skip);
            }
            if self.at < *start {
                return Err(broken(&self.at));
            }
        } else if head.succeeds.as_ref() == Some(&self.at) {
            switched = Some(std::mem::replace(&mut self.at, start.clone()));
            self.reached = start.clone();
            self.is_reached = self.until == RecoveryTarget::Position(start.clone());
        } else {
            return Err(broken(&self.at));
        }
        let before = self.reached.clone();
        if !self.is_reached {
            self.choose(head)?;
        }
        let is_needed = !self.is_reached || self.reached != before;
        self.at = end.clone();
        Ok(match switched {
            Some(left) => Use::Switch(left),
            None if is_needed => Use::Read,
            None => Use::Skip,
        })
    }

    /// Finds the last point of the segment to go to.
    fn choose(&mut self, head: &SegmentHead) -> Result<()> {
        let (lineage, after) = (head.range.start(), self.at.offset);
        for event in head.events.iter().filter(|event| after < event.offset) {
            let position = lineage.at(event.offset);
            if self.is_past(event, &position) {
                self.is_reached = true;
                return self.refuse_between(&position);
            }
            self.reached = position;
            if event.what == LogEventKind::Commit {
                self.committed_at = Some(event.at);
                self.transactions += 1;
            }
            if self.until == RecoveryTarget::Position(self.reached.clone()) {
                self.is_reached = true;
                // Another event may end here, such as a drop by the commit.
                break;
            }
        }
        Ok(())
    }

    fn is_past(&self, event: &LogEvent, position: &LogPosition) -> bool {
        match &self.until {
            RecoveryTarget::Time(time) => event.what == LogEventKind::Commit && *time < event.at,
            RecoveryTarget::Position(target) => target < position,
            RecoveryTarget::Latest | RecoveryTarget::Consistent => false,
        }
    }

    fn refuse_between(&self, next: &LogPosition) -> Result<()> {
        match &self.until {
            RecoveryTarget::Position(target) if *target != self.reached => {
                Err(unreachable(target, &[&self.reached, next])
                    .why("no transaction ends at this position"))
            }
            _ => Ok(()),
        }
    }

    /// Says whether the log led there.
    pub(super) fn check_reached(&self) -> Result<()> {
        match &self.until {
            RecoveryTarget::Position(target) if *target != self.reached => {
                Err(Error::new(ErrorKind::Gap, code::UNREACHABLE_POINT, "replay WAL")
                    .with("asked", shown(target))
                    .with("last reachable", shown(&self.reached))
                    .why("the captured WAL ends before this position")
                    .next("stillpoint timeline lists the positions that can be reached"))
            }
            _ => Ok(()),
        }
    }
}

fn unreachable(target: &LogPosition, nearest: &[&LogPosition]) -> Error {
    let error = Error::new(ErrorKind::Invalid, code::UNREACHABLE_POINT, "replay WAL")
        .with("asked", shown(target))
        .next("stillpoint timeline lists the positions that can be reached");
    nearest.iter().fold(error, |error, near| error.with("nearest", shown(near)))
}

fn broken(at: &LogPosition) -> Error {
    Error::new(ErrorKind::Gap, code::UNREACHABLE_POINT, "replay WAL")
        .with("last reachable", shown(at))
        .why("the captured WAL does not continue from here")
}

fn shown(position: &LogPosition) -> String {
    let lsn = u64::try_from(position.offset).map_or_else(|_| "?".to_owned(), lsn_text);
    format!("{lsn} of {}", position.lineage.as_str())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use stillpoint_contract::LogRange;

    use super::*;

    fn at(text: &str) -> LogPosition {
        text.parse().unwrap()
    }

    fn head(start: &str, end: &str, succeeds: Option<&str>, commits: &[u128]) -> SegmentHead {
        let event = |offset: &u128| LogEvent {
            offset: *offset,
            at: DateTime::from_timestamp_micros(*offset as i64).unwrap(),
            what: LogEventKind::Commit,
        };
        SegmentHead {
            range: LogRange::new(at(start), at(end)).unwrap(),
            succeeds: succeeds.map(at),
            events: commits.iter().map(event).collect(),
            not_before: None,
            cursor: Bytes::new(),
            index: Bytes::new(),
        }
    }

    #[test]
    fn a_position_is_reached_exactly_or_refused() {
        let segments = [head("7/1:100", "7/1:200", None, &[120, 150])];
        let mut aim = Aim::new(RecoveryTarget::Position(at("7/1:150")), at("7/1:110")).unwrap();
        assert_eq!(aim.follow(&segments[0]).unwrap(), Use::Read);
        assert!(aim.is_reached && aim.transactions == 2);
        let mut aim = Aim::new(RecoveryTarget::Position(at("7/1:149")), at("7/1:110")).unwrap();
        assert_eq!(aim.follow(&segments[0]).unwrap_err().kind(), ErrorKind::Invalid);
        let mut aim = Aim::new(RecoveryTarget::Position(at("7/1:151")), at("7/1:110")).unwrap();
        aim.follow(&segments[0]).unwrap();
        assert_eq!(aim.check_reached().unwrap_err().kind(), ErrorKind::Gap);
        assert!(Aim::new(RecoveryTarget::Position(at("7/1:90")), at("7/1:110")).is_err());
    }

    #[test]
    fn a_time_is_after_the_last_commit_at_or_before_it() {
        let time = DateTime::from_timestamp_micros(150).unwrap();
        let mut aim = Aim::new(RecoveryTarget::Time(time), at("7/1:110")).unwrap();
        let next = head("7/1:100", "7/1:200", None, &[105, 120, 150, 151]);
        assert_eq!(aim.follow(&next).unwrap(), Use::Read);
        assert_eq!((aim.reached.offset, aim.transactions, aim.is_reached), (150, 2, true));
    }

    #[test]
    fn a_body_past_the_target_is_not_needed() {
        let time = DateTime::from_timestamp_micros(150).unwrap();
        let mut aim = Aim::new(RecoveryTarget::Time(time), at("7/1:100")).unwrap();
        aim.follow(&head("7/1:100", "7/1:200", None, &[150])).unwrap();
        let next = head("7/1:200", "7/1:300", None, &[250]);
        assert_eq!(aim.follow(&next).unwrap(), Use::Skip);
        assert!(aim.is_reached);
    }

    #[test]
    fn another_timeline_must_say_where_it_left_the_old_one() {
        let mut aim = Aim::new(RecoveryTarget::Latest, at("7/1:100")).unwrap();
        aim.follow(&head("7/1:100", "7/1:200", None, &[150])).unwrap();
        let next = head("7/2:200", "7/2:300", Some("7/1:200"), &[250]);
        assert_eq!(aim.follow(&next).unwrap(), Use::Switch(at("7/1:200")));
        assert_eq!(aim.reached, at("7/2:250"));
        let hole = head("7/2:301", "7/2:400", None, &[]);
        assert_eq!(aim.follow(&hole).unwrap_err().kind(), ErrorKind::Gap);
        let foreign = head("8/1:300", "8/1:400", None, &[]);
        assert_eq!(aim.follow(&foreign).unwrap_err().kind(), ErrorKind::Gap);
    }
}
