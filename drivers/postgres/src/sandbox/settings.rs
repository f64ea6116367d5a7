//! The settings of a sandbox's server. Nothing that the restored cluster was configured with is
//! read: its files of settings are left out, and what matters is on the command line, before which
//! they would have to give way.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::recover::follow_nobody;

/// The port in the name of the socket; nothing listens on a network.
pub(crate) const PORT: u16 = 5432;

/// The longest path of a socket, with its end. Source: unix(7), `sun_path`.
const SOCKET_BYTES_MAX: usize = 107;

/// Room for sessions of checks and of copies.
const SIZES: &str = "max_connections = 40\nmax_locks_per_transaction = 1024\n";

/// Settings that the command line says, so that no file can say otherwise.
const LOCKS: &[&str] = &[
    "listen_addresses=",
    "unix_socket_permissions=0700",
    "bonjour=off",
    "ssl=off",
    "external_pid_file=",
    // It archives nothing, sends to nobody, and follows nobody.
    "archive_mode=off",
    "archive_command=",
    "archive_cleanup_command=",
    "restore_command=",
    "recovery_end_command=",
    "primary_conninfo=",
    "primary_slot_name=",
    "max_wal_senders=0",
    "max_replication_slots=0",
    "max_logical_replication_workers=0",
    "synchronous_standby_names=",
    // It loads nothing and starts nothing by itself.
    "shared_preload_libraries=",
    "session_preload_libraries=",
    "local_preload_libraries=",
    "autovacuum=off",
    "logging_collector=off",
    "log_destination=stderr",
    // What it holds is thrown away.
    "fsync=off",
    "full_page_writes=off",
    "synchronous_commit=off",
    // All of its memory in files is its own.
    "dynamic_shared_memory_type=mmap",
    "huge_pages=off",
];

/// Settings of our sessions: those of a database would go before what the command line says.
const SESSION: &[&str] = &[
    "session_preload_libraries=",
    "local_preload_libraries=",
    "default_transaction_read_only=off",
    "statement_timeout=0",
    "lock_timeout=0",
    "idle_in_transaction_session_timeout=0",
];

/// Options of every session with a server of a major version.
pub(super) fn session_options(major: u32) -> String {
    // An event trigger may be fired by a login. Source: the manual of 17, section 40.1.
    let newer = (major >= 17).then_some("event_triggers=off");
    let newer = newer.into_iter().chain((major >= 14).then_some("idle_session_timeout=0"));
    let options = SESSION.iter().copied().chain(newer).map(|setting| format!("-c {setting}"));
    options.collect::<Vec<_>>().join(" ")
}

/// The arguments that every process of the sandbox gets, after `-D`.
pub(super) fn arguments(directory: &Path) -> Vec<String> {
    let own = |setting: &str, file: &str| format!("{setting}={}", directory.join(file).display());
    let mut settings = vec![
        own("config_file", "settings.conf"),
        own("hba_file", "hba.conf"),
        own("ident_file", "ident.conf"),
        format!("unix_socket_directories={}", directory.display()),
        format!("port={PORT}"),
    ];
    settings.extend(LOCKS.iter().map(|setting| (*setting).to_owned()));
    settings.into_iter().flat_map(|setting| ["-c".to_owned(), setting]).collect()
}

/// Writes the files of settings, and takes from the restored cluster what would lead it elsewhere.
pub(super) fn write(data: &Path, directory: &Path) -> io::Result<()> {
    let prepared = fs::read_dir(data.join("pg_twophase")).map_or(0, Iterator::count);
    let sizes = format!("{SIZES}max_prepared_transactions = {prepared}\n");
    fs::write(directory.join("settings.conf"), sizes)?;
    // Whoever can enter the directory may log in: its owner, and we.
    fs::write(directory.join("hba.conf"), "local all all trust\n")?;
    fs::write(directory.join("ident.conf"), "")?;
    fs::write(data.join("postgresql.auto.conf"), "")?;
    follow_nobody(data)?;
    // A server without room for slots refuses to start on any.
    match fs::read_dir(data.join("pg_replslot")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        slots => slots?.try_for_each(|slot| fs::remove_dir_all(slot?.path())),
    }
}

/// Whether a socket in the directory has a name that the system takes.
pub(super) fn has_room_for_socket(directory: &Path) -> bool {
    socket(directory).as_os_str().len() <= SOCKET_BYTES_MAX
}

fn socket(directory: &Path) -> PathBuf {
    directory.join(format!(".s.PGSQL.{PORT}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_elsewhere_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let (data, run) = (root.path().join("data"), root.path().join("run"));
        fs::create_dir_all(data.join("pg_replslot/live")).unwrap();
        fs::create_dir_all(data.join("pg_twophase")).unwrap();
        fs::create_dir(&run).unwrap();
        fs::write(data.join("pg_twophase/00000001"), "").unwrap();
        fs::write(data.join("standby.signal"), "").unwrap();
        fs::write(data.join("postgresql.auto.conf"), "archive_mode = on\n").unwrap();
        write(&data, &run).unwrap();
        assert!(!data.join("standby.signal").exists());
        assert_eq!(fs::read_to_string(data.join("postgresql.auto.conf")).unwrap(), "");
        assert_eq!(fs::read_dir(data.join("pg_replslot")).unwrap().count(), 0);
        let settings = fs::read_to_string(run.join("settings.conf")).unwrap();
        assert!(settings.contains("max_prepared_transactions = 1\n"), "{settings}");
    }
}
