//! Runs and their counts.

use super::InvalidField;
use crate::run::{BatchCounts, RecipientCounts, RunError, RunState};
use postrider_proto::v1;

impl From<RunState> for v1::RunState {
    fn from(state: RunState) -> Self {
        match state {
            RunState::Scheduled => Self::Scheduled,
            RunState::Splitting => Self::Splitting,
            RunState::Sending => Self::Sending,
            RunState::Finished => Self::Finished,
            RunState::Cancelled => Self::Cancelled,
            RunState::Failed => Self::Failed,
        }
    }
}

impl TryFrom<v1::RunState> for RunState {
    type Error = InvalidField;
    fn try_from(wire: v1::RunState) -> Result<Self, InvalidField> {
        match wire {
            v1::RunState::Unspecified => Err(InvalidField::new("run.state", "it is missing")),
            v1::RunState::Scheduled => Ok(Self::Scheduled),
            v1::RunState::Splitting => Ok(Self::Splitting),
            v1::RunState::Sending => Ok(Self::Sending),
            v1::RunState::Finished => Ok(Self::Finished),
            v1::RunState::Cancelled => Ok(Self::Cancelled),
            v1::RunState::Failed => Ok(Self::Failed),
        }
    }
}

impl From<RecipientCounts> for v1::RecipientCounts {
    fn from(counts: RecipientCounts) -> Self {
        let RecipientCounts { total, pending, accepted, rejected, exhausted, suppressed, cancelled, unknown } = counts;
        Self { total, pending, accepted, rejected, exhausted, suppressed, cancelled, unknown }
    }
}

impl From<v1::RecipientCounts> for RecipientCounts {
    fn from(wire: v1::RecipientCounts) -> Self {
        let v1::RecipientCounts { total, pending, accepted, rejected, exhausted, suppressed, cancelled, unknown } =
            wire;
        Self { total, pending, accepted, rejected, exhausted, suppressed, cancelled, unknown }
    }
}

impl From<BatchCounts> for v1::BatchCounts {
    fn from(counts: BatchCounts) -> Self {
        let BatchCounts { ready, leased, delayed, dead, settled } = counts;
        Self { ready, leased, delayed, dead, settled }
    }
}

impl From<RunError> for v1::RunError {
    fn from(error: RunError) -> Self {
        Self { code: error.code, message: error.message, mend: error.mend }
    }
}
