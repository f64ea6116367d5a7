//! A throw-away server on a restored cluster: its settings are ours alone, and the kernel keeps it
//! and whatever it starts from every socket but its own and from every file but its own.

mod amcheck;
mod cage;
mod open;
mod pages;
mod process;
mod references;
mod settings;

pub(crate) use open::{ServerSandbox, open};
pub(crate) use settings::PORT;
