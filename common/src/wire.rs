//! Between wire and domain types, both ways. Wrong input is an error that names the field.

use crate::campaign::{Audience, AudienceFormat, Campaign, OnBadRow, OnUnknown, Schedule, Source};
use crate::ids::{BatchId, Fence, InvalidId, LaneName, WorkerId};
use crate::lease::{
    Fact, FactStatus, Lease, LeaseAnswer, LeaseReport, LeaseStatus, Outcome, OutcomeKind, Progress, RefusalReason,
};
use crate::limits::{BATCH_RECIPIENTS_MAX, CODE_BYTES_MAX, DETAIL_BYTES_MAX, INLINE_ROWS_MAX, RETRY_AFTER_MS_MAX};
use crate::message::MessageSpec;
use crate::run::{BatchCounts, RecipientCounts, RunError, RunState};
use crate::state::RecipientState;
use postrider_proto::v1;

/// A field of a message that is missing or wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct InvalidField {
    pub field: &'static str,
    pub why: String,
}

impl InvalidField {
    pub fn new(field: &'static str, why: impl Into<String>) -> Self {
        Self { field, why: why.into() }
    }
}

fn at(field: &'static str) -> impl Fn(InvalidId) -> InvalidField {
    move |error| InvalidField::new(field, error.to_string())
}

/// Printable ASCII only, cut to a length: replies of servers must not reach a terminal or a log as they are.
pub fn printable(text: &str, bytes_max: usize) -> String {
    let clean = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    text.chars().take(bytes_max).map(clean).collect()
}

pub fn worker(worker: Option<v1::Worker>) -> Result<WorkerId, InvalidField> {
    let worker = worker.ok_or_else(|| InvalidField::new("worker", "it is missing"))?;
    WorkerId::try_new(&worker.name, &worker.instance).map_err(at("worker"))
}

impl From<&WorkerId> for v1::Worker {
    fn from(id: &WorkerId) -> Self {
        Self { name: id.name.clone(), instance: id.instance.to_string() }
    }
}

impl TryFrom<v1::RecipientOutcome> for Outcome {
    type Error = InvalidField;
    fn try_from(wire: v1::RecipientOutcome) -> Result<Self, InvalidField> {
        let kind = match wire.kind() {
            v1::OutcomeKind::Unspecified => return Err(InvalidField::new("outcomes.kind", "it is missing")),
            v1::OutcomeKind::Accepted => OutcomeKind::Accepted,
            v1::OutcomeKind::Deferred => OutcomeKind::Deferred,
            v1::OutcomeKind::Rejected => OutcomeKind::Rejected,
            v1::OutcomeKind::Unknown => OutcomeKind::Unknown,
            v1::OutcomeKind::NotWritten => OutcomeKind::NotWritten,
        };
        if wire.index as usize >= BATCH_RECIPIENTS_MAX {
            return Err(InvalidField::new("outcomes.index", format!("it must be below {BATCH_RECIPIENTS_MAX}")));
        }
        Ok(Self {
            index: wire.index,
            kind,
            code: printable(&wire.code, CODE_BYTES_MAX),
            detail: printable(&wire.detail, DETAIL_BYTES_MAX),
            retry_after_ms: wire.retry_after_ms.min(RETRY_AFTER_MS_MAX),
        })
    }
}

impl From<Outcome> for v1::RecipientOutcome {
    fn from(outcome: Outcome) -> Self {
        let kind = match outcome.kind {
            OutcomeKind::Accepted => v1::OutcomeKind::Accepted,
            OutcomeKind::Deferred => v1::OutcomeKind::Deferred,
            OutcomeKind::Rejected => v1::OutcomeKind::Rejected,
            OutcomeKind::Unknown => v1::OutcomeKind::Unknown,
            OutcomeKind::NotWritten => v1::OutcomeKind::NotWritten,
        };
        Self {
            index: outcome.index,
            kind: kind.into(),
            code: outcome.code,
            detail: outcome.detail,
            retry_after_ms: outcome.retry_after_ms,
        }
    }
}

fn batch_and_fence(batch: &str, fence: &str) -> Result<(BatchId, Fence), InvalidField> {
    Ok((batch.parse().map_err(at("batch_id"))?, fence.parse().map_err(at("fence"))?))
}

impl TryFrom<v1::LeaseCheckpoint> for LeaseReport {
    type Error = InvalidField;
    fn try_from(wire: v1::LeaseCheckpoint) -> Result<Self, InvalidField> {
        let (batch, fence) = batch_and_fence(&wire.batch_id, &wire.fence)?;
        if wire.outcomes.len() > BATCH_RECIPIENTS_MAX || wire.intents.len() > BATCH_RECIPIENTS_MAX {
            return Err(InvalidField::new(
                "leases",
                format!("at most {BATCH_RECIPIENTS_MAX} outcomes and intents each"),
            ));
        }
        Ok(Self {
            batch,
            fence,
            sequence: wire.sequence,
            outcomes: wire.outcomes.into_iter().map(Outcome::try_from).collect::<Result<_, _>>()?,
            intents: wire.intents,
            progress: wire.progress,
        })
    }
}

impl From<LeaseReport> for v1::LeaseCheckpoint {
    fn from(report: LeaseReport) -> Self {
        Self {
            batch_id: report.batch.to_string(),
            fence: report.fence.to_string(),
            sequence: report.sequence,
            outcomes: report.outcomes.into_iter().map(Into::into).collect(),
            intents: report.intents,
            progress: report.progress,
        }
    }
}

impl TryFrom<v1::Fact> for Fact {
    type Error = InvalidField;
    fn try_from(wire: v1::Fact) -> Result<Self, InvalidField> {
        let (batch, fence) = batch_and_fence(&wire.batch_id, &wire.fence)?;
        let outcome = wire.outcome.ok_or_else(|| InvalidField::new("outcome", "it is missing"))?;
        Ok(Self { batch, fence, outcome: outcome.try_into()? })
    }
}

impl From<Fact> for v1::Fact {
    fn from(fact: Fact) -> Self {
        Self { batch_id: fact.batch.to_string(), fence: fact.fence.to_string(), outcome: Some(fact.outcome.into()) }
    }
}

impl From<FactStatus> for v1::FactStatus {
    fn from(status: FactStatus) -> Self {
        match status {
            FactStatus::Applied => Self::Applied,
            FactStatus::Already => Self::Already,
            FactStatus::Refused => Self::Refused,
        }
    }
}

impl TryFrom<v1::FactStatus> for FactStatus {
    type Error = InvalidField;
    fn try_from(wire: v1::FactStatus) -> Result<Self, InvalidField> {
        match wire {
            v1::FactStatus::Unspecified => Err(InvalidField::new("facts", "a status is missing")),
            v1::FactStatus::Applied => Ok(Self::Applied),
            v1::FactStatus::Already => Ok(Self::Already),
            v1::FactStatus::Refused => Ok(Self::Refused),
        }
    }
}

impl From<RefusalReason> for v1::RefusalReason {
    fn from(reason: RefusalReason) -> Self {
        match reason {
            RefusalReason::Settled => Self::Settled,
            RefusalReason::NotDue => Self::NotDue,
            RefusalReason::Window => Self::Window,
            RefusalReason::Paused => Self::Paused,
            RefusalReason::Cancelled => Self::Cancelled,
            RefusalReason::HardCap => Self::HardCap,
            RefusalReason::Repeated => Self::Repeated,
        }
    }
}

impl TryFrom<v1::RefusalReason> for RefusalReason {
    type Error = InvalidField;
    fn try_from(wire: v1::RefusalReason) -> Result<Self, InvalidField> {
        match wire {
            v1::RefusalReason::Unspecified => Err(InvalidField::new("refused.reason", "it is missing")),
            v1::RefusalReason::Settled => Ok(Self::Settled),
            v1::RefusalReason::NotDue => Ok(Self::NotDue),
            v1::RefusalReason::Window => Ok(Self::Window),
            v1::RefusalReason::Paused => Ok(Self::Paused),
            v1::RefusalReason::Cancelled => Ok(Self::Cancelled),
            v1::RefusalReason::HardCap => Ok(Self::HardCap),
            v1::RefusalReason::Repeated => Ok(Self::Repeated),
        }
    }
}

impl From<LeaseStatus> for v1::LeaseStatus {
    fn from(status: LeaseStatus) -> Self {
        match status {
            LeaseStatus::Held => Self::Held,
            LeaseStatus::Lost => Self::Lost,
            LeaseStatus::Settled => Self::Settled,
            LeaseStatus::Returned => Self::Returned,
            LeaseStatus::InIntent => Self::InIntent,
            LeaseStatus::Gone => Self::Gone,
        }
    }
}

impl TryFrom<v1::LeaseStatus> for LeaseStatus {
    type Error = InvalidField;
    fn try_from(wire: v1::LeaseStatus) -> Result<Self, InvalidField> {
        match wire {
            v1::LeaseStatus::Unspecified => Err(InvalidField::new("leases.status", "it is missing")),
            v1::LeaseStatus::Held => Ok(Self::Held),
            v1::LeaseStatus::Lost => Ok(Self::Lost),
            v1::LeaseStatus::Settled => Ok(Self::Settled),
            v1::LeaseStatus::Returned => Ok(Self::Returned),
            v1::LeaseStatus::InIntent => Ok(Self::InIntent),
            v1::LeaseStatus::Gone => Ok(Self::Gone),
        }
    }
}

impl From<LeaseAnswer> for v1::LeaseAnswer {
    fn from(answer: LeaseAnswer) -> Self {
        let refused = |(index, reason): (u32, RefusalReason)| v1::RefusedIntent {
            index,
            reason: v1::RefusalReason::from(reason).into(),
        };
        Self {
            batch_id: answer.batch.to_string(),
            status: v1::LeaseStatus::from(answer.status).into(),
            granted: answer.granted,
            refused: answer.refused.into_iter().map(refused).collect(),
            ttl_ms: answer.ttl_ms,
            due_in_ms: answer.due_in_ms,
        }
    }
}

impl TryFrom<v1::LeaseAnswer> for LeaseAnswer {
    type Error = InvalidField;
    fn try_from(wire: v1::LeaseAnswer) -> Result<Self, InvalidField> {
        let status = wire.status().try_into()?;
        let refused = |wire: v1::RefusedIntent| Ok((wire.index, wire.reason().try_into()?));
        Ok(Self {
            batch: wire.batch_id.parse().map_err(at("leases.batch_id"))?,
            status,
            granted: wire.granted,
            refused: wire.refused.into_iter().map(refused).collect::<Result<_, InvalidField>>()?,
            ttl_ms: wire.ttl_ms,
            due_in_ms: wire.due_in_ms,
        })
    }
}

impl From<RecipientState> for v1::RecipientState {
    fn from(state: RecipientState) -> Self {
        match state {
            RecipientState::Pending => Self::Pending,
            RecipientState::Intent => Self::Intent,
            RecipientState::Deferred => Self::Deferred,
            RecipientState::Accepted => Self::Accepted,
            RecipientState::Rejected => Self::Rejected,
            RecipientState::Exhausted => Self::Exhausted,
            RecipientState::Suppressed => Self::Suppressed,
            RecipientState::Cancelled => Self::Cancelled,
            RecipientState::Unknown => Self::Unknown,
        }
    }
}

impl TryFrom<v1::RecipientState> for RecipientState {
    type Error = InvalidField;
    fn try_from(wire: v1::RecipientState) -> Result<Self, InvalidField> {
        match wire {
            v1::RecipientState::Unspecified => Err(InvalidField::new("state", "it is missing")),
            v1::RecipientState::Pending => Ok(Self::Pending),
            v1::RecipientState::Intent => Ok(Self::Intent),
            v1::RecipientState::Deferred => Ok(Self::Deferred),
            v1::RecipientState::Accepted => Ok(Self::Accepted),
            v1::RecipientState::Rejected => Ok(Self::Rejected),
            v1::RecipientState::Exhausted => Ok(Self::Exhausted),
            v1::RecipientState::Suppressed => Ok(Self::Suppressed),
            v1::RecipientState::Cancelled => Ok(Self::Cancelled),
            v1::RecipientState::Unknown => Ok(Self::Unknown),
        }
    }
}

impl From<Lease> for v1::Lease {
    fn from(lease: Lease) -> Self {
        let progress = |p: Progress| v1::RecipientProgress {
            state: v1::RecipientState::from(p.state).into(),
            attempts: p.attempts,
            not_before_ms: p.not_before_ms,
        };
        Self {
            batch_id: lease.batch.to_string(),
            fence: lease.fence.to_string(),
            run_id: lease.run.to_string(),
            campaign: lease.campaign,
            lane: lease.lane.to_string(),
            site: lease.site.to_string(),
            definition: lease.definition.to_string(),
            ttl_ms: lease.ttl_ms,
            hard_cap_ms: lease.hard_cap_ms,
            window: lease.window,
            payload: lease.payload.into(),
            recipients: lease.recipients.into_iter().map(progress).collect(),
        }
    }
}

impl TryFrom<v1::Lease> for Lease {
    type Error = InvalidField;
    fn try_from(wire: v1::Lease) -> Result<Self, InvalidField> {
        let (batch, fence) = batch_and_fence(&wire.batch_id, &wire.fence)?;
        let progress = |p: v1::RecipientProgress| {
            Ok(Progress { state: p.state().try_into()?, attempts: p.attempts, not_before_ms: p.not_before_ms })
        };
        Ok(Self {
            batch,
            fence,
            run: wire.run_id.parse().map_err(at("leases.run_id"))?,
            campaign: wire.campaign,
            lane: wire.lane.parse().map_err(at("leases.lane"))?,
            site: wire.site.parse().map_err(at("leases.site"))?,
            definition: wire.definition.parse().map_err(at("leases.definition"))?,
            ttl_ms: wire.ttl_ms,
            hard_cap_ms: wire.hard_cap_ms,
            window: wire.window.max(1),
            payload: wire.payload.into(),
            recipients: wire.recipients.into_iter().map(progress).collect::<Result<_, InvalidField>>()?,
        })
    }
}

impl From<MessageSpec> for v1::MessageDefinition {
    fn from(spec: MessageSpec) -> Self {
        Self {
            from: spec.from,
            reply_to: spec.reply_to,
            return_path: spec.return_path,
            subject: spec.subject,
            html: spec.html,
            text: spec.text,
            headers: spec.headers,
            tags: spec.tags,
            campaign: spec.campaign,
            correlation_id: spec.correlation_id,
        }
    }
}

impl From<v1::MessageDefinition> for MessageSpec {
    fn from(wire: v1::MessageDefinition) -> Self {
        Self {
            from: wire.from,
            reply_to: wire.reply_to,
            return_path: wire.return_path,
            subject: wire.subject,
            html: wire.html,
            text: wire.text,
            headers: wire.headers,
            tags: wire.tags,
            campaign: wire.campaign,
            correlation_id: wire.correlation_id,
        }
    }
}

impl TryFrom<v1::AudienceSource> for Audience {
    type Error = InvalidField;
    fn try_from(wire: v1::AudienceSource) -> Result<Self, InvalidField> {
        let format = wire.format();
        if wire.address_field.is_empty() {
            return Err(InvalidField::new("audience.address", "it is missing: name the column that holds the address"));
        }
        let source = if wire.audience_id.is_empty() {
            if wire.inline.len() > INLINE_ROWS_MAX {
                return Err(InvalidField::new(
                    "audience.inline",
                    format!("at most {INLINE_ROWS_MAX} rows (inline_rows_max); upload a larger audience"),
                ));
            }
            Source::Inline { rows: wire.inline }
        } else {
            let format = match format {
                v1::AudienceFormat::Unspecified => return Err(InvalidField::new("audience.format", "it is missing")),
                v1::AudienceFormat::Csv => AudienceFormat::Csv,
                v1::AudienceFormat::Ndjson => AudienceFormat::Ndjson,
            };
            let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
            if wire.audience_id.len() != 64 || !wire.audience_id.bytes().all(hex) {
                return Err(InvalidField::new("audience.audience_id", "it is not an id that UploadAudience answered"));
            }
            Source::Stored { sha256: wire.audience_id, format }
        };
        Ok(Self {
            source,
            address_field: wire.address_field,
            key_field: Some(wire.key_field).filter(|k| !k.is_empty()),
        })
    }
}

impl From<Audience> for v1::AudienceSource {
    fn from(audience: Audience) -> Self {
        let (audience_id, format, inline) = match audience.source {
            Source::Stored { sha256, format: AudienceFormat::Csv } => (sha256, v1::AudienceFormat::Csv, Vec::new()),
            Source::Stored { sha256, format: AudienceFormat::Ndjson } => {
                (sha256, v1::AudienceFormat::Ndjson, Vec::new())
            }
            Source::Inline { rows } => (String::new(), v1::AudienceFormat::Unspecified, rows),
        };
        Self {
            audience_id,
            format: format.into(),
            address_field: audience.address_field,
            key_field: audience.key_field.unwrap_or_default(),
            inline,
        }
    }
}

impl TryFrom<v1::Campaign> for Campaign {
    type Error = InvalidField;
    fn try_from(wire: v1::Campaign) -> Result<Self, InvalidField> {
        let on_unknown = match wire.on_unknown() {
            v1::OnUnknown::Unspecified | v1::OnUnknown::Resend => OnUnknown::Resend,
            v1::OnUnknown::Hold => OnUnknown::Hold,
        };
        let on_bad_row = match wire.on_bad_row() {
            v1::OnBadRow::Unspecified | v1::OnBadRow::Skip => OnBadRow::Skip,
            v1::OnBadRow::Fail => OnBadRow::Fail,
        };
        let lane = if wire.lane.is_empty() { LaneName::bulk() } else { wire.lane.parse().map_err(at("lane"))? };
        let message = wire.message.ok_or_else(|| InvalidField::new("template", "it is missing"))?;
        Ok(Self {
            name: wire.name.parse().map_err(at("name"))?,
            lane,
            on_unknown,
            on_bad_row,
            schedule: wire.schedule.map(|s| Schedule { cron: s.cron, time_zone: s.time_zone }),
            audience: wire.audience.map(Audience::try_from).transpose()?,
            message: message.into(),
            notify_url: wire.notify_url,
        })
    }
}

impl From<Campaign> for v1::Campaign {
    fn from(campaign: Campaign) -> Self {
        let on_unknown = match campaign.on_unknown {
            OnUnknown::Resend => v1::OnUnknown::Resend,
            OnUnknown::Hold => v1::OnUnknown::Hold,
        };
        let on_bad_row = match campaign.on_bad_row {
            OnBadRow::Skip => v1::OnBadRow::Skip,
            OnBadRow::Fail => v1::OnBadRow::Fail,
        };
        Self {
            name: campaign.name.to_string(),
            lane: campaign.lane.to_string(),
            on_unknown: on_unknown.into(),
            schedule: campaign.schedule.map(|s| v1::Schedule { cron: s.cron, time_zone: s.time_zone }),
            audience: campaign.audience.map(Into::into),
            message: Some(campaign.message.into()),
            notify_url: campaign.notify_url,
            on_bad_row: on_bad_row.into(),
        }
    }
}

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
