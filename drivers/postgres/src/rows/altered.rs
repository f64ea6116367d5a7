//! Values that a column makes others of since it has another type, or is computed by now: rows that
//! were put into their table are compared with those that passed.

use stillpoint_contract::{Column, Error, ErrorKind, Result, Table, code};
use tokio_postgres::Client;

use super::{failure::failed, passing::value};
use crate::tally::quoted;

const STEP: &str = "compare rows that were put back";

/// What takes rows as they were.
pub(super) const AS_THEN: &str =
    "--into staging puts all of them into a table of their own, with the columns of then";

/// How many characters of a value are told.
const SHOWN_MAX: u32 = 80;

/// A column of rows that pass, where its values may become others.
#[derive(Debug)]
pub(super) struct Changed {
    name: String,
    /// The place in a row.
    at: usize,
    /// Whether `put.was` and `there.COLUMN` differ.
    differs: String,
}

/// What is known of a type that a column had.
#[derive(Clone, Copy, Debug)]
struct Known {
    is_there: bool,
    /// Whether the type that the column has now has a cast to it.
    has_cast: bool,
    is_numeric: bool,
}

async fn known(client: &Client, was: &str, is: &str) -> Result<Known> {
    let query = "SELECT to_regtype($1) IS NOT NULL,
            coalesce(to_regtype($1) = to_regtype($2), false) OR EXISTS (SELECT FROM pg_cast
                WHERE castsource = to_regtype($2) AND casttarget = to_regtype($1)),
            coalesce(to_regtype($1) = 'numeric'::regtype, false)";
    let row = client.query_one(query, &[&was, &is]).await.map_err(|e| failed(e, STEP))?;
    let get = |at: usize| row.try_get::<_, bool>(at).map_err(|e| failed(e, STEP));
    Ok(Known { is_there: get(0)?, has_cast: get(1)?, is_numeric: get(2)? })
}

/// Whether the server has a type.
pub(super) async fn has_type(client: &Client, engine_type: &str) -> Result<bool> {
    Ok(known(client, engine_type, engine_type).await?.is_there)
}

/// The column of a table in which values may be others than they were, if it is one.
fn is_changed(column: &Column, target: &Column) -> bool {
    // What was computed is computed again.
    !(column.is_generated && target.is_generated)
        && (column.engine_type != target.engine_type || target.is_generated)
}

/// Whether the type of a column may be another one under the same name: one that somebody made has
/// a schema in its name. Values of such a type that came as text are compared whatever it is.
fn is_made(column: &Column, target: &Column) -> bool {
    column.is_cast && column.engine_type.contains('.') && !target.is_generated
}

/// The columns of a table in which values may become others.
pub(super) async fn changed(client: &Client, table: &Table, now: &Table) -> Result<Vec<Changed>> {
    let mut all = Vec::new();
    for (at, column) in table.columns.iter().enumerate() {
        let target = now.columns.iter().find(|target| target.name == column.name);
        let may_differ = |target: &&Column| is_changed(column, target) || is_made(column, target);
        let Some(target) = target.filter(may_differ) else { continue };
        let known = known(client, &column.engine_type, &target.engine_type).await?;
        let differs = differs(column, target, known);
        all.push(Changed { name: column.name.clone(), at, differs });
    }
    Ok(all)
}

/// A value is the same if it is again what it was once it has the type of then. Where no cast leads
/// there, its text does. Bytes are compared, whatever the collation is; of numbers, how many zeros
/// are behind the point does not count where the type of then does not say it.
fn differs(column: &Column, target: &Column, known: Known) -> String {
    let there = format!("there.{}", quoted(&target.name));
    let is_same_type = column.engine_type == target.engine_type;
    // A cast may cut short what is computed.
    if target.is_generated && !is_same_type || column.is_cast && !known.is_there {
        return image(&format!("{there}::text"), "put.was::text");
    }
    let back = if is_same_type {
        there
    } else if known.has_cast {
        format!("{there}::{}", column.engine_type)
    } else {
        format!("{there}::text::{}", column.engine_type)
    };
    if known.is_numeric && column.is_cast {
        format!("({back}) IS DISTINCT FROM put.was::numeric")
    } else if column.is_cast {
        image(&format!("({back})::text"), "put.was")
    } else {
        image(&back, "put.was")
    }
}

fn image(one: &str, other: &str) -> String {
    format!("ROW({one})::record *<> ROW({other})::record")
}

impl Changed {
    /// What finds a row whose value became another one: it returns the row's key, the value that
    /// was archived, and the one that is there.
    pub(super) fn query(&self, table: &Table, now: &Table, through: &str, only: &str) -> String {
        let (mut puts, mut same) = (vec![format!("c{} AS was", self.at)], Vec::new());
        let mut shown = Vec::new();
        for target in now.key.iter().map(|at| &now.columns[*at]) {
            let mut columns = table.columns.iter().enumerate();
            let Some((at, column)) = columns.find(|(_, column)| column.name == target.name) else {
                continue;
            };
            let mut put = value(at, column, &target.engine_type);
            if !column.is_cast && column.engine_type != target.engine_type {
                put = format!("{put}::{}", target.engine_type);
            }
            puts.push(format!("{put} AS k{at}"));
            let name = quoted(&target.name);
            same.push(format!("there.{name} = put.k{at}"));
            shown.push(format!("quote_nullable(put.k{at}::text)"));
        }
        format!(
            "SELECT concat_ws(', ', {}), {}, {}
             FROM (SELECT {} FROM {through}) AS put JOIN {only}{} AS there ON {}
             WHERE {} LIMIT 1",
            shown.join(", "),
            cut("put.was"),
            cut(&format!("there.{}", quoted(&self.name))),
            puts.join(", "),
            now.name,
            same.join(" AND "),
            self.differs,
        )
    }

    /// What finds a value that becomes another one, of rows that have no key by which they could be
    /// found afterwards.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) when the column is computed by now: only the row
    /// would say what of.
    pub(super) fn query_before(&self, table: &Table, now: &Table, through: &str) -> Result<String> {
        let target = now.columns.iter().find(|target| target.name == self.name);
        let Some(target) = target.filter(|target| !target.is_generated) else {
            let why = "the column is computed by now, and the rows have no key by which what is \
                       computed could be compared with what was archived";
            return Err(Error::new(ErrorKind::Unsupported, code::ROWS_REFUSED, STEP)
                .with("table", &now.name)
                .with("column", &self.name)
                .why(why)
                .next(AS_THEN));
        };
        let put = value(self.at, &table.columns[self.at], &target.engine_type);
        Ok(format!(
            "SELECT '', {}, {} FROM {through} AS passed, LATERAL (SELECT c{} AS was) AS put,
                LATERAL (SELECT ({put})::{} AS {}) AS there
             WHERE {} LIMIT 1",
            cut("put.was"),
            cut(&format!("there.{}", quoted(&self.name))),
            self.at,
            target.engine_type,
            quoted(&self.name),
            self.differs,
        ))
    }

    /// Says which value is none of the column's any more.
    pub(super) fn refused(&self, now: &Table, row: &tokio_postgres::Row) -> Error {
        let text = |at: usize| row.try_get::<_, String>(at).unwrap_or_default();
        let key = now.key.iter().map(|at| now.columns[*at].name.as_str()).collect::<Vec<_>>();
        let mut error =
            Error::new(ErrorKind::Refused, code::ROWS_DIFFER, STEP).with("table", &now.name);
        let values = text(0);
        if !values.is_empty() {
            error = error.with("key", format!("({}) = ({values})", key.join(", ")));
        }
        error
            .with("column", &self.name)
            .with("archived", text(1))
            .with("would become", text(2))
            .why("the column is declared otherwise than when the row was archived")
            .next(AS_THEN)
    }
}

fn cut(value: &str) -> String {
    format!("left(quote_nullable({value}::text), {SHOWN_MAX})")
}

#[cfg(test)]
mod tests {
    use stillpoint_contract::Kind;

    use super::*;

    fn column(engine_type: &str, is_cast: bool, is_generated: bool) -> Column {
        Column {
            name: "v".to_owned(),
            id: 1,
            engine_type: engine_type.to_owned(),
            kind: Kind::Text,
            is_cast,
            is_nullable: true,
            is_generated,
        }
    }

    #[test]
    fn columns_are_compared_in_the_type_that_they_had() {
        let known = |is_there, has_cast, is_numeric| Known { is_there, has_cast, is_numeric };
        for (was, is, known, expected) in [
            (("date", false), ("timestamp", false), known(true, true, false), "there.\"v\"::date)"),
            (("mood", false), ("text", false), known(true, false, false), "::text::mood)"),
            (("mood", true), ("text", false), known(false, false, false), "\"v\"::text)"),
            (("numeric", true), ("numeric(12,2)", false), known(true, true, true), "IS DISTINCT"),
            (("int", false), ("int", true), known(true, true, false), "ROW(there.\"v\")"),
            (("varchar(3)", false), ("text", true), known(true, true, false), "was::text"),
        ] {
            let (was, is) = (column(was.0, was.1, false), column(is.0, false, is.1));
            let told = differs(&was, &is, known);
            assert!(told.contains(expected), "{told}");
            assert!(is_changed(&was, &is));
        }
        assert!(!is_changed(&column("int", false, false), &column("int", false, false)));
        assert!(!is_changed(&column("int", false, true), &column("bigint", false, true)));
        assert!(is_changed(&column("int", false, true), &column("bigint", false, false)));
        for (engine_type, is_cast, expected) in
            [("public.duo", true, true), ("public.mood", false, false), ("numeric", true, false)]
        {
            let column = column(engine_type, is_cast, false);
            assert_eq!(is_made(&column, &column), expected, "{engine_type}");
        }
    }
}
