//! The names of WAL files.

/// The name of the file that holds `lsn` on a timeline.
pub fn segment(timeline: u32, lsn: u64, segment_bytes: u32) -> String {
    let number = lsn / u64::from(segment_bytes.max(1));
    let per_log = (1 << 32) / u64::from(segment_bytes.max(1));
    let (log, within) = (number / per_log.max(1), number % per_log.max(1));
    format!("{timeline:08X}{log:08X}{within:08X}")
}

/// The name of a timeline's history file.
pub fn history(timeline: u32) -> String {
    format!("{timeline:08X}.history")
}

/// The timeline and the first position of the file of that name.
pub fn parse(name: &str, segment_bytes: u32) -> Option<(u32, u64)> {
    let is_digit = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
    if name.len() != 24 || !name.bytes().all(is_digit) {
        return None;
    }
    let number = |from: usize| u32::from_str_radix(name.get(from..from + 8)?, 16).ok();
    let (timeline, log, within) = (number(0)?, number(8)?, number(16)?);
    let offset = u64::from(within).checked_mul(u64::from(segment_bytes))?;
    let is_within = timeline > 0 && offset < 1 << 32;
    is_within.then(|| (timeline, (u64::from(log) << 32) + offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_server() {
        let mib_16 = 16 << 20;
        assert_eq!(segment(1, 0x16B_3748, mib_16), "000000010000000000000001");
        assert_eq!(segment(0x1F, 0xA_FF00_0000, mib_16), "0000001F0000000A000000FF");
        assert_eq!(segment(1, 0x1_0000_0000, 1 << 30), "000000010000000100000000");
        assert_eq!(history(2), "00000002.history");
        for lsn in [0, 0x300_0000, 0xA_FF00_0000] {
            assert_eq!(parse(&segment(3, lsn, mib_16), mib_16), Some((3, lsn)));
        }
        for bad in ["", "00000001.history", "00000001000000000000000g", "000000010000000000000100"]
        {
            assert_eq!(parse(bad, mib_16), None, "{bad}");
        }
    }
}
