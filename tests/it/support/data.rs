//! Small databases to back up: parts of pages, half of them noise, as real ones are.

use std::collections::BTreeMap;

use stillpoint::repository::store::Dice;
use stillpoint_contract::Entropy as _;

/// Length of a page in bytes.
pub(crate) const PAGE_BYTES: usize = 4096;

/// What a database consists of: its parts by name.
pub(crate) type Content = BTreeMap<String, Vec<u8>>;

/// A database of parts with so many bytes each.
pub(crate) fn content(seed: u64, parts: &[(&str, usize)]) -> Content {
    let dice = Dice::new(seed);
    parts
        .iter()
        .map(|(name, length)| {
            let mut bytes = vec![0; *length];
            for page in bytes.chunks_mut(PAGE_BYTES) {
                fill_page(page, &dice);
            }
            ((*name).to_owned(), bytes)
        })
        .collect()
}

/// Changes a few bytes in so many randomly chosen pages.
pub(crate) fn change(content: &mut Content, seed: u64, pages: usize) {
    let dice = Dice::new(seed);
    let names: Vec<String> = content.keys().cloned().collect();
    for _ in 0..pages {
        let bytes = content.get_mut(&names[dice.below(names.len())]).unwrap();
        let page = dice.below(bytes.len().div_ceil(PAGE_BYTES)) * PAGE_BYTES;
        let end = (page + PAGE_BYTES).min(bytes.len());
        let row = page + dice.below((end - page).saturating_sub(40).max(1));
        let row_end = (row + 40).min(end);
        dice.fill(&mut bytes[row..row_end]);
    }
}

/// A third of a page is random, a third words, a third empty.
fn fill_page(page: &mut [u8], dice: &Dice) {
    let third = page.len() / 3;
    dice.fill(&mut page[..third]);
    let words = b"paid packed shipped returned please deliver after six ring twice ";
    for (index, byte) in page[third..2 * third].iter_mut().enumerate() {
        *byte = words[index % words.len()];
    }
}
