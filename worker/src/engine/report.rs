//! Which leases go into the next Checkpoint, Finish, Release and Facts call, and with what.

use super::event::{Call, Effect, LeaseKey};
use super::held::{End, Stage};
use super::slots::Used;
use super::{Carrier, Engine, GATHER_MS, Held};

/// A call is given up after this part of the shortest lease it carries, so that there is time for
/// another master.
const TIMEOUT_DIVISOR: u64 = 3;
const TIMEOUT_MS_MIN: u64 = 300;
const TIMEOUT_MS_MAX: u64 = 5_000;

/// What one lease puts into a checkpoint.
struct Share {
    lease: LeaseKey,
    intents: usize,
}

impl Engine {
    pub(super) fn call_checkpoint(&mut self, now_ms: u64) {
        if !self.may_checkpoint() || (self.checkpoint.line.is_open() && self.stirred_at_ms.is_some()) {
            return;
        }
        let (shares, is_urgent) = self.plan_checkpoint(now_ms);
        if shares.is_empty() {
            self.stirred_at_ms = None;
            return;
        }
        let since_ms = *self.stirred_at_ms.get_or_insert(now_ms);
        if !self.checkpoint.line.is_free(now_ms) || !(is_urgent || now_ms >= since_ms + GATHER_MS) {
            return;
        }
        self.stirred_at_ms = None;
        let mut reports = Vec::with_capacity(shares.len());
        let mut ttl_ms = u64::MAX;
        self.checkpoint.leases.clear();
        for Share { lease, intents } in shares {
            let Some(held) = self.leases.get_mut(&lease) else { continue };
            ttl_ms = ttl_ms.min(held.ttl_ms);
            reports.push(held.report(false, intents));
            self.checkpoint.leases.push(lease);
            self.next_lease = LeaseKey(lease.0 + 1);
        }
        let id = self.next_call();
        self.checkpoint.line.opened(id);
        self.effects.push(Effect::Call { id, call: Call::Checkpoint(reports), timeout_ms: timeout_ms(ttl_ms) });
    }

    /// The leases with something to say, and whether it cannot wait.
    fn plan_checkpoint(&self, now_ms: u64) -> (Vec<Share>, bool) {
        let leases_max = self.checkpoint.line.leases_max();
        let may = |held: &&Held| held.carried.is_none() && !held.ends_now();
        let mut chosen: Vec<&Held> = self.leases.range(self.next_lease..).map(|(_, held)| held).filter(may).collect();
        chosen.extend(self.leases.range(..self.next_lease).map(|(_, held)| held).filter(may));
        // What must be said goes before what is only wished: outcomes are what frees the slots.
        let (mut chosen, mut wishing): (Vec<&Held>, Vec<&Held>) =
            chosen.into_iter().partition(|held| held.has_news(now_ms));
        chosen.truncate(leases_max);
        // The oldest first, so that leases end rather than linger.
        chosen.sort_by_key(|held| held.key);
        wishing.retain(|held| held.wanted(now_ms) > 0);
        wishing.sort_by_key(|held| held.key);
        wishing.truncate(leases_max - chosen.len());
        chosen.extend(wishing);
        // The outcomes in the call free their slots before its intents take any.
        let mut used = self.used();
        for held in &chosen {
            free(&mut used, held);
        }
        let mut is_urgent = false;
        let mut shares = Vec::with_capacity(chosen.len());
        for held in chosen {
            let intents = held.wanted(now_ms).min(self.slots.room(&held.lane, &used));
            if intents > 0 {
                *used.entry(held.lane.clone()).or_default() += intents;
            }
            let must = held.is_repeat || held.needs_renewal(now_ms);
            is_urgent |= must || (intents > 0 && held.flying.is_empty());
            if must || intents > 0 || !held.told.is_empty() {
                shares.push(Share { lease: held.key, intents });
            }
        }
        (shares, is_urgent)
    }

    pub(super) fn call_finish(&mut self, now_ms: u64) {
        let ends = |held: &Held| held.ends_now() && held.stage == Stage::Closing(End::Finish);
        if let Some((reports, timeout_ms)) = gather(&mut self.finish, &mut self.leases, now_ms, ends) {
            let id = self.next_call();
            self.finish.line.opened(id);
            self.effects.push(Effect::Call { id, call: Call::Finish(reports), timeout_ms });
        }
    }

    pub(super) fn call_release(&mut self, now_ms: u64) {
        let abandon = self.leases.values().any(|held| held.stage == Stage::Closing(End::Abandon));
        let end = if abandon { End::Abandon } else { End::Release };
        let ends = |held: &Held| held.ends_now() && held.stage == Stage::Closing(end);
        if let Some((reports, timeout_ms)) = gather(&mut self.release, &mut self.leases, now_ms, ends) {
            let id = self.next_call();
            self.release.line.opened(id);
            self.effects.push(Effect::Call { id, call: Call::Release { reports, abandon }, timeout_ms });
        }
    }

    pub(super) fn call_facts(&mut self, now_ms: u64) {
        if self.facts.is_empty() || !self.facts_line.is_free(now_ms) {
            return;
        }
        let facts = self.facts.carry();
        let id = self.next_call();
        self.facts_line.opened(id);
        self.effects.push(Effect::Call { id, call: Call::Facts(facts), timeout_ms: TIMEOUT_MS_MAX });
    }
}

impl Held {
    /// Nothing is in flight any more, or what is, is given up.
    fn ends_now(&self) -> bool {
        match self.stage {
            Stage::Working | Stage::Shelved { .. } => false,
            Stage::Closing(End::Finish | End::Release) => self.flying.is_empty(),
            Stage::Closing(End::Abandon) => true,
        }
    }

    fn has_news(&self, now_ms: u64) -> bool {
        !self.told.is_empty() || self.is_repeat || self.needs_renewal(now_ms)
    }
}

fn free(used: &mut Used, held: &Held) {
    if let Some(count) = used.get_mut(&held.lane) {
        *count = count.saturating_sub(held.told.len());
    }
}

fn timeout_ms(ttl_ms: u64) -> u64 {
    (ttl_ms / TIMEOUT_DIVISOR).clamp(TIMEOUT_MS_MIN, TIMEOUT_MS_MAX)
}

/// The reports of the leases that end, if the line is free and there are any.
fn gather(
    carrier: &mut Carrier,
    leases: &mut std::collections::BTreeMap<LeaseKey, Held>,
    now_ms: u64,
    ends: impl Fn(&Held) -> bool,
) -> Option<(Vec<postrider_common::lease::LeaseReport>, u64)> {
    if !carrier.line.is_free(now_ms) {
        return None;
    }
    let ready = |held: &&mut Held| held.carried.is_none() && now_ms >= held.pause_until_ms && ends(held);
    carrier.leases.clear();
    let mut reports = Vec::new();
    let mut ttl_ms = u64::MAX;
    for held in leases.values_mut().filter(ready).take(carrier.line.leases_max()) {
        ttl_ms = ttl_ms.min(held.ttl_ms);
        reports.push(held.report(true, 0));
        carrier.leases.push(held.key);
    }
    (!reports.is_empty()).then(|| (reports, timeout_ms(ttl_ms)))
}
