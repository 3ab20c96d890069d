//! Reading: nothing here changes anything.

use super::batch::{Batch, Place};
use super::{Model, Run};
use crate::api::{BatchRecord, BatchState, CampaignRecord, LaneRecord, RunRecord, WorkerRecord};
use postrider_common::ids::{BatchId, CampaignName, DefinitionHash, LaneName, RunId};
use std::collections::BTreeMap;
use std::ops::Bound;

impl Model {
    pub fn campaign(&self, name: &CampaignName) -> Option<CampaignRecord> {
        self.campaigns.get(name).cloned()
    }

    pub fn campaigns(&self, after: Option<&CampaignName>, limit: usize) -> Vec<CampaignRecord> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.campaigns.range((from, Bound::Unbounded)).take(limit).map(|(_, campaign)| campaign.clone()).collect()
    }

    pub fn definition(&self, hash: &DefinitionHash) -> Option<Vec<u8>> {
        self.definitions.get(hash).cloned()
    }

    pub fn run(&self, id: &RunId) -> Option<RunRecord> {
        self.runs.get(id).map(record)
    }

    pub fn runs(&self, before: Option<(i64, RunId)>, limit: usize) -> Vec<RunRecord> {
        let until = before.map_or(Bound::Unbounded, Bound::Excluded);
        let newest_first = self.runs_by_age.range((Bound::Unbounded, until)).rev();
        newest_first.filter_map(|(_, id)| self.run(id)).take(limit).collect()
    }

    pub fn batches(&self, run: &RunId, after: u64, limit: usize) -> Vec<BatchRecord> {
        if !self.runs.contains_key(run) {
            // It is being forgotten.
            return Vec::new();
        }
        let from = BatchId { run: run.clone(), sequence: after };
        let to = BatchId { run: run.clone(), sequence: u64::MAX };
        let range = self.batches.range((Bound::Excluded(from), Bound::Included(to)));
        range.take(limit).map(|(id, batch)| batch_record(id, batch)).collect()
    }

    pub fn workers(&self) -> Vec<WorkerRecord> {
        let mut held: BTreeMap<_, (u32, u32)> = BTreeMap::new();
        for (_, id) in &self.leased {
            if let Some((batch, hold)) = self.batches.get(id).and_then(|batch| Some((batch, batch.hold()?))) {
                let (leases, in_intent) = held.entry(&hold.worker).or_default();
                *leases += 1;
                *in_intent += batch.in_intent() as u32;
            }
        }
        let record = |(id, seen): (&_, &super::Seen)| {
            let (leases, in_intent) = held.get(id).copied().unwrap_or_default();
            WorkerRecord {
                id: Clone::clone(id),
                seen_at_ms: seen.at_ms,
                slots: seen.slots,
                leases,
                in_intent,
                draining: seen.draining,
            }
        };
        self.workers.iter().map(record).collect()
    }

    pub fn lanes(&self, lanes: &[LaneName]) -> Vec<LaneRecord> {
        let record = |name: &LaneName| LaneRecord {
            name: name.clone(),
            paused: self.turns.is_paused(name),
            batches_ready: self.turns.ready(name),
            in_intent_limited: self.meters.in_intent(name),
        };
        lanes.iter().map(record).collect()
    }
}

fn record(run: &Run) -> RunRecord {
    RunRecord {
        id: run.frozen.id.clone(),
        campaign: run.frozen.campaign.clone(),
        lane: run.frozen.lane.clone(),
        on_unknown: run.frozen.on_unknown,
        retry: run.frozen.retry,
        definition: run.frozen.definition.clone(),
        sender_domain: run.frozen.sender_domain.clone(),
        audience: run.frozen.audience.clone(),
        nominal_at_ms: run.nominal_at_ms,
        created_at_ms: run.created_at_ms,
        started_at_ms: run.started_at_ms,
        settled_at_ms: run.settled_at_ms.filter(|_| run.recipients.pending == 0),
        paused: run.paused,
        cancelled: run.cancelled,
        error: run.error.clone(),
        split_complete: run.split.complete,
        sequence_max: run.sequence_max,
        bad_rows: run.bad_rows,
        repeated_rows: run.repeated_rows,
        recipients: run.recipients,
        batches: run.batches,
        resent_reply_lost: run.resent_reply_lost,
        resent_outcome_not_recorded: run.resent_outcome_not_recorded,
        leases_expired: run.leases_expired,
        leases_taken_over: run.leases_taken_over,
        generation: run.generation,
    }
}

pub(super) fn batch_record(id: &BatchId, batch: &Batch) -> BatchRecord {
    let state = match batch.place {
        Place::Ready => BatchState::Ready,
        Place::Leased(_) => BatchState::Leased,
        Place::Delayed(_) => BatchState::Delayed,
        Place::Dead => BatchState::Dead,
        Place::Settled => BatchState::Settled,
    };
    BatchRecord {
        id: id.clone(),
        site: batch.site.clone(),
        state,
        payload: batch.payload.clone(),
        recipients: batch.entries.iter().map(super::recipient::Entry::delivery).collect(),
        segments: batch.segments.clone(),
        erased: batch.erased.iter().copied().collect(),
    }
}
