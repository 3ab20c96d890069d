//! The size that is promised to be shown: 20,000 recipients, two masters, four workers, one of each killed.

use postrider_tests::{Audience, Campaign, Fleet, Rules, Settings};
use std::time::Duration;

#[test]
fn twenty_thousand_survive_a_worker_and_a_master() {
    let mut fleet = Fleet::start(Settings { sink_latency_ms: 20, ..Settings::default() });
    let audience = Audience::of(20_000);
    let run = fleet.launch(&Campaign::named("digest"), &audience);
    let watcher = fleet.watch(&run);
    fleet.wait_copies(2_000, Duration::from_secs(60));
    fleet.kill_worker_in_intent(2);
    fleet.wait_copies(8_000, Duration::from_secs(120));
    fleet.kill_master_in_intent(0);
    let ended = fleet.wait_ended(&run, Duration::from_secs(300));
    assert_eq!(ended.state, "finished", "{ended:?}");
    fleet.judge("big", &run, audience.addresses(), Rules::FAULTS, &watcher.stop());
}
