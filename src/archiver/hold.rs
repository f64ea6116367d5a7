//! What nobody may remove or erase: sets, single runs, or rows of somebody, held for a case.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use stillpoint_contract::{Driver, Error, ErrorKind, Result, code};

use super::{
    document::Expired,
    garbage::{Removed, discard},
    meaning::Sense,
    names::Names,
    place::{Place, Sheet},
    rewrite::replace,
    shelf::Shelf,
    subject::{Doomed, MarkedSubject, Searched, Subject},
};
use crate::world::World;

const HOLDS: &str = "holds";
const RELEASES: &str = "released";

/// A hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveHold {
    /// Its id.
    pub id: String,
    /// The run; all of the set where none is said.
    pub run: Option<String>,
    /// Whose rows; all where nobody is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<MarkedSubject>,
    /// In which case.
    pub case: String,
    /// Who.
    pub by: String,
    /// When, by the coordinator's clock.
    pub at: DateTime<Utc>,
}

/// That a hold is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveRelease {
    /// The hold.
    pub hold: String,
    /// Why.
    pub reason: String,
    /// Who.
    pub by: String,
    /// When, by the coordinator's clock.
    pub at: DateTime<Utc>,
}

/// The holds on a set that are not released.
#[derive(Clone, Debug, Default)]
pub struct Holds(pub Vec<ArchiveHold>);

impl Holds {
    /// Whether all rows of a run are held.
    pub fn of_run(&self, run: &str) -> bool {
        let of_all = self.0.iter().filter(|hold| hold.subject.is_none());
        of_all.clone().any(|hold| hold.run.as_deref().is_none_or(|held| held == run))
    }

    /// Rows of a batch that are held because of whose they are. Where nobody knows whose some are,
    /// or what hangs on those that are held, all of them.
    pub(super) async fn rows_in(&self, searched: &Searched<'_>) -> Result<Doomed> {
        let subjects = self.0.iter().filter_map(|hold| hold.subject.as_ref());
        let kept: Vec<Subject> = subjects.map(|one| one.keep(searched.names)).collect();
        if kept.is_empty() {
            return Ok(Doomed::default());
        }
        if kept.iter().any(|one| searched.cannot_tell(one)) {
            return Ok(Doomed::any(searched.batch));
        }
        Box::pin(searched.find_held(&kept)).await
    }

    /// What keeps rows of a batch that would go; all of them would where none are named.
    async fn keep(&self, searched: &Searched<'_>, doomed: Option<&Doomed>) -> Result<Kept> {
        if self.of_run(&searched.plan.run) {
            return Ok(Kept { is_held: true, is_unsure: false });
        }
        let kept = self.rows_in(searched).await?;
        let is_held = doomed.map_or(kept.rows > 0, |doomed| doomed.meets(&kept));
        Ok(Kept { is_held, is_unsure: is_held && kept.is_any })
    }

    /// Refuses to erase whose rows are held: the table, the column, and the value and how it is
    /// read. What only may be theirs is left to [`rows_in`](Self::rows_in).
    pub(super) fn refuse_subject(
        &self,
        names: &Names,
        of: (&str, &str),
        (sense, value): (Sense, &str),
    ) -> Result<()> {
        let holds = |hold: &&ArchiveHold| {
            let held = hold.subject.as_ref();
            held.is_some_and(|held| held.is_in(names, of) && held.is_of(sense, value))
        };
        self.0.iter().find(holds).map_or(Ok(()), |hold| Err(refusal(hold)))
    }

    /// Refuses to touch a run, or all of the set.
    ///
    /// # Errors
    ///
    /// [`Refused`](ErrorKind::Refused) while somebody holds it.
    pub fn refuse(&self, run: Option<&str>) -> Result<()> {
        let holds = |hold: &&ArchiveHold| {
            hold.subject.is_none()
                && (hold.run.is_none() || run.is_none() || hold.run.as_deref() == run)
        };
        self.0.iter().find(holds).map_or(Ok(()), |hold| Err(refusal(hold)))
    }
}

/// Whether rows that would go are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    /// Whether somebody holds them, or some of them.
    pub(super) is_held: bool,
    /// Whether that is so because nobody knows whose they are.
    pub(super) is_unsure: bool,
}

/// Rows of a batch that are to go. Whoever records a hold is told that it counts, also amid the
/// hours that an expiry or an erasure takes: so holds are read again before each thing that is not
/// taken back.
#[derive(Debug)]
pub(super) struct Going<'a> {
    /// The place that has the holds: the first one.
    first: &'a Place,
    searched: Searched<'a>,
    /// Which rows; all of them where none are named.
    doomed: Option<&'a Doomed>,
    /// The holds that were there last, and what they keep.
    seen: Option<(Vec<ArchiveHold>, Kept)>,
}

impl<'a> Going<'a> {
    pub(super) fn new(
        first: &'a Place,
        searched: Searched<'a>,
        doomed: Option<&'a Doomed>,
    ) -> Self {
        Self { first, searched, doomed, seen: None }
    }

    /// Whether somebody holds some of them by now.
    pub(super) async fn kept(&mut self) -> Result<Kept> {
        let holds = held(self.first).await?;
        if let Some((seen, kept)) = &self.seen
            && *seen == holds.0
        {
            return Ok(*kept);
        }
        let kept = holds.keep(&self.searched, self.doomed).await?;
        self.seen = Some((holds.0, kept));
        Ok(kept)
    }

    /// Takes them out of their files, unless somebody holds some of them: says so then.
    pub(super) async fn take_out(&mut self, reason: &str, removed: &mut Removed) -> Result<Kept> {
        let Some(doomed) = self.doomed else {
            return Err(Error::bug("take out what is not named"));
        };
        let kept = self.kept().await?;
        if kept.is_held {
            return Ok(kept);
        }
        let Searched { place, plan, batch, .. } = self.searched;
        let new = Box::pin(self.searched.write_without(doomed.clone(), reason)).await?;
        // Where they are held by now, what was written counts for nothing. It stays until the
        // batch is written anew: somebody else may have written the very same.
        let kept = self.kept().await?;
        if kept.is_held {
            return Ok(kept);
        }
        let withdrawn = place.withdraw(batch, Some(&new)).await?;
        let kept = self.kept().await?;
        if !kept.is_held {
            removed.add(replace(place, plan, (batch, &new), withdrawn).await?);
        }
        Ok(kept)
    }

    /// Lets all of the batch go, unless somebody holds rows of it: says so then.
    pub(super) async fn expire(&mut self, now: DateTime<Utc>, gone: &mut Removed) -> Result<Kept> {
        let kept = self.kept().await?;
        if kept.is_held {
            return Ok(kept);
        }
        let Searched { place, batch, .. } = self.searched;
        let withdrawn = place.withdraw(batch, None).await?;
        let kept = self.kept().await?;
        if kept.is_held {
            return Ok(kept);
        }
        let expired = Expired { rows: batch.rows(), at: now };
        place.mark(&batch.run, Sheet::Expired { batch: batch.number }, &expired).await?;
        drop(withdrawn);
        gone.add(discard(place, batch, None).await?);
        Ok(kept)
    }
}

fn refusal(hold: &ArchiveHold) -> Error {
    Error::new(ErrorKind::Refused, code::HELD, "remove archived rows")
        .with("hold", &hold.id)
        .with("case", &hold.case)
        .with("by", &hold.by)
        .why("they are held; neither a policy nor a person removes them until it is released")
}

/// The holds on a set that are not released.
pub async fn held(place: &Place) -> Result<Holds> {
    let released: Vec<ArchiveRelease> = place.notices(RELEASES).await?;
    let mut holds: Vec<ArchiveHold> = place.notices(HOLDS).await?;
    holds.retain(|hold| released.iter().all(|release| release.hold != hold.id));
    Ok(Holds(holds))
}

/// What is to be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding<'a> {
    /// All of a set.
    Set,
    /// One run of it.
    Run(&'a str),
    /// Rows of somebody, and all that hangs on them, whenever they are archived: the table, which
    /// is the root where none is said, the column, and its value.
    Subject(Option<&'a str>, &'a str, &'a str),
}

/// Looks in the database for the column of whoever is to be held, before anything was archived;
/// after that, the set knows by itself what columns it has.
///
/// # Errors
///
/// [`Missing`](ErrorKind::Missing) when there is no such table or column;
/// [`Invalid`](ErrorKind::Invalid) when it is no value of that column's type.
pub async fn look_up(driver: &dyn Driver, root: &str, what: Holding<'_>) -> Result<()> {
    let Holding::Subject(table, column, value) = what else { return Ok(()) };
    let name = table.unwrap_or(root);
    let mut rows = driver.rows().await?;
    let table = match rows.partitions(name).await? {
        None => rows.table(name).await?,
        // Each of them has the columns of all.
        Some(whole) => match whole.partitions.first() {
            Some(partition) => rows.table(&partition.name).await?,
            None => return Ok(()),
        },
    };
    let Some(found) = table.columns.iter().find(|one| one.name == column) else {
        let known: Vec<&str> = table.columns.iter().map(|one| &*one.name).collect();
        return Err(Error::new(ErrorKind::Missing, code::NO_SUCH_ARCHIVE, "find a column")
            .with("table", name)
            .with("column", column)
            .with("columns", known.join(", ")));
    };
    Sense::of(found, &[], None).admit(found, value, false)
}

/// Holds a set, or some of it. Whoever is held may be so before anything was archived.
///
/// # Errors
///
/// [`Missing`](ErrorKind::Missing) when there is no such run, or in a set of which something was
/// archived no such table or column.
pub async fn hold(
    place: &Place,
    world: &World,
    what: Holding<'_>,
    case: &str,
    by: &str,
) -> Result<ArchiveHold> {
    let (mut run, mut subject) = (None, None);
    match what {
        Holding::Set => {}
        Holding::Run(held) => {
            Shelf::load(place).await?.run(held)?;
            run = Some(held.to_owned());
        }
        Holding::Subject(table, column, value) => {
            let shelf = Shelf::load(place).await?;
            let of = (table, column, value);
            subject = Some(MarkedSubject::held(place, &shelf, world, of)?);
        }
    }
    let hold = ArchiveHold {
        id: place.new_notice(world, HOLDS).await?,
        run,
        subject,
        case: case.to_owned(),
        by: by.to_owned(),
        at: world.clock.now(),
    };
    place.write_at(&place.notice(HOLDS, &hold.id)?, &hold).await?;
    Ok(hold)
}

/// Ends a hold.
///
/// # Errors
///
/// [`Missing`](ErrorKind::Missing) when there is none that begins so.
pub async fn release(
    place: &Place,
    world: &World,
    id: &str,
    reason: &str,
    by: &str,
) -> Result<ArchiveHold> {
    let holds = held(place).await?;
    let fitting: Vec<&ArchiveHold> =
        holds.0.iter().filter(|hold| !id.is_empty() && hold.id.starts_with(id)).collect();
    let [hold] = fitting.as_slice() else {
        let known: Vec<&str> = holds.0.iter().map(|hold| &*hold.id).collect();
        return Err(Error::new(ErrorKind::Missing, code::NO_SUCH_HOLD, "find the hold")
            .with("given", id)
            .with("holds", known.join(", ")));
    };
    let release = ArchiveRelease {
        hold: hold.id.clone(),
        reason: reason.to_owned(),
        by: by.to_owned(),
        at: world.clock.now(),
    };
    place.write_at(&place.notice(RELEASES, &hold.id)?, &release).await?;
    Ok((*hold).clone())
}
