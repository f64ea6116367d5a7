//! `stillpoint check URL`: what a server has and lacks for being protected.

use serde::Serialize;
use stillpoint_contract::{Finding, Result, Weight};

use super::{
    answer::Answer,
    exit,
    page::{Page, Table, Tone, printable},
    session::Session,
};

#[derive(Debug, Serialize)]
struct ServerAnswer {
    engine: String,
    version: String,
    sound: bool,
    findings: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Line {
    subject: String,
    found: String,
    verdict: Verdict,
    statement: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    Advice,
    Lacking,
}

impl From<Finding> for Line {
    fn from(finding: Finding) -> Self {
        let Finding { subject, found, weight, statement } = finding;
        let verdict = match weight {
            Weight::Fine => Verdict::Ok,
            Weight::Advice => Verdict::Advice,
            Weight::Lacking => Verdict::Lacking,
        };
        Self { subject: subject.to_owned(), found, verdict, statement }
    }
}

impl Answer for ServerAnswer {
    const SCHEMA: &'static str = "check.server/1";

    fn write(&self, page: &mut Page<'_>) {
        let mut table = Table::new(&["WHAT", "FOUND", "VERDICT"]);
        for found in &self.findings {
            let verdict = match found.verdict {
                Verdict::Ok => "ok",
                Verdict::Advice => "could be better",
                Verdict::Lacking => "LACKING",
            };
            table.row(vec![found.subject.clone(), found.found.clone(), verdict.to_owned()]);
        }
        page.table(&table);
        let statements: Vec<_> =
            self.findings.iter().filter_map(|f| f.statement.as_ref()).collect();
        if !statements.is_empty() {
            page.blank();
            page.line("What would change it:");
            for said in statements {
                page.line(format!("  {}", printable(said)));
            }
        }
        page.blank();
        page.line(if self.sound {
            page.paint(Tone::Good, "ok")
        } else {
            page.paint(Tone::Bad, "this server cannot be protected as it is")
        });
    }
}

/// Whether `place` is the URL of a database rather than that of a repository.
pub(super) fn is_database(session: &Session, place: &str) -> bool {
    let scheme = place.split_once(':').map(|(scheme, _)| scheme);
    let is_one = |scheme| session.engines.iter().any(|engine| engine.schemes().contains(&scheme));
    scheme.is_some_and(is_one)
}

/// Looks at the server. The exit status says what was found.
pub(super) async fn run(session: &Session, url: &str) -> Result<u8> {
    let (engine, endpoint) = session.endpoint(url)?;
    let driver = engine.connect(&endpoint).await?;
    let version = driver.probe().await?.version;
    let findings: Vec<_> = driver.examine().await?.into_iter().map(Line::from).collect();
    let sound = findings.iter().all(|found| found.verdict != Verdict::Lacking);
    session.answer(&ServerAnswer { engine: engine.name().to_owned(), version, sound, findings })?;
    Ok(if sound { exit::OK } else { exit::CHECK_FAILED })
}
