//! Of archived rows that have one key, the one of the newest batch.
//!
//! A row that was put back, changed and archived again is in files of several batches, of one run
//! where that had not ended, else of several. Which batch has it last is found out for rows of some
//! batches at once, so that their keys fit into memory: files of newer batches are read for them,
//! where they may have such keys at all. In one batch, no two rows of a table have the same key.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use stillpoint_contract::{Alike, Column, Kind, Result, values};

use super::{file::value_text, meaning::Sense, names::Names, place::Place, read::Visible};
use crate::pipeline::cpu::CpuPool;

/// Batches are added until there are so many keys.
const KEYS_MAX: usize = 3_000_000;

/// Says of a row whether no newer batch has one with its key.
pub(super) type IsNewest = Box<dyn Fn(&[u8]) -> Result<bool> + Send>;

/// A value of a key, in an order of our own: any one tells stretches apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Number(i128),
    /// With its class, where each value says its own.
    Text(u8, String),
}

impl Part {
    fn of(sense: Sense, class: u8, text: String) -> Self {
        let is_number = matches!(sense, Sense::Number | Sense::Mixed);
        let number = if is_number { text.parse().ok() } else { None };
        number.map_or(Self::Text(class, text), Self::Number)
    }
}

/// How keys of the rows of a file are read, whatever form they have there.
#[derive(Debug)]
pub(super) struct Keyed {
    /// What the table, and the columns of its key, are called now.
    of: String,
    columns: Vec<Column>,
    planned: Vec<Column>,
    /// Where they are, and which texts each of them takes for one.
    places: Vec<(usize, Alike)>,
}

impl Keyed {
    /// `None` where there is no file, or no key.
    pub(super) fn of(names: &Names, visible: &Visible<'_>, number: usize) -> Option<Self> {
        let (plan, member) = (visible.plan, visible.batch.members.get(number)?);
        let planned = &plan.members.get(number)?.table;
        if member.file.is_none() || planned.key.is_empty() {
            return None;
        }
        let key = names.key(plan, number, &member.columns)?;
        let table = names.table_now(plan, number);
        let called: Vec<&str> = key.iter().map(|one| &*one.name).collect();
        let of = format!("{table} {called:?}");
        let places = key.iter().map(|one| (one.place, one.alike)).collect();
        let columns = member.columns.clone();
        Some(Self { of, columns, planned: planned.columns.clone(), places })
    }

    /// The key of a row; none where a value of it is NULL, which is like no other one.
    pub(super) fn parts(&self, row: &[u8]) -> Result<Option<Vec<Part>>> {
        let values = values(row).collect::<Result<Vec<_>>>()?;
        let part = |(place, alike): &(usize, Alike)| {
            let value = values.get(*place).copied().flatten()?;
            let column = self.columns.get(*place)?;
            let sense = Sense::of(column, &self.planned, Some(value));
            let says_class = matches!(column.kind, Kind::Dynamic { .. });
            let class = value.first().copied().filter(|_| says_class).unwrap_or_default();
            let value = if says_class { alike.form_of(value) } else { Cow::Borrowed(value) };
            Some(Part::of(sense, class, sense.meant(&value_text(&column.kind, &value)?)))
        };
        Ok(self.places.iter().map(part).collect())
    }

    pub(super) fn hash(&self, parts: &[Part]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new();
        let mut add = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        add(self.of.as_bytes());
        for part in parts {
            match part {
                Part::Number(number) => {
                    add(&[]);
                    add(&number.to_le_bytes());
                }
                Part::Text(class, text) => {
                    add(&[*class]);
                    add(text.as_bytes());
                }
            }
        }
        *hasher.finalize().as_bytes().first_chunk().expect("there are 32")
    }
}

/// Between which keys rows of a file are.
#[derive(Clone, Debug)]
struct Extent {
    least: Vec<Part>,
    most: Vec<Part>,
}

impl Extent {
    fn add(extent: &mut Option<Self>, key: Vec<Part>) {
        match extent {
            None => *extent = Some(Self { least: key.clone(), most: key }),
            Some(own) if key < own.least => own.least = key,
            Some(own) if key > own.most => own.most = key,
            Some(_) => {}
        }
    }

    fn meets(&self, other: &Self) -> bool {
        self.least <= other.most && other.least <= self.most
    }
}

/// Keys of rows of some batches, of which newer ones may have others.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// By the hash of a key: the place of the newest batch that has it.
    newest: HashMap<[u8; 16], u32>,
    /// By what they are keys of: between which they are, in each file.
    extents: BTreeMap<String, Vec<Extent>>,
    /// The place of the oldest batch that they come from.
    oldest: Option<usize>,
    /// Files of which all keys are there, by the places of batch and table.
    whole: BTreeSet<(usize, usize)>,
}

impl Keys {
    /// Whether there are as many as are kept at once.
    pub(super) fn is_full(&self) -> bool {
        self.newest.len() >= KEYS_MAX
    }
}

/// Which of the rows that readers see are the newest ones with their keys.
#[derive(Debug)]
pub(super) struct Newest<'a> {
    place: &'a Place,
    cpu: &'a CpuPool,
    /// Those batches, oldest first: in the order of runs, and of their numbers in each.
    all: &'a [Visible<'a>],
    /// Of each of them, how keys of each table are read.
    keyed: Vec<Vec<Option<Arc<Keyed>>>>,
    /// Whether it is worth while to find out between which keys rows of files are: not for a few.
    measures: bool,
    /// What was found of that.
    extents: BTreeMap<(usize, usize), Option<Extent>>,
}

impl<'a> Newest<'a> {
    pub(super) fn new(
        (place, cpu): (&'a Place, &'a CpuPool),
        names: &Names,
        all: &'a [Visible<'a>],
        measures: bool,
    ) -> Self {
        let keyed = |one: &Visible<'_>| -> Vec<Option<Arc<Keyed>>> {
            let numbers = 0..one.batch.members.len();
            numbers.map(|number| Keyed::of(names, one, number).map(Arc::new)).collect()
        };
        let keyed = all.iter().map(keyed).collect();
        Self { place, cpu, all, keyed, measures, extents: BTreeMap::new() }
    }

    /// The places of batches, the newest first. What refers to a row of a newer one may be in an
    /// older one, and not the other way round: it had to go first.
    pub(super) fn order(&self) -> Vec<usize> {
        (0..self.all.len()).rev().collect()
    }

    /// Adds keys of a batch's rows of one table, those at some places or all of them.
    pub(super) async fn collect(
        &mut self,
        keys: Keys,
        (at, number): (usize, usize),
        picked: Option<BTreeSet<u64>>,
    ) -> Result<Keys> {
        let is_none = picked.as_ref().is_some_and(BTreeSet::is_empty);
        let Some(keyed) = self.keyed[at][number].clone().filter(|_| !is_none) else {
            return Ok(keys);
        };
        if !self.may_be_newer((at, number), &keyed.of).await? {
            return Ok(keys);
        }
        let is_whole = picked.is_none();
        // Nobody has more files than that.
        let (rank, of) = (at as u32, keyed.of.clone());
        let add = move |found: &mut (Keys, Option<Extent>), place: u64, row: &[u8]| -> Result<()> {
            let (keys, extent) = found;
            if picked.as_ref().is_some_and(|picked| !picked.contains(&place)) {
                return Ok(());
            }
            if let Some(parts) = keyed.parts(row)? {
                let newest = keys.newest.entry(keyed.hash(&parts)).or_insert(rank);
                *newest = rank.max(*newest);
                Extent::add(extent, parts);
            }
            Ok(())
        };
        let (mut keys, extent) =
            self.all[at].fold(self.place, self.cpu, number, (keys, None), add).await?;
        keys.extents.entry(of).or_default().extend(extent);
        keys.oldest = Some(keys.oldest.map_or(at, |oldest| oldest.min(at)));
        keys.whole.extend(is_whole.then_some((at, number)));
        Ok(keys)
    }

    /// Finds out which batch is the newest one that has them.
    pub(super) async fn settle(&mut self, mut keys: Keys) -> Result<Keys> {
        let Some(oldest) = keys.oldest else { return Ok(keys) };
        for at in oldest + 1..self.all.len() {
            let rank = at as u32;
            for number in 0..self.keyed[at].len() {
                let Some(keyed) = self.keyed[at][number].clone() else { continue };
                if keys.whole.contains(&(at, number)) {
                    continue;
                }
                let sought = keys.extents.get(&keyed.of).map(Vec::as_slice);
                if !self.may_have((at, number), sought).await? {
                    continue;
                }
                let see = move |keys: &mut Keys, _: u64, row: &[u8]| -> Result<()> {
                    if let Some(parts) = keyed.parts(row)?
                        && let Some(newest) = keys.newest.get_mut(&keyed.hash(&parts))
                    {
                        *newest = rank.max(*newest);
                    }
                    Ok(())
                };
                keys = self.all[at].fold(self.place, self.cpu, number, keys, see).await?;
            }
        }
        Ok(keys)
    }

    /// What says of a batch's rows of one table which of them no newer one has.
    pub(super) fn judge(&self, keys: &Arc<Keys>, (at, number): (usize, usize)) -> IsNewest {
        let keyed = self.keyed[at][number].clone();
        let keyed = keyed.filter(|keyed| keys.extents.contains_key(&keyed.of));
        let (keys, rank) = (Arc::clone(keys), at as u32);
        Box::new(move |row: &[u8]| {
            let Some(keyed) = &keyed else { return Ok(true) };
            let Some(parts) = keyed.parts(row)? else { return Ok(true) };
            let newest = keys.newest.get(&keyed.hash(&parts));
            Ok(newest.is_none_or(|newest| *newest == rank))
        })
    }

    /// Whether a newer batch may have rows with keys of a file.
    async fn may_be_newer(&mut self, one: (usize, usize), of: &str) -> Result<bool> {
        for at in one.0 + 1..self.all.len() {
            for number in 0..self.keyed[at].len() {
                let other = self.keyed[at][number].as_ref();
                if other.is_none_or(|other| other.of != of) {
                    continue;
                }
                if !self.measures {
                    return Ok(true);
                }
                let own = self.extent(one).await?;
                let own = own.as_ref().map(std::slice::from_ref);
                if self.may_have((at, number), own).await? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Whether a file may have keys that are between others.
    async fn may_have(&mut self, one: (usize, usize), sought: Option<&[Extent]>) -> Result<bool> {
        let Some(sought) = sought else { return Ok(false) };
        if !self.measures {
            return Ok(true);
        }
        let own = self.extent(one).await?;
        Ok(own.is_some_and(|own| sought.iter().any(|one| one.meets(&own))))
    }

    /// Between which keys rows of a file are.
    async fn extent(&mut self, (at, number): (usize, usize)) -> Result<Option<Extent>> {
        if let Some(known) = self.extents.get(&(at, number)) {
            return Ok(known.clone());
        }
        let Some(keyed) = self.keyed[at][number].clone() else { return Ok(None) };
        let see = move |extent: &mut Option<Extent>, _: u64, row: &[u8]| -> Result<()> {
            if let Some(parts) = keyed.parts(row)? {
                Extent::add(extent, parts);
            }
            Ok(())
        };
        let extent = self.all[at].fold(self.place, self.cpu, number, None, see).await?;
        self.extents.insert((at, number), extent.clone());
        Ok(extent)
    }
}

#[cfg(test)]
mod tests {
    use stillpoint_contract::Class;

    use super::*;

    fn keyed(kind: &Kind, alike: Alike) -> Keyed {
        let column = Column {
            name: "id".to_owned(),
            id: 1,
            engine_type: String::new(),
            kind: kind.clone(),
            is_cast: false,
            is_nullable: false,
            is_generated: false,
        };
        let columns = vec![column];
        Keyed { of: "t".to_owned(), planned: columns.clone(), columns, places: vec![(0, alike)] }
    }

    fn hash(kind: &Kind, value: &[u8]) -> [u8; 16] {
        hash_by(&keyed(kind, Alike::Same), value)
    }

    fn hash_by(keyed: &Keyed, value: &[u8]) -> [u8; 16] {
        let mut writer = stillpoint_contract::RowWriter::default();
        writer.begin(1);
        writer.value(&[value]);
        writer.end().unwrap();
        let rows = writer.take();
        let parts = keyed.parts(rows.rows().next().unwrap()).unwrap().unwrap();
        keyed.hash(&parts)
    }

    #[test]
    fn keys_are_the_same_in_each_form_and_in_no_other_class() {
        let seven = hash(&Kind::Int64, &7_i64.to_be_bytes());
        assert_eq!(seven, hash(&Kind::Int16, &7_i16.to_be_bytes()));
        assert_ne!(seven, hash(&Kind::Int64, &8_i64.to_be_bytes()));
        assert_ne!(seven, hash(&Kind::Text, b"7"));
        let any = Kind::Dynamic { declared: Class::Any };
        assert_ne!(hash(&any, b"t7"), hash(&any, b"b7"));
        let integer = [&b"i"[..], &7_i64.to_be_bytes()].concat();
        let real = [&b"r"[..], &7_f64.to_bits().to_be_bytes()].concat();
        assert_eq!(hash(&any, &integer), hash(&any, &real), "one key to the engine");
        assert_ne!(hash(&any, &integer), hash(&any, b"t7"), "and this is another one");
    }

    #[test]
    fn keys_are_the_same_that_their_collation_takes_for_one() {
        let text = Kind::Dynamic { declared: Class::Text };
        let by = |alike, value: &[u8]| hash_by(&keyed(&text, alike), value);
        assert_eq!(by(Alike::Case, b"tBob"), by(Alike::Case, b"tbob"));
        assert_ne!(by(Alike::Case, b"tBob"), by(Alike::Case, b"tbob "));
        assert_eq!(by(Alike::Spaces, b"tbob "), by(Alike::Spaces, b"tbob"));
        assert_ne!(by(Alike::Same, b"tbob "), by(Alike::Same, b"tbob"));
    }

    #[test]
    fn stretches_of_keys_are_told_apart_by_numbers() {
        let extent = |keys: [i128; 3]| {
            let mut extent = None;
            for key in keys {
                Extent::add(&mut extent, vec![Part::Number(key)]);
            }
            extent.unwrap()
        };
        let (first, second) = (extent([9, 1, 5]), extent([100, 10, 11]));
        assert!(!first.meets(&second) && !second.meets(&first));
        assert!(first.meets(&extent([9, 20, 30])) && second.meets(&extent([0, 200, 1])));
    }
}
