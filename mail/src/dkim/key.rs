//! Private keys, and what is published for them.

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::error::KeyRejected;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};
use std::fmt;

/// Bits of the modulus. Gmail and Yahoo recommend 2048; a longer one than 4096 need not be verified (RFC 8301 3.2).
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Algorithm {
    /// RFC 6376 3.3.2.
    RsaSha256,
    /// RFC 8463.
    Ed25519Sha256,
}

impl Algorithm {
    /// The tag `a=` of a signature.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RsaSha256 => "rsa-sha256",
            Self::Ed25519Sha256 => "ed25519-sha256",
        }
    }
}

/// Why a private key cannot sign. Says nothing of what is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    #[error("it holds no private key in PEM (BEGIN PRIVATE KEY or BEGIN RSA PRIVATE KEY)")]
    NoPem,
    #[error("it is neither an RSA nor an Ed25519 private key; make one with: openssl genpkey -algorithm ed25519")]
    Unknown,
    #[error("the RSA key must have from 2048 to 4096 bits; make one with: openssl genrsa 2048")]
    Bits,
}

enum Pair {
    Rsa(Box<RsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

/// A private key that signs.
pub struct PrivateKey(Pair);

impl PrivateKey {
    /// A key in PEM: PKCS#8, or PKCS#1 for RSA.
    pub fn of_pem(pem: &[u8]) -> Result<Self, InvalidKey> {
        let der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| InvalidKey::NoPem)?;
        let rsa = match &der {
            PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
            PrivateKeyDer::Pkcs8(der) => match Ed25519KeyPair::from_pkcs8(der.secret_pkcs8_der()) {
                Ok(pair) => return Ok(Self(Pair::Ed25519(Box::new(pair)))),
                Err(_) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
            },
            _ => return Err(InvalidKey::Unknown),
        };
        let is_of_other_size = |error: &KeyRejected| ["TooSmall", "TooLarge"].contains(&error.to_string().as_str());
        let rsa = rsa.map_err(|error| if is_of_other_size(&error) { InvalidKey::Bits } else { InvalidKey::Unknown })?;
        if !RSA_BITS.contains(&(rsa.public_modulus_len() * 8)) {
            return Err(InvalidKey::Bits);
        }
        Ok(Self(Pair::Rsa(Box::new(rsa))))
    }

    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            Pair::Rsa(_) => Algorithm::RsaSha256,
            Pair::Ed25519(_) => Algorithm::Ed25519Sha256,
        }
    }

    /// The TXT record that lets others verify (RFC 6376 3.6.1, RFC 8463 4.2).
    pub fn record(&self) -> String {
        let (kind, public) = match &self.0 {
            Pair::Rsa(pair) => {
                let der: Result<PublicKeyX509Der<'_>, _> = pair.public_key().as_der();
                ("rsa", der.map(|der| STANDARD.encode(der.as_ref())).unwrap_or_default())
            }
            Pair::Ed25519(pair) => ("ed25519", STANDARD.encode(pair.public_key().as_ref())),
        };
        format!("v=DKIM1; k={kind}; p={public}")
    }

    /// The signature of `data`. None: the library refused, which it does for no key that it read.
    pub(super) fn sign(&self, data: &[u8]) -> Option<Vec<u8>> {
        match &self.0 {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), data, &mut signature).ok()?;
                Some(signature)
            }
            // What is signed is the hash (RFC 8463 3).
            Pair::Ed25519(pair) => Some(pair.try_sign(&Sha256::digest(data)).ok()?.as_ref().to_vec()),
        }
    }
}

/// Shows nothing of the key.
impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.algorithm().as_str())
    }
}
