//! Taking back leases that expired, unless service was away.

use super::Model;
use super::claim::UNPARK_MAX;
use crate::api::{Reclaim, Reclaimed};
use postrider_common::ids::BatchId;
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
            self.suspect(now, &id);
            self.lineage.grow();
            reclaimed.doubts += match () {
                () if planted(Fault::ExpiryIsDone) => self.end_intents(now, &id, RecipientState::Accepted),
                () if planted(Fault::ReclaimWithoutDoubt) => self.end_intents(now, &id, RecipientState::Pending),
                () => self.doubt_intents(now, &id, reclaim.doubt_grace_ms),
            };
            if let (Some(batch), Some(run)) = (self.batches.get_mut(&id), self.runs.get_mut(&id.run)) {
                batch.expired = true;
                run.leases_expired += 1;
            }
            self.put_back(now, &id);
            reclaimed.leases += 1;
        }
        reclaimed
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
