//! A hash of rows that does not depend on their order.
//!
//! What a statement returns has no order, so the hash of some rows is the sum of the hashes of
//! each, and their number. A row's bytes say where each value begins and whether it is NULL, so
//! that no two different rows have the same bytes.

use std::fmt;

use data_encoding::HEXLOWER;

/// The hash of some rows.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct SliceHash {
    /// The sum of the BLAKE3 hashes of the rows modulo 2^256, the lowest part first.
    sum: [u64; 4],
    rows: u64,
}

impl SliceHash {
    /// Adds a row.
    pub fn add(&mut self, row: &[u8]) {
        let hash = blake3::hash(row);
        self.merge(&Self { sum: limbs(hash.as_bytes()), rows: 1 });
    }

    /// Adds the rows of another one.
    pub fn merge(&mut self, other: &Self) {
        let mut carry = 0;
        for (limb, added) in self.sum.iter_mut().zip(other.sum) {
            let total = u128::from(*limb) + u128::from(added) + carry;
            *limb = total as u64;
            carry = total >> 64;
        }
        self.rows = self.rows.wrapping_add(other.rows);
    }

    /// How many rows.
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// The hash without the number of rows, as hexadecimal text.
    pub fn hex(&self) -> String {
        HEXLOWER.encode(self.sum.map(u64::to_le_bytes).as_flattened())
    }

    /// The hash of so many rows, from what [`hex`](Self::hex) said; `None` when it said no such
    /// thing.
    pub fn from_hex(text: &str, rows: u64) -> Option<Self> {
        let bytes = HEXLOWER.decode(text.as_bytes()).ok()?;
        Some(Self { sum: limbs(bytes.as_slice().try_into().ok()?), rows })
    }
}

impl fmt::Debug for SliceHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SliceHash({} rows, {})", self.rows, self.hex())
    }
}

fn limbs(bytes: &[u8; 32]) -> [u64; 4] {
    let mut limbs = [0; 4];
    for (limb, bytes) in limbs.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *limb = u64::from_le_bytes(*bytes);
    }
    limbs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};
    use stillpoint_contract::RowWriter;

    use super::*;

    fn of(rows: &[Vec<Option<&[u8]>>]) -> SliceHash {
        let mut writer = RowWriter::default();
        for row in rows {
            writer.begin(row.len());
            for value in row {
                match value {
                    Some(value) => writer.value(&[value]),
                    None => writer.null(),
                }
            }
            writer.end().unwrap();
        }
        let mut hash = SliceHash::default();
        writer.take().rows().for_each(|row| hash.add(row));
        hash
    }

    #[test]
    fn i17_any_changed_cell_is_noticed() {
        let good = [vec![Some(&b"1"[..]), Some(b"x")], vec![Some(b"2"), None]];
        let changed = [
            [vec![Some(&b"1"[..]), Some(b"x")], vec![Some(b"2"), Some(b"")]],
            [vec![Some(&b"\x01"[..]), Some(b"x")], vec![Some(b"2"), None]],
            [vec![Some(&b"x"[..]), Some(b"1")], vec![Some(b"2"), None]],
            [vec![Some(&b"1x"[..]), Some(b"")], vec![Some(b"2"), None]],
            [vec![Some(&b"2"[..]), Some(b"x")], vec![Some(b"1"), None]],
            [vec![Some(&b"1"[..]), Some(b"x")], vec![Some(b"1"), Some(b"x")]],
            [vec![Some(&b"1"[..]), Some(b"x")], vec![None, Some(b"2")]],
        ];
        let good = of(&good);
        for rows in changed {
            assert_ne!(of(&rows), good, "{rows:?}");
        }
        assert_eq!(good, of(&[vec![Some(b"2"), None], vec![Some(b"1"), Some(b"x")]]));
    }

    #[test]
    fn text_comes_back() {
        let mut hash = SliceHash::default();
        hash.add(b"row");
        assert_eq!(SliceHash::from_hex(&hash.hex(), 1), Some(hash));
        assert_ne!(SliceHash::from_hex(&hash.hex(), 2), Some(hash));
        for text in ["", "00", &hash.hex()[1..], &format!("{}00", hash.hex())] {
            assert_eq!(SliceHash::from_hex(text, 1), None, "{text}");
        }
    }

    #[test]
    fn sums_carry_over() {
        let mut hash = SliceHash { sum: [u64::MAX, u64::MAX, 7, 0], rows: 1 };
        hash.merge(&SliceHash { sum: [1, 0, 0, 0], rows: 1 });
        assert_eq!(hash, SliceHash { sum: [0, 0, 8, 0], rows: 2 });
    }

    proptest! {
        #[test]
        fn i17_order_and_grouping_do_not_matter(mut rows: Vec<Vec<u8>>, cut: usize, twice: bool) {
            let sum = |rows: &[Vec<u8>]| {
                let mut hash = SliceHash::default();
                for row in rows {
                    hash.add(row);
                }
                hash
            };
            let whole = sum(&rows);
            let (first, second) = rows.split_at(cut % (rows.len() + 1));
            let (mut merged, second) = (sum(first), sum(second));
            merged.merge(&second);
            assert_eq!(merged, whole);
            rows.reverse();
            assert_eq!(sum(&rows), whole);
            // A row that comes twice, or not at all, does not go unnoticed.
            let Some(last) = rows.pop() else { return Ok(()) };
            if twice {
                rows.extend([last.clone(), last]);
            }
            assert_ne!(sum(&rows), whole);
        }

        #[test]
        fn i17_any_changed_byte_is_seen(mut row in any::<Vec<u8>>(), at: usize, by in 1..=255_u8) {
            let mut good = SliceHash::default();
            good.add(&row);
            row.push(0);
            let at = at % row.len();
            row[at] ^= by;
            let mut bad = SliceHash::default();
            bad.add(&row);
            assert_ne!(good, bad);
        }
    }
}
