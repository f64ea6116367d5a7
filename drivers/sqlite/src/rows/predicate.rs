//! What people say about which rows are moved: one expression, the same at any time.

use chrono::NaiveDateTime;
use rusqlite::{Connection, config::DbConfig};
use stillpoint_contract::{Cutoff, CutoffForm, Error, ErrorKind, Result, Table, code};

use super::{
    schema::{own_name, quoted},
    worker::Desk,
};

const STEP: &str = "understand which rows are meant";
pub(super) const CUTOFF: &str = ":cutoff";
const FORMS: &str = "datetime, iso8601, date, unix, unix-ms, julian-day";

/// Functions whose value depends on the clock, when their arguments say so.
/// Source: <https://www.sqlite.org/lang_datefunc.html>.
const TIMES: [&str; 7] =
    ["date", "time", "datetime", "julianday", "unixepoch", "strftime", "timediff"];

/// Words by which they look at the clock, or at the zone of this machine.
const MOMENTS: [&str; 5] = ["now", "localtime", "utc", "subsec", "subsecond"];

/// What is the time whatever surrounds it.
const CLOCKS: [&str; 3] = ["current_timestamp", "current_date", "current_time"];

fn invalid(predicate: &str, why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, code::ROWS_REFUSED, STEP)
        .with("predicate", predicate)
        .why(why.into())
}

/// Puts the cutoff into a predicate.
pub(super) fn bind(
    desk: &Desk,
    table: &Table,
    predicate: &str,
    cutoff: Option<&Cutoff>,
) -> Result<String> {
    let mut bound = String::new();
    for token in tokens(predicate).map_err(|why| invalid(predicate, why))? {
        if token == CUTOFF {
            bound.push_str(&literal(predicate, cutoff)?);
        } else {
            bound.push_str(token);
        }
    }
    check_moments(&bound).map_err(|why| invalid(predicate, why))?;
    check_alone(desk, table, predicate, &bound)?;
    let own = own_name(&table.name)?;
    let select = format!("SELECT 1 FROM main.{} WHERE ({bound}) LIMIT 0", quoted(&own));
    let prepared = desk.connection().prepare(&select).map(drop);
    prepared.map_err(|e| invalid(predicate, "SQLite does not understand it").caused_by(e))?;
    Ok(bound)
}

/// SQLite lets an index be partial by a predicate only if that looks at no other table and calls
/// no function that answers differently each time: that is what is wanted here, too. Double quotes
/// name columns there, and never are text by mistake.
/// Sources: <https://www.sqlite.org/partialindex.html>, 2; <https://www.sqlite.org/quirks.html>, 8.
fn check_alone(desk: &Desk, table: &Table, predicate: &str, bound: &str) -> Result<()> {
    let own = own_name(&table.name)?;
    let definition = "SELECT sql FROM main.sqlite_schema WHERE type = 'table' \
                      AND name = ?1 COLLATE NOCASE";
    let definition = desk.connection().query_row(definition, [&own], |row| row.get(0));
    let definition: String = desk.sql(definition, STEP)?;
    let empty = || -> rusqlite::Result<Connection> {
        let empty = Connection::open_in_memory()?;
        empty.execute_batch(&definition)?;
        empty.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
        empty.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)?;
        Ok(empty)
    };
    let empty = empty().map_err(|e| {
        Error::new(ErrorKind::Unsupported, code::ROWS_REFUSED, STEP)
            .with("table", &table.name)
            .why("its definition needs functions that only the application has")
            .caused_by(e)
    })?;
    let first = table.columns.first().map_or("", |column| column.name.as_str());
    let index = format!(
        "CREATE INDEX \"stillpoint predicate\" ON {} ({}) WHERE ({bound})",
        quoted(&own),
        quoted(first)
    );
    empty.execute_batch(&index).map_err(|e| {
        invalid(predicate, "it selects other rows at other times, or looks at more than one row")
            .next("compare columns of the table with constants, and with :cutoff")
            .caused_by(e)
    })
}

/// Cuts a predicate where it has names, numbers, text and signs. Refuses what is not between its
/// own parentheses, and what would hide the end of the statement that it becomes part of.
pub(super) fn tokens(text: &str) -> std::result::Result<Vec<&str>, String> {
    let (mut tokens, mut rest, mut depth) = (Vec::new(), text, 0_u32);
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '\'' | '"' | '`' => quote(rest, first)?,
            '[' => rest.find(']').ok_or("a bracket is not closed")? + 1,
            ';' => return Err("it is more than one expression".to_owned()),
            '-' if rest.starts_with("--") => return Err("it has a comment".to_owned()),
            '/' if rest.starts_with("/*") => return Err("it has a comment".to_owned()),
            '\0' => return Err("it has a character that ends it".to_owned()),
            ':' => {
                let name = rest[1..].find(|c: char| !is_word(c)).map_or(rest.len(), |end| end + 1);
                if &rest[..name] != CUTOFF {
                    return Err(format!("{} is no parameter: {CUTOFF} is one", &rest[..name]));
                }
                name
            }
            '?' | '@' | '#' => return Err(format!("{first} begins a parameter that is not given")),
            '(' => {
                depth += 1;
                1
            }
            ')' => {
                depth = depth.checked_sub(1).ok_or("a parenthesis ends that did not begin")?;
                1
            }
            c if is_word(c) => rest.find(|c: char| !is_word(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        if first == '$' {
            return Err("$ begins a parameter that is not given".to_owned());
        }
        tokens.push(&rest[..length]);
        rest = &rest[length..];
    }
    if depth > 0 {
        return Err("a parenthesis is not closed".to_owned());
    }
    if text.trim().is_empty() {
        return Err("it is empty; 1 selects all rows".to_owned());
    }
    Ok(tokens)
}

/// Every character beyond ASCII can be part of a name.
/// Source: SQLite 3.54 tokenize.c, `IdChar`.
fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

fn quote(rest: &str, mark: char) -> std::result::Result<usize, String> {
    let mut at = 1;
    loop {
        at += rest[at..].find(mark).ok_or("a quote is not closed")? + 1;
        if !rest[at..].starts_with(mark) {
            return Ok(at);
        }
        at += 1;
    }
}

/// Refuses the clock. SQLite notices it in an index only once a row is added.
fn check_moments(bound: &str) -> std::result::Result<(), String> {
    let tokens: Vec<_> =
        tokens(bound)?.into_iter().filter(|token| !token.trim().is_empty()).collect();
    for (at, token) in tokens.iter().enumerate() {
        let lower = token.to_lowercase();
        if CLOCKS.contains(&lower.as_str()) {
            return Err(format!("{token} differs each time"));
        }
        let function = lower.trim_matches(['"', '`', '[', ']']);
        if !TIMES.contains(&function) || tokens.get(at + 1) != Some(&"(") {
            continue;
        }
        let (mut depth, mut commas) = (0_u32, 0);
        let inner = tokens[at + 1..].iter().take_while(|token| {
            match **token {
                "(" => depth += 1,
                ")" => depth -= 1,
                "," if depth == 1 => commas += 1,
                _ => {}
            }
            depth > 0
        });
        let inner: Vec<_> = inner.skip(1).collect();
        let is_moment = |token: &&&&str| {
            let text = token.trim_matches(['\'', '"']).trim().to_lowercase();
            token.starts_with(['\'', '"']) && MOMENTS.contains(&text.as_str())
        };
        if let Some(moment) = inner.iter().find(is_moment) {
            return Err(format!("{token} with {moment} differs each time, or on each machine"));
        }
        if inner.is_empty() || function == "strftime" && commas == 0 {
            return Err(format!("{token} of nothing is the time at which it is asked"));
        }
    }
    Ok(())
}

pub(super) fn literal(predicate: &str, cutoff: Option<&Cutoff>) -> Result<String> {
    let Some(cutoff) = cutoff else {
        return Err(invalid(predicate, "it compares with :cutoff, and there is no cutoff")
            .next("cutoff = \"now - 24 months\""));
    };
    let Some(form) = cutoff.form else {
        return Err(invalid(predicate, "how times are written in this database is not said")
            .with("forms", FORMS)
            .next("cutoff_form = \"datetime\""));
    };
    let local: NaiveDateTime = cutoff.local.unwrap_or_else(|| cutoff.at.naive_utc());
    // What is left out makes the cutoff earlier, never later.
    Ok(match form {
        CutoffForm::Datetime => local.format("'%Y-%m-%d %H:%M:%S'").to_string(),
        CutoffForm::Iso8601 => local.format("'%Y-%m-%dT%H:%M:%S'").to_string(),
        CutoffForm::Date => local.format("'%Y-%m-%d'").to_string(),
        CutoffForm::Unix => cutoff.at.timestamp().to_string(),
        CutoffForm::UnixMs => cutoff.at.timestamp_millis().to_string(),
        CutoffForm::JulianDay => {
            let day = cutoff.at.timestamp_millis() as f64 / 86_400_000.0 + 2_440_587.5;
            format!("{day:?}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_expression_is_a_predicate() {
        for fine in [
            "a < :cutoff AND b IN ('x', 'it''s; -- fine', \"we(ird\", [a)b], `c;`)",
            "datetime(a) < '2020-01-01'",
            "(a - 1) / 2 > 3",
            "strftime('%Y', a) < '2020' AND status = 'now'",
        ] {
            tokens(fine).unwrap();
            check_moments(fine).unwrap();
        }
        for broken in [
            "1) OR (1",
            "a; DROP TABLE t",
            "a -- b",
            "a /* b",
            "a = 'x",
            "a = \"x",
            "[a",
            "(a",
            "",
            " ",
            "a = ?",
            "a = ?1",
            "a = @x",
            "a = $x",
            "a = :other",
            "a = :cutoffs",
            "a\0",
            "a#b",
        ] {
            assert!(tokens(broken).is_err(), "{broken}");
        }
        for moment in [
            "a < datetime('now')",
            "a < date ( 'Now' , '-1 day')",
            "a < CURRENT_TIMESTAMP",
            "a < unixepoch()",
            "strftime('%s') > a",
            "datetime(a, 'localtime') < 'x'",
            "datetime((a), (\"utc\")) < 'x'",
            "julianday('subsec') > 1",
        ] {
            assert!(check_moments(moment).is_err(), "{moment}");
        }
    }

    #[test]
    fn a_cutoff_has_the_form_that_is_asked_for() {
        let at = "2024-11-27T21:14:31.750Z".parse().unwrap();
        let local = "2024-11-27T22:14:31.750".parse().ok();
        for (form, expected) in [
            (CutoffForm::Datetime, "'2024-11-27 22:14:31'"),
            (CutoffForm::Iso8601, "'2024-11-27T22:14:31'"),
            (CutoffForm::Date, "'2024-11-27'"),
            (CutoffForm::Unix, "1732742071"),
            (CutoffForm::UnixMs, "1732742071750"),
            (CutoffForm::JulianDay, "2460642.38508"),
        ] {
            let cutoff = Cutoff { at, local, form: Some(form) };
            let found = literal("x", Some(&cutoff)).unwrap();
            assert!(found.starts_with(expected), "{found}");
        }
        let unknown = Cutoff { at, local, form: None };
        let error = literal("x", Some(&unknown)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(literal("x", None).unwrap_err().kind(), ErrorKind::Invalid);
    }
}
