//! What nobody may remove or erase: sets, or single runs, that are held for a case.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::place::Place;
use crate::world::World;

const HOLDS: &str = "holds";
const RELEASES: &str = "released";

/// A hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveHold {
    /// Its id.
    pub id: String,
    /// The run; all of the set where none is said.
    pub run: Option<String>,
    /// In which case.
    pub case: String,
    /// Who.
    pub by: String,
    /// When, by the coordinator's clock.
    pub at: DateTime<Utc>,
}

/// That a hold is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveRelease {
    /// The hold.
    pub hold: String,
    /// Why.
    pub reason: String,
    /// Who.
    pub by: String,
    /// When, by the coordinator's clock.
    pub at: DateTime<Utc>,
}

/// The holds on a set that are not released.
#[derive(Clone, Debug, Default)]
pub struct Holds(pub Vec<ArchiveHold>);

impl Holds {
    /// Whether a run is held.
    pub fn of_run(&self, run: &str) -> bool {
        self.0.iter().any(|hold| hold.run.as_deref().is_none_or(|held| held == run))
    }

    /// Refuses to touch a run, or all of the set.
    ///
    /// # Errors
    ///
    /// [`Refused`](ErrorKind::Refused) while somebody holds it.
    pub fn refuse(&self, run: Option<&str>) -> Result<()> {
        let holds =
            |hold: &&ArchiveHold| hold.run.is_none() || run.is_none() || hold.run.as_deref() == run;
        let Some(hold) = self.0.iter().find(holds) else { return Ok(()) };
        Err(Error::new(ErrorKind::Refused, code::HELD, "remove archived rows")
            .with("hold", &hold.id)
            .with("case", &hold.case)
            .with("by", &hold.by)
            .why("they are held; neither a policy nor a person removes them until it is released"))
    }
}

/// The holds on a set that are not released.
pub async fn held(place: &Place) -> Result<Holds> {
    let released: Vec<ArchiveRelease> = place.notices(RELEASES).await?;
    let mut holds: Vec<ArchiveHold> = place.notices(HOLDS).await?;
    holds.retain(|hold| released.iter().all(|release| release.hold != hold.id));
    Ok(Holds(holds))
}

/// Holds a set, or one run of it.
pub async fn hold(
    place: &Place,
    world: &World,
    run: Option<&str>,
    case: &str,
    by: &str,
) -> Result<ArchiveHold> {
    let hold = ArchiveHold {
        id: world.new_id(),
        run: run.map(str::to_owned),
        case: case.to_owned(),
        by: by.to_owned(),
        at: world.clock.now(),
    };
    place.write_at(&place.notice(HOLDS, &hold.id)?, &hold).await?;
    Ok(hold)
}

/// Ends a hold.
///
/// # Errors
///
/// [`Missing`](ErrorKind::Missing) when there is none that begins so.
pub async fn release(
    place: &Place,
    world: &World,
    id: &str,
    reason: &str,
    by: &str,
) -> Result<ArchiveHold> {
    let holds = held(place).await?;
    let fitting: Vec<&ArchiveHold> =
        holds.0.iter().filter(|hold| !id.is_empty() && hold.id.starts_with(id)).collect();
    let [hold] = fitting.as_slice() else {
        let known: Vec<&str> = holds.0.iter().map(|hold| &*hold.id).collect();
        return Err(Error::new(ErrorKind::Missing, code::NO_SUCH_HOLD, "find the hold")
            .with("given", id)
            .with("holds", known.join(", ")));
    };
    let release = ArchiveRelease {
        hold: hold.id.clone(),
        reason: reason.to_owned(),
        by: by.to_owned(),
        at: world.clock.now(),
    };
    place.write_at(&place.notice(RELEASES, &hold.id)?, &release).await?;
    Ok((*hold).clone())
}
