//! Leasing: due batches become ready, and the worker gets those whose turn it is.

use super::batch::{Batch, Hold, Place};
use super::pace::Rooms;
use super::{Model, Seen, WORKER_FORGET_MS};
use crate::api::{Claim, Claimed, ClaimedBatch};
use postrider_common::ids::{BatchId, Fence, RequestId, WorkerId};
use postrider_common::limits::HISTORY_BACKLOG_BATCHES_MAX;
use postrider_common::sabotage::{Fault, planted};
use std::collections::BTreeSet;

/// Due batches that one claim makes ready: bounds one call.
const PROMOTE_MAX: usize = 100;
/// Sites whose time without room is over that one call gives their turn back.
pub(super) const UNPARK_MAX: usize = 100;

impl Model {
    pub fn claim(&mut self, now: i64, claim: Claim) -> Claimed {
        self.forget_workers(now);
        let draining = self.see_worker(now, &claim);
        if self.lineage.is_stopped(now) {
            return Claimed { leases: Vec::new(), drain: draining };
        }
        if let Some(again) = self.same_claim(now, &claim.worker, &claim.request) {
            return Claimed { leases: again, drain: draining };
        }
        if draining {
            return Claimed { leases: Vec::new(), drain: true };
        }
        self.promote(now);
        if self.backlog() >= HISTORY_BACKLOG_BATCHES_MAX {
            return Claimed { leases: Vec::new(), drain: false };
        }
        if !claim.limits.is_empty() {
            self.turns.unpark(now, UNPARK_MAX);
            self.meters.touch(now, &claim.limits);
        }
        let mut rooms = Rooms::of(&self.meters, now, &claim.limits);
        let mut taken: Vec<(BatchId, Fence)> = Vec::new();
        while taken.len() < claim.batches_max as usize {
            let batches = &self.batches;
            let count = |run: &_, sequence| {
                let id = BatchId { run: Clone::clone(run), sequence };
                batches.get(&id).map_or(0, |batch| batch.entries.len() as u32)
            };
            let Some(turn) = self.turns.take(&claim.lanes, &mut rooms, count) else { break };
            let id = BatchId { run: turn.run, sequence: turn.sequence };
            taken.push(self.lease(now, &claim, id));
        }
        if !taken.is_empty() {
            self.lineage.grow();
        }
        if !taken.is_empty()
            && let Some(seen) = self.workers.get_mut(&claim.worker)
        {
            seen.last_claim = Some((claim.request, taken.clone()));
        }
        let leases = taken.iter().filter_map(|(id, fence)| self.claimed(now, id, fence)).collect();
        Claimed { leases, drain: false }
    }

    fn see_worker(&mut self, now: i64, claim: &Claim) -> bool {
        let new = Seen { at_ms: now, slots: claim.slots, draining: false, last_claim: None };
        let seen = self.workers.entry(claim.worker.clone()).or_insert(new);
        seen.at_ms = now;
        seen.slots = claim.slots;
        seen.draining
    }

    /// The leases of the worker's last claim, if this is a repeat of it.
    fn same_claim(&self, now: i64, worker: &WorkerId, request: &RequestId) -> Option<Vec<ClaimedBatch>> {
        let (last, taken) = self.workers.get(worker)?.last_claim.as_ref()?;
        (last == request && !planted(Fault::RepeatedClaimLeases))
            .then(|| taken.iter().filter_map(|(id, fence)| self.claimed(now, id, fence)).collect())
    }

    fn promote(&mut self, now: i64) {
        for _ in 0..if planted(Fault::DelayedNeverDue) { 0 } else { PROMOTE_MAX } {
            let Some((_, id)) = self.delayed.first().filter(|(due, _)| *due <= now).cloned() else { break };
            self.place(now, &id, Place::Ready);
        }
    }

    fn lease(&mut self, now: i64, claim: &Claim, id: BatchId) -> (BatchId, Fence) {
        let fence = self.next_fence(claim.nonce);
        if let (Some(batch), Some(run)) = (self.batches.get_mut(&id), self.runs.get_mut(&id.run))
            && std::mem::take(&mut batch.expired)
        {
            run.leases_taken_over += 1;
        }
        let hard_at = now.saturating_add_unsigned(claim.hard_cap_ms);
        let hold = Hold {
            fence: fence.clone(),
            worker: claim.worker.clone(),
            expires_at: now.saturating_add_unsigned(claim.ttl_ms).min(hard_at),
            hard_at,
            progress_at: now,
            progress: 0,
            sequence: 0,
            counted: 0,
            had_outcome: false,
            fallen: BTreeSet::new(),
        };
        self.place(now, &id, Place::Leased(hold));
        (id, fence)
    }

    /// What a worker is told about a lease it holds with this fence.
    fn claimed(&self, now: i64, id: &BatchId, fence: &Fence) -> Option<ClaimedBatch> {
        let batch: &Batch = self.batches.get(id)?;
        let run = self.runs.get(&id.run)?;
        let hold = batch.hold().filter(|hold| hold.fence == *fence)?;
        Some(ClaimedBatch {
            batch: id.clone(),
            fence: fence.clone(),
            campaign: run.frozen.campaign.clone(),
            lane: run.frozen.lane.clone(),
            site: batch.site.clone(),
            definition: run.frozen.definition.clone(),
            ttl_ms: u64::try_from(hold.expires_at - now).unwrap_or(0),
            hard_cap_ms: u64::try_from(hold.hard_at - now).unwrap_or(0),
            payload: batch.payload.clone(),
            recipients: batch.entries.iter().map(|entry| entry.progress(now)).collect(),
            only: batch.suspicion.only,
            unchecked: (!self.is_checked(id) && !planted(Fault::SuppressedClaimed)).then_some(self.suppressions.number),
        })
    }

    fn forget_workers(&mut self, now: i64) {
        self.workers.retain(|_, seen| now - seen.at_ms < WORKER_FORGET_MS);
    }

    pub fn drain_worker(&mut self, _now: i64, name_or_instance: String) -> usize {
        let mut count = 0;
        for (id, seen) in &mut self.workers {
            if id.name == name_or_instance || id.instance.to_string() == name_or_instance {
                seen.draining = true;
                count += 1;
            }
        }
        if count > 0 {
            self.lineage.grow();
        }
        count
    }
}
