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
use stillpoint_contract::{Column, Error, ErrorKind, Kind, Likeness, Result, code, values};

use super::{
    document::{Batch, BatchMember, Plan, Slice},
    file::value_text,
    form::Forms,
    likeness::linked,
    meaning::Sense,
    names::{Names, Told, place_of},
    newest::IsNewest,
    place::Place,
    read::{Term, fits},
    rewrite::{Keeps, write_anew},
    shelf::Shelf,
    shelve::{keep_slices, verified},
    untold,
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
    /// Whether a value of it is one of those, as it is read and written.
    pub(super) is_one: IsOne,
    /// Whether rows are theirs, too, of which that cannot be told.
    pub(super) takes_unknown: bool,
    /// Whether they were written down before anything was archived, so that nobody knows what the
    /// column was called by then.
    pub(super) is_early: bool,
}

/// Says of a value, and of how it is read, whether it is somebody's.
pub(super) type IsOne = Arc<dyn Fn(Sense, &str) -> bool + Send + Sync>;

impl Subject {
    /// The place of its table in a plan.
    pub(super) fn member(&self, names: &Names, plan: &Plan) -> Option<usize> {
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
    /// The table whose rows are the subject's; none for the root, where nothing was archived yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// The column that says whose.
    pub column: String,
    /// What tells that column from others, should another one get its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Told>,
    /// Random bytes, as hexadecimal text.
    pub salt: String,
    /// The hash of the subject under that salt.
    pub subject: String,
    /// Hashes of all that it may mean, whose rows are held.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub forms: BTreeSet<String>,
    /// Whether nothing was archived yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_early: bool,
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
        let (table, sense) = meaning_of(place, shelf, (table, column, value))?;
        let (salt, column) = (salt(world), column.to_owned());
        let subject = hash(&salt, &sense.meant(value));
        let forms = BTreeSet::new();
        Ok(Self { table: Some(table), column, told, salt, subject, forms, is_early: false })
    }

    /// Marks one whose rows are to be held, whatever they look like; also before there are any.
    pub(super) fn held(
        place: &Place,
        shelf: &Shelf,
        world: &World,
        of: (Option<&str>, &str, &str),
    ) -> Result<Self> {
        let (table, column, value) = of;
        let marked = if shelf.runs.is_empty() {
            let salt = salt(world);
            Self {
                table: table.map(str::to_owned),
                column: column.to_owned(),
                told: None,
                subject: hash(&salt, value),
                salt,
                forms: BTreeSet::new(),
                is_early: true,
            }
        } else {
            Self::new(place, shelf, world, of)?
        };
        let forms = Forms { salt: &marked.salt, column }.wide(value);
        Ok(Self { forms, ..marked })
    }

    /// Whether a value of a row is that subject.
    pub(super) fn is_of(&self, sense: Sense, said: &str) -> bool {
        let is = |value: &str| hash(&self.salt, value) == self.subject;
        // Whoever was written down before a form was known is so as the file says it.
        is(&sense.meant(said)) || is(said) || self.forms.contains(&self.form().of(sense, said))
    }

    fn form(&self) -> Forms<'_> {
        Forms { salt: &self.salt, column: &self.column }
    }

    /// What its rows are found by.
    pub(super) fn search(&self) -> Subject {
        let own = self.clone();
        Subject {
            table: self.table.clone(),
            column: self.column.clone(),
            told: self.told.clone(),
            is_one: Arc::new(move |sense: Sense, said: &str| own.is_of(sense, said)),
            takes_unknown: false,
            is_early: self.is_early,
        }
    }

    /// What rows are found by that are held for it: also those that may be its own.
    pub(super) fn keep(&self, names: &Names) -> Subject {
        let own = self.clone();
        let may_be = move |sense: Sense, said: &str| {
            let is_known = !own.forms.is_empty();
            own.is_of(sense, said) || is_known && own.form().may_be(&own.forms, sense, said)
        };
        let first = || {
            let is_open = self.is_early && self.told.is_none();
            is_open.then(|| names.told_first(self.table.as_deref(), &self.column)).flatten()
        };
        let told = self.told.clone().or_else(first);
        Subject { told, is_one: Arc::new(may_be), takes_unknown: true, ..self.search() }
    }

    /// Whether it is a subject of a table and a column, by the names that they have now.
    pub(super) fn is_in(&self, names: &Names, (table, column): (&str, &str)) -> bool {
        let is_it = self.told.is_some() && self.told == names.told(Some(table), column);
        is_it || self.column == column && names.name(self.table.as_deref()) == Some(table)
    }
}

fn salt(world: &World) -> String {
    let mut salt = [0; 16];
    world.entropy.fill(&mut salt);
    HEXLOWER.encode(&salt)
}

/// The complete name of a table of a set, and how a value of one of its columns is read.
///
/// # Errors
///
/// [`Missing`](ErrorKind::Missing) when nothing was archived, or there is no such table or column;
/// [`Invalid`](ErrorKind::Invalid) when it is no value of that column's type.
pub(super) fn meaning_of(
    place: &Place,
    shelf: &Shelf,
    (table, column, value): (Option<&str>, &str, &str),
) -> Result<(String, Sense)> {
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
    Ok((name, sense))
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
    /// Whether it may be any row, so that all of them are meant.
    pub(super) is_any: bool,
    /// The place of a table of which nobody knows which rows hang on them.
    untold: Option<usize>,
}

impl Doomed {
    /// All rows of a batch, since nobody knows which.
    pub(super) fn any(batch: &Batch) -> Self {
        Self { rows: batch.rows(), is_any: true, ..Self::default() }
    }

    /// Whether some of them are among others.
    pub(super) fn meets(&self, other: &Self) -> bool {
        if self.is_any || other.is_any {
            return self.rows > 0 && other.rows > 0;
        }
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

    /// Whether nobody knows which of its rows are the subject's: its file has no such column, or
    /// no run knows such a table. A column that was added later tells of no row before that.
    pub(super) fn cannot_tell(&self, subject: &Subject) -> bool {
        let (names, plan) = (self.names, self.plan);
        let Some(number) = subject.member(names, plan) else {
            return names.name(subject.table.as_deref()).is_none();
        };
        let told = subject.told.as_ref().map(|told| told.column);
        let column = (&*subject.column, told);
        self.lacks(subject) && (subject.is_early || names.may_have_had(plan, number, column))
    }

    /// Writes the batch without some rows to files that nothing names yet.
    pub(super) async fn write_without(&self, doomed: Doomed, reason: &str) -> Result<Batch> {
        let Self { place, world, plan, batch, .. } = *self;
        let (slices, keeps) = (batch.slices.clone(), self.all_but(doomed));
        let reason = (reason, world.clock.now());
        write_anew(place, &world.cpu, plan, batch, slices, &keeps, reason).await
    }

    fn all_but(&self, doomed: Doomed) -> Keeps {
        // Rows come in the order of their file, each once.
        let seen: Vec<AtomicU64> = self.batch.members.iter().map(|_| AtomicU64::new(0)).collect();
        Arc::new(move |_: &Slice, member: usize, _: &[u8]| {
            let at = seen[member].fetch_add(1, Ordering::Relaxed);
            Ok(!doomed.of_member[member].contains(&at))
        })
    }

    /// Finds the rows of subjects, and those that hang on them.
    ///
    /// # Errors
    ///
    /// [`Refused`](ErrorKind::Refused) where files do not tell what hangs on them.
    pub(super) async fn find(&self, subjects: &[Subject]) -> Result<Doomed> {
        let found = self.look_for(subjects).await?;
        found.untold.map_or(Ok(found), |number| Err(untold::no_subject(self.plan, number)))
    }

    /// The same of those who are held: where files do not tell what hangs on their rows, all rows
    /// of the batch.
    pub(super) async fn find_held(&self, subjects: &[Subject]) -> Result<Doomed> {
        let found = self.look_for(subjects).await?;
        Ok(if found.untold.is_some() { Doomed::any(self.batch) } else { found })
    }

    async fn look_for(&self, subjects: &[Subject]) -> Result<Doomed> {
        self.family(&self.picks(subjects)).await
    }

    /// Which rows are the subjects', in the forms of the batch's files.
    pub(super) fn picks(&self, subjects: &[Subject]) -> Picks {
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
        Arc::new(move |number, columns, row| {
            let subjects = &subjects[number];
            if subjects.is_empty() {
                return Ok(false);
            }
            let values = values(row).collect::<Result<Vec<_>>>()?;
            let is_one = |(place, subject): &(usize, Subject)| {
                let value = values.get(*place).copied().flatten();
                let (Some(value), Some(column)) = (value, columns.get(*place)) else {
                    return false;
                };
                let (sense, said) = match said((column, &planned[number]), value) {
                    Some((sense, said)) => (sense, Some(said)),
                    None if subject.takes_unknown => return true,
                    None => (Sense::Exact, value_text(&column.kind, value)),
                };
                said.is_some_and(|said| (subject.is_one)(sense, &said))
            };
            Ok(subjects.iter().any(is_one))
        })
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

    /// Refuses to take those that were found for all that is wanted where files do not tell what
    /// hangs on them.
    pub(super) fn refuse_untold(&self, found: &Doomed) -> Result<()> {
        found.untold.map_or(Ok(()), |number| Err(untold::no_family(self.plan, number)))
    }

    /// Finds rows that are picked, and those that hang on them, as far as files tell that.
    pub(super) async fn family(&self, picks: &Picks) -> Result<Doomed> {
        let Self { place, world, names, plan, batch } = *self;
        let mut doomed = Doomed::default();
        // What rows of later tables refer to, of each table.
        let mut keys: Vec<Vec<BTreeSet<LinkKey>>> = Vec::new();
        for (number, member) in batch.members.iter().enumerate() {
            let planned = &plan.members[number];
            let linked = |columns: &[String], link: usize| -> Result<Linked> {
                let likeness = names.likeness(plan, link);
                Linked::of(&member.columns, columns, &likeness).map_err(|error| {
                    error.with("table", &planned.table.name).with("run", &plan.run).next(
                        "put the plan of the run back from a second copy of the set, or a copy of \
                         the place",
                    )
                })
            };
            // Which columns of this table others refer to, and which of its own refer.
            let offers = plan.members.iter().enumerate().map(|(other, of)| match &of.link {
                Some(link) if link.parent == number => linked(&link.parent_columns, other),
                _ => Ok(Linked::default()),
            });
            let offers: Vec<Linked> = offers.collect::<Result<_>>()?;
            let told = planned.link.as_ref().filter(|_| !names.is_untold(plan, number));
            if let (None, Some(link), Some(_)) = (told, &planned.link, &member.file)
                && doomed.of_member.get(link.parent).is_some_and(|of| !of.is_empty())
            {
                doomed.untold = doomed.untold.or(Some(number));
            }
            let parent = told.map(|link| -> Result<_> {
                let gone = keys.get(link.parent).and_then(|of| of.get(number)).cloned();
                Ok((linked(&link.columns, number)?, gone.unwrap_or_default()))
            });
            let parent = parent.transpose()?;
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
                        let hangs = parent.as_ref().is_some_and(|(refers, gone)| {
                            refers
                                .key((&columns, &known), &values)
                                .is_some_and(|key| gone.contains(&key))
                        });
                        if hangs || picks(number, &columns, row)? {
                            found.insert(row_number);
                            for (offered, link) in offered.iter_mut().zip(&offers) {
                                let key = link.key((&columns, &known), &values);
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

/// What a row refers to, or is referred to by: a value of each column of a link.
type LinkKey = Vec<Vec<u8>>;

/// Columns of a link, as one file has them.
#[derive(Clone, Debug, Default)]
struct Linked {
    /// Where each of them is, and how the link compares it, where that is known.
    columns: Vec<(usize, Option<Likeness>)>,
}

impl Linked {
    /// Finds them all: by some of them, rows would hang on others than they do.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) when the file does not have one.
    fn of(columns: &[Column], names: &[String], likeness: &[Likeness]) -> Result<Self> {
        let likeness = likeness.iter().copied().map(Some).chain(std::iter::repeat(None));
        let column = |(name, likeness): (&String, Option<Likeness>)| -> Result<_> {
            let place = place_of(columns, name).ok_or_else(|| {
                let step = "find what hangs on rows of a file";
                Error::new(ErrorKind::Corrupt, code::ARCHIVE_FILE, step)
                    .with("column", name)
                    .why("the plan says that rows hang together by it, and the file lacks it")
            })?;
            Ok((place, likeness))
        };
        let columns = names.iter().zip(likeness).map(column).collect::<Result<_>>()?;
        Ok(Self { columns })
    }

    /// What a row has there; none where a value is NULL.
    fn key(&self, columns: (&[Column], &[Column]), values: &[Option<&[u8]>]) -> Option<LinkKey> {
        let parts = self.columns.iter();
        let parts =
            parts.map(|(place, likeness)| linked(likeness.as_ref(), columns, values, *place));
        parts.collect()
    }
}

/// How a value of a column is read, and what it says; none where that is no text.
fn said((column, planned): (&Column, &[Column]), value: &[u8]) -> Option<(Sense, String)> {
    // Where some text was none, all of the column is kept as its bytes.
    let is_other = |one: &&Column| one.id == column.id && one.kind != Kind::Bytes;
    let before = planned.iter().find(is_other).filter(|_| column.kind == Kind::Bytes);
    if let Some(before) = before {
        let said = std::str::from_utf8(value).ok()?;
        return Some((Sense::of(before, &[], None), said.to_owned()));
    }
    let is_text = matches!(column.kind, Kind::Dynamic { .. }) && value.first() == Some(&b't');
    if is_text && std::str::from_utf8(value).is_err() {
        return None;
    }
    let sense = Sense::of(column, planned, Some(value));
    Some((sense, value_text(&column.kind, value)?))
}

#[cfg(test)]
mod tests {
    use stillpoint_contract::{Alike, Class, RowWriter};

    use super::*;

    fn column(name: &str) -> Column {
        Column {
            name: name.to_owned(),
            id: 1,
            engine_type: String::new(),
            kind: Kind::Dynamic { declared: Class::Text },
            is_cast: false,
            is_nullable: false,
            is_generated: false,
        }
    }

    /// Each column is compared as the link says of it, wherever the file has it, and whichever
    /// letters the reference is written in; by fewer of them nothing is found.
    #[test]
    fn columns_of_a_link_keep_what_is_said_of_them() {
        let columns = ["id", "code", "area"].map(column);
        let names = ["AREA", "code"].map(str::to_owned);
        let text = Some(Class::Text);
        let folds = |alike| Likeness { becomes: text, alike, is_untold: false };
        let likeness = [folds(Alike::Same), folds(Alike::Case)];
        let link = Linked::of(&columns, &names, &likeness).unwrap();
        let key = |area: &[u8], code: &[u8]| {
            let mut writer = RowWriter::default();
            writer.begin(3);
            for value in [&b"t7"[..], code, area] {
                writer.value(&[value]);
            }
            writer.end().unwrap();
            let rows = writer.take();
            let values: Vec<_> = values(rows.rows().next().unwrap()).map(Result::unwrap).collect();
            link.key((&columns, &[]), &values).unwrap()
        };
        assert_eq!(key(b"tNorth", b"tBob"), key(b"tNorth", b"tBOB"));
        assert_ne!(key(b"tNorth", b"tBob"), key(b"tNORTH", b"tBob"));
        let error = Linked::of(&columns[1..2], &names, &likeness).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let unknown = Linked::of(&columns, &names, &[]).unwrap();
        assert_eq!(unknown.columns, [(2, None), (1, None)]);
    }
}
