//! A replication session and its small commands.

use bytes::Bytes;
use postgres_protocol::message::frontend;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    frame::{Channel, Frame},
    rows::{self, ROWS_MAX, ResultSet},
    startup,
};
use crate::{
    connect::{Login, Socket},
    error::{self, Report},
};

/// A replication session. Dropping it ends it, and with it its temporary slots and a backup.
#[derive(Debug)]
pub(crate) struct Session {
    channel: Channel,
    version: u32,
    /// Commands whose answer has not been read to its end.
    pending: bool,
}

/// What `IDENTIFY_SYSTEM` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SystemIdentity {
    pub(crate) system_identifier: u64,
    pub(crate) timeline: u32,
    /// Up to where WAL is flushed, or, on a standby, replayed.
    pub(crate) flush_lsn: u64,
}

/// The most notices that one command may send.
const NOTICES_MAX: usize = 100_000;

impl Session {
    /// Logs in on a connected socket.
    pub(crate) async fn start(socket: Socket, login: &Login) -> Result<Self> {
        let (channel, greeting) = startup::start(socket, login).await?;
        let digits = greeting.server_version.split(|c: char| !c.is_ascii_digit()).next();
        let version = digits.and_then(|digits| digits.parse().ok());
        let version = version.ok_or_else(|| error::unexpected("no server_version", "log in"))?;
        Ok(Self { channel, version, pending: false })
    }

    /// The server's major version.
    pub(crate) fn version(&self) -> u32 {
        self.version
    }

    pub(super) async fn send(&mut self, command: &str, step: &'static str) -> Result<()> {
        if self.pending {
            return Err(Error::bug("send a command before the last one was answered"));
        }
        self.pending = true;
        frontend::query(command, self.channel.output()).map_err(|e| error::broken(e, step))?;
        self.flush(step).await
    }

    pub(super) fn output(&mut self) -> &mut bytes::BytesMut {
        self.channel.output()
    }

    pub(super) async fn flush(&mut self, step: &'static str) -> Result<()> {
        self.channel.flush().await.map_err(|e| error::broken(e, step))
    }

    /// The next message. Errors of the server are read to the end of the command, so that the
    /// session can go on, and returned; notices go to `notice`.
    pub(super) async fn receive(
        &mut self,
        step: &'static str,
        mut notice: impl FnMut(Report),
    ) -> Result<Frame> {
        for _ in 0..NOTICES_MAX {
            let frame = self.channel.receive().await.map_err(|e| error::broken(e, step))?;
            match frame.tag {
                b'N' => notice(rows::report(&frame.body)),
                b'S' | b'A' => {}
                b'E' => {
                    let report = rows::report(&frame.body);
                    self.skip_to_ready(step, &report).await?;
                    return Err(error::server(report, step));
                }
                b'Z' => {
                    self.pending = false;
                    return Ok(frame);
                }
                _ => return Ok(frame),
            }
        }
        Err(error::unexpected("notices without end", step))
    }

    async fn skip_to_ready(&mut self, step: &'static str, report: &Report) -> Result<()> {
        // A server that says this ends the session and sends nothing more.
        if report.state.starts_with("57P") {
            return Ok(());
        }
        for _ in 0..NOTICES_MAX {
            match self.channel.receive().await {
                Ok(Frame { tag: b'Z', .. }) => {
                    self.pending = false;
                    return Ok(());
                }
                Ok(_) => {}
                Err(_) => return Err(error::server(report.clone(), step)),
            }
        }
        Err(error::unexpected("messages without end", step))
    }

    /// Runs a command and reads its answers to the end.
    pub(crate) async fn simple_query(
        &mut self,
        command: &str,
        step: &'static str,
    ) -> Result<Vec<ResultSet>> {
        self.send(command, step).await?;
        let mut answers = Vec::new();
        loop {
            match self.answer(step).await? {
                Some(answer) => answers.push(answer),
                None => return Ok(answers),
            }
            if answers.len() > ROWS_MAX {
                return Err(error::unexpected("answers without end", step));
            }
        }
    }

    /// The next answer, or `None` at the end of the command.
    pub(super) async fn answer(&mut self, step: &'static str) -> Result<Option<ResultSet>> {
        let mut answer = ResultSet::default();
        loop {
            let Frame { tag, body } = self.receive(step, |_| {}).await?;
            match tag {
                b'T' => {}
                b'D' => {
                    let row = rows::row(body).filter(|_| answer.rows.len() < ROWS_MAX);
                    answer.rows.push(row.ok_or_else(|| error::unexpected("a bad row", step))?);
                }
                b'C' | b'I' => return Ok(Some(answer)),
                b'Z' => return Ok(None),
                other => return Err(error::unexpected(other.escape_ascii(), step)),
            }
        }
    }

    async fn one(&mut self, command: &str, step: &'static str) -> Result<ResultSet> {
        let answers = self.simple_query(command, step).await?;
        let found = answers.into_iter().find(|answer| !answer.rows.is_empty());
        found.ok_or_else(|| error::unexpected("no row", step))
    }

    /// Who the server is, and how far its log reaches.
    pub(crate) async fn identify_system(&mut self) -> Result<SystemIdentity> {
        let step = "identify the system";
        let answer = self.one("IDENTIFY_SYSTEM", step).await?;
        let parsed = || {
            Some(SystemIdentity {
                system_identifier: answer.text(0, 0)?.parse().ok()?,
                timeline: answer.text(0, 1)?.parse().ok()?,
                flush_lsn: rows::lsn_from(answer.text(0, 2)?)?,
            })
        };
        parsed().ok_or_else(|| error::unexpected("a bad identity", step))
    }

    /// The name and the text of a timeline's history file. Timeline 1 has none.
    pub(crate) async fn timeline_history(&mut self, timeline: u32) -> Result<(String, Bytes)> {
        let step = "read the history of a timeline";
        let answer = self.one(&format!("TIMELINE_HISTORY {timeline}"), step).await?;
        let name = answer.text(0, 0).map(str::to_owned);
        let text = answer.rows.first().and_then(|row| row.get(1).cloned().flatten());
        name.zip(text).ok_or_else(|| error::unexpected("no history", step))
    }

    /// Creates a physical slot that keeps WAL from now on. A temporary one goes with the session.
    ///
    /// # Errors
    ///
    /// [`Busy`](ErrorKind::Busy) when it exists.
    pub(crate) async fn create_slot(&mut self, name: &str, is_temporary: bool) -> Result<()> {
        let temporary = if is_temporary { " TEMPORARY" } else { "" };
        let reserve = if self.version >= 15 { "(RESERVE_WAL)" } else { "RESERVE_WAL" };
        let name = slot_name(name)?;
        let command = format!("CREATE_REPLICATION_SLOT {name}{temporary} PHYSICAL {reserve}");
        self.simple_query(&command, "create a replication slot").await.map(drop)
    }

    /// Drops a slot.
    ///
    /// # Errors
    ///
    /// [`Missing`](ErrorKind::Missing) when there is none, [`Busy`](ErrorKind::Busy) when somebody
    /// uses it.
    pub(crate) async fn drop_slot(&mut self, name: &str) -> Result<()> {
        let command = format!("DROP_REPLICATION_SLOT {}", slot_name(name)?);
        self.simple_query(&command, "drop a replication slot").await.map(drop)
    }

    /// Uploads the manifest of an earlier backup, for an incremental one on this connection.
    pub(crate) async fn upload_manifest(
        &mut self,
        pieces: impl Iterator<Item = Bytes>,
    ) -> Result<()> {
        let step = "upload the manifest of the earlier backup";
        self.send("UPLOAD_MANIFEST", step).await?;
        let ready = self.receive(step, |_| {}).await?;
        if ready.tag != b'G' {
            return Err(error::unexpected(ready.tag.escape_ascii(), step));
        }
        for piece in pieces {
            let message = frontend::CopyData::new(piece).map_err(|e| error::broken(e, step))?;
            message.write(self.output());
            self.flush(step).await?;
        }
        frontend::copy_done(self.output());
        self.flush(step).await?;
        while self.answer(step).await?.is_some() {}
        Ok(())
    }

    /// Ends the session in an orderly way.
    pub(crate) async fn close(mut self) {
        frontend::terminate(self.channel.output());
        // It ends anyway.
        let _ = self.channel.flush().await;
    }
}

/// A slot's name as it may stand in a command: lower-case letters, digits and `_`.
fn slot_name(name: &str) -> Result<&str> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if (1..=63).contains(&name.len()) && name.bytes().all(allowed) {
        Ok(name)
    } else {
        Err(Error::new(ErrorKind::Invalid, code::BAD_NAME, "name a replication slot")
            .with("name", name))
    }
}
