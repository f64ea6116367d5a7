//! A map whose copies share what neither of them changed.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

/// How many parts there are: a change copies one of them.
const SHARDS: u64 = 256;

/// Values by name. A copy costs the same however many there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shards<V>(Vec<Arc<BTreeMap<Arc<str>, V>>>);

impl<V> Default for Shards<V> {
    fn default() -> Self {
        Self((0..SHARDS).map(|_| Arc::default()).collect())
    }
}

impl<V: Clone> Shards<V> {
    pub(super) fn get(&self, name: &str) -> Option<&V> {
        self.0[shard(name)].get(name)
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut V> {
        let shard = &mut self.0[shard(name)];
        if !shard.contains_key(name) {
            return None;
        }
        Arc::make_mut(shard).get_mut(name)
    }

    pub(super) fn insert(&mut self, name: &str, value: V) -> Option<V> {
        Arc::make_mut(&mut self.0[shard(name)]).insert(name.into(), value)
    }

    /// All of them, in an order that follows from their names.
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().flat_map(|shard| shard.values())
    }
}

fn shard(name: &str) -> usize {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    (hasher.finish() % SHARDS) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_stays_as_it_was_and_shares_the_rest() {
        let mut shards = Shards::default();
        let names: Vec<_> = (0..1_000).map(|number| format!("name {number}")).collect();
        for (number, name) in names.iter().enumerate() {
            assert_eq!(shards.insert(name, number), None);
        }
        let before = shards.clone();
        assert_eq!(shards.insert("name 7", 70), Some(7));
        *shards.get_mut("name 8").unwrap() = 80;
        assert_eq!(shards.get_mut("name"), None);
        assert_eq!((before.get("name 7"), before.get("name 8")), (Some(&7), Some(&8)));
        assert_eq!((shards.get("name 7"), shards.get("name 8")), (Some(&70), Some(&80)));
        assert_eq!(shards.values().count(), 1_000);
        let shared = before.0.iter().zip(&shards.0).filter(|(one, other)| Arc::ptr_eq(one, other));
        assert!(shared.count() >= 254);
        assert_ne!(before, shards);
    }
}
