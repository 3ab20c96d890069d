//! Creating and steering runs and lanes.

use super::{Model, Run, Split};
use crate::api::{CreatedRun, NewRun, Steered};
use postrider_common::ids::{LaneName, RunId};
use postrider_common::run::{BatchCounts, RecipientCounts};
use std::collections::BTreeSet;

impl Model {
    pub fn create_run(&mut self, now: i64, mut new: NewRun) -> CreatedRun {
        if let Some(existing) = self.runs.get(&new.id) {
            let same = existing.frozen.fingerprint == new.fingerprint;
            return if same { CreatedRun::Existed } else { CreatedRun::Conflict };
        }
        if self.to_forget.contains_key(&new.id) {
            return CreatedRun::BeingForgotten;
        }
        if new.requires_campaign {
            let campaign = self.campaigns.iter().find(|(name, _)| name.as_str() == new.campaign);
            match campaign.map(|(_, campaign)| campaign.paused) {
                None => return CreatedRun::NoCampaign,
                Some(true) => return CreatedRun::CampaignPaused,
                Some(false) => (),
            }
        }
        let definition = std::mem::take(&mut new.definition_bytes);
        self.keep_definition(now, &new.definition, definition);
        self.runs_by_age.insert((now, new.id.clone()));
        self.splits.insert((now, new.id.clone()));
        let run = Run {
            nominal_at_ms: new.nominal_at_ms.unwrap_or(now),
            created_at_ms: now,
            started_at_ms: None,
            settled_at_ms: None,
            paused: false,
            cancelled: false,
            error: None,
            split: Split { due_at: Some(now), hold: None, cursor: 0, open: Vec::new(), complete: false },
            sequence_max: 0,
            sites: BTreeSet::new(),
            bad_rows: 0,
            repeated_rows: 0,
            bad_row_samples: Vec::new(),
            recipients: RecipientCounts::default(),
            batches: BatchCounts::default(),
            resent_reply_lost: 0,
            resent_outcome_not_recorded: 0,
            leases_expired: 0,
            leases_taken_over: 0,
            epoch: self.lineage.base,
            generation: 0,
            retries: Vec::new(),
            moves: 0,
            proved: None,
            frozen: new,
        };
        self.lineage.grow();
        self.runs.insert(run.frozen.id.clone(), run);
        CreatedRun::Created
    }

    pub fn pause_run(&mut self, _now: i64, id: RunId) -> Steered {
        self.steer(&id, |run| run.paused = true)
    }

    pub fn resume_run(&mut self, now: i64, id: RunId) -> Steered {
        let steered = self.steer(&id, |run| {
            run.paused = false;
            run.error = None;
        });
        let waiting = |run: &&Run| !run.split.complete && run.split.hold.is_none();
        if steered == Steered::Done && self.runs.get(&id).filter(waiting).is_some() {
            self.set_split_due(&id, Some(now));
        }
        steered
    }

    pub fn cancel_run(&mut self, now: i64, id: RunId) -> Steered {
        let Some(run) = self.runs.get_mut(&id) else { return Steered::NoRun };
        if run.cancelled {
            return Steered::Done;
        }
        run.cancelled = true;
        run.split.open = Vec::new();
        if run.recipients.pending == 0 {
            run.settled_at_ms.get_or_insert(now);
        }
        self.lineage.grow();
        self.end_split(&id);
        self.park(&id);
        self.runs_to_cancel.insert(id);
        Steered::Done
    }

    fn steer(&mut self, id: &RunId, act: impl FnOnce(&mut Run)) -> Steered {
        let Some(run) = self.runs.get_mut(id) else { return Steered::NoRun };
        if run.cancelled {
            return Steered::Cancelled;
        }
        act(run);
        self.lineage.grow();
        self.park(id);
        Steered::Done
    }

    /// Brings the turns in line with whether the run is parked.
    pub(super) fn park(&mut self, id: &RunId) {
        if let Some(run) = self.runs.get(id) {
            self.turns.set_parked(&run.frozen.lane, &run.sites, id, run.is_parked());
        }
    }

    pub fn set_lane_paused(&mut self, _now: i64, (lane, paused): (LaneName, bool)) {
        self.lineage.grow();
        self.turns.set_paused(&lane, paused);
    }
}
