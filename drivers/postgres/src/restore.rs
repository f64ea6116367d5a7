//! How a backup becomes a cluster again: plan, check, publish.

use stillpoint_contract::{Error, RestorePlan, RestoreRequest, Result};

/// Decides what goes where.
pub(crate) fn plan(_request: &RestoreRequest<'_>) -> Result<RestorePlan> {
    Err(Error::bug("plan a restore"))
}

/// Checks what was restored.
pub(crate) async fn check(_plan: &RestorePlan) -> Result<String> {
    Err(Error::bug("check a restore"))
}

/// Puts it in its place.
pub(crate) async fn publish(_plan: &RestorePlan) -> Result<()> {
    Err(Error::bug("publish a restore"))
}
