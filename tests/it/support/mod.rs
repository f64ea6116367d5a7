//! What tests share: a world that a seed repeats, data, and a ledger of what must be there.

#![expect(clippy::unwrap_used, reason = "all of it is for tests")]

pub(crate) mod capture;
pub(crate) mod data;
pub(crate) mod jobs;
pub(crate) mod ledger;
pub(crate) mod session;
pub(crate) mod stage;
pub(crate) mod world;
