//! What the head of a segment says of its body: the changed blocks, and the timeline's history
//! where one begins.
//!
//! Bytes: version (1), the length of the history (4, little-endian), the history, the changes.

use bytes::Bytes;
use stillpoint_contract::SEGMENT_INDEX_BYTES_MAX;

use crate::wal::Changes;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 5;

/// A head's index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Index {
    /// The text of the history file of the timeline that begins with the segment.
    pub(crate) history: Bytes,
    /// The blocks that change; `None` when they are too many to say.
    pub(crate) changes: Option<Changes>,
}

impl Index {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        let length = u32::try_from(self.history.len()).unwrap_or(u32::MAX);
        out.extend(length.to_le_bytes());
        out.extend(&self.history);
        let left = SEGMENT_INDEX_BYTES_MAX.saturating_sub(out.len());
        out.extend(self.changes.as_ref().and_then(|c| c.encode(left)).unwrap_or_default());
        out.into()
    }

    /// Reads what [`encode`](Self::encode) wrote; `None` for anything else.
    pub(crate) fn decode(bytes: &Bytes) -> Option<Self> {
        if bytes.first() != Some(&VERSION) {
            return None;
        }
        let length = u32::from_le_bytes(*bytes.get(1..HEADER_BYTES)?.first_chunk()?);
        let end = HEADER_BYTES.checked_add(usize::try_from(length).ok()?)?;
        let rest = bytes.get(end..)?;
        let changes = if rest.is_empty() { None } else { Some(Changes::decode(rest)?) };
        Some(Self { history: bytes.slice(HEADER_BYTES..end), changes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_survives_its_bytes() {
        for (history, changes) in
            [(&b"1 0/1 x\n"[..], Some(Changes::default())), (b"", None), (b"x", None)]
        {
            let index = Index { history: Bytes::from_static(history), changes };
            assert_eq!(Index::decode(&index.encode()), Some(index));
        }
        assert_eq!(Index::decode(&Bytes::new()), None);
        assert_eq!(Index::decode(&Bytes::from_static(&[1, 255, 255, 255, 255, 0])), None);
    }
}
