//! Points as users of PostgreSQL name them: by LSN, transaction, or the name of a restore point.

use stillpoint_contract::{Error, ErrorKind, LogEventKind, NativePoint, Result, SegmentHead, code};

use crate::{index::Index, wire::lsn_from};

/// For help texts and errors.
pub(crate) const FORMS: &str = "0/5000028 (everything before this LSN); xid:731 (right after this \
    transaction's commit); name:before_upgrade (pg_create_restore_point)";

/// The longest name of a restore point, in bytes.
///
/// Source: <https://www.postgresql.org/docs/current/functions-admin.html>, `MAXFNAMELEN`.
const NAME_BYTES_MAX: usize = 63;

/// Reads a point; `None` for text that is none of ours.
pub(crate) fn read(text: &str) -> Result<Option<NativePoint>> {
    let text = text.trim();
    let bad = |why: &'static str| {
        let error = Error::new(ErrorKind::Invalid, code::BAD_POINT, "understand the point in time");
        Err(error.with("given", text).with("forms", FORMS).why(why))
    };
    if let Some(name) = text.strip_prefix("name:") {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return bad("a restore point has a name of 1 to 63 bytes");
        }
        return Ok(Some(NativePoint::Named(name.to_owned())));
    }
    if let Some(id) = text.strip_prefix("xid:") {
        // Also as 64 bits, of which WAL has the lower half.
        return match id.parse::<u64>() {
            Ok(id) if id & 0xffff_ffff >= 3 && !text.contains('+') => {
                Ok(Some(NativePoint::Transaction(id.to_string())))
            }
            _ => bad("a transaction has a number from 3 on"),
        };
    }
    let looks_like_lsn = text.split_once('/').is_some_and(|(high, low)| {
        let is_hex = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_hexdigit());
        is_hex(high) && is_hex(low)
    });
    match lsn_from(text) {
        Some(lsn) => Ok(Some(NativePoint::Offset(lsn.into()))),
        None if looks_like_lsn => bad("an LSN has up to eight digits on either side"),
        None => Ok(None),
    }
}

/// Where a transaction committed, by the index of the segment.
pub(crate) fn commit_of(transaction: &str, head: &SegmentHead) -> Option<u128> {
    let wanted = transaction.parse::<u64>().ok()? & 0xffff_ffff;
    let commits = head.events.iter().filter(|event| event.what == LogEventKind::Commit);
    let xids = Index::decode(&head.index)?.commits;
    let pairs = commits.zip(xids).filter(|(_, xid)| u64::from(*xid) == wanted);
    pairs.last().map(|(event, _)| event.offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_read_as_the_tools_of_postgresql_write_them() {
        for (text, expected) in [
            ("0/5000028", NativePoint::Offset(0x500_0028)),
            ("1A/0", NativePoint::Offset(0x1A_0000_0000)),
            (" 0/a ", NativePoint::Offset(10)),
            ("xid:731", NativePoint::Transaction("731".to_owned())),
            ("xid:4294968027", NativePoint::Transaction("4294968027".to_owned())),
            ("name:before: 7", NativePoint::Named("before: 7".to_owned())),
        ] {
            assert_eq!(read(text).unwrap(), Some(expected), "{text}");
        }
        for text in ["latest", "13:20", "2026-11-21", "abcd:7", "7388120011467391044/2:5", "a/b/c"]
        {
            assert_eq!(read(text).unwrap(), None, "{text}");
        }
        let long = format!("name:{}", "x".repeat(64));
        for text in ["name:", &long, "xid:", "xid:2", "xid:-1", "xid:+7", "0/123456789"] {
            assert_eq!(read(text).unwrap_err().code(), code::BAD_POINT, "{text}");
        }
    }
}
