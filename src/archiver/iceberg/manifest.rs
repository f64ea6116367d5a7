//! Manifests, which name files, and lists of manifests, which name those.

use serde_json::Value;
use stillpoint_contract::{Error, Result};

use super::avro::Container;

/// A file of rows.
#[derive(Debug)]
pub(super) struct DataFile {
    /// Where it is.
    pub(super) path: String,
    /// How many bytes it has.
    pub(super) bytes: u64,
    /// How many rows.
    pub(super) rows: u64,
}

/// A snapshot, by what its manifests say of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Snapshot {
    /// Its number.
    pub(super) id: i64,
    /// Which of the table's it is, from 1.
    pub(super) sequence: i64,
}

const ENTRY: &str = r#"{"type":"record","name":"manifest_entry","fields":[
{"name":"status","type":"int","field-id":0},
{"name":"snapshot_id","type":["null","long"],"default":null,"field-id":1},
{"name":"sequence_number","type":["null","long"],"default":null,"field-id":3},
{"name":"file_sequence_number","type":["null","long"],"default":null,"field-id":4},
{"name":"data_file","type":{"type":"record","name":"r2","fields":[
{"name":"content","type":"int","field-id":134},
{"name":"file_path","type":"string","field-id":100},
{"name":"file_format","type":"string","field-id":101},
{"name":"partition","type":{"type":"record","name":"r102","fields":[]},"field-id":102},
{"name":"record_count","type":"long","field-id":103},
{"name":"file_size_in_bytes","type":"long","field-id":104}]},"field-id":2}]}"#;

const MANIFEST: &str = r#"{"type":"record","name":"manifest_file","fields":[
{"name":"manifest_path","type":"string","field-id":500},
{"name":"manifest_length","type":"long","field-id":501},
{"name":"partition_spec_id","type":"int","field-id":502},
{"name":"content","type":"int","field-id":517},
{"name":"sequence_number","type":"long","field-id":515},
{"name":"min_sequence_number","type":"long","field-id":516},
{"name":"added_snapshot_id","type":"long","field-id":503},
{"name":"added_files_count","type":"int","field-id":504},
{"name":"existing_files_count","type":"int","field-id":505},
{"name":"deleted_files_count","type":"int","field-id":506},
{"name":"added_rows_count","type":"long","field-id":512},
{"name":"existing_rows_count","type":"long","field-id":513},
{"name":"deleted_rows_count","type":"long","field-id":514}]}"#;

/// In a manifest: the file was added. Source: Table Spec, "Manifests".
const ADDED: i64 = 1;

/// Rows, and not deletions of rows.
const DATA: i64 = 0;

/// Only one way of partitioning is known: not at all.
const UNPARTITIONED: i64 = 0;

/// The manifest of files that a snapshot adds.
pub(super) fn manifest(snapshot: Snapshot, schema: &Value, files: &[DataFile]) -> Result<Vec<u8>> {
    let id = schema["schema-id"].to_string();
    let text = serde_json::to_string(schema)
        .map_err(|cause| Error::bug("write a schema").caused_by(cause))?;
    let about = [
        ("schema", &*text),
        ("schema-id", &id),
        ("partition-spec", "[]"),
        ("partition-spec-id", "0"),
        ("format-version", "2"),
        ("content", "data"),
    ];
    let mut out = Container::new(ENTRY, &about);
    for file in files {
        // Files that are added have the number of the snapshot, which the list says.
        let entry = out.next().long(ADDED).long(1).long(snapshot.id).long(0).long(0);
        entry.long(DATA).string(&file.path).string("PARQUET");
        entry.long(number(file.rows)?).long(number(file.bytes)?);
    }
    Ok(out.finish())
}

/// The list of a snapshot's manifests: the one at that place, which has so many bytes, or none.
pub(super) fn list(
    snapshot: Snapshot,
    manifest: Option<(&str, usize)>,
    files: &[DataFile],
) -> Result<Vec<u8>> {
    let (id, sequence) = (snapshot.id.to_string(), snapshot.sequence.to_string());
    let about = [("snapshot-id", &*id), ("sequence-number", &sequence), ("format-version", "2")];
    let mut out = Container::new(MANIFEST, &about);
    if let Some((path, bytes)) = manifest {
        let rows = files.iter().map(|file| file.rows).sum();
        let entry = out.next().string(path).length(bytes).long(UNPARTITIONED).long(DATA);
        entry.long(snapshot.sequence).long(snapshot.sequence).long(snapshot.id);
        entry.length(files.len()).long(0).long(0).long(number(rows)?).long(0).long(0);
    }
    Ok(out.finish())
}

fn number(count: u64) -> Result<i64> {
    i64::try_from(count).map_err(|cause| Error::bug("count files and rows").caused_by(cause))
}
