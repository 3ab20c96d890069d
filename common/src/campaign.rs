//! A campaign: what a customer defined.

use crate::ids::{CampaignName, LaneName};
use crate::message::MessageSpec;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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

/// How the text of an uploaded audience is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextForm {
    /// A label of the Encoding Standard (<https://encoding.spec.whatwg.org/#names-and-labels>). `None`: what a byte
    /// order mark says, or UTF-8.
    pub encoding: Option<String>,
    /// What separates the fields of CSV, one ASCII character. `None`: a comma.
    pub delimiter: Option<char>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audience {
    pub source: Source,
    #[serde(default)]
    pub text: TextForm,
    /// Columns by their name in the source, and the name they have from here on.
    #[serde(default)]
    pub columns: BTreeMap<String, String>,
    pub address_field: String,
    /// `None`: the normalised address.
    pub key_field: Option<String>,
}

impl Audience {
    /// With nothing said of its text, its columns and its key.
    pub fn of(source: Source, address_field: &str) -> Self {
        let (text, columns) = (TextForm::default(), BTreeMap::new());
        Self { source, text, columns, address_field: address_field.to_owned(), key_field: None }
    }
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
