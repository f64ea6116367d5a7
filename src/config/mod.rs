//! Policies as code: TOML or JSON files of one schema, of which all errors are told at once.

mod archives;
mod build;
mod explain;
mod form;
mod found;
#[cfg(test)]
mod found_tests;
mod handoffs;
mod idle;
mod import;
mod judge;
mod layers;
mod load;
mod model;
mod problem;
mod schema;
mod secrets;
mod shape;
mod shapes;
mod tree;

#[cfg(test)]
mod tests;

pub use explain::Setting;
pub(crate) use form::{log_share, moment, rate};
pub use found::Found;
pub use import::{IMPORT_BYTES_MAX, Imported, Left, Peer, barman_directory, import};
pub use load::{EXAMPLE, Loaded, Source, load};
pub use model::{
    Alerting, Channel, Config, Coordinator, Database, Discover, DiscoverKind, Encryption,
    Heartbeat, Mail, Repository, Ruling, Secret,
};
pub use problem::Problem;
pub use schema::schema;
