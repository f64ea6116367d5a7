//! Fleets and their coordinators on virtual time: the loops of `serve`, the policies and the state
//! database's statements are the real ones; how long databases and repositories take, and what
//! goes wrong, is a model that a seed repeats.

#![expect(clippy::unwrap_used, reason = "all of it is tests")]

mod bounds;
mod ledger;
mod model;
mod oracle;
mod people;
mod proof;
mod scale;
mod scenario;
mod seeds;
mod sites;
mod time;
mod whole;
mod yard;
