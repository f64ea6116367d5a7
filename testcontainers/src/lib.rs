//! Real servers for tests, started on loopback and stopped whatever happens to the test.
//!
//! Servers are installed programs, run in temporary directories: `testcontainers/install.sh`
//! installs them, and no container engine is needed. Nothing here runs containers.
//!
//! ```no_run
//! use stillpoint_testcontainers::{Server, Service};
//!
//! let server = Server::start(Service::Azurite)?;
//! println!("{} {:?}", server.url(), server.options());
//! # Ok::<(), stillpoint_testcontainers::StartError>(())
//! ```

mod authority;
mod cluster;
mod duckdb;
mod http;
mod iceberg;
mod mail;
mod postgres;
mod process;
mod python;
mod server;
mod service;

pub use authority::Authority;
pub use cluster::directory_for_clusters;
pub use duckdb::DuckDb;
pub use iceberg::Iceberg;
pub use mail::Mail;
pub use postgres::{POSTGRES_USER, POSTGRES_VERSIONS, Postgres, PostgresMissing, PostgresOptions};
pub use server::{Server, StartError};
pub use service::{Missing, Service, required};
