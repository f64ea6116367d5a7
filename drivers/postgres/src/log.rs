//! Log capture: WAL streamed through a physical slot.

use stillpoint_contract::{Error, LogMark, OpenedLog, Result};

use crate::connect::Cluster;

/// Begins to capture.
pub(crate) async fn open(_cluster: &Cluster, _since: Option<&LogMark>) -> Result<OpenedLog> {
    Err(Error::bug("capture WAL"))
}
