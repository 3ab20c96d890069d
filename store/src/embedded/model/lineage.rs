//! Whether the store is a later state of what it was, or went back in time; and what follows when it did.
//!
//! Each life of the server is an epoch. Where an epoch ended is kept, so that whoever saw more of it acknowledged
//! proves at any later time that the store went back.

use super::Model;
use crate::api::{Compare, Compared, Found, Result};
use crate::error::StoreError;
use postrider_common::ids::BatchId;
use postrider_common::mark::Mark;
use postrider_common::sabotage::{Fault, planted};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Ends of epochs kept. A mark of an older one is compared with the oldest.
const ENDS_KEPT_MAX: usize = 32;
/// What counters skip when the store went back, far above what can have been given out since: none is given out twice.
const JUMP: u64 = 1_000_000_000;
/// What the epoch skips then: whoever proves it may not know of the last lives of the server that were lost.
const EPOCHS_SKIPPED: u64 = 1_000;

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
enum Stop {
    #[default]
    None,
    /// The store went back, and no master gave a sign of life since.
    UntilSign,
    Until(i64),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Lineage {
    pub epoch: u64,
    /// Grows with whatever is acknowledged.
    pub sequence: u64,
    /// The epoch that began when the store last went back; 1: it never did. Marks of older epochs prove nothing more.
    pub base: u64,
    ends: BTreeMap<u64, u64>,
    /// The server that was compared last, and the one that is there.
    confirmed: Option<String>,
    met: Option<String>,
    stop: Stop,
    rollbacks: u64,
}

impl Default for Lineage {
    fn default() -> Self {
        Self {
            epoch: 1,
            sequence: 0,
            base: 1,
            ends: BTreeMap::new(),
            confirmed: None,
            met: None,
            stop: Stop::None,
            rollbacks: 0,
        }
    }
}

impl Lineage {
    /// Not while it is not known what the server lacks: what is done meanwhile would make up for it.
    pub fn grow(&mut self) {
        self.sequence += u64::from(self.is_met());
    }

    pub fn mark(&self) -> Mark {
        Mark { shard: 0, epoch: self.epoch, sequence: self.sequence }
    }

    pub fn is_met(&self) -> bool {
        self.met == self.confirmed
    }

    /// Nothing is leased and no intent granted.
    pub fn is_stopped(&self, now: i64) -> bool {
        let held = match self.stop {
            Stop::None => false,
            Stop::UntilSign => true,
            Stop::Until(until) => now < until,
        };
        held || !self.is_met()
    }

    /// At a sign of life: until when nothing is reclaimed either, if the store just went back.
    pub fn sign(&mut self, now: i64, hold_ms: i64) -> Option<i64> {
        match self.stop {
            Stop::UntilSign => {
                let until = now.saturating_add(hold_ms);
                self.stop = Stop::Until(until);
                Some(until)
            }
            Stop::Until(until) if now >= until => {
                self.stop = Stop::None;
                None
            }
            Stop::Until(_) | Stop::None => None,
        }
    }

    /// This was acknowledged and is not there.
    fn lacks(&self, mark: &Mark) -> bool {
        if mark.epoch < self.base || planted(Fault::RollbackUnnoticed) {
            return false;
        }
        let had = match self.ends.first_key_value() {
            _ if mark.epoch > self.epoch => return true,
            _ if mark.epoch == self.epoch => self.sequence,
            Some((oldest, end)) if mark.epoch < *oldest => *end,
            Some(_) | None => match self.ends.get(&mark.epoch) {
                Some(end) => *end,
                None => return true,
            },
        };
        mark.sequence > had
    }

    fn go_back(&mut self, highest: u64) {
        self.epoch = self.epoch.max(highest) + EPOCHS_SKIPPED;
        self.base = self.epoch;
        self.ends.clear();
        self.confirmed = self.met.clone();
        self.stop = Stop::UntilSign;
        self.rollbacks += 1;
    }

    /// The first server begins an epoch as well, so that one that was emptied is not taken for it.
    fn confirm(&mut self) {
        self.ends.insert(self.epoch, self.sequence);
        while self.ends.len() > ENDS_KEPT_MAX {
            self.ends.pop_first();
        }
        self.epoch += 1;
        self.confirmed = self.met.clone();
    }
}

impl Model {
    /// The process that has the store now.
    pub fn meet_server(&mut self, _now: i64, server: String) {
        self.lineage.met = Some(server);
    }

    pub fn compare(&mut self, now: i64, (marks, confirm): (Vec<Mark>, bool)) -> Compared {
        let had = self.lineage.sequence;
        let lacked = marks.iter().filter(|mark| self.lineage.lacks(mark)).max().copied();
        let found = match lacked {
            Some(seen) => {
                self.lineage.go_back(marks.iter().map(|mark| mark.epoch).max().unwrap_or(0));
                self.fence_counter += JUMP;
                self.stamp_counter += JUMP;
                self.history_hold = None;
                self.went_back_at_ms = Some(now);
                self.workers.values_mut().for_each(|seen| seen.last_claim = None);
                Found::WentBack { seen, had }
            }
            None if self.lineage.is_met() => Found::Same,
            None if !confirm => Found::NewServer,
            None => {
                self.lineage.confirm();
                // Whoever claimed history of the server before may have seen more of it than this one has.
                self.stamp_counter += JUMP;
                Found::Confirmed
            }
        };
        Compared {
            found,
            mark: self.lineage.mark(),
            is_stopped: self.lineage.is_stopped(now),
            rollbacks: self.lineage.rollbacks,
            sign_ms: self.last_sign_ms,
        }
    }

    /// The arguments of `compare` as they are logged.
    pub fn comparison(compare: &Compare) -> (Vec<Mark>, bool) {
        (compare.marks.of_shard(0).collect(), compare.confirm)
    }

    pub fn mark(&self) -> Mark {
        self.lineage.mark()
    }

    /// What ends recipients, or begins them again. Not before it is known what the server lacks: whoever ends now may
    /// have been sent to again in what was lost, and would carry no reason.
    pub fn once_compared<T>(&mut self, act: impl FnOnce(&mut Self) -> T) -> Result<T> {
        if !self.lineage.is_met() {
            return Err(StoreError::uncompared());
        }
        Ok(act(self))
    }

    /// A batch of a run from before the store went back: whoever is pending in it may have been sent what the store
    /// no longer knows of, so everybody in it comes in doubt, once. True: so it was.
    pub(super) fn suspect(&mut self, now: i64, id: &BatchId) -> bool {
        let base = self.lineage.base;
        let Some(policy) = self.policy(id, 0) else { return false };
        let (Some(batch), Some(run)) = (self.batches.get_mut(id), self.runs.get_mut(&id.run)) else { return false };
        let is_settled = batch.entries.iter().all(|entry| entry.state.is_final());
        if is_settled || batch.epoch.max(run.epoch) >= base {
            return false;
        }
        batch.epoch = base;
        for entry in &mut batch.entries {
            let before = entry.state;
            entry.suspect(now, &policy);
            if before != entry.state {
                run.count_move(now, before, entry.state);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(epoch: u64, sequence: u64) -> Mark {
        Mark { shard: 0, epoch, sequence }
    }

    fn lineage() -> Lineage {
        Lineage { epoch: 7, sequence: 100, base: 3, ends: [(3, 10), (4, 20), (6, 90)].into(), ..Lineage::default() }
    }

    #[test]
    fn a_mark_proves_what_its_epoch_lacks() {
        for (epoch, sequence, lacks) in [
            (7, 100, false),
            (7, 101, true),
            (8, 0, true),
            (6, 90, false),
            (6, 91, true),
            (3, 11, true),
            // Never was: its like was lost.
            (5, 1, true),
            // Settled when the store last went back.
            (2, 1_000, false),
        ] {
            assert_eq!(lineage().lacks(&mark(epoch, sequence)), lacks, "{epoch} {sequence}");
        }
    }

    #[test]
    fn what_is_done_on_a_server_that_was_not_compared_hides_nothing() {
        let mut new = Lineage { met: Some("new".to_owned()), ..lineage() };
        (0..10).for_each(|_| new.grow());
        assert!(new.lacks(&mark(7, 101)));
        new.confirm();
        new.grow();
        assert_eq!((new.epoch, new.sequence), (8, 101));
    }

    #[test]
    fn ends_are_bounded_and_what_is_older_is_compared_with_the_oldest() {
        let mut long = Lineage::default();
        for life in 0..100 {
            long.grow();
            long.met = Some(life.to_string());
            long.confirm();
        }
        assert_eq!((long.ends.len(), long.epoch, long.sequence), (ENDS_KEPT_MAX, 101, 100));
        assert!(!long.lacks(&mark(5, 6)) && long.lacks(&mark(5, 90)) && long.lacks(&mark(99, 101)));
    }
}
