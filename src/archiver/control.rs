//! What somebody tells a run while it works: written beside its documents, and looked at by it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use stillpoint_contract::Result;

use super::{pace::Said, place::Place};
use crate::world::World;

const NOTICES: &str = "control";

/// How often a run looks.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a run was told last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// Whether it rests until it is told to go on.
    pub is_paused: bool,
    /// How it is to work.
    #[serde(flatten)]
    pub said: Said,
    /// Who told it.
    #[serde(default)]
    pub by: String,
    /// When, by the clock of whoever told it.
    #[serde(default)]
    pub at: DateTime<Utc>,
}

/// What the runs of a set were told last.
pub async fn control(place: &Place) -> Result<Control> {
    let all: Vec<Control> = place.notices(NOTICES).await?;
    Ok(all.into_iter().next_back().unwrap_or_default())
}

/// Tells the runs of a set: what `change` makes of what they were told before.
pub async fn tell(
    place: &Place,
    world: &World,
    by: &str,
    change: impl FnOnce(&mut Control),
) -> Result<Control> {
    let mut told = control(place).await?;
    change(&mut told);
    (told.by, told.at) = (by.to_owned(), world.clock.now());
    place.write_at(&place.notice(NOTICES, &world.new_id())?, &told).await?;
    Ok(told)
}
