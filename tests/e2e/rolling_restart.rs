//! Every process is replaced, one after the other, while messages flow: an upgrade costs nothing.

use postrider_tests::{Audience, Campaign, Fleet, Rules, Settings};
use std::time::Duration;

#[test]
fn a_rolling_restart_costs_nothing() {
    let settings = Settings { sink_latency_ms: 50, ..Settings::default() };
    let bound = Duration::from_millis(settings.drain_timeout_ms) + Duration::from_secs(10);
    let mut fleet = Fleet::start(settings);
    let audience = Audience::of(8_000);
    let run = fleet.launch(&Campaign::named("digest"), &audience);
    let watcher = fleet.watch(&run);
    fleet.wait_fleet_in_intent();
    for index in 0..fleet.settings().masters {
        assert_eq!(fleet.terminate_master(index, bound).code(), Some(0), "a stopped master exits with 0");
        fleet.start_master(index);
    }
    for index in 0..fleet.settings().workers {
        fleet.wait_worker_in_intent(index);
        assert_eq!(fleet.terminate_worker(index, bound).code(), Some(0), "a drained worker exits with 0");
        fleet.start_worker(index);
    }
    let before_end = fleet.client().show(&run);
    assert!(!before_end.has_ended(), "the run ended before the last process was replaced: {before_end:?}");
    let ended = fleet.wait_ended(&run, Duration::from_secs(120));
    assert_eq!(ended.state, "finished", "{ended:?}");
    fleet.judge("rolling_restart", &run, audience.addresses(), Rules::CLEAN, &watcher.stop());
}
