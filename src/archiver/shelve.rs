//! Files on their way into a store: durable, and read back, before anything else relies on them.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use stillpoint_contract::{Column, Error, ErrorKind, Result, code};

use super::{
    document::{Batch, BatchMember, DOCUMENT_FORMAT, File, FileEncryption, Plan, Slice, Tally},
    encryption::{Seal, decrypt, encrypt},
    export::Draft,
    file::{Decoder, SliceHash},
    keyring::{KeyOf, Keyring},
    place::{FileName, Place, Sheet},
};
use crate::{pipeline::cpu::CpuPool, repository::store::Key};

/// Writes the files of a batch, reads them back, and writes down that they are there.
///
/// # Errors
///
/// [`Corrupt`](ErrorKind::Corrupt) when what is read back is not what the database sent.
pub(super) async fn shelve(
    place: &Place,
    cpu: &CpuPool,
    plan: &Plan,
    draft: Draft,
    batch: u32,
    now: DateTime<Utc>,
) -> Result<Batch> {
    let mut members = Vec::new();
    let planned = plan.members.iter().map(|member| &*member.table.name);
    for ((member, file), name) in draft.set.members.into_iter().zip(draft.files).zip(planned) {
        let file = match file {
            Some((bytes, rows)) => {
                let of = Written { plan, table: name, batch, generation: 0 };
                Some(of.write(place, cpu, bytes, rows).await?)
            }
            None => None,
        };
        let table = member.table;
        members.push(BatchMember { columns: table.columns, fingerprint: table.fingerprint, file });
    }
    let mut batch = Batch {
        format_version: DOCUMENT_FORMAT,
        run: plan.run.clone(),
        number: batch,
        generation: 0,
        made: now,
        reason: String::new(),
        position: draft.position,
        members,
        slices: draft.slices,
    };
    batch.check(plan).map_err(|_| Error::bug("count the rows of a batch"))?;
    read_back(place, cpu, plan, &batch).await?;
    place.seal_bounds(&mut batch).await?;
    place.write(&plan.run, Sheet::Batch { batch: batch.number, generation: 0 }, &batch).await?;
    Ok(batch)
}

/// Of what a file is a part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written<'a> {
    pub(super) plan: &'a Plan,
    pub(super) table: &'a str,
    pub(super) batch: u32,
    pub(super) generation: u32,
}

impl Written<'_> {
    /// Writes a file: encrypted, where the place says so, with a key that is durable before.
    pub(super) async fn write(
        self,
        place: &Place,
        cpu: &CpuPool,
        bytes: Bytes,
        rows: u64,
    ) -> Result<File> {
        if let Some(keyring) = place.encrypts() {
            return self.write_encrypted(place, keyring, cpu, bytes, rows).await;
        }
        let hash = blake3::hash(&bytes).to_hex().to_string();
        let name = self.name(place, &hash)?;
        let length = bytes.len() as u64;
        place.put(&name, bytes).await?;
        let key = name.as_str().to_owned();
        Ok(File { key, bytes: length, rows, hash, encryption: None })
    }

    async fn write_encrypted(
        self,
        place: &Place,
        keyring: &Keyring,
        cpu: &CpuPool,
        plain: Bytes,
        rows: u64,
    ) -> Result<File> {
        let id = Place::new_key_id(keyring);
        let name = self.name(place, &id.to_string())?;
        let run = self.plan.run.clone();
        let of = KeyOf { run, batch: self.batch, generation: self.generation, id };
        let (object, key) = place.make_key(keyring, &of, &name).await?;
        let (repository, file_name) = (keyring.repository(), name.clone());
        let work = move || {
            let seal = Seal { key: &key, id, name: file_name.as_str() };
            let stored = encrypt(&seal, repository, &plain)?;
            let (hash, of_plain) = (blake3::hash(&stored), blake3::hash(&plain));
            Ok::<_, Error>((stored, hash, plain.len() as u64, of_plain))
        };
        let (stored, hash, plain_bytes, of_plain) = cpu.run(move |_| work()).await??;
        let length = stored.len() as u64;
        place.put(&name, stored).await?;
        Ok(File {
            key: name.as_str().to_owned(),
            bytes: length,
            rows,
            hash: hash.to_hex().to_string(),
            encryption: Some(FileEncryption {
                key: object.as_str().to_owned(),
                id,
                bytes: plain_bytes,
                hash: of_plain.to_hex().to_string(),
            }),
        })
    }

    fn name(self, place: &Place, hash: &str) -> Result<Key> {
        place.file(&FileName {
            table: self.table,
            expire: &self.plan.expire,
            run: &self.plan.run,
            batch: self.batch,
            generation: self.generation,
            hash,
            format: self.plan.format,
        })
    }
}

/// Reads the files of a batch back as they are stored, and decodes every row.
///
/// # Errors
///
/// [`Corrupt`](ErrorKind::Corrupt) when a byte, or a row, is not what was written down.
pub(super) async fn read_back(
    place: &Place,
    cpu: &CpuPool,
    plan: &Plan,
    batch: &Batch,
) -> Result<()> {
    for (number, member) in batch.members.iter().enumerate() {
        let tallies = batch.slices.iter().map(|slice| slice.members[number].clone());
        let tallies: Vec<Tally> = tallies.collect();
        match &member.file {
            Some(file) => {
                let bytes = verified_here(place, cpu, file).await?;
                let columns = member.columns.clone();
                let (format, name) = (plan.format, file.key.clone());
                cpu.run(move |_| {
                    compare(&bytes, &columns, format, &tallies)
                        .map_err(|error| error.during(format!("read {name} back")))
                })
                .await??;
            }
            None if tallies.iter().all(|tally| tally.rows == 0) => {}
            None => return Err(differs("a file is missing")),
        }
    }
    Ok(())
}

/// The rows of a file as it was encoded: its bytes are what was written, and are decrypted. From
/// the second copy where the file is damaged or gone here.
pub(super) async fn verified(place: &Place, cpu: &CpuPool, file: &File) -> Result<Bytes> {
    let damage = match (verified_here(place, cpu, file).await, &place.second) {
        (Err(error), Some(_)) if error.kind() == ErrorKind::Corrupt => error,
        (done, _) => return done,
    };
    let Some(second) = &place.second else { return Err(damage) };
    tracing::warn!(file = file.key, %damage, "the second copy of a file is read");
    match verified_here(second, cpu, file).await {
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(damage.with("second copy", error)),
    }
}

async fn verified_here(place: &Place, cpu: &CpuPool, file: &File) -> Result<Bytes> {
    let bytes = stored(place, cpu, file).await?;
    let Some(encryption) = &file.encryption else { return Ok(bytes) };
    let key = place.file_key(file, encryption).await?;
    let (id, name) = (encryption.id, file.key.clone());
    let work = move || {
        let plain = decrypt(&Seal { key: &key, id, name: &name }, &bytes)?;
        Ok::<_, Error>((blake3::hash(&plain).to_hex(), plain))
    };
    let (hash, plain) = cpu.run(move |_| work()).await??;
    if *hash == *encryption.hash && plain.len() as u64 == encryption.bytes {
        return Ok(plain);
    }
    Err(differs("what it was encrypted from is not what was written").with("file", &file.key))
}

/// The bytes of a file as they are stored, which are what was written. No key is needed.
pub(super) async fn stored(place: &Place, cpu: &CpuPool, file: &File) -> Result<Bytes> {
    let bytes = place.file_bytes(&file.key, file.bytes).await?;
    let (hash, bytes) = cpu.run(move |_| (blake3::hash(&bytes).to_hex(), bytes)).await?;
    if *hash == *file.hash && bytes.len() as u64 == file.bytes {
        return Ok(bytes);
    }
    Err(differs("its bytes are not the ones that were written")
        .with("file", &file.key)
        .with("place", place.location())
        .next(format!("stillpoint archive verify {}", place.set())))
}

fn compare(
    bytes: &Bytes,
    columns: &[Column],
    format: super::file::Format,
    tallies: &[Tally],
) -> Result<()> {
    let mut decoder = Decoder::new(bytes, columns, format)?;
    let mut hash = SliceHash::default();
    let mut slices = tallies.iter().enumerate().filter(|(_, tally)| tally.rows > 0).peekable();
    while let Some(rows) = decoder.next()? {
        for row in rows.rows() {
            let Some((number, tally)) = slices.peek() else {
                return Err(differs("it holds more rows than were written"));
            };
            hash.add(row);
            if hash.rows() == tally.rows {
                if hash.hex() != tally.hash {
                    return Err(
                        differs("its rows are not the ones that were read").with("slice", number)
                    );
                }
                hash = SliceHash::default();
                slices.next();
            }
        }
    }
    if hash.rows() > 0 || slices.peek().is_some() {
        return Err(differs("it holds fewer rows than were written"));
    }
    Ok(())
}

fn differs(why: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, code::ARCHIVE_FILE, "verify a file of archived rows").why(why)
}

/// The rows of those slices of a batch that count, decoded from its file and handed over slice by
/// slice, for one table.
pub(super) fn keep_slices(
    bytes: &Bytes,
    columns: &[Column],
    format: super::file::Format,
    slices: &[Slice],
    member: usize,
    mut keep: impl FnMut(&Slice, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut rows = SliceRows::new(bytes, columns, format, slices.to_vec(), member)?;
    while rows.next(&mut keep)? {}
    Ok(())
}

/// The same, some rows at a time: as many as a decoder reads at once.
///
/// Whether they are those that were written is known at the end.
#[derive(Debug)]
pub(super) struct SliceRows {
    decoder: Decoder,
    slices: Vec<Slice>,
    member: usize,
    /// The slice that is being read, and how many of its rows were.
    now: usize,
    seen: u64,
}

impl SliceRows {
    /// Opens the file of a table, of whose batch all slices are given.
    pub(super) fn new(
        bytes: &Bytes,
        columns: &[Column],
        format: super::file::Format,
        mut slices: Vec<Slice>,
        member: usize,
    ) -> Result<Self> {
        slices.retain(|slice| slice.members[member].rows > 0);
        let decoder = Decoder::new(bytes, columns, format)?;
        Ok(Self { decoder, slices, member, now: 0, seen: 0 })
    }

    /// Hands over some rows; `false` when all were there.
    pub(super) fn next(
        &mut self,
        mut keep: impl FnMut(&Slice, &[u8]) -> Result<()>,
    ) -> Result<bool> {
        let Some(rows) = self.decoder.next()? else { return Ok(false) };
        for row in rows.rows() {
            let slice = self.slices.get(self.now);
            let slice = slice.ok_or_else(|| differs("it holds more rows than were written"))?;
            keep(slice, row)?;
            self.seen += 1;
            if self.seen == slice.members[self.member].rows {
                self.seen = 0;
                self.now += 1;
            }
        }
        Ok(true)
    }
}
