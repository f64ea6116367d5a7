//! Text of databases that keep it as UTF-16. SQLite hands it over as UTF-8: it makes other text of
//! what is ill-formed, and of some of what is not, on the way out or on the way in.
//! Source: <https://www.sqlite.org/invalidutf.html>.

use rusqlite::Row;
use stillpoint_contract::{Error, ErrorKind, Result, Table, code};

use super::{
    schema::quoted,
    select::{Dynamic, columns},
    worker::Desk,
};

const STEP: &str = "read rows";

/// The columns of a table, as they stand in rows. In a database whose text is not UTF-8, one more
/// is behind them, which [`check`] looks at; then the table is handed over, too.
pub(super) fn checked_columns<'a>(
    desk: &Desk,
    table: &'a Table,
) -> Result<(String, Option<&'a Table>)> {
    let shown = columns(table);
    let encoding = desk.connection().pragma_query_value(None, "encoding", |row| row.get(0));
    let encoding: String = desk.sql(encoding, STEP)?;
    if encoding == "UTF-8" || table.columns.is_empty() {
        return Ok((shown, None));
    }
    let places = table.columns.iter().enumerate();
    let cases = places.map(|(at, column)| format!("WHEN {} THEN {at}", is_other(&column.name)));
    let cases = cases.collect::<Vec<_>>().join(" ");
    Ok((format!("{shown}, CASE {cases} END"), Some(table)))
}

/// That the text of a column does not come back as the same bytes: functions work on UTF-8, so that
/// this one hands it over and takes it back.
fn is_other(column: &str) -> String {
    let name = quoted(column);
    format!(
        "typeof({name}) = 'text' \
         AND CAST(replace({name}, 'x', 'x') AS BLOB) IS NOT CAST({name} AS BLOB)"
    )
}

/// Refuses a row with text that would come back as other text.
pub(super) fn check(desk: &Desk, table: &Table, row: &Row<'_>) -> Result<()> {
    let place = row.get::<_, Option<u32>>(table.columns.len());
    let Some(place) = desk.sql(place, STEP)? else { return Ok(()) };
    let column =
        table.columns.get(place as usize).map(|column| column.name.as_str()).unwrap_or_default();
    let (mut names, mut values) = (Vec::new(), Vec::new());
    for at in &table.key {
        names.push(table.columns[*at].name.as_str());
        values.push(Dynamic::of(desk.sql(row.get_ref(*at), STEP)?).to_string());
    }
    let (name, where_it_is) = (quoted(column), is_other(column));
    Err(Error::new(ErrorKind::Unsupported, code::ROWS_REFUSED, STEP)
        .with("table", &table.name)
        .with("key", format!("({}) = ({})", names.join(", "), values.join(", ")))
        .with("column", column)
        .why("its text is UTF-16 that SQLite makes other text of when it is read or put back")
        .next(format!("SELECT * FROM {} WHERE {where_it_is}", table.name))
        .next(format!(
            "UPDATE {} SET {name} = CAST({name} AS BLOB) WHERE {where_it_is}: bytes come back as \
             they are",
            table.name
        )))
}
