//! What a person or a program holds to open a repository, and how it is written down.

use std::fmt;

use data_encoding::{Encoding, HEXLOWER, Specification};
use stillpoint_contract::{Entropy, Error, ErrorKind, Result, code};
use zeroize::Zeroizing;

/// A secret that opens a key slot. Wiped from memory when dropped, never printed.
#[derive(Clone)]
pub enum Secret {
    /// Something a person remembers.
    Passphrase(Zeroizing<String>),
    /// 32 random bytes in a file.
    KeyFile(Zeroizing<[u8; 32]>),
    /// 20 random bytes on paper.
    Recovery(Zeroizing<[u8; 20]>),
}

const KEY_FILE_HEADER: &str = "stillpoint key file 1";
/// A file longer than this is no key file.
const KEY_FILE_BYTES_MAX: usize = 1024;
/// Random bytes of a recovery key: 160 bits.
const RECOVERY_BYTES: usize = 20;
/// Bytes behind them that betray typing errors: one in 2^40 stays unnoticed.
const RECOVERY_CHECK_BYTES: usize = 5;
const RECOVERY_GROUP_CHARS: usize = 5;
const RECOVERY_CHARS: usize = (RECOVERY_BYTES + RECOVERY_CHECK_BYTES) * 8 / 5;
const CONTEXT_RECOVERY_CHECK: &str = "stillpoint 2026-11 v1 recovery key check";

impl Secret {
    /// Takes a passphrase, without one line break at its end as editors leave it.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) when nothing is left.
    pub fn passphrase(text: &str) -> Result<Self> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, code::NO_KEY, "take an empty passphrase"));
        }
        Ok(Self::Passphrase(Zeroizing::new(text.to_owned())))
    }

    /// Makes a new key file.
    pub fn new_key_file(entropy: &dyn Entropy) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        entropy.fill(&mut *key);
        Self::KeyFile(key)
    }

    /// Makes a new recovery key.
    pub fn new_recovery(entropy: &dyn Entropy) -> Self {
        let mut key = Zeroizing::new([0; RECOVERY_BYTES]);
        entropy.fill(&mut *key);
        Self::Recovery(key)
    }

    /// Reads the text of a key file.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) when it is none. The text is not quoted: it is a secret.
    pub fn from_key_file(text: &str) -> Result<Self> {
        let read = || {
            let text = (text.len() <= KEY_FILE_BYTES_MAX).then_some(text)?;
            let (header, key) = text.trim().split_once('\n')?;
            (header.trim() == KEY_FILE_HEADER).then_some(())?;
            let digits = Zeroizing::new(key.trim().as_bytes().to_ascii_lowercase());
            let bytes = Zeroizing::new(HEXLOWER.decode(&digits).ok()?);
            Some(Self::KeyFile(Zeroizing::new(bytes.as_slice().try_into().ok()?)))
        };
        read().ok_or_else(|| {
            Error::new(ErrorKind::Invalid, code::WRONG_KEY, "read a key file").why(format!(
                "a key file has the line `{KEY_FILE_HEADER}` and then 64 hexadecimal digits"
            ))
        })
    }

    /// Reads a recovery key as a person types it: groups, case and look-alikes do not matter.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) when a typing error shows, with its place where that is
    /// known. The text is not quoted: it is a secret.
    pub fn from_recovery(text: &str) -> Result<Self> {
        let mistyped = |why: String| {
            Error::new(ErrorKind::Invalid, code::WRONG_KEY, "read a recovery key").why(why)
        };
        let typed: Zeroizing<String> =
            Zeroizing::new(text.chars().filter(|c| !c.is_whitespace() && *c != '-').collect());
        if let Some(place) = typed.chars().position(|c| !is_recovery_char(c)) {
            let group = place / RECOVERY_GROUP_CHARS + 1;
            return Err(mistyped(format!("group {group} has a character that no such key has")));
        }
        if typed.len() != RECOVERY_CHARS {
            return Err(mistyped(format!(
                "it has {} characters instead of {RECOVERY_CHARS}",
                typed.len()
            )));
        }
        let bytes = recovery_alphabet().decode(typed.as_bytes()).map(Zeroizing::new);
        bytes
            .ok()
            .and_then(|bytes| {
                let (key, check) = bytes.split_first_chunk::<RECOVERY_BYTES>()?;
                (recovery_check(key) == *check).then(|| Self::Recovery(Zeroizing::new(*key)))
            })
            .ok_or_else(|| mistyped("some character differs from the printed key".to_owned()))
    }

    /// The secret as it is typed, saved or printed.
    pub fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(match self {
            Self::Passphrase(text) => text.as_str().to_owned(),
            Self::KeyFile(key) => format!("{KEY_FILE_HEADER}\n{}\n", HEXLOWER.encode(&**key)),
            Self::Recovery(key) => {
                let bytes = Zeroizing::new([&key[..], &recovery_check(key)].concat());
                let symbols = Zeroizing::new(recovery_alphabet().encode(&bytes));
                let groups: Vec<_> = (0..symbols.len())
                    .step_by(RECOVERY_GROUP_CHARS)
                    .map(|begin| &symbols[begin..begin + RECOVERY_GROUP_CHARS])
                    .collect();
                groups.join("-")
            }
        })
    }

    /// What kind of secret it is, in words.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Passphrase(_) => "passphrase",
            Self::KeyFile(_) => "key file",
            Self::Recovery(_) => "recovery key",
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({}, ***)", self.kind())
    }
}

/// Base 32 without letters that look like digits (Douglas Crockford's alphabet).
/// Source: <https://www.crockford.com/base32.html>
fn recovery_alphabet() -> Encoding {
    let mut specification = Specification::new();
    specification.symbols.push_str("0123456789ABCDEFGHJKMNPQRSTVWXYZ");
    specification.translate.from.push_str("abcdefghjkmnpqrstvwxyzOoIiLl");
    specification.translate.to.push_str("ABCDEFGHJKMNPQRSTVWXYZ001111");
    specification.encoding().expect("the alphabet has 32 symbols and translates no symbol")
}

fn is_recovery_char(c: char) -> bool {
    c.is_ascii_alphanumeric() && !matches!(c, 'U' | 'u')
}

fn recovery_check(key: &[u8; RECOVERY_BYTES]) -> [u8; RECOVERY_CHECK_BYTES] {
    let digest = blake3::derive_key(CONTEXT_RECOVERY_CHECK, key);
    let mut check = [0; RECOVERY_CHECK_BYTES];
    check.copy_from_slice(&digest[..RECOVERY_CHECK_BYTES]);
    check
}
