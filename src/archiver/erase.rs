//! Subjects that are erased: taken out of files now, and again whenever they come back.
//!
//! What is written down of an erasure is a salted hash of the value, so that the list of the
//! erased does not say who they were.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    copy::follow,
    destination,
    garbage::{Removed, sweep},
    hold::held,
    meaning::meant,
    place::Place,
    shelf::Shelf,
    subject::{Searched, Subject},
};
use crate::world::World;

const NOTICES: &str = "erased";

/// An erasure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasure {
    /// Its id.
    pub id: String,
    /// The table whose rows are a subject's.
    pub table: String,
    /// The column that says whose.
    pub column: String,
    /// Random bytes, as hexadecimal text.
    pub salt: String,
    /// The hash of the subject under that salt.
    pub subject: String,
    /// Why.
    pub reason: String,
    /// Who.
    pub by: String,
    /// When, by the coordinator's clock.
    pub at: DateTime<Utc>,
}

impl Erasure {
    fn is_of(&self, value: &str) -> bool {
        hash(&self.salt, value) == self.subject
    }
}

fn hash(salt: &str, value: &str) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("stillpoint 2026-11 v1 erased subject");
    hasher.update(salt.as_bytes());
    hasher.update(value.as_bytes());
    hasher.finalize().to_hex().to_string()
}

/// What an erasure did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    /// How many rows were taken out of files, of all tables and at all places.
    pub rows: u64,
    /// How many batches were written anew, at all places.
    pub batches: u64,
    /// What became of the files before.
    pub removed: Removed,
}

/// Writes an erasure down, and takes the subject's rows out of all files.
///
/// # Errors
///
/// [`Refused`](ErrorKind::Refused) while somebody holds the set, or one of the files.
pub async fn erase(
    places: &[Place],
    world: &World,
    (table, column, value): (Option<&str>, &str, &str),
    (reason, by): (&str, &str),
) -> Result<Erased> {
    let Some(place) = places.first() else { return Err(Error::bug("erase nowhere")) };
    let shelf = Shelf::load(place).await?;
    let Some(last) = shelf.runs.last() else {
        return Err(Error::new(ErrorKind::Missing, code::NO_SUCH_ARCHIVE, "find the set")
            .with("set", place.set())
            .with("place", place.location()));
    };
    let member = &last.plan.members[last.plan.member_of(table)?];
    let Some(of) = member.table.columns.iter().find(|one| one.name == column) else {
        let known: Vec<&str> = member.table.columns.iter().map(|one| &*one.name).collect();
        return Err(Error::new(ErrorKind::Missing, code::NO_SUCH_ARCHIVE, "find a column")
            .with("column", column)
            .with("columns", known.join(", ")));
    };
    held(place).await?.refuse(None)?;
    destination::check(place, world).await?;
    let mut salt = [0; 16];
    world.entropy.fill(&mut salt);
    let salt = HEXLOWER.encode(&salt);
    let erasure = Erasure {
        id: world.new_id(),
        table: member.table.name.clone(),
        column: column.to_owned(),
        subject: hash(&salt, &meant(&of.kind, value)),
        salt,
        reason: reason.to_owned(),
        by: by.to_owned(),
        at: world.clock.now(),
    };
    // First the word, then the deed: killed in between, the next run does it.
    place.write_at(&place.notice(NOTICES, &erasure.id)?, &erasure).await?;
    replay(places, world).await
}

/// Takes out of all files what was erased, and came back: with a database that was restored to an
/// earlier time, its rows are archived again.
pub(super) async fn replay(places: &[Place], world: &World) -> Result<Erased> {
    let mut erased = Erased::default();
    let Some(place) = places.first() else { return Ok(erased) };
    let all: Vec<Erasure> = place.notices(NOTICES).await?;
    if all.is_empty() {
        return Ok(erased);
    }
    let holds = held(place).await?;
    let subjects: Vec<Subject> = all.iter().map(subject).collect();
    for (number, place) in places.iter().enumerate() {
        if number > 0 {
            let followed = follow(&places[0], place, &world.cpu, &holds).await?;
            erased.rows += followed.rows;
            erased.batches += followed.batches;
            erased.removed.add(followed.removed);
        }
        let shelf = Shelf::load(place).await?;
        for run in shelf.runs.iter().filter(|run| !holds.of_run(&run.plan.run)) {
            let live = run.batches.values().filter(|one| one.is_there());
            for one in live {
                let of = Searched { place, world, plan: &run.plan, batch: &one.batch };
                let doomed = of.find(&subjects).await?;
                if doomed.rows > 0 {
                    erased.rows += doomed.rows;
                    erased.batches += 1;
                    erased.removed.add(of.take_out(doomed, "a subject was erased").await?);
                }
            }
        }
        // What was interrupted between a new manifest and the end of the files before it.
        erased.removed.add(sweep(place, &Shelf::load(place).await?).await?);
    }
    Ok(erased)
}

fn subject(erasure: &Erasure) -> Subject {
    let (table, column) = (Some(erasure.table.clone()), erasure.column.clone());
    let erasure = erasure.clone();
    Subject { table, column, is_one: Arc::new(move |value: &str| erasure.is_of(value)) }
}
