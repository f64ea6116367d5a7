//! What a copy goes to: another repository, or a folder from which others fetch it.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use stillpoint_contract::Result;

use super::{
    copy::{CopyReport, CopyStanding, Copying},
    outbox::HandOff,
};
use crate::{pipeline::Meter, policy::Hours, repository::Pace, world::World};

/// A copy of a database.
#[derive(Clone, Copy, Debug)]
pub enum Delivery<'a> {
    /// In a repository.
    Replica(Copying<'a>),
    /// As native files.
    HandOff(HandOff<'a>),
}

impl<'a> Delivery<'a> {
    /// When it may run.
    pub fn hours(&self) -> Hours<'_> {
        match self {
            Self::Replica(copying) => copying.terms.hours(),
            Self::HandOff(hand_off) => hand_off.terms.hours(),
        }
    }

    /// What is there, and what lacks.
    ///
    /// # Errors
    ///
    /// What keeps either end from being read.
    pub async fn look(&self, now: DateTime<Utc>) -> Result<CopyStanding> {
        match self {
            Self::Replica(copying) => copying.look(now).await,
            Self::HandOff(hand_off) => hand_off.look(now).await,
        }
    }

    /// Brings what lacks.
    ///
    /// # Errors
    ///
    /// What keeps anything from being brought; what was brought before stays.
    pub async fn run(&self, world: &World, pace: &Pace, meter: &Arc<Meter>) -> Result<CopyReport> {
        match self {
            Self::Replica(copying) => Box::pin(copying.run(world, pace, meter)).await,
            Self::HandOff(hand_off) => Box::pin(hand_off.run(world, pace, meter)).await,
        }
    }

    /// The copy in a repository, if it is one.
    pub fn replica(&self) -> Option<&Copying<'a>> {
        match self {
            Self::Replica(copying) => Some(copying),
            Self::HandOff(_) => None,
        }
    }
}
