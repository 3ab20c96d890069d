//! A worker is told to stop under load: it hands back what it has not sent and nobody is in doubt.

use postrider_tests::{Audience, Campaign, Fleet, Rules, Settings};
use std::time::Duration;

#[test]
fn a_drained_worker_costs_nothing() {
    let settings = Settings { sink_latency_ms: 50, ..Settings::default() };
    let bound = Duration::from_millis(settings.drain_timeout_ms) + Duration::from_secs(5);
    let mut fleet = Fleet::start(settings);
    let audience = Audience::of(5_000);
    let run = fleet.launch(&Campaign::named("digest"), &audience);
    let watcher = fleet.watch(&run);
    for index in 0..2 {
        fleet.wait_worker_in_intent(index);
        let status = fleet.terminate_worker(index, bound);
        assert_eq!(status.code(), Some(0), "a drained worker exits with 0");
    }
    let ended = fleet.wait_ended(&run, Duration::from_secs(120));
    assert_eq!(ended.state, "finished", "{ended:?}");
    assert_eq!(ended.leases_expired, Some(0), "leases were handed back, not left to expire: {ended:?}");
    fleet.judge("worker_drained", &run, audience.addresses(), Rules::CLEAN, &watcher.stop());
}
