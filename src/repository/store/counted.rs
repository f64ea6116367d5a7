//! A store whose requests are counted, for whoever pays for them.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use stillpoint_contract::Result;

use super::{Deleted, Key, Listed, Put, Store};

/// What stores were asked, by the kind of request, whatever they answered. One listing counts once,
/// however many pages it takes.
#[derive(Debug, Default)]
pub struct Requests([AtomicU64; OPERATIONS.len()]);

/// The kinds, in the order in which they are counted.
const OPERATIONS: [&str; 5] = ["create", "read", "read_range", "list", "delete"];

impl Requests {
    /// How many there were of each kind.
    pub fn read(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        OPERATIONS.into_iter().zip(counts)
    }

    fn count(&self, operation: usize) {
        self.0[operation].fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts, and passes on.
#[derive(Debug)]
pub(super) struct Counted {
    inner: Arc<dyn Store>,
    requests: Arc<Requests>,
}

impl Counted {
    pub(super) fn new(inner: Arc<dyn Store>, requests: Arc<Requests>) -> Self {
        Self { inner, requests }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for Counted {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn create(&self, key: &Key, bytes: Bytes) -> Result<Put> {
        self.requests.count(0);
        self.inner.create(key, bytes).await
    }

    async fn read(&self, key: &Key, limit_bytes: u64) -> Result<Option<Bytes>> {
        self.requests.count(1);
        self.inner.read(key, limit_bytes).await
    }

    async fn read_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        self.requests.count(2);
        self.inner.read_range(key, range).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.requests.count(3);
        self.inner.list(prefix).await
    }

    async fn top(&self) -> Result<Vec<String>> {
        self.requests.count(3);
        self.inner.top().await
    }

    async fn delete(&self, key: &Key) -> Result<Deleted> {
        self.requests.count(4);
        self.inner.delete(key).await
    }
}
