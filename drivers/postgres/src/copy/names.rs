//! What the names of a cluster's files say.
//!
//! What is left out is what the server's own base backup leaves out.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-replication.html>, `BASE_BACKUP`.

/// The tablespace that `base` is.
pub(crate) const DEFAULT_TABLESPACE: u32 = 1663;

/// The tablespace that `global` is.
pub(crate) const GLOBAL_TABLESPACE: u32 = 1664;

/// Directories that are empty in a backup.
pub(crate) const EMPTY_DIRECTORIES: &[&str] = &[
    "pg_dynshmem",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_wal",
];

const LEFT_OUT: &[&str] =
    &["postgresql.auto.conf.tmp", "current_logfiles.tmp", ".DS_Store", "pgsql_tmp"];

const LEFT_OUT_AT_TOP: &[&str] =
    &["backup_label", "tablespace_map", "backup_manifest", "postmaster.pid", "postmaster.opts"];

/// What begins so is left out.
const PREFIXES_LEFT_OUT: &[&str] = &["pgsql_tmp", "pg_internal.init", ".s.PGSQL."];

/// Whether something belongs into a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Skip {
    /// It does.
    No,
    /// The directory does, what is in it does not.
    Contents,
    /// It does not.
    Whole,
}

/// A file of a relation: which, and which segment of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Relation {
    pub(crate) tablespace: u32,
    pub(crate) database: u32,
    pub(crate) number: u32,
    pub(crate) fork: Fork,
    /// The number of the file among those that the fork is cut into.
    pub(crate) segment: u32,
}

/// Which of a relation's forks, by PostgreSQL's own numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fork {
    Main = 0,
    FreeSpace = 1,
    Visibility = 2,
    Init = 3,
}

/// Judges a path relative to the data directory, of a server of this major version.
pub(crate) fn skip(path: &str, major: u32) -> Skip {
    let mut names = path.split('/');
    let depth = names.clone().count();
    let name = names.next_back().unwrap_or_default();
    if LEFT_OUT.contains(&name)
        || (depth == 1 && LEFT_OUT_AT_TOP.contains(&name))
        || PREFIXES_LEFT_OUT.iter().any(|prefix| name.starts_with(prefix))
    {
        return Skip::Whole;
    }
    if depth == 1 && EMPTY_DIRECTORIES.contains(&name) {
        return Skip::Contents;
    }
    // A tablespace's directory may hold those of other versions.
    let in_tablespace = depth == 3 && path.starts_with("pg_tblspc/");
    if in_tablespace && !name.starts_with(&format!("PG_{major}_")) {
        return Skip::Whole;
    }
    if is_in_database(path) && is_temporary(name) { Skip::Whole } else { Skip::No }
}

fn is_in_database(path: &str) -> bool {
    path.starts_with("base/") || path.starts_with("pg_tblspc/")
}

/// A temporary relation: `t`, the backend's number, `_`, and the rest.
fn is_temporary(name: &str) -> bool {
    let Some((backend, rest)) = name.strip_prefix('t').and_then(|rest| rest.split_once('_')) else {
        return false;
    };
    number(backend).is_some() && rest.starts_with(|c: char| c.is_ascii_digit())
}

/// Reads the path of a relation's file; `None` for anything else.
pub(crate) fn relation(path: &str) -> Option<Relation> {
    let parts: Vec<&str> = path.split('/').collect();
    let (tablespace, database, name) = match parts.as_slice() {
        ["base", database, name] => (DEFAULT_TABLESPACE, number(database)?, *name),
        ["global", name] => (GLOBAL_TABLESPACE, 0, *name),
        ["pg_tblspc", space, _, database, name] => (number(space)?, number(database)?, *name),
        _ => return None,
    };
    let (name, segment) = match name.split_once('.') {
        Some((name, segment)) => (name, number(segment).filter(|segment| *segment > 0)?),
        None => (name, 0),
    };
    let (digits, fork) = match name.split_once('_') {
        None => (name, Fork::Main),
        Some((digits, "fsm")) => (digits, Fork::FreeSpace),
        Some((digits, "vm")) => (digits, Fork::Visibility),
        Some((digits, "init")) => (digits, Fork::Init),
        Some(_) => return None,
    };
    Some(Relation { tablespace, database, number: number(digits)?, fork, segment })
}

/// The relation, as a path without fork and segment: what its forks share.
pub(crate) fn stem(path: &str) -> &str {
    let directory = path.rfind('/').map_or(0, |at| at + 1);
    let rest = path.get(directory..).unwrap_or_default();
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    path.get(..directory + digits).unwrap_or(path)
}

/// Decimal digits without anything else.
fn number(text: &str) -> Option<u32> {
    let is_decimal = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_decimal.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_the_server_writes_them() {
        let rel = |path| relation(path).map(|r| (r.tablespace, r.database, r.number, r.segment));
        assert_eq!(rel("base/5/2619"), Some((1663, 5, 2619, 0)));
        assert_eq!(rel("base/5/2619_vm.12"), Some((1663, 5, 2619, 12)));
        assert_eq!(rel("global/1262"), Some((1664, 0, 1262, 0)));
        assert_eq!(rel("pg_tblspc/16400/PG_15_202209061/5/16401.1"), Some((16400, 5, 16401, 1)));
        assert_eq!(relation("base/5/7_init").map(|r| r.fork), Some(Fork::Init));
        for path in ["base/5/PG_VERSION", "base/5/t3_7", "base/5/7.0", "base/5/+7", "global/7_x"] {
            assert_eq!(relation(path), None, "{path}");
        }
        assert_eq!(stem("base/5/2619_vm.12"), "base/5/2619");
        assert_eq!(stem("base/5/2619.1"), stem("base/5/2619_init"));
    }

    #[test]
    fn what_the_server_leaves_out_is_left_out() {
        for path in [
            "postmaster.pid",
            "backup_label",
            "base/5/pg_internal.init.123",
            "base/pgsql_tmp",
            "base/pgsql_tmp/pgsql_tmp1.0",
            "base/5/t12_3456_fsm.1",
            "pg_tblspc/16400/PG_14_202107181",
        ] {
            assert_eq!(skip(path, 15), Skip::Whole, "{path}");
        }
        for path in ["base/5/backup_label", "base/5/1", "pg_tblspc/1/PG_15_2", "log/t1_2"] {
            assert_eq!(skip(path, 15), Skip::No, "{path}");
        }
        assert_eq!(skip("pg_wal", 15), Skip::Contents);
        assert_eq!(skip("base/pg_wal", 15), Skip::No);
    }
}
