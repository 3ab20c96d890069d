//! Nothing goes wrong: everybody gets one message, and nobody is ever in doubt.

use postrider_tests::{Audience, Campaign, Fleet, Rules, Settings};
use std::time::Duration;

#[test]
fn everybody_gets_one_message() {
    let mut fleet = Fleet::start(Settings::default());
    let mut audience = Audience::of(4_000);
    audience.add_bad_row("not an address,Nobody,Nowhere,K0");
    audience.add_bad_row("r000001@outlook.com,Again,Nowhere,K0");
    let run = fleet.launch(&Campaign::named("digest"), &audience);
    let watcher = fleet.watch(&run);
    let ended = fleet.wait_ended(&run, Duration::from_secs(120));
    let watched = watcher.stop();
    assert_eq!(ended.state, "finished", "{ended:?}");
    assert!(ended.split_complete, "{ended:?}");
    assert_eq!(ended.bad_rows, 1, "one address is none, and a repeat is not a bad row: {ended:?}");
    assert_eq!(ended.recipients.total, audience.len() as u64, "{ended:?}");
    fleet.judge("happy_path", &run, audience.addresses(), Rules::CLEAN, &watched);
}
