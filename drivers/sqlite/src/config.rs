//! The settings of one database: where it is, and how long to wait for its locks.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use stillpoint_contract::{Endpoint, Error, ErrorKind, Result, code};

/// How long a lock held by others is waited for when nothing else is configured.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest wait that may be configured.
const BUSY_TIMEOUT_MAX: Duration = Duration::from_mins(10);

/// One database's settings, as resolved from its [`Endpoint`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// The database file as it was typed.
    pub(crate) path: PathBuf,
    /// Setting `busy_timeout_ms`: how long to wait for locks that others hold.
    pub(crate) busy_timeout: Duration,
    /// Setting `scratch`: a directory for the copy that the online backup API makes of a
    /// rollback-journal database. The system's temporary directory by default.
    pub(crate) scratch: Option<PathBuf>,
}

impl Config {
    /// Reads an endpoint. `sqlite:app.db` and `sqlite:/srv/app.db` name a file as it is typed;
    /// `sqlite:///srv/app.db` is the same file as a URL without a host.
    pub(crate) fn new(endpoint: &Endpoint) -> Result<Self> {
        let path = match endpoint.address.strip_prefix("//") {
            Some(rest) if !rest.starts_with('/') => return Err(names_a_host(endpoint)),
            Some(rest) => rest,
            None => endpoint.address.as_str(),
        };
        if path.is_empty() || path.contains('\0') {
            return Err(invalid("name the database file", "sqlite:PATH"));
        }
        let busy_timeout = match endpoint.settings.get("busy_timeout_ms") {
            None => BUSY_TIMEOUT,
            Some(text) => text
                .parse()
                .map(Duration::from_millis)
                .ok()
                .filter(|timeout| *timeout <= BUSY_TIMEOUT_MAX)
                .ok_or_else(|| invalid("read setting busy_timeout_ms", "busy_timeout_ms=5000"))?,
        };
        let scratch = endpoint.settings.get("scratch").map(PathBuf::from);
        Ok(Self { path: PathBuf::from(path), busy_timeout, scratch })
    }

    /// The database's name unless the user gives one: its file name.
    pub(crate) fn default_name(&self) -> Result<String> {
        let name = self.path.file_name().map(|name| name.to_string_lossy().into_owned());
        name.ok_or_else(|| invalid("name the database file", "sqlite:PATH"))
    }

    /// A sibling of `path` whose name ends with `suffix`, such as `-wal`.
    pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    }
}

fn invalid(step: &'static str, next: &'static str) -> Error {
    Error::new(ErrorKind::Invalid, code::USAGE, step).next(next)
}

fn names_a_host(endpoint: &Endpoint) -> Error {
    Error::new(ErrorKind::Invalid, code::USAGE, "read the address of a SQLite database")
        .with("address", format!("{}:{}", endpoint.scheme, endpoint.address))
        .why("after two slashes a URL names a host, and a SQLite database is a file")
        .next("sqlite:app.db for a relative path, sqlite:///srv/app.db for an absolute one")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn at(address: &str) -> Result<PathBuf> {
        let endpoint = Endpoint {
            scheme: "sqlite".into(),
            address: address.into(),
            settings: BTreeMap::new(),
        };
        Config::new(&endpoint).map(|config| config.path)
    }

    #[test]
    fn an_address_is_a_path_as_it_was_typed() {
        for (address, path) in [
            ("app.db", "app.db"),
            ("/srv/app.db", "/srv/app.db"),
            ("///srv/my app.db", "/srv/my app.db"),
            ("./bücher/ärger %20.db", "./bücher/ärger %20.db"),
        ] {
            assert_eq!(at(address).unwrap(), PathBuf::from(path));
        }
        for address in ["", "//host/app.db", "///\0"] {
            assert_eq!(at(address).unwrap_err().kind(), ErrorKind::Invalid, "{address}");
        }
    }
}
