//! The hash that an erased address leaves: HMAC-SHA-256 (RFC 2104) under a key of the storage, so that nobody who has only
//! the store can try addresses. Cut to 128 bits (RFC 2104 5).

use postrider_common::Address;
use postrider_common::ids::{ErasureId, to_hex};
use sha2::{Digest as _, Sha256};

/// Bytes of the key.
pub const KEY_BYTES: usize = 32;
/// Bytes that the hash works on at once.
const BLOCK_BYTES: usize = 64;
/// Bytes of the hash that are kept.
const KEPT_BYTES: usize = 16;

/// Two spellings of one address have one hash.
pub fn id_of(key: &[u8; KEY_BYTES], address: &Address) -> Option<ErasureId> {
    let hash = hmac(key, format!("postrider erasure 1|{}", address.normalised()).as_bytes());
    to_hex(&hash[..KEPT_BYTES]).parse().ok()
}

pub(crate) fn hmac(key: &[u8; KEY_BYTES], text: &[u8]) -> [u8; 32] {
    let padded = |with: u8| std::array::from_fn::<u8, BLOCK_BYTES, _>(|at| key.get(at).copied().unwrap_or(0) ^ with);
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231 4.3, whose key is filled up with zeros, as HMAC does by itself.
    #[test]
    fn the_hash_is_hmac_sha256() {
        let mut key = [0; KEY_BYTES];
        key[..4].copy_from_slice(b"Jefe");
        let hash = to_hex(&hmac(&key, b"what do ya want for nothing?"));
        assert_eq!(hash, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn spellings_of_one_address_have_one_hash_under_one_key() {
        let id = |key: u8, address: &str| id_of(&[key; KEY_BYTES], &address.parse().expect("an address"));
        assert!(id(1, "Ada@Example.com").is_some());
        assert_eq!(id(1, "Ada@Example.com"), id(1, "ada@example.com"));
        assert_ne!(id(1, "ada@example.com"), id(2, "ada@example.com"));
        assert_ne!(id(1, "ada@example.com"), id(1, "bob@example.com"));
    }
}
