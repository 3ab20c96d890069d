//! What stands before sealed bytes: which key sealed them, and with what nonce. Only the shape; masters hold the keys.
//!
//! ```text
//! 'P' 'R' 'S' version | length of the key's id, the id | fingerprint of the key (4) | nonce (12) | sealed bytes, tag (16)
//! ```
//!
//! Nothing that is stored unsealed begins like this: payloads are zstd frames, the rest is text.

use std::fmt;
use std::str::FromStr;

const MAGIC: [u8; 3] = *b"PRS";
/// AES-256-GCM over the whole, with a key drawn from the named one for each thing.
const VERSION: u8 = 1;
/// Bytes of a key's id.
pub const KEY_ID_BYTES_MAX: usize = 32;
pub const FINGERPRINT_BYTES: usize = 4;
pub const NONCE_BYTES: usize = 12;
/// Bytes of the longest header.
pub const HEADER_BYTES_MAX: usize = 5 + KEY_ID_BYTES_MAX + FINGERPRINT_BYTES + NONCE_BYTES;

/// The name of a key: 1 to 32 of a-z, 0-9, '.', '_' and '-'.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId(String);

/// Why a text is not the name of a key. Reads after the name of the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not the name of a key: 1 to 32 of a-z, 0-9, '.', '_' and '-'")]
pub struct InvalidKeyId(String);

impl FromStr for KeyId {
    type Err = InvalidKeyId;
    fn from_str(text: &str) -> Result<Self, InvalidKeyId> {
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"._-".contains(&c);
        let fits = (1..=KEY_ID_BYTES_MAX).contains(&text.len());
        if fits && text.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidKeyId(text.chars().take(40).collect()))
        }
    }
}

impl KeyId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub key: KeyId,
    /// Tells a key from another one of the same name.
    pub fingerprint: [u8; FINGERPRINT_BYTES],
    pub nonce: [u8; NONCE_BYTES],
}

impl Header {
    pub fn encode(&self) -> Vec<u8> {
        let id = self.key.as_str().as_bytes();
        let mut bytes = Vec::with_capacity(HEADER_BYTES_MAX);
        bytes.extend(MAGIC);
        // An id has at most `KEY_ID_BYTES_MAX` bytes.
        bytes.extend([VERSION, id.len() as u8]);
        bytes.extend(id);
        bytes.extend(self.fingerprint);
        bytes.extend(self.nonce);
        bytes
    }

    /// The header, and how many bytes it has. None: these bytes are not sealed.
    pub fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let rest = bytes.strip_prefix(&MAGIC)?.strip_prefix(&[VERSION])?;
        let (length, rest) = rest.split_first()?;
        let (id, rest) = rest.split_at_checked(usize::from(*length))?;
        let (fingerprint, rest) = rest.split_at_checked(FINGERPRINT_BYTES)?;
        let (nonce, rest) = rest.split_at_checked(NONCE_BYTES)?;
        let header = Self {
            key: std::str::from_utf8(id).ok()?.parse().ok()?,
            fingerprint: fingerprint.try_into().ok()?,
            nonce: nonce.try_into().ok()?,
        };
        Some((header, bytes.len() - rest.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written_and_nothing_else_is_one() {
        let header = Header { key: "2026-11".parse().unwrap(), fingerprint: [1, 2, 3, 4], nonce: [7; NONCE_BYTES] };
        let mut bytes = header.encode();
        let length = bytes.len();
        bytes.extend(b"sealed");
        assert_eq!(Header::read(&bytes), Some((header, length)));
        for cut in 0..length {
            assert_eq!(Header::read(&bytes[..cut]), None, "cut at {cut}");
        }
        for other in [&b"email\na@b.example\n"[..], b"{\"a\":1}", &[0x28, 0xb5, 0x2f, 0xfd, 0], b"PRS\x02"] {
            assert_eq!(Header::read(other), None);
        }
        for wrong in ["", "A", "a b", &"x".repeat(KEY_ID_BYTES_MAX + 1)] {
            assert!(wrong.parse::<KeyId>().is_err(), "{wrong}");
        }
    }
}
