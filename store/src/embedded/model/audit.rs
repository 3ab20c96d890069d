//! Counts everything anew and compares: what must hold between any two calls. For tests.

use super::batch::Place;
use super::turns::Turn;
use super::{Model, Run};
use crate::api::RunRecord;
use postrider_common::ids::{BatchId, DeadId, RunId};
use postrider_common::run::{BatchCounts, RecipientCounts};
use postrider_common::state::{RecipientState, UnknownReason};
use std::collections::BTreeMap;

/// One recipient as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub state: RecipientState,
    pub reason: Option<UnknownReason>,
    pub attempts: u32,
    /// Counter of the fence of its latest intent; 0: none.
    pub intent: u64,
    /// Its history is in a segment: reason and attempts are there.
    pub is_retired: bool,
}

impl Model {
    /// Every run: its batches are each in one place, its counters are what there is. The first thing that is wrong.
    /// `see` is shown every batch: fence of its lease, recipients by index.
    pub fn audit(&self, mut see: impl FnMut(&BatchId, Option<u64>, &[Standing])) -> Result<(), String> {
        let mut places = [0; 2];
        let mut standings = Vec::new();
        let mut recipients: BTreeMap<&RunId, (RecipientCounts, BatchCounts)> = BTreeMap::new();
        for (id, batch) in &self.batches {
            let Some(run) = self.runs.get(&id.run) else { return Err(format!("{id}: its run is missing")) };
            let (people, batches) = recipients.entry(&id.run).or_default();
            self.audit_place(id, run, &mut places, batches)?;
            let (retired, fence) = (!batch.segments.is_empty(), batch.hold().map(|hold| hold.fence.counter));
            if retired != batch.payload.is_empty() {
                return Err(format!("{id}: its payload is {} bytes and retired is {retired}", batch.payload.len()));
            }
            if batch.stamp.is_some_and(|stamp| self.to_retire.get(&stamp) != Some(id)) {
                return Err(format!("{id}: its stamp is not among those to retire"));
            }
            standings.clear();
            for (index, entry) in (0u32..).zip(&batch.entries) {
                if entry.state == RecipientState::Intent && fence != Some(entry.intent) {
                    return Err(format!("{id} {index}: in intent of {} and leased by {fence:?}", entry.intent));
                }
                count(people, entry.state);
                let (state, reason) = (entry.state, entry.reason);
                let (attempts, intent) = (entry.attempts, entry.intent);
                standings.push(Standing { state, reason, attempts, intent, is_retired: retired });
            }
            see(id, fence, &standings);
        }
        if places != [self.delayed.len(), self.leased.len()] {
            return Err(format!("{places:?} batches are delayed and leased, the indexes say otherwise"));
        }
        if let Some((stamp, id)) = self.to_retire.iter().find(|(stamp, id)| !self.is_stamped(id, **stamp)) {
            return Err(format!("{id}: waits for history with stamp {stamp}, which is not its own"));
        }
        for (id, run) in &self.runs {
            let (people, batches) = recipients.remove(id).unwrap_or_default();
            if (run.recipients, run.batches) != (people, batches) {
                let (said, is) = ((run.recipients, run.batches), (people, batches));
                return Err(format!("{id}: its counters say {said:?}, there is {is:?}"));
            }
        }
        Ok(())
    }

    fn is_stamped(&self, id: &BatchId, stamp: u64) -> bool {
        self.batches.get(id).is_some_and(|batch| batch.stamp == Some(stamp))
    }

    fn audit_place(
        &self,
        id: &BatchId,
        run: &Run,
        places: &mut [usize; 2],
        count: &mut BatchCounts,
    ) -> Result<(), String> {
        let Some(batch) = self.batches.get(id) else { return Ok(()) };
        let lane = run.frozen.lane.clone();
        let turn = Turn { lane, site: batch.site.clone(), run: id.run.clone(), sequence: id.sequence };
        let is_ready = self.turns.has(&turn);
        let (should_be_ready, is_indexed) = match &batch.place {
            Place::Ready => {
                count.ready += 1;
                (true, true)
            }
            Place::Leased(hold) => {
                count.leased += 1;
                places[1] += 1;
                (false, self.leased.contains(&(hold.expires_at, id.clone())))
            }
            Place::Delayed(due) => {
                count.delayed += 1;
                places[0] += 1;
                (false, self.delayed.contains(&(*due, id.clone())))
            }
            Place::Dead => {
                count.dead += 1;
                (false, self.dead.contains_key(&DeadId { batch: id.clone(), index: None }))
            }
            Place::Settled => {
                count.settled += 1;
                (false, true)
            }
        };
        if is_ready != should_be_ready || !is_indexed {
            return Err(format!("{id}: is {:?}, among the ready {is_ready}, indexed {is_indexed}", batch.place));
        }
        Ok(())
    }

    /// Every run there is, oldest first.
    pub fn all_runs(&self) -> impl Iterator<Item = RunRecord> {
        self.runs_by_age.iter().filter_map(|(_, id)| self.run(id))
    }

    /// Nothing is leased or waits for a retry, and all history is written.
    pub fn is_at_rest(&self) -> bool {
        self.leased.is_empty() && self.delayed.is_empty() && self.backlog() == 0
    }

    /// Something is left to be done: the counters of a run that has not ended.
    pub fn is_unsettled(&self, id: &RunId) -> bool {
        self.runs.get(id).is_none_or(|run| {
            let is_split = run.split.complete || run.cancelled;
            !is_split || run.recipients.pending > 0 || self.runs_to_cancel.contains(id)
        })
    }
}

fn count(counts: &mut RecipientCounts, state: RecipientState) {
    counts.total += 1;
    *counts.of(state) += 1;
}
