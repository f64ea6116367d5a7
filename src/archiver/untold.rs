//! References that only the database compares: what is in files does not tell which rows hang on
//! which there.
//!
//! Rows are read, deleted and put back by them as by any others, since the database says each time
//! which those are. Whoever has nothing but files is refused, or keeps more.

use stillpoint_contract::{Error, ErrorKind, code};

use super::{document::Plan, names::Names};

/// The place of a table of which files do not tell which of its rows hang on those of another one,
/// by whatever is between them; none where they tell it of all tables.
pub(super) fn below(names: &Names, plan: &Plan, of: usize) -> Option<usize> {
    let members = &plan.members;
    (0..members.len()).find(|number| {
        let (mut at, mut is_untold) = (*number, false);
        while at > of {
            let link = members[at].link.as_ref().filter(|link| link.parent < at);
            let Some(link) = link else { return false };
            is_untold |= names.is_untold(plan, at);
            at = link.parent;
        }
        at == of && is_untold
    })
}

/// What refuses to go on where it would have to be known which rows of a table hang on others.
fn refused(plan: &Plan, number: usize, step: &'static str) -> Error {
    let member = &plan.members[number];
    let mut error = Error::new(ErrorKind::Refused, code::ROWS_REFUSED, step)
        .with("table", &member.table.name)
        .with("run", &plan.run);
    if let Some(link) = &member.link {
        error = error
            .with("columns", link.columns.join(", "))
            .with("refers to", &plan.members[link.parent].table.name);
    }
    error.why(
        "only the database knows which rows hang on which there: files do not tell it, and those \
         of others could be taken",
    )
}

/// Refuses to take rows of a subject out of files, with all that hangs on them.
pub(super) fn no_subject(plan: &Plan, number: usize) -> Error {
    let (table, set) = (&plan.members[number].table.name, &plan.set);
    refused(plan, number, "find what hangs on somebody's rows")
        .next(format!(
            "stillpoint archive erase {set} --table {table} --subject COLUMN=VALUE takes rows of \
             that table out by a column of its own"
        ))
        .next(format!(
            "stillpoint archive plan {set} says which statement gives columns a type that files \
             compare: they tell it of rows that are archived after that"
        ))
}

/// Refuses to put rows of which a condition is true back, with all that hangs on them.
pub(super) fn no_family(plan: &Plan, number: usize) -> Error {
    let set = &plan.set;
    refused(plan, number, "find what hangs on rows")
        .next(format!(
            "stillpoint archive restore {set} --table TABLE --where CONDITION, for one table after \
             the other"
        ))
        .next(format!("stillpoint archive restore {set} --all"))
}

#[cfg(test)]
mod tests {
    use stillpoint_contract::{Likeness, Table};

    use super::*;
    use crate::archiver::document::{PlannedLink, PlannedMember};

    fn member(link: Option<(usize, bool)>) -> PlannedMember {
        let table = Table {
            name: "t".to_owned(),
            identity: "t".to_owned(),
            columns: Vec::new(),
            key: Vec::new(),
            alike: Vec::new(),
            fingerprint: String::new(),
        };
        let link = link.map(|(parent, is_untold)| PlannedLink {
            parent,
            columns: vec!["p".to_owned()],
            parent_columns: vec!["k".to_owned()],
            likeness: vec![Likeness { is_untold, ..Likeness::default() }],
        });
        PlannedMember { table, link }
    }

    #[test]
    fn what_hangs_on_rows_by_a_link_of_the_database_is_not_told() {
        // 0 <- 1 <~ 2 <- 3, and 0 <- 4 <- 5.
        let links = [None, Some((0, false)), Some((1, true)), Some((2, false))];
        let links = links.into_iter().chain([Some((0, false)), Some((4, false))]);
        let plan = Plan::of_members(links.map(member).collect());
        let expected = [Some(2), Some(2), None, None, None, None];
        for (of, expected) in expected.into_iter().enumerate() {
            assert_eq!(below(&Names::default(), &plan, of), expected, "{of}");
        }
    }

    #[test]
    fn a_link_that_leads_nowhere_ends() {
        let plan = Plan::of_members(vec![member(None), member(Some((1, true)))]);
        assert_eq!(below(&Names::default(), &plan, 0), None);
    }
}
