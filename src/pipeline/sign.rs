//! Signatures on log entries: who wrote them can be proven, and history cannot be rewritten unseen.

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::id::hex_name;

/// An Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

hex_name!(PublicKey, 32, "public key");

/// An Ed25519 signature (RFC 8032).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature([u8; 64]);

hex_name!(Signature, 64, "signature");

/// Signs with a key derived from the repository's master secret.
pub struct Signer {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl Signer {
    pub(super) fn from_seed(seed: &[u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed)
            .expect("every 32 bytes are an Ed25519 seed (RFC 8032, section 5.1.5)");
        let mut public = [0; 32];
        public.copy_from_slice(pair.public_key().as_ref());
        Self { pair, public: PublicKey(public) }
    }

    /// The key that [`verify`] needs.
    pub fn public_key(&self) -> PublicKey {
        self.public
    }

    /// Signs `bytes`. The same bytes always give the same signature.
    pub fn sign(&self, bytes: &[u8]) -> Signature {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.pair.sign(bytes).as_ref());
        Signature(signature)
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("public", &self.public).finish_non_exhaustive()
    }
}

/// Checks that the owner of `public` signed exactly `bytes`.
///
/// # Errors
///
/// [`Corrupt`](ErrorKind::Corrupt) when not.
pub fn verify(public: &PublicKey, bytes: &[u8], signature: &Signature) -> Result<()> {
    UnparsedPublicKey::new(&ED25519, public.0).verify(bytes, &signature.0).map_err(|_| {
        Error::new(ErrorKind::Corrupt, code::BROKEN_LOG, "verify a signature")
            .with("public key", public)
            .why("the signed bytes were changed, or somebody else wrote them")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_signed_bytes_and_the_right_key_verify() {
        let signer = Signer::from_seed(&[7; 32]);
        let other = Signer::from_seed(&[8; 32]);
        let signature = signer.sign(b"entry 42");

        assert!(verify(&signer.public_key(), b"entry 42", &signature).is_ok());
        assert!(verify(&signer.public_key(), b"entry 43", &signature).is_err());
        assert!(verify(&other.public_key(), b"entry 42", &signature).is_err());
        let mut forged = *signature.as_bytes();
        forged[0] ^= 1;
        assert!(verify(&signer.public_key(), b"entry 42", &Signature::new(forged)).is_err());
        assert_eq!(signer.sign(b"entry 42"), signature);
        assert_eq!(signature.to_string().parse::<Signature>().unwrap(), signature);
    }
}
