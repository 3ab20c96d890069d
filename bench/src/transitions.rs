//! What the calls of the store cost a server, beside the plainest calls there are on the same server in the
//! same run: redis-benchmark's SET of 100 bytes, and a script that does that SET.

use crate::people;
use futures::stream::{self, StreamExt};
use postrider_common::SystemClock;
use postrider_common::ids::{Fence, LaneName};
use postrider_common::lease::{LeaseReport, LeaseStatus, OutcomeKind};
use postrider_common::pace::Limits;
use postrider_common::{ids::BatchId, payload};
use postrider_store::conformance::scene::{new_run, outcomes, request, worker};
use postrider_store::{AddBatches, Checkpoint, Claim, ClaimSplit, Durability, Finish, NewBatch, Options, Store};
use postrider_tests::redis_server::RedisServer;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

const COUNT: u32 = 100;
const WINDOW: u32 = 10;
/// Batches of one add_batches, as a splitter adds them.
const STEP: usize = 20;
const HOUR_MS: u64 = 3_600_000;
const BASELINE_CALLS: usize = 100_000;
const BASELINE_BYTES: usize = 100;
const BASELINE_SCRIPT: &str = "return redis.call('SET', KEYS[1], ARGV[1])";
/// The flow that the share of a core is told for.
const PACE_RECIPIENTS_PER_SECOND: f64 = 10_000.0;

/// What a kind of call cost.
/// The first costs are those of redis-benchmark.
const BASELINES: usize = 2;
const REPLICA_BOUND: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
struct Cost {
    name: &'static str,
    calls: f64,
    seconds: f64,
    /// Server time within the command itself. The server counts whole microseconds, so short ones come out too short.
    command_us: f64,
    /// Processor time of the whole server, the log included.
    cpu_us: f64,
}

impl Cost {
    fn per_second(&self) -> f64 {
        self.calls / self.seconds
    }
}

pub fn measure(batches: usize, callers: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    println!("{batches} batches of {COUNT}, windows of {WINDOW}, {callers} calls under way");
    let always = runtime.block_on(one_server("always", Durability::Always, batches, callers));
    let everysec = runtime.block_on(one_server("everysec", Durability::Relaxed, batches, callers));
    let one_replica = Durability::Replicated { replicas: 1 };
    let replicated = runtime.block_on(one_server("always", one_replica, batches, callers));
    println!("\nalways against everysec, calls per second");
    for (always, everysec) in always.iter().zip(&everysec) {
        println!("{:42} {:6.2}", always.name, always.per_second() / everysec.per_second());
    }
    println!("\nreplicated (one replica on this machine) against always, calls per second");
    for (replicated, always) in replicated.iter().zip(&always).skip(BASELINES) {
        println!("{:42} {:6.2}", always.name, replicated.per_second() / always.per_second());
    }
}

struct Server {
    process: RedisServer,
    connection: redis::Connection,
    replica: Option<RedisServer>,
    folder: tempfile::TempDir,
}

impl Server {
    fn start(appendfsync: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let process = RedisServer::start_with(&folder.path().join("redis"), folder.path(), appendfsync);
        let client = redis::Client::open(process.url()).expect("the server's URL");
        let connection = client.get_connection().expect("a connection");
        Self { process, connection, replica: None, folder }
    }

    /// Has a second server follow, with the same settings, and waits until it is in step.
    fn attach_replica(&mut self) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("some port is free");
        let port = listener.local_addr().expect("it is bound").port();
        drop(listener);
        let mut set = redis::cmd("CONFIG");
        set.arg("SET").arg("port").arg(port).arg("repl-diskless-sync-delay").arg(0);
        set.query::<()>(&mut self.connection).expect("a port");
        let replica = RedisServer::start_with(&self.folder.path().join("replica"), self.folder.path(), "always");
        let client = redis::Client::open(replica.url()).expect("the replica's URL");
        let mut connection = client.get_connection().expect("a connection");
        redis::cmd("REPLICAOF").arg("127.0.0.1").arg(port).query::<()>(&mut connection).expect("REPLICAOF");
        let begun = Instant::now();
        let info = |connection: &mut redis::Connection| {
            redis::cmd("INFO").arg("replication").query::<String>(connection).expect("INFO")
        };
        while !info(&mut self.connection).contains("state=online") {
            assert!(begun.elapsed() < REPLICA_BOUND, "the replica does not get in step");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.replica = Some(replica);
    }

    /// Calls and microseconds of a command so far.
    fn command(&mut self, name: &str) -> (f64, f64) {
        let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut self.connection).expect("INFO");
        let prefix = format!("cmdstat_{name}:");
        let line = stats.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or("calls=0,usec=0");
        let number = |name: &str| {
            let part = line.split(',').find_map(|part| part.strip_prefix(name)).expect("a number of commandstats");
            part.parse::<f64>().expect("a number of commandstats")
        };
        (number("calls="), number("usec="))
    }

    fn cpu_seconds(&self) -> f64 {
        self.process.info_number("used_cpu_user") + self.process.info_number("used_cpu_sys")
    }

    /// Begins to count the calls of one command.
    fn begin(&mut self, name: &'static str, command: &'static str) -> Phase {
        let (calls, usec) = self.command(command);
        let (waits, _) = self.command("wait");
        Phase { name, command, calls, usec, waits, cpu: self.cpu_seconds(), begun: Instant::now() }
    }

    fn end(&mut self, phase: Phase) -> Cost {
        let seconds = phase.begun.elapsed().as_secs_f64();
        let cpu = self.cpu_seconds() - phase.cpu;
        let (calls, usec) = self.command(phase.command);
        // Before each WAIT there is a script that is no transition.
        let waits = self.command("wait").0 - phase.waits;
        let calls = calls - phase.calls - waits;
        Cost { name: phase.name, calls, seconds, command_us: (usec - phase.usec) / calls, cpu_us: cpu * 1e6 / calls }
    }

    /// What redis-benchmark reaches with a command of its own.
    fn baseline(&mut self, name: &'static str, command: &'static str, words: &[&str], callers: usize) -> Cost {
        let url = self.process.url();
        let socket = url.trim_start_matches("unix://");
        let phase = self.begin(name, command);
        let mut benchmark = Command::new("redis-benchmark");
        benchmark.args(["-s", socket, "-q", "-n", &BASELINE_CALLS.to_string(), "-c", &callers.to_string()]).args(words);
        let output = benchmark.output().expect("failed to run redis-benchmark: it comes with redis-server's tools");
        assert!(output.status.success(), "redis-benchmark: {}", String::from_utf8_lossy(&output.stderr));
        let cost = self.end(phase);
        assert!(cost.calls >= BASELINE_CALLS as f64, "redis-benchmark made only {} calls", cost.calls);
        cost
    }

    fn used_bytes(&self) -> f64 {
        self.process.info_number("used_memory") - self.process.info_number("mem_clients_normal")
    }
}

struct Phase {
    name: &'static str,
    command: &'static str,
    calls: f64,
    usec: f64,
    waits: f64,
    cpu: f64,
    begun: Instant,
}

async fn one_server(appendfsync: &str, durability: Durability, batches: usize, callers: usize) -> Vec<Cost> {
    let mut server = Server::start(appendfsync);
    let value = "x".repeat(BASELINE_BYTES);
    let sha: String =
        redis::cmd("SCRIPT").arg("LOAD").arg(BASELINE_SCRIPT).query(&mut server.connection).expect("SCRIPT LOAD");
    let mut costs = vec![
        server.baseline("SET (redis-benchmark)", "set", &["SET", "bench:key", &value], callers),
        server.baseline(
            "script of one SET (redis-benchmark)",
            "evalsha",
            &["EVALSHA", &sha, "1", "bench:key", &value],
            callers,
        ),
    ];
    assert_eq!(costs.len(), BASELINES);
    if matches!(durability, Durability::Replicated { .. }) {
        server.attach_replica();
    }
    let options = Options::new(durability, Arc::new(SystemClock::default()));
    let url = server.process.url().parse().expect("a store URL");
    let store = postrider_store::open(&url, options).await.expect("a store");
    let all = (batches * COUNT as usize) as f64;
    let empty = server.used_bytes();
    let payload_bytes = add(&mut server, &*store, batches, &mut costs).await;
    let queued = server.used_bytes() - empty;

    let phase = server.begin("claim of one batch", "evalsha");
    let held = claim_all(&*store, batches, callers).await;
    costs.push(server.end(phase));
    assert_eq!(held.len(), batches, "each batch is leased once");
    let phase = server.begin("checkpoint of 10 outcomes, 10 intents", "evalsha");
    checkpoint_all(&*store, &held, callers).await;
    costs.push(server.end(phase));
    let phase = server.begin("finish with 10 outcomes", "evalsha");
    finish_all(&*store, &held, callers).await;
    costs.push(server.end(phase));

    let label = match durability {
        Durability::Replicated { .. } => "replicated",
        Durability::Always | Durability::Relaxed => appendfsync,
    };
    print(label, &costs, batches);
    println!("queued, bytes a recipient                  {:6.1}  (payload {:.1})", queued / all, payload_bytes / all);
    println!("settled, bytes a recipient                 {:6.1}", (server.used_bytes() - empty) / all);
    println!("append-only file, bytes a recipient        {:6.1}", server.process.info_number("aof_current_size") / all);
    costs
}

fn print(label: &str, costs: &[Cost], batches: usize) {
    let script = &costs[1];
    let head = format!("durability {label}");
    println!("\n{head:42}      calls/s   of script  in call   server cpu  of script");
    for cost in costs {
        println!(
            "{:42} {:12.0} {:9.1} % {:6.1} us {:9.1} us {:9.1}x",
            cost.name,
            cost.per_second(),
            cost.per_second() / script.per_second() * 100.0,
            cost.command_us,
            cost.cpu_us,
            cost.cpu_us / script.cpu_us
        );
    }
    let cpu_us: f64 = costs[3..].iter().map(|cost| cost.cpu_us * cost.calls).sum();
    let recipients = (batches * COUNT as usize) as f64;
    let share = cpu_us / recipients * PACE_RECIPIENTS_PER_SECOND / 1e6;
    println!("claim, checkpoints, finish: {:.2} us a recipient;", cpu_us / recipients);
    println!("at {PACE_RECIPIENTS_PER_SECOND} recipients a second {:.1} % of one core", share * 100.0);
}

/// Queues the batches as a splitter does, one call after the other. Bytes of all payloads.
async fn add(server: &mut Server, store: &dyn Store, batches: usize, costs: &mut Vec<Cost>) -> f64 {
    let run = new_run("measured");
    store.create_run(run.clone()).await.expect("a run");
    let (request, nonce) = request();
    let split = store.claim_split(ClaimSplit { request, nonce, ttl_ms: HOUR_MS }).await.expect("a split");
    let split = split.expect("the split is due");
    let people = people::recipients(batches * COUNT as usize, 1);
    let mut all: Vec<NewBatch> = Vec::with_capacity(batches);
    for (at, people) in people.chunks(COUNT as usize).enumerate() {
        let site = ["google", "microsoft", "other"][at % 3].parse().expect("a site");
        all.push(NewBatch { sequence: at as u64 + 1, site, count: COUNT, payload: payload::encode(people).to_vec() });
    }
    let bytes: usize = all.iter().map(|batch| batch.payload.len()).sum();
    let steps = all.len().div_ceil(STEP) as u64;
    let phase = server.begin("add_batches of 20 (one caller)", "evalsha");
    for (step, batches) in (0u64..).zip(all.chunks(STEP)) {
        let add = AddBatches {
            run: run.id.clone(),
            fence: split.fence.clone(),
            cursor: step,
            cursor_next: step + 1,
            batches: batches.to_vec(),
            open: Vec::new(),
            bad_rows: 0,
            repeated_rows: 0,
            bad_row_samples: Vec::new(),
            complete: step + 1 == steps,
            ttl_ms: HOUR_MS,
        };
        store.add_batches(add).await.expect("batches are added");
    }
    costs.push(server.end(phase));
    bytes as f64
}

async fn claim_all(store: &dyn Store, batches: usize, callers: usize) -> Vec<(BatchId, Fence)> {
    let claim = |_| async {
        let (request, nonce) = request();
        let lanes = vec![(LaneName::bulk(), 10), (LaneName::transactional(), 100)];
        let claim = Claim {
            worker: worker(1),
            request,
            nonce,
            batches_max: 1,
            lanes,
            ttl_ms: HOUR_MS,
            hard_cap_ms: HOUR_MS,
            slots: 256,
            limits: Limits::default(),
        };
        store.claim(claim).await.expect("a claim").leases
    };
    let leases = stream::iter(0..batches).map(claim).buffer_unordered(callers).collect::<Vec<_>>().await;
    leases.into_iter().flatten().map(|lease| (lease.batch, lease.fence)).collect()
}

fn report(
    held: &(BatchId, Fence),
    sequence: u32,
    outcomes_from: Option<u32>,
    intents_from: Option<u32>,
) -> LeaseReport {
    let window = |from: Option<u32>| from.map_or(0..0, |from| from..from + WINDOW);
    let mut accepted = outcomes(window(outcomes_from), OutcomeKind::Accepted);
    accepted.iter_mut().for_each(|outcome| outcome.detail.clear());
    LeaseReport {
        batch: held.0.clone(),
        fence: held.1.clone(),
        sequence: u64::from(sequence),
        outcomes: accepted,
        intents: window(intents_from).collect(),
        progress: 0,
    }
}

/// Window by window; the calls of one batch follow each other, those of several batches are under way at once.
async fn checkpoint_all(store: &dyn Store, held: &[(BatchId, Fence)], callers: usize) {
    let one_batch = |held: &(BatchId, Fence)| {
        let held = held.clone();
        async move {
            for step in 0..COUNT / WINDOW {
                let before = step.checked_sub(1).map(|before| before * WINDOW);
                let reports = vec![report(&held, step + 1, before, Some(step * WINDOW))];
                let checkpoint = Checkpoint {
                    worker: worker(1),
                    reports,
                    ttl_ms: HOUR_MS,
                    window: WINDOW,
                    retry_fraction: 0,
                    limits: Limits::default(),
                };
                let answers = store.checkpoint(checkpoint).await.expect("a checkpoint");
                assert!(answers.iter().all(|answer| answer.granted.len() == WINDOW as usize), "{answers:?}");
            }
        }
    };
    stream::iter(held).map(one_batch).buffer_unordered(callers).collect::<Vec<()>>().await;
}

async fn finish_all(store: &dyn Store, held: &[(BatchId, Fence)], callers: usize) {
    let one_batch = |held: &(BatchId, Fence)| {
        let reports = vec![report(held, COUNT, Some(COUNT - WINDOW), None)];
        async move {
            let finish = Finish { worker: worker(1), reports, retry_fraction: 0 };
            let answers = store.finish(finish).await.expect("a finish");
            assert!(answers.iter().all(|answer| answer.status == LeaseStatus::Settled), "{answers:?}");
        }
    };
    stream::iter(held).map(one_batch).buffer_unordered(callers).collect::<Vec<()>>().await;
}
