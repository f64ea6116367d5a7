//! What is written down about a set: plans, batches, and how they ended.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use stillpoint_contract::{
    ArchiveSet, Column, Error, ErrorKind, Key, KeyRange, Likeness, Link, Member, Partition, Result,
    Table, code,
};

use super::file::{Format, SliceHash};
use crate::pipeline::file_key::FileKeyId;

/// The version of these documents.
pub const DOCUMENT_FORMAT: u32 = 1;

/// What a run is to move: decided once, so that it does not depend on when, or by whom, it is
/// continued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The version of this document.
    pub format_version: u32,
    /// The run.
    pub run: String,
    /// The set.
    pub set: String,
    /// When it was made, by the database's clock.
    pub made: DateTime<Utc>,
    /// Rows before this instant are moved.
    pub cutoff: Option<DateTime<Utc>>,
    /// The predicate, as it was configured.
    pub selects: String,
    /// The predicate, with the cutoff in it.
    pub predicate: String,
    /// The tables.
    pub members: Vec<PlannedMember>,
    /// Other tables whose rows only derive from others: what triggers delete of them is in no file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub derived: Vec<String>,
    /// The partition of the first one whose rows these are, where it has partitions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<PlannedPart>,
    /// The format of files.
    pub format: Format,
    /// When files may be removed, as the name of their directory says it.
    pub expire: String,
    /// Columns by whose values files are looked up.
    #[serde(default)]
    pub lookup: Vec<String>,
    /// How many rows of the root were selected when it was made.
    pub rows: u64,
    /// How many bytes they took.
    pub bytes: u64,
}

/// A partition whose rows a plan moves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedPart {
    /// Which.
    pub partition: Partition,
    /// Whether it leaves its table as a whole, and is dropped then; otherwise its rows are deleted.
    pub is_whole: bool,
}

/// A table of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedMember {
    /// The table.
    pub table: Table,
    /// Which of the plan's tables it refers to, and how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<PlannedLink>,
}

/// How a table refers to another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedLink {
    /// The place of the other one in the plan.
    pub parent: usize,
    /// The columns that refer.
    pub columns: Vec<String>,
    /// The columns that are referred to.
    pub parent_columns: Vec<String>,
    /// How the engine compares them, one after the other; where nothing is said, as they are
    /// written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub likeness: Vec<Likeness>,
}

impl Plan {
    /// What is moved.
    pub fn archive_set(&self) -> ArchiveSet {
        let member = |member: &PlannedMember| Member {
            table: member.table.clone(),
            link: member.link.as_ref().map(|link| Link {
                parent: link.parent,
                columns: link.columns.clone(),
                parent_columns: link.parent_columns.clone(),
                likeness: link.likeness.clone(),
            }),
        };
        let mut members: Vec<Member> = self.members.iter().map(member).collect();
        // Readers know rows by the table that has the partitions.
        if let (Some(part), Some(root)) = (&self.part, members.first_mut()) {
            root.table.name.clone_from(&part.partition.name);
            root.table.identity.clone_from(&part.partition.identity);
        }
        ArchiveSet {
            name: self.set.clone(),
            members,
            predicate: self.predicate.clone(),
            derived: self.derived.clone(),
        }
    }

    /// The partition that leaves its table as a whole, where one does.
    pub fn whole(&self) -> Option<&Partition> {
        self.part.as_ref().filter(|part| part.is_whole).map(|part| &part.partition)
    }

    /// The place of a table, by its name with or without its schema; the root where none is said.
    ///
    /// # Errors
    ///
    /// [`Missing`](ErrorKind::Missing) with those that there are.
    pub fn member_of(&self, table: Option<&str>) -> Result<usize> {
        let Some(name) = table else { return Ok(0) };
        let is_it = |known: &str| known == name || known.rsplit('.').next() == Some(name);
        self.members.iter().position(|member| is_it(&member.table.name)).ok_or_else(|| {
            let known: Vec<&str> = self.members.iter().map(|one| &*one.table.name).collect();
            Error::new(ErrorKind::Missing, code::NO_SUCH_ARCHIVE, "find a table of the set")
                .with("table", name)
                .with("tables", known.join(", "))
        })
    }

    /// The tables of a set, as a plan has them.
    pub fn members_of(set: &ArchiveSet) -> Vec<PlannedMember> {
        let member = |member: &Member| PlannedMember {
            table: member.table.clone(),
            link: member.link.as_ref().map(|link| PlannedLink {
                parent: link.parent,
                columns: link.columns.clone(),
                parent_columns: link.parent_columns.clone(),
                likeness: link.likeness.clone(),
            }),
        };
        set.members.iter().map(member).collect()
    }
}

/// What the files of a batch hold. It is written once they are durable and were read back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The version of this document.
    pub format_version: u32,
    /// The run.
    pub run: String,
    /// Which batch of the run, from 1.
    pub number: u32,
    /// Which writing of it, from 0.
    pub generation: u32,
    /// When it was written, by the coordinator's clock.
    pub made: DateTime<Utc>,
    /// Why it was written anew; empty for the first generation.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The position of the state that was read, as the engine prints it.
    pub position: Option<String>,
    /// What it holds of each table of the plan, in order.
    pub members: Vec<BatchMember>,
    /// Its slices, in order.
    pub slices: Vec<Slice>,
}

/// What a batch holds of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchMember {
    /// The table's columns, in the forms in which the file has them.
    pub columns: Vec<Column>,
    /// The fingerprint of the table when it was read.
    pub fingerprint: String,
    /// The file; none for no rows.
    pub file: Option<File>,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Its name.
    pub key: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// How many rows it holds.
    pub rows: u64,
    /// BLAKE3 of its bytes as they are stored, as hexadecimal text.
    pub hash: String,
    /// How it is encrypted; none where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<FileEncryption>,
}

/// How a file is encrypted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEncryption {
    /// The name of its key's object, which is in the same store as the file.
    pub key: String,
    /// The id of its key.
    pub id: FileKeyId,
    /// How many bytes it has when it is decrypted.
    pub bytes: u64,
    /// BLAKE3 of those, as hexadecimal text.
    pub hash: String,
}

/// A stretch of the root, with what hangs on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// Which slice of the batch, from 0; it keeps its number in later generations.
    pub number: u32,
    /// The key behind which it begins, as hexadecimal text; none for the beginning.
    pub after: Option<String>,
    /// The key with which it begins, where the one before it is of no row of the batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The key with which it ends; none where no row of the root is left, or nobody knows it.
    pub to: Option<String>,
    /// All of that, sealed, where the batch's files are encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<String>,
    /// Whether rows were taken out of it that were behind `to`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_cut: bool,
    /// What it holds of each table of the plan, in order, and in the order of the files.
    pub members: Vec<Tally>,
    /// What the ledger says of it, where rows were taken out of the file since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noted: Option<Noted>,
}

/// What the ledger says of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    /// How many rows, of all tables.
    pub rows: u64,
    /// The hash of them all.
    pub hash: String,
    /// What it had of each table of the plan; an older version did not write that down.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<Tally>,
}

/// How many rows there are, and which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// How many.
    pub rows: u64,
    /// The hash of them all, in whatever order, as hexadecimal text.
    pub hash: String,
}

impl Slice {
    /// How many rows it has, of all tables.
    pub fn rows(&self) -> u64 {
        self.members.iter().map(|member| member.rows).sum()
    }

    /// The hash of all its rows: of the hashes of its tables, in order.
    pub fn hash(&self) -> String {
        hash_of(&self.members)
    }

    /// The stretch of the root; none where no row of it is left, or nobody knows it any more.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) when its keys are none.
    pub fn range(&self) -> Result<Option<KeyRange>> {
        if self.sealed.is_some() {
            return Err(Error::bug("use keys of a slice that are sealed"));
        }
        let key = |text: &Option<String>| text.as_deref().map(key_of).transpose();
        let (after, from, to) = (key(&self.after)?, key(&self.from)?, key(&self.to)?);
        Ok(to.map(|to| KeyRange { after, from, to: Some(to) }))
    }

    /// What the root had when the slice was deleted, where that is known.
    pub(super) fn tally_noted(&self) -> Option<&Tally> {
        self.noted.as_ref().map_or(&self.members, |noted| &noted.members).first()
    }
}

/// The hash of all rows of some tables, in order.
pub(super) fn hash_of(members: &[Tally]) -> String {
    let mut hasher = blake3::Hasher::new();
    for member in members {
        hasher.update(&member.rows.to_le_bytes());
        hasher.update(member.hash.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

impl Tally {
    /// What a hash says.
    pub fn of(hash: &SliceHash) -> Self {
        Self { rows: hash.rows(), hash: hash.hex() }
    }
}

/// A key as text.
pub fn key_text(key: &Key) -> String {
    data_encoding::HEXLOWER.encode(&key.0)
}

fn key_of(text: &str) -> Result<Key> {
    let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(|cause| {
        Error::new(ErrorKind::Corrupt, code::ARCHIVE_FILE, "read a key").caused_by(cause)
    })?;
    Ok(Key(bytes.into()))
}

impl Batch {
    /// Its files.
    pub fn files(&self) -> impl Iterator<Item = &File> {
        self.members.iter().filter_map(|member| member.file.as_ref())
    }

    /// How many bytes its files have.
    pub fn file_bytes(&self) -> u64 {
        self.files().map(|file| file.bytes).sum()
    }

    /// How many rows it holds, of all tables.
    pub fn rows(&self) -> u64 {
        self.slices.iter().map(Slice::rows).sum()
    }

    /// The set as its rows were read: with columns in the forms of its files.
    pub fn set_of(&self, plan: &Plan) -> ArchiveSet {
        let mut set = plan.archive_set();
        for (member, batch) in set.members.iter_mut().zip(&self.members) {
            member.table.columns.clone_from(&batch.columns);
        }
        set
    }

    /// Whether it can be what was written.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) when its numbers do not agree.
    pub fn check(&self, plan: &Plan) -> Result<()> {
        let members = self.members.len();
        let rows_of = |number: usize| -> u64 {
            self.slices.iter().filter_map(|slice| slice.members.get(number)).map(|t| t.rows).sum()
        };
        let agrees = |(number, member): (usize, &BatchMember)| {
            member.file.as_ref().map_or(0, |file| file.rows) == rows_of(number)
        };
        let is_sound = self.run == plan.run
            && members == plan.members.len()
            && self.slices.iter().all(|slice| slice.members.len() == members)
            && self.members.iter().enumerate().all(agrees);
        if is_sound {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Corrupt, code::ARCHIVE_FILE, "read the manifest of a batch")
            .with("run", &self.run)
            .with("batch", self.number)
            .why("its numbers do not agree"))
    }
}

/// The rows of a batch are gone from their tables: its files are the only place where they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// The generation whose files hold what was deleted, and nothing else.
    pub generation: u32,
    /// How many rows, of all tables.
    pub rows: u64,
    /// When, by the coordinator's clock.
    pub at: DateTime<Utc>,
}

/// The time of a batch was over: its files are gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expired {
    /// How many rows it had, of all tables.
    pub rows: u64,
    /// When, by the coordinator's clock.
    pub at: DateTime<Utc>,
}

/// Nothing of a batch counts: no row of it was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Void {
    /// Why.
    pub reason: String,
    /// When, by the coordinator's clock.
    pub at: DateTime<Utc>,
}

/// Nothing more comes of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Why.
    pub reason: String,
    /// How many rows it moved, of all tables.
    pub rows: u64,
    /// How many rows of the root it left where they are, since they kept changing.
    pub left_rows: u64,
    /// Until when its partition is left alone, since somebody put it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_until: Option<DateTime<Utc>>,
    /// When, by the coordinator's clock.
    pub at: DateTime<Utc>,
}

#[cfg(test)]
impl Plan {
    /// One of some tables.
    pub(super) fn of_members(members: Vec<PlannedMember>) -> Self {
        Self {
            format_version: 1,
            run: "run".to_owned(),
            set: "orders".to_owned(),
            made: DateTime::UNIX_EPOCH,
            cutoff: None,
            selects: String::new(),
            derived: Vec::new(),
            predicate: String::new(),
            members,
            part: None,
            format: Format::Jsonl,
            expire: "open".to_owned(),
            lookup: Vec::new(),
            rows: 1,
            bytes: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_of_before_know_no_derived_tables() {
        let old = r#"{"format_version":1,"run":"r","set":"orders","made":"2026-11-27T21:14:31Z",
            "cutoff":null,"selects":"1","predicate":"1","members":[],"format":"parquet",
            "expire":"open","rows":1,"bytes":2}"#;
        let mut plan: Plan = serde_json::from_str(old).expect("a plan");
        assert!(plan.derived.is_empty() && plan.archive_set().derived.is_empty());
        let written = |plan: &Plan| serde_json::to_string(plan).expect("a document");
        assert!(!written(&plan).contains("derived"));
        plan.derived.push("public.search".to_owned());
        let again: Plan = serde_json::from_str(&written(&plan)).expect("a plan");
        assert_eq!(again, plan);
        assert_eq!(again.archive_set().derived, ["public.search"]);
    }
}
