//! A world in virtual time: the store's model, workers, a network with faults, and a relay with a ledger.

mod judge;
mod network;
mod poison;
mod worker;

use postrider_common::backoff::RetryPolicy;
use postrider_common::campaign::OnUnknown;
use postrider_common::ids::{BatchId, DefinitionHash, Fence, LaneName, RequestId, RunId, SiteName};
use postrider_common::lease::Fact;
use postrider_common::pace::{Limit, Limits, Pace};
use postrider_store::api::{AddBatches, ClaimSplit, NewBatch, NewRun, Reclaim};
use postrider_store::embedded::model::Model;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use worker::{Worker, WorkerTimer};

pub const TTL_MS: u64 = 2_000;
pub const GRACE_MS: u64 = 500;
pub const WINDOW: u32 = 10;
/// The store's clock at the start of the world; boot clocks begin near 0.
const EPOCH_MS: u64 = 1_800_000_000_000;
/// Faults happen until here; from then on everything must come to its end.
const FAULTS_END_MS: u64 = 20_000;
/// Most of the sending happens until here, so faults begin by then.
const BUSY_MS: u64 = 3_000;
const END_MS: u64 = 600_000;

#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Of requests, and of answers.
    pub lose_percent: u64,
    /// Of requests: delivered once more, much later.
    pub repeat_percent: u64,
    pub crashes: u32,
    pub partitions: u32,
    pub pauses: u32,
    pub relay_falls: u32,
}

#[derive(Debug)]
pub enum Happening {
    Worker(usize, WorkerTimer),
    Request(network::Envelope),
    Answer(network::Envelope),
    Reclaim,
    Crash,
    /// What the journal of a dead worker says.
    Journal(Vec<Fact>),
    Partition(usize, bool),
    Pause(bool),
    Relay(usize, bool),
    Drain,
}

pub struct World {
    pub now_ms: u64,
    pub steps: u64,
    seed: u64,
    faults: Faults,
    random: u64,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    happenings: Vec<Option<Happening>>,
    pub model: Model,
    /// Every other world has some.
    pub limits: Limits,
    pub runs: Vec<RunId>,
    pub workers: Vec<Worker>,
    /// Finals dots that reached the relay, by batch and index.
    pub ledger: BTreeMap<(BatchId, u32), u32>,
    /// The newest fence of each batch.
    pub fences: BTreeMap<BatchId, Fence>,
    partitioned: Vec<bool>,
    pub ended_at_ms: u64,
    is_over: bool,
    pub poison: Option<poison::Poison>,
}

/// Of every other world: lower than what its workers could do.
fn limits(seed: u64) -> Limits {
    let mut limits = Limits::default();
    if seed.is_multiple_of(2) {
        let pace = "100/s".parse().ok().map(|rate| Pace { rate, burst: 5 + (seed % 20) as u32 });
        let concurrency = (seed.is_multiple_of(4)).then_some(3 + (seed % 10) as u32);
        limits.lane(LaneName::bulk(), Limit { pace, concurrency });
    }
    limits
}

impl World {
    pub fn new(seed: u64, faults: Faults) -> Self {
        let mut world = Self::empty(seed, faults);
        for (name, lane, batches, size) in [
            ("big", LaneName::bulk(), 12, 100),
            ("small", LaneName::transactional(), 5, 1),
            ("mid", LaneName::bulk(), 3, 25),
        ] {
            let sizes = vec![size; batches];
            world.add_run(name, lane, &sizes);
        }
        for _ in 0..3 {
            world.add_worker();
        }
        world.plan_faults();
        world.at(1, Happening::Reclaim);
        world
    }

    fn empty(seed: u64, faults: Faults) -> Self {
        Self {
            now_ms: 1_000,
            steps: 0,
            seed,
            faults,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            queue: BinaryHeap::new(),
            happenings: Vec::new(),
            model: Model::default(),
            limits: limits(seed),
            runs: Vec::new(),
            workers: Vec::new(),
            ledger: BTreeMap::new(),
            fences: BTreeMap::new(),
            partitioned: Vec::new(),
            ended_at_ms: 0,
            is_over: false,
            poison: None,
        }
    }

    /// xorshift64*.
    pub fn random(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        (self.random() >> 11) % bound.max(1)
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn store_now(&self) -> i64 {
        (EPOCH_MS + self.now_ms) as i64
    }

    /// Boot time of a worker; each counts from another instant.
    pub fn boot_ms(&self, worker: usize) -> u64 {
        self.now_ms + 1_000_000 * (worker as u64 + 1)
    }

    pub fn at(&mut self, in_ms: u64, happening: Happening) {
        let sequence = self.happenings.len();
        self.happenings.push(Some(happening));
        self.queue.push(Reverse((self.now_ms + in_ms, sequence as u64, sequence)));
    }

    pub fn faults_are_on(&self) -> bool {
        self.now_ms < FAULTS_END_MS
    }

    pub fn is_partitioned(&self, worker: usize) -> bool {
        self.partitioned.get(worker).copied().unwrap_or(false)
    }

    pub fn deliveries(&self) -> u64 {
        self.ledger.values().map(|count| u64::from(*count)).sum()
    }

    /// Second transmissions, by reason: reply lost, outcome not recorded.
    pub fn resent(&self) -> (u64, u64) {
        let records = self.runs.iter().filter_map(|run| self.model.run(run));
        records.fold((0, 0), |sum, run| (sum.0 + run.resent_reply_lost, sum.1 + run.resent_outcome_not_recorded))
    }

    fn add_run(&mut self, name: &str, lane: LaneName, sizes: &[u32]) {
        let id = RunId::derive(name, "1");
        let request: RequestId = format!("split-{name}").parse().unwrap();
        let definition = DefinitionHash::of(name.as_bytes());
        let now = self.store_now();
        self.model.create_run(
            now,
            NewRun {
                id: id.clone(),
                fingerprint: String::new(),
                campaign: name.to_owned(),
                requires_campaign: false,
                lane,
                on_unknown: OnUnknown::Resend,
                retry: RetryPolicy { base_ms: 400, cap_ms: 2_000, ttl_ms: 3_600_000 },
                definition,
                definition_bytes: Vec::new(),
                sender_domain: "acme.example".into(),
                audience: Vec::new(),
                nominal_at_ms: None,
            },
        );
        let split = self.model.claim_split(now, ClaimSplit { request, nonce: 1, ttl_ms: 60_000 }).unwrap();
        let site = SiteName::other();
        let batch =
            |(sequence, count): (u64, &u32)| NewBatch { sequence, site: site.clone(), count: *count, payload: vec![1] };
        let add = AddBatches {
            run: id.clone(),
            fence: split.fence,
            cursor: 0,
            cursor_next: 1,
            batches: (1u64..).zip(sizes).map(batch).collect(),
            open: Vec::new(),
            bad_rows: 0,
            repeated_rows: 0,
            bad_row_samples: Vec::new(),
            complete: true,
            ttl_ms: 60_000,
        };
        self.model.add_batches(now, add);
        self.runs.push(id);
    }

    pub fn add_worker(&mut self) {
        let index = self.workers.len();
        let slots = 4 + self.below(40) as u32;
        self.partitioned.push(false);
        self.workers.push(Worker::new(index, slots));
        self.at(1, Happening::Relay(index, true));
    }

    fn plan_faults(&mut self) {
        for _ in 0..self.faults.crashes {
            let at = 50 + self.below(BUSY_MS);
            self.at(at, Happening::Crash);
        }
        for _ in 0..self.faults.partitions {
            let (at, worker) = (50 + self.below(BUSY_MS), self.below(3) as usize);
            let length = 100 + self.below(3 * TTL_MS);
            self.at(at, Happening::Partition(worker, true));
            self.at(at + length, Happening::Partition(worker, false));
        }
        for _ in 0..self.faults.pauses {
            let (at, length) = (50 + self.below(BUSY_MS), 50 + self.below(2_000));
            self.at(at, Happening::Pause(true));
            self.at(at + length, Happening::Pause(false));
        }
        for _ in 0..self.faults.relay_falls {
            let (at, length, worker) = (50 + self.below(BUSY_MS), 50 + self.below(2_000), self.below(3) as usize);
            self.at(at, Happening::Relay(worker, false));
            self.at(at + length, Happening::Relay(worker, true));
        }
    }

    /// Until every run has ended and every worker has drained.
    pub fn run(&mut self) {
        while let Some(Reverse((at, _, index))) = self.queue.pop() {
            assert!(at < END_MS, "seed {}: it does not come to an end: {}", self.seed, self.describe());
            self.now_ms = at;
            self.steps += 1;
            let Some(happening) = self.happenings[index].take() else { continue };
            self.happen(happening);
            if self.ended_at_ms == 0 && self.steps.is_multiple_of(50) && self.has_ended() {
                self.ended_at_ms = at;
            }
            if !self.is_over && !self.faults_are_on() && self.has_ended() {
                self.is_over = true;
                self.at(1, Happening::Drain);
            }
            if self.is_over && self.workers.iter().all(Worker::is_gone) {
                return;
            }
        }
    }

    fn has_ended(&self) -> bool {
        let pending = |run: &RunId| self.model.run(run).is_some_and(|record| record.recipients.pending > 0);
        !self.runs.iter().any(pending)
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Worker(index, timer) => self.worker_timer(index, timer),
            Happening::Request(envelope) => self.request_arrives(envelope),
            Happening::Answer(envelope) => self.answer_arrives(envelope),
            Happening::Reclaim => {
                let reclaim = Reclaim { limit: 100, ttl_ms: TTL_MS, doubt_grace_ms: GRACE_MS, outage_gap_ms: 10_000 };
                let now = self.store_now();
                self.model.reclaim(now, reclaim);
                if !(self.is_over && self.workers.iter().all(Worker::is_gone)) {
                    self.at(250, Happening::Reclaim);
                }
            }
            Happening::Crash => {
                let alive: Vec<usize> =
                    (0..self.workers.len()).filter(|index| !self.workers[*index].is_gone()).collect();
                if let Some(victim) = alive.get(self.below(alive.len() as u64) as usize).copied() {
                    self.workers[victim].crash();
                    self.add_worker();
                }
            }
            Happening::Journal(facts) => {
                let now = self.store_now();
                self.model.facts(now, (facts, 0));
            }
            Happening::Partition(worker, is_cut) => self.partitioned[worker] = is_cut,
            Happening::Pause(is_paused) => {
                let run = self.runs[0].clone();
                let now = self.store_now();
                let _ = if is_paused { self.model.pause_run(now, run) } else { self.model.resume_run(now, run) };
            }
            Happening::Relay(worker, is_up) => self.worker_relay(worker, is_up),
            Happening::Drain => self.drain_workers(),
        }
    }

    pub fn fail(&self, why: &str) -> ! {
        panic!("seed {} at {} ms, step {}: {why}", self.seed, self.now_ms, self.steps)
    }

    fn describe(&self) -> String {
        let counts: Vec<_> =
            self.runs.iter().filter_map(|run| self.model.run(run)).map(|run| (run.recipients, run.batches)).collect();
        format!("{counts:?} workers {:?}", self.workers.iter().map(Worker::describe).collect::<Vec<_>>())
    }
}
