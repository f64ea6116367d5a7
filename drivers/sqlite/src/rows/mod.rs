//! Rows of tables, on their way into files and back.

mod besides;
mod compared;
mod effects;
mod examine;
mod keep;
mod lock;
mod outlook;
mod predicate;
mod prune;
mod put_back;
mod reference;
mod schema;
mod select;
mod session;
mod text;
mod watch;
mod worker;

pub(crate) use session::open;
