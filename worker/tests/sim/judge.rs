//! The rules: after every step, and at the end.

use super::{WINDOW, World};
use postrider_common::ids::{BatchId, Fence};
use postrider_common::state::RecipientState;
use postrider_store::api::{BatchRecord, BatchState};

impl World {
    fn batch(&self, id: &BatchId) -> BatchRecord {
        let found = self.model.batches(&id.run, id.sequence - 1, 1).into_iter().next();
        found.unwrap_or_else(|| self.fail("a batch is not in the store"))
    }

    /// A final dot is written only for a recipient in intent under the newest lease of its batch.
    pub fn check_final_dot(&self, batch: &BatchId, fence: &Fence, index: u32) {
        if self.fences.get(batch) != Some(fence) {
            self.fail("a final dot under an old fence");
        }
        let record = self.batch(batch);
        let delivery = &record.recipients[index as usize];
        // A late fact about an earlier transmission overrides an intent; this one is a marked second.
        let is_overridden = delivery.state == RecipientState::Accepted && delivery.reason.is_some();
        if record.state != BatchState::Leased || !(delivery.state == RecipientState::Intent || is_overridden) {
            self.fail(&format!("a final dot without an intent: {:?} {delivery:?}", record.state));
        }
    }

    /// Recipients in intent stay within the window of each batch and the slots of the worker.
    pub fn check_in_intent(&self, worker: usize) {
        if self.workers[worker].is_gone() {
            return;
        }
        let mut all = 0;
        for (batch, fence) in self.workers[worker].holds() {
            if self.fences.get(batch) != Some(fence) {
                continue;
            }
            let record = self.batch(batch);
            let count = record.recipients.iter().filter(|delivery| delivery.state == RecipientState::Intent).count();
            if count > WINDOW as usize {
                self.fail("more in intent than the window");
            }
            all += count;
        }
        if all > self.workers[worker].slots as usize {
            self.fail(&format!("{all} in intent, {} slots", self.workers[worker].slots));
        }
    }

    pub fn check_worker(&self, worker: usize) {
        if self.workers[worker].sends() > self.workers[worker].slots as usize {
            self.fail("more sends than slots");
        }
    }

    /// Everybody has one final state; what was sent twice says why; nothing is left leased.
    pub fn judge(&self) {
        for run in &self.runs {
            let record = self.model.run(run).unwrap_or_else(|| self.fail("a run is gone"));
            if record.batches.leased > 0 {
                self.fail("batches are leased after every worker has drained");
            }
            if record.recipients.pending > 0 {
                self.fail("recipients are pending at the end");
            }
            for batch in self.model.batches(run, 0, 1000) {
                for (index, delivery) in (0u32..).zip(&batch.recipients) {
                    let sent = self.ledger.get(&(batch.id.clone(), index)).copied().unwrap_or_default();
                    let who = format!("{} {index}: sent {sent} times, {delivery:?}", batch.id);
                    if !delivery.state.is_final() {
                        self.fail(&format!("not final: {who}"));
                    }
                    if delivery.state == RecipientState::Accepted && sent == 0 {
                        self.fail(&format!("accepted and never sent: {who}"));
                    }
                    let is_marked = delivery.reason.is_some() || delivery.state == RecipientState::Unknown;
                    let bound = u32::from(delivery.state == RecipientState::Accepted);
                    if sent > bound && !is_marked {
                        self.fail(&format!("sent again without a reason: {who}"));
                    }
                }
            }
        }
    }
}
