//! The evidence of a drill as one page: nothing is fetched for it, and nothing in it runs.

use std::{fmt::Write as _, time::Duration};

use chrono::{DateTime, Utc};
use stillpoint_contract::Verdict;

use super::show::word;
use crate::{
    cli::units,
    repository::drill::{Assertion, DrillRecord, EngineCheck, Phase, RowCheck, TableRows},
};

pub(in crate::cli) const STYLE: &str = include_str!("style.css");

/// Tables of which rows are shown; the record has all.
const TABLES_MAX: usize = 200;

/// Measures of the chart, in its own units.
const CHART_WIDTH: f64 = 900.0;
const BARS_FROM: f64 = 120.0;
const BARS_WIDTH: f64 = 640.0;
const ROW_HEIGHT: f64 = 26.0;

/// The page of a record.
pub(crate) fn page(record: &DrillRecord) -> String {
    let mut page = String::new();
    head(&mut page, record);
    figures(&mut page, record);
    causes(&mut page, record);
    section(&mut page, "Phases", &(chart(record) + &rates(&record.phases)));
    section(&mut page, "Engine checks", &checks(&record.checks));
    if let Some(rows) = &record.rows {
        section(&mut page, "Rows", &row_table(rows));
    }
    if !record.assertions.is_empty() {
        section(&mut page, "Statements", &assertions(&record.assertions));
    }
    section(&mut page, "Particulars", &particulars(record));
    push(
        &mut page,
        format_args!(
            "<footer>Evidence {} of {}, written by {}. Its hash is in the signed log of the \
             repository: <code>stillpoint report verify</code>.</footer>\n</body>\n</html>\n",
            escape(&record.drill),
            time(record.finished_at),
            escape(&record.program),
        ),
    );
    page
}

pub(in crate::cli) fn push(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("a String grows");
}

/// Text as a page shows it.
pub(in crate::cli) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(c),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

pub(in crate::cli) fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

pub(in crate::cli) fn length(milliseconds: u64) -> String {
    match milliseconds {
        0..1000 => format!("{milliseconds} ms"),
        _ => units::duration(Duration::from_millis(milliseconds)),
    }
}

pub(in crate::cli) fn section(page: &mut String, title: &str, content: &str) {
    push(page, format_args!("<section>\n<h2>{title}</h2>\n{content}</section>\n"));
}

fn head(page: &mut String, record: &DrillRecord) {
    let database = escape(&record.database);
    let (class, verdict) = if record.passed { ("passed", "Passed") } else { ("failed", "Failed") };
    let drawn = if record.is_random { " (drawn at random)" } else { "" };
    push(
        page,
        format_args!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>Drill of {database}: {class}</title>\n\
             <style>\n{STYLE}</style>\n</head>\n<body>\n\
             <header><h1>{database}</h1><span class=\"verdict {class}\">{verdict}</span></header>\n\
             <p class=\"about\">Restored for proof at <b>{}</b>{drawn}, on {} by {}</p>\n",
            escape(&record.asked),
            time(record.started_at),
            escape(&record.started_by),
        ),
    );
}

fn figures(page: &mut String, record: &DrillRecord) {
    let told = |ms: Option<u64>| ms.map_or_else(|| "–".to_owned(), length);
    let mut figures = vec![
        (told(record.rto_ms), "RTO: until the database answered"),
        (told(record.rpo_ms), "RPO: committed before the point, and missing"),
    ];
    if let Some(reached) = &record.reached {
        let at = reached.last_commit_at.or(record.backup.as_ref().map(|backup| backup.at));
        figures.push((at.map_or_else(String::new, time), "newest commit in it"));
    }
    let fetch = record.phases.iter().find(|phase| phase.name == "fetch");
    if let Some((bytes, took_ms)) = fetch.and_then(|fetch| Some((fetch.bytes?, fetch.took_ms))) {
        figures.push((units::bytes(bytes), "restored"));
        figures.push((rate(bytes, took_ms), "rate of fetching"));
    }
    page.push_str("<div class=\"figures\">\n");
    for (value, label) in figures {
        push(page, format_args!("<div><b>{}</b><span>{label}</span></div>\n", escape(&value)));
    }
    page.push_str("</div>\n");
}

fn rate(bytes: u64, took_ms: u64) -> String {
    units::rate(bytes as f64 / Duration::from_millis(took_ms.max(1)).as_secs_f64())
}

fn causes(page: &mut String, record: &DrillRecord) {
    if !record.causes.is_empty() {
        let items = record.causes.iter().map(|cause| format!("<li>{}</li>\n", escape(cause)));
        push(page, format_args!("<ul class=\"causes\">\n{}</ul>\n", items.collect::<String>()));
    }
}

/// Each phase as a bar where it was in time; a line marks when the database answered.
fn chart(record: &DrillRecord) -> String {
    let total = record.phases.iter().map(|phase| phase.from_ms + phase.took_ms).max().unwrap_or(0);
    let scale = BARS_WIDTH / total.max(1) as f64;
    let at = |ms: u64| BARS_FROM + ms as f64 * scale;
    let height = ROW_HEIGHT * record.phases.len() as f64 + 34.0;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {CHART_WIDTH} {height}\" role=\"img\" \
         aria-label=\"Phases of the drill over time\">\n"
    );
    let ground = height - 24.0;
    for quarter in 0..=4 {
        let ms = total * quarter / 4;
        let (x, text) = (at(ms), length(ms));
        push(
            &mut svg,
            format_args!(
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"4\" y2=\"{ground}\"/>\
                 <text class=\"soft\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{text}</text>\n",
                height - 6.0,
            ),
        );
    }
    for (number, phase) in record.phases.iter().enumerate() {
        let y = 6.0 + ROW_HEIGHT * number as f64;
        let is_after = record.rto_ms.is_some_and(|rto| phase.from_ms >= rto);
        let (x, width) = (at(phase.from_ms), (phase.took_ms as f64 * scale).max(1.5));
        push(
            &mut svg,
            format_args!(
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
                 <rect class=\"{}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"18\" \
                 rx=\"2\"/><text class=\"soft\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
                BARS_FROM - 10.0,
                y + 14.0,
                escape(&phase.name),
                if is_after { "bar after" } else { "bar" },
                x + width + 6.0,
                y + 14.0,
                length(phase.took_ms),
            ),
        );
    }
    if let Some(rto) = record.rto_ms {
        let x = at(rto);
        push(
            &mut svg,
            format_args!(
                "<line class=\"mark\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{ground}\"/>\n"
            ),
        );
    }
    svg + "</svg>\n"
}

/// Phases for which something was read.
fn rates(phases: &[Phase]) -> String {
    let row = |phase: &Phase| {
        let bytes = phase.bytes?;
        let (took, rate) = (length(phase.took_ms), rate(bytes, phase.took_ms));
        Some([escape(&phase.name), took, units::bytes(bytes), rate])
    };
    table(&["Phase", "#Took", "#Read", "#Rate"], phases.iter().filter_map(row))
}

/// A table; a heading that begins with `#` is of numbers. Cells are HTML.
pub(in crate::cli) fn table<const N: usize>(
    headings: &[&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let class = |heading: &str| if heading.starts_with('#') { " class=\"number\"" } else { "" };
    let mut table = "<table>\n<thead><tr>".to_owned();
    for heading in headings {
        let text = heading.trim_start_matches('#');
        push(&mut table, format_args!("<th{}>{text}</th>", class(heading)));
    }
    table.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        table.push_str("<tr>");
        for (cell, heading) in row.iter().zip(headings) {
            push(&mut table, format_args!("<td{}>{cell}</td>", class(heading)));
        }
        table.push_str("</tr>\n");
    }
    table + "</tbody>\n</table>\n"
}

fn verdict(verdict: Verdict) -> String {
    let class = match verdict {
        Verdict::Passed => "good",
        Verdict::Failed => "bad",
        Verdict::Skipped => "soft",
    };
    format!("<span class=\"{class}\">{}</span>", word(verdict))
}

fn checks(checks: &[EngineCheck]) -> String {
    let row = |check: &EngineCheck| {
        let says = format!("<pre>{}</pre>", escape(&check.says.join("\n")));
        [escape(&check.check), verdict(check.verdict), says]
    };
    table(&["Check", "Result", "What the engine said"], checks.iter().map(row))
}

fn row_table(rows: &RowCheck) -> String {
    let number = |rows: Option<u64>| rows.map_or_else(|| "–".to_owned(), units::grouped);
    let row = |table: &TableRows| {
        let about = if table.exact || table.recorded.is_none() { "" } else { "about " };
        let recorded = format!("{about}{}", number(table.recorded));
        [escape(&table.table), recorded, number(table.counted), verdict(table.verdict)]
    };
    let mut tables: Vec<&TableRows> = rows.tables.iter().collect();
    // What is wrong comes first.
    tables.sort_by_key(|table| table.verdict != Verdict::Failed);
    let shown = tables.iter().take(TABLES_MAX).map(|table| row(table));
    let more = tables.len().saturating_sub(TABLES_MAX);
    let more = match more {
        0 => String::new(),
        _ => format!("<p class=\"soft\">{more} more tables are in the record.</p>\n"),
    };
    format!("<p>{}: {}</p>\n", verdict(rows.verdict), escape(&rows.basis))
        + &table(&["Table", "#Recorded", "#Counted", "Result"], shown)
        + &more
}

fn assertions(assertions: &[Assertion]) -> String {
    let row = |assertion: &Assertion| {
        let code = |text: &str| format!("<pre>{}</pre>", escape(text));
        let answer = assertion.answered.as_ref().or(assertion.error.as_ref());
        [
            code(&assertion.sql),
            code(&assertion.expected),
            answer.map_or_else(String::new, |answer| code(answer)),
            verdict(assertion.verdict),
        ]
    };
    table(&["Statement", "Expected", "Answer", "Result"], assertions.iter().map(row))
}

fn particulars(record: &DrillRecord) -> String {
    let mut rows = Vec::new();
    let mut add = |label: &str, value: &str| {
        rows.push([label.to_owned(), escape(value)]);
    };
    if let Some(backup) = &record.backup {
        add("Backup", &format!("{}, state of {}", backup.id, time(backup.at)));
        add("Engine", &format!("{} {}", backup.engine, backup.engine_version));
    }
    if let Some(presented) = &record.presented {
        add("Presented", &presented.told());
    }
    if let Some(reached) = &record.reached {
        let position = reached.engine_position.as_ref().or(reached.position.as_ref());
        add("Position reached", position.map_or("–", String::as_str));
        add("Transactions replayed", &units::grouped(reached.transactions));
    }
    add("Sandbox", record.sandbox.as_deref().unwrap_or("was not opened"));
    add("Afterwards", &record.teardown);
    add("Repository", &record.repository);
    for note in &record.notes {
        add("Note", note);
    }
    table(&["What", "How"], rows)
}
