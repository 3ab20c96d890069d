//! A campaign: what a customer defined.

use crate::ids::{CampaignName, LaneName};
use crate::message::MessageSpec;
use serde::{Deserialize, Serialize};

/// What happens to a recipient in doubt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnUnknown {
    /// Better twice than lost.
    #[default]
    Resend,
    /// Better lost than twice.
    Hold,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnBadRow {
    #[default]
    Skip,
    Fail,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AudienceFormat {
    Csv,
    Ndjson,
}

/// Where recipients come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// An uploaded audience, named by the hex SHA-256 of its contents.
    Stored { sha256: String, format: AudienceFormat },
    /// Rows given with the request, each a JSON object.
    Inline { rows: Vec<String> },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audience {
    pub source: Source,
    pub address_field: String,
    /// `None`: the normalised address.
    pub key_field: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    pub cron: String,
    pub time_zone: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Campaign {
    pub name: CampaignName,
    pub lane: LaneName,
    pub on_unknown: OnUnknown,
    pub on_bad_row: OnBadRow,
    pub schedule: Option<Schedule>,
    pub audience: Option<Audience>,
    pub message: MessageSpec,
    pub notify_url: String,
}
