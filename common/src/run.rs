//! A run as people see it: counts, and the state that follows from them.

use crate::state::RecipientState;
use serde::{Deserialize, Serialize};

/// Recipients of a run by state. `total` is stored apart, so that the sum can be checked against it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientCounts {
    pub total: u64,
    pub pending: u64,
    pub accepted: u64,
    pub rejected: u64,
    pub exhausted: u64,
    pub suppressed: u64,
    pub cancelled: u64,
    pub unknown: u64,
}

impl RecipientCounts {
    /// Promise P1: holds at every instant.
    pub fn adds_up(&self) -> bool {
        let parts =
            [self.pending, self.accepted, self.rejected, self.exhausted, self.suppressed, self.cancelled, self.unknown];
        parts.iter().sum::<u64>() == self.total
    }

    /// The counter that a recipient in this state is counted by, beside `total`.
    pub fn of(&mut self, state: RecipientState) -> &mut u64 {
        match state {
            RecipientState::Pending | RecipientState::Intent | RecipientState::Deferred => &mut self.pending,
            RecipientState::Accepted => &mut self.accepted,
            RecipientState::Rejected => &mut self.rejected,
            RecipientState::Exhausted => &mut self.exhausted,
            RecipientState::Suppressed => &mut self.suppressed,
            RecipientState::Cancelled => &mut self.cancelled,
            RecipientState::Unknown => &mut self.unknown,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchCounts {
    pub ready: u64,
    pub leased: u64,
    pub delayed: u64,
    pub dead: u64,
    pub settled: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunState {
    Scheduled,
    Splitting,
    Sending,
    Finished,
    Cancelled,
    Failed,
}

impl RunState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Splitting => "splitting",
            Self::Sending => "sending",
            Self::Finished => "finished",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }

    /// Nothing more happens by itself.
    pub fn has_ended(self) -> bool {
        match self {
            Self::Scheduled | Self::Splitting | Self::Sending => false,
            Self::Finished | Self::Cancelled | Self::Failed => true,
        }
    }
}

/// Why a run cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunError {
    /// A stable word.
    pub code: String,
    pub message: String,
    pub mend: String,
}

/// What `state` is derived from. Never stored: finished means split complete and nothing pending.
pub fn state(started: bool, split_complete: bool, cancelled: bool, failed: bool, pending: u64) -> RunState {
    if cancelled {
        return if pending == 0 { RunState::Cancelled } else { RunState::Sending };
    }
    if failed {
        return RunState::Failed;
    }
    match (split_complete, pending) {
        (true, 0) => RunState::Finished,
        (true, _) => RunState::Sending,
        (false, _) if started => RunState::Splitting,
        (false, _) => RunState::Scheduled,
    }
}
