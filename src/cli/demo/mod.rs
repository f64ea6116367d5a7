//! `stillpoint demo`: the product in two minutes, for real.
//!
//! A shop with customers in processes of their own, a repository, a mistake and its repair. Each
//! step is the command that a reader would run on their own database, run as exactly that command.

mod customer;
mod options;
mod proof;
mod script;
mod shop;
mod stage;

pub(crate) use customer::serve as serve_customer;
pub(crate) use options::{CustomerOptions, Options};
pub(crate) use script::run;
