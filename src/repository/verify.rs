//! Reading everything and believing nothing: by names without a key, or down to every chunk.

use std::{collections::BTreeMap, sync::Arc};

use futures::{StreamExt as _, stream};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    blobs::{read_range, read_table},
    entry::hash_of,
    handle::{INDEX_RUN_BYTES_MAX, KEY_SLOT_BYTES_MAX, Repository},
    heads::is_unreadable,
    history::{Committed, History, PackList},
    index_run::RunName,
    names,
    pack::{Inspection, PackName},
    reader::BasePart,
    segment::{Prefix, SEGMENT_BYTES_MAX},
    wire::corrupt,
};
use crate::pipeline::Meter;

/// Packs that are read at once.
const READS_MAX: usize = 2;

/// Chunks that are decoded together. Bounds the memory of a verification.
const DECODED_CHUNKS_MAX: u64 = 16;

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The object.
    pub object: String,
    /// What is wrong with it.
    pub what: String,
    /// The backups that it affects, by id; empty for log segments and for objects that only cost
    /// deduplication.
    pub backups: Vec<String>,
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Backups that were looked at.
    pub backups: u64,
    /// Objects that were read.
    pub objects: u64,
    /// Bytes that were read, or decoded.
    pub bytes: u64,
    /// What is not as it was written; empty when all is well.
    pub problems: Vec<Problem>,
}

impl VerifyReport {
    pub(super) fn add(&mut self, object: &impl ToString, error: &Error, backups: Vec<String>) {
        let what = describe(error);
        self.problems.push(Problem { object: object.to_string(), what, backups });
    }
}

fn describe(error: &Error) -> String {
    let mut what = error.to_string();
    for (label, value) in error.facts() {
        if label == "problem" || label == "pack" {
            what = format!("{what}: {value}");
        }
    }
    if error.code() == code::MISSING_OBJECT { format!("{what}: it is missing") } else { what }
}

/// Whether a check may go on to the next object after this error.
pub(super) fn is_finding(error: &Error) -> bool {
    error.kind() == ErrorKind::Missing || is_unreadable(error)
}

impl Repository {
    /// Hashes every object and compares with its name, or with the log. Needs no key.
    ///
    /// # Errors
    ///
    /// Only what keeps it from looking, such as an unreachable store; damage is in the report.
    pub async fn verify_names(&self, meter: &Arc<Meter>) -> Result<VerifyReport> {
        let history = self.history().await?;
        let mut report = VerifyReport::default();
        let mut users: BTreeMap<PackName, (u64, Vec<String>)> = BTreeMap::new();
        for committed in history.live() {
            report.backups += 1;
            match self.lists(&history, committed, &mut report).await {
                Ok(packs) => {
                    for (pack, size_bytes) in packs {
                        let backup = committed.commit.backup.clone();
                        users.entry(pack).or_insert((size_bytes, Vec::new())).1.push(backup);
                    }
                }
                Err(error) if is_finding(&error) => {
                    let backup = committed.commit.backup.clone();
                    report.add(&committed.commit.packs, &error, vec![backup]);
                }
                Err(error) => return Err(error),
            }
        }
        meter.begin("hash", users.values().map(|(size_bytes, _)| size_bytes).sum());
        self.verify_packs(users, meter, &mut report).await?;
        self.verify_index(&history, &mut report).await?;
        self.verify_segments(&history, &mut report).await?;
        self.verify_slots(&history, &mut report).await?;
        self.hash_drills(&history, &mut report).await?;
        self.hash_reports(&history, &mut report).await?;
        Ok(report)
    }

    /// Compares key slots with what the log says of them.
    async fn verify_slots(&self, history: &History, report: &mut VerifyReport) -> Result<()> {
        for (slot, hash) in history.key_slots() {
            let key = format!("{}{slot}.json", names::KEYS);
            report.objects += 1;
            match self.hashed(&key, hash, KEY_SLOT_BYTES_MAX).await {
                Ok(bytes) => report.bytes += bytes.len() as u64,
                Err(error) if is_finding(&error) => report.add(&key, &error, Vec::new()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Checks manifest and pack list of one backup against the log.
    async fn lists(
        &self,
        history: &History,
        committed: &Committed,
        report: &mut VerifyReport,
    ) -> Result<PackList> {
        let commit = &committed.commit;
        report.objects += 2;
        if let Err(error) = self.check_manifest(commit).await {
            if !is_finding(&error) {
                return Err(error);
            }
            report.add(&commit.manifest, &error, vec![commit.backup.clone()]);
        }
        Ok(history.resolve(self.pack_list(committed).await?))
    }

    async fn verify_packs(
        &self,
        users: BTreeMap<PackName, (u64, Vec<String>)>,
        meter: &Arc<Meter>,
        report: &mut VerifyReport,
    ) -> Result<()> {
        let mut checks = stream::iter(users)
            .map(|(pack, (size_bytes, backups))| async move {
                let checked = self.verify_pack(pack, size_bytes).await;
                meter.advance(size_bytes);
                (pack, size_bytes, backups, checked)
            })
            .buffer_unordered(READS_MAX);
        while let Some((pack, size_bytes, backups, checked)) = checks.next().await {
            report.objects += 1;
            report.bytes += size_bytes;
            match checked {
                Ok(()) => {}
                Err(error) if is_finding(&error) => report.add(&pack.key(), &error, backups),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) async fn verify_pack(&self, pack: PackName, size_bytes: u64) -> Result<()> {
        let table = match read_table(&*self.store, pack, size_bytes).await {
            Err(error) if error.kind() != ErrorKind::Corrupt => return Err(error),
            table => table,
        };
        let mut inspection = Inspection::new(pack, size_bytes, table);
        while let Some(stretch) = inspection.next() {
            let bytes = read_range(&*self.store, pack, stretch).await?;
            let look = move |_: &mut _| {
                inspection.take(&bytes);
                inspection
            };
            inspection = self.world.cpu.run(look).await?;
        }
        let more = self.store.read_range(&pack.key(), size_bytes..size_bytes + 1).await?;
        if more.is_some_and(|more| !more.is_empty()) {
            return Err(corrupt(format!("check pack {pack}"), "it is longer than it was written"));
        }
        inspection.end()
    }

    async fn verify_index(&self, history: &History, report: &mut VerifyReport) -> Result<()> {
        for object in self.store.list(names::INDEX).await? {
            let Some(run) = RunName::from_key(&object.key) else { continue };
            if history.is_doomed_index(&run) {
                continue;
            }
            report.objects += 1;
            report.bytes += object.size_bytes;
            let Some(bytes) = self.store.read(&object.key, INDEX_RUN_BYTES_MAX).await? else {
                continue;
            };
            let hash = self.world.cpu.run(move |_| blake3::hash(&bytes)).await?;
            if hash.as_bytes() != run.as_bytes() {
                let what = "its content does not have its name; it only costs deduplication";
                let object = object.key.to_string();
                report.problems.push(Problem { object, what: what.to_owned(), backups: vec![] });
            }
        }
        Ok(())
    }

    /// Checks that each segment names the hash of the one before.
    async fn verify_segments(&self, history: &History, report: &mut VerifyReport) -> Result<()> {
        for database in self.databases().await? {
            for key in self.stored(&database, history).await?.missing {
                let what = "it is missing: what was captured after it cannot be replayed past it";
                let (object, what) = (key.to_string(), what.to_owned());
                report.problems.push(Problem { object, what, backups: Vec::new() });
            }
        }
        let mut before: Option<(String, u64, String)> = None;
        for object in self.store.list(names::STREAMS).await? {
            let Some((stream, seq)) = names::segment_of(&object.key) else { continue };
            if history.is_doomed_object(object.key.as_str()) {
                continue;
            }
            report.objects += 1;
            report.bytes += object.size_bytes;
            let Some(bytes) = self.store.read(&object.key, SEGMENT_BYTES_MAX).await? else {
                continue;
            };
            let key = object.key.clone();
            let read = self.world.cpu.run(move |_| {
                Ok::<_, Error>((Prefix::read(&bytes, &key)?.previous, hash_of(&bytes)))
            });
            let hash = match read.await? {
                Ok((previous, hash)) => {
                    let known = before.as_ref().filter(|(s, n, _)| *s == stream && n + 1 == seq);
                    if known.is_some_and(|(_, _, hash)| *hash != previous) {
                        let what = "it does not follow the segment before it: one was changed";
                        let object = object.key.to_string();
                        let (what, backups) = (what.to_owned(), Vec::new());
                        report.problems.push(Problem { object, what, backups });
                    }
                    hash
                }
                Err(error) if is_finding(&error) => {
                    report.add(&object.key, &error, Vec::new());
                    continue;
                }
                Err(error) => return Err(error),
            };
            before = Some((stream, seq, hash));
        }
        Ok(())
    }

    /// Decodes every chunk of one backup, as a restore would. The phase of `meter` is the caller's.
    pub async fn verify_backup(
        &self,
        committed: &Committed,
        meter: &Arc<Meter>,
    ) -> Result<VerifyReport> {
        let mut report = VerifyReport { backups: 1, ..VerifyReport::default() };
        let backup = vec![committed.commit.backup.clone()];
        let reader = match self.reader(committed).await {
            Ok(reader) => reader,
            Err(error) if is_finding(&error) => {
                report.add(&committed.commit.manifest, &error, backup);
                return Ok(report);
            }
            Err(error) => return Err(error),
        };
        for page in 0..reader.manifest().part_pages.len() as u32 {
            let parts = match reader.page(page).await {
                Ok(parts) => parts,
                Err(error) if is_finding(&error) => {
                    report.add(&format!("part table, page {page}"), &error, backup.clone());
                    continue;
                }
                Err(error) => return Err(error),
            };
            for entry in parts.iter() {
                let part = BasePart::new(entry.clone(), reader.manifest().chunk_bytes);
                let mut at = 0;
                while at < part.chunks() {
                    let stop = (at + DECODED_CHUNKS_MAX).min(part.chunks());
                    match part.fetch(reader.blobs(), at..stop).await {
                        Ok(chunks) => {
                            let bytes = chunks.iter().map(|chunk| chunk.len() as u64).sum();
                            meter.advance(bytes);
                            report.bytes += bytes;
                        }
                        Err(error) if is_finding(&error) => {
                            let object = format!("part {}, chunks {at}..{stop}", entry.name);
                            report.add(&object, &error, backup.clone());
                        }
                        Err(error) => return Err(error),
                    }
                    at = stop;
                }
                report.objects += 1;
            }
        }
        Ok(report)
    }

    /// Decodes all captured log of a database, link by link.
    pub async fn verify_log(&self, database: &str) -> Result<VerifyReport> {
        use stillpoint_contract::LogSource as _;

        let mut report = VerifyReport::default();
        let timeline = self.timeline(database).await?;
        for problem in timeline.problems {
            let object = format!("captured log of {database}");
            report.problems.push(Problem { object, what: problem, backups: Vec::new() });
        }
        for coverage in &timeline.coverage {
            let mut log = self.log_of(database, coverage);
            loop {
                let step = async {
                    match log.next().await? {
                        Some(_) => log.body().await.map(|body| Some(body.len() as u64)),
                        None => Ok(None),
                    }
                };
                match step.await {
                    Ok(Some(bytes)) => {
                        report.objects += 1;
                        report.bytes += bytes;
                    }
                    Ok(None) => break,
                    Err(error) if is_finding(&error) => {
                        report.add(&format!("captured log of {database}"), &error, Vec::new());
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(report)
    }

    async fn check_manifest(&self, commit: &super::entry::Commit) -> Result<()> {
        self.hashed(&commit.manifest, &commit.manifest_hash, super::manifest::MANIFEST_BYTES_MAX)
            .await
            .map(|_| ())
    }
}
