//! Fuzzes `stillpoint_sqlite::fuzz_wal`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stillpoint_sqlite::fuzz_wal(bytes));
