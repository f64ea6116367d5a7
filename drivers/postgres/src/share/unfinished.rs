//! A database that nobody completes any more, since whoever made it is told to stop.

use std::{sync::mpsc, thread, time::Duration};

use stillpoint_contract::{Error, Result};

use super::admit::{drop_database, lock, unfinished};
use crate::{connect::Cluster, error};

const STEP: &str = "remove an unfinished database";

/// How long whoever gives the work up waits for that. What takes longer is found by the next
/// command.
const ENDING_MAX: Duration = Duration::from_secs(5);

/// What is left of the work until it is done. Dropped before, it is removed by a session of its
/// own: our process may end next.
#[derive(Debug)]
pub(super) struct Unfinished {
    cluster: Cluster,
    token: String,
    pub(super) are_there: bool,
}

impl Unfinished {
    pub(super) fn new(cluster: &Cluster, token: &str) -> Self {
        Self { cluster: cluster.clone(), token: token.to_owned(), are_there: true }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.are_there {
            return;
        }
        let (cluster, token) = (self.cluster.clone(), self.token.clone());
        let (end, ended) = mpsc::channel::<()>();
        let work = move || {
            if let Err(error) = remove(&cluster, &token) {
                tracing::debug!("an unfinished database stays: {error}");
            }
            drop(end);
        };
        // Whoever drops this may be at work in a runtime, in which nobody may wait.
        if thread::Builder::new().name("unfinished".to_owned()).spawn(work).is_ok() {
            let _ = ended.recv_timeout(ENDING_MAX);
        }
    }
}

fn remove(cluster: &Cluster, token: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|cause| Error::bug(STEP).caused_by(cause))?;
    runtime.block_on(async {
        let sql = cluster.sql().await?;
        // The session that makes it is ending: the server notices within a second.
        lock(&sql, token).await?;
        let dropped = sql.client.batch_execute(&drop_database(&unfinished(token))).await;
        dropped.map_err(|e| error::sql(e, STEP))
    })
}
