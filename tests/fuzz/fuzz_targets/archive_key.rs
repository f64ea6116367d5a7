//! Fuzzes `stillpoint::archiver::fuzz::fuzz_key`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stillpoint::archiver::fuzz::fuzz_key(bytes));
