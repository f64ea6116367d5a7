//! Where files are read from: through SQL, or from the disk.

use std::ops::Range;

use stillpoint_contract::Result;

use super::{
    local::{LocalFiles, blocking},
    pages::{Check, Pages},
    sql::SqlFiles,
};

/// The files of a cluster.
#[derive(Debug)]
pub(crate) enum Files {
    Sql(SqlFiles),
    Local(LocalFiles),
}

impl Files {
    /// Reads ranges of pages of a file, with zeros where it ends, and checks them; `None` when
    /// there is no file.
    pub(crate) async fn read_pages(
        &self,
        session: usize,
        path: &str,
        ranges: Vec<Range<u64>>,
        check: Option<Check>,
    ) -> Result<Option<Vec<Pages>>> {
        let files = match self {
            Self::Local(files) => return files.read_pages(path, ranges, check).await,
            Self::Sql(files) => files,
        };
        let Some(read) = files.read(session, path, ranges.clone()).await? else {
            return Ok(None);
        };
        let checked = move || {
            let pages = ranges
                .into_iter()
                .zip(read)
                .map(|(range, bytes)| Pages::padded(range, bytes, check));
            Ok(Some(pages.collect()))
        };
        blocking(checked).await
    }

    /// Reads ranges of a file, each shorter where the file ends; `None` when there is no file.
    pub(crate) async fn read(
        &self,
        session: usize,
        path: &str,
        ranges: Vec<Range<u64>>,
    ) -> Result<Option<Vec<Vec<u8>>>> {
        match self {
            Self::Sql(files) => files.read(session, path, ranges).await,
            Self::Local(files) => files.read(path, ranges).await,
        }
    }

    /// Reads one range.
    pub(crate) async fn read_range(
        &self,
        session: usize,
        path: &str,
        range: Range<u64>,
    ) -> Result<Option<Vec<u8>>> {
        let ranges = std::iter::once(range).collect();
        let read = self.read(session, path, ranges).await?;
        Ok(read.and_then(|mut pieces| pieces.pop()))
    }

    /// Reads the beginnings of several files, up to a length each.
    pub(crate) async fn read_small(
        &self,
        session: usize,
        wanted: Vec<(String, u64)>,
    ) -> Result<Vec<Option<Vec<u8>>>> {
        match self {
            Self::Sql(files) => files.read_small(session, wanted).await,
            Self::Local(files) => files.read_small(wanted).await,
        }
    }

    /// Reads one small file.
    pub(crate) async fn read_one(&self, path: &str, length: u64) -> Result<Option<Vec<u8>>> {
        let read = self.read_small(0, vec![(path.to_owned(), length)]).await?;
        Ok(read.into_iter().next().flatten())
    }
}
