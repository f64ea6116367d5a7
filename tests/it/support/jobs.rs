//! What coordinators are asked for, of a database that is called `app`.

use std::{num::NonZeroUsize, time::Duration};

use stillpoint::{
    coordinator::{BackupJob, CaptureJob, Process, Successor},
    repository::WriteOptions,
};
use stillpoint_contract::{Endpoint, Engine};

/// A backup.
pub(crate) fn backup_of<'a>(engine: &'a dyn Engine, endpoint: &'a Endpoint) -> BackupJob<'a> {
    BackupJob {
        engine,
        endpoint,
        database: "app",
        full: false,
        successor: Successor::InPlace,
        streams_max: NonZeroUsize::MIN,
        options: WriteOptions::default(),
        task: None,
        configuration: None,
    }
}

/// A capture that waits for nothing.
pub(crate) fn capture_of<'a>(engine: &'a dyn Engine, endpoint: &'a Endpoint) -> CaptureJob<'a> {
    CaptureJob {
        engine,
        endpoint,
        database: "app",
        flush: Duration::ZERO,
        retry_for: Duration::ZERO,
        take_over: false,
        process: Process::UNKNOWN,
    }
}
