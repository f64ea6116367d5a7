//! Who signs the repository log: the holder of the key. Everybody can check.

use std::fmt;

use super::entry::Notary;
use crate::pipeline::sign::{PublicKey, Signature, Signer, verify};

/// Signs and checks with the repository's Ed25519 key, as far as it is at hand.
pub(super) struct KeyNotary {
    signer: Option<Signer>,
    public: Option<PublicKey>,
}

impl KeyNotary {
    /// `public` is `None` in a repository without encryption; `signer` also without its key.
    pub(super) fn new(signer: Option<Signer>, public: Option<PublicKey>) -> Self {
        Self { signer, public }
    }
}

impl fmt::Debug for KeyNotary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyNotary")
            .field("can_sign", &self.signer.is_some())
            .finish_non_exhaustive()
    }
}

impl Notary for KeyNotary {
    fn sign(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        Some(self.signer.as_ref()?.sign(bytes).as_bytes().to_vec())
    }

    fn check(&self, bytes: &[u8], signature: &[u8]) -> Option<bool> {
        let public = self.public.as_ref()?;
        let signature = <[u8; 64]>::try_from(signature).ok().map(Signature::new);
        Some(signature.is_some_and(|signature| verify(public, bytes, &signature).is_ok()))
    }
}
