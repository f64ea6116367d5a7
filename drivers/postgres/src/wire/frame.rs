//! Messages on a socket.

use std::io;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::connect::Socket;

/// The longest message that is accepted. Servers send pieces of at most 128 KiB; notices, rows and
/// history files are shorter.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Room that is made for what arrives next.
const READ_BYTES: usize = 256 << 10;

/// One message: its kind and the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) tag: u8,
    pub(crate) body: Bytes,
}

/// A socket that speaks in messages.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) socket: Socket,
    input: BytesMut,
    output: BytesMut,
}

impl Channel {
    pub(crate) fn new(socket: Socket) -> Self {
        Self { socket, input: BytesMut::new(), output: BytesMut::new() }
    }

    /// Waits for the next message. Dropping the future loses nothing.
    pub(crate) async fn receive(&mut self) -> io::Result<Frame> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(frame);
            }
            self.input.reserve(READ_BYTES);
            if self.socket.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// The next message, if it has arrived as a whole.
    pub(crate) fn buffered(&mut self) -> io::Result<Option<Frame>> {
        let Some(header) = self.input.first_chunk::<5>() else { return Ok(None) };
        let [tag, a, b, c, d] = *header;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
            let what = format!("a message of {length} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        if self.input.len() <= length {
            return Ok(None);
        }
        let mut body = self.input.split_to(length + 1).freeze();
        body.advance(5);
        Ok(Some(Frame { tag, body }))
    }

    /// Where messages are put before [`flush`](Self::flush).
    pub(crate) fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Sends what was put. Dropping the future loses nothing.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            if self.socket.write_buf(&mut self.output).await? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        self.socket.flush().await
    }
}
