//! Retention that ends so long after something happened to somebody.

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;

use super::{civil::midnight, model::EventRule};

/// The subject of events that concern a database as a whole.
pub const WHOLE_DATABASE: &str = "database";

/// Something that was recorded about a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What, such as `relationship_end`.
    pub name: String,
    /// Whom it concerns.
    pub subject: String,
    /// On which day it happened; `None` withdraws what was recorded before.
    pub on: Option<NaiveDate>,
}

/// Until when something is kept because of an event, and whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventEnd {
    /// As long as nobody knows when it happened to this one, or to whom it has to happen.
    Unknown(String),
    /// Until the end of the day that is so long after it.
    Known {
        /// The subject whose event is the last.
        subject: String,
        /// The day of the event.
        on: NaiveDate,
        /// When it ends.
        end: DateTime<Utc>,
    },
}

impl EventRule {
    /// Until when something is kept that concerns `subjects`. Of several, the last one decides:
    /// what belongs to many cannot be taken away from one.
    ///
    /// `events` are in the order in which they were recorded; the last word on a subject counts.
    pub fn end(&self, subjects: &[String], events: &[Event], zone: Tz) -> EventEnd {
        let whole = [WHOLE_DATABASE.to_owned()];
        let subjects = if self.subject == WHOLE_DATABASE { &whole } else { subjects };
        let mut last: Option<EventEnd> = None;
        for subject in subjects {
            let is_about = |event: &&Event| event.name == self.event && event.subject == *subject;
            let Some(on) = events.iter().rev().find(is_about).and_then(|event| event.on) else {
                return EventEnd::Unknown(subject.clone());
            };
            let end = self.end_after(on, zone);
            if !matches!(&last, Some(EventEnd::Known { end: other, .. }) if end <= *other) {
                last = Some(EventEnd::Known { subject: subject.clone(), on, end });
            }
        }
        last.unwrap_or_else(|| EventEnd::Unknown(self.subject.clone()))
    }

    /// Until when something is kept of somebody to whom it happened on a day.
    pub fn end_after(&self, on: NaiveDate, zone: Tz) -> DateTime<Utc> {
        let last_day = self.after.after_date(on);
        midnight(zone, last_day.succ_opt().unwrap_or(last_day))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{
        civil::tests::berlin,
        model::{Period, PeriodUnit},
    };

    fn end(subjects: &[&str], events: &[(&str, &str)]) -> EventEnd {
        let rule = EventRule {
            after: Period { count: 7, unit: PeriodUnit::Years },
            event: "relationship_end".to_owned(),
            subject: "customer_id".to_owned(),
        };
        let event = |(subject, on): &(&str, &str)| Event {
            name: "relationship_end".to_owned(),
            subject: (*subject).to_owned(),
            on: on.parse().ok(),
        };
        let mut events: Vec<_> = events.iter().map(event).collect();
        events.push(Event { name: "birthday".to_owned(), ..event(&("4711", "1970-01-01")) });
        let subjects: Vec<_> = subjects.iter().map(|subject| (*subject).to_owned()).collect();
        rule.end(&subjects, &events, Tz::Europe__Berlin)
    }

    fn ends(subjects: &[&str], events: &[(&str, &str)]) -> DateTime<Utc> {
        match end(subjects, events) {
            EventEnd::Known { end, .. } => end,
            unknown @ EventEnd::Unknown(_) => panic!("{unknown:?}"),
        }
    }

    #[test]
    fn seven_years_after_an_event_end_with_the_day() {
        let at = |day: &str| berlin(&format!("{day}T00:00:00"));
        assert_eq!(ends(&["4711"], &[("4711", "2026-03-31")]), at("2033-04-01"));
        // There is no 29 February seven years later: 1 March still belongs to them.
        assert_eq!(ends(&["4711"], &[("4711", "2028-02-29")]), at("2035-03-02"));
    }

    #[test]
    fn what_is_unknown_or_withdrawn_is_kept() {
        let unknown = |subject: &str| EventEnd::Unknown(subject.to_owned());
        assert_eq!(end(&["4711"], &[]), unknown("4711"));
        assert_eq!(end(&["4711"], &[("4711", "2026-03-31"), ("4711", "")]), unknown("4711"));
        assert_eq!(end(&["4711", "12"], &[("4711", "2026-03-31")]), unknown("12"));
        assert_eq!(end(&[], &[("4711", "2026-03-31")]), unknown("customer_id"));
        let again = [("4711", "2026-03-31"), ("4711", ""), ("4711", "2026-04-30")];
        assert_eq!(ends(&["4711"], &again), berlin("2033-05-01T00:00:00"));
    }

    #[test]
    fn of_several_subjects_the_last_one_decides() {
        let events = [("4711", "2026-03-31"), ("12", "2027-06-30"), ("13", "2025-06-30")];
        let end = end(&["4711", "12", "13"], &events);
        assert!(matches!(end, EventEnd::Known { subject, .. } if subject == "12"));
    }
}
