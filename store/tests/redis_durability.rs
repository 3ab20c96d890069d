//! `durability = "replicated"`: an answer means that a replica has it, and the lack of replicas is an error that says so.

#![expect(clippy::unwrap_used, reason = "a case that cannot reach its server has failed")]

mod redis_server;

use async_trait::async_trait;
use postrider_common::OutcomeKind;
use postrider_common::lease::LeaseStatus;
use postrider_store::conformance::Fixture;
use postrider_store::conformance::scene::{Scene, new_run, outcomes};
use postrider_store::redis::Redis;
use postrider_store::{Durability, Store, StoreError};
use redis_server::Server;
use std::sync::Arc;
use std::time::{Duration, Instant};

const REPLICATED: Durability = Durability::Replicated { replicas: 1 };
const BOUND: Duration = Duration::from_secs(60);
/// The deadline of a call, and a wait that began just before it.
const ERROR_BOUND: Duration = Duration::from_secs(15);

struct Pair {
    store: Arc<Redis>,
    primary: Server,
    replica: Server,
}

#[async_trait]
impl Fixture for Pair {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn pass(&self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

/// A primary on a port as well, which is how replicas reach it.
fn primary(port: u16) -> Server {
    let port = port.to_string();
    Server::start_with(&[
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
        "--port",
        &port,
        "--bind",
        "127.0.0.1",
        "--repl-diskless-sync-delay",
        "0",
    ])
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn replica_of(port: u16) -> Server {
    let replica = Server::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    replica.command::<()>(&["REPLICAOF", "127.0.0.1", &port.to_string()]);
    replica
}

fn wait_for_replicas(primary: &Server, count: usize) {
    let deadline = Instant::now() + BOUND;
    while primary.command::<String>(&["INFO", "replication"]).matches("state=online").count() != count {
        assert!(Instant::now() < deadline, "waited {BOUND:?} in vain for {count} replicas in step");
        std::thread::sleep(Duration::from_millis(10));
    }
}

async fn pair() -> Pair {
    let port = free_port();
    let primary = primary(port);
    let replica = replica_of(port);
    wait_for_replicas(&primary, 1);
    primary.allow_least_user(&[]);
    let store = primary.store_of_least_user_with(REPLICATED).await.unwrap();
    Pair { store: Arc::new(store), primary, replica }
}

fn signal(server: &Server, name: &str) {
    let pid = server.pid().to_string();
    assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
}

fn has_run(server: &Server, run: &postrider_common::ids::RunId) -> bool {
    server.command::<i64>(&["EXISTS", &format!("postrider:{{s0}}:run:{run}")]) == 1
}

#[tokio::test]
async fn what_was_answered_is_at_the_replica() {
    let pair = pair().await;
    let scene = Scene::of(&pair, &[2]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0, 1]).await;
    scene.checkpoint(&mut held, outcomes([0, 1], OutcomeKind::Accepted), Vec::new()).await;
    assert_eq!(scene.finish(&mut held, Vec::new()).await.status, LeaseStatus::Settled);
    let counters: Vec<Option<u64>> = pair.replica.command(&[
        "HMGET",
        "postrider:{s0}:count",
        &format!("{}|accepted", scene.run),
        &format!("{}|b_settled", scene.run),
    ]);
    assert_eq!(counters, [Some(2), Some(1)]);
    for number in 0..50 {
        let run = new_run(&format!("run {number}"));
        pair.store.create_run(run.clone()).await.unwrap();
        assert!(has_run(&pair.replica, &run.id), "answered before the replica had it");
    }
}

#[tokio::test]
async fn one_wait_serves_many_calls() {
    let pair = pair().await;
    let runs: Vec<_> = (0..200).map(|number| new_run(&format!("run {number}"))).collect();
    let waits = |server: &Server| {
        let stats: String = server.command(&["INFO", "commandstats"]);
        let line = stats.lines().find(|line| line.starts_with("cmdstat_wait:"));
        line.map_or(0, |line| line.split(['=', ',']).nth(1).unwrap().parse::<u64>().unwrap())
    };
    let before = waits(&pair.primary);
    let created = futures::future::join_all(runs.iter().map(|run| pair.store.create_run(run.clone()))).await;
    assert!(created.iter().all(Result::is_ok));
    assert!(runs.iter().all(|run| has_run(&pair.replica, &run.id)));
    let (waited, calls) = (waits(&pair.primary) - before, 2 * runs.len() as u64);
    println!("{waited} waits for {calls} calls");
    assert!(waited > 0 && waited < calls / 2, "{waited} waits for {calls} calls");
}

#[tokio::test]
async fn a_write_that_no_replica_has_is_an_error_and_a_repeat_of_it_as_well() {
    let pair = pair().await;
    let run = new_run("the same");
    pair.store.create_run(run.clone()).await.unwrap();
    signal(&pair.replica, "-STOP");
    for _ in 0..2 {
        // The second time the transition has nothing to write, on connections that wrote nothing: still no OK.
        let store = pair.primary.store_with(REPLICATED).await.unwrap();
        let begun = Instant::now();
        let error = store.pause_run(&run.id).await.unwrap_err();
        assert!(matches!(error, StoreError::NotReplicated { reached: 0, wanted: 1 }), "{error}");
        assert!(error.is_retryable() && error.may_have_happened());
        assert!(begun.elapsed() < ERROR_BOUND, "{:?}", begun.elapsed());
    }
    // Reads need no replica.
    assert!(pair.store.run(&run.id).await.unwrap().unwrap().paused);
    signal(&pair.replica, "-CONT");
    let deadline = Instant::now() + BOUND;
    while let Err(error) = pair.store.pause_run(&run.id).await {
        assert!(error.is_retryable() && Instant::now() < deadline, "{error}");
    }
    let parked: i64 = pair.replica.command(&["SISMEMBER", "postrider:{s0}:parked", run.id.as_str()]);
    assert_eq!(parked, 1);
}

#[tokio::test]
async fn a_call_goes_on_when_the_replica_comes_back_in_time() {
    let pair = pair().await;
    signal(&pair.replica, "-STOP");
    let store = pair.store.clone();
    let call = tokio::spawn(async move { store.set_lane_paused(&"bulk".parse().unwrap(), true).await });
    let written = || pair.primary.command::<i64>(&["HEXISTS", "postrider:{g}:outbox", "L|bulk"]) == 1;
    let deadline = Instant::now() + ERROR_BOUND;
    while !written() {
        assert!(Instant::now() < deadline, "the write never came");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!call.is_finished(), "answered before the replica had it");
    signal(&pair.replica, "-CONT");
    call.await.unwrap().unwrap();
    assert_eq!(pair.replica.command::<i64>(&["SISMEMBER", "postrider:{s0}:lanes", "bulk"]), 1);
}

/// A primary that is deposed and promoted again has replicas, and has forgotten: its WAIT must not count.
#[tokio::test]
async fn a_primary_with_another_history_does_not_confirm_what_it_forgot() {
    let pair = pair().await;
    let lane: postrider_common::ids::LaneName = "bulk".parse().unwrap();
    signal(&pair.replica, "-STOP");
    let store = pair.store.clone();
    let call = tokio::spawn({
        let lane = lane.clone();
        async move { store.set_lane_paused(&lane, true).await }
    });
    let paused = |server: &Server| server.command::<i64>(&["SISMEMBER", "postrider:{s0}:lanes", "bulk"]) == 1;
    let deadline = Instant::now() + ERROR_BOUND;
    while pair.primary.command::<i64>(&["HEXISTS", "postrider:{g}:outbox", "L|bulk"]) == 0 {
        assert!(Instant::now() < deadline, "the write never came");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Another history, in which the write is not.
    pair.primary.command::<()>(&["HDEL", "postrider:{g}:outbox", "L|bulk"]);
    pair.primary.command::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
    pair.primary.command::<()>(&["REPLICAOF", "NO", "ONE"]);
    signal(&pair.replica, "-CONT");
    match call.await.unwrap() {
        // It was done again in the new history.
        Ok(()) => assert!(paused(&pair.primary) && paused(&pair.replica)),
        Err(error) => assert!(error.is_retryable(), "{error}"),
    }
}

#[tokio::test]
async fn a_start_without_enough_replicas_names_what_is_missing() {
    let server = Server::start();
    let error = server.store_with(REPLICATED).await.unwrap_err();
    let StoreError::Unsafe { message, mend } = &error else { panic!("{error}") };
    assert!(message.contains("0 replicas") && mend.contains("min-replicas-to-write 1"), "{error}");
    assert_eq!(server.command::<i64>(&["DBSIZE"]), 0, "a refused start wrote something");
    // The server itself refuses writes until they are there.
    server.command::<()>(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let error = server.store_with(REPLICATED).await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("NOREPLICAS"), "{error}");
}

#[tokio::test]
async fn replicas_without_a_word_about_them_are_refused() {
    let pair = pair().await;
    let error = pair.primary.store_with(Durability::Always).await.unwrap_err().to_string();
    assert!(error.contains("1 replicas are attached") && error.contains("\"replicated\""), "{error}");
    pair.primary.store_with(Durability::Relaxed).await.unwrap();
    pair.primary.command::<()>(&["CONFIG", "SET", "appendfsync", "everysec"]);
    let error = pair.primary.store_with(REPLICATED).await.unwrap_err().to_string();
    assert!(error.contains("appendfsync is everysec"), "{error}");
}
