//! Tables and columns by the names that people know them by, in files of any time.
//!
//! A table keeps its identity when it is renamed, and, where the engine numbers columns, each of
//! them keeps its number. A name means what it means to the newest run that knows it.

use serde::{Deserialize, Serialize};
use stillpoint_contract::{Alike, Column, Error, ErrorKind, Kind, Likeness, Result, code};

use super::{
    condition::Term,
    document::{Plan, PlannedLink, PlannedMember},
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
    /// The places of its key's columns, each with which texts it takes for one.
    key: Vec<(usize, Alike)>,
    link: Option<PlannedLink>,
}

/// A column of a table's key, as a file has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeyColumn {
    /// What it is called now.
    pub(super) name: String,
    /// Its place in the file.
    pub(super) place: usize,
    /// Which texts it takes for one.
    pub(super) alike: Alike,
}

/// A column that refers, and the one that it refers to: by the names that they have now, and by
/// what says how the engine compares them.
#[derive(PartialEq, Eq)]
struct Pair<'a> {
    column: &'a str,
    parent: &'a str,
    parent_column: &'a str,
    declared: Option<&'a Kind>,
    engine_type: &'a str,
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
            key: table.compared_key().collect(),
            link: member.link.clone(),
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
        self.called(&of.identity).unwrap_or(&of.name).to_owned()
    }

    /// What the newest run that has it calls a table.
    fn called(&self, identity: &str) -> Option<&str> {
        let same = self.runs.iter().flatten().find(|one| one.identity == identity);
        same.map(|one| &*one.name)
    }

    fn now<'a>(&'a self, then: &'a Planned) -> &'a str {
        self.called(&then.identity).unwrap_or(&then.name)
    }

    /// Whether numbers tell columns of a table of a plan from all others that it had.
    #[cfg(feature = "parquet")]
    pub(super) fn is_numbered(plan: &Plan, number: usize) -> bool {
        Planned::of(plan, &plan.members[number]).is_numbered
    }

    /// The name that a column of a file has in the newest run.
    pub(super) fn column_now(&self, plan: &Plan, number: usize, column: &Column) -> String {
        let then = Planned::of(plan, &plan.members[number]);
        self.renamed(&then, column).to_owned()
    }

    fn renamed<'a>(&'a self, then: &Planned, column: &'a Column) -> &'a str {
        let newest = self.runs.iter().flatten().find(|one| one.identity == then.identity);
        let same = newest.filter(|one| one.is_numbered && then.is_numbered);
        let same = same.and_then(|one| one.columns.iter().find(|of| of.id == column.id));
        same.map_or(&column.name, |one| &one.name)
    }

    /// The columns of a table's key, by their names: an index may have the same ones in another
    /// order. They compare as the newest run says that has such a key: that is how rows of several
    /// files meet, and plans of before do not say it. `None` where a file does not have them.
    pub(super) fn key(
        &self,
        plan: &Plan,
        number: usize,
        columns: &[Column],
    ) -> Option<Vec<KeyColumn>> {
        let then = Planned::of(plan, &plan.members[number]);
        let mut key = self.key_of(&then, columns)?;
        let names =
            |key: &[KeyColumn]| -> Vec<String> { key.iter().map(|one| one.name.clone()).collect() };
        let is_it = |one: &&Planned| self.now(one) == self.now(&then);
        let mut versions = self.runs.iter().flatten().filter(is_it);
        let newest = versions.find_map(|one| {
            self.key_of(one, &one.columns).filter(|other| names(other) == names(&key))
        });
        for (own, now) in key.iter_mut().zip(newest.into_iter().flatten()) {
            own.alike = now.alike;
        }
        Some(key)
    }

    fn key_of(&self, then: &Planned, columns: &[Column]) -> Option<Vec<KeyColumn>> {
        let column = |(place, alike): &(usize, Alike)| {
            let name = self.renamed(then, columns.get(*place)?).to_owned();
            Some(KeyColumn { name, place: *place, alike: *alike })
        };
        let mut key = then.key.iter().map(column).collect::<Option<Vec<KeyColumn>>>()?;
        key.sort();
        Some(key)
    }

    /// How the engine compares the columns by which a table of a plan refers to another one, in
    /// their order; empty where nobody knows. Rows of a batch hang together as they did when its
    /// run was planned. Where that plan is one of before and does not say how, the newest one does
    /// that has such a link, to columns of the same types.
    pub(super) fn likeness(&self, plan: &Plan, number: usize) -> Vec<Likeness> {
        let Some(link) = &plan.members[number].link else { return Vec::new() };
        if !link.likeness.is_empty() {
            return link.likeness.clone();
        }
        let then: Vec<Planned> = plan.members.iter().map(|one| Planned::of(plan, one)).collect();
        let Some(own) = self.pairs(&then, &then[number]) else { return Vec::new() };
        let known = |run: &Vec<Planned>| {
            let is_it = |one: &&Planned| self.now(one) == self.now(&then[number]);
            run.iter().filter(is_it).find_map(|one| {
                let (said, link) = (self.pairs(run, one)?, one.link.as_ref()?);
                let of = |pair: &Pair<'_>| {
                    let at = said.iter().position(|other| other == pair)?;
                    link.likeness.get(at).copied()
                };
                let is_same = said.len() == own.len();
                own.iter().map(of).collect::<Option<Vec<Likeness>>>().filter(|_| is_same)
            })
        };
        self.runs.iter().find_map(known).unwrap_or_default()
    }

    /// Whether only the database knows which rows of a table of a plan hang on which others.
    pub(super) fn is_untold(&self, plan: &Plan, number: usize) -> bool {
        self.likeness(plan, number).iter().any(|one| one.is_untold)
    }

    /// The columns by which a table of a run refers to another one.
    fn pairs<'a>(&'a self, run: &'a [Planned], of: &'a Planned) -> Option<Vec<Pair<'a>>> {
        let link = of.link.as_ref()?;
        let parent = run.get(link.parent)?;
        let pair = |(own, other): (&String, &String)| {
            let column = &of.columns[place_of(&of.columns, own)?];
            let other = &parent.columns[place_of(&parent.columns, other)?];
            let declared = Some(&other.kind).filter(|kind| matches!(kind, Kind::Dynamic { .. }));
            // What is in parentheses says how long values are.
            let engine_type = other.engine_type.split('(').next().filter(|_| declared.is_none());
            Some(Pair {
                column: self.renamed(of, column),
                parent: self.now(parent),
                parent_column: self.renamed(parent, other),
                declared,
                engine_type: engine_type.unwrap_or_default().trim_end(),
            })
        };
        link.columns.iter().zip(&link.parent_columns).map(pair).collect()
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

/// The place of a column that a link names. Plans of before have names as a reference of SQLite
/// writes them, which may have other capital letters.
pub(super) fn place_of(columns: &[Column], name: &str) -> Option<usize> {
    let same = columns.iter().position(|one| one.name == name);
    same.or_else(|| columns.iter().position(|one| one.name.eq_ignore_ascii_case(name)))
}

#[cfg(test)]
mod tests {
    use stillpoint_contract::{Class, Table};

    use super::*;
    use crate::archiver::shelf::Shelved;

    const PLAIN: Likeness = Likeness { becomes: None, alike: Alike::Same, is_untold: false };
    const UNTOLD: Likeness = Likeness { is_untold: true, ..PLAIN };
    const CASE: Likeness =
        Likeness { becomes: Some(Class::Text), alike: Alike::Case, is_untold: false };
    const NUMBER: Likeness = Likeness { becomes: Some(Class::Integer), ..PLAIN };

    fn member(name: &str, columns: &[(&str, Class)]) -> PlannedMember {
        let column = |(id, (name, declared)): (i32, &(&str, Class))| Column {
            name: (*name).to_owned(),
            id,
            engine_type: String::new(),
            kind: Kind::Dynamic { declared: *declared },
            is_cast: false,
            is_nullable: false,
            is_generated: false,
        };
        let table = Table {
            name: name.to_owned(),
            identity: name.to_owned(),
            columns: (0..).zip(columns).map(column).collect(),
            key: vec![0, 1],
            alike: Vec::new(),
            fingerprint: String::new(),
        };
        PlannedMember { table, link: None }
    }

    /// Lines that refer to heads by an area and a code.
    fn plan(area: Class) -> Plan {
        let heads = member("heads", &[("area", area), ("code", Class::Text)]);
        let lines = member("lines", &[("id", Class::Integer), ("a", area), ("c", Class::Text)]);
        let owned = |names: [&str; 2]| names.map(str::to_owned).to_vec();
        let link = PlannedLink {
            parent: 0,
            columns: owned(["a", "c"]),
            parent_columns: owned(["area", "code"]),
            likeness: Vec::new(),
        };
        Plan::of_members(vec![heads, PlannedMember { link: Some(link), ..lines }])
    }

    fn said(mut plan: Plan, likeness: [Likeness; 2]) -> Plan {
        if let Some(link) = &mut plan.members[1].link {
            link.likeness = likeness.to_vec();
        }
        plan
    }

    fn keyed(alike: &[Alike]) -> Plan {
        let mut plan = plan(Class::Integer);
        plan.members[0].table.alike = alike.to_vec();
        plan
    }

    /// Of runs, oldest first.
    fn names(plans: &[&Plan]) -> Names {
        let runs = plans.iter().map(|plan| Shelved::begun(Plan::clone(plan)));
        Names::of(&Shelf { runs: runs.collect() })
    }

    #[test]
    fn keys_are_the_same_by_the_collation_that_the_newest_plan_says() {
        let (old, new) = (keyed(&[]), keyed(&[Alike::Same, Alike::Case]));
        let key = |names: &Names, plan: &Plan| {
            let key = names.key(plan, 0, &plan.members[0].table.columns).unwrap();
            key.into_iter().map(|one| (one.name, one.place, one.alike)).collect::<Vec<_>>()
        };
        let of = |alike| [("area".to_owned(), 0, Alike::Same), ("code".to_owned(), 1, alike)];
        for one in [&old, &new] {
            assert_eq!(key(&names(&[&old, &new]), one), of(Alike::Case));
            assert_eq!(key(&names(&[&new, &old]), one), of(Alike::Same));
        }
        // An index may have them in another order, and another key says nothing of this one.
        let mut turned = keyed(&[Alike::Spaces, Alike::Same]);
        turned.members[0].table.key = vec![1, 0];
        let mut other = keyed(&[]);
        other.members[0].table.key = vec![1];
        let all = names(&[&old, &turned, &other]);
        assert_eq!(key(&all, &old), of(Alike::Spaces));
        assert_eq!(key(&all, &other), [("code".to_owned(), 1, Alike::Same)]);
        assert_eq!(all.key(&old, 0, &old.members[0].table.columns[..1]), None);
    }

    #[test]
    fn what_hangs_together_does_so_as_the_plan_says_or_the_newest_one_that_does() {
        let old = plan(Class::Integer);
        let new = said(plan(Class::Integer), [NUMBER, CASE]);
        let all = names(&[&old, &new, &old]);
        assert_eq!(all.likeness(&old, 1), [NUMBER, CASE]);
        assert_eq!(all.likeness(&old, 0), []);
        // Rows of a file hang together as they did then.
        let newest = said(plan(Class::Integer), [NUMBER, NUMBER]);
        let all = names(&[&old, &new, &newest]);
        assert_eq!(all.likeness(&new, 1), [NUMBER, CASE]);
        assert_eq!(all.likeness(&old, 1), [NUMBER, NUMBER]);
        // A column of another type compared otherwise.
        assert_eq!(all.likeness(&plan(Class::Text), 1), []);
        assert_eq!(names(&[&old]).likeness(&old, 1), []);
        // So do other columns; the same ones may be in another order, and in other letters.
        let mut turned = new;
        if let Some(link) = &mut turned.members[1].link {
            link.likeness.reverse();
            link.columns.reverse();
            link.parent_columns = vec!["CODE".to_owned(), "area".to_owned()];
        }
        assert_eq!(names(&[&old, &turned]).likeness(&old, 1), [NUMBER, CASE]);
        if let Some(link) = &mut turned.members[1].link {
            link.parent_columns = vec!["area".to_owned(), "code".to_owned()];
        }
        assert_eq!(names(&[&old, &turned]).likeness(&old, 1), []);
    }

    #[test]
    fn what_files_do_not_tell_is_known_of_plans_that_say_nothing() {
        let old = plan(Class::Integer);
        let untold = said(plan(Class::Integer), [PLAIN, UNTOLD]);
        let told = said(plan(Class::Integer), [PLAIN, PLAIN]);
        for (plans, one, expected) in [
            ([&old, &untold], &old, true),
            ([&old, &told], &old, false),
            ([&untold, &told], &untold, true),
            ([&untold, &told], &told, false),
            ([&old, &old], &old, false),
        ] {
            assert_eq!(names(&plans).is_untold(one, 1), expected, "{plans:?} {one:?}");
        }
        assert!(!names(&[&untold]).is_untold(&untold, 0));
    }
}
