//! Rows whose time is over: files whose month has come, and rows of those to whom something
//! happened long enough ago.

use std::sync::Arc;

use chrono::{DateTime, NaiveDate, Utc};
use serde::Deserialize;
use stillpoint_contract::Result;

use super::{
    copy::follow,
    destination,
    document::Plan,
    event::{Days, EVENTS, WITHDRAWALS},
    garbage::{Removed, sweep},
    hold::{Going, Kept, held},
    meaning::Sense,
    names::Names,
    place::Place,
    shelf::{Shelf, ShelvedBatch},
    subject::{Searched, Subject},
};
use crate::{policy::ArchiveRule, world::World};

/// What plans say in place of a month.
const OPEN: &str = "open";

/// A batch that is, or would be, removed, or written anew without some of its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiring {
    /// Its run.
    pub run: String,
    /// Its number.
    pub batch: u32,
    /// How many rows go, of all tables.
    pub rows: u64,
    /// How many rows it holds, of all tables.
    pub of_rows: u64,
    /// How many bytes its files have.
    pub bytes: u64,
    /// The month from which on it may be removed, as its plan says, or `open`, where none was said.
    pub expire: String,
    /// The same as the policy of now says, counted from when its rows were written.
    pub by_policy: String,
    /// Whether that one is yet to come, or is none, so that it stays.
    pub is_kept: bool,
    /// Whether a hold keeps it.
    pub is_held: bool,
    /// Whether it does so because nobody knows whose rows those are: they have no such column, or
    /// only the database knows what hangs on those that are held.
    pub is_unsure: bool,
}

/// What is, or would be, removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expiry {
    /// Batches.
    pub batches: Vec<Expiring>,
    /// What became of their files, at all places.
    pub removed: Removed,
    /// Set when the clock is behind a time that was written down: nothing is removed then.
    pub ahead: Option<DateTime<Utc>>,
}

/// Removes batches whose month has come, and rows of subjects whose time is over, unless they are
/// held; with `is_dry`, only says which. Second copies go as the first ones do.
///
/// A month counts that was said when a batch was written, and the policy of now has to agree: who
/// corrects it to keep files longer, or for ever, keeps those of before as well.
///
/// A clock that goes back removes nothing: the latest time that any document of the set has is no
/// later than now, or nothing is done.
pub async fn expire(
    places: &[Place],
    world: &World,
    rule: &ArchiveRule,
    now: DateTime<Utc>,
    is_dry: bool,
) -> Result<Expiry> {
    let mut expiry = Expiry::default();
    let Some((first, copies)) = places.split_first() else { return Ok(expiry) };
    if !is_dry {
        destination::check(first, world).await?;
    }
    let shelf = Shelf::load(first).await?;
    expiry.ahead = newest_word(first, &shelf).await?.filter(|newest| *newest > now);
    if expiry.ahead.is_some() {
        return Ok(expiry);
    }
    let names = Names::of(&shelf);
    let over = Over { place: first, world, rule, now, is_dry, names: &names };
    over.months(&shelf, &mut expiry).await?;
    over.subjects(&shelf, &mut expiry).await?;
    if !is_dry {
        expiry.removed.add(sweep(first, &Shelf::load(first).await?).await?);
        for copy in copies {
            let holds = held(first).await?;
            expiry.removed.add(follow(first, copy, world, &holds).await?.removed);
            expiry.removed.add(sweep(copy, &Shelf::load(copy).await?).await?);
        }
    }
    Ok(expiry)
}

/// The latest time that was written down about a set.
async fn newest_word(place: &Place, shelf: &Shelf) -> Result<Option<DateTime<Utc>>> {
    #[derive(Deserialize)]
    struct Said {
        at: DateTime<Utc>,
    }
    let mut times = Vec::new();
    for run in &shelf.runs {
        times.extend(run.end.as_ref().map(|end| end.at));
        for one in run.batches.values() {
            times.push(one.batch.made);
            times.extend(one.sealed.as_ref().map(|sealed| sealed.at));
            times.extend(one.void.as_ref().map(|void| void.at));
            times.extend(one.expired.as_ref().map(|expired| expired.at));
        }
    }
    for kind in ["holds", "released", "erased", "reconciled", EVENTS, WITHDRAWALS] {
        let said: Vec<Said> = place.notices(kind).await?;
        times.extend(said.iter().map(|said| said.at));
    }
    Ok(times.into_iter().max())
}

/// When rows of a batch were written to files: of two clocks that disagree, the later one, since
/// what is kept too long can still go. That some were taken out later begins nothing anew.
fn written(plan: &Plan, one: &ShelvedBatch) -> DateTime<Utc> {
    let made = one.batch.made;
    let sealed = one.sealed.as_ref().filter(|sealed| sealed.generation < one.batch.generation);
    sealed.map_or(made, |sealed| sealed.at.min(made)).max(plan.made)
}

/// What is looked for.
struct Over<'a> {
    place: &'a Place,
    world: &'a World,
    rule: &'a ArchiveRule,
    now: DateTime<Utc>,
    is_dry: bool,
    names: &'a Names,
}

impl Over<'_> {
    /// Whether batches of a plan may go, as far as was said when it was made. Where nothing was,
    /// that is up to the policy of now.
    fn may_go(&self, plan: &Plan) -> bool {
        plan.expire == OPEN || self.rule.has_come(&plan.expire, self.now)
    }

    /// Removes batches whose month has come.
    async fn months(&self, shelf: &Shelf, expiry: &mut Expiry) -> Result<()> {
        if self.rule.retention.is_some() {
            return Ok(());
        }
        for run in shelf.runs.iter().filter(|run| self.may_go(&run.plan)) {
            for one in run.batches.values().filter(|one| one.is_sealed()) {
                let by_policy = self.rule.expire(written(&run.plan, one));
                if !self.rule.has_come(&by_policy, self.now) {
                    // What never had a month, and stays, is no news.
                    if run.plan.expire != OPEN {
                        let stays = self.expiring(&run.plan, one, one.batch.rows());
                        expiry.batches.push(Expiring { is_kept: true, ..stays });
                    }
                    continue;
                }
                let Self { place, world, names, .. } = *self;
                let searched = Searched { place, world, names, plan: &run.plan, batch: &one.batch };
                let mut going = Going::new(place, searched, None);
                let kept = if self.is_dry {
                    going.kept().await?
                } else {
                    Box::pin(going.expire(self.now, &mut expiry.removed)).await?
                };
                let expiring = self.expiring(&run.plan, one, one.batch.rows());
                expiry.batches.push(expiring.kept_by(kept));
            }
        }
        Ok(())
    }

    /// Takes out rows of subjects whose time is over. Of whom nothing is known stays.
    async fn subjects(&self, shelf: &Shelf, expiry: &mut Expiry) -> Result<()> {
        let Some(retention) = &self.rule.retention else { return Ok(()) };
        let zone = self.rule.zone.unwrap_or(chrono_tz::Tz::UTC);
        let days = Days::of(self.place, &retention.event, &retention.subject).await?;
        let (after, now) = (retention.clone(), self.now);
        let is_over = move |on: NaiveDate| after.end_after(on, zone) <= now;
        if !days.any(&is_over) {
            return Ok(());
        }
        let is_one =
            move |sense: Sense, said: &str| days.of_value(sense, said).is_some_and(&is_over);
        let subjects = [Subject {
            table: None,
            column: retention.subject.clone(),
            told: None,
            is_one: Arc::new(is_one),
            takes_unknown: false,
            is_early: false,
        }];
        for run in shelf.runs.iter().filter(|run| self.may_go(&run.plan)) {
            for one in run.batches.values().filter(|one| one.is_sealed()) {
                let Self { place, world, names, .. } = *self;
                let searched = Searched { place, world, names, plan: &run.plan, batch: &one.batch };
                let doomed = searched.find(&subjects).await?;
                if doomed.rows == 0 {
                    continue;
                }
                let mut going = Going::new(place, searched, Some(&doomed));
                let kept = if self.is_dry {
                    going.kept().await?
                } else if doomed.rows == one.batch.rows() {
                    Box::pin(going.expire(self.now, &mut expiry.removed)).await?
                } else {
                    let reason = "the time of some rows was over";
                    Box::pin(going.take_out(reason, &mut expiry.removed)).await?
                };
                let expiring = self.expiring(&run.plan, one, doomed.rows);
                expiry.batches.push(expiring.kept_by(kept));
            }
        }
        Ok(())
    }

    /// A batch of which so many rows would go.
    fn expiring(&self, plan: &Plan, one: &ShelvedBatch, rows: u64) -> Expiring {
        Expiring {
            run: plan.run.clone(),
            batch: one.batch.number,
            rows,
            of_rows: one.batch.rows(),
            bytes: one.batch.files().map(|file| file.bytes).sum(),
            expire: plan.expire.clone(),
            by_policy: self.rule.expire(written(plan, one)),
            is_kept: false,
            is_held: false,
            is_unsure: false,
        }
    }
}

impl Expiring {
    fn kept_by(self, Kept { is_held, is_unsure }: Kept) -> Self {
        Self { is_held, is_unsure, ..self }
    }
}
