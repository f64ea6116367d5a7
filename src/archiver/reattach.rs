//! The way back for a partition that was taken out and is not dropped yet.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use stillpoint_contract::{Error, ErrorKind, Partition, Result, Rows, code};

use super::{
    destination,
    homes::Homes,
    place::Place,
    run::{Archiving, RunReport},
    shelf::{Shelf, Shelved},
    whole::stands_until,
    work::Work,
};

/// A partition that stands, or is about to stand, beside its table.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Which.
    pub partition: Partition,
    /// Its run.
    pub run: String,
    /// How many of its rows are in files that were verified.
    pub rows: u64,
    /// Whether the archive answers for its rows; before, only the table itself does.
    pub is_archived: bool,
    /// Until when it stands there at least; `None` when that is not decided.
    pub until: Option<DateTime<Utc>>,
}

/// The partitions that stand beside their tables, as the documents of a set say it.
pub async fn standing(place: &Place, grace: Duration) -> Result<Vec<Standing>> {
    let shelf = Shelf::load(place).await?;
    let open = shelf.runs.iter().filter(|run| run.end.is_none());
    let standing = open.filter_map(|run| {
        let mut live = run.batches.values().filter(|one| one.void.is_none()).peekable();
        let is_archived = live.peek().is_some() && live.clone().all(|one| one.sealed.is_some());
        Some(Standing {
            partition: run.plan.whole()?.clone(),
            run: run.plan.run.clone(),
            rows: live.map(|one| one.batch.rows()).sum(),
            is_archived,
            until: stands_until(run, grace).filter(|_| is_archived),
        })
    });
    Ok(standing.collect())
}

/// What became of a partition that was put back.
#[derive(Clone, Debug)]
pub struct Reattached {
    /// Which.
    pub partition: Partition,
    /// The run that had taken it out.
    pub run: String,
    /// Until when runs leave it alone.
    pub left_until: Option<DateTime<Utc>>,
}

impl Archiving<'_> {
    /// Makes a partition again what it was, by its name or that of its run; the archive has its
    /// rows no more from then on.
    ///
    /// # Errors
    ///
    /// [`Missing`](ErrorKind::Missing) when none of that name stands beside its table;
    /// [`Refused`](ErrorKind::Refused) when other rows are where its rows belong.
    pub async fn reattach(&self, which: &str) -> Result<Reattached> {
        destination::check(self.place, self.world).await?;
        let mut pruner = self.driver.rows().await?;
        pruner.lock(&self.rule.name, super::run::PATIENCE).await?;
        let (run, partition) = self.find(&mut *pruner, which).await?;
        let Some(table) = pruner.detach(&partition).await? else {
            return Err(Error::new(
                ErrorKind::Missing,
                code::NO_SUCH_ARCHIVE,
                "find the partition",
            )
            .with("partition", &partition.name)
            .why("it is dropped; its rows are in the archive")
            .next(format!("stillpoint archive restore {} --all", self.rule.name)));
        };
        let mut set = run.plan.archive_set();
        set.members[0].table = table;
        let grace = TimeDelta::from_std(self.rule.grace).unwrap_or(TimeDelta::MAX);
        let now = self.world.clock.now();
        // How a run ended is written once: one that had ended says of no time to leave it alone.
        let left_until = match run.end {
            Some(_) => Some(now),
            None => now.checked_add_signed(grace),
        };
        let mut report = RunReport::default();
        let mut work = Work::new(self, &mut report);
        let name = run.plan.run.clone();
        let why = ("somebody put its partition back", left_until);
        work.give_back(&mut *pruner, run, &set, &partition, why).await?;
        Ok(Reattached { partition, run: name, left_until })
    }

    async fn find(&self, rows: &mut dyn Rows, which: &str) -> Result<(Shelved, Partition)> {
        let shelf = Shelf::load(self.place).await?;
        let ended = Homes::look(rows, &shelf).await?.alone(&shelf).into_iter();
        let ended: Vec<_> = ended.map(|(run, of)| (run.clone(), of.clone())).collect();
        let open = shelf.runs.into_iter().filter(|run| run.end.is_none());
        let all = open.filter_map(|run| run.plan.whole().cloned().map(|of| (run, of)));
        let all: Vec<(Shelved, Partition)> = all.chain(ended).collect();
        let known: Vec<String> = all.iter().map(|(_, of)| of.name.clone()).collect();
        let is_it = |run: &Shelved, of: &Partition| {
            let own = of.name.rsplit('.').next().unwrap_or_default();
            [&*run.plan.run, &*of.name, own].contains(&which)
        };
        let mut fitting: Vec<_> = all.into_iter().filter(|(run, of)| is_it(run, of)).collect();
        if fitting.len() == 1 {
            return Ok(fitting.remove(0));
        }
        Err(Error::new(ErrorKind::Missing, code::NO_SUCH_ARCHIVE, "find the partition")
            .with("given", which)
            .with("taken out", if known.is_empty() { "none".into() } else { known.join(", ") }))
    }
}
