//! Fuzzes `stillpoint::archiver::file::fuzz::fuzz_value`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stillpoint::archiver::file::fuzz::fuzz_value(bytes));
