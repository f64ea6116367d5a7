//! Whether a store keeps the promise on which everything rests.

use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures::future::join_all;
use stillpoint_contract::{Entropy, Result, code};

use super::{Key, Put, Store};

/// Creates that race for one name.
const RIVALS: usize = 8;

/// Nothing that a probe writes is longer.
const PROBE_BYTES_MAX: u64 = 64;

/// What becomes of two creates of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conditional {
    /// Exactly one of them wins: several writers may share the store.
    Linearizable,
    /// The store ignores the condition or has none: one writer only, in a
    /// [`SingleWriter`](super::SingleWriter).
    Ignored,
}

/// Finds out what `store` does, with two short-lived objects of random names below `control/`.
///
/// # Errors
///
/// Those of the store, if it fails for other reasons than that it knows no conditions.
pub async fn probe(store: &dyn Store, entropy: &dyn Entropy) -> Result<Conditional> {
    for rivals in [1, RIVALS] {
        let mut random = [0; 16];
        entropy.fill(&mut random);
        let key = Key::new(format!("control/probe-{}", HEXLOWER.encode(&random)))?;
        let outcome = race(store, &key, rivals).await;
        // A failure to tidy up says nothing about the question, and nobody reads the object.
        let _ = store.delete(&key).await;
        match outcome {
            Ok(Conditional::Linearizable) => {}
            Err(error) if error.code() == code::SINGLE_WRITER => return Ok(Conditional::Ignored),
            found_out => return found_out,
        }
    }
    Ok(Conditional::Linearizable)
}

/// Lets `rivals` create `key` at once, then one more, and looks whose bytes are there.
async fn race(store: &dyn Store, key: &Key, rivals: usize) -> Result<Conditional> {
    let body = |rival: usize| Bytes::from(format!("rival {rival}"));
    let creates = (0..rivals).map(|rival| store.create(key, body(rival)));
    let mut winner = None;
    for (rival, put) in join_all(creates).await.into_iter().enumerate() {
        match put? {
            Put::Created if winner.is_some() => return Ok(Conditional::Ignored),
            Put::Created => winner = Some(rival),
            Put::Existed => {}
        }
    }
    let late = store.create(key, body(rivals)).await?;
    let kept = store.read(key, PROBE_BYTES_MAX).await?;
    // Whose first answer was lost, and who asked again, was told that its own object existed.
    let winners = winner.map_or(0..rivals, |winner| winner..winner + 1);
    let holds = late == Put::Existed && winners.map(body).any(|own| kept.as_ref() == Some(&own));
    Ok(if holds { Conditional::Linearizable } else { Conditional::Ignored })
}
