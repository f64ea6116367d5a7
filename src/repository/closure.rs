//! Everything that a backup refers to: the blobs of its part table, leaves and chunks, and their
//! bases.

use std::sync::Arc;

use stillpoint_contract::Result;

use super::{
    index_run::Located,
    reader::{BackupReader, BasePart},
};
use crate::pipeline::id::ChunkId;

/// Chunk ids that are looked up together on one CPU thread.
const BATCH_CHUNKS: u64 = 4096;

/// Calls `visit` with the place of every blob that the backup needs, bases included. A blob that is
/// needed several times may be visited several times.
///
/// # Errors
///
/// [`Missing`](stillpoint_contract::ErrorKind::Missing) when a blob is nowhere.
pub(super) async fn places(reader: &BackupReader, mut visit: impl FnMut(Located)) -> Result<()> {
    let manifest = reader.manifest();
    locate(reader, manifest.part_pages.clone(), &mut visit).await?;
    for page in 0..manifest.part_pages.len() as u32 {
        for entry in reader.page(page).await?.iter() {
            let part = BasePart::new(entry.clone(), manifest.chunk_bytes);
            locate(reader, part.leaf_ids().to_vec(), &mut visit).await?;
            let mut at = 0;
            while at < part.chunks() {
                let stop = (at + BATCH_CHUNKS).min(part.chunks());
                let ids = part.ids(reader.blobs(), at..stop).await?;
                locate(reader, ids, &mut visit).await?;
                at = stop;
            }
        }
    }
    Ok(())
}

async fn locate(
    reader: &BackupReader,
    ids: Vec<ChunkId>,
    visit: &mut impl FnMut(Located),
) -> Result<()> {
    let index = Arc::clone(&reader.blobs().index);
    let job = move |_: &mut _| {
        let stored = ids.iter().filter(|id| !id.is_zero());
        stored.map(|id| index.locate(id)).collect::<Result<Vec<_>>>()
    };
    for (own, base) in reader.blobs().cpu.run(job).await?? {
        visit(own);
        base.into_iter().for_each(&mut *visit);
    }
    Ok(())
}
