//! What somebody tells a run while it works: written beside its documents, and looked at by it.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use stillpoint_contract::Result;

use super::{
    pace::{Cause, Said},
    place::Place,
};
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
    /// Of each setting that counts instead of the policy's, by its name: since when.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub since: BTreeMap<String, Since>,
}

/// Who told runs a setting, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Since {
    /// Who.
    pub by: String,
    /// When, by the clock of whoever told it.
    pub at: DateTime<Utc>,
}

impl Control {
    /// The settings that count instead of the policy's, by their names.
    pub fn overrides(&self) -> Vec<(&'static str, Since)> {
        let since = |name: &'static str| {
            (name, self.since.get(name).cloned().unwrap_or_else(|| self.last()))
        };
        self.said.names().map(since).collect()
    }

    /// Why runs of the set rest, where somebody paused it, and what lets them go on.
    pub fn pause(&self, set: &str) -> Option<String> {
        let cause = Cause::Paused { by: self.by.clone() };
        self.is_paused.then(|| format!("{cause}; to go on: stillpoint archive resume {set}"))
    }

    fn last(&self) -> Since {
        Since { by: self.by.clone(), at: self.at }
    }

    /// Remembers who said what differs from what was said before.
    fn remember(&mut self, before: &Self) {
        let known = before.overrides().into_iter();
        let known = known.filter(|(name, _)| self.said.is_same(&before.said, name));
        let known: BTreeMap<&str, Since> = known.collect();
        let since = |name: &str| known.get(name).cloned().unwrap_or_else(|| self.last());
        let since = self.said.names().map(|name| (name.to_owned(), since(name))).collect();
        self.since = since;
    }
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
    let before = control(place).await?;
    let mut told = before.clone();
    change(&mut told);
    (told.by, told.at) = (by.to_owned(), world.clock.now());
    told.remember(&before);
    place.add_notice(world, NOTICES, &told).await?;
    Ok(told)
}
