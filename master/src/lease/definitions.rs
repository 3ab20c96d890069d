//! Message definitions by hash. They never change, so they may be kept; how many is bounded.

use crate::api::ApiError;
use crate::core::Core;
use postrider_common::ids::DefinitionHash;
use postrider_proto::v1;
use prost::Message as _;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Bytes of all definitions kept.
const CACHE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Definitions kept: single messages have one each.
const CACHE_DEFINITIONS_MAX: usize = 512;

/// The definitions used last.
#[derive(Debug, Default)]
pub struct Definitions {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    by_hash: HashMap<DefinitionHash, Entry>,
    bytes: usize,
    /// Counts uses; the entry with the lowest was used longest ago.
    uses: u64,
}

#[derive(Debug)]
struct Entry {
    message: v1::MessageDefinition,
    bytes: usize,
    used: u64,
}

impl Kept {
    fn find(&mut self, hash: &DefinitionHash) -> Option<v1::MessageDefinition> {
        self.uses += 1;
        let entry = self.by_hash.get_mut(hash)?;
        entry.used = self.uses;
        Some(entry.message.clone())
    }

    fn keep(&mut self, hash: DefinitionHash, message: v1::MessageDefinition) {
        let bytes = message.encoded_len();
        self.uses += 1;
        let entry = Entry { message, bytes, used: self.uses };
        self.bytes += bytes;
        if let Some(before) = self.by_hash.insert(hash, entry) {
            self.bytes -= before.bytes;
        }
        while self.bytes > CACHE_BYTES_MAX || self.by_hash.len() > CACHE_DEFINITIONS_MAX {
            let oldest = self.by_hash.iter().min_by_key(|(_, entry)| entry.used).map(|(hash, _)| hash.clone());
            let Some(entry) = oldest.and_then(|hash| self.by_hash.remove(&hash)) else { break };
            self.bytes -= entry.bytes;
        }
    }
}

impl Definitions {
    /// The definition of that hash, from here or from the store.
    pub async fn find(&self, core: &Core, hash: &DefinitionHash) -> Result<v1::MessageDefinition, ApiError> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).find(hash);
        if let Some(message) = kept {
            return Ok(message);
        }
        let Some(bytes) = core.store.definition(hash).await? else {
            return Err(ApiError::Internal(format!("the definition {hash} of a leased batch is not in the store")));
        };
        let message = v1::MessageDefinition::decode(bytes)
            .map_err(|error| ApiError::Internal(format!("the stored definition {hash} cannot be read: {error}")))?;
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).keep(hash.clone(), message.clone());
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(size: usize) -> v1::MessageDefinition {
        v1::MessageDefinition { html: "x".repeat(size), ..v1::MessageDefinition::default() }
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_least_used_goes_first() {
        let mut kept = Kept::default();
        let hash = |n: usize| DefinitionHash::of(&n.to_be_bytes());
        for n in 0..40 {
            kept.keep(hash(n), message(1024 * 1024));
            kept.find(&hash(0));
            assert!(kept.bytes <= CACHE_BYTES_MAX);
        }
        assert!(kept.find(&hash(0)).is_some(), "used all the time");
        assert!(kept.find(&hash(1)).is_none(), "used longest ago");
        assert!(kept.find(&hash(39)).is_some());
        for n in 0..2000 {
            kept.keep(hash(n), message(1));
        }
        assert_eq!(kept.by_hash.len(), CACHE_DEFINITIONS_MAX);
        assert_eq!(kept.bytes, kept.by_hash.values().map(|entry| entry.bytes).sum::<usize>());
    }
}
