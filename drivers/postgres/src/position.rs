//! Positions, and the timelines that they lie on.

use stillpoint_contract::{Error, Lineage, LogPosition, Result};

use crate::wire::lsn_from;

/// The longest history file that is read, in bytes.
const HISTORY_BYTES_MAX: usize = 1 << 20;

/// A point on a timeline of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) system: u64,
    pub(crate) timeline: u32,
    pub(crate) lsn: u64,
}

impl Place {
    /// Reads a position; `None` for one of another engine.
    pub(crate) fn of(position: &LogPosition) -> Option<Self> {
        let (system, timeline) = position.lineage.as_str().split_once('/')?;
        Some(Self {
            system: system.parse().ok()?,
            timeline: timeline.parse().ok().filter(|timeline| *timeline > 0)?,
            lsn: u64::try_from(position.offset).ok()?,
        })
    }

    pub(crate) fn position(self) -> Result<LogPosition> {
        let lineage = Lineage::new(format!("{}/{}", self.system, self.timeline))?;
        Ok(LogPosition { lineage, offset: u128::from(self.lsn) })
    }

    /// The same point, further on.
    pub(crate) fn at(self, lsn: u64) -> Self {
        Self { lsn, ..self }
    }
}

/// A position that must be one of ours.
pub(crate) fn place(position: &LogPosition) -> Result<Place> {
    Place::of(position).ok_or_else(|| Error::bug("read a position").with("position", position))
}

/// The timelines that lead to one, in order, each with the point where it was left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ancestry(Vec<(u32, u64)>);

impl Ancestry {
    /// Reads a history file; `None` if it is malformed.
    ///
    /// Source: <https://www.postgresql.org/docs/current/continuous-archiving.html>, timelines.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let text = text.get(..HISTORY_BYTES_MAX).unwrap_or(text);
        let mut entries: Vec<(u32, u64)> = Vec::new();
        for line in text.split(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(line);
            let mut fields = line.split_whitespace();
            let Some(first) = fields.next().filter(|field| !field.starts_with('#')) else {
                continue;
            };
            let entry = (first.parse().ok()?, lsn_from(fields.next()?)?);
            if entries.last().is_some_and(|last| last.0 >= entry.0 || last.1 > entry.1) {
                return None;
            }
            entries.push(entry);
        }
        Some(Self(entries))
    }

    /// Where `timeline` was left, if it is an ancestor.
    pub(crate) fn left_at(&self, timeline: u32) -> Option<u64> {
        self.0.iter().find(|(ancestor, _)| *ancestor == timeline).map(|(_, lsn)| *lsn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_survives_the_contract() {
        let place = Place { system: 7_388_120_011_467_391_044, timeline: 3, lsn: 0x16B_3748 };
        assert_eq!(Place::of(&place.position().unwrap()), Some(place));
        for foreign in ["a:1", "1/0:5", "1/2:18446744073709551616", "x/2:1"] {
            assert_eq!(Place::of(&foreign.parse().unwrap()), None, "{foreign}");
        }
    }

    #[test]
    fn a_history_file_tells_the_ancestors() {
        let text = b"# by hand\n1\t0/3000148\tno recovery target specified\n\n\
                     2\t1/A0\tbefore 2000-01-01 00:00:00+00\n";
        let ancestry = Ancestry::parse(text).unwrap();
        assert_eq!(ancestry.left_at(1), Some(0x300_0148));
        assert_eq!(ancestry.left_at(2), Some(0x1_0000_00A0));
        assert_eq!(ancestry.left_at(3), None);
        for bad in [&b"1 x\n"[..], b"1\n", b"2 0/1\n1 0/2\n", b"1 0/2\n2 0/1\n"] {
            assert_eq!(Ancestry::parse(bad), None);
        }
    }
}
