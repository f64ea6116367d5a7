//! Where in a database's history something happened.

use std::{cmp::Ordering, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, code};

/// One unbroken line of a database's change history, in the engine's own terms.
///
/// PostgreSQL's is system identifier and timeline, SQL Server's the recovery fork, MySQL's the
/// server uuid and binlog series, SQLite's one generation of the write-ahead log. A lineage ends
/// (failover, restore, `RESET MASTER`, restart of the WAL) and another may succeed it: then a
/// [`LogSegment`](crate::LogSegment) says from which position of the old one.
///
/// Invariant: 1 to 120 bytes of visible ASCII without `:`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Lineage(String);

impl Lineage {
    /// The longest name, in bytes.
    pub const LENGTH_BYTES_MAX: usize = 120;

    /// Names a lineage. The text is the driver's own; equality is all anyone else may ask of it.
    pub fn new(name: impl Into<String>) -> crate::Result<Self> {
        let name = name.into();
        let visible = |b: u8| b.is_ascii_graphic() && b != b':';
        if (1..=Self::LENGTH_BYTES_MAX).contains(&name.len()) && name.bytes().all(visible) {
            Ok(Self(name))
        } else {
            Err(Error::new(ErrorKind::Invalid, code::BAD_POINT, "name a lineage")
                .with("lineage", name))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Lineage {
    type Error = Error;

    fn try_from(name: String) -> Result<Self, Error> {
        Self::new(name)
    }
}

impl From<Lineage> for String {
    fn from(lineage: Lineage) -> Self {
        lineage.0
    }
}

/// A point in one lineage, in the engine's own units: the state after everything before it.
///
/// Positions of two lineages have no order, and asking for one is not an error: it is `None`.
/// Whoever compares positions must therefore say what happens when history has forked.
/// `u128` holds a PostgreSQL LSN, a binlog's file number and offset, SQL Server's ten-byte LSN and
/// SQLite's frame number. The text form is `lineage:offset`, also in stored objects, since JSON
/// readers lose the digits of large numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LogPosition {
    /// The history this point belongs to.
    pub lineage: Lineage,
    /// Offset within the lineage; larger is later. Never compared across lineages.
    pub offset: u128,
}

impl LogPosition {
    /// The point at `offset` of the same lineage.
    pub fn at(&self, offset: u128) -> Self {
        Self { lineage: self.lineage.clone(), offset }
    }
}

impl PartialOrd for LogPosition {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self.lineage == other.lineage).then(|| self.offset.cmp(&other.offset))
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.lineage.0, self.offset)
    }
}

impl FromStr for LogPosition {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || {
            Error::new(ErrorKind::Invalid, code::BAD_POINT, "read a position")
                .with("position", text)
                .next("a position looks as `stillpoint timeline` prints it: LINEAGE:OFFSET")
        };
        let (lineage, offset) = text.rsplit_once(':').ok_or_else(bad)?;
        let lineage = Lineage::new(lineage).map_err(|_| bad())?;
        Ok(Self { lineage, offset: offset.parse().map_err(|_| bad())? })
    }
}

impl TryFrom<String> for LogPosition {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<LogPosition> for String {
    fn from(position: LogPosition) -> Self {
        position.to_string()
    }
}

/// The half-open stretch of history `start..end`.
///
/// Invariant: `start <= end`, hence both ends lie in the same lineage.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Ends", into = "Ends")]
pub struct LogRange {
    start: LogPosition,
    end: LogPosition,
}

#[derive(Serialize, Deserialize)]
struct Ends {
    start: LogPosition,
    end: LogPosition,
}

impl TryFrom<Ends> for LogRange {
    type Error = Error;

    fn try_from(Ends { start, end }: Ends) -> Result<Self, Error> {
        Self::new(start, end).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, code::BROKEN_SEGMENT, "read a range of positions")
        })
    }
}

impl From<LogRange> for Ends {
    fn from(LogRange { start, end }: LogRange) -> Self {
        Self { start, end }
    }
}

impl LogRange {
    /// Joins two positions, or returns `None` when they do not lie in order on one lineage.
    pub fn new(start: LogPosition, end: LogPosition) -> Option<Self> {
        (start <= end).then_some(Self { start, end })
    }

    /// Whether `position` is the start, the end or between them.
    pub fn touches(&self, position: &LogPosition) -> bool {
        self.start <= *position && *position <= self.end
    }

    /// The first position inside the range.
    pub fn start(&self) -> &LogPosition {
        &self.start
    }

    /// The first position past the range.
    pub fn end(&self) -> &LogPosition {
        &self.end
    }
}

impl fmt::Debug for LogRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}..{}]", self.start.lineage.0, self.start.offset, self.end.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_of_two_lineages_have_no_order() {
        let at = |text: &str| text.parse::<LogPosition>().unwrap();
        assert!(at("a:1") < at("a:2"));
        assert_eq!(at("a:1").partial_cmp(&at("b:2")), None);
        assert_eq!(LogRange::new(at("a:2"), at("a:1")), None);
        assert_eq!(LogRange::new(at("a:1"), at("b:2")), None);
    }

    #[test]
    fn a_position_survives_its_text() {
        for text in ["tl1:0", "7388120011467391044/2:340282366920938463463374607431768211455"] {
            assert_eq!(text.parse::<LogPosition>().unwrap().to_string(), text);
        }
        for text in ["", ":1", "a:", "a:-1", "a b:1", "a:340282366920938463463374607431768211456"] {
            assert!(text.parse::<LogPosition>().is_err(), "{text}");
        }
    }
}
