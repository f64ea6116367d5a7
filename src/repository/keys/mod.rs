//! Key slots: the master secret, wrapped once for each passphrase or key that may open it.

mod secret;
mod slot;
#[cfg(test)]
mod tests;

pub use secret::Secret;
pub use slot::{KeySlot, Method, NewSlot, PassphraseCost, SLOTS_MAX, SlotId, unwrap};
