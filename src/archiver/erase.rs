//! Subjects that are erased: taken out of files now, and again whenever they come back.
//!
//! What is written down of an erasure is a salted hash of the value, so that the list of the
//! erased does not say who they were.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use stillpoint_contract::{Error, ErrorKind, Finding, Partitioned, Result, Weight, code};

use super::{
    copy::follow,
    destination,
    document::Batch,
    garbage::{Removed, sweep},
    hold::{Going, Holds, held},
    names::Names,
    place::Place,
    prepare::Prepared,
    run::new_plan,
    shelf::Shelf,
    subject::{MarkedSubject, Searched, Subject, meaning_of},
    untold,
};
use crate::{policy::ArchiveRule, world::World};

const NOTICES: &str = "erased";
const REVOKED: &str = "erasures-revoked";
/// Which is said of one place, and of no copy.
pub(super) const REPLAYED: &str = "replayed";

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

/// That an erasure is over: rows that are archived from then on stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasureRevoked {
    /// The erasure.
    pub erasure: String,
    /// Why.
    pub reason: String,
    /// Who.
    pub by: String,
    /// When, by the coordinator's clock.
    pub at: DateTime<Utc>,
}

/// What an erasure did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    /// Its id; none where nothing was written down.
    pub id: Option<String>,
    /// How many rows were taken out of files, of all tables, at the first place.
    pub rows: u64,
    /// How many at the others: copies of rows.
    pub copied_rows: u64,
    /// How many stay at the first place for now, in batches that have held rows.
    pub held_rows: u64,
    /// How many batches were written anew, at all places.
    pub batches: u64,
    /// What became of the files before.
    pub removed: Removed,
    /// How many batches are as they were, since rows that would go are held; they go when the set
    /// is next worked on after that.
    pub held: u64,
    /// How many batches have no such column: rows of the subject may be in them, under another
    /// name of the column than the engine tells.
    pub unlike: u64,
}

impl Erased {
    /// Counts rows that are taken out at one of the places, of which the first one has number 0.
    fn count(&mut self, number: usize, rows: u64) {
        if number == 0 {
            self.rows += rows;
        } else {
            self.copied_rows += rows;
        }
    }

    /// Whether any row was found.
    pub fn has_any(&self) -> bool {
        self.rows + self.copied_rows + self.held_rows > 0
    }
}

/// How far an erasure goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Erasing {
    /// Only tell what it would do.
    Dry,
    /// Unless there is no such row.
    IfFound,
    /// Also if there is none yet: should one be archived later, it goes.
    Always,
}

/// Writes an erasure down, and takes the subject's rows out of all files.
///
/// # Errors
///
/// [`Refused`](ErrorKind::Refused) while somebody holds the set, or one of the files; and where
/// only the database knows what hangs on the subject's rows, in files or in those that come.
pub async fn erase(
    places: &[Place],
    world: &World,
    (table, column, value): (Option<&str>, &str, &str),
    (reason, by): (&str, &str),
    erasing: Erasing,
) -> Result<Erased> {
    let Some(place) = places.first() else { return Err(Error::bug("erase nowhere")) };
    let shelf = Shelf::load(place).await?;
    let holds = held(place).await?;
    if erasing != Erasing::Dry {
        holds.refuse(None)?;
        destination::check(place, world).await?;
    }
    let (name, sense) = meaning_of(place, &shelf, (table, column, value))?;
    if erasing != Erasing::Dry {
        holds.refuse_subject(&Names::of(&shelf), (&name, column), (sense, value))?;
    }
    let erasure = Erasure {
        id: place.new_notice(world, NOTICES).await?,
        subject: MarkedSubject::new(place, &shelf, world, (table, column, value))?,
        reason: reason.to_owned(),
        by: by.to_owned(),
        at: world.clock.now(),
    };
    refuse_untold(&shelf, &erasure.subject.search())?;
    let found = look(places, world, &erasure, &holds).await?;
    if erasing == Erasing::Dry {
        return Ok(found);
    }
    if erasing == Erasing::IfFound && !found.has_any() {
        // Whoever asks again since it was interrupted has the rest of it done.
        let removed = replay(places, world).await?.removed;
        return Ok(Erased { removed, ..found });
    }
    // First the word, then the deed: killed in between, the next run does it.
    place.write_at(&place.notice(NOTICES, &erasure.id)?, &erasure).await?;
    let mut erased = replay(places, world).await?;
    erased.unlike = found.unlike;
    Ok(Erased { id: Some(erasure.id), ..erased })
}

/// Refuses to erase whoever could not be erased again: of what is archived next, files would not
/// tell what hangs on the subject's rows.
fn refuse_untold(shelf: &Shelf, subject: &Subject) -> Result<()> {
    let names = Names::of(shelf);
    let begun = shelf.runs.iter().filter(|run| run.end.is_none());
    for run in begun.chain(shelf.runs.last()) {
        let of = subject.member(&names, &run.plan);
        if let Some(number) = of.and_then(|of| untold::below(&names, &run.plan, of)) {
            return Err(untold::no_subject(&run.plan, number));
        }
    }
    Ok(())
}

/// Adds to what is prepared that erasures speak against it: files would not tell what hangs on the
/// rows of whoever is erased, should they come back. Of a table with partitions, `prepared` is of
/// one of them, and `whole` is the table.
pub async fn heed_erasures(
    place: &Place,
    rule: &ArchiveRule,
    prepared: &mut Prepared,
    whole: Option<&Partitioned>,
) -> Result<()> {
    let mut plan = new_plan(rule, prepared, String::new(), prepared.at);
    // What is prepared now says by itself how the database compares.
    let own = Names::default();
    if untold::below(&own, &plan, 0).is_none() {
        return Ok(());
    }
    if let (Some(whole), Some(root)) = (whole, plan.members.first_mut()) {
        root.table.name.clone_from(&whole.name);
        root.table.identity.clone_from(&whole.identity);
    }
    let names = Names::of(&Shelf::load(place).await?);
    for (erasure, end) in erasures(place).await? {
        let of = erasure.subject.search().member(&names, &plan).filter(|_| end.is_none());
        let Some(number) = of.and_then(|of| untold::below(&own, &plan, of)) else { continue };
        let (table, id) = (&plan.members[number].table.name, &erasure.id);
        prepared.refuse_untold("somebody is erased, and may come back");
        prepared.findings.push(Finding {
            subject: "erasure",
            found: format!(
                "{id} takes somebody's rows out of files whenever they are archived, and files \
                 would not tell which of {table} hang on them"
            ),
            weight: Weight::Lacking,
            statement: Some(format!(
                "stillpoint archive erasure revoke {} {id} --reason TEXT",
                rule.name
            )),
        });
    }
    Ok(())
}

/// What an erasure would take out.
async fn look(places: &[Place], world: &World, erasure: &Erasure, holds: &Holds) -> Result<Erased> {
    let mut found = Erased::default();
    let subjects = [erasure.subject.search()];
    for (number, place) in places.iter().enumerate() {
        let shelf = Shelf::load(place).await?;
        let names = Names::of(&shelf);
        for run in &shelf.runs {
            let plan = &run.plan;
            for one in run.batches.values().filter(|one| one.is_there()) {
                let of = Searched { place, world, names: &names, plan, batch: &one.batch };
                found.unlike += u64::from(of.lacks(&subjects[0]));
                let doomed = of.find(&subjects).await?;
                if doomed.rows == 0 {
                    continue;
                }
                let is_held = holds.of_run(&plan.run) || doomed.meets(&holds.rows_in(&of).await?);
                if !is_held {
                    found.batches += 1;
                    found.count(number, doomed.rows);
                    continue;
                }
                found.held += 1;
                if number == 0 {
                    found.held_rows += doomed.rows;
                }
            }
        }
    }
    Ok(found)
}

/// The erasures of a set, oldest first, each with what ended it.
pub async fn erasures(place: &Place) -> Result<Vec<(Erasure, Option<ErasureRevoked>)>> {
    let revoked: Vec<ErasureRevoked> = place.notices(REVOKED).await?;
    let all: Vec<Erasure> = place.notices(NOTICES).await?;
    let with = |one: Erasure| {
        let end = revoked.iter().find(|end| end.erasure == one.id).cloned();
        (one, end)
    };
    Ok(all.into_iter().map(with).collect())
}

/// Ends an erasure: what is gone stays gone, and rows that are archived from then on stay.
///
/// # Errors
///
/// [`Missing`](ErrorKind::Missing) when there is no such erasure that is not revoked.
pub async fn revoke(
    place: &Place,
    world: &World,
    id: &str,
    (reason, by): (&str, &str),
) -> Result<ErasureRevoked> {
    let all = erasures(place).await?;
    let standing = all.iter().filter(|(_, end)| end.is_none()).map(|(one, _)| &*one.id);
    if !standing.clone().any(|one| one == id) {
        let known: Vec<&str> = standing.collect();
        return Err(Error::new(ErrorKind::Missing, code::NO_SUCH_ARCHIVE, "find an erasure")
            .with("erasure", id)
            .with("erasures", known.join(", ")));
    }
    let revoked = ErasureRevoked {
        erasure: id.to_owned(),
        reason: reason.to_owned(),
        by: by.to_owned(),
        at: world.clock.now(),
    };
    place.add_notice(world, REVOKED, &revoked).await?;
    Ok(revoked)
}

/// Which files were searched for the erased, as a document: the newest one counts, and replaces
/// those before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Replayed {
    /// For whom.
    erasures: BTreeSet<String>,
    /// The last batch of each run.
    runs: BTreeMap<String, u32>,
}

impl Replayed {
    fn has(&self, erasures: &BTreeSet<String>, batch: &Batch) -> bool {
        erasures.is_subset(&self.erasures)
            && self.runs.get(&batch.run).is_some_and(|last| batch.number <= *last)
    }
}

/// Takes out of all files what was erased, and came back: with a database that was restored to an
/// earlier time, its rows are archived again.
pub(super) async fn replay(places: &[Place], world: &World) -> Result<Erased> {
    let mut erased = Erased::default();
    let Some(place) = places.first() else { return Ok(erased) };
    let mut all = erasures(place).await?;
    all.retain(|(_, end)| end.is_none());
    if all.is_empty() {
        return Ok(erased);
    }
    let holds = held(place).await?;
    let subjects: Vec<Subject> = all.iter().map(|(one, _)| one.subject.search()).collect();
    let ids: BTreeSet<String> = all.into_iter().map(|(one, _)| one.id).collect();
    for (number, place) in places.iter().enumerate() {
        if number > 0 {
            let followed = follow(&places[0], place, world, &holds).await?;
            erased.count(number, followed.rows);
            erased.batches += followed.batches;
            erased.removed.add(followed.removed);
        }
        let shelf = Shelf::load(place).await?;
        let names = Names::of(&shelf);
        let before: Option<Replayed> = place.newest_notice(REPLAYED).await?;
        let before = before.unwrap_or_default();
        let mut searched = Replayed { erasures: ids.clone(), runs: BTreeMap::new() };
        let mut held_here = 0;
        for run in &shelf.runs {
            let live = run.batches.values().filter(|one| one.is_there());
            for one in live.filter(|one| !before.has(&ids, &one.batch)) {
                if holds.of_run(&run.plan.run) {
                    held_here += 1;
                    continue;
                }
                let (plan, batch) = (&run.plan, &one.batch);
                let of = Searched { place, world, names: &names, plan, batch };
                let doomed = of.find(&subjects).await?;
                if doomed.rows == 0 {
                    continue;
                }
                let mut going = Going::new(&places[0], of, Some(&doomed));
                let gone = going.take_out("a subject was erased", &mut erased.removed);
                if Box::pin(gone).await?.is_held {
                    held_here += 1;
                    erased.held += 1;
                    if number == 0 {
                        erased.held_rows += doomed.rows;
                    }
                } else {
                    erased.count(number, doomed.rows);
                    erased.batches += 1;
                }
            }
            if let Some(last) = run.batches.keys().next_back() {
                searched.runs.insert(run.plan.run.clone(), *last);
            }
        }
        // What was interrupted between a new manifest and the end of the files before it.
        erased.removed.add(sweep(place, &Shelf::load(place).await?).await?);
        if held_here == 0 && searched != before {
            place.replace_notice(world, REPLAYED, &searched).await?;
        }
    }
    Ok(erased)
}
