//! Campaigns as the store keeps them, and where their schedules stand.

use crate::api::NewRun;
use postrider_common::ids::{CampaignName, DefinitionHash, IdempotencyKey, RequestId, RunId};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyCampaign {
    pub name: CampaignName,
    /// A repeat with a key that is still known answers what the first one answered, even when the
    /// campaign was changed in between. None: the contents are the key.
    pub key: Option<IdempotencyKey>,
    /// Hash of the contents; another one under a known key is a conflict.
    pub fingerprint: String,
    /// The encoded campaign; opaque to the store.
    #[serde(with = "serde_bytes")]
    pub spec: Vec<u8>,
    /// The schedule in it, encoded; opaque, empty: none. A schedule that was not there before begins now: nothing of
    /// the time before is due by it.
    #[serde(with = "serde_bytes")]
    pub schedule: Vec<u8>,
    pub definition: DefinitionHash,
    /// The encoded message definition that the hash is of.
    #[serde(with = "serde_bytes")]
    pub definition_bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppliedCampaign {
    Applied {
        version: u64,
        changed: bool,
    },
    /// The key is known with another fingerprint; nothing was changed.
    Conflict,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CampaignRecord {
    pub name: CampaignName,
    pub version: u64,
    #[serde(with = "serde_bytes")]
    pub spec: Vec<u8>,
    pub definition: DefinitionHash,
    pub paused: bool,
    pub applied_at_ms: i64,
    /// None: it runs on demand.
    pub schedule: Option<Scheduled>,
}

/// Where the schedule of a campaign stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduled {
    /// New whenever the campaign is changed, paused or resumed, and with each `fire`. What was calculated from an older
    /// one is refused.
    pub stamp: u64,
    /// What is due up to here was decided: fired or passed over, for ever. Never goes back.
    pub decided_until_ms: i64,
    /// Since when it is as it is: applied, or resumed after a pause.
    pub active_since_ms: i64,
    /// When the next run begins, by the last `fire`. None: not calculated yet, or never again.
    pub due_at_ms: Option<i64>,
    /// Version of the time zone database that this was calculated with. Empty: not calculated yet.
    pub zones: String,
    /// Runs that it began.
    pub fired: u64,
    pub last_fired: Option<FiredRun>,
    /// Occurrences passed over, by reason.
    pub missed: u64,
    pub overlapped: u64,
    pub refused: u64,
    pub last_skipped: Option<Skipped>,
    /// Request of the last `fire`.
    pub by: Option<RequestId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FiredRun {
    pub run: RunId,
    /// When it was due.
    pub nominal_at_ms: i64,
    pub at_ms: i64,
}

/// Why an occurrence began no run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SkipReason {
    /// It passed while nobody could begin it, and is not to be caught up with.
    Missed,
    /// The run before it was still going.
    Overlap,
    /// The campaign cannot run as it is.
    CannotRun,
}

impl SkipReason {
    pub const ALL: [Self; 3] = [Self::Missed, Self::Overlap, Self::CannotRun];

    pub fn name(self) -> &'static str {
        match self {
            Self::Missed => "missed",
            Self::Overlap => "overlap",
            Self::CannotRun => "cannot_run",
        }
    }
}

/// Occurrences that began no run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    pub reason: SkipReason,
    pub count: u64,
    /// When the last of them was due.
    pub nominal_at_ms: i64,
    /// For people; may be empty.
    pub why: String,
}

/// What became of the occurrences of a schedule, and when to look at it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fire {
    pub campaign: CampaignName,
    /// A repeat with the same id is answered like the first call.
    pub request: RequestId,
    /// `Scheduled::stamp` that this was calculated from.
    pub stamp: u64,
    /// Not after the store's time.
    pub decided_until_ms: i64,
    pub due_at_ms: Option<i64>,
    /// None: there is nothing to look for any more.
    pub look_at_ms: Option<i64>,
    pub zones: String,
    pub skipped: Vec<Skipped>,
    /// With the instant that it is due for, which is after all that was decided before.
    pub run: Option<NewRun>,
    /// A run that gives way to it.
    pub cancel: Option<RunId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fired {
    /// Done, or done before by the same call.
    Done,
    /// It was calculated from something else than the campaign is now: nothing was changed.
    Stale,
    /// It decides about what is still to come: nothing was changed.
    Early,
    /// The run of an earlier occurrence is still on its way to its shard: nothing was changed.
    Busy,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueSchedules {
    pub now_ms: i64,
    /// Those to look at, the longest due first.
    pub campaigns: Vec<CampaignRecord>,
}
