//! Values of erasing one address everywhere. The store does not know addresses: who knows which recipients they are of
//! brings what stands in their place.

use postrider_common::ids::{BatchId, ErasureId, RequestId, RunId};
use serde::{Deserialize, Serialize};

/// Recipients of one batch end and leave nothing of themselves behind but states.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EraseRecipients {
    pub batch: BatchId,
    /// Those erased before, as they were looked at; compared.
    pub known: Vec<u32>,
    /// In order. Whoever of them is pending ends.
    pub recipients: Vec<u32>,
    /// Of these the reply texts go, and nothing else.
    pub details: Vec<u32>,
    /// In place of the one there is. Empty: the batch is retired.
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErasedRecipients {
    Done {
        /// Of these, who was pending and is not any more.
        ended: u32,
    },
    /// It is not as it was looked at: nothing was written, look again.
    Changed,
    /// There is no such batch, or it cannot be read.
    Gone,
}

/// Something stored, and what stands in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replace {
    /// Compared.
    #[serde(with = "serde_bytes")]
    pub from: Vec<u8>,
    #[serde(with = "serde_bytes")]
    pub to: Vec<u8>,
}

/// Takes the split of a run from whoever holds it, and replaces what is stored of its recipients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EraseRun {
    pub run: RunId,
    /// `NewRun::audience`.
    pub audience: Option<Replace>,
    /// `AddBatches::open`.
    pub open: Option<Replace>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErasedRun {
    Done {
        /// As it is stored now.
        #[serde(with = "serde_bytes")]
        open: Vec<u8>,
    },
    /// Something is not as it was looked at: nothing was written.
    Changed,
    NoRun,
}

/// The next version of what is known of an erasure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteErasure {
    pub id: ErasureId,
    /// The one before, compared; 0: there is none.
    pub version: u64,
    /// Another one at each call: tells a repeat from somebody else's write of the same version.
    pub by: RequestId,
    /// Only if nobody holds it.
    pub takes: bool,
    /// Nobody may take it for this long.
    pub hold_ms: u64,
    /// There is something left to do.
    pub open: bool,
    /// Opaque.
    #[serde(with = "serde_bytes")]
    pub body: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasureRecord {
    pub id: ErasureId,
    pub version: u64,
    pub open: bool,
    #[serde(with = "serde_bytes")]
    pub body: Vec<u8>,
}
