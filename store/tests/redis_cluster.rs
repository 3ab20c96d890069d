//! The store on a cluster of real nodes: the conformance suite, limits over all of it, a slot that moves, a node that
//! dies, one that its replica replaces, and what goes on while one is away.

#![expect(clippy::unwrap_used, reason = "a fixture that cannot be made fails its test")]

mod redis_limits;
mod redis_nodes;

use async_trait::async_trait;
use postrider_common::OutcomeKind;
use postrider_common::ids::{BatchId, RunId};
use postrider_common::lease::{Fact, FactStatus, LeaseReport, LeaseStatus};
use postrider_common::pace::Limits;
use postrider_common::state::RecipientState;
use postrider_store::conformance::Fixture;
use postrider_store::conformance::scene::{Held, Scene, new_run, outcomes, worker};
use postrider_store::redis::Redis;
use postrider_store::{Checkpoint, Claim, ClaimedBatch, Compare, Finish, Reclaim, Result, Store};
use redis_nodes::{Cluster, wait_for};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::{Duration, Instant};

const SHARDS: u16 = 4;

struct OnCluster {
    store: Arc<Redis>,
}

#[async_trait]
impl Fixture for OnCluster {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn pass(&self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

/// One cluster for all cases: it takes seconds until nodes agree.
#[tokio::test]
async fn every_case_of_the_conformance_suite() {
    let cluster = Cluster::start();
    let fixture = || async {
        cluster.flush();
        OnCluster { store: Arc::new(cluster.store(SHARDS).await.unwrap()) }
    };
    postrider_store::conformance_tests!(fixture, in_turn);
}

/// On one shard, since turns are taken within a shard: a cluster changes nothing that the model says.
#[tokio::test]
async fn random_calls_agree_with_the_model() {
    let number = |name: &str, other| std::env::var(name).map_or(other, |number| number.parse().unwrap());
    let (first, seeds) = (number("POSTRIDER_SEED_FIRST", 0), number("POSTRIDER_SEEDS", 1));
    let cluster = Cluster::start();
    let mut reached = postrider_store::conformance::random::Reached::default();
    for seed in first..first + seeds {
        cluster.flush();
        let fixture = OnCluster { store: Arc::new(cluster.store(1).await.unwrap()) };
        postrider_store::conformance::random::compare(&fixture, seed, 400, &mut reached).await;
    }
    println!("{seeds} seeds: {reached:?}");
}

/// Batches of each run, and recipients of each batch.
const BATCHES: usize = 20;
const SIZE: u32 = 5;
const RUNS: usize = 8;
const ALL: usize = RUNS * BATCHES * SIZE as usize;
/// A run must end within this, with all that happens to it.
const END_MAX: Duration = Duration::from_secs(120);

/// Runs in all shards. Every recipient is to be granted once and accepted.
async fn begin(fixture: &OnCluster) -> Vec<RunId> {
    let mut runs = Vec::new();
    for number in 0..RUNS {
        runs.push(Scene::with(fixture, new_run(&format!("run {number}")), &[SIZE; BATCHES]).await.run);
    }
    runs
}

#[derive(Debug, Default)]
struct Progress {
    granted: AtomicUsize,
    is_over: AtomicBool,
}

impl Progress {
    /// Some of the work is done, most of it not.
    fn wait_until_under_way(&self) {
        wait_for("a quarter of the grants", || (self.granted.load(SeqCst) * 4 >= ALL).then_some(()));
    }
}

/// What a worker does until it is told to stop: every call is repeated until it is answered, as workers do.
async fn work(fixture: &OnCluster, number: u8, progress: &Progress) -> BTreeSet<(BatchId, u32)> {
    let scene = Scene { fixture, run: new_run("run 0").id };
    let mut granted = BTreeSet::new();
    while !progress.is_over.load(SeqCst) {
        let claim = scene.claim_call(number, 4, &[("bulk", 1)]);
        let claim = Claim { ttl_ms: 60_000, ..claim };
        let leases = until_answered(|| fixture.store.claim(claim.clone())).await.leases;
        for lease in leases {
            let all: Vec<u32> = (0..lease.recipients.len() as u32).collect();
            let report = |sequence, outcomes, intents: &[u32]| LeaseReport {
                batch: lease.batch.clone(),
                fence: lease.fence.clone(),
                sequence,
                outcomes,
                intents: intents.to_vec(),
                progress: 0,
            };
            let by = worker(number);
            let checkpoint = Checkpoint {
                worker: by.clone(),
                reports: vec![report(1, Vec::new(), &all)],
                ttl_ms: 60_000,
                window: 10,
                retry_fraction: 0,
                limits: Limits::default(),
                grants: None,
            };
            let answers = until_answered(|| fixture.store.checkpoint(checkpoint.clone())).await;
            for index in &answers[0].granted {
                let is_new = granted.insert((lease.batch.clone(), *index));
                assert!(is_new, "{} {index} is granted twice", lease.batch);
            }
            progress.granted.fetch_add(answers[0].granted.len(), SeqCst);
            let reports = vec![report(2, outcomes(answers[0].granted.iter().copied(), OutcomeKind::Accepted), &[])];
            let finish = Finish { worker: by, reports, retry_fraction: 0 };
            until_answered(|| fixture.store.finish(finish.clone())).await;
        }
    }
    granted
}

async fn until_answered<A, F: Future<Output = Result<A>>>(call: impl Fn() -> F) -> A {
    let deadline = Instant::now() + END_MAX;
    loop {
        match call().await {
            Ok(answer) => return answer,
            Err(error) => assert!(error.is_retryable() && Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Works on all runs to their end while `harm` is done to the cluster, and counts.
async fn nothing_is_lost_while(mut cluster: Cluster, harm: impl FnOnce(&mut Cluster) + Send + 'static) {
    let fixture = OnCluster { store: Arc::new(cluster.store(SHARDS).await.unwrap()) };
    let runs = begin(&fixture).await;
    let progress = Arc::new(Progress::default());
    let ended = async {
        let deadline = Instant::now() + END_MAX;
        loop {
            let mut pending = 0;
            for run in &runs {
                pending += until_answered(|| fixture.store.run(run)).await.unwrap().recipients.pending;
            }
            if pending == 0 {
                break progress.is_over.store(true, SeqCst);
            }
            assert!(Instant::now() < deadline, "{pending} recipients are pending");
            // As a master does: a node that was started again, or got a slot, is not leased from before.
            let compare = Compare { marks: fixture.store.seen(), confirm: true };
            let compared = until_answered(|| fixture.store.compare(compare.clone())).await;
            assert!(compared.iter().all(|shard| shard.rollbacks == 0), "{compared:?}");
            let reclaim = Reclaim { limit: 100, ttl_ms: 60_000, doubt_grace_ms: 1000, outage_gap_ms: 3_600_000 };
            until_answered(|| fixture.store.reclaim(reclaim)).await;
        }
    };
    let begun = Arc::clone(&progress);
    let harm = tokio::task::spawn_blocking(move || {
        begun.wait_until_under_way();
        harm(&mut cluster);
        cluster
    });
    let (one, two, (), cluster) = tokio::join!(work(&fixture, 1, &progress), work(&fixture, 2, &progress), ended, harm);
    let _cluster = cluster.unwrap();
    let granted: BTreeSet<_> = one.union(&two).collect();
    assert!(one.is_disjoint(&two), "nobody is sent to twice");
    assert_eq!(granted.len(), ALL);
    for run in &runs {
        let record = fixture.store.run(run).await.unwrap().unwrap();
        assert_eq!(record.recipients.accepted, BATCHES as u64 * u64::from(SIZE));
        assert!(record.recipients.adds_up());
        let batches = fixture.store.batches(run, 0, 100).await.unwrap();
        let accepted = |state: &RecipientState| *state == RecipientState::Accepted;
        assert!(batches.iter().flat_map(|batch| &batch.recipients).all(|delivery| accepted(&delivery.state)));
        assert_eq!(batches.len(), BATCHES);
    }
}

#[tokio::test]
async fn a_slot_that_moves_during_a_run_loses_nothing() {
    nothing_is_lost_while(Cluster::start(), |cluster| {
        for tag in ["{s0}", "{g}", "{s1}", "{s2}", "{s3}"] {
            let from = cluster.owner(tag);
            cluster.move_slot(tag, (from + 1) % 3);
            assert_eq!(cluster.owner(tag), (from + 1) % 3);
        }
    })
    .await;
}

#[tokio::test]
async fn a_node_that_dies_during_a_run_loses_nothing() {
    nothing_is_lost_while(Cluster::start(), |cluster| {
        for tag in ["{s0}", "{g}"] {
            let node = cluster.owner(tag);
            cluster.nodes[node].kill();
            // The others say so, and answer for their own slots.
            cluster.wait_until_failed(node);
            assert!(cluster.nodes[node].start_again());
            cluster.agree();
        }
    })
    .await;
}

#[tokio::test]
async fn a_primary_whose_replica_takes_over_during_a_run_loses_nothing() {
    nothing_is_lost_while(Cluster::with_replicas(), |cluster| {
        let node = cluster.owner("{s0}");
        cluster.nodes[node].kill();
        cluster.wait_until_taken_over(node);
        // As its replica: without one nothing is answered.
        assert!(cluster.nodes[node].start_again());
        cluster.agree();
    })
    .await;
}

#[tokio::test]
async fn limits_hold_over_all_nodes_and_are_used_where_there_is_work() {
    let cluster = Cluster::start();
    let fixture = || async { OnCluster { store: Arc::new(cluster.store(SHARDS).await.unwrap()) } };
    redis_limits::what_is_of_no_use_elsewhere_is_used(&fixture().await, SHARDS.into()).await;
    cluster.flush();
    redis_limits::shards_together_keep_to_a_rate(&fixture().await).await;
}

/// What takes longer than this has waited for the node that is away, each time.
const ALL_CLAIMS_MAX: Duration = Duration::from_secs(30);

#[tokio::test]
async fn while_a_node_is_away_the_others_go_on() {
    let mut cluster = Cluster::start();
    let fixture = OnCluster { store: Arc::new(cluster.store(SHARDS).await.unwrap()) };
    let runs = begin(&fixture).await;
    let scene = Scene { fixture: &fixture, run: runs[0].clone() };
    let mut leases = Vec::new();
    while leases.len() < RUNS * BATCHES / 2 {
        let claim = Claim { ttl_ms: 600_000, ..scene.claim_call(1, 8, &[("bulk", 1)]) };
        leases.extend(fixture.store.claim(claim).await.unwrap().leases);
    }
    // One of the nodes, but not all the shards: those of the batches that it does not have are on the others.
    let node = cluster.owner("{s0}");
    let has = |cluster: &Cluster, batch: &BatchId| {
        let key = |shard| format!("postrider:{{s{shard}}}:o:{batch}");
        let shards = (0..SHARDS).filter(|shard| cluster.owner(&format!("{{s{shard}}}")) == node);
        let exists = |shard: u16| cluster.nodes[node].command::<u8>(&["EXISTS", &key(shard)]) == 1;
        shards.into_iter().any(exists)
    };
    let away: BTreeSet<BatchId> =
        leases.iter().map(|lease| lease.batch.clone()).filter(|batch| has(&cluster, batch)).collect();
    assert!(!away.is_empty() && away.len() < leases.len(), "{} of {}", away.len(), leases.len());
    cluster.nodes[node].kill();

    let report = |lease: &ClaimedBatch| Held::of(lease).report(Vec::new(), vec![0]);
    let checkpoint = Checkpoint {
        worker: worker(1),
        reports: leases.iter().map(report).collect(),
        ttl_ms: 600_000,
        window: 10,
        retry_fraction: 0,
        limits: Limits::default(),
        grants: None,
    };
    for answer in fixture.store.checkpoint(checkpoint.clone()).await.unwrap() {
        let expected = if away.contains(&answer.batch) { LeaseStatus::Unanswered } else { LeaseStatus::Held };
        assert_eq!(answer.status, expected, "{}", answer.batch);
        assert_eq!(answer.granted.is_empty(), expected == LeaseStatus::Unanswered);
    }
    let fact = |lease: &ClaimedBatch| Fact {
        batch: lease.batch.clone(),
        fence: lease.fence.clone(),
        outcome: outcomes([1], OutcomeKind::Accepted).remove(0),
    };
    let facts: Vec<Fact> = leases.iter().map(fact).collect();
    for (fact, status) in facts.iter().zip(fixture.store.facts(facts.clone(), 0).await.unwrap()) {
        let expected = if away.contains(&fact.batch) { FactStatus::Unanswered } else { FactStatus::Applied };
        assert_eq!(status, expected, "{}", fact.batch);
    }
    let begun = Instant::now();
    let mut claimed = 0;
    for _ in 0..40 {
        let claim = Claim { ttl_ms: 600_000, ..scene.claim_call(2, 1, &[("bulk", 1)]) };
        claimed += fixture.store.claim(claim).await.unwrap().leases.len();
    }
    assert!(claimed > 0 && begun.elapsed() < ALL_CLAIMS_MAX, "{claimed} in {:?}", begun.elapsed());

    assert!(cluster.nodes[node].start_again());
    cluster.agree();
    let deadline = Instant::now() + END_MAX;
    for sequence in 2.. {
        // As masters do: a server that was started again is compared before it grants anything.
        let compare = Compare { marks: fixture.store.seen(), confirm: true };
        until_answered(|| fixture.store.compare(compare.clone())).await;
        let mut again = checkpoint.clone();
        again.reports.iter_mut().for_each(|report| report.sequence = sequence);
        let answers = until_answered(|| fixture.store.checkpoint(again.clone())).await;
        if answers.iter().all(|answer| answer.status == LeaseStatus::Held && answer.granted == [0]) {
            break;
        }
        assert!(Instant::now() < deadline, "{answers:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
