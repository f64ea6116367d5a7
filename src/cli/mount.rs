//! `stillpoint mount`: shows a backup as files, until it is unmounted or stopped.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use serde::Serialize;
use stillpoint_contract::{ErrorKind, Result};

use super::{
    answer::{Answer, Stamp},
    drill, exit,
    open::Need,
    page::{Page, printable},
    restore::wanted,
    session::Session,
    source::{self, SourceOptions},
    wire::Backup,
};
use crate::{
    coordinator::{self, PresentJob, Shown},
    pipeline::Meter,
};

/// What `mount` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The database, by the name that `list` shows.
    database: String,
    /// An empty directory. A server's data directory appears in its place; a database of one file
    /// appears in it, under its name.
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    point: PathBuf,
    /// The moment, as `restore --at` takes it. Without --read-write, what is shown is the newest
    /// backup at or before it, as it was copied.
    #[arg(long, value_name = "POINT", default_value = "latest", allow_hyphen_values = true)]
    at: String,
    /// Bring the database to exactly that moment, as a restore does, and let it be written to: a
    /// server can be started on it. What is written lies in the scratch directory, and vanishes.
    #[arg(long)]
    read_write: bool,
    /// Where that lies [default: TMPDIR, or /var/tmp].
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath,
          requires = "read_write")]
    pub(super) scratch: Option<PathBuf>,
    #[command(flatten)]
    source: SourceOptions,
}

/// What the guard of a mount is told.
#[derive(Debug, Args)]
pub(crate) struct GuardOptions {
    /// The process that reads there.
    process: u32,
    /// When it began.
    began: u64,
    /// Where it is mounted.
    point: PathBuf,
}

/// Stands guard over a mount.
pub(crate) fn guard(options: &GuardOptions) -> u8 {
    let done = coordinator::stand_guard(options.process, options.began, &options.point);
    if done.is_ok() { exit::OK } else { exit::status(ErrorKind::Bug) }
}

#[derive(Debug, Serialize)]
struct MountAnswer {
    database: String,
    directory: String,
    read_only: bool,
    /// Whether log was replayed up to the point; else it is a backup as it was copied.
    recovered: bool,
    backup: Backup,
    shows: Stamp,
    position: Option<String>,
    engine_position: Option<String>,
    notes: Vec<String>,
}

impl Answer for MountAnswer {
    const SCHEMA: &'static str = "mount/1";

    fn write(&self, page: &mut Page<'_>) {
        let (database, directory) = (printable(&self.database), printable(&self.directory));
        page.line(format!("Mounted {database} at {directory}"));
        let state = if self.recovered {
            format!("as it was at {}, recovered", page.time(self.shows.0))
        } else {
            format!("the backup of {}, as it was copied", page.time(self.shows.0))
        };
        let access = if self.read_only {
            "for reading only; with --read-write it is brought to the very moment"
        } else {
            "for writing as well; what is written vanishes"
        };
        let mut facts = vec![("shows", state), ("backup", self.backup.id.clone())];
        facts.extend(self.engine_position.clone().map(|position| ("position", position)));
        facts.push(("open", access.to_owned()));
        page.facts(2, &facts);
        for note in &self.notes {
            page.line(format!("note: {}", printable(note)));
        }
        page.line(format!("It ends with Ctrl-C, or: umount {directory}"));
    }
}

/// Shows it until somebody unmounts it, or a signal comes.
pub(crate) async fn run(session: &Session, options: Options) -> Result<u8> {
    let place = drill::place(&session.environment, options.scratch.as_deref());
    coordinator::check_point(&options.database, &options.point)?;
    let moment = session.moment(&options.at)?;
    let of = (Some(options.database.as_str()), Need::Content);
    let repository = source::open(session, &options.source, of).await?;
    let wanted = wanted(session, &repository, &options.database, moment).await?;
    let job = PresentJob {
        engines: &session.engines,
        database: &options.database,
        wanted: &wanted,
        point: &options.point,
    };
    let scratch = if options.read_write { Some(place.create(&session.world)?) } else { None };
    let mut stop = session.stop.clone();
    let meter = Arc::new(Meter::default());
    let work = async {
        match &scratch {
            None => coordinator::present_copied(&session.world, &repository, &job).await,
            Some(scratch) => {
                let world = &session.world;
                coordinator::present_at(world, &repository, &job, scratch, &meter).await
            }
        }
    };
    let shown = {
        let work = session.watch(&options.database, &meter, work);
        tokio::select! {
            shown = work => shown?,
            // It is dropped, and leaves nothing.
            _ = stop.wait_for(Option::is_some) => return Ok(exit::OK),
        }
    };
    session.answer(&told(session, &options, &shown))?;
    tokio::select! {
        () = shown.ended() => {}
        _ = stop.wait_for(Option::is_some) => {}
    }
    for damage in shown.damage() {
        session.warn(&damage);
    }
    drop(shown);
    if let Some(scratch) = scratch {
        scratch.remove()?;
    }
    Ok(exit::OK)
}

fn told(session: &Session, options: &Options, shown: &Shown) -> MountAnswer {
    let commit = &shown.resolved.chosen.backup.commit;
    let reached = shown.reached.as_ref();
    let position = match reached {
        Some(reached) => reached.position.clone(),
        None => commit.consistent_at.clone(),
    };
    let at = reached.and_then(|reached| reached.committed_at);
    let (chosen, plan) = (&shown.resolved.chosen, &shown.resolved.plan);
    MountAnswer {
        database: options.database.clone(),
        directory: shown.point().display().to_string(),
        read_only: !options.read_write,
        recovered: reached.is_some(),
        backup: Backup::of(commit, session.native()),
        shows: Stamp(at.unwrap_or(commit.consistent_time)),
        engine_position: position.as_ref().map(|p| shown.resolved.render(p)),
        position: position.map(|position| position.to_string()),
        notes: chosen.warnings.iter().chain(&plan.notes).cloned().collect(),
    }
}
