//! Rows of tables, on their way into files and back.

mod altered;
mod conditions;
mod copy;
mod examine;
mod export;
mod failure;
mod follow;
mod keep;
mod ledger;
mod literal;
mod members;
mod outlook;
mod partition;
mod passing;
mod predicate;
mod prune;
mod put_back;
mod reference;
mod session;
mod space;
mod standbys;
mod table;
mod transaction;
mod watch;

pub use copy::fuzz_copy;
pub(crate) use session::open;
