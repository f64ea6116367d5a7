//! The files of a configuration.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use stillpoint_contract::{Error, ErrorKind, Result, code, quoted};

use super::super::session::Session;
use crate::config::{Loaded, Source, load};

/// Where a configuration is, unless somebody says otherwise.
const USUAL: &str = "/etc/stillpoint/stillpoint.toml";

/// The directory beside it, whose files add to it.
const MORE: &str = "conf.d";

/// The largest configuration, in bytes and in files.
const BYTES_MAX: u64 = 64 << 20;
const FILES_MAX: usize = 10_000;

const STEP: &str = "read the configuration";

/// Reads the configuration, right or wrong.
pub(crate) fn read(session: &Session) -> Result<Loaded> {
    Ok(load(sources(session)?, session.world.clock.now()))
}

/// The files of the configuration.
pub(crate) fn sources(session: &Session) -> Result<Vec<Source>> {
    let typed = session.global.config.clone();
    let named = session.environment.get("STILLPOINT_CONFIG").map(PathBuf::from);
    let main = typed.or(named).unwrap_or_else(|| USUAL.into());
    let mut left = BYTES_MAX;
    let mut sources = vec![source(&main, &mut left)?];
    for path in more(&main.with_file_name(MORE))? {
        sources.push(source(&path, &mut left)?);
    }
    Ok(sources)
}

/// Whether somebody says where the configuration is, or it is where it usually is.
pub(crate) fn are_there(session: &Session) -> bool {
    let is_named = session.global.config.is_some();
    let is_set = session.environment.get("STILLPOINT_CONFIG").is_some();
    is_named || is_set || Path::new(USUAL).exists()
}

/// The configuration, if nothing in it is an error.
pub(crate) fn sound(session: &Session) -> Result<Loaded> {
    let loaded = read(session)?;
    if loaded.is_sound() {
        return Ok(loaded);
    }
    let first = loaded.problems.iter().find(|problem| !problem.is_warning);
    let what = first.map(|problem| problem.what.clone()).unwrap_or_default();
    let main = loaded.sources.first().map(|source| source.path.clone()).unwrap_or_default();
    Err(Error::new(ErrorKind::Config, code::BAD_CONFIG, "use the configuration")
        .caused_by(what)
        .next(format!("stillpoint config check -c {}", quoted(&main))))
}

fn source(path: &Path, left: &mut u64) -> Result<Source> {
    let text = fs::metadata(path).and_then(|metadata| {
        *left = left.checked_sub(metadata.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        fs::read_to_string(path)
    });
    let text = text.map_err(|cause| failed(cause, path))?;
    Ok(Source { path: path.display().to_string(), text })
}

fn more(directory: &Path) -> Result<Vec<PathBuf>> {
    let listed = match fs::read_dir(directory) {
        Ok(listed) => listed,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(cause) => return Err(failed(cause, directory)),
    };
    let mut paths = Vec::new();
    for entry in listed {
        let path = entry.map_err(|cause| failed(cause, directory))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let ends = |end| path.extension().is_some_and(|own: &std::ffi::OsStr| own == end);
        if !name.starts_with('.') && (ends("toml") || ends("json")) {
            if paths.len() == FILES_MAX {
                // None may be left out without a word.
                return Err(failed(io::ErrorKind::FileTooLarge.into(), directory)
                    .with("files at most", FILES_MAX));
            }
            paths.push(path);
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

fn failed(cause: io::Error, path: &Path) -> Error {
    let error = Error::new(ErrorKind::Config, code::FILE, STEP).with("file", path.display());
    let error = match cause.kind() {
        io::ErrorKind::NotFound => error
            .next("stillpoint config init --out FILE")
            .next("another place: -c FILE, or STILLPOINT_CONFIG"),
        _ => error,
    };
    error.caused_by(cause)
}
