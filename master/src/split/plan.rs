//! What a run freezes of its audience, as the store keeps it.

use postrider_common::campaign::{Audience, OnBadRow};
use serde::{Deserialize, Serialize};

/// Where the recipients of a run come from, and what a bad row does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub audience: Audience,
    pub on_bad_row: OnBadRow,
    /// Of the campaign; 0: not known, or there is none.
    #[serde(default)]
    pub campaign_version: u64,
}

impl Plan {
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}
