//! What people say about which rows are moved: one expression, the same at any time.

use std::fmt::Write as _;

use stillpoint_contract::{Cutoff, Error, ErrorKind, Result, Table, code};
use tokio_postgres::{Client, error::SqlState, types::Type};

use super::{failure::failed, table::number_of, transaction::Connection};
use crate::tally::quoted;

const STEP: &str = "understand which rows are meant";
const CUTOFF: &str = ":cutoff";

fn invalid(predicate: &str, why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, code::ROWS_REFUSED, STEP)
        .with("predicate", predicate)
        .why(why.into())
}

/// Puts the cutoff into a predicate.
pub(super) async fn bind(
    connection: &mut Connection,
    table: &Table,
    predicate: &str,
    cutoff: Option<&Cutoff>,
) -> Result<String> {
    let tokens = tokens(predicate).map_err(|why| invalid(predicate, why))?;
    let client = connection.client()?;
    refuse_foreign(client, table, predicate, &tokens).await?;
    let types = cutoff_types(client, table, predicate, &tokens).await?;
    let mut types = types.iter();
    let mut bound = String::new();
    for token in tokens {
        match token {
            CUTOFF => {
                let of = types.next().ok_or_else(|| Error::bug(STEP))?;
                bound.push_str(&literal(predicate, of, cutoff)?);
            }
            other => bound.push_str(other),
        }
    }
    check_alone(connection, table, predicate, &bound).await?;
    Ok(bound)
}

/// What all has to hold for a predicate to hold: what `AND` joins.
pub(super) fn conjuncts(predicate: &str) -> Result<Vec<String>> {
    let tokens = tokens(predicate).map_err(|why| invalid(predicate, why))?;
    let is = |token: &str, word: &str| token.eq_ignore_ascii_case(word);
    let (mut parts, mut depth, mut betweens) = (vec![String::new()], 0_u32, 0_u32);
    for token in tokens {
        match token {
            "(" | "[" => depth += 1,
            ")" | "]" => depth = depth.saturating_sub(1),
            // What stands between these is no condition of its own.
            _ if is(token, "case") => depth += 1,
            _ if is(token, "end") => depth = depth.saturating_sub(1),
            _ if depth > 0 => {}
            _ if is(token, "or") => return Ok(vec![predicate.to_owned()]),
            _ if is(token, "between") => betweens += 1,
            _ if is(token, "and") && betweens > 0 => betweens -= 1,
            _ if is(token, "and") => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(part) = parts.last_mut() {
            part.push_str(token);
        }
    }
    Ok(parts)
}

/// The types that the server takes each `:cutoff` for, by what it is compared with.
async fn cutoff_types(
    client: &Client,
    table: &Table,
    predicate: &str,
    tokens: &[&str],
) -> Result<Vec<Type>> {
    let (mut sql, mut count) = (String::new(), 0);
    for token in tokens {
        if *token == CUTOFF {
            count += 1;
            // Writing to a string does not fail.
            let _ = write!(sql, "${count}");
        } else {
            sql.push_str(token);
        }
    }
    let query = format!("SELECT FROM ONLY {} WHERE ({sql})", table.name);
    let statement = client.prepare(&query).await.map_err(|e| {
        if e.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) || e.as_db_error().is_none() {
            return failed(e, STEP);
        }
        said(invalid(predicate, "the server does not understand it"), e)
    })?;
    Ok(statement.params().to_vec())
}

/// An operator of an extension's type is found by name, and in our sessions only those of
/// `pg_catalog` are: `citext = 'x'` would silently be that of `text`, which tells small letters
/// from capital ones. Source: PostgreSQL 18 documentation, F.9.2, "citext, How to Use It", and
/// 10.2, "Operators".
async fn refuse_foreign(
    client: &Client,
    table: &Table,
    predicate: &str,
    tokens: &[&str],
) -> Result<()> {
    let query = "
        WITH RECURSIVE b AS (
            SELECT attname, atttypid AS typ FROM pg_attribute
                WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped
            UNION ALL SELECT b.attname, t.typbasetype FROM b
                JOIN pg_type AS t ON t.oid = b.typ WHERE t.typtype = 'd')
        SELECT b.attname::text, format_type(t.oid, NULL) FROM b JOIN pg_type AS t ON t.oid = b.typ
            JOIN pg_namespace AS n ON n.oid = t.typnamespace
        WHERE n.nspname <> 'pg_catalog' AND t.typtype = 'b' AND t.typelem = 0";
    let number = number_of(client, table).await?;
    let rows = client.query(query, &[&number]).await.map_err(|e| failed(e, STEP))?;
    for row in &rows {
        let (column, of): (&str, &str) = (
            row.try_get(0).map_err(|e| failed(e, STEP))?,
            row.try_get(1).map_err(|e| failed(e, STEP))?,
        );
        let is_named = |token: &str| token == quoted(column) || token.to_lowercase() == column;
        for (at, token) in tokens.iter().enumerate() {
            let is_cast = tokens.get(at + 1..at + 3).is_some_and(|next| next == [":", ":"]);
            if is_named(token) && !is_cast {
                return Err(invalid(
                    predicate,
                    "operators of its type are not those of the server",
                )
                .with("column", column)
                .with("type", of)
                .next(format!("say what is compared: {}::text", quoted(column))));
            }
        }
    }
    Ok(())
}

/// The server lets an index be partial by a predicate only if that looks at no other table and
/// calls no function that answers differently each time: that is what is wanted here, too. It is
/// asked on an empty table of the same columns, in a transaction that is rolled back.
/// Source: PostgreSQL 18 documentation, CREATE INDEX, "predicate".
async fn check_alone(
    connection: &mut Connection,
    table: &Table,
    predicate: &str,
    bound: &str,
) -> Result<()> {
    let mut transaction = connection.begin("BEGIN").await?;
    let step = transaction.step()?;
    let done = make_index(step.client()?, table, bound).await;
    let done = step.end(Ok(done))?;
    transaction.roll_back().await?;
    done.map_err(|e| match e.code() {
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => failed(e, STEP)
            .next("GRANT TEMPORARY ON DATABASE … TO …: the predicate is tried on an empty table"),
        None => failed(e, STEP),
        Some(_) => said(
            invalid(
                predicate,
                "it selects other rows at other times, or looks at more than one row",
            ),
            e,
        )
        .next("compare columns of the table with constants, and with :cutoff"),
    })
}

async fn make_index(
    client: &Client,
    table: &Table,
    bound: &str,
) -> std::result::Result<(), tokio_postgres::Error> {
    let own = table.name.rsplit_once('.').map_or(table.name.as_str(), |(_, own)| own);
    // A name with a dot in it is quoted, and any other will do for it.
    let own = if own.starts_with('"') == own.ends_with('"') { own } else { "empty" };
    client.execute(&format!("CREATE TEMPORARY TABLE {own} (LIKE {})", table.name), &[]).await?;
    // A constant has an order, and a column might not.
    let index = format!("CREATE INDEX ON pg_temp.{own} ((1)) WHERE ({bound})");
    client.execute(&index, &[]).await.map(drop)
}

fn said(error: Error, cause: tokio_postgres::Error) -> Error {
    let message = cause.as_db_error().map(|db| db.message().to_owned());
    let error = match message {
        Some(message) => error.with("server", message),
        None => error,
    };
    error.caused_by(cause)
}

fn literal(predicate: &str, of: &Type, cutoff: Option<&Cutoff>) -> Result<String> {
    let Some(cutoff) = cutoff else {
        return Err(invalid(predicate, "it compares with :cutoff, and there is no cutoff")
            .next("cutoff = \"now - 24 months\""));
    };
    if *of == Type::TIMESTAMPTZ {
        let at = cutoff.at.format("%Y-%m-%d %H:%M:%S%.6f+00");
        return Ok(format!("'{at}'::timestamp with time zone"));
    }
    if *of != Type::TIMESTAMP && *of != Type::DATE {
        return Err(invalid(predicate, "what it compares with :cutoff is no time")
            .with("type", of.name())
            .next("compare it with a column that is a timestamp or a date"));
    }
    let Some(local) = cutoff.local else {
        return Err(invalid(predicate, "it compares with times without a zone")
            .with("type", of.name())
            .next("cutoff_timezone = \"UTC\", or the zone of those who write these times"));
    };
    Ok(if *of == Type::DATE {
        format!("'{}'::date", local.format("%Y-%m-%d"))
    } else {
        format!("'{}'::timestamp without time zone", local.format("%Y-%m-%d %H:%M:%S%.6f"))
    })
}

/// Cuts a predicate where it has names, numbers, text and signs. Refuses what is not between its
/// own parentheses, and what would hide the end of the statement that it becomes part of.
/// Source: PostgreSQL 18 documentation, 4.1, "Lexical Structure".
fn tokens(text: &str) -> std::result::Result<Vec<&str>, String> {
    let (mut tokens, mut rest, mut open) = (Vec::<&str>::new(), text, Vec::new());
    while let Some(first) = rest.chars().next() {
        let escapes = tokens.last().is_some_and(|last| last.eq_ignore_ascii_case("e"));
        let after_colon = tokens.last() == Some(&":");
        let length = match first {
            '\'' => quote(rest, '\'', escapes)?,
            '"' => quote(rest, '"', false)?,
            ';' => return Err("it is more than one expression".to_owned()),
            '-' if rest.starts_with("--") => return Err("it has a comment".to_owned()),
            '/' if rest.starts_with("/*") => return Err("it has a comment".to_owned()),
            '\0' => return Err("it has a character that ends it".to_owned()),
            '$' => dollars(rest)?,
            ':' if !after_colon && rest[1..].starts_with(|c: char| c.is_ascii_lowercase()) => {
                let end = rest[1..].find(|c| !is_word(c)).map_or(rest.len(), |end| end + 1);
                if &rest[..end] != CUTOFF {
                    return Err(format!("{} is no parameter: {CUTOFF} is one", &rest[..end]));
                }
                end
            }
            '(' | '[' => {
                open.push(first);
                1
            }
            ')' | ']' => {
                let begun = if first == ')' { '(' } else { '[' };
                if open.pop() != Some(begun) {
                    return Err("a parenthesis ends that did not begin".to_owned());
                }
                1
            }
            c if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        tokens.push(&rest[..length]);
        rest = &rest[length..];
    }
    if !open.is_empty() {
        return Err("a parenthesis is not closed".to_owned());
    }
    if text.trim().is_empty() {
        return Err("it is empty; true selects all rows".to_owned());
    }
    Ok(tokens)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

fn quote(rest: &str, mark: char, escapes: bool) -> std::result::Result<usize, String> {
    let mut at = 1;
    while let Some(c) = rest[at..].chars().next() {
        at += c.len_utf8();
        if escapes && c == '\\' {
            at += rest[at..].chars().next().map_or(0, char::len_utf8);
        } else if c == mark {
            if !rest[at..].starts_with(mark) {
                return Ok(at);
            }
            at += 1;
        }
    }
    Err("a quote is not closed".to_owned())
}

/// Text between `$tag$` and `$tag$`.
fn dollars(rest: &str) -> std::result::Result<usize, String> {
    let end = rest[1..].find('$').map(|end| end + 2);
    let tag = end.map(|end| &rest[..end]).filter(|tag| {
        let name = &tag[1..tag.len() - 1];
        !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| is_word(c) && c != '$')
    });
    let tag = tag.ok_or("$ begins a parameter that is not given")?;
    let length = rest[tag.len()..].find(tag).ok_or("a quote is not closed")?;
    Ok(length + 2 * tag.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_predicate_is_cut_where_and_joins() {
        for (predicate, expected) in [
            ("a < 1", &["a < 1"][..]),
            ("a < 1 AND b = 'x and y'", &["a < 1 ", " b = 'x and y'"]),
            ("a BETWEEN 1 AND 2 and (b AND c)", &["a BETWEEN 1 AND 2 ", " (b AND c)"]),
            ("a AND b OR c", &["a AND b OR c"]),
            ("CASE WHEN a AND b THEN c END AND d", &["CASE WHEN a AND b THEN c END ", " d"]),
            ("\"and\" AND (a OR b)", &["\"and\" ", " (a OR b)"]),
        ] {
            assert_eq!(conjuncts(predicate).unwrap(), expected, "{predicate}");
        }
    }

    #[test]
    fn only_one_expression_is_a_predicate() {
        for fine in [
            "a < :cutoff AND b IN ('x', 'it''s; --', E'\\'; -- \\\\', \"we(ird\"\"\", $x$;'$x$)",
            "(a - 1) / 2 > 3 AND b[1:2] = '{}' AND c::date < :cutoff AND d = $$)$$",
            "U&'\\0061' = a AND a$b = 'x\\'",
        ] {
            tokens(fine).unwrap();
        }
        let both = tokens("a::timestamp < :cutoff").unwrap();
        assert_eq!(both.iter().filter(|token| **token == CUTOFF).count(), 1);
        for broken in [
            "1=1) OR (1=1",
            "a; DROP TABLE t",
            "a -- b",
            "a /* b",
            "a = 'x",
            "a = \"x",
            "(a",
            "",
            " ",
            "a = $1",
            "a = :other",
            "a = :cutoffs",
            "a\0",
            "E'\\'",
            "$x$;$y$",
            "(a]",
            "[a)",
            "'x\\' OR (1=1",
        ] {
            assert!(tokens(broken).is_err(), "{broken}");
        }
    }
}
