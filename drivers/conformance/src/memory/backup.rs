//! A finished backup in memory.

use std::{fs, io, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use stillpoint_contract::{
    Error, ErrorKind, PartName, PartRecord, RestorePlan, Result, Source, code,
};

use super::pieces::Pieces;

/// The longest range that [`Source::read`] returns at a time, in bytes.
pub const READ_BYTES_MAX: u64 = 32 << 20;

const PARTS_PER_PAGE: usize = 4096;

/// What a [`MemorySink`](super::MemorySink) sealed. Cloning shares the bytes.
#[derive(Clone, Debug, Default)]
pub struct MemoryBackup {
    parts: Arc<[Part]>,
}

#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) record: PartRecord,
    pub(crate) pieces: Pieces,
    pub(crate) kept: Vec<Range<u64>>,
}

impl MemoryBackup {
    pub(crate) fn of(parts: Vec<Part>) -> Self {
        Self { parts: parts.into() }
    }

    pub(crate) fn part(&self, name: &PartName) -> Option<&Part> {
        self.parts.iter().find(|part| part.record.spec.name == *name)
    }

    /// The parts, in the order they were finished.
    pub fn records(&self) -> impl Iterator<Item = &PartRecord> {
        self.parts.iter().map(|part| &part.record)
    }

    /// All bytes of a part.
    pub fn bytes(&self, name: &PartName) -> Option<Bytes> {
        self.part(name).map(|part| part.pieces.read(0..part.record.length_bytes))
    }

    /// Which ranges of a part were kept from the base.
    pub fn kept(&self, name: &PartName) -> &[Range<u64>] {
        self.part(name).map_or(&[], |part| &part.kept)
    }

    /// How many bytes were kept from the base, in all parts.
    pub fn kept_bytes(&self) -> u64 {
        self.parts.iter().flat_map(|part| &part.kept).map(|range| range.end - range.start).sum()
    }

    /// How many bytes were written, in all parts.
    pub fn written_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.record.length_bytes).sum::<u64>() - self.kept_bytes()
    }

    /// Lays the parts and the generated files out as `plan` says, as a restore does.
    pub fn lay_out(&self, plan: &RestorePlan) -> Result<()> {
        for part in self.parts.iter() {
            if let Some(path) = plan.place(&part.record.spec.name) {
                let pieces = part.pieces.cut(0..part.record.length_bytes);
                write_file(&path, pieces.iter().map(|(_, piece)| piece))?;
            }
        }
        plan.files.iter().try_for_each(|file| write_file(&file.path, [&file.bytes]))
    }
}

fn write_file<'a>(
    path: &std::path::Path,
    pieces: impl IntoIterator<Item = &'a Bytes>,
) -> Result<()> {
    let written = || -> io::Result<()> {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        let mut file = fs::File::create(path)?;
        pieces.into_iter().try_for_each(|piece| io::Write::write_all(&mut file, piece))
    };
    written().map_err(|source| {
        Error::new(ErrorKind::Config, code::FILE, "lay out a part")
            .with("file", path.display())
            .caused_by(source)
    })
}

#[async_trait]
impl Source for MemoryBackup {
    async fn parts(&self, page: u32) -> Result<Vec<PartRecord>> {
        let past = PARTS_PER_PAGE * page as usize;
        Ok(self.records().skip(past).take(PARTS_PER_PAGE).cloned().collect())
    }

    async fn read(&self, name: &PartName, range: Range<u64>) -> Result<Bytes> {
        if range.end.saturating_sub(range.start) > READ_BYTES_MAX {
            return Err(Error::bug("read more than 32 MiB at a time").with("part", name));
        }
        let part = self.part(name).ok_or_else(|| {
            Error::new(ErrorKind::Missing, code::MISSING_OBJECT, "read a part").with("part", name)
        })?;
        Ok(part.pieces.read(range))
    }
}
