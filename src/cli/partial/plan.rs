//! What a partial restore would do.

use serde::Serialize;
use stillpoint_contract::{Result, Share, TablePattern, Tally};

use crate::{
    cli::{
        answer::Answer,
        forecast::Outlook,
        open::Opened,
        page::{Page, printable},
        session::Session,
        units,
        wire::Backup,
    },
    coordinator::{self, PartialJob, PartialPlan},
    repository::drill::PresentedBackup,
};

/// Told, and nothing done.
#[derive(Debug, Serialize)]
struct PartialPlanAnswer {
    source: String,
    database: String,
    into: String,
    /// Under which name it comes back; absent where it is only compared, and where several come.
    name: Option<String>,
    /// What is appended to the names that tables and databases have, where none was chosen.
    suffix: Option<String>,
    /// Where what would merge compared tables is written.
    script: Option<String>,
    backup: Backup,
    engine_version: String,
    presented: PresentedBackup,
    size_bytes: u64,
    log_bytes: u64,
    #[serde(flatten)]
    outlook: Outlook,
    /// Those tables that are meant, as far as the backup counted any.
    tables: Vec<PlannedTable>,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct PlannedTable {
    table: String,
    rows: u64,
    exact: bool,
}

/// How many tables a person is told of.
const SHOWN_MAX: usize = 5;

/// Whether a counted table is in a database; where engines have several, names begin with them.
fn is_inside(tally: &Tally, database: Option<&str>) -> bool {
    let name = TablePattern::new(&tally.table);
    let is_other = |name: &TablePattern, database| name.names().first() != Some(&database);
    match (name, database) {
        (Ok(name), Some(database)) if name.names().len() == 3 => !is_other(&name, database),
        _ => true,
    }
}

/// Those of the counted tables that are meant, and patterns that none of them fits.
fn meant(
    share: &Share,
    counted: &[Tally],
    database: Option<&str>,
) -> (Vec<PlannedTable>, Vec<String>) {
    let counted = counted.iter().filter(|tally| is_inside(tally, database));
    let planned = |tally: &Tally| PlannedTable {
        table: tally.table.clone(),
        rows: tally.rows,
        exact: tally.exact,
    };
    let Share::Tables(patterns) = share else {
        return (counted.map(planned).collect(), Vec::new());
    };
    // A name is written as a pattern that only fits itself.
    let named = |tally: &Tally| TablePattern::new(&tally.table).ok();
    let named: Vec<_> = counted.filter_map(|tally| Some((tally, named(tally)?))).collect();
    let fits = |pattern: &TablePattern, name: &TablePattern| pattern.fits(&name.names());
    let is_meant =
        |(_, name): &&(&Tally, TablePattern)| patterns.iter().any(|pattern| fits(pattern, name));
    let tables = named.iter().filter(is_meant).map(|(tally, _)| planned(tally));
    let idle = patterns.iter().filter(|pattern| !named.iter().any(|(_, name)| fits(pattern, name)));
    let idle = idle.filter(|_| !named.is_empty()).map(ToString::to_string).collect();
    (tables.collect(), idle)
}

/// Tells what would be read, from where, how long it takes and what is lost.
pub(super) async fn tell(
    session: &Session,
    repository: &Opened,
    (job, url, script): (&PartialJob<'_>, &str, Option<String>),
) -> Result<()> {
    let PartialPlan { resolved, presented, unasked } =
        coordinator::plan_partial(repository, job).await?;
    let presented = presented.recorded();
    let forecast = coordinator::forecast(repository, &resolved).await?;
    let last = forecast.stop.as_ref().map(|stop| stop.at);
    let last = last.unwrap_or(resolved.manifest.consistent_time);
    let has_suffix = !job.compares && job.name.is_none();
    let suffix = has_suffix.then(|| coordinator::suffix_of(&resolved, &job.wanted, last));
    let outlook = Outlook::of(&forecast, Some(&job.scratch.root));
    let size_bytes = resolved.manifest.size_bytes;
    let mut warnings = resolved.chosen.warnings.clone();
    if !presented.mounted && outlook.is_too_small(size_bytes) {
        warnings.push("the scratch directory has not enough free space for the copy".to_owned());
    }
    let tallies = &resolved.manifest.tallies;
    let named = job.engine.database_of(job.into)?;
    let database = named.map(|named| job.inside.map_or(named, str::to_owned));
    let (tables, idle) = meant(job.share, tallies, database.as_deref());
    if let Some(database) = database.filter(|database| {
        !tallies.is_empty() && !tallies.iter().any(|tally| is_inside(tally, Some(database)))
    }) {
        warnings.push(format!(
            "the backup counted no table in a database {database}: it may have come later, be \
             empty, or never have been there"
        ));
    }
    warnings.extend(idle.into_iter().map(|pattern| {
        format!("no table fits {pattern} that the backup counted: it may have come later, or never")
    }));
    warnings.extend(unasked.map(|error| {
        format!(
            "whether the live server takes it is not known, since that does not answer: {error}"
        )
    }));
    for warning in &warnings {
        session.warn(warning);
    }
    session.answer(&PartialPlanAnswer {
        source: repository.location(),
        database: job.database.to_owned(),
        into: url.to_owned(),
        name: job.name.map(str::to_owned),
        suffix,
        script,
        backup: Backup::of(&resolved.chosen.backup.commit, session.native()),
        engine_version: resolved.manifest.version.clone(),
        presented,
        size_bytes,
        log_bytes: resolved.log_bytes,
        outlook,
        tables,
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
        let name = self.suffix.as_ref().map(|suffix| format!("NAME{suffix}"));
        facts.extend(self.name.clone().or(name).map(|name| ("As", name)));
        facts.extend(self.script.clone().map(|script| ("Script", script)));
        if !self.tables.is_empty() {
            let told = self.tables.iter().take(SHOWN_MAX).map(|one| {
                let about = if one.exact { "" } else { "about " };
                let rows = units::count(one.rows, "row", "rows");
                format!("{} ({about}{rows})", printable(&one.table))
            });
            let more = self.tables.len().saturating_sub(SHOWN_MAX);
            let more = (more > 0).then(|| format!("and {more} more"));
            let told = told.chain(more).collect::<Vec<_>>().join(", ");
            facts.push(("Tables", format!("{told}; rows as of the backup")));
        }
        facts.extend(self.outlook.facts(page, "Lacks"));
        page.facts(0, &facts);
        if self.presented.mounted {
            page.line("The time is that of reading the whole copy: a part takes less.");
        }
        page.line("Nothing was changed. Run the same command without --plan.");
    }
}
