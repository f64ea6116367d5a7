//! Which blocks changed, by the summaries that servers from 17 on make of their WAL.
//!
//! Source: <https://www.postgresql.org/docs/current/functions-info.html>, "WAL Summarization
//! Information Functions".

use std::{ops::Range, sync::Arc, time::Duration};

use futures::StreamExt as _;
use stillpoint_contract::{Clock, Result};

use crate::{
    connect::Sql,
    copy::plan::Changes,
    error,
    facts::Facts,
    wire::{lsn_from, lsn_text},
};

const STEP: &str = "ask which blocks changed";

/// How long the summaries may lag behind the start of the backup.
const LAG_MAX: Duration = Duration::from_mins(1);
const LAG_PAUSE: Duration = Duration::from_millis(50);

/// The most changed blocks that are held: 64 GiB of them. Beyond, everything is read.
const BLOCKS_MAX: usize = 8 << 20;

/// Why a server has no summaries.
pub(crate) fn missing(facts: &Facts) -> Option<&'static str> {
    if !facts.version.has_wal_summaries() {
        Some("PostgreSQL before 17 keeps no WAL summaries")
    } else if !facts.is_on("summarize_wal") {
        Some("summarize_wal is off")
    } else {
        None
    }
}

/// The blocks that changed within a range of WAL; the inner error says why nobody knows.
pub(crate) async fn changes(
    sql: &Sql,
    timeline: u32,
    range: Range<u64>,
    clock: &Arc<dyn Clock>,
) -> Result<Result<Changes, &'static str>> {
    let since = clock.elapsed();
    let summaries = loop {
        let found = available(sql, timeline, &range).await?;
        match covers(&found, &range) {
            Cover::Whole => break found,
            Cover::Hole => return Ok(Err("WAL summaries since the base are gone")),
            Cover::Behind if clock.elapsed().saturating_sub(since) > LAG_MAX => {
                return Ok(Err("WAL summaries lag behind"));
            }
            Cover::Behind => clock.sleep(LAG_PAUSE).await,
        }
    };
    let (mut changes, mut count) = (Changes::default(), 0);
    for summary in summaries {
        count += read(sql, timeline, &summary, &mut changes).await?;
        if count > BLOCKS_MAX {
            return Ok(Err("too many blocks changed"));
        }
    }
    Ok(Ok(changes))
}

/// Summaries that touch a range, in order.
async fn available(sql: &Sql, timeline: u32, range: &Range<u64>) -> Result<Vec<Range<u64>>> {
    let failed = |e| error::sql(e, STEP);
    // A bare name would order them by their text, where 0/10000000 comes before 0/F000000.
    let query = "SELECT start_lsn::text, end_lsn::text FROM pg_available_wal_summaries() AS s \
                 WHERE tli = $1 AND end_lsn > $2::text::pg_lsn AND start_lsn < $3::text::pg_lsn \
                 ORDER BY s.start_lsn, s.end_lsn";
    let (from, to) = (lsn_text(range.start), lsn_text(range.end));
    let rows = sql.client.query(query, &[&i64::from(timeline), &from, &to]).await;
    let summary = |row: &tokio_postgres::Row| {
        let lsn = |column| -> Result<u64> {
            let text: &str = row.try_get(column).map_err(failed)?;
            lsn_from(text).ok_or_else(|| error::unexpected(text, STEP))
        };
        Ok(lsn(0)?..lsn(1)?)
    };
    rows.map_err(failed)?.iter().map(summary).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cover {
    Whole,
    /// They end before the range does, and may yet grow.
    Behind,
    Hole,
}

fn covers(summaries: &[Range<u64>], range: &Range<u64>) -> Cover {
    let mut reached = range.start;
    for summary in summaries {
        if summary.start > reached {
            return Cover::Hole;
        }
        reached = reached.max(summary.end);
    }
    if reached >= range.end { Cover::Whole } else { Cover::Behind }
}

/// Adds one summary's blocks; returns how many were news.
async fn read(
    sql: &Sql,
    timeline: u32,
    summary: &Range<u64>,
    changes: &mut Changes,
) -> Result<usize> {
    let failed = |e| error::sql(e, STEP);
    let query = "SELECT reltablespace::int8, reldatabase::int8, relfilenode::int8, \
                 relforknumber::int4, relblocknumber::int8, is_limit_block \
                 FROM pg_wal_summary_contents($1, $2::text::pg_lsn, $3::text::pg_lsn)";
    let (from, to) = (lsn_text(summary.start), lsn_text(summary.end));
    let (timeline, mut count) = (i64::from(timeline), 0);
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 3] = [&timeline, &from, &to];
    let rows = sql.client.query_raw(query, parameters).await.map_err(failed)?;
    let mut rows = Box::pin(rows);
    while let Some(row) = rows.next().await {
        let row = row.map_err(failed)?;
        let oid = |column| -> Result<u32> {
            let number: i64 = row.try_get(column).map_err(failed)?;
            u32::try_from(number).map_err(|_| error::unexpected(number, STEP))
        };
        let (tablespace, database, number) = (oid(0)?, oid(1)?, oid(2)?);
        let fork: i32 = row.try_get(3).map_err(failed)?;
        let block = oid(4)?;
        let is_limit: bool = row.try_get(5).map_err(failed)?;
        if number == 0 {
            changes.recreate(tablespace, database);
            continue;
        }
        let fork = (tablespace, database, number, u8::try_from(fork).unwrap_or(u8::MAX));
        if is_limit {
            changes.cut(fork, block);
        } else if changes.block(fork, block) {
            count += 1;
        }
        if count > BLOCKS_MAX {
            break;
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_covered_without_a_hole_or_not() {
        let range = 10..30;
        assert_eq!(covers(&[5..15, 15..30], &range), Cover::Whole);
        assert_eq!(covers(&[5..40, 6..7], &range), Cover::Whole);
        assert_eq!(covers(&[5..15, 16..30], &range), Cover::Hole);
        assert_eq!(covers(&[12..30, 30..40], &range), Cover::Hole);
        assert_eq!(covers(&[5..15, 6..20], &range), Cover::Behind);
        assert_eq!(covers(&[], &range), Cover::Behind);
    }
}
