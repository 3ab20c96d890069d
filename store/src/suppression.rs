//! Values of the set of those who are not sent to. The store does not know addresses: it has a keyed hash of each, and
//! keeps beside it what it is given for the list.

use postrider_common::ids::{BatchId, Fence};
use postrider_common::state::RecipientState;
use postrider_common::suppression::{SuppressionHold, SuppressionKey, SuppressionReason, SuppressionScope};
use serde::{Deserialize, Serialize};

/// Changes of one call.
pub const SUPPRESSIONS_PER_CALL_MAX: usize = 1000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suppress {
    /// Tells the key of the hashes from others; what the first call says is compared from then on.
    pub check: String,
    /// In their order.
    pub changes: Vec<SuppressionChange>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SuppressionChange {
    /// Of two of one scope the graver stays; of equals the first.
    Add {
        key: SuppressionKey,
        scope: SuppressionScope,
        reason: SuppressionReason,
        /// None: now.
        at_ms: Option<i64>,
        /// Opaque.
        #[serde(with = "serde_bytes")]
        subject: Vec<u8>,
    },
    /// None: of every scope.
    Remove { key: SuppressionKey, scope: Option<SuppressionScope> },
    /// It holds on, and what was given for the list goes.
    Unname { key: SuppressionKey },
}

impl SuppressionChange {
    pub fn key(&self) -> SuppressionKey {
        match self {
            Self::Add { key, .. } | Self::Remove { key, .. } | Self::Unname { key } => *key,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Suppressing {
    /// From now on no intent is granted in a batch that was not checked at this number of the set.
    Done {
        number: u64,
        /// Changes that changed something.
        changed: u64,
    },
    /// The set was made with another key: nothing was written.
    OtherKey,
}

/// The set as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuppressionSet {
    /// Grows with every change; 0: there was none yet.
    pub number: u64,
    /// Subjects in it.
    pub count: u64,
    /// As in `Suppress`. Empty: there was no change yet.
    pub check: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuppressionRecord {
    pub key: SuppressionKey,
    /// Empty: it has no name.
    #[serde(with = "serde_bytes")]
    pub subject: Vec<u8>,
    /// In order of their scopes as text, one of each; never empty.
    pub holds: Vec<SuppressionHold>,
}

/// What was found about the recipients of one batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuppressRecipients {
    pub batch: BatchId,
    /// Of the lease. None: it has none.
    pub fence: Option<Fence>,
    /// All that was in the set at this number was looked at.
    pub checked: u64,
    /// Who is not sent to.
    pub recipients: Vec<(u32, SuppressionReason)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SuppressedRecipients {
    /// Who of these ended by it, and how: who may have got it before is unknown.
    Done { ended: Vec<(u32, RecipientState)> },
    /// The batch is not leased with this fence (or is, without one), is settled, dead or gone: nothing was written.
    Lost,
}
