//! Masters are SIGKILLed one after the other: no lease notices, nobody is sent anything twice.

use postrider_tests::{Audience, Campaign, Fleet, Rules, Settings};
use std::time::Duration;

#[test]
fn a_killed_master_costs_nothing() {
    let mut fleet = Fleet::start(Settings { sink_latency_ms: 50, ..Settings::default() });
    let audience = Audience::of(5_000);
    let run = fleet.launch(&Campaign::named("digest"), &audience);
    let watcher = fleet.watch(&run);
    fleet.kill_master_in_intent(0);
    fleet.start_master(0);
    fleet.kill_master_in_intent(1);
    fleet.start_master(1);
    let ended = fleet.wait_ended(&run, Duration::from_secs(120));
    assert_eq!(ended.state, "finished", "{ended:?}");
    fleet.judge("master_killed", &run, audience.addresses(), Rules::CLEAN, &watcher.stop());
}
