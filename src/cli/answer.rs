//! What a command says when it is done: one value, printed as text or as JSON.
//!
//! Domain types are never serialised here. Each command has its own wire structs, so that a
//! change inside cannot change what scripts read. A JSON answer is one line that begins with its
//! schema; a field may be added within a version, never renamed, retyped or removed.

use std::io::{self, Write};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::page::{Look, Page};

/// A command's answer.
pub(crate) trait Answer: Serialize {
    /// The answer's name and version, such as `list/1`.
    const SCHEMA: &'static str;

    /// Writes the answer for people.
    fn write(&self, page: &mut Page<'_>);
}

/// The form of answers and errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON document per line.
    Json,
}

/// An instant on the wire: RFC 3339 in UTC, to the microsecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stamp(pub DateTime<Utc>);

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_rfc3339_opts(SecondsFormat::Micros, true))
    }
}

#[derive(Serialize)]
struct Document<'a, A> {
    schema: String,
    #[serde(flatten)]
    answer: &'a A,
}

/// The answer in the form that was asked for, ending in a line feed.
pub(crate) fn render<A: Answer>(answer: &A, format: Format, look: &Look) -> Result<String> {
    match format {
        Format::Text => {
            let mut page = Page::new(look);
            answer.write(&mut page);
            Ok(page.into_text())
        }
        Format::Json => {
            let document = Document { schema: format!("stillpoint.{}", A::SCHEMA), answer };
            serde_json::to_string(&document)
                .map(|text| text + "\n")
                .map_err(|cause| Error::bug("write an answer as JSON").caused_by(cause))
        }
    }
}

/// Writes to standard output. A reader that has gone away has seen enough: that is no failure.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Error::new(ErrorKind::Exhausted, code::FILE, "write to standard output")
            .caused_by(error)),
        Ok(()) => Ok(()),
    }
}

/// Writes to standard error, as well as that goes: there is nobody left to tell of a failure.
pub(crate) fn complain(text: &str) {
    drop(io::stderr().lock().write_all(text.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::zone::Zone;

    #[derive(Serialize)]
    struct Sample {
        at: Stamp,
        size_bytes: u64,
    }

    impl Answer for Sample {
        const SCHEMA: &'static str = "sample/1";

        fn write(&self, page: &mut Page<'_>) {
            page.line(page.time(self.at.0));
        }
    }

    #[test]
    fn an_answer_has_a_schema_and_universal_times() {
        let at = "2026-11-21T13:20:05.25+01:00".parse::<DateTime<Utc>>().unwrap();
        let sample = Sample { at: Stamp(at), size_bytes: u64::MAX };
        let look = Look { colour: false, width: 80, zone: Zone::named("Europe/Berlin").unwrap() };
        assert_eq!(
            render(&sample, Format::Json, &look).unwrap(),
            "{\"schema\":\"stillpoint.sample/1\",\"at\":\"2026-11-21T12:20:05.250000Z\",\
             \"size_bytes\":18446744073709551615}\n"
        );
        assert_eq!(render(&sample, Format::Text, &look).unwrap(), "2026-11-21 13:20:05+01:00\n");
    }
}
