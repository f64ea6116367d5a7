//! Text for people, under construction: lines, aligned facts, tables, a little colour.
//!
//! Colour never carries meaning alone: take it away and every word is still there.

use std::fmt::{Display, Write as _};

use chrono::{DateTime, Utc};

use super::zone::Zone;

/// How text shall look on one stream.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    /// Whether escape sequences for colour may be written.
    pub colour: bool,
    /// Columns per line.
    pub width: usize,
    /// The zone in which times are printed.
    pub zone: Zone,
}

/// What a stretch of text is, for those who see colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// The heading of something.
    Strong,
    /// Less important than its surroundings.
    Faint,
    /// As it should be.
    Good,
    /// Worth a look.
    Warning,
    /// Wrong.
    Bad,
}

/// Text under construction.
#[derive(Debug)]
pub(crate) struct Page<'a> {
    look: &'a Look,
    text: String,
}

impl<'a> Page<'a> {
    /// An empty page.
    pub(crate) fn new(look: &'a Look) -> Self {
        Self { look, text: String::new() }
    }

    /// Everything that was written.
    pub(crate) fn into_text(self) -> String {
        self.text
    }

    /// Columns per line.
    pub(crate) fn width(&self) -> usize {
        self.look.width
    }

    /// One line.
    pub(crate) fn line(&mut self, text: impl Display) {
        writeln!(self.text, "{text}").expect("a String grows");
    }

    /// An empty line.
    pub(crate) fn blank(&mut self) {
        self.text.push('\n');
    }

    /// Lines of label and value, the values aligned.
    pub(crate) fn facts<L: AsRef<str>, V: AsRef<str>>(&mut self, indent: usize, facts: &[(L, V)]) {
        let width = facts.iter().map(|(label, _)| columns(label.as_ref())).max().unwrap_or(0);
        for (label, value) in facts {
            let label = pad(&printable(label.as_ref()), width);
            let value = printable(value.as_ref());
            let line = format!("{:indent$}{label}  {value}", "");
            self.line(line.trim_end());
        }
    }

    /// A table: a heading, then rows; columns as wide as their widest cell.
    pub(crate) fn table(&mut self, table: &Table) {
        let mut widths: Vec<usize> = table.heading.iter().map(|cell| columns(cell.0)).collect();
        let rows: Vec<Vec<String>> =
            table.rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(columns(cell));
            }
        }
        let line = |cells: Vec<&str>| {
            let padded = cells.iter().zip(&widths).zip(&table.heading).map(
                |((cell, width), head)| match head.1 {
                    Align::Left => pad(cell, *width),
                    Align::Right => format!("{}{cell}", " ".repeat(width - columns(cell))),
                },
            );
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        let heading = line(table.heading.iter().map(|cell| cell.0).collect());
        self.line(self.look.paint(Tone::Strong, &heading));
        for row in &rows {
            self.line(line(row.iter().map(String::as_str).collect()));
        }
    }

    /// A stretch of text in a tone.
    pub(crate) fn paint(&self, tone: Tone, text: &str) -> String {
        self.look.paint(tone, text)
    }

    /// An instant in the reader's zone.
    pub(crate) fn time(&self, instant: DateTime<Utc>) -> String {
        self.look.zone.show(instant)
    }
}

impl Look {
    /// A stretch of text in a tone, or unchanged without colour.
    pub(crate) fn paint(&self, tone: Tone, text: &str) -> String {
        if !self.colour || text.is_empty() {
            return text.to_owned();
        }
        let sequence = match tone {
            Tone::Strong => "1",
            Tone::Faint => "2",
            Tone::Good => "32",
            Tone::Warning => "33",
            Tone::Bad => "1;31",
        };
        format!("\u{1b}[{sequence}m{text}\u{1b}[0m")
    }
}

/// Rows under a heading.
#[derive(Debug)]
pub(crate) struct Table {
    heading: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

/// Where a column's text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

impl Table {
    /// An empty table. A heading that begins with `>` aligns its column to the right.
    pub(crate) fn new(heading: &[&'static str]) -> Self {
        let column = |name: &&'static str| match name.strip_prefix('>') {
            Some(name) => (name, Align::Right),
            None => (*name, Align::Left),
        };
        Self { heading: heading.iter().map(column).collect(), rows: Vec::new() }
    }

    /// Adds a row with one cell per column.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.heading.len(), "one cell per column");
        self.rows.push(cells);
    }
}

/// Text without characters that would steer a terminal: names come from other people.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escape = c.is_control().then(|| c.escape_default());
            let plain = (!c.is_control()).then_some(c);
            escape.into_iter().flatten().chain(plain)
        })
        .collect()
}

fn columns(text: &str) -> usize {
    text.chars().count()
}

fn pad(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(columns(text))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(colour: bool) -> Look {
        Look { colour, width: 80, zone: Zone::UTC }
    }

    #[test]
    fn columns_are_aligned_and_no_line_ends_in_space() {
        let look = look(false);
        let mut page = Page::new(&look);
        let mut table = Table::new(&["DATABASE", ">SIZE", "WHEN"]);
        table.row(vec!["größe.db".into(), "9 B".into(), String::new()]);
        table.row(vec!["a".into(), "13.4 GiB".into(), "now".into()]);
        page.table(&table);
        page.facts(2, &[("asked", "13:20"), ("at", "x\u{1b}[31m\ny")]);
        assert_eq!(
            page.into_text(),
            "DATABASE      SIZE  WHEN\n\
             größe.db       9 B\n\
             a         13.4 GiB  now\n  \
             asked  13:20\n  \
             at     x\\u{1b}[31m\\ny\n"
        );
    }

    #[test]
    fn colour_adds_nothing_but_colour() {
        let plain = look(false).paint(Tone::Bad, "gap");
        let painted = look(true).paint(Tone::Bad, "gap");
        assert_eq!(plain, "gap");
        assert_eq!(painted, "\u{1b}[1;31mgap\u{1b}[0m");
    }
}
