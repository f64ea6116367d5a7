//! `START_REPLICATION … PHYSICAL`: WAL as it is written.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use chrono::{DateTime, Utc};
use postgres_protocol::message::frontend;
use stillpoint_contract::{Error, Result};

use super::{
    frame::Frame,
    rows::{self, ResultSet},
    session::Session,
};
use crate::error;

const STEP: &str = "stream WAL";

/// Microseconds from 1970 to 2000, where PostgreSQL's time begins.
const EPOCH_US: i64 = 946_684_800_000_000;

/// A session that streams WAL.
#[derive(Debug)]
pub(crate) struct WalStream {
    session: Session,
    state: State,
}

#[derive(Debug)]
enum State {
    Copying,
    /// The server has ended its half.
    HalfClosed,
    /// There was nothing on this timeline to stream, or everything was.
    Ended(Option<NextTimeline>),
}

/// What arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WalEvent {
    /// WAL that begins at `start`.
    Bytes { start: u64, bytes: Bytes },
    /// A sign of life. The server asks for a status when `reply_now`.
    KeepAlive { end: u64, at: Option<DateTime<Utc>>, reply_now: bool },
    /// The timeline ended, or the server ends the stream: call [`WalStream::finish`].
    End,
}

/// The timeline that follows, and where it left the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NextTimeline {
    pub(crate) timeline: u32,
    pub(crate) begins_at: u64,
}

impl Session {
    /// Begins to stream a timeline from `start`, which is the start of a segment.
    pub(crate) async fn start_physical(
        mut self,
        slot: Option<&str>,
        start: u64,
        timeline: u32,
    ) -> Result<WalStream> {
        let slot = slot.map_or_else(String::new, |name| format!("SLOT {name} "));
        let start = rows::lsn_text(start);
        self.send(&format!("START_REPLICATION {slot}PHYSICAL {start} TIMELINE {timeline}"), STEP)
            .await?;
        let Frame { tag, body } = self.receive(STEP, |_| {}).await?;
        match tag {
            b'W' => Ok(WalStream { session: self, state: State::Copying }),
            // Asked for the very end of a timeline, the server names the next one at once.
            b'T' | b'D' | b'C' => {
                let mut stream = WalStream { session: self, state: State::HalfClosed };
                let next = stream.read_end(Some(Frame { tag, body })).await?;
                stream.state = State::Ended(next);
                Ok(stream)
            }
            other => Err(error::unexpected(other.escape_ascii(), STEP)),
        }
    }
}

impl WalStream {
    /// Waits for what arrives next. Dropping the future loses nothing.
    pub(crate) async fn receive(&mut self) -> Result<WalEvent> {
        if !matches!(self.state, State::Copying) {
            return Ok(WalEvent::End);
        }
        let Frame { tag, mut body } = self.session.receive(STEP, |_| {}).await?;
        match tag {
            b'd' => event(&mut body).ok_or_else(|| error::unexpected("a bad message", STEP)),
            b'c' => {
                self.state = State::HalfClosed;
                Ok(WalEvent::End)
            }
            // A server that shuts down says no more than that it is done, and is gone.
            b'C' => {
                self.state = State::Ended(None);
                Ok(WalEvent::End)
            }
            other => Err(error::unexpected(other.escape_ascii(), STEP)),
        }
    }

    /// Tells how far WAL was written and how far it is durable: the server may forget what lies
    /// before `flushed`.
    pub(crate) async fn send_status(
        &mut self,
        written: u64,
        flushed: u64,
        now: DateTime<Utc>,
    ) -> Result<()> {
        if !matches!(self.state, State::Copying) {
            return Ok(());
        }
        let mut status = BytesMut::with_capacity(34);
        status.put_u8(b'r');
        status.put_u64(written);
        status.put_u64(flushed);
        status.put_u64(0);
        status.put_i64(now.timestamp_micros().saturating_sub(EPOCH_US));
        status.put_u8(0);
        let message =
            frontend::CopyData::new(status.freeze()).map_err(|e| error::broken(e, STEP))?;
        message.write(self.session.output());
        self.session.flush(STEP).await
    }

    /// Ends the stream. The session takes commands again; a timeline that ended names the next.
    pub(crate) async fn finish(mut self) -> Result<(Session, Option<NextTimeline>)> {
        let next = self.read_next().await?;
        Ok((self.session, next))
    }

    /// Ends the stream; a timeline that ended names the next.
    pub(crate) async fn read_next(&mut self) -> Result<Option<NextTimeline>> {
        let was = std::mem::replace(&mut self.state, State::HalfClosed);
        if let State::Ended(next) = was {
            return Ok(next);
        }
        frontend::copy_done(self.session.output());
        self.session.flush(STEP).await?;
        self.read_end(None).await
    }

    /// Reads everything up to the end of the command.
    async fn read_end(&mut self, first: Option<Frame>) -> Result<Option<NextTimeline>> {
        let mut answer = ResultSet::default();
        let mut next = first;
        loop {
            let frame = match next.take() {
                Some(frame) => frame,
                None => self.session.receive(STEP, |_| {}).await?,
            };
            match frame.tag {
                b'D' if answer.rows.is_empty() => {
                    let row = rows::row(frame.body);
                    answer.rows.push(row.ok_or_else(|| error::unexpected("a bad row", STEP))?);
                }
                // What was on its way when we ended the stream.
                b'd' | b'c' | b'C' | b'T' => {}
                b'Z' => break,
                other => return Err(error::unexpected(other.escape_ascii(), STEP)),
            }
        }
        if answer.rows.is_empty() {
            return Ok(None);
        }
        let parsed = || {
            Some(NextTimeline {
                timeline: answer.text(0, 0)?.parse().ok()?,
                begins_at: rows::lsn_from(answer.text(0, 1)?)?,
            })
        };
        let next: Option<NextTimeline> = parsed();
        next.map(Some).ok_or_else(|| Error::bug("read the next timeline"))
    }
}

fn event(body: &mut Bytes) -> Option<WalEvent> {
    match body.try_get_u8().ok()? {
        b'w' => {
            let start = body.try_get_u64().ok()?;
            let _end = body.try_get_u64().ok()?;
            let _at = body.try_get_i64().ok()?;
            Some(WalEvent::Bytes { start, bytes: std::mem::take(body) })
        }
        b'k' => {
            let end = body.try_get_u64().ok()?;
            let at = body.try_get_i64().ok()?;
            let reply_now = body.try_get_u8().ok()? != 0;
            let at = at.checked_add(EPOCH_US).and_then(DateTime::from_timestamp_micros);
            Some(WalEvent::KeepAlive { end, at, reply_now })
        }
        _ => None,
    }
}
