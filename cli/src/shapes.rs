//! What JSON readers get. The field names and their order are pinned; readers ignore unknown fields.

mod list;
mod local_time;
mod schedule;

pub use list::{ListChanged, SavedList};
pub use local_time::SendAtLocal;
pub use schedule::Schedule;

use crate::failure::{Failure, Result};
use chrono::{DateTime, SecondsFormat, Utc};
use postrider_common::run::RunState;
use postrider_common::state::RecipientState;
use postrider_common::windows::{Window, Windows};
use postrider_proto::v1;
use serde::Serialize;
use std::collections::BTreeMap;

/// RFC 3339 in UTC with milliseconds; `None` for "not yet".
pub fn instant(ms: i64) -> Option<String> {
    let at: Option<DateTime<Utc>> = DateTime::from_timestamp_millis(ms).filter(|_| ms != 0);
    at.map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// A line of `schedule next`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Firing {
    pub at: Option<String>,
    pub local: String,
    pub nominal: String,
    pub note: &'static str,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    pub run: String,
    pub campaign: String,
    pub state: &'static str,
    pub error: Option<RunError>,
    pub paused: bool,
    pub split_complete: bool,
    pub recipients: Recipients,
    pub bad_rows: u64,
    pub batches: Batches,
    pub nominal_at: Option<String>,
    pub started_at: Option<String>,
    pub finished_at: Option<String>,
    // Beyond what is pinned.
    pub lane: String,
    pub repeated_rows: u64,
    pub cancel_requested: bool,
    pub resent_reply_lost: u64,
    pub resent_outcome_not_recorded: u64,
    pub leases_expired: u64,
    pub leases_taken_over: u64,
    pub generation: u64,
    /// Of the campaign, as it was when the run began; null for a single message without one.
    pub campaign_version: Option<u64>,
    /// Nothing is begun before: its send windows, or those of its lane, are closed.
    pub held_until: Option<String>,
    /// When the next recipients are due, of a run in waves.
    pub next_wave_at: Option<String>,
    /// The saved list that its recipients are from, and the version that it froze.
    pub list: Option<String>,
    pub list_version: Option<u64>,
    #[serde(skip)]
    pub kind: RunState,
    /// Started to finished, or to now, is for the reader to count.
    #[serde(skip)]
    pub started_at_ms: i64,
    #[serde(skip)]
    pub finished_at_ms: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunError {
    pub code: String,
    pub message: String,
    pub mend: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Recipients {
    pub total: u64,
    pub pending: u64,
    pub accepted: u64,
    pub rejected: u64,
    pub exhausted: u64,
    pub suppressed: u64,
    pub cancelled: u64,
    pub unknown: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Batches {
    pub ready: u64,
    pub leased: u64,
    pub delayed: u64,
    pub dead: u64,
    pub settled: u64,
}

impl Run {
    /// Refuses an answer without a run or with a state that this version does not know.
    pub fn from_wire(wire: Option<v1::Run>) -> Result<Self> {
        let wrong = || Failure::failed("the master answered without a run: is it of another version?");
        let wire = wire.ok_or_else(wrong)?;
        let kind = RunState::try_from(wire.state()).map_err(|_| wrong())?;
        let counts = wire.recipients.unwrap_or_default();
        let batches = wire.batches.unwrap_or_default();
        Ok(Self {
            run: wire.run_id,
            campaign: wire.campaign,
            state: kind.name(),
            error: wire.error.map(|e| RunError { code: e.code, message: e.message, mend: e.mend }),
            paused: wire.paused,
            split_complete: wire.split_complete,
            recipients: Recipients {
                total: counts.total,
                pending: counts.pending,
                accepted: counts.accepted,
                rejected: counts.rejected,
                exhausted: counts.exhausted,
                suppressed: counts.suppressed,
                cancelled: counts.cancelled,
                unknown: counts.unknown,
            },
            bad_rows: wire.bad_rows,
            batches: Batches {
                ready: batches.ready,
                leased: batches.leased,
                delayed: batches.delayed,
                dead: batches.dead,
                settled: batches.settled,
            },
            nominal_at: instant(wire.nominal_at_ms),
            held_until: instant(wire.held_until_ms),
            next_wave_at: instant(wire.next_wave_at_ms),
            started_at: instant(wire.started_at_ms),
            finished_at: instant(wire.finished_at_ms),
            lane: wire.lane,
            repeated_rows: wire.repeated_rows,
            cancel_requested: wire.cancel_requested,
            resent_reply_lost: wire.resent_reply_lost,
            resent_outcome_not_recorded: wire.resent_outcome_not_recorded,
            leases_expired: wire.leases_expired,
            leases_taken_over: wire.leases_taken_over,
            generation: wire.generation,
            campaign_version: Some(wire.campaign_version).filter(|version| *version > 0),
            list: Some(wire.list).filter(|list| !list.is_empty()),
            list_version: Some(wire.list_version).filter(|version| *version > 0),
            kind,
            started_at_ms: wire.started_at_ms,
            finished_at_ms: wire.finished_at_ms,
        })
    }
}

/// One line of `dead list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadLetter {
    pub id: String,
    pub run: String,
    pub campaign: String,
    pub batch: String,
    pub reason: String,
    pub at: Option<String>,
    /// Of a whole batch.
    pub pending: u32,
    /// None: the whole batch.
    pub recipient: Option<Recipient>,
}

/// One line of `run recipients`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recipient {
    pub key: String,
    pub address: String,
    pub state: &'static str,
    pub attempts: u32,
    pub code: String,
    pub message_id: String,
    pub unknown_reason: Option<String>,
    pub settled_at: Option<String>,
    // Beyond what is pinned.
    pub detail: String,
    pub batch: String,
}

impl Recipient {
    pub fn from_wire(wire: v1::Recipient) -> Result<Self> {
        let state = RecipientState::try_from(wire.state())
            .map_err(|_| Failure::failed("the master answered with an unknown state: is it of another version?"))?;
        Ok(Self {
            key: wire.key,
            address: wire.address,
            state: state.name(),
            attempts: wire.attempts,
            code: wire.code,
            message_id: wire.message_id,
            unknown_reason: Some(wire.unknown_reason).filter(|reason| !reason.is_empty()),
            settled_at: instant(wire.settled_at_ms),
            detail: wire.detail,
            batch: wire.batch_id,
        })
    }
}

/// One line of `run find`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FoundRecipient {
    pub run: String,
    pub campaign: String,
    #[serde(flatten)]
    pub recipient: Recipient,
}

impl FoundRecipient {
    pub fn from_wire(wire: v1::FoundRecipient) -> Result<Self> {
        let recipient =
            wire.recipient.ok_or_else(|| Failure::failed("the master found a recipient and does not say which"))?;
        Ok(Self { run: wire.run_id, campaign: wire.campaign, recipient: Recipient::from_wire(recipient)? })
    }
}

/// One line of `run failures` for a row that was not admitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BadRow {
    /// Always `bad_row`, to tell it from a recipient.
    pub state: &'static str,
    /// 1-based record number, the header not counted.
    pub row: u64,
    pub reason: String,
}

/// `campaign run` and `send` without `--wait`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Started {
    pub run: String,
    /// False: the idempotency key was known, and this is what it started.
    pub created: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Applied {
    pub campaign: String,
    pub version: u64,
    pub changed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Campaign {
    pub campaign: String,
    pub version: u64,
    pub paused: bool,
    pub applied_at: Option<String>,
    pub from: String,
    pub lane: String,
    pub on_unknown: &'static str,
    pub on_bad_row: &'static str,
    pub schedule: Option<Schedule>,
    /// Null: all are sent to as soon as a run begins.
    pub send_at_local: Option<SendAtLocal>,
    pub audience: Option<Audience>,
    pub subject: String,
    pub reply_to: String,
    pub return_path: String,
    pub tags: Vec<String>,
    pub notify_url: String,
    /// Where merge fields are fetched.
    pub data_url: Option<String>,
    /// When sending may begin, and when not, as a person reads it.
    pub send_window: Vec<String>,
    pub quiet_hours: Vec<String>,
    /// Where workers find the URL of the database that they ask for fields.
    pub data_sql: Option<String>,
    pub html_bytes: usize,
    pub text_bytes: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Audience {
    /// SHA-256 of the uploaded file; null for every other source.
    pub id: Option<String>,
    /// What a master reads when a run begins; null for files that were uploaded and for rows given inline.
    pub source: Option<Elsewhere>,
    pub address: String,
    pub key: Option<String>,
    pub encoding: Option<String>,
    pub delimiter: Option<String>,
    /// Names in the source, and those that they are given.
    pub columns: BTreeMap<String, String>,
}

/// Where a source is that a master reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Elsewhere {
    Sql {
        url: String,
        query: String,
        timeout_ms: u64,
    },
    File(String),
    /// The URL of the first page.
    Http(String),
    /// A saved list.
    List(String),
}

impl Campaign {
    pub fn from_wire(record: v1::CampaignRecord) -> Result<Self> {
        let wire = record
            .campaign
            .ok_or_else(|| Failure::failed("the master answered without a campaign: is it of another version?"))?;
        let on_unknown = match wire.on_unknown() {
            v1::OnUnknown::Unspecified | v1::OnUnknown::Resend => "resend",
            v1::OnUnknown::Hold => "hold",
        };
        let on_bad_row = match wire.on_bad_row() {
            v1::OnBadRow::Unspecified | v1::OnBadRow::Skip => "skip",
            v1::OnBadRow::Fail => "fail",
        };
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        let message = wire.message.unwrap_or_default();
        let schedule = wire.schedule.map(|schedule| Schedule::from_wire(schedule, record.schedule, record.paused));
        let windows: Windows = message.windows.map(Into::into).unwrap_or_default();
        Ok(Self {
            campaign: wire.name,
            version: record.version,
            paused: record.paused,
            applied_at: instant(record.applied_at_ms),
            from: message.from,
            lane: wire.lane,
            on_unknown,
            on_bad_row,
            schedule: schedule.transpose()?,
            send_at_local: wire.send_at_local.map(SendAtLocal::from_wire).transpose()?,
            audience: wire.audience.map(|a| Audience {
                id: some(a.audience_id),
                source: a
                    .sql
                    .map(|sql| Elsewhere::Sql { url: sql.url, query: sql.query, timeout_ms: sql.timeout_ms })
                    .or(a.file.map(|file| Elsewhere::File(file.path)))
                    .or(a.http.map(|http| Elsewhere::Http(http.url)))
                    .or(a.list.map(|list| Elsewhere::List(list.name))),
                address: a.address_field,
                key: some(a.key_field),
                encoding: some(a.encoding),
                delimiter: some(a.delimiter),
                columns: a.columns.into_iter().collect(),
            }),
            subject: message.subject,
            reply_to: message.reply_to,
            return_path: message.return_path,
            tags: message.tags,
            notify_url: wire.notify_url,
            data_url: message.data_url.map(|data| data.url),
            send_window: windows.send.iter().map(Window::to_string).collect(),
            quiet_hours: windows.quiet.iter().map(Window::to_string).collect(),
            data_sql: message.data_sql.map(|data| data.url),
            html_bytes: message.html.len(),
            text_bytes: message.text.len(),
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lane {
    pub lane: String,
    pub weight: u32,
    pub paused: bool,
    pub batches_ready: u64,
    pub rate: Option<String>,
    pub burst: Option<u32>,
    pub concurrency: Option<u32>,
    /// Counted only under a limit.
    pub in_intent: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Erasure {
    pub id: String,
    pub done: bool,
    pub asked_at: Option<String>,
    pub done_at: Option<String>,
    pub recipients: u64,
    pub ended: u64,
    pub rows: u64,
    pub mentions: u64,
    pub unreadable: u64,
    pub left: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Worker {
    pub name: String,
    pub instance: String,
    pub seen_at: Option<String>,
    pub slots: u32,
    pub leases: u32,
    pub in_intent: u32,
    pub draining: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_prints_as_pinned() {
        let wire = v1::Run {
            run_id: "run_1".into(),
            campaign: "daily".into(),
            state: v1::RunState::Sending.into(),
            recipients: Some(v1::RecipientCounts { total: 3, pending: 1, accepted: 2, ..Default::default() }),
            bad_rows: 4,
            batches: Some(v1::BatchCounts { leased: 1, ..Default::default() }),
            nominal_at_ms: 1_732_147_200_123,
            started_at_ms: 1_732_147_201_000,
            split_complete: true,
            lane: "bulk".into(),
            ..Default::default()
        };
        let text = serde_json::to_string(&Run::from_wire(Some(wire)).expect("good")).expect("json");
        let pinned = concat!(
            r#"{"run":"run_1","campaign":"daily","state":"sending","error":null,"paused":false,"#,
            r#""split_complete":true,"recipients":{"total":3,"pending":1,"accepted":2,"rejected":0,"#,
            r#""exhausted":0,"suppressed":0,"cancelled":0,"unknown":0},"bad_rows":4,"#,
            r#""batches":{"ready":0,"leased":1,"delayed":0,"dead":0,"settled":0},"#,
            r#""nominal_at":"2024-11-21T00:00:00.123Z","started_at":"2024-11-21T00:00:01.000Z","#,
            r#""finished_at":null,"#,
        );
        assert!(text.starts_with(pinned), "{text}");
    }

    #[test]
    fn an_error_prints_as_pinned() {
        let error = v1::RunError { code: "c".into(), message: "m".into(), mend: "d".into() };
        let state = v1::RunState::Failed.into();
        let wire = v1::Run { error: Some(error), state, ..Default::default() };
        let text = serde_json::to_string(&Run::from_wire(Some(wire)).expect("good")).expect("json");
        assert!(text.contains(r#""state":"failed","error":{"code":"c","message":"m","mend":"d"},"#), "{text}");
    }

    #[test]
    fn a_recipient_prints_as_pinned() {
        let wire = v1::Recipient {
            key: "ada@example.com".into(),
            address: "Ada@example.com".into(),
            state: v1::RecipientState::Accepted.into(),
            attempts: 2,
            code: "250 2.0.0".into(),
            message_id: "<x@acme.example>".into(),
            unknown_reason: "reply_lost".into(),
            settled_at_ms: 1_732_147_200_000,
            ..Default::default()
        };
        let text = serde_json::to_string(&Recipient::from_wire(wire).expect("good")).expect("json");
        let pinned = concat!(
            r#"{"key":"ada@example.com","address":"Ada@example.com","state":"accepted","attempts":2,"#,
            r#""code":"250 2.0.0","message_id":"<x@acme.example>","unknown_reason":"reply_lost","#,
            r#""settled_at":"2024-11-21T00:00:00.000Z","#,
        );
        assert!(text.starts_with(pinned), "{text}");
        let waiting = v1::Recipient { state: v1::RecipientState::Intent.into(), ..Default::default() };
        let text = serde_json::to_string(&Recipient::from_wire(waiting).expect("good")).expect("json");
        assert!(text.contains(r#""state":"pending""#), "{text}");
        assert!(text.contains(r#""unknown_reason":null,"settled_at":null"#), "{text}");
    }

    #[test]
    fn answers_of_another_version_are_refused() {
        assert!(Run::from_wire(None).is_err());
        assert!(Run::from_wire(Some(v1::Run::default())).is_err());
        assert!(Recipient::from_wire(v1::Recipient::default()).is_err());
    }
}
