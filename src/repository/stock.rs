//! What there is of a database, as retention sees it: one source for whoever decides, shows or
//! acts, and the entries that add to it.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use chrono_tz::Tz;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    custody::{
        EVENTS_MAX, Ended, Event, HOLDS_MAX, Held, HeldPart, Hold, Recorded, Verified,
        WORDS_BYTES_MAX, shortened,
    },
    entry::{Action, Commit},
    handle::Repository,
    history::{Committed, History},
    names,
    verify::VerifyReport,
};
use crate::policy::{self, Anomaly, Keep, Proof, Rules, Sizes, State, WHOLE_DATABASE};

/// For so long, the same answer about a backup is not recorded again.
const PROOF_AGE_MAX: TimeDelta = TimeDelta::days(1);

/// What there is of one database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holdings {
    /// Its backups, in the order of their commits. Each brings the log that it needs along.
    pub backups: Vec<policy::Backup>,
    /// What was recorded about it or about every database, in that order.
    pub events: Vec<policy::Event>,
    /// What is held of it.
    pub holds: Vec<policy::Hold>,
    /// The same holds, as they were made.
    made: Vec<Held>,
}

/// What is to be held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldIntent {
    /// The database.
    pub database: String,
    /// In which case.
    pub case: String,
    /// What of it.
    pub of: HeldPart,
}

impl Holdings {
    /// As of some entry of the log.
    pub fn of(history: &History, database: &str) -> Self {
        let backups = history.live_of(database);
        let odd = anomalies_of(history, database);
        let made: Vec<Held> = history
            .holds()
            .filter(|hold| hold.released.is_none() && hold.held.database == database)
            .map(|hold| hold.held.clone())
            .collect();
        let events = history.events().iter().filter(|event| concerns(event, database));
        Self {
            backups: backups.map(|committed| backup(history, committed, &odd)).collect(),
            events: last_words(events),
            holds: made.iter().map(hold).collect(),
            made,
        }
    }

    /// Whom each of its backups concerns, where retention follows from events about somebody.
    #[must_use]
    pub fn about(mut self, subjects: &[String]) -> Self {
        for backup in &mut self.backups {
            backup.subjects = subjects.to_vec();
        }
        self
    }

    /// The form in which retention is decided.
    pub fn stock(&self, state: State) -> policy::Stock<'_> {
        let Self { backups, holds, events, .. } = self;
        policy::Stock { backups, holds, events, state }
    }

    /// From when on log is held, by the holds on stretches of time alone.
    pub fn held_log(&self) -> Option<DateTime<Utc>> {
        let keep = Keep::default();
        let rules = Rules { zone: Tz::UTC, keep: &keep, window: Duration::ZERO, floor: 1 };
        let stock = self.stock(State::default());
        rules.retain(&stock, DateTime::<Utc>::MIN_UTC).log.iter().map(|range| range.from).min()
    }

    /// The backups that are held, by id, and their holds.
    pub fn held(&self) -> BTreeMap<String, Vec<&Held>> {
        let held = self.stock(State::default()).held().into_iter();
        held.map(|(id, places)| (id, places.into_iter().map(|place| &self.made[place]).collect()))
            .collect()
    }
}

/// What is not like others among all backups of a database that were ever made, by their ids.
pub fn anomalies_of(history: &History, database: &str) -> BTreeMap<String, Anomaly> {
    let mut all: Vec<&Committed> = history.commits_of(database).collect();
    all.sort_by_key(|committed| (committed.commit.consistent_time, committed.made()));
    let mut odd = BTreeMap::new();
    for own in all.chunk_by(|one, other| one.commit.incarnation == other.commit.incarnation) {
        let sizes: Vec<Sizes> = own.iter().map(|committed| sizes(&committed.commit)).collect();
        let found = own.iter().zip(policy::anomalies(&sizes));
        odd.extend(found.filter_map(|(one, odd)| Some((one.commit.backup.clone(), odd?))));
    }
    odd
}

fn sizes(commit: &Commit) -> Sizes {
    let Commit { consistent_time, size_bytes, stored_bytes, .. } = *commit;
    Sizes { at: consistent_time, size_bytes, stored_bytes }
}

/// Whether a backup can be restored, as far as anybody knows.
pub fn proof_of(history: &History, backup: &str) -> Proof {
    match (history.fault(backup), history.proof(backup)) {
        (Some(_), _) => Proof::Suspect,
        (None, Some(_)) => Proof::Verified,
        (None, None) => Proof::Unverified,
    }
}

fn backup(
    history: &History,
    committed: &Committed,
    odd: &BTreeMap<String, Anomaly>,
) -> policy::Backup {
    let commit = &committed.commit;
    policy::Backup {
        id: commit.backup.clone(),
        at: commit.consistent_time,
        seq: committed.made(),
        proof: proof_of(history, &commit.backup),
        // What a backup needs to be consistent is among its parts.
        own_log: None,
        subjects: Vec::new(),
        is_acknowledged: false,
        is_odd: odd.get(&commit.backup).is_some_and(|anomaly| anomaly.oddity.is_loss()),
    }
}

fn hold(held: &Held) -> policy::Hold {
    let of = match &held.of {
        HeldPart::Backup(backup) => policy::Held::Backup(backup.clone()),
        HeldPart::Range { from, to } => policy::Held::Range { from: *from, to: *to },
    };
    policy::Hold { case: held.case.clone(), of }
}

fn concerns(event: &Event, database: &str) -> bool {
    event.recorded.database.as_ref().is_none_or(|own| own == database)
}

/// What is said today of each name and subject: the last word of whoever speaks of this database,
/// and of whoever speaks of all, of which the later day counts, and none if either is not known.
fn last_words<'a>(events: impl Iterator<Item = &'a Event>) -> Vec<policy::Event> {
    let mut last: BTreeMap<(&str, &str), BTreeMap<bool, policy::Event>> = BTreeMap::new();
    for event in events {
        let Recorded { name, subject, database, .. } = &event.recorded;
        let scopes = last.entry((name, subject)).or_default();
        scopes.insert(database.is_some(), word(event));
    }
    let counts = |scopes: BTreeMap<bool, policy::Event>| {
        scopes.into_values().min_by_key(|event| (event.on.is_some(), std::cmp::Reverse(event.on)))
    };
    last.into_values().filter_map(counts).collect()
}

/// What an event says today: one that was withdrawn says that the day is not known.
fn word(event: &Event) -> policy::Event {
    let Recorded { name, subject, on, .. } = &event.recorded;
    let on = event.withdrawn.is_none().then_some(*on);
    policy::Event { name: name.clone(), subject: subject.clone(), on }
}

impl Repository {
    /// What there is of a database, as retention sees it.
    pub async fn stock(&self, database: &str) -> Result<Holdings> {
        let history = self.history().await?;
        Ok(Holdings::of(&history, database))
    }

    /// Records what came of reading a backup back, every byte of it. The same answer again is
    /// recorded once a day. Says whether anything was recorded.
    pub async fn prove(&self, committed: &Committed, report: &VerifyReport) -> Result<bool> {
        let backup = &committed.commit.backup;
        let (at, problem) = (self.world.clock.now(), problem(report));
        let mut is_new = false;
        self.append(async |history| {
            let is_there = history.commit(backup).is_some_and(|known| !known.forgotten);
            let is_known = history.proof(backup).is_some_and(|known| {
                known.problem == problem && (at - known.at).abs() < PROOF_AGE_MAX
            });
            is_new = is_there && !is_known;
            let verified = Verified { backup: backup.clone(), at, problem: problem.clone() };
            Ok(is_new.then(|| Action::Verified(Box::new(verified))))
        })
        .await?;
        Ok(is_new)
    }

    /// Forbids to remove something, until [`release`](Self::release).
    ///
    /// # Errors
    ///
    /// [`Missing`](ErrorKind::Missing) when it is not there; a backup is named by its whole id.
    pub async fn hold(&self, intent: &HoldIntent, by: &str) -> Result<Held> {
        names::check_database(&intent.database)?;
        let HoldIntent { database, case, of } = intent;
        let held = Held {
            hold: self.new_id(),
            database: database.clone(),
            case: words("case", case)?,
            of: of.clone(),
            by: shortened(by),
        };
        if let HeldPart::Range { from, to: Some(to) } = of
            && to < from
        {
            return Err(Error::new(ErrorKind::Invalid, code::BAD_POINT, "hold a stretch of time")
                .with("from", from)
                .with("to", to)
                .why("it ends before it begins"));
        }
        self.append(async |history| {
            if history.holds().any(|hold| hold.held.hold == held.hold) {
                return Ok(None);
            }
            if history.holds().filter(|hold| hold.released.is_none()).count() >= HOLDS_MAX {
                return Err(Error::new(ErrorKind::Exhausted, code::HELD, "hold more")
                    .with("holds at most", HOLDS_MAX)
                    .next("stillpoint hold list"));
            }
            let is_own =
                |known: &Committed| !known.forgotten && known.commit.database == held.database;
            let is_there = match &held.of {
                HeldPart::Backup(backup) => history.commit(backup).is_some_and(is_own),
                HeldPart::Range { .. } => history.protects(&held.database),
            };
            if !is_there {
                let step = "find what is to be held";
                return Err(Error::new(ErrorKind::Missing, code::NO_SUCH_BACKUP, step)
                    .with("database", &held.database)
                    .next("stillpoint list"));
            }
            Ok(Some(Action::Held(Box::new(held.clone()))))
        })
        .await?;
        Ok(held)
    }

    /// Releases the hold whose id begins with `id`.
    ///
    /// # Errors
    ///
    /// [`Missing`](ErrorKind::Missing) when there is none, or it is released.
    pub async fn release(&self, id: &str, reason: &str, by: &str) -> Result<Held> {
        let (reason, by) = (words("reason", reason)?, shortened(by));
        let mut released = None;
        self.append(async |history| {
            let open = history.holds().filter(|hold| hold.released.is_none());
            let own = open.filter(|hold| begins(&hold.held.hold, id)).collect::<Vec<_>>();
            let [hold] = own.as_slice() else {
                return Err(Error::new(ErrorKind::Missing, code::NO_SUCH_HOLD, "find the hold")
                    .with("asked", id)
                    .with("matching", own.len())
                    .next("stillpoint hold list"));
            };
            let ended =
                Ended { id: hold.held.hold.clone(), reason: reason.clone(), by: by.clone() };
            released = Some(hold.held.clone());
            Ok(Some(Action::Released(Box::new(ended))))
        })
        .await?;
        released.ok_or_else(|| Error::bug("find the hold that was released"))
    }

    /// Every hold, of one database or of all, also released ones.
    pub async fn holds(&self, database: Option<&str>) -> Result<Vec<Hold>> {
        let history = self.history().await?;
        let is_wanted = |hold: &&Hold| database.is_none_or(|name| hold.held.database == name);
        Ok(history.holds().filter(is_wanted).cloned().collect())
    }

    /// Records that something happened to a subject on some day. It replaces what was recorded of
    /// the same before.
    pub async fn record_event(
        &self,
        database: Option<&str>,
        (name, subject): (&str, &str),
        on: NaiveDate,
        by: &str,
    ) -> Result<Recorded> {
        database.map_or(Ok(()), names::check_database)?;
        if database.is_none() && subject == WHOLE_DATABASE {
            let step = "record an event of a database";
            return Err(Error::new(ErrorKind::Invalid, code::NO_SUCH_DATABASE, step)
                .why("it is not said of which one; of all of them would be a mistake")
                .next("name it: --database DB"));
        }
        let recorded = Recorded {
            event: self.new_id(),
            database: database.map(str::to_owned),
            name: words("event", name)?,
            subject: words("subject", subject)?,
            on,
            by: shortened(by),
        };
        self.append(async |history| {
            if history.events().iter().any(|event| event.recorded.event == recorded.event) {
                return Ok(None);
            }
            if history.events().len() >= EVENTS_MAX {
                let step = "record another event";
                return Err(Error::new(ErrorKind::Exhausted, code::NO_SUCH_EVENT, step)
                    .with("events at most", EVENTS_MAX));
            }
            Ok(Some(Action::Event(Box::new(recorded.clone()))))
        })
        .await?;
        Ok(recorded)
    }

    /// Takes back the event whose id begins with `id`: when it happened is not known any more.
    ///
    /// # Errors
    ///
    /// [`Missing`](ErrorKind::Missing) when there is none, or it is withdrawn, or a newer one about
    /// the same stands in its place.
    pub async fn withdraw(&self, id: &str, reason: &str, by: &str) -> Result<Recorded> {
        let (reason, by) = (words("reason", reason)?, shortened(by));
        let mut withdrawn = None;
        self.append(async |history| {
            let standing = standing(history.events());
            let own = standing.iter().filter(|event| begins(&event.recorded.event, id));
            let own = own.collect::<Vec<_>>();
            let [event] = own.as_slice() else {
                return Err(Error::new(ErrorKind::Missing, code::NO_SUCH_EVENT, "find the event")
                    .with("asked", id)
                    .with("matching", own.len())
                    .next("stillpoint event list"));
            };
            let ended =
                Ended { id: event.recorded.event.clone(), reason: reason.clone(), by: by.clone() };
            withdrawn = Some(event.recorded.clone());
            Ok(Some(Action::Withdrawn(Box::new(ended))))
        })
        .await?;
        withdrawn.ok_or_else(|| Error::bug("find the event that was withdrawn"))
    }

    /// The events that stand, of one database or of all, in the order in which they were recorded.
    pub async fn events(&self, database: Option<&str>) -> Result<Vec<Event>> {
        let history = self.history().await?;
        let is_wanted = |event: &&&Event| database.is_none_or(|name| concerns(event, name));
        Ok(standing(history.events()).iter().filter(is_wanted).copied().cloned().collect())
    }
}

/// Events that are neither withdrawn nor replaced.
fn standing(events: &[Event]) -> Vec<&Event> {
    let mut newest = BTreeMap::new();
    for (place, event) in events.iter().enumerate() {
        let Recorded { database, name, subject, .. } = &event.recorded;
        newest.insert((database, name, subject), place);
    }
    let mut places: Vec<usize> = newest.into_values().collect();
    places.sort_unstable();
    let standing = places.into_iter().map(|place| &events[place]);
    standing.filter(|event| event.withdrawn.is_none()).collect()
}

fn begins(own: &str, asked: &str) -> bool {
    !asked.is_empty() && own.starts_with(&asked.to_ascii_uppercase())
}

/// What is wrong with a backup, in few words.
fn problem(report: &VerifyReport) -> Option<String> {
    let first = report.problems.first()?;
    let more = match report.problems.len() - 1 {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    Some(shortened(&format!("{}: {}{more}", first.object, first.what)))
}

/// What a person wrote, if it can be kept.
fn words(what: &'static str, text: &str) -> Result<String> {
    let is_good = (1..=WORDS_BYTES_MAX).contains(&text.len()) && !text.contains(char::is_control);
    if is_good {
        return Ok(text.to_owned());
    }
    Err(Error::new(ErrorKind::Invalid, code::BAD_NAME, format!("take the {what}"))
        .with("given", text.chars().take(80).collect::<String>().escape_debug())
        .with("allowed", "1 to 1,000 bytes without control characters"))
}
