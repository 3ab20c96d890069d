//! The primary is SIGKILLed while its replicas lag, and sentinels promote one of them. Masters wait for a replica before
//! they answer (`replicated`), so nothing that a worker was told is lost: nobody is missed, sent to twice or in doubt.

use postrider_tests::sentinels::Sentinels;
use postrider_tests::{Audience, Campaign, Fleet, Rules, Settings, wait};
use std::time::Duration;

const LAG_BOUND: Duration = Duration::from_secs(5);

#[test]
fn a_failover_to_a_lagging_replica_costs_nothing() {
    let dir = tempfile::Builder::new().prefix("postrider-e2e-").tempdir().expect("a temporary folder");
    let mut group = Sentinels::start(dir.path(), dir.path());
    let store = format!("url = \"{}\"\ndurability = \"replicated\"\nreplicas = 1", group.url());
    // Leases outlast the failover, so that no expiry hides what it costs.
    let settings = Settings { store: Some(store), sink_latency_ms: 50, lease_ttl_ms: 60_000, ..Settings::default() };
    let mut fleet = Fleet::start(settings);
    let audience = Audience::of(6_000);
    let run = fleet.launch(&Campaign::named("digest"), &audience);
    let watcher = fleet.watch(&run);
    let in_intent = fleet.wait_fleet_in_intent();
    group.cut_replicas_off();
    let lag = wait::until("the replicas to lag behind", LAG_BOUND, || group.lag_bytes().filter(|lag| *lag > 0));
    let copies = fleet.ledger().len();
    group.kill_primary();
    fleet.note_store_killed(in_intent);
    group.wait_failed_over();
    println!("SCENARIO failover: primary killed after {copies} messages, replicas {lag} bytes behind");
    let ended = fleet.wait_ended(&run, Duration::from_secs(180));
    assert_eq!(ended.state, "finished", "{ended:?}");
    let rules = Rules { unanswered_polls: true, ..Rules::CLEAN };
    fleet.judge("failover", &run, audience.addresses(), rules, &watcher.stop());
}
