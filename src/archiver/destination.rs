//! Another database whose tables have copies of a set's rows.
//!
//! Files stay what everything rests on; such a table has what they have, and looks like the one
//! that rows come from: of each key it has the row that was archived last. What is in it, the
//! ledger of that database says, in the transaction that put it there. Place and database know
//! each other by a pairing that both have: a table that was not made for this set is never
//! touched.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use stillpoint_contract::{
    Driver, Error, ErrorKind, LedgerEntry, Result, RowBatch, RowSink, Rows, Table, code,
};

use super::{
    bounds::key_of,
    document::{Batch, Plan},
    place::Place,
    run::PATIENCE,
    witness::Witness,
};
use crate::world::World;

const NOTICES: &str = "destination";

/// The entry of the pairing, in the ledger of the database.
const PAIRING: &str = "_pairing";

/// What precedes the name of a table that rows come from; its entry names the one that keeps them.
const TABLE: &str = "_table/";

/// Another database whose tables have copies.
#[derive(Clone)]
pub struct Destination {
    /// The database.
    pub driver: Arc<dyn Driver>,
    /// What people call it.
    pub name: String,
    /// The schema of the tables, where it is not that of those that rows come from.
    pub schema: Option<String>,
    /// Time, randomness and threads.
    pub world: World,
    /// Who is told.
    pub witness: Arc<dyn Witness>,
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, schema, .. } = self;
        f.debug_struct("Destination").field("name", name).field("schema", schema).finish()
    }
}

/// What is to become of copies in tables of another database.
#[derive(Clone, Debug, Default)]
pub enum Copies {
    /// Nobody said; that is enough where there never were any.
    #[default]
    Unsaid,
    /// They are given up: what is there stays, and nobody follows.
    GivenUp,
    /// They are there, and follow.
    In(Destination),
}

/// What was written down about a pairing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Paired {
    /// The pairing.
    pairing: String,
    /// What became of it.
    standing: Standing,
    /// When, by the coordinator's clock.
    at: DateTime<Utc>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Standing {
    /// The database may know of it.
    Begun,
    /// The database knows of it.
    Made,
    /// The copies are given up.
    GivenUp,
}

/// The pairing that counts, and whether the database must know of it.
async fn pairing(place: &Place) -> Result<Option<(String, Standing)>> {
    let all: Vec<Paired> = place.notices(NOTICES).await?;
    let standing = |id: &str| all.iter().filter(|one| one.pairing == id).map(|o| o.standing).max();
    let last = all.iter().rev().find(|one| standing(&one.pairing) != Some(Standing::GivenUp));
    Ok(last.and_then(|last| Some((last.pairing.clone(), standing(&last.pairing)?))))
}

async fn write_down(place: &Place, world: &World, pairing: &str, standing: Standing) -> Result<()> {
    let paired = Paired { pairing: pairing.to_owned(), standing, at: world.clock.now() };
    place.add_notice(world, NOTICES, &paired).await
}

/// Refuses to go on where there are copies that nobody would follow.
///
/// # Errors
///
/// [`Refused`](ErrorKind::Refused) when nobody said what is to become of them.
pub(super) async fn check(place: &Place, world: &World) -> Result<()> {
    match place.copies {
        Copies::In(_) => Ok(()),
        Copies::GivenUp => match pairing(place).await? {
            Some((pairing, _)) => write_down(place, world, &pairing, Standing::GivenUp).await,
            None => Ok(()),
        },
        Copies::Unsaid if pairing(place).await?.is_none() => Ok(()),
        Copies::Unsaid => {
            let set = place.set();
            Err(Error::new(ErrorKind::Refused, code::CONFIG_LACKS, "go on with an archive set")
                .with("set", set)
                .why("tables of another database have copies of its rows, which would not follow")
                .next(format!("[archive.{set}]  destination = {{ database = \"NAME\" }}"))
                .next(format!(
                    "[archive.{set}]  destination = \"none\"   gives them up: what is there stays"
                )))
        }
    }
}

/// A session that holds the lock of the set there: nobody else brings or takes copies meanwhile.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) rows: Box<dyn Rows>,
    pub(super) ledger: Vec<LedgerEntry>,
    /// The set, as that ledger has it.
    set: String,
}

impl Destination {
    /// Opens a session. `None` where nothing was ever copied, unless copies of rows of a plan are
    /// about to be made.
    pub(super) async fn open(&self, place: &Place, of: Option<&Plan>) -> Result<Option<Opened>> {
        let known = pairing(place).await?;
        if known.is_none() && of.is_none() {
            return Ok(None);
        }
        let mut rows = self.driver.rows().await.map_err(|error| self.told(error))?;
        if let Some(plan) = of {
            self.refuse_source(&mut *rows, plan).await?;
        }
        rows.lock(place.set(), PATIENCE).await.map_err(|error| self.told(error))?;
        // No set of an archive has such a name, also none whose rows come from that database.
        let set = format!("{}/table", place.set());
        let ledger = rows.ledger(&set).await.map_err(|error| self.told(error))?;
        let mut opened = Opened { rows, ledger, set };
        let there = opened.entry(PAIRING, 0).map(|entry| entry.hash.clone());
        let pairing = match (known, there) {
            (Some((known, standing)), Some(there)) if known == there => {
                if standing == Standing::Begun {
                    write_down(place, &self.world, &known, Standing::Made).await?;
                }
                return Ok(Some(opened));
            }
            (_, Some(_)) => {
                return Err(self.foreign(place, "its tables keep copies of another archive"));
            }
            (Some((_, Standing::Made)), None) => {
                let why = "it knows of no copies: it is another one than before, or was restored \
                           to a time before there were any";
                return Err(self.foreign(place, why));
            }
            (Some((known, _)), None) => known,
            (None, None) => {
                let new = self.world.new_id();
                write_down(place, &self.world, &new, Standing::Begun).await?;
                new
            }
        };
        opened.rows.open_ledger().await.map_err(|error| self.told(error))?;
        let entry = opened.noted(PAIRING, (0, 0), 0, pairing.clone());
        let mut keeping = opened.rows.keep().await?;
        keeping.note(&entry).await?;
        keeping.commit().await?;
        opened.ledger.push(entry);
        write_down(place, &self.world, &pairing, Standing::Made).await?;
        Ok(Some(opened))
    }

    fn foreign(&self, place: &Place, why: &'static str) -> Error {
        let set = place.set();
        Error::new(ErrorKind::Refused, code::FOREIGN_DATABASE, "use a destination table")
            .with("set", set)
            .with("database", &self.name)
            .why(why)
            .next("name the database that has the copies of this set, or one that has none")
            .next(format!(
                "[archive.{set}]  destination = \"none\"   for one run gives up copies elsewhere"
            ))
    }

    /// Refuses the database that rows come from. Its lock of the set is that of the run itself.
    async fn refuse_source(&self, rows: &mut dyn Rows, plan: &Plan) -> Result<()> {
        let whose = format!("{}/", rows.whose().await.map_err(|error| self.told(error))?);
        if !plan.members.iter().any(|member| member.table.identity.starts_with(&whose)) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Refused, code::FOREIGN_DATABASE, "use a destination table")
            .with("database", &self.name)
            .why("it is the database that the rows come from; copies there would be lost with it")
            .next("name another one: destination = { database = \"NAME\" }"))
    }

    /// Says of an error where it happened.
    pub(super) fn told(&self, error: Error) -> Error {
        error.during(format!("use the destination tables in {}", self.name))
    }
}

/// What a ledger says of the table that keeps the rows of another one.
pub(super) fn table_entry(set: &str, of: &str, name: &str) -> LedgerEntry {
    LedgerEntry {
        set: set.to_owned(),
        run: format!("{TABLE}{of}"),
        batch: 0,
        slice: 0,
        rows: 0,
        hash: name.to_owned(),
        at: None,
        position: None,
    }
}

impl Opened {
    fn entry(&self, run: &str, batch: u32) -> Option<&LedgerEntry> {
        self.ledger.iter().find(|entry| entry.run == run && entry.batch == batch)
    }

    fn noted(&self, run: &str, (batch, slice): (u32, u32), rows: u64, hash: String) -> LedgerEntry {
        let (set, run) = (self.set.clone(), run.to_owned());
        LedgerEntry { set, run, batch, slice, rows, hash, at: None, position: None }
    }

    /// What the ledger says of a batch that is in the tables, in whatever generation.
    pub(super) fn of_batch(&self, batch: &Batch) -> Option<&LedgerEntry> {
        self.entry(&batch.run, batch.number)
    }

    /// What it says once the tables have a batch.
    pub(super) fn wanted(&self, batch: &Batch) -> LedgerEntry {
        let mut hash = blake3::Hasher::new();
        for slice in &batch.slices {
            hash.update(&slice.number.to_le_bytes()).update(slice.hash().as_bytes());
        }
        let hash = hash.finalize().to_hex().to_string();
        self.noted(&batch.run, (batch.number, batch.generation), batch.rows(), hash)
    }

    /// Whether the tables have a batch as its manifest says.
    pub(super) fn has(&self, batch: &Batch) -> bool {
        let wanted = self.wanted(batch);
        self.of_batch(batch).is_some_and(|found| {
            (found.slice, found.rows, &found.hash) == (wanted.slice, wanted.rows, &wanted.hash)
        })
    }

    /// The batches that are in the tables: runs and numbers.
    pub(super) fn batches(&self) -> impl Iterator<Item = (&str, u32)> {
        let of_batches = self.ledger.iter().filter(|entry| !entry.run.starts_with('_'));
        of_batches.map(|entry| (&*entry.run, entry.batch))
    }

    /// The name of the table that keeps the rows of another one, if one was made.
    pub(super) fn keeper(&self, of: &str) -> Option<&str> {
        self.entry(&format!("{TABLE}{of}"), 0).map(|entry| &*entry.hash)
    }

    /// The table that keeps a member's rows, with columns as a batch has them; `None` where none
    /// was made.
    pub(super) fn table(&self, plan: &Plan, batch: &Batch, number: usize) -> Option<Table> {
        let planned = &plan.members[number].table;
        let columns = batch.members[number].columns.clone();
        let name = self.keeper(&planned.name)?.to_owned();
        Some(Table { name, columns, ..planned.clone() })
    }
}

/// Takes rows, each by itself.
#[derive(Debug, Default)]
pub(super) struct Collected(pub(super) Vec<bytes::Bytes>);

#[async_trait]
impl RowSink for Collected {
    async fn put(&mut self, rows: RowBatch) -> Result<()> {
        let all = rows.bytes().clone();
        self.0.extend(rows.rows().map(|row| all.slice_ref(row)));
        Ok(())
    }
}

/// The keys of rows, in the same order.
pub(super) fn keys_of<'r>(
    rows: impl IntoIterator<Item = &'r [u8]>,
    key: &[usize],
) -> Result<RowBatch> {
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    for row in rows {
        bytes.extend_from_slice(&key_of(row, key)?.0);
        ends.push(u32::try_from(bytes.len()).map_err(|_| Error::bug("hold keys"))?);
    }
    Ok(RowBatch::new(bytes.into(), ends))
}

/// Some rows, one behind the other.
pub(super) fn batch_of<'r>(rows: impl IntoIterator<Item = &'r [u8]>) -> Result<RowBatch> {
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    for row in rows {
        bytes.extend_from_slice(row);
        ends.push(u32::try_from(bytes.len()).map_err(|_| Error::bug("hold rows"))?);
    }
    Ok(RowBatch::new(bytes.into(), ends))
}
