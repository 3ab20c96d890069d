//! The relay refuses connections for a while: the run waits, nobody is given up, and it ends by itself.

use postrider_tests::{Audience, Campaign, Fleet, Rules, Settings, wait};
use std::time::Duration;

/// Long against the retry delays that the harness configures.
const DOWN: Duration = Duration::from_secs(3);

#[test]
fn a_relay_that_comes_back_gets_everything_once() {
    let mut fleet = Fleet::start_without_relay(Settings::default());
    let audience = Audience::of(1_500);
    let client = fleet.client();
    let run = fleet.launch(&Campaign::named("digest"), &audience);
    let watcher = fleet.watch(&run);
    wait::until("everybody to be admitted", Duration::from_secs(30), || client.show(&run).split_complete.then_some(()));
    wait::while_nothing("everybody waits for the relay", DOWN, || {
        let seen = client.show(&run);
        (seen.recipients.pending != seen.recipients.total || seen.has_ended()).then(|| format!("{seen:?}"))
    });
    fleet.start_sink();
    let ended = fleet.wait_ended(&run, Duration::from_secs(120));
    assert_eq!(ended.state, "finished", "{ended:?}");
    fleet.judge("relay_down", &run, audience.addresses(), Rules::CLEAN, &watcher.stop());
}
