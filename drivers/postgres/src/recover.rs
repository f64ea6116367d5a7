//! Recovery: steering a server that replays WAL.

use std::sync::Arc;

use stillpoint_contract::{Clock, Error, Reached, Recovery, Result};

/// Replays.
pub(crate) async fn recover(_recovery: Recovery<'_>, _clock: &Arc<dyn Clock>) -> Result<Reached> {
    Err(Error::bug("recover"))
}
