//! Fuzzes `stillpoint::repository::fuzz::fuzz_pack_list`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stillpoint::repository::fuzz::fuzz_pack_list(bytes));
