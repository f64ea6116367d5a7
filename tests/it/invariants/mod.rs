//! The invariants of a repository, by number. Each test bears the number of the sentence it proves.

#![expect(clippy::unwrap_used, reason = "all of it is tests")]

mod i10_faults;
mod i12_fixtures;
mod i13_keys;
mod i1_crashes;
mod i3_appends;
mod i3_interleavings;
mod i4_damage;
mod i5_independence;
mod i6_deduplication;
mod i7_history;
mod i9_memory;
