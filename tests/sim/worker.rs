//! Workers: the real engine and the real notes of the crash journal; processes that live on hosts, die and come back.

use crate::coverage::Point;
use crate::network::{Answer, Body, Envelope, Reply};
use crate::world::{Happening, Steer, Tx, TxId, World};
use postrider_common::ids::{BatchId, Fence, LaneName, WorkerId};
use postrider_common::lease::{Fact, LeaseStatus, Outcome, OutcomeKind};
use postrider_common::limits::FACTS_PER_CALL_MAX;
use postrider_common::mark::Marks;
use postrider_common::message::Recipient;
use postrider_common::payload;
use postrider_common::wire;
use postrider_worker::engine::{
    Call, CallId, Effect, Endpoint, Engine, EngineConfig, Event, Fetched, LeaseKey, Offer, RelayPlan,
};
use postrider_worker::journal::{self, Notes, Record};
use postrider_worker::trust::Trust;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const DRAIN_MS: u64 = 3_000;
/// Of a journal; none of the world gets there.
const JOURNAL_BYTES: usize = 256 * 1024;
/// Between two tries to tell what a journal says.
const TELL_AGAIN_MS: u64 = 300;
const TELL_TIMEOUT_MS: u64 = 2_000;
/// A drained worker of the fleet is started again after this: a rolling restart.
const ROLLING_MS: u64 = 200;

/// Where processes run one after the other, and what they leave.
#[derive(Debug, Default)]
pub struct Host {
    pub process: Option<usize>,
    /// Of dead processes, until told.
    journals: Vec<Vec<u8>>,
    boot: u64,
    /// Towards the masters, and from them.
    pub is_cut: [bool; 2],
    is_stopped: bool,
    /// What came while it was stopped.
    held: Vec<Happening>,
}

#[derive(Debug)]
pub enum WorkerEvent {
    Wake,
    CallTimeout(CallId),
    Answer(Box<Envelope>, Option<Reply>),
    Sent(LeaseKey, Outcome),
    Fetched(LeaseKey, Fetched),
    Probe,
    Tell,
}

#[derive(Debug)]
pub struct Held {
    batch: BatchId,
    fence: Fence,
    recipients: Vec<Recipient>,
    trust: Trust,
    /// The merge fields are at hand.
    has_fields: bool,
}

pub struct Worker {
    pub host: usize,
    pub id: WorkerId,
    pub slots: u32,
    engine: Engine,
    notes: Notes,
    journal: Vec<u8>,
    boot_base: u64,
    /// Thousandths: how fast its clock goes.
    pace: u64,
    calls_open: BTreeSet<CallId>,
    lease_call: Option<CallId>,
    pub leases: BTreeMap<LeaseKey, Held>,
    last_key: u64,
    wake_at_ms: u64,
    /// The master it calls.
    pub master: usize,
    /// How far it knows the store to be, and when it last told so and was answered.
    pub seen: Marks,
    pub told_ms: u64,
    pub is_gone: bool,
    telling: Option<Vec<Fact>>,
    tell_call: u64,
    pub queue: VecDeque<TxId>,
    pub idle: Vec<u64>,
    pub conns: BTreeSet<u64>,
    pub is_relay_up: bool,
    pub probe_ms: u64,
}

/// Calls that tell what a journal says are numbered apart from the engine's.
const TELL_CALLS: u64 = 1 << 40;

impl World {
    pub fn add_host(&mut self) {
        self.hosts.push(Host::default());
        self.start_worker(self.hosts.len() - 1);
    }

    pub fn start_worker(&mut self, host: usize) {
        if self.hosts[host].process.is_some() {
            return;
        }
        let index = self.workers.len();
        let instance = uuid::Uuid::from_u128((u128::from(self.seed) << 32) | index as u128);
        let id = WorkerId { name: format!("w{host}"), instance };
        let slots = self.mix.slots as u32;
        let engine = Engine::new(EngineConfig {
            instance: instance.simple().to_string(),
            slots,
            lanes: Vec::new(),
            reserve: BTreeMap::from([(LaneName::transactional(), 2)]),
            relays: vec![RelayPlan { connections: self.mix.connections as u32, ..RelayPlan::default() }],
            drain_timeout_ms: DRAIN_MS,
        });
        let boot = format!("boot-{}", self.hosts[host].boot);
        let files = self.hosts[host].journals.iter().map(Vec::as_slice);
        let facts = journal::facts_in_memory(files, &boot);
        let mut journal = Vec::new();
        let is_begun = journal::begin(&id.instance.to_string(), &boot, JOURNAL_BYTES as u64).write(&mut journal);
        debug_assert!(is_begun, "the first record is small");
        self.workers.push(Worker {
            host,
            id,
            slots,
            engine,
            notes: Notes::default(),
            journal,
            boot_base: 1_000_000 * (index as u64 + 1),
            pace: if self.mix.is_drifting { self.random.between(975, 1_025) } else { 1_000 },
            calls_open: BTreeSet::new(),
            lease_call: None,
            leases: BTreeMap::new(),
            last_key: 0,
            wake_at_ms: u64::MAX,
            master: self.random.below(self.masters.len() as u64) as usize,
            seen: Marks::default(),
            told_ms: 0,
            is_gone: false,
            telling: Some(facts),
            tell_call: TELL_CALLS,
            queue: VecDeque::new(),
            idle: Vec::new(),
            conns: BTreeSet::new(),
            is_relay_up: false,
            probe_ms: 0,
        });
        self.hosts[host].process = Some(index);
        self.after(1, Happening::Worker(index, WorkerEvent::Tell));
    }

    /// Boot time of a worker.
    pub fn boot_ms(&self, worker: usize) -> u64 {
        let state = &self.workers[worker];
        state.boot_base + self.now_ms * state.pace / 1_000
    }

    pub fn stop_worker(&mut self, host: usize, is_stopped: bool) {
        if is_stopped {
            self.fault("worker stopped");
        }
        self.hosts[host].is_stopped = is_stopped;
        if !is_stopped {
            let held = std::mem::take(&mut self.hosts[host].held);
            held.into_iter().for_each(|happening| self.after(0, happening));
        }
    }

    /// Keeps what a stopped process cannot take. True: it is kept.
    pub fn holds_back(&mut self, worker: usize, happening: impl FnOnce() -> Happening) -> bool {
        let host = &mut self.hosts[self.workers[worker].host];
        let is_held = host.is_stopped && host.process == Some(worker);
        if is_held {
            host.held.push(happening());
        }
        is_held
    }

    pub fn crash(&mut self, host: usize, back_in_ms: u64) {
        let Some(worker) = self.hosts[host].process else { return };
        self.fault("worker crash");
        self.ends(worker);
        if self.mix.reboots && self.random.below(2) == 0 {
            self.fault("host reboot");
            let at = self.random.below(JOURNAL_BYTES as u64 / 16) as usize;
            let host = &mut self.hosts[host];
            host.boot += 1;
            // What the disk did not get is zero.
            if let Some(last) = host.journals.last_mut() {
                last[at..].fill(0);
            }
            if !host.journals.is_empty() {
                self.reach(Point::JournalFromAnotherBoot);
            }
        }
        self.after(back_in_ms, Happening::StartWorker(host));
    }

    /// The process is gone; its connections close, its journal stays.
    fn ends(&mut self, worker: usize) {
        let state = &mut self.workers[worker];
        state.is_gone = true;
        let conns = std::mem::take(&mut state.conns);
        let mut journal = std::mem::take(&mut state.journal);
        let (host, owes) = (state.host, !state.notes.is_empty());
        if journal.len() > JOURNAL_BYTES {
            self.fail("a journal outgrew its file".to_owned());
        }
        if owes {
            journal.resize(JOURNAL_BYTES, 0);
            self.hosts[host].journals.push(journal);
        }
        let host = &mut self.hosts[host];
        (host.process, host.is_stopped) = (None, false);
        host.held.clear();
        conns.into_iter().for_each(|conn| self.client_closes(conn));
    }

    /// An operator, or a signal, ends a worker in good order.
    pub fn drain(&mut self, host: usize) {
        let Some(worker) = self.hosts[host].process else { return };
        if self.random.below(3) == 0 && !self.is_healed {
            let instance = self.workers[worker].id.instance.to_string();
            return self.steer(Steer::DrainWorker(instance));
        }
        if self.workers[worker].telling.is_some() {
            self.ends(worker);
        } else {
            self.tell(worker, Event::Stop);
        }
    }

    pub fn worker_event(&mut self, worker: usize, event: WorkerEvent) {
        if self.workers[worker].is_gone {
            return;
        }
        if self.hosts[self.workers[worker].host].is_stopped {
            let host = self.workers[worker].host;
            return self.hosts[host].held.push(Happening::Worker(worker, event));
        }
        match event {
            WorkerEvent::Wake => self.tell(worker, Event::Tick),
            WorkerEvent::CallTimeout(call) => self.call_failed(worker, call, false),
            WorkerEvent::Answer(envelope, answer) => self.answer_arrives(*envelope, answer),
            WorkerEvent::Sent(lease, outcome) => self.tell(worker, Event::Sent { lease, outcome }),
            WorkerEvent::Fetched(lease, fetched) => {
                if let Some(held) = self.workers[worker].leases.get_mut(&lease) {
                    held.has_fields |= fetched == Fetched::Done;
                }
                self.tell(worker, Event::Fetched { lease, fetched });
            }
            WorkerEvent::Probe => self.probe(worker),
            WorkerEvent::Tell => self.tell_journal(worker),
        }
    }

    /// Before it asks for work: what the journals of this host say.
    fn tell_journal(&mut self, worker: usize) {
        let state = &mut self.workers[worker];
        let Some(facts) = &state.telling else { return };
        if facts.is_empty() {
            state.telling = None;
            let host = state.host;
            self.hosts[host].journals.clear();
            return self.probe(worker);
        }
        let some = facts.iter().take(FACTS_PER_CALL_MAX).cloned().collect();
        state.tell_call += 1;
        let call = CallId(state.tell_call);
        state.calls_open.insert(call);
        let body = self.body(worker, Call::Facts(some));
        self.after(TELL_TIMEOUT_MS, Happening::Worker(worker, WorkerEvent::CallTimeout(call)));
        self.send(worker, call, body);
    }

    fn journal_told(&mut self, worker: usize) {
        self.reach(Point::JournalTold);
        let Some(facts) = &mut self.workers[worker].telling else { return };
        let told: Vec<Fact> = facts.drain(..facts.len().min(FACTS_PER_CALL_MAX)).collect();
        for fact in told {
            let is_it = |tx: &&mut Tx| {
                tx.batch == fact.batch && tx.fence == fact.fence.counter && tx.index == fact.outcome.index
            };
            // What a journal lost with its host is told as less than it was.
            let is_whole = fact.outcome.kind == OutcomeKind::Accepted;
            let told_ms = is_whole.then_some(self.now_ms);
            self.txs.iter_mut().filter(is_it).for_each(|tx| tx.told_ms = tx.told_ms.or(told_ms));
        }
        self.tell_journal(worker);
    }

    fn call_failed(&mut self, worker: usize, call: CallId, refused: bool) {
        let (random, masters) = (self.random.next(), self.masters.len());
        let state = &mut self.workers[worker];
        if !state.calls_open.remove(&call) {
            return;
        }
        state.master = (state.master + 1) % masters;
        if call.0 >= TELL_CALLS {
            return self.after(TELL_AGAIN_MS, Happening::Worker(worker, WorkerEvent::Tell));
        }
        self.tell(worker, Event::CallFailed { call, refused, random });
    }

    fn answer_arrives(&mut self, envelope: Envelope, reply: Option<Reply>) {
        let Envelope { worker, call, sent_at_boot_ms: sent_at_ms, .. } = envelope;
        let Some(Reply { answer, seen }) = reply else { return self.call_failed(worker, call, false) };
        if let Answer::Refused = answer {
            self.fail("a call of a worker was refused for its contents".to_owned());
            return self.call_failed(worker, call, true);
        }
        if !self.workers[worker].calls_open.remove(&call) {
            return;
        }
        let state = &mut self.workers[worker];
        state.told_ms = (sent_at_ms - state.boot_base) * 1_000 / state.pace;
        state.seen.merge(&wire::marks(&seen).expect("a master's answer can be read"));
        if call.0 >= TELL_CALLS {
            return self.journal_told(worker);
        }
        let event = match answer {
            Answer::Leased { leases, held_ms, drain } => {
                let offers = leases.into_iter().map(|lease| {
                    let endpoint = self.endpoint_of(&lease.lane);
                    self.workers[worker].offer(lease, endpoint)
                });
                let offers = offers.collect();
                Event::Leased { call, sent_at_ms, held_ms, offers, drain }
            }
            Answer::Reported { answers, drain } => {
                if answers.iter().any(|answer| answer.status == LeaseStatus::InIntent) {
                    self.print.add(1);
                }
                Event::Answered { call, sent_at_ms, answers, drain }
            }
            Answer::Shared(shares) => Event::Shared { call, sent_at_ms, shares },
            Answer::Facts(statuses) => Event::FactsAnswered { call, statuses },
            Answer::Refused => return,
        };
        self.tell(worker, event);
    }

    pub fn tell(&mut self, worker: usize, event: Event) {
        if self.workers[worker].is_gone {
            return;
        }
        let boot = self.boot_ms(worker);
        let effects = self.workers[worker].engine.handle(boot, event);
        effects.into_iter().for_each(|effect| self.perform(worker, effect));
        let state = &mut self.workers[worker];
        let wake = state.engine.next_wake_ms(boot);
        if state.is_gone || wake == u64::MAX {
            return;
        }
        let in_ms = ((wake - boot) * 1_000).div_ceil(state.pace);
        let at = self.now_ms + in_ms;
        // An earlier one that is under way already asks again.
        if at < state.wake_at_ms || state.wake_at_ms <= self.now_ms {
            state.wake_at_ms = at;
            self.after(in_ms, Happening::Worker(worker, WorkerEvent::Wake));
        }
    }

    fn perform(&mut self, worker: usize, effect: Effect) {
        match effect {
            Effect::Call { id, call, timeout_ms } => self.call(worker, id, call, timeout_ms),
            Effect::Trust { lease, until_ms } => {
                if let Some(held) = self.workers[worker].leases.get(&lease) {
                    held.trust.set(until_ms);
                }
            }
            Effect::Fetch { lease, indexes: _ } => self.fetch(worker, lease),
            Effect::Breaker { endpoint: _, is_open } => self.breaker(is_open),
            // No relay of the world has a limit that workers share.
            Effect::Allow { .. } => {}
            Effect::StartSend { lease, index, relay: _ } => self.start_send(worker, lease, index),
            Effect::Recall { lease } => self.recall(worker, lease),
            Effect::Cut { lease } => self.cut_sends(worker, lease),
            Effect::Forget { lease, owed } => {
                self.cut_sends(worker, lease);
                self.note(worker, |notes| notes.over(lease.0, owed));
            }
            Effect::Told { lease, indexes } => {
                let is_it = |tx: &&mut Tx| tx.worker == worker && tx.lease == lease && indexes.contains(&tx.index);
                let told_ms = self.now_ms;
                self.txs.iter_mut().filter(is_it).for_each(|tx| tx.told_ms = tx.verdict.map(|_| told_ms));
                self.note(worker, |notes| notes.told(lease.0, indexes));
            }
            Effect::Exit { leases_held } => self.exits(worker, leases_held),
        }
    }

    fn call(&mut self, worker: usize, id: CallId, call: Call, timeout_ms: u64) {
        let state = &mut self.workers[worker];
        if let Call::Lease(_) = &call
            && let Some(before) = state.lease_call.replace(id)
        {
            state.calls_open.remove(&before);
        }
        state.calls_open.insert(id);
        match &call {
            Call::Checkpoint(reports) => self.note(worker, |notes| notes.asked(reports)),
            Call::Release { abandon: true, .. } => self.reach(Point::DrainAbandoned),
            Call::Release { delay_ms: 1.., .. } => self.reach(Point::LeasePostponed),
            Call::Lease(_) | Call::Finish(_) | Call::Release { .. } | Call::Facts(_) | Call::ShareRelays { .. } => {}
        }
        let in_ms = (timeout_ms * 1_000).div_ceil(self.workers[worker].pace);
        self.after(in_ms, Happening::Worker(worker, WorkerEvent::CallTimeout(id)));
        let body: Body = self.body(worker, call);
        self.send(worker, id, body);
    }

    pub fn note(&mut self, worker: usize, act: impl FnOnce(&mut Notes) -> Vec<Record>) {
        let state = &mut self.workers[worker];
        for record in act(&mut state.notes) {
            record.write(&mut state.journal);
        }
    }

    fn exits(&mut self, worker: usize, leases_held: usize) {
        if leases_held > 0 && !self.mix.may_lose_leases() {
            self.fail(format!("a worker ended with {leases_held} leases"));
        }
        self.reach(Point::WorkerDrained);
        self.ends(worker);
        let host = self.workers[worker].host;
        if !self.is_ending && (host as u64) < self.mix.workers {
            self.after(ROLLING_MS, Happening::StartWorker(host));
        }
    }

    fn start_send(&mut self, worker: usize, lease: LeaseKey, index: u32) {
        let Some(held) = self.workers[worker].leases.get(&lease) else { return };
        if !held.has_fields {
            return self.fail(format!("somebody of {} is sent to before the fields are there", held.batch));
        }
        let recipient = &held.recipients[index as usize];
        let tx = Tx {
            worker,
            lease,
            batch: held.batch.clone(),
            fence: held.fence.counter,
            index,
            key: recipient.key.clone(),
            address: recipient.address.to_string(),
            is_retried: false,
            is_dot_written: false,
            is_accepted: false,
            verdict: None,
            told_ms: None,
        };
        if self.is_poison(&tx.key) {
            let (host, back_in_ms) = (self.workers[worker].host, 100 + self.random.below(3_000));
            // It never gets as far as a connection.
            self.txs.push(tx);
            let in_ms = self.random.below(20);
            return self.after(in_ms, Happening::Crash { host, back_in_ms });
        }
        self.txs.push(tx);
        let id = self.txs.len() - 1;
        self.workers[worker].queue.push_back(id);
        self.assign(worker);
    }

    fn is_poison(&mut self, key: &str) -> bool {
        let Some((poison, ended)) = self.poison.as_mut().filter(|(poison, _)| poison == key) else { return false };
        debug_assert_eq!(poison, key);
        *ended += 1;
        true
    }

    /// The end of a transmission, as the loop is told of it.
    pub fn end_send(&mut self, id: TxId, kind: OutcomeKind, code: &str, retry_after_ms: u64) {
        let tx = &mut self.txs[id];
        tx.verdict = Some(kind);
        let (worker, lease, is_noted) = (tx.worker, tx.lease, tx.is_dot_written || kind != OutcomeKind::NotWritten);
        let outcome = Outcome { index: tx.index, kind, code: code.to_owned(), detail: String::new(), retry_after_ms };
        if is_noted {
            self.note(worker, |notes| notes.ended(lease.0, &outcome));
        }
        self.after(0, Happening::Worker(worker, WorkerEvent::Sent(lease, outcome)));
    }
}

impl Worker {
    fn offer(&mut self, lease: postrider_common::lease::Lease, endpoint: Option<Endpoint>) -> Offer {
        self.last_key += 1;
        let key = LeaseKey(self.last_key);
        let recipients = payload::decode(&lease.payload).expect("a payload can be read");
        self.notes.leased(key.0, &lease.batch, &lease.fence);
        let (batch, fence) = (lease.batch.clone(), lease.fence.clone());
        self.leases
            .insert(key, Held { batch, fence, recipients, trust: Trust::default(), has_fields: endpoint.is_none() });
        Offer { key, lease, is_usable: true, endpoint }
    }

    pub fn trusts(&self, lease: LeaseKey, boot_ms: u64) -> bool {
        self.leases.get(&lease).is_some_and(|held| held.trust.holds(boot_ms))
    }
}
