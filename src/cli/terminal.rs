//! What kind of thing each of our streams is.

use std::io::{self, IsTerminal};

use super::{
    answer::Format,
    args::{Colour, Global},
    environment::Environment,
    page::Look,
    progress::Display,
    zone::Zone,
};

/// Columns where nobody says.
const COLUMNS_DEFAULT: usize = 80;

/// How answers, and errors, shall look.
pub(crate) fn looks(global: &Global, environment: &Environment, zone: &Zone) -> (Look, Look) {
    let look = |is_terminal: bool| Look {
        colour: match global.color {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => is_terminal && !environment.refuses_colour(),
        },
        width: columns(environment),
        zone: zone.clone(),
    };
    (look(io::stdout().is_terminal()), look(io::stderr().is_terminal()))
}

/// Where progress shall be shown.
pub(crate) fn progress(global: &Global, environment: &Environment) -> Display {
    if global.no_progress || global.quiet {
        return Display::Off;
    }
    let smart = environment.get("TERM") != Some("dumb");
    match (io::stderr().is_terminal() && smart, global.output) {
        (true, _) => Display::Line { columns: columns(environment) },
        (false, Format::Text) => Display::Log,
        (false, Format::Json) => Display::Off,
    }
}

fn columns(environment: &Environment) -> usize {
    let said = environment.get("COLUMNS").and_then(|text| text.parse().ok());
    let measured = || {
        let size = rustix::termios::tcgetwinsize(io::stderr()).ok()?;
        Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
    };
    said.or_else(measured).unwrap_or(COLUMNS_DEFAULT).clamp(40, 200)
}
