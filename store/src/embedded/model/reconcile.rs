//! Proving that every batch is in the one place that it says, and that counters are sums; and repair of what is not.
//!
//! As `audit`, but in steps that cost little, and for good: what a process without faults never needs.

use super::batch::{Batch, Place};
use super::turns::Turn;
use super::{Dead, Model, Run};
use crate::api::{Reconcile, Reconciled, Repair, RepairKind};
use postrider_common::ids::{BatchId, DeadId, RunId};
use postrider_common::limits::DOUBTS_MAX;
use postrider_common::run::{BatchCounts, RecipientCounts};
use postrider_common::state::RecipientState;
use serde::{Deserialize, Serialize};
use std::ops::Bound;

/// Runs that one step passes over because they are over and were proved.
const RUNS_PASSED_MAX: usize = 100;
/// One round in so many proves those again as well.
const WHOLE_ROUND_EVERY: u64 = 16;

/// Where the reconciler is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Round {
    at_ms: i64,
    number: u64,
    /// The run it is at, or was at last.
    run: Option<(i64, RunId)>,
    /// Of that run, the last batch that was looked at; None: all of it is.
    after: Option<u64>,
    sums: Sums,
    /// Counters and moves of the run when the first of its batches was looked at.
    start: Option<(Sums, u64)>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Sums {
    recipients: RecipientCounts,
    batches: BatchCounts,
}

impl Run {
    fn counters(&self) -> Sums {
        Sums { recipients: self.recipients, batches: self.batches }
    }

    /// Nothing of it is left to be done.
    fn is_over(&self) -> bool {
        let is_split = self.split.complete || self.cancelled;
        is_split && self.recipients.pending == 0 && self.batches.settled == self.sequence_max
    }
}

impl Batch {
    /// Whether its history, or a correction of it, is to be written.
    fn is_to_stamp(&self) -> bool {
        match self.segments.is_empty() {
            true => self.may_retire(),
            // Nothing but a correction is kept beside the states.
            false => self.entries.iter().any(|entry| entry.settled_at.is_some()),
        }
    }
}

impl Model {
    pub fn reconcile(&mut self, now: i64, reconcile: Reconcile) -> Reconciled {
        let mut done = Reconciled { rounds: self.round.number, ..Reconciled::default() };
        let due = self.round.at_ms.saturating_add_unsigned(reconcile.interval_ms);
        // A clock that went back does not stop it.
        if now >= self.round.at_ms && now < due {
            return done;
        }
        self.round.at_ms = now;
        let Some((created_at, id, after)) = self.place_of_round() else {
            return Reconciled { rounds: self.round.number, ..done };
        };
        let Some(run) = self.runs.get(&id) else {
            // Forgotten meanwhile.
            self.round.after = None;
            return done;
        };
        let (last, counters) = (run.sequence_max, (run.counters(), run.moves));
        if after == 0 {
            (self.round.sums, self.round.start) = (Sums::default(), Some(counters));
        }
        let is_still = self.round.start == Some(counters);
        let until = last.min(after.saturating_add(u64::from(reconcile.batches_max)));
        for sequence in after + 1..=until {
            let batch = BatchId { run: id.clone(), sequence };
            done.repairs.extend(self.prove_batch(now, &batch, reconcile.doubt_grace_ms));
            done.batches += 1;
            self.sum_up(&batch);
        }
        self.round.run = Some((created_at, id.clone()));
        self.round.after = (until < last).then_some(until);
        if until == last {
            self.prove_run(&id, is_still, &mut done);
        }
        if !done.repairs.is_empty() {
            self.lineage.grow();
        }
        done
    }

    /// The run that is next and the last batch of it that was looked at. None: a round is over, or this step passes over
    /// runs that have nothing to prove.
    fn place_of_round(&mut self) -> Option<(i64, RunId, u64)> {
        if let (Some((at, id)), Some(after)) = (self.round.run.clone(), self.round.after) {
            return Some((at, id, after));
        }
        let from = self.round.run.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let is_whole = self.round.number.is_multiple_of(WHOLE_ROUND_EVERY);
        let mut last = None;
        for (at, id) in self.runs_by_age.range((from, Bound::Unbounded)).take(RUNS_PASSED_MAX) {
            let has_to = |run: &Run| is_whole || run.proved != Some(run.moves);
            if self.runs.get(id).is_some_and(has_to) {
                return Some((*at, id.clone(), 0));
            }
            last = Some((*at, id.clone()));
        }
        self.round.number += u64::from(last.is_none());
        self.round.run = last;
        None
    }

    fn sum_up(&mut self, id: &BatchId) {
        let Some(batch) = self.batches.get(id) else { return };
        let Sums { recipients, batches } = &mut self.round.sums;
        *batch.place.counter(batches) += 1;
        for entry in &batch.entries {
            recipients.total += 1;
            *recipients.of(entry.state) += 1;
        }
    }

    /// Where it stands is where it says, and nowhere else.
    fn prove_batch(&mut self, now: i64, id: &BatchId, grace_ms: u64) -> Option<Repair> {
        let wrong = |kind| Some(Repair { kind, about: id.to_string() });
        let (Some(batch), Some(run)) = (self.batches.get_mut(id), self.runs.get(&id.run)) else {
            return wrong(RepairKind::Unreadable);
        };
        let lane = run.frozen.lane.clone();
        let turn = Turn { lane, site: batch.site.clone(), run: id.run.clone(), sequence: id.sequence };
        let mut kind = None;
        let is_ready = matches!(batch.place, Place::Ready);
        if is_ready != self.turns.has(&turn) {
            kind = Some(if is_ready { RepairKind::Lost } else { RepairKind::Twice });
            match is_ready {
                true => self.turns.add(turn, run.is_parked()),
                false => self.turns.remove(&turn),
            }
        }
        let is_new = match &batch.place {
            Place::Ready | Place::Settled => false,
            Place::Leased(hold) => self.leased.insert((hold.expires_at, id.clone())),
            Place::Delayed(due) => self.delayed.insert((*due, id.clone())),
            Place::Dead => {
                let letter = DeadId { batch: id.clone(), index: None };
                let is_new = !self.dead.contains_key(&letter);
                self.dead.entry(letter).or_insert_with(|| Dead::ends_workers(now));
                is_new
            }
        };
        kind = kind.or(is_new.then_some(RepairKind::Lost));
        let is_held = matches!(batch.place, Place::Leased(_) | Place::Dead);
        let is_pending = batch.entries.iter().any(|entry| !entry.state.is_final());
        let belongs = is_held || is_pending != matches!(batch.place, Place::Settled);
        if !belongs || (!is_held && batch.entries.iter().any(|entry| entry.state == RecipientState::Intent)) {
            self.suspect(now, id);
            self.doubt_intents(now, id, grace_ms, DOUBTS_MAX);
            self.put_back(now, id);
            return wrong(RepairKind::Misplaced);
        }
        let is_stamped = batch.stamp.is_some_and(|stamp| self.to_retire.get(&stamp) == Some(id));
        if batch.is_to_stamp() != is_stamped || batch.stamp.is_some() != is_stamped {
            self.stamp(id);
            kind = kind.or(Some(RepairKind::Misplaced));
        }
        kind.and_then(wrong)
    }

    fn prove_run(&mut self, id: &RunId, is_still: bool, done: &mut Reconciled) {
        let Some(run) = self.runs.get_mut(id) else { return };
        let mut found = |kind| done.repairs.push(Repair { kind, about: id.to_string() });
        let sums = self.round.sums;
        if is_still && run.counters() != sums {
            (run.recipients, run.batches) = (sums.recipients, sums.batches);
            found(RepairKind::Counter);
        }
        if self.turns.mend(&run.frozen.lane, &run.sites, id, run.is_parked()) {
            found(RepairKind::Turn);
        }
        let is_open = !run.split.complete && !run.cancelled && run.error.is_none();
        let is_queued = run.split.due_at.is_some_and(|due| self.splits.contains(&(due, id.clone())));
        let waits = run.batches.ready + run.batches.delayed > 0;
        let is_forgotten = run.cancelled && waits && self.runs_to_cancel.insert(id.clone());
        let due_at = run.split.due_at.or(Some(self.round.at_ms));
        if is_open != is_queued || is_forgotten {
            found(RepairKind::Split);
            match is_open {
                true => self.set_split_due(id, due_at),
                false => self.end_split(id),
            }
        }
        if let Some(run) = self.runs.get_mut(id).filter(|run| is_still && run.is_over() && done.repairs.is_empty()) {
            run.proved = Some(run.moves);
        }
    }
}
