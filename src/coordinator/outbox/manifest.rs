//! What lies beside the files of a point: whose they are, what they hold, and how to use them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// The name and version of this form.
pub const HANDOFF_SCHEMA: &str = "stillpoint.handoff/1";

/// What is said of one point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointManifest {
    /// The name and version of this form.
    pub schema: String,
    /// What wrote it.
    pub program: String,
    /// The database's name.
    pub database: String,
    /// The id of the backup that it was made of.
    pub backup: String,
    /// The place of that backup in the order in which backups were made.
    pub made: u64,
    /// The name of the engine.
    pub engine: String,
    /// The engine's version.
    pub version: String,
    /// Which incarnation of the database.
    pub incarnation: String,
    /// The instant of the state that the files hold.
    pub point: DateTime<Utc>,
    /// When it was handed over.
    pub published_at: DateTime<Utc>,
    /// What the engine's own check said of the files.
    pub check: String,
    /// The files.
    pub files: Vec<HandedFile>,
    /// How to use them, a sentence a line.
    pub restore: Vec<String>,
}

/// One of the files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedFile {
    /// Its name, in the same folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// BLAKE3 of its bytes, in hex.
    pub blake3: String,
    /// SHA-256 of its bytes, in hex: what `sha256sum` prints.
    pub sha256: String,
}

impl PointManifest {
    /// The bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}
