//! Failover with real sentinels: what was answered is there afterwards, and calls find the new primary by themselves.

#![expect(clippy::unwrap_used, reason = "a case that cannot reach its server has failed")]

mod redis_group;
mod redis_server;

use async_trait::async_trait;
use postrider_common::OutcomeKind;
use postrider_common::ids::RunId;
use postrider_common::lease::LeaseStatus;
use postrider_store::conformance::Fixture;
use postrider_store::conformance::scene::{Scene, new_run, outcomes};
use postrider_store::redis::Redis;
use postrider_store::{Compare, Durability, Found, Store, StoreError};
use redis_group::{RedisGroup, until};
use std::sync::Arc;
use std::time::{Duration, Instant};

const REPLICATED: Durability = Durability::Replicated { replicas: 1 };
/// Longer than a failover, its retries, and the deadline of a call.
const BOUND: Duration = Duration::from_secs(60);

struct Failover {
    store: Arc<Redis>,
}

#[async_trait]
impl Fixture for Failover {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn pass(&self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

/// Repeats a call as its callers do: while the error says that it may succeed later.
async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(call: impl Fn() -> F) -> T {
    let deadline = Instant::now() + BOUND;
    loop {
        match call().await {
            Ok(answer) => return answer,
            Err(error) => {
                assert!(error.is_retryable(), "{error}");
                assert!(Instant::now() < deadline, "for {BOUND:?}: {error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

fn is_there(group: &RedisGroup, server: usize, run: &RunId) -> bool {
    group.servers[server].ask::<i64>(&["EXISTS", &format!("postrider:{{s0}}:run:{run}")]) == Some(1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_to_a_lagging_replica_loses_nothing_that_was_answered() {
    let mut group = RedisGroup::start();
    let store = Arc::new(group.store_with(REPLICATED).await.unwrap());
    let fixture = Failover { store: store.clone() };
    let scene = Scene::of(&fixture, &[20, 5]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0, 1, 2]).await;
    scene.checkpoint(&mut held, outcomes([0, 1], OutcomeKind::Accepted), Vec::new()).await;
    let mut answered = Vec::new();
    for number in 0..20 {
        let run = new_run(&format!("before {number}"));
        store.create_run(run.clone()).await.unwrap();
        answered.push(run.id);
    }

    group.cut_replicas_off();
    let parked = |server: usize, run: &RunId| {
        group.servers[server].ask::<i64>(&["SISMEMBER", "postrider:{s0}:parked", run.as_str()]) == Some(1)
    };
    let paused = answered[0].clone();
    let under_way = tokio::spawn({
        let (store, paused) = (store.clone(), paused.clone());
        async move { store.pause_run(&paused).await }
    });
    until("the primary to have the write", || parked(0, &paused).then_some(()));
    assert!(!parked(1, &paused) && !parked(2, &paused), "the replicas lag");
    assert!(!under_way.is_finished(), "it is not answered before a replica has it");

    group.servers[0].kill();
    // Whatever it says now is true of the new primary.
    let is_paused = match under_way.await.unwrap() {
        Ok(_) => Some(true),
        Err(error) => {
            assert!(error.is_retryable() && error.may_have_happened(), "{error}");
            None
        }
    };
    let after = new_run("after");
    patiently(|| store.create_run(after.clone())).await;
    answered.push(after.id);
    group.wait_failed_over();

    for run in &answered {
        assert!(patiently(|| store.run(run)).await.is_some(), "{run} was answered and is lost");
    }
    let now_paused = patiently(|| store.run(&paused)).await.unwrap().paused;
    assert_eq!(is_paused.unwrap_or(now_paused), now_paused);
    let record = patiently(|| store.run(&scene.run)).await.unwrap();
    assert_eq!((record.recipients.accepted, record.recipients.pending, record.batches.leased), (2, 23, 1));
    let compared = patiently(|| store.compare(Compare { marks: store.seen(), confirm: true })).await.remove(0);
    assert_eq!(compared.found, Found::Confirmed, "nothing that was answered is missing");
    // The lease goes on, and its work ends on the new primary.
    scene.checkpoint(&mut held, outcomes([2], OutcomeKind::Accepted), (3..13).collect()).await;
    scene.checkpoint(&mut held, outcomes(3..13, OutcomeKind::Accepted), (13..20).collect()).await;
    scene.checkpoint(&mut held, outcomes(13..20, OutcomeKind::Accepted), Vec::new()).await;
    assert_eq!(scene.finish(&mut held, Vec::new()).await.status, LeaseStatus::Settled);
    scene.check().await;
    println!("{} of {} answered runs are there, 0 lost", answered.len(), answered.len());
}

/// Shows that the test above can fail: without waiting for replicas the same failover loses an answered write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_waiting_for_replicas_a_failover_loses_what_was_answered() {
    let mut group = RedisGroup::start();
    let store = group.store_with(Durability::Relaxed).await.unwrap();
    // As a master does before anything else: steps are counted from here on.
    store.compare(Compare { marks: store.seen(), confirm: true }).await.unwrap();
    let kept = new_run("kept");
    store.create_run(kept.clone()).await.unwrap();
    until("the replicas to have it", || (is_there(&group, 1, &kept.id) && is_there(&group, 2, &kept.id)).then_some(()));
    group.cut_replicas_off();
    let lost = new_run("lost");
    store.create_run(lost.clone()).await.unwrap();
    group.servers[0].kill();
    group.wait_failed_over();
    let compared = patiently(|| store.compare(Compare { marks: store.seen(), confirm: true })).await.remove(0);
    assert!(matches!(compared.found, Found::WentBack { .. }), "and it is noticed: {compared:?}");
    assert!(patiently(|| store.run(&kept.id)).await.is_some());
    assert_eq!(patiently(|| store.run(&lost.id)).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_move_on_when_sentinels_switch_a_primary_that_lives() {
    let group = RedisGroup::start();
    let store = group.store_with(REPLICATED).await.unwrap();
    let before = new_run("before");
    store.create_run(before.clone()).await.unwrap();
    let sentinel_port: u16 = group.url().split([':', ',', '/']).nth(4).unwrap().parse().unwrap();
    let client = redis::Client::open(format!("redis://127.0.0.1:{sentinel_port}")).unwrap();
    let words = ["FAILOVER", "mail"];
    redis::cmd("SENTINEL").arg(&words).query::<String>(&mut client.get_connection().unwrap()).unwrap();
    group.wait_failed_over();
    let after = new_run("after");
    patiently(|| store.create_run(after.clone())).await;
    let holds = |server| is_there(&group, server, &after.id);
    until("the new primary to have it", || (holds(1) || holds(2)).then_some(()));
    assert!(patiently(|| store.run(&before.id)).await.is_some());
}

#[tokio::test]
async fn what_sentinels_do_not_carry_is_refused_by_name() {
    let group = RedisGroup::start();
    let error = group.store_with(Durability::Always).await.unwrap_err();
    assert!(matches!(error, StoreError::Unsafe { .. }), "{error}");
    assert!(error.to_string().contains("sentinels") && error.to_string().contains("\"replicated\""), "{error}");
    let error = group.store_with(Durability::Replicated { replicas: 3 }).await.unwrap_err();
    assert!(error.to_string().contains("2 replicas are in step"), "{error}");
    let options = || postrider_store::Options::new(REPLICATED, Arc::new(postrider_common::SystemClock::default()));
    let stranger = group.url().replace("/mail", "/other");
    let error = Redis::connect(&stranger, options()).await.unwrap_err();
    assert!(matches!(&error, StoreError::Url(why) if why.contains("no sentinel knows the service 'other'")), "{error}");
    let server = format!("redis+sentinel://127.0.0.1:{}/mail", group.servers[0].port);
    let error = Redis::connect(&server, options()).await.unwrap_err();
    assert!(matches!(&error, StoreError::Url(why) if why.contains("is not a sentinel")), "{error}");
}
