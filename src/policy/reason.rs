//! Why something is done or left, in words: for people as they print themselves, for programs as a
//! code that stays the same.

use std::fmt;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::{
    civil::Stretch,
    due::{Skip, Waiting, Why},
    event::EventEnd,
    model::{EventRule, Period},
};

/// Why a backup is kept. Prints itself in a few words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is in the window.
    Window,
    /// Points at the beginning of the window are reached from it.
    WindowBase,
    /// It is one of the newest.
    Last {
        /// Which, from the newest on.
        rank: usize,
        /// Of how many.
        of: usize,
    },
    /// It is the first of a stretch of the calendar.
    First(Stretch),
    /// Every one is kept for so long.
    Every(Period),
    /// Something has not happened for long enough, or nobody knows.
    Event(EventRule, EventEnd),
    /// Whoever it was handed to has not confirmed to have it.
    Unacknowledged,
    /// It is one of the newest that were verified, which are never removed.
    Floor {
        /// Which, from the newest on.
        rank: usize,
        /// Of how many.
        of: usize,
    },
    /// It is all that is left of a retired database.
    Remains,
    /// None that was verified is newer.
    Unproven,
    /// What came after it was rewritten or is gone to a large part.
    BeforeChange,
    /// Somebody holds it.
    Held {
        /// In which case.
        case: String,
    },
}

/// Until when a backup is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// It is not, since then.
    Gone(DateTime<Utc>),
    /// Until this instant, whatever happens.
    Instant(DateTime<Utc>),
    /// Until newer ones stand for it, which is no sooner than this if it is known.
    Replaced(Option<DateTime<Utc>>),
    /// Until somebody says so.
    Told,
}

impl Reason {
    /// A word for programs, which stays the same.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Window => "window",
            Self::WindowBase => "window-base",
            Self::Last { .. } => "last",
            Self::First(stretch) => stretch.cycle().name(),
            Self::Every(_) => "every",
            Self::Event(..) => "event",
            Self::Unacknowledged => "unacknowledged",
            Self::Floor { .. } => "floor",
            Self::Remains => "remains",
            Self::Unproven => "unproven",
            Self::BeforeChange => "before-change",
            Self::Held { .. } => "held",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Window => f.write_str("in the PITR window"),
            Self::WindowBase => f.write_str("base of the PITR window"),
            Self::Last { rank, of } => write!(f, "last {rank} of {of}"),
            Self::First(stretch) => stretch.fmt(f),
            Self::Every(period) => write!(f, "every one for {period}"),
            Self::Event(EventRule { event, .. }, EventEnd::Unknown(subject)) => {
                write!(f, "{event} of {subject} is not known")
            }
            Self::Event(EventRule { event, after, .. }, EventEnd::Known { subject, on, .. }) => {
                write!(f, "{after} after {event} of {subject} on {on}")
            }
            Self::Unacknowledged => f.write_str("not acknowledged"),
            Self::Floor { rank, of } => write!(f, "floor {rank} of {of}"),
            Self::Remains => f.write_str("the last one of a retired database"),
            Self::Unproven => f.write_str("none that was verified is newer"),
            Self::BeforeChange => f.write_str("before a suspicious change"),
            Self::Held { case } => write!(f, "held: case {case}"),
        }
    }
}

/// The words of plain values: a code for programs, and what it means for people.
macro_rules! words {
    ($type:ident { $($value:ident: $code:literal, $meaning:literal;)* }) => {
        impl $type {
            /// A word for programs, which stays the same.
            pub fn code(self) -> &'static str {
                match self { $(Self::$value => $code,)* }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$value => $meaning,)* })
            }
        }
    };
}

words!(Skip {
    Retired: "retired", "the database is retired, or about to be";
    Paused: "paused", "the database was paused";
    Blackout: "blackout", "it was in a blackout, and is not made up for";
    TooOld: "too-old", "nothing could run then, and it is too long ago to be made up for";
    NoBackup: "no-backup", "there is no backup whose changes could be read";
});

words!(Why {
    Calendar: "calendar", "the calendar says so";
    CatchUp: "catch-up", "the calendar said so when nothing could run";
    Promise: "promise", "no calendar is given, and the promise demands it";
    First: "first", "there is no backup";
    Gap: "gap", "captured log joins no backup";
    Retry: "retry", "the last attempt did not end well";
});

words!(Waiting {
    Due: "due", "it is not due yet";
    Blackout: "blackout", "nothing is started in a blackout";
    Pause: "pause", "the database is paused";
    Running: "running", "another one runs";
    Backoff: "backoff", "it failed, and is tried again later";
    NoBackup: "no-backup", "there is no backup yet";
    Retired: "retired", "the database is retired, or about to be";
});

impl Until {
    /// The later of the two: a backup is kept as long as any reason lasts.
    pub(super) fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Told, _) | (_, Self::Told) => Self::Told,
            (Self::Gone(one), Self::Gone(two)) => Self::Gone(one.max(two)),
            (Self::Gone(_), kept) | (kept, Self::Gone(_)) => kept,
            (Self::Instant(one), Self::Instant(two)) => Self::Instant(one.max(two)),
            (Self::Replaced(one), Self::Replaced(two)) => Self::Replaced(one.max(two)),
            (Self::Replaced(one), Self::Instant(two))
            | (Self::Instant(two), Self::Replaced(one)) => Self::Replaced(one.max(Some(two))),
        }
    }

    /// As people of a zone say it.
    pub fn told(&self, zone: Tz) -> String {
        let shown =
            |at: &DateTime<Utc>| at.with_timezone(&zone).format("%Y-%m-%d %H:%M").to_string();
        match self {
            Self::Gone(since) => format!("may go since {}", shown(since)),
            Self::Instant(at) => format!("goes at {}", shown(at)),
            Self::Replaced(None) => "goes when newer ones stand for it".to_owned(),
            Self::Replaced(Some(at)) => {
                format!("goes when newer ones stand for it, not before {}", shown(at))
            }
            Self::Told => "goes when somebody says so".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::{
        civil::{Cycle, tests::berlin},
        model::PeriodUnit,
    };

    #[test]
    fn reasons_are_short() {
        let at = berlin("2026-11-26T12:00:00");
        let week = Stretch::of(Cycle::Weekly, at, Tz::Europe__Berlin);
        let rule = EventRule {
            after: Period { count: 7, unit: PeriodUnit::Years },
            event: "relationship_end".to_owned(),
            subject: "customer_id".to_owned(),
        };
        let on = "2026-03-31".parse().unwrap();
        let known = EventEnd::Known { subject: "4711".to_owned(), on, end: at };
        let unknown = EventEnd::Unknown("4711".to_owned());
        let reasons = [
            Reason::First(week),
            Reason::Floor { rank: 2, of: 3 },
            Reason::Held { case: "LEG-2231".to_owned() },
            Reason::Every(Period { count: 1, unit: PeriodUnit::Days }),
            Reason::Event(rule.clone(), known),
            Reason::Event(rule, unknown),
        ];
        assert_eq!(
            reasons.map(|reason| format!("{}: {reason}", reason.code())),
            [
                "weekly: weekly 2026-W48",
                "floor: floor 2 of 3",
                "held: held: case LEG-2231",
                "every: every one for 1 day",
                "event: 7 years after relationship_end of 4711 on 2026-03-31",
                "event: relationship_end of 4711 is not known",
            ]
        );
        assert_eq!(
            format!("{}: {}", Skip::TooOld.code(), Skip::TooOld),
            "too-old: nothing could run then, and it is too long ago to be made up for"
        );
        assert_eq!(
            Until::Replaced(Some(at)).told(Tz::Europe__Berlin),
            "goes when newer ones stand for it, not before 2026-11-26 12:00"
        );
    }

    fn until() -> impl Strategy<Value = Until> {
        let at = (0..9i64).prop_map(|second| DateTime::from_timestamp(second, 0).unwrap());
        prop_oneof![
            at.clone().prop_map(Until::Gone),
            at.clone().prop_map(Until::Instant),
            proptest::option::of(at).prop_map(Until::Replaced),
            Just(Until::Told),
        ]
    }

    proptest! {
        #[test]
        fn the_order_of_reasons_does_not_matter(a in until(), b in until(), c in until()) {
            prop_assert_eq!(a.or(b), b.or(a));
            prop_assert_eq!(a.or(b).or(c), a.or(b.or(c)));
            prop_assert_eq!(a.or(a), a);
        }
    }
}
