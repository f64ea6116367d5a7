//! Subjects that are erased: taken out of files now, and again whenever they come back.
//!
//! What is written down of an erasure is a salted hash of the value, so that the list of the
//! erased does not say who they were.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use stillpoint_contract::{Error, Result};

use super::{
    copy::follow,
    destination,
    garbage::{Removed, sweep},
    hold::held,
    place::Place,
    shelf::Shelf,
    subject::{MarkedSubject, Searched, Subject, meaning_of},
};
use crate::world::World;

const NOTICES: &str = "erased";

/// An erasure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasure {
    /// Its id.
    pub id: String,
    /// Who.
    #[serde(flatten)]
    pub subject: MarkedSubject,
    /// Why.
    pub reason: String,
    /// Who.
    pub by: String,
    /// When, by the coordinator's clock.
    pub at: DateTime<Utc>,
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
    /// How many batches are as they were, since rows that would go are held; they go when the set
    /// is next worked on after that.
    pub held: u64,
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
    let holds = held(place).await?;
    holds.refuse(None)?;
    destination::check(place, world).await?;
    let (name, meant) = meaning_of(place, &shelf, (table, column, value))?;
    holds.refuse_subject((&name, column, &meant))?;
    let erasure = Erasure {
        id: world.new_id(),
        subject: MarkedSubject::new(place, &shelf, world, (table, column, value))?,
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
    let subjects: Vec<Subject> = all.iter().map(|one| one.subject.search()).collect();
    let kept = holds.subjects();
    for (number, place) in places.iter().enumerate() {
        if number > 0 {
            let followed = follow(&places[0], place, world, &holds).await?;
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
                if doomed.rows == 0 {
                    continue;
                }
                if !kept.is_empty() && doomed.meets(&of.find(&kept).await?) {
                    erased.held += 1;
                } else {
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
