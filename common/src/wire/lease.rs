//! The lease protocol.

use super::{InvalidField, at, printable};
use crate::ids::{BatchId, Fence};
use crate::lease::{
    Fact, FactStatus, IndexRange, Lease, LeaseAnswer, LeaseReport, LeaseStatus, Outcome, OutcomeKind, Progress,
    RefusalReason,
};
use crate::limits::{BATCH_RECIPIENTS_MAX, CODE_BYTES_MAX, DETAIL_BYTES_MAX, RETRY_AFTER_MS_MAX};
use crate::state::RecipientState;
use postrider_proto::v1;

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
            FactStatus::Unanswered => Self::Unanswered,
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
            v1::FactStatus::Unanswered => Ok(Self::Unanswered),
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
            // The master looks at the batch before it answers. What it could not look at is asked for again.
            RefusalReason::Repeated | RefusalReason::Unchecked => Self::Repeated,
            RefusalReason::Outside => Self::Outside,
            RefusalReason::Throttled { retry_in_ms: _ } => Self::Throttled,
        }
    }
}

impl TryFrom<v1::RefusedIntent> for RefusalReason {
    type Error = InvalidField;
    fn try_from(wire: v1::RefusedIntent) -> Result<Self, InvalidField> {
        match wire.reason() {
            v1::RefusalReason::Unspecified => Err(InvalidField::new("refused.reason", "it is missing")),
            v1::RefusalReason::Settled => Ok(Self::Settled),
            v1::RefusalReason::NotDue => Ok(Self::NotDue),
            v1::RefusalReason::Window => Ok(Self::Window),
            v1::RefusalReason::Paused => Ok(Self::Paused),
            v1::RefusalReason::Cancelled => Ok(Self::Cancelled),
            v1::RefusalReason::HardCap => Ok(Self::HardCap),
            v1::RefusalReason::Repeated => Ok(Self::Repeated),
            v1::RefusalReason::Outside => Ok(Self::Outside),
            v1::RefusalReason::Throttled => Ok(Self::Throttled { retry_in_ms: wire.retry_in_ms }),
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
            LeaseStatus::Unanswered => Self::Unanswered,
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
            v1::LeaseStatus::Unanswered => Ok(Self::Unanswered),
        }
    }
}

impl From<LeaseAnswer> for v1::LeaseAnswer {
    fn from(answer: LeaseAnswer) -> Self {
        let refused = |(index, reason): (u32, RefusalReason)| v1::RefusedIntent {
            index,
            reason: v1::RefusalReason::from(reason).into(),
            retry_in_ms: match reason {
                RefusalReason::Throttled { retry_in_ms } => retry_in_ms,
                RefusalReason::Settled
                | RefusalReason::NotDue
                | RefusalReason::Window
                | RefusalReason::Paused
                | RefusalReason::Cancelled
                | RefusalReason::HardCap
                | RefusalReason::Repeated
                | RefusalReason::Outside
                | RefusalReason::Unchecked => 0,
            },
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
        let refused = |wire: v1::RefusedIntent| Ok((wire.index, wire.try_into()?));
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
            only: lease.only.map(|only| v1::IndexRange { first: only.first, last: only.last }),
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
            only: wire.only.map(|only| IndexRange { first: only.first, last: only.last }),
        })
    }
}
