//! Log capture: WAL streamed through a physical slot.

use stillpoint_contract::{Error, LogMark, OpenedLog, Result};

use crate::connect::Cluster;

/// Begins to capture.
#[expect(clippy::unused_async, reason = "what replaces it waits")]
pub(crate) async fn open(_cluster: &Cluster, _since: Option<&LogMark>) -> Result<OpenedLog> {
    Err(Error::bug("capture WAL"))
}
