//! Fuzzes `stillpoint::repository::fuzz::fuzz_key_slot`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stillpoint::repository::fuzz::fuzz_key_slot(bytes));
