//! The keyed hashes by which the store knows whom it is about: HMAC-SHA-256 under the key of the storage that erased addresses
//! are hashed with, so that nobody who has only the store can try addresses.

use crate::erase::{KEY_BYTES, hmac};
use postrider_common::ids::to_hex;
use postrider_common::suppression::{SuppressionKey, SuppressionSubject};

/// Bytes that tell one key from another.
const CHECK_BYTES: usize = 8;

#[derive(Debug, Clone)]
pub(crate) struct Hasher([u8; KEY_BYTES]);

impl Hasher {
    pub fn new(key: [u8; KEY_BYTES]) -> Self {
        Self(key)
    }

    pub fn key_of(&self, subject: &SuppressionSubject) -> SuppressionKey {
        let hash = hmac(&self.0, format!("postrider suppression 1|{subject}").as_bytes());
        SuppressionKey(std::array::from_fn(|at| hash[at]))
    }

    /// Tells this key from another one, and nothing about it.
    pub fn check(&self) -> String {
        to_hex(&hmac(&self.0, b"postrider suppression check 1")[..CHECK_BYTES])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_address_have_one_key() {
        let hasher = |byte| Hasher::new([byte; KEY_BYTES]);
        let key = |byte, subject: &str| hasher(byte).key_of(&subject.parse().expect(subject));
        assert_eq!(key(1, "Ada@Example.com"), key(1, " ada@example.com"));
        assert_ne!(key(1, "ada@example.com"), key(2, "ada@example.com"));
        assert_ne!(key(1, "ada@example.com"), key(1, "@example.com"));
        assert_ne!(hasher(1).check(), hasher(2).check());
        // Written down: another answer would forget everybody who is in the list.
        assert_eq!(key(1, "ada@example.com").to_string(), KNOWN);
    }

    const KNOWN: &str = "539bb31cc94c9c6ced297eac";
}
