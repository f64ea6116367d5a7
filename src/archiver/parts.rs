//! A table that has partitions, one after the other: each leaves as a whole where that is possible,
//! and of the others rows are deleted.

use std::collections::{BTreeMap, BTreeSet};

use stillpoint_contract::{ErrorKind, Finding, Partition, Partitioned, Result, Rows, Weight};

use super::{
    document::PlannedPart,
    erase::heed_erasures,
    identity,
    prepare::{Prepared, prepare},
    run::{Archiving, PLANS_MAX, Quit, RunReport, new_plan},
    shelf::{Shelf, Shelved},
    work::Work,
};
use crate::policy::ArchiveRule;

/// What a policy means now for one partition.
#[derive(Clone, Debug)]
pub struct PreparedPart {
    /// Which.
    pub partition: Partition,
    /// What is moved of it.
    pub prepared: Prepared,
    /// Why its rows are deleted; `None` when it leaves as a whole.
    pub why_rows: Option<String>,
}

/// Decides what a policy means now for one partition. Changes nothing.
pub async fn prepare_part(
    rows: &mut dyn Rows,
    rule: &ArchiveRule,
    partition: &Partition,
) -> Result<PreparedPart> {
    let of_part = ArchiveRule { root: partition.name.clone(), ..rule.clone() };
    let prepared = prepare(rows, &of_part).await?;
    let why_rows = why_rows(rows, rule, partition, &prepared).await?;
    Ok(PreparedPart { partition: partition.clone(), prepared, why_rows })
}

async fn why_rows(
    rows: &mut dyn Rows,
    rule: &ArchiveRule,
    partition: &Partition,
    prepared: &Prepared,
) -> Result<Option<String>> {
    if !rule.detaches {
        return Ok(Some("partition_path is \"never\"".to_owned()));
    }
    if prepared.set.members.len() > 1 {
        return Ok(Some("rows of other tables go with its rows".to_owned()));
    }
    // Once it is a table of its own, nobody knows its indexes by those of the whole table.
    if rule.key.is_some() && rows.table(&partition.name).await?.key != prepared.set.root().table.key
    {
        return Ok(Some("its key is not the primary key".to_owned()));
    }
    if prepared.estimate.rows == 0 || prepared.admit().is_err() {
        return Ok(Some("none of its rows is moved".to_owned()));
    }
    if let Some(why) = rows.why_not_whole(&prepared.set, partition).await? {
        return Ok(Some(why));
    }
    let strays = rows.strays(&prepared.set).await?;
    Ok((strays > 0).then(|| format!("{strays} of its rows are not selected")))
}

/// A run over partitions.
pub(super) struct Parts<'a, 'b> {
    pub(super) archiving: &'a Archiving<'a>,
    pub(super) pruner: &'b mut dyn Rows,
    pub(super) reader: &'b mut dyn Rows,
    pub(super) report: &'b mut RunReport,
}

impl Parts<'_, '_> {
    /// Goes on with what was begun, and then moves what is selected now.
    pub(super) async fn run(&mut self, whole: &Partitioned) -> Result<Quit> {
        let shelf = Shelf::load(self.archiving.place).await?;
        identity::check(self.archiving.place, &shelf, &whole.identity).await?;
        let mut waits = None;
        // What waits for something is not begun a second time.
        let mut busy: BTreeSet<String> = BTreeSet::new();
        for run in shelf.runs.iter().filter(|run| run.end.is_none()) {
            let quit = Box::pin(self.go_on(whole, run.clone())).await?;
            if !quit.is_done() {
                busy.extend(run.plan.part.as_ref().map(|part| part.partition.identity.clone()));
            }
            if stops(&quit) {
                return Ok(quit);
            }
            waits = waits.or(Some(quit).filter(|quit| !quit.is_done()));
        }
        let now = self.archiving.world.clock.now();
        let mut left_until = BTreeMap::new();
        for run in Shelf::load(self.archiving.place).await?.runs {
            let until = run.end.and_then(|end| end.left_until).filter(|until| now < *until);
            if let (Some(part), Some(until)) = (run.plan.part, until) {
                left_until.insert(part.partition.identity, until);
            }
        }
        // What those left is selected again.
        self.report.left_rows = 0;
        // Some may be gone by now.
        let now = self.reader.partitions(&self.archiving.rule.root).await?;
        for partition in now.map(|whole| whole.partitions).unwrap_or_default() {
            if let Some(until) = left_until.get(&partition.identity) {
                let found =
                    format!("{} was put back, and is left alone until {until}", partition.name);
                let (subject, weight) = ("partition", Weight::Advice);
                self.tell(&[Finding { subject, found, weight, statement: None }]);
                continue;
            }
            if busy.contains(&partition.identity) {
                continue;
            }
            let quit = Box::pin(self.begin(whole, &partition)).await?;
            if stops(&quit) {
                return Ok(quit);
            }
            waits = waits.or(Some(quit).filter(|quit| !quit.is_done()));
        }
        Ok(waits.unwrap_or(Quit::NothingSelected))
    }

    async fn go_on(&mut self, whole: &Partitioned, run: Shelved) -> Result<Quit> {
        self.report.run = Some(run.plan.run.clone());
        self.report.planned_rows += run.plan.rows;
        if !self.archiving.limits.keeps_source {
            self.pruner.open_ledger().await?;
        }
        let Some(part) = run.plan.part.clone() else {
            // It was begun when the table had no partitions.
            return Box::pin(self.carry(run)).await.map(|(quit, _)| quit);
        };
        let name = &part.partition.name;
        let is_part = whole.partitions.iter().any(|one| one.identity == part.partition.identity);
        if part.is_whole && is_part {
            // Nothing is taken out that the policy does not want out any more.
            let archiving = *self.archiving;
            let mut work = Work::new(&archiving, &mut *self.report);
            if let Some(why) = work.why_given_up(&mut *self.reader, &run.plan).await? {
                return work.let_go(&mut *self.pruner, run, why).await;
            }
        }
        if part.is_whole || is_part {
            return Box::pin(self.carry(run)).await.map(|(quit, _)| quit);
        }
        let is_there = match self.reader.table(name).await {
            Ok(table) => table.identity == part.partition.identity,
            Err(error) if error.kind() == ErrorKind::Missing => false,
            Err(error) => return Err(error),
        };
        if !is_there && run.plan.members.len() > 1 {
            return Ok(Quit::Gate(format!("partition {name} is gone, and others refer to it")));
        }
        let archiving = *self.archiving;
        let mut work = Work::new(&archiving, &mut *self.report);
        if is_there {
            let why = "its partition is none of the table any more";
            work.let_go(&mut *self.pruner, run, why).await
        } else {
            work.adopt(&mut *self.pruner, run).await
        }
    }

    /// Moves what is selected of a partition now.
    async fn begin(&mut self, whole: &Partitioned, partition: &Partition) -> Result<Quit> {
        let left_before = self.report.left_rows;
        for _ in 0..PLANS_MAX {
            // Nothing is written down of what cannot begin.
            if let Some(quit) = Work::new(self.archiving, &mut *self.report).quit(0) {
                return Ok(quit);
            }
            let rule = self.archiving.rule;
            let mut part = match prepare_part(&mut *self.reader, rule, partition).await {
                Ok(part) => part,
                // Somebody else took it away meanwhile.
                Err(error) if error.kind() == ErrorKind::Missing => break,
                Err(error) => return Err(error),
            };
            let place = self.archiving.place;
            heed_erasures(place, rule, &mut part.prepared, Some(whole)).await?;
            self.tell(&part.prepared.findings);
            part.prepared.admit()?;
            if part.prepared.estimate.rows == 0 {
                break;
            }
            let archiving = self.archiving;
            if archiving.has_read_enough(self.report) {
                return Ok(Quit::RowsMax);
            }
            let is_whole = part.why_rows.is_none() && !archiving.limits.keeps_source;
            let id = archiving.place.new_run(archiving.world).await?;
            let now = archiving.world.clock.now();
            let mut plan = new_plan(archiving.rule, &part.prepared, id, now);
            let root = &mut plan.members[0].table;
            root.name.clone_from(&whole.name);
            root.identity.clone_from(&whole.identity);
            plan.part = Some(PlannedPart { partition: partition.clone(), is_whole });
            archiving.place.write(&plan.run, super::place::Sheet::Plan, &plan).await?;
            self.report.run = Some(plan.run.clone());
            self.report.planned_rows += plan.rows;
            if !archiving.limits.keeps_source {
                self.pruner.open_ledger().await?;
            }
            self.report.left_rows = 0;
            let (quit, is_outdated) = Box::pin(self.carry(Shelved::begun(plan))).await?;
            self.report.left_rows += left_before;
            if quit != Quit::Finished || !is_outdated {
                return Ok(quit);
            }
        }
        Ok(Quit::NothingSelected)
    }

    /// Carries a plan out; also says whether the table became another one meanwhile.
    async fn carry(&mut self, run: Shelved) -> Result<(Quit, bool)> {
        let archiving = self.archiving;
        let (rows, bytes) = (run.plan.rows, run.plan.bytes);
        archiving.witness.see(&super::witness::Step::Planned { rows, bytes });
        let mut work = Work::new(archiving, &mut *self.report);
        let whole = run.plan.whole().cloned();
        let (pruner, reader) = (&mut *self.pruner, &mut *self.reader);
        let quit = match whole {
            Some(partition) => work.take_out(pruner, reader, run, &partition).await?,
            None => work.carry_out(pruner, reader, run).await?,
        };
        Ok((quit, work.is_outdated))
    }

    fn tell(&mut self, findings: &[Finding]) {
        for finding in findings {
            if !self.report.findings.contains(finding) {
                self.report.findings.push(finding.clone());
            }
        }
    }
}

/// Whether the other partitions have to wait, too.
fn stops(quit: &Quit) -> bool {
    matches!(
        quit,
        Quit::OutOfTime
            | Quit::Closed(_)
            | Quit::RowsMax
            | Quit::Critical(_)
            | Quit::Paused(_)
            | Quit::Rested(_)
    )
}
