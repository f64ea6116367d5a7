//! Damage on one side is repaired from the other.
//!
//! Both sides empty half-full packs, each of what its own backups do not need. So a pack that was
//! emptied elsewhere may come back with less than it held here, and other backups here may need the
//! rest: before a pack is given up, everything that anything here needs of it lies elsewhere.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    blobs::{Blobs, read_table},
    closure::places,
    entry::{Action, Doom},
    history::{Committed, History, PackList},
    index_run::Located,
    index_set::IndexSet,
    manifest::{MANIFEST_BYTES_MAX, PACK_LIST_BYTES_MAX},
    pack::PackName,
    reader::BackupReader,
    replica::Replication,
    replica_packs::{Homes, There, Way, blob_of},
    store::Key,
    verify::is_finding,
};

/// How often it is decided anew because somebody else wrote to the log meanwhile.
const ATTEMPTS_MAX: u32 = 8;

/// Where what packs held is to be.
type Moves = BTreeMap<PackName, Homes>;

impl Replication<'_> {
    /// Brings back what a backup at the target needs and is not as it was written there. Returns
    /// the names of the objects that were damaged or missing.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) or [`Missing`](ErrorKind::Missing) when the source has no
    /// good one either.
    pub async fn mend(&self, committed: &Committed) -> Result<Vec<String>> {
        let commit = &committed.commit;
        let mut mended = Vec::new();
        for (name, hash, limit) in [
            (&commit.manifest, &commit.manifest_hash, MANIFEST_BYTES_MAX),
            (&commit.packs, &commit.packs_hash, PACK_LIST_BYTES_MAX),
        ] {
            match self.target.hashed(name, hash, limit).await {
                Err(error) if is_finding(&error) => {
                    let good = self.source.hashed(name, hash, limit).await;
                    let good = good.map_err(|error| self.at_source(error))?;
                    self.whole(&Key::new(name.clone())?, good, true).await?;
                    mended.push(name.clone());
                }
                known => drop(known?),
            }
        }
        let (theirs, own) = (self.source.history().await?, self.target.history().await?);
        let stored = self.stored().await?;
        let (mut to_send, mut in_part) = (BTreeMap::new(), BTreeMap::new());
        let mut finds_all = None;
        for (pack, size_bytes) in self.target.pack_list(committed).await? {
            let one = PackList::from([(pack, size_bytes)]);
            let mut there = self.lies(&own, &stored, &BTreeSet::new(), one.clone()).await?;
            let homes = theirs.resolve(one.clone());
            let at_target = own.resolve(one.clone());
            if there == There::Whole && at_target != one {
                // It may have been moved when nobody needed all of it.
                let is_all_there = match finds_all {
                    Some(known) => known,
                    None => *finds_all.insert(self.finds_all(&own, committed).await?),
                };
                if !is_all_there && !self.covers(&homes, &at_target).await? {
                    there = There::Lost;
                }
            }
            match there {
                There::Whole => continue,
                There::Nothing if homes == one => {
                    to_send.insert(pack, (size_bytes, Way::AsItIs));
                }
                _ if homes == one => {
                    to_send.insert(pack, (size_bytes, Way::Moved));
                }
                _ => {
                    in_part.insert(pack, homes);
                }
            }
            mended.push(pack.key().to_string());
        }
        self.send(to_send).await?;
        if !in_part.is_empty() {
            self.replace(in_part).await?;
        }
        Ok(mended)
    }

    /// Whether every blob that a backup at the target needs is somewhere in its packs.
    async fn finds_all(&self, own: &History, committed: &Committed) -> Result<bool> {
        match self.find_all(own, committed, &Moves::new()).await {
            Err(error) if is_finding(&error) => Ok(false),
            found => found.map(|()| true),
        }
    }

    /// Finds every blob that a backup at the target needs, if packs moved so.
    async fn find_all(&self, own: &History, committed: &Committed, moves: &Moves) -> Result<()> {
        let manifest = self.target.manifest(committed).await?;
        let packs = own.resolve_as_if(self.target.pack_list(committed).await?, moves);
        let blobs = self.target.blobs_of(own, &packs).await?;
        places(&BackupReader::new(manifest, blobs), |_| ()).await
    }

    /// Puts what packs held into new ones: from wherever the source has it, which may be a part of
    /// it, and what is good of the rest where it is.
    async fn replace(&self, lost: BTreeMap<PackName, PackList>) -> Result<()> {
        let domain = self.target.domain()?;
        let index = Arc::new(IndexSet::new(domain.repository(), PackList::new()));
        let mut sent: BTreeMap<PackName, Homes> = BTreeMap::new();
        let mut moves = Moves::new();
        for (pack, at_source) in lost {
            let homes = moves.entry(pack).or_default();
            for (home, size_bytes) in at_source {
                let known = match sent.entry(home) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => {
                        new.insert(self.send_moved(home, size_bytes, &index).await?)
                    }
                };
                homes.extend(known.iter().copied());
            }
        }
        self.target.store_run_of(&index).await?;
        let own = self.target.history().await?;
        let mut is_all = true;
        let (_, blobs) = self.target.usable(&own).await?;
        for (pack, homes) in &mut moves {
            let at_target = own.resolve(PackList::from([(*pack, 0)]));
            let (rescued, is_all_of_it) = self.rescue(at_target, &blobs, &index).await?;
            homes.extend(rescued);
            is_all &= is_all_of_it;
        }
        self.target.store_run_of(&index).await?;
        self.give_up(&own, moves, is_all).await
    }

    /// Puts what is good of some packs, and not in `index`, into new ones. Says as well whether
    /// nothing is lacking then.
    async fn rescue(
        &self,
        packs: PackList,
        blobs: &Blobs,
        index: &Arc<IndexSet>,
    ) -> Result<(Homes, bool)> {
        let stored = self.stored().await?;
        let (mut homes, mut is_all) = (Homes::new(), true);
        // How long they should be does not matter here: what lies there has a length of its own.
        for home in packs.into_keys() {
            let mut good = Vec::new();
            let table = match stored.get(&home) {
                Some(size_bytes) => read_table(&*self.target.store, home, *size_bytes).await,
                None => Ok(Vec::new()),
            };
            let table = match table {
                Err(error) if is_finding(&error) => Vec::new(),
                table => table?,
            };
            is_all &= !table.is_empty();
            for entry in table {
                let mut known = index.find(&entry.label.id)?.into_iter();
                if known.any(|place| blob_of(&place.entry) == blob_of(&entry)) {
                    continue;
                }
                match blobs.intact(Located { pack: home, pack_bytes: 0, entry }).await {
                    Err(error) if is_finding(&error) => is_all = false,
                    blob => good.push(Ok(blob?)),
                }
            }
            if !good.is_empty() {
                homes.extend(self.pack_up(home.kind, good.into_iter(), index).await?);
            }
        }
        Ok((homes, is_all))
    }

    /// Says in the target's log where what packs held is now, if every backup there finds all that
    /// it needs then.
    async fn give_up(&self, own: &History, moves: Moves, is_all: bool) -> Result<()> {
        let doom = Doom {
            packs: moves.keys().copied().collect(),
            moved: moves.clone(),
            ..Doom::default()
        };
        for _ in 0..ATTEMPTS_MAX {
            let seen = self.target.history().await?;
            if !is_all {
                self.check_needed(&seen, &moves).await?;
            }
            let (mut is_settled, mut is_gone) = (true, false);
            self.target
                .append(async |now| {
                    let mut homes = moves.values().flatten();
                    let as_seen = |pack: &PackName| {
                        let one = PackList::from([(*pack, 0)]);
                        own.resolve(one.clone()) == now.resolve(one)
                    };
                    is_gone = homes.any(|(home, _)| now.is_doomed_pack(home))
                        || !moves.keys().all(as_seen);
                    // A backup that came meanwhile may need what nobody needed before.
                    is_settled = is_all || now.head() == seen.head();
                    let may_go = is_settled && !is_gone;
                    Ok(may_go.then(|| Action::Doom(Box::new(doom.clone()))))
                })
                .await?;
            if is_gone {
                break;
            }
            if is_settled {
                return Ok(());
            }
        }
        Err(Error::new(ErrorKind::Busy, code::BACKUP_DISCARDED, "repair packs from a copy")
            .with("place", self.target.location())
            .why("somebody else writes there at the same time")
            .next("repeat the command"))
    }

    /// Makes sure that no backup of the target loses anything if packs move so.
    async fn check_needed(&self, own: &History, moves: &Moves) -> Result<()> {
        for committed in own.live() {
            let list = self.target.pack_list(committed).await?;
            if own.resolve(list.clone()) == own.resolve_as_if(list, moves) {
                continue;
            }
            self.find_all(own, committed, moves).await.map_err(|error| {
                let place = self.target.location();
                let error = error.with("needed by", &committed.commit.backup);
                error.with("place", place).why(
                    "it is damaged there, and was given up where it was looked for: what is left \
                     of it stays where it is",
                )
            })?;
        }
        Ok(())
    }
}
