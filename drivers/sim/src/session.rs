//! One piece of work on a server. Whatever it holds there goes when it is dropped.

use stillpoint_contract::{LogPosition, Result};

use crate::{
    SimServer, Table,
    error::{departed, discarded, disconnected},
    history::{Place, Stretch},
    server::State,
};

/// A connection that is doing something.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) server: SimServer,
    pub(crate) identity: String,
    epoch: u64,
    id: u64,
}

impl Session {
    /// Begins a piece of work, before which no log needs to stay.
    pub(crate) fn begin(server: &SimServer, what: &'static str) -> Result<Self> {
        let mut state = server.state();
        if state.gone {
            return Err(departed());
        }
        state.sessions += 1;
        let (id, epoch, identity) = (state.sessions, state.epoch, state.identity.clone());
        let first = state.history.commits.len();
        state.holds.insert(id, (what, first));
        drop(state);
        Ok(Self { server: server.clone(), identity, epoch, id })
    }

    /// One round trip: it may take a while, it may fail, and afterwards the server is the same.
    pub(crate) async fn step(&self) -> Result<()> {
        let latency = self.server.state().step()?;
        if latency.is_zero() {
            tokio::task::yield_now().await;
        } else {
            self.server.clock().sleep(latency).await;
        }
        self.look(|_| ())
    }

    /// Looks at the server, provided that it is the one that the session began with.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&mut State) -> T) -> Result<T> {
        let mut state = self.server.state();
        if state.gone || state.identity != self.identity {
            return Err(departed());
        }
        if state.epoch != self.epoch {
            return Err(disconnected());
        }
        Ok(look(&mut state))
    }

    /// The whole table at one commit, and its position.
    pub(crate) fn snapshot(&self) -> Result<(Table, LogPosition)> {
        self.look(|state| (state.table.clone(), state.history.position()))
    }

    /// The place at `position`, if the server still has the log from there on.
    pub(crate) fn locate(&self, position: &LogPosition) -> Result<Option<Place>> {
        self.look(|state| {
            let kept = |place: &Place| place.commit >= state.history.retained;
            state.history.locate(position).filter(kept)
        })
    }

    /// The log from `position` on, as far as one segment goes; `None` when there is no more.
    ///
    /// # Errors
    ///
    /// [`Gap`](stillpoint_contract::ErrorKind::Gap) when the server discarded it.
    pub(crate) fn stretch(&self, position: &LogPosition) -> Result<Option<Stretch>> {
        let place = self.locate(position)?.ok_or_else(|| discarded(position))?;
        self.look(|state| state.history.stretch(place).map(|(stretch, _)| stretch))
    }

    /// Holds the log from `place` on.
    pub(crate) fn hold(&self, place: Place) -> Result<()> {
        self.look(|state| {
            if let Some((_, first)) = state.holds.get_mut(&self.id) {
                *first = place.commit;
            }
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.server.state().holds.remove(&self.id);
    }
}
