//! What became of transactions of leases that are no longer held: kept until a master answered.

use super::event::LeaseKey;
use postrider_common::ids::{BatchId, Fence, LaneName};
use postrider_common::lease::{Fact, FactStatus, Outcome};
use postrider_common::limits::FACTS_PER_CALL_MAX;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Facts kept. A lease lost with everything in flight leaves at most its window; this is hundreds of them.
/// A fact that is dropped costs what a crash would: the recipient stays in doubt.
const FACTS_KEPT_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Facts {
    queue: VecDeque<(LeaseKey, Fact)>,
    /// How many, from the front, are in the call under way.
    carried: usize,
    pub(super) dropped: u64,
}

impl Facts {
    /// Whose fact had to be dropped for it, if any.
    pub(super) fn push(
        &mut self,
        lease: LeaseKey,
        batch: &BatchId,
        fence: &Fence,
        outcome: Outcome,
    ) -> Option<(LeaseKey, u32)> {
        let mut dropped = None;
        if self.queue.len() >= FACTS_KEPT_MAX {
            dropped = self.queue.pop_front().map(|(lease, fact)| (lease, fact.outcome.index));
            self.carried = self.carried.saturating_sub(1);
            self.dropped += 1;
        }
        self.queue.push_back((lease, Fact { batch: batch.clone(), fence: fence.clone(), outcome }));
        dropped
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The oldest, as many as a call may carry.
    pub(super) fn carry(&mut self) -> Vec<Fact> {
        let facts: Vec<Fact> = self.queue.iter().take(FACTS_PER_CALL_MAX).map(|(_, fact)| fact.clone()).collect();
        self.carried = facts.len();
        facts
    }

    /// Whose facts were taken, by lease; those that a part of the store did not answer are told again after the others.
    pub(super) fn answered(&mut self, statuses: &[FactStatus]) -> BTreeMap<LeaseKey, Vec<u32>> {
        let mut told: BTreeMap<LeaseKey, Vec<u32>> = BTreeMap::new();
        // When the oldest were dropped meanwhile, the last of the call are still there.
        let carried = self.carried.min(self.queue.len());
        let mut again = Vec::new();
        for (at, (lease, fact)) in self.queue.drain(..carried).enumerate() {
            let status = (at + statuses.len()).checked_sub(carried).and_then(|at| statuses.get(at));
            if status == Some(&FactStatus::Unanswered) {
                again.push((lease, fact));
            } else {
                told.entry(lease).or_default().push(fact.outcome.index);
            }
        }
        self.queue.extend(again);
        self.carried = 0;
        told
    }

    pub(super) fn unanswered(&mut self) {
        self.carried = 0;
    }
}

/// A lease that is over while transactions of it are still open.
#[derive(Debug)]
pub(super) struct Orphan {
    pub(super) batch: BatchId,
    pub(super) fence: Fence,
    pub(super) lane: LaneName,
    pub(super) flying: BTreeSet<u32>,
}
