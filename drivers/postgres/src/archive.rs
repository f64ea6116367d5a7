//! WAL files as `archive_command` and `restore_command` name them.
