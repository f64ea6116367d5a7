//! `stillpoint config check`: everything that is wrong, at once.

use serde::Serialize;
use stillpoint_contract::{ErrorKind, Result};

use super::{
    super::{answer::Answer, exit, page::Page, session::Session, units::count},
    files,
};
use crate::config::Loaded;

#[derive(Debug, Serialize)]
struct CheckAnswer {
    files: Vec<String>,
    errors: usize,
    warnings: usize,
    problems: Vec<Told>,
    #[serde(skip)]
    texts: Vec<String>,
}

/// A problem on the wire.
#[derive(Debug, Serialize)]
struct Told {
    code: String,
    warning: bool,
    what: String,
    help: Option<String>,
    file: Option<String>,
    line: Option<usize>,
    column: Option<usize>,
}

impl Answer for CheckAnswer {
    const SCHEMA: &'static str = "config-check/1";

    fn write(&self, page: &mut Page<'_>) {
        for text in &self.texts {
            page.line(text);
        }
        let errors = count(self.errors as u64, "error", "errors");
        let warnings = count(self.warnings as u64, "warning", "warnings");
        let files = count(self.files.len() as u64, "file", "files");
        page.line(format!("{errors}, {warnings} in {files}. Nothing was changed."));
    }
}

/// Checks the configuration.
pub(super) fn run(session: &Session) -> Result<u8> {
    let loaded = files::read(session)?;
    let answer = answer(&loaded, session.out.colour);
    session.answer(&answer)?;
    Ok(if loaded.is_sound() { exit::OK } else { exit::status(ErrorKind::Config) })
}

fn answer(loaded: &Loaded, with_colour: bool) -> CheckAnswer {
    let problems = &loaded.problems;
    let told = problems.iter().map(|problem| {
        let place = problem.place(&loaded.sources);
        Told {
            code: problem.code.to_string(),
            warning: problem.is_warning,
            what: problem.what.clone(),
            help: problem.help.clone(),
            file: place.map(|(file, ..)| file.to_owned()),
            line: place.map(|(_, line, _)| line),
            column: place.map(|(.., column)| column),
        }
    });
    let warnings = problems.iter().filter(|problem| problem.is_warning).count();
    let own = loaded.sources.len().saturating_sub(1);
    CheckAnswer {
        files: loaded.sources.iter().take(own).map(|source| source.path.clone()).collect(),
        errors: problems.len() - warnings,
        warnings,
        problems: told.collect(),
        texts: problems
            .iter()
            .map(|problem| problem.render(&loaded.sources, with_colour))
            .collect(),
    }
}
