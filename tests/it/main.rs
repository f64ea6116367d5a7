//! What needs more than one module.

mod archive;
mod bank;
mod cli;
mod company;
mod disk_full;
mod drills;
mod full_store;
mod invariants;
mod kills;
mod pg_bank;
mod pg_lineages;
mod postgres;
mod round_trip;
mod site;
mod stores;
mod support;
