//! Fuzzes `stillpoint_sqlite::fuzz_segment`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stillpoint_sqlite::fuzz_segment(bytes));
