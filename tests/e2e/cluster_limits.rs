//! The limits of a lane hold over all nodes of a cluster, as the sink sees it (promise P6), and one run, which lives in
//! one shard, has nearly all of its lane's rate when nobody else wants it.

use postrider_tests::ledger::Line;
use postrider_tests::redis_cluster::RedisCluster;
use postrider_tests::{Audience, Campaign, Fleet, Rules, Settings};
use std::time::Duration;

const SHARDS: usize = 6;
const RUNS: usize = 5;
const RECIPIENTS: usize = 1_200;
const RATE: i64 = 200;
const BURST: i64 = 20;
/// What is in flight may come late and so bunch up: it bounds that, too.
const CONCURRENCY: i64 = 40;
const LATENCY_MS: i64 = 40;

/// Instants of the final dots for these audiences, in order.
fn instants(ledger: &[Line], names: &[String]) -> Vec<i64> {
    let is_one = |line: &&Line| names.iter().any(|name| line.rcpt_to.ends_with(&format!("@{name}.example")));
    let mut all: Vec<i64> = ledger.iter().filter(is_one).map(|line| line.at_ms).collect();
    all.sort_unstable();
    all
}

fn most_within(instants: &[i64], span_ms: i64) -> i64 {
    let within = |(from, at): (usize, &i64)| instants[from..].iter().take_while(|other| *other - at < span_ms).count();
    i64::try_from(instants.iter().enumerate().map(within).max().unwrap_or(0)).expect("a small number")
}

fn took_ms(instants: &[i64]) -> i64 {
    instants.last().expect("sent") - instants.first().expect("sent")
}

#[test]
fn limits_hold_over_a_cluster_and_one_run_has_nearly_all() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let cluster = RedisCluster::start(dir.path());
    let store = format!("url = \"{}\"\nshards = {SHARDS}", cluster.url());
    let lane =
        format!("[[lane]]\nname = \"paced\"\nrate = \"{RATE}/s\"\nburst = {BURST}\nconcurrency = {CONCURRENCY}\n");
    let mut fleet = Fleet::start(Settings {
        store: Some(store),
        sink_latency_ms: LATENCY_MS.unsigned_abs(),
        workers: 2,
        extra: lane,
        ..Settings::default()
    });
    let names: Vec<String> = (0..=RUNS).map(|number| format!("digest{number}")).collect();
    let audiences: Vec<Audience> =
        names.iter().map(|name| Audience::of_sites(std::slice::from_ref(name), RECIPIENTS)).collect();
    let launch = |fleet: &Fleet, at: usize| {
        fleet.launch(&Campaign { lane: "paced".to_owned(), ..Campaign::named(&names[at]) }, &audiences[at])
    };
    let mut runs = vec![launch(&fleet, 0)];
    let watcher = fleet.watch(&runs[0]);
    assert_eq!(fleet.wait_ended(&runs[0], Duration::from_secs(180)).state, "finished");
    runs.extend((1..=RUNS).map(|at| launch(&fleet, at)));
    for run in &runs {
        assert_eq!(fleet.wait_ended(run, Duration::from_secs(180)).state, "finished");
    }
    let everybody = audiences.iter().flat_map(|audience| audience.addresses().clone()).collect();
    let ids: Vec<&str> = runs.iter().map(String::as_str).collect();
    fleet.judge_runs("cluster_limits", &ids, &everybody, Rules::CLEAN, &watcher.stop());

    let ledger = fleet.ledger();
    let (alone, together) = (instants(&ledger, &names[..1]), instants(&ledger, &names[1..]));
    let mut told = Vec::new();
    for instants in [&alone, &together] {
        for span_ms in [1_000, 2_000, 5_000, took_ms(instants) + 1] {
            let (most, allowed) = (most_within(instants, span_ms), BURST + RATE * span_ms / 1_000 + CONCURRENCY);
            told.push(format!("{most} of {allowed} in {span_ms} ms"));
            assert!(most <= allowed, "{most} messages within {span_ms} ms, and {allowed} are allowed");
        }
        // Each transaction lasts at least one latency at its end, so those that end within one overlap.
        let overlap = most_within(instants, LATENCY_MS);
        assert!(overlap <= CONCURRENCY, "{overlap} at once, and {CONCURRENCY} are allowed");
    }
    let ideal_ms = |instants: &[i64]| i64::try_from(instants.len()).expect("small") * 1_000 / RATE;
    println!(
        "SCENARIO cluster_limits: {SHARDS} shards at {RATE}/s: one run in {} ms of at least {}, {RUNS} runs in {} ms of at \
         least {}: {}",
        took_ms(&alone),
        ideal_ms(&alone),
        took_ms(&together),
        ideal_ms(&together),
        told.join(", ")
    );
    // An even share would take six times as long.
    assert!(took_ms(&alone) < ideal_ms(&alone) * 5, "one run alone does not get what the others do not want");
}
