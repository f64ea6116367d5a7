//! From the command line to the exit status.

use std::{
    env,
    ffi::OsString,
    io::IsTerminal,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::pin,
    process::ExitCode,
};

use clap::{
    ArgMatches, CommandFactory, Parser,
    error::{ContextKind, ContextValue, ErrorKind as Misuse},
};
use stillpoint_contract::{Error, ErrorKind, Result, code};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing::Instrument as _;
use tracing_subscriber::EnvFilter;

use super::{
    advice,
    answer::{self, Format, complain},
    archive, archiver,
    args::{Command, Typed},
    backup, check, completion, config, copy, demo, doctor, drill,
    environment::Environment,
    evidence, exit, fetch, forget, grants, init, list, logs, man, mount,
    page::Look,
    pickup, process, repo,
    report::{self, Run},
    restore,
    retention::{event, expire, explain, hold},
    schedule, serve,
    session::{Session, Signal},
    show, timeline, verify,
    zone::Zone,
};
use crate::world::World;

/// Does what the command line says. Returns the exit status; everything is printed by then.
pub fn main(world: World) -> ExitCode {
    let environment = Environment::of_process();
    let arguments: Vec<OsString> = env::args_os().collect();
    let typed = match Typed::try_parse_from(&arguments) {
        Ok(typed) => typed,
        Err(misuse) => {
            let run = Run::new(&*world.entropy, String::new(), Vec::new());
            let is_fetch = means_fetch(&arguments);
            let misuse = without_hidden(misuse);
            return ExitCode::from(explain(&misuse, &arguments, &environment, &run, is_fetch));
        }
    };
    let is_fetch = typed.command.is_fetch();
    let run = || {
        trace(&typed, &environment);
        start(world, environment, typed, arguments)
    };
    // The status of a panic is one that a server takes for the end of the log.
    let status = catch_unwind(AssertUnwindSafe(run));
    let status =
        status.unwrap_or_else(|why| if is_fetch { fetch::GIVE_UP } else { resume_unwind(why) });
    ExitCode::from(status)
}

fn start(world: World, environment: Environment, mut typed: Typed, words: Vec<OsString>) -> u8 {
    if let Some(place) = typed.command.place() {
        typed.global.repo = Some(place.to_owned());
    }
    let plain = plain_look(&environment);
    let format = typed.global.output;
    let run = Run::new(&*world.entropy, advice::repeated_options(&typed.global), words);
    let own = run.clone();
    let (tell, stop) = watch::channel(None);
    let is_fetch = typed.command.is_fetch();
    let session = Session::resolve(world, environment, typed.global, own, stop);
    // Whatever goes wrong in a look, the whole command finds again, and tells.
    let look = |session| catch_unwind(AssertUnwindSafe(|| at_hand(session, &typed.command)));
    if let Some(Ok(Some(status))) = session.as_ref().ok().map(look) {
        return status;
    }
    let session = session.and_then(|session| Ok((session, runtime(is_fetch)?)));
    match session {
        Ok((session, runtime)) => {
            let span = match format {
                Format::Json => tracing::error_span!("run", trace = run.trace),
                Format::Text => tracing::Span::none(),
            };
            let work = supervise(&session, typed.command, &tell).instrument(span);
            let status = catch_unwind(AssertUnwindSafe(|| runtime.block_on(work)));
            // A thread that waits for a file or a terminal must not keep the process alive.
            runtime.shutdown_background();
            status.unwrap_or_else(|why| resume_unwind(why))
        }
        Err(error) => {
            let status = failure(error.kind(), is_fetch);
            complain(&report::render(&error, status, format, &plain, &run));
            status
        }
    }
}

/// What needs no more than a look: servers run these commands for each file, and wait for them.
fn at_hand(session: &Session, command: &Command) -> Option<u8> {
    match command {
        Command::WalPush(options) | Command::Logs(logs::Command::Push(options)) => {
            archive::is_noted(session, options).then_some(exit::OK)
        }
        Command::WalGet(options) | Command::Logs(logs::Command::Get(options)) => {
            fetch::take(session, options).then_some(exit::OK)
        }
        Command::MountGuard(options) => Some(mount::guard(options)),
        _ => None,
    }
}

/// The exit status of a failure. A server that replays must not take it for the end of the log.
fn failure(kind: ErrorKind, is_fetch: bool) -> u8 {
    if is_fetch { fetch::GIVE_UP } else { exit::status(kind) }
}

/// A runtime with a thread of its own, unless that must not fail: where the system refuses a
/// thread, it panics or waits for ever. A second one would be woken for each task, to find that the
/// first has taken it: what takes long runs elsewhere.
fn runtime(is_fetch: bool) -> Result<Runtime> {
    let mut builder =
        if is_fetch { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    let built = builder.worker_threads(1).enable_all().build();
    built.map_err(|cause| Error::bug("start the runtime").caused_by(cause))
}

/// Runs the command until it ends, a signal stops it or its time is up.
async fn supervise(
    session: &Session,
    command: Command,
    tell: &watch::Sender<Option<Signal>>,
) -> u8 {
    let (stops_itself, is_fetch) = (command.stops_itself(), command.is_fetch());
    let ends_at = session.ends_at.map(|end| end + command.grace());
    let mut work = Box::pin(dispatch(session, command));
    let mut signals = pin!(next_signal());
    let mut deadline = pin!(async {
        let clock = &session.world.clock;
        match ends_at {
            Some(end) => clock.sleep(end.saturating_sub(clock.elapsed())).await,
            None => std::future::pending().await,
        }
    });
    let mut told = None;
    loop {
        tokio::select! {
            biased;
            outcome = &mut work => return match (outcome, told) {
                (Ok(_), Some(signal)) => Signal::status(signal),
                (Ok(status), None) => status,
                (Err(error), told) => {
                    let own = told.filter(|_| error.kind() == ErrorKind::Interrupted);
                    let status = failure(error.kind(), is_fetch);
                    session.report(&what_stays(session, error), own.map_or(status, Signal::status))
                }
            },
            signal = &mut signals => {
                if !stops_itself || told.is_some() {
                    // Only then it is known what stays.
                    drop(work);
                    let error = what_stays(session, interrupted(signal));
                    return session.report(&error, signal.status());
                }
                told = Some(signal);
                tell.send_replace(told);
                signals.set(next_signal());
            }
            () = &mut deadline => {
                drop(work);
                let error = what_stays(session, out_of_time());
                return session.report(&error, failure(error.kind(), is_fetch));
            }
        }
    }
}

/// The error of work that a signal ended.
pub(crate) fn interrupted(signal: Signal) -> Error {
    Error::new(ErrorKind::Interrupted, code::INTERRUPTED, "finish")
        .with("signal", signal.name())
        .why(WHOLE)
}

/// How work is given up that leaves nothing.
const WHOLE: &str = "nothing half-done is visible, and what was committed before stays";

/// Adds what could not be taken back.
fn what_stays(session: &Session, error: Error) -> Error {
    let left = session.take_left();
    let is_half = !left.is_empty() && error.code() == code::INTERRUPTED;
    let error = if is_half { error.why(HALF) } else { error };
    left.into_iter().fold(error, |error, what| error.with("what stays", what))
}

/// How work is given up whose beginnings could not be taken back in time.
const HALF: &str = "what was begun could not be taken back in time, and stays under a passing name";

/// The error of work that was not done in time.
pub(crate) fn out_of_time() -> Error {
    Error::new(ErrorKind::TimedOut, code::INTERRUPTED, "finish within --timeout")
        .why(WHOLE)
        .next("run the same command again: what is stored already is not stored twice")
}

async fn next_signal() -> Signal {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    let mut hangup =
        if process::ignores_hangup() { None } else { signal(SignalKind::hangup()).ok() };
    let hung_up = async {
        match &mut hangup {
            Some(hangup) => drop(hangup.recv().await),
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = interrupt.recv() => Signal::Interrupt,
        _ = terminate.recv() => Signal::Terminate,
        () = hung_up => Signal::HangUp,
    }
}

/// Does what was typed. First of all, what killed commands left behind is removed, unless a server
/// waits for this one.
async fn dispatch(session: &Session, command: Command) -> Result<u8> {
    if command.has_time() {
        drill::sweep(session, command.scratch()).await;
    }
    match command {
        Command::Init(options) => init::run(session, options).await?,
        Command::Backup(options) => return Box::pin(backup::run(session, options)).await,
        Command::List(options) => list::run(session, options).await?,
        Command::Show(options) => show::run(session, options).await?,
        Command::Timeline(options) => return Box::pin(timeline::run(session, options)).await,
        Command::Logs(command) => return Box::pin(logs::run(session, command)).await,
        Command::WalPush(options) => Box::pin(archive::run_push(session, options)).await?,
        Command::WalGet(options) => return Box::pin(fetch::run_get(session, options)).await,
        Command::Restore(options) => return Box::pin(restore::run(session, options)).await,
        Command::Mount(options) => return Box::pin(mount::run(session, options)).await,
        Command::Drill(command) => return Box::pin(drill::run(session, command)).await,
        Command::Report(command) => return evidence::run(session, command).await,
        Command::Verify(options) => return Box::pin(verify::run(session, options)).await,
        Command::Check(options) => return check::run(session, options).await,
        Command::Doctor(options) => Box::pin(doctor::run(session, &options)).await?,
        Command::Config(command) => return Box::pin(config::run(session, command)).await,
        Command::Schedule(command) => Box::pin(schedule::run(session, command)).await?,
        Command::Serve(options) => Box::pin(serve::run(session, options)).await?,
        Command::Agent(options) => return Box::pin(serve::agent(session, options)).await,
        Command::Status(options) => return Box::pin(serve::status(session, options)).await,
        Command::Plan => return Box::pin(serve::plan(session)).await,
        Command::Apply(options) => return Box::pin(serve::apply(session, options)).await,
        Command::Jobs(command) => return Box::pin(serve::jobs(session, command)).await,
        Command::Endpoint(command) => return Box::pin(serve::endpoint(session, command)).await,
        Command::Db(command) => return Box::pin(serve::db(session, command)).await,
        Command::Audit(command) => return Box::pin(serve::audit(session, command)).await,
        Command::Catalog(command) => serve::catalog(session, command).await?,
        Command::Grants(options) => grants::run(session, options)?,
        Command::Repo(command) => return repo::run(session, command).await,
        Command::Archive(command) => return Box::pin(archiver::run(session, command)).await,
        Command::Forget(options) => forget::run(session, options).await?,
        Command::Expire(options) => expire::run(session, options).await?,
        Command::Copy(command) => return Box::pin(copy::run(session, command)).await,
        Command::Pickup(command) => return Box::pin(pickup::run(session, command)).await,
        Command::Explain(command) => return Box::pin(explain::run(session, command)).await,
        Command::Hold(command) => return Box::pin(hold::run(session, command)).await,
        Command::Event(command) => return Box::pin(event::run(session, command)).await,
        Command::Demo(options) => demo::run(session, options).await?,
        Command::MountGuard(options) => return Ok(mount::guard(&options)),
        Command::DemoCustomer(options) => demo::serve_customer(session, options).await?,
        Command::Completion(options) => completion::run(session, &options)?,
        Command::Man(options) => man::run(session, &options)?,
    }
    Ok(exit::OK)
}

/// Tells what is wrong with the command line, or prints the help or version it asks for.
fn explain(
    misuse: &clap::Error,
    arguments: &[OsString],
    environment: &Environment,
    run: &Run,
    is_fetch: bool,
) -> u8 {
    let text = misuse.render();
    match misuse.kind() {
        Misuse::DisplayHelp | Misuse::DisplayVersion => {
            let look = plain_look(environment);
            let colour = std::io::stdout().is_terminal() && look.colour;
            let text = if colour { text.ansi().to_string() } else { text.to_string() };
            let failed = failure(ErrorKind::Bug, is_fetch);
            return answer::print(&text).map_or(failed, |()| exit::OK);
        }
        Misuse::DisplayHelpOnMissingArgumentOrSubcommand => {
            complain(&text.to_string());
            return failure(ErrorKind::Invalid, is_fetch);
        }
        _ => {}
    }
    let error = misused(&text.to_string());
    let status = failure(error.kind(), is_fetch);
    let (format, look) = (asked_format(arguments), plain_look(environment));
    complain(&report::render(&error, status, format, &look, run));
    status
}

/// Whether a server that replays waits for a command that was not understood. Where it is not even
/// known which command that is, the words decide: an end that is told to such a server in error
/// loses it the rest of the log.
fn means_fetch(arguments: &[OsString]) -> bool {
    let is_there = |name: &str| arguments.iter().any(|word| word == name);
    let understood = Typed::command().ignore_errors(true).try_get_matches_from(arguments).ok();
    match understood.as_ref().and_then(ArgMatches::subcommand) {
        Some(("wal-get", _)) => true,
        Some(("logs", inner)) => {
            inner.subcommand_name().map_or_else(|| is_there("get"), |name| name == "get")
        }
        Some(_) => false,
        None => is_there("wal-get") || (is_there("logs") && is_there("get")),
    }
}

/// Leaves out of the parser's tips what is a part of other commands.
fn without_hidden(mut misuse: clap::Error) -> clap::Error {
    let all = Typed::command();
    let is_shown =
        |name: &String| all.find_subcommand(name).is_none_or(|command| !command.is_hide_set());
    let offered = match misuse.remove(ContextKind::SuggestedSubcommand) {
        Some(ContextValue::Strings(mut names)) => {
            names.retain(is_shown);
            (!names.is_empty()).then_some(ContextValue::Strings(names))
        }
        other => other,
    };
    if let Some(offered) = offered {
        misuse.insert(ContextKind::SuggestedSubcommand, offered);
    }
    misuse
}

/// Our form of what the parser says: its first paragraph is the cause, its tips are advice.
fn misused(text: &str) -> Error {
    let paragraphs: Vec<String> = text
        .trim_start_matches("error: ")
        .split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let mut error = Error::new(ErrorKind::Invalid, code::USAGE, "understand the command line")
        .caused_by(paragraphs.first().cloned().unwrap_or_default());
    for paragraph in paragraphs.iter().skip(1) {
        if let Some(usage) = paragraph.strip_prefix("Usage: ") {
            error = error.with("usage", usage);
        } else if let Some(tip) = paragraph.strip_prefix("tip: ") {
            error = error.with("tip", tip);
        }
    }
    error.next("stillpoint --help")
}

/// The form of errors, where the command line as a whole was not understood.
fn asked_format(arguments: &[OsString]) -> Format {
    let words: Vec<_> = arguments.iter().filter_map(|word| word.to_str()).collect();
    let apart = words.windows(2).any(|pair| matches!(pair, ["-o" | "--output", "json"]));
    if apart || words.iter().any(|word| matches!(*word, "-ojson" | "-o=json" | "--output=json")) {
        Format::Json
    } else {
        Format::Text
    }
}

fn plain_look(environment: &Environment) -> Look {
    let colour = std::io::stderr().is_terminal() && !environment.refuses_colour();
    Look { colour, width: 80, zone: Zone::UTC }
}

fn trace(typed: &Typed, environment: &Environment) {
    let global = &typed.global;
    // The FUSE library warns of mounts that are gone already, which is how most of them end.
    let level = match (global.quiet, global.verbose) {
        (true, _) => "error,fuser=off",
        (false, 0) if !matches!(typed.command, Command::Serve(_) | Command::Agent(_)) => {
            "warn,fuser=off"
        }
        (false, 0 | 1) => "stillpoint=info,warn,fuser=off",
        (false, 2) => "stillpoint=debug,info",
        (false, _) => "trace",
    };
    let filter = environment.get("STILLPOINT_LOG").unwrap_or(level);
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && !environment.refuses_colour())
        .with_target(false);
    // Somebody who runs us twice in one process keeps the first subscriber.
    drop(match global.output {
        Format::Text => subscriber.try_init(),
        Format::Json => subscriber.json().try_init(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misused_command_line_is_told_like_every_other_failure() {
        let misuse = Typed::try_parse_from(["stillpoint", "restore", "app.db", "--too", "x"]);
        let error = misused(&misuse.unwrap_err().render().to_string());
        let look = Look { colour: false, width: 80, zone: Zone::UTC };
        let run = Run { trace: "00c0ffee".to_owned(), options: String::new(), words: Vec::new() };
        let text = report::render(&error, 2, Format::Text, &look, &run);
        assert!(
            text.starts_with(
                "error[SP0100]: could not understand the command line: \
                 unexpected argument '--too' found\n"
            ),
            "{text}"
        );
        assert!(text.contains("'--to'") && text.ends_with("  (exit 2)\n"), "{text}");
    }

    #[test]
    fn what_a_server_waits_for_is_told_from_other_commands() {
        let means_fetch = |line: &str| {
            let words: Vec<_> = line.split(' ').map(OsString::from).collect();
            assert!(Typed::try_parse_from(&words).is_err(), "{line}");
            means_fetch(&words)
        };
        for line in [
            "stillpoint wal-get --what",
            "stillpoint --repo archive wal-get",
            "stillpoint logs get --what",
            "stillpoint logs --what get x y",
            "stillpoint -o nothing wal-get x y",
            "stillpoint --what logs get x y",
        ] {
            assert!(means_fetch(line), "{line}");
        }
        for line in [
            "stillpoint archive get orders",
            "stillpoint --repo logs archive get orders",
            "stillpoint archive get wal-get --what",
            "stillpoint archive --what get orders",
            "stillpoint logs push",
            "stillpoint backup get wal-get",
        ] {
            assert!(!means_fetch(line), "{line}");
        }
    }

    #[test]
    fn no_tip_names_a_command_that_is_part_of_another() {
        for (typed, offered) in [("demo-cust", "'demo'"), ("mount-gard", "'mount'")] {
            let misuse = Typed::try_parse_from(["stillpoint", typed]).unwrap_err();
            let text = without_hidden(misuse).render().to_string();
            let tip = text.lines().find(|line| line.contains("tip:")).unwrap();
            assert!(tip.ends_with(offered) && tip.matches('\'').count() == 2, "{text}");
        }
    }

    #[test]
    fn the_form_of_errors_is_known_before_the_rest_is_understood() {
        let format =
            |words: &[&str]| asked_format(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(format(&["stillpoint", "-o", "json", "--nonsense"]), Format::Json);
        assert_eq!(format(&["stillpoint", "--output=json"]), Format::Json);
        assert_eq!(format(&["stillpoint", "--output", "text"]), Format::Text);
    }
}
