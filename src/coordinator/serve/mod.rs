//! Policies are run: what is due is put into a queue and done, log is captured, and whoever has to
//! know of something is told.

mod agent;
mod copies;
mod drain;
mod drivers;
mod evaluate;
mod fleet;
mod hands;
mod notice;
mod run;
mod sites;
mod standing;
mod streams;
mod succession;
mod tally;
mod upkeep;
mod watch;
mod work;

pub use agent::{Report, reported, silence};
pub(super) use copies::LOOK_AGAIN;
pub use copies::{CopyKnown, add_drills, expire_copy};
pub use drain::Draining;
pub use drivers::{Drivers, Rehearsal, read_back};
pub use evaluate::{Decided, decided};
pub use fleet::{Caps, Endpoints, Fleet, Link, Member, Place};
pub use hands::{BackupTask, Ending, Hands};
pub use notice::{NOTICE_SCHEMA, Notice, NoticeAlert, NoticeKind, NoticeUrgency};
pub use run::{Coordinator, Rhythm};
pub use sites::{add_drills_said, copy_said, unheard};
pub use standing::{Rehearsed, Standing, standing};
pub use tally::{BOUNDS_SECONDS, Histogram, Suppressed, Tally};
pub use upkeep::{HISTORY_DAYS, expire};
pub use watch::Notifier;
pub use work::told;
