//! What a worker says about a lease, and what it is told.

use crate::ids::{BatchId, DefinitionHash, Fence, LaneName, RunId, SiteName};
use crate::state::RecipientState;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// How one attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum OutcomeKind {
    /// 2xx to the final dot.
    Accepted,
    /// Try later; the final dot was certainly not accepted. Costs an attempt.
    Deferred,
    /// Never again.
    Rejected,
    /// The final dot may have been written and the reply was not read.
    Unknown,
    /// The intent is handed back unused. Costs nothing.
    NotWritten,
}

impl OutcomeKind {
    pub fn letter(self) -> u8 {
        match self {
            Self::Accepted => b'a',
            Self::Deferred => b'd',
            Self::Rejected => b'r',
            Self::Unknown => b'u',
            Self::NotWritten => b'w',
        }
    }
}

/// An outcome for one recipient of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub index: u32,
    pub kind: OutcomeKind,
    /// Printable ASCII, at most `CODE_BYTES_MAX`.
    pub code: String,
    /// Printable ASCII, at most `DETAIL_BYTES_MAX`.
    pub detail: String,
    pub retry_after_ms: u64,
}

/// Outcomes, wishes and the sign of life of one lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseReport {
    pub batch: BatchId,
    pub fence: Fence,
    pub sequence: u64,
    pub outcomes: Vec<Outcome>,
    pub intents: Vec<u32>,
    pub progress: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalReason {
    Settled,
    NotDue,
    Window,
    Paused,
    Cancelled,
    HardCap,
    Repeated,
    /// Not among the recipients that this lease is for.
    Outside,
    /// The set of those who are not sent to has changed since the batch was looked at.
    Unchecked,
    /// The lane or the site is at its rate or its concurrency: ask again after this long.
    Throttled {
        retry_in_ms: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaseStatus {
    Held,
    Lost,
    Settled,
    Returned,
    InIntent,
    Gone,
    /// The shard of the batch did not answer: nothing is known, report again.
    Unanswered,
}

/// The answer to one `LeaseReport`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseAnswer {
    pub batch: BatchId,
    pub status: LeaseStatus,
    pub granted: Vec<u32>,
    pub refused: Vec<(u32, RefusalReason)>,
    /// `Held`: the lease ends this long after the request was received.
    pub ttl_ms: u64,
    /// `Returned`: due again after this long.
    pub due_in_ms: u64,
}

impl LeaseAnswer {
    pub fn plain(batch: BatchId, status: LeaseStatus) -> Self {
        Self { batch, status, granted: Vec::new(), refused: Vec::new(), ttl_ms: 0, due_in_ms: 0 }
    }
}

/// What became of a transaction of a lease that may no longer be held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    pub batch: BatchId,
    pub fence: Fence,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FactStatus {
    Applied,
    Already,
    Refused,
    /// The part of the store that has its batch is away.
    Unanswered,
}

/// One recipient as it stands when its batch is leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub state: RecipientState,
    pub attempts: u32,
    /// An intent is refused until this long after the claim.
    pub not_before_ms: u64,
}

/// Recipients of a batch, by index, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexRange {
    pub first: u32,
    pub last: u32,
}

impl IndexRange {
    pub fn contains(self, index: u32) -> bool {
        self.first <= index && index <= self.last
    }
}

/// One worker's right to one batch, as a worker sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub batch: BatchId,
    pub fence: Fence,
    pub run: RunId,
    pub campaign: String,
    pub lane: LaneName,
    pub site: SiteName,
    pub definition: DefinitionHash,
    pub ttl_ms: u64,
    pub hard_cap_ms: u64,
    pub window: u32,
    /// See `payload::decode`.
    pub payload: Bytes,
    pub recipients: Vec<Progress>,
    /// The only ones that may get intents; None: all. A batch in which somebody ends workers is leased in parts.
    pub only: Option<IndexRange>,
}
