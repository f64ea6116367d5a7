//! A store that ignores conditions, made usable for one writer.

use std::{
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    ops::Range,
};

use async_trait::async_trait;
use bytes::Bytes;
use stillpoint_contract::Result;
use tokio::sync::Mutex;

use super::{Deleted, Key, Listed, Put, Store};

/// How many writers share a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writers {
    /// Any number: `create` rests on a condition that the store itself enforces.
    #[default]
    Several,
    /// One process. `create` may overwrite, so it stands inside a [`SingleWriter`].
    Single,
}

/// Creates in one process that may wait for each other although their names differ.
const STRIPES: usize = 64;

/// Looks before it writes, because the store beneath does not.
///
/// **Unsafe for several writers.** Tasks of this process exclude each other, but between the look
/// and the write another process can create the object, and one of the two is lost without anybody
/// noticing. Use it only where [`probe`](super::probe) found the condition ignored, and only where
/// people keep a second writer away.
#[derive(Debug)]
pub struct SingleWriter<S> {
    inner: S,
    /// Each name belongs to one of these; whoever creates it holds that lock meanwhile.
    stripes: Vec<Mutex<()>>,
}

impl<S: Store> SingleWriter<S> {
    /// Wraps a store that ignores conditions.
    pub fn new(inner: S) -> Self {
        Self { inner, stripes: (0..STRIPES).map(|_| Mutex::default()).collect() }
    }

    fn stripe(&self, key: &Key) -> &Mutex<()> {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(key);
        &self.stripes[hash as usize % STRIPES]
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> Store for SingleWriter<S> {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn create(&self, key: &Key, bytes: Bytes) -> Result<Put> {
        let _turn = self.stripe(key).lock().await;
        match self.inner.read_range(key, 0..0).await? {
            Some(_) => Ok(Put::Existed),
            None => self.inner.create(key, bytes).await,
        }
    }

    async fn read(&self, key: &Key, limit_bytes: u64) -> Result<Option<Bytes>> {
        self.inner.read(key, limit_bytes).await
    }

    async fn read_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        self.inner.read_range(key, range).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.inner.list(prefix).await
    }

    async fn top(&self) -> Result<Vec<String>> {
        self.inner.top().await
    }

    async fn delete(&self, key: &Key) -> Result<Deleted> {
        self.inner.delete(key).await
    }
}
