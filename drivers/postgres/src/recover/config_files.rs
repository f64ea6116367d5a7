//! Configuration that lay outside of the data directory, brought to where the restored server finds
//! it: inside, where all of it moves with the data.

use std::{fs, io, path::Path};

use crate::layout::{Layout, OUTSIDE_PREFIX};

/// Where a server looks for each file that no setting names.
const FILES: [(&str, &str, &str); 3] = [
    ("config_file", CONFIG, "# The backup could not read the configuration: these are defaults.\n"),
    ("hba_file", "pg_hba.conf", "# The backup could not read the rules.\nlocal all all peer\n"),
    ("ident_file", "pg_ident.conf", "# The backup could not read the maps.\n"),
];

const CONFIG: &str = "postgresql.conf";

/// Settings that would lead the restored server to files of the original one.
const LEADING_AWAY: [&str; 7] = [
    "data_directory",
    "hba_file",
    "ident_file",
    "external_pid_file",
    "include",
    "include_dir",
    "include_if_exists",
];

/// Puts the files into `data`; `parts` is where those of the backup were laid out.
pub(super) fn bring(data: &Path, parts: &Path, layout: &Layout) -> io::Result<()> {
    if layout.files_outside.is_empty() {
        return Ok(());
    }
    for (setting, name, fallback) in FILES {
        let Some(file) = layout.files_outside.iter().find(|file| file.setting == setting) else {
            continue;
        };
        let inside = data.join(name);
        if file.part.is_some() {
            fs::copy(parts.join(OUTSIDE_PREFIX).join(setting), &inside)?;
        } else if !inside.exists() {
            fs::write(&inside, fallback)?;
        }
    }
    let config = data.join(CONFIG);
    match fs::read_to_string(&config) {
        Ok(text) => fs::write(config, kept_inside(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The configuration without what leads away: those lines become comments.
fn kept_inside(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    for line in text.lines() {
        let key: String = line
            .trim_start()
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect();
        if LEADING_AWAY.contains(&key.to_ascii_lowercase().as_str()) {
            kept.push_str("# left out by the restore: ");
        }
        kept.push_str(line);
        kept.push('\n');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_to_the_files_of_the_original() {
        let text = "port = 5433\n  Data_Directory = '/srv/pg'\nhba_file='/etc/pg_hba.conf'\n\
                    include_dir 'conf.d'\n#ident_file = 'x'\ninclude_other = 1\n";
        assert_eq!(
            kept_inside(text),
            "port = 5433\n# left out by the restore:   Data_Directory = '/srv/pg'\n\
             # left out by the restore: hba_file='/etc/pg_hba.conf'\n\
             # left out by the restore: include_dir 'conf.d'\n#ident_file = 'x'\n\
             include_other = 1\n"
        );
    }
}
