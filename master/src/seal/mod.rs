//! Sealing of what holds addresses, before it leaves the master: payloads and reply texts on their way to the store,
//! audiences and history on their way to the storage.
//!
//! Each sealed thing is bound to what it is, so one put in the place of another does not open. With several keys the
//! first one seals and all open. Without keys nothing is sealed, and what was stored unsealed before there was a key is
//! read as it is.

mod cipher;
mod keys;
mod store;

pub use keys::{KeyFileError, Vault, new_line};

/// Fresh bytes for a key. None: this build cannot seal, or the system has none.
pub fn random_key() -> Option<[u8; cipher::KEY_BYTES]> {
    cipher::random()
}
pub use store::Sealed;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use cipher::Cipher;
use postrider_common::ids::{BatchId, CampaignName, ErasureId, ListName, RunId};
use postrider_common::payload::OPEN_MEND;
use postrider_common::seal::{FINGERPRINT_BYTES, Header, KeyId, NONCE_BYTES};
use postrider_common::suppression::SuppressionKey;

/// Bytes that sealing adds at the end.
pub const TAG_BYTES: usize = 16;
/// What a sealed text begins with.
const TEXT_MARK: char = '~';

/// What is sealed. A sealed thing opens only as what it was sealed as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What<'a> {
    Batch(&'a BatchId),
    /// Rows of a run that are read and not in a batch yet.
    Open(&'a RunId),
    /// What a run froze of its audience; may hold its recipients.
    Plan(&'a RunId),
    /// The reply about one recipient.
    Reply(&'a BatchId, u32),
    /// Why a row of a run's audience could not be used.
    BadRow(&'a RunId, u64),
    /// A segment of history.
    Segment(&'a str),
    /// A version of a campaign.
    Version(&'a CampaignName, u64),
    /// A version of a saved list.
    List(&'a ListName, u64),
    /// What is known of an erasure: until it is done, the address.
    Erasure(&'a ErasureId),
    /// Who is not sent to, in the list.
    Suppression(SuppressionKey),
    /// The key of the hashes that erased addresses leave.
    ErasureKey,
    /// One frame of an audience.
    AudienceFrame(u32),
    /// The end of an audience: its name and its size.
    AudienceEnd(&'a str, u64),
}

impl What<'_> {
    /// The associated data. No two different things have the same.
    fn bound_to(self) -> String {
        match self {
            Self::Batch(id) => format!("batch|{id}"),
            Self::Open(run) => format!("open|{run}"),
            Self::Plan(run) => format!("plan|{run}"),
            Self::Reply(id, index) => format!("reply|{id}|{index}"),
            Self::BadRow(run, row) => format!("bad_row|{run}|{row}"),
            Self::Segment(name) => format!("segment|{name}"),
            Self::Version(name, version) => format!("version|{name}|{version}"),
            Self::List(name, version) => format!("list|{name}|{version}"),
            Self::Erasure(id) => format!("erasure|{id}"),
            Self::Suppression(key) => format!("suppression|{key}"),
            Self::ErasureKey => "erasure_key".to_owned(),
            Self::AudienceFrame(number) => format!("audience_frame|{number}"),
            Self::AudienceEnd(sha256, bytes) => format!("audience_end|{sha256}|{bytes}"),
        }
    }
}

/// Why something sealed cannot be opened, or nothing sealed. Reads after "failed to".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("open {what}: it is sealed with the key '{key}', which is not in [encryption] key_file; {OPEN_MEND}")]
    KeyMissing { what: String, key: KeyId },
    #[error(
        "open {what}: it is sealed with another key named '{key}' than the one in [encryption] key_file; put the right \
         one in its place at every master, under a name of its own if both are used, and restart them"
    )]
    KeyDiffers { what: String, key: KeyId },
    #[error("open {what}: it is damaged, or not what was stored there (sealed with the key '{key}')")]
    Damaged { what: String, key: KeyId },
    #[error("seal {what}: the system gave no random bytes")]
    NoRandom { what: String },
}

impl SealError {
    /// Whether another key file would help: nothing is wrong with what is stored.
    pub fn is_about_keys(&self) -> bool {
        match self {
            Self::KeyMissing { .. } | Self::KeyDiffers { .. } => true,
            Self::Damaged { .. } | Self::NoRandom { .. } => false,
        }
    }
}

/// A key at work.
#[derive(Debug)]
pub(crate) struct Key {
    id: KeyId,
    fingerprint: [u8; FINGERPRINT_BYTES],
    cipher: Cipher,
}

impl Vault {
    /// Seals with the first key; without keys, the bytes as they are.
    pub fn seal(&self, what: What<'_>, mut plain: Vec<u8>) -> Result<Vec<u8>, SealError> {
        let Some(key) = self.keys().first() else { return Ok(plain) };
        let header = key.header(what)?;
        key.cipher.seal(header.nonce, what.bound_to().as_bytes(), &mut plain);
        let mut sealed = header.encode();
        sealed.append(&mut plain);
        Ok(sealed)
    }

    /// Opens with the key that sealed it; what is not sealed, as it is.
    pub fn open(&self, what: What<'_>, mut bytes: Vec<u8>) -> Result<Vec<u8>, SealError> {
        let Some((header, length)) = Header::read(&bytes) else { return Ok(bytes) };
        let key = self.key_of(&header, what)?;
        let plain = key.cipher.open(header.nonce, what.bound_to().as_bytes(), &mut bytes[length..]);
        let Some(end) = plain.map(|plain| length + plain) else { return Err(damaged(what, &header)) };
        bytes.truncate(end);
        bytes.drain(..length);
        Ok(bytes)
    }

    /// As `seal`, for a text that must stay one.
    pub fn seal_text(&self, what: What<'_>, text: String) -> Result<String, SealError> {
        if text.is_empty() || self.keys().is_empty() {
            return Ok(text);
        }
        let sealed = self.seal(what, text.into_bytes())?;
        Ok(format!("{TEXT_MARK}{}", STANDARD_NO_PAD.encode(sealed)))
    }

    /// As `open`. A text that no key opens is replaced by one that says so.
    pub fn open_text(&self, what: What<'_>, text: String) -> String {
        let sealed = text.strip_prefix(TEXT_MARK).and_then(|rest| STANDARD_NO_PAD.decode(rest).ok());
        let Some(sealed) = sealed.filter(|sealed| Header::read(sealed).is_some()) else { return text };
        match self.open(what, sealed) {
            Ok(plain) => String::from_utf8_lossy(&plain).into_owned(),
            Err(error) => format!("(failed to {error})"),
        }
    }

    fn key_of(&self, header: &Header, what: What<'_>) -> Result<&Key, SealError> {
        let named = |key: &&Key| key.id == header.key;
        let missing = || SealError::KeyMissing { what: what.to_string(), key: header.key.clone() };
        let key = self.keys().iter().find(named).ok_or_else(missing)?;
        if key.fingerprint != header.fingerprint {
            return Err(SealError::KeyDiffers { what: what.to_string(), key: header.key.clone() });
        }
        Ok(key)
    }
}

fn damaged(what: What<'_>, header: &Header) -> SealError {
    SealError::Damaged { what: what.to_string(), key: header.key.clone() }
}

impl std::fmt::Display for What<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Batch(id) => write!(f, "the payload of {id}"),
            Self::Open(run) => write!(f, "the position of the split of {run}"),
            Self::Plan(run) => write!(f, "the audience of {run}"),
            Self::Reply(id, index) => write!(f, "the reply about {id} {index}"),
            Self::BadRow(run, row) => write!(f, "the bad row {row} of {run}"),
            Self::Segment(name) => write!(f, "history/{name}"),
            Self::Version(name, version) => write!(f, "campaigns/{name}/{version}"),
            Self::List(name, version) => write!(f, "version {version} of the list {name}"),
            Self::Erasure(id) => write!(f, "the erasure {id}"),
            Self::Suppression(key) => write!(f, "the suppression {key}"),
            Self::ErasureKey => f.write_str("erasure.key"),
            Self::AudienceFrame(number) => write!(f, "frame {number} of an audience"),
            Self::AudienceEnd(sha256, _) => write!(f, "audiences/{sha256}"),
        }
    }
}

impl Key {
    fn header(&self, what: What<'_>) -> Result<Header, SealError> {
        let nonce = cipher::random().ok_or_else(|| SealError::NoRandom { what: what.to_string() })?;
        Ok(Header { key: self.id.clone(), fingerprint: self.fingerprint, nonce })
    }
}

/// An audience is sealed in frames, so that neither writing nor reading it needs all of it: every frame but the last has
/// this many bytes before it is sealed.
pub const FRAME_BYTES: usize = 64 * 1024;

/// Seals one audience frame by frame.
#[derive(Debug)]
pub struct FrameSealer {
    vault: Vault,
    header: Header,
    frames: u32,
    bytes: u64,
}

/// Opens the frames of one audience, in any order.
#[derive(Debug)]
pub struct FrameOpener {
    vault: Vault,
    header: Header,
}

impl Vault {
    /// None: nothing is sealed.
    pub fn begin_frames(&self) -> Result<Option<FrameSealer>, SealError> {
        let Some(key) = self.keys().first() else { return Ok(None) };
        let header = key.header(What::AudienceFrame(0))?;
        Ok(Some(FrameSealer { vault: self.clone(), header, frames: 0, bytes: 0 }))
    }

    /// Begins to read what `FrameSealer` wrote: checks that the end is that of this audience and of this size. `end` has
    /// the last `TAG_BYTES`.
    pub fn open_frames(&self, header: Header, sha256: &str, bytes: u64, end: &[u8]) -> Result<FrameOpener, SealError> {
        let what = What::AudienceEnd(sha256, bytes);
        let key = self.key_of(&header, what)?;
        let nonce = frame_nonce(header.nonce, u32::MAX);
        key.cipher.open(nonce, what.bound_to().as_bytes(), &mut end.to_vec()).ok_or_else(|| damaged(what, &header))?;
        Ok(FrameOpener { vault: self.clone(), header })
    }
}

impl FrameSealer {
    pub fn header(&self) -> Vec<u8> {
        self.header.encode()
    }

    /// The next frame: `FRAME_BYTES`, or less if it is the last one.
    pub fn frame(&mut self, mut plain: Vec<u8>) -> Vec<u8> {
        self.bytes += plain.len() as u64;
        let what = What::AudienceFrame(self.frames);
        if let Some(key) = self.vault.keys().first() {
            let nonce = frame_nonce(self.header.nonce, self.frames);
            key.cipher.seal(nonce, what.bound_to().as_bytes(), &mut plain);
        }
        self.frames += 1;
        plain
    }

    /// What stands at the end.
    pub fn end(self, sha256: &str) -> Vec<u8> {
        let mut end = Vec::new();
        let what = What::AudienceEnd(sha256, self.bytes);
        if let Some(key) = self.vault.keys().first() {
            key.cipher.seal(frame_nonce(self.header.nonce, u32::MAX), what.bound_to().as_bytes(), &mut end);
        }
        end
    }
}

impl FrameOpener {
    pub fn frame(&self, number: u32, mut sealed: Vec<u8>) -> Result<Vec<u8>, SealError> {
        let what = What::AudienceFrame(number);
        let key = self.vault.key_of(&self.header, what)?;
        let nonce = frame_nonce(self.header.nonce, number);
        let opened = key.cipher.open(nonce, what.bound_to().as_bytes(), &mut sealed);
        sealed.truncate(opened.ok_or_else(|| damaged(what, &self.header))?);
        Ok(sealed)
    }
}

/// Different for each frame, as in TLS 1.3.
fn frame_nonce(mut nonce: [u8; NONCE_BYTES], number: u32) -> [u8; NONCE_BYTES] {
    for (byte, with) in nonce[NONCE_BYTES - 4..].iter_mut().zip(number.to_be_bytes()) {
        *byte ^= with;
    }
    nonce
}

#[cfg(all(test, feature = "encryption"))]
mod tests;
