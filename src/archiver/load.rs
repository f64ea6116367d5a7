//! Batches on their way into destination tables: brought in one transaction with the ledger's word
//! of them, then read back, row by row, before anything relies on them.

use std::collections::{BTreeMap, HashMap, HashSet};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use stillpoint_contract::{
    ArchiveSet, Error, ErrorKind, Keeping, Member, Result, RowBatch, Table, code,
};

use super::{
    bounds::key_of,
    destination::{Collected, Copies, Destination, Opened, batch_of, keys_of, table_entry},
    document::{Batch, BatchMember, Plan},
    file::Decoder,
    gate::Gate,
    place::{Place, Sheet},
    prune::batch_name,
    read::Damage,
    shelf::Shelf,
    shelve::verified,
    witness::Step,
};
use crate::pipeline::cpu::CpuPool;

/// Rows of a batch in whose place others are in the table, as a document.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Replaced {
    run: String,
    batch: u32,
    /// The table that they come from.
    table: String,
    /// Their BLAKE3 hashes, as hexadecimal text.
    rows: Vec<String>,
    at: DateTime<Utc>,
}

const REPLACED: &str = "replaced";

/// The rows of a batch must be in a table of another database, too; they are brought there, and
/// read back.
#[derive(Debug)]
pub struct InTable {
    /// Where the files are, with the destination.
    pub place: Place,
}

#[async_trait]
impl Gate for InTable {
    async fn closed(
        &self,
        plan: &Plan,
        batch: &Batch,
        _now: DateTime<Utc>,
    ) -> Result<Option<String>> {
        let Copies::In(destination) = &self.place.copies else { return Ok(None) };
        let mut loading = Loading { place: &self.place, destination };
        Box::pin(loading.load(plan, batch)).await
    }
}

/// The rows of one table of a batch, some after the other, decoded from its file.
pub(super) struct Chunks {
    cpu: CpuPool,
    /// None once something failed, or where no file is.
    decoder: Option<Decoder>,
}

impl Chunks {
    pub(super) async fn open(
        place: &Place,
        cpu: &CpuPool,
        plan: &Plan,
        member: &BatchMember,
    ) -> Result<Self> {
        let cpu = cpu.clone();
        let Some(file) = &member.file else { return Ok(Self { cpu, decoder: None }) };
        let bytes = verified(place, &cpu, file).await?;
        let decoder = Decoder::new(&bytes, &member.columns, plan.format)?;
        Ok(Self { cpu, decoder: Some(decoder) })
    }

    /// Some rows; what came before an error is worth nothing.
    pub(super) async fn next(&mut self) -> Result<Option<RowBatch>> {
        let Some(mut decoder) = self.decoder.take() else { return Ok(None) };
        let work = move || Ok::<_, Error>((decoder.next()?, decoder));
        let (rows, decoder) = self.cpu.run(move |_| work()).await??;
        self.decoder = Some(decoder).filter(|_| rows.is_some());
        Ok(rows)
    }
}

/// Batches on their way into tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loading<'a> {
    pub(super) place: &'a Place,
    pub(super) destination: &'a Destination,
}

impl Loading<'_> {
    /// Lets the tables have a batch, and reads it back. Why that is not so, if it is not.
    async fn load(&mut self, plan: &Plan, batch: &Batch) -> Result<Option<String>> {
        let Self { place, destination } = *self;
        let opened = destination.open(place, Some(plan)).await?;
        let mut opened = opened.ok_or_else(|| Error::bug("open a destination"))?;
        if self.is_outdated(batch).await? {
            return Ok(Some(format!("batch {} was written anew meanwhile", batch_name(batch))));
        }
        if !opened.has(batch)
            && let Some(why) = self.bring(&mut opened, plan, batch).await?
        {
            return Ok(Some(why));
        }
        self.compare(&mut opened, plan, batch).await
    }

    /// Whether a batch is no more what it was when it was looked at, before the lock was taken.
    async fn is_outdated(&self, batch: &Batch) -> Result<bool> {
        let number = batch.number;
        let newer = Sheet::Batch { batch: number, generation: batch.generation + 1 };
        for sheet in [newer, Sheet::Void { batch: number }, Sheet::Expired { batch: number }] {
            if self.place.read::<IgnoredAny>(&batch.run, sheet).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Brings a batch into the tables, all of it or nothing.
    async fn bring(
        &mut self,
        opened: &mut Opened,
        plan: &Plan,
        batch: &Batch,
    ) -> Result<Option<String>> {
        let Self { place, destination } = *self;
        let schema = destination.schema.as_deref();
        let mut keepers = Vec::new();
        for member in &plan.members {
            if member.table.key.is_empty() {
                return Err(self.keyless(&member.table));
            }
            let there = opened.rows.twin(&member.table, schema).await;
            let there = there.map_err(|error| destination.told(error))?.map(|table| table.name);
            let known = opened.keeper(&member.table.name);
            if there.as_deref() != known {
                return Err(self.other(there.as_deref(), known));
            }
            keepers.push(there);
        }
        let wanted = opened.wanted(batch);
        let known = opened.of_batch(batch).cloned();
        destination.witness.see(&Step::Copying { batch: batch.number });
        let others: Vec<(String, u32)> =
            opened.batches().map(|(run, batch)| (run.to_owned(), batch)).collect();
        let mut new = Vec::new();
        let mut keeping = opened.rows.keep().await?;
        let mut tables = Vec::new();
        for (number, keeper) in keepers.into_iter().enumerate() {
            let planned = &plan.members[number].table;
            let name = if let Some(name) = keeper {
                name
            } else {
                let made = keeping.make(planned, schema).await;
                let made = made.map_err(|error| destination.told(error))?;
                new.push((planned.name.clone(), made.name.clone()));
                made.name
            };
            let columns = batch.members[number].columns.clone();
            let table = Table { name, columns, ..planned.clone() };
            keeping.widen(&table).await.map_err(|error| destination.told(error))?;
            tables.push(table);
        }
        let mut meeting = Meeting { place, destination, plan, batch, others, shelf: None };
        for (number, table) in tables.iter().enumerate() {
            let member = &batch.members[number];
            let mut chunks = Chunks::open(place, &destination.world.cpu, plan, member).await?;
            while let Some(rows) = chunks.next().await? {
                let mut found = Collected::default();
                let keys = keys_of(rows.rows(), &table.key)?;
                keeping.look(table, keys, &mut found).await?;
                let rows = if found.0.is_empty() {
                    rows
                } else {
                    match meeting.meet(&mut *keeping, (number, table), &rows, found.0).await? {
                        Met::Rest(rows) => rows,
                        Met::Foreign(why) => return Ok(Some(why)),
                    }
                };
                if !rows.is_empty() {
                    keeping.put(table, rows).await.map_err(|error| destination.told(error))?;
                }
            }
        }
        for (of, name) in &new {
            keeping.note(&table_entry(&wanted.set, of, name)).await?;
        }
        if let Some(known) = &known {
            keeping.strike(known).await?;
        }
        keeping.note(&wanted).await?;
        keeping.commit().await.map_err(|error| destination.told(error))?;
        destination.witness.see(&Step::Copied { batch: batch.number, rows: batch.rows() });
        opened.ledger.extend(new.iter().map(|(of, name)| table_entry(&wanted.set, of, name)));
        opened.ledger.retain(|entry| Some(entry) != known.as_ref());
        opened.ledger.push(wanted);
        Ok(None)
    }

    /// A run that was planned when there was no destination.
    fn keyless(&self, table: &Table) -> Error {
        let set = self.place.set();
        Error::new(ErrorKind::Unsupported, code::ROWS_REFUSED, "use a destination table")
            .with("database", &self.destination.name)
            .with("table", &table.name)
            .why("it has no key, by which a table of another database could keep its rows")
            .next(format!("[archive.{set}]  without destination, for this run and all later ones"))
    }

    /// The table that would keep the rows is another one than the ledger says, or none.
    fn other(&self, there: Option<&str>, known: Option<&str>) -> Error {
        let set = self.place.set();
        let error = |code, why| {
            Error::new(ErrorKind::Refused, code, "use a destination table")
                .with("database", &self.destination.name)
                .with("table", known.or(there).unwrap_or_default())
                .why(why)
        };
        match known {
            None => error(code::TARGET_EXISTS, "a table that is there was not made for this set")
                .next(format!(
                    "[archive.{set}]  destination = {{ database = \"{}\", schema = \"NAME\" }}",
                    self.destination.name
                ))
                .next("or give that table another name"),
            Some(_) => error(code::LEDGER, "the table that has the copies is gone")
                .next("name the schema that it is in, or put it back from a backup")
                .next(format!(
                    "[archive.{set}]  destination = \"none\"   for one run gives up the copies"
                )),
        }
    }

    /// Compares a batch with what the tables have. What differs, if something does.
    async fn compare(
        &self,
        opened: &mut Opened,
        plan: &Plan,
        batch: &Batch,
    ) -> Result<Option<String>> {
        let Self { place, destination } = *self;
        let replaced = replaced(place, batch).await?;
        let tables: Vec<Option<Table>> =
            (0..batch.members.len()).map(|number| opened.table(plan, batch, number)).collect();
        let mut keeping = opened.rows.keep().await?;
        let mut differing = None;
        for (number, table) in tables.iter().enumerate() {
            let member = &batch.members[number];
            let of = &plan.members[number].table.name;
            let Some(table) = table else {
                differing = differing.or_else(|| {
                    member.file.is_some().then(|| format!("no table keeps the rows of {of}"))
                });
                continue;
            };
            let mut chunks = Chunks::open(place, &destination.world.cpu, plan, member).await?;
            let (mut gone, mut others, mut at, mut first) = (0_u64, 0_u64, 0_u64, None);
            while let Some(rows) = chunks.next().await? {
                let mut wanted: HashMap<blake3::Hash, u64> = HashMap::new();
                let mut asked = Vec::new();
                for row in rows.rows() {
                    let hash = blake3::hash(row);
                    if !replaced.contains(&(of.clone(), hash.to_hex().to_string())) {
                        wanted.insert(hash, at);
                        asked.push(row);
                    }
                    at += 1;
                }
                let mut found = Collected::default();
                keeping.look(table, keys_of(asked, &table.key)?, &mut found).await?;
                for row in &found.0 {
                    others += u64::from(wanted.remove(&blake3::hash(row)).is_none());
                }
                gone += wanted.len() as u64;
                first = first.or_else(|| wanted.values().min().copied());
            }
            if gone + others > 0 {
                let slice = slice_at(batch, number, first.unwrap_or(0));
                differing = differing.or(Some(format!(
                    "table {} of {} has {} rows of batch {} otherwise than their file, and {} not \
                     at all, from slice {slice} on",
                    table.name,
                    destination.name,
                    others,
                    batch_name(batch),
                    gone.saturating_sub(others),
                )));
            }
        }
        keeping.roll_back().await?;
        Ok(differing)
    }

    /// Lets the tables have every batch that is in files and nowhere else. Why not, for those that
    /// they do not get.
    pub(super) async fn load_all(&mut self) -> Result<Vec<String>> {
        let shelf = Shelf::load(self.place).await?;
        let mut reasons = Vec::new();
        let first = shelf.sealed().next().map(|(plan, _)| plan);
        let Some(opened) = self.destination.open(self.place, first).await? else {
            return Ok(reasons);
        };
        let lacking = shelf.sealed().filter(|(_, batch)| !opened.has(batch));
        let lacking: Vec<(&Plan, &Batch)> = lacking.collect();
        drop(opened);
        for (plan, batch) in lacking {
            reasons.extend(self.load(plan, batch).await?);
        }
        Ok(reasons)
    }

    /// Compares every batch with what the tables have, and counts what they have besides.
    pub(super) async fn verify(&self) -> Result<Vec<Damage>> {
        let shelf = Shelf::load(self.place).await?;
        let mut damages = Vec::new();
        let Some(mut opened) = self.destination.open(self.place, None).await? else {
            return Ok(damages);
        };
        let tell = |why: String| {
            Error::new(ErrorKind::Corrupt, code::ROWS_DIFFER, "compare destination tables")
                .why("they do not have what the files have")
                .with("found", why)
        };
        // How many rows each table has, of all batches.
        let mut counts: HashMap<String, (Table, u64)> = HashMap::new();
        for run in &shelf.runs {
            for one in run.batches.values().filter(|one| one.is_there()) {
                let batch = &one.batch;
                let damage = |error| Damage { run: batch.run.clone(), batch: batch.number, error };
                if opened.of_batch(batch).is_none() {
                    if one.is_sealed() {
                        let why = "the next run brings it there".to_owned();
                        damages.push(damage(tell(format!("it is not there; {why}"))));
                    }
                    continue;
                }
                if let Some(why) = self.compare(&mut opened, &run.plan, batch).await? {
                    damages.push(damage(tell(why)));
                }
                let replaced = replaced(self.place, batch).await?;
                for number in 0..batch.members.len() {
                    let of = &run.plan.members[number].table.name;
                    let Some(table) = opened.table(&run.plan, batch, number) else { continue };
                    let rows: u64 = batch.slices.iter().map(|s| s.members[number].rows).sum();
                    let less = replaced.iter().filter(|(table, _)| table == of).count() as u64;
                    let count = counts.entry(table.name.clone()).or_insert((table, 0));
                    count.1 += rows.saturating_sub(less);
                }
            }
        }
        for (name, (table, wanted)) in counts {
            let members = vec![Member { table, link: None }];
            let (set, predicate) = (self.place.set().to_owned(), "1 = 1".to_owned());
            let all = ArchiveSet { name: set, members, predicate, derived: Vec::new() };
            let found = opened.rows.estimate(&all).await?.rows;
            if found > wanted {
                let error = tell(format!("table {name} has {} rows of no file", found - wanted));
                damages.push(Damage { run: String::new(), batch: 0, error });
            }
        }
        Ok(damages)
    }
}

/// Compares every batch with what destination tables have, where there are such.
pub async fn verify_copies(place: &Place) -> Result<Vec<Damage>> {
    let Copies::In(destination) = &place.copies else { return Ok(Vec::new()) };
    Loading { place, destination }.verify().await
}

/// The slice of a row, by its place in its file.
fn slice_at(batch: &Batch, member: usize, at: u64) -> u32 {
    let mut end = 0;
    let slice = batch.slices.iter().find(|slice| {
        end += slice.members[member].rows;
        at < end
    });
    slice.map_or(0, |slice| slice.number)
}

/// Rows of a batch that are not in the tables, since others of the same keys are: the tables that
/// they come from, and their hashes.
async fn replaced(place: &Place, batch: &Batch) -> Result<HashSet<(String, String)>> {
    let all: Vec<Replaced> = place.notices(REPLACED).await?;
    let of = all.into_iter().filter(|one| one.run == batch.run && one.batch == batch.number);
    Ok(of.flat_map(|one| one.rows.into_iter().map(move |row| (one.table.clone(), row))).collect())
}

/// What became of rows that met others with their keys.
enum Met {
    /// These are to be put.
    Rest(RowBatch),
    /// Somebody else put one there.
    Foreign(String),
}

/// A row that is in a table, and that a batch has.
struct Claim {
    run: String,
    batch: u32,
    /// The hash of the row, as that batch has it.
    hash: String,
}

/// A batch whose rows may meet others with their keys in a table: rows that were put back, and are
/// archived again. Of each key the one that was archived last stays.
struct Meeting<'a> {
    place: &'a Place,
    destination: &'a Destination,
    plan: &'a Plan,
    batch: &'a Batch,
    /// Batches that are in the tables.
    others: Vec<(String, u32)>,
    shelf: Option<Shelf>,
}

impl Meeting<'_> {
    async fn meet(
        &mut self,
        keeping: &mut dyn Keeping,
        (number, table): (usize, &Table),
        rows: &RowBatch,
        found: Vec<Bytes>,
    ) -> Result<Met> {
        let keyed = found.into_iter().map(|row| Ok((key_of(&row, &table.key)?.0, row)));
        let found: HashMap<Bytes, Bytes> = keyed.collect::<Result<_>>()?;
        let keys = found.keys().cloned().collect();
        let claims = self.claims(keeping, (number, table), keys).await?;
        let now = (&*self.batch.run, self.batch.number);
        let (mut rest, mut doomed) = (Vec::new(), Vec::new());
        let mut replaced: BTreeMap<(String, u32), Vec<String>> = BTreeMap::new();
        for row in rows.rows() {
            let key = key_of(row, &table.key)?.0;
            let Some(there) = found.get(&key) else {
                rest.push(row);
                continue;
            };
            match claims.get(&key) {
                Some(claim) if (&*claim.run, claim.batch) > now => {
                    let of = replaced.entry((self.batch.run.clone(), self.batch.number));
                    of.or_default().push(blake3::hash(row).to_hex().to_string());
                }
                Some(claim) => {
                    let of = replaced.entry((claim.run.clone(), claim.batch));
                    of.or_default().push(claim.hash.clone());
                    if there != row {
                        doomed.push(&**there);
                        rest.push(row);
                    }
                }
                // The same row is as good, whoever put it there.
                None if there == row => {}
                None => {
                    return Ok(Met::Foreign(format!(
                        "table {} of {} has a row that no file has, with the key of one of batch \
                         {}",
                        table.name,
                        self.destination.name,
                        batch_name(self.batch),
                    )));
                }
            }
        }
        // First the word: whoever is killed in between leaves rows that nobody misses.
        let world = &self.destination.world;
        let of = &self.plan.members[number].table.name;
        for ((run, batch), rows) in replaced {
            let notice = Replaced { run, batch, table: of.clone(), rows, at: world.clock.now() };
            self.place.write_at(&self.place.notice(REPLACED, &world.new_id())?, &notice).await?;
        }
        take_out(keeping, table, doomed).await?;
        Ok(Met::Rest(batch_of(rest)?))
    }

    /// The other batches that are in the tables and have rows of a table, newest first, with the
    /// place of that table in their plans.
    fn others_of(&self, table: &str) -> Vec<(&Plan, &Batch, usize)> {
        let mut found = Vec::new();
        for run in self.shelf.iter().flat_map(|shelf| &shelf.runs).rev() {
            let member = run.plan.members.iter().position(|member| member.table.name == table);
            let Some(member) = member else { continue };
            for one in run.batches.values().rev().filter(|one| one.is_there()) {
                let batch = &one.batch;
                let is_own = batch.run == self.batch.run && batch.number == self.batch.number;
                let is_known = self
                    .others
                    .iter()
                    .any(|(run, number)| *run == batch.run && *number == batch.number);
                if is_known && !is_own {
                    found.push((&run.plan, batch, member));
                }
            }
        }
        found
    }

    /// Which batch has the rows that are there with some keys: the newest one.
    async fn claims(
        &mut self,
        keeping: &mut dyn Keeping,
        (number, table): (usize, &Table),
        mut keys: HashSet<Bytes>,
    ) -> Result<HashMap<Bytes, Claim>> {
        if self.shelf.is_none() {
            self.shelf = Some(Shelf::load(self.place).await?);
        }
        let of = &self.plan.members[number].table.name;
        let mut claims = HashMap::new();
        for (plan, batch, member) in self.others_of(of) {
            if keys.is_empty() {
                break;
            }
            let columns = batch.members[member].columns.clone();
            let table =
                Table { columns, key: plan.members[member].table.key.clone(), ..table.clone() };
            let cpu = &self.destination.world.cpu;
            let mut chunks = Chunks::open(self.place, cpu, plan, &batch.members[member]).await?;
            while let Some(rows) = chunks.next().await? {
                let mut asked = Vec::new();
                for row in rows.rows() {
                    if keys.contains(&key_of(row, &table.key)?.0) {
                        asked.push(row);
                    }
                }
                if asked.is_empty() {
                    continue;
                }
                let mut there = Collected::default();
                keeping
                    .look(&table, keys_of(asked.iter().copied(), &table.key)?, &mut there)
                    .await?;
                let there: HashSet<Bytes> = there.0.into_iter().collect();
                for row in asked.into_iter().filter(|row| there.contains(*row)) {
                    let key = key_of(row, &table.key)?.0;
                    keys.remove(&key);
                    let hash = blake3::hash(row).to_hex().to_string();
                    claims.insert(key, Claim { run: batch.run.clone(), batch: batch.number, hash });
                }
            }
        }
        Ok(claims)
    }
}

/// Deletes rows that were seen in a table, and makes sure that those are gone, and no others.
pub(super) async fn take_out(
    keeping: &mut dyn Keeping,
    table: &Table,
    rows: Vec<&[u8]>,
) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut gone = Collected::default();
    keeping.remove(table, keys_of(rows.iter().copied(), &table.key)?, &mut gone).await?;
    let wanted: HashSet<&[u8]> = rows.into_iter().collect();
    if gone.0.len() == wanted.len() && gone.0.iter().all(|row| wanted.contains(&**row)) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Refused, code::ROWS_DIFFER, "delete copies of rows")
        .with("table", &table.name)
        .with("rows", wanted.len())
        .with("deleted", gone.0.len())
        .why("other rows would be gone, too, or a trigger keeps some; nothing was changed"))
}
