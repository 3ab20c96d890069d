//! Converting what a cancelled run still has waiting.

use super::Model;
use super::batch::Place;
use crate::api::CancelledBatches;
use postrider_common::ids::{BatchId, RunId};

impl Model {
    pub fn cancel_batches(&mut self, now: i64, (id, after, limit): (RunId, u64, usize)) -> CancelledBatches {
        let nothing = CancelledBatches { recipients: 0, next: None };
        let Some(run) = self.runs.get(&id).filter(|run| run.cancelled) else { return nothing };
        let (before, last) = (run.recipients.pending, run.sequence_max);
        let until = last.min(after.saturating_add(limit as u64));
        for sequence in after + 1..=until {
            let batch_id = BatchId { run: id.clone(), sequence };
            let waits = match self.batches.get(&batch_id).map(|batch| &batch.place) {
                Some(Place::Ready | Place::Delayed(_) | Place::Dead) => true,
                Some(Place::Leased(_) | Place::Settled) | None => false,
            };
            if waits {
                self.lineage.grow();
                self.suspect(now, &batch_id);
                self.put_back(now, &batch_id);
            }
        }
        if until == last {
            self.runs_to_cancel.remove(&id);
        }
        let pending = self.runs.get(&id).map_or(before, |run| run.recipients.pending);
        CancelledBatches { recipients: before - pending, next: (until < last).then_some(until) }
    }

    pub fn runs_to_cancel(&self, limit: usize) -> Vec<RunId> {
        self.runs_to_cancel.iter().take(limit).cloned().collect()
    }
}
