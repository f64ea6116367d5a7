//! What a database holds: cells in pages, shared until they change.

use std::sync::Arc;

use stillpoint_contract::{Error, ErrorKind, Result, code};

/// Length of a page in bytes: its cells, and a checksum of them.
pub const PAGE_BYTES: usize = 4096;

/// How many cells a page holds.
pub const CELLS_PER_PAGE: usize = (PAGE_BYTES - CHECKSUM_BYTES) / CELL_BYTES;

/// How many cells a table may have, so that no log makes a restore eat all memory.
pub const CELLS_MAX: u32 = 1 << 24;

const CELL_BYTES: usize = size_of::<i64>();
const CHECKSUM_BYTES: usize = 8;

type Page = [i64; CELLS_PER_PAGE];

/// Numbered cells, all 0 in the beginning. A clone shares every page that neither side changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    pages: Vec<Arc<Page>>,
}

impl Table {
    /// What `cell` holds.
    pub fn get(&self, cell: u32) -> i64 {
        self.pages.get(page_of(cell) as usize).map_or(0, |page| page[slot_of(cell)])
    }

    /// Sets a cell; the table grows as far as needed.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) when `cell` is not below [`CELLS_MAX`].
    pub fn set(&mut self, cell: u32, value: i64) -> Result<()> {
        if cell >= CELLS_MAX {
            return Err(Error::new(ErrorKind::Invalid, code::USAGE, "set a cell past the last")
                .with("cell", cell));
        }
        let page = page_of(cell) as usize;
        if page >= self.pages.len() {
            self.pages.resize_with(page + 1, || Arc::new([0; CELLS_PER_PAGE]));
        }
        Arc::make_mut(&mut self.pages[page])[slot_of(cell)] = value;
        Ok(())
    }

    /// How many pages it has.
    pub fn page_count(&self) -> u32 {
        self.pages.len() as u32
    }

    /// A page as it is stored; past the last, all cells are 0.
    pub(crate) fn encode_page(&self, page: u32) -> Vec<u8> {
        let cells = self.pages.get(page as usize).map_or(&[0; CELLS_PER_PAGE], |page| page);
        let mut bytes: Vec<u8> = cells.iter().flat_map(|cell| cell.to_le_bytes()).collect();
        bytes.extend_from_slice(&checksum(&bytes));
        bytes
    }

    /// Reads pages that were stored.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) when they are no pages, or one does not match its checksum.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let corrupt = |page: usize| {
            Error::new(ErrorKind::Corrupt, code::RESTORE_CHECK_FAILED, "read a page")
                .with("page", page)
        };
        let (whole, rest) = bytes.as_chunks::<PAGE_BYTES>();
        if !rest.is_empty() || whole.len() > page_of(CELLS_MAX) as usize + 1 {
            return Err(corrupt(whole.len()));
        }
        let mut pages = Vec::with_capacity(whole.len());
        for (number, page) in whole.iter().enumerate() {
            let (cells, sum) = page.split_at(PAGE_BYTES - CHECKSUM_BYTES);
            if sum != checksum(cells) {
                return Err(corrupt(number));
            }
            let mut decoded = [0; CELLS_PER_PAGE];
            for (cell, bytes) in decoded.iter_mut().zip(cells.as_chunks().0) {
                *cell = i64::from_le_bytes(*bytes);
            }
            pages.push(Arc::new(decoded));
        }
        Ok(Self { pages })
    }
}

/// The page on which a cell lies.
pub(crate) fn page_of(cell: u32) -> u32 {
    cell / CELLS_PER_PAGE as u32
}

fn slot_of(cell: u32) -> usize {
    cell as usize % CELLS_PER_PAGE
}

fn checksum(cells: &[u8]) -> [u8; CHECKSUM_BYTES] {
    *blake3::hash(cells).as_bytes().first_chunk().expect("a hash is longer than a checksum")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_survive_their_bytes_and_damage_is_found() {
        let mut table = Table::default();
        table.set(3, -7).unwrap();
        table.set(2000, i64::MAX).unwrap();
        let mut bytes: Vec<u8> = (0..4).flat_map(|page| table.encode_page(page)).collect();
        assert_eq!(Table::decode(&bytes).unwrap(), table);
        assert_eq!((table.get(3), table.get(4), table.get(9999)), (-7, 0, 0));
        bytes[5000] ^= 1;
        assert!(Table::decode(&bytes).is_err());
        assert!(Table::decode(&bytes[1..]).is_err());
        assert!(table.set(CELLS_MAX, 0).is_err());
    }
}
