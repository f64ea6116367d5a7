//! What is compared with the cutoff: SQLite compares values of any class, and never says that they
//! are none of those that were meant.

use stillpoint_contract::{
    ArchiveSet, Compared, Cutoff, CutoffForm, Finding, KeyRange, Result, Table, Weight,
};

use super::{
    predicate::{self, CUTOFF},
    schema::{Term, is_indexed, own_name, quoted},
    select::condition,
    worker::Desk,
};

const STEP: &str = "look at what is compared with the cutoff";

/// How many selected rows are looked at, from either end.
const LOOKED_AT_MAX: u32 = 100_000;

/// Looks at what the selected rows have there.
pub(super) fn compared(
    desk: &Desk,
    set: &ArchiveSet,
    predicate: &str,
    cutoff: &Cutoff,
) -> Result<Option<Compared>> {
    let Some(form) = cutoff.form else { return Ok(None) };
    let literal = predicate::literal(predicate, Some(cutoff))?;
    let mut all: Option<Compared> = None;
    for what in expressions(predicate) {
        let found = look(desk, set, &what, form, &literal)?;
        match &mut all {
            None => all = Some(found),
            Some(all) => all.misfit = all.misfit.take().or(found.misfit),
        }
    }
    Ok(all)
}

fn look(
    desk: &Desk,
    set: &ArchiveSet,
    what: &str,
    form: CutoffForm,
    literal: &str,
) -> Result<Compared> {
    let table = &set.root().table;
    let own = own_name(&table.name)?;
    let selected = condition(desk, set, 0, &KeyRange::default())?.sql;
    let from = format!("SELECT {what} AS v FROM main.{} WHERE {selected}", quoted(&own));
    let misfits = misfits(form, literal);
    let ends = |some: &str| {
        format!(
            "SELECT count(*), CAST(min(v) AS TEXT), CAST(max(v) AS TEXT), \
             max(CASE WHEN {misfits} THEN typeof(v) || ' ' || CAST(v AS TEXT) END) FROM ({some})"
        )
    };
    let first = format!("SELECT v FROM ({from} LIMIT {LOOKED_AT_MAX})");
    let mut seen = ask(desk, &ends(&first))?;
    // Those that were added last are the newest ones, as a rule.
    if seen.count >= LOOKED_AT_MAX && has_rowid(desk, &own) {
        let last = format!("SELECT v FROM ({from} ORDER BY rowid DESC LIMIT {LOOKED_AT_MAX})");
        seen = ask(desk, &ends(&format!("{first} UNION ALL {last}")))?;
    }
    // Numbers are before all texts, and where there is an index they are found at once.
    if let (None, Some(column)) = (&seen.misfit, column_of(table, what))
        && literal.starts_with('\'')
        && desk.sql(is_indexed(desk.connection(), &own, &[as_it_is(column)]), STEP)?
    {
        seen.misfit = ask(desk, &ends(&format!("{from} AND {what} < '' LIMIT 1")))?.misfit;
    }
    let Seen { oldest, newest, misfit, .. } = seen;
    let misfit = misfit.map(|unlike| {
        let (class, value) = unlike.split_once(' ').unwrap_or((&unlike, ""));
        finding(what, form, class, value)
    });
    Ok(Compared { what: what.to_owned(), oldest, newest, misfit })
}

/// What some rows have.
struct Seen {
    count: u32,
    oldest: Option<String>,
    newest: Option<String>,
    /// The class of a value that does not fit, and the value.
    misfit: Option<String>,
}

fn ask(desk: &Desk, sql: &str) -> Result<Seen> {
    let seen = desk.connection().query_row(sql, [], |row| {
        let (count, oldest) = (row.get(0)?, row.get(1)?);
        Ok(Seen { count, oldest, newest: row.get(2)?, misfit: row.get(3)? })
    });
    desk.sql(seen, STEP)
}

fn has_rowid(desk: &Desk, own: &str) -> bool {
    let query = format!("SELECT rowid FROM main.{} LIMIT 0", quoted(own));
    desk.connection().prepare(&query).is_ok()
}

fn column_of<'a>(table: &'a Table, what: &str) -> Option<&'a str> {
    let columns = table.columns.iter().map(|column| column.name.as_str());
    let is_it = |name: &&str| {
        let plain = what.trim_matches(['"', '`', '[', ']']);
        plain.eq_ignore_ascii_case(name)
    };
    columns.into_iter().find(is_it)
}

/// A column as it compares by itself.
fn as_it_is(column: &str) -> Term {
    Term { name: column.to_owned(), collation: None }
}

fn finding(what: &str, form: CutoffForm, class: &str, value: &str) -> Finding {
    let wanted = match form {
        CutoffForm::Datetime => "text such as 2024-11-27 21:14:31",
        CutoffForm::Iso8601 => "text such as 2024-11-27T21:14:31",
        CutoffForm::Date => "text such as 2024-11-27",
        CutoffForm::Unix => "seconds since 1970",
        CutoffForm::UnixMs => "milliseconds since 1970",
        CutoffForm::JulianDay => "julian days",
    };
    let shown: String = value.chars().take(40).collect();
    let found = format!(
        "{what} is compared with {wanted}, and selected rows have there {class} values such as \
         {shown}: those would go, however new they are"
    );
    let statement = likely(class, value).map(|form| format!("cutoff_form = \"{form}\""));
    Finding { subject: "cutoff", found, weight: Weight::Lacking, statement }
}

/// The form that a value seems to have.
fn likely(class: &str, value: &str) -> Option<&'static str> {
    if class == "text" {
        let is_date = value.len() >= 10
            && value.as_bytes()[..10].iter().enumerate().all(|(at, byte)| match at {
                4 | 7 => *byte == b'-',
                _ => byte.is_ascii_digit(),
            });
        return is_date.then(|| match value.as_bytes().get(10) {
            None => "date",
            Some(b'T') => "iso8601",
            Some(_) => "datetime",
        });
    }
    let number: f64 = value.parse().ok()?;
    [(1e11..1e14, "unix-ms"), (1e8..1e10, "unix"), (2.3e6..2.6e6, "julian-day")]
        .into_iter()
        .find_map(|(range, form)| range.contains(&number).then_some(form))
}

/// Which values are none of a form, and would be taken for old ones.
fn misfits(form: CutoffForm, literal: &str) -> String {
    const DAY: &str = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*";
    let no_day = format!("(typeof(v) <> 'text' OR v NOT GLOB '{DAY}')");
    // Text is compared as text where the column says so, and digits as many as these in order.
    let length = literal.len();
    let no_number = format!(
        "typeof(v) = 'blob' OR typeof(v) = 'text' AND (length(v) <> {length} OR v GLOB '*[^0-9]*')"
    );
    // Julian days, and dates or years written as one number.
    let small = "v BETWEEN 2300000 AND 2600000 OR v BETWEEN 19000101 AND 21001231 \
                 OR v BETWEEN 1900 AND 2100";
    match form {
        CutoffForm::Datetime | CutoffForm::Date => no_day,
        // A blank is before the letter: a time of the same day would be before any other.
        CutoffForm::Iso8601 => format!("({no_day} OR substr(v, 11, 1) = ' ')"),
        CutoffForm::Unix => format!("({no_number} OR typeof(v) <> 'text' AND ({small}))"),
        CutoffForm::UnixMs => {
            format!("({no_number} OR typeof(v) <> 'text' AND ({small} OR v >= 1e8 AND v < 1e10))")
        }
        CutoffForm::JulianDay => "(typeof(v) IN ('text', 'blob') OR v < 1721000)".to_owned(),
    }
}

/// What a predicate says to be before the cutoff.
fn expressions(predicate: &str) -> Vec<String> {
    let Ok(tokens) = predicate::tokens(predicate) else { return Vec::new() };
    let tokens: Vec<&str> = tokens.into_iter().filter(|token| !token.trim().is_empty()).collect();
    let ends = |token: &str| {
        ["and", "or", "not", "when", "then", "else", "case", ","]
            .contains(&token.to_ascii_lowercase().as_str())
    };
    let mut found = Vec::new();
    for at in (0..tokens.len()).filter(|at| tokens[*at] == CUTOFF) {
        let before = &tokens[..at];
        let before = before.strip_suffix(&["="]).unwrap_or(before);
        let side: Vec<&str> = if let Some(left) = before.strip_suffix(&["<"]) {
            let mut side = up_to(left.iter().rev().copied(), (")", "("), ends);
            side.reverse();
            side
        } else {
            let behind = &tokens[at + 1..];
            let Some(right) = behind.strip_prefix(&[">"]) else { continue };
            let right = right.strip_prefix(&["="]).unwrap_or(right);
            up_to(right.iter().copied(), ("(", ")"), ends)
        };
        if !side.is_empty() {
            found.push(side.join(" "));
        }
    }
    found
}

/// Tokens up to the end of what is compared.
fn up_to<'a>(
    tokens: impl Iterator<Item = &'a str>,
    (opens, closes): (&str, &str),
    ends: impl Fn(&str) -> bool,
) -> Vec<&'a str> {
    let (mut depth, mut taken) = (0_u32, Vec::new());
    for token in tokens {
        if token == opens {
            depth += 1;
        } else if token == closes {
            let Some(less) = depth.checked_sub(1) else { break };
            depth = less;
        } else if depth == 0 && ends(token) {
            break;
        }
        taken.push(token);
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compared_with_the_cutoff_is_found() {
        for (predicate, expected) in [
            ("a < :cutoff", &["a"][..]),
            ("state = 'x' AND \"the time\" <= :cutoff", &["\"the time\""]),
            ("(a < :cutoff) OR (:cutoff >= datetime(b, 'x'))", &["a", "datetime ( b , 'x' )"]),
            ("NOT a + 1 < :cutoff AND b", &["a + 1"]),
            ("a > :cutoff", &[]),
            ("a = 1", &[]),
        ] {
            assert_eq!(expressions(predicate), expected, "{predicate}");
        }
    }

    #[test]
    fn values_are_told_from_those_of_another_form() {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        let literals = [
            (CutoffForm::Datetime, "'2024-11-27 21:14:31'"),
            (CutoffForm::Iso8601, "'2024-11-27T21:14:31'"),
            (CutoffForm::Date, "'2024-11-27'"),
            (CutoffForm::Unix, "1732742071"),
            (CutoffForm::UnixMs, "1732742071000"),
            (CutoffForm::JulianDay, "2460642.385"),
        ];
        // Each value, and whether it fits each form.
        for (value, fits) in [
            ("'2020-01-02 03:04:05'", [true, false, true, false, false, false]),
            ("'2020-01-02T03:04:05'", [true, true, true, false, false, false]),
            ("'2020-01-02'", [true, true, true, false, false, false]),
            ("1577934245", [false, false, false, true, false, true]),
            ("1577934245000", [false, false, false, true, true, true]),
            ("2458850.62", [false, false, false, false, false, true]),
            ("20200102", [false, false, false, false, false, true]),
            ("2020", [false, false, false, false, false, false]),
            ("'1577934245'", [false, false, false, true, false, false]),
            ("'old'", [false; 6]),
        ] {
            for ((form, literal), fits) in literals.into_iter().zip(fits) {
                let query = format!("SELECT {} FROM (SELECT {value} AS v)", misfits(form, literal));
                let is_misfit: bool = connection.query_row(&query, [], |row| row.get(0)).unwrap();
                assert_eq!(!is_misfit, fits, "{value} {form:?}");
            }
        }
        assert_eq!(likely("text", "2020-01-02T03:04:05"), Some("iso8601"));
        assert_eq!(likely("integer", "1577934245"), Some("unix"));
        assert_eq!(likely("text", "old"), None);
    }
}
