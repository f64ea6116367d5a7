//! Compares.
use crate::sandbox::ServerSandbox;
use stillpoint_contract::{Difference, Progress, Result, Script, ShareRequest};

pub(crate) async fn compare(
    _sandbox: &ServerSandbox,
    _request: &ShareRequest<'_>,
    _progress: &dyn Progress,
    _script: &mut Script<'_>,
) -> Result<Vec<Difference>> {
    Ok(Vec::new())
}
