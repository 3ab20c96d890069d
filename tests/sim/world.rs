//! A world in virtual time: everything that happens is in one queue; masters are the real ones, as tasks that share it.

use crate::coverage::{Coverage, Point};
use crate::endpoint::FieldsEndpoint;
use crate::master::{Inbound, MasterNode};
use crate::mix::{BUSY_MS, CONVERGE_MS, FAULTS_END_MS, Mix};
use crate::network::Envelope;
use crate::people::Submission;
use crate::random::{Print, Random};
use crate::relay::{Bytes, Conn};
use crate::store::StoreWorld;
use crate::time::Time;
use crate::worker::{Host, Worker, WorkerEvent};
use postrider_common::ids::{BatchId, RunId};
use postrider_common::lease::OutcomeKind;
use postrider_master::storage::Storage;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::mpsc;

/// Of one seed; a healthy one ends after some thousands.
const EVENTS_MAX: u64 = 1_000_000;

pub type TxId = usize;

/// One transmission: a send that was started.
#[derive(Debug)]
pub struct Tx {
    pub worker: usize,
    pub lease: postrider_worker::engine::LeaseKey,
    pub batch: BatchId,
    pub fence: u64,
    pub index: u32,
    pub key: String,
    pub address: String,
    pub is_retried: bool,
    pub is_dot_written: bool,
    pub is_accepted: bool,
    /// What the worker made of it.
    pub verdict: Option<OutcomeKind>,
    /// When a master had taken the verdict.
    pub told_ms: Option<u64>,
}

impl Tx {
    /// What it was started under.
    pub fn intent(&self) -> (&BatchId, usize, u64) {
        (&self.batch, self.index as usize, self.fence)
    }
}

#[derive(Debug)]
pub enum Happening {
    Worker(usize, WorkerEvent),
    Request(Envelope),
    ToServer(u64, Bytes),
    ToClient(u64, Bytes),
    ConnTimeout(u64, u64),
    Submit(usize),
    Steer(Steer),
    Crash { host: usize, back_in_ms: u64 },
    StartWorker(usize),
    StopWorker(usize, bool),
    Drain(usize),
    CrashMaster { master: usize, back_in_ms: u64 },
    StartMaster(usize),
    StopMaster(usize, bool),
    CutMaster(usize, bool),
    Partition { host: usize, towards: bool, is_cut: bool },
    Relay(bool),
    Store(bool),
    RollBack,
    ClockStep(i64),
    Heal,
    Look,
}

/// What an operator does.
#[derive(Debug, Clone)]
pub enum Steer {
    Pause(RunId),
    Resume(RunId),
    Cancel(RunId),
    PauseLane(&'static str),
    ResumeLane(&'static str),
    DrainWorker(String),
    /// Of all mail, or of that to many.
    Suppress {
        address: String,
        is_of_all: bool,
    },
}

pub struct World {
    pub seed: u64,
    pub mix: Mix,
    pub time: Time,
    pub now_ms: u64,
    pub random: Random,
    pub print: Print,
    pub coverage: Coverage,
    pub events: u64,
    pub faults: BTreeMap<&'static str, u64>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    last_happening: u64,
    pub store: Arc<Mutex<StoreWorld>>,
    pub storage: Storage,
    pub masters: Vec<MasterNode>,
    pub hosts: Vec<Host>,
    pub workers: Vec<Worker>,
    pub conns: BTreeMap<u64, Conn>,
    pub last_conn: u64,
    pub txs: Vec<Tx>,
    /// Who is not to be sent to any more: whether of all mail, and since when that is acknowledged.
    pub suppressed: BTreeMap<String, (bool, Option<u64>)>,
    /// Who ends workers, and how many he ended.
    pub poison: Option<(String, u32)>,
    pub submissions: Vec<Submission>,
    pub endpoint: Option<FieldsEndpoint>,
    pub is_relay_down: bool,
    pub is_healed: bool,
    pub is_ending: bool,
    /// All that happens is printed.
    is_traced: bool,
    pub inbox: mpsc::UnboundedSender<Inbound>,
    arrivals: mpsc::UnboundedReceiver<Inbound>,
    pub broken: Option<String>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mix = Mix::draw(&mut random);
        let time = Time::begin();
        let store = StoreWorld::new(time, &mix, Random::new(random.next()));
        let (inbox, arrivals) = mpsc::unbounded_channel();
        let mut world = Self {
            seed,
            time,
            now_ms: 0,
            random,
            print: Print::default(),
            coverage: Coverage::default(),
            events: 0,
            faults: BTreeMap::new(),
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            last_happening: 0,
            store,
            storage: Storage::in_memory(),
            masters: Vec::new(),
            hosts: Vec::new(),
            workers: Vec::new(),
            conns: BTreeMap::new(),
            last_conn: 0,
            txs: Vec::new(),
            suppressed: BTreeMap::new(),
            poison: None,
            submissions: Vec::new(),
            endpoint: FieldsEndpoint::draw(seed, mix.is_calm),
            is_relay_down: false,
            is_healed: false,
            is_ending: false,
            is_traced: std::env::var_os("POSTRIDER_TRACE").is_some(),
            inbox,
            arrivals,
            broken: None,
            mix,
        };
        (0..world.mix.masters).for_each(|_| world.add_master());
        (0..world.mix.workers).for_each(|_| world.add_host());
        world.people();
        world.plan();
        world
    }

    pub fn store(&self) -> MutexGuard<'_, StoreWorld> {
        self.store.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub fn after(&mut self, in_ms: u64, happening: Happening) {
        self.last_happening += 1;
        self.happenings.insert(self.last_happening, happening);
        self.queue.push(Reverse((self.now_ms + in_ms, self.last_happening)));
    }

    pub fn is_hostile(&self) -> bool {
        !self.is_healed
    }

    pub fn fault(&mut self, kind: &'static str) {
        *self.faults.entry(kind).or_default() += 1;
    }

    pub fn fail(&mut self, why: String) {
        let at = self.now_ms;
        self.broken.get_or_insert_with(|| format!("at {at} ms: {why}"));
    }

    /// Until everything has come to its end, or a rule is broken.
    pub async fn run(&mut self) {
        while self.broken.is_none() && !self.is_over() {
            if self.events > EVENTS_MAX {
                self.fail("it never comes to rest".to_owned());
            }
            let Some(Reverse((at, _))) = self.queue.peek().copied() else { break };
            let arrived = tokio::select! {
                biased;
                arrived = self.arrivals.recv() => arrived,
                () = tokio::time::sleep_until(self.time.at(at)) => None,
            };
            self.now_ms = self.time.now_ms();
            match arrived {
                Some(inbound) => self.arrived(inbound),
                None => self.next(),
            }
            let broken = self.store().rules.broken.take();
            if let Some(why) = broken {
                self.fail(why);
            }
        }
        self.masters.iter_mut().for_each(MasterNode::end);
    }

    fn next(&mut self) {
        while let Some(Reverse((at, id))) = self.queue.peek().copied()
            && at <= self.now_ms
        {
            self.queue.pop();
            let Some(happening) = self.happenings.remove(&id) else { continue };
            self.events += 1;
            self.print.add(at);
            self.print.add(id);
            if self.is_traced {
                eprintln!("{at} {happening:?}");
            }
            self.handle(happening);
        }
    }

    fn arrived(&mut self, inbound: Inbound) {
        self.events += 1;
        self.print.add(self.now_ms);
        if self.is_traced {
            eprintln!("{} {inbound:?}", self.now_ms);
        }
        self.answered(inbound);
    }

    fn handle(&mut self, happening: Happening) {
        match happening {
            Happening::Worker(worker, event) => self.worker_event(worker, event),
            Happening::Request(envelope) => self.request_arrives(envelope),
            Happening::ToServer(conn, bytes) => self.server_reads(conn, bytes),
            Happening::ToClient(conn, bytes) => self.client_reads(conn, bytes),
            Happening::ConnTimeout(conn, phase) => self.conn_timeout(conn, phase),
            Happening::Submit(submission) => self.submit(submission),
            Happening::Steer(steer) => self.steer(steer),
            Happening::Crash { host, back_in_ms } => self.crash(host, back_in_ms),
            Happening::StartWorker(host) => self.start_worker(host),
            Happening::StopWorker(host, is_stopped) => self.stop_worker(host, is_stopped),
            Happening::Drain(host) => self.drain(host),
            Happening::CrashMaster { master, back_in_ms } => self.crash_master(master, back_in_ms),
            Happening::StartMaster(master) => self.start_master(master),
            Happening::StopMaster(master, is_stopped) => self.stop_master(master, is_stopped),
            Happening::CutMaster(master, is_cut) => self.cut_master(master, is_cut),
            Happening::Partition { host, towards, is_cut } => self.partition(host, towards, is_cut),
            Happening::Relay(is_down) => self.relay_falls(is_down),
            Happening::Store(is_down) => {
                if is_down {
                    self.fault("store restart");
                    self.store().falls();
                } else {
                    self.store().restart();
                }
            }
            Happening::RollBack => self.roll_back(),
            Happening::ClockStep(ms) => {
                self.fault("clock step");
                self.store().offset_ms += ms;
            }
            Happening::Heal => self.heal(),
            Happening::Look => self.look(),
        }
    }

    /// A span of time in which something is wrong, twice as a rule.
    fn span(&mut self, most_ms: u64) -> (u64, u64) {
        let at = 20 + self.random.below(BUSY_MS);
        (at, (at + 20 + self.random.below(most_ms)).min(FAULTS_END_MS))
    }

    fn plan(&mut self) {
        let (mix, lease_ms) = (self.mix.clone(), self.mix.ttl_ms + self.mix.grace_ms);
        let (hosts, masters) = (mix.workers, mix.masters);
        for _ in 0..mix.worker_crashes {
            let (at, back) = self.span(2 * lease_ms);
            let host = self.random.below(hosts) as usize;
            self.after(at, Happening::Crash { host, back_in_ms: back - at });
        }
        for _ in 0..mix.master_crashes {
            let (at, back) = self.span(3_000);
            let master = self.random.below(masters) as usize;
            self.after(at, Happening::CrashMaster { master, back_in_ms: back - at });
        }
        for _ in 0..mix.worker_stops {
            let ((at, until), host) = (self.span(2 * lease_ms), self.random.below(hosts) as usize);
            self.after(at, Happening::StopWorker(host, true));
            self.after(until, Happening::StopWorker(host, false));
        }
        for _ in 0..mix.master_stops {
            let ((at, until), master) = (self.span(lease_ms), self.random.below(masters) as usize);
            self.after(at, Happening::StopMaster(master, true));
            self.after(until, Happening::StopMaster(master, false));
        }
        for _ in 0..mix.partitions {
            let (at, until) = self.span(2 * lease_ms);
            let (host, master) = (self.random.below(hosts) as usize, self.random.below(masters) as usize);
            let cuts: &[Option<bool>] = &[Some(true), Some(false), None];
            match self.random.one_of(cuts) {
                Some(towards) => {
                    self.after(at, Happening::Partition { host, towards, is_cut: true });
                    self.after(until, Happening::Partition { host, towards, is_cut: false });
                }
                None => {
                    self.after(at, Happening::CutMaster(master, true));
                    self.after(until, Happening::CutMaster(master, false));
                }
            }
        }
        self.plan_world(&mix, lease_ms);
        self.after(FAULTS_END_MS, Happening::Heal);
    }

    fn plan_world(&mut self, mix: &Mix, lease_ms: u64) {
        for _ in 0..mix.store_restarts {
            let (at, until) = self.span(lease_ms);
            self.after(at, Happening::Store(true));
            self.after(until, Happening::Store(false));
        }
        for _ in 0..mix.rollbacks {
            let (at, until) = self.span(lease_ms);
            self.after(at, Happening::Store(true));
            self.after(until, Happening::RollBack);
        }
        for _ in 0..mix.clock_steps {
            let (at, _) = self.span(1);
            let ms = self.random.one_of(&[-60_000, -3_000, -200, 30, 700, 4_000, 60_000]);
            self.after(at, Happening::ClockStep(ms));
        }
        for _ in 0..mix.drains {
            let ((at, _), host) = (self.span(1), self.random.below(mix.workers) as usize);
            self.after(at, Happening::Drain(host));
        }
        for _ in 0..mix.relay_falls {
            let (at, until) = self.span(2_000);
            self.after(at, Happening::Relay(true));
            self.after(until, Happening::Relay(false));
        }
        if mix.scales {
            let most = self.random.between(2, 6) as usize;
            for more in 0..most {
                let at = 200 + self.random.below(BUSY_MS / 2);
                self.hosts.push(Host::default());
                let host = self.hosts.len() - 1;
                self.after(at, Happening::StartWorker(host));
                self.after(BUSY_MS / 2 + 100 * more as u64, Happening::Drain(host));
            }
        }
        self.plan_steering(mix);
    }

    fn plan_steering(&mut self, mix: &Mix) {
        let runs: Vec<RunId> = self.submissions.iter().map(|submission| submission.run.clone()).collect();
        for _ in 0..mix.run_pauses {
            let ((at, until), run) = (self.span(3_000), runs[self.random.below(runs.len() as u64) as usize].clone());
            self.after(at, Happening::Steer(Steer::Pause(run.clone())));
            self.after(until, Happening::Steer(Steer::Resume(run)));
        }
        for _ in 0..mix.lane_pauses {
            let ((at, until), lane) = (self.span(2_000), self.random.one_of(&["bulk", "bulk", "transactional"]));
            self.after(at, Happening::Steer(Steer::PauseLane(lane)));
            self.after(until, Happening::Steer(Steer::ResumeLane(lane)));
        }
        let people: Vec<String> = self.submissions.iter().flat_map(|one| one.keys.iter().cloned()).collect();
        for number in 0..mix.suppressions {
            let address = self.random.one_of(&people.iter().collect::<Vec<_>>()).clone();
            // Some before anything is split.
            let at = if number % 4 == 0 { 0 } else { self.span(1).0 };
            let is_of_all = self.random.below(2) == 0;
            self.after(at, Happening::Steer(Steer::Suppress { address, is_of_all }));
        }
        for _ in 0..mix.cancels {
            let ((at, _), run) = (self.span(1), runs[self.random.below(runs.len() as u64) as usize].clone());
            self.after(at, Happening::Steer(Steer::Cancel(run)));
        }
    }

    /// Everything works from now on.
    fn heal(&mut self) {
        self.is_healed = true;
        self.store().is_healed = true;
        self.is_relay_down = false;
        for master in 0..self.masters.len() {
            self.stop_master(master, false);
            self.cut_master(master, false);
            self.start_master(master);
        }
        for host in 0..self.hosts.len() {
            self.stop_worker(host, false);
            self.hosts[host].is_cut = [false; 2];
        }
        (0..self.mix.workers as usize).for_each(|host| self.start_worker(host));
        for lane in ["bulk", "transactional"] {
            self.steer(Steer::ResumeLane(lane));
        }
        let runs: Vec<RunId> = self.submissions.iter().map(|submission| submission.run.clone()).collect();
        runs.into_iter().for_each(|run| self.steer(Steer::Resume(run)));
        self.after(50, Happening::Look);
    }

    /// Has everything ended yet?
    fn look(&mut self) {
        if self.now_ms > FAULTS_END_MS + CONVERGE_MS {
            let left = self.describe();
            return self.fail(format!("not converged: {left}"));
        }
        self.store().purge_whole_batches();
        self.is_ending = self.is_settled();
        for host in 0..self.hosts.len() {
            if self.is_ending {
                self.drain(host);
            } else if (host as u64) < self.mix.workers {
                // A late fact may open a run again: "not written" undoes a doubt that was held.
                self.start_worker(host);
            }
        }
        self.after(if self.is_ending { 250 } else { 500 }, Happening::Look);
    }

    fn is_settled(&self) -> bool {
        let store = self.store();
        self.submissions
            .iter()
            .all(|one| store.rules.forgotten.contains_key(&one.run) || !store.model.is_unsettled(&one.run))
    }

    /// Every run has ended, every worker has drained, all that may be retired is.
    fn is_over(&mut self) -> bool {
        self.is_ending
            && self.workers.iter().all(|worker| worker.is_gone)
            && self.store().model.is_at_rest()
            && self.is_settled()
    }

    fn describe(&self) -> String {
        let store = self.store();
        let runs: Vec<_> = store.model.all_runs().map(|run| (run.state(), run.recipients, run.batches)).collect();
        let gone = self.workers.iter().filter(|worker| worker.is_gone).count();
        format!("{runs:?}, {gone} of {} workers gone, {:?}", self.workers.len(), self.mix)
    }

    /// The relay accepted a message.
    pub fn accepted(&mut self, tx: TxId) {
        let Some(one) = self.txs.get_mut(tx) else { return };
        one.is_accepted = true;
        let who = one.batch.run.clone();
        self.print.add(tx as u64);
        let now_ms = self.now_ms;
        let of = self.submissions.iter_mut().find(|submission| submission.run == who);
        if let Some(submission) = of {
            submission.first_ms.get_or_insert(now_ms);
        }
    }

    pub fn reach(&mut self, point: Point) {
        self.coverage.reach(point);
    }
}
