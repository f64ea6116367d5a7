//! Tablespaces that a restore puts somewhere else.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use stillpoint_contract::{Error, ErrorKind, Relocation, Result, code};

use crate::layout::{Layout, Tablespace};

const STEP: &str = "choose where tablespaces go";

/// What the names of a tablespace's parts begin with.
pub(crate) fn prefix(oid: u32) -> String {
    format!("pg_tblspc/{oid}/")
}

/// Which tablespace goes where. Changes nothing.
pub(crate) fn place(
    layout: &Layout,
    relocations: &[Relocation],
    target: &Path,
) -> Result<Vec<(u32, PathBuf)>> {
    let mut placed: Vec<(u32, PathBuf)> = Vec::new();
    for Relocation { from, to } in relocations {
        let space = named(layout, from)?;
        let refuse = |kind, why: &'static str| {
            let error = Error::new(kind, code::TARGET_EXISTS, STEP);
            Err(error.with("tablespace", from).with("directory", to.display()).why(why))
        };
        if !to.is_absolute() {
            return refuse(ErrorKind::Invalid, "the server needs a path that begins with /");
        }
        if to.starts_with(target) || target.starts_with(to) {
            return refuse(ErrorKind::Invalid, "it and the data directory lie in one another");
        }
        if placed.iter().any(|(oid, path)| *oid == space.oid || path == to) {
            return refuse(ErrorKind::Invalid, "a tablespace or a directory is named twice");
        }
        match fs::read_dir(to).map(|mut entries| entries.next().is_none()) {
            Ok(true) => {}
            Ok(false) => return refuse(ErrorKind::Refused, "the directory is not empty"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !to.parent().is_some_and(Path::is_dir) {
                    return refuse(ErrorKind::Invalid, "the directory around it does not exist");
                }
            }
            Err(_) => return refuse(ErrorKind::Refused, "it is no directory that can be read"),
        }
        placed.push((space.oid, to.clone()));
    }
    Ok(placed)
}

fn named<'a>(layout: &'a Layout, from: &str) -> Result<&'a Tablespace> {
    let is_meant = |space: &&Tablespace| {
        space.oid.to_string() == from
            || space.name.as_deref() == Some(from)
            || space.location.as_deref() == Some(from.trim_end_matches('/'))
    };
    let outside = || layout.tablespaces.iter().filter(|space| space.location.is_some());
    outside().find(is_meant).ok_or_else(|| {
        let error = Error::new(ErrorKind::Invalid, code::USAGE, STEP)
            .with("asked", from)
            .why("the backup has no such tablespace outside of the data directory");
        outside().fold(error, |error, space| {
            let name = space.name.as_deref().unwrap_or("-");
            let place = space.location.as_deref().unwrap_or_default();
            error.with("tablespace", format!("{} {name} {place}", space.oid))
        })
    })
}
