//! What is promised for a database, and what follows from it.
//!
//! Pure functions: facts and the time go in, decisions and their reasons come out. Whoever acts on
//! them is elsewhere, so that dry runs, explanations and simulations ask the very same code.

mod calendar;
mod civil;
mod model;
mod window;

pub use calendar::{BadPattern, Calendar, UnevenDay, check, uneven_days};
pub use civil::{Cycle, Stretch};
pub use model::{
    CopyKind, CopyRule, CopyWhen, DrillPoint, DrillRule, EventRule, Keep, Kind, Logs, Missed,
    Period, PeriodUnit, Policy, Timing, Window,
};
pub use window::{is_open, next_begin, open_until};
