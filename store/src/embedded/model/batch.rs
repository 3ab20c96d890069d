//! A batch: its recipients, the place it stands in, and where its rest goes when a lease ends.

use super::poison::{Expired, Suspicion};
use super::recipient::Entry;
use super::turns::Turn;
use super::{Dead, Model, Run};
use postrider_common::ids::{BatchId, DeadId, Fence, SiteName, WorkerId};
use postrider_common::limits::RETRY_COALESCE_MS;
use postrider_common::run::BatchCounts;
use postrider_common::sabotage::{Fault, planted};
use postrider_common::state::RecipientState;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Batch {
    pub site: SiteName,
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
    /// It is not ready until then; 0: at once.
    pub not_before_ms: i64,
    pub place: Place,
    pub entries: Vec<Entry>,
    /// Fences that got an intent, by counter: facts are taken from these only.
    pub fences: BTreeMap<u64, Fence>,
    /// The fence that ended the last lease by finish or release.
    pub ended_by: Option<Fence>,
    /// The last lease expired; the next claim is a takeover.
    pub expired: bool,
    /// Its place among the batches whose history is to be written; None: there is nothing to write.
    pub stamp: Option<u64>,
    /// Segments that hold its history. Not empty: retired; what is left of entries are states and corrections.
    pub segments: Vec<String>,
    /// Who was pending when the store went back to begin this epoch is in doubt; 0: nothing of the kind was done.
    pub epoch: u64,
    pub suspicion: Suspicion,
    /// Recipients that were set aside as dead letters.
    pub dead: BTreeSet<u32>,
    /// Of the last retry that looked at it.
    pub generation: u64,
    /// Recipients of whom nothing is kept: they get no intent, no reply text, and end when they are put back.
    pub erased: BTreeSet<u32>,
    /// The number of the set of those who are not sent to, at which it was looked at; 0: it is to be.
    pub checked: u64,
    /// Somebody in intent was found in the set: it is to be looked at again once anybody is pending again.
    pub check_again: bool,
}

/// The one place where a batch is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Place {
    Ready,
    Leased(Hold),
    Delayed(i64),
    /// Set aside for a person.
    Dead,
    Settled,
}

impl Place {
    /// Of a batch that has something to send, and may only from that instant on.
    pub fn not_before(now: i64, not_before_ms: i64) -> Self {
        if not_before_ms > now && !planted(Fault::EarlyWaves) { Self::Delayed(not_before_ms) } else { Self::Ready }
    }

    pub fn counter<'a>(&self, counts: &'a mut BatchCounts) -> &'a mut u64 {
        match self {
            Self::Ready => &mut counts.ready,
            Self::Leased(_) => &mut counts.leased,
            Self::Delayed(_) => &mut counts.delayed,
            Self::Dead => &mut counts.dead,
            Self::Settled => &mut counts.settled,
        }
    }
}

/// A lease as the store sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Hold {
    pub fence: Fence,
    pub worker: WorkerId,
    pub expires_at: i64,
    pub hard_at: i64,
    pub progress_at: i64,
    pub progress: u64,
    pub sequence: u64,
    /// Recipients in intent that the meters of lane and site know of.
    pub counted: u32,
    /// A report or a fact told an outcome of this lease.
    pub had_outcome: bool,
    /// Facts told of these that their worker ended before their outcome.
    pub fallen: BTreeSet<u32>,
}

impl Batch {
    pub fn hold(&self) -> Option<&Hold> {
        match &self.place {
            Place::Leased(hold) => Some(hold),
            Place::Ready | Place::Delayed(_) | Place::Dead | Place::Settled => None,
        }
    }

    pub fn in_intent(&self) -> usize {
        self.entries.iter().filter(|entry| entry.state == RecipientState::Intent).count()
    }

    /// How its lease was, if it has one, and when it ended.
    pub fn expiry(&self) -> Option<(i64, Expired)> {
        let hold = self.hold()?;
        let in_intent = (0..).zip(&self.entries).filter(|(_, entry)| entry.state == RecipientState::Intent);
        let fallen = in_intent.map(|(index, _)| index).chain(hold.fallen.iter().copied()).collect();
        let expired = Expired { had_outcome: hold.had_outcome, was_heard: hold.sequence > 0, fallen };
        Some((hold.expires_at, expired))
    }

    /// Where a batch without a lease belongs.
    fn place_of_rest(&self, now: i64) -> Place {
        if self.entries.iter().all(|entry| entry.state.is_final()) {
            return Place::Settled;
        }
        // Who is not in the next lease does not make it due.
        let offered = |index: u32| self.suspicion.only.is_none_or(|only| only.contains(index));
        let pending = || {
            let offered = (0..).zip(&self.entries).filter(|(index, entry)| !entry.state.is_final() && offered(*index));
            offered.map(|(_, entry)| entry)
        };
        if pending().any(|entry| entry.is_due(now)) {
            return Place::not_before(now, self.not_before_ms);
        }
        let earliest = pending().map(|entry| entry.due_at).min().unwrap_or(now);
        let latest_joined = earliest.saturating_add_unsigned(RETRY_COALESCE_MS);
        let due = pending().map(|entry| entry.due_at).filter(|due| *due <= latest_joined).max();
        Place::Delayed(due.unwrap_or(earliest).max(self.not_before_ms))
    }
}

impl Model {
    fn turn(run: &Run, batch: &Batch, id: &BatchId) -> Turn {
        Turn { lane: run.frozen.lane.clone(), site: batch.site.clone(), run: id.run.clone(), sequence: id.sequence }
    }

    /// Moves a batch to a place: indexes and counts follow. The only way a place changes.
    pub(super) fn place(&mut self, now: i64, id: &BatchId, place: Place) {
        let Some(batch) = self.batches.get_mut(id) else { return };
        let Some(run) = self.runs.get_mut(&id.run) else { return };
        *batch.place.counter(&mut run.batches) -= 1;
        *place.counter(&mut run.batches) += 1;
        run.moves += 1;
        let turn = Self::turn(run, batch, id);
        match &batch.place {
            Place::Ready => self.turns.remove(&turn),
            Place::Leased(hold) => {
                self.leased.remove(&(hold.expires_at, id.clone()));
                self.meters.count((&turn.lane, &turn.site), hold.counted, 0);
                if hold.counted > 0 {
                    self.turns.unpark_soon(&turn.lane, &turn.site);
                }
            }
            Place::Delayed(due) => drop(self.delayed.remove(&(*due, id.clone()))),
            Place::Dead => drop(self.dead.remove(&DeadId { batch: id.clone(), index: None })),
            Place::Settled => (),
        }
        match &place {
            Place::Ready if batch.hold().is_some() && planted(Fault::BatchForgotten) => (),
            Place::Ready => self.turns.add(turn, run.is_parked()),
            Place::Leased(hold) => drop(self.leased.insert((hold.expires_at, id.clone()))),
            Place::Delayed(due) => drop(self.delayed.insert((*due, id.clone()))),
            Place::Dead => {
                let letter = DeadId { batch: id.clone(), index: None };
                self.dead.insert(letter, Dead::ends_workers(now));
            }
            Place::Settled => (),
        }
        batch.place = place;
        self.stamp(id);
    }

    /// Limits were there when the lease got intents that it still has.
    pub(super) fn is_counted(&self, id: &BatchId) -> bool {
        self.batches.get(id).and_then(Batch::hold).is_some_and(|hold| hold.counted > 0)
    }

    /// Tells the meters how many recipients of a leased batch are in intent now. `limited`: a limit asks for it;
    /// otherwise only what was told before is kept true.
    pub(super) fn recount(&mut self, id: &BatchId, limited: bool) {
        let (Some(batch), Some(run)) = (self.batches.get_mut(id), self.runs.get(&id.run)) else { return };
        let after = batch.in_intent() as u32;
        let Place::Leased(hold) = &mut batch.place else { return };
        if !limited && hold.counted == 0 {
            return;
        }
        let before = std::mem::replace(&mut hold.counted, after);
        self.meters.count((&run.frozen.lane, &batch.site), before, after);
        if after < before {
            self.turns.unpark_soon(&run.frozen.lane, &batch.site);
        }
    }

    /// Ends a lease or re-sorts an idle batch: cancelled runs lose their pending recipients, the rest goes
    /// where it belongs. Nobody may be in intent.
    pub(super) fn put_back(&mut self, now: i64, id: &BatchId) {
        self.put_back_until(now, id, now);
    }

    /// As `put_back`; what is left is not due before `not_before`.
    pub(super) fn put_back_until(&mut self, now: i64, id: &BatchId, not_before: i64) {
        let (Some(batch), Some(run)) = (self.batches.get_mut(id), self.runs.get_mut(&id.run)) else { return };
        if run.cancelled || !batch.erased.is_empty() {
            for (entry, index) in batch.entries.iter_mut().zip(0..) {
                let before = entry.state;
                if !before.is_final() && (run.cancelled || batch.erased.contains(&index)) {
                    entry.cancel(now);
                    run.count_move(now, before, entry.state);
                }
            }
        }
        let pending = |index: u32| batch.entries.get(index as usize).is_some_and(|entry| !entry.state.is_final());
        batch.suspicion.put_back(pending);
        let place = match batch.place_of_rest(now) {
            Place::Ready if not_before > now => Place::Delayed(not_before),
            Place::Delayed(due) => Place::Delayed(due.max(not_before)),
            place @ (Place::Ready | Place::Leased(_) | Place::Dead | Place::Settled) => place,
        };
        self.place(now, id, place);
    }
}
