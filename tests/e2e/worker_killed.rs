//! Workers are SIGKILLed in mid-batch: others take over, and only recipients in intent may be sent twice.

use postrider_tests::{Audience, Campaign, Fleet, Rules, Settings};
use std::time::Duration;

#[test]
fn a_killed_worker_costs_at_most_its_intents() {
    let mut fleet = Fleet::start(Settings { sink_latency_ms: 50, ..Settings::default() });
    let audience = Audience::of(5_000);
    let run = fleet.launch(&Campaign::named("digest"), &audience);
    let watcher = fleet.watch(&run);
    fleet.kill_worker_in_intent(0);
    fleet.kill_worker_in_intent(1);
    fleet.start_worker(0);
    let ended = fleet.wait_ended(&run, Duration::from_secs(120));
    assert_eq!(ended.state, "finished", "{ended:?}");
    fleet.judge("worker_killed", &run, audience.addresses(), Rules::FAULTS, &watcher.stop());
}
