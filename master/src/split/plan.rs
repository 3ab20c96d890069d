//! What a run freezes of its audience, as the store keeps it.

use postrider_common::campaign::{Audience, OnBadRow};
use postrider_common::ids::ListName;
use postrider_common::local_time::SendAtLocal;
use serde::{Deserialize, Serialize};

/// Where the recipients of a run come from, and what a bad row does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub audience: Audience,
    pub on_bad_row: OnBadRow,
    /// None: all at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<Local>,
    /// Of the campaign; 0: not known, or there is none.
    #[serde(default)]
    pub campaign_version: u64,
    /// The saved list that the audience is from, and its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<(ListName, u64)>,
}

/// To each recipient by the recipient's own clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Local {
    /// Its default zone is there.
    pub rule: SendAtLocal,
    /// By which the run has its date.
    pub zone: String,
}

impl Plan {
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}
