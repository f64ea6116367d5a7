//! Work on one thing, in order, on the threads for work, while the next piece is being fetched.

use stillpoint_contract::{Error, Result};
use tokio::task::JoinHandle;

use crate::pipeline::cpu::CpuPool;

/// Something that is worked on, one job behind whoever feeds it.
///
/// Dropped, a job that runs still ends, and its result is dropped with the thing.
#[derive(Debug)]
pub(super) struct Behind<T> {
    cpu: CpuPool,
    now: Option<Now<T>>,
}

#[derive(Debug)]
enum Now<T> {
    Resting(T),
    Working(JoinHandle<Result<T>>),
}

impl<T: Send + 'static> Behind<T> {
    pub(super) fn new(cpu: &CpuPool, thing: T) -> Self {
        Self { cpu: cpu.clone(), now: Some(Now::Resting(thing)) }
    }

    /// Begins a job, once the one before it has ended.
    pub(super) async fn work(
        &mut self,
        job: impl FnOnce(&mut T) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let mut thing = self.rest().await?;
        let cpu = self.cpu.clone();
        self.now = Some(Now::Working(tokio::spawn(async move {
            cpu.run(move |_| job(&mut thing).map(|()| thing)).await?
        })));
        Ok(())
    }

    /// The thing, once all jobs have ended.
    pub(super) async fn rest(&mut self) -> Result<T> {
        match self.now.take() {
            Some(Now::Resting(thing)) => Ok(thing),
            Some(Now::Working(job)) => {
                job.await.map_err(|cause| Error::bug("wait for a job").caused_by(cause))?
            }
            None => Err(Error::bug("go on after a job that failed")),
        }
    }

    /// Looks at the thing, once all jobs have ended.
    pub(super) async fn look<R>(&mut self, look: impl FnOnce(&mut T) -> R) -> Result<R> {
        let mut thing = self.rest().await?;
        let seen = look(&mut thing);
        self.now = Some(Now::Resting(thing));
        Ok(seen)
    }
}
