//! Redis is SIGKILLed and comes back within a lease: every acknowledged write is there, nothing is repeated.

use postrider_tests::{Audience, Campaign, Fleet, Rules, Settings};
use std::time::Duration;

#[test]
fn a_killed_redis_costs_nothing() {
    let mut fleet = Fleet::start(Settings { sink_latency_ms: 50, lease_ttl_ms: 5_000, ..Settings::default() });
    let audience = Audience::of(5_000);
    let run = fleet.launch(&Campaign::named("digest"), &audience);
    let watcher = fleet.watch(&run);
    for _ in 0..2 {
        fleet.kill_redis_in_intent(false);
        fleet.redis.restart();
    }
    let ended = fleet.wait_ended(&run, Duration::from_secs(120));
    assert_eq!(ended.state, "finished", "{ended:?}");
    fleet.judge("redis_killed", &run, audience.addresses(), Rules::CLEAN, &watcher.stop());
}
