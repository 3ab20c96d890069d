//! The rules that hold between any two calls of the store, checked after every one; each is a promise or a rule of the
//! lease protocol, stated anew and not taken from the model.

use crate::coverage::{Coverage, Point};
use crate::forgotten::Forgotten;
use crate::mix::Mix;
use crate::rollback::{Gone, Lineage};
use postrider_common::ids::{BatchId, LaneName, RequestId, RunId, WorkerId};
use postrider_common::lease::{LeaseAnswer, LeaseStatus, RefusalReason};
use postrider_common::limits::TRANSACTION_MS_MAX;
use postrider_common::mark::Marks;
use postrider_common::pace::{COST, Limit, Limits};
use postrider_common::state::{RecipientState, UnknownReason};
use postrider_store::embedded::model::{Command, Model, Standing};
use postrider_store::{
    Claim, Claimed, ClaimedHistory, Compare, Compared, Found, Reclaim, Reclaimed, Reconciled, RunRecord,
};
use std::collections::{BTreeMap, BTreeSet};

/// What was true of a batch after the last call.
#[derive(Debug, Default)]
pub struct Shadow {
    pub fence: Option<u64>,
    pub recipients: Vec<Standing>,
    /// Intents granted, by recipient.
    grants: Vec<u32>,
    /// Of those whose history is in a segment.
    pub reasons: Vec<Option<UnknownReason>>,
}

/// What is frozen of a run.
#[derive(Debug, Clone)]
pub struct Terms {
    pub lane: LaneName,
    pub holds_unknown: bool,
}

#[derive(Debug)]
pub struct Rules {
    pub coverage: Coverage,
    /// The first rule that was broken.
    pub broken: Option<String>,
    pub runs: BTreeMap<RunId, Terms>,
    pub batches: BTreeMap<BatchId, Shadow>,
    pub doubts_unrecorded: u64,
    pub lineage: Lineage,
    pub forgotten: BTreeMap<RunId, Forgotten>,
    /// Since when they were at first: a store that goes back knows them again.
    pub forgotten_ms: BTreeMap<RunId, u64>,
    window: u32,
    hard_cap_ms: i64,
    limits: Limits,
    /// Grants are counted against real time, which the store's clock does not tell once it was stepped.
    is_paced: bool,
    paused: BTreeSet<RunId>,
    cancelled: BTreeSet<RunId>,
    lanes_paused: BTreeSet<LaneName>,
    /// When each fence was first seen.
    claimed_at: BTreeMap<u64, i64>,
    /// Leaky buckets, one a lane: when, and how full.
    buckets: BTreeMap<LaneName, (u64, u64)>,
    last_sign: Option<i64>,
    hold_until: i64,
    /// The last claim of each worker, and what it was answered.
    claims: BTreeMap<WorkerId, (RequestId, Vec<(BatchId, u64)>)>,
    /// Who was given each fence, and its slots.
    owners: BTreeMap<u64, (WorkerId, u32)>,
    history_claims: BTreeSet<RequestId>,
    /// When each intent was granted, by recipient and fence, in real time.
    pub granted_ms: BTreeMap<(BatchId, usize, u64), u64>,
}

pub fn limits(mix: &Mix) -> Limits {
    let mut limits = Limits::default();
    if mix.is_limited {
        let pace = "100/s".parse().ok().map(|rate| postrider_common::pace::Pace { rate, burst: 20 });
        limits.lane(LaneName::bulk(), Limit { pace, concurrency: Some(2 * mix.window) });
    }
    limits
}

impl Rules {
    pub fn new(mix: &Mix) -> Self {
        Self {
            coverage: Coverage::default(),
            broken: None,
            runs: BTreeMap::new(),
            batches: BTreeMap::new(),
            doubts_unrecorded: 0,
            lineage: Lineage::new(mix.rollbacks > 0),
            forgotten: BTreeMap::new(),
            forgotten_ms: BTreeMap::new(),
            window: mix.window,
            hard_cap_ms: mix.hard_cap_ms as i64,
            limits: limits(mix),
            is_paced: mix.clock_steps == 0,
            paused: BTreeSet::new(),
            cancelled: BTreeSet::new(),
            lanes_paused: BTreeSet::new(),
            claimed_at: BTreeMap::new(),
            buckets: BTreeMap::new(),
            last_sign: None,
            hold_until: i64::MIN,
            claims: BTreeMap::new(),
            owners: BTreeMap::new(),
            history_claims: BTreeSet::new(),
            granted_ms: BTreeMap::new(),
        }
    }

    pub fn fail(&mut self, why: &str) {
        self.broken.get_or_insert_with(|| why.to_owned());
    }

    /// Another server has the store.
    pub fn returned(&mut self) {
        self.lineage.returned();
        // What was given out and not told to anybody may be given out again.
        self.claims.clear();
        self.last_sign = None;
        let held: BTreeSet<u64> = self.batches.values().filter_map(|shadow| shadow.fence).collect();
        self.claimed_at.retain(|fence, _| held.contains(fence));
        self.owners.retain(|fence, _| held.contains(fence));
    }

    pub fn compared(&mut self, compare: &Compare, compared: &Compared, known: (&Marks, usize)) {
        match compared.found {
            // Its leases are stale, so whoever has them is free to have others.
            Found::WentBack { .. } => {
                self.owners.clear();
                self.claims.clear();
            }
            // What was granted and lost is forgotten by the meters as well.
            Found::Confirmed => self.buckets.clear(),
            Found::Same | Found::NewServer => (),
        }
        if let Err(why) = self.lineage.compared(compare, compared, known, &mut self.coverage) {
            self.fail(&why);
        }
    }

    /// The store is this older one. Intents that were granted and forgotten stay counted: somebody may have used them.
    pub fn rewind(&mut self, newer: &Model, model: &Model) -> Gone {
        let mut before = std::mem::take(&mut self.batches);
        let mut gone = Gone::default();
        let audit = model.audit(|id, fence, recipients| {
            let shadow = before.remove(id).unwrap_or_default();
            let is_gone = |(index, was): (usize, &Standing)| {
                let is_accepted = recipients.get(index).is_some_and(|one| one.state == RecipientState::Accepted);
                (was.state == RecipientState::Accepted && !is_accepted).then(|| (id.clone(), index))
            };
            gone.accepted.extend(shadow.recipients.iter().enumerate().filter_map(is_gone));
            self.batches.insert(id.clone(), Shadow { fence, recipients: recipients.to_vec(), ..shadow });
        });
        if let Err(why) = audit {
            self.fail(&format!("P1: {why}"));
        }
        for (id, shadow) in before {
            gone.accepted.extend((0..shadow.recipients.len()).map(|index| (id.clone(), index)));
            self.batches.insert(id, Shadow { grants: shadow.grants, ..Shadow::default() });
        }
        let runs: BTreeMap<RunId, RunRecord> = model.all_runs().map(|run| (run.id.clone(), run)).collect();
        let lost = newer.all_runs().map(|run| run.id).filter(|run| !runs.contains_key(run));
        gone.runs = lost.collect();
        self.forgotten.retain(|run, _| !runs.contains_key(run));
        // The outage that it was for may be forgotten.
        self.hold_until = i64::MIN;
        let of = |is: fn(&RunRecord) -> bool| runs.values().filter(|run| is(run)).map(|run| run.id.clone()).collect();
        self.paused = of(|run| run.paused);
        self.cancelled = of(|run| run.cancelled);
        let lanes = model.lanes(&[LaneName::bulk(), LaneName::transactional()]);
        self.lanes_paused = lanes.into_iter().filter(|lane| lane.paused).map(|lane| lane.name).collect();
        gone
    }

    /// After every call that may change something.
    pub fn applied(&mut self, model: &Model, now: i64, real_ms: u64, command: &Command) {
        match command {
            // Of what is not submitted yet there is nothing to steer.
            Command::PauseRun(run) | Command::CancelRun(run) if model.run(run).is_none() => {}
            Command::PauseRun(run) => drop(self.paused.insert(run.clone())),
            Command::ResumeRun(run) => drop(self.paused.remove(run)),
            Command::CancelRun(run) => drop(self.cancelled.insert(run.clone())),
            Command::SetLanePaused((lane, true)) => drop(self.lanes_paused.insert(lane.clone())),
            Command::SetLanePaused((lane, false)) => drop(self.lanes_paused.remove(lane)),
            _ => {}
        }
        self.lineage.hears(command);
        let mut batches = std::mem::take(&mut self.batches);
        let mut in_intent: BTreeMap<&LaneName, u32> = BTreeMap::new();
        let mut by_worker: BTreeMap<(WorkerId, u32), u32> = BTreeMap::new();
        let owners = std::mem::take(&mut self.owners);
        let runs = std::mem::take(&mut self.runs);
        let audit = model.audit(|id, fence, recipients| {
            if !batches.contains_key(id) {
                batches.insert(id.clone(), Shadow::default());
            }
            let (Some(shadow), Some(terms)) = (batches.get_mut(id), runs.get(&id.run)) else { return };
            let count = recipients.iter().filter(|one| one.state == RecipientState::Intent).count() as u32;
            if count > self.window {
                self.fail(&format!("P2: {count} of {id} in intent, the window is {}", self.window));
            }
            *in_intent.entry(&terms.lane).or_default() += count;
            if let Some(owner) = fence.filter(|_| count > 0).and_then(|fence| owners.get(&fence)) {
                *by_worker.entry(owner.clone()).or_default() += count;
            }
            if shadow.fence != fence || shadow.recipients != recipients {
                self.changed((now, real_ms), (id, terms), fence, shadow, recipients);
            }
        });
        if let Err(why) = audit {
            self.fail(&format!("P1: {why}"));
        }
        for (lane, count) in in_intent {
            let cap = self.limits.lanes.get(lane).and_then(|limit| limit.concurrency);
            if cap.is_some_and(|cap| count > cap) {
                self.fail(&format!("P6: {count} of lane {lane} in intent, the cap is {cap:?}"));
            }
        }
        if let Some(((worker, slots), count)) = by_worker.iter().find(|((_, slots), count)| *count > slots) {
            self.fail(&format!("P2: {count} in intent of {worker}, which has {slots} slots"));
        }
        (self.batches, self.runs, self.owners) = (batches, runs, owners);
    }

    fn changed(
        &mut self,
        (now, real_ms): (i64, u64),
        (id, terms): (&BatchId, &Terms),
        fence: Option<u64>,
        shadow: &mut Shadow,
        recipients: &[Standing],
    ) {
        if let Some(fence) = fence {
            self.claimed_at.entry(fence).or_insert(now);
        }
        shadow.grants.resize(recipients.len(), 0);
        shadow.reasons.resize(recipients.len(), None);
        let was_new = shadow.recipients.is_empty();
        if !was_new && shadow.recipients.len() != recipients.len() {
            self.fail(&format!("P1: {id} had {} recipients and has {}", shadow.recipients.len(), recipients.len()));
        }
        for (index, after) in recipients.iter().enumerate() {
            let Some(before) = shadow.recipients.get(index) else { continue };
            if before == after {
                continue;
            }
            if before.is_retired != after.is_retired {
                self.coverage.reach(Point::HistoryRetired);
                shadow.reasons[index] = before.reason;
                if before.state != after.state {
                    self.fail(&format!("P1: {id} {index} was {before:?} and retired as {after:?}"));
                }
                continue;
            }
            let granted = after.state == RecipientState::Intent
                && (before.state != RecipientState::Intent || before.intent != after.intent);
            if granted {
                shadow.grants[index] += 1;
                self.lineage.granted(id, index, after.intent, real_ms);
                self.granted_ms.insert((id.clone(), index, after.intent), real_ms);
                self.granted((now, real_ms), (id, terms), fence, before);
            }
            self.moved((id, fence.is_some()), index, before, after);
            if self.lineage.hears_lost() {
                // It is not known whether that attempt was counted before.
                shadow.grants[index] = shadow.grants[index].max(after.attempts);
            }
            if !after.is_retired && after.attempts > shadow.grants[index] {
                self.fail(&format!(
                    "P1: {id} {index} has {} attempts, {} intents",
                    after.attempts, shadow.grants[index]
                ));
            }
        }
        shadow.fence = fence;
        shadow.recipients.clear();
        shadow.recipients.extend_from_slice(recipients);
    }

    fn moved(&mut self, (id, is_leased): (&BatchId, bool), index: usize, before: &Standing, after: &Standing) {
        let corrects = after.state == RecipientState::Accepted || before.state == RecipientState::Unknown;
        if before.state.is_final() && before.state != after.state {
            if !corrects {
                self.fail(&format!("P1: {id} {index} was final: {before:?}, and is {after:?}"));
            }
            self.coverage.reach(Point::FactAfterSettling);
            if before.is_retired {
                self.coverage.reach(Point::HistoryCorrected);
            }
        }
        if after.reason == Some(UnknownReason::OutcomeNotRecorded) && before.state == RecipientState::Intent {
            self.doubts_unrecorded += 1;
        }
        let was_waiting = matches!(before.state, RecipientState::Pending | RecipientState::Deferred);
        if was_waiting && before.reason.is_none() && after.reason == Some(UnknownReason::OutcomeNotRecorded) {
            self.coverage.reach(Point::RollbackDoubted);
        }
        let is_settled = matches!(after.state, RecipientState::Accepted | RecipientState::Rejected);
        if is_settled && before.state != after.state && self.lineage.hears_lost() {
            self.coverage.reach(Point::RollbackHealed);
        }
        match after.state {
            RecipientState::Exhausted => self.coverage.reach(Point::Exhausted),
            RecipientState::Rejected => self.coverage.reach(Point::Rejected),
            RecipientState::Suppressed if is_leased => self.coverage.reach(Point::SuppressedWhileLeased),
            RecipientState::Suppressed => self.coverage.reach(Point::SuppressedAtSplit),
            RecipientState::Unknown if self.cancelled.contains(&id.run) => self.coverage.reach(Point::DoubtAtCancel),
            RecipientState::Unknown => self.coverage.reach(Point::DoubtHeld),
            RecipientState::Accepted if after.reason.is_some() => self.coverage.reach(Point::AcceptedAfterDoubt),
            _ => {}
        }
    }

    fn granted(
        &mut self,
        (now, real_ms): (i64, u64),
        (id, terms): (&BatchId, &Terms),
        fence: Option<u64>,
        before: &Standing,
    ) {
        if self.lineage.is_stopped(now) {
            self.fail(&format!("P9: {id} got an intent from a server that was not compared, or went back"));
        }
        if before.state.is_final() {
            self.fail(&format!("P2: {id} granted to one that had ended: {before:?}"));
        }
        if before.reason.is_some() {
            self.coverage.reach(Point::DoubtResent);
            if terms.holds_unknown {
                self.fail(&format!("P2: {id} resends a doubt that is to be held"));
            }
        }
        if self.cancelled.contains(&id.run) {
            self.fail(&format!("5.9: {id} of a cancelled run got an intent"));
        }
        if self.paused.contains(&id.run) || self.lanes_paused.contains(&terms.lane) {
            self.fail(&format!("5.9: {id} of a paused run or lane got an intent"));
        }
        let claimed_at = fence.and_then(|fence| self.claimed_at.get(&fence)).copied().unwrap_or(now);
        if now > claimed_at + self.hard_cap_ms - TRANSACTION_MS_MAX as i64 {
            self.fail(&format!("5.8: {id} got an intent that may not end before the hard cap"));
        }
        let pace = self.limits.lanes.get(&terms.lane).and_then(|limit| limit.pace).filter(|_| self.is_paced);
        if let Some(pace) = pace {
            let (at, level) = self.buckets.entry(terms.lane.clone()).or_insert((real_ms, 0));
            *level = level.saturating_sub((real_ms - *at) * pace.rate.per_hour()) + COST;
            *at = real_ms;
            if *level > u64::from(pace.burst) * COST {
                self.fail(&format!("P6: lane {} ran ahead of its rate", terms.lane));
            }
        }
    }

    /// Nothing is reclaimed until ttl + grace after service returned.
    pub fn reclaimed(&mut self, now: i64, reclaim: &Reclaim, reclaimed: &Reclaimed) {
        let (gap, hold_ms) = (reclaim.outage_gap_ms as i64, (reclaim.ttl_ms + reclaim.doubt_grace_ms) as i64);
        if !self.lineage.signed(now, hold_ms) {
            if reclaimed.leases > 0 {
                self.fail("P9: a lease was taken back by a server that was not compared");
            }
            return;
        }
        let was_away = self.last_sign.is_some_and(|last| now < last || now - last > gap);
        if was_away {
            self.hold_until = now + hold_ms;
        }
        // While the store was away its clock may have gone back, and the hold with it.
        if self.last_sign.is_none() {
            self.hold_until = self.hold_until.min(now + hold_ms);
        }
        self.last_sign = Some(now);
        if reclaimed.held_ms > 0 && was_away {
            self.coverage.reach(Point::HoldAfterOutage);
        }
        if reclaimed.leases > 0 {
            self.coverage.reach(Point::LeaseExpired);
            if now < self.hold_until {
                self.fail("5.5: a lease was taken back right after an outage");
            }
        }
    }

    /// Nothing that goes wrong in a world is the store's own fault.
    pub fn reconciled(&mut self, reconciled: &Reconciled) {
        if let Some(repair) = reconciled.repairs.first() {
            self.fail(&format!("P1: the reconciler had to repair {repair:?}"));
        }
        if reconciled.rounds > 0 {
            self.coverage.reach(Point::ReconcilerRound);
        }
    }

    pub fn claimed(&mut self, now: i64, claim: &Claim, claimed: &Claimed) {
        if !claimed.leases.is_empty() && self.lineage.is_stopped(now) {
            self.fail("P9: a lease of a server that was not compared, or went back");
        }
        if claimed.leases.iter().any(|lease| lease.only.is_some()) {
            self.coverage.reach(Point::PartLeased);
        }
        let leases: Vec<_> = claimed.leases.iter().map(|lease| (lease.batch.clone(), lease.fence.counter)).collect();
        for (_, fence) in &leases {
            self.owners.entry(*fence).or_insert_with(|| (claim.worker.clone(), claim.slots));
        }
        let last = self.claims.get(&claim.worker).filter(|(request, _)| *request == claim.request);
        match last {
            // What had ended by then is left out.
            Some((_, before)) if leases.iter().all(|lease| before.contains(lease)) => {
                self.coverage.reach(Point::ClaimRepeated);
            }
            Some(_) => self.fail("5.1: a repeated claim was answered with other leases"),
            None if leases.is_empty() => {}
            None => drop(self.claims.insert(claim.worker.clone(), (claim.request.clone(), leases))),
        }
    }

    pub fn claimed_history(&mut self, request: RequestId, claimed: &ClaimedHistory) {
        if !claimed.batches.is_empty() && !self.history_claims.insert(request) {
            self.coverage.reach(Point::SegmentOrphaned);
        }
    }

    pub fn answered(&mut self, answers: &[LeaseAnswer]) {
        for answer in answers {
            match answer.status {
                LeaseStatus::Lost => self.coverage.reach(Point::FenceRefused),
                LeaseStatus::Returned if answer.due_in_ms > 0 => self.coverage.reach(Point::BatchDelayed),
                _ => {}
            }
            for (_, reason) in &answer.refused {
                match reason {
                    RefusalReason::Paused => self.coverage.reach(Point::PausedRefused),
                    RefusalReason::Cancelled => self.coverage.reach(Point::CancelledRefused),
                    RefusalReason::HardCap => self.coverage.reach(Point::HardCapRefused),
                    RefusalReason::Repeated => self.coverage.reach(Point::CheckpointRepeated),
                    RefusalReason::Throttled { .. } => self.coverage.reach(Point::Throttled),
                    // No worker of ours asks for more than the window, or beside the part that a lease is for.
                    RefusalReason::Unchecked => self.coverage.reach(Point::UncheckedRefused),
                    RefusalReason::Settled | RefusalReason::NotDue | RefusalReason::Window | RefusalReason::Outside => {
                    }
                }
            }
        }
    }
}
