//! How the machine of a restore differs from what the backup recorded.

use crate::{layout::Layout, recover::Server};

/// How many missing extensions are named.
const NAMES_MAX: usize = 8;

/// What a person should know before a restore.
pub(crate) fn differences(layout: &Layout, server: Option<&Server>) -> Vec<String> {
    let major = layout.server_version_num / 10_000;
    let mut notes = Vec::new();
    let outside = &layout.files_outside;
    let (brought, unread): (Vec<_>, Vec<_>) = outside.iter().partition(|file| file.part.is_some());
    for file in brought {
        notes.push(format!(
            "{} comes to lie in the data directory; it was {}",
            file.setting, file.path
        ));
    }
    for file in unread {
        notes.push(format!(
            "{} was {}, which the role of the backup could not read: look at what replaces it",
            file.setting, file.path
        ));
    }
    let Some(server) = server else {
        notes.push(format!(
            "no server of PostgreSQL {major} is installed here: files and WAL are laid out, and \
             the server that you start on them replays the WAL by itself, up to the chosen point"
        ));
        return notes;
    };
    let recorded = first_word(&layout.server_version);
    if server.version() != recorded {
        notes.push(format!(
            "the backup is of PostgreSQL {recorded}, and {} is installed here",
            server.version()
        ));
    }
    if let Some(extensions) = server.extensions() {
        let named = layout.extensions.values().flat_map(|found| found.keys());
        let mut missing: Vec<&str> =
            named.map(String::as_str).filter(|name| !extensions.contains(*name)).collect();
        missing.sort_unstable();
        missing.dedup();
        if !missing.is_empty() {
            missing.truncate(NAMES_MAX);
            notes.push(format!("extensions that are not installed here: {}", missing.join(", ")));
        }
    }
    let preloaded = layout.settings.get("shared_preload_libraries").map_or("", String::as_str);
    if !preloaded.is_empty() {
        notes.push(format!("the server loads these libraries when it starts: {preloaded}"));
    }
    notes
}

/// The number in a version such as `15.18 (Debian 15.18-0+deb12u1)`.
fn first_word(version: &str) -> &str {
    version.split_whitespace().next().unwrap_or_default()
}
