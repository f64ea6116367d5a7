//! `stillpoint drill list`, `stillpoint drill show`, and the answer of `stillpoint drill run`.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use serde::Serialize;
use stillpoint_contract::{Result, Verdict, code};

use super::run::write_evidence;
use crate::{
    cli::{
        answer::{Answer, Stamp},
        choice::Labels,
        exit,
        open::{self, Need},
        page::{Page, Table, Tone, printable},
        session::Session,
        source::{self, SourceOptions},
        units,
    },
    repository::{
        drill::{Assertion, DrillRecord, RowCheck},
        entry::Drilled,
    },
};

/// What `drill list` is told.
#[derive(Debug, Args)]
pub(crate) struct ListOptions {
    /// Only those of this database.
    database: Option<String>,
    #[command(flatten)]
    labels: Labels,
}

/// What `drill show` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The drill, or how its id begins.
    drill: String,
    /// Also write the evidence into this directory, as DRILL.json and DRILL.html.
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    evidence: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct ListAnswer {
    drills: Vec<ListedDrill>,
}

#[derive(Debug, Serialize)]
struct ListedDrill {
    id: String,
    database: String,
    started_at: Stamp,
    finished_at: Stamp,
    passed: bool,
}

impl Answer for ListAnswer {
    const SCHEMA: &'static str = "drill.list/1";

    fn write(&self, page: &mut Page<'_>) {
        if self.drills.is_empty() {
            page.line("No drill was run yet.");
            page.line(page.paint(Tone::Faint, "  stillpoint drill run DATABASE --random"));
            return;
        }
        let mut table = Table::new(&["DRILL", "DATABASE", "BEGAN", ">TOOK", "RESULT"]);
        for drill in &self.drills {
            let took = (drill.finished_at.0 - drill.started_at.0).to_std().unwrap_or_default();
            table.row(vec![
                drill.id.clone(),
                drill.database.clone(),
                page.time(drill.started_at.0),
                units::duration(took),
                if drill.passed { "passed" } else { "FAILED" }.to_owned(),
            ]);
        }
        page.table(&table);
    }
}

/// Lists them. Needs no key.
pub(super) async fn list(session: &Session, options: ListOptions) -> Result<u8> {
    let drills = if options.labels.labels.is_some() {
        labelled(session, &options.labels).await?
    } else {
        let repository = open::repository(session, Need::Names).await?;
        repository.drills(options.database.as_deref()).await?
    };
    let listed = |drill: Drilled| ListedDrill {
        id: drill.drill,
        database: drill.database,
        started_at: Stamp(drill.started_at),
        finished_at: Stamp(drill.finished_at),
        passed: drill.passed,
    };
    session.answer(&ListAnswer { drills: drills.into_iter().map(listed).collect() })?;
    Ok(exit::OK)
}

/// Those of databases that were chosen by their labels. Each log has the drills of what was
/// restored from there: a copy's own, where a policy rehearses that one.
async fn labelled(session: &Session, labels: &Labels) -> Result<Vec<Drilled>> {
    let mut drills = Vec::new();
    for name in labels.names(&source::configured(session).await?)? {
        let copy = source::drilled_from(session, &name).await;
        for from in std::iter::once(None).chain(copy.map(Some)) {
            let of = (Some(name.as_str()), Need::Names);
            let is_copy = from.is_some();
            match source::open(session, &SourceOptions { from }, of).await {
                Ok(repository) => drills.extend(repository.drills(Some(&name)).await?),
                // No copy was made there yet.
                Err(error) if is_copy && error.code() == code::NO_REPOSITORY => {}
                Err(error) => return Err(error),
            }
        }
    }
    // Where the original does not answer, its copy does, and does so twice.
    drills.sort_by(|one, other| one.drill.cmp(&other.drill));
    drills.dedup_by(|one, other| one.drill == other.drill);
    Ok(drills)
}

/// Shows one. The exit status is that of showing, not that of the drill.
pub(super) async fn show(session: &Session, options: Options) -> Result<u8> {
    let repository = open::repository(session, Need::Content).await?;
    let drill = repository.find_drill(&options.drill).await?;
    let record = repository.drill_record(&drill).await?;
    if let Some(directory) = &options.evidence {
        let page = repository.drill_page(&drill).await?;
        write_evidence(directory, &record.drill, &record.encode()?, &page)?;
    }
    session.answer(&DrillAnswer::new(drill, record))?;
    Ok(exit::OK)
}

/// Everything about one drill.
#[derive(Debug, Serialize)]
pub(super) struct DrillAnswer {
    #[serde(flatten)]
    record: DrillRecord,
    evidence: Evidence,
}

/// Where the evidence is kept.
#[derive(Debug, Serialize)]
struct Evidence {
    record: String,
    record_hash: String,
    page: String,
    page_hash: String,
}

impl DrillAnswer {
    pub(super) fn new(kept: Drilled, record: DrillRecord) -> Self {
        let Drilled { record: name, record_hash, page, page_hash, .. } = kept;
        Self { record, evidence: Evidence { record: name, record_hash, page, page_hash } }
    }
}

impl Answer for DrillAnswer {
    const SCHEMA: &'static str = "drill/1";

    fn write(&self, page: &mut Page<'_>) {
        let record = &self.record;
        let (word, tone) =
            if record.passed { ("PASSED", Tone::Good) } else { ("FAILED", Tone::Bad) };
        let drawn = if record.is_random { ", drawn" } else { "" };
        page.line(format!(
            "{}  {} at {}{drawn}",
            page.paint(tone, word),
            printable(&record.database),
            printable(&record.asked)
        ));
        for cause in &record.causes {
            page.line(format!("{}: {}", page.paint(Tone::Bad, "cause"), printable(cause)));
        }
        let facts = facts(record, page);
        page.facts(2, &facts);
        for note in &record.notes {
            page.line(format!("note: {}", printable(note)));
        }
        page.line(format!(
            "  {}",
            page.paint(
                Tone::Faint,
                &format!("stillpoint drill show {} --evidence DIR", record.drill)
            )
        ));
    }
}

fn facts(record: &DrillRecord, page: &Page<'_>) -> Vec<(String, String)> {
    let time = |ms: u64| units::duration(Duration::from_millis(ms));
    let mut facts = Vec::new();
    let mut add = |label: &str, value: String| facts.push((label.to_owned(), value));
    if let Some(reached) = &record.reached {
        let position = reached.engine_position.clone().or_else(|| reached.position.clone());
        let state = match (reached.last_commit_at, &record.backup) {
            (Some(at), _) => format!("the commit of {}", page.time(at)),
            (None, Some(backup)) => format!("the backup, {}", page.time(backup.at)),
            (None, None) => String::new(),
        };
        let commits = units::count(reached.transactions, "commit", "commits");
        let position = position.map_or_else(String::new, |p| format!(", {p}"));
        add("reached", format!("{state}{position}; {commits} replayed"));
    }
    if let Some(backup) = &record.backup {
        let (engine, version) = (&backup.engine, &backup.engine_version);
        // One that ended before all was laid out has none.
        let size = match record.restored_bytes {
            0 => String::new(),
            bytes => format!(", {}", units::bytes(bytes)),
        };
        add("backup", format!("{} of {engine} {version}{size}", backup.id));
    }
    if let Some(presented) = &record.presented {
        add("presented", presented.told());
    }
    if let Some(rpo) = record.rpo_ms {
        add("RPO", time(rpo));
    }
    if let Some(rto) = record.rto_ms {
        add("RTO", time(rto));
    }
    for phase in &record.phases {
        let rate = phase.bytes.map_or_else(String::new, |bytes| rate(bytes, phase.took_ms));
        add(&format!("  {}", phase.name), format!("{}{rate}", time(phase.took_ms)));
    }
    for check in &record.checks {
        add(&check.check, format!("{}: {}", word(check.verdict), check.says.join("; ")));
    }
    if let Some(rows) = &record.rows {
        add("rows", rows_told(rows));
    }
    for assertion in &record.assertions {
        add("statement", told(assertion));
    }
    if let Some(sandbox) = &record.sandbox {
        add("sandbox", sandbox.clone());
    }
    add("removed", record.teardown.clone());
    add("evidence", record.drill.clone());
    facts
}

/// Bytes and their rate, after a length of time.
pub(super) fn rate(bytes: u64, took_ms: u64) -> String {
    let seconds = Duration::from_millis(took_ms.max(1)).as_secs_f64();
    format!(", {}, {}", units::bytes(bytes), units::rate(bytes as f64 / seconds))
}

/// A verdict in a word.
pub(super) fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "passed",
        Verdict::Failed => "FAILED",
        Verdict::Skipped => "not judged",
    }
}

fn rows_told(rows: &RowCheck) -> String {
    let counted: u64 = rows.tables.iter().filter_map(|table| table.counted).sum();
    let tables = units::count(rows.tables.len() as u64, "table", "tables");
    let counted = units::count(counted, "row", "rows");
    format!("{}: {counted} in {tables}; {}", word(rows.verdict), rows.basis)
}

fn told(assertion: &Assertion) -> String {
    let answer = match (&assertion.answered, &assertion.error) {
        (Some(answer), _) => format!("answered {answer:?}"),
        (None, Some(error)) => error.clone(),
        (None, None) => "was not run".to_owned(),
    };
    let verdict = word(assertion.verdict);
    format!("{verdict}: {} {answer}, expected {:?}", assertion.sql, assertion.expected)
}
