//! Who may read the database: recorded with a backup, given to the restored file.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
};

use stillpoint_contract::{Result, Source};

use crate::{PART, error};

/// What a restored file is given where the backup does not say.
const PRIVATE: u32 = 0o600;

/// Permission bits for owner, group and others.
const PERMISSION_BITS: u32 = 0o777;

const MODE: &str = "mode";
const USER: &str = "uid";
const GROUP: &str = "gid";

/// Describes the file at `path`: its permission bits in octal, and its owner.
pub(crate) fn attributes(path: &Path) -> Result<BTreeMap<String, String>> {
    let metadata = fs::metadata(path);
    let metadata = metadata.map_err(|e| error::file(e, "read the file's permissions", path))?;
    Ok(BTreeMap::from([
        (MODE.to_owned(), format!("{:o}", metadata.mode() & PERMISSION_BITS)),
        (USER.to_owned(), metadata.uid().to_string()),
        (GROUP.to_owned(), metadata.gid().to_string()),
    ]))
}

/// What a backup says of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Permissions {
    mode: u32,
    owner: Option<(u32, u32)>,
}

impl Permissions {
    /// Finds what was recorded with a backup.
    pub(crate) async fn recorded(parts: &dyn Source) -> Result<Self> {
        let parts = parts.parts(0).await?;
        let part = parts.iter().find(|part| part.spec.name.as_str() == PART);
        Ok(part
            .map_or_else(|| Self::decode(&BTreeMap::new()), |p| Self::decode(&p.spec.attributes)))
    }

    fn decode(attributes: &BTreeMap<String, String>) -> Self {
        let mode = attributes.get(MODE).and_then(|mode| u32::from_str_radix(mode, 8).ok());
        let number = |name| attributes.get(name).and_then(|id: &String| id.parse().ok());
        Self {
            mode: mode.map_or(PRIVATE, |mode| mode & PERMISSION_BITS),
            owner: number(USER).zip(number(GROUP)),
        }
    }

    /// Gives them to the file at `path`. Its owner can be set by root only; what belongs to nobody
    /// here keeps the owner that it has.
    pub(crate) fn apply(self, path: &Path) -> io::Result<()> {
        allow(path, self.mode)?;
        match self.owner {
            Some((user, group)) => give(path, user, group),
            None => Ok(()),
        }
    }
}

/// Gives the new file at `path` the owner of the one that it replaces, and of the permissions those
/// that both have.
pub(crate) fn inherit(path: &Path, old: &fs::Metadata) -> io::Result<()> {
    let both = fs::metadata(path)?.mode() & old.mode() & PERMISSION_BITS;
    allow(path, both)?;
    give(path, old.uid(), old.gid())
}

/// Sets the permission bits, where the file system has any.
fn allow(path: &Path, mode: u32) -> io::Result<()> {
    match fs::set_permissions(path, fs::Permissions::from_mode(mode)) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            tracing::warn!(path = %path.display(), "the file's permissions cannot be set: {e}");
            Ok(())
        }
        result => result,
    }
}

/// Changes the owner, where that is allowed.
fn give(path: &Path, user: u32, group: u32) -> io::Result<()> {
    match chown(path, Some(user), Some(group)) {
        Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied) => Ok(()),
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            tracing::debug!(user, group, "this file system does not know the owner: {e}");
            Ok(())
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_recorded_is_private_and_special_bits_are_never_given() {
        let decode = |pairs: &[(&str, &str)]| {
            let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            Permissions::decode(&pairs.iter().map(pair).collect())
        };
        assert_eq!(decode(&[]), Permissions { mode: 0o600, owner: None });
        assert_eq!(decode(&[("mode", "rw")]).mode, 0o600);
        assert_eq!(decode(&[("mode", "6640")]).mode, 0o640);
        assert_eq!(decode(&[("mode", "77777777777777")]).mode, 0o600);
        assert_eq!(decode(&[("uid", "1"), ("gid", "2")]).owner, Some((1, 2)));
        assert_eq!(decode(&[("uid", "1"), ("gid", "-2")]).owner, None);
    }
}
