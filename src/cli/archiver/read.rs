//! `stillpoint archive get` and `scan`: archived rows, printed.

use clap::{Args, ValueEnum};
use stillpoint_contract::{Error, ErrorKind, LedgerEntry, Result, code};

use super::place::Set;
use crate::{
    archiver::{
        Compares, FoundRows, Place, Shelf, Term, Wanted, columns_of,
        file::{csv_header, csv_record, json_line},
        find, ledger_of, unsettled_rows,
    },
    cli::{answer::print, exit, session::Session},
};

/// What `archive get` is told.
#[derive(Debug, Args)]
pub(crate) struct GetOptions {
    /// The archive set.
    set: String,
    /// The value of the key; of a key of several columns, once for each of them, in order.
    #[arg(
        long = "id",
        visible_alias = "key",
        value_name = "VALUE",
        required = true,
        allow_hyphen_values = true
    )]
    id: Vec<String>,
    /// The table [default: the root].
    #[arg(long, value_name = "TABLE")]
    table: Option<String>,
    /// The form of rows.
    #[arg(long, value_name = "FORM", default_value = "jsonl")]
    format: Form,
}

/// What `archive scan` is told.
#[derive(Debug, Args)]
pub(crate) struct ScanOptions {
    /// The archive set.
    set: String,
    /// Which rows, such as: customer_id = 42 and created_at < 2024-01-01.
    ///
    /// A column is compared with a value by =, !=, <, <=, > or >=, or it is in (7, 8), not in
    /// ('a', 'b'), is null, or is not null. All that and joins has to be so; there is no or. What
    /// has spaces in it stands in quotes. A file without the column has NULL there.
    #[arg(long = "where", value_name = "CONDITION", default_value = "")]
    condition: String,
    /// The table [default: the root].
    #[arg(long, value_name = "TABLE")]
    table: Option<String>,
    /// Only rows of this run.
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
    /// At most so many rows.
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u64>,
    /// The form of rows.
    #[arg(long, value_name = "FORM", default_value = "jsonl")]
    format: Form,
}

/// The form of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Comma-separated values with a header.
    Csv,
    /// One JSON object in a line.
    Jsonl,
}

/// Prints rows by their key.
pub(super) async fn get(session: &Session, options: GetOptions) -> Result<u8> {
    let set = Set::of(session, &options.set).await?;
    let place = set.place_to_read(session).await?;
    let key = key_of(&place, options.table.as_deref()).await?;
    if key.len() != options.id.len() {
        return Err(Error::new(ErrorKind::Invalid, code::USAGE, "find rows by their key")
            .with("key", key.join(", "))
            .with("values", options.id.len()));
    }
    let term = |(column, value)| Term { column, compares: Compares::Equal, values: vec![value] };
    let terms = key.into_iter().zip(options.id).map(term).collect();
    let wanted = Wanted { table: options.table, terms, ..Wanted::default() };
    let batches = write(session, &set, &place, &wanted, options.format).await?;
    if batches.len() > 1 {
        let of = |(run, batch): &(String, u32)| format!("{run} (batch {batch})");
        session.warn(&format!(
            "these are {} versions of one row, oldest first, of the runs {}; archive restore puts \
             the newest one back, or the newest of --run RUN",
            batches.len(),
            batches.iter().map(of).collect::<Vec<_>>().join(", ")
        ));
    }
    if batches.is_empty() {
        return Err(Error::new(ErrorKind::Missing, code::NO_SUCH_ARCHIVE, "find the row")
            .with("set", &options.set)
            .why("no archived row has that key; it may still be in its table"));
    }
    Ok(exit::OK)
}

/// Prints rows.
pub(super) async fn scan(session: &Session, options: ScanOptions) -> Result<u8> {
    let terms = Wanted::terms_of(&options.condition)?;
    let set = Set::of(session, &options.set).await?;
    let place = set.place_to_read(session).await?;
    let ScanOptions { table, run, limit, format, .. } = options;
    let wanted = Wanted { table, terms, run, rows_max: limit };
    write(session, &set, &place, &wanted, format).await?;
    Ok(exit::OK)
}

/// The columns of a table's key.
async fn key_of(place: &Place, table: Option<&str>) -> Result<Vec<String>> {
    let shelf = Shelf::load(place).await?;
    let plan = &shelf.runs.last().ok_or_else(|| nothing(place))?.plan;
    let table = &plan.members[plan.member_of(table)?].table;
    let key = table.key.iter().filter_map(|at| table.columns.get(*at));
    Ok(key.map(|column| column.name.clone()).collect())
}

fn nothing(place: &Place) -> Error {
    Error::new(ErrorKind::Missing, code::NO_SUCH_ARCHIVE, "read archived rows")
        .with("set", place.set())
        .with("place", place.location())
        .why("nothing was archived yet")
}

/// What the ledger says, if it has to be asked: only it knows which rows of a run that has not
/// ended are gone from their tables.
pub(super) async fn ledger(
    session: &Session,
    set: &Set,
    place: &Place,
) -> Result<Option<Vec<LedgerEntry>>> {
    let unsettled = unsettled_rows(&Shelf::load(place).await?);
    if unsettled == 0 {
        return Ok(None);
    }
    let ask = async { ledger_of(place, &*set.driver(session).await?).await };
    let why = match ask.await {
        Ok(Some(ledger)) => return Ok(Some(ledger)),
        Ok(None) => "its table is gone, or not the one that they came from".to_owned(),
        Err(error) => error.to_string(),
    };
    session.warn(&format!(
        "{unsettled} rows of a run that has not ended are passed over: which of them are archived \
         only the database knows, and it could not be asked: {why}"
    ));
    Ok(None)
}

/// Prints rows, and returns the runs and batches that they are from, in their order.
async fn write(
    session: &Session,
    set: &Set,
    place: &Place,
    wanted: &Wanted,
    form: Form,
) -> Result<Vec<(String, u32)>> {
    // One heading for all files, whatever columns they have.
    let heading = columns_of(&Shelf::load(place).await?, wanted.table.as_deref());
    let mut is_headed = form != Form::Csv;
    let ledger = ledger(session, set, place).await?;
    let mut batches: Vec<(String, u32)> = Vec::new();
    let print_all = async |found: FoundRows| {
        if batches.last().is_none_or(|(run, batch)| *run != found.run || *batch != found.batch) {
            batches.push((found.run.clone(), found.batch));
        }
        let mut text = Vec::new();
        if !is_headed {
            csv_header(&heading, &mut text);
            is_headed = true;
        }
        let place = |name: &str| found.columns.iter().position(|column| column.name == name);
        let fields: Vec<_> = heading.iter().map(|column| place(&column.name)).collect();
        for row in found.rows.rows() {
            match form {
                Form::Csv => csv_record(row, &found.columns, &fields, &mut text)?,
                Form::Jsonl => json_line(row, &found.columns, &mut text)?,
            }
        }
        print(&String::from_utf8_lossy(&text))
    };
    find(place, &session.world.cpu, wanted, ledger.as_deref(), print_all).await?;
    Ok(batches)
}
