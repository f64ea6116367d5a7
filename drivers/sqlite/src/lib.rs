//! The SQLite driver: online backup, write-ahead-log capture, restore.
