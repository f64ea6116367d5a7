//! From what was typed to a partial restore, or to a comparison.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    iter,
    os::{fd::AsRawFd as _, unix::fs::PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, linkat},
    io::Errno,
};
use stillpoint_contract::{Error, ErrorKind, Result, Share, TablePattern, code};
use tempfile::TempPath;

use super::{
    answer::{CompareAnswer, PartialAnswer},
    plan,
};
use crate::{
    cli::{drill, exit, open::Opened, restore::STANDBY, session::Session},
    coordinator::{self, PartialJob, Wanted, Way},
    pipeline::Meter,
};

/// What of `restore` is for parts of a database.
#[derive(Debug, Args)]
pub(crate) struct PartialOptions {
    /// Restore only this table, with all that belongs to it, into --into; as SCHEMA.TABLE, with *
    /// and ? for any letters. May be given several times.
    #[arg(long, value_name = "TABLE")]
    pub(crate) table: Vec<String>,
    /// Restore only this one of a cluster's databases, into --into; with --table: the database in
    /// which the tables are [default: the one that --into names].
    #[arg(long = "database", value_name = "NAME")]
    pub(crate) inside: Option<String>,
    /// The URL of the live server that gets tables or a database; what is there stays as it is.
    #[arg(
        long,
        value_name = "URL",
        conflicts_with_all = ["to", "force", "delta", "start", "tablespace", "labels"]
    )]
    pub(crate) into: Option<String>,
    /// The name of the restored table or database, which must be free [default: its own name with
    /// the time of the point, such as orders_restored_20251119_031244]. Without --into: "standby",
    /// and the restored server follows the one that --primary names.
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Copy nothing: report which rows of the live tables are missing, extra and different, and
    /// write statements that merge them.
    #[arg(long, conflicts_with = "name")]
    pub(crate) compare: bool,
    /// Where the statements go that --compare writes, a new file [default: merge-DATABASE.sql, or
    /// with a number].
    #[arg(
        long,
        value_name = "FILE",
        value_hint = clap::ValueHint::FilePath
    )]
    pub(crate) script: Option<PathBuf>,
    /// Restore the whole copy for that, instead of mounting it.
    #[arg(long, requires = "into")]
    pub(crate) no_mount: bool,
    /// Where the copy is made for that; a restored one needs room for the whole database, a mounted
    /// one for what is written [default: TMPDIR, or /var/tmp].
    #[arg(
        long,
        value_name = "DIR",
        value_hint = clap::ValueHint::DirPath
    )]
    pub(crate) scratch: Option<PathBuf>,
}

/// Brings back, or compares, or only plans to.
pub(crate) async fn run(
    session: &Session,
    options: &PartialOptions,
    (database, accept_damage, only_plans): (&str, bool, bool),
    (repository, wanted): (&Opened, Wanted),
) -> Result<u8> {
    let share = share(options)?;
    let url = options.into.as_deref().unwrap_or_default();
    let (engine, into) = session.endpoint(url)?;
    let scratch = drill::place(&session.environment, options.scratch.as_deref());
    let job = PartialJob {
        engines: &session.engines,
        database,
        wanted,
        share: &share,
        inside: options.inside.as_deref(),
        engine: &*engine,
        into: &into,
        name: options.name.as_deref(),
        compares: options.compare,
        accept_damage,
        scratch: &scratch,
        way: if options.no_mount { Way::Restore } else { Way::Mount },
    };
    if only_plans {
        let script = || {
            ScriptFile::name(options.script.as_deref(), database).map(|p| p.display().to_string())
        };
        let script = options.compare.then(script).transpose()?;
        plan::tell(session, repository, (&job, url, script)).await?;
        return Ok(exit::OK);
    }
    let meter = Arc::new(Meter::default());
    if options.compare {
        let script = ScriptFile::create(options.script.as_deref(), database)?;
        let mut writer = BufWriter::new(&script.file);
        let work = coordinator::compare(&session.world, repository, &job, &meter, &mut writer);
        let report = session.watch(database, &meter, Box::pin(work)).await?;
        let written = writer.flush();
        drop(writer);
        let path = script.publish(written)?;
        let answer = CompareAnswer::of(session, database, url, &path, report);
        answer.warn(session);
        session.answer(&answer)?;
    } else {
        let work = coordinator::bring(&session.world, repository, &job, &meter);
        let report = session.watch(database, &meter, Box::pin(work)).await?;
        let answer = PartialAnswer::of(session, database, url, report);
        answer.warn(session);
        session.answer(&answer)?;
    }
    Ok(exit::OK)
}

/// Refuses what is only for parts of a database where none is restored.
pub(crate) fn refuse_without_target(options: &PartialOptions) -> Result<()> {
    let given = [
        ("--table", !options.table.is_empty()),
        ("--database", options.inside.is_some()),
        ("--as", options.name.as_deref().is_some_and(|name| name != STANDBY)),
        ("--compare", options.compare),
        ("--script", options.script.is_some()),
        ("--scratch", options.scratch.is_some()),
    ];
    match given.into_iter().find(|(_, is_given)| *is_given) {
        Some((option, _)) if options.into.is_none() => {
            Err(Error::new(ErrorKind::Invalid, code::USAGE, "tell where a part shall be restored")
                .with("option", option)
                .why("tables and single databases are brought into a server that lives")
                .next("name it: --into URL, such as postgres://HOST/DATABASE or sqlite:PATH"))
        }
        _ => Ok(()),
    }
}

fn share(options: &PartialOptions) -> Result<Share> {
    if options.table.is_empty() && options.inside.is_none() {
        return Err(Error::new(ErrorKind::Invalid, code::USAGE, "tell what shall be restored")
            .why("--into takes a part of a database")
            .next("tables: --table SCHEMA.TABLE --into URL")
            .next("one database of a cluster: --database NAME --into URL")
            .next("everything, into a new place: --to PATH"));
    }
    let refused = |what, next| {
        let error = Error::new(ErrorKind::Invalid, code::USAGE, "compare with a live server");
        Err(error.why(what).next(next))
    };
    if options.script.is_some() && !options.compare {
        return refused("--script is where --compare writes", "--compare --script FILE");
    }
    if options.table.is_empty() {
        if options.compare {
            return refused("only tables are compared", "--table SCHEMA.TABLE --compare");
        }
        return Ok(Share::Database);
    }
    let patterns = options.table.iter().map(|text| TablePattern::new(text));
    patterns.collect::<Result<_>>().map(Share::Tables)
}

/// How many names are tried for a script.
const NAMES_MAX: u32 = 1000;

/// Where a process finds its open files by name.
const DESCRIPTORS: &str = "/proc/self/fd";

/// A file that has no name until it is complete, or one that tells as much.
struct ScriptFile {
    names: Vec<PathBuf>,
    file: File,
    named: Option<TempPath>,
}

impl ScriptFile {
    /// The first name for it that is free.
    fn name(chosen: Option<&Path>, database: &str) -> Result<PathBuf> {
        let names = names(chosen, database);
        let shown = names.first().cloned().unwrap_or_default();
        let mut taken: io::Error = io::ErrorKind::AlreadyExists.into();
        let is_free = |name: &PathBuf| match fs::symlink_metadata(name) {
            Ok(_) => false,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => true,
            Err(cause) => {
                taken = cause;
                false
            }
        };
        let ends_in_name =
            shown.file_name().is_some() && !shown.as_os_str().as_encoded_bytes().ends_with(b"/");
        let free = names.into_iter().find(is_free).filter(|_| ends_in_name);
        free.ok_or_else(|| unwritable(&shown, taken))
    }

    fn create(chosen: Option<&Path>, database: &str) -> Result<Self> {
        let shown = Self::name(chosen, database)?;
        let names = names(chosen, database);
        let (file, named) = nameless(folder(&shown)).map_err(|cause| unwritable(&shown, cause))?;
        Ok(Self { names, file, named })
    }

    /// Makes it durable, and gives it the first name that is free, in one step.
    fn publish(self, written: io::Result<()>) -> Result<PathBuf> {
        let shown = self.names.first().cloned().unwrap_or_default();
        written.and_then(|()| self.file.sync_all()).map_err(|cause| unwritable(&shown, cause))?;
        let Self { names, file, mut named } = self;
        let own = PathBuf::from(format!("{DESCRIPTORS}/{}", file.as_raw_fd()));
        let mut given = Err(io::ErrorKind::AlreadyExists.into());
        for name in &names {
            let tried = match named.take() {
                None => linkat(CWD, &own, CWD, name, AtFlags::SYMLINK_FOLLOW).map_err(Into::into),
                Some(path) => path.persist_noclobber(name).map_err(|kept| {
                    named = Some(kept.path);
                    kept.error
                }),
            };
            let is_taken = |cause: &io::Error| cause.kind() == io::ErrorKind::AlreadyExists;
            let is_over = !tried.as_ref().is_err_and(is_taken);
            given = tried.map(|()| name);
            if is_over {
                break;
            }
        }
        let path = given.map_err(|cause| {
            let error = unwritable(&shown, cause);
            // What took hours to write stays, under the name that it has.
            match named.map(TempPath::keep) {
                Some(Ok(kept)) => error.with("the complete script", kept.display()),
                _ => error,
            }
        })?;
        let synced = File::open(folder(path)).and_then(|folder| folder.sync_all());
        synced.map_err(|cause| unwritable(path, cause))?;
        Ok(path.clone())
    }
}

/// Names that a script may get.
fn names(chosen: Option<&Path>, database: &str) -> Vec<PathBuf> {
    chosen.map_or_else(|| usual_names(database), |path| vec![path.to_owned()])
}

/// Names for a script for which none was chosen.
fn usual_names(database: &str) -> Vec<PathBuf> {
    let is_plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    let stem = database.replace(|c| !is_plain(c), "_");
    let more = (2..NAMES_MAX).map(|number| format!("merge-{stem}-{number}.sql"));
    iter::once(format!("merge-{stem}.sql")).chain(more).map(PathBuf::from).collect()
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."))
}

/// A file without a name, of which nothing stays if we are killed; where file systems have no such
/// files, one with a name that nobody takes for a script.
fn nameless(folder: &Path) -> io::Result<(File, Option<TempPath>)> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let nameless = match fs::exists(DESCRIPTORS) {
        Ok(true) => rustix::fs::open(folder, flags, Mode::from_raw_mode(0o666)),
        // Without that directory, it could not get a name later.
        _ => Err(Errno::OPNOTSUPP),
    };
    match nameless {
        Ok(file) => Ok((File::from(file), None)),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
            let mut named = tempfile::Builder::new();
            let named = named.prefix(".merge-").suffix(".unfinished");
            let named = named.permissions(fs::Permissions::from_mode(0o666)).tempfile_in(folder)?;
            let (file, name) = named.into_parts();
            Ok((file, Some(name)))
        }
        Err(cause) => Err(cause.into()),
    }
}

fn unwritable(path: &Path, cause: io::Error) -> Error {
    let exists = cause.kind() == io::ErrorKind::AlreadyExists;
    let kind = if exists { ErrorKind::Refused } else { ErrorKind::Config };
    Error::new(kind, code::FILE, "write the merge script")
        .with("file", path.display())
        .caused_by(cause)
        .next("name a new file in a directory that can be written: --script FILE")
}
