//! What the store costs a server: memory per queued recipient, server time per call. Prints; asserts only what is
//! promised. `cargo test -p postrider-store --test redis_measure -- --ignored --nocapture`

#![expect(clippy::unwrap_used, reason = "a measurement that cannot reach its server has failed")]

mod redis_server;

use postrider_common::ids::{LaneName, RequestId};
use postrider_common::lease::{LeaseReport, LeaseStatus, Outcome, OutcomeKind};
use postrider_common::limits::SEGMENT_BATCHES_MAX;
use postrider_common::message::Recipient;
use postrider_common::pace::Limits;
use postrider_common::payload;
use postrider_store::conformance::scene::{new_run, worker};
use postrider_store::{
    AddBatches, Checkpoint, Claim, ClaimHistory, ClaimSplit, Finish, NewBatch, RetireBatches, Store,
};
use redis_server::Server;

const BATCHES: u64 = 2000;
const STEP: u64 = 20;
const WINDOW: u32 = 10;
const COUNT: u32 = 100;
const HOUR_MS: u64 = 3_600_000;

fn recipients(sequence: u64, random: &mut fastrand::Rng) -> Vec<Recipient> {
    let names = ["Ada", "Grace", "Alan", "Edsger", "Barbara", "Donald", "Radia", "Ken", "Margaret", "Dennis"];
    let mut one = |index: u32| {
        let name = names[random.usize(..names.len())];
        let address = format!("{}.{sequence}-{index}{}@example.com", name.to_lowercase(), random.u16(..));
        let mut fields = serde_json::Map::new();
        fields.insert("name".into(), name.into());
        fields.insert("city".into(), ["Berlin", "Paris", "Madrid", "Vienna"][random.usize(..4)].into());
        fields.insert("coupon".into(), format!("C{:06}", random.u32(..1_000_000)).into());
        Recipient { key: address.clone(), address: address.parse().unwrap(), fields }
    };
    (0..COUNT).map(&mut one).collect()
}

fn number(server: &Server, section: &str, name: &str) -> f64 {
    let text: String = server.command(&["INFO", section]);
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.trim().parse().unwrap()
}

/// Memory without what connections and the log buffer.
fn memory(server: &Server) -> f64 {
    let read = |name| number(server, "memory", name);
    read("used_memory")
        - read("mem_clients_normal")
        - read("mem_aof_buffer")
        - read("mem_not_counted_for_evict").min(0.0)
}

/// Microseconds of server time, and calls, of scripts so far.
fn scripts(server: &Server) -> (f64, f64) {
    let text: String = server.command(&["INFO", "commandstats"]);
    let line = text.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:")).unwrap_or("calls=0,usec=0");
    let part = |name: &str| line.split(',').find_map(|part| part.strip_prefix(name)).unwrap().parse().unwrap();
    (part("usec="), part("calls="))
}

struct Phase<'a> {
    server: &'a Server,
    before: (f64, f64),
    cpu: f64,
}

impl<'a> Phase<'a> {
    fn begin(server: &'a Server) -> Self {
        Self { server, before: scripts(server), cpu: Self::cpu(server) }
    }

    fn cpu(server: &Server) -> f64 {
        number(server, "cpu", "used_cpu_user") + number(server, "cpu", "used_cpu_sys")
    }

    fn end(self, name: &str) {
        let (usec, calls) = scripts(self.server);
        let (usec, calls) = (usec - self.before.0, calls - self.before.1);
        let cpu = (Self::cpu(self.server) - self.cpu) * 1e6;
        println!(
            "{name}: {calls} scripts, {:.1} us of script each, {:.1} us of server cpu each",
            usec / calls,
            cpu / calls
        );
    }
}

fn request(n: u64) -> RequestId {
    format!("m{n}").parse().unwrap()
}

#[tokio::test]
#[ignore = "a measurement"]
async fn what_a_recipient_costs() {
    let server = Server::start();
    let store = server.store().await;
    let mut random = fastrand::Rng::with_seed(1);
    let empty = memory(&server);
    let run = new_run("measured");
    store.create_run(run.clone()).await.unwrap();
    let split =
        store.claim_split(ClaimSplit { request: request(0), nonce: 1, ttl_ms: HOUR_MS }).await.unwrap().unwrap();
    let mut payload_bytes = 0;
    let phase = Phase::begin(&server);
    for step in 0..BATCHES / STEP {
        let batch = |at: u64, random: &mut fastrand::Rng| {
            let sequence = step * STEP + at + 1;
            let payload = payload::encode(&recipients(sequence, random)).to_vec();
            let site = ["google", "microsoft", "other"][sequence as usize % 3].parse().unwrap();
            NewBatch { sequence, site, count: COUNT, payload }
        };
        let batches: Vec<_> = (0..STEP).map(|at| batch(at, &mut random)).collect();
        payload_bytes += batches.iter().map(|batch| batch.payload.len()).sum::<usize>();
        let add = AddBatches {
            run: run.id.clone(),
            fence: split.fence.clone(),
            cursor: step,
            cursor_next: step + 1,
            batches,
            open: Vec::new(),
            bad_rows: 0,
            repeated_rows: 0,
            bad_row_samples: Vec::new(),
            complete: step + 1 == BATCHES / STEP,
            ttl_ms: HOUR_MS,
        };
        store.add_batches(add).await.unwrap();
    }
    phase.end("add_batches (20 each)");
    let all = (BATCHES * u64::from(COUNT)) as f64;
    let queued = memory(&server) - empty;
    println!("queued: {:.1} B a recipient, of which payload {:.1}", queued / all, payload_bytes as f64 / all);

    let lanes = vec![(LaneName::bulk(), 10), (LaneName::transactional(), 100)];
    let mut held = Vec::new();
    let phase = Phase::begin(&server);
    for n in 0..BATCHES / 4 {
        let claim = Claim {
            worker: worker(1),
            request: request(n + 1),
            nonce: 1,
            batches_max: 4,
            lanes: lanes.clone(),
            ttl_ms: HOUR_MS,
            hard_cap_ms: HOUR_MS,
            slots: 256,
            limits: Limits::default(),
        };
        held.extend(store.claim(claim).await.unwrap().leases.into_iter().map(|lease| (lease.batch, lease.fence)));
    }
    phase.end("claim (4 each)");
    assert_eq!(held.len() as u64, BATCHES);

    let outcome = |index| Outcome {
        index,
        kind: OutcomeKind::Accepted,
        code: "250 2.0.0".into(),
        detail: String::new(),
        retry_after_ms: 0,
    };
    let phase = Phase::begin(&server);
    for held in held.chunks(4) {
        for step in 0..COUNT / WINDOW {
            let report = |(batch, fence): &(_, _)| LeaseReport {
                batch: Clone::clone(batch),
                fence: Clone::clone(fence),
                sequence: u64::from(step) + 1,
                outcomes: (step.saturating_sub(1) * WINDOW..step * WINDOW).map(outcome).collect(),
                intents: (step * WINDOW..(step + 1) * WINDOW).collect(),
                progress: 0,
            };
            let reports = held.iter().map(report).collect();
            let checkpoint = Checkpoint {
                worker: worker(1),
                reports,
                ttl_ms: HOUR_MS,
                window: WINDOW,
                retry_fraction: 0,
                limits: Limits::default(),
            };
            let answers = store.checkpoint(checkpoint).await.unwrap();
            assert!(answers.iter().all(|answer| answer.granted.len() == WINDOW as usize));
        }
    }
    phase.end("checkpoint (10 outcomes, 10 intents, 4 pipelined)");
    let phase = Phase::begin(&server);
    for held in held.chunks(4) {
        let report = |(batch, fence): &(_, _)| LeaseReport {
            batch: Clone::clone(batch),
            fence: Clone::clone(fence),
            sequence: 100,
            outcomes: (COUNT - WINDOW..COUNT).map(outcome).collect(),
            intents: Vec::new(),
            progress: 0,
        };
        let finish = Finish { worker: worker(1), reports: held.iter().map(report).collect(), retry_fraction: 0 };
        let answers = store.finish(finish).await.unwrap();
        assert!(answers.iter().all(|answer| answer.status == LeaseStatus::Settled));
    }
    phase.end("finish (10 outcomes, 4 pipelined)");
    println!("settled: {:.1} B a recipient, payload still there", (memory(&server) - empty) / all);
    let phase = Phase::begin(&server);
    loop {
        let claim = ClaimHistory { request: request(0), ttl_ms: HOUR_MS, limit: SEGMENT_BATCHES_MAX };
        let claimed = store.claim_history(claim).await.unwrap();
        if claimed.batches.is_empty() {
            break;
        }
        let batches = claimed.batches.into_iter().map(|batch| (batch.record.id, batch.stamp)).collect();
        let retire = RetireBatches { request: request(0), segment: "0123456789abcdef0123456789ab".into(), batches };
        store.retire_batches(retire).await.unwrap();
    }
    phase.end("claim_history and retire_batches (100 and 20 each)");
    let retired = (memory(&server) - empty) / all;
    println!("retired: {retired:.1} B a recipient");
    assert!(retired < 10.0, "more than 10 B of memory a retired recipient");
    println!("aof: {:.1} B a recipient", number(&server, "persistence", "aof_current_size") / all);
    assert!(queued / all < 60.0, "more than 60 B of memory a queued recipient");
}
