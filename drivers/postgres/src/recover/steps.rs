//! What recovery does, in order: lay out, follow the log, cut it, replay, make sure.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use stillpoint_contract::{
    Error, ErrorKind, Lineage, LogPosition, Reached, Recovery, Result, code,
};

use super::{
    aim::{Aim, Use},
    server::Server,
    tree,
    wal_files::{WalFiles, left_at, newest_history},
};
use crate::{error, layout::Layout, restore::staged, wire::lsn_text};

/// What a restore leaves beside the data when no server replayed it.
pub(crate) const PENDING_FILE: &str = "recovery.signal";

/// The newest timeline that is kept, beside the data.
pub(crate) const TAKEN_FILE: &str = "stillpoint/timelines";

/// How the primary is reached, beside the data of what becomes its standby.
pub(crate) const PRIMARY_FILE: &str = "stillpoint/primary";

/// What makes a server a standby.
pub(crate) const STANDBY_FILE: &str = "standby.signal";

const STEP: &str = "bring the cluster to the point";

/// Lays out WAL and replays it. `places` are directories of server programs.
pub(crate) async fn recover(recovery: Recovery<'_>, places: &[PathBuf]) -> Result<Reached> {
    let Recovery { plan, evidence, parts, log } = recovery;
    let layout = Layout::read(parts).await?;
    let data = staged(&plan.staging);
    let start = evidence.consistent_at.clone().ok_or_else(|| Error::bug("place a backup"))?;
    let mut aim = Aim::new(plan.until.clone(), start.clone())?;
    let (path, owned, planned) = (data.clone(), layout.clone(), plan.clone());
    blocking(&data, move || tree::prepare(&path, &planned, &owned)).await?;

    let mut files = WalFiles::new(data.join("pg_wal"), layout.wal_segment_bytes);
    while !aim.is_reached {
        let Some(head) = log.next().await? else { break };
        let wanted = aim.follow(&head)?;
        if wanted == Use::Skip {
            continue;
        }
        let body = log.body().await?;
        let (position, length) = (head.range.start().clone(), body.len() as u128);
        if head.range.end().offset - position.offset != length {
            return Err(broken_body(&position));
        }
        files = blocking(&data, move || {
            write(&mut files, &wanted, &position, &body)?;
            Ok(files)
        })
        .await?;
    }
    aim.check_reached()?;
    let told = |name: &str| {
        let file = plan.files.iter().find(|file| file.path == plan.staging.join(name))?;
        Some(String::from_utf8_lossy(&file.bytes).into_owned())
    };
    let end = match told(PRIMARY_FILE) {
        Some(primary) => End::Follow(primary),
        None => End::Stand {
            taken: told(TAKEN_FILE).and_then(|number| number.parse().ok()).unwrap_or(0),
        },
    };
    finish((&data, &plan.relocated), &layout, (files, end), &aim, places).await?;
    Ok(Reached {
        position: Some(aim.reached),
        committed_at: aim.committed_at,
        transactions: aim.transactions,
    })
}

fn write(files: &mut WalFiles, wanted: &Use, at: &LogPosition, body: &Bytes) -> io::Result<()> {
    let (timeline, lsn) = place(at).ok_or(io::ErrorKind::InvalidData)?;
    if let Use::Switch(left) = wanted {
        let (old, left) = place(left).ok_or(io::ErrorKind::InvalidData)?;
        files.switch(old, timeline, left)?;
    }
    files.write(timeline, lsn, body)
}

/// What becomes of a cluster whose WAL is laid out.
enum End {
    /// It begins a timeline of its own, after the newest that is kept.
    Stand { taken: u32 },
    /// It follows a primary.
    Follow(String),
}

/// Cuts the WAL, replays it, and makes sure that the server got where it should. A standby replays
/// it by itself: one that was replayed to its end would follow nobody.
async fn finish(
    (data, relocated): (&Path, &[PathBuf]),
    layout: &Layout,
    (mut files, end): (WalFiles, End),
    aim: &Aim,
    places: &[PathBuf],
) -> Result<()> {
    let (timeline, lsn) = place(&aim.reached).ok_or_else(|| broken_body(&aim.reached))?;
    let major = layout.server_version_num / 10_000;
    let server = Server::find(places, major).await;
    let (path, relocated) = (data.to_owned(), relocated.to_vec());
    let owner = server.as_ref().and_then(|server| server.owner);
    let (has_server, stands) = (server.is_some(), matches!(end, End::Stand { .. }));
    let reserved = blocking(data, move || {
        files.cut(timeline, lsn)?;
        let reserved = match end {
            End::Stand { taken } => {
                fs::write(path.join(PENDING_FILE), "")?;
                if !has_server {
                    wait_for_a_server(&path, timeline)?;
                }
                files.reserve((timeline, lsn), taken)?
            }
            End::Follow(primary) => {
                follow(&path, &primary)?;
                Vec::new()
            }
        };
        if let Some(owner) = owner {
            relocated.iter().try_for_each(|space| tree::give_to(space, owner))?;
            tree::give_to(&path, owner)?;
        }
        Ok(reserved)
    })
    .await?;
    let Some(server) = server.filter(|_| stands) else { return Ok(()) };
    server.replay(data, timeline, layout).await?;
    let path = data.join("pg_wal");
    let history = blocking(data, move || {
        reserved.iter().try_for_each(fs::remove_file)?;
        newest_history(&path, timeline)
    });
    let history = history.await?;
    match history.and_then(|(_, text)| left_at(&text)) {
        Some(left) if left == (timeline, lsn) => Ok(()),
        left => Err(Error::new(ErrorKind::Corrupt, code::RESTORE_CHECK_FAILED, STEP)
            .with("asked", lsn_text(lsn))
            .with("replayed to", left.map_or("nothing".to_owned(), |(_, lsn)| lsn_text(lsn)))
            .why("the server stopped elsewhere: WAL between the two does not decode")),
    }
}

/// Where no server of the version is installed, whoever starts one replays the same WAL.
fn wait_for_a_server(data: &Path, timeline: u32) -> io::Result<()> {
    let target = timeline.to_string();
    set(data, &[("restore_command", "false"), ("recovery_target_timeline", &target)])
}

/// Makes it a standby, which asks its primary for what comes after the WAL that is here.
fn follow(data: &Path, primary: &str) -> io::Result<()> {
    set(data, &[("primary_conninfo", primary), ("recovery_target_timeline", "latest")])?;
    fs::write(data.join(STANDBY_FILE), "")
}

/// Adds settings to those that the server itself writes down, where the last word counts.
fn set(data: &Path, settings: &[(&str, &str)]) -> io::Result<()> {
    let path = data.join("postgresql.auto.conf");
    let mut text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read?,
    };
    for (name, value) in settings {
        let value = value.replace('\\', "\\\\").replace('\'', "''");
        text = format!("{text}\n{name} = '{value}'");
    }
    fs::write(path, format!("{text}\n"))
}

/// The timeline and LSN of a position.
fn place(position: &LogPosition) -> Option<(u32, u64)> {
    Some((timeline_of(&position.lineage)?, u64::try_from(position.offset).ok()?))
}

fn timeline_of(lineage: &Lineage) -> Option<u32> {
    lineage.as_str().rsplit_once('/')?.1.parse().ok()
}

fn broken_body(at: &LogPosition) -> Error {
    Error::new(ErrorKind::Corrupt, code::BROKEN_SEGMENT, "decode captured WAL").with("at", at)
}

/// Runs work on files away from the runtime's threads.
pub(crate) async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|cause| Error::bug("work on files").caused_by(cause))?;
    done.map_err(|cause| error::file(cause, STEP, path))
}
