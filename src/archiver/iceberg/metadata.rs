//! The document that says what a table is.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::manifest::{DataFile, Snapshot};

/// Whose table it is: nobody writes over that of another one.
const SET: &str = "stillpoint.set";
const PLACE: &str = "stillpoint.place";
const TABLE: &str = "stillpoint.table";

/// As much of an earlier version of a table's metadata as the next one needs.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Earlier {
    table_uuid: String,
    last_sequence_number: i64,
    last_updated_ms: i64,
    last_column_id: i32,
    current_schema_id: i32,
    #[serde(default)]
    schemas: Vec<Value>,
    #[serde(default)]
    properties: BTreeMap<String, String>,
}

/// A version of a table's metadata.
#[derive(Debug)]
pub(super) struct Metadata<'a> {
    /// The set and where it is kept, and the table.
    pub(super) set: &'a str,
    pub(super) place: &'a str,
    pub(super) table: &'a str,
    /// Where it is.
    pub(super) location: &'a str,
    /// What tells it from all other tables.
    pub(super) uuid: String,
    pub(super) schema: Value,
    pub(super) last_column: i32,
    pub(super) snapshot: Snapshot,
    pub(super) updated_ms: i64,
    /// Where the metadata before is, and since when it held.
    pub(super) earlier: Option<(String, i64)>,
}

impl Earlier {
    /// Whether it is that of a table of a set. Which one, its directory says; tables are renamed.
    pub(super) fn is_of(&self, set: &str, place: &str) -> bool {
        let is = |name, value| self.properties.get(name).is_some_and(|is| is == value);
        is(SET, set) && is(PLACE, place)
    }

    /// The number of a schema: the same for the same fields, else the next one.
    fn schema_id(&self, fields: &[Value]) -> i32 {
        let current = self.schemas.iter().find(|one| one["schema-id"] == self.current_schema_id);
        let is_same =
            current.is_some_and(|one| one["fields"].as_array().is_some_and(|f| f == fields));
        self.current_schema_id + i32::from(!is_same)
    }
}

impl<'a> Metadata<'a> {
    /// What comes behind an earlier version, or is the first one.
    pub(super) fn behind(
        earlier: Option<(&Earlier, String)>,
        [set, place, table, location]: [&'a str; 4],
        (fields, last_column): (&[Value], i32),
        new_uuid: String,
        now_ms: i64,
    ) -> Self {
        let before = earlier.as_ref().map(|(earlier, _)| *earlier);
        let schema_id = before.map_or(0, |earlier| earlier.schema_id(fields));
        let sequence = before.map_or(0, |earlier| earlier.last_sequence_number) + 1;
        Self {
            set,
            place,
            table,
            location,
            uuid: before.map_or(new_uuid, |earlier| earlier.table_uuid.clone()),
            schema: json!({ "type": "struct", "schema-id": schema_id, "fields": fields }),
            last_column: before.map_or(0, |one| one.last_column_id).max(last_column),
            snapshot: Snapshot { id: 0, sequence },
            updated_ms: before.map_or(now_ms, |earlier| earlier.last_updated_ms.max(now_ms)),
            earlier: earlier.map(|(earlier, at)| (at, earlier.last_updated_ms)),
        }
    }

    /// A number for the snapshot of some files: no two of a table have the same.
    pub(super) fn snapshot_of(&self, files: &[DataFile]) -> Snapshot {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.uuid.as_bytes());
        hasher.update(&self.snapshot.sequence.to_le_bytes());
        hasher.update(self.schema.to_string().as_bytes());
        for file in files {
            hasher.update(file.path.as_bytes());
            hasher.update(&file.rows.to_le_bytes());
        }
        let mut id = [0; 8];
        hasher.finalize_xof().fill(&mut id);
        Snapshot { id: (u64::from_le_bytes(id) >> 1).cast_signed(), ..self.snapshot }
    }

    /// The document. It knows one snapshot: earlier ones may name files that are gone.
    pub(super) fn document(&self, list: &str, files: &[DataFile]) -> Value {
        let Snapshot { id, sequence } = self.snapshot;
        let rows = files.iter().map(|file| file.rows).sum::<u64>().to_string();
        let bytes = files.iter().map(|file| file.bytes).sum::<u64>().to_string();
        let count = files.len().to_string();
        let operation = if sequence == 1 { "append" } else { "overwrite" };
        let earlier: Vec<Value> = (self.earlier.iter())
            .map(|(at, since)| json!({ "timestamp-ms": since, "metadata-file": at }))
            .collect();
        json!({
            "format-version": 2,
            "table-uuid": self.uuid,
            "location": self.location,
            "last-sequence-number": sequence,
            "last-updated-ms": self.updated_ms,
            "last-column-id": self.last_column,
            "current-schema-id": self.schema["schema-id"],
            "schemas": [self.schema],
            "default-spec-id": 0,
            "partition-specs": [{ "spec-id": 0, "fields": [] }],
            "last-partition-id": 999,
            "default-sort-order-id": 0,
            "sort-orders": [{ "order-id": 0, "fields": [] }],
            "properties": { SET: self.set, PLACE: self.place, TABLE: self.table },
            "current-snapshot-id": id,
            "snapshots": [{
                "snapshot-id": id,
                "sequence-number": sequence,
                "timestamp-ms": self.updated_ms,
                "manifest-list": list,
                "schema-id": self.schema["schema-id"],
                "summary": {
                    "operation": operation,
                    "added-data-files": &count,
                    "added-records": &rows,
                    "total-data-files": count,
                    "total-records": rows,
                    "total-files-size": bytes,
                },
            }],
            "snapshot-log": [{ "timestamp-ms": self.updated_ms, "snapshot-id": id }],
            "metadata-log": earlier,
            "refs": { "main": { "snapshot-id": id, "type": "branch" } },
        })
    }
}
