//! What a partial restore would do.

use serde::Serialize;
use stillpoint_contract::Result;

use crate::{
    cli::{
        answer::Answer, forecast::Outlook, open::Opened, page::Page, session::Session, units,
        wire::Backup,
    },
    coordinator::{self, PartialJob},
    repository::drill::PresentedBackup,
};

/// Told, and nothing done.
#[derive(Debug, Serialize)]
struct PartialPlanAnswer {
    source: String,
    database: String,
    into: String,
    backup: Backup,
    engine_version: String,
    presented: PresentedBackup,
    size_bytes: u64,
    log_bytes: u64,
    #[serde(flatten)]
    outlook: Outlook,
    warnings: Vec<String>,
}

/// Tells what would be read, from where, how long it takes and what is lost.
pub(super) async fn tell(
    session: &Session,
    repository: &Opened,
    (job, url): (&PartialJob<'_>, &str),
) -> Result<()> {
    let (resolved, presented) = coordinator::plan_partial(repository, job).await?;
    let presented = presented.recorded();
    let forecast = coordinator::forecast(repository, &resolved).await?;
    let outlook = Outlook::of(&forecast, Some(&job.scratch.root));
    let size_bytes = resolved.manifest.size_bytes;
    let mut warnings = resolved.chosen.warnings.clone();
    if !presented.mounted && outlook.is_too_small(size_bytes) {
        warnings.push("the scratch directory has not enough free space for the copy".to_owned());
    }
    for warning in &warnings {
        session.warn(warning);
    }
    session.answer(&PartialPlanAnswer {
        source: repository.location(),
        database: job.database.to_owned(),
        into: url.to_owned(),
        backup: Backup::of(&resolved.chosen.backup.commit, session.native()),
        engine_version: resolved.manifest.version.clone(),
        presented,
        size_bytes,
        log_bytes: resolved.log_bytes,
        outlook,
        warnings,
    })
}

impl Answer for PartialPlanAnswer {
    const SCHEMA: &'static str = "restore.partial-plan/1";

    fn write(&self, page: &mut Page<'_>) {
        let backup = &self.backup;
        let size = units::bytes(self.size_bytes);
        let copy = if self.presented.mounted {
            format!("mounted: of its {size}, only what is needed is read")
        } else {
            format!("{size}, {}", self.presented.told())
        };
        let mut facts = vec![
            ("Source", self.source.clone()),
            ("Backup", format!("{} of {}", backup.id, page.time(backup.at.0))),
            ("Engine", format!("{} {}", backup.engine, self.engine_version)),
            ("Copy", copy),
            ("Log", units::bytes(self.log_bytes)),
            ("Into", self.into.clone()),
        ];
        facts.extend(self.outlook.facts(page));
        page.facts(0, &facts);
        if self.presented.mounted {
            page.line("The time is that of reading the whole copy: a part takes less.");
        }
        page.line("Nothing was changed. Run the same command without --plan.");
    }
}
