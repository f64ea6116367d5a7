//! Who was told what, so that each alert is told once when it begins and once when it is over.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use super::alert::{Alert, Class, Urgency};

/// What tells an alert from others.
pub type AlertKey = (Class, String);

/// Alerts that were told and are not over.
///
/// It follows from nothing but itself and what is the matter now: written down after each step, it
/// survives a restart, and the same step taken twice tells nothing twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Board {
    open: BTreeMap<AlertKey, Told>,
}

/// An alert that was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Since when it lasts.
    pub since: DateTime<Utc>,
    /// How soon somebody had to know.
    pub urgency: Urgency,
    /// The cause that was told.
    pub cause: Option<String>,
}

/// One message: everything of one cause that began or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Something began.
    Raised {
        /// The cause that all share; without one, there is one alert.
        cause: Option<String>,
        /// How soon somebody has to know.
        urgency: Urgency,
        /// Whether it adds to what was told before with the same urgency: nobody is woken again.
        is_more: bool,
        /// What began.
        alerts: Vec<Alert>,
    },
    /// Something is over.
    Resolved {
        /// The cause that was told.
        cause: Option<String>,
        /// How many alerts of that cause are left.
        left: usize,
        /// What is over.
        alerts: Vec<(AlertKey, Told)>,
    },
}

impl Alert {
    /// What tells it from others.
    pub fn key(&self) -> AlertKey {
        (self.class, self.database.clone())
    }
}

impl Board {
    /// What was written down.
    pub fn new(open: impl IntoIterator<Item = (AlertKey, Told)>) -> Self {
        Self { open: open.into_iter().collect() }
    }

    /// What is to be written down.
    pub fn open(&self) -> impl Iterator<Item = (&AlertKey, &Told)> {
        self.open.iter()
    }

    /// Takes everything that is the matter now, and says what has to be told: first what is over,
    /// then what began, the most urgent first.
    ///
    /// What is muted is not told when it begins. It is not over, though, if it was told before.
    pub fn step(&mut self, current: &[Alert]) -> Vec<Message> {
        let lasting: BTreeSet<AlertKey> = current.iter().map(Alert::key).collect();
        let mut messages = self.resolve(&lasting);
        messages.extend(self.raise(current));
        messages
    }

    fn resolve(&mut self, lasting: &BTreeSet<AlertKey>) -> Vec<Message> {
        let mut over: BTreeMap<Group, Vec<(AlertKey, Told)>> = BTreeMap::new();
        let ended: Vec<_> = self.open.keys().filter(|key| !lasting.contains(key)).collect();
        for key in ended.into_iter().cloned().collect::<Vec<_>>() {
            if let Some(told) = self.open.remove(&key) {
                over.entry(group(told.cause.as_ref(), &key)).or_default().push((key, told));
            }
        }
        let resolved = over.into_iter().map(|((cause, _), alerts)| {
            let left = self.of_cause(cause.as_ref()).count();
            Message::Resolved { cause, left, alerts }
        });
        resolved.collect()
    }

    fn raise(&mut self, current: &[Alert]) -> Vec<Message> {
        let mut begun: BTreeMap<Group, Vec<Alert>> = BTreeMap::new();
        for alert in current {
            let key = alert.key();
            if alert.muted_until.is_none() && !self.open.contains_key(&key) {
                begun.entry(group(alert.cause.as_ref(), &key)).or_default().push(alert.clone());
            }
        }
        let mut raised = Vec::new();
        for ((cause, _), mut alerts) in begun {
            alerts.sort_by(|one, other| {
                other.urgency.cmp(&one.urgency).then_with(|| one.key().cmp(&other.key()))
            });
            let urgency = alerts.iter().map(|alert| alert.urgency).max();
            let urgency = urgency.unwrap_or(Urgency::Ticket);
            let is_more = self.of_cause(cause.as_ref()).any(|told| urgency <= told.urgency);
            for alert in &alerts {
                let Alert { since, urgency, cause, .. } = alert.clone();
                self.open.insert(alert.key(), Told { since, urgency, cause });
            }
            raised.push((urgency, Message::Raised { cause, urgency, is_more, alerts }));
        }
        raised.sort_by_key(|(urgency, _)| std::cmp::Reverse(*urgency));
        raised.into_iter().map(|(_, message)| message).collect()
    }

    /// What was told of a cause. Alerts without one have nothing in common.
    fn of_cause(&self, cause: Option<&String>) -> impl Iterator<Item = &Told> {
        self.open.values().filter(move |told| cause.is_some() && told.cause.as_ref() == cause)
    }
}

/// What belongs together: alerts of one cause, or one alert without.
type Group = (Option<String>, Option<AlertKey>);

fn group(cause: Option<&String>, key: &AlertKey) -> Group {
    (cause.cloned(), cause.is_none().then(|| key.clone()))
}

#[cfg(test)]
mod tests {
    use std::slice;

    use proptest::prelude::*;

    use super::*;
    use crate::policy::promise::tests::at;

    fn alert(class: Class, database: &str, cause: Option<&str>) -> Alert {
        Alert {
            class,
            database: database.to_owned(),
            urgency: if class == Class::CopyLag { Urgency::Ticket } else { Urgency::Page },
            since: at(0),
            what: String::new(),
            cause: cause.map(str::to_owned),
            muted_until: None,
        }
    }

    fn breach(database: &str, cause: Option<&str>) -> Alert {
        alert(Class::RpoBreached, database, cause)
    }

    /// As in `Page repo: a b`, with `+` for more of the same, and `-` for what is over.
    fn told(board: &mut Board, current: &[Alert]) -> Vec<String> {
        let message = |message: Message| match message {
            Message::Raised { cause, urgency, is_more, alerts } => {
                let names: Vec<_> = alerts.iter().map(|alert| alert.database.as_str()).collect();
                let more = if is_more { "+" } else { "" };
                format!("{more}{urgency:?} {}: {}", cause.unwrap_or_default(), names.join(" "))
            }
            Message::Resolved { cause, left, alerts } => {
                let names: Vec<_> = alerts.iter().map(|((_, name), _)| name.as_str()).collect();
                format!("-{} {left}: {}", cause.unwrap_or_default(), names.join(" "))
            }
        };
        board.step(current).into_iter().map(message).collect()
    }

    #[test]
    fn what_shares_a_cause_is_one_message() {
        let mut board = Board::default();
        let repo = |name| breach(name, Some("repo"));
        let lag = alert(Class::CopyLag, "c", Some("repo"));
        assert_eq!(told(&mut board, slice::from_ref(&lag)), ["Ticket repo: c"]);
        // More urgent than what was told, so it is told anew.
        assert_eq!(
            told(&mut board, &[lag, repo("b"), repo("a"), breach("x", None)]),
            ["Page : x", "Page repo: a b"]
        );
        assert_eq!(
            told(&mut board, &[repo("a"), repo("b"), repo("d"), breach("y", None)]),
            ["- 0: x", "-repo 2: c", "Page : y", "+Page repo: d"]
        );
        assert_eq!(told(&mut board, &[]), ["- 0: y", "-repo 0: a b d"]);
        assert_eq!(told(&mut board, &[repo("a")]), ["Page repo: a"]);
    }

    #[test]
    fn muted_alerts_are_not_told_and_not_over() {
        let mut board = Board::default();
        let muted = Alert { muted_until: Some(at(9)), ..breach("a", None) };
        assert_eq!(told(&mut board, slice::from_ref(&muted)), Vec::<String>::new());
        assert_eq!(told(&mut board, &[breach("a", None)]), ["Page : a"]);
        assert_eq!(told(&mut board, &[muted]), Vec::<String>::new());
        assert_eq!(told(&mut board, &[]), ["- 0: a"]);
    }

    fn state() -> impl Strategy<Value = Vec<Alert>> {
        let cause = proptest::sample::select(vec![None, Some("repo"), Some("net")]);
        let class = proptest::sample::select(vec![Class::RpoBreached, Class::CopyLag]);
        let one =
            ("[a-d]", class, cause).prop_map(|(name, class, cause)| alert(class, &name, cause));
        proptest::collection::vec(one, 0..8).prop_map(|mut all| {
            all.sort_by_key(Alert::key);
            all.dedup_by_key(|alert| alert.key());
            all
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn each_breach_is_told_once_and_resolved_once(
            steps in proptest::collection::vec((state(), any::<bool>()), 1..20),
        ) {
            let mut board = Board::default();
            let mut lasting: BTreeSet<AlertKey> = BTreeSet::new();
            for (current, is_restarted) in &steps {
                if *is_restarted {
                    board = Board::new(board.open().map(|(k, t)| (k.clone(), t.clone())));
                }
                let (mut raised, mut resolved) = (Vec::new(), Vec::new());
                for message in board.step(current) {
                    match message {
                        Message::Raised { alerts, .. } => {
                            raised.extend(alerts.iter().map(Alert::key));
                        }
                        Message::Resolved { alerts, .. } => {
                            resolved.extend(alerts.into_iter().map(|(key, _)| key));
                        }
                    }
                }
                let now: BTreeSet<_> = current.iter().map(Alert::key).collect();
                raised.sort();
                resolved.sort();
                prop_assert_eq!(raised, now.difference(&lasting).cloned().collect::<Vec<_>>());
                prop_assert_eq!(resolved, lasting.difference(&now).cloned().collect::<Vec<_>>());
                prop_assert_eq!(board.step(current), vec![]);
                lasting = now;
            }
        }

        #[test]
        fn one_cause_rings_once_until_it_is_over(
            steps in proptest::collection::vec(state(), 1..20),
        ) {
            let mut board = Board::default();
            let mut told: Vec<(AlertKey, String, Urgency)> = Vec::new();
            for message in steps.iter().flat_map(|current| board.step(current)) {
                match message {
                    Message::Resolved { cause: Some(cause), left, alerts } => {
                        told.retain(|(key, ..)| alerts.iter().all(|(over, _)| over != key));
                        let others = told.iter().filter(|(_, of, _)| *of == cause);
                        prop_assert_eq!(others.count(), left);
                    }
                    Message::Raised { cause: Some(cause), urgency, is_more, alerts } => {
                        let mut others = told.iter().filter(|(_, of, _)| *of == cause);
                        prop_assert_eq!(others.any(|(_, _, before)| urgency <= *before), is_more);
                        let new = alerts.iter().map(|a| (a.key(), cause.clone(), a.urgency));
                        told.extend(new);
                    }
                    Message::Resolved { cause: None, alerts, .. } => {
                        prop_assert_eq!(alerts.len(), 1);
                    }
                    Message::Raised { cause: None, alerts, is_more, .. } => {
                        prop_assert!(alerts.len() == 1 && !is_more);
                    }
                }
            }
        }
    }
}
