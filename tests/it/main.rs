//! What needs more than one module.

mod agents;
mod archive;
mod archive_outage;
mod archiver;
#[cfg(feature = "parquet")]
mod archiver_files;
mod bank;
mod cli;
mod company;
mod copies;
mod disk_full;
mod drills;
mod endpoints;
mod fleet;
mod full_store;
mod handoff;
mod invariants;
mod kills;
mod labels;
mod mounts;
mod mounts_amid;
mod mounts_unprivileged;
mod outlived;
mod partial;
mod pg_bank;
mod pg_lineages;
mod pg_refusals;
mod postgres;
mod read_ahead;
mod retention;
mod round_trip;
mod serving;
mod site;
mod state;
mod stores;
mod support;
