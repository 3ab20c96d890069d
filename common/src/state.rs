//! The states of a recipient and which of them may follow which.
//!
//! One letter each, because a batch keeps the states of its recipients as one string.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Where one delivery (run, recipient) stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RecipientState {
    /// Nothing was sent; may be sent now.
    Pending,
    /// A worker was told that it may send; what became of it is not known here yet.
    Intent,
    /// Waits for a retry, or for the doubt grace.
    Deferred,
    /// 2xx to the final dot.
    Accepted,
    /// Refused for good, or the message could not be built.
    Rejected,
    /// Given up: time to live or attempts used up.
    Exhausted,
    /// Not sent because the address is suppressed.
    Suppressed,
    /// Not sent because the run was cancelled.
    Cancelled,
    /// In doubt and, by policy, not sent again.
    Unknown,
}

impl RecipientState {
    pub const ALL: [Self; 9] = [
        Self::Pending,
        Self::Intent,
        Self::Deferred,
        Self::Accepted,
        Self::Rejected,
        Self::Exhausted,
        Self::Suppressed,
        Self::Cancelled,
        Self::Unknown,
    ];

    pub fn letter(self) -> u8 {
        match self {
            Self::Pending => b'p',
            Self::Intent => b'i',
            Self::Deferred => b'd',
            Self::Accepted => b'a',
            Self::Rejected => b'r',
            Self::Exhausted => b'x',
            Self::Suppressed => b's',
            Self::Cancelled => b'c',
            Self::Unknown => b'u',
        }
    }

    pub fn from_letter(letter: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.letter() == letter)
    }

    /// A final state never changes within a generation, except by a fact that corrects it.
    pub fn is_final(self) -> bool {
        match self {
            Self::Pending | Self::Intent | Self::Deferred => false,
            Self::Accepted | Self::Rejected | Self::Exhausted | Self::Suppressed | Self::Cancelled | Self::Unknown => {
                true
            }
        }
    }

    /// The word people see: the three states that are not final print as `pending`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending | Self::Intent | Self::Deferred => "pending",
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
            Self::Exhausted => "exhausted",
            Self::Suppressed => "suppressed",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for RecipientState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why it is not known whether a message arrived. Kept for ever once a second transmission began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum UnknownReason {
    /// The reply to the final dot never came (RFC 1047).
    ReplyLost,
    /// The worker died or was cut off before the outcome was durable.
    OutcomeNotRecorded,
}

impl UnknownReason {
    pub fn letter(self) -> u8 {
        match self {
            Self::ReplyLost => b'l',
            Self::OutcomeNotRecorded => b'n',
        }
    }

    pub fn from_letter(letter: u8) -> Option<Self> {
        match letter {
            b'l' => Some(Self::ReplyLost),
            b'n' => Some(Self::OutcomeNotRecorded),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::ReplyLost => "reply_lost",
            Self::OutcomeNotRecorded => "outcome_not_recorded",
        }
    }
}

impl fmt::Display for UnknownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_distinct_and_read_back() {
        for state in RecipientState::ALL {
            assert_eq!(RecipientState::from_letter(state.letter()), Some(state));
        }
        assert_eq!(RecipientState::from_letter(b'?'), None);
        for reason in [UnknownReason::ReplyLost, UnknownReason::OutcomeNotRecorded] {
            assert_eq!(UnknownReason::from_letter(reason.letter()), Some(reason));
        }
    }
}
