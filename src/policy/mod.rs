//! What is promised for a database, and what follows from it.
//!
//! Pure functions: facts and the time go in, decisions and their reasons come out. Whoever acts on
//! them is elsewhere, so that dry runs, explanations and simulations ask the very same code.

mod alert;
mod anomaly;
mod archive;
mod board;
mod calendar;
mod civil;
mod coming;
mod copy;
mod due;
mod endpoint;
#[cfg(test)]
mod endpoint_tests;
mod event;
mod facts;
mod model;
mod promise;
mod reason;
mod retention;
#[cfg(test)]
mod retention_tests;
mod rule;
mod series;
#[cfg(test)]
mod simulation;
mod urgency;
mod window;

pub use alert::{
    ARCHIVE_LAG_MAX, Alert, ArchiveState, COPY_LAG_MAX, Class, CopyState, PAGE_PRIORITY,
    Protection, Urgency, alerts,
};
pub use anomaly::{Anomaly, KEPT_BEFORE, Oddity, Sizes, TOLD, anomalies};
pub use archive::{
    ArchiveEncryption, ArchiveRule, ArchivedChild, DestinationRule, FileFormat, Gates, LogShare,
    Throttle, Verification,
};
pub use board::{AlertKey, Board, Message, Told};
pub use calendar::{BadPattern, Calendar, Turns, UnevenDay, check, uneven_days};
pub use civil::{Cycle, Stretch, midnight};
pub use coming::Coming;
pub use copy::{Candidate, Hours};
pub use due::{DUE_TIMES_MAX, Decision, Fate, GRACE, Schedule, Settled, Skip, Step, Waiting, Why};
pub use endpoint::{
    Change, Drain, End, Phase, Registered, Registration, Registry, Sighting, Unprotected, Wanted,
    absence, choose, forgettable, is_over, lapse, make_way, observe, succeeded,
};
pub use event::{Event, EventEnd, WHOLE_DATABASE};
pub use facts::{Attempt, BACKOFF_FIRST, BACKOFF_MAX, Facts, Need, Outcome, Pause};
pub use model::{
    CopyKind, CopyRule, CopyWhen, DrillPoint, DrillRule, EventRule, Keep, Kind, Logs, Missed, Mode,
    Period, PeriodUnit, Policy, State, Timing, Window,
};
pub use promise::{FIRST_BACKUP_MAX, Freshness, Interval, Reach};
pub use reason::{Reason, Until};
pub use retention::{
    Backup, Held, Hold, LogRange, LogReason, Proof, Retention, Rules, Stock, Verdict,
};
pub use rule::{Absence, Belongs, Lifecycle, Rule, Selector, TARGET, Template, belongs};
pub use urgency::{RANK_PER_RPO, is_stalled, rank};
pub use window::{is_open, next_begin, open_until};
