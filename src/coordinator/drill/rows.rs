//! Rows of tables in a restored state, against what backups recorded.

use std::collections::BTreeMap;

use stillpoint_contract::{Tally, Verdict};

use crate::repository::drill::{RowCheck, TableRows};

/// Estimates of fewer rows are not judged.
const JUDGED_ROWS_MIN: u64 = 10_000;

/// Of a table of which so many rows were estimated, so many must be there: one in two.
const ESTIMATE_SHARE: u64 = 2;

/// Of which state the recorded rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Basis {
    /// Of the state that was restored.
    Same,
    /// Of the backup, after which so many transactions were replayed.
    Before(u64),
}

/// Compares. Counts of the same state must be equal; estimates of it must not be far off; between
/// two states everything may have changed, so that differences are told and not judged.
pub(super) fn compare(recorded: Vec<Tally>, counted: Vec<Tally>, basis: Basis) -> RowCheck {
    let described = describe(&recorded, basis);
    let mut found: BTreeMap<String, (Option<Tally>, Option<u64>)> = BTreeMap::new();
    for tally in recorded {
        found.insert(tally.table.clone(), (Some(tally), None));
    }
    for tally in counted {
        found.entry(tally.table).or_default().1 = Some(tally.rows);
    }
    let tables: Vec<TableRows> = found
        .into_iter()
        .map(|(table, (recorded, counted))| TableRows {
            table,
            verdict: match (&recorded, basis) {
                (Some(tally), Basis::Same) => judge(tally, counted),
                _ => Verdict::Skipped,
            },
            exact: recorded.as_ref().is_some_and(|tally| tally.exact),
            recorded: recorded.map(|tally| tally.rows),
            counted,
        })
        .collect();
    let has = |verdict| tables.iter().any(|table| table.verdict == verdict);
    let verdict = match (has(Verdict::Failed), has(Verdict::Passed)) {
        (true, _) => Verdict::Failed,
        (false, true) => Verdict::Passed,
        (false, false) => Verdict::Skipped,
    };
    RowCheck { basis: described, verdict, tables }
}

fn judge(recorded: &Tally, counted: Option<u64>) -> Verdict {
    let is_right = if recorded.exact {
        counted == Some(recorded.rows)
    } else if recorded.rows < JUDGED_ROWS_MIN {
        return Verdict::Skipped;
    } else {
        let least = recorded.rows / ESTIMATE_SHARE;
        counted.is_some_and(|rows| rows >= least)
    };
    if is_right { Verdict::Passed } else { Verdict::Failed }
}

fn describe(recorded: &[Tally], basis: Basis) -> String {
    let (exact, all) = (recorded.iter().filter(|tally| tally.exact).count(), recorded.len());
    let how = match (exact, all) {
        (_, 0) => return "the backup recorded no rows".to_owned(),
        (exact, all) if exact == all => "counted",
        (0, _) => "estimated by the server",
        _ => "in part counted, in part estimated",
    };
    match basis {
        Basis::Same if exact == all => {
            format!("rows of this very state, {how} with its backup: they must be equal")
        }
        Basis::Same => format!(
            "rows of this very state, {how} with its backup: of estimates of {JUDGED_ROWS_MIN} and \
             more, at least half must be there"
        ),
        Basis::Before(transactions) => format!(
            "rows of the backup, {how} then; what {transactions} transactions changed since is \
             told and not judged"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(table: &str, rows: u64, exact: bool) -> Tally {
        Tally { table: table.to_owned(), rows, exact }
    }

    fn verdicts(recorded: &[(u64, bool)], counted: &[u64], basis: Basis) -> (Verdict, usize) {
        let name = |n: usize| format!("t{n}");
        let recorded = recorded.iter().enumerate().map(|(n, (r, e))| tally(&name(n), *r, *e));
        let counted = counted.iter().enumerate().map(|(n, rows)| tally(&name(n), *rows, true));
        let check = compare(recorded.collect(), counted.collect(), basis);
        (check.verdict, check.tables.len())
    }

    #[test]
    fn counts_of_the_same_state_must_be_equal() {
        let recorded = [(5, true), (7, true)];
        assert_eq!(verdicts(&recorded, &[5, 7, 9], Basis::Same), (Verdict::Passed, 3));
        assert_eq!(verdicts(&recorded, &[5, 8], Basis::Same), (Verdict::Failed, 2));
        assert_eq!(verdicts(&recorded, &[5], Basis::Same), (Verdict::Failed, 2));
        assert_eq!(verdicts(&[], &[5], Basis::Same), (Verdict::Skipped, 1));
    }

    #[test]
    fn estimates_must_not_be_far_off_and_small_ones_may_be() {
        assert_eq!(verdicts(&[(20_000, false)], &[10_000], Basis::Same).0, Verdict::Passed);
        assert_eq!(verdicts(&[(20_000, false)], &[9_999], Basis::Same).0, Verdict::Failed);
        assert_eq!(verdicts(&[(20_000, false)], &[], Basis::Same).0, Verdict::Failed);
        assert_eq!(verdicts(&[(9_999, false)], &[0], Basis::Same).0, Verdict::Skipped);
    }

    #[test]
    fn between_two_states_nothing_is_judged() {
        assert_eq!(verdicts(&[(5, true)], &[9], Basis::Before(3)), (Verdict::Skipped, 1));
    }
}
