//! What settled batches leave behind: handed to a writer of history, then replaced by tombstones.
//!
//! A batch with somebody unknown or exhausted is not handed out: its payload is kept for a replay. So of a retired
//! batch nobody can become pending again, because `Entry::fact` leads back to pending only from intent (none, the
//! batch settled), and from deferred and unknown with a standing doubt (none of either in it). The one change left
//! is a fact `accepted` for somebody rejected, suppressed or cancelled, which asks for nothing but the state: these
//! have no standing doubt and are not in intent, so attempts and reason stay what the segment says.

use super::Model;
use super::batch::{Batch, Place};
use super::look::batch_record;
use super::recipient::Entry;
use crate::api::{ClaimHistory, ClaimedHistory, RetireBatches, SettledBatch};
use postrider_common::ids::BatchId;
use postrider_common::sabotage::{Fault, planted};
use postrider_common::state::RecipientState;

impl Batch {
    /// Settled, and nobody in it may be replayed.
    pub(super) fn may_retire(&self) -> bool {
        let kept = |entry: &Entry| matches!(entry.state, RecipientState::Unknown | RecipientState::Exhausted);
        self.place == Place::Settled && !self.entries.iter().any(kept)
    }

    /// Forgets all but states and fences.
    fn retire(&mut self, segment: String) {
        for entry in &mut self.entries {
            *entry = Entry { state: entry.state, ..Entry::new() };
        }
        self.payload = Vec::new();
        self.stamp = None;
        self.segments.push(segment);
    }
}

impl Model {
    /// Puts a batch last among those to retire, or takes it out.
    pub(super) fn stamp(&mut self, id: &BatchId) {
        let Some(batch) = self.batches.get_mut(id) else { return };
        if let Some(before) = batch.stamp.take() {
            self.to_retire.remove(&before);
        }
        if batch.may_retire() {
            self.stamp_counter += 1;
            batch.stamp = Some(self.stamp_counter);
            self.to_retire.insert(self.stamp_counter, id.clone());
        }
    }

    pub(super) fn backlog(&self) -> u64 {
        self.to_retire.len() as u64
    }

    pub fn claim_history(&mut self, now: i64, claim: ClaimHistory) -> ClaimedHistory {
        let backlog = self.backlog();
        let held = |(request, until): &(_, i64)| *request != claim.request && *until > now;
        if backlog == 0 || claim.limit == 0 || self.history_hold.as_ref().is_some_and(held) {
            return ClaimedHistory { backlog, batches: Vec::new() };
        }
        self.history_hold = Some((claim.request, now.saturating_add_unsigned(claim.ttl_ms)));
        let settled = |(stamp, id): (&u64, &BatchId)| {
            let record = batch_record(id, self.batches.get(id)?);
            Some(SettledBatch { stamp: *stamp, record })
        };
        ClaimedHistory { backlog, batches: self.to_retire.iter().filter_map(settled).take(claim.limit).collect() }
    }

    pub fn retire_batches(&mut self, _now: i64, retire: RetireBatches) -> u64 {
        // Whoever has nothing to retire has not come to an end with what it claimed.
        if retire.batches.is_empty() {
            return 0;
        }
        if self.history_hold.as_ref().is_some_and(|(request, _)| *request == retire.request) {
            self.history_hold = None;
        }
        // What was lost may have given out the same stamps for other contents.
        let is_met = self.lineage.is_met();
        let mut retired = 0;
        for (id, stamp) in retire.batches {
            let Some(batch) = self.batches.get_mut(&id) else { continue };
            if (batch.stamp == Some(stamp) && is_met) || (batch.stamp.is_some() && planted(Fault::RetireWithoutStamp)) {
                self.to_retire.remove(&stamp);
                batch.retire(retire.segment.clone());
            }
            retired += u64::from(batch.segments.last() == Some(&retire.segment));
        }
        retired
    }
}
