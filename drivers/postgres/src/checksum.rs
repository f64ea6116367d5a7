//! Page headers and page checksums.
//!
//! Source: PostgreSQL's `bufpage.h` and `checksum_impl.h`.

/// Sums that are computed side by side.
const LANES: usize = 32;

const PRIME: u32 = 16_777_619;

/// Where each sum begins.
const OFFSETS: [u32; LANES] = [
    0x5b1f_36e9,
    0xb852_5960,
    0x02ab_50aa,
    0x1de6_6d2a,
    0x79ff_467a,
    0x9bb9_f8a3,
    0x217e_7cd2,
    0x83e1_3d2c,
    0xf8d4_474f,
    0xe39e_b970,
    0x42c6_ae16,
    0x9932_16fa,
    0x7b09_3b5d,
    0x98da_ff3c,
    0xf718_902a,
    0x0b1c_9cdb,
    0xe58f_764b,
    0x1876_36bc,
    0x5d7b_3bb1,
    0xe73d_e7de,
    0x92be_c979,
    0xcca6_c0b2,
    0x304a_0979,
    0x85aa_43d4,
    0x7831_25bb,
    0x6ca8_eaa2,
    0xe407_eac6,
    0x4b5c_fc3e,
    0x9fbf_8c76,
    0x15ca_20be,
    0xf2ca_9fd3,
    0x959b_d756,
];

/// Where a page keeps its checksum.
const CHECKSUM_AT: usize = 8;

/// Where a page keeps the end of its free space; zero in a page that was never used.
const UPPER_AT: usize = 14;

/// The numbers of the pages in `bytes` whose checksum does not fit. `first_block` is the number of
/// the first page within its relation.
pub(crate) fn bad_pages(bytes: &[u8], page_bytes: usize, first_block: u32) -> Vec<u32> {
    let pages = (0_u32..).zip(bytes.chunks_exact(page_bytes));
    let bad = pages.filter(|(n, page)| !is_sound(page, first_block.wrapping_add(*n)));
    bad.map(|(n, _)| n).collect()
}

/// Whether a page is all zero, or its checksum fits.
pub(crate) fn is_sound(page: &[u8], block: u32) -> bool {
    let field = |at: usize| Some(u16::from_le_bytes([*page.get(at)?, *page.get(at + 1)?]));
    let (Some(stored), Some(upper)) = (field(CHECKSUM_AT), field(UPPER_AT)) else { return false };
    if upper == 0 {
        return page.iter().all(|byte| *byte == 0);
    }
    stored == checksum(page, block)
}

fn checksum(page: &[u8], block: u32) -> u16 {
    let mut sums = OFFSETS;
    let mut rows = page.chunks_exact(4 * LANES);
    if let Some(first) = rows.next() {
        let mut row = [0; 4 * LANES];
        row.copy_from_slice(first);
        row[CHECKSUM_AT] = 0;
        row[CHECKSUM_AT + 1] = 0;
        add(&mut sums, &row);
    }
    rows.for_each(|row| add(&mut sums, row));
    add(&mut sums, &[0; 4 * LANES]);
    add(&mut sums, &[0; 4 * LANES]);
    let sum = sums.iter().fold(0, |all, sum| all ^ sum) ^ block;
    (sum % 65535 + 1) as u16
}

fn add(sums: &mut [u32; LANES], row: &[u8]) {
    for (sum, word) in sums.iter_mut().zip(row.chunks_exact(4)) {
        let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        let mixed = *sum ^ word;
        *sum = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(block: u32) -> Vec<u8> {
        let mut page: Vec<u8> = (0..8192_u32).map(|at| (at * 31 % 251) as u8).collect();
        let sum = checksum(&page, block).to_le_bytes();
        page[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&sum);
        page
    }

    #[test]
    fn any_changed_bit_and_a_wrong_place_are_noticed() {
        let good = page(7);
        assert!(is_sound(&good, 7));
        assert!(!is_sound(&good, 8));
        for at in (0..8192).step_by(61) {
            let mut bad = good.clone();
            bad[at] ^= 4;
            assert!(!is_sound(&bad, 7), "{at}");
        }
    }

    #[test]
    fn an_unused_page_is_all_zero() {
        assert!(is_sound(&[0; 8192], 3));
        let mut bad = vec![0; 8192];
        bad[100] = 1;
        assert!(!is_sound(&bad, 3));
        assert!(!is_sound(&[], 0));
    }

    #[test]
    fn bad_pages_are_numbered() {
        let bytes = [page(20), page(0), page(22), vec![0; 8192]].concat();
        assert_eq!(bad_pages(&bytes, 8192, 20), [1]);
    }
}
