//! Rows of somebody, found in files with all that hangs on them, and taken out.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use stillpoint_contract::{Column, Error, ErrorKind, Result, code, values};

use super::{
    document::{Batch, BatchMember, Plan, Slice},
    file::value_text,
    garbage::Removed,
    meaning::Sense,
    names::{Names, Told},
    newest::IsNewest,
    place::Place,
    read::{Term, fits},
    rewrite::{Keeps, rewrite},
    shelf::Shelf,
    shelve::{keep_slices, verified},
};
use crate::world::World;

/// Whose rows are looked for.
#[derive(Clone)]
pub(super) struct Subject {
    /// The table whose rows are somebody's; the root where that is not said.
    pub(super) table: Option<String>,
    /// The column that says whose.
    pub(super) column: String,
    /// What tells that column from others.
    pub(super) told: Option<Told>,
    /// Whether a value of it is one of those.
    pub(super) is_one: Arc<dyn Fn(&str) -> bool + Send + Sync>,
}

impl Subject {
    /// The place of its table in a plan.
    fn member(&self, names: &Names, plan: &Plan) -> Option<usize> {
        let told = self.told.as_ref().and_then(|told| Names::table_of(plan, told));
        told.or_else(|| names.table(plan, self.table.as_deref()))
    }

    /// The place of its column among those of a file of a table.
    fn place(
        &self,
        names: &Names,
        plan: &Plan,
        (number, columns): (usize, &[Column]),
    ) -> Option<usize> {
        if self.member(names, plan) != Some(number) {
            return None;
        }
        match &self.told {
            Some(told) if plan.members[number].table.identity == told.identity => {
                names.placed(plan, number, columns, (&self.column, Some(told.column)))
            }
            _ => names.column(plan, number, columns, &self.column),
        }
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, column, .. } = self;
        f.debug_struct("Subject").field("table", table).field("column", column).finish()
    }
}

/// A subject as it is written down: nobody reads in it who that is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkedSubject {
    /// The table whose rows are the subject's.
    pub table: String,
    /// The column that says whose.
    pub column: String,
    /// What tells that column from others, should another one get its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Told>,
    /// Random bytes, as hexadecimal text.
    pub salt: String,
    /// The hash of the subject under that salt.
    pub subject: String,
}

impl MarkedSubject {
    /// Marks one, as the newest files of a set have tables and values.
    pub(super) fn new(
        place: &Place,
        shelf: &Shelf,
        world: &World,
        (table, column, value): (Option<&str>, &str, &str),
    ) -> Result<Self> {
        let told = Names::of(shelf).told(table, column);
        let (table, value) = meaning_of(place, shelf, (table, column, value))?;
        let mut salt = [0; 16];
        world.entropy.fill(&mut salt);
        let salt = HEXLOWER.encode(&salt);
        Ok(Self { subject: hash(&salt, &value), table, column: column.to_owned(), told, salt })
    }

    /// Whether a value, as [`meaning_of`] has it, is that subject.
    pub(super) fn is_of(&self, value: &str) -> bool {
        hash(&self.salt, value) == self.subject
    }

    /// What its rows are found by.
    pub(super) fn search(&self) -> Subject {
        let (table, column) = (Some(self.table.clone()), self.column.clone());
        let own = self.clone();
        let told = self.told.clone();
        Subject { table, column, told, is_one: Arc::new(move |value: &str| own.is_of(value)) }
    }
}

/// The complete name of a table of a set, and a value of one of its columns as rows say it.
///
/// # Errors
///
/// [`Missing`](ErrorKind::Missing) when nothing was archived, or there is no such table or column.
pub(super) fn meaning_of(
    place: &Place,
    shelf: &Shelf,
    (table, column, value): (Option<&str>, &str, &str),
) -> Result<(String, String)> {
    let Some(last) = shelf.runs.last() else {
        return Err(Error::new(ErrorKind::Missing, code::NO_SUCH_ARCHIVE, "find the set")
            .with("set", place.set())
            .with("place", place.location())
            .why("nothing was archived yet, and nobody knows the types of its columns")
            .next(format!("stillpoint archive run {} --keep-source", place.set())));
    };
    let names = Names::of(shelf);
    let name = match names.name(table) {
        Some(name) => name.to_owned(),
        None => last.plan.members[last.plan.member_of(table)?].table.name.clone(),
    };
    let column = names.known(table, column)?;
    let sense = Sense::of(column, &[], None);
    sense.admit(column, value, false)?;
    Ok((name, sense.meant(value)))
}

fn hash(salt: &str, value: &str) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("stillpoint 2026-11 v1 erased subject");
    hasher.update(salt.as_bytes());
    hasher.update(value.as_bytes());
    hasher.finalize().to_hex().to_string()
}

/// Whether a row of a member, with those columns, is one that is looked for.
pub(super) type Picks = Arc<dyn Fn(usize, &[Column], &[u8]) -> Result<bool> + Send + Sync>;

/// Rows that were found: those that are to go, or to be put back.
#[derive(Clone, Debug, Default)]
pub(super) struct Doomed {
    /// How many, of all tables.
    pub(super) rows: u64,
    /// Rows of each table, by their places in the file.
    of_member: Vec<BTreeSet<u64>>,
}

impl Doomed {
    /// Whether some of them are among others.
    pub(super) fn meets(&self, other: &Self) -> bool {
        self.of_member.iter().zip(&other.of_member).any(|(own, other)| !own.is_disjoint(other))
    }

    /// The places of a table's rows in its file.
    pub(super) fn of_member(&self, number: usize) -> BTreeSet<u64> {
        self.of_member.get(number).cloned().unwrap_or_default()
    }
}

/// A batch in which they are looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Searched<'a> {
    pub(super) place: &'a Place,
    pub(super) world: &'a World,
    pub(super) names: &'a Names,
    pub(super) plan: &'a Plan,
    pub(super) batch: &'a Batch,
}

impl Searched<'_> {
    /// Whether its file has rows of the subject's table, and not the column that says whose.
    pub(super) fn lacks(&self, subject: &Subject) -> bool {
        let Some(number) = subject.member(self.names, self.plan) else { return false };
        let member = &self.batch.members[number];
        let place = subject.place(self.names, self.plan, (number, &member.columns));
        member.file.is_some() && place.is_none()
    }

    /// Writes the batch anew without some rows.
    pub(super) async fn take_out(&self, doomed: Doomed, reason: &str) -> Result<Removed> {
        let Self { place, world, plan, batch, .. } = *self;
        // Rows come in the order of their file, each once.
        let seen: Vec<AtomicU64> = batch.members.iter().map(|_| AtomicU64::new(0)).collect();
        let keeps: Keeps = Arc::new(move |_: &Slice, member, _: &[u8]| {
            let at = seen[member].fetch_add(1, Ordering::Relaxed);
            Ok(!doomed.of_member[member].contains(&at))
        });
        let reason = (reason, world.clock.now());
        let slices = batch.slices.clone();
        let (_, removed) = rewrite(place, &world.cpu, plan, batch, slices, &keeps, reason).await?;
        Ok(removed)
    }

    /// Finds the rows of subjects, and those that hang on them.
    pub(super) async fn find(&self, subjects: &[Subject]) -> Result<Doomed> {
        let of_member = |(number, member): (usize, &BatchMember)| -> Vec<(usize, Subject)> {
            let (names, plan) = (self.names, self.plan);
            let placed = subjects.iter().filter_map(|one| {
                let place = one.place(names, plan, (number, &member.columns))?;
                Some((place, one.clone()))
            });
            placed.collect()
        };
        let subjects: Vec<_> = self.batch.members.iter().enumerate().map(of_member).collect();
        let planned = self.plan.members.iter().map(|member| member.table.columns.clone());
        let planned: Vec<Vec<Column>> = planned.collect();
        let picks: Picks = Arc::new(move |number, columns, row| {
            let subjects = &subjects[number];
            if subjects.is_empty() {
                return Ok(false);
            }
            let values = values(row).collect::<Result<Vec<_>>>()?;
            // Whoever was written down before a form was known is so as the file says it.
            let is_one = |(place, subject): &(usize, Subject)| {
                let said = said(columns, &values, *place);
                text((columns, &planned[number]), &values, *place)
                    .into_iter()
                    .chain(said)
                    .any(|text| (subject.is_one)(&text))
            };
            Ok(subjects.iter().any(is_one))
        });
        self.family(&picks).await
    }

    /// Finds rows of one table that are as conditions say, and those that hang on them.
    pub(super) async fn rows_of(&self, terms: &[Term], number: usize) -> Result<Doomed> {
        let columns = &self.batch.members[number].columns;
        let terms = self.names.places(self.plan, number, columns, terms);
        let planned = self.plan.members[number].table.columns.clone();
        let picks: Picks =
            Arc::new(
                move |of, columns, row| {
                    if of == number { fits(row, columns, &planned, &terms) } else { Ok(false) }
                },
            );
        self.family(&picks).await
    }

    /// The same, of rows of that table that are the newest with their keys.
    pub(super) async fn newest_of(
        &self,
        terms: &[Term],
        number: usize,
        is_newest: IsNewest,
    ) -> Result<Doomed> {
        let columns = &self.batch.members[number].columns;
        let terms = self.names.places(self.plan, number, columns, terms);
        let planned = self.plan.members[number].table.columns.clone();
        let is_newest = Mutex::new(is_newest);
        let picks: Picks = Arc::new(move |of, columns, row| {
            let fits = of == number && fits(row, columns, &planned, &terms)?;
            Ok(fits && is_newest.lock().unwrap_or_else(PoisonError::into_inner)(row)?)
        });
        self.family(&picks).await
    }

    /// Finds rows that are picked, and those that hang on them.
    pub(super) async fn family(&self, picks: &Picks) -> Result<Doomed> {
        let Self { place, world, plan, batch, .. } = *self;
        let mut doomed = Doomed::default();
        // What rows of later tables refer to, of each table: the texts of the columns.
        let mut keys: Vec<Vec<BTreeSet<Vec<String>>>> = Vec::new();
        for (number, member) in batch.members.iter().enumerate() {
            let planned = &plan.members[number];
            let at = |names: &[String]| -> Vec<usize> {
                let place = |name: &String| member.columns.iter().position(|one| one.name == *name);
                names.iter().filter_map(place).collect()
            };
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
                let (slices, picks) = (batch.slices.clone(), Arc::clone(picks));
                let known = planned.table.columns.clone();
                let work = move || {
                    let mut row_number = 0;
                    keep_slices(&bytes, &columns, format, &slices, number, |_, row| {
                        let values = values(row).collect::<Result<Vec<_>>>()?;
                        let hangs = parent.as_ref().is_some_and(|(places, gone)| {
                            texts((&columns, &known), &values, places)
                                .is_some_and(|key| gone.contains(&key))
                        });
                        if hangs || picks(number, &columns, row)? {
                            found.insert(row_number);
                            for (offered, places) in offered.iter_mut().zip(&offers) {
                                let key = texts((&columns, &known), &values, places);
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
}

fn text(
    (columns, planned): (&[Column], &[Column]),
    values: &[Option<&[u8]>],
    place: usize,
) -> Option<String> {
    let value = values.get(place).copied().flatten()?;
    let column = columns.get(place)?;
    let sense = Sense::of(column, planned, Some(value));
    Some(sense.meant(&value_text(&column.kind, value)?))
}

fn said(columns: &[Column], values: &[Option<&[u8]>], place: usize) -> Option<String> {
    value_text(&columns.get(place)?.kind, values.get(place).copied().flatten()?)
}

fn texts(
    columns: (&[Column], &[Column]),
    values: &[Option<&[u8]>],
    places: &[usize],
) -> Option<Vec<String>> {
    places.iter().map(|place| text(columns, values, *place)).collect()
}
