//! What drills found out: one record and one page each, named by an entry of the log, whose chain
//! and signature make up for every byte.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize, Serializer};
use stillpoint_contract::{Error, ErrorKind, Result, Verdict, code};

use super::{
    custody::shortened,
    descriptor::newer,
    entry::{Action, Drilled, hash_of},
    envelope::{self, ObjectKind},
    handle::Repository,
    history::History,
    names,
    packer::persist,
    store::Key,
    verify::{VerifyReport, is_finding},
};

/// The newest version of records that this program writes and reads.
pub const RECORD_FORMAT: u32 = 1;

/// The longest record or page, in bytes before compression.
pub const EVIDENCE_BYTES_MAX: usize = 16 << 20;

/// The longest of them as it is stored.
pub(super) const STORED_BYTES_MAX: u64 = EVIDENCE_BYTES_MAX as u64 + 4096;

/// How many lines of what an engine found damaged are told with it.
const DAMAGE_LINES_MAX: usize = 3;

/// Everything that a drill found out. Written once, when its sandbox is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillRecord {
    /// Version of this structure.
    pub format: u32,
    /// What wrote it, for people.
    pub program: String,
    /// The repository's id.
    pub repository: String,
    /// The drill's id, a ULID.
    pub drill: String,
    /// Who started it, and where.
    pub started_by: String,
    /// The database's name.
    pub database: String,
    /// When it began.
    #[serde(serialize_with = "exact")]
    pub started_at: DateTime<Utc>,
    /// When its sandbox was gone.
    #[serde(serialize_with = "exact")]
    pub finished_at: DateTime<Utc>,
    /// The point that was asked for, as `--at` takes it.
    pub asked: String,
    /// Whether that point was drawn.
    pub is_random: bool,
    /// The backup that was restored; `None` when there was none from which the point could be
    /// reached.
    pub backup: Option<RestoredBackup>,
    /// How the backup was presented to the sandbox; absent in records of versions that always
    /// restored it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presented: Option<PresentedBackup>,
    /// The point that was reached.
    pub reached: Option<ReachedPoint>,
    /// How much of what was committed before the point, or by now where the latest state was
    /// asked for, is not in the database, as the time within which it was committed.
    pub rpo_ms: Option<u64>,
    /// How long it took from the start until the restored database answered its first query.
    pub rto_ms: Option<u64>,
    /// What was done, in order.
    pub phases: Vec<Phase>,
    /// Bytes of the backup that were laid out.
    pub restored_bytes: u64,
    /// Bytes of captured log that were replayed.
    pub log_bytes: u64,
    /// What the sandbox was.
    pub sandbox: Option<String>,
    /// The engine's own checks.
    pub checks: Vec<EngineCheck>,
    /// Rows of tables, against what was recorded.
    pub rows: Option<RowCheck>,
    /// Statements, against what was expected.
    pub assertions: Vec<Assertion>,
    /// What is left of the sandbox.
    pub teardown: String,
    /// What a person should know.
    pub notes: Vec<String>,
    /// Why it failed; empty when it passed.
    pub causes: Vec<String>,
    /// Whether it passed.
    pub passed: bool,
}

/// The backup that was restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredBackup {
    /// Its id.
    pub id: String,
    /// The instant of its state.
    #[serde(serialize_with = "exact")]
    pub at: DateTime<Utc>,
    /// The name of its engine.
    pub engine: String,
    /// The version of the server that was backed up.
    pub engine_version: String,
}

/// How a backup was presented to a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresentedBackup {
    /// Whether it was mounted; else it was restored.
    pub mounted: bool,
    /// Why it was not mounted.
    pub why_not: Option<String>,
}

/// The point that was reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReachedPoint {
    /// Its position.
    pub position: Option<String>,
    /// The same, as the engine's own tools print it.
    pub engine_position: Option<String>,
    /// When the last transaction in it was committed; `None` when no log was replayed.
    #[serde(serialize_with = "exact_if_any")]
    pub last_commit_at: Option<DateTime<Utc>>,
    /// How many transactions were replayed.
    pub transactions: u64,
}

/// One thing that was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// What.
    pub name: String,
    /// When it began, from the start of the drill.
    pub from_ms: u64,
    /// How long it took.
    pub took_ms: u64,
    /// How much was read for it, where that says something.
    pub bytes: Option<u64>,
    /// The same, for each second; absent in older records.
    #[serde(default)]
    pub bytes_per_second: Option<u64>,
}

/// One of the engine's own checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineCheck {
    /// Its name.
    pub check: String,
    /// What came of it.
    pub verdict: Verdict,
    /// Whether it failed because pages, or what leads from one to another, are damaged. Records of
    /// versions that did not tell say that of none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_damage: bool,
    /// What the engine said.
    pub says: Vec<String>,
}

/// Rows of tables, against what was recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowCheck {
    /// With what they were compared, and how strictly.
    pub basis: String,
    /// What came of it.
    pub verdict: Verdict,
    /// Each table that was counted or recorded.
    pub tables: Vec<TableRows>,
}

/// Rows of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRows {
    /// Its name.
    pub table: String,
    /// How many the backup recorded; `None` when it recorded none.
    pub recorded: Option<u64>,
    /// Whether those were counted.
    pub exact: bool,
    /// How many there are; `None` when there is no such table.
    pub counted: Option<u64>,
    /// What came of it; skipped where there was nothing to judge.
    pub verdict: Verdict,
}

/// A statement, against what was expected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assertion {
    /// The statement.
    pub sql: String,
    /// What it should answer.
    pub expected: String,
    /// What it answered; `None` when it failed.
    pub answered: Option<String>,
    /// What the engine said where it failed.
    pub error: Option<String>,
    /// What came of it; skipped when it was not run.
    pub verdict: Verdict,
}

fn exact<S: Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&at.to_rfc3339_opts(SecondsFormat::Micros, true))
}

#[expect(clippy::ref_option, reason = "serde asks for this form")]
fn exact_if_any<S: Serializer>(
    at: &Option<DateTime<Utc>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => exact(at, serializer),
        None => serializer.serialize_none(),
    }
}

impl PresentedBackup {
    /// The same in words.
    pub fn told(&self) -> String {
        match &self.why_not {
            _ if self.mounted => "mounted, and fetched as it was read".to_owned(),
            Some(why) => format!("restored: {why}"),
            None => "restored".to_owned(),
        }
    }
}

impl DrillRecord {
    /// Writes the plaintext form.
    pub fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec_pretty(self)
            .map_err(|e| Error::bug("write the record of a drill").caused_by(e))
    }

    /// The damage that the engine found in what was restored, in few words. Rows that lack, points
    /// that could not be reached and whatever this machine lacks say nothing of the backup.
    pub fn damage(&self) -> Option<String> {
        let is_bad = |check: &&EngineCheck| check.is_damage && check.verdict == Verdict::Failed;
        let first = self.checks.iter().find(is_bad)?;
        let told = first.says.iter().take(DAMAGE_LINES_MAX).map(String::as_str);
        let told = told.collect::<Vec<_>>().join("; ");
        let more = match first.says.len().saturating_sub(DAMAGE_LINES_MAX) {
            0 => String::new(),
            more => format!("; and {more} lines more"),
        };
        Some(shortened(&format!("{}: {told}{more}", first.check)))
    }

    /// Reads the plaintext form.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) when it is none,
    /// [`Unsupported`](ErrorKind::Unsupported) when a newer version wrote it.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let bad = |e| {
            Error::new(ErrorKind::Corrupt, code::CORRUPT_OBJECT, "read the record of a drill")
                .caused_by(e)
        };
        let version: Version = serde_json::from_slice(bytes).map_err(bad)?;
        if version.format > RECORD_FORMAT {
            return Err(newer("the record of a drill", version.format));
        }
        serde_json::from_slice(bytes).map_err(bad)
    }
}

impl Repository {
    /// A new id for a drill.
    pub fn new_drill(&self) -> String {
        self.new_id()
    }

    /// Keeps what a drill found out: record and page first, then the log entry that names both.
    /// **The entry is the commit point.**
    pub async fn keep_drill(&self, record: &DrillRecord, page: &str) -> Result<Drilled> {
        names::check_database(&record.database)?;
        let (at, database, id) = (record.started_at, &record.database, &record.drill);
        let (record_key, page_key) =
            (names::drill_record(at, database, id)?, names::drill_page(at, database, id)?);
        let drill = Drilled {
            drill: id.clone(),
            database: database.clone(),
            started_at: at,
            finished_at: record.finished_at,
            passed: record.passed,
            backup: record.backup.as_ref().map(|restored| restored.id.clone()),
            damage: record.damage().filter(|_| !record.passed),
            rto_ms: record.rto_ms,
            rpo_ms: record.rpo_ms,
            record_hash: self.store_evidence(&record_key, record.encode()?).await?,
            record: record_key.to_string(),
            page_hash: self.store_evidence(&page_key, page.as_bytes().to_vec()).await?,
            page: page_key.to_string(),
        };
        self.append(async |history| {
            let is_kept = history.drills().any(|known| known.drill == drill.drill);
            Ok((!is_kept).then(|| Action::Drill(Box::new(drill.clone()))))
        })
        .await?;
        if let Err(error) = self.prove_by(record).await {
            tracing::warn!(%error, "what the drill proved about its backup is not recorded");
        }
        Ok(drill)
    }

    /// A drill that passed has read every byte of its backup, if all of it was laid out.
    async fn prove_by(&self, record: &DrillRecord) -> Result<()> {
        let Some(restored) = record.backup.as_ref().filter(|_| record.passed) else {
            return Ok(());
        };
        let Some(committed) = self.history().await?.commit(&restored.id).cloned() else {
            return Ok(());
        };
        if record.restored_bytes >= self.manifest(&committed).await?.size_bytes {
            self.prove(&committed, &VerifyReport::default()).await?;
        }
        Ok(())
    }

    pub(super) async fn store_evidence(&self, key: &Key, plain: Vec<u8>) -> Result<String> {
        let (domain, entropy) = (self.domain()?, Arc::clone(&self.world.entropy));
        let name = key.to_string();
        let seal = self.world.cpu.run(move |scratch| {
            envelope::seal(&domain, ObjectKind::Drill, &name, &plain, scratch, &*entropy)
        });
        let bytes: Bytes = seal.await??;
        let hash = hash_of(&bytes);
        persist(&*self.store, &*self.world.clock, key, bytes).await?;
        Ok(hash)
    }

    /// The drills of all databases, or of one, in the order in which they began.
    pub async fn drills(&self, database: Option<&str>) -> Result<Vec<Drilled>> {
        let history = self.history().await?;
        let is_wanted = |drill: &&Drilled| database.is_none_or(|name| drill.database == name);
        Ok(history.drills().filter(is_wanted).cloned().collect())
    }

    /// The drill whose id begins with `id`.
    pub async fn find_drill(&self, id: &str) -> Result<Drilled> {
        let mut found = self.drills(None).await?;
        found.retain(|drill| drill.drill.starts_with(&id.to_ascii_uppercase()));
        match (found.pop(), found.len()) {
            (Some(drill), 0) => Ok(drill),
            (None, _) => Err(Error::new(ErrorKind::Missing, code::NO_SUCH_DRILL, "find the drill")
                .with("asked", id)
                .why("no drill has an id that begins so")
                .next("stillpoint drill list")),
            (Some(one), more) => {
                let other = found.first().unwrap_or(&one);
                Err(Error::new(ErrorKind::Missing, code::NO_SUCH_DRILL, "find the drill")
                    .with("asked", id)
                    .with("matching", more + 1)
                    .with("such as", format!("{}, {}", other.drill, one.drill))
                    .why("several drills have an id that begins so")
                    .next("give more of its letters: stillpoint drill list"))
            }
        }
    }

    /// Reads the record of a drill.
    pub async fn drill_record(&self, drill: &Drilled) -> Result<DrillRecord> {
        let record = DrillRecord::decode(&self.evidence(&drill.record, &drill.record_hash).await?)?;
        if (&record.drill, record.passed) == (&drill.drill, drill.passed)
            && record.database == drill.database
        {
            return Ok(record);
        }
        Err(Error::new(ErrorKind::Corrupt, code::CORRUPT_OBJECT, format!("read {}", drill.record))
            .with("problem", "it is the record of another drill"))
    }

    /// Reads the page of a drill.
    pub async fn drill_page(&self, drill: &Drilled) -> Result<Vec<u8>> {
        self.evidence(&drill.page, &drill.page_hash).await
    }

    pub(super) async fn evidence(&self, name: &str, hash: &str) -> Result<Vec<u8>> {
        let bytes = self.hashed(name, hash, STORED_BYTES_MAX).await?;
        let (domain, name) = (self.domain()?, name.to_owned());
        let open = self.world.cpu.run(move |scratch| {
            let limit = EVIDENCE_BYTES_MAX;
            envelope::open(&domain, ObjectKind::Drill, &name, &bytes, limit, scratch)
        });
        Ok(open.await??.to_vec())
    }

    /// Makes sure that the evidence of every drill is as it was written. Without the key, by its
    /// hashes alone.
    ///
    /// # Errors
    ///
    /// Only what keeps it from looking, such as an unreachable store; damage is in the report.
    pub async fn verify_drills(&self, database: Option<&str>) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        for drill in self.drills(database).await? {
            if !self.is_unlocked() {
                self.hash_evidence(drill_objects(&drill), &mut report).await?;
                continue;
            }
            report.objects += 2;
            let record = self.drill_record(&drill).await;
            let record = record.and_then(|record| Ok(record.encode()?.len() as u64));
            let page = self.drill_page(&drill).await.map(|page| page.len() as u64);
            for (name, read) in [(&drill.record, record), (&drill.page, page)] {
                match read {
                    Ok(bytes) => report.bytes += bytes,
                    Err(error) if is_finding(&error) => report.add(name, &error, Vec::new()),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(report)
    }

    /// Compares the evidence of drills with what the log says of it. Needs no key.
    pub(super) async fn hash_drills(
        &self,
        history: &History,
        report: &mut VerifyReport,
    ) -> Result<()> {
        for drill in history.drills() {
            self.hash_evidence(drill_objects(drill), report).await?;
        }
        Ok(())
    }

    /// Compares objects with the hashes that the log says.
    pub(super) async fn hash_evidence(
        &self,
        objects: [(&String, &String); 2],
        report: &mut VerifyReport,
    ) -> Result<()> {
        for (name, hash) in objects {
            report.objects += 1;
            match self.hashed(name, hash, STORED_BYTES_MAX).await {
                Ok(bytes) => report.bytes += bytes.len() as u64,
                Err(error) if is_finding(&error) => report.add(name, &error, Vec::new()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

pub(super) fn drill_objects(drill: &Drilled) -> [(&String, &String); 2] {
    [(&drill.record, &drill.record_hash), (&drill.page, &drill.page_hash)]
}
