//! Values of what ends by age: runs, and what several of them share.

use postrider_common::ids::{DefinitionHash, RunId};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgetRun {
    pub run: RunId,
    /// How long it is kept after it ended.
    pub keep_ms: u64,
    /// How long, at least, if it has dead letters. None: until a person replayed or purged them.
    pub keep_dead_ms: Option<u64>,
    /// Batches that go in this call.
    pub limit: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ForgottenRun {
    /// The run is gone for everybody, and so many of its batches went with this call. 0 left: all of it is gone.
    Step {
        batches: u64,
        left: u64,
    },
    /// It has not ended, or not long enough ago, or has dead letters. Nothing was changed.
    NotYet,
    NoRun,
}

/// A segment that had batches of a run that is forgotten. Batches of other runs may be in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftSegment {
    pub name: String,
    /// When a batch of it was forgotten last.
    pub at_ms: i64,
}

/// What any number of campaigns and runs may name, and nobody owns.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Shared {
    /// An audience in the storage, by its SHA-256 in hex.
    Audience(String),
    /// A message definition in the store.
    Definition(DefinitionHash),
}

/// Something shared, and when somebody was about to name it last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub shared: Shared,
    pub at_ms: i64,
}
