//! What a run freezes of its audience, as the store keeps it.

use postrider_common::campaign::{Audience, OnBadRow};
use postrider_common::ids::ListName;
use postrider_common::local_time::SendAtLocal;
use postrider_common::windows::Windows;
use serde::{Deserialize, Serialize};

/// Where the recipients of a run come from, and what a bad row does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub audience: Audience,
    pub on_bad_row: OnBadRow,
    /// None: all at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<Local>,
    /// When sending of the run may begin.
    #[serde(default, skip_serializing_if = "Windows::is_empty")]
    pub windows: Windows,
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
    /// All are due at once: only their windows go by their clocks.
    #[serde(default)]
    pub windows_only: bool,
    /// Batches are of one clock each, since these windows, or those of the lane, go by it. None: they need not be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<Windows>,
}

impl Plan {
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}
