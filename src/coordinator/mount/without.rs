//! What stands for mounts in a program that was built without them.

use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use stillpoint_contract::{Clock, Error, ErrorKind, PartName, Result, code};

use crate::repository::BackupReader;

/// Never made.
#[derive(Debug)]
pub(crate) enum MountedFiles {}

/// Never made.
#[derive(Debug)]
pub(crate) enum Mount {}

/// Never made.
#[derive(Debug)]
pub(crate) enum Guard {}

impl Guard {
    pub(crate) fn post(_: &Path, _: &Path) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Looks after nothing.
pub fn stand_guard(_: u32, _: u64, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

const WHY: &str = "this program was built without mounts";

/// Nobody needs one.
pub(crate) fn no_guard() -> Option<String> {
    None
}

/// Why nothing can be mounted here.
pub(crate) fn obstacle() -> Option<String> {
    Some(WHY.to_owned())
}

impl MountedFiles {
    pub(crate) async fn lay_out(
        _: BackupReader,
        _: Arc<dyn Clock>,
        _: Option<PathBuf>,
        _: &Path,
        _: impl Fn(&PartName) -> Option<PathBuf>,
    ) -> Result<Self> {
        Err(Error::new(ErrorKind::Unsupported, code::NO_MOUNT, "mount a backup").why(WHY))
    }

    pub(crate) fn give_to(&self, _: (u32, u32)) {
        match *self {}
    }

    pub(crate) fn set_modes(&self, _: (u32, u32)) {
        match *self {}
    }

    pub(crate) fn open_way(&self, _: &OsStr) -> Result<()> {
        match *self {}
    }

    pub(crate) fn damage(&self) -> Vec<String> {
        match *self {}
    }

    pub(crate) fn outage(&self) -> Option<Error> {
        match *self {}
    }

    pub(crate) fn alone(&self, _: &Path, _: &OsStr) -> Result<PathBuf> {
        match *self {}
    }

    pub(crate) fn reader(&self) -> &BackupReader {
        match *self {}
    }

    pub(crate) fn mount(&self, _: &Path, _: &Path, _: bool) -> Result<Mount> {
        match *self {}
    }
}

impl Mount {
    pub(crate) async fn ended(&self) {
        match *self {}
    }

    pub(crate) fn point(&self) -> &Path {
        match *self {}
    }
}
