//! What a store must be able to do, and nothing more.

use std::{borrow::Borrow, fmt, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use stillpoint_contract::{Error, ErrorKind, Result, code};

/// The name of one object, such as `packs/9f/9f86d0….pack`.
///
/// Invariant: relative, `/`-separated, at most 900 bytes; segments are not empty, not `.` or `..`,
/// and consist of ASCII letters, digits and `-_.%~=`. Anything else is percent-encoded by whoever
/// builds the name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// The longest name that every supported store accepts, in bytes.
    pub const LENGTH_BYTES_MAX: usize = 900;

    /// Checks a name.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) when the invariant does not hold.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.%~=".contains(&b);
        let good = |s: &str| !matches!(s, "" | "." | "..") && s.bytes().all(allowed);
        if name.len() <= Self::LENGTH_BYTES_MAX && name.split('/').all(good) {
            Ok(Self(name))
        } else {
            Err(Error::new(ErrorKind::Invalid, code::BAD_NAME, "name an object").with("name", name))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Lets a map be searched by text; a key orders, compares and hashes as its text does.
impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// What a conditional write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The object is new and durable.
    Created,
    /// The name was taken; the stored object is unchanged, and durable.
    ///
    /// It may be the caller's own: a network repeats requests whose answers it lost. Who needs to
    /// know compares the bytes.
    Existed,
}

/// What a deletion did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// The object is gone, or was gone already.
    Gone,
    /// The store keeps it (object lock, immutable flag). Not an error: ask again later.
    Retained,
}

/// One object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub key: Key,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// When the store says it was written.
    pub modified: DateTime<Utc>,
}

/// Object storage reduced to what a backup repository needs.
///
/// Objects are immutable. There is no overwrite, no append and no rename, so a reader can never
/// see half an object, and two writers can race without a lock: one of them creates, the other
/// learns that it existed.
///
/// Checked by the store conformance suite for every implementation:
///
/// - `create` is linearizable: of any number of concurrent calls with one name, exactly one
///   answers [`Put::Created`], and every later read returns that call's bytes.
/// - When `create` answers, the object survives power loss; before that, no reader sees any part
///   of it.
/// - `list` may be stale; `read` and `read_range` may not.
/// - Dropping a future at any await leaves either the whole object or none.
///
/// Wrappers forward every method explicitly, so that none can be missed.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync {
    /// Where this is, as a URL without secrets, for messages.
    fn location(&self) -> String;

    /// Writes the object durably unless its name is taken.
    ///
    /// # Errors
    ///
    /// [`Transient`](ErrorKind::Transient) when the outcome is unknown: the caller reads the
    /// object to learn it, or repeats the call and accepts either answer.
    /// [`Exhausted`](ErrorKind::Exhausted) when the store is full,
    /// [`Denied`](ErrorKind::Denied) when it refuses access.
    async fn create(&self, key: &Key, bytes: Bytes) -> Result<Put>;

    /// Reads a whole object, or `None` when there is none.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) when the object is longer than `limit_bytes`: nothing of
    /// ours is, and memory is bounded.
    async fn read(&self, key: &Key, limit_bytes: u64) -> Result<Option<Bytes>>;

    /// Reads a stretch of an object, or `None` when there is no such object. The answer is shorter
    /// than asked where the object ends earlier.
    async fn read_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>>;

    /// Lists the objects whose names begin with `prefix`, in ascending order of name.
    async fn list(&self, prefix: &str) -> Result<Vec<Listed>>;

    /// The names right below the place that no listing shows because no [`Key`] can be made of
    /// them, and directories, even empty ones: whether somebody else lives there. Empty where
    /// listings show everything.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) when the place itself is a file.
    async fn top(&self) -> Result<Vec<String>>;

    /// Removes an object; removing one that is already gone succeeds.
    async fn delete(&self, key: &Key) -> Result<Deleted>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store + ?Sized> Store for Arc<S> {
    fn location(&self) -> String {
        (**self).location()
    }

    async fn create(&self, key: &Key, bytes: Bytes) -> Result<Put> {
        (**self).create(key, bytes).await
    }

    async fn read(&self, key: &Key, limit_bytes: u64) -> Result<Option<Bytes>> {
        (**self).read(key, limit_bytes).await
    }

    async fn read_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        (**self).read_range(key, range).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        (**self).list(prefix).await
    }

    async fn top(&self) -> Result<Vec<String>> {
        (**self).top().await
    }

    async fn delete(&self, key: &Key) -> Result<Deleted> {
        (**self).delete(key).await
    }
}

/// Objects in one listing; more means that something else than a repository is stored there.
const LISTING_OBJECTS_MAX: usize = 8_000_000;

/// A listing as it is being gathered.
#[derive(Debug, Default)]
pub(super) struct Listing(Vec<Listed>);

impl Listing {
    /// Adds one object.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) when there are too many to hold in memory.
    pub(super) fn add(&mut self, listed: Listed) -> Result<()> {
        if self.0.len() >= LISTING_OBJECTS_MAX {
            let step = "hold a listing in memory";
            return Err(Error::new(ErrorKind::Unsupported, code::FOREIGN_REPOSITORY, step)
                .with("objects", format!("more than {LISTING_OBJECTS_MAX}")));
        }
        self.0.push(listed);
        Ok(())
    }

    /// The objects in ascending order of name.
    pub(super) fn sorted(mut self) -> Vec<Listed> {
        self.0.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        self.0
    }
}

/// The refusal to read an object that is longer than anything we write there.
pub(super) fn longer_than(key: &Key, limit_bytes: u64) -> Error {
    Error::new(ErrorKind::Corrupt, code::CORRUPT_OBJECT, format!("read {key}"))
        .with("limit", format!("{limit_bytes} bytes"))
        .why("the object is longer than anything that is written under such a name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_the_store() {
        for good in
            ["a", "packs/9f/9f.pack", "snap/2026/11/app%20x.db/01J.manifest", "expire=open/a"]
        {
            assert!(Key::new(good).is_ok(), "{good}");
        }
        for bad in ["", "/a", "a/", "a//b", "../a", "a/./b", "a b", "a\\b", "ä", "a\0"] {
            assert!(Key::new(bad).is_err(), "{bad}");
        }
    }
}
