//! Before intents are granted: the store refuses them in a batch that was not looked at since the set changed. It is looked at,
//! and they are asked for again, before the worker is answered.

use super::{Mail, SuppressError, hasher, keys_of, look_up, tell, those_of};
use crate::api::ApiError;
use crate::core::Core;
use crate::lease::Definitions;
use postrider_common::WorkerId;
use postrider_common::ids::{BatchId, Fence};
use postrider_common::lease::{LeaseAnswer, LeaseReport, LeaseStatus, RefusalReason};
use postrider_common::payload;
use postrider_store::Checkpoint;

/// The set may change again meanwhile. After so many times the worker is told to ask again by itself.
const LOOKS_MAX: u32 = 5;

pub async fn checkpoint(
    core: &Core,
    definitions: &Definitions,
    worker: WorkerId,
    reports: Vec<LeaseReport>,
) -> Result<Vec<LeaseAnswer>, ApiError> {
    let head = |report: &LeaseReport| (report.fence.clone(), report.sequence, report.progress);
    let heads: Vec<(Fence, u64, u64)> = reports.iter().map(head).collect();
    let call = |reports| Checkpoint {
        worker: worker.clone(),
        reports,
        ttl_ms: core.lease.ttl_ms(),
        window: core.lease.window,
        retry_fraction: core.retry_fraction(),
        limits: core.limits.clone(),
        grants: None,
    };
    let mut answers = core.gates.checkpoint(core, definitions, call(reports)).await?;
    for _ in 0..LOOKS_MAX {
        let unchecked: Vec<usize> = (0..answers.len()).filter(|at| is_unchecked(&answers[*at])).collect();
        if unchecked.is_empty() {
            break;
        }
        let mut reports = Vec::with_capacity(unchecked.len());
        for at in &unchecked {
            let (batch, (fence, sequence, progress)) = (answers[*at].batch.clone(), heads[*at].clone());
            look(core, &batch, &fence).await?;
            // What else it said is taken. The same sequence: it is the same report.
            let intents = refused_unchecked(&answers[*at]);
            reports.push(LeaseReport { batch, fence, sequence, outcomes: Vec::new(), intents, progress });
        }
        let again = core.gates.checkpoint(core, definitions, call(reports)).await?;
        for (at, answer) in unchecked.into_iter().zip(again) {
            join(&mut answers[at], answer);
        }
    }
    Ok(answers)
}

fn refused_unchecked(answer: &LeaseAnswer) -> Vec<u32> {
    let refused = answer.refused.iter().filter(|(_, reason)| *reason == RefusalReason::Unchecked);
    refused.map(|(index, _)| *index).collect()
}

fn is_unchecked(answer: &LeaseAnswer) -> bool {
    answer.status == LeaseStatus::Held && answer.refused.iter().any(|(_, reason)| *reason == RefusalReason::Unchecked)
}

/// What is said of those that were asked for again takes the place of what was said before.
fn join(answer: &mut LeaseAnswer, again: LeaseAnswer) {
    match again.status {
        LeaseStatus::Held => {
            answer.refused.retain(|(_, reason)| *reason != RefusalReason::Unchecked);
            answer.granted.extend(again.granted);
            answer.refused.extend(again.refused);
            answer.ttl_ms = again.ttl_ms;
        }
        // The part of the store that has it is away: they stay refused, and are asked for again.
        LeaseStatus::Unanswered => {}
        LeaseStatus::Lost
        | LeaseStatus::Settled
        | LeaseStatus::Returned
        | LeaseStatus::InIntent
        | LeaseStatus::Gone => *answer = again,
    }
}

/// Looks at one batch that somebody holds. One that is not held any more, or cannot be read, is left as it is.
async fn look(core: &Core, batch: &BatchId, fence: &Fence) -> Result<(), SuppressError> {
    let after = batch.sequence.saturating_sub(1);
    let record = core.store.batches(&batch.run, after, 1).await?.into_iter().next();
    let Some(record) = record.filter(|record| record.id == *batch) else { return Ok(()) };
    let Some(run) = core.store.run(&batch.run).await? else { return Ok(()) };
    let recipients = match payload::decode(&record.payload) {
        Ok(recipients) => recipients,
        Err(why) => {
            let error = SuppressError::Unreadable { batch: batch.clone(), why };
            tracing::error!(%error, "no intents are granted in a batch that cannot be read");
            return Ok(());
        }
    };
    let hasher = hasher(core).await?;
    let (set, found) = look_up(core, &hasher, keys_of(&hasher, &recipients)).await?;
    let suppressed = those_of(&hasher, &found, &recipients, Mail { lane: &run.lane, campaign: &run.campaign });
    tell(core, batch.clone(), Some(fence.clone()), set.number, suppressed).await?;
    Ok(())
}
