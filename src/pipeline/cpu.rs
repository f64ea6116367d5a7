//! Threads for work that would stall the asynchronous runtime: hashing, zstd, encryption.

use std::{
    any::Any,
    collections::VecDeque,
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use stillpoint_contract::{BufferPool, Error, Result};
use tokio::sync::{Semaphore, oneshot};

use super::compress::Scratch;

/// A fixed number of worker threads behind a bounded queue, or none at all.
///
/// Clones share the workers. They start with the first job, and end, after the jobs already queued,
/// when the last clone is dropped.
#[derive(Clone)]
pub struct CpuPool(Arc<Workers>);

enum Workers {
    Threads { size: usize, started: OnceLock<io::Result<Threads>> },
    Inline(Mutex<Scratch>),
}

/// Ends them, after the jobs already queued, when it is dropped.
struct Threads(Arc<Queue>);

/// Jobs that wait for a worker. Waking a thread costs as much as a small job, so that whoever adds
/// one wakes a single worker, and none while all are at work.
struct Queue {
    places: Semaphore,
    places_max: usize,
    waiting: Mutex<Waiting>,
    news: Condvar,
    busy: AtomicUsize,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    ended: bool,
}

type Job = Box<dyn FnOnce(&mut Scratch) + Send>;

impl CpuPool {
    /// Jobs that may wait per worker. Each holds at most a few chunks or one pack.
    pub const QUEUED_PER_WORKER_MAX: usize = 2;

    /// Up to `size` jobs at once, at least one.
    pub fn threads(size: usize) -> Self {
        Self(Arc::new(Workers::Threads { size: size.max(1), started: OnceLock::new() }))
    }

    /// Runs every job at once on whoever awaits it, so that a simulation is deterministic.
    pub fn inline() -> Self {
        Self(Arc::new(Workers::Inline(Mutex::new(Scratch::new()))))
    }

    /// Runs `job` on a worker and waits for its result; waits first while the queue is full.
    ///
    /// The future may be dropped at any time. A job that was queued by then still runs, and its
    /// result is dropped.
    ///
    /// # Errors
    ///
    /// [`Bug`](stillpoint_contract::ErrorKind::Bug) when the job panics, or the system refuses a
    /// thread.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Scratch) -> T + Send + 'static,
    ) -> Result<T> {
        match &*self.0 {
            Workers::Threads { size, started } => {
                let threads = started.get_or_init(|| Threads::start(*size)).as_ref();
                let failed = |cause: &io::Error| {
                    Error::bug("start a worker thread").caused_by(cause.to_string())
                };
                let Threads(queue) = threads.map_err(failed)?;
                let (answer, result) = oneshot::channel();
                let job: Job = Box::new(move |scratch| {
                    // Nobody listens any more when the future was dropped.
                    let _ = answer.send(guarded(job, scratch));
                });
                queue.add(job).await?;
                result.await.map_err(|_| Error::bug("hear from a worker thread"))?
            }
            Workers::Inline(scratch) => {
                guarded(job, &mut scratch.lock().unwrap_or_else(PoisonError::into_inner))
            }
        }
    }

    /// How many jobs run at once.
    pub fn size(&self) -> usize {
        match &*self.0 {
            Workers::Threads { size, .. } => *size,
            Workers::Inline(_) => 1,
        }
    }

    /// How full the queue is, from 0 (empty) to 1 (the next job waits).
    pub fn queue_fill(&self) -> f32 {
        self.started().map_or(0.0, |Threads(queue)| {
            1.0 - queue.places.available_permits() as f32 / queue.places_max as f32
        })
    }

    /// The share of workers that have nothing to do, from 0 to 1.
    pub fn idle(&self) -> f32 {
        let size = self.size();
        self.started().map_or(1.0, |Threads(queue)| {
            1.0 - queue.busy.load(Ordering::Relaxed).min(size) as f32 / size as f32
        })
    }

    fn started(&self) -> Option<&Threads> {
        match &*self.0 {
            Workers::Threads { started, .. } => started.get()?.as_ref().ok(),
            Workers::Inline(_) => None,
        }
    }
}

impl Threads {
    fn start(size: usize) -> io::Result<Self> {
        let places_max = size * CpuPool::QUEUED_PER_WORKER_MAX;
        let threads = Self(Arc::new(Queue {
            places: Semaphore::new(places_max),
            places_max,
            waiting: Mutex::default(),
            news: Condvar::new(),
            busy: AtomicUsize::new(0),
        }));
        let buffers = BufferPool::default();
        for number in 0..size {
            let queue = Arc::clone(&threads.0);
            let scratch = Scratch::sharing(buffers.clone());
            thread::Builder::new()
                .name(format!("cpu-{number}"))
                .spawn(move || work(scratch, &queue))?;
        }
        Ok(threads)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.0.waiting().ended = true;
        self.0.news.notify_all();
    }
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place and leaves a job there.
    async fn add(&self, job: Job) -> Result<()> {
        let place = self.places.acquire().await;
        // Whoever takes the job gives its place back.
        place.map_err(|_| Error::bug("reach the worker threads"))?.forget();
        self.waiting().jobs.push_back(job);
        self.news.notify_one();
        Ok(())
    }

    /// Waits for a job; `None` when no more will come.
    fn take(&self) -> Option<Job> {
        let idle = |waiting: &mut Waiting| waiting.jobs.is_empty() && !waiting.ended;
        let waiting = self.news.wait_while(self.waiting(), idle);
        let job = waiting.unwrap_or_else(PoisonError::into_inner).jobs.pop_front()?;
        self.places.add_permits(1);
        Some(job)
    }
}

impl fmt::Debug for CpuPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpuPool").field("size", &self.size()).finish_non_exhaustive()
    }
}

fn work(mut scratch: Scratch, queue: &Queue) {
    while let Some(job) = queue.take() {
        queue.busy.fetch_add(1, Ordering::Relaxed);
        job(&mut scratch);
        queue.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs a job; a panic becomes an error, and costs the scratch, whose state is then unknown.
fn guarded<T>(job: impl FnOnce(&mut Scratch) -> T, scratch: &mut Scratch) -> Result<T> {
    catch_unwind(AssertUnwindSafe(|| job(scratch))).map_err(|panic| {
        *scratch = Scratch::new();
        Error::bug("run a job on a worker thread").with("panic", message(&*panic))
    })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc as blocking;

    use stillpoint_contract::ErrorKind;

    use super::*;

    #[tokio::test]
    async fn jobs_run_on_other_threads_and_answer() {
        let pool = CpuPool::threads(2);
        let here = thread::current().id();
        let there = pool.run(|_| thread::current().id()).await.unwrap();
        assert_ne!(there, here);
        let inline = CpuPool::inline().run(|_| thread::current().id()).await.unwrap();
        assert_eq!(inline, here);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_the_worker_lives_on() {
        for pool in [CpuPool::threads(1), CpuPool::inline()] {
            let error = pool.run(|_| panic!("bad chunk")).await.map(|(): ()| ()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Bug);
            assert_eq!(error.facts(), [("panic", "bad chunk")]);
            assert_eq!(pool.run(|_| 42).await.unwrap(), 42);
        }
    }

    #[tokio::test]
    async fn the_queue_is_bounded_and_a_dropped_future_harms_nobody() {
        let pool = CpuPool::threads(1);
        let (release, gate) = blocking::channel::<()>();
        let blocker = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(move |_| gate.recv().is_ok()).await }
        });
        while pool.idle() > 0.0 {
            tokio::task::yield_now().await;
        }
        let mut waiting: Vec<_> = (0..=CpuPool::QUEUED_PER_WORKER_MAX)
            .map(|number| Box::pin(pool.run(move |_| number)))
            .collect();
        for future in &mut waiting {
            assert!(futures::poll!(future.as_mut()).is_pending());
        }
        assert!((pool.queue_fill() - 1.0).abs() < f32::EPSILON);

        let last = waiting.pop().unwrap();
        drop(waiting);
        release.send(()).unwrap();
        assert!(blocker.await.unwrap().unwrap());
        assert_eq!(last.await.unwrap(), CpuPool::QUEUED_PER_WORKER_MAX);
    }
}
