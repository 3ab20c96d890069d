//! The key file: a line for each key, its name and 32 bytes in base64. The first one seals, all open.

use super::Key;
use super::cipher::{self, Cipher, KEY_BYTES};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postrider_common::seal::{FINGERPRINT_BYTES, KeyId};
use sha2::{Digest as _, Sha256};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Keys of one file: more are a mistake.
const KEYS_MAX: usize = 64;
/// Bytes of a key file.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// Any permission of group and others.
const OTHERS_MODE: u32 = 0o077;

/// Why a key file cannot be used. Reads after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("read the key file {path}: {why}; set [encryption] key_file to a file that the master can read")]
    Unreadable { path: PathBuf, why: String },
    #[error("accept the key file {path}: others may use it (mode {mode:o}); run chmod 600 on it")]
    Open { path: PathBuf, mode: u32 },
    #[error("accept the key file {path}: {why}; make a line with: postrider config keygen")]
    Contents { path: PathBuf, why: String },
    #[error("seal with {path}: this build cannot; use one with the feature encryption, or remove [encryption]")]
    NotBuilt { path: PathBuf },
}

/// The keys of a master. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Vault(Arc<Vec<Key>>);

impl Vault {
    /// The first one seals. Empty: nothing is sealed, and nothing sealed is opened.
    pub(super) fn keys(&self) -> &[Key] {
        &self.0
    }

    /// Whether what is stored from now on is sealed.
    pub fn seals(&self) -> bool {
        !self.0.is_empty()
    }

    /// Whether this header is of the key that seals now.
    pub fn is_current(&self, header: Option<&postrider_common::seal::Header>) -> bool {
        match (self.0.first(), header) {
            (Some(key), Some(header)) => key.id == header.key && key.fingerprint == header.fingerprint,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let unreadable = |error: std::io::Error| KeyFileError::Unreadable { path: path.into(), why: error.to_string() };
        let wrong = |why: String| KeyFileError::Contents { path: path.into(), why };
        let file = std::fs::metadata(path).map_err(unreadable)?;
        let mode = file.permissions().mode() & 0o777;
        if file.is_file() && mode & OTHERS_MODE != 0 {
            return Err(KeyFileError::Open { path: path.into(), mode });
        }
        if file.len() > FILE_BYTES_MAX {
            return Err(wrong(format!("it has {} bytes, at most {FILE_BYTES_MAX} are read", file.len())));
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let mut keys: Vec<Key> = Vec::new();
        for (id, secret) in lines(&text).map_err(wrong)? {
            if keys.iter().any(|key| key.id == id) {
                return Err(wrong(format!("the key '{id}' is there twice")));
            }
            let cipher = Cipher::new(&secret).ok_or_else(|| KeyFileError::NotBuilt { path: path.into() })?;
            keys.push(Key { id, fingerprint: fingerprint(&secret), cipher });
        }
        Ok(Self(Arc::new(keys)))
    }
}

/// Never says what is in a line: it may be a secret in the wrong place.
fn lines(text: &str) -> Result<Vec<(KeyId, [u8; KEY_BYTES])>, String> {
    let mut keys = Vec::new();
    for (line, number) in text.lines().map(str::trim).zip(1..) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let shape = || format!("line {number} is not a name and a key in base64, with a space between");
        let mut words = line.split_whitespace();
        let (Some(id), Some(key), None) = (words.next(), words.next(), words.next()) else { return Err(shape()) };
        let id: KeyId =
            id.parse().map_err(|_| format!("line {number}: a name has 1 to 32 of a-z, 0-9, '.', '_' and '-'"))?;
        let secret = STANDARD.decode(key).map_err(|_| shape())?;
        let found = secret.len();
        let secret = secret.try_into();
        let secret =
            secret.map_err(|_| format!("line {number}: the key has {found} bytes, it must have {KEY_BYTES}"))?;
        keys.push((id, secret));
    }
    match keys.len() {
        0 => Err("it has no key".to_owned()),
        count if count > KEYS_MAX => Err(format!("it has {count} keys, at most {KEYS_MAX} are read")),
        _ => Ok(keys),
    }
}

fn fingerprint(secret: &[u8; KEY_BYTES]) -> [u8; FINGERPRINT_BYTES] {
    let mut hash = Sha256::new();
    hash.update(b"postrider key fingerprint 1");
    hash.update(secret);
    let digest = hash.finalize();
    std::array::from_fn(|at| digest[at])
}

/// A line for a key file with a fresh key. None: this build cannot seal.
pub fn new_line(id: &KeyId) -> Option<String> {
    cipher::random::<KEY_BYTES>().map(|secret| format!("{id} {}", STANDARD.encode(secret)))
}
