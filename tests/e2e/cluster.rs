//! Several runs in the shards of a cluster, and each of its nodes is SIGKILLed and comes back: every acknowledged write is
//! there, nothing is lost and nothing is repeated.

use postrider_tests::redis_cluster::RedisCluster;
use postrider_tests::{Audience, Campaign, Fleet, Rules, Settings};
use std::time::Duration;

const SHARDS: usize = 6;
const RUNS: usize = 4;
const RECIPIENTS: usize = 1_500;

#[test]
fn a_cluster_loses_nothing_when_its_nodes_die() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut cluster = RedisCluster::start(dir.path());
    let store = format!("url = \"{}\"\nshards = {SHARDS}", cluster.url());
    // Longer than a node is away, so that every lease is still held when it is back.
    let settings =
        Settings { store: Some(store), sink_latency_ms: 50, lease_ttl_ms: 30_000, workers: 2, ..Settings::default() };
    let mut fleet = Fleet::start(settings);
    let names: Vec<String> = (0..RUNS).map(|number| format!("digest{number}")).collect();
    let audiences: Vec<Audience> =
        names.iter().map(|name| Audience::of_sites(std::slice::from_ref(name), RECIPIENTS)).collect();
    let launch = |(name, audience): (&String, &Audience)| fleet.launch(&Campaign::named(name), audience);
    let runs: Vec<String> = names.iter().zip(&audiences).map(launch).collect();
    let watcher = fleet.watch(&runs[0]);
    for node in 0..3 {
        let in_intent = fleet.wait_fleet_in_intent();
        cluster.kill(node);
        fleet.note_store_killed(in_intent);
        cluster.restart(node);
    }
    for run in &runs {
        let ended = fleet.wait_ended(run, Duration::from_secs(180));
        assert_eq!(ended.state, "finished", "{ended:?}");
    }
    let everybody = audiences.iter().flat_map(|audience| audience.addresses().clone()).collect();
    let runs: Vec<&str> = runs.iter().map(String::as_str).collect();
    fleet.judge_runs("cluster", &runs, &everybody, Rules::CLEAN, &watcher.stop());
    // Keys of shards are on every node: the runs were not all in one.
    let by_node = cluster.count_keys("postrider:{s*}:shard");
    assert!(by_node.iter().sum::<usize>() == SHARDS && by_node.iter().filter(|keys| **keys > 0).count() > 1);
}
