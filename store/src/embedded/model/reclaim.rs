//! Taking back leases that expired, unless service was away.

use super::Model;
use super::batch::Place;
use super::claim::UNPARK_MAX;
use super::poison::Verdict;
use crate::api::{Reclaim, Reclaimed};
use postrider_common::ids::BatchId;
use postrider_common::limits::DOUBTS_MAX;
use postrider_common::sabotage::{Fault, planted};
use postrider_common::state::RecipientState;

impl Model {
    pub fn reclaim(&mut self, now: i64, reclaim: Reclaim) -> Reclaimed {
        let hold_ms = i64::try_from(reclaim.ttl_ms + reclaim.doubt_grace_ms).unwrap_or(i64::MAX);
        let gap_ms = i64::try_from(reclaim.outage_gap_ms).unwrap_or(i64::MAX);
        if !self.lineage.is_met() {
            return Reclaimed { held_ms: reclaim.ttl_ms + reclaim.doubt_grace_ms, ..Reclaimed::default() };
        }
        let away = match self.last_sign_ms {
            Some(last) => now < last || now - last > gap_ms,
            None => !self.leased.is_empty(),
        };
        self.last_sign_ms = Some(now);
        // Claims do it while there are limits; when these are taken away nobody else would.
        self.turns.unpark(now, UNPARK_MAX);
        if away && !planted(Fault::NoHoldAfterOutage) {
            self.hold_until_ms = now.saturating_add(hold_ms);
        }
        if let Some(until) = self.lineage.sign(now, hold_ms) {
            self.hold_until_ms = until;
        }
        if now < self.hold_until_ms {
            let held = self.hold_until_ms - now;
            return Reclaimed { held_ms: u64::try_from(held).unwrap_or(0), ..Reclaimed::default() };
        }
        let mut reclaimed = Reclaimed::default();
        while reclaimed.leases < reclaim.limit {
            let Some((_, id)) = self.leased.first().filter(|(expiry, _)| *expiry <= now).cloned() else { break };
            self.reclaim_one(now, &id, reclaim.doubt_grace_ms, &mut reclaimed);
        }
        reclaimed
    }

    fn reclaim_one(&mut self, now: i64, id: &BatchId, grace_ms: u64, reclaimed: &mut Reclaimed) {
        reclaimed.leases += 1;
        self.lineage.grow();
        self.suspect(now, id);
        let base = self.lineage.base;
        let Some((batch, run)) = self.batches.get_mut(id).zip(self.runs.get_mut(&id.run)) else { return };
        let is_stale = batch.hold().is_some_and(|hold| hold.fence.epoch < base);
        batch.expired = true;
        run.leases_expired += 1;
        let (verdict, doubts_max) = match batch.expiry() {
            Some((ended_at, expired)) if ended_at > self.hold_until_ms && !is_stale && !run.cancelled => {
                (batch.suspicion.expired(&expired), u32::MAX)
            }
            // One that ended during an outage, or in the time after it, or because the store went back, says nothing
            // about the batch.
            Some(_) | None => (Verdict::Nothing, DOUBTS_MAX),
        };
        reclaimed.doubts += match () {
            () if planted(Fault::ExpiryIsDone) => self.end_intents(now, id, RecipientState::Accepted),
            () if planted(Fault::ReclaimWithoutDoubt) => self.end_intents(now, id, RecipientState::Pending),
            () => self.doubt_intents(now, id, grace_ms, doubts_max),
        };
        reclaimed.dead += u32::from(matches!(verdict, Verdict::Recipient(_) | Verdict::Batch));
        match verdict {
            Verdict::Recipient(index) => self.set_aside(now, id, index),
            Verdict::Batch => return self.place(now, id, Place::Dead),
            Verdict::Nothing | Verdict::Strike => (),
        }
        self.put_back(now, id);
    }

    /// What a planted fault does instead of doubting.
    fn end_intents(&mut self, now: i64, id: &BatchId, state: RecipientState) -> u32 {
        let (Some(batch), Some(run)) = (self.batches.get_mut(id), self.runs.get_mut(&id.run)) else { return 0 };
        for entry in batch.entries.iter_mut().filter(|entry| entry.state == RecipientState::Intent) {
            run.count_move(now, entry.state, state);
            entry.state = state;
        }
        0
    }
}
