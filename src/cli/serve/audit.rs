//! `stillpoint audit`: who did what, and the proof that nobody changed the log of it.

use clap::{Args, Subcommand};
use serde::Serialize;
use stillpoint_contract::Result;

use super::{
    super::{
        answer::{Answer, Stamp},
        exit,
        page::{Page, Table, printable},
        session::Session,
    },
    desk::Desk,
};
use crate::coordinator::state::Line;

/// What to do with the audit log.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the newest lines.
    Log(LogOptions),
    /// Prove that no line was changed, removed or put in. Ends with 9 where one was.
    Verify,
    /// Print every line as one JSON document, the oldest first.
    Export,
}

/// What `audit log` is told.
#[derive(Debug, Args)]
pub(crate) struct LogOptions {
    /// How many lines.
    #[arg(long, value_name = "NUMBER", default_value = "30")]
    count: usize,
}

#[derive(Debug, Serialize)]
struct LogAnswer {
    lines: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    seq: i64,
    at: Stamp,
    who: String,
    action: String,
    subject: String,
    detail: String,
    hash: String,
}

#[derive(Debug, Serialize)]
struct VerifyAnswer {
    intact: bool,
    lines: i64,
    /// The hash of the last line: who keeps it elsewhere notices a log that was made anew.
    hash: String,
}

impl From<Line> for Row {
    fn from(line: Line) -> Self {
        let Line { seq, at, who, action, subject, detail, hash } = line;
        Self { seq, at: Stamp(at), who, action, subject, detail, hash }
    }
}

impl Answer for LogAnswer {
    const SCHEMA: &'static str = "audit-log/1";

    fn write(&self, page: &mut Page<'_>) {
        let mut table = Table::new(&[">LINE", "AT", "WHO", "ACTION", "DETAIL"]);
        for line in &self.lines {
            let detail = format!("{} {}", line.subject, line.detail);
            table.row(vec![
                line.seq.to_string(),
                page.time(line.at.0),
                line.who.clone(),
                line.action.clone(),
                printable(&detail),
            ]);
        }
        page.table(&table);
    }
}

impl Answer for VerifyAnswer {
    const SCHEMA: &'static str = "audit-verify/1";

    fn write(&self, page: &mut Page<'_>) {
        page.line(format!("{} lines are as they were written", self.lines));
        page.facts(2, &[("hash of the last", self.hash.as_str())]);
    }
}

/// Does it.
pub(crate) async fn run(session: &Session, command: Command) -> Result<u8> {
    let desk = Desk::open(session).await?;
    match command {
        Command::Log(options) => {
            let last = desk.state.prove_audit().await?.map_or(0, |line| line.seq);
            let count = i64::try_from(options.count).unwrap_or(i64::MAX);
            let lines = all(&desk, last.saturating_sub(count)).await?;
            session.answer(&LogAnswer { lines })?;
        }
        Command::Export => session.answer(&LogAnswer { lines: all(&desk, 0).await? })?,
        Command::Verify => {
            let last = desk.state.prove_audit().await?;
            let (lines, hash) = last.map_or((0, String::new()), |line| (line.seq, line.hash));
            session.answer(&VerifyAnswer { intact: true, lines, hash })?;
        }
    }
    Ok(exit::OK)
}

async fn all(desk: &Desk, mut after: i64) -> Result<Vec<Row>> {
    let mut all = Vec::new();
    loop {
        let lines = desk.state.audit(after).await?;
        let Some(last) = lines.last() else { return Ok(all) };
        after = last.seq;
        all.extend(lines.into_iter().map(Row::from));
    }
}
