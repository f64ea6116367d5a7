//! Sinks and sources that watch a driver, and play a scene at a moment of its work.

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use stillpoint_contract::{
    Error, ErrorKind, LogPosition, LogSource, PartSpec, PartWriter, Result, SegmentHead, Sink, code,
};

use crate::memory::{MemoryLogSource, MemorySink};

/// What happens before the given call of `write` or `keep`, counted from 0.
type Hook = Box<dyn Fn(u64) -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// A sink that yields at every call, counts parts that are open at once, and calls a hook.
#[derive(Debug)]
pub(crate) struct WatchedSink {
    pub(crate) inner: MemorySink,
    watch: Arc<Watch>,
}

struct Watch {
    hook: Hook,
    calls: AtomicU64,
    open: AtomicUsize,
    open_most: AtomicUsize,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("calls", &self.calls).finish_non_exhaustive()
    }
}

impl WatchedSink {
    /// A sink without a base.
    pub(crate) fn new(
        hook: impl Fn(u64) -> BoxFuture<'static, Result<()>> + Send + Sync + 'static,
    ) -> Self {
        let watch = Watch {
            hook: Box::new(hook),
            calls: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            open_most: AtomicUsize::new(0),
        };
        Self { inner: MemorySink::new(), watch: Arc::new(watch) }
    }

    /// A sink that only yields.
    pub(crate) fn yielding() -> Self {
        Self::new(|_| Box::pin(async { Ok(()) }))
    }

    /// A sink that fails for lack of space before its `nth` write, counted from 0.
    pub(crate) fn full_at(nth: u64) -> Self {
        Self::new(move |call| {
            Box::pin(async move { if call < nth { Ok(()) } else { Err(full()) } })
        })
    }

    /// How many calls of `write` and `keep` there were.
    pub(crate) fn calls(&self) -> u64 {
        self.watch.calls.load(Ordering::Relaxed)
    }

    /// How many parts were open at once, at most.
    pub(crate) fn open_most(&self) -> usize {
        self.watch.open_most.load(Ordering::Relaxed)
    }
}

fn full() -> Error {
    Error::new(ErrorKind::Exhausted, code::STORE_FULL, "write to a full store")
}

#[async_trait]
impl Sink for WatchedSink {
    async fn create(&self, spec: PartSpec) -> Result<Box<dyn PartWriter>> {
        tokio::task::yield_now().await;
        let inner = self.inner.create(spec).await?;
        let open = self.watch.open.fetch_add(1, Ordering::Relaxed) + 1;
        self.watch.open_most.fetch_max(open, Ordering::Relaxed);
        Ok(Box::new(WatchedWriter { inner: Some(inner), watch: Arc::clone(&self.watch) }))
    }
}

#[derive(Debug)]
struct WatchedWriter {
    inner: Option<Box<dyn PartWriter>>,
    watch: Arc<Watch>,
}

impl WatchedWriter {
    async fn step(&self) -> Result<&dyn PartWriter> {
        (self.watch.hook)(self.watch.calls.fetch_add(1, Ordering::Relaxed)).await?;
        tokio::task::yield_now().await;
        self.inner.as_deref().ok_or_else(|| Error::bug("write to a finished part"))
    }
}

impl Drop for WatchedWriter {
    fn drop(&mut self) {
        self.watch.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl PartWriter for WatchedWriter {
    async fn write(&self, offset: u64, bytes: Bytes) -> Result<()> {
        self.step().await?.write(offset, bytes).await
    }

    async fn keep(&self, range: Range<u64>) -> Result<()> {
        self.step().await?.keep(range).await
    }

    async fn finish(mut self: Box<Self>, length_bytes: u64) -> Result<()> {
        tokio::task::yield_now().await;
        match self.inner.take() {
            Some(inner) => inner.finish(length_bytes).await,
            None => Err(Error::bug("finish a part twice")),
        }
    }
}

/// A log that notes which bodies were read, and may be damaged.
#[derive(Debug)]
pub(crate) struct WatchedLog {
    inner: MemoryLogSource,
    corrupt: bool,
    head: Option<SegmentHead>,
    /// The heads whose bodies were read.
    pub(crate) read: Vec<SegmentHead>,
}

impl WatchedLog {
    pub(crate) fn new(inner: MemoryLogSource) -> Self {
        Self { inner, corrupt: false, head: None, read: Vec::new() }
    }

    /// A log whose bodies do not match their hashes.
    pub(crate) fn corrupt(inner: MemoryLogSource) -> Self {
        Self { corrupt: true, ..Self::new(inner) }
    }
}

#[async_trait]
impl LogSource for WatchedLog {
    async fn next(&mut self) -> Result<Option<SegmentHead>> {
        tokio::task::yield_now().await;
        self.head = self.inner.next().await?;
        Ok(self.head.clone())
    }

    async fn body(&mut self) -> Result<Bytes> {
        tokio::task::yield_now().await;
        if self.corrupt {
            return Err(Error::new(ErrorKind::Corrupt, code::CORRUPT_OBJECT, "read a segment"));
        }
        self.read.extend(self.head.clone());
        self.inner.body().await
    }

    async fn reaches(&mut self, position: &LogPosition) -> Result<bool> {
        self.inner.reaches(position).await
    }
}
