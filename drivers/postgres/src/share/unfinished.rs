//! A database that nobody completes any more, since whoever made it is told to stop.

use std::{sync::mpsc, thread, time::Duration};

use stillpoint_contract::{Error, Progress, Result};

use super::admit::{drop_database, lock, unfinished};
use crate::{connect::Cluster, error};

const STEP: &str = "remove an unfinished database";

/// How long whoever gives the work up waits for that. What takes longer is found by the next
/// command.
const ENDING_MAX: Duration = Duration::from_secs(5);

/// What is left of the work until it is done. Dropped before, it is removed by a session of its
/// own: our process may end next.
#[derive(Debug)]
pub(super) struct Unfinished<'a> {
    cluster: Cluster,
    token: String,
    progress: &'a dyn Progress,
    pub(super) are_there: bool,
}

impl<'a> Unfinished<'a> {
    pub(super) fn new(cluster: &Cluster, token: &str, progress: &'a dyn Progress) -> Self {
        Self { cluster: cluster.clone(), token: token.to_owned(), progress, are_there: true }
    }

    /// Says that it stays.
    pub(super) fn tell(&self) {
        let name = unfinished(&self.token);
        let what = format!("database {name}, which the next partial restore there removes");
        self.progress.leave(what);
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.are_there {
            return;
        }
        let (cluster, token) = (self.cluster.clone(), self.token.clone());
        let (end, ended) = mpsc::channel::<()>();
        let work = move || match remove(&cluster, &token) {
            Ok(()) => {
                let _ = end.send(());
            }
            Err(error) => tracing::debug!("an unfinished database stays: {error}"),
        };
        // Whoever drops this may be at work in a runtime, in which nobody may wait.
        let begun = thread::Builder::new().name("unfinished".to_owned()).spawn(work);
        if begun.is_err() || ended.recv_timeout(ENDING_MAX).is_err() {
            self.tell();
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
