//! What a person does with recipients that were given up: run retry, and replay and purge of dead letters. Each
//! opens a new generation, in which a final state may end.

use super::batch::Place;
use super::recipient::Entry;
use super::{Dead, KnownRetry, Model};
use crate::api::{DeadAnswer, DeadLetter, ReplayDead, RetriedRun, RetryRun};
use postrider_common::campaign::OnUnknown;
use postrider_common::ids::{BatchId, DeadId, RunId};
use postrider_common::limits::RETRY_KEYS_KEPT_MAX;
use postrider_common::state::RecipientState;
use std::ops::Bound;

/// Given up, and what a person may begin again with. `doubtful`: nobody of this run may be sent to twice, and the
/// store may have forgotten that one was begun again before.
fn may_reopen(entry: &Entry, unknown: bool, doubtful: bool) -> bool {
    match entry.state {
        RecipientState::Exhausted => unknown || !doubtful,
        RecipientState::Unknown => unknown,
        RecipientState::Pending
        | RecipientState::Intent
        | RecipientState::Deferred
        | RecipientState::Accepted
        | RecipientState::Rejected
        | RecipientState::Suppressed
        | RecipientState::Cancelled => false,
    }
}

impl Model {
    pub fn retry_run(&mut self, now: i64, retry: RetryRun) -> RetriedRun {
        let Some(run) = self.runs.get_mut(&retry.run) else { return RetriedRun::NoRun };
        if run.cancelled {
            return RetriedRun::Cancelled;
        }
        let known = run.retries.iter().find(|known| known.key == retry.key).cloned();
        let known = match known {
            Some(known) if known.unknown != retry.unknown => return RetriedRun::Conflict,
            Some(known) => known,
            None => {
                run.generation += 1;
                let RetryRun { key, unknown, .. } = retry.clone();
                let known = KnownRetry { key, unknown, generation: run.generation, until: run.sequence_max };
                run.retries.push(known.clone());
                run.retries.drain(..run.retries.len().saturating_sub(RETRY_KEYS_KEPT_MAX));
                self.lineage.grow();
                known
            }
        };
        let until = known.until.min(retry.after.saturating_add(retry.limit as u64));
        let mut recipients = 0;
        for sequence in retry.after.saturating_add(1)..=until {
            recipients += self.retry_batch(now, &BatchId { run: retry.run.clone(), sequence }, &known);
        }
        let next = (until < known.until).then_some(until);
        RetriedRun::Step { generation: known.generation, recipients, next }
    }

    fn retry_batch(&mut self, now: i64, id: &BatchId, retry: &KnownRetry) -> u64 {
        let Some(batch) = self.batches.get_mut(id) else { return 0 };
        let is_out = matches!(batch.place, Place::Dead) || !batch.segments.is_empty();
        if is_out || batch.generation >= retry.generation {
            return 0;
        }
        batch.generation = retry.generation;
        self.lineage.grow();
        let is_leased = batch.hold().is_some();
        let doubtful = self.is_doubtful(&id.run);
        let Some(batch) = self.batches.get(id) else { return 0 };
        let given_up = batch.entries.iter().zip(0..).filter(|(entry, _)| may_reopen(entry, retry.unknown, doubtful));
        let given_up = given_up
            .map(|(_, index)| index)
            .filter(|index| !batch.dead.contains(index))
            .filter(|index| !batch.erased.contains(index));
        let given_up: Vec<u32> = given_up.collect();
        for index in &given_up {
            self.reopen(now, id, *index);
        }
        if !given_up.is_empty() && !is_leased {
            self.put_back(now, id);
        }
        given_up.len() as u64
    }

    fn reopen(&mut self, now: i64, id: &BatchId, index: u32) {
        let lost = self.is_from_before(&id.run);
        self.change(now, id, index, |entry| (entry.reopen(now, lost), Default::default()));
    }

    /// The store went back since the run was created.
    fn is_from_before(&self, run: &RunId) -> bool {
        self.runs.get(run).is_some_and(|run| run.epoch < self.lineage.base)
    }

    fn is_doubtful(&self, run: &RunId) -> bool {
        let hold = self.runs.get(run).is_some_and(|run| run.frozen.on_unknown == OnUnknown::Hold);
        hold && self.is_from_before(run)
    }

    pub fn dead_letters(&self, run: Option<&RunId>, after: Option<&DeadId>, limit: usize) -> Vec<DeadLetter> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let all =
            self.dead.range((from, Bound::Unbounded)).filter(|(id, _)| run.is_none_or(|run| id.batch.run == *run));
        let letter = |(id, dead): (&DeadId, &Dead)| DeadLetter {
            id: id.clone(),
            at_ms: dead.at_ms,
            reason: dead.reason.clone(),
        };
        all.take(limit).map(letter).collect()
    }

    pub fn replay_dead(&mut self, now: i64, replay: ReplayDead) -> DeadAnswer {
        let ReplayDead { id, unknown } = replay;
        let Some(run) = self.runs.get_mut(&id.batch.run).filter(|_| self.dead.contains_key(&id)) else {
            return DeadAnswer::NoSuch;
        };
        if run.cancelled {
            return DeadAnswer::Cancelled;
        }
        if id.index.is_none() {
            run.generation += 1;
            self.lineage.grow();
            self.suspect(now, &id.batch);
        }
        let doubtful = self.is_doubtful(&id.batch.run);
        let Some(batch) = self.batches.get(&id.batch) else { return DeadAnswer::NoSuch };
        let Some(index) = id.index else {
            let recipients = batch.entries.iter().filter(|entry| !entry.state.is_final()).count() as u64;
            self.put_back(now, &id.batch);
            return DeadAnswer::Done { recipients };
        };
        let may_reopen = |entry| may_reopen(entry, unknown, doubtful) && !batch.erased.contains(&index);
        if !batch.entries.get(index as usize).is_some_and(may_reopen) {
            return DeadAnswer::InDoubt;
        }
        let is_idle = !matches!(batch.place, Place::Leased(_) | Place::Dead);
        if let Some(run) = self.runs.get_mut(&id.batch.run) {
            run.generation += 1;
        }
        self.lineage.grow();
        self.forget_dead(&id.batch, index);
        self.reopen(now, &id.batch, index);
        if is_idle {
            self.put_back(now, &id.batch);
        }
        DeadAnswer::Done { recipients: 1 }
    }

    pub fn purge_dead(&mut self, now: i64, id: DeadId) -> DeadAnswer {
        if !self.dead.contains_key(&id) {
            return DeadAnswer::NoSuch;
        }
        self.lineage.grow();
        let Some(index) = id.index else {
            let Some(batch) = self.batches.get(&id.batch) else { return DeadAnswer::NoSuch };
            let cancelled = self.runs.get(&id.batch.run).is_some_and(|run| run.cancelled);
            let pending: Vec<u32> =
                (0..).zip(&batch.entries).filter(|(_, e)| !e.state.is_final()).map(|(i, _)| i).collect();
            self.suspect(now, &id.batch);
            for index in pending.iter().filter(|_| !cancelled) {
                self.change(now, &id.batch, *index, |entry| (entry.give_up(now), Default::default()));
            }
            self.put_back(now, &id.batch);
            return DeadAnswer::Done { recipients: pending.len() as u64 };
        };
        self.forget_dead(&id.batch, index);
        DeadAnswer::Done { recipients: 0 }
    }

    /// One recipient is set aside; it keeps the state that says whether it may have been sent.
    pub(super) fn set_aside(&mut self, now: i64, id: &BatchId, index: u32) {
        self.change(now, id, index, |entry| (entry.set_aside(now), Default::default()));
        if let Some(batch) = self.batches.get_mut(id) {
            batch.dead.insert(index);
            self.dead.insert(DeadId { batch: id.clone(), index: Some(index) }, Dead::ends_workers(now));
        }
    }

    pub(super) fn forget_dead(&mut self, id: &BatchId, index: u32) {
        if let Some(batch) = self.batches.get_mut(id) {
            batch.dead.remove(&index);
            self.dead.remove(&DeadId { batch: id.clone(), index: Some(index) });
        }
    }
}
