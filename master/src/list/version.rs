//! One version of a list, as the storage keeps it.

use crate::storage::{Storage, StorageError};
use postrider_common::campaign::{Audience, AudienceFormat, Source};
use postrider_common::ids::ListName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Versions come and go while they are looked for; as often as this, nobody changes a list meanwhile.
const LOOKS_MAX: u32 = 10;

/// What made a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Import,
    Append,
    Remove,
}

/// What a change did. Rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub added: u64,
    pub replaced: u64,
    pub removed: u64,
    /// Addresses to remove that were not there.
    pub absent: u64,
    pub repeated: u64,
    pub bad: u64,
}

/// What a list is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Its own: tells it from another one that had its number before the list was deleted.
    pub nonce: String,
    /// The audience that holds its rows.
    pub sha256: String,
    /// Hex SHA-256 of the rows themselves: compressed they may differ and be the same.
    pub contents: String,
    pub rows: u64,
    /// The columns that hold address and key. None: the normalised address.
    pub address: String,
    pub key: Option<String>,
    pub columns: BTreeSet<String>,
    pub has_more_columns: bool,
    pub change: Change,
    pub counts: Counts,
    pub changed_at_ms: i64,
}

/// Why a version cannot be read. Reads after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("read version {version} of the list '{name}': {why}; import the list again")]
    Damaged { name: ListName, version: u64, why: String },
}

impl Version {
    /// Its rows, read as they were written.
    pub fn audience(&self) -> Audience {
        let source = Source::Stored { sha256: self.sha256.clone(), format: AudienceFormat::Ndjson };
        Audience { key_field: self.key.clone(), ..Audience::of(source, &self.address) }
    }

    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }
}

/// None: it is not kept.
pub async fn read(storage: &Storage, name: &ListName, version: u64) -> Result<Option<Version>, ReadError> {
    let Some(bytes) = storage.read_list(name, version).await? else { return Ok(None) };
    let damaged = |error: serde_json::Error| ReadError::Damaged { name: name.clone(), version, why: error.to_string() };
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

/// And its number. None: there is no such list.
pub async fn newest(storage: &Storage, name: &ListName) -> Result<Option<(u64, Version)>, ReadError> {
    for _ in 0..LOOKS_MAX {
        let Some(number) = storage.list_versions(name).await?.pop_last() else { return Ok(None) };
        if let Some(version) = read(storage, name, number).await? {
            return Ok(Some((number, version)));
        }
    }
    let why = "it went each time it was looked at".to_owned();
    Err(ReadError::Damaged { name: name.clone(), version: 0, why })
}
