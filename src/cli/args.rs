//! What was typed. Reading it cannot fail on the world: no file, terminal or repository is looked
//! at here. The help, the manual pages and the completions are generated from it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

use super::{
    answer::Format,
    archive, archiver, backup, check, completion, config, copy, demo, doctor, drill, evidence,
    exit, fetch, forget, grants, init, list, logs, man, mount, pickup, repo, restore,
    retention::{event, expire, explain, hold},
    schedule, serve, show, timeline, verify,
};

/// Back up live databases online, capture their logs, and restore any moment in between.
///
/// A backup never blocks the application, is consistent at one commit, and can be restored on its
/// own. With the log captured as well, every commit in between can be restored.
#[derive(Debug, Parser)]
#[command(
    name = "stillpoint",
    version,
    after_help = AFTER_HELP,
    after_long_help = after_long_help(),
    disable_help_subcommand = true,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub(crate) struct Typed {
    /// What goes for every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  stillpoint init --repo DIR
  stillpoint backup sqlite:app.db --repo DIR
  stillpoint logs stream sqlite:app.db --repo DIR
  stillpoint restore app.db --repo DIR --at \"2026-11-21 13:20:05\" --to restored.db";

fn after_long_help() -> String {
    let line = |(status, meaning): &(u8, &str)| format!("  {status:>3}  {meaning}");
    let statuses = exit::MEANINGS.iter().map(line).collect::<Vec<_>>().join("\n");
    format!("{AFTER_HELP}\n\nExit status:\n{statuses}\n\nEnvironment:\n{ENVIRONMENT}")
}

pub(crate) const ENVIRONMENT: &str = "  \
  STILLPOINT_REPO             the repository, where --repo is not given
  STILLPOINT_PASSPHRASE_FILE  a file with its passphrase, where --passphrase-file is not given
  STILLPOINT_KEY_FILE         its key file, where --key-file is not given
  STILLPOINT_CONFIG           the configuration, where --config is not given
  TZ                          the zone of times that name none
  NO_COLOR, COLUMNS           no colour; the width of lines
  XDG_STATE_HOME              where the newest state seen of each repository is remembered
  PG*                         connections to PostgreSQL, as its own programs understand them
  AWS_*, AZURE_*, GOOGLE_*    credentials and endpoints of object stores";

/// Options that go for every command.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The repository: a directory, or the URL of a bucket (s3://, az://, gs://).
    #[arg(long, global = true, value_name = "DIR|URL", value_hint = ValueHint::DirPath)]
    pub repo: Option<String>,
    /// A file with the repository's passphrase; - is standard input. Otherwise it is asked for.
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub passphrase_file: Option<PathBuf>,
    /// A key file that opens the repository.
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath,
          conflicts_with = "passphrase_file")]
    pub key_file: Option<PathBuf>,
    /// A file with the printed recovery key.
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath,
          conflicts_with_all = ["passphrase_file", "key_file"])]
    pub recovery_key_file: Option<PathBuf>,
    /// The configuration; files in conf.d beside it add to it.
    #[arg(short, long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// The form of the answer, and of an error.
    #[arg(short, long, global = true, value_name = "FORM", default_value = "text")]
    pub output: Format,
    /// The zone in which times are read and printed, such as Europe/Berlin [default: the system's].
    #[arg(long, global = true, value_name = "ZONE")]
    pub timezone: Option<String>,
    /// Print errors only, besides the answer.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Tell what is being done; twice: in detail.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// When to use colour.
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: Colour,
    /// Show no progress.
    #[arg(long, global = true)]
    pub no_progress: bool,
    /// Give up after this long, such as 90s or 2h; nothing half-done will be visible.
    #[arg(long, global = true, value_name = "LENGTH")]
    pub timeout: Option<String>,
}

/// When to use colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Colour {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Also into files and pipes.
    Always,
    /// Nowhere.
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a repository.
    Init(init::Options),
    /// Back up a database while it is in use.
    Backup(backup::Options),
    /// List databases and their backups.
    List(list::Options),
    /// Show everything about one backup.
    Show(show::Options),
    /// Show which moments of a database can be restored.
    Timeline(timeline::Options),
    /// Capture a database's log between backups.
    #[command(subcommand)]
    Logs(logs::Command),
    /// Restore a database, as it was at any captured moment, into a new place; or tables of it
    /// into a live one.
    Restore(restore::Options),
    /// Show a backup as files, which are fetched when they are read.
    ///
    /// It stays until it is unmounted or stopped. Nothing is copied beforehand, whatever its size;
    /// every byte is verified, and one that is damaged is an error to whoever reads it.
    Mount(mount::Options),
    /// Prove that a database can be restored, in a throw-away server.
    #[command(subcommand)]
    Drill(drill::Command),
    /// Look after what drills proved.
    #[command(subcommand)]
    Report(evidence::Command),
    /// Read backups back and prove that they are intact.
    Verify(verify::Options),
    /// Check that every backup is complete and every database recent enough; or, with the URL of
    /// a database, what its server lacks for being protected.
    Check(check::Options),
    /// Tell whether this machine has what the configuration asks of it.
    ///
    /// By what was recorded of backups and jobs, and by limits that this program keeps to: nothing
    /// is measured for it.
    Doctor(doctor::Options),
    /// Look after the configuration: policies as code.
    #[command(subcommand)]
    Config(config::Command),
    /// Look at what will run, and when.
    #[command(subcommand)]
    Schedule(schedule::Command),
    /// Run the policies: back up, capture log and rehearse restores when they are due, and tell
    /// whoever has to know when a promise is broken.
    ///
    /// It runs what was applied; the first time, it applies the configuration itself. SIGTERM
    /// lets running jobs end, for a minute.
    Serve(serve::Options),
    /// Work beside databases that only this host reaches: do what `serve` has decided for them.
    ///
    /// It takes what names it from the state database that it shares with whoever serves, and
    /// brings backups to the repository itself. It listens nowhere and decides nothing. SIGTERM
    /// lets running jobs end, for a minute.
    Agent(serve::AgentOptions),
    /// Show whether every promise is kept.
    Status(serve::StatusOptions),
    /// Show what the configuration would change, and what follows from it; changes nothing.
    ///
    /// Ends with 10 where anything would change.
    Plan,
    /// Make the configuration the one that holds.
    Apply(serve::ApplyOptions),
    /// Look at what waits, runs and has ended.
    #[command(subcommand)]
    Jobs(serve::JobsCommand),
    /// Look after the endpoints of databases: where they are, as they come and go.
    #[command(subcommand)]
    Endpoint(serve::EndpointCommand),
    /// Pause, resume, retire, adopt or forget a database.
    #[command(subcommand)]
    Db(serve::DbCommand),
    /// Look at who did what.
    #[command(subcommand)]
    Audit(serve::AuditCommand),
    /// Look after what the state database knows.
    #[command(subcommand)]
    Catalog(serve::CatalogCommand),
    /// Print the statements that make a role with the least privileges.
    Grants(grants::Options),
    /// Look after the repository itself.
    #[command(subcommand)]
    Repo(repo::Command),
    /// Move historical rows out of live tables into files, and look after those.
    #[command(subcommand)]
    Archive(archiver::Command),
    /// Give up backups that are no longer wanted.
    Forget(forget::Options),
    /// Give up what the policies do not keep any more.
    ///
    /// Only backups that were verified stand for others, so nothing goes before a newer one was
    /// read back; the newest verified ones never go.
    Expire(expire::Options),
    /// Look after second copies of backups: what they have, and what they lack.
    #[command(subcommand)]
    Copy(copy::Command),
    /// Look after files that applications left to be backed up.
    #[command(subcommand)]
    Pickup(pickup::Command),
    /// Tell why something is as it is.
    #[command(subcommand)]
    Explain(explain::Command),
    /// Forbid to remove something.
    #[command(subcommand)]
    Hold(hold::Command),
    /// Look after events from which retention counts.
    #[command(subcommand)]
    Event(event::Command),
    /// See the whole product at work for a minute, on a database made for it.
    Demo(demo::Options),
    /// Print a script that completes commands in a shell.
    Completion(completion::Options),
    /// Print a manual page.
    Man(man::Options),
    /// Archive a file of log: `logs push`, as archive_command calls it.
    ///
    /// Ends with 0 once the file is durable in the repository. Files that wait behind it are stored
    /// along with it, so that the calls for them return at once.
    WalPush(archive::PushOptions),
    /// Fetch a file of log: `logs get`, as restore_command calls it.
    ///
    /// Ends with 1 when there is no such file, and with 126 after any failure, so that a server
    /// stops replaying instead of taking the log for ended. Files that follow are fetched ahead.
    WalGet(fetch::GetOptions),
    /// Part of mounts: ends one whose process was killed.
    #[command(hide = true)]
    MountGuard(mount::GuardOptions),
    /// Part of `demo`: buys things in its shop until standard input ends.
    #[command(hide = true)]
    DemoCustomer(demo::CustomerOptions),
}

impl Command {
    /// The repository that the command itself names, which then goes before `--repo`.
    pub(crate) fn place(&self) -> Option<&str> {
        match self {
            Self::Check(check::Options { place, .. })
            | Self::Repo(repo::Command::Check(check::RepositoryOptions { place })) => {
                place.as_deref()
            }
            _ => None,
        }
    }

    /// Whether a person or a schedule calls it, so that it may look after what others left behind.
    pub(crate) fn has_time(&self) -> bool {
        !matches!(
            self,
            Self::WalPush(_)
                | Self::WalGet(_)
                | Self::Logs(logs::Command::Push(_) | logs::Command::Get(_))
                | Self::Completion(_)
                | Self::Config(_)
                | Self::Doctor(_)
                | Self::Schedule(_)
                | Self::Status(_)
                | Self::Plan
                | Self::Apply(_)
                | Self::Jobs(_)
                | Self::Db(_)
                | Self::Endpoint(_)
                | Self::Audit(_)
                | Self::Catalog(_)
                | Self::Man(_)
                | Self::MountGuard(_)
                | Self::DemoCustomer(_)
        )
    }

    /// The place that was chosen for a sandbox.
    pub(crate) fn scratch(&self) -> Option<&Path> {
        match self {
            Self::Copy(command) => command.scratch(),
            Self::Drill(command) => command.scratch(),
            Self::Mount(options) => options.scratch.as_deref(),
            Self::Restore(options) => options.partial.scratch.as_deref(),
            Self::Serve(options) => options.scratch.as_deref(),
            Self::Agent(options) => options.work.scratch.as_deref(),
            _ => None,
        }
    }

    /// Whether a server that replays waits for it, to which exit statuses mean something else.
    pub(crate) fn is_fetch(&self) -> bool {
        matches!(self, Self::WalGet(_) | Self::Logs(logs::Command::Get(_)))
    }

    /// Whether a signal is left to the command, which then stops by itself and cleanly.
    pub(crate) fn stops_itself(&self) -> bool {
        matches!(
            self,
            Self::Logs(logs::Command::Stream(_))
                | Self::Mount(_)
                | Self::Serve(_)
                | Self::Agent(_)
                | Self::Demo(_)
                | Self::DemoCustomer(_)
        )
    }

    /// How long after its time the command is left alone: it tells that it was late.
    pub(crate) fn grace(&self) -> Duration {
        match self {
            Self::Drill(drill::Command::Run(_)) => Duration::from_secs(20),
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Typed::command().debug_assert();
    }

    #[test]
    fn no_option_takes_a_secret() {
        fn look_at(command: &clap::Command) {
            for argument in command.get_arguments() {
                let name = argument.get_id().as_str();
                let secret = ["passphrase", "password", "secret", "key", "recovery"];
                let takes_secret = secret.iter().any(|word| name.ends_with(word));
                let is_flag = !argument.get_action().takes_values();
                assert!(!takes_secret || is_flag, "{} --{name}", command.get_name());
            }
            command.get_subcommands().for_each(look_at);
        }
        look_at(&Typed::command());
    }

    #[test]
    fn every_command_and_option_says_what_it_does() {
        fn look_at(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument);
            }
            command.get_subcommands().for_each(look_at);
        }
        look_at(&Typed::command());
    }

    #[test]
    fn the_documented_examples_are_understood() {
        for line in AFTER_HELP.lines().skip(1) {
            let words = line.trim().replace("\"2026-11-21 13:20:05\"", "2026-11-21_13:20:05");
            Typed::try_parse_from(words.split(' ')).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
        let back =
            Typed::try_parse_from(["stillpoint", "restore", "a", "--at", "-10m", "--to", "b"]);
        assert!(back.is_ok(), "{back:?}");
    }
}
