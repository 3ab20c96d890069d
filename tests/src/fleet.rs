//! Masters, workers, a sink and their Redis, each a process of its own.

use crate::audience::{Audience, Campaign};
use crate::binary;
use crate::client::{Client, Run, WorkerLine};
use crate::faults::{Fault, FaultLog, Role};
use crate::http;
use crate::judge::{self, Findings, Rules};
use crate::ledger;
use crate::process::Process;
use crate::redis_server::RedisServer;
use crate::settings::Settings;
use crate::summary;
use crate::wait;
use crate::watcher::{Watched, Watcher};
use postrider_common::{Clock, SystemClock};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A master retries a store that cannot be reached for 30 s.
const READY_BOUND: Duration = Duration::from_secs(60);
/// Until a worker is far enough into its work for a fault.
const INTENT_BOUND: Duration = Duration::from_secs(30);
/// Once its messages flow, a worker that keeps to the protocol shows intents at once. After this long without
/// any, the fault is injected anyway and counts as missed.
const INTENT_PATIENCE: Duration = Duration::from_millis(1500);

/// For farewells after a drain, and for the sink to notice that its connections are closed.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// Tries to freeze a worker at the right instant.
const FREEZES_MAX: u32 = 10;

#[derive(Debug)]
pub struct Fleet {
    // Dropped in this order: clients of a thing before the thing, the folder last.
    workers: Vec<Worker>,
    masters: Vec<Master>,
    sink: Option<Process>,
    pub redis: RedisServer,
    pub faults: FaultLog,
    settings: Settings,
    relay: String,
    dir: TempDir,
}

#[derive(Debug)]
struct Worker {
    name: String,
    source: String,
    process: Option<Process>,
    starts: u32,
}

#[derive(Debug)]
struct Master {
    name: String,
    grpc: String,
    http: String,
    process: Option<Process>,
    starts: u32,
}

impl Fleet {
    /// Starts everything and waits until it serves.
    pub fn start(settings: Settings) -> Self {
        let mut fleet = Self::start_without_relay(settings);
        fleet.start_sink();
        fleet
    }

    /// The relay's port refuses connections until `start_sink`.
    pub fn start_without_relay(settings: Settings) -> Self {
        let mut fleet = Self::prepare(settings);
        for index in 0..fleet.masters.len() {
            fleet.start_master(index);
        }
        for index in 0..fleet.settings.workers {
            fleet.add_worker(index);
        }
        fleet
    }

    /// Redis runs and the files are written; no process of Postrider is started yet.
    pub fn prepare(settings: Settings) -> Self {
        let dir = tempfile::Builder::new().prefix("postrider-e2e-").tempdir().expect("a temporary folder");
        std::fs::create_dir_all(dir.path().join("logs")).expect("a folder for logs");
        let redis = RedisServer::start(&dir.path().join("redis"), &dir.path().join("logs"));
        let relay = free_address();
        let toml = settings.to_toml(&redis.url(), &relay, dir.path());
        std::fs::write(dir.path().join("postrider.toml"), toml).expect("the configuration can be written");
        let any = || "127.0.0.1:0".to_owned();
        let masters = (0..settings.masters)
            .map(|index| Master { name: format!("m{index}"), grpc: any(), http: any(), process: None, starts: 0 })
            .collect();
        Self { workers: Vec::new(), masters, sink: None, redis, faults: FaultLog::default(), settings, relay, dir }
    }

    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    pub fn logs(&self) -> PathBuf {
        self.dir.path().join("logs")
    }

    pub fn client(&self) -> Client {
        let addresses: Vec<String> = self.masters.iter().map(|master| master.grpc.clone()).collect();
        Client::new(&addresses, self.dir.path())
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn start_sink(&mut self) {
        let mut command = self.command("sink");
        command.args(["--listen", &self.relay, "--latency-ms", &self.settings.sink_latency_ms.to_string()]);
        command.arg("--capture").arg(self.capture());
        for rule in &self.settings.sink_rules {
            command.args(["--fail", rule]);
        }
        let mut sink = Process::start("sink", &mut command, &self.logs());
        let relay = self.relay.clone();
        wait::until("the sink to listen", READY_BOUND, || {
            if let Some(status) = sink.exited() {
                panic!("the sink ended: {status}\n{}", sink.tail());
            }
            knock(&relay).ok()
        });
        self.sink = Some(sink);
    }

    /// The relay's port refuses connections from here on.
    pub fn stop_sink(&mut self) {
        self.sink = None;
    }

    /// How many there are, whether or not they run.
    pub fn masters(&self) -> usize {
        self.masters.len()
    }

    /// Starts the master of that index, on the address it had before if it had one.
    pub fn start_master(&mut self, index: usize) {
        let logs = self.logs();
        let mut command = self.command("master");
        let master = &mut self.masters[index];
        command.env("POSTRIDER__MASTER__GRPC_LISTEN", &master.grpc);
        command.env("POSTRIDER__MASTER__HTTP_LISTEN", &master.http);
        master.starts += 1;
        let mut process = Process::start(&format!("{}-{}", master.name, master.starts), &mut command, &logs);
        let (grpc, http) = process.wait_line("a ready line", READY_BOUND, ready_addresses);
        (master.grpc, master.http, master.process) = (grpc, http, Some(process));
    }

    pub fn add_worker(&mut self, index: usize) {
        assert_eq!(index, self.workers.len(), "workers are added in order");
        let source = format!("127.0.1.{}", index + 1);
        self.workers.push(Worker { name: format!("w{index}"), source, process: None, starts: 0 });
        self.start_worker(index);
    }

    pub fn start_worker(&mut self, index: usize) {
        let (logs, masters) = (self.logs(), self.client().masters().to_owned());
        let mut command = self.command("worker");
        let journal = self.journal(index);
        let worker = &mut self.workers[index];
        worker.starts += 1;
        command.env("POSTRIDER__WORKER__NAME", &worker.name);
        command.env("POSTRIDER__WORKER__SOURCE_ADDRESS", &worker.source);
        command.env("POSTRIDER__WORKER__MASTER", masters);
        command.env("POSTRIDER__WORKER__JOURNAL", journal);
        worker.process = Some(Process::start(&format!("{}-{}", worker.name, worker.starts), &mut command, &logs));
    }

    /// The folder of the worker's crash journal.
    pub fn journal(&self, index: usize) -> PathBuf {
        self.dir.path().join(format!("journal-{}", self.workers[index].name))
    }

    /// Recipients of whose message the sink knows that no client read the reply.
    pub fn unread(&self) -> BTreeSet<String> {
        ledger::unread(&self.capture())
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(self.settings.program.clone().unwrap_or_else(binary::postrider));
        command.envs(self.settings.environment.iter().cloned());
        command.current_dir(self.dir.path()).arg("--no-color").arg(subcommand);
        command
    }

    fn capture(&self) -> PathBuf {
        self.dir.path().join("capture.ndjson")
    }

    pub fn ledger(&self) -> Vec<ledger::Line> {
        ledger::read(&self.capture())
    }

    /// Applies the campaign and starts one run of it; the id.
    pub fn launch(&self, campaign: &Campaign, audience: &Audience) -> String {
        let client = self.client();
        client.apply(&campaign.write(self.folder(), audience));
        client.run(&campaign.name, &format!("{}-1", campaign.name))
    }

    pub fn watch(&self, run: &str) -> Watcher {
        Watcher::start(self.client(), run.to_owned())
    }

    /// # Panics
    /// When the run has not ended within the bound; with where it stood.
    pub fn wait_ended(&self, run: &str, bound: Duration) -> Run {
        let client = self.client();
        let mut last = None;
        let ended = wait::within(bound, || {
            last = client.try_show(run).or(last.take());
            last.clone().filter(Run::has_ended)
        });
        ended.unwrap_or_else(|| panic!("run {run} did not end within {bound:?}; last seen: {last:#?}"))
    }

    /// Waits until the sink has taken that many messages.
    pub fn wait_copies(&self, count: usize, bound: Duration) {
        wait::until(&format!("{count} messages at the sink"), bound, || {
            (self.ledger().iter().filter(|line| line.decision.is_a_copy()).count() >= count).then_some(())
        });
    }

    /// Waits until `share` of the worker's slots are in intent. `None`: the bound is over, or, with
    /// `patience`, its messages have flowed for that long and it never showed an intent.
    fn wait_intent(&self, index: usize, share: f64, patience: Option<Duration>) -> Option<WorkerLine> {
        let want = self.slots_of(share);
        let client = self.client();
        let Worker { name, source, .. } = &self.workers[index];
        let (mut any_intent, mut flowing_since) = (false, None);
        wait::within(INTENT_BOUND, || {
            let worker = client.worker(name);
            any_intent |= worker.as_ref().is_some_and(|worker| worker.in_intent > 0);
            let found = worker.filter(|worker| worker.in_intent >= want);
            if flowing_since.is_none() && self.ledger().iter().any(|line| line.peer_ip() == source) {
                flowing_since = Some(Instant::now());
            }
            let flows_for = flowing_since.map(|since| since.elapsed());
            let hopeless = !any_intent && patience.is_some() && flows_for > patience;
            if hopeless { Some(None) } else { found.map(Some) }
        })
        .flatten()
    }

    fn slots_of(&self, share: f64) -> u32 {
        (f64::from(self.settings.slots) * share).ceil() as u32
    }

    /// Waits until half of the worker's slots are in intent.
    pub fn wait_worker_in_intent(&self, index: usize) {
        let seen = self.wait_intent(index, 0.5, None);
        assert!(seen.is_some(), "worker {index} never had half of its slots in intent");
    }

    /// Freezes the worker at an instant at which at least `share` of its slots are in intent, and notes the
    /// fault with the exact number: a stopped worker's intents stand still and can be counted.
    pub fn stop_worker_in_intent(&mut self, index: usize, share: f64) {
        let mut tries = 0;
        let (at_ms, in_intent) = loop {
            let hopeful = self.wait_intent(index, share, Some(INTENT_PATIENCE)).is_some();
            self.signal_worker(index, Signal::STOP);
            let frozen = (wait::now_ms(), self.count_frozen(index));
            tries += 1;
            if frozen.1 >= self.slots_of(share) || !hopeful || tries == FREEZES_MAX {
                break frozen;
            }
            // It moved on between the look and the signal: not this instant.
            self.signal_worker(index, Signal::CONT);
        };
        let worker = &self.workers[index];
        self.faults.faults.push(Fault {
            role: Role::Worker,
            name: worker.name.clone(),
            at_ms,
            in_intent,
            slots: self.settings.slots,
            cuts_off: true,
            source: Some(worker.source.clone()),
        });
    }

    /// As `stop_worker_in_intent`, and then SIGKILL: it never runs another instruction.
    pub fn kill_worker_in_intent(&mut self, index: usize) {
        self.stop_worker_in_intent(index, 0.5);
        if let Some(mut process) = self.workers[index].process.take() {
            process.kill();
        }
    }

    /// A request may be under way when a worker is frozen: counted when two looks agree.
    fn count_frozen(&self, index: usize) -> u32 {
        let client = self.client();
        let name = &self.workers[index].name;
        let mut before = None;
        wait::until("the intents of a stopped worker to stand still", INTENT_BOUND, || {
            let now = client.worker(name).map_or(0, |worker| worker.in_intent);
            before.replace(now).filter(|before| *before == now)
        })
    }

    /// Waits until at least half the slots of the fleet are in intent; how many they are.
    pub fn wait_fleet_in_intent(&self) -> (u32, u32) {
        let client = self.client();
        let slots = self.settings.slots * u32::try_from(self.workers.len()).unwrap_or(u32::MAX);
        let seen = wait::within(INTENT_BOUND, || {
            let in_intent: u32 = client.workers().iter().map(|worker| worker.in_intent).sum();
            (in_intent * 2 >= slots).then_some(in_intent)
        });
        (seen.unwrap_or_default(), slots)
    }

    fn note_fleet_fault(&mut self, role: Role, name: &str, in_intent: (u32, u32), cuts_off: bool) {
        self.faults.faults.push(Fault {
            role,
            name: name.to_owned(),
            at_ms: wait::now_ms(),
            in_intent: in_intent.0,
            slots: in_intent.1,
            cuts_off,
            source: None,
        });
    }

    /// SIGKILLs a master while the fleet is in full flight.
    pub fn kill_master_in_intent(&mut self, index: usize) {
        let in_intent = self.wait_fleet_in_intent();
        self.kill_master(index);
        let name = self.masters[index].name.clone();
        self.note_fleet_fault(Role::Master, &name, in_intent, false);
    }

    /// SIGKILLs Redis while the fleet is in full flight. `cuts_off`: it stays away longer than a lease.
    pub fn kill_redis_in_intent(&mut self, cuts_off: bool) {
        let in_intent = self.wait_fleet_in_intent();
        self.redis.kill();
        self.note_fleet_fault(Role::Redis, "redis", in_intent, cuts_off);
    }

    /// What a master says on its second port: status and text.
    pub fn http(&self, index: usize, path: &str) -> Option<(u16, String)> {
        http::get(&self.masters[index].http, path)
    }

    /// As if it came back on another host.
    pub fn remove_journal(&self, index: usize) {
        std::fs::remove_dir_all(self.journal(index)).expect("a journal can be removed");
    }

    /// Notes that the store of the scenario was killed just now.
    pub fn note_store_killed(&mut self, in_intent: (u32, u32)) {
        self.note_fleet_fault(Role::Redis, "primary", in_intent, false);
    }

    /// The most memory that a running master had, of the system's own count.
    pub fn master_peak_bytes(&self, index: usize) -> u64 {
        let process = self.masters[index].process.as_ref().expect("the master runs");
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", process.pid())).expect("a process has a status");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        peak.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB") * 1024
    }

    pub fn kill_master(&mut self, index: usize) {
        if let Some(mut process) = self.masters[index].process.take() {
            process.kill();
        }
    }

    /// SIGKILL, wherever it is.
    pub fn kill_worker(&mut self, index: usize) {
        if let Some(mut process) = self.workers[index].process.take() {
            process.kill();
        }
    }

    /// Workers there are or were.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Where the sink listens.
    pub fn sink_address(&self) -> &str {
        &self.relay
    }

    pub fn signal_worker(&mut self, index: usize, signal: Signal) {
        self.workers[index].process.as_mut().expect("the worker runs").signal(signal);
    }

    /// Waits for what the worker tells in its log.
    pub fn wait_worker_says(&self, index: usize, text: &str, bound: Duration) {
        let process = self.workers[index].process.as_ref().expect("the worker runs");
        wait::until(&format!("the worker to say '{text}'"), bound, || process.stderr().contains(text).then_some(()));
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate_worker(&mut self, index: usize, bound: Duration) -> ExitStatus {
        self.signal_worker(index, Signal::TERM);
        let mut process = self.workers[index].process.take().expect("the worker runs");
        let status = process.wait_exit(bound);
        if !status.success() {
            eprint!("{}", process.tail());
        }
        status
    }

    pub fn terminate_master(&mut self, index: usize, bound: Duration) -> ExitStatus {
        let mut process = self.masters[index].process.take().expect("the master runs");
        process.signal(Signal::TERM);
        process.wait_exit(bound)
    }

    /// Where the worker's connections come from.
    pub fn source_of(&self, index: usize) -> &str {
        &self.workers[index].source
    }

    /// Nobody may have ended by himself; tails of those who did.
    fn assert_alive(&mut self) {
        let workers = self.workers.iter_mut().filter_map(|worker| worker.process.as_mut());
        let masters = self.masters.iter_mut().filter_map(|master| master.process.as_mut());
        for process in workers.chain(masters).chain(self.sink.as_mut()) {
            if let Some(status) = process.exited() {
                panic!("{} ended by itself: {status}\n{}", process.name(), process.tail());
            }
        }
    }

    /// Judges the run by ledger and fault log, prints the summary, and fails on any violation.
    pub fn judge(
        &mut self,
        scenario: &str,
        run: &str,
        audience: &BTreeSet<String>,
        rules: Rules,
        watched: &Watched,
    ) -> Findings {
        self.judge_runs(scenario, &[run], audience, rules, watched)
    }

    /// The same for several runs whose audiences have nobody in common.
    pub fn judge_runs(
        &mut self,
        scenario: &str,
        runs: &[&str],
        audience: &BTreeSet<String>,
        rules: Rules,
        watched: &Watched,
    ) -> Findings {
        self.assert_alive();
        self.close_the_books();
        let client = self.client();
        let recipients: Vec<_> = runs.iter().flat_map(|run| client.recipients(run)).collect();
        let findings = judge::find(audience, &self.ledger(), &recipients, &self.faults);
        let violations = judge::violations(&findings, rules, &self.faults, watched);
        summary::report(scenario, &findings, &violations, &self.faults, watched);
        findings
    }

    /// Ends the workers, so that whatever they would still send is sent, and then the sink, so that
    /// whatever it took is in the ledger.
    fn close_the_books(&mut self) {
        let bound = Duration::from_millis(self.settings.drain_timeout_ms) + STOP_GRACE;
        for index in 0..self.workers.len() {
            if self.workers[index].process.is_some() {
                let status = self.terminate_worker(index, bound);
                assert_eq!(status.code(), Some(0), "an idle worker exits with 0");
            }
        }
        if let Some(mut sink) = self.sink.take() {
            sink.signal(Signal::TERM);
            assert_eq!(sink.wait_exit(STOP_GRACE).code(), Some(0), "the sink exits with 0\n{}", sink.tail());
        }
    }
}

/// `ready grpc=ADDR http=ADDR`
fn ready_addresses(line: &str) -> Option<(String, String)> {
    let rest = line.trim().strip_prefix("ready ")?;
    let field = |name: &str| rest.split(' ').find_map(|part| part.strip_prefix(name)).map(str::to_owned);
    Some((field("grpc=")?, field("http=")?))
}

/// Comes and goes with a goodbye, so that the sink counts nobody when this returns.
fn knock(relay: &str) -> std::io::Result<()> {
    let mut stream = std::net::TcpStream::connect(relay)?;
    stream.write_all(b"QUIT\r\n")?;
    stream.read_to_end(&mut Vec::new()).map(drop)
}

/// An address nobody listens on now, below the range that the kernel gives to outgoing connections.
fn free_address() -> String {
    let clock = SystemClock::default();
    let free = wait::within(READY_BOUND, || {
        let port = 20_000 + u16::try_from(clock.random() % 10_000).expect("below ten thousand");
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok().map(|_| port)
    });
    format!("127.0.0.1:{}", free.expect("some port is free"))
}
