//! Where a capture begins: the slot that holds WAL for us, and whether what we captured before
//! leads on to what the server has.

use std::time::Duration;

use stillpoint_contract::{Error, ErrorKind, LogMark, OpenedLog, Result, code};

use crate::{
    capture::{Capture, CaughtUp, Live},
    config::Host,
    connect::{Cluster, Sql},
    error,
    facts::Facts,
    position::{Ancestry, Place},
    wire::{Session, WalStream, lsn_text},
};

const STEP: &str = "capture WAL";

/// How long a server may need to notice that the last capture is gone.
const SLOT_WAIT: Duration = Duration::from_secs(10);
const SLOT_PAUSE: Duration = Duration::from_millis(50);

/// Where WAL comes from.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) cluster: Cluster,
    pub(crate) system: u64,
    pub(crate) segment_bytes: u32,
    pub(crate) major: u32,
}

/// Why WAL cannot be continued.
pub(crate) type Broken = String;

/// Begins to capture.
pub(crate) async fn open(cluster: &Cluster, since: Option<&LogMark>) -> Result<OpenedLog> {
    let sql = cluster.sql().await?;
    let facts = Facts::ask(&sql).await?;
    check_suitable(&facts)?;
    let system = facts.system_identifier.parse();
    let origin = Origin {
        cluster: cluster.clone(),
        system: system.map_err(|e| Error::bug(STEP).caused_by(e))?,
        segment_bytes: facts.wal_segment_bytes()?,
        major: facts.version.major(),
    };
    let gap = match since {
        None => None,
        Some(mark) => match origin.resume(mark).await? {
            Ok(live) => return opened(origin, live, None).await,
            Err(why) => Some(why),
        },
    };
    let place = origin.newest(&sql.host).await?;
    let live = origin.join(place, None).await?.map_err(|why| {
        Error::new(ErrorKind::Transient, code::SOURCE_VANISHED, STEP)
            .with("position", lsn_text(place.lsn))
            .with("reason", why)
    })?;
    opened(origin, live, gap).await
}

/// Drops our slot, if it is there. What it held may be gone at once.
pub(crate) async fn retire(cluster: &Cluster) -> Result<Option<String>> {
    let sql = cluster.sql().await?;
    let slot = cluster.config.slot.as_str();
    if slot_status(&sql, slot).await?.is_none() {
        return Ok(None);
    }
    let mut session = cluster.replication_on(&sql.host).await?;
    session.drop_slot(slot).await?;
    session.close().await;
    Ok(Some(format!("replication slot {slot}")))
}

/// How much of its WAL a slot still has, in the server's words; `None` when there is no slot.
async fn slot_status(sql: &Sql, slot: &str) -> Result<Option<String>> {
    let failed = |e| error::sql(e, "ask for the replication slot");
    let query = "SELECT coalesce(wal_status, '') FROM pg_replication_slots WHERE slot_name = $1";
    let row = sql.client.query_opt(query, &[&slot]).await.map_err(failed)?;
    row.map(|row| row.try_get(0).map_err(failed)).transpose()
}

async fn in_recovery(sql: &Sql) -> Result<bool> {
    let failed = |e| error::sql(e, "ask whether the server is a standby");
    let row = sql.client.query_one("SELECT pg_is_in_recovery()", &[]).await.map_err(failed)?;
    row.try_get(0).map_err(failed)
}

async fn opened(origin: Origin, live: Live, gap: Option<String>) -> Result<OpenedLog> {
    let start = live.start().position()?;
    Ok(OpenedLog { capture: Box::new(Capture::new(origin, live).await), start, gap })
}

/// Refuses servers that keep no log for us, with the statement that would change it.
fn check_suitable(facts: &Facts) -> Result<()> {
    let unsuitable = Error::new(ErrorKind::Unsupported, code::UNSUITABLE_DATABASE, STEP);
    if facts.settings.get("wal_level").is_some_and(|level| level == "minimal") {
        return Err(unsuitable
            .why("wal_level is minimal: WAL cannot be replayed onto a backup")
            .next("ALTER SYSTEM SET wal_level = replica; then restart the server"));
    }
    if !facts.may_replicate {
        return Err(unsuitable
            .why("the role may not replicate")
            .next("ALTER ROLE … REPLICATION; as a superuser"));
    }
    Ok(())
}

/// What a segment ends with: whether it was a record, and that record's checksum.
///
/// Bytes: version (1), checksum (4, little-endian).
pub(crate) fn encode_cursor(checksum: Option<u32>) -> bytes::Bytes {
    let mut out = vec![1];
    out.extend(checksum.iter().flat_map(|checksum| checksum.to_le_bytes()));
    out.into()
}

pub(crate) fn decode_cursor(bytes: &[u8]) -> Result<Option<u32>, Broken> {
    let bad = || "where the last capture ended cannot be read".to_owned();
    match bytes {
        // A backup has no more than a position.
        [] | [1] => Ok(None),
        [1, rest @ ..] => Ok(Some(u32::from_le_bytes(rest.try_into().map_err(|_| bad())?))),
        _ => Err(bad()),
    }
}

impl Origin {
    /// The name of the slot that holds WAL for us.
    fn slot(&self) -> &str {
        self.cluster.config.slot.as_str()
    }

    fn segment_start(&self, lsn: u64) -> u64 {
        lsn - lsn % u64::from(self.segment_bytes)
    }

    /// The start of the segment that the server writes now.
    async fn newest(&self, host: &Host) -> Result<Place> {
        let mut session = self.cluster.replication_on(host).await?;
        let identity = session.identify_system().await?;
        session.close().await;
        self.check_identity(identity.system_identifier)?;
        let lsn = self.segment_start(identity.flush_lsn);
        Ok(Place { system: self.system, timeline: identity.timeline, lsn })
    }

    fn check_identity(&self, system: u64) -> Result<()> {
        if system == self.system {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Departed, code::SOURCE_VANISHED, STEP)
            .with("system identifier", system)
            .with("expected", self.system)
            .why("another cluster answers at this address"))
    }

    async fn resume(&self, mark: &LogMark) -> Result<Result<Live, Broken>> {
        let Some(place) = Place::of(&mark.position).filter(|place| place.system == self.system)
        else {
            return Ok(Err("what was captured before is the log of another cluster".to_owned()));
        };
        match decode_cursor(&mark.cursor) {
            Ok(checksum) => self.join(place, checksum).await,
            Err(broken) => Ok(Err(broken)),
        }
    }

    /// Streams from `place`, where a record with this checksum ended.
    pub(crate) async fn join(
        &self,
        place: Place,
        checksum: Option<u32>,
    ) -> Result<Result<Live, Broken>> {
        let sql = self.cluster.sql().await?;
        let mut session = self.cluster.replication_on(&sql.host).await?;
        let identity = session.identify_system().await?;
        self.check_identity(identity.system_identifier)?;
        if identity.timeline < place.timeline {
            if in_recovery(&sql).await? {
                return Err(Error::new(ErrorKind::Transient, code::SOURCE_VANISHED, STEP)
                    .with("timeline of the server", identity.timeline)
                    .with("timeline that was captured", place.timeline)
                    .why("the standby has not followed to the timeline that was captured"));
            }
            return Err(error::left_behind(identity.timeline, place.timeline));
        }
        if identity.timeline != place.timeline {
            let history = session.timeline_history(identity.timeline).await?.1;
            let ancestry = Ancestry::parse(&history)
                .ok_or_else(|| error::unexpected("a bad history file", STEP))?;
            if let Some(why) = why_not_an_ancestor(&ancestry, place, identity.timeline) {
                return Ok(Err(why));
            }
        } else if identity.flush_lsn < place.lsn {
            return Ok(Err(format!(
                "the server's log ends at {}, before what was captured ({})",
                lsn_text(identity.flush_lsn),
                lsn_text(place.lsn),
            )));
        }
        let status = slot_status(&sql, self.slot()).await?;
        let newest = self.segment_start(place.lsn);
        let (mut from, mut checksum, mut sql) = (newest, checksum, sql);
        loop {
            let live = match self.stream(session, &sql.host, (from, place.timeline)).await {
                Ok(stream) => {
                    let mut live = Live::new(self, place, (stream, from), sql);
                    let caught = live.catch_up(checksum, &self.cluster.clock).await;
                    caught.map(|caught| (live, caught))
                }
                Err(error) => Err(error),
            };
            match live {
                Ok((live, CaughtUp::Proven)) => return Ok(Ok(live)),
                Ok((_, CaughtUp::Disproven(why))) => return Ok(Err(why)),
                Ok((live, CaughtUp::Unproven)) => {
                    from = from.saturating_sub(u64::from(self.segment_bytes));
                    sql = live.into_sql();
                }
                // What would prove it is gone, but not what follows it.
                Err(error) if error.kind() == ErrorKind::Gap && from < newest => {
                    (from, checksum) = (newest, None);
                    sql = self.cluster.sql().await?;
                }
                Err(error) if error.kind() == ErrorKind::Gap => {
                    return Ok(Err(forgotten(place, self.slot(), status.as_deref())));
                }
                Err(error) => return Err(error),
            }
            session = self.cluster.replication_on(&sql.host).await?;
        }
    }

    /// Begins to stream a timeline from the start of a segment, through our slot.
    async fn stream(
        &self,
        mut session: Session,
        host: &Host,
        (start, timeline): (u64, u32),
    ) -> Result<WalStream> {
        self.make_slot(&mut session).await?;
        let clock = &self.cluster.clock;
        let until = clock.elapsed() + SLOT_WAIT;
        let mut was_made_again = false;
        loop {
            match session.start_physical(Some(self.slot()), start, timeline).await {
                Err(error) if error.kind() == ErrorKind::Busy && clock.elapsed() < until => {
                    clock.sleep(SLOT_PAUSE).await;
                }
                // The server gave up what the slot held. It may still have what we need.
                Err(error) if error.kind() == ErrorKind::Config && !was_made_again => {
                    was_made_again = true;
                    let mut other = self.cluster.replication_on(host).await?;
                    other.drop_slot(self.slot()).await?;
                    self.make_slot(&mut other).await?;
                    other.close().await;
                }
                outcome => return outcome,
            }
            session = self.cluster.replication_on(host).await?;
        }
    }

    async fn make_slot(&self, session: &mut Session) -> Result<()> {
        match session.create_slot(self.slot(), false).await {
            Err(error) if error.kind() == ErrorKind::Busy => Ok(()),
            outcome => outcome,
        }
    }
}

fn why_not_an_ancestor(ancestry: &Ancestry, place: Place, timeline: u32) -> Option<String> {
    let Place { timeline: ours, lsn, .. } = place;
    match ancestry.left_at(ours) {
        Some(left) if lsn <= left => None,
        Some(left) => Some(format!(
            "timeline {timeline} left timeline {ours} at {}, before what was captured ({})",
            lsn_text(left),
            lsn_text(lsn),
        )),
        None => Some(format!("timeline {timeline} does not descend from timeline {ours}")),
    }
}

/// `status` is what the server said of the slot before we asked it for WAL.
fn forgotten(place: Place, slot: &str, status: Option<&str>) -> String {
    let at = lsn_text(place.lsn);
    let gone = format!("the server no longer has the WAL at {at}");
    match status {
        Some("lost") => format!(
            "{gone}: it gave up what replication slot {slot} held (max_slot_wal_keep_size, or \
             idle_replication_slot_timeout)"
        ),
        Some(_) => gone,
        None => format!("{gone}, since replication slot {slot} was not there"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_bytes() {
        for checksum in [None, Some(7)] {
            assert_eq!(decode_cursor(&encode_cursor(checksum)), Ok(checksum));
        }
        assert_eq!(decode_cursor(&[]), Ok(None));
        for bad in [&[1, 2][..], &[2]] {
            assert!(decode_cursor(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_fork_is_no_ancestor() {
        let ancestry = Ancestry::parse(b"1\t0/300\tx\n").unwrap();
        let place = |timeline, lsn| Place { system: 1, timeline, lsn };
        assert_eq!(why_not_an_ancestor(&ancestry, place(1, 0x300), 2), None);
        assert!(why_not_an_ancestor(&ancestry, place(1, 0x301), 2).is_some());
        assert!(why_not_an_ancestor(&ancestry, place(3, 1), 2).is_some());
    }
}
