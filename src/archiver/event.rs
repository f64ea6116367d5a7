//! What happened to somebody, from which it counts how long their rows are kept.
//!
//! Whose event it is, is written down as a salted hash, so that the list of events does not say
//! who they were. All events of a set share a salt: rows are looked up among any number of them.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, NaiveDate, Utc};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{form::Forms, meaning::Sense, place::Place, shelf::Shelf};
use crate::world::World;

pub(super) const EVENTS: &str = "events";
pub(super) const WITHDRAWALS: &str = "withdrawn";
const SALTS: &str = "salts";
const SALT: &str = "subjects";

/// How many letters of an id are its time.
const ID_TIME: usize = 10;

/// Something that happened to a subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveEvent {
    /// Its id.
    pub id: String,
    /// What happened, as the policy calls it.
    pub event: String,
    /// The column of the root that says whose a row is.
    pub column: String,
    /// The hash of the subject under the set's salt.
    pub subject: String,
    /// Hashes of all that it may mean, where nobody knew the type of the column yet.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub forms: BTreeSet<String>,
    /// On which day it happened.
    pub on: NaiveDate,
    /// Why it was recorded.
    pub reason: String,
    /// Who.
    pub by: String,
    /// When, by the coordinator's clock.
    pub at: DateTime<Utc>,
}

/// That an event is taken back: the day is not known any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveWithdrawal {
    /// The event.
    pub event: String,
    /// Why.
    pub reason: String,
    /// Who.
    pub by: String,
    /// When, by the coordinator's clock.
    pub at: DateTime<Utc>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Salt {
    salt: String,
}

/// The events of a set that stand, oldest first.
pub async fn events(place: &Place) -> Result<Vec<ArchiveEvent>> {
    let withdrawn: Vec<ArchiveWithdrawal> = place.notices(WITHDRAWALS).await?;
    let mut events: Vec<ArchiveEvent> = place.notices(EVENTS).await?;
    events.retain(|event| withdrawn.iter().all(|one| one.event != event.id));
    events.sort_by(|one, other| order(one).cmp(&order(other)));
    Ok(events)
}

/// What events are sorted by: the time in their ids, which are behind those that were known. Ids
/// of one millisecond are older than that rule, and in no order.
fn order(event: &ArchiveEvent) -> (Option<&str>, DateTime<Utc>, &str) {
    (event.id.get(..ID_TIME), event.at, &event.id)
}

/// Records that something happened to a subject on some day. Of several days, the last one that
/// was recorded counts.
pub async fn record(
    place: &Place,
    world: &World,
    (event, column, value): (&str, &str, &str),
    on: NaiveDate,
    (reason, by): (&str, &str),
) -> Result<ArchiveEvent> {
    // As rows say it, whose columns are known once something was archived.
    let shelf = Shelf::load(place).await?;
    let root = shelf.runs.last().and_then(|run| run.plan.members.first());
    let of = root.and_then(|root| root.table.columns.iter().find(|one| one.name == column));
    let sense = of.map(|of| Sense::of(of, &[], None));
    if let (Some(of), Some(sense)) = (of, sense) {
        sense.admit(of, value, false)?;
    }
    let salt = salt(place, world).await?;
    let meant = sense.map_or_else(|| value.to_owned(), |sense| sense.meant(value));
    // As each type would have it, until there is one.
    let forms = Forms { salt: &salt, column };
    let forms = if sense.is_none() { forms.all(value) } else { BTreeSet::new() };
    let made = ArchiveEvent {
        id: place.new_notice(world, EVENTS).await?,
        event: event.to_owned(),
        column: column.to_owned(),
        subject: hash(&salt, column, &meant),
        forms,
        on,
        reason: reason.to_owned(),
        by: by.to_owned(),
        at: world.clock.now(),
    };
    place.write_at(&place.notice(EVENTS, &made.id)?, &made).await?;
    Ok(made)
}

/// Takes an event back.
///
/// # Errors
///
/// [`Missing`](ErrorKind::Missing) when there is none that begins so.
pub async fn withdraw(
    place: &Place,
    world: &World,
    id: &str,
    reason: &str,
    by: &str,
) -> Result<ArchiveEvent> {
    let events = events(place).await?;
    let fitting: Vec<&ArchiveEvent> =
        events.iter().filter(|event| !id.is_empty() && event.id.starts_with(id)).collect();
    let [event] = fitting.as_slice() else {
        let known: Vec<&str> = events.iter().map(|event| &*event.id).collect();
        return Err(Error::new(ErrorKind::Missing, code::NO_SUCH_EVENT, "find the event")
            .with("given", id)
            .with("events", known.join(", ")));
    };
    let withdrawal = ArchiveWithdrawal {
        event: event.id.clone(),
        reason: reason.to_owned(),
        by: by.to_owned(),
        at: world.clock.now(),
    };
    place.write_at(&place.notice(WITHDRAWALS, &event.id)?, &withdrawal).await?;
    Ok((*event).clone())
}

/// On which days something happened to whom.
#[derive(Clone, Debug, Default)]
pub(super) struct Days {
    salt: String,
    column: String,
    /// By the hashes of whom it happened to: which event said so last, and the day.
    by_subject: BTreeMap<String, (usize, NaiveDate)>,
}

impl Days {
    /// The days of one event, of subjects that one column names.
    pub(super) async fn of(place: &Place, event: &str, column: &str) -> Result<Self> {
        let of_event = |one: &ArchiveEvent| one.event == event && one.column == column;
        let found = events(place).await?.into_iter().filter(of_event);
        let mut by_subject = BTreeMap::new();
        for (number, one) in found.enumerate() {
            let hashes = one.forms.into_iter().chain([one.subject]);
            by_subject.extend(hashes.map(|hash| (hash, (number, one.on))));
        }
        let salt = if by_subject.is_empty() {
            String::new()
        } else {
            known_salt(place).await?.ok_or_else(|| {
                Error::new(ErrorKind::Corrupt, code::ARCHIVE_FILE, "read events of a set")
                    .with("set", place.set())
                    .why("the salt of their subjects is gone")
            })?
        };
        Ok(Self { salt, column: column.to_owned(), by_subject })
    }

    /// Whether something is so of any day.
    pub(super) fn any(&self, is_so: impl Fn(NaiveDate) -> bool) -> bool {
        self.by_subject.values().any(|(_, on)| is_so(*on))
    }

    /// The day of the subject that a value of a row is: of several, the one that was recorded last,
    /// however each of them was written.
    pub(super) fn of_value(&self, sense: Sense, said: &str) -> Option<NaiveDate> {
        let Self { salt, column, by_subject } = self;
        let hashes = [
            Forms { salt, column }.of(sense, said),
            hash(salt, column, &sense.meant(said)),
            hash(salt, column, said),
        ];
        let found = hashes.iter().filter_map(|hash| by_subject.get(hash));
        found.max_by_key(|(number, _)| *number).map(|(_, on)| *on)
    }
}

/// The salt of a set, made where there is none; whoever is first makes it.
async fn salt(place: &Place, world: &World) -> Result<String> {
    if let Some(salt) = known_salt(place).await? {
        return Ok(salt);
    }
    let mut random = [0; 16];
    world.entropy.fill(&mut random);
    let made = Salt { salt: HEXLOWER.encode(&random) };
    place.mark_at(&place.notice(SALTS, SALT)?, &made).await?;
    known_salt(place).await?.ok_or_else(|| {
        Error::new(ErrorKind::Transient, code::STORE_UNREACHABLE, "read what was just written")
            .with("place", place.location())
    })
}

async fn known_salt(place: &Place) -> Result<Option<String>> {
    let salt: Option<Salt> = place.read_at(&place.notice(SALTS, SALT)?).await?;
    Ok(salt.map(|salt| salt.salt))
}

fn hash(salt: &str, column: &str, value: &str) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("stillpoint 2026-11 v1 subject of an event");
    for part in [salt, column, value] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}
