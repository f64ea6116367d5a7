//! The archives of a base backup, written as parts while they arrive.

use std::{collections::HashMap, ops::Range};

use bytes::{Buf as _, Bytes, BytesMut};
use stillpoint_contract::{EXTENT_BYTES, Error, ErrorKind, PartWriter, Result, Shape, Sink, code};

use super::{
    crew::{create, write_file},
    names::relation,
    tar::{Archive, Member, MemberKind, Piece},
};
use crate::wire::{BackupEvent, BaseBackup, Boundary};

/// What a file that holds only changed blocks begins with.
const INCREMENT_MAGIC: u32 = 0xd3ae_1f0d;

/// Its name is prefixed so.
const INCREMENT_PREFIX: &str = "INCREMENTAL.";

/// The file that says where replay begins.
const LABEL: &str = "backup_label";
const LABEL_BYTES_MAX: usize = 64 << 10;

/// The most blocks of one file: 1 GiB in pages of the smallest size.
const BLOCKS_MAX: u32 = 1 << 20;

/// What came of it.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) stop: Boundary,
    pub(crate) directories: Vec<String>,
}

/// Receives every archive. `base` has the lengths of the earlier backup's parts in pages, where
/// only changes are sent.
pub(crate) async fn receive(
    backup: &mut BaseBackup<'_>,
    sink: &dyn Sink,
    page_bytes: u32,
    base: &HashMap<String, u32>,
) -> Result<Received> {
    let mut receiver = Receiver {
        sink,
        page_bytes,
        base,
        prefix: String::new(),
        archive: Archive::default(),
        writing: Writing::Nothing,
        directories: Vec::new(),
    };
    loop {
        match backup.next().await? {
            BackupEvent::Archive(oid) => {
                receiver.check_whole()?;
                receiver.prefix = match oid {
                    Some(oid) => {
                        let space = format!("pg_tblspc/{oid}");
                        receiver.directories.push(space.clone());
                        space + "/"
                    }
                    None => String::new(),
                };
            }
            BackupEvent::Bytes(bytes) => {
                receiver.archive.feed(&bytes);
                while let Some(piece) = receiver.archive.next()? {
                    receiver.take(piece).await?;
                }
            }
            BackupEvent::End(stop) => {
                receiver.check_whole()?;
                return Ok(Received { stop, directories: receiver.directories });
            }
        }
    }
}

struct Receiver<'a> {
    sink: &'a dyn Sink,
    page_bytes: u32,
    base: &'a HashMap<String, u32>,
    prefix: String,
    archive: Archive,
    writing: Writing,
    directories: Vec<String>,
}

enum Writing {
    Nothing,
    /// A whole file.
    File {
        part: Box<dyn PartWriter>,
        at: u64,
        buffer: BytesMut,
    },
    /// The file that says where replay begins.
    Label {
        path: String,
        mode: u32,
        text: BytesMut,
    },
    /// The head of a file of changed blocks, which says which they are.
    Head {
        path: String,
        mode: u32,
        head: BytesMut,
    },
    /// The blocks themselves.
    Blocks(Patch),
}

/// A part of which changed blocks arrive, and the rest is kept or zero.
struct Patch {
    part: Box<dyn PartWriter>,
    blocks: std::vec::IntoIter<u32>,
    page: BytesMut,
    /// Up to where the part is done, in pages.
    at: u32,
    /// Up to where pages are kept.
    kept: u32,
    /// Its length in pages.
    pages: u32,
}

impl Receiver<'_> {
    fn check_whole(&self) -> Result<()> {
        if self.archive.is_whole() && matches!(self.writing, Writing::Nothing) {
            return Ok(());
        }
        Err(bad("an archive that breaks off"))
    }

    async fn take(&mut self, piece: Piece) -> Result<()> {
        match piece {
            Piece::Member(member) => self.begin(member).await,
            Piece::Bytes(bytes) => self.add(bytes).await,
            Piece::End => self.end().await,
        }
    }

    async fn begin(&mut self, member: Member) -> Result<()> {
        let path = format!("{}{}", self.prefix, member.path);
        match member.kind {
            MemberKind::Directory => {
                if !member.path.is_empty() {
                    self.directories.push(path);
                }
            }
            MemberKind::Link => {}
            MemberKind::File => {
                let (directory, name) = path.rsplit_once('/').unwrap_or(("", &path));
                if let Some(name) = name.strip_prefix(INCREMENT_PREFIX) {
                    let path = format!("{directory}/{name}");
                    let head = BytesMut::new();
                    self.writing = Writing::Head { path, mode: member.mode, head };
                    return Ok(());
                }
                if path == LABEL && !self.base.is_empty() {
                    let (mode, text) = (member.mode, BytesMut::new());
                    self.writing = Writing::Label { path, mode, text };
                    return Ok(());
                }
                let pages = u64::from(self.page_bytes);
                let is_paged = relation(&path).is_some()
                    && member.length_bytes > 0
                    && member.length_bytes.is_multiple_of(pages);
                let shape = if is_paged {
                    Shape::Paged { page_bytes: self.page_bytes }
                } else {
                    Shape::Stream
                };
                let part = create(self.sink, &path, shape, member.mode).await?;
                self.writing = Writing::File { part, at: 0, buffer: BytesMut::new() };
            }
        }
        Ok(())
    }

    async fn add(&mut self, mut bytes: Bytes) -> Result<()> {
        match &mut self.writing {
            Writing::Nothing => Err(bad("bytes of no file")),
            Writing::File { part, at, buffer } => {
                buffer.extend_from_slice(&bytes);
                while buffer.len() as u64 >= EXTENT_BYTES {
                    part.write(*at, buffer.split_to(EXTENT_BYTES as usize).freeze()).await?;
                    *at += EXTENT_BYTES;
                }
                Ok(())
            }
            Writing::Label { text, .. } => {
                text.extend_from_slice(&bytes);
                if text.len() > LABEL_BYTES_MAX { Err(bad("a long label")) } else { Ok(()) }
            }
            Writing::Head { path, mode, head } => {
                head.extend_from_slice(&bytes);
                let Some(increment) = Increment::decode(head, self.page_bytes)? else {
                    return Ok(());
                };
                let rest = head.split_off(increment.head_bytes).freeze();
                let (path, mode) = (std::mem::take(path), *mode);
                self.patch(&path, mode, increment).await?;
                if let Writing::Blocks(patch) = &mut self.writing {
                    patch.add(rest, self.page_bytes).await?;
                }
                Ok(())
            }
            Writing::Blocks(patch) => patch.add(bytes.split_off(0), self.page_bytes).await,
        }
    }

    async fn patch(&mut self, path: &str, mode: u32, increment: Increment) -> Result<()> {
        let base = self.base.get(path).copied();
        let base = base.ok_or_else(|| bad("changes of a file that the base has not"))?;
        let Increment { blocks, truncation, .. } = increment;
        let pages = blocks.last().map_or(0, |last| last + 1).max(truncation);
        let shape = Shape::Paged { page_bytes: self.page_bytes };
        let part = create(self.sink, path, shape, mode).await?;
        let (page, kept) = (BytesMut::new(), base.min(truncation));
        let blocks = blocks.into_iter();
        self.writing = Writing::Blocks(Patch { part, blocks, page, at: 0, kept, pages });
        Ok(())
    }

    async fn end(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.writing, Writing::Nothing) {
            Writing::Nothing => Ok(()),
            Writing::File { part, at, buffer } => {
                let length = at + buffer.len() as u64;
                if !buffer.is_empty() {
                    part.write(at, buffer.freeze()).await?;
                }
                part.finish(length).await
            }
            Writing::Label { path, mode, text } => {
                write_file(self.sink, &path, whole_label(&text).into(), mode).await
            }
            Writing::Head { .. } => Err(bad("a head that breaks off")),
            Writing::Blocks(mut patch) => {
                if !patch.page.is_empty() || patch.blocks.next().is_some() {
                    return Err(bad("blocks that break off"));
                }
                patch.fill(patch.pages, self.page_bytes).await?;
                let length = u64::from(patch.pages) * u64::from(self.page_bytes);
                patch.part.finish(length).await
            }
        }
    }
}

impl Patch {
    async fn add(&mut self, bytes: Bytes, page_bytes: u32) -> Result<()> {
        self.page.extend_from_slice(&bytes);
        while self.page.len() >= page_bytes as usize {
            let block = self.blocks.next().ok_or_else(|| bad("more blocks than were named"))?;
            self.fill(block, page_bytes).await?;
            let page = self.page.split_to(page_bytes as usize).freeze();
            self.part.write(u64::from(block) * u64::from(page_bytes), page).await?;
            self.at = block + 1;
        }
        Ok(())
    }

    /// Keeps pages up to `until`, and writes zeros where the base has none.
    async fn fill(&mut self, until: u32, page_bytes: u32) -> Result<()> {
        let bytes = |pages: Range<u32>| {
            u64::from(pages.start) * u64::from(page_bytes)
                ..u64::from(pages.end) * u64::from(page_bytes)
        };
        let kept = self.kept.min(until);
        if self.at < kept {
            self.part.keep(bytes(self.at..kept)).await?;
            self.at = kept;
        }
        let zeros = bytes(self.at..until.max(self.at));
        for at in zeros.clone().step_by(EXTENT_BYTES as usize) {
            let length = (zeros.end - at).min(EXTENT_BYTES) as usize;
            self.part.write(at, vec![0; length].into()).await?;
        }
        self.at = until.max(self.at);
        Ok(())
    }
}

/// The head of a file of changed blocks.
struct Increment {
    blocks: Vec<u32>,
    /// Up to where the earlier file counts, in pages.
    truncation: u32,
    head_bytes: usize,
}

impl Increment {
    /// Decodes a head; `None` while it has not arrived as a whole.
    fn decode(head: &[u8], page_bytes: u32) -> Result<Option<Self>> {
        let mut rest = head;
        let mut number = || rest.try_get_u32_le().ok();
        let (Some(magic), Some(count), Some(truncation)) = (number(), number(), number()) else {
            return Ok(None);
        };
        if magic != INCREMENT_MAGIC || count > BLOCKS_MAX || truncation > BLOCKS_MAX {
            return Err(bad("a head that is none"));
        }
        // Blocks begin at a page, where there are any.
        let named = 12 + 4 * count as usize;
        let head_bytes =
            if count == 0 { named } else { named.next_multiple_of(page_bytes as usize) };
        if head.len() < head_bytes {
            return Ok(None);
        }
        let blocks: Vec<u32> = (0..count).map_while(|_| rest.try_get_u32_le().ok()).collect();
        let is_ordered = blocks.is_sorted_by(|a, b| a < b);
        if !is_ordered || blocks.last().is_some_and(|last| *last >= BLOCKS_MAX) {
            return Err(bad("blocks out of order"));
        }
        Ok(Some(Self { blocks, truncation, head_bytes }))
    }
}

/// A label without the lines by which a server refuses to start on an increment: with what was
/// kept, this is none.
fn whole_label(text: &[u8]) -> Vec<u8> {
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    lines.filter(|line| !line.starts_with(b"INCREMENTAL FROM ")).flatten().copied().collect()
}

fn bad(what: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, code::NOT_A_DATABASE, "read the archives of a base backup")
        .with("found", what)
}
