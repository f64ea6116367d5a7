//! Joins engines and the repository: one backup, one capture, one restore, whole or partial, one
//! drill.
//!
//! Nothing here knows a particular engine, prints, or reads the environment.

mod archive;
mod backup;
mod capture;
mod drill;
mod events;
mod fetch;
mod forecast;
mod native;
mod owner;
mod partial;
mod point;
mod reach;
mod restore;
mod scratch;
mod site;

pub use archive::{Files, Pushed, push};
pub use backup::{BackupJob, BackupReport, back_up};
pub use capture::{CaptureEvent, CaptureJob, CaptureReport, Process, capture, retire};
pub use drill::{DrillJob, Expectation, draw, drill};
pub use events::{Events, Happened, events, last_loss};
pub use fetch::{Fetched, Fetcher};
pub use forecast::{Estimate, Forecast, Lost, forecast};
pub use partial::{PartialJob, PartialReport, bring, compare};
pub use point::{Chosen, Wanted, choose};
pub use reach::{Restorable, Window, windows};
pub use restore::{
    ResolvedRestore, RestoreJob, RestoreReport, engine_of, plan, rewriting_beside, run,
    staging_beside,
};
pub use scratch::{Scratch, ScratchPlace};
