//! `stillpoint man`: manual pages, generated from the command line's own description.

use std::{fmt::Write as _, io};

use clap::{Args, CommandFactory};
use clap_mangen::Man;
use serde::Serialize;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    answer::Answer,
    args::{self, Typed},
    exit,
    page::Page,
    session::Session,
};

/// What `man` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The command, such as `restore` or `repo gc`; all of Stillpoint if none is given.
    command: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ManAnswer {
    page: String,
}

impl Answer for ManAnswer {
    const SCHEMA: &'static str = "man/1";

    fn write(&self, page: &mut Page<'_>) {
        page.line(self.page.trim_end());
    }
}

/// Prints the page.
pub(crate) fn run(session: &Session, options: &Options) -> Result<()> {
    session.answer(&ManAnswer { page: page(&options.command)? })
}

fn page(path: &[String]) -> Result<String> {
    let mut root = Typed::command();
    root.build();
    let mut command = &root;
    for name in path {
        command = command.find_subcommand(name).filter(|c| !c.is_hide_set()).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, code::USAGE, "find the command")
                .with("command", path.join(" "))
                .next("stillpoint --help")
        })?;
    }
    // What is said in sections of their own below need not follow the options as well.
    let command = command.clone().after_help("").after_long_help("");
    let man = Man::new(command);
    let mut text = Vec::new();
    write(&man, &mut text).map_err(|cause| Error::bug("write a manual page").caused_by(cause))?;
    let mut text = String::from_utf8_lossy(&text).into_owned();
    append(&mut text).expect("a String grows");
    Ok(text)
}

fn write(man: &Man, text: &mut Vec<u8>) -> io::Result<()> {
    man.render_title(text)?;
    man.render_name_section(text)?;
    man.render_synopsis_section(text)?;
    man.render_description_section(text)?;
    man.render_options_section(text)?;
    man.render_subcommands_section(text)
}

/// The sections that every page ends with.
fn append(text: &mut String) -> std::fmt::Result {
    writeln!(text, ".SH \"EXIT STATUS\"")?;
    for (status, meaning) in exit::MEANINGS {
        writeln!(text, ".TP\n\\fB{status}\\fR\n{meaning}")?;
    }
    writeln!(text, ".SH ENVIRONMENT")?;
    for line in args::ENVIRONMENT.lines() {
        let (name, meaning) = line.trim().split_once("  ").unwrap_or((line.trim(), ""));
        writeln!(text, ".TP\n\\fB{name}\\fR\n{}", meaning.trim())?;
    }
    writeln!(
        text,
        ".SH OUTPUT\nAnswers go to standard output, everything else to standard error. With \
         \\fB\\-\\-output json\\fR each answer is one line, a JSON object whose field \
         \\fIschema\\fR names its form and version; a failure is such a line on standard error \
         (\\fIstillpoint.error/1\\fR), and standard output stays empty."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_its_exit_statuses() {
        fn look_at(command: &clap::Command, path: &[String]) {
            let page = page(path).unwrap();
            assert!(page.contains("EXIT STATUS") && page.contains("corruption found"), "{path:?}");
            for below in command.get_subcommands().filter(|c| !c.is_hide_set()) {
                look_at(below, &[path, &[below.get_name().to_owned()]].concat());
            }
        }
        look_at(&Typed::command(), &[]);
        assert!(page(&["nonsense".to_owned()]).is_err());
    }
}
