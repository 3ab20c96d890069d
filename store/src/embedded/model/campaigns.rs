//! What people define, and what becomes of it when it is due.

use super::{KnownApply, Model};
use crate::api::{
    AppliedCampaign, ApplyCampaign, CampaignRecord, CreatedRun, DueSchedules, Fire, Fired, FiredRun, Scheduled,
    SkipReason,
};
use postrider_common::ids::CampaignName;
use postrider_common::limits::APPLY_KEYS_KEPT_MAX;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The schedules of campaigns.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Schedules {
    /// As they were applied.
    encoded: BTreeMap<CampaignName, Vec<u8>>,
    /// When each is to be looked at, in both directions. Paused ones are not.
    look_at: BTreeMap<CampaignName, i64>,
    looks: BTreeSet<(i64, CampaignName)>,
    stamp: u64,
}

impl Schedules {
    fn next_stamp(&mut self) -> u64 {
        self.stamp += 1;
        self.stamp
    }

    fn set_look(&mut self, name: &CampaignName, at: Option<i64>) {
        if let Some(at) = self.look_at.remove(name) {
            self.looks.remove(&(at, name.clone()));
        }
        if let Some(at) = at {
            self.look_at.insert(name.clone(), at);
            self.looks.insert((at, name.clone()));
        }
    }
}

impl Model {
    pub fn apply_campaign(&mut self, now: i64, apply: ApplyCampaign) -> AppliedCampaign {
        let known = self.apply_keys.get(&apply.name).into_iter().flatten();
        if let Some(known) = apply.key.as_ref().and_then(|key| known.into_iter().find(|known| known.key == *key)) {
            let same = known.fingerprint == apply.fingerprint;
            return if same { known.answer } else { AppliedCampaign::Conflict };
        }
        self.keep_definition(now, &apply.definition, apply.definition_bytes);
        let before = self.campaigns.get(&apply.name);
        let version = before.map_or(0, |before| before.version);
        let same_schedule = self.schedules.encoded.get(&apply.name).map_or(&[][..], Vec::as_slice) == apply.schedule;
        let answer = if before.is_some_and(|before| before.spec == apply.spec && same_schedule) {
            AppliedCampaign::Applied { version, changed: false }
        } else {
            let paused = before.is_some_and(|before| before.paused);
            let schedule = before.and_then(|before| before.schedule.clone());
            let record = CampaignRecord {
                name: apply.name.clone(),
                version: version + 1,
                spec: apply.spec,
                definition: apply.definition,
                paused,
                applied_at_ms: now,
                schedule: self.apply_schedule(now, &apply.name, apply.schedule, paused, schedule),
            };
            self.campaigns.insert(apply.name.clone(), record);
            AppliedCampaign::Applied { version: version + 1, changed: true }
        };
        if let Some(key) = apply.key {
            let known = self.apply_keys.entry(apply.name).or_default();
            known.push(KnownApply { key, fingerprint: apply.fingerprint, answer });
            known.drain(..known.len().saturating_sub(APPLY_KEYS_KEPT_MAX));
        }
        answer
    }

    /// Where the schedule stands after the campaign was changed.
    fn apply_schedule(
        &mut self,
        now: i64,
        name: &CampaignName,
        encoded: Vec<u8>,
        paused: bool,
        before: Option<Scheduled>,
    ) -> Option<Scheduled> {
        if encoded.is_empty() {
            self.schedules.encoded.remove(name);
            self.schedules.set_look(name, None);
            return None;
        }
        let mut schedule = before.unwrap_or_default();
        schedule.stamp = self.schedules.next_stamp();
        if self.schedules.encoded.get(name) != Some(&encoded) {
            (schedule.decided_until_ms, schedule.active_since_ms) = (now, now);
            (schedule.due_at_ms, schedule.zones) = (None, String::new());
        }
        self.schedules.encoded.insert(name.clone(), encoded);
        self.schedules.set_look(name, (!paused).then_some(now));
        Some(schedule)
    }

    pub fn set_campaign_paused(&mut self, now: i64, (name, paused): (CampaignName, bool)) -> bool {
        let Some(campaign) = self.campaigns.get_mut(&name) else { return false };
        let was_paused = std::mem::replace(&mut campaign.paused, paused);
        if let Some(schedule) = &mut campaign.schedule {
            schedule.stamp = self.schedules.next_stamp();
            if was_paused && !paused {
                schedule.active_since_ms = now;
            }
            self.schedules.set_look(&name, (!paused).then_some(now));
        }
        true
    }

    pub fn delete_campaign(&mut self, _now: i64, name: CampaignName) -> bool {
        self.apply_keys.remove(&name);
        self.schedules.encoded.remove(&name);
        self.schedules.set_look(&name, None);
        self.campaigns.remove(&name).is_some()
    }

    pub fn fire(&mut self, now: i64, fire: Fire) -> Fired {
        let Some(campaign) = self.campaigns.get_mut(&fire.campaign) else { return Fired::Stale };
        let Some(schedule) = &mut campaign.schedule else { return Fired::Stale };
        if schedule.by.as_ref() == Some(&fire.request) {
            return Fired::Done;
        }
        let decided = schedule.decided_until_ms;
        let nominal = fire.run.as_ref().map(|run| run.nominal_at_ms.unwrap_or(fire.decided_until_ms));
        if schedule.stamp != fire.stamp || campaign.paused || nominal.is_some_and(|nominal| nominal <= decided) {
            return Fired::Stale;
        }
        let until = fire.decided_until_ms.max(nominal.unwrap_or(i64::MIN));
        if until > now.max(decided) {
            return Fired::Early;
        }
        schedule.by = Some(fire.request);
        schedule.stamp = self.schedules.next_stamp();
        schedule.decided_until_ms = decided.max(until);
        (schedule.due_at_ms, schedule.zones) = (fire.due_at_ms, fire.zones);
        for skipped in fire.skipped {
            let counter = match skipped.reason {
                SkipReason::Missed => &mut schedule.missed,
                SkipReason::Overlap => &mut schedule.overlapped,
                SkipReason::CannotRun => &mut schedule.refused,
            };
            *counter += skipped.count;
            schedule.last_skipped = Some(skipped);
        }
        if let (Some(run), Some(nominal_at_ms)) = (&fire.run, nominal) {
            schedule.fired += 1;
            schedule.last_fired = Some(FiredRun { run: run.id.clone(), nominal_at_ms, at_ms: now });
        }
        self.schedules.set_look(&fire.campaign, fire.look_at_ms);
        if let Some(run) = fire.cancel {
            self.cancel_run(now, run);
        }
        if let Some(run) = fire.run {
            let id = run.id.clone();
            // What was due before the store went back may have been begun, and sent, in what was lost.
            let is_again = self.went_back_at_ms.is_some_and(|at| nominal.is_some_and(|nominal| nominal <= at));
            if self.create_run(now, run) == CreatedRun::Created
                && is_again
                && let Some(run) = self.runs.get_mut(&id)
            {
                run.epoch = 1;
            }
        }
        Fired::Done
    }

    pub fn due_schedules(&self, now: i64, limit: usize) -> DueSchedules {
        let due = self.schedules.looks.iter().take_while(|(at, _)| *at <= now).take(limit);
        let campaigns = due.filter_map(|(_, name)| self.campaigns.get(name).cloned()).collect();
        DueSchedules { now_ms: now, campaigns }
    }
}
