//! Newtypes for everything that has a name. Each parses once, at the border, and prints as it parsed.

use crate::limits::BATCH_RECIPIENTS_MAX;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{fmt, str::FromStr};

/// Why a text is not an id. Reads after the name of the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a {what}: {why}")]
pub struct InvalidId {
    pub what: &'static str,
    pub text: String,
    pub why: &'static str,
}

fn invalid(what: &'static str, text: &str, why: &'static str) -> InvalidId {
    let text = text.chars().take(80).collect();
    InvalidId { what, text, why }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let check: fn(&str) -> Result<(), &'static str> = $check;
                match check(text) {
                    Ok(()) => Ok(Self(text.to_owned())),
                    Err(why) => Err(invalid($what, text, why)),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

fn slug(text: &str, length_max: usize) -> Result<(), &'static str> {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return Err("it is empty");
    };
    if bytes.len() > length_max {
        return Err("it is too long");
    }
    if !plain(*first) || !plain(*last) {
        return Err("it must begin and end with a-z or 0-9");
    }
    if bytes.iter().all(|c| plain(*c) || b"._-".contains(c)) {
        Ok(())
    } else {
        Err("only a-z, 0-9, '.', '_' and '-' are allowed")
    }
}

fn printable(text: &str, length_max: usize) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.len() > length_max {
        return Err("it is too long");
    }
    if text.bytes().all(|c| (0x21..=0x7e).contains(&c)) {
        Ok(())
    } else {
        Err("only printable ASCII without spaces is allowed")
    }
}

text_id!(
    /// A campaign's name: a slug of 1 to 64 characters.
    CampaignName, "campaign name", |text| slug(text, 64)
);
text_id!(
    /// A saved list's name: a slug of 1 to 64 characters.
    ListName, "list name", |text| slug(text, 64)
);
text_id!(
    /// A lane's name: a slug of 1 to 32 characters.
    LaneName, "lane name", |text| slug(text, 32)
);
text_id!(
    /// A site's name: a slug of 1 to 32 characters.
    SiteName, "site name", |text| slug(text, 32)
);
text_id!(
    /// A relay's name: a slug of 1 to 64 characters.
    RelayName, "relay name", |text| slug(text, 64)
);
text_id!(
    /// The keyed hash of an address that is to be erased, or was: 32 of 0-9 and a-f.
    ErasureId, "erasure id", |text| {
        let plain = text.len() == 32 && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
        if plain { Ok(()) } else { Err("it has 32 of 0-9 and a-f") }
    }
);
text_id!(
    /// Chosen by a caller so that a repeated call is recognised: 1 to 64 printable characters.
    RequestId, "request id", |text| printable(text, 64)
);
text_id!(
    /// Chosen by a submitter so that a repeated submit is recognised: 1 to 128 printable characters.
    IdempotencyKey, "idempotency key", |text| printable(text, 128)
);
text_id!(
    /// Lower-case hex SHA-256 of a message definition.
    DefinitionHash, "definition hash", |text| hex_of(text, 64)
);

fn hex_of(text: &str, length: usize) -> Result<(), &'static str> {
    let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    if text.len() == length && text.bytes().all(hex) {
        Ok(())
    } else {
        Err("it must be lower-case hex of the right length")
    }
}

impl DefinitionHash {
    pub fn of(encoded: &[u8]) -> Self {
        Self(to_hex(&Sha256::digest(encoded)))
    }
}

impl LaneName {
    pub fn transactional() -> Self {
        Self("transactional".into())
    }
    pub fn bulk() -> Self {
        Self("bulk".into())
    }
}

impl SiteName {
    /// Where a domain belongs that no site names.
    pub fn other() -> Self {
        Self("other".into())
    }
}

/// Lower-case hex.
pub fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(b"0123456789abcdef"[usize::from(byte >> 4)]));
        text.push(char::from(b"0123456789abcdef"[usize::from(byte & 15)]));
    }
    text
}

/// One execution of a campaign. Opaque outside; prints as `run_` and 24 hex digits.
///
/// Deterministic: the same campaign and the same idempotency key (or nominal time) give the same run,
/// so starting a run twice is impossible rather than detected.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(String);

impl RunId {
    /// The run of `scope` (campaign, or the kind of a single message) for `key`.
    pub fn derive(scope: &str, key: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update((scope.len() as u64).to_be_bytes());
        hash.update(scope);
        hash.update(key);
        Self(format!("run_{}", &to_hex(&hash.finalize())[..24]))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RunId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match text.strip_prefix("run_").map(|hex| hex_of(hex, 24)) {
            Some(Ok(())) => Ok(Self(text.to_owned())),
            Some(Err(_)) | None => Err(invalid("run id", text, "it looks like run_ and 24 hex digits")),
        }
    }
}

impl TryFrom<String> for RunId {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> String {
        id.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A batch: its run and its sequence in the run, from 1. Prints as `run_….7`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BatchId {
    pub run: RunId,
    pub sequence: u64,
}

impl FromStr for BatchId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let parse = |text: &str| {
            let (run, sequence) = text.split_once('.')?;
            let plain = sequence.bytes().all(|c| c.is_ascii_digit()) && !sequence.starts_with('0');
            let sequence = plain.then(|| sequence.parse().ok()).flatten()?;
            Some(Self { run: run.parse().ok()?, sequence })
        };
        parse(text).ok_or_else(|| invalid("batch id", text, "it looks like run_….7"))
    }
}

impl TryFrom<String> for BatchId {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<BatchId> for String {
    fn from(id: BatchId) -> String {
        id.to_string()
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.run, self.sequence)
    }
}

/// A dead letter: a batch, or one recipient of it. Prints as `run_….7` or `run_….7/42`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeadId {
    pub batch: BatchId,
    /// Of the recipient. None: the whole batch.
    pub index: Option<u32>,
}

impl FromStr for DeadId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let parse = |text: &str| match text.split_once('/') {
            None => Some(Self { batch: text.parse().ok()?, index: None }),
            Some((batch, index)) => {
                let id = Self { batch: batch.parse().ok()?, index: Some(index.parse().ok()?) };
                (id.index < Some(BATCH_RECIPIENTS_MAX as u32) && id.to_string() == text).then_some(id)
            }
        };
        parse(text).ok_or_else(|| invalid("dead letter", text, "it looks like run_….7 or run_….7/42"))
    }
}

impl TryFrom<String> for DeadId {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<DeadId> for String {
    fn from(id: DeadId) -> String {
        id.to_string()
    }
}

impl fmt::Display for DeadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            Some(index) => write!(f, "{}/{index}", self.batch),
            None => write!(f, "{}", self.batch),
        }
    }
}

/// New at each claim: epoch of the store, counter of the shard, nonce of the claim.
///
/// Only equality is ever asked of a fence. The nonce keeps an old fence from matching a new lease even
/// if the counter went back with a store that lost its last writes. Prints as `1-42-9f86d081`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fence {
    pub epoch: u64,
    pub counter: u64,
    pub nonce: u32,
}

impl FromStr for Fence {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let parse = |text: &str| {
            let mut parts = text.split('-');
            let epoch = parts.next()?.parse().ok()?;
            let counter = parts.next()?.parse().ok()?;
            let nonce = parts.next()?;
            let nonce = (nonce.len() == 8).then(|| u32::from_str_radix(nonce, 16).ok()).flatten()?;
            parts.next().is_none().then_some(Self { epoch, counter, nonce })
        };
        let fence = parse(text).filter(|fence: &Self| fence.to_string() == text);
        fence.ok_or_else(|| invalid("fence", text, "it looks like 1-42-9f86d081"))
    }
}

impl TryFrom<String> for Fence {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<Fence> for String {
    fn from(fence: Fence) -> String {
        fence.to_string()
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{:08x}", self.epoch, self.counter, self.nonce)
    }
}

/// A worker process: a name for people and a UUID made at its start. Prints as `name/uuid`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerId {
    pub name: String,
    pub instance: uuid::Uuid,
}

impl WorkerId {
    pub fn try_new(name: &str, instance: &str) -> Result<Self, InvalidId> {
        let plain = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
        if name.is_empty() || name.len() > 100 || !name.bytes().all(plain) {
            return Err(invalid("worker name", name, "1 to 100 of A-Z a-z 0-9 . _ -"));
        }
        let instance =
            uuid::Uuid::parse_str(instance).map_err(|_| invalid("worker instance", instance, "it must be a UUID"))?;
        Ok(Self { name: name.to_owned(), instance })
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.instance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_as_they_parse() {
        let run = RunId::derive("daily-digest", "2026-11-21");
        assert_eq!(run, RunId::derive("daily-digest", "2026-11-21"));
        assert_ne!(run, RunId::derive("daily-diges", "t2026-11-21"));
        assert_eq!(run.to_string().parse::<RunId>(), Ok(run.clone()));
        let batch = BatchId { run, sequence: 12 };
        assert_eq!(batch.to_string().parse::<BatchId>(), Ok(batch.clone()));
        for index in [None, Some(0), Some(99)] {
            let dead = DeadId { batch: batch.clone(), index };
            assert_eq!(dead.to_string().parse::<DeadId>(), Ok(dead));
        }
        for wrong in ["/", "/100", "/01", "/-1", "/1/1"] {
            assert!(format!("{batch}{wrong}").parse::<DeadId>().is_err(), "{wrong}");
        }
        let fence = Fence { epoch: 1, counter: 42, nonce: 7 };
        assert_eq!(fence.to_string(), "1-42-00000007");
        assert_eq!(fence.to_string().parse::<Fence>(), Ok(fence));
    }

    #[test]
    fn wrong_ids_say_what_is_wrong() {
        for (text, ok) in [("daily-digest", true), ("", false), ("-a", false), ("A", false), ("a|b", false)] {
            assert_eq!(text.parse::<CampaignName>().is_ok(), ok, "{text}");
        }
        assert!("run_x.1".parse::<BatchId>().is_err());
        assert!("1-042-00000007".parse::<Fence>().is_err());
        assert!(WorkerId::try_new("w 1", "0198c8f4-0000-7000-8000-000000000000").is_err());
        let error = "Daily Digest".parse::<CampaignName>().unwrap_err().to_string();
        assert_eq!(error, "'Daily Digest' is not a campaign name: it must begin and end with a-z or 0-9");
    }
}
