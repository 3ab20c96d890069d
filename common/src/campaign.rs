//! A campaign: what a customer defined.

use crate::ids::{CampaignName, LaneName};
use crate::local_time::SendAtLocal;
use crate::message::MessageSpec;
pub use crate::source::{DatabaseAt, HttpSource, InvalidDatabaseAt, Source, SqlSource};
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

/// When a campaign runs by itself, and what happens when that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    pub when: When,
    /// IANA name.
    pub time_zone: String,
    pub on_gap: OnGap,
    pub on_overlap: OnOverlap,
    pub catch_up: CatchUp,
    /// What could not begin until so long after it was due is passed over.
    pub start_deadline_ms: Option<u64>,
    pub overlap: Overlap,
    /// Each run begins up to so long after it is due.
    pub jitter_ms: u64,
    /// Nothing is due before, and after: a date or a date with a time, by the wall clock of the zone. Empty: no bound.
    pub start: String,
    pub end: String,
}

impl Schedule {
    /// With the default of every policy.
    pub fn new(when: When, time_zone: impl Into<String>) -> Self {
        Self {
            when,
            time_zone: time_zone.into(),
            on_gap: OnGap::default(),
            on_overlap: OnOverlap::default(),
            catch_up: CatchUp::default(),
            start_deadline_ms: None,
            overlap: Overlap::default(),
            jitter_ms: 0,
            start: String::new(),
            end: String::new(),
        }
    }

    pub fn cron(pattern: impl Into<String>, time_zone: impl Into<String>) -> Self {
        Self::new(When::Cron(pattern.into()), time_zone)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum When {
    /// Whenever the pattern matches.
    Cron(String),
    /// Once.
    At(String),
}

/// What becomes of a time of the day that the clock skips.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnGap {
    /// It is due at the first instant after the gap, once.
    #[default]
    RunAfter,
    /// It is not due that day.
    Skip,
}

/// What becomes of a time of the day that the clock repeats.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnOverlap {
    /// It is due the first time.
    #[default]
    Once,
    /// It is due both times.
    Twice,
}

/// What becomes of what was due while nobody could begin it: masters or store were away, or the campaign was paused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CatchUp {
    /// Nothing: only what is on time begins.
    None,
    /// The latest of it.
    #[default]
    Latest,
    /// Each, the newest `max` of those that are not older than the window.
    All { max: u32, window_ms: u64 },
}

/// What happens when a run is due and the one before it is still going.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Overlap {
    /// It does not begin.
    #[default]
    Skip,
    /// Both go on.
    Allow,
    /// The one before is cancelled.
    CancelPrevious,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Campaign {
    pub name: CampaignName,
    pub lane: LaneName,
    pub on_unknown: OnUnknown,
    pub on_bad_row: OnBadRow,
    pub schedule: Option<Schedule>,
    /// None: all are sent to as soon as a run begins.
    pub send_at_local: Option<SendAtLocal>,
    pub audience: Option<Audience>,
    pub message: MessageSpec,
    pub notify_url: String,
}
