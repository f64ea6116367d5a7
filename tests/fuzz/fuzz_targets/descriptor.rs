//! Fuzzes `stillpoint::repository::fuzz::fuzz_descriptor`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stillpoint::repository::fuzz::fuzz_descriptor(bytes));
