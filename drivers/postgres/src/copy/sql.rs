//! Files of a cluster, read and listed by ordinary SQL sessions.

use std::{collections::HashSet, ops::Range};

use futures::StreamExt as _;
use stillpoint_contract::{Error, ErrorKind, Result, code};
use tokio::sync::mpsc;
use tokio_postgres::{Row, Statement, types::ToSql};

use super::{
    crew::Entry,
    names::{EMPTY_DIRECTORIES, Skip, skip, stem},
};
use crate::{connect::Sql, error};

const READ: &str = "read a file of the cluster through SQL";
const LIST: &str = "list the files of the cluster through SQL";

/// The answer is null when the file is gone.
const READ_RANGE: &str = "SELECT pg_read_binary_file($1, $2, $3, true)";
const READ_RANGES: &str = "SELECT i, pg_read_binary_file($1, at, length, true) \
     FROM unnest($2::int8[], $3::int8[]) WITH ORDINALITY AS t (at, length, i)";
const READ_FILES: &str = "SELECT i, pg_read_binary_file(path, 0, length, true) \
     FROM unnest($1::text[], $2::int8[]) WITH ORDINALITY AS t (path, length, i)";

/// Everything below the data directory, but what is in directories `$1`. By names, as whoever reads
/// a mounted backup goes: what is written one after the other is read in one go.
const LIST_ALL: &str = "WITH RECURSIVE files (path, length, is_directory) AS (
        SELECT name, s.size, s.isdir
        FROM pg_ls_dir('.', true, false) AS name, pg_stat_file(name, true) AS s
        WHERE name !~ '^(pgsql_tmp|[.]s[.]PGSQL)'
    UNION ALL
        SELECT f.path || '/' || name, s.size, s.isdir
        FROM files AS f, pg_ls_dir(f.path, true, false) AS name,
            pg_stat_file(f.path || '/' || name, true) AS s
        WHERE f.is_directory AND f.path <> ALL ($1::text[]) AND name !~ '^pgsql_tmp'
    )
    SELECT path, length, is_directory FROM files WHERE length IS NOT NULL
    ORDER BY path COLLATE \"C\"";

/// The forks that say that a relation is unlogged.
const LIST_INIT_FORKS: &str = "WITH directories (path) AS (
        SELECT 'base/' || d FROM pg_ls_dir('base', true, false) AS d WHERE d ~ '^[0-9]+$'
    UNION ALL
        SELECT 'pg_tblspc/' || t || '/' || v || '/' || d
        FROM pg_ls_dir('pg_tblspc', true, false) AS t,
            pg_ls_dir('pg_tblspc/' || t, true, false) AS v,
            pg_ls_dir('pg_tblspc/' || t || '/' || v, true, false) AS d
        WHERE t ~ '^[0-9]+$' AND v ~ '^PG_' AND d ~ '^[0-9]+$'
    )
    SELECT path || '/' || f FROM directories, pg_ls_dir(path, true, false) AS f
    WHERE f ~ '^[0-9]+_init$'";

/// Sessions that read files.
#[derive(Debug)]
pub(crate) struct SqlFiles {
    sessions: Vec<Reader>,
}

#[derive(Debug)]
struct Reader {
    sql: Sql,
    range: Statement,
    ranges: Statement,
    files: Statement,
}

impl SqlFiles {
    /// Prepares sessions; there is at least one.
    pub(crate) async fn new(sessions: Vec<Sql>) -> Result<Self> {
        let mut readers = Vec::new();
        for sql in sessions {
            let prepare =
                async |text: &str| sql.client.prepare(text).await.map_err(|e| error::sql(e, READ));
            let range = prepare(READ_RANGE).await?;
            let ranges = prepare(READ_RANGES).await?;
            let files = prepare(READ_FILES).await?;
            readers.push(Reader { sql, range, ranges, files });
        }
        Ok(Self { sessions: readers })
    }

    fn session(&self, number: usize) -> Result<&Reader> {
        let session = self.sessions.get(number % self.sessions.len().max(1));
        session.ok_or_else(|| Error::bug("read without a session"))
    }

    pub(crate) async fn read(
        &self,
        session: usize,
        path: &str,
        wanted: Vec<Range<u64>>,
    ) -> Result<Option<Vec<Vec<u8>>>> {
        let Reader { sql, range, ranges, .. } = self.session(session)?;
        if let [one] = wanted.as_slice() {
            let parameters: [&(dyn ToSql + Sync); 3] =
                [&path, &signed(one.start), &signed(one.end - one.start)];
            let row = sql.client.query_one(range, &parameters).await;
            let row = row.map_err(|e| error::sql(e, READ).with("file", path))?;
            return Ok(bytes(&row, 0)?.map(|bytes| vec![bytes]));
        }
        let starts: Vec<i64> = wanted.iter().map(|range| signed(range.start)).collect();
        let lengths: Vec<i64> =
            wanted.iter().map(|range| signed(range.end - range.start)).collect();
        let rows = sql.client.query(ranges, &[&path, &starts, &lengths]).await;
        let rows = rows.map_err(|e| error::sql(e, READ).with("file", path))?;
        Ok(numbered(&rows, wanted.len())?.into_iter().collect())
    }

    pub(crate) async fn read_small(
        &self,
        session: usize,
        wanted: Vec<(String, u64)>,
    ) -> Result<Vec<Option<Vec<u8>>>> {
        let Reader { sql, files, .. } = self.session(session)?;
        let lengths: Vec<i64> = wanted.iter().map(|(_, length)| signed(*length)).collect();
        let paths: Vec<String> = wanted.into_iter().map(|(path, _)| path).collect();
        let rows = sql.client.query(files, &[&paths, &lengths]).await;
        let rows = rows.map_err(|e| error::sql(e, READ))?;
        numbered(&rows, paths.len())
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn bytes(row: &Row, column: usize) -> Result<Option<Vec<u8>>> {
    let bytes: Option<&[u8]> = row.try_get(column).map_err(|e| error::sql(e, READ))?;
    Ok(bytes.map(<[u8]>::to_vec))
}

/// Puts answers back into the order of the questions.
fn numbered(rows: &[Row], count: usize) -> Result<Vec<Option<Vec<u8>>>> {
    let mut found = vec![None; count];
    for row in rows {
        let number: i64 = row.try_get(0).map_err(|e| error::sql(e, READ))?;
        let slot = usize::try_from(number - 1).ok().and_then(|index| found.get_mut(index));
        *slot.ok_or_else(|| Error::bug("read an answer that nobody asked for"))? = bytes(row, 1)?;
    }
    Ok(found)
}

/// Lists files into `entries`, and returns the directories. `skipped` are paths of tablespaces
/// inside the data directory.
pub(crate) async fn list(
    sql: &Sql,
    major: u32,
    skipped: &[String],
    entries: mpsc::Sender<Result<Entry>>,
) -> Result<Vec<String>> {
    let failed = |e| error::sql(e, LIST);
    let rows = sql.client.query(LIST_INIT_FORKS, &[]).await.map_err(failed)?;
    let mut unlogged = HashSet::new();
    for row in &rows {
        unlogged.insert(stem(&path(row)?).to_owned());
    }
    let empty: Vec<&str> = EMPTY_DIRECTORIES.to_vec();
    let rows = sql.client.query_raw(LIST_ALL, [&empty as &(dyn ToSql + Sync)]).await;
    let mut rows = Box::pin(rows.map_err(failed)?);
    let mut directories = Vec::new();
    while let Some(row) = rows.next().await {
        let row = row.map_err(failed)?;
        let path = path(&row)?;
        let length: i64 = row.try_get(1).map_err(failed)?;
        let is_directory: bool = row.try_get(2).map_err(failed)?;
        if is_left_out(&path, major, &unlogged, skipped) {
            continue;
        }
        if is_directory {
            directories.push(path);
        } else {
            let entry = Entry { path, length_bytes: u64::try_from(length).unwrap_or(0) };
            if entries.send(Ok(entry)).await.is_err() {
                break;
            }
        }
    }
    Ok(directories)
}

/// Whether a path, or a directory above it, is left out of the backup.
pub(crate) fn is_left_out(
    path: &str,
    major: u32,
    unlogged: &HashSet<String>,
    skipped: &[String],
) -> bool {
    let cuts = path.match_indices('/').map(|(at, _)| at);
    let above = cuts.filter_map(|at| path.get(..at));
    let mut judged = above.map(|directory| skip(directory, major)).chain([skip(path, major)]);
    // pg_control comes last.
    path == super::control::CONTROL_FILE
        || judged.any(|skip| skip == Skip::Whole)
        || (unlogged.contains(stem(path)) && !path.ends_with("_init") && is_relation(path))
        || skipped.iter().any(|inside| {
            path.strip_prefix(inside.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
}

fn is_relation(path: &str) -> bool {
    super::names::relation(path).is_some()
}

fn path(row: &Row) -> Result<String> {
    row.try_get(0).map_err(|cause| {
        Error::new(ErrorKind::Refused, code::BAD_NAME, "read the name of a file of the cluster")
            .caused_by(cause)
            .next("remove files whose names are not UTF-8: PostgreSQL itself makes none")
    })
}
