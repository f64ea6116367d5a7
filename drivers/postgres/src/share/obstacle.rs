//! What of a live table keeps rows of the copy from coming back: a person should know it before the
//! statements are run.

use std::collections::BTreeSet;

use stillpoint_contract::Result;

use super::{compare::family, merge::Column};
use crate::{connect::Sql, error};

const STEP: &str = "compare tables";

/// Columns that need a value that nobody gives them.
const NEEDED: &str = "
    SELECT a.attname::text FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull
        AND NOT a.atthasdef AND a.attidentity::text = ''
    ORDER BY a.attnum";

/// Columns of enumerated types, with their values.
const ENUMERATED: &str = "
    SELECT a.attname::text, e.enumlabel::text
    FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_enum e ON e.enumtypid = a.atttypid
    WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attnum, e.enumsortorder";

/// What there is, in the order of its columns. `unasked` are unique indexes that are about other
/// columns, `partitions` what makes those that are gone.
pub(super) async fn obstacles(
    (own, table): (&Sql, u32),
    (live, now): (&Sql, u32),
    both: &[Column],
    (unasked, partitions): (Vec<String>, &[String]),
) -> Result<Vec<String>> {
    let failed = |e| error::sql(e, STEP);
    let mut notes: Vec<String> = unasked
        .into_iter()
        .map(|index| {
            format!(
                "{index} is about other columns than those that come back: a row that meets \
                 another in it stops everything"
            )
        })
        .collect();
    notes.extend(partitions.first().map(|first| {
        format!(
            "partitions that it had are gone ({}), and unless others take their rows, the script \
             fails at these: run first what it has in comments, {first}",
            partitions.len()
        )
    }));
    let changed = both.iter().filter(|column| family(&column.base) != family(&column.live));
    notes.extend(changed.map(|column| {
        format!(
            "{} was {} and is {}: a value that is none of these ends the script",
            column.name, column.base, column.live
        )
    }));
    for row in live.client.query(NEEDED, &[&now]).await.map_err(failed)? {
        let name: &str = row.try_get(0).map_err(failed)?;
        if !both.iter().any(|column| column.name == name) {
            notes.push(format!(
                "{name} must have a value, has no default, and was not there: a row that is \
                 missing ends the script"
            ));
        }
    }
    let (ours, theirs) = (enumerated(own, table).await?, enumerated(live, now).await?);
    let is_enumerated = |column: &&Column| theirs.iter().any(|(name, _)| *name == column.name);
    for column in both.iter().filter(is_enumerated) {
        let gone = ours.difference(&theirs).filter(|(name, _)| *name == column.name);
        let gone: Vec<_> = gone.map(|(_, value)| value.as_str()).collect();
        if !gone.is_empty() {
            notes.push(format!(
                "{} can no longer be {}: a row that was so ends the script",
                column.name,
                gone.join(" or ")
            ));
        }
    }
    Ok(notes)
}

async fn enumerated(sql: &Sql, table: u32) -> Result<BTreeSet<(String, String)>> {
    let failed = |e| error::sql(e, STEP);
    let rows = sql.client.query(ENUMERATED, &[&table]).await.map_err(failed)?;
    let pair = |row: &tokio_postgres::Row| Ok((row.try_get(0)?, row.try_get(1)?));
    rows.iter().map(pair).collect::<std::result::Result<_, _>>().map_err(failed)
}
