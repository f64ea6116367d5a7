//! Work on a thread for such work, which tells how far it is.

use std::{cell::Cell, sync::mpsc::Receiver as Receives, time::Duration};

use stillpoint_contract::{Error, ErrorKind, Progress, Result, Script, code};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::remains::remains;
use crate::snapshot::blocking;

/// How many things are told ahead.
const AHEAD_MAX: usize = 64;

/// What a thread tells.
#[derive(Debug)]
enum Event {
    Begin(&'static str, u64),
    Advance(u64),
    Write(String),
}

/// The end of a thread. Nobody listens any more once the work is given up.
#[derive(Debug)]
pub(super) struct Teller {
    events: Sender<Event>,
    leaves: Cell<bool>,
}

impl Teller {
    pub(super) fn begin(&self, phase: &'static str, total_bytes: u64) -> Result<()> {
        self.tell(Event::Begin(phase, total_bytes))
    }

    pub(super) fn advance(&self, bytes: u64) -> Result<()> {
        self.tell(Event::Advance(bytes))
    }

    /// Writes a line of a script.
    pub(super) fn line(&self, text: String) -> Result<()> {
        self.tell(Event::Write(text + "\n"))
    }

    /// Something that was begun could not be taken back.
    pub(super) fn leave(&self) {
        self.leaves.set(true);
    }

    fn tell(&self, event: Event) -> Result<()> {
        self.events.blocking_send(event).map_err(|_| {
            Error::new(ErrorKind::Interrupted, code::INTERRUPTED, "finish what nobody waits for")
        })
    }
}

/// How long whoever gives the work up waits until it has taken back what it had begun.
const ENDING_MAX: Duration = Duration::from_secs(5);

/// The end of a thread, for which the one waits that drops this. The thread says so if nothing of
/// what it began is left.
struct Ending<'a>(Receives<()>, Option<&'a dyn Progress>);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if let (Err(_), Some(progress)) = (self.0.recv_timeout(ENDING_MAX), self.1) {
            progress.leave(format!("{}, which the next partial restore there removes", remains()));
        }
    }
}

/// Does `work`. Dropping the future lets it end at the next thing that it tells, and waits a while
/// for that: our process may end next.
pub(super) async fn told<T: Send + 'static>(
    progress: &dyn Progress,
    mut script: Option<&mut Script<'_>>,
    work: impl FnOnce(&Teller) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (tell, events) = channel(AHEAD_MAX);
    let (end, ended) = std::sync::mpsc::channel();
    // Whoever only writes a script begins nothing.
    let _ending = Ending(ended, script.is_none().then_some(progress));
    let done = tokio::spawn(blocking(move || {
        let teller = Teller { events: tell, leaves: Cell::new(false) };
        let done = work(&teller);
        if !teller.leaves.get() {
            let _ = end.send(());
        }
        done
    }));
    let listened = listen(progress, &mut script, events).await;
    let done = done.await.map_err(|cause| Error::bug("wait for a thread").caused_by(cause))?;
    listened.and(done)
}

async fn listen(
    progress: &dyn Progress,
    script: &mut Option<&mut Script<'_>>,
    mut events: Receiver<Event>,
) -> Result<()> {
    while let Some(event) = events.recv().await {
        match event {
            Event::Begin(phase, total_bytes) => progress.begin(phase, total_bytes),
            Event::Advance(bytes) => progress.advance(bytes),
            Event::Write(text) => {
                if let Some(script) = script {
                    script.write_all(text.as_bytes()).map_err(|cause| {
                        Error::new(ErrorKind::Exhausted, code::FILE, "write the merge script")
                            .caused_by(cause)
                    })?;
                }
            }
        }
    }
    Ok(())
}
