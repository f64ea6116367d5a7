//! Where people ask those that serve, and tell them: the state database and what holds there.

use stillpoint_contract::Result;

use super::{
    super::{config::files, session::Session},
    applied::{self, Held},
    fleet::{self, Seen},
    state,
};
use crate::{
    config::{Coordinator, Loaded},
    coordinator::{
        Fleet,
        state::{Marked, State},
    },
    policy::Registry,
};

/// The state database, and the configuration that is written down now.
pub(crate) struct Desk {
    pub(crate) state: State,
    pub(crate) configured: Loaded,
}

/// The configuration that is written down now, with everything that was discovered. Nothing is
/// made.
pub(crate) async fn found(session: &Session) -> Result<Loaded> {
    let mut configured = files::sound(session)?;
    let coordinator = &configured.config.coordinator;
    if !configured.config.rules.is_empty() && state::is_there(session, coordinator)? {
        let registry = state::open(session, coordinator).await?.endpoints().await?;
        configured.config.discover(&registry, session.world.clock.now());
    }
    Ok(configured)
}

/// What was discovered and belongs to no database by what holds: its name, and why.
pub(crate) async fn unprotected(session: &Session) -> Result<Vec<(String, String)>> {
    let configured = files::sound(session)?.config;
    let config = match applied_already(session, &configured.coordinator).await? {
        Some(held) => held.config,
        None => found(session).await?.config,
    };
    let all = config.unprotected.into_iter();
    Ok(all.map(|one| (one.name, one.why)).collect())
}

/// What was applied, if there is a state database and anything was. Nothing is made.
pub(crate) async fn applied_already(
    session: &Session,
    coordinator: &Coordinator,
) -> Result<Option<Held>> {
    if !state::is_there(session, coordinator)? {
        return Ok(None);
    }
    applied::held(session, &state::open(session, coordinator).await?).await
}

/// What holds, or would, what people said of databases, and where that was noted.
pub(crate) struct Promises {
    pub(crate) held: Held,
    pub(crate) marks: Vec<Marked>,
    /// The state database, if there is one.
    pub(crate) state: Option<State>,
}

/// What is promised. Nothing is made.
pub(crate) async fn promises(session: &Session) -> Result<Promises> {
    let coordinator = files::sound(session)?.config.coordinator;
    if !state::is_there(session, &coordinator)? {
        let held = Held::written(session, Registry::new())?;
        return Ok(Promises { held, marks: Vec::new(), state: None });
    }
    let state = state::open(session, &coordinator).await?;
    let held = match applied::held(session, &state).await? {
        Some(held) => held,
        None => Held::written(session, state.endpoints().await?)?,
    };
    let marks = state.marks().await?;
    Ok(Promises { held, marks, state: Some(state) })
}

impl Desk {
    /// Opens it.
    pub(crate) async fn open(session: &Session) -> Result<Self> {
        let mut configured = files::sound(session)?;
        let state = state::open(session, &configured.config.coordinator).await?;
        configured.config.discover(&state.endpoints().await?, session.world.clock.now());
        Ok(Self { state, configured })
    }

    /// What holds; or what would, where nothing was applied yet.
    pub(super) async fn held(&self, session: &Session) -> Result<Held> {
        if let Some(held) = applied::held(session, &self.state).await? {
            return Ok(held);
        }
        Held::written(session, self.state.endpoints().await?)
    }

    /// Everything that holds, opened. Nothing is created.
    pub(super) async fn fleet(&self, session: &Session) -> Result<(Fleet, Seen)> {
        let held = self.held(session).await?;
        let known = self.state.look_after([]).await?;
        let marks = self.state.marks().await?;
        fleet::look(session, &held, &known, &marks).await
    }
}
