//! What is promised for a database, and what follows from it.
//!
//! Pure functions: facts and the time go in, decisions and their reasons come out. Whoever acts on
//! them is elsewhere, so that dry runs, explanations and simulations ask the very same code.

mod model;

pub use model::{
    CopyKind, CopyRule, CopyWhen, DrillPoint, DrillRule, EventRule, Keep, Kind, Logs, Missed,
    Period, PeriodUnit, Policy, Timing, Window,
};
