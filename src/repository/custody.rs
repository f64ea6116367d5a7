//! What was proven about backups, what is held and what was recorded: as the log says it, folded.
//!
//! Retention rests on these facts, so they are where the backups are: whoever loses everything but
//! the repository loses no hold, no event and no proof.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};

use super::{entry::Drilled, shards::Shards};

/// The longest case, name, subject, reason or problem in an entry, in bytes.
pub const WORDS_BYTES_MAX: usize = 1_000;

/// The most holds that are open at once.
pub const HOLDS_MAX: usize = 10_000;

/// The most events that are recorded.
pub const EVENTS_MAX: usize = 100_000;

/// A backup was read back, every byte of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// The backup's id.
    pub backup: String,
    /// When that ended.
    pub at: DateTime<Utc>,
    /// What is wrong with it; nothing when it is as it was written.
    pub problem: Option<String>,
}

/// Somebody forbade to remove something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The hold's id, a ULID.
    pub hold: String,
    /// The database.
    pub database: String,
    /// In which case.
    pub case: String,
    /// What is held.
    pub of: HeldPart,
    /// Who did so, and where.
    pub by: String,
}

/// What a hold is on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldPart {
    /// One backup, by its id.
    Backup(String),
    /// Every point of a stretch, and what it takes to reach them.
    Range {
        /// The first.
        from: DateTime<Utc>,
        /// The last; without one, everything from the first on.
        to: Option<DateTime<Utc>>,
    },
}

/// Something happened from which retention counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// The event's id, a ULID.
    pub event: String,
    /// The database that it concerns; every one if there is none.
    pub database: Option<String>,
    /// What, such as `relationship_end`.
    pub name: String,
    /// To whom it happened.
    pub subject: String,
    /// On which day.
    pub on: NaiveDate,
    /// Who says so, and where.
    pub by: String,
}

/// Log of a database from before some time is needed no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trimmed {
    /// The database.
    pub database: String,
    /// No point is promised that takes log from before this to reach.
    pub before: DateTime<Utc>,
    /// Why.
    pub reason: String,
}

/// A hold was released, or an event taken back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The id of the hold or the event.
    pub id: String,
    /// Why.
    pub reason: String,
    /// Who did so, and where.
    pub by: String,
}

/// A hold, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// When it was made.
    pub at: DateTime<Utc>,
    /// What was held.
    pub held: Held,
    /// When and how it was released, if it was.
    pub released: Option<(DateTime<Utc>, Ended)>,
}

/// An event, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When it was recorded.
    pub at: DateTime<Utc>,
    /// What was recorded.
    pub recorded: Recorded,
    /// When and how it was withdrawn, if it was.
    pub withdrawn: Option<(DateTime<Utc>, Ended)>,
}

/// All of it, folded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Custody {
    /// The newest answer about each backup that was read back.
    proofs: Shards<Arc<Verified>>,
    /// Backups of which that answer says that stored bytes are wrong.
    suspects: Arc<BTreeSet<String>>,
    /// What a drill found damaged in backups, since none of them passed. Their stored bytes may be
    /// as they were written.
    doubts: Arc<BTreeMap<String, Doubt>>,
    holds: Arc<BTreeMap<String, Hold>>,
    /// In the order in which they were recorded.
    events: Arc<Vec<Event>>,
    /// Where each is, by its id.
    places: Arc<BTreeMap<String, usize>>,
    /// Of each database, from when on log is needed.
    trims: Arc<BTreeMap<String, DateTime<Utc>>>,
}

/// What a drill found damaged in a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Doubt {
    /// The drill.
    drill: String,
    /// What it found, for people.
    says: String,
}

/// What cannot be, in words.
type Impossible = &'static str;

impl Custody {
    pub(super) fn proof(&self, backup: &str) -> Option<&Verified> {
        self.proofs.get(backup).map(Arc::as_ref)
    }

    pub(super) fn holds(&self) -> impl Iterator<Item = &Hold> {
        self.holds.values()
    }

    pub(super) fn events(&self) -> &[Event] {
        &self.events
    }

    pub(super) fn trimmed(&self, database: &str) -> Option<DateTime<Utc>> {
        self.trims.get(database).copied()
    }

    pub(super) fn trim(&mut self, trimmed: &Trimmed) {
        Arc::make_mut(&mut self.trims).insert(trimmed.database.clone(), trimmed.before);
    }

    pub(super) fn suspects(&self) -> impl Iterator<Item = &str> {
        self.suspects.iter().map(String::as_str)
    }

    pub(super) fn doubt(&self, backup: &str) -> Option<&str> {
        self.doubts.get(backup).map(|doubt| doubt.says.as_str())
    }

    /// The backups that are in doubt, and the drill because of which each is.
    pub(super) fn doubts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.doubts.iter().map(|(backup, doubt)| (backup.as_str(), doubt.drill.as_str()))
    }

    /// A drill of a backup found damage, or none. Only one that passed takes a doubt away: bytes
    /// that are read back say nothing of what they mean.
    pub(super) fn drill(&mut self, drill: &Drilled) {
        let Some(backup) = &drill.backup else { return };
        if let Some(damage) = &drill.damage {
            let says = format!("drill {} found damage: {damage}", drill.drill);
            let doubt = Doubt { drill: drill.drill.clone(), says };
            Arc::make_mut(&mut self.doubts).insert(backup.clone(), doubt);
        } else if drill.passed && self.doubts.contains_key(backup) {
            Arc::make_mut(&mut self.doubts).remove(backup);
        }
    }

    pub(super) fn verify(&mut self, verified: &Verified) {
        let id = &verified.backup;
        if verified.problem.is_some() {
            Arc::make_mut(&mut self.suspects).insert(id.clone());
        } else if self.suspects.contains(id) {
            Arc::make_mut(&mut self.suspects).remove(id);
        }
        self.proofs.insert(&verified.backup, Arc::new(verified.clone()));
    }

    pub(super) fn hold(&mut self, at: DateTime<Utc>, held: &Held) -> Result<(), Impossible> {
        let hold = Hold { at, held: held.clone(), released: None };
        match Arc::make_mut(&mut self.holds).insert(held.hold.clone(), hold) {
            None => Ok(()),
            Some(_) => Err("a hold is made once"),
        }
    }

    pub(super) fn release(&mut self, at: DateTime<Utc>, ended: &Ended) -> Result<(), Impossible> {
        let hold = Arc::make_mut(&mut self.holds)
            .get_mut(&ended.id)
            .filter(|hold| hold.released.is_none());
        hold.ok_or("it releases what is not held")?.released = Some((at, ended.clone()));
        Ok(())
    }

    pub(super) fn record(
        &mut self,
        at: DateTime<Utc>,
        recorded: &Recorded,
    ) -> Result<(), Impossible> {
        let place = self.events.len();
        if Arc::make_mut(&mut self.places).insert(recorded.event.clone(), place).is_some() {
            return Err("an event is recorded once");
        }
        Arc::make_mut(&mut self.events).push(Event {
            at,
            recorded: recorded.clone(),
            withdrawn: None,
        });
        Ok(())
    }

    pub(super) fn withdraw(&mut self, at: DateTime<Utc>, ended: &Ended) -> Result<(), Impossible> {
        let events = Arc::make_mut(&mut self.events);
        let event = self.places.get(&ended.id).and_then(|place| events.get_mut(*place));
        let event = event.filter(|event| event.withdrawn.is_none());
        event.ok_or("it withdraws what does not stand")?.withdrawn = Some((at, ended.clone()));
        Ok(())
    }
}

/// As much of a text as an entry takes.
pub(super) fn shortened(text: &str) -> String {
    text[..text.floor_char_boundary(WORDS_BYTES_MAX)].to_owned()
}
