//! Rows that are moved out of live tables, while they change and while whoever moves them is
//! killed: each of them is in its table or in a file that counts, never in neither, never in both.

mod answers;
mod chaos;
mod clocks;
mod corrected;
mod early;
mod encrypted;
mod events;
mod forms;
mod iceberg;
mod iceberg_seen;
mod keeping;
mod keys;
mod mended;
mod partitions;
mod planned;
mod protocol;
mod published;
mod published_newest;
mod races_postgres;
mod reclaimed;
mod regressions;
mod remains;
mod renamed;
mod renewed;
mod returns;
mod shop;
mod tables;
mod throttle;
mod through;
mod triggers;
mod types_postgres;
mod types_sqlite;
mod values_postgres;
mod versions;
mod zones;
