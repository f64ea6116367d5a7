//! Seeded randomness, so that a failing run is repeated by repeating its seed.

use std::sync::{Mutex, MutexGuard};

use stillpoint_contract::Entropy;

/// A sequence that is random to look at and fixed by its seed.
///
/// For tests, simulators and fault injection only: whoever knows the seed knows the sequence.
#[derive(Debug)]
pub struct Dice(Mutex<blake3::OutputReader>);

impl Dice {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof()))
    }

    /// The next byte.
    pub fn byte(&self) -> u8 {
        let mut byte = [0];
        self.fill(&mut byte);
        byte[0]
    }

    /// The next number below `limit`, or 0 when `limit` is 0. Nearly uniform.
    pub fn below(&self, limit: usize) -> usize {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes).checked_rem(limit as u64).unwrap_or(0) as usize
    }

    /// Whether something with a chance of `rate` in 256 happens this time.
    pub fn happens(&self, rate: u8) -> bool {
        self.byte() < rate
    }

    fn reader(&self) -> MutexGuard<'_, blake3::OutputReader> {
        self.0.lock().expect("no holder of this lock can panic")
    }
}

impl Entropy for Dice {
    fn fill(&self, bytes: &mut [u8]) {
        self.reader().fill(bytes);
    }
}
