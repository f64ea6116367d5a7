//! Writes the metadata of tables, version by version.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use stillpoint_contract::{Column, Error, ErrorKind, Result, code};

use super::{
    super::{
        document::Plan,
        file::Format,
        names::Names,
        place::{Place, directory},
        publish::{Counted, Files, files, for_duckdb, newest_plan, table_name},
        reconcile::{Hidden, hidden},
        shelf::Shelf,
    },
    columns,
    manifest::{self, DataFile},
    metadata::{Earlier, Metadata},
};
use crate::{
    repository::store::{Fs as _, Key, LocalStore, Put, RealFs, Store as _, Writers},
    world::World,
};

const STEP: &str = "publish an archive set for Iceberg";

/// The longest metadata that is read, in bytes.
const METADATA_BYTES_MAX: u64 = 64 << 20;

/// A table that was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedTable {
    /// The table, as the newest run knows it.
    pub table: String,
    /// The metadata that says what it is.
    pub metadata: PathBuf,
    /// How many files it has.
    pub files: usize,
    /// How many rows.
    pub rows: u64,
    /// The files that it does not have, as readers pass over every row of them.
    pub passed: Vec<String>,
}

/// A table that can be published.
struct Draft<'a> {
    plan: &'a Plan,
    table: &'a str,
    /// Where the set is.
    root: String,
    directory: String,
    columns: Vec<Column>,
    files: Vec<DataFile>,
    passed: Vec<String>,
}

/// Writes metadata of Iceberg tables below a directory, one for each table of a set, over the files
/// of sealed batches and no others. Each time it is a new version, which replaces all that was
/// there before; readers see the old one, or the new one.
///
/// # Errors
///
/// [`Missing`](ErrorKind::Missing) when nothing was archived yet;
/// [`Refused`](ErrorKind::Refused), before anything is written, when Iceberg cannot say what
/// files hold, or which of their rows readers pass over; later, when something else is in the
/// directory, or somebody publishes the same.
pub async fn iceberg_tables(
    place: &Place,
    shelf: &Shelf,
    into: &Path,
    world: &World,
) -> Result<Vec<PublishedTable>> {
    let plan = newest_plan(place, shelf)?;
    let hidden = hidden(place).await?;
    let names = Names::of(shelf);
    let drafts: Vec<Draft<'_>> = (0..plan.members.len())
        .map(|number| Draft::of(place, (shelf, &hidden), &names, plan, number))
        .collect::<Result<_>>()?;
    let entropy = Arc::clone(&world.entropy);
    let store = LocalStore::open(RealFs, into, Writers::Several, &*world.clock, entropy).await?;
    let root = location(&store.location(), place.set())?;
    let mut published = Vec::new();
    for draft in &drafts {
        let folder = format!("{root}/{}", draft.directory);
        published.push(Publisher { store: &store, world, folder, draft }.publish().await?);
    }
    Ok(published)
}

impl<'a> Draft<'a> {
    fn of(
        place: &Place,
        (shelf, hidden): (&'a Shelf, &Hidden),
        names: &Names,
        plan: &'a Plan,
        number: usize,
    ) -> Result<Self> {
        let table = &plan.members[number].table;
        let Files { counted, passed } = files(place, shelf, hidden, &table.name);
        if let Some(other) = counted.iter().find(|file| file.format != Format::Parquet) {
            return Err(refused(place.set(), "Iceberg knows no files but Parquet")
                .with("file", &other.file.key)
                .next(format!(
                    "for runs to come: [archive.{}]  format = \"parquet\"",
                    place.set()
                )));
        }
        if let Some(mixed) = counted.iter().find(|file| file.is_mixed()) {
            let why = "some of its rows do not count, and what is published names whole files";
            return Err(mixed.refused(place.set(), why).next(for_duckdb(place.set())));
        }
        let columns = if counted.is_empty() {
            table.columns.clone()
        } else {
            columns::united(plan, names, &counted)?
        };
        let root = location(&place.location(), place.set())?;
        let file = |file: &Counted<'_>| DataFile {
            path: format!("{root}/{}", file.file.key),
            bytes: file.file.bytes,
            rows: file.file.rows,
        };
        Ok(Self {
            plan,
            table: &table.name,
            directory: directory(&table_name(place.set(), plan, number)),
            columns,
            files: counted.iter().map(file).collect(),
            passed: passed.iter().map(|one| one.file.key.clone()).collect(),
            root,
        })
    }
}

struct Publisher<'a> {
    store: &'a LocalStore,
    world: &'a World,
    folder: String,
    draft: &'a Draft<'a>,
}

impl Publisher<'_> {
    async fn publish(&self) -> Result<PublishedTable> {
        let draft = self.draft;
        let (fields, last) = columns::schema(draft.plan, &draft.columns)?;
        let newest = self.versions().await?.into_iter().max();
        let earlier = match newest {
            Some(version) => Some((self.earlier(version).await?, self.at(&name(version)))),
            None => None,
        };
        let version = newest.unwrap_or(0) + 1;
        let mut metadata = Metadata::behind(
            earlier.as_ref().map(|(earlier, at)| (earlier, at.clone())),
            [&draft.plan.set, &draft.root, draft.table, &self.folder],
            (&fields, last),
            self.uuid(),
            self.world.clock.now().timestamp_millis(),
        );
        metadata.snapshot = metadata.snapshot_of(&draft.files);
        let snapshot = metadata.snapshot;
        let (list, of_files) = (
            format!("v{version}-list-{}.avro", snapshot.id),
            format!("v{version}-files-{}.avro", snapshot.id),
        );
        let bytes = manifest::manifest(snapshot, &metadata.schema, &draft.files)?;
        let there = self.at(&of_files);
        let manifest = (!draft.files.is_empty()).then_some((&*there, bytes.len()));
        let listed = manifest::list(snapshot, manifest, &draft.files)?;
        if manifest.is_some() {
            self.write(&of_files, bytes).await?;
        }
        self.write(&list, listed).await?;
        let document = metadata.document(&self.at(&list), &draft.files);
        let document = serde_json::to_vec_pretty(&document)
            .map_err(|cause| Error::bug("write metadata").caused_by(cause))?;
        self.write(&name(version), document).await?;
        self.point().await?;
        self.sweep(version).await?;
        Ok(PublishedTable {
            table: draft.table.to_owned(),
            metadata: self.path(&name(version)),
            files: draft.files.len(),
            rows: draft.files.iter().map(|file| file.rows).sum(),
            passed: draft.passed.clone(),
        })
    }

    /// The versions that there are.
    async fn versions(&self) -> Result<Vec<u64>> {
        let listed = self.names().await?;
        let version = |one: &String| version_of(one).filter(|version| *one == name(*version));
        Ok(listed.iter().filter_map(version).collect())
    }

    /// The names of what lies beside the metadata.
    async fn names(&self) -> Result<Vec<String>> {
        let folder = format!("{}/metadata/", self.draft.directory);
        let listed = self.store.list(&folder).await?;
        let names = listed.iter().filter_map(|one| one.key.as_str().strip_prefix(&folder));
        Ok(names.map(str::to_owned).collect())
    }

    /// The metadata of a version, which must be one of this very table.
    async fn earlier(&self, version: u64) -> Result<Earlier> {
        let read = self.store.read(&self.key(&name(version))?, METADATA_BYTES_MAX).await?;
        let found = serde_json::from_slice::<Earlier>(&read.unwrap_or_default());
        let (set, place) = (&self.draft.plan.set, &self.draft.root);
        let why = match found {
            Ok(earlier) if earlier.is_of(set, place) => return Ok(earlier),
            Ok(_) => "that is another table",
            Err(_) => "that is no metadata of a table, or a broken one",
        };
        Err(Error::new(ErrorKind::Refused, code::ARCHIVE_PUBLISH, STEP)
            .with("set", set)
            .with("table", self.draft.table)
            .with("path", self.path(&name(version)).display())
            .why(why)
            .next("name another directory: --into DIR"))
    }

    /// Writes a file durably, unless another one has that name.
    async fn write(&self, name: &str, bytes: Vec<u8>) -> Result<()> {
        let (key, bytes) = (self.key(name)?, Bytes::from(bytes));
        if self.store.create(&key, bytes.clone()).await? == Put::Created
            || self.store.read(&key, bytes.len() as u64).await.is_ok_and(|read| read == Some(bytes))
        {
            return Ok(());
        }
        let set = &self.draft.plan.set;
        Err(Error::new(ErrorKind::Refused, code::ARCHIVE_PUBLISH, STEP)
            .with("set", set)
            .with("path", self.path(name).display())
            .why("somebody else publishes there at the same time")
            .next("the same command again"))
    }

    /// Lets those who look for the newest version find it.
    async fn point(&self) -> Result<()> {
        let mut pointed = None;
        loop {
            // Whoever points last looks once more, so that a slower one takes nothing back.
            let newest = self.versions().await?.into_iter().max();
            let Some(version) = newest.filter(|_| newest != pointed) else { return Ok(()) };
            let draft = format!("v{version}-{}.hint", self.random());
            self.write(&draft, version.to_string().into_bytes()).await?;
            let (from, to) = (self.path(&draft), self.path("version-hint.text"));
            let moved = tokio::task::spawn_blocking(move || {
                RealFs.rename_over(&from, &to)?;
                RealFs.sync_directory(to.parent().unwrap_or(&to))
            });
            let moved = moved.await.map_err(|cause| Error::bug(STEP).caused_by(cause))?;
            moved.map_err(|cause| {
                Error::new(ErrorKind::Exhausted, code::FILE, STEP)
                    .with("path", self.path("version-hint.text").display())
                    .caused_by(cause)
            })?;
            pointed = newest;
        }
    }

    /// Removes all before the version before: who reads that one now may go on.
    async fn sweep(&self, version: u64) -> Result<()> {
        for name in self.names().await? {
            if version_of(&name).is_some_and(|of| of + 1 < version) {
                self.store.delete(&self.key(&name)?).await?;
            }
        }
        Ok(())
    }

    fn key(&self, name: &str) -> Result<Key> {
        Key::new(format!("{}/metadata/{name}", self.draft.directory))
    }

    fn at(&self, name: &str) -> String {
        format!("{}/metadata/{name}", self.folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        let root = PathBuf::from(self.store.location());
        root.join(&self.draft.directory).join("metadata").join(name)
    }

    fn random(&self) -> String {
        let mut random = [0; 16];
        self.world.entropy.fill(&mut random);
        HEXLOWER.encode(&random)
    }

    /// Source: RFC 9562, UUID Version 4.
    fn uuid(&self) -> String {
        let mut text = self.random();
        text.replace_range(12..13, "4");
        text.replace_range(16..17, "8");
        for at in [20, 16, 12, 8] {
            text.insert(at, '-');
        }
        text
    }
}

/// The name of a version of metadata.
fn name(version: u64) -> String {
    format!("v{version}.metadata.json")
}

/// The version that a file belongs to, by its name.
fn version_of(name: &str) -> Option<u64> {
    let (version, _) = name.strip_prefix('v')?.split_once(['.', '-'])?;
    version.parse().ok()
}

/// A place as readers of Iceberg know it: characters stand for themselves there, as a reader opens
/// what stands behind the scheme and decodes nothing. Source: Apache Hadoop, `Path`, and PyIceberg,
/// `PyArrowFileIO.parse_location`.
fn location(place: &str, set: &str) -> Result<String> {
    let path = place.strip_prefix("file://").unwrap_or(place).trim_end_matches('/');
    // Those that take it for a URL end the path there, or leave the character out.
    let is_odd = |c: char| c.is_control() || "?#".contains(c) || c == char::REPLACEMENT_CHARACTER;
    let why = if path.contains(is_odd) {
        "some readers of Iceberg take `?`, `#` or a control character in a path for something else"
    } else if path.starts_with('/') || path.is_empty() {
        return Ok(format!("file://{path}"));
    } else if path.starts_with("s3://") || path.starts_with("gs://") {
        return Ok(path.to_owned());
    } else {
        "readers of Iceberg know files on disks, s3:// and gs://, and no others by such a name"
    };
    Err(refused(set, why).with("place", place))
}

fn refused(set: &str, why: &'static str) -> Error {
    Error::new(ErrorKind::Refused, code::ARCHIVE_PUBLISH, STEP)
        .with("set", set)
        .why(why)
        .next(for_duckdb(set))
}
