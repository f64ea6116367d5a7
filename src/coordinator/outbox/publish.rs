//! One point is handed over: written beside its place, read back, named, and only then said to be
//! complete.

use std::{
    fs::{self, File},
    io::{self, Read, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest as _, Sha256};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    folder::{
        MANIFEST, OWNER, Outbox, READY, READY_SOON, create, failed, manifest_in, patiently,
        point_name, settle, write,
    },
    manifest::{HandedFile, PointManifest},
    payload::Payload,
};
use crate::{pipeline::Meter, repository::Pace, world::World};

/// So many bytes are moved at once; in between, work can be given up.
const PORTION: usize = 1 << 20;

/// How bytes are moved.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    /// How fast.
    pub(super) pace: &'a Pace,
    /// Whether it may go on.
    pub(super) may_go: &'a (dyn Fn() -> Result<()> + Sync),
    /// What was moved.
    pub(super) meter: &'a Meter,
}

/// Bytes that are read, and written and hashed on the way.
struct Passage<R> {
    from: R,
    to: Option<File>,
    blake3: blake3::Hasher,
    sha256: Sha256,
    bytes: u64,
    buffer: Vec<u8>,
}

impl<R: Read + Send + 'static> Passage<R> {
    fn new(from: R, to: Option<File>) -> Self {
        let (blake3, sha256) = (blake3::Hasher::new(), Sha256::new());
        Self { from, to, blake3, sha256, bytes: 0, buffer: vec![0; PORTION] }
    }

    /// Moves the next portion. Returns how many bytes it had.
    fn step(&mut self) -> io::Result<usize> {
        let mut filled = 0;
        while filled < self.buffer.len() {
            match self.from.read(&mut self.buffer[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(cause),
            }
        }
        let portion = &self.buffer[..filled];
        if let Some(to) = &mut self.to {
            to.write_all(portion)?;
        }
        self.blake3.update(portion);
        self.sha256.update(portion);
        self.bytes += filled as u64;
        Ok(filled)
    }

    fn described(self, name: &str) -> HandedFile {
        HandedFile {
            name: name.to_owned(),
            bytes: self.bytes,
            blake3: self.blake3.finalize().to_hex().to_string(),
            sha256: data_encoding::HEXLOWER.encode(&self.sha256.finalize()),
        }
    }

    /// Moves everything. Whoever waits for that may give it up between two portions.
    async fn through(mut self, path: &Path, way: Way<'_>) -> Result<Self> {
        loop {
            if self.to.is_some() {
                way.pace.take(PORTION as u64, |_| (way.may_go)()).await?;
            }
            let (passage, moved) = blocking(move || {
                let moved = self.step();
                (self, moved)
            })
            .await?;
            let moved = moved.map_err(|cause| failed("hand over", path, cause))?;
            self = passage;
            way.meter.advance(moved as u64);
            if moved == 0 {
                return Ok(self);
            }
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|cause| Error::bug("hand over a point").caused_by(cause))
}

/// Lets the system forget what it remembers of a file, so that what is read comes from where the
/// file lies.
fn forget_cached(file: &File) {
    if let Err(cause) = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed) {
        tracing::debug!(event = "handoff.cached", "{cause}");
    }
}

/// Writes a file, durably, and reads it back. Returns what it is.
pub(super) async fn store(
    payload: Payload,
    (folder, name): (&Path, &str),
    way: Way<'_>,
) -> Result<HandedFile> {
    let path = folder.join(name);
    let file = create(&path).map_err(|cause| failed("write", &path, cause))?;
    let mut passage = Passage::new(payload, Some(file)).through(&path, way).await?;
    if let Some(file) = passage.to.take() {
        let synced = blocking(move || {
            file.sync_all()?;
            forget_cached(&file);
            Ok(())
        });
        synced.await?.map_err(|cause| failed("sync", &path, cause))?;
    }
    let written = passage.described(name);
    if examine(folder, name, way).await? == written {
        return Ok(written);
    }
    Err(Error::new(ErrorKind::Transient, code::FILE, "read back what was handed over")
        .with("file", path.display())
        .why("the folder gives back other bytes than it was given; nothing was said to be ready"))
}

/// Reads a file that was handed over. Returns what it is.
pub(super) async fn examine(folder: &Path, name: &str, way: Way<'_>) -> Result<HandedFile> {
    let path = folder.join(name);
    let file = patiently(|| File::open(&path)).map_err(|cause| failed("read", &path, cause))?;
    forget_cached(&file);
    Ok(Passage::new(file, None).through(&path, way).await?.described(name))
}

/// Copies a file, and says what was copied. Nothing of it is synced.
pub(in crate::coordinator) async fn copy_file(
    world: &World,
    (from, to): (&Path, &Path),
    meter: &Meter,
) -> Result<HandedFile> {
    let source = patiently(|| File::open(from)).map_err(|cause| failed("read", from, cause))?;
    let target = create(to).map_err(|cause| failed("write", to, cause))?;
    let pace = Pace::new(Arc::clone(&world.clock), None);
    let way = Way { pace: &pace, may_go: &|| Ok(()), meter };
    Ok(Passage::new(source, Some(target)).through(from, way).await?.described("copy"))
}

/// What `sha256sum --check` reads.
fn sums(manifest: &PointManifest) -> String {
    let line = |file: &HandedFile| [&*file.sha256, "  ", &file.name, "\n"].concat();
    manifest.files.iter().map(line).collect()
}

/// Gives a folder that is complete its name, and says that it is ready. **The name of the last file
/// is the commit point.**
pub(super) fn publish(outbox: &Outbox, folder: &Path, manifest: &PointManifest) -> Result<PathBuf> {
    let own = outbox.of(&manifest.database);
    let text = serde_json::to_vec_pretty(manifest)
        .map_err(|cause| Error::bug("write down what is handed over").caused_by(cause))?;
    write(&folder.join(MANIFEST), &text)?;
    write(&folder.join("SHA256SUMS"), sums(manifest).as_bytes())?;
    write(&folder.join(READY_SOON), said(&text).as_bytes())?;
    // Somebody else may have handed over meanwhile: then neither of both is left there.
    outbox.check_room(0)?;
    let owner = folder.join(OWNER);
    fs::remove_file(&owner).map_err(|cause| failed("remove", &owner, cause))?;
    settle(folder)?;
    let place = own.join(point_name(manifest.point, &manifest.backup));
    // A folder never takes the place of one in which there is something.
    fs::rename(folder, &place).map_err(|cause| failed("name", &place, cause))?;
    settle(&own)?;
    make_ready(&place, &text)?;
    Ok(place)
}

fn said(manifest: &[u8]) -> String {
    format!("blake3 of {MANIFEST}: {}\n", blake3::hash(manifest).to_hex())
}

fn make_ready(place: &Path, manifest: &[u8]) -> Result<()> {
    let (soon, ready) = (place.join(READY_SOON), place.join(READY));
    match fs::rename(&soon, &ready) {
        // Somebody else was as far.
        Err(cause) if cause.kind() == io::ErrorKind::NotFound && ready.exists() => {}
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            write(&soon, said(manifest).as_bytes())?;
            fs::rename(&soon, &ready).map_err(|cause| failed("name", &ready, cause))?;
        }
        renamed => renamed.map_err(|cause| failed("name", &ready, cause))?,
    }
    settle(place)
}

/// Ends what was interrupted between the name of a folder and its last file: every byte is read
/// once more. What is not as it was written is removed, to be handed over again.
pub(super) async fn complete(
    world: &World,
    outbox: &Outbox,
    (database, folder): (&str, &Path),
    way: Way<'_>,
) -> Result<bool> {
    let said = folder.join(MANIFEST);
    if !patiently(|| said.try_exists()).map_err(|cause| failed("look at", &said, cause))? {
        // Whoever fetched it may be about to remove it.
        tracing::warn!(event = "handoff.left", folder = %folder.display(), "it has no manifest");
        return Ok(false);
    }
    let manifest = manifest_in(folder, database)?;
    for file in &manifest.files {
        // No name leads out of the folder.
        let is_plain = Path::new(&file.name).file_name() == Some(file.name.as_ref());
        let path = folder.join(&file.name);
        let is_there = is_plain && patiently(|| path.try_exists()).unwrap_or(true);
        let found = if is_there { Some(examine(folder, &file.name, way).await?) } else { None };
        if found.as_ref() != Some(file) {
            (way.may_go)()?;
            outbox.discard(world, database, folder)?;
            return Ok(false);
        }
    }
    let path = folder.join(MANIFEST);
    let text = patiently(|| fs::read(&path)).map_err(|cause| failed("read", &path, cause))?;
    make_ready(folder, &text)?;
    Ok(true)
}

/// Removes a folder without a name when whoever works there gives up.
#[derive(Debug)]
pub(super) struct Unnamed(pub(super) Option<PathBuf>);

impl Unnamed {
    /// It has its name.
    pub(super) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        if let Some(folder) = self.0.take()
            && let Err(cause) = fs::remove_dir_all(&folder)
            && cause.kind() != io::ErrorKind::NotFound
        {
            let folder = folder.display();
            tracing::warn!(event = "handoff.left", %folder, "the next run removes it: {cause}");
        }
    }
}
