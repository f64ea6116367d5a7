//! A file that an application left: whether it is one complete database.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};

use stillpoint_contract::{Error, ErrorKind, Result, code};

use crate::{restore, wal::is_page_size};

/// Length of the header of every database.
///
/// Source: <https://www.sqlite.org/fileformat2.html>, 1.3, "The Database Header".
const HEADER: usize = 100;
const MAGIC: &[u8] = b"SQLite format 3\0";

/// What lies beside a database that is not complete without it.
const COMPANIONS: [&str; 2] = ["-wal", "-journal"];

/// Checks a copy of a file, and what lies beside the file itself.
pub(crate) fn check(left: &Path, copy: &Path) -> Result<String> {
    for suffix in COMPANIONS {
        let mut companion = left.as_os_str().to_owned();
        companion.push(suffix);
        if fs::metadata(&companion).is_ok_and(|file| 0 < file.len()) {
            let why = format!("it is not complete without what lies beside it in {suffix}");
            return Err(refused(left, &why)
                .next("leave a database that is closed, or one made by .backup or VACUUM INTO"));
        }
    }
    let length = fs::metadata(copy).map(|file| file.len());
    let header = length.and_then(|length| Ok((length, header(copy)?)));
    let (length, header) =
        header.map_err(|cause| refused(left, "it cannot be read").caused_by(cause))?;
    measure(&header, length).map_err(|why| refused(left, &why))?;
    restore::check_at(copy).map_err(|error| match error.kind() {
        ErrorKind::Corrupt => refused(left, "SQLite finds damage in it").caused_by(error),
        _ => error,
    })
}

fn header(file: &Path) -> io::Result<Vec<u8>> {
    let mut header = Vec::with_capacity(HEADER);
    File::open(file)?.take(HEADER as u64).read_to_end(&mut header)?;
    Ok(header)
}

/// Whether a file has the length that its header says.
fn measure(header: &[u8], length: u64) -> std::result::Result<(), String> {
    if header.len() < HEADER || !header.starts_with(MAGIC) {
        return Err("it does not begin as a database of SQLite does".to_owned());
    }
    let number = |at: usize| {
        header[at..at + 4].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    };
    let page = match u32::from(header[16]) << 8 | u32::from(header[17]) {
        1 => 65_536,
        page => page,
    };
    if !is_page_size(page) {
        return Err(format!("it says that its pages have {page} bytes"));
    }
    // The count is right only where it was written with the counter of changes beside it.
    let pages = if number(24) == number(92) { number(28) } else { length.div_ceil(page.into()) };
    let expected = pages * u64::from(page);
    if pages == 0 || length != expected {
        return Err(format!(
            "it has {length} bytes and should have {expected}: it is half-written"
        ));
    }
    Ok(())
}

fn refused(left: &Path, why: &str) -> Error {
    let step = format!("take {} for a complete database", left.display());
    Error::new(ErrorKind::Refused, code::NOT_A_DATABASE, step).why(why.to_owned())
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    /// Row 16: no beginning of a database is taken for one, wherever it ends.
    #[test]
    fn row_16_no_part_of_a_database_is_taken_for_one() {
        let folder = tempfile::tempdir().unwrap();
        let (path, part) = (folder.path().join("app.db"), folder.path().join("part.db"));
        let fill = "CREATE TABLE t (a); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1
                    FROM n WHERE i < 40) INSERT INTO t SELECT randomblob(900) FROM n";
        let application = Connection::open(&path).unwrap();
        application.execute_batch(fill).unwrap();
        drop(application);
        let whole = fs::read(&path).unwrap();
        assert!(check(&path, &path).unwrap().contains("ok"));
        for length in (0..whole.len()).step_by(509).chain([whole.len() - 4096]) {
            fs::write(&part, &whole[..length]).unwrap();
            let error = check(&part, &part).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused, "{length}: {error}");
        }
        let mut torn = whole.clone();
        let middle = torn.len() / 2;
        torn[middle / 4096 * 4096..][..4096].fill(0);
        fs::write(&part, &torn).unwrap();
        assert_eq!(check(&part, &part).unwrap_err().kind(), ErrorKind::Refused);
        fs::write(&part, &whole).unwrap();
        fs::write(folder.path().join("part.db-wal"), b"frames").unwrap();
        let error = check(&part, &part).unwrap_err();
        assert!(format!("{error:?}").contains("-wal"), "{error:?}");
    }
}
