//! One error type for the boundary between drivers, pipeline, repository and coordinator.

use std::{borrow::Cow, error, fmt};

/// The result of crossing the boundary.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller should do about an error.
///
/// Kinds are few on purpose. A new one is justified only when somebody, a program or a person,
/// would act differently because of it. `cli` maps each kind to one exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Try again later: the network, a lock held for a moment, an unknown outcome.
    Transient,
    /// Change the request; trying again will not help.
    Invalid,
    /// Change the configuration or the environment.
    Config,
    /// Grant a privilege, or give the right key or credential.
    Denied,
    /// Free space or raise a quota, then repeat.
    Exhausted,
    /// A limit of time ran out; repeating continues the work.
    TimedOut,
    /// Choose another way: this server, store or version cannot do what was asked.
    Unsupported,
    /// Refused for safety: going on would endanger data. Nothing was changed.
    Refused,
    /// What was asked for does not exist.
    Missing,
    /// History that the request relies on is gone: take a backup, or choose another point.
    Gap,
    /// The source went away while it was being copied; nothing was committed.
    Departed,
    /// Quarantine: stored bytes differ from what was written. Never copy them on.
    Corrupt,
    /// Another process is doing this work; wait for it.
    Busy,
    /// Stop at once: another writer owns this work now.
    Fenced,
    /// The user or the system asked us to stop.
    Interrupted,
    /// Report it: Stillpoint broke one of its own rules.
    Bug,
}

impl ErrorKind {
    /// Whether repeating the same call later can succeed without anybody changing anything.
    pub const fn is_transient(self) -> bool {
        matches!(self, Self::Transient | Self::TimedOut | Self::Busy)
    }
}

/// A stable number for one failure that a person can look up; printed as `SP0107`.
///
/// Numbers are never reused. All of them are listed in [`code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(pub u16);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SP{:04}", self.0)
    }
}

/// Every code there is. Hundreds group by subject.
pub mod code {
    use super::Code;

    /// Something broke one of our own rules.
    pub const BUG: Code = Code(1);
    /// The work was interrupted by a signal.
    pub const INTERRUPTED: Code = Code(2);

    /// A command-line argument cannot be understood.
    pub const USAGE: Code = Code(100);
    /// The scheme of a database or repository URL is unknown.
    pub const UNKNOWN_SCHEME: Code = Code(101);
    /// A time or position cannot be understood.
    pub const BAD_POINT: Code = Code(102);
    /// A name is not allowed.
    pub const BAD_NAME: Code = Code(103);
    /// The configuration has errors.
    pub const BAD_CONFIG: Code = Code(105);
    /// A file of the configuration is not TOML, or not JSON.
    pub const CONFIG_SYNTAX: Code = Code(106);
    /// A key that means nothing in the configuration.
    pub const CONFIG_KEY: Code = Code(107);
    /// A value of another type than belongs there.
    pub const CONFIG_TYPE: Code = Code(108);
    /// A value that cannot be understood, or is out of its bounds.
    pub const CONFIG_VALUE: Code = Code(109);
    /// A key that has to be there.
    pub const CONFIG_LACKS: Code = Code(110);
    /// The same thing is configured twice.
    pub const CONFIG_TWICE: Code = Code(111);
    /// A name of something that is configured nowhere.
    pub const CONFIG_NAME: Code = Code(112);
    /// Copies that are made of each other.
    pub const COPY_CYCLE: Code = Code(141);
    /// A schedule that leaves dates out, or runs twice on them.
    pub const UNEVEN_SCHEDULE: Code = Code(142);
    /// Promises that cannot be kept as configured.
    pub const BROKEN_PROMISE: Code = Code(143);

    /// There is no repository at the place.
    pub const NO_REPOSITORY: Code = Code(200);
    /// There is a repository, or something else, at the place already.
    pub const REPOSITORY_EXISTS: Code = Code(201);
    /// The repository was written by a newer version.
    pub const NEWER_FORMAT: Code = Code(202);
    /// The files at the place are not a Stillpoint repository.
    pub const FOREIGN_REPOSITORY: Code = Code(203);
    /// The repository lacks objects it must have.
    pub const INCOMPLETE_REPOSITORY: Code = Code(204);
    /// The store does not honour create-if-absent.
    pub const SINGLE_WRITER: Code = Code(205);
    /// The repository's history is older than, or differs from, what was seen before.
    pub const ROLLED_BACK: Code = Code(206);
    /// The repository is a copy, to which only copying writes; or it is not the copy it should be.
    pub const REPLICA: Code = Code(207);
    /// The passphrase or key opens none of the repository's key slots.
    pub const WRONG_KEY: Code = Code(210);
    /// A key is needed and none was given.
    pub const NO_KEY: Code = Code(211);
    /// No key slot has that name, or it is the last one.
    pub const KEY_SLOT: Code = Code(212);

    /// The store cannot be reached, or failed for a moment.
    pub const STORE_UNREACHABLE: Code = Code(300);
    /// The store refused access.
    pub const STORE_DENIED: Code = Code(301);
    /// The store is full.
    pub const STORE_FULL: Code = Code(302);
    /// A local file cannot be read or written.
    pub const FILE: Code = Code(303);
    /// The disk of a local file is full.
    pub const FILE_FULL: Code = Code(304);

    /// A stored object does not have the bytes that were written.
    pub const CORRUPT_OBJECT: Code = Code(400);
    /// A stored object is gone.
    pub const MISSING_OBJECT: Code = Code(401);
    /// The repository log is broken.
    pub const BROKEN_LOG: Code = Code(402);
    /// A stretch of captured log does not decode, or its chain is broken.
    pub const BROKEN_SEGMENT: Code = Code(403);

    /// The database cannot be found or opened.
    pub const NO_DATABASE: Code = Code(500);
    /// The file is not a database of that engine, or it is encrypted.
    pub const NOT_A_DATABASE: Code = Code(501);
    /// The database is set up so that the request cannot be served.
    pub const UNSUITABLE_DATABASE: Code = Code(502);
    /// The database is locked by others for longer than we may wait.
    pub const DATABASE_BUSY: Code = Code(503);
    /// The database went away or was replaced while it was being copied.
    pub const SOURCE_VANISHED: Code = Code(504);
    /// This is not the database that owned the name until now.
    pub const FOREIGN_DATABASE: Code = Code(520);

    /// A backup was discarded.
    pub const BACKUP_DISCARDED: Code = Code(600);
    /// Another writer owns the work.
    pub const FENCED: Code = Code(601);
    /// The state database cannot be used.
    pub const STATE: Code = Code(610);
    /// The audit log is not what was written.
    pub const AUDIT: Code = Code(611);
    /// No such job.
    pub const NO_SUCH_JOB: Code = Code(612);
    /// What was planned is not what would be done.
    pub const PLAN: Code = Code(613);
    /// A copy may not run now.
    pub const COPY_PAUSED: Code = Code(614);
    /// What is handed over would exceed the quota of its folder.
    pub const OUTBOX_FULL: Code = Code(615);
    /// Somebody could not be told.
    pub const NOTIFY: Code = Code(620);
    /// An address could not be listened on.
    pub const LISTEN: Code = Code(621);

    /// No such database in the repository.
    pub const NO_SUCH_DATABASE: Code = Code(700);
    /// No such backup in the repository.
    pub const NO_SUCH_BACKUP: Code = Code(701);
    /// The target of a restore exists.
    pub const TARGET_EXISTS: Code = Code(702);
    /// The target of a restore is in use.
    pub const TARGET_IN_USE: Code = Code(703);
    /// The chosen point cannot be reached.
    pub const UNREACHABLE_POINT: Code = Code(704);
    /// What was restored did not pass the engine's own check.
    pub const RESTORE_CHECK_FAILED: Code = Code(705);
    /// The restored copy, or the server that lives, has no such table or database.
    pub const NO_SUCH_TABLE: Code = Code(706);
    /// What is named has no rows of its own that could be brought back.
    pub const NO_TABLE: Code = Code(707);
    /// The server that lives lacks what the restored table or database needs.
    pub const LACKING_TARGET: Code = Code(708);
    /// Somebody holds what is to be removed.
    pub const HELD: Code = Code(709);
    /// No such hold in the repository, or it is released.
    pub const NO_SUCH_HOLD: Code = Code(710);
    /// No such event in the repository, or it does not stand.
    pub const NO_SUCH_EVENT: Code = Code(711);

    /// No such drill in the repository.
    pub const NO_SUCH_DRILL: Code = Code(800);
    /// A statement in a sandbox failed, or its answer is too long.
    pub const SANDBOX_STATEMENT: Code = Code(801);
    /// The server of a sandbox did not start, or ended.
    pub const SANDBOX_SERVER: Code = Code(802);
    /// A backup cannot be mounted here.
    pub const NO_MOUNT: Code = Code(803);

    /// Rows of that table, or selected in that way, cannot be moved.
    pub const ROWS_REFUSED: Code = Code(900);
    /// No such archive set, run or file.
    pub const NO_SUCH_ARCHIVE: Code = Code(901);
    /// What was deleted, or put back, is not what the file holds; nothing was.
    pub const ROWS_DIFFER: Code = Code(902);
    /// A file of archived rows, or what belongs to it, is not what was written.
    pub const ARCHIVE_FILE: Code = Code(903);
    /// The ledger of what was pruned is not what it has to be.
    pub const LEDGER: Code = Code(904);
    /// Rows of that set are being moved by somebody else.
    pub const ROWS_LOCKED: Code = Code(905);
    /// Rows that are to be put back are there already.
    pub const ROWS_CONFLICT: Code = Code(906);
    /// A gate before the deletion of rows is not passed.
    pub const PRUNE_GATE: Code = Code(907);
    /// The key of a file of archived rows is gone, or is not what was written.
    pub const ARCHIVE_KEY: Code = Code(910);
    /// Archived rows cannot be published there, or not in that form.
    pub const ARCHIVE_PUBLISH: Code = Code(911);
}

/// A failed step, what to do about it, and what caused it.
///
/// `Display` names only this step, as a bare verb phrase (`read part base.tar`); causes are
/// reached through `source`, so a chain prints as `could not a: b: c` with nothing said twice.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    code: Code,
    step: Cow<'static, str>,
    facts: Vec<(&'static str, String)>,
    why: Option<Cow<'static, str>>,
    next: Vec<Cow<'static, str>>,
    source: Option<Box<dyn error::Error + Send + Sync>>,
}

impl Error {
    /// An error without a deeper cause.
    pub fn new(kind: ErrorKind, code: Code, step: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            code,
            step: step.into(),
            facts: Vec::new(),
            why: None,
            next: Vec::new(),
            source: None,
        }))
    }

    /// A broken rule of our own.
    pub fn bug(step: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Bug, code::BUG, step)
    }

    /// Attaches the cause.
    pub fn caused_by(mut self, source: impl Into<Box<dyn error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Attaches one fact a person needs, such as `("asked", "2025-11-19 04:00:00")`.
    pub fn with(mut self, label: &'static str, value: impl fmt::Display) -> Self {
        self.0.facts.push((label, value.to_string()));
        self
    }

    /// Says why it matters, in one sentence.
    pub fn why(mut self, why: impl Into<Cow<'static, str>>) -> Self {
        self.0.why = Some(why.into());
        self
    }

    /// Says what to do next, where possible the command to run. May be called several times.
    pub fn next(mut self, next: impl Into<Cow<'static, str>>) -> Self {
        self.0.next.push(next.into());
        self
    }

    /// Wraps this error as the cause of a larger step, keeping its kind and code.
    pub fn during(self, step: impl Into<Cow<'static, str>>) -> Self {
        Self::new(self.kind(), self.code(), step).caused_by(self)
    }

    /// What to do about it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Its stable number.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The facts attached to this error and to the errors that caused it, outermost first.
    pub fn facts(&self) -> Vec<(&'static str, &str)> {
        self.chain().flat_map(|e| e.0.facts.iter().map(|(label, v)| (*label, v.as_str()))).collect()
    }

    /// Why it matters, as the outermost error that knows says it.
    pub fn reason(&self) -> Option<&str> {
        self.chain().find_map(|e| e.0.why.as_deref())
    }

    /// What to do next, as the outermost error that knows says it.
    pub fn advice(&self) -> Vec<&str> {
        self.chain()
            .map(|e| e.0.next.iter().map(AsRef::as_ref).collect::<Vec<_>>())
            .find(|next| !next.is_empty())
            .unwrap_or_default()
    }

    fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |e| e.0.source.as_ref()?.downcast_ref::<Self>())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.step)
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn error::Error + 'static))
    }
}

/// A word as it is typed into a POSIX shell.
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:=@+,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else if word.contains(['"', '$', '`', '\\', '!']) {
        format!("'{}'", word.replace('\'', r"'\''"))
    } else {
        format!("\"{word}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_keeps_kind_code_and_advice_and_says_nothing_twice() {
        let cause = Error::new(ErrorKind::Exhausted, code::STORE_FULL, "write pack 9f")
            .with("free", "0 B")
            .next("free some space");
        let error = cause.during("back up app.db").with("database", "app.db");

        assert_eq!(error.kind(), ErrorKind::Exhausted);
        assert_eq!(error.code().to_string(), "SP0302");
        assert_eq!(error.to_string(), "back up app.db");
        assert_eq!(error.facts(), [("database", "app.db"), ("free", "0 B")]);
        assert_eq!(error.advice(), ["free some space"]);
        assert_eq!(error::Error::source(&error).map(ToString::to_string).unwrap(), "write pack 9f");
    }

    #[test]
    fn a_shell_reads_what_was_meant() {
        for (word, typed) in [
            ("app.db", "app.db"),
            ("", "\"\""),
            ("it's mine", "\"it's mine\""),
            ("a$b", "'a$b'"),
            ("'\"`", r#"''\''"`'"#),
        ] {
            assert_eq!(quoted(word), typed);
        }
    }
}
