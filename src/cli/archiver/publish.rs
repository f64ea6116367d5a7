//! `stillpoint archive publish`: what makes archived rows tables of a query engine.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::place::Set;
#[cfg(feature = "parquet")]
use crate::archiver::iceberg_tables;
use crate::{
    archiver::{Shelf, duckdb_views, hive_tables, refuse_encrypted},
    cli::{answer::print, exit, session::Session},
};

/// What `archive publish` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The archive set.
    set: String,
    /// For whom.
    #[arg(long = "for", value_name = "ENGINE", default_value = "duckdb", group = "whom")]
    engine: Engine,
    /// The same as --for duckdb.
    #[arg(long, group = "whom")]
    duckdb_views: bool,
    /// The same as --for hive.
    #[arg(long, group = "whom")]
    hive: bool,
    /// The same as --for iceberg.
    #[cfg(feature = "parquet")]
    #[arg(long, group = "whom", requires = "into")]
    iceberg: bool,
    /// Where metadata of tables goes; what was published there before is replaced.
    #[arg(long, value_name = "DIR", required_if_eq("engine", "iceberg"))]
    into: Option<PathBuf>,
}

impl Options {
    fn engine(&self) -> Engine {
        #[cfg(feature = "parquet")]
        if self.iceberg {
            return Engine::Iceberg;
        }
        match (self.hive, self.duckdb_views) {
            (true, _) => Engine::Hive,
            (_, true) => Engine::Duckdb,
            _ => self.engine,
        }
    }
}

/// Query engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Engine {
    /// Views for DuckDB: only files that count; of all versions of rows, and of the newest ones.
    Duckdb,
    /// External tables for Hive and Trino, and views of the newest versions of rows.
    Hive,
    /// Metadata of tables of Apache Iceberg, below the directory: only files that count.
    #[cfg(feature = "parquet")]
    Iceberg,
}

/// Prints them, or writes them and prints where they are.
pub(super) async fn run(session: &Session, options: Options) -> Result<u8> {
    let set = Set::of(session, &options.set).await?;
    let place = set.place(session).await?;
    let shelf = Shelf::load(&place).await?;
    refuse_encrypted(&place, &shelf).await?;
    let text = match (options.engine(), options.into) {
        (Engine::Duckdb, None) => duckdb_views(&place, &shelf).await?,
        (Engine::Hive, None) => hive_tables(&place, &shelf).await?,
        #[cfg(feature = "parquet")]
        (Engine::Iceberg, Some(into)) => {
            let tables = iceberg_tables(&place, &shelf, &into, &session.world).await?;
            for file in tables.iter().flat_map(|one| &one.passed) {
                let why =
                    "its rows live in their table again, or did until they were archived anew";
                tracing::warn!(set = options.set, file, why, "it is left out");
            }
            let places = tables.iter().map(|one| one.metadata.display().to_string() + "\n");
            places.collect()
        }
        _ => {
            let step = "publish an archive set";
            return Err(Error::new(ErrorKind::Invalid, code::USAGE, step)
                .why("only what is for iceberg goes into a directory")
                .next(format!("stillpoint archive publish {} > views.sql", options.set)));
        }
    };
    print(&text)?;
    Ok(exit::OK)
}
