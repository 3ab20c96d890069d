//! Values of what was given up, and begins again when a person says so: retries and dead letters.

use postrider_common::ids::{DeadId, IdempotencyKey, RunId};
use serde::{Deserialize, Serialize};

/// Why something is a dead letter that the poison rule set aside. Other reasons are texts for people: what could not be
/// read.
pub const ENDS_WORKERS: &str = "ends workers";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryRun {
    pub run: RunId,
    /// A repeat goes on with the generation that the first call opened, and finds what it did already.
    pub key: IdempotencyKey,
    /// Also those that are unknown: they may get the mail twice.
    pub unknown: bool,
    pub after: u64,
    pub limit: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RetriedRun {
    Step {
        generation: u64,
        /// Made pending by this call.
        recipients: u64,
        /// Pass as `after` next time; None: the last batch was looked at.
        next: Option<u64>,
    },
    NoRun,
    Cancelled,
    /// The key is known, and said something else about unknown ones.
    Conflict,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    pub id: DeadId,
    pub at_ms: i64,
    /// `ENDS_WORKERS`, or what could not be read.
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayDead {
    pub id: DeadId,
    /// Even if it may have been sent.
    pub unknown: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeadAnswer {
    /// Recipients that are pending again, or were and are not any more.
    Done {
        recipients: u64,
    },
    NoSuch,
    /// It may have been sent: nothing was changed.
    InDoubt,
    /// The run is cancelled: nothing of it begins again.
    Cancelled,
    /// What became of its recipients cannot be read: nothing was changed.
    Unreadable,
}
