//! The contract's sentences as tests, run by every driver against a real server.
//!
//! A driver's `tests/conformance.rs` (with `harness = false`) implements [`Fixture`] and [`Server`]
//! and hands them to [`run`]. Each test proves one sentence of `stillpoint-contract`; the table at
//! the end says which were proven, which do not apply and why. A capability that the fixture claims
//! and that no test exercised fails the suite, and so does a driver that claims another one.

mod bank;
mod fixture;
mod harness;
pub mod memory;
mod stage;
mod suite;
mod watch;

pub use bank::{ACCOUNTS, Bank, OPENING_BALANCE, Transfer, WRITERS};
pub use fixture::{Fixture, RowTables, Scene, Server};
pub use harness::run;
