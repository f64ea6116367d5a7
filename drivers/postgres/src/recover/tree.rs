//! The laid out files of a cluster, made into a data directory that a server accepts.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, lchown},
    path::Path,
};

use stillpoint_contract::RestorePlan;

use super::{
    config_files,
    steps::{PENDING_FILE, STANDBY_FILE},
};
use crate::{layout::Layout, spaces};

/// Where tablespaces go that nobody mapped: inside the data directory, so that a restore never
/// writes where the running cluster has them.
pub(crate) const SPACES: &str = "stillpoint_tablespaces";

/// Files that make a server follow another one, or wait for log.
const SIGNALS: [&str; 2] = [STANDBY_FILE, PENDING_FILE];

/// The permission bits of a mode.
const MODE_BITS: u32 = 0o7777;

/// Makes directories, moves tablespaces, sets permissions.
pub(super) fn prepare(data: &Path, plan: &RestorePlan, layout: &Layout) -> io::Result<()> {
    let mode = layout.directory_mode;
    let make = |path: &Path| DirBuilder::new().recursive(true).mode(mode).create(path);
    for directory in ["pg_wal/archive_status", "pg_tblspc"] {
        make(&data.join(directory))?;
    }
    for directory in layout.directories.iter().filter(|path| is_inside(path)) {
        make(&data.join(directory))?;
    }
    // The backup of a standby brings what made it one.
    follow_nobody(data)?;
    move_tablespaces(data, plan, layout)?;
    config_files::bring(data, &plan.staging, layout)?;
    plan.relocated.iter().try_for_each(|space| protect(space, layout))?;
    protect(data, layout)
}

/// Takes away what makes a server follow another one.
pub(crate) fn follow_nobody(data: &Path) -> io::Result<()> {
    for signal in SIGNALS {
        match fs::remove_file(data.join(signal)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// A path of the layout that cannot lead out of the data directory.
fn is_inside(path: &str) -> bool {
    !path.split('/').any(|segment| matches!(segment, "" | "." | ".."))
}

fn move_tablespaces(data: &Path, plan: &RestorePlan, layout: &Layout) -> io::Result<()> {
    let mut map = String::new();
    for space in layout.tablespaces.iter().filter(|space| space.location.is_some()) {
        let oid = space.oid.to_string();
        let own = spaces::prefix(space.oid);
        if let Some(rule) = plan.placements.iter().find(|rule| rule.prefix == own) {
            let escaped = rule.path.display().to_string().replace('\\', "\\\\");
            map = format!("{map}{oid} {}\n", escaped.replace('\n', "\\\n"));
            // The layout names its directories below the link that the server makes.
            match fs::remove_dir_all(data.join("pg_tblspc").join(&oid)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => continue,
            }
        }
        let (from, to) = (data.join("pg_tblspc").join(&oid), data.join(SPACES).join(&oid));
        fs::create_dir_all(data.join(SPACES))?;
        match fs::rename(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir_all(&to)?,
            moved => moved?,
        }
        map = format!("{map}{oid} ../{SPACES}/{oid}\n");
    }
    if map.is_empty() { Ok(()) } else { fs::write(data.join("tablespace_map"), map) }
}

/// Gives everything the modes that the cluster had.
fn protect(path: &Path, layout: &Layout) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_symlink() {
        return Ok(());
    }
    let mode = if metadata.is_dir() { layout.directory_mode } else { layout.file_mode };
    if metadata.mode() & MODE_BITS != mode {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            protect(&entry?.path(), layout)?;
        }
    }
    Ok(())
}

/// Makes a user the owner of everything at `path`.
pub(crate) fn give_to(path: &Path, owner: (u32, u32)) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if (metadata.uid(), metadata.gid()) != owner {
        lchown(path, Some(owner.0), Some(owner.1))?;
    }
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            give_to(&entry?.path(), owner)?;
        }
    }
    Ok(())
}
