//! What became of files that count for nothing any more, as it is told.

use serde::Serialize;

use crate::{
    archiver::{KeptFile, Removed},
    cli::{
        exit,
        page::{Page, Tone, printable},
        units,
    },
};

/// What became of them.
#[derive(Debug, Serialize)]
pub(super) struct Gone {
    destroyed_keys: u64,
    removed_files: u64,
    kept_files: Vec<KeptRow>,
}

#[derive(Debug, Serialize)]
struct KeptRow {
    file: String,
    place: String,
    /// Whether nobody can read it any more, since its key was destroyed.
    unreadable: bool,
    why: String,
}

impl Gone {
    pub(super) fn of(removed: Removed) -> Self {
        let row = |kept: KeptFile| {
            let KeptFile { file, place, is_unreadable, why } = kept;
            KeptRow { file, place, unreadable: is_unreadable, why }
        };
        Self {
            destroyed_keys: removed.keys,
            removed_files: removed.files,
            kept_files: removed.kept.into_iter().map(row).collect(),
        }
    }

    /// A file that is to be nowhere, and can still be read, is a failure.
    pub(super) fn status(&self) -> u8 {
        let is_readable = self.kept_files.iter().any(|file| !file.unreadable);
        if is_readable { exit::CHECK_FAILED } else { exit::OK }
    }

    pub(super) fn write(&self, page: &mut Page<'_>) {
        let files = units::count(self.removed_files, "file was", "files were");
        let keys = units::count(self.destroyed_keys, "key was", "keys were");
        page.line(format!("  {files} removed, {keys} destroyed."));
        for kept in &self.kept_files {
            let (file, place) = (printable(&kept.file), printable(&kept.place));
            let (tone, what) = if kept.unreadable {
                (Tone::Warning, "stays, and cannot be read: its key is destroyed")
            } else {
                (Tone::Bad, "STAYS, AND CAN BE READ")
            };
            let what = page.paint(tone, what);
            page.line(format!("  {file} in {place} {what} ({})", printable(&kept.why)));
        }
    }
}
