//! Joins engines and the repository: one backup, one capture, one restore, whole or partial, one
//! drill.
//!
//! Nothing here knows a particular engine, prints, or reads the environment.

mod archive;
mod backup;
mod capture;
mod copy;
mod delivery;
mod drill;
mod endpoints;
mod events;
mod fetch;
mod forecast;
mod mount;
mod native;
mod outbox;
mod owner;
mod partial;
mod pickup;
mod point;
mod present;
mod program;
mod reach;
mod restore;
mod scratch;
mod scratch_copy;
mod serve;
mod site;
mod sizing;
pub mod state;
mod storage;
mod terms;

pub use archive::{Files, Pushed, push};
pub use backup::{BackupJob, BackupReport, back_up};
pub use capture::{CaptureEvent, CaptureJob, CaptureReport, Process, capture, retire};
pub use copy::{CopyReport, CopyStanding, Copying, kind_of};
pub use delivery::Delivery;
pub use drill::{DrillJob, Expectation, draw, drill};
pub use endpoints::{Ask, Discovery, Told, Whom};
pub use events::{Events, Happened, events, last_loss};
pub use fetch::{Fetched, Fetcher};
pub use forecast::{Estimate, Forecast, Lost, Stop, forecast};
pub use mount::stand_guard;
pub use outbox::{HANDOFF_SCHEMA, HandOff, HandedFile, Outbox, Point, PointManifest};
pub use owner::Successor;
pub use partial::{
    PartialJob, PartialPlan, PartialReport, bring, compare, plan_partial, suffix_of,
};
pub use pickup::{Dump, PICKUP_SCHEME, PickUp, pick_up};
pub use point::{Chosen, Preference, SAME_COMMAND_AT, Wanted, choose};
pub use present::{PresentJob, Shown, check_point, present_at, present_copied};
pub use program::{Unprinted, printed};
pub use reach::{Restorable, Window, windows};
pub use restore::{
    ResolvedRestore, RestoreJob, RestoreReport, engine_of, plan, rewriting_beside, run,
    staging_beside,
};
pub use scratch::{Scratch, ScratchPlace};
pub use scratch_copy::{CopyJob, PlannedCopy, Presented, ScratchCopy, Way, plan_copy};
pub use serve::{
    BOUNDS_SECONDS, BackupTask, Caps, Coordinator, CopyKnown, Decided, Draining, Drivers, Ending,
    Endpoints, Fleet, HISTORY_DAYS, Hands, Histogram, Link, Member, NOTICE_SCHEMA, Notice,
    NoticeAlert, NoticeKind, NoticeUrgency, Notifier, Place, Rehearsal, Rehearsed, Report, Rhythm,
    Standing, Suppressed, Tally, add_drills, add_drills_said, copy_said, decided, expire,
    expire_copy, read_back, reported, silence, standing, told, unheard,
};
pub use sizing::{JOB_MEMORY_BYTES, Load, Sizing};
pub use storage::{Amount, MadeBy, Stake, StorageForecast, forecast_storage};
pub use terms::{HeldBack, Terms, subjects};
