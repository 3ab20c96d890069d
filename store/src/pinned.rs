//! What a split reads instead of a source that cannot be read twice the same.

use postrider_common::ids::{Fence, RunId};
use serde::{Deserialize, Serialize};

/// The audience of a run from now on, by whoever holds its split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinAudience {
    pub run: RunId,
    pub fence: Fence,
    /// `NewRun::audience`.
    #[serde(with = "serde_bytes")]
    pub audience: Vec<u8>,
    /// The lease of the split is extended by this.
    pub ttl_ms: u64,
}
