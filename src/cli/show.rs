//! `stillpoint show`: everything about one backup.

use clap::Args;
use serde::Serialize;
use stillpoint_contract::{Extensions, Result};

use super::{
    answer::Answer,
    open::{self, Need},
    page::Page,
    session::Session,
    units,
    wire::Backup,
};
use crate::repository::manifest::Manifest;

/// What `show` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The backup, or how its id begins.
    backup: String,
}

#[derive(Debug, Serialize)]
struct ShowAnswer {
    backup: Backup,
    engine_version: String,
    extensions: Extensions,
    incarnation: String,
    location: String,
    method: String,
    parts: u64,
    written_bytes: u64,
    new_bytes: u64,
    chunk_bytes: u32,
    settings: std::collections::BTreeMap<String, String>,
    /// The digest of the configuration by which it was made.
    configuration: Option<String>,
    written_by: String,
}

impl ShowAnswer {
    fn of(backup: Backup, manifest: Manifest) -> Self {
        Self {
            backup,
            engine_version: manifest.version,
            extensions: manifest.extensions,
            incarnation: manifest.identity.id,
            location: manifest.identity.location,
            method: manifest.method,
            parts: manifest.parts,
            written_bytes: manifest.written_bytes,
            new_bytes: manifest.new_bytes,
            chunk_bytes: manifest.chunk_bytes,
            settings: manifest.settings,
            configuration: manifest.configuration,
            written_by: manifest.program,
        }
    }
}

impl Answer for ShowAnswer {
    const SCHEMA: &'static str = "show/1";

    fn write(&self, page: &mut Page<'_>) {
        let backup = &self.backup;
        let proof = backup.proof.unwrap_or_default();
        let proof = match &backup.problem {
            Some(problem) => format!("{proof}: {problem}"),
            None => proof.to_owned(),
        };
        let took = (backup.finished_at.0 - backup.started_at.0).to_std().unwrap_or_default();
        page.line(format!("backup {} of {}", backup.id, backup.database));
        let mut facts = vec![
            ("state at", page.time(backup.at.0)),
            ("position", backup.engine_position.clone().unwrap_or_else(|| "-".to_owned())),
            ("engine", format!("{} {}", backup.engine, self.engine_version)),
            ("incarnation", format!("{} at {}", self.incarnation, self.location)),
            ("method", format!("{}, {}", backup.kind(), self.method)),
            ("proof", proof),
            ("began", page.time(backup.started_at.0)),
            ("took", units::duration(took)),
            (
                "size",
                format!(
                    "{} in {}",
                    units::bytes(backup.size_bytes),
                    units::count(self.parts, "part", "parts")
                ),
            ),
            ("read", units::bytes(self.written_bytes)),
            ("new", units::bytes(self.new_bytes)),
            ("stored", units::bytes(backup.stored_bytes)),
            ("written by", self.written_by.clone()),
        ];
        facts.extend(self.configuration.clone().map(|digest| ("configuration", digest)));
        page.facts(2, &facts);
        for (database, extensions) in &self.extensions {
            let named = extensions.iter().map(|(name, version)| format!("{name} {version}"));
            let named = named.collect::<Vec<_>>().join(", ");
            page.facts(2, &[(format!("extensions of {database}"), named)]);
        }
        let settings: Vec<_> =
            self.settings.iter().map(|(name, value)| (format!("set {name}"), value)).collect();
        page.facts(2, &settings);
        page.blank();
        page.line("restore exactly this state:");
        page.line(format!(
            "  stillpoint restore {} --backup {} --to PATH",
            super::page::printable(&backup.database),
            backup.id
        ));
    }
}

/// Shows it.
pub(crate) async fn run(session: &Session, options: Options) -> Result<()> {
    let repository = open::repository(session, Need::Content).await?;
    let committed = repository.find_backup(&options.backup).await?;
    let manifest = repository.manifest(&committed).await?;
    let backup = Backup::of(&committed.commit, session.native());
    let history = repository.history().await?;
    session.answer(&ShowAnswer::of(backup.judged(&history), manifest))
}
