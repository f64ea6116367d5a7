//! Objects in memory, for tests and simulators.

use std::{
    collections::{BTreeMap, btree_map},
    ops::{Bound, Range},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use stillpoint_contract::{Clock, Result};

use super::{
    Deleted, Key, Listed, Put, Store,
    object::{Listing, longer_than},
};

/// A store that forgets everything when it is dropped.
#[derive(Debug, Default)]
pub struct MemoryStore {
    objects: Mutex<BTreeMap<Key, Object>>,
    clock: Option<Arc<dyn Clock>>,
}

#[derive(Clone, Debug)]
struct Object {
    bytes: Bytes,
    modified: DateTime<Utc>,
}

impl MemoryStore {
    /// An empty store that stamps objects with the time of `clock`. Without one
    /// ([`default`](Self::default)), every object seems to have been written in 1970.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self { objects: Mutex::default(), clock: Some(clock) }
    }

    /// A copy of the store as it is now; later changes to one do not reach the other.
    pub fn fork(&self) -> Self {
        let objects = self.with(|objects| objects.clone());
        Self { objects: Mutex::new(objects), clock: self.clock.clone() }
    }

    /// Puts `bytes` where an object is or is not, as damage would. No writer of ours can.
    pub fn overwrite(&self, key: &Key, bytes: Bytes) {
        let object = self.object(bytes);
        self.with(|objects| objects.insert(key.clone(), object));
    }

    fn object(&self, bytes: Bytes) -> Object {
        let modified = self.clock.as_ref().map_or(DateTime::UNIX_EPOCH, |clock| clock.now());
        Object { bytes, modified }
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<Key, Object>) -> T) -> T {
        act(&mut self.objects.lock().expect("no holder of this lock can panic"))
    }

    fn bytes(&self, key: &Key) -> Option<Bytes> {
        self.with(|objects| objects.get(key).map(|object| object.bytes.clone()))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for MemoryStore {
    fn location(&self) -> String {
        "memory:".to_owned()
    }

    async fn create(&self, key: &Key, bytes: Bytes) -> Result<Put> {
        let object = self.object(bytes);
        Ok(self.with(|objects| match objects.entry(key.clone()) {
            btree_map::Entry::Vacant(free) => {
                free.insert(object);
                Put::Created
            }
            btree_map::Entry::Occupied(_) => Put::Existed,
        }))
    }

    async fn read(&self, key: &Key, limit_bytes: u64) -> Result<Option<Bytes>> {
        match self.bytes(key) {
            Some(bytes) if bytes.len() as u64 > limit_bytes => Err(longer_than(key, limit_bytes)),
            found => Ok(found),
        }
    }

    async fn read_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        Ok(self.bytes(key).map(|bytes| {
            let end = range.end.min(bytes.len() as u64);
            bytes.slice(range.start.min(end) as usize..end as usize)
        }))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        let mut listing = Listing::default();
        self.with(|objects| {
            let from = (Bound::Included(prefix), Bound::Unbounded);
            for (key, object) in objects
                .range::<str, _>(from)
                .take_while(|(key, _)| key.as_str().starts_with(prefix))
            {
                let size_bytes = object.bytes.len() as u64;
                listing.add(Listed { key: key.clone(), size_bytes, modified: object.modified })?;
            }
            Ok(listing.sorted())
        })
    }

    async fn top(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn delete(&self, key: &Key) -> Result<Deleted> {
        self.with(|objects| objects.remove(key));
        Ok(Deleted::Gone)
    }
}
