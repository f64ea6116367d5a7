//! A [`Sink`] that believes nothing: it refuses whatever the contract forbids, and remembers that
//! it did, so that a driver cannot pass by ignoring the refusal.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use stillpoint_contract::{
    EXTENT_BYTES, EXTENTS_OPEN_MAX, Error, ErrorKind, PartName, PartRecord, PartSpec, PartWriter,
    Result, Shape, Sink, code,
};

use super::{
    backup::{MemoryBackup, Part},
    pieces::Pieces,
};

/// The attributes of a part, names and values together, in bytes.
pub const ATTRIBUTES_BYTES_MAX: usize = 4096;

/// A backup being written to memory.
#[derive(Clone, Debug, Default)]
pub struct MemorySink {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    base: Option<MemoryBackup>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    names: BTreeSet<PartName>,
    finished: Vec<Part>,
    broken: Vec<String>,
}

impl MemorySink {
    /// A sink without a base: keeping anything is refused.
    pub fn new() -> Self {
        Self::default()
    }

    /// A sink whose parts may keep ranges of `base`.
    pub fn on(base: &MemoryBackup) -> Self {
        let shared = Shared { base: Some(base.clone()), state: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// Commits what was written.
    ///
    /// # Errors
    ///
    /// [`Bug`](ErrorKind::Bug) when a rule of the contract was broken at any time, or a part was
    /// never finished; the facts name each.
    pub fn seal(&self) -> Result<MemoryBackup> {
        let mut state = self.shared.lock();
        let finished: BTreeSet<_> =
            state.finished.iter().map(|part| &part.record.spec.name).collect();
        let lost = state.names.iter().filter(|name| !finished.contains(name));
        let mut broken: Vec<_> = lost.map(|name| format!("{name} was never finished")).collect();
        broken.append(&mut state.broken);
        if broken.is_empty() {
            return Ok(MemoryBackup::of(std::mem::take(&mut state.finished)));
        }
        Err(broken.iter().fold(Error::bug("seal the backup"), |e, rule| e.with("broken", rule)))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a broken rule and returns it as an error.
    fn broken(&self, kind: ErrorKind, name: &PartName, rule: &str) -> Error {
        self.lock().broken.push(format!("{name}: {rule}"));
        Error::new(kind, code::BUG, "write a part").with("part", name).with("rule", rule)
    }
}

#[async_trait]
impl Sink for MemorySink {
    async fn create(&self, spec: PartSpec) -> Result<Box<dyn PartWriter>> {
        let broken = |kind, rule: &str| Err(self.shared.broken(kind, &spec.name, rule));
        let pairs = spec.attributes.iter();
        if pairs.map(|(k, v)| k.len() + v.len()).sum::<usize>() > ATTRIBUTES_BYTES_MAX {
            return broken(ErrorKind::Invalid, "its attributes exceed 4 KiB");
        }
        if let Shape::Paged { page_bytes } = spec.shape
            && !(page_bytes.is_power_of_two() && u64::from(page_bytes) <= EXTENT_BYTES)
        {
            return broken(ErrorKind::Invalid, "its page size is no power of two up to an extent");
        }
        if !self.shared.lock().names.insert(spec.name.clone()) {
            return broken(ErrorKind::Invalid, "its name was used before");
        }
        let shared = Arc::clone(&self.shared);
        let written = Mutex::new(Written::default());
        Ok(Box::new(MemoryWriter { shared, spec, written }))
    }
}

/// One part being written. Dropped unfinished, it leaves its name behind without a part.
#[derive(Debug)]
struct MemoryWriter {
    shared: Arc<Shared>,
    spec: PartSpec,
    written: Mutex<Written>,
}

#[derive(Debug, Default)]
struct Written {
    pieces: Pieces,
    kept: Vec<Range<u64>>,
    /// Bytes present of each extent that is not complete yet.
    open: BTreeMap<u64, u64>,
    /// Where a range ended in the middle of a page: that must be the end of the part.
    ragged: BTreeSet<u64>,
}

impl MemoryWriter {
    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn broken(&self, kind: ErrorKind, rule: &str) -> Error {
        self.shared.broken(kind, &self.spec.name, rule)
    }

    /// Checks that `range` may be added next, and adds it to the open extents.
    fn admit(&self, written: &mut Written, range: &Range<u64>) -> Result<()> {
        match self.spec.shape {
            Shape::Stream if range.start != written.pieces.end() => {
                Err(self.broken(ErrorKind::Bug, "a stream is written in order"))
            }
            Shape::Stream => Ok(()),
            Shape::Paged { page_bytes } => {
                let page_bytes = u64::from(page_bytes);
                if !range.start.is_multiple_of(page_bytes) {
                    return Err(self.broken(ErrorKind::Bug, "a range begins inside a page"));
                }
                if !range.end.is_multiple_of(page_bytes) {
                    written.ragged.insert(range.end);
                }
                written.open_extents(range);
                if written.open.len() > EXTENTS_OPEN_MAX {
                    return Err(self.broken(ErrorKind::Bug, "too many extents are partly written"));
                }
                Ok(())
            }
        }
    }
}

impl Written {
    fn open_extents(&mut self, range: &Range<u64>) {
        let mut at = range.start;
        while at < range.end {
            let extent = at / EXTENT_BYTES;
            let until = range.end.min((extent + 1) * EXTENT_BYTES);
            let present = self.open.entry(extent).or_default();
            *present += until - at;
            if *present >= EXTENT_BYTES {
                self.open.remove(&extent);
            }
            at = until;
        }
    }
}

#[async_trait]
impl PartWriter for MemoryWriter {
    async fn write(&self, offset: u64, bytes: Bytes) -> Result<()> {
        let mut written = self.written();
        let Some(end) = offset.checked_add(bytes.len() as u64) else {
            return Err(self.broken(ErrorKind::Invalid, "a range ends past the largest offset"));
        };
        self.admit(&mut written, &(offset..end))?;
        if !written.pieces.add(offset, bytes) {
            return Err(self.broken(ErrorKind::Bug, "a byte was written or kept twice"));
        }
        Ok(())
    }

    async fn keep(&self, range: Range<u64>) -> Result<()> {
        let Some(base) = &self.shared.base else {
            return Err(self.broken(ErrorKind::Invalid, "there is no base to keep anything of"));
        };
        let Some(part) = base.part(&self.spec.name) else {
            return Err(self.broken(ErrorKind::Invalid, "the base has no such part"));
        };
        if range.start > range.end || range.end > part.record.length_bytes {
            return Err(self.broken(ErrorKind::Invalid, "the base's part is shorter"));
        }
        let mut written = self.written();
        self.admit(&mut written, &range)?;
        for (offset, bytes) in part.pieces.cut(range.clone()) {
            if !written.pieces.add(offset, bytes) {
                return Err(self.broken(ErrorKind::Bug, "a byte was written or kept twice"));
            }
        }
        written.kept.push(range);
        Ok(())
    }

    async fn finish(self: Box<Self>, length_bytes: u64) -> Result<()> {
        let Written { pieces, kept, ragged, .. } = std::mem::take(&mut *self.written());
        if pieces.end() > length_bytes {
            return Err(self.broken(ErrorKind::Bug, "bytes lie past the end of the part"));
        }
        if let Some(hole) = pieces.hole(length_bytes) {
            let rule = format!("{hole:?} was neither written nor kept");
            return Err(self.broken(ErrorKind::Bug, &rule));
        }
        if ragged.iter().any(|&end| end != length_bytes) {
            return Err(self.broken(ErrorKind::Bug, "a range ends inside a page"));
        }
        let record = PartRecord { spec: self.spec.clone(), length_bytes };
        self.shared.lock().finished.push(Part { record, pieces, kept });
        Ok(())
    }
}
