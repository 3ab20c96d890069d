//! A claim stays cheap whatever is queued: the number of commands that its script calls does not grow with ready
//! batches, nor with runs that are paused or without room. Each of these commands is O(log n) at most, and how many
//! there are does not depend on the speed of the machine. (`scripts/bench claim` shows the time.)

#![expect(clippy::unwrap_used, reason = "a case that cannot reach its server has failed")]

mod redis_server;

use postrider_common::ids::{LaneName, RunId};
use postrider_common::lease::LeaseReport;
use postrider_common::limits::SPLIT_STEP_BATCHES_MAX;
use postrider_common::mark::Marks;
use postrider_common::pace::{Limit, Limits, Pace};
use postrider_store::conformance::scene::{new_run, request, worker};
use postrider_store::redis::Redis;
use postrider_store::{AddBatches, Checkpoint, Claim, ClaimSplit, ClaimedBatch, Compare, Durability, NewBatch, Store};
use redis_server::Server;

const HOUR_MS: u64 = 3_600_000;
const FEW: usize = 10;
const MANY: usize = 400;
/// Sites without room, fewer than `FEW`: their number is bounded by what can be limited.
const SITES: usize = 5;
/// What is sent beside the claims, by whoever connects and by this test.
const OF_CONNECTIONS: [&str; 8] = ["info", "hello", "auth", "client", "ping", "subscribe", "ssubscribe", "psubscribe"];
/// Claims looked at, each of another worker, so that each does the same.
const CLAIMS: u8 = 3;

#[derive(Debug, Clone, Copy)]
enum Beside {
    ReadyBatches,
    Runs,
    PausedRuns,
    RunsInPausedLane,
    RunsInThrottledLane,
    RunsAtThrottledSites,
}

struct Queue {
    server: Server,
    store: Redis,
    claims: u8,
}

impl Queue {
    async fn run(&self, lane: &str, name: &str, site: &str, batches: usize) -> RunId {
        let run = postrider_store::NewRun { lane: lane.parse().unwrap(), ..new_run(name) };
        let id = run.id.clone();
        self.store.create_run(run).await.unwrap();
        let (request, nonce) = request();
        let split = self.store.claim_split(ClaimSplit { request, nonce, ttl_ms: HOUR_MS }).await.unwrap().unwrap();
        assert_eq!(split.run, id);
        let sequences: Vec<u64> = (1..=batches as u64).collect();
        for (step, sequences) in sequences.chunks(SPLIT_STEP_BATCHES_MAX).enumerate() {
            let batch = |sequence: &u64| NewBatch {
                sequence: *sequence,
                site: site.parse().unwrap(),
                count: 1,
                payload: b"payload".to_vec(),
                not_before_ms: 0,
                checked: 0,
            };
            let add = AddBatches {
                run: id.clone(),
                fence: split.fence.clone(),
                cursor: step as u64,
                cursor_next: step as u64 + 1,
                batches: sequences.iter().map(batch).collect(),
                open: Vec::new(),
                bad_rows: 0,
                repeated_rows: 0,
                bad_row_samples: Vec::new(),
                complete: sequences.last() == Some(&(batches as u64)),
                ttl_ms: HOUR_MS,
            };
            self.store.add_batches(add).await.unwrap();
        }
        id
    }

    async fn claim(&mut self, limits: &Limits) -> ClaimedBatch {
        self.claims += 1;
        let (request, nonce) = request();
        let claim = Claim {
            worker: worker(self.claims),
            request,
            nonce,
            batches_max: 1,
            lanes: vec![(LaneName::bulk(), 10), (LaneName::transactional(), 100)],
            ttl_ms: HOUR_MS,
            hard_cap_ms: HOUR_MS,
            slots: 64,
            limits: limits.clone(),
        };
        let mut leases = self.store.claim(claim).await.unwrap().leases;
        assert_eq!(leases.len(), 1, "one batch is to be had");
        leases.remove(0)
    }

    /// Leaves no room in so many lanes or sites that allow one recipient an hour.
    async fn exhaust(&mut self, number: usize, limits: &Limits) {
        for _ in 0..number {
            let held = self.claim(limits).await;
            let (batch, fence) = (held.batch, held.fence);
            let report = LeaseReport { batch, fence, sequence: 1, outcomes: Vec::new(), intents: vec![0], progress: 0 };
            let (reports, limits) = (vec![report], limits.clone());
            let checkpoint = Checkpoint {
                worker: worker(0),
                reports,
                ttl_ms: HOUR_MS,
                window: 1,
                retry_fraction: 0,
                limits,
                grants: None,
            };
            assert_eq!(self.store.checkpoint(checkpoint).await.unwrap()[0].granted, [0]);
        }
    }

    /// So many of it, and a run with batches to be had. The limits that hold.
    async fn fill(&mut self, beside: Beside, number: usize) -> Limits {
        let mut limits = Limits::default();
        let an_hour = Limit { pace: Some(Pace { rate: "1/h".parse().unwrap(), burst: 1 }), concurrency: None };
        let (mut open, lane, mut sites) = (CLAIMS as usize * 2, "bulk", 1);
        match beside {
            Beside::ReadyBatches => open += number,
            Beside::Runs | Beside::PausedRuns | Beside::RunsInPausedLane => (),
            Beside::RunsInThrottledLane => limits.lane(LaneName::bulk(), an_hour),
            Beside::RunsAtThrottledSites => {
                sites = SITES;
                (0..SITES).for_each(|site| limits.site(format!("site-{site}").parse().unwrap(), an_hour));
            }
        }
        if !matches!(beside, Beside::ReadyBatches) {
            for n in 0..number {
                let run = self.run(lane, &format!("beside-{n}"), &format!("site-{}", n % sites), 1).await;
                if matches!(beside, Beside::PausedRuns) {
                    self.store.pause_run(&run).await.unwrap();
                }
            }
        }
        match beside {
            Beside::RunsInPausedLane => self.store.set_lane_paused(&LaneName::bulk(), true).await.unwrap(),
            Beside::RunsInThrottledLane => self.exhaust(1, &limits).await,
            Beside::RunsAtThrottledSites => self.exhaust(SITES, &limits).await,
            Beside::ReadyBatches | Beside::Runs | Beside::PausedRuns => (),
        }
        self.run("transactional", "open", "other", open).await;
        limits
    }

    fn commands(&self) -> u64 {
        let stats: String = self.server.command(&["INFO", "commandstats"]);
        let number = |line: &str| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            let counts = !OF_CONNECTIONS.contains(&name.split('|').next()?);
            counts.then(|| rest.split(',').next().unwrap().parse::<u64>().unwrap())
        };
        stats.lines().filter_map(number).sum()
    }
}

/// Commands called by some claims beside so many of it.
async fn commands(beside: Beside, number: usize) -> Vec<u64> {
    let server = Server::start_with(&["--appendonly", "no"]);
    let store = server.store_with(Durability::Relaxed).await.unwrap();
    store.compare(Compare { marks: Marks::default(), confirm: true }).await.unwrap();
    let mut queue = Queue { server, store, claims: 0 };
    let limits = queue.fill(beside, number).await;
    // What has no room leaves the choices with the first claims.
    queue.claim(&limits).await;
    queue.claim(&limits).await;
    let mut all = Vec::new();
    for _ in 0..CLAIMS {
        let before = queue.commands();
        queue.claim(&limits).await;
        all.push(queue.commands() - before);
    }
    all
}

async fn do_not_grow(beside: Beside) {
    let (few, many) = (commands(beside, FEW).await, commands(beside, MANY).await);
    println!("{beside:?}: {few:?} commands beside {FEW}, {many:?} beside {MANY}");
    assert!(few.iter().all(|commands| *commands > 0), "nothing was counted");
    assert_eq!(few, many, "{beside:?}");
}

#[tokio::test]
async fn commands_of_a_claim_do_not_grow_with_ready_batches() {
    do_not_grow(Beside::ReadyBatches).await;
}

#[tokio::test]
async fn commands_of_a_claim_do_not_grow_with_runs() {
    do_not_grow(Beside::Runs).await;
}

#[tokio::test]
async fn commands_of_a_claim_do_not_grow_with_paused_runs() {
    do_not_grow(Beside::PausedRuns).await;
}

#[tokio::test]
async fn commands_of_a_claim_do_not_grow_with_runs_in_a_paused_lane() {
    do_not_grow(Beside::RunsInPausedLane).await;
}

#[tokio::test]
async fn commands_of_a_claim_do_not_grow_with_runs_in_a_lane_without_room() {
    do_not_grow(Beside::RunsInThrottledLane).await;
}

#[tokio::test]
async fn commands_of_a_claim_do_not_grow_with_runs_at_sites_without_room() {
    do_not_grow(Beside::RunsAtThrottledSites).await;
}
