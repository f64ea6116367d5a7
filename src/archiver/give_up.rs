//! Runs that nobody is to go on with: what they deleted is archived, and nothing else of them
//! counts.

use std::collections::BTreeSet;

use stillpoint_contract::{ErrorKind, Result, Rows};

use super::{
    document::{Batch, Plan},
    mend::Mended,
    prepare::{cutoff_of, derived_tables, safe},
    prune::{batch_name, ledgered},
    run::Quit,
    shelf::Shelved,
    work::Work,
};

impl Work<'_, '_> {
    /// Why rows that a plan selects are not to go any more. Somebody who corrects a policy means
    /// all rows that are still in their tables.
    pub(super) async fn why_given_up(
        &self,
        reader: &mut dyn Rows,
        plan: &Plan,
    ) -> Result<Option<&'static str>> {
        let rule = self.archiving.rule;
        if plan.selects != rule.selects {
            return Ok(Some("the policy selects other rows now"));
        }
        // When the plan was made: a month of another length may put a cutoff back by itself.
        let cutoff = rule.cutoff(safe(plan.made)).zip(plan.cutoff);
        if cutoff.is_some_and(|(now, planned)| now < planned) {
            return Ok(Some("the policy's cutoff is earlier now"));
        }
        let set = plan.archive_set();
        let cutoff = plan.cutoff.map(|at| cutoff_of(rule, at));
        let predicate = reader.bind(&set.root().table, &rule.selects, cutoff.as_ref()).await?;
        if predicate != plan.predicate {
            return Ok(Some("the policy means other rows now"));
        }
        if !rule.includes_unlisted {
            let mut listed = BTreeSet::new();
            for child in &rule.children {
                listed.insert(reader.table(&child.table).await?.name);
            }
            if set.members[1..].iter().any(|one| !listed.contains(&one.table.name)) {
                return Ok(Some("the policy leaves a table out now"));
            }
        }
        // No trigger sees a partition leave as a whole.
        if plan.whole().is_none() && derived_tables(reader, rule, &set).await? != plan.derived {
            return Ok(Some("the policy says of other tables now that their rows derive"));
        }
        Ok(None)
    }

    /// Ends such a run: what was deleted is sealed, and the rest is in its table.
    pub(super) async fn let_go(
        &mut self,
        pruner: &mut dyn Rows,
        mut run: Shelved,
        why: &str,
    ) -> Result<Quit> {
        let ledger = pruner.ledger(&run.plan.set).await?;
        self.settle(&mut run, &ledger).await?;
        let pending: Vec<Batch> = run.pending().cloned().collect();
        let mut lost = None;
        for batch in pending {
            let gone = ledgered(&batch, &ledger, &run.plan)?;
            let rows = batch.slices.iter().zip(&gone).filter(|(_, gone)| !**gone);
            let rows = rows.map(|(slice, _)| slice.members[0].rows).sum::<u64>();
            if gone.iter().any(|gone| *gone) {
                match self.let_rest_go(&run.plan, &batch, (&gone, why)).await {
                    Err(error) if error.kind() == ErrorKind::Corrupt => {
                        lost = lost.or(Some(error));
                        continue;
                    }
                    done => done?,
                }
            } else {
                self.let_all_go(&batch, why).await?;
            }
            self.tell(format!(
                "batch {}: {why}; {rows} rows in it had not been deleted, and stay in their table",
                batch_name(&batch)
            ));
        }
        if let Some(lost) = lost {
            return Err(lost);
        }
        self.end(&run.plan, why, 0).await
    }

    /// Of a batch of which some is deleted, lets the rest go.
    async fn let_rest_go(
        &mut self,
        plan: &Plan,
        batch: &Batch,
        (gone, why): (&[bool], &str),
    ) -> Result<()> {
        match self.read_and_mend(plan, batch, gone).await? {
            Mended::Whole(batch, left) => self.close(plan, &batch, &left, why).await.map(drop),
            Mended::Void(_) => Ok(()),
        }
    }
}
