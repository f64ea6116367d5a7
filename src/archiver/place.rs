//! Where the objects of an archive set are, and how its documents are written and read.
//!
//! Everything is written once. Documents say which files count; a file that no document names is
//! nothing, whatever directory it is in.

use std::{fmt::Write as _, sync::Arc};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{destination::Copies, file::Format, keyring::Keyring};
use crate::{
    repository::{
        names::ARCHIVE,
        store::{Key, Listed, Put, Store},
    },
    world::World,
};

/// The longest document, in bytes: a batch of 100,000 slices.
pub(super) const DOCUMENT_BYTES_MAX: u64 = 64 << 20;

/// The longest file, in bytes: one is read as a whole, and verified, before rows are deleted.
pub(super) const FILE_BYTES_MAX: u64 = 1 << 30;

/// The longest name of a table's directory, in bytes; file systems have 255.
const DIRECTORY_BYTES_MAX: usize = 200;

/// The longest name of a set, in bytes.
const NAME_BYTES_MAX: usize = 100;

/// Where an archive set is.
#[derive(Clone, Debug)]
pub struct Place {
    pub(super) store: Arc<dyn Store>,
    set: String,
    /// What wraps and unwraps the keys of its files; none where no secret is at hand.
    pub(super) keyring: Option<Keyring>,
    /// What of copies in tables of another database.
    pub(super) copies: Copies,
    /// Where second copies of its files are, for those that are damaged or gone here.
    pub(super) second: Option<Arc<Self>>,
}

/// What a document is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sheet {
    /// What a run is to move.
    Plan,
    /// What files of a batch hold; a later generation replaces an earlier one.
    Batch { batch: u32, generation: u32 },
    /// The rows of all slices of a batch are gone from their tables.
    Sealed { batch: u32 },
    /// Nothing of a batch counts.
    Void { batch: u32 },
    /// The time of a batch was over.
    Expired { batch: u32 },
    /// Nothing more comes of a run.
    End,
}

impl Sheet {
    /// The batch that it is about, and the generation whose files it names.
    pub(super) fn batch(self) -> Option<(u32, Option<u32>)> {
        match self {
            Self::Plan | Self::End => None,
            Self::Batch { batch, generation } => Some((batch, Some(generation))),
            Self::Sealed { batch } | Self::Void { batch } | Self::Expired { batch } => {
                Some((batch, None))
            }
        }
    }
}

impl Place {
    /// The place of a set in a store.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) when the name is none.
    pub fn new(store: Arc<dyn Store>, set: &str) -> Result<Self> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let is_name = !set.is_empty()
            && set.len() <= NAME_BYTES_MAX
            && set.chars().all(is_plain)
            && !set.starts_with(['_', '.']);
        if is_name {
            let copies = Copies::default();
            return Ok(Self { store, set: set.to_owned(), keyring: None, copies, second: None });
        }
        Err(Error::new(ErrorKind::Invalid, code::BAD_NAME, "name an archive set")
            .with("name", set)
            .with("allowed", "ASCII letters, digits, `-`, `_` and `.`, the first no `_` or `.`"))
    }

    /// The names of the sets in a store.
    pub async fn sets(store: &dyn Store) -> Result<Vec<String>> {
        let mut sets: Vec<String> = Vec::new();
        for listed in store.list(ARCHIVE).await? {
            let rest = listed.key.as_str().strip_prefix(ARCHIVE);
            let name = rest.and_then(|rest| rest.split_once('/')).map(|(name, _)| name);
            if let Some(name) = name
                && sets.last().is_none_or(|last| last != name)
            {
                sets.push(name.to_owned());
            }
        }
        Ok(sets)
    }

    /// The name of the set.
    pub fn set(&self) -> &str {
        &self.set
    }

    /// Where it is kept, for messages.
    pub fn location(&self) -> String {
        self.store.location()
    }

    /// The same place, with the secret that its files are, or may be, encrypted with.
    pub fn with_keyring(self, keyring: Keyring) -> Self {
        Self { keyring: Some(keyring), ..self }
    }

    /// The same place, with what is to become of copies in tables of another database.
    pub fn with_copies(self, copies: Copies) -> Self {
        Self { copies, ..self }
    }

    /// The same place, of which files are read from another one where they are damaged or gone.
    pub fn with_second(self, second: Self) -> Self {
        Self { second: Some(Arc::new(second)), ..self }
    }

    pub(super) fn documents(&self) -> String {
        format!("{ARCHIVE}{}/_stillpoint/", self.set)
    }

    /// The name of a document of a run.
    pub(super) fn sheet(&self, run: &str, sheet: Sheet) -> Result<Key> {
        let folder = self.documents();
        Key::new(match sheet {
            Sheet::Plan => format!("{folder}{run}/plan.json"),
            Sheet::Batch { batch, generation } => {
                format!("{folder}{run}/{batch:06}.{generation:04}.json")
            }
            Sheet::Sealed { batch } => format!("{folder}{run}/{batch:06}.sealed.json"),
            Sheet::Void { batch } => format!("{folder}{run}/{batch:06}.void.json"),
            Sheet::Expired { batch } => format!("{folder}{run}/{batch:06}.expired.json"),
            Sheet::End => format!("{folder}{run}/end.json"),
        })
    }

    /// A document of the set itself.
    pub(super) fn notice(&self, kind: &str, id: &str) -> Result<Key> {
        Key::new(format!("{}_{kind}/{id}.json", self.documents()))
    }

    async fn listed(&self, kind: &str) -> Result<Vec<Listed>> {
        self.store.list(&format!("{}_{kind}/", self.documents())).await
    }

    /// The documents of the set itself of one kind, oldest first.
    pub(super) async fn notices<T: DeserializeOwned>(&self, kind: &str) -> Result<Vec<T>> {
        let mut found = Vec::new();
        for listed in self.listed(kind).await? {
            found.extend(self.read_at(&listed.key).await?);
        }
        Ok(found)
    }

    /// The newest document of the set itself of one kind.
    pub(super) async fn newest_notice<T: DeserializeOwned>(&self, kind: &str) -> Result<Option<T>> {
        match self.listed(kind).await?.last() {
            Some(newest) => self.read_at(&newest.key).await,
            None => Ok(None),
        }
    }

    /// An id for a document of the set itself: behind those of its kind that are listed. Of two
    /// that are made at once, or that a listing does not show yet, either may be the newer one; it
    /// is the same one for everybody.
    pub(super) async fn new_notice(&self, world: &World, kind: &str) -> Result<String> {
        Ok(id_behind(world, &self.listed(kind).await?))
    }

    /// Writes a document of the set itself, newer than those of its kind before, whatever clocks
    /// said when these were made.
    pub(super) async fn add_notice<T: Serialize>(
        &self,
        world: &World,
        kind: &str,
        document: &T,
    ) -> Result<()> {
        let id = self.new_notice(world, kind).await?;
        self.write_at(&self.notice(kind, &id)?, document).await
    }

    /// The same, and removes those before.
    pub(super) async fn replace_notice<T: Serialize>(
        &self,
        world: &World,
        kind: &str,
        document: &T,
    ) -> Result<()> {
        let before = self.listed(kind).await?;
        let key = self.notice(kind, &id_behind(world, &before))?;
        self.write_at(&key, document).await?;
        for old in before {
            self.store.delete(&old.key).await?;
        }
        Ok(())
    }

    /// An id for a run: behind those of all runs, whatever clocks said when these began. Whoever
    /// makes one has the set's lock, and was refused where the ledger knows of a run that a listing
    /// does not show.
    pub(super) async fn new_run(&self, world: &World) -> Result<String> {
        let runs = self.runs().await?;
        Ok(world.new_id_behind(runs.iter().map(|(run, _)| &**run)))
    }

    /// The runs of the set, and their documents, oldest first.
    pub(super) async fn runs(&self) -> Result<Vec<(String, Vec<Sheet>)>> {
        let folder = self.documents();
        let mut runs: Vec<(String, Vec<Sheet>)> = Vec::new();
        for listed in self.store.list(&folder).await? {
            let rest = listed.key.as_str().strip_prefix(&folder).unwrap_or_default();
            let Some((run, name)) = rest.split_once('/') else { continue };
            let Some(sheet) = sheet_of(name).filter(|_| !run.starts_with('_')) else { continue };
            match runs.last_mut().filter(|(last, _)| last == run) {
                Some((_, sheets)) => sheets.push(sheet),
                None => runs.push((run.to_owned(), vec![sheet])),
            }
        }
        Ok(runs)
    }

    /// Writes a document. One that is there already with the very same content is as good.
    pub(super) async fn write<T: Serialize>(
        &self,
        run: &str,
        sheet: Sheet,
        document: &T,
    ) -> Result<()> {
        self.write_at(&self.sheet(run, sheet)?, document).await
    }

    /// Writes a document of which only matters that it is there: whoever wrote it before said the
    /// same, at another time.
    pub(super) async fn mark<T: Serialize>(
        &self,
        run: &str,
        sheet: Sheet,
        document: &T,
    ) -> Result<()> {
        self.mark_at(&self.sheet(run, sheet)?, document).await
    }

    pub(super) async fn mark_at<T: Serialize>(&self, key: &Key, document: &T) -> Result<()> {
        self.store.create(key, to_bytes(document)?).await.map(|_| ())
    }

    pub(super) async fn write_at<T: Serialize>(&self, key: &Key, document: &T) -> Result<()> {
        self.put(key, to_bytes(document)?).await
    }

    /// Reads a document.
    pub(super) async fn read<T: DeserializeOwned>(
        &self,
        run: &str,
        sheet: Sheet,
    ) -> Result<Option<T>> {
        self.read_at(&self.sheet(run, sheet)?).await
    }

    pub(super) async fn read_at<T: DeserializeOwned>(&self, key: &Key) -> Result<Option<T>> {
        let Some(bytes) = self.store.read(key, DOCUMENT_BYTES_MAX).await? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|cause| {
            Error::new(ErrorKind::Corrupt, code::ARCHIVE_FILE, format!("read {key}"))
                .caused_by(cause)
                .why("it is not what was written there")
        })
    }

    /// The name of a file: nobody else ever has it.
    pub(super) fn file(&self, at: &FileName<'_>) -> Result<Key> {
        let table = directory(at.table);
        Key::new(format!(
            "{ARCHIVE}{}/{table}/expire={}/{}-{:06}-{:04}-{}.{}",
            self.set,
            at.expire,
            at.run,
            at.batch,
            at.generation,
            at.hash.get(..8).unwrap_or(at.hash),
            at.format.extension()
        ))
    }

    /// Writes a file, or a document, durably.
    ///
    /// # Errors
    ///
    /// [`Refused`](ErrorKind::Refused) when something else has that name.
    pub(super) async fn put(&self, key: &Key, bytes: Bytes) -> Result<()> {
        if self.store.create(key, bytes.clone()).await? == Put::Created {
            return Ok(());
        }
        let there = self.store.read(key, FILE_BYTES_MAX).await?;
        if there.is_some_and(|there| there == bytes) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Refused, code::ARCHIVE_FILE, format!("write {key}"))
            .why("something else has that name; nothing is ever overwritten"))
    }

    /// Reads a file.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) when it is gone.
    pub(super) async fn file_bytes(&self, key: &str, bytes: u64) -> Result<Bytes> {
        let key = Key::new(key)?;
        let found = self.store.read(&key, bytes.min(FILE_BYTES_MAX)).await?;
        found.ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, code::ARCHIVE_FILE, format!("read {key}"))
                .why("rows that were archived are gone with it")
                .with("place", self.store.location())
        })
    }

    /// All files, whether documents name them or not.
    pub(super) async fn files(&self) -> Result<Vec<Key>> {
        let documents = self.documents();
        let listed = self.store.list(&format!("{ARCHIVE}{}/", self.set)).await?;
        let names = listed.into_iter().map(|listed| listed.key);
        Ok(names.filter(|name| !name.as_str().starts_with(&documents)).collect())
    }
}

/// A new id behind those of some documents.
fn id_behind(world: &World, listed: &[Listed]) -> String {
    world.new_id_behind(listed.iter().filter_map(|one| {
        let name = one.key.as_str().rsplit('/').next()?;
        name.strip_suffix(".json")
    }))
}

fn to_bytes<T: Serialize>(document: &T) -> Result<Bytes> {
    let bytes = serde_json::to_vec_pretty(document)
        .map_err(|cause| Error::bug("write a document").caused_by(cause))?;
    if bytes.len() as u64 <= DOCUMENT_BYTES_MAX {
        return Ok(bytes.into());
    }
    Err(Error::new(ErrorKind::Exhausted, code::ARCHIVE_FILE, "write a document")
        .with("bytes", bytes.len())
        .with("bytes at most", DOCUMENT_BYTES_MAX)
        .why("nobody could read it again")
        .next("slice_rows = 8000, or a smaller file_target"))
}

/// What makes the name of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct FileName<'a> {
    /// The table whose rows it holds.
    pub(super) table: &'a str,
    /// When it may be removed, or `open`.
    pub(super) expire: &'a str,
    /// The run.
    pub(super) run: &'a str,
    /// The batch.
    pub(super) batch: u32,
    /// Which writing of the batch.
    pub(super) generation: u32,
    /// The hash of its bytes; of an encrypted one, the id of its key.
    pub(super) hash: &'a str,
    /// Its format.
    pub(super) format: Format,
}

/// The name of a table as that of a directory, which no other table has: other characters than
/// plain ones as their bytes, and of a long one its beginning and its hash.
pub(super) fn directory(table: &str) -> String {
    let mut text = String::new();
    for byte in table.bytes() {
        // No name is that of a directory above, nor hidden, nor that of documents.
        let is_plain = byte.is_ascii_alphanumeric()
            || byte == b'-'
            || b"_.".contains(&byte) && !text.is_empty();
        if is_plain {
            text.push(char::from(byte));
        } else {
            // Nothing fails to be written into a string.
            let _ = write!(text, "~{byte:02x}");
        }
    }
    if text.len() > DIRECTORY_BYTES_MAX {
        let hash = blake3::hash(table.as_bytes()).to_hex();
        text.truncate(DIRECTORY_BYTES_MAX - 17);
        text = format!("{text}~{}", &hash[..16]);
    }
    text
}

fn sheet_of(name: &str) -> Option<Sheet> {
    let stem = name.strip_suffix(".json")?;
    match stem {
        "plan" => return Some(Sheet::Plan),
        "end" => return Some(Sheet::End),
        _ => {}
    }
    let (batch, what) = stem.split_once('.')?;
    let batch = batch.parse().ok()?;
    match what {
        "sealed" => Some(Sheet::Sealed { batch }),
        "void" => Some(Sheet::Void { batch }),
        "expired" => Some(Sheet::Expired { batch }),
        generation => Some(Sheet::Batch { batch, generation: generation.parse().ok()? }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_table_has_a_directory_of_its_own() {
        let long = "x".repeat(1000);
        let names = [
            ("public.orders_2", "public.orders_2"),
            ("..", "~2e."),
            ("../x", "~2e.~2fx"),
            ("_stillpoint", "~5fstillpoint"),
            ("a.b ö", "a.b~20~c3~b6"),
            ("a b", "a~20b"),
            ("a~b", "a~7eb"),
            ("订单", "~e8~ae~a2~e5~8d~95"),
            ("顾客", "~e9~a1~be~e5~ae~a2"),
        ];
        for (name, is) in names {
            assert_eq!(directory(name), is);
        }
        let (one, other) = (directory(&long), directory(&format!("{long}y")));
        assert!(one != other && one.len() == DIRECTORY_BYTES_MAX && one.len() == other.len());
        assert!(one.starts_with("xxx") && Key::new(one).is_ok());
    }
}
