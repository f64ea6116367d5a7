//! How much space a table takes, and about how much of it new rows can use.
//!
//! Only extensions know the latter, and few servers have them. It is estimated from the number of
//! rows, dead ones among them, since these take space until they are vacuumed, and from the length
//! of some. Of indexes nothing is counted: what is free there takes keys of some ranges only.

use stillpoint_contract::{Result, Space, Table};
use tokio_postgres::Client;

use super::{failure::failed, table::number_of};
use crate::tally::quoted;

const STEP: &str = "ask how much space the table takes";

/// Pages that are looked at for how long rows are.
const SAMPLE_PAGES: f64 = 100.0;

/// A value that is longer than this is elsewhere, and a pointer is in its place.
/// Source: PostgreSQL 18 documentation, 66.2, "TOAST".
const INLINE_MAX: u32 = 2000;

/// What a pointer to such a value takes. Source: PostgreSQL 18, `src/include/varatt.h`,
/// `varatt_external`.
const POINTER_BYTES: u32 = 18;

/// Source: PostgreSQL 18 documentation, 66.6, "Database Page Layout", `PageHeaderData` and
/// `HeapTupleHeaderData`.
const PAGE_HEADER_BYTES: f64 = 24.0;
const ROW_HEADER_BYTES: u32 = 24;

/// Of rows that are as long as can be, and of the pieces of values that are elsewhere, a page
/// takes so many. Source: PostgreSQL 18, `src/include/access/heaptoast.h`,
/// `TOAST_TUPLES_PER_PAGE` and `EXTERN_TUPLES_PER_PAGE`.
const LONGEST_PER_PAGE: f64 = 4.0;

/// A table, or the one that its long values are in.
struct Heap {
    bytes: i64,
    /// How many rows are in it, dead or not; `None` where nobody has counted.
    rows: Option<f64>,
}

impl Heap {
    /// How much is free, where so many rows fill a page.
    fn free(&self, page_bytes: f64, per_page: f64) -> u64 {
        let Some(rows) = self.rows else { return 0 };
        let taken = (rows / per_page.floor().max(1.0)).ceil() * page_bytes;
        (self.bytes as f64 - taken).max(0.0) as u64
    }
}

/// Rows of a heap, and of its long values. What vacuuming counted outlives a crash, and what was
/// counted since does not: the greater number of both is taken, and less is free.
/// Source: PostgreSQL 18 documentation, 52.11, "pg_class", and 27.2, "The Cumulative Statistics
/// System".
const FACTS: &str = "
    SELECT pg_total_relation_size(c.oid), pg_relation_size(c.oid),
        CASE WHEN a.amname = 'heap' THEN greatest(
            CASE WHEN c.relpages > 0 AND c.reltuples >= 0 THEN c.reltuples::float8 END,
            nullif(s.n_live_tup + s.n_dead_tup, 0)::float8) END,
        coalesce(pg_relation_size(o.oid), 0),
        greatest(CASE WHEN o.relpages > 0 AND o.reltuples >= 0 THEN o.reltuples::float8 END,
            nullif(l.n_live_tup + l.n_dead_tup, 0)::float8),
        current_setting('block_size')::float8,
        coalesce((SELECT option_value::float8 FROM pg_options_to_table(c.reloptions)
            WHERE option_name = 'fillfactor'), 100)
    FROM pg_class AS c LEFT JOIN pg_am AS a ON a.oid = c.relam
        LEFT JOIN pg_stat_all_tables AS s ON s.relid = c.oid
        LEFT JOIN pg_class AS o ON o.oid = c.reltoastrelid
        LEFT JOIN pg_stat_all_tables AS l ON l.relid = o.oid
    WHERE c.oid = $1";

/// Looks at a table.
pub(super) async fn space(client: &Client, table: &Table) -> Result<Space> {
    let number = number_of(client, table).await?;
    let row = client.query_one(FACTS, &[&number]).await.map_err(|e| failed(e, STEP))?;
    let bytes = |at: usize| row.try_get::<_, i64>(at).map_err(|e| failed(e, STEP));
    let rows = |at: usize| row.try_get::<_, Option<f64>>(at).map_err(|e| failed(e, STEP));
    let measure = |at: usize| row.try_get::<_, f64>(at).map_err(|e| failed(e, STEP));
    let (heap, long) =
        (Heap { bytes: bytes(1)?, rows: rows(2)? }, Heap { bytes: bytes(3)?, rows: rows(4)? });
    let (page_bytes, filled) = (measure(5)?, measure(6)? / 100.0);
    let mut reusable_bytes = long.free(page_bytes, LONGEST_PER_PAGE);
    if heap.rows.is_some() && heap.bytes > 0 {
        let pages = heap.bytes as f64 / page_bytes;
        let length = row_bytes(client, table, pages, long.bytes > 0).await?;
        // Where no row was found there are few, and they are taken for long ones.
        let per_page = length
            .map_or(LONGEST_PER_PAGE, |length| (page_bytes * filled - PAGE_HEADER_BYTES) / length);
        reusable_bytes += heap.free(page_bytes, per_page);
    }
    Ok(Space { total_bytes: bytes(0)?.cast_unsigned(), reusable_bytes })
}

/// What a row takes in its page, on average, with what points to it there.
/// Source: PostgreSQL 18 documentation, SELECT, "TABLESAMPLE".
async fn row_bytes(
    client: &Client,
    table: &Table,
    pages: f64,
    has_long: bool,
) -> Result<Option<f64>> {
    let percent = (SAMPLE_PAGES / pages * 100.0).min(100.0);
    // A row as a whole would be put together, with all that is elsewhere.
    let length = if has_long {
        let columns = table.columns.iter().map(|column| {
            let size = format!("pg_column_size(s.{})", quoted(&column.name));
            format!(
                "coalesce(CASE WHEN {size} > {INLINE_MAX} THEN {POINTER_BYTES} ELSE {size} END, 0)"
            )
        });
        let columns: Vec<String> = columns.collect();
        format!("{ROW_HEADER_BYTES} + {}", columns.join(" + "))
    } else {
        "pg_column_size(s.*)".to_owned()
    };
    let query = format!(
        "SELECT avg(({length} + 7) / 8 * 8 + 4)::float8
        FROM ONLY {} AS s TABLESAMPLE SYSTEM ({percent})",
        table.name
    );
    let row = client.query_one(&query, &[]).await.map_err(|e| failed(e, STEP))?;
    row.try_get(0).map_err(|e| failed(e, STEP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rows_do_not_take_is_free_and_never_less_than_nothing() {
        let heap = |rows| Heap { bytes: 100 * 8192, rows };
        assert_eq!(heap(None).free(8192.0, 29.1), 0, "nobody knows");
        assert_eq!(heap(Some(0.0)).free(8192.0, 29.1), 100 * 8192);
        assert_eq!(heap(Some(29.0 * 50.0)).free(8192.0, 29.1), 50 * 8192);
        assert_eq!(heap(Some(1e9)).free(8192.0, 29.1), 0);
        assert_eq!(heap(Some(10.0)).free(8192.0, 0.3), 90 * 8192, "rows of many pages");
    }
}
