//! Limits over several shards, as workers meet them: on one server, and on the nodes of a cluster.

#![allow(dead_code, reason = "each test file uses a part of it")]

use postrider_common::OutcomeKind;
use postrider_common::ids::BatchId;
use postrider_common::lease::LeaseReport;
use postrider_common::pace::{Limit, Limits, Pace};
use postrider_store::conformance::Fixture;
use postrider_store::conformance::scene::{Scene, lane, new_run, outcomes, worker};
use postrider_store::{Checkpoint, Claim, ClaimedBatch};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Whatever is waited for has happened by then, however slow the machine is.
const WAIT_MAX: Duration = Duration::from_secs(90);
const AT_ONCE: u32 = 40;
const BURST: u32 = 5;
const PER_SECOND: u64 = 50;
const SIZE: u32 = 10;

fn of_lane(limit: Limit) -> Limits {
    let mut limits = Limits::default();
    limits.lane(lane("bulk"), limit);
    limits
}

/// A worker with any number of slots that asks for all it can.
struct Worker<'a, F: Fixture> {
    scene: Scene<'a, F>,
    limits: Limits,
    leases: Vec<ClaimedBatch>,
    sequence: u64,
    in_flight: BTreeMap<BatchId, BTreeSet<u32>>,
    done: BTreeMap<BatchId, BTreeSet<u32>>,
}

impl<'a, F: Fixture> Worker<'a, F> {
    fn new(fixture: &'a F, limits: Limits) -> Self {
        let scene = Scene { fixture, run: new_run("run 0").id };
        Self { scene, limits, leases: Vec::new(), sequence: 0, in_flight: BTreeMap::new(), done: BTreeMap::new() }
    }

    async fn claim(&mut self) {
        let call = self.scene.claim_call(1, 20, &[("bulk", 1)]);
        let claim = Claim { limits: self.limits.clone(), ttl_ms: 600_000, ..call };
        self.leases.extend(self.scene.fixture.store().claim(claim).await.unwrap().leases);
    }

    /// Reports outcomes of these, and asks for all the others. How many were granted.
    async fn ask(&mut self, end: &[(BatchId, u32)]) -> usize {
        if self.leases.is_empty() {
            return 0;
        }
        self.sequence += 1;
        let report = |lease: &ClaimedBatch| {
            let ended: Vec<u32> = end.iter().filter(|(batch, _)| *batch == lease.batch).map(|(_, at)| *at).collect();
            let known = |all: &BTreeMap<BatchId, BTreeSet<u32>>, at: &u32| {
                all.get(&lease.batch).is_some_and(|indexes| indexes.contains(at))
            };
            let all = 0..lease.recipients.len() as u32;
            LeaseReport {
                batch: lease.batch.clone(),
                fence: lease.fence.clone(),
                sequence: self.sequence,
                outcomes: outcomes(ended, OutcomeKind::Accepted),
                intents: all.filter(|at| !known(&self.in_flight, at) && !known(&self.done, at)).collect(),
                progress: 0,
            }
        };
        let checkpoint = Checkpoint {
            worker: worker(1),
            reports: self.leases.iter().map(report).collect(),
            ttl_ms: 600_000,
            window: SIZE,
            retry_fraction: 0,
            limits: self.limits.clone(),
            grants: None,
        };
        let answers = self.scene.fixture.store().checkpoint(checkpoint).await.unwrap();
        for (batch, at) in end {
            self.in_flight.get_mut(batch).unwrap().remove(at);
            self.done.entry(batch.clone()).or_default().insert(*at);
        }
        let mut granted = 0;
        for answer in answers {
            granted += answer.granted.len();
            self.in_flight.entry(answer.batch).or_default().extend(answer.granted);
        }
        granted
    }

    fn flying(&self) -> Vec<(BatchId, u32)> {
        let of_batch =
            |(batch, all): (&BatchId, &BTreeSet<u32>)| all.iter().map(|at| (batch.clone(), *at)).collect::<Vec<_>>();
        self.in_flight.iter().flat_map(of_batch).collect()
    }
}

/// One run, so one shard, gets nearly all of a concurrency; when runs in the others want some, they get it as it becomes
/// free, and there are never more in flight than the limit.
pub async fn what_is_of_no_use_elsewhere_is_used(fixture: &impl Fixture, shards: u32) {
    let limits = of_lane(Limit { pace: None, concurrency: Some(AT_ONCE) });
    Scene::with(fixture, new_run("run 0"), &[SIZE; 12]).await;
    let mut all = Worker::new(fixture, limits);
    let deadline = Instant::now() + WAIT_MAX;
    while all.flying().len() < (AT_ONCE - (shards - 1)) as usize {
        assert!(Instant::now() < deadline, "only {} in flight", all.flying().len());
        all.claim().await;
        all.ask(&[]).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let first: BTreeSet<BatchId> = all.leases.iter().map(|lease| lease.batch.clone()).collect();
    for number in 1..20 {
        Scene::with(fixture, new_run(&format!("run {number}")), &[SIZE; 2]).await;
    }
    // They end one after the other, and everybody asks for the room.
    let others = |all: &Worker<'_, _>| all.flying().iter().filter(|(batch, _)| !first.contains(batch)).count();
    while others(&all) < (AT_ONCE / shards) as usize {
        assert!(Instant::now() < deadline, "only {} of others in flight", others(&all));
        all.claim().await;
        let ended: Vec<_> = all.flying().into_iter().take(3).collect();
        all.ask(&ended).await;
        assert!(all.flying().len() <= AT_ONCE as usize, "{} in flight", all.flying().len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Runs in all shards, and no span of time with more than the burst and the rate of it, by the store's clock.
pub async fn shards_together_keep_to_a_rate(fixture: &impl Fixture) {
    let pace = Pace { rate: format!("{PER_SECOND}/s").parse().unwrap(), burst: BURST };
    for number in 0..12 {
        Scene::with(fixture, new_run(&format!("run {number}")), &[SIZE; 2]).await;
    }
    let mut worker = Worker::new(fixture, of_lane(Limit { pace: Some(pace), concurrency: None }));
    let mut calls: Vec<(Instant, Instant, u64)> = Vec::new();
    let deadline = Instant::now() + WAIT_MAX;
    while calls.iter().map(|call| call.2).sum::<u64>() < 120 {
        assert!(Instant::now() < deadline, "{calls:?}");
        worker.claim().await;
        let ended = worker.flying();
        let before = Instant::now();
        let granted = worker.ask(&ended).await;
        calls.push((before, Instant::now(), granted as u64));
    }
    for (from, (began, _, _)) in calls.iter().enumerate() {
        let mut granted = 0;
        for (_, ended, count) in &calls[from..] {
            granted += count;
            // The instants of the store are whole milliseconds.
            let span_ms = ended.duration_since(*began).as_millis() as u64 + 2;
            let most = u64::from(BURST) + PER_SECOND * span_ms / 1000 + 1;
            assert!(granted <= most, "{granted} in {span_ms} ms");
        }
    }
}
