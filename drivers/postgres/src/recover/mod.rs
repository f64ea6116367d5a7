//! Recovery: WAL is laid out up to exactly the point that was asked for, and a server of the same
//! version replays it to its end.
//!
//! WAL is cut at the target instead of naming the target to the server: a server that is told a
//! target refuses to start when nothing follows it, and its targets cannot express the end of a
//! certain commit.

mod aim;
mod config_files;
mod server;
mod start;
mod steps;
mod tree;
mod wal_files;

pub(crate) use server::{Server, by_shell, tail, version_of};
pub(crate) use start::start;
pub(crate) use steps::{PENDING_FILE, PRIMARY_FILE, STANDBY_FILE, TAKEN_FILE, blocking, recover};
pub(crate) use tree::{SPACES, follow_nobody, give_to};
