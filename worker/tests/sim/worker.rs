//! A worker: the real engine, and senders that take their time.

use super::{Happening, World};
use postrider_common::ids::{BatchId, Fence, LaneName};
use postrider_common::lease::{Fact, Lease, LeaseAnswer, LeaseStatus, Outcome, OutcomeKind};
use postrider_worker::engine::{Call, CallId, Effect, Engine, EngineConfig, Event, LeaseKey, Offer, RelayPlan};
use std::collections::{BTreeMap, BTreeSet};

const DRAIN_MS: u64 = 3_000;

#[derive(Debug)]
pub enum WorkerTimer {
    Wake,
    CallTimeout(CallId),
    /// A send takes its turn on a connection.
    Begin(LeaseKey, u32),
    FinalDot(LeaseKey, u32),
    Reply(LeaseKey, u32),
    /// It comes back unsent.
    HandBack(LeaseKey, u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Send {
    Waiting,
    Begun,
    DotWritten,
}

pub struct Worker {
    engine: Engine,
    pub slots: u32,
    pub calls_open: BTreeSet<CallId>,
    leases: BTreeMap<LeaseKey, (BatchId, Fence)>,
    trust: BTreeMap<LeaseKey, u64>,
    /// Granted by an answer and not yet started.
    granted: BTreeSet<(BatchId, u32)>,
    sends: BTreeMap<(LeaseKey, u32), Send>,
    wake_at_ms: u64,
    last_key: u64,
    lease_call: Option<CallId>,
    is_gone: bool,
    is_relay_up: bool,
}

impl Worker {
    pub fn new(index: usize, slots: u32) -> Self {
        let engine = Engine::new(EngineConfig {
            instance: format!("w{index}"),
            slots,
            lanes: Vec::new(),
            reserve: BTreeMap::from([(LaneName::transactional(), 2)]),
            relays: vec![RelayPlan::default()],
            drain_timeout_ms: DRAIN_MS,
        });
        Self {
            engine,
            slots,
            calls_open: BTreeSet::new(),
            leases: BTreeMap::new(),
            trust: BTreeMap::new(),
            granted: BTreeSet::new(),
            sends: BTreeMap::new(),
            wake_at_ms: u64::MAX,
            last_key: 0,
            lease_call: None,
            is_gone: false,
            is_relay_up: false,
        }
    }

    pub fn is_gone(&self) -> bool {
        self.is_gone
    }

    pub fn describe(&self) -> String {
        format!(
            "gone {} leases {} used {} sends {}",
            self.is_gone,
            self.engine.leases_held(),
            self.engine.slots_used(),
            self.sends.len()
        )
    }

    pub fn crash(&mut self) {
        self.is_gone = true;
        self.sends.clear();
    }

    pub fn offer(&mut self, lease: Lease) -> Offer {
        self.last_key += 1;
        let key = LeaseKey(self.last_key);
        self.leases.insert(key, (lease.batch.clone(), lease.fence.clone()));
        Offer { key, lease, is_usable: true }
    }

    pub fn note_grants(&mut self, answers: &[LeaseAnswer]) {
        for answer in answers.iter().filter(|answer| answer.status == LeaseStatus::Held) {
            self.granted.extend(answer.granted.iter().map(|index| (answer.batch.clone(), *index)));
        }
    }

    pub fn sends(&self) -> usize {
        self.sends.len()
    }

    pub fn holds(&self) -> impl Iterator<Item = &(BatchId, Fence)> {
        self.leases.values()
    }

    /// The lease that a key stands for.
    pub fn lease(&self, key: LeaseKey) -> Option<&(BatchId, Fence)> {
        self.leases.get(&key)
    }

    /// What a crash journal would say: those whose final dot was not written.
    pub fn unwritten(&self) -> Vec<Fact> {
        let unwritten = self.sends.iter().filter(|(_, send)| **send != Send::DotWritten);
        let fact = |((key, index), _): (&(LeaseKey, u32), _)| {
            let (batch, fence) = self.leases.get(key)?.clone();
            Some(Fact { batch, fence, outcome: outcome(*index, OutcomeKind::NotWritten) })
        };
        unwritten.filter_map(fact).collect()
    }

    fn sends_of(&self, lease: LeaseKey, which: impl Fn(Send) -> bool) -> Vec<u32> {
        let of = self.sends.iter().filter(|((key, _), send)| *key == lease && which(**send));
        of.map(|((_, index), _)| *index).collect()
    }
}

fn outcome(index: u32, kind: OutcomeKind) -> Outcome {
    Outcome { index, kind, code: "250 2.0.0".into(), detail: String::new(), retry_after_ms: 0 }
}

impl World {
    pub fn tell(&mut self, worker: usize, event: Event) {
        if self.workers[worker].is_gone {
            return;
        }
        let boot = self.boot_ms(worker);
        let effects = self.workers[worker].engine.handle(boot, event);
        for effect in effects {
            self.perform(worker, effect);
        }
        self.check_worker(worker);
        let state = &mut self.workers[worker];
        let wake = state.engine.next_wake_ms(boot);
        if !state.is_gone && wake != u64::MAX {
            let in_ms = wake - boot;
            let at = self.now_ms + in_ms;
            // An earlier one that is under way already asks again.
            if at < state.wake_at_ms || state.wake_at_ms <= self.now_ms {
                state.wake_at_ms = at;
                self.at(in_ms, Happening::Worker(worker, WorkerTimer::Wake));
            }
        }
    }

    pub fn worker_relay(&mut self, worker: usize, is_up: bool) {
        self.workers[worker].is_relay_up = is_up;
        self.tell(worker, Event::Relay { index: 0, is_up });
    }

    pub fn drain_workers(&mut self) {
        for worker in 0..self.workers.len() {
            self.tell(worker, Event::Stop);
            self.tell(worker, Event::Stop);
        }
    }

    pub fn worker_timer(&mut self, worker: usize, timer: WorkerTimer) {
        if self.workers[worker].is_gone {
            return;
        }
        match timer {
            WorkerTimer::Wake => self.tell(worker, Event::Tick),
            WorkerTimer::CallTimeout(call) => {
                if self.workers[worker].calls_open.remove(&call) {
                    let random = self.random();
                    self.tell(worker, Event::CallFailed { call, refused: false, random });
                }
            }
            WorkerTimer::Begin(lease, index) if self.is_poison(worker, lease, index) => self.poisoned(worker),
            WorkerTimer::Begin(lease, index) => {
                if let Some(send) = self.workers[worker].sends.get_mut(&(lease, index)) {
                    *send = Send::Begun;
                    let to_dot = if self.chance(2) { self.below(4_000) } else { 5 + self.below(60) };
                    self.at(to_dot, Happening::Worker(worker, WorkerTimer::FinalDot(lease, index)));
                }
            }
            WorkerTimer::FinalDot(lease, index) => self.final_dot(worker, lease, index),
            WorkerTimer::Reply(lease, index) => self.reply(worker, lease, index),
            WorkerTimer::HandBack(lease, index) => {
                self.tell(worker, Event::Sent { lease, outcome: outcome(index, OutcomeKind::NotWritten) });
            }
        }
    }

    /// The senders' own check of the deadline, and what the store says of it.
    fn final_dot(&mut self, worker: usize, lease: LeaseKey, index: u32) {
        let boot = self.boot_ms(worker);
        let state = &mut self.workers[worker];
        let Some(send) = state.sends.get_mut(&(lease, index)) else { return };
        if boot >= state.trust.get(&lease).copied().unwrap_or_default() {
            return self.end_send(worker, lease, index, OutcomeKind::NotWritten);
        }
        *send = Send::DotWritten;
        let (batch, fence) = state.leases[&lease].clone();
        self.check_final_dot(&batch, &fence, index);
        *self.ledger.entry((batch, index)).or_default() += 1;
        let to_reply = if self.chance(2) { self.below(5_000) } else { 1 + self.below(30) };
        self.at(to_reply, Happening::Worker(worker, WorkerTimer::Reply(lease, index)));
    }

    fn reply(&mut self, worker: usize, lease: LeaseKey, index: u32) {
        let kind = match self.below(100) {
            _ if self.poison.is_some() => OutcomeKind::Accepted,
            0..88 => OutcomeKind::Accepted,
            88..95 => OutcomeKind::Deferred,
            95..98 => OutcomeKind::Rejected,
            _ => OutcomeKind::Unknown,
        };
        let (batch, _) = self.workers[worker].leases[&lease].clone();
        let is_delivered = match kind {
            OutcomeKind::Accepted => true,
            OutcomeKind::Unknown => self.chance(50),
            OutcomeKind::Deferred | OutcomeKind::Rejected | OutcomeKind::NotWritten => false,
        };
        if !is_delivered && let Some(count) = self.ledger.get_mut(&(batch, index)) {
            // The relay said no, so nothing was delivered by it.
            *count -= 1;
        }
        self.end_send(worker, lease, index, kind);
    }

    fn end_send(&mut self, worker: usize, lease: LeaseKey, index: u32, kind: OutcomeKind) {
        if self.workers[worker].sends.remove(&(lease, index)).is_some() {
            self.tell(worker, Event::Sent { lease, outcome: outcome(index, kind) });
        }
    }

    fn perform(&mut self, worker: usize, effect: Effect) {
        match effect {
            Effect::Call { id, call, timeout_ms } => {
                let state = &mut self.workers[worker];
                if let Call::Lease(_) = &call
                    && let Some(before) = state.lease_call.replace(id)
                {
                    state.calls_open.remove(&before);
                }
                self.send(worker, id, call, timeout_ms);
            }
            Effect::Trust { lease, until_ms } => {
                self.workers[worker].trust.insert(lease, until_ms);
            }
            Effect::StartSend { lease, index, .. } => self.start_send(worker, lease, index),
            Effect::Recall { lease } => self.give_back(worker, lease, |send| send == Send::Waiting),
            Effect::Cut { lease } => self.give_back(worker, lease, |send| send != Send::DotWritten),
            Effect::Forget { lease, owed: _ } => self.give_back(worker, lease, |send| send != Send::DotWritten),
            // This worker keeps no journal, and its relay is not limited.
            Effect::Told { .. } | Effect::Allow { .. } => {}
            Effect::Exit { leases_held } => {
                if leases_held > 0 {
                    self.fail("a worker ended with leases");
                }
                self.workers[worker].is_gone = true;
            }
        }
    }

    fn start_send(&mut self, worker: usize, lease: LeaseKey, index: u32) {
        let boot = self.boot_ms(worker);
        let state = &mut self.workers[worker];
        let (batch, _) = state.leases[&lease].clone();
        if !state.granted.remove(&(batch, index)) {
            self.fail("a send without a grant");
        }
        if boot >= state.trust.get(&lease).copied().unwrap_or_default() {
            self.fail("a send starts after the end of trust");
        }
        if state.sends.insert((lease, index), Send::Waiting).is_some() {
            self.fail("a recipient is sent to twice at once");
        }
        if !state.is_relay_up {
            state.sends.remove(&(lease, index));
            return self.at(1, Happening::Worker(worker, WorkerTimer::HandBack(lease, index)));
        }
        let wait = self.below(6);
        self.at(wait, Happening::Worker(worker, WorkerTimer::Begin(lease, index)));
    }

    fn give_back(&mut self, worker: usize, lease: LeaseKey, which: impl Fn(Send) -> bool) {
        for index in self.workers[worker].sends_of(lease, which) {
            self.workers[worker].sends.remove(&(lease, index));
            self.at(0, Happening::Worker(worker, WorkerTimer::HandBack(lease, index)));
        }
    }
}
