//! The contract's sentences as tests, run by every driver against a real server.

pub mod memory;
