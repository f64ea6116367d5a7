//! Fuzzes `stillpoint_postgres::fuzz_copy`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stillpoint_postgres::fuzz_copy(bytes));
