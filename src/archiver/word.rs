//! The last word of whoever worked on a set: how a run stopped, or why it rests. Whoever asks for a
//! set's status asks elsewhere, and later.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use stillpoint_contract::{Error, Result};

use super::{
    pace::{Cause, Rest, Turn},
    place::Place,
    run::{Archiving, RunReport},
};

/// Which are said of one place, and of no copy.
pub(super) const WORDS: &str = "last-word";

/// For how long the work rests before others hear of it, and how often they hear of another cause.
const HEARD_AFTER: Duration = Duration::from_secs(10);

/// How a run stopped, or why it rests, as a document: the newest one counts, and replaces those
/// before. Nothing but what people are told follows from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastWord {
    /// The run.
    pub run: String,
    /// In a word: how it stopped, as its report says (a scheduled one also `paused` or `rested`),
    /// or `failed`; or `resting`, or `working`.
    pub state: String,
    /// Of a rest, its cause in a word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// Since when, by the clock of whoever says it.
    pub since: DateTime<Utc>,
}

impl LastWord {
    /// Whether both say the same, whenever that began.
    fn says_as(&self, other: &Self) -> bool {
        (&self.run, &self.state, &self.cause, &self.why)
            == (&other.run, &other.state, &other.cause, &other.why)
    }
}

/// What was last said of a set's runs.
pub async fn last_word(place: &Place) -> Result<Option<LastWord>> {
    place.newest_notice(WORDS).await
}

/// What others hear while a run works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It rests, for so long already.
    Rests { cause: Cause, why: String, rested: Duration },
    /// It goes on.
    Works,
}

/// Whether the work rests, and what others heard of that.
#[derive(Debug, Default)]
pub(super) struct Rests {
    since: Option<Duration>,
    heard: Option<(Cause, Duration)>,
    /// Whether others heard that it works, or that it rests, and not just of an earlier process.
    has_spoken: bool,
    /// Since when something keeps it from work.
    kept: Option<Duration>,
    /// For what it rests, as the log says.
    logged: Option<Cause>,
}

impl Rests {
    /// What others are to hear now. That others get their turn after each transaction is no rest.
    pub(super) fn see(&mut self, turn: &Turn, now: Duration) -> Option<Heard> {
        match turn {
            // Why it stops is said at the end.
            Turn::Rest(Rest { cause: Cause::Nice, .. }) | Turn::Stop(_) => None,
            Turn::Rest(Rest { cause, why, .. }) => {
                let rested = now.saturating_sub(*self.since.get_or_insert(now));
                let is_known = self.heard.as_ref().is_some_and(|(heard, at)| {
                    heard == cause || now.saturating_sub(*at) < HEARD_AFTER
                });
                if is_known || rested < HEARD_AFTER {
                    return None;
                }
                self.heard = Some((cause.clone(), now));
                self.has_spoken = true;
                Some(Heard::Rests { cause: cause.clone(), why: why.clone(), rested })
            }
            Turn::Go => {
                self.since = None;
                let is_news = self.heard.take().is_some() || !self.has_spoken;
                self.has_spoken = true;
                is_news.then_some(Heard::Works)
            }
        }
    }
}

impl Rests {
    /// For how long something has kept it from work by now: its own pace does not.
    pub(super) fn kept(&mut self, turn: &Turn, now: Duration) -> Duration {
        match turn {
            // Nobody asked how the server fares.
            Turn::Rest(Rest { cause: Cause::Nice, .. }) => Duration::ZERO,
            Turn::Rest(Rest { cause, .. }) if !cause.is_pace() => {
                now.saturating_sub(*self.kept.get_or_insert(now))
            }
            _ => {
                self.kept = None;
                Duration::ZERO
            }
        }
    }

    /// Tells the log of a rest once, and of its end. Of a pause at once, since whoever began the
    /// run may wait for it; of what else keeps it from work when others hear of it.
    pub(super) fn log(&mut self, set: &str, turn: &Turn, heard: Option<&Heard>) {
        match turn {
            Turn::Rest(Rest { cause, why, .. }) if self.is_news(cause, heard) => {
                self.logged = Some(cause.clone());
                tracing::warn!(event = "archive.resting", set, cause = cause.word(), why);
            }
            Turn::Go if self.logged.take().is_some() => {
                tracing::warn!(event = "archive.working", set);
            }
            _ => {}
        }
    }

    fn is_news(&self, cause: &Cause, heard: Option<&Heard>) -> bool {
        let is_new = self.logged.as_ref() != Some(cause);
        let is_pause = matches!(cause, Cause::Paused { .. });
        is_new && (is_pause || heard.is_some() && !cause.is_pace())
    }
}

impl Archiving<'_> {
    /// Says how a run stopped; nothing where none was begun.
    pub(super) async fn say_stopped(&self, report: &RunReport, error: Option<&Error>) {
        let (state, why) = match error {
            Some(error) => {
                let why = error.reason().map(|why| format!(": {why}")).unwrap_or_default();
                ("failed", format!("{}: {error}{why}", error.code()))
            }
            None => (report.word(), report.words()),
        };
        self.say(report, state, (None, why), Duration::ZERO).await;
    }

    /// Says whether a run rests.
    pub(super) async fn say_heard(&self, report: &RunReport, heard: Heard) {
        let (state, why, ago) = match heard {
            Heard::Rests { cause, why, rested } => ("resting", (Some(cause), why), rested),
            Heard::Works => ("working", (None, String::new()), Duration::ZERO),
        };
        self.say(report, state, why, ago).await;
    }

    /// Leaves a word, unless it was the last one already: it is so since then. That it cannot be
    /// left keeps nobody from work.
    async fn say(
        &self,
        report: &RunReport,
        state: &str,
        (cause, why): (Option<Cause>, String),
        ago: Duration,
    ) {
        let Some(run) = report.run.clone() else { return };
        let now = self.world.clock.now();
        let since = TimeDelta::from_std(ago).ok().and_then(|ago| now.checked_sub_signed(ago));
        let word = LastWord {
            run,
            state: state.to_owned(),
            cause: cause.map(|cause| cause.word().to_owned()),
            why,
            since: since.unwrap_or(now),
        };
        let said = async {
            let known: Option<LastWord> = last_word(self.place).await?;
            let is_known = known.is_some_and(|known| known.says_as(&word));
            if is_known {
                Ok(())
            } else {
                self.place.replace_notice(self.world, WORDS, &word).await
            }
        };
        if let Err(error) = Box::pin(said).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                state,
                "how a run stands is written down nowhere"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest(cause: Cause) -> Turn {
        Turn::Rest(Rest::of(cause, Duration::from_secs(1)))
    }

    #[test]
    fn others_hear_of_a_rest_that_lasts_once_and_of_its_end() {
        let mut rests = Rests::default();
        let mut see = |turn: Turn, seconds| rests.see(&turn, Duration::from_secs(seconds));
        // Whatever an earlier process said.
        assert_eq!((see(Turn::Go, 0), see(Turn::Go, 0)), (Some(Heard::Works), None));
        assert_eq!((see(rest(Cause::Lag), 1), see(rest(Cause::Lag), 9)), (None, None));
        assert_eq!(see(Turn::Go, 10), None, "nobody had heard of it");
        assert_eq!((see(rest(Cause::Lag), 20), see(rest(Cause::Nice), 25)), (None, None));
        let (cause, why) = (Cause::Lag, Cause::Lag.to_string());
        let rested = Duration::from_secs(10);
        assert_eq!(see(rest(Cause::Lag), 30), Some(Heard::Rests { cause, why, rested }));
        assert_eq!(see(rest(Cause::Lag), 31), None);
        // Of causes that take turns, others hear now and then.
        assert_eq!(see(rest(Cause::Sessions), 32), None);
        let (cause, why) = (Cause::Sessions, Cause::Sessions.to_string());
        let rested = Duration::from_secs(20);
        assert_eq!(see(rest(Cause::Sessions), 40), Some(Heard::Rests { cause, why, rested }));
        assert_eq!((see(Turn::Go, 41), see(Turn::Go, 42)), (Some(Heard::Works), None));
    }

    #[test]
    fn what_keeps_a_run_from_work_is_no_pace_of_its_own() {
        let mut rests = Rests::default();
        let mut kept =
            |turn: Turn, seconds| rests.kept(&turn, Duration::from_secs(seconds)).as_secs();
        assert_eq!((kept(rest(Cause::Lag), 10), kept(rest(Cause::Sessions), 40)), (0, 30));
        // Others getting their turn tells nothing of the server.
        assert_eq!((kept(rest(Cause::Nice), 50), kept(rest(Cause::Lag), 60)), (0, 50));
        assert_eq!((kept(rest(Cause::DeadRowRate), 70), kept(rest(Cause::Lag), 80)), (0, 0));
        assert_eq!((kept(Turn::Go, 90), kept(rest(Cause::UnknownLag), 100)), (0, 0));
        assert_eq!(kept(rest(Cause::UnknownLag), 130), 30);
        // What others write is theirs.
        assert_eq!((kept(rest(Cause::LogRate), 140), kept(rest(Cause::LogOfOthers), 150)), (0, 0));
        assert_eq!(kept(rest(Cause::LogOfOthers), 450), 300);
    }

    #[test]
    fn the_log_hears_of_a_pause_at_once_and_of_no_rest_twice() {
        let mut rests = Rests::default();
        let mut log = |turn: &Turn, seconds| {
            let heard = rests.see(turn, Duration::from_secs(seconds));
            let before = rests.logged.clone();
            rests.log("orders", turn, heard.as_ref());
            before != rests.logged
        };
        let pause = rest(Cause::Paused { by: "dba".to_owned() });
        let (lag, rate, go) = (rest(Cause::Lag), rest(Cause::DeadRowRate), Turn::Go);
        assert!(log(&pause, 0) && !log(&pause, 1) && !log(&pause, 20));
        assert!(log(&go, 30) && !log(&go, 31));
        assert!(!log(&lag, 40) && log(&lag, 50) && !log(&lag, 61));
        assert!(log(&go, 70));
        // Its pace is nothing that somebody has to see.
        assert!(!log(&rate, 80) && !log(&rate, 99) && !log(&go, 100));
        let others = rest(Cause::LogOfOthers);
        assert!(!log(&others, 110) && log(&others, 120) && !log(&others, 130));
    }
}
