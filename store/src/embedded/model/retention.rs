//! What ends by age. A run goes at once, its batches step by step; what runs share goes when nobody names it.

use super::{Model, Run};
use crate::api::{ForgetRun, ForgottenRun, Kept, LeftSegment, Shared};
use postrider_common::ids::{BatchId, DeadId, DefinitionHash, RunId};

impl Model {
    pub fn forget_run(&mut self, now: i64, forget: ForgetRun) -> ForgottenRun {
        let left = match self.to_forget.get(&forget.run) {
            Some(left) => *left,
            None => {
                let Some(run) = self.runs.get(&forget.run) else { return ForgottenRun::NoRun };
                if !self.may_forget(now, run, &forget) {
                    return ForgottenRun::NotYet;
                }
                self.take_out(&forget.run)
            }
        };
        self.lineage.grow();
        let until = left.saturating_sub(forget.limit as u64);
        for sequence in until + 1..=left {
            self.forget_batch(now, &BatchId { run: forget.run.clone(), sequence });
        }
        match until {
            0 => drop(self.to_forget.remove(&forget.run)),
            _ => drop(self.to_forget.insert(forget.run, until)),
        }
        ForgottenRun::Step { batches: left - until, left: until }
    }

    /// Nothing happens to it by itself any more, nobody is expected to do anything about it, and that for long enough.
    fn may_forget(&self, now: i64, run: &Run, forget: &ForgetRun) -> bool {
        let is_converted = !self.runs_to_cancel.contains(&run.frozen.id);
        let is_over = if run.cancelled { is_converted } else { run.split.complete && run.error.is_none() };
        let is_settled = run.recipients.pending == 0 && run.batches.settled == run.sequence_max;
        let ended_at = run.settled_at_ms.unwrap_or(run.created_at_ms);
        let is_old = |keep_ms: u64| ended_at.saturating_add_unsigned(keep_ms) <= now;
        let has_dead = || {
            let first = DeadId { batch: BatchId { run: run.frozen.id.clone(), sequence: 0 }, index: None };
            self.dead.range(first..).next().is_some_and(|(id, _)| id.batch.run == run.frozen.id)
        };
        is_over && is_settled && is_old(forget.keep_ms) && (!has_dead() || forget.keep_dead_ms.is_some_and(is_old))
    }

    /// The run is not there any more. How many batches it leaves.
    fn take_out(&mut self, id: &RunId) -> u64 {
        self.end_split(id);
        let Some(run) = self.runs.remove(id) else { return 0 };
        self.runs_by_age.remove(&(run.created_at_ms, id.clone()));
        self.turns.forget(&run.frozen.lane, &run.sites, id);
        run.sequence_max
    }

    fn forget_batch(&mut self, now: i64, id: &BatchId) {
        let Some(batch) = self.batches.remove(id) else { return };
        if let Some(stamp) = batch.stamp {
            self.to_retire.remove(&stamp);
        }
        for index in batch.dead {
            self.dead.remove(&DeadId { batch: id.clone(), index: Some(index) });
        }
        self.left_segments.extend(batch.segments.into_iter().map(|name| (name, now)));
    }

    pub fn runs_to_forget(&self, limit: usize) -> Vec<RunId> {
        self.to_forget.keys().take(limit).cloned().collect()
    }

    pub fn left_segments(&self, limit: usize) -> Vec<LeftSegment> {
        let one = |(name, at_ms): (&String, &i64)| LeftSegment { name: name.clone(), at_ms: *at_ms };
        let mut all: Vec<LeftSegment> = self.left_segments.iter().map(one).collect();
        all.sort_by_key(|left| left.at_ms);
        all.truncate(limit);
        all
    }

    pub fn forget_segments(&mut self, _now: i64, segments: Vec<LeftSegment>) {
        for LeftSegment { name, at_ms } in segments {
            if self.left_segments.get(&name) == Some(&at_ms) {
                self.left_segments.remove(&name);
            }
        }
    }

    /// Called by whatever brings a definition, before it names it.
    pub(super) fn keep_definition(&mut self, now: i64, hash: &DefinitionHash, encoded: Vec<u8>) {
        self.definitions.insert(hash.clone(), encoded);
        self.keep(now, vec![Shared::Definition(hash.clone())]);
    }

    pub fn keep(&mut self, now: i64, shared: Vec<Shared>) {
        self.kept.extend(shared.into_iter().map(|shared| (shared, now)));
    }

    pub fn kept(&self, before_ms: i64, skip: usize, limit: usize) -> Vec<Kept> {
        let old = self.kept.iter().filter(|(_, at_ms)| **at_ms < before_ms);
        let mut all: Vec<Kept> = old.map(|(shared, at_ms)| Kept { shared: shared.clone(), at_ms: *at_ms }).collect();
        all.sort_by_key(|kept| kept.at_ms);
        all.into_iter().skip(skip).take(limit).collect()
    }

    pub fn forget_kept(&mut self, _now: i64, unnamed: Vec<Kept>) -> Vec<Shared> {
        let mut gone = Vec::new();
        for Kept { shared, at_ms } in unnamed {
            if self.kept.get(&shared) != Some(&at_ms) {
                continue;
            }
            self.kept.remove(&shared);
            if let Shared::Definition(hash) = &shared {
                self.definitions.remove(hash);
            }
            gone.push(shared);
        }
        gone
    }
}
