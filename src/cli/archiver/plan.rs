//! `stillpoint archive plan`: what a run would move, and what speaks against it.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use stillpoint_contract::{
    Compared, Error, ErrorKind, Explained, Finding, Held, LockTaken, Outlook, Partition, Result,
    Rows, Weight, code,
};

use super::{control::OverrideRow, place::Set};
use crate::{
    archiver::{
        Prepared, PreparedPart, Shelf, control, heed_erasures, measured_rate, prepare, prepare_part,
    },
    cli::{
        answer::{Answer, Stamp},
        exit,
        page::{Page, Table, Tone, printable},
        session::Session,
        units,
    },
};

/// What `archive plan` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The archive set.
    set: String,
}

#[derive(Debug, Serialize)]
struct PlanAnswer {
    set: String,
    database: String,
    /// The run that would be continued, or `null`.
    unfinished: Option<String>,
    cutoff: Option<Stamp>,
    predicate: String,
    rows: u64,
    /// Whether there are so many that they were not counted.
    is_estimated: bool,
    bytes: u64,
    /// The keys of the first and the last row that is selected; `null` where that is not known.
    first_key: Option<String>,
    last_key: Option<String>,
    /// About how much log is written: at least, and with all pages in it.
    log_bytes_least: u64,
    log_bytes_most: u64,
    /// How many rows of the root went in a second when the set was last worked on, rests included;
    /// `null` where that is not known.
    rows_per_second: Option<f64>,
    /// How long the rows would take at that rate.
    eta_ms: Option<u64>,
    /// How rows are selected, as the engine explains it.
    selecting: Vec<Selecting>,
    locks: Vec<LockRow>,
    /// What is compared with the cutoff, or `null` where types settle what that is.
    compared: Option<Span>,
    /// In the order in which they are exported; they are deleted in the opposite one.
    tables: Vec<TableRow>,
    /// Tables whose rows only derive from others: what triggers delete of them is not archived.
    derived: Vec<String>,
    /// Of a table with partitions, those of which rows are selected.
    partitions: Vec<PartRow>,
    findings: Vec<Found>,
    /// Settings that count instead of the policy's.
    overrides: Vec<OverrideRow>,
    /// Who paused the set, so that runs rest, and what lets them go on; `null` where nobody did.
    paused: Option<String>,
    /// Whether `archive run` would begin.
    admitted: bool,
}

/// What selected rows have somewhere; of very many, some were looked at.
#[derive(Debug, Serialize)]
struct Span {
    what: String,
    oldest: Option<String>,
    newest: Option<String>,
}

#[derive(Debug, Serialize)]
struct TableRow {
    table: String,
    /// The columns of its key.
    key: Vec<String>,
    columns: usize,
    /// The table that it refers to, or `null` for the root.
    refers_to: Option<String>,
    by: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Selecting {
    table: String,
    statement: String,
    plan: Vec<String>,
}

impl Selecting {
    fn of(step: Explained) -> Self {
        let Explained { table, statement, plan, advice: _ } = step;
        Self { table, statement, plan }
    }
}

#[derive(Debug, Serialize)]
struct LockRow {
    on: String,
    mode: String,
    during: &'static str,
    /// Who waits for it.
    blocks: &'static str,
    /// For how long at a time: a `moment`, or as long as a `transaction` that deletes takes, a
    /// `file` to be read, or all rows of the `table`.
    held: &'static str,
    /// How long a transaction is, about; `null` where it is not as long as one.
    about_ms: Option<u64>,
}

impl LockRow {
    fn of(lock: LockTaken, transaction: Duration) -> Self {
        let LockTaken { on, mode, during, blocks, held } = lock;
        let about_ms = (held == Held::Transaction).then_some(transaction.as_millis() as u64);
        let held = match held {
            Held::Moment => "moment",
            Held::Transaction => "transaction",
            Held::File => "file",
            Held::Table => "table",
        };
        Self { on, mode, during, blocks, held, about_ms }
    }

    /// Whether it is the same of another table.
    fn is_like(&self, other: &Self) -> bool {
        self.mode == other.mode
            && (self.during, self.blocks, self.held) == (other.during, other.blocks, other.held)
    }

    fn length(&self) -> String {
        match (self.about_ms, self.held) {
            (Some(ms), _) => units::duration(Duration::from_millis(ms)),
            (None, "moment") => "a moment".to_owned(),
            (None, "table") => "all of its rows".to_owned(),
            (None, _) => "a file".to_owned(),
        }
    }
}

#[derive(Debug, Serialize)]
struct PartRow {
    partition: String,
    rows: u64,
    bytes: u64,
    /// `detach`: it leaves as a whole, and is dropped after the grace period; `rows`: its rows are
    /// deleted.
    path: &'static str,
    /// Why its rows are deleted, or `null`.
    why: Option<String>,
}

impl PartRow {
    fn of(part: &PreparedPart) -> Self {
        Self {
            partition: part.partition.name.clone(),
            rows: part.prepared.estimate.rows,
            bytes: part.prepared.estimate.bytes,
            path: if part.why_rows.is_some() { "rows" } else { "detach" },
            why: part.why_rows.clone(),
        }
    }
}

/// A finding on the wire.
#[derive(Debug, Serialize)]
pub(super) struct Found {
    subject: &'static str,
    state: String,
    /// `fine`, `advice` or `lacking`.
    weight: &'static str,
    statement: Option<String>,
}

impl Found {
    pub(super) fn of(finding: &Finding) -> Self {
        let weight = match finding.weight {
            Weight::Fine => "fine",
            Weight::Advice => "advice",
            Weight::Lacking => "lacking",
        };
        let (state, statement) = (finding.found.clone(), finding.statement.clone());
        Self { subject: finding.subject, state, weight, statement }
    }

    pub(super) fn write(&self, page: &mut Page<'_>) {
        let (tone, word) = match self.weight {
            "lacking" => (Tone::Bad, "REFUSED"),
            "advice" => (Tone::Warning, "advice"),
            _ => (Tone::Good, "fine"),
        };
        let word = page.paint(tone, word);
        page.line(format!("{word}  {}: {}", self.subject, printable(&self.state)));
        if let Some(statement) = &self.statement {
            page.line(format!("    {}", printable(statement)));
        }
    }
}

impl Answer for PlanAnswer {
    const SCHEMA: &'static str = "archive-plan/2";

    fn write(&self, page: &mut Page<'_>) {
        let cutoff = self.cutoff.map_or_else(|| "none".to_owned(), |at| page.time(at.0));
        let how = if self.is_estimated { " estimated" } else { "" };
        let (rows, bytes) = (units::grouped(self.rows), units::bytes(self.bytes));
        let rows = format!("{rows}{how}, about {bytes}");
        let mut facts = vec![
            ("set", self.set.clone()),
            ("database", self.database.clone()),
            ("cutoff", cutoff),
            ("selects", self.predicate.clone()),
            ("rows", rows),
        ];
        if let Some(Span { what, oldest: Some(oldest), newest: Some(newest) }) = &self.compared {
            let span = format!("{what} from {} to {}", printable(oldest), printable(newest));
            facts.push(("compares", span));
        }
        if let (Some(first), Some(last)) = (&self.first_key, &self.last_key) {
            facts.push(("keys", printable(&format!("from {first} to {last}"))));
        }
        if !self.derived.is_empty() {
            let tables = self.derived.join(", ");
            facts.push((
                "derived",
                format!("rows of {tables} that triggers delete are not archived"),
            ));
        }
        let log = [self.log_bytes_least, self.log_bytes_most].map(units::bytes).join(" to ");
        facts.push(("log", format!("about {log}")));
        let eta = match (self.eta_ms, self.rows_per_second) {
            (Some(ms), Some(rate)) => {
                let length = units::duration(Duration::from_millis(ms));
                format!("about {length}, at {rate:.0} rows/s as the last time")
            }
            _ => "unknown: nothing was deleted yet".to_owned(),
        };
        facts.push(("takes", eta));
        if let Some(run) = &self.unfinished {
            facts.push(("first", format!("run {run} is continued, as it was planned")));
        }
        facts.extend(self.paused.as_ref().map(|why| ("rests", printable(why))));
        page.facts(0, &facts);
        OverrideRow::write(&self.overrides, &self.set, page);
        page.blank();
        let mut table = Table::new(&["TABLE", "KEY", ">COLUMNS", "REFERS TO", "BY"]);
        for row in &self.tables {
            table.row(vec![
                row.table.clone(),
                row.key.join(", "),
                row.columns.to_string(),
                row.refers_to.clone().unwrap_or_else(|| "-".to_owned()),
                row.by.join(", "),
            ]);
        }
        page.table(&table);
        page.blank();
        page.table(&self.table_of_locks());
        for step in &self.selecting {
            page.blank();
            page.line(printable(&step.statement));
            for line in &step.plan {
                page.line(format!("    {}", printable(line)));
            }
        }
        if !self.partitions.is_empty() {
            page.blank();
            let mut table = Table::new(&["PARTITION", ">ROWS", ">SIZE", "PATH", "WHY"]);
            for row in &self.partitions {
                table.row(vec![
                    row.partition.clone(),
                    units::grouped(row.rows),
                    units::bytes(row.bytes),
                    row.path.to_owned(),
                    row.why.clone().unwrap_or_else(|| "-".to_owned()),
                ]);
            }
            page.table(&table);
        }
        let told: Vec<&Found> = self.findings.iter().filter(|f| f.weight != "fine").collect();
        if !told.is_empty() {
            page.blank();
            for finding in told {
                finding.write(page);
            }
        }
        page.blank();
        page.line(match (&self.paused, self.admitted) {
            (_, false) => {
                "A run would refuse to begin: rows could be lost, or it would fail half-way."
                    .to_owned()
            }
            (None, true) => {
                format!("Nothing was changed. To begin: stillpoint archive run {}", self.set)
            }
            (Some(_), true) => {
                "Nothing was changed. A run would rest before it begins, as is said above."
                    .to_owned()
            }
        });
    }
}

impl PlanAnswer {
    /// Locks for people, who read of several partitions that leave once what is the same of all.
    fn table_of_locks(&self) -> Table {
        let leaves = |lock: &LockRow| {
            let mut leaving = self.partitions.iter().filter(|part| part.path == "detach");
            leaving.any(|part| part.partition == lock.on)
        };
        let mut told: Vec<(&LockRow, usize)> = Vec::new();
        for row in &self.locks {
            let is_same = |one: &LockRow| leaves(one) && leaves(row) && one.is_like(row);
            if let Some((_, more)) = told.iter_mut().find(|one| is_same(one.0)) {
                *more += 1;
            } else {
                told.push((row, 0));
            }
        }
        let mut table = Table::new(&["LOCK", "MODE", "WHILE", "FOR ABOUT", "BLOCKS"]);
        for (row, more) in told {
            let on = match more {
                0 => row.on.clone(),
                1 => format!("{} and another partition", row.on),
                _ => format!("{} and {more} other partitions", row.on),
            };
            let (mode, during) = (row.mode.clone(), row.during.to_owned());
            table.row(vec![on, mode, during, row.length(), row.blocks.to_owned()]);
        }
        table
    }

    /// Adds what the run will do, and how long it will take.
    fn show(&mut self, outlook: Outlook, transaction: Duration, rate: Option<f64>) {
        let Outlook { steps, first, last, locks, log_least, log_most } = outlook;
        (self.first_key, self.last_key) = (first, last);
        (self.log_bytes_least, self.log_bytes_most) = (log_least, log_most);
        self.rows_per_second = rate;
        self.eta_ms = rate.map(|rate| (self.rows as f64 / rate * 1000.0) as u64);
        let advice = steps.iter().filter_map(|step| step.advice.as_ref());
        self.findings.extend(advice.map(Found::of));
        self.selecting = steps.into_iter().map(Selecting::of).collect();
        self.locks = locks.into_iter().map(|lock| LockRow::of(lock, transaction)).collect();
    }
}

/// Shows it.
pub(super) async fn run(session: &Session, options: Options) -> Result<u8> {
    let set = Set::of(session, &options.set).await?;
    let place = set.place(session).await?;
    let shelf = Shelf::load(&place).await?;
    let driver = set.driver(session).await?;
    let mut rows = driver.rows().await?;
    let (prepared, parts) = match rows.partitions(&set.rule.root).await? {
        None => {
            let mut prepared = prepare(&mut *rows, &set.rule).await?;
            heed_erasures(&place, &set.rule, &mut prepared, None).await?;
            (prepared, Vec::new())
        }
        Some(whole) => {
            let mut parts = Vec::new();
            for partition in &whole.partitions {
                let mut part = prepare_part(&mut *rows, &set.rule, partition).await?;
                heed_erasures(&place, &set.rule, &mut part.prepared, Some(&whole)).await?;
                parts.push(part);
            }
            (together(&whole.name, &parts)?, parts)
        }
    };
    let unfinished = shelf.unfinished().map(|run| run.plan.run.clone());
    let mut answer = answer_of(&set, &prepared, unfinished);
    let told = control(&place).await?;
    answer.overrides = OverrideRow::all(&told);
    answer.paused = told.pause(&set.rule.name);
    let selected: Vec<&PreparedPart> =
        parts.iter().filter(|part| part.prepared.estimate.rows > 0).collect();
    // Of partitions, the first one of which rows are deleted stands for all such.
    let pruned = selected.iter().find(|part| part.why_rows.is_some());
    let of = pruned.or(selected.first()).map_or(&prepared.set, |part| &part.prepared.set);
    let mut outlook = rows.outlook(of, set.rule.slice_rows, prepared.estimate).await?;
    if pruned.is_none() && !selected.is_empty() {
        outlook.locks.clear();
    }
    add_leaving(&mut *rows, &shelf, &selected, &mut outlook.locks).await?;
    let ledger = rows.ledger(&set.rule.name).await?;
    answer.show(outlook, set.rule.transaction, measured_rate(&shelf, &ledger));
    answer.partitions = selected.into_iter().map(PartRow::of).collect();
    let status = if answer.admitted { exit::OK } else { exit::status(ErrorKind::Refused) };
    session.answer(&answer)?;
    Ok(status)
}

/// Adds what is locked for partitions that leave as a whole, and for those that were taken out and
/// are not dropped yet.
async fn add_leaving(
    rows: &mut dyn Rows,
    shelf: &Shelf,
    selected: &[&PreparedPart],
    locks: &mut Vec<LockTaken>,
) -> Result<()> {
    let open = shelf.runs.iter().filter(|run| run.end.is_none());
    let open = open.filter_map(|run| run.plan.whole());
    let whole = selected.iter().filter(|part| part.why_rows.is_none());
    let partitions: Vec<&Partition> = whole.map(|part| &part.partition).chain(open).collect();
    for partition in partitions {
        for lock in rows.leaving(partition).await? {
            if !locks.contains(&lock) {
                locks.push(lock);
            }
        }
    }
    Ok(())
}

/// What partitions have in common, and all of what speaks against one of them.
fn together(name: &str, parts: &[PreparedPart]) -> Result<Prepared> {
    let Some(first) = parts.first() else {
        let step = "look at the partitions of the table";
        return Err(Error::new(ErrorKind::Unsupported, code::ROWS_REFUSED, step)
            .with("table", name)
            .why("it has none, and thus no rows"));
    };
    let mut all = first.prepared.clone();
    name.clone_into(&mut all.set.members[0].table.name);
    for part in &parts[1..] {
        all.estimate.rows += part.prepared.estimate.rows;
        all.estimate.is_estimated |= part.prepared.estimate.is_estimated;
        all.estimate.bytes += part.prepared.estimate.bytes;
        for finding in &part.prepared.findings {
            if !all.findings.contains(finding) {
                all.findings.push(finding.clone());
            }
        }
    }
    Ok(all)
}

fn answer_of(set: &Set, prepared: &Prepared, unfinished: Option<String>) -> PlanAnswer {
    let members = &prepared.set.members;
    let tables = members.iter().map(|member| {
        let columns = &member.table.columns;
        let key = member.table.key.iter().filter_map(|at| columns.get(*at));
        let link = member.link.as_ref();
        TableRow {
            table: member.table.name.clone(),
            key: key.map(|column| column.name.clone()).collect(),
            columns: columns.len(),
            refers_to: link.map(|link| members[link.parent].table.name.clone()),
            by: link.map(|link| link.columns.clone()).unwrap_or_default(),
        }
    });
    PlanAnswer {
        set: set.rule.name.clone(),
        database: set.rule.database.clone(),
        unfinished,
        cutoff: prepared.cutoff.map(Stamp),
        predicate: prepared.set.predicate.clone(),
        rows: prepared.estimate.rows,
        is_estimated: prepared.estimate.is_estimated,
        compared: prepared.compared.clone().map(|compared| {
            let Compared { what, oldest, newest, .. } = compared;
            Span { what, oldest, newest }
        }),
        bytes: prepared.estimate.bytes,
        first_key: None,
        last_key: None,
        log_bytes_least: 0,
        log_bytes_most: 0,
        rows_per_second: None,
        eta_ms: None,
        selecting: Vec::new(),
        locks: Vec::new(),
        tables: tables.collect(),
        derived: prepared.set.derived.clone(),
        partitions: Vec::new(),
        findings: prepared.findings.iter().map(Found::of).collect(),
        overrides: Vec::new(),
        paused: None,
        admitted: prepared.admit().is_ok(),
    }
}
