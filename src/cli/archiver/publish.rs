//! `stillpoint archive publish`: statements that make archived rows tables of a query engine.

use clap::{Args, ValueEnum};
use stillpoint_contract::Result;

use super::place::Set;
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
    #[arg(long = "for", value_name = "ENGINE", default_value = "duckdb")]
    engine: Engine,
}

/// Query engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Engine {
    /// Views for DuckDB: only files that count.
    Duckdb,
    /// External tables for Hive and Trino.
    Hive,
}

/// Prints them.
pub(super) async fn run(session: &Session, options: Options) -> Result<u8> {
    let set = Set::of(session, &options.set).await?;
    let place = set.place(session).await?;
    let shelf = Shelf::load(&place).await?;
    refuse_encrypted(&place, &shelf)?;
    print(&match options.engine {
        Engine::Duckdb => duckdb_views(&place, &shelf),
        Engine::Hive => hive_tables(&place, &shelf),
    })?;
    Ok(exit::OK)
}
