//! The capture of a server's log.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use stillpoint_contract::{
    Error, ErrorKind, LogCapture, LogMark, LogPosition, LogSegment, LogSupply, OpenedLog, Result,
    SegmentHead, code,
};

use crate::{SimServer, history::Stretch, session::Session};

/// How long a capture waits for a server that streams.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Opens the log; see [`Driver::open_log`](stillpoint_contract::Driver::open_log).
pub(crate) async fn open(server: &SimServer, since: Option<&LogMark>) -> Result<OpenedLog> {
    if server.mode().log == LogSupply::Never {
        let step = "capture the log of a server that keeps none";
        return Err(Error::new(ErrorKind::Unsupported, code::UNSUITABLE_DATABASE, step)
            .next("start the server in another mode"));
    }
    let session = Session::begin(server, "log")?;
    session.step().await?;
    let own = since.filter(|mark| mark.cursor == session.identity.as_bytes());
    let joined = match own {
        Some(mark) => session.locate(&mark.position)?.map(|_| mark.position.clone()),
        None => None,
    };
    let gap = since
        .filter(|_| joined.is_none())
        .map(|mark| format!("the server's log no longer has everything since {}", mark.position));
    let at = match joined {
        Some(position) => position,
        None => session.look(|state| state.history.oldest())?,
    };
    let capture = SimCapture { session, at: at.clone() };
    capture.hold(&at)?;
    Ok(OpenedLog { capture: Box::new(capture), start: at, gap })
}

#[derive(Debug)]
struct SimCapture {
    session: Session,
    at: LogPosition,
}

impl SimCapture {
    fn hold(&self, position: &LogPosition) -> Result<()> {
        self.session.locate(position)?.map_or(Ok(()), |place| self.session.hold(place))
    }

    fn segment(&self, stretch: Stretch) -> LogSegment {
        let Stretch { range, succeeds, events, body, index } = stretch;
        // After a gap the log may begin where a lineage does, and then it succeeds nothing.
        let succeeds = succeeds.filter(|_| self.at != *range.start());
        let cursor = Bytes::from(self.session.identity.clone());
        let not_before = None;
        LogSegment {
            head: SegmentHead { range, succeeds, events, not_before, cursor, index },
            body,
        }
    }
}

#[async_trait]
impl LogCapture for SimCapture {
    async fn next(&mut self) -> Result<Option<LogSegment>> {
        let server = self.session.server.clone();
        let stirred = server.stirred().notified();
        self.session.step().await?;
        let mut stretch = self.session.stretch(&self.at)?;
        if stretch.is_none() && server.mode().log == LogSupply::Stream {
            tokio::select! {
                () = stirred => {}
                () = server.clock().sleep(WAIT_MAX) => {}
            }
            stretch = self.session.stretch(&self.at)?;
        }
        let segment = stretch.map(|stretch| self.segment(stretch));
        if let Some(segment) = &segment {
            self.at = segment.head.range.end().clone();
        }
        Ok(segment)
    }

    async fn confirm(&mut self, position: &LogPosition) -> Result<()> {
        self.session.step().await?;
        self.hold(position)
    }
}
