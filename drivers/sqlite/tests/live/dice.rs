//! Random numbers that a seed repeats.

/// A xorshift generator.
pub(crate) struct Dice(u64);

/// The seeds to run: the one in `STILLPOINT_SEED`, or `usual`.
pub(crate) fn seeds(usual: impl IntoIterator<Item = u64>) -> Vec<u64> {
    match std::env::var_os("STILLPOINT_SEED") {
        Some(seed) => vec![seed.to_str().unwrap().parse().unwrap()],
        None => usual.into_iter().collect(),
    }
}

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// A number below `sides`.
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}
