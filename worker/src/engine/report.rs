//! Which leases go into the next Checkpoint, Finish, Release and Facts call, and with what.

use super::event::{Call, Effect, LeaseKey};
use super::held::{End, Stage};
use super::relays::Allotment;
use super::slots::Used;
use super::{Carrier, Engine, GATHER_MS, Held};
use postrider_common::limits::RELEASE_DELAY_MS_MAX;

/// A call is given up after this part of the shortest lease it carries, so that there is time for
/// another master.
const TIMEOUT_DIVISOR: u64 = 3;
const TIMEOUT_MS_MIN: u64 = 300;
const TIMEOUT_MS_MAX: u64 = 5_000;

/// What one lease puts into a checkpoint: an intent for each route.
struct Share {
    lease: LeaseKey,
    routes: Vec<Option<usize>>,
}

struct Plan {
    shares: Vec<Share>,
    /// It cannot wait for others.
    is_urgent: bool,
    /// The leases that were looked at, and whether they wait for a relay.
    waiting: Vec<(LeaseKey, bool)>,
    allotment: Allotment,
}

impl Engine {
    pub(super) fn call_checkpoint(&mut self, now_ms: u64) {
        if !self.may_checkpoint() || (self.checkpoint.line.is_open() && self.stirred_at_ms.is_some()) {
            return;
        }
        let Plan { shares, is_urgent, waiting, allotment } = self.plan_checkpoint(now_ms);
        self.relays.note_short(&allotment);
        for (lease, waits) in waiting {
            if let Some(held) = self.leases.get_mut(&lease) {
                held.waits_for_relay = waits;
            }
        }
        if shares.is_empty() {
            self.stirred_at_ms = None;
            return;
        }
        let since_ms = *self.stirred_at_ms.get_or_insert(now_ms);
        if !self.checkpoint.line.is_free(now_ms) || !(is_urgent || now_ms >= since_ms + GATHER_MS) {
            return;
        }
        self.stirred_at_ms = None;
        self.relays.spend(&allotment);
        let mut reports = Vec::with_capacity(shares.len());
        let mut ttl_ms = u64::MAX;
        self.checkpoint.leases.clear();
        for Share { lease, routes } in shares {
            let Some(held) = self.leases.get_mut(&lease) else { continue };
            ttl_ms = ttl_ms.min(held.ttl_ms);
            reports.push(held.report(false, &routes));
            self.checkpoint.leases.push(lease);
            self.next_lease = LeaseKey(lease.0 + 1);
        }
        let id = self.next_call();
        self.checkpoint.line.opened(id);
        self.effects.push(Effect::Call { id, call: Call::Checkpoint(reports), timeout_ms: timeout_ms(ttl_ms) });
    }

    /// The leases with something to say, in order: what must be said before what is only wished, since outcomes are
    /// what frees the slots; the oldest first, so that leases end rather than linger.
    fn in_order(&self, now_ms: u64) -> Vec<&Held> {
        // One whose part of the store is away waits a little, and keeps the others from nothing.
        let waits = |held: &Held| held.is_repeat && now_ms < held.pause_until_ms;
        let may = |held: &&Held| held.carried.is_none() && !held.ends_now() && !waits(held);
        let mut chosen: Vec<&Held> = self.leases.range(self.next_lease..).map(|(_, held)| held).filter(may).collect();
        chosen.extend(self.leases.range(..self.next_lease).map(|(_, held)| held).filter(may));
        let (mut chosen, mut wishing): (Vec<&Held>, Vec<&Held>) =
            chosen.into_iter().partition(|held| held.has_news(now_ms));
        chosen.truncate(self.checkpoint.line.leases_max());
        chosen.sort_by_key(|held| held.key);
        wishing.retain(|held| held.wanted(now_ms) > 0);
        wishing.sort_by_key(|held| held.key);
        chosen.extend(wishing);
        if self.relays.have_rates() {
            // Permits are scarce: who has slots of its own has the first ones.
            chosen.sort_by_key(|held| !self.config.reserve.contains_key(&held.lane));
        }
        chosen
    }

    fn plan_checkpoint(&self, now_ms: u64) -> Plan {
        let chosen = self.in_order(now_ms);
        let news = chosen.iter().filter(|held| held.has_news(now_ms)).count();
        let mut wishes_left = self.checkpoint.line.leases_max().saturating_sub(news);
        // The outcomes in the call free their slots before its intents take any.
        let mut used = self.used();
        for held in &chosen {
            free(&mut used, held);
        }
        let mut allotment = self.relays.allotment(now_ms);
        let (mut is_urgent, mut shares, mut waiting) = (false, Vec::with_capacity(chosen.len()), Vec::new());
        for held in chosen {
            let has_news = held.has_news(now_ms);
            if !has_news && wishes_left == 0 {
                continue;
            }
            let intents = held.wanted(now_ms).min(self.slots.room(&held.lane, &used));
            let routes = self.relays.allot(&mut allotment, &held.lane, intents);
            waiting.push((held.key, routes.len() < intents));
            if !routes.is_empty() {
                *used.entry(held.lane.clone()).or_default() += routes.len();
            }
            let must = held.is_repeat || held.needs_renewal(now_ms);
            is_urgent |= must || (!routes.is_empty() && held.flying.is_empty());
            if must || !routes.is_empty() || !held.told.is_empty() {
                wishes_left -= usize::from(!has_news);
                shares.push(Share { lease: held.key, routes });
            }
        }
        Plan { shares, is_urgent, waiting, allotment }
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
            return self.emit_release(Call::Release { reports, abandon, delay_ms: 0 }, timeout_ms);
        }
        // Those of one call have one delay: the longest of those that they are to have.
        let mut latest_ms = now_ms;
        let ends = |held: &Held| match held.stage {
            Stage::Closing(End::Postpone { until_ms }) if held.ends_now() => {
                latest_ms = latest_ms.max(until_ms);
                true
            }
            Stage::Closing(_) | Stage::Working | Stage::Shelved { .. } => false,
        };
        if let Some((reports, timeout_ms)) = gather(&mut self.release, &mut self.leases, now_ms, ends) {
            let delay_ms = (latest_ms - now_ms).min(RELEASE_DELAY_MS_MAX);
            self.emit_release(Call::Release { reports, abandon: false, delay_ms }, timeout_ms);
        }
    }

    fn emit_release(&mut self, call: Call, timeout_ms: u64) {
        let id = self.next_call();
        self.release.line.opened(id);
        self.effects.push(Effect::Call { id, call, timeout_ms });
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
            Stage::Closing(End::Finish | End::Release | End::Postpone { .. }) => self.flying.is_empty(),
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
    mut ends: impl FnMut(&Held) -> bool,
) -> Option<(Vec<postrider_common::lease::LeaseReport>, u64)> {
    if !carrier.line.is_free(now_ms) {
        return None;
    }
    let mut ready = |held: &&mut Held| held.carried.is_none() && now_ms >= held.pause_until_ms && ends(held);
    carrier.leases.clear();
    let mut reports = Vec::new();
    let mut ttl_ms = u64::MAX;
    for held in leases.values_mut().filter(|held| ready(held)).take(carrier.line.leases_max()) {
        ttl_ms = ttl_ms.min(held.ttl_ms);
        reports.push(held.report(true, &[]));
        carrier.leases.push(held.key);
    }
    (!reports.is_empty()).then(|| (reports, timeout_ms(ttl_ms)))
}
