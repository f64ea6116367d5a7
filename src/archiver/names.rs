//! Tables and columns by the names that people know them by, in files of any time.
//!
//! A table keeps its identity when it is renamed, and, where the engine numbers columns, each of
//! them keeps its number. A name means what it means to the newest run that knows it.

use serde::{Deserialize, Serialize};
use stillpoint_contract::{Column, Error, ErrorKind, Kind, Result, code};

use super::{
    condition::Term,
    document::{Plan, PlannedMember},
    meaning::Sense,
    shelf::Shelf,
};

/// What tells a column from all others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// What tells its table.
    pub identity: String,
    /// The number that it keeps.
    pub column: i32,
}

/// What the tables of a set and their columns are, and were, called.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    /// What each run planned, newest first.
    runs: Vec<Vec<Planned>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Planned {
    name: String,
    identity: String,
    columns: Vec<Column>,
    /// Whether a number means the same column in each run.
    is_numbered: bool,
}

impl Planned {
    fn of(plan: &Plan, member: &PlannedMember) -> Self {
        let table = &member.table;
        // Where values say themselves what they are, numbers are places, which change. Partitions
        // number their columns differently from their table.
        let is_placed = |column: &Column| matches!(column.kind, Kind::Dynamic { .. });
        Self {
            name: table.name.clone(),
            identity: table.identity.clone(),
            columns: table.columns.clone(),
            is_numbered: plan.part.is_none() && !table.columns.iter().any(is_placed),
        }
    }

    fn is_called(&self, name: &str) -> bool {
        self.name == name || self.name.rsplit('.').next() == Some(name)
    }

    fn has(&self, column: &str) -> Option<&Column> {
        self.columns.iter().find(|one| one.name == column)
    }
}

impl Names {
    pub(super) fn of(shelf: &Shelf) -> Self {
        let mut runs: Vec<Vec<Planned>> = Vec::new();
        for run in shelf.runs.iter().rev() {
            let of = &run.plan;
            let planned: Vec<Planned> = of.members.iter().map(|one| Planned::of(of, one)).collect();
            // Most runs plan what the one before did.
            if runs.last() != Some(&planned) {
                runs.push(planned);
            }
        }
        Self { runs }
    }

    /// The newest of what a table was, by a name that it has or had; the root where none is said.
    fn newest(&self, table: Option<&str>) -> Option<&Planned> {
        match table {
            None => self.runs.first()?.first(),
            Some(name) => self.runs.iter().flatten().find(|one| one.is_called(name)),
        }
    }

    /// The complete name that a table has in the newest run that knows it by that name.
    pub(super) fn name(&self, table: Option<&str>) -> Option<&str> {
        self.newest(table).map(|one| &*one.name)
    }

    /// What tells a column from all others, whatever it and its table are called; none where the
    /// engine does not number columns.
    pub(super) fn told(&self, table: Option<&str>, column: &str) -> Option<Told> {
        let newest = self.newest(table).filter(|one| one.is_numbered)?;
        let versions = self.runs.iter().flatten().filter(|one| one.identity == newest.identity);
        let found = versions.filter(|one| one.is_numbered).find_map(|one| one.has(column))?;
        Some(Told { identity: newest.identity.clone(), column: found.id })
    }

    /// What tells the column from all others that was called so when the table was archived first.
    pub(super) fn told_first(&self, table: Option<&str>, column: &str) -> Option<Told> {
        let identity = &self.newest(table)?.identity;
        let versions = self.runs.iter().rev().flatten();
        let mut versions = versions.filter(|one| one.identity == *identity && one.is_numbered);
        let id = versions.find_map(|one| Some(one.has(column)?.id))?;
        Some(Told { identity: identity.clone(), column: id })
    }

    /// Whether a table of a plan, which does not have a column, may have it under another name, or
    /// may have lost it: whatever was added later, no row before that had.
    pub(super) fn may_have_had(
        &self,
        plan: &Plan,
        number: usize,
        (name, told): (&str, Option<i32>),
    ) -> bool {
        let then = Planned::of(plan, &plan.members[number]);
        let Some(at) = self.runs.iter().position(|run| run.contains(&then)) else { return true };
        let told = told.filter(|_| then.is_numbered);
        let is_it = |one: &&Planned| one.identity == then.identity || one.name == then.name;
        let has = |one: &Planned| match told {
            Some(id) if one.is_numbered => one.columns.iter().any(|column| column.id == id),
            _ => one.has(name).is_some(),
        };
        let (later, earlier) = self.runs.split_at(at);
        if earlier.iter().flatten().filter(is_it).any(has) {
            return true;
        }
        let first = later.iter().rev().flatten().filter(is_it).find(|one| has(one));
        let Some(first) = first else { return true };
        // Of columns with numbers, none is another one; of others, each that is gone may be it.
        let is_numbered = told.is_some() && first.is_numbered;
        !is_numbered && then.columns.iter().any(|column| first.has(&column.name).is_none())
    }

    /// The place of a table in a plan, where it is told from all others.
    pub(super) fn table_of(plan: &Plan, told: &Told) -> Option<usize> {
        plan.members.iter().position(|member| member.table.identity == told.identity)
    }

    /// The place of a table in a plan; none where the run did not have it.
    pub(super) fn table(&self, plan: &Plan, table: Option<&str>) -> Option<usize> {
        let Some(name) = table else { return (!plan.members.is_empty()).then_some(0) };
        let newest = self.newest(Some(name))?;
        let members = || plan.members.iter().map(|member| Planned::of(plan, member));
        let same = members().position(|one| one.identity == newest.identity);
        // Of another identity, as after a restore, unless that is another table's.
        let others = || self.runs.first().into_iter().flatten().filter(|one| *one != newest);
        let is_other = |one: &Planned| others().any(|other| other.identity == one.identity);
        same.or_else(|| members().position(|one| one.is_called(&newest.name) && !is_other(&one)))
    }

    /// The name that a table of a plan has in the newest run that has it.
    pub(super) fn table_now(&self, plan: &Plan, number: usize) -> String {
        let of = &plan.members[number].table;
        let same = self.runs.iter().flatten().find(|one| one.identity == of.identity);
        same.map_or(&of.name, |one| &one.name).clone()
    }

    /// Whether numbers tell columns of a table of a plan from all others that it had.
    #[cfg(feature = "parquet")]
    pub(super) fn is_numbered(plan: &Plan, number: usize) -> bool {
        Planned::of(plan, &plan.members[number]).is_numbered
    }

    /// The name that a column of a file has in the newest run.
    pub(super) fn column_now(&self, plan: &Plan, number: usize, column: &Column) -> String {
        let then = Planned::of(plan, &plan.members[number]);
        let newest = self.runs.iter().flatten().find(|one| one.identity == then.identity);
        let same = newest.filter(|one| one.is_numbered && then.is_numbered);
        let same = same.and_then(|one| one.columns.iter().find(|of| of.id == column.id));
        same.map_or(&column.name, |one| &one.name).clone()
    }

    /// The place of a column in a file of a table of a plan; none where the file has no such.
    pub(super) fn column(
        &self,
        plan: &Plan,
        number: usize,
        columns: &[Column],
        name: &str,
    ) -> Option<usize> {
        self.placed(plan, number, columns, (name, None))
    }

    /// The same, where a column may have a number that tells it from others.
    pub(super) fn placed(
        &self,
        plan: &Plan,
        number: usize,
        columns: &[Column],
        (name, told): (&str, Option<i32>),
    ) -> Option<usize> {
        let then = Planned::of(plan, &plan.members[number]);
        let versions = self.runs.iter().flatten();
        let versions = versions.filter(|one| one.identity == then.identity && one.is_numbered);
        let newest = versions.clone().next().filter(|_| then.is_numbered);
        let Some(newest) = newest else {
            return columns.iter().position(|one| one.name == name);
        };
        let named: Vec<i32> = versions.filter_map(|one| one.has(name)).map(|one| one.id).collect();
        let id = told.or_else(|| named.first().copied());
        // A column that was dropped, and one that has its name since, are one to people.
        let is_dropped = |id: &i32| newest.columns.iter().all(|one| one.id != *id);
        let mut ids = id.into_iter().chain(named.into_iter().filter(is_dropped));
        ids.find_map(|id| columns.iter().position(|one| one.id == id))
    }

    /// What a column is in the newest run that knows it.
    ///
    /// # Errors
    ///
    /// [`Missing`](ErrorKind::Missing) when no run knows it, with those of the newest one.
    pub(super) fn known(&self, table: Option<&str>, column: &str) -> Result<&Column> {
        let newest = self.newest(table);
        let versions = self.runs.iter().flatten().filter(|one| {
            newest.is_some_and(|of| one.identity == of.identity || one.name == of.name)
        });
        let mut found = versions.filter_map(|one| one.has(column));
        found.next().ok_or_else(|| {
            let known = newest.map(|one| one.columns.iter().map(|one| &*one.name).collect());
            let known: Vec<&str> = known.unwrap_or_default();
            Error::new(ErrorKind::Missing, code::NO_SUCH_ARCHIVE, "find a column")
                .with("column", column)
                .with("columns", known.join(", "))
        })
    }

    /// Refuses conditions on columns that no run knows.
    pub(super) fn check(&self, table: Option<&str>, terms: &[Term]) -> Result<()> {
        terms.iter().try_for_each(|term| {
            let column = self.known(table, &term.column)?;
            let sense = Sense::of(column, &[], None);
            let needs_order = term.compares.needs_order();
            term.values.iter().try_for_each(|value| sense.admit(column, value, needs_order))
        })
    }

    /// Where the columns of conditions are in a file; none for those that it lacks, which are as
    /// good as NULL there.
    pub(super) fn places(
        &self,
        plan: &Plan,
        number: usize,
        columns: &[Column],
        terms: &[Term],
    ) -> Vec<(Option<usize>, Term)> {
        let place = |term: &Term| self.column(plan, number, columns, &term.column);
        terms.iter().map(|term| (place(term), term.clone())).collect()
    }
}
