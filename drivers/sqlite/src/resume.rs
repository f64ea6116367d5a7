//! Where a capture begins: at its mark, when it can be proven that nothing is missing since.

use stillpoint_contract::{LogMark, LogPosition, Result};

use crate::{
    first_page::{self, FirstPages},
    generation::{LogState, Observer},
    position::{self, Cursor},
    wal::{Checksum, Generation},
};

/// The end of a chain of frames.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tail {
    pub(crate) generation: Generation,
    /// The last frame, from one; zero before the first.
    pub(crate) frame: u32,
    /// The running checksum after it.
    pub(crate) chain: Checksum,
}

impl Tail {
    pub(crate) fn cursor(&self, pages: FirstPages) -> Cursor {
        Cursor::new(&self.generation, self.frame, self.chain, pages)
    }
}

/// A point between commits at which a capture stands.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) position: LogPosition,
    /// Where the generation goes on; `None` when it is known to have ended here, so that the next
    /// one succeeds this position.
    pub(crate) tail: Option<Tail>,
}

/// Chooses where to begin while a hold pins `state`, and says why if not at `since`.
pub(crate) fn start(
    observer: &Observer,
    state: &LogState,
    since: Option<&LogMark>,
) -> Result<(Place, Option<String>)> {
    let Some(mark) = since else {
        return Ok((origin(observer, state)?, None));
    };
    let resumed = if position::is_rest(&mark.position.lineage) {
        from_rest(observer, state, mark)?
    } else {
        match Cursor::decode(&mark.cursor) {
            Some(cursor) if u128::from(cursor.frame) == mark.position.offset => {
                let resumed = from_frame(observer, state, mark, &cursor)?;
                let belongs = first_page::belongs_to(observer, state, &cursor)?;
                if resumed.is_some() && belongs == Some(false) {
                    return Ok((over(observer, state)?, Some(OVERWRITTEN.to_owned())));
                }
                resumed
            }
            _ => from_start(observer, state, mark)?,
        }
    };
    match resumed {
        Some(place) => Ok((place, None)),
        None => Ok((origin(observer, state)?, Some(why(observer, state, mark)?))),
    }
}

/// The first state that the log still has: frame 0 of the generation, or the file at rest.
fn origin(observer: &Observer, state: &LogState) -> Result<Place> {
    let database = &observer.database;
    let id = &database.identity.id;
    let Some((generation, _)) = state.live else {
        let rest = position::at_rest(id, &database.path, database.clock.as_ref())?;
        return Ok(Place { position: rest, tail: None });
    };
    let tail = Tail { generation, frame: 0, chain: generation.checksum };
    Ok(Place { position: position::at_frame(id, generation.salts, 0)?, tail: Some(tail) })
}

/// Why a capture cannot go on after a program wrote over the database file in place.
pub(crate) const OVERWRITTEN: &str =
    "another program wrote over the database file in place, past SQLite and its log";

/// What the log holds by now belongs to a file that is gone; what follows is told apart from it.
fn over(observer: &Observer, state: &LogState) -> Result<Place> {
    let mut place = end(observer, state)?;
    if let Some(tail) = place.tail {
        let database = &observer.database;
        let in_file = first_page::in_file(&database.path).unwrap_or(first_page::UNKNOWN);
        let salts = tail.generation.salts;
        place.position.lineage = position::over(&database.identity.id, salts, in_file)?;
    }
    Ok(place)
}

/// The state that was pinned: for whoever needs nothing that was before.
pub(crate) fn end(observer: &Observer, state: &LogState) -> Result<Place> {
    let origin = origin(observer, state)?;
    let Some((generation, frame)) = state.live else { return Ok(origin) };
    let Some(chain) = observer.wal.checksum_after(&generation, frame)? else { return Ok(origin) };
    let position = origin.position.at(u128::from(frame));
    Ok(Place { position, tail: Some(Tail { generation, frame, chain }) })
}

/// The file rests as it did, or a generation began from exactly that state: as long as nothing of
/// it was copied back, the file is the one that was marked.
fn from_rest(observer: &Observer, state: &LogState, mark: &LogMark) -> Result<Option<Place>> {
    let database = &observer.database;
    let id = &database.identity.id;
    let rest = position::at_rest(id, &database.path, database.clock.as_ref())?;
    let is_unchanged = rest == mark.position && state.backfilled == 0;
    Ok(is_unchanged.then_some(Place { position: rest, tail: None }))
}

/// A mark at frame zero needs no cursor.
fn from_start(observer: &Observer, state: &LogState, mark: &LogMark) -> Result<Option<Place>> {
    let origin = origin(observer, state)?;
    Ok((origin.position == mark.position).then_some(origin))
}

fn from_frame(
    observer: &Observer,
    state: &LogState,
    mark: &LogMark,
    cursor: &Cursor,
) -> Result<Option<Place>> {
    let id = &observer.database.identity.id;
    if !position::is_of(&mark.position.lineage, id, cursor.salts) {
        return Ok(None);
    }
    let Some(in_file) = observer.wal.generation()? else { return Ok(None) };
    let generation = Generation { salts: cursor.salts, ..in_file };
    let is_frame_there = cursor.page_bytes == in_file.page_bytes
        && (cursor.frame == 0 && in_file.salts == cursor.salts
            || observer.wal.checksum_after(&generation, cursor.frame)? == Some(cursor.checksum));
    if !is_frame_there {
        return Ok(None);
    }
    let tail = Tail { generation, frame: cursor.frame, chain: cursor.checksum };
    let position = mark.position.clone();
    Ok(match state.live {
        Some((live, frames)) if live.salts == cursor.salts => {
            let tail = Tail { generation: live, ..tail };
            (cursor.frame <= frames).then_some(Place { position, tail: Some(tail) })
        }
        Some((live, _)) if !live.salts.follow(cursor.salts) => None,
        None if in_file.salts != cursor.salts => None,
        _ => ended_here(observer, &tail)?.then_some(Place { position, tail: None }),
    })
}

/// Whether an older generation ended at `tail`, as what it left in the file proves: the marked
/// frame is still there, and none of the same generation follows it. A younger generation that
/// has grown over the marked frame leaves no proof, nor does a file that was cut inside the next
/// frame, as `PRAGMA journal_size_limit` does.
fn ended_here(observer: &Observer, tail: &Tail) -> Result<bool> {
    if tail.frame == 0 {
        return Ok(false);
    }
    let next = tail.frame + 1;
    if observer.wal.ends_before(&tail.generation, next)? {
        return Ok(true);
    }
    let mut frame = vec![0; tail.generation.frame_bytes()];
    let is_whole = observer.wal.frames(&tail.generation, next, &mut frame)?;
    Ok(is_whole && tail.generation.check(&frame, tail.chain).is_none())
}

fn why(observer: &Observer, state: &LogState, mark: &LogMark) -> Result<String> {
    let id = &observer.database.identity.id;
    let live = state.live.map(|(live, _)| position::generation(id, live.salts)).transpose()?;
    Ok(match live {
        Some(live) if live == mark.position.lineage => {
            "the log no longer holds the frame at which capture stopped: the file was set back"
        }
        _ if position::is_rest(&mark.position.lineage) => {
            "the database was written and checkpointed while nobody captured its log"
        }
        None => "the log was checkpointed and emptied while nobody captured it",
        Some(_) => "the log was checkpointed and restarted while nobody captured it",
    }
    .to_owned())
}
