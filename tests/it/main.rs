//! What needs more than one module.

mod archive;
mod archive_outage;
mod bank;
mod cli;
mod company;
mod disk_full;
mod drills;
mod full_store;
mod invariants;
mod kills;
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
mod round_trip;
mod site;
mod stores;
mod support;
