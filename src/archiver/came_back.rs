//! Rows of somebody who was erased, which a restore of the database brought back. No file has them
//! any more, so that nobody knows them but by what was written down of the erasure.

use std::collections::{BTreeMap, HashSet};

use async_trait::async_trait;
use stillpoint_contract::{Column, Key, KeyRange, Result, RowBatch, RowSink, Rows, values};

use super::{
    document::{Batch, Slice},
    erase::erasures,
    file::value_text,
    homes::Homes,
    names::{KeyColumn, Names},
    place::Place,
    reconcile::{Hidden, LiveSlice, ROWS_MAX, every_row, left_alone},
    shelf::{Shelf, Shelved, ShelvedBatch},
    subject::{Picks, Searched},
};
use crate::world::World;

/// How many keys are told of one erasure and table.
const KEYS_MAX: usize = 100;

/// Rows of a table that live again, of somebody who was erased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CameBack {
    /// The erasure.
    pub erasure: String,
    /// The table.
    pub table: String,
    /// How many; what hangs on them in other tables is not counted.
    pub rows: u64,
    /// The keys of the first ones; none where the table has no key.
    pub keys: Vec<String>,
}

/// Looks for rows of those who were erased, and whose erasures stand, where slices live again from
/// whose files rows were taken out. Elsewhere, theirs are rows that were never archived.
pub(super) async fn came_back(
    rows: &mut dyn Rows,
    (place, world): (&Place, &World),
    (shelf, homes): (&Shelf, &Homes),
    alive: &[LiveSlice],
) -> Result<Vec<CameBack>> {
    let mut standing = erasures(place).await?;
    standing.retain(|(_, end)| end.is_none());
    if standing.is_empty() || alive.is_empty() {
        return Ok(Vec::new());
    }
    let (names, alive) = (Names::of(shelf), Hidden::of(alive));
    let mut found = Found::default();
    for (plan, batch) in left_alone(shelf) {
        let lacks = |slice: &&Slice| alive.has_slice(batch, slice) && lacks_rows(slice);
        if !batch.slices.iter().any(|slice| lacks(&slice)) {
            continue;
        }
        let beside = neighbours(place, shelf.run(&plan.run)?, batch).await?;
        let Stretches { closed, open } =
            stretches(&place.known_bounds(batch).await?, &beside, lacks)?;
        let searched = Searched { place, world, names: &names, plan, batch };
        let sets = homes.sets(plan, batch);
        let sought = [(every_row(sets.clone()), closed), (sets, open)];
        for (number, member) in batch.members.iter().enumerate() {
            let of_table = standing.iter().filter_map(|(erasure, _)| {
                let subject = erasure.subject.search();
                let is_of_table = subject.member(&names, plan) == Some(number);
                is_of_table.then(|| (erasure.id.clone(), searched.picks(&[subject])))
            });
            let picks: Vec<(String, Picks)> = of_table.collect();
            if picks.is_empty() {
                continue;
            }
            let columns = &*member.columns;
            let key = names.key(plan, number, columns).unwrap_or_default();
            let table = &*plan.members[number].table.name;
            let found = &mut found;
            let mut looking = Looking { picks, number, table, columns, key, found };
            for (sets, ranges) in &sought {
                for range in ranges {
                    for set in sets {
                        let mut snapshot = rows.snapshot().await?;
                        if number == 0 {
                            snapshot.root(set, range, ROWS_MAX, &mut looking).await?;
                        } else {
                            snapshot.member(set, number, range, &mut looking).await?;
                        }
                    }
                }
            }
        }
    }
    Ok(found.0.into_values().map(|one| one.told).collect())
}

/// Where rows may be that were taken out of some slices of a batch.
#[derive(Debug, Default)]
struct Stretches {
    /// Between archived rows: all rows are looked at, also those that no policy selects any more.
    closed: Vec<KeyRange>,
    /// To the beginning or the end of the table: most rows there were never archived, and only
    /// those are looked at that the run's plan selects.
    open: Vec<KeyRange>,
}

/// Of a slice itself only the keys of rows that are left are known, so that others are between its
/// neighbours. The batches beside this one, whose keys are `before` and `behind`, are its
/// neighbours only where no rows were read again between them: a stretch with them is one more.
fn stretches(
    slices: &[Slice],
    (before, behind): &(Option<Key>, Option<Key>),
    lacks: impl Fn(&&Slice) -> bool,
) -> Result<Stretches> {
    let ranges = slices.iter().map(Slice::range).collect::<Result<Vec<_>>>()?;
    let ends = |range: &Option<KeyRange>| range.as_ref().and_then(|range| range.to.clone());
    let mut found = Stretches::default();
    for (at, _) in slices.iter().enumerate().filter(|(_, slice)| lacks(slice)) {
        let after = ranges[..at].iter().rev().find_map(ends);
        let to = ranges[at + 1..].iter().find_map(ends);
        if after.is_none() || to.is_none() {
            found.open.push(KeyRange { after: after.clone(), from: None, to: to.clone() });
            let first = after.as_ref().or(before.as_ref()).cloned();
            let last = to.as_ref().or(behind.as_ref()).cloned();
            if first.is_some() && last.is_some() {
                found.closed.push(KeyRange { after: first, from: None, to: last });
            }
        }
        let own = ranges[at].clone().unwrap_or_default();
        let between = KeyRange {
            from: own.from.filter(|_| after.is_none()),
            after: after.or(own.after),
            to: to.or(own.to),
        };
        if (between.after.is_some() || between.from.is_some()) && between.to.is_some() {
            found.closed.push(between);
        }
    }
    Ok(found)
}

/// With which keys slices of a run end: the last one in batches before one of them, and the first
/// one in those behind.
async fn neighbours(
    place: &Place,
    run: &Shelved,
    batch: &Batch,
) -> Result<(Option<Key>, Option<Key>)> {
    // Keys are written as the columns are.
    let is_alike = |one: &ShelvedBatch| {
        one.is_there() && one.batch.members[0].columns == batch.members[0].columns
    };
    let (mut before, mut behind) = (None, None);
    for (_, one) in run.batches.range(..batch.number).rev() {
        if before.is_none() && is_alike(one) {
            before = ends(place, &one.batch).await?.pop();
        }
    }
    for (_, one) in run.batches.range(batch.number + 1..) {
        if behind.is_none() && is_alike(one) {
            behind = ends(place, &one.batch).await?.into_iter().next();
        }
    }
    Ok((before, behind))
}

/// With which keys slices of a batch end, where that is known.
async fn ends(place: &Place, batch: &Batch) -> Result<Vec<Key>> {
    let slices = place.known_bounds(batch).await?;
    let ranges = slices.iter().map(Slice::range).collect::<Result<Vec<_>>>()?;
    Ok(ranges.into_iter().flatten().filter_map(|range| range.to).collect())
}

/// Whether rows were taken out of a slice's files since it was deleted.
fn lacks_rows(slice: &Slice) -> bool {
    slice.noted.as_ref().is_some_and(|noted| noted.rows > slice.rows())
}

/// What was found, by erasure and table.
#[derive(Default)]
struct Found(BTreeMap<(String, String), One>);

struct One {
    told: CameBack,
    /// Stretches of slices may have rows in common.
    seen: HashSet<blake3::Hash>,
}

impl Found {
    fn add(&mut self, erasure: &str, table: &str, (row, key): (&[u8], Option<String>)) {
        let (erasure, table) = (erasure.to_owned(), table.to_owned());
        let one = self.0.entry((erasure.clone(), table.clone())).or_insert_with(|| One {
            told: CameBack { erasure, table, rows: 0, keys: Vec::new() },
            seen: HashSet::new(),
        });
        if one.seen.insert(blake3::hash(row)) {
            one.told.rows += 1;
            let key = key.filter(|_| one.told.keys.len() < KEYS_MAX);
            one.told.keys.extend(key);
        }
    }
}

/// Looks for rows of the erased among those of a table.
struct Looking<'a> {
    /// Of each erasure, which rows are its subject's.
    picks: Vec<(String, Picks)>,
    number: usize,
    table: &'a str,
    columns: &'a [Column],
    key: Vec<KeyColumn>,
    found: &'a mut Found,
}

impl Looking<'_> {
    /// The key of a row, for people.
    fn key(&self, row: &[u8]) -> Result<Option<String>> {
        let values = values(row).collect::<Result<Vec<_>>>()?;
        let part = |one: &KeyColumn| {
            let value = values.get(one.place).copied().flatten()?;
            let said = value_text(&self.columns.get(one.place)?.kind, value)?;
            Some(format!("{}={said}", one.name))
        };
        let parts = self.key.iter().map(part).collect::<Option<Vec<String>>>();
        Ok(parts.map(|parts| parts.join(", ")).filter(|key| !key.is_empty()))
    }
}

#[async_trait]
impl RowSink for Looking<'_> {
    async fn put(&mut self, rows: RowBatch) -> Result<()> {
        for row in rows.rows() {
            for (erasure, picks) in &self.picks {
                if picks(self.number, self.columns, row)? {
                    let key = self.key(row)?;
                    self.found.add(erasure, self.table, (row, key));
                }
            }
        }
        Ok(())
    }
}
