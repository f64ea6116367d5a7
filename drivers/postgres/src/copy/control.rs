//! `global/pg_control`, which is read last, and whole.

use std::{sync::Arc, time::Duration};

use stillpoint_contract::{Clock, Error, ErrorKind, Result, code};

use super::reader::Files;

/// Its path.
pub(crate) const CONTROL_FILE: &str = "global/pg_control";

const CONTROL_BYTES: u64 = 8192;

/// Where its checksum may lie: after the fields, of which later versions have more.
const CHECKSUM_AT: std::ops::Range<usize> = 200..512;

const LOOKS_MAX: u32 = 20;
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// What the file says that does not differ between versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Control {
    pub(crate) system_identifier: u64,
    /// Where replay would begin after a crash.
    pub(crate) redo: u64,
}

/// Reads the file until it is whole: the server may be writing it.
pub(crate) async fn read(files: &Files, clock: &Arc<dyn Clock>) -> Result<Vec<u8>> {
    for _ in 0..LOOKS_MAX {
        let bytes = files.read_one(CONTROL_FILE, CONTROL_BYTES).await?.unwrap_or_default();
        if decode(&bytes).is_some() {
            return Ok(bytes);
        }
        clock.sleep(LOOK_PAUSE).await;
    }
    Err(Error::new(ErrorKind::Corrupt, code::UNSUITABLE_DATABASE, "read global/pg_control")
        .why("its checksum does not fit, also after several looks"))
}

/// Decodes the file; `None` unless it is whole.
pub(crate) fn decode(bytes: &[u8]) -> Option<Control> {
    let whole = CHECKSUM_AT.step_by(4).any(|at| {
        let stored = bytes.get(at..at + 4).and_then(|stored| stored.first_chunk::<4>());
        let fields = bytes.get(..at);
        stored
            .zip(fields)
            .is_some_and(|(stored, fields)| u32::from_le_bytes(*stored) == crc32c::crc32c(fields))
    });
    let number = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    // system_identifier, two versions, state, time, checkPoint, checkPointCopy.redo.
    Some(Control { system_identifier: number(0)?, redo: number(40)? }).filter(|_| whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_file_is_noticed() {
        let mut bytes = vec![7; 288];
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        bytes.resize(8192, 0);
        assert!(decode(&bytes).is_some());
        bytes[100] ^= 1;
        assert_eq!(decode(&bytes), None);
        assert_eq!(decode(&[]), None);
    }
}
