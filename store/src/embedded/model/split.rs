//! The split of a run, leased by a visibility time of its own.

use super::batch::{Batch, Place};
use super::poison::Suspicion;
use super::recipient::Entry;
use super::turns::Turn;
use super::{Model, Run};
use crate::api::{AddBatches, BadRow, ClaimSplit, NewBatch, PinAudience, ReleaseSplit, SplitLease, SplitStatus};
use postrider_common::ids::{BatchId, RunId};
use postrider_common::limits::BAD_ROWS_KEPT_MAX;
use postrider_common::sabotage::{Fault, planted};
use std::collections::{BTreeMap, BTreeSet};

impl Model {
    pub fn claim_split(&mut self, now: i64, claim: ClaimSplit) -> Option<SplitLease> {
        if let Some(id) = self.split_requests.get(&claim.request) {
            return self.split_lease(now, &id.clone());
        }
        let due = self.splits.iter().take_while(|(due, _)| *due <= now);
        let parked = |id: &RunId| self.runs.get(id).is_none_or(Run::is_parked);
        let id = due.map(|(_, id)| id).find(|id| !parked(id)).cloned()?;
        let fence = self.next_fence(claim.nonce);
        self.lineage.grow();
        self.end_split(&id);
        self.set_split_due(&id, Some(now.saturating_add_unsigned(claim.ttl_ms)));
        let run = self.runs.get_mut(&id)?;
        run.started_at_ms.get_or_insert(now);
        run.split.hold = Some((fence, claim.request.clone()));
        self.split_requests.insert(claim.request, id.clone());
        self.split_lease(now, &id)
    }

    /// For comparisons with a store whose instants are known to within `slack_ms`: of splits that are due together by that, this
    /// one comes first.
    #[cfg(feature = "conformance")]
    pub fn prefer_split(&mut self, id: &RunId, slack_ms: i64) {
        let due = self.runs.get(id).and_then(|run| run.split.due_at);
        if let (Some(due), Some((first, _))) = (due, self.splits.first())
            && due > *first
            && due <= *first + slack_ms
        {
            self.set_split_due(id, Some(*first - 1));
        }
    }

    fn split_lease(&self, now: i64, id: &RunId) -> Option<SplitLease> {
        let run = self.runs.get(id)?;
        let (fence, _) = run.split.hold.clone()?;
        let due = run.split.due_at?;
        Some(SplitLease {
            run: id.clone(),
            fence,
            ttl_ms: u64::try_from(due - now).unwrap_or(0),
            cursor: run.split.cursor,
            sequence_max: run.sequence_max,
            open: run.split.open.clone(),
            bad_rows: run.bad_rows,
            repeated_rows: run.repeated_rows,
        })
    }

    /// When the split may be claimed; None: not at all.
    pub(super) fn set_split_due(&mut self, id: &RunId, due_at: Option<i64>) {
        let Some(run) = self.runs.get_mut(id) else { return };
        if let Some(before) = run.split.due_at {
            self.splits.remove(&(before, id.clone()));
        }
        if let Some(due) = due_at {
            self.splits.insert((due, id.clone()));
        }
        run.split.due_at = due_at;
    }

    /// Nobody holds the split any more and nobody may claim it.
    pub(super) fn end_split(&mut self, id: &RunId) {
        self.set_split_due(id, None);
        if let Some((_, request)) = self.runs.get_mut(id).and_then(|run| run.split.hold.take()) {
            self.split_requests.remove(&request);
        }
    }

    pub fn add_batches(&mut self, now: i64, add: AddBatches) -> SplitStatus {
        let Some(run) = self.runs.get(&add.run) else { return SplitStatus::Lost };
        if run.cancelled || run.error.is_some() {
            return SplitStatus::Stopped;
        }
        let sequence_next = run.sequence_max + add.batches.len() as u64;
        let in_order = (run.sequence_max + 1..).zip(&add.batches).all(|(next, batch)| batch.sequence == next);
        let held = run.split.hold.as_ref().is_some_and(|(fence, _)| *fence == add.fence);
        if run.split.cursor == add.cursor_next && run.split.complete == add.complete && !is_ahead(run, &add) {
            // Done by an earlier call, or a mere sign of life. When the split is complete nobody holds it any more.
            if held {
                self.set_split_due(&add.run, Some(now.saturating_add_unsigned(add.ttl_ms)));
            }
            return if held || add.complete { SplitStatus::Done } else { SplitStatus::Lost };
        }
        let is_current = held && !run.split.complete && run.split.cursor == add.cursor && in_order;
        if !is_current && !planted(Fault::CursorNotCompared) {
            return SplitStatus::Lost;
        }
        let due = now.saturating_add_unsigned(add.ttl_ms);
        self.lineage.grow();
        self.admit(now, &add.run, add.batches);
        let Some(run) = self.runs.get_mut(&add.run) else { return SplitStatus::Lost };
        run.sequence_max = sequence_next;
        run.split.cursor = add.cursor_next;
        run.split.open = add.open;
        run.split.complete = add.complete;
        run.bad_rows = add.bad_rows;
        run.repeated_rows = add.repeated_rows;
        let room = BAD_ROWS_KEPT_MAX.saturating_sub(run.bad_row_samples.len());
        run.bad_row_samples.extend(add.bad_row_samples.into_iter().take(room));
        if add.complete {
            if run.recipients.pending == 0 {
                run.settled_at_ms.get_or_insert(now);
            }
            self.end_split(&add.run);
        } else {
            self.set_split_due(&add.run, Some(due));
        }
        SplitStatus::Done
    }

    fn admit(&mut self, now: i64, id: &RunId, batches: Vec<NewBatch>) {
        let Some(run) = self.runs.get_mut(id) else { return };
        let parked = run.is_parked();
        for new in batches {
            let batch_id = BatchId { run: id.clone(), sequence: new.sequence };
            let count = u64::from(new.count);
            run.recipients.total += count;
            run.recipients.pending += count;
            run.sites.insert(new.site.clone());
            let place = Place::not_before(now, new.not_before_ms);
            *place.counter(&mut run.batches) += 1;
            match &place {
                Place::Delayed(due) => drop(self.delayed.insert((*due, batch_id.clone()))),
                Place::Ready | Place::Leased(_) | Place::Dead | Place::Settled => {
                    let lane = run.frozen.lane.clone();
                    let turn = Turn { lane, site: new.site.clone(), run: id.clone(), sequence: new.sequence };
                    self.turns.add(turn, parked);
                }
            }
            let batch = Batch {
                site: new.site,
                payload: new.payload,
                not_before_ms: new.not_before_ms,
                place,
                entries: (0..new.count).map(|_| Entry::new()).collect(),
                fences: BTreeMap::new(),
                ended_by: None,
                expired: false,
                stamp: None,
                segments: Vec::new(),
                epoch: 0,
                suspicion: Suspicion::default(),
                dead: BTreeSet::new(),
                generation: 0,
                erased: BTreeSet::new(),
                checked: new.checked,
                check_again: false,
            };
            self.batches.insert(batch_id, batch);
        }
    }

    pub fn pin_audience(&mut self, now: i64, pin: PinAudience) -> SplitStatus {
        let Some(run) = self.runs.get_mut(&pin.run) else { return SplitStatus::Lost };
        if run.cancelled || run.error.is_some() {
            return SplitStatus::Stopped;
        }
        let is_held = run.split.hold.as_ref().is_some_and(|(fence, _)| *fence == pin.fence);
        if !is_held || run.split.cursor > 0 || run.sequence_max > 0 {
            return SplitStatus::Lost;
        }
        self.lineage.grow();
        run.frozen.audience = pin.audience;
        self.set_split_due(&pin.run, Some(now.saturating_add_unsigned(pin.ttl_ms)));
        SplitStatus::Done
    }

    pub fn release_split(&mut self, now: i64, release: ReleaseSplit) -> SplitStatus {
        let Some(run) = self.runs.get_mut(&release.run) else { return SplitStatus::Lost };
        if run.cancelled {
            return SplitStatus::Stopped;
        }
        if run.split.hold.as_ref().is_none_or(|(fence, _)| *fence != release.fence) {
            return SplitStatus::Lost;
        }
        self.lineage.grow();
        let failed = release.error.is_some();
        if failed {
            run.error = release.error;
        }
        self.end_split(&release.run);
        if !failed {
            self.set_split_due(&release.run, Some(now.saturating_add_unsigned(release.delay_ms)));
        }
        self.park(&release.run);
        SplitStatus::Done
    }

    pub fn bad_rows(&self, id: &RunId) -> Vec<BadRow> {
        self.runs.get(id).map(|run| run.bad_row_samples.clone()).unwrap_or_default()
    }
}

/// The call would bring something the run does not have yet.
fn is_ahead(run: &Run, add: &AddBatches) -> bool {
    add.batches.last().is_some_and(|last| last.sequence > run.sequence_max)
}
