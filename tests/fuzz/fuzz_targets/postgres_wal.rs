//! Fuzzes `stillpoint_postgres::wal::fuzz_wal`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stillpoint_postgres::wal::fuzz_wal(bytes));
