//! Backups as files through FUSE: fetched when they are read, verified, kept for a while; what is
//! written vanishes with the mount.

mod dead;
#[cfg(feature = "mount")]
mod files;
#[cfg(feature = "mount")]
mod guard;
#[cfg(feature = "mount")]
mod overlay;
#[cfg(feature = "mount")]
mod session;
#[cfg(feature = "mount")]
mod tree;
#[cfg(feature = "mount")]
mod view;
#[cfg(not(feature = "mount"))]
mod without;

pub(super) use dead::{end_below, end_dead, mounts_below};
#[cfg(feature = "mount")]
pub use guard::stand_guard;
#[cfg(feature = "mount")]
pub(super) use guard::{Guard, no_guard};
#[cfg(feature = "mount")]
pub(super) use session::{Mount, MountedFiles, obstacle};
#[cfg(not(feature = "mount"))]
pub use without::stand_guard;
#[cfg(not(feature = "mount"))]
pub(super) use without::{Guard, Mount, MountedFiles, no_guard, obstacle};
