//! The only reader of the environment.

use std::{collections::BTreeMap, env, fmt, fs, path::PathBuf};

use super::zone::{SystemZone, Zone};

/// The environment of the process, read once. Values that are not UTF-8 are left out.
#[derive(Clone, Default)]
pub(crate) struct Environment {
    variables: BTreeMap<String, String>,
    system_zone: SystemZone,
}

impl fmt::Debug for Environment {
    /// Prints names only: values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

impl Environment {
    /// Reads the process's environment and the system's zone.
    pub(crate) fn of_process() -> Self {
        let variables: BTreeMap<String, String> = env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let link = fs::read_link("/etc/localtime").ok();
        let system_zone = SystemZone {
            variable: variables.get("TZ").cloned(),
            localtime_link: link.and_then(|path| path.into_os_string().into_string().ok()),
            localtime_exists: fs::exists("/etc/localtime").unwrap_or(false),
            timezone_file: fs::read_to_string("/etc/timezone").ok(),
        };
        Self { variables, system_zone }
    }

    /// A variable's value, unless it is unset or empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The system's zone.
    pub(crate) fn zone(&self) -> Zone {
        Zone::of_system(&self.system_zone)
    }

    /// What object stores read for themselves: credentials, regions, endpoints.
    pub(crate) fn cloud(&self) -> BTreeMap<String, String> {
        const PREFIXES: [&str; 3] = ["AWS_", "AZURE_", "GOOGLE_"];
        self.variables
            .iter()
            .filter(|(name, _)| PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    /// Where this user's programs keep what they remember between runs.
    /// Source: XDG Base Directory Specification 0.8, section 3: relative paths are ignored.
    pub(crate) fn state_folder(&self) -> Option<PathBuf> {
        let absolute = |name| self.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base =
            absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
        base.map(|path| path.join("stillpoint"))
    }

    /// Whether the user wants no colour anywhere. Source: <https://no-color.org>.
    pub(crate) fn refuses_colour(&self) -> bool {
        self.get("NO_COLOR").is_some() || self.get("TERM") == Some("dumb")
    }
}

#[cfg(test)]
impl Environment {
    /// An environment that holds what a test says.
    pub(crate) fn of(variables: &[(&str, &str)]) -> Self {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Self { variables: variables.iter().map(own).collect(), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_an_object_store_needs_is_handed_on() {
        let environment =
            Environment::of(&[("AWS_REGION", "eu"), ("AZURE_X", "1"), ("PGPASSWORD", "secret")]);
        assert_eq!(environment.cloud().into_keys().collect::<Vec<_>>(), ["AWS_REGION", "AZURE_X"]);
        assert!(!format!("{environment:?}").contains("secret"));
    }

    #[test]
    fn memory_is_kept_where_the_desktop_standard_says() {
        let folder = |variables: &[(&str, &str)]| Environment::of(variables).state_folder();
        assert_eq!(folder(&[]), None);
        assert_eq!(folder(&[("HOME", "/h")]), Some("/h/.local/state/stillpoint".into()));
        assert_eq!(
            folder(&[("HOME", "/h"), ("XDG_STATE_HOME", "/s")]),
            Some("/s/stillpoint".into())
        );
        assert_eq!(
            folder(&[("HOME", "/h"), ("XDG_STATE_HOME", "relative")]),
            Some("/h/.local/state/stillpoint".into())
        );
    }
}
