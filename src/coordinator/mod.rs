//! Joins engines and the repository: one backup, one capture, one restore.
//!
//! Nothing here knows a particular engine, prints, or reads the environment.

mod archive;
mod backup;
mod capture;
mod events;
mod fetch;
mod native;
mod owner;
mod point;
mod restore;
mod site;

pub use archive::{Files, Pushed, push};
pub use backup::{BackupJob, BackupReport, back_up};
pub use capture::{CaptureEvent, CaptureJob, CaptureReport, Process, capture, retire};
pub use events::{Events, Happened, events, last_loss};
pub use fetch::{Fetched, Fetcher};
pub use point::{Chosen, Wanted, choose};
pub use restore::{
    ResolvedRestore, RestoreJob, RestoreReport, engine_of, plan, rewriting_beside, run,
    staging_beside,
};
