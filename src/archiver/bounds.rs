//! Between which keys the rows of a slice are, as manifests say it.
//!
//! Whoever reads the store reads manifests, and some stores keep them. So they have keys of the
//! batch's own rows and of no others, and where files are encrypted these are sealed with the key
//! of one of them: whoever destroys that destroys them as well, wherever copies of the manifest
//! are.

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use stillpoint_contract::{Error, ErrorKind, Key, Result, RowWriter, code, values};

use super::{
    document::{Batch, File, FileEncryption, Slice, key_text},
    garbage::{KeptFile, Removed},
    place::{Place, Sheet},
    shelf::Shelved,
};
use crate::{pipeline::file_key::FileKey, repository::store::Deleted};

/// What is sealed of a slice.
#[derive(Debug, Serialize, Deserialize)]
struct Bounds {
    after: Option<String>,
    from: Option<String>,
    to: Option<String>,
}

impl Slice {
    fn without_bounds(self) -> Self {
        Self { after: None, from: None, to: None, sealed: None, ..self }
    }

    fn has_keys(&self) -> bool {
        self.after.is_some() || self.from.is_some() || self.to.is_some()
    }

    fn seal(&mut self, file: &str, key: &FileKey) -> Result<()> {
        let bounds =
            Bounds { after: self.after.take(), from: self.from.take(), to: self.to.take() };
        let plain = serde_json::to_vec(&bounds)
            .map_err(|cause| Error::bug("write the keys of a slice").caused_by(cause))?;
        let mut sealed = Vec::new();
        let binding = binding(file, self.number);
        key.bounds_cipher().seal(u64::from(self.number), &binding, &plain, &mut sealed)?;
        self.sealed = Some(HEXLOWER.encode(&sealed));
        Ok(())
    }

    fn open(self, file: &str, key: &FileKey) -> Result<Self> {
        let Some(sealed) = &self.sealed else { return Ok(self) };
        let number = u64::from(self.number);
        let opened = HEXLOWER.decode(sealed.as_bytes()).ok().and_then(|sealed| {
            key.bounds_cipher().open(number, &binding(file, self.number), &sealed)
        });
        let opened = opened.and_then(|plain| serde_json::from_slice::<Bounds>(&plain).ok());
        let Some(Bounds { after, from, to }) = opened else {
            let step = "read between which keys the rows of a slice are";
            return Err(Error::new(ErrorKind::Corrupt, code::ARCHIVE_FILE, step)
                .with("file", file)
                .with("slice", self.number)
                .why("its manifest is not what was written"));
        };
        Ok(Self { after, from, to, sealed: None, ..self })
    }
}

/// What opening must know to agree: the file's name says of which run, batch and generation.
fn binding(file: &str, slice: u32) -> Vec<u8> {
    [b"slice ", slice.to_le_bytes().as_slice(), file.as_bytes()].concat()
}

/// The file whose key seals the keys of a batch's slices.
fn sealing(batch: &Batch) -> Option<(&File, &FileEncryption)> {
    batch.files().find_map(|file| Some((file, file.encryption.as_ref()?)))
}

impl Place {
    /// Seals the keys of slices of a batch that is about to be written down, where its files are
    /// encrypted. Of each key of a file that is done once.
    pub(super) async fn seal_bounds(&self, batch: &mut Batch) -> Result<()> {
        let Some((file, encryption)) = sealing(batch) else { return Ok(()) };
        let key = self.file_key(file, encryption).await?;
        let name = file.key.clone();
        batch.slices.iter_mut().try_for_each(|slice| slice.seal(&name, &key))
    }

    /// Some slices of a batch, with their keys. They are not to be written anywhere.
    ///
    /// # Errors
    ///
    /// As [`file_key`](Self::file_key); [`Corrupt`](ErrorKind::Corrupt) when they are not what was
    /// sealed.
    pub(super) async fn open_bounds(
        &self,
        batch: &Batch,
        slices: Vec<Slice>,
    ) -> Result<Vec<Slice>> {
        let file = sealing(batch).filter(|_| slices.iter().any(|slice| slice.sealed.is_some()));
        let Some((file, encryption)) = file else { return Ok(slices) };
        let key = self.file_key(file, encryption).await?;
        slices.into_iter().map(|slice| slice.open(&file.key, &key)).collect()
    }

    /// All slices of a batch, with their keys where these can be read.
    pub(super) async fn known_bounds(&self, batch: &Batch) -> Result<Vec<Slice>> {
        match self.open_bounds(batch, batch.slices.clone()).await {
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Denied) => {
                Ok(without_bounds(batch).slices)
            }
            opened => opened,
        }
    }

    /// Takes the keys of slices out of the manifest of a writing that counts no more: because of
    /// another one, or because nothing of the batch does.
    pub(super) async fn forget_bounds(&self, old: &Batch, is_replaced: bool) -> Result<Removed> {
        let mut removed = Removed::default();
        if !old.slices.iter().any(Slice::has_keys) {
            return Ok(removed);
        }
        let sheet = |generation| Sheet::Batch { batch: old.number, generation };
        let key = self.sheet(&old.run, sheet(old.generation))?;
        let Some(there) = self.read_at::<Batch>(&key).await? else { return Ok(removed) };
        if !is_replaced {
            // Never is there a moment without a manifest.
            let next = Batch { generation: old.generation + 1, ..without_bounds(old) };
            self.mark(&old.run, sheet(next.generation), &next).await?;
        }
        match self.store.delete(&key).await? {
            Deleted::Gone => self.mark_at(&key, &without_bounds(&there)).await?,
            Deleted::Retained => {
                let why = "the store retains it, and keys of rows are in it";
                removed.kept.push(self.retained(key.as_str(), why));
            }
        }
        Ok(removed)
    }

    fn retained(&self, file: &str, why: &str) -> KeptFile {
        let (file, place, why) = (file.to_owned(), self.location(), why.to_owned());
        tracing::warn!(file, place, why, "a manifest that counts for nothing stays");
        KeptFile { file, place, is_unreadable: false, why }
    }

    /// Removes a manifest that counts no more and cannot be read: keys of rows may be in it.
    async fn forget_damaged(&self, run: &str, sheet: Sheet) -> Result<Removed> {
        let (key, mut removed) = (self.sheet(run, sheet)?, Removed::default());
        if matches!(self.store.delete(&key).await?, Deleted::Retained) {
            let why = "the store retains it, it is damaged, and keys of rows may be in it";
            removed.kept.push(self.retained(key.as_str(), why));
        }
        Ok(removed)
    }

    /// Takes the keys of slices out of all manifests of a run that count no more.
    pub(super) async fn forget_all_bounds(&self, run: &Shelved) -> Result<Removed> {
        let mut removed = Removed::default();
        for one in run.batches.values() {
            let number = one.batch.number;
            for generation in 0..one.batch.generation {
                let sheet = Sheet::Batch { batch: number, generation };
                match self.read::<Batch>(&run.plan.run, sheet).await {
                    Ok(Some(old)) => removed.add(self.forget_bounds(&old, true).await?),
                    Ok(None) => {}
                    Err(error) if error.kind() == ErrorKind::Corrupt => {
                        removed.add(self.forget_damaged(&run.plan.run, sheet).await?);
                    }
                    Err(error) => return Err(error),
                }
            }
            if !one.is_there() {
                removed.add(self.forget_bounds(&one.batch, false).await?);
            }
        }
        Ok(removed)
    }
}

fn without_bounds(batch: &Batch) -> Batch {
    let slices = batch.slices.iter().cloned().map(Slice::without_bounds).collect();
    Batch { slices, ..batch.clone() }
}

/// The key of a row.
pub(super) fn key_of(row: &[u8], key: &[usize]) -> Result<Key> {
    let values = values(row).collect::<Result<Vec<_>>>()?;
    let mut writer = RowWriter::default();
    writer.begin(key.len());
    for column in key {
        match values.get(*column).copied().flatten() {
            Some(value) => writer.value(&[value]),
            None => writer.null(),
        }
    }
    writer.end()?;
    Ok(Key(writer.take().bytes().clone()))
}

/// The first and the last row of the root that a slice keeps.
#[derive(Clone, Debug, Default)]
pub(super) struct Ends {
    first: Option<Vec<u8>>,
    last: Vec<u8>,
    /// Whether the last row that it had is not kept.
    is_cut: bool,
}

impl Ends {
    /// Sees the next row of the slice.
    pub(super) fn see(&mut self, row: &[u8], is_kept: bool) {
        self.is_cut = !is_kept;
        if is_kept {
            if self.first.is_none() {
                self.first = Some(row.to_vec());
            }
            self.last.clear();
            self.last.extend_from_slice(row);
        }
    }

    /// Lets a slice say that its rows are between those.
    pub(super) fn bound(&self, slice: &mut Slice, key: &[usize]) -> Result<()> {
        let text = |row: &[u8]| -> Result<String> { Ok(key_text(&key_of(row, key)?)) };
        let (first, before) = (self.first.as_deref(), slice.to.take());
        slice.from = first.map(text).transpose()?;
        slice.to = first.map(|_| text(&self.last)).transpose()?;
        // An older version left the key there of a row that it took out.
        slice.is_cut |= self.is_cut || before.is_some() && before != slice.to;
        (slice.after, slice.sealed) = (None, None);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::testing::Seeded;

    fn slice(number: u32) -> Slice {
        Slice {
            number,
            after: Some("0a".to_owned()),
            from: None,
            to: Some("0b".to_owned()),
            sealed: None,
            is_cut: false,
            members: Vec::new(),
            noted: None,
        }
    }

    #[test]
    fn keys_are_opened_only_as_those_of_their_slice() {
        let [key, other] = [1, 2].map(|seed| FileKey::generate(&Seeded::new(seed)));
        let mut sealed = slice(3);
        sealed.seal("one", &key).unwrap();
        assert!(!sealed.has_keys() && sealed.range().is_err());
        assert_eq!(sealed.clone().open("one", &key).unwrap(), slice(3));
        for (number, file, key) in [(2, "one", &key), (3, "two", &key), (3, "one", &other)] {
            let moved = Slice { number, ..sealed.clone() };
            let error = moved.open(file, key).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{number} {file}");
        }
        for changed in ["", "0", "00", "zz"] {
            let changed = Slice { sealed: Some(changed.to_owned()), ..sealed.clone() };
            assert!(changed.open("one", &key).is_err());
        }
    }

    #[test]
    fn keys_that_older_versions_wrote_are_read() {
        let text = r#"{"number": 7, "after": "0a", "to": "0b", "members": []}"#;
        let read: Slice = serde_json::from_str(text).unwrap();
        assert_eq!(read, slice(7));
        let key = FileKey::generate(&Seeded::new(1));
        assert_eq!(read.clone().open("one", &key).unwrap(), read);
        let range = read.range().unwrap().unwrap();
        assert_eq!((range.after.unwrap().0.to_vec(), range.from), (vec![0x0a], None));
    }

    #[test]
    fn a_slice_ends_with_rows_that_it_keeps() {
        let row = |id: u8| {
            let mut writer = RowWriter::default();
            writer.begin(2);
            writer.value(&[&[id]]);
            writer.null();
            writer.end().unwrap();
            writer.take().rows().next().unwrap().to_vec()
        };
        let key = |id: u8| key_text(&key_of(&row(id), &[0]).unwrap());
        let bound = |kept: &[bool]| {
            let last = u8::try_from(kept.len() - 1).unwrap();
            let mut slice = Slice { to: Some(key(last)), ..slice(0) };
            let mut ends = Ends::default();
            for (id, is_kept) in (0..).zip(kept) {
                ends.see(&row(id), *is_kept);
            }
            ends.bound(&mut slice, &[0]).unwrap();
            assert_eq!(slice.after, None);
            (slice.from, slice.to, slice.is_cut)
        };
        assert_eq!(bound(&[true, true]), (Some(key(0)), Some(key(1)), false));
        assert_eq!(bound(&[false, true, false]), (Some(key(1)), Some(key(1)), true));
        assert_eq!(bound(&[false, true, false, true]), (Some(key(1)), Some(key(3)), false));
        assert_eq!(bound(&[false]), (None, None, true));
        // An older version had taken out the row that it ended with.
        let (mut ends, mut slice) = (Ends::default(), slice(0));
        ends.see(&row(1), true);
        ends.bound(&mut slice, &[0]).unwrap();
        assert!(slice.is_cut);
    }
}
