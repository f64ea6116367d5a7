//! Joins engines and the repository: one backup, one capture, one restore.
//!
//! Nothing here knows a particular engine, prints, or reads the environment.

mod backup;
mod capture;
mod native;
mod owner;
mod point;
mod restore;

pub use backup::{BackupJob, BackupReport, back_up};
pub use capture::{CaptureEvent, CaptureJob, CaptureReport, Process, capture};
pub use point::{Chosen, Wanted, choose};
pub use restore::{
    ResolvedRestore, RestoreJob, RestoreReport, engine_of, plan, run, staging_beside,
};
