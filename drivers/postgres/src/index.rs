//! What the head of a segment says of its body: which transactions committed, the changed blocks,
//! and the timeline's history where one begins.
//!
//! Bytes: version (2), the length of the history (4, little-endian), the history, the number of
//! commits (4), their transactions (4 each), the changes. Version 1 has no transactions.

use bytes::Bytes;
use stillpoint_contract::SEGMENT_INDEX_BYTES_MAX;

use crate::wal::Changes;

const VERSION: u8 = 2;
const VERSION_WITHOUT_COMMITS: u8 = 1;
const HEADER_BYTES: usize = 5;

/// A head's index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Index {
    /// The text of the history file of the timeline that begins with the segment.
    pub(crate) history: Bytes,
    /// The transactions of the commits, in the order of those events; empty where they are not
    /// known.
    pub(crate) commits: Vec<u32>,
    /// The blocks that change; `None` when they are too many to say.
    pub(crate) changes: Option<Changes>,
}

impl Index {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        let length = u32::try_from(self.history.len()).unwrap_or(u32::MAX);
        out.extend(length.to_le_bytes());
        out.extend(&self.history);
        out.extend(u32::try_from(self.commits.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend(self.commits.iter().flat_map(|xid| xid.to_le_bytes()));
        let left = SEGMENT_INDEX_BYTES_MAX.saturating_sub(out.len());
        out.extend(self.changes.as_ref().and_then(|c| c.encode(left)).unwrap_or_default());
        out.into()
    }

    /// Reads what [`encode`](Self::encode) wrote; `None` for anything else.
    pub(crate) fn decode(bytes: &Bytes) -> Option<Self> {
        let version = *bytes.first()?;
        if ![VERSION_WITHOUT_COMMITS, VERSION].contains(&version) {
            return None;
        }
        let length = u32::from_le_bytes(*bytes.get(1..HEADER_BYTES)?.first_chunk()?);
        let end = HEADER_BYTES.checked_add(usize::try_from(length).ok()?)?;
        let mut rest = bytes.get(end..)?;
        let mut commits = Vec::new();
        if version == VERSION {
            let (count, after) = rest.split_first_chunk()?;
            let length = usize::try_from(u32::from_le_bytes(*count)).ok()?.checked_mul(4)?;
            let (xids, after) = after.split_at_checked(length)?;
            commits = xids.as_chunks().0.iter().map(|xid| u32::from_le_bytes(*xid)).collect();
            rest = after;
        }
        let changes = if rest.is_empty() { None } else { Some(Changes::decode(rest)?) };
        Some(Self { history: bytes.slice(HEADER_BYTES..end), commits, changes })
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
            let history = Bytes::from_static(history);
            let index = Index { history, commits: vec![7, u32::MAX], changes };
            assert_eq!(Index::decode(&index.encode()), Some(index));
        }
        let old = Bytes::from_static(&[1, 1, 0, 0, 0, b'x']);
        let history = Bytes::from_static(b"x");
        assert_eq!(Index::decode(&old), Some(Index { history, ..Index::default() }));
        assert_eq!(Index::decode(&Bytes::new()), None);
        assert_eq!(Index::decode(&Bytes::from_static(&[2, 0, 0, 0, 0, 9, 0, 0, 0, 1])), None);
        assert_eq!(Index::decode(&Bytes::from_static(&[1, 255, 255, 255, 255, 0])), None);
    }
}
