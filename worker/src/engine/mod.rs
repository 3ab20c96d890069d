//! The worker's decisions: what to lease, what to ask for, what to send, what to report, when to stop.
//!
//! Values in, values out: no input or output, no clock, no randomness, so that a test and the simulation
//! drive it directly. The invariants:
//!
//! * a send starts only after an answer granted its intent, and only while its lease is trusted;
//! * recipients in intent or in flight never exceed the slots, nor a batch's window;
//! * nobody is asked for before the merge fields of the lease are at hand;
//! * an outcome is repeated until an answer acknowledged it, or it was handed over as a fact.

mod answer;
mod drain;
mod event;
mod facts;
mod fetches;
mod held;
mod line;
mod relays;
mod report;
mod slots;
mod wish;

#[cfg(test)]
mod drain_tests;
#[cfg(test)]
mod fetch_tests;
#[cfg(test)]
mod part_tests;
#[cfg(test)]
mod relay_tests;
#[cfg(test)]
mod tests;

pub use event::{Call, CallId, Effect, Endpoint, Event, Fetched, LeaseKey, LeaseWish, Offer};

use drain::Drain;
use facts::{Facts, Orphan};
use fetches::Fetches;
use held::{End, Held, Stage};
use line::Line;
use postrider_common::ids::{LaneName, RelayName};
use postrider_common::lease::Outcome;
use postrider_common::relay::RelayLimit;
use relays::Relays;
use slots::{Slots, Used};
use std::collections::{BTreeMap, BTreeSet};
use wish::Wish;

/// How long a lease that cannot be used is kept before it is handed back, so that it does not circle
/// between workers that all cannot use it.
const SHELF_MS: u64 = 5_000;
/// Outcomes and wishes that can wait are gathered for this long: a call for each would cost the store
/// more than the mail costs us.
const GATHER_MS: u64 = 5;
/// What is assumed of a batch's window until a lease says it.
const WINDOW_ASSUMED: usize = 10;

#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Begins every request id; different for every process. At most 40 characters.
    pub instance: String,
    pub slots: u32,
    /// Empty: all.
    pub lanes: Vec<LaneName>,
    pub reserve: BTreeMap<LaneName, u32>,
    /// All begin unreachable.
    pub relays: Vec<RelayPlan>,
    pub drain_timeout_ms: u64,
}

/// A relay, as far as it matters here.
#[derive(Debug, Clone, Default)]
pub struct RelayPlan {
    /// Empty: all.
    pub lanes: Vec<LaneName>,
    /// Of this worker.
    pub connections: u32,
    /// What holds for it over all workers. None: nothing.
    pub limit: Option<(RelayName, RelayLimit)>,
}

/// The state of one worker.
#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
    slots: Slots,
    leases: BTreeMap<LeaseKey, Held>,
    orphans: BTreeMap<LeaseKey, Orphan>,
    facts: Facts,
    facts_line: Line,
    wish: Wish,
    checkpoint: Carrier,
    finish: Carrier,
    release: Carrier,
    relays: Relays,
    fetches: Fetches,
    /// Lanes that are known by name, so that one of them can be left out.
    lanes_seen: BTreeSet<LaneName>,
    window_seen: usize,
    /// Since when a report waits that can be gathered with others.
    stirred_at_ms: Option<u64>,
    /// Where the next call begins when not all leases fit in one.
    next_lease: LeaseKey,
    last_call: u64,
    drain: Option<Drain>,
    has_exited: bool,
    effects: Vec<Effect>,
}

/// A kind of call that carries leases.
#[derive(Debug, Default)]
struct Carrier {
    line: Line,
    leases: Vec<LeaseKey>,
}

impl Engine {
    pub fn new(config: EngineConfig) -> Self {
        let mut lanes_seen: BTreeSet<LaneName> = config.lanes.iter().cloned().collect();
        lanes_seen.extend(config.reserve.keys().cloned());
        lanes_seen.extend(config.relays.iter().flat_map(|relay| &relay.lanes).cloned());
        lanes_seen.extend([LaneName::bulk(), LaneName::transactional()]);
        Self {
            slots: Slots::new(config.slots, &config.reserve),
            leases: BTreeMap::new(),
            orphans: BTreeMap::new(),
            facts: Facts::default(),
            facts_line: Line::default(),
            wish: Wish::default(),
            checkpoint: Carrier::default(),
            finish: Carrier::default(),
            release: Carrier::default(),
            relays: Relays::new(config.relays.clone()),
            fetches: Fetches::default(),
            lanes_seen,
            window_seen: WINDOW_ASSUMED,
            stirred_at_ms: None,
            next_lease: LeaseKey(0),
            last_call: 0,
            drain: None,
            has_exited: false,
            effects: Vec::new(),
            config,
        }
    }

    /// Takes one event in and says what to do, in this order. `now_boot_ms` must not go back.
    pub fn handle(&mut self, now_boot_ms: u64, event: Event) -> Vec<Effect> {
        if self.has_exited {
            return Vec::new();
        }
        // Before the event: an answer that comes after the end of trust must not find it standing.
        self.lapse(now_boot_ms);
        match event {
            Event::Leased { call, sent_at_ms, held_ms, offers, drain } => {
                self.leased(now_boot_ms, call, sent_at_ms, held_ms, offers);
                self.drain_if(drain, now_boot_ms);
            }
            Event::Answered { call, sent_at_ms, answers, drain } => {
                self.answered(now_boot_ms, call, sent_at_ms, answers);
                self.drain_if(drain, now_boot_ms);
            }
            Event::FactsAnswered { call, statuses } => self.facts_answered(now_boot_ms, call, &statuses),
            Event::CallFailed { call, refused, random } => self.call_failed(now_boot_ms, call, refused, random),
            Event::Sent { lease, outcome } => self.sent(lease, outcome),
            Event::Progress { lease } => {
                if let Some(held) = self.leases.get_mut(&lease) {
                    held.progressed();
                }
            }
            Event::Relay { index, is_up } => self.relays.set_up(index, is_up),
            Event::Connections { index, allowed, open, wanted } => self.relays.counted(index, allowed, open, wanted),
            Event::Shared { call, sent_at_ms, shares } => self.shared(now_boot_ms, call, sent_at_ms, shares),
            Event::Fetched { lease, fetched } => self.fetched(now_boot_ms, lease, fetched),
            Event::Tick => {}
            Event::Stop => self.drain_if(true, now_boot_ms),
        }
        self.advance(now_boot_ms);
        std::mem::take(&mut self.effects)
    }

    /// When `handle` wants a `Tick` if nothing else happens; always after `now_boot_ms`.
    pub fn next_wake_ms(&self, now_boot_ms: u64) -> u64 {
        if self.has_exited {
            return u64::MAX;
        }
        let mut wake = u64::MAX;
        // What is due already was done by the last `handle`, or waits for an answer.
        let mut at = |ms: Option<u64>| wake = wake.min(ms.filter(|ms| *ms > now_boot_ms).unwrap_or(u64::MAX));
        for held in self.leases.values() {
            held.wakes_ms().for_each(|ms| at(Some(ms)));
        }
        if !self.checkpoint.line.is_open() {
            let renew = self.leases.values().filter_map(Held::renew_ms).min();
            let gathered = self.stirred_at_ms.map(|since| since + GATHER_MS);
            let pause = self.checkpoint.line.wake_ms().unwrap_or_default();
            at(renew.map(|due| due.max(pause)));
            at(gathered.map(|due| due.max(pause)));
        }
        at(self.wish.wake_ms());
        at(self.relays.wake_ms());
        at(self.finish.line.wake_ms());
        at(self.release.line.wake_ms());
        at(self.facts_line.wake_ms());
        at(self.drain.as_ref().map(|drain| drain.wake_ms(now_boot_ms)));
        wake
    }

    /// Leases held, for logs and tests.
    pub fn leases_held(&self) -> usize {
        self.leases.len()
    }

    /// Recipients in intent or in flight, as far as is known here.
    pub fn slots_used(&self) -> usize {
        let orphans: usize = self.orphans.values().map(|orphan| orphan.flying.len()).sum();
        self.leases.values().map(Held::in_intent).sum::<usize>() + orphans
    }

    /// Facts given up because too many were waiting.
    pub fn facts_dropped(&self) -> u64 {
        self.facts.dropped
    }

    fn advance(&mut self, now_ms: u64) {
        self.lapse(now_ms);
        self.stage(now_ms);
        self.drain_step(now_ms);
        self.fetch(now_ms);
        self.call_finish(now_ms);
        self.call_release(now_ms);
        self.call_checkpoint(now_ms);
        self.call_facts(now_ms);
        self.call_share(now_ms);
        self.call_lease(now_ms);
        self.exit_if_done(now_ms);
    }

    /// Leases whose trust is over: nothing more of theirs may write a final dot.
    fn lapse(&mut self, now_ms: u64) {
        for held in self.leases.values_mut() {
            if !held.is_cut && !held.is_trusted(now_ms) {
                held.is_cut = true;
                self.effects.push(Effect::Cut { lease: held.key });
            }
        }
        self.lapse_shares(now_ms);
    }

    /// Moves leases to the stage that they are in now.
    fn stage(&mut self, now_ms: u64) {
        let is_draining = self.drain.is_some();
        for held in self.leases.values_mut() {
            held.promote(now_ms);
            let end = match held.stage {
                Stage::Closing(_) => None,
                Stage::Working if is_draining => Some(End::Release),
                Stage::Shelved { until_ms } => (is_draining || now_ms >= until_ms).then_some(End::Release),
                Stage::Working if !self.relays.can_carry(&held.lane) => Some(End::Release),
                // A call under way says what became of it first.
                Stage::Working if held.carried.is_none() && !held.is_repeat && held.is_idle(now_ms) => {
                    Some(End::Finish)
                }
                Stage::Working => None,
            };
            if let Some(end) = end {
                held.close(end);
                if !held.flying.is_empty() {
                    self.effects.push(Effect::Recall { lease: held.key });
                }
            }
        }
    }

    /// A verdict: an outcome to report, or a fact when the lease is over.
    fn sent(&mut self, lease: LeaseKey, outcome: Outcome) {
        if let Some(held) = self.leases.get_mut(&lease) {
            if held.flying.remove(&outcome.index) {
                held.progressed();
                held.told.insert(outcome.index, outcome);
            }
        } else if let Some(orphan) = self.orphans.get_mut(&lease)
            && orphan.flying.remove(&outcome.index)
        {
            let dropped = self.facts.push(lease, &orphan.batch, &orphan.fence, outcome);
            if orphan.flying.is_empty() {
                self.orphans.remove(&lease);
            }
            self.given_up(dropped);
        }
    }

    fn given_up(&mut self, dropped: Option<(LeaseKey, u32)>) {
        self.effects.extend(dropped.map(|(lease, index)| Effect::Told { lease, indexes: vec![index] }));
    }

    /// Forgets a lease that is over. Outcomes that no answer took become facts; so will the verdicts of
    /// transactions that are still open.
    fn forget(&mut self, lease: LeaseKey) {
        let Some(held) = self.leases.remove(&lease) else { return };
        self.effects.push(Effect::Trust { lease, until_ms: 0 });
        let owed = held.told.keys().chain(&held.flying).copied().collect();
        self.effects.push(Effect::Forget { lease, owed });
        for outcome in held.told.into_values() {
            let dropped = self.facts.push(lease, &held.batch, &held.fence, outcome);
            self.given_up(dropped);
        }
        if !held.flying.is_empty() {
            let Held { batch, fence, lane, flying, .. } = held;
            self.orphans.insert(lease, Orphan { batch, fence, lane, flying });
        }
    }

    fn next_call(&mut self) -> CallId {
        self.last_call += 1;
        CallId(self.last_call)
    }

    /// Slots in use by lane; outcomes not yet reported count, since the store still has them in intent.
    fn used(&self) -> Used {
        let mut used = Used::new();
        for held in self.leases.values() {
            *used.entry(held.lane.clone()).or_default() += held.in_intent();
        }
        self.add_orphans(&mut used);
        used
    }

    fn add_orphans(&self, used: &mut Used) {
        for orphan in self.orphans.values() {
            *used.entry(orphan.lane.clone()).or_default() += orphan.flying.len();
        }
    }
}
