//! How a failure is told: what, where, why it matters, what to do next, and the exit status.

use std::{error::Error as _, ffi::OsString};

use serde::Serialize;
use stillpoint_contract::{Entropy, Error};

use super::{
    advice::{typed_again, with_options},
    answer::Format,
    exit,
    page::{Look, Page, Tone, printable},
};

/// How many causes of causes are told.
const CAUSES_MAX: usize = 16;

/// A failure on the wire. It goes to standard error, in one line, so that standard output holds
/// either a whole answer or nothing.
#[derive(Serialize)]
struct Wire<'a> {
    schema: &'static str,
    code: String,
    trace: &'a str,
    kind: &'static str,
    exit: u8,
    step: String,
    causes: Vec<String>,
    facts: Vec<Fact<'a>>,
    why: Option<&'a str>,
    next: Vec<String>,
}

#[derive(Serialize)]
struct Fact<'a> {
    label: &'a str,
    value: &'a str,
}

/// Which run of the program failed.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// The name of this run, which everything that it logs as JSON carries as well.
    pub trace: String,
    /// The options that go into the commands that are suggested.
    pub options: String,
    /// What was typed.
    pub words: Vec<OsString>,
}

impl Run {
    /// A run with a name of its own.
    pub(crate) fn new(entropy: &dyn Entropy, options: String, words: Vec<OsString>) -> Self {
        let mut random = [0; 8];
        entropy.fill(&mut random);
        Self { trace: data_encoding::HEXLOWER.encode(&random), options, words }
    }
}

/// A failure in the form that was asked for, ending in a line feed.
pub(crate) fn render(error: &Error, status: u8, format: Format, look: &Look, run: &Run) -> String {
    let advice = error.advice().into_iter();
    let again = |next| typed_again(next, &run.words);
    let next = advice.map(|next| again(next).unwrap_or_else(|| with_options(next, &run.options)));
    let next: Vec<_> = next.collect();
    match format {
        Format::Text => text(error, status, look, &run.trace, &next),
        Format::Json => json(error, status, &run.trace, next),
    }
}

fn text(error: &Error, status: u8, look: &Look, trace: &str, advice: &[String]) -> String {
    let mut page = Page::new(look);
    let chain = [vec![error.to_string()], causes(error)].concat();
    let label = look.paint(Tone::Bad, &format!("error[{}]", error.code()));
    page.line(format!("{label}: could not {}", printable(&chain.join(": "))));
    page.facts(2, &error.facts());
    if let Some(why) = error.reason() {
        page.line(format!("  why it matters: {}", printable(why)));
    }
    for (index, next) in advice.iter().enumerate() {
        let label = if index == 0 { "next:" } else { "     " };
        page.line(format!("  {label} {}", look.paint(Tone::Strong, &printable(next))));
    }
    page.line(look.paint(Tone::Faint, &format!("  trace {trace}  (exit {status})")));
    page.into_text()
}

fn json(error: &Error, status: u8, trace: &str, next: Vec<String>) -> String {
    let facts = error.facts();
    let wire = Wire {
        schema: "stillpoint.error/1",
        code: error.code().to_string(),
        trace,
        kind: exit::word(error.kind()),
        exit: status,
        step: error.to_string(),
        causes: causes(error),
        facts: facts.iter().map(|(label, value)| Fact { label, value }).collect(),
        why: error.reason(),
        next,
    };
    serde_json::to_string(&wire).expect("strings and numbers can be written as JSON") + "\n"
}

/// The causes, outermost first. One that only repeats the end of what was said is left out: some
/// libraries print their cause and return it as well.
fn causes(error: &Error) -> Vec<String> {
    let mut told = error.to_string();
    let mut causes = Vec::new();
    let mut next = error.source();
    for _ in 0..CAUSES_MAX {
        let Some(cause) = next else { break };
        let text = cause.to_string();
        if !text.is_empty() && !told.ends_with(&text) {
            causes.push(text.clone());
            told = text;
        }
        next = cause.source();
    }
    causes
}

#[cfg(test)]
mod tests {
    use std::io;

    use stillpoint_contract::{ErrorKind, code};

    use super::*;
    use crate::cli::zone::Zone;

    fn named() -> Run {
        Run { trace: "00c0ffee".to_owned(), options: String::new(), words: Vec::new() }
    }

    fn sample() -> Error {
        Error::new(ErrorKind::Gap, code::UNREACHABLE_POINT, "reach the chosen time")
            .with("asked", "2025-11-19 04:00:00 Europe/London")
            .with("gap", "03:12:44 - 05:40:10")
            .why("what was committed in the gap was never captured.")
            .next("stillpoint restore shop.db --at 2025-11-19T03:12:44Z")
            .next("stillpoint timeline shop.db")
            .caused_by(io::Error::other("segment 7 is missing"))
            .during("restore shop.db")
    }

    #[test]
    fn a_failure_says_what_where_why_and_what_next() {
        let look = Look { colour: false, width: 80, zone: Zone::UTC };
        let error = sample();
        assert_eq!(
            render(&error, exit::status(error.kind()), Format::Text, &look, &named()),
            "error[SP0704]: could not restore shop.db: reach the chosen time: \
             segment 7 is missing\n  \
             asked  2025-11-19 04:00:00 Europe/London\n  \
             gap    03:12:44 - 05:40:10\n  \
             why it matters: what was committed in the gap was never captured.\n  \
             next: stillpoint restore shop.db --at 2025-11-19T03:12:44Z\n        \
             stillpoint timeline shop.db\n  \
             trace 00c0ffee  (exit 6)\n"
        );
    }

    #[test]
    fn a_failure_is_one_line_for_programs() {
        let look = Look { colour: true, width: 80, zone: Zone::UTC };
        let text = render(&sample(), 6, Format::Json, &look, &named());
        assert_eq!(
            text,
            "{\"schema\":\"stillpoint.error/1\",\"code\":\"SP0704\",\"trace\":\"00c0ffee\",\
             \"kind\":\"gap\",\"exit\":6,\
             \"step\":\"restore shop.db\",\
             \"causes\":[\"reach the chosen time\",\"segment 7 is missing\"],\
             \"facts\":[{\"label\":\"asked\",\"value\":\"2025-11-19 04:00:00 Europe/London\"},\
             {\"label\":\"gap\",\"value\":\"03:12:44 - 05:40:10\"}],\
             \"why\":\"what was committed in the gap was never captured.\",\
             \"next\":[\"stillpoint restore shop.db --at 2025-11-19T03:12:44Z\",\
             \"stillpoint timeline shop.db\"]}\n"
        );
    }

    #[test]
    fn nothing_is_said_twice() {
        let inner = io::Error::other("disk on fire");
        let outer = io::Error::new(inner.kind(), format!("write pack: {inner}"));
        let error = Error::new(ErrorKind::Exhausted, code::STORE_FULL, "back up a.db")
            .caused_by(Error::bug("write pack: disk on fire").caused_by(inner));
        assert_eq!(causes(&error), ["write pack: disk on fire"]);
        let error = Error::bug("back up a.db").caused_by(outer);
        assert_eq!(causes(&error), ["write pack: disk on fire"]);
    }
}
