//! The password file.
//!
//! Source: <https://www.postgresql.org/docs/current/libpq-pgpass.html>.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path};

use stillpoint_contract::{Error, ErrorKind, Result, code};

use crate::config::Secret;

/// A file longer than this is no password file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Finds the password for host, port, database and user. A file that others may read is refused.
pub(crate) fn look_up(file: &Path, wanted: [&str; 4]) -> Result<Option<Secret>> {
    let failed = |cause: io::Error| {
        Error::new(ErrorKind::Config, code::FILE, "read the password file")
            .with("file", file.display())
            .caused_by(cause)
    };
    let metadata = match fs::metadata(file) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found.map_err(failed)?,
    };
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        return Ok(None);
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(Error::new(ErrorKind::Refused, code::FILE, "read the password file")
            .with("file", file.display())
            .why("others may read it")
            .next(format!("chmod 0600 {}", file.display())));
    }
    Ok(find(&fs::read_to_string(file).map_err(failed)?, wanted).map(Secret::new))
}

/// The password in the first line that fits.
fn find(text: &str, wanted: [&str; 4]) -> Option<String> {
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut fields = split(line).into_iter();
        let fits = wanted
            .iter()
            .all(|wanted| fields.next().is_some_and(|field| field == "*" || field == *wanted));
        fields.next().filter(|_| fits)
    })
}

/// Cuts a line at its colons; `\` escapes a colon or itself.
fn split(line: &str) -> Vec<String> {
    let (mut fields, mut escaped) = (vec![String::new()], false);
    for c in line.chars() {
        match c {
            '\\' if !escaped => {
                escaped = true;
                continue;
            }
            ':' if !escaped && fields.len() < 5 => fields.push(String::new()),
            c => fields.last_mut().into_iter().for_each(|field| field.push(c)),
        }
        escaped = false;
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_counts() {
        let text = "# comment\nh:1:d:u:first\n*:*:*:u:a\\:b\\\\c:d\n*:*:*:*:last\n";
        assert_eq!(find(text, ["h", "1", "d", "u"]).as_deref(), Some("first"));
        assert_eq!(find(text, ["h", "2", "d", "u"]).as_deref(), Some("a:b\\c:d"));
        assert_eq!(find(text, ["h", "2", "d", "v"]).as_deref(), Some("last"));
        assert_eq!(find("h:1:d", ["h", "1", "d", "u"]), None);
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pgpass");
        assert_eq!(look_up(&file, ["h", "1", "d", "u"]).unwrap(), None);
        fs::write(&file, "*:*:*:*:x\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let refused = look_up(&file, ["h", "1", "d", "u"]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(look_up(&file, ["h", "1", "d", "u"]).unwrap(), Some(Secret::new("x")));
    }
}
