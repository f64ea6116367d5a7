//! Subjects that are erased: taken out of files now, and again whenever they come back.
//!
//! What is written down of an erasure is a salted hash of the value, so that the list of the
//! erased does not say who they were.

use std::{collections::BTreeSet, sync::Arc};

use chrono::{DateTime, Utc};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use stillpoint_contract::{Column, Error, ErrorKind, Result, code, values};

use super::{
    document::{Batch, Plan, Slice},
    file::value_text,
    hold::held,
    place::Place,
    rewrite::{Keeps, rewrite},
    shelf::Shelf,
    shelve::{keep_slices, verified},
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    /// How many rows were taken out of files, of all tables.
    pub rows: u64,
    /// How many batches were written anew.
    pub batches: u64,
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
    if !member.table.columns.iter().any(|one| one.name == column) {
        let known: Vec<&str> = member.table.columns.iter().map(|one| &*one.name).collect();
        return Err(Error::new(ErrorKind::Missing, code::NO_SUCH_ARCHIVE, "find a column")
            .with("column", column)
            .with("columns", known.join(", ")));
    }
    held(place).await?.refuse(None)?;
    let mut salt = [0; 16];
    world.entropy.fill(&mut salt);
    let salt = HEXLOWER.encode(&salt);
    let erasure = Erasure {
        id: world.new_id(),
        table: member.table.name.clone(),
        column: column.to_owned(),
        subject: hash(&salt, value),
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
    for place in places {
        let shelf = Shelf::load(place).await?;
        for run in &shelf.runs {
            if holds.of_run(&run.plan.run) {
                continue;
            }
            let live = run.batches.values().filter(|one| one.is_there());
            for one in live {
                let rows = from_batch(place, world, &run.plan, &one.batch, &all).await?;
                erased.rows += rows;
                erased.batches += u64::from(rows > 0);
            }
        }
    }
    Ok(erased)
}

/// Which values of a column lead to rows that are erased.
#[derive(Clone, Debug, Default)]
struct Doomed {
    rows: u64,
    /// Rows of each table, by their places in the file.
    of_member: Vec<BTreeSet<u64>>,
}

async fn from_batch(
    place: &Place,
    world: &World,
    plan: &Plan,
    batch: &Batch,
    erasures: &[Erasure],
) -> Result<u64> {
    let doomed = doomed(place, world, plan, batch, erasures).await?;
    if doomed.rows == 0 {
        return Ok(0);
    }
    let rows = doomed.rows;
    // Rows come in the order of their file, each once.
    let seen: Vec<std::sync::atomic::AtomicU64> =
        batch.members.iter().map(|_| std::sync::atomic::AtomicU64::new(0)).collect();
    let keeps: Keeps = Arc::new(move |_: &Slice, member, _: &[u8]| {
        let at = seen[member].fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(!doomed.of_member[member].contains(&at))
    });
    let reason = ("a subject was erased", world.clock.now());
    rewrite(place, &world.cpu, plan, batch, batch.slices.clone(), &keeps, reason).await?;
    Ok(rows)
}

/// Finds the rows of subjects, and those that hang on them.
async fn doomed(
    place: &Place,
    world: &World,
    plan: &Plan,
    batch: &Batch,
    erasures: &[Erasure],
) -> Result<Doomed> {
    let mut doomed = Doomed::default();
    // What rows of later tables refer to, of each table: the texts of the columns.
    let mut keys: Vec<Vec<BTreeSet<Vec<String>>>> = Vec::new();
    for (number, member) in batch.members.iter().enumerate() {
        let planned = &plan.members[number];
        let at = |names: &[String]| -> Vec<usize> {
            let place = |name: &String| member.columns.iter().position(|one| one.name == *name);
            names.iter().filter_map(place).collect()
        };
        let subjects: Vec<(usize, Erasure)> = erasures
            .iter()
            .filter(|one| one.table == planned.table.name)
            .flat_map(|one| {
                at(std::slice::from_ref(&one.column)).into_iter().map(|place| (place, one.clone()))
            })
            .collect();
        // Which columns of this table others refer to, and which of its own refer.
        let offers: Vec<Vec<usize>> = plan
            .members
            .iter()
            .map(|other| match &other.link {
                Some(link) if link.parent == number => at(&link.parent_columns),
                _ => Vec::new(),
            })
            .collect();
        let parent = planned.link.as_ref().map(|link| {
            let gone = keys.get(link.parent).and_then(|of| of.get(number)).cloned();
            (at(&link.columns), gone.unwrap_or_default())
        });
        let mut found = BTreeSet::new();
        let mut offered = vec![BTreeSet::new(); plan.members.len()];
        if let Some(file) = &member.file {
            let bytes = verified(place, &world.cpu, file).await?;
            let (columns, format) = (member.columns.clone(), plan.format);
            let slices = batch.slices.clone();
            let work = move || {
                let mut row_number = 0;
                keep_slices(&bytes, &columns, format, &slices, number, |_, row| {
                    let values = values(row).collect::<Result<Vec<_>>>()?;
                    let of_subject = subjects.iter().any(|(place, erasure)| {
                        text(&columns, &values, *place).is_some_and(|text| erasure.is_of(&text))
                    });
                    let hangs = parent.as_ref().is_some_and(|(places, gone)| {
                        texts(&columns, &values, places).is_some_and(|key| gone.contains(&key))
                    });
                    if of_subject || hangs {
                        found.insert(row_number);
                        for (offered, places) in offered.iter_mut().zip(&offers) {
                            let key = texts(&columns, &values, places);
                            offered.extend(key.filter(|key| !key.is_empty()));
                        }
                    }
                    row_number += 1;
                    Ok(())
                })?;
                Ok::<_, Error>((found, offered))
            };
            (found, offered) = world.cpu.run(move |_| work()).await??;
        }
        doomed.rows += found.len() as u64;
        doomed.of_member.push(found);
        keys.push(offered);
    }
    Ok(doomed)
}

fn text(columns: &[Column], values: &[Option<&[u8]>], place: usize) -> Option<String> {
    let value = values.get(place).copied().flatten()?;
    value_text(&columns.get(place)?.kind, value)
}

fn texts(columns: &[Column], values: &[Option<&[u8]>], places: &[usize]) -> Option<Vec<String>> {
    places.iter().map(|place| text(columns, values, *place)).collect()
}
