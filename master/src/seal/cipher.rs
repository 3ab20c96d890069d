//! AES-256-GCM, by the provider that TLS uses too. A build without the feature has keys of no kind.
//!
//! Every thing is sealed with a key of its own, drawn from the configured one by HMAC-SHA256 of what it is bound to (a
//! pseudo-random function, as NIST SP 800-108 asks of one). Nonces are random, and one key takes at most 2^32 of them
//! (SP 800-38D 8.3): with one key for all, the replies of five days at full speed would be too many.

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

pub use chosen::{Cipher, random};

#[cfg(feature = "encryption")]
mod chosen {
    use super::KEY_BYTES;
    use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
    use aws_lc_rs::hmac;
    use aws_lc_rs::rand;
    use postrider_common::seal::NONCE_BYTES;

    #[derive(Debug)]
    pub struct Cipher(hmac::Key);

    impl Cipher {
        /// None: this build cannot seal.
        pub fn new(key: &[u8; KEY_BYTES]) -> Option<Self> {
            Some(Self(hmac::Key::new(hmac::HMAC_SHA256, key)))
        }

        /// The key of one thing. None never: the hash has the length of a key.
        fn key_of(&self, bound_to: &[u8]) -> Option<LessSafeKey> {
            let key = hmac::sign(&self.0, bound_to);
            UnboundKey::new(&AES_256_GCM, key.as_ref()).ok().map(LessSafeKey::new)
        }

        /// Puts the sealed bytes and their tag in place of the plain ones.
        pub fn seal(&self, nonce: [u8; NONCE_BYTES], bound_to: &[u8], plain: &mut Vec<u8>) {
            let nonce = Nonce::assume_unique_for_key(nonce);
            let seal = |key: LessSafeKey| key.seal_in_place_append_tag(nonce, Aad::from(bound_to), plain).ok();
            // It fails for more bytes than a process can hold. Nothing plain may leave, whatever happened.
            if self.key_of(bound_to).and_then(seal).is_none() {
                plain.clear();
            }
        }

        /// How many plain bytes stand in front now. None: these are not the bytes that were sealed.
        pub fn open(&self, nonce: [u8; NONCE_BYTES], bound_to: &[u8], sealed: &mut [u8]) -> Option<usize> {
            let nonce = Nonce::assume_unique_for_key(nonce);
            self.key_of(bound_to)?.open_in_place(nonce, Aad::from(bound_to), sealed).ok().map(|plain| plain.len())
        }
    }

    /// Random bytes fit for a key or a nonce. None: the system has none. Not from `Clock`, whose numbers are not for
    /// secrets: a nonce that comes twice would give away what it seals.
    pub fn random<const N: usize>() -> Option<[u8; N]> {
        let mut bytes = [0; N];
        rand::fill(&mut bytes).ok().map(|()| bytes)
    }
}

#[cfg(not(feature = "encryption"))]
mod chosen {
    use super::KEY_BYTES;
    use postrider_common::seal::NONCE_BYTES;

    /// There is none in this build.
    #[derive(Debug)]
    pub enum Cipher {}

    impl Cipher {
        pub fn new(_: &[u8; KEY_BYTES]) -> Option<Self> {
            None
        }

        pub fn seal(&self, _: [u8; NONCE_BYTES], _: &[u8], _: &mut Vec<u8>) {
            match *self {}
        }

        pub fn open(&self, _: [u8; NONCE_BYTES], _: &[u8], _: &mut [u8]) -> Option<usize> {
            match *self {}
        }
    }

    pub fn random<const N: usize>() -> Option<[u8; N]> {
        None
    }
}
