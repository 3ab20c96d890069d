//! The sink takes a message and hangs up before its reply (RFC 1047): nobody can know, so it is sent again
//! and marked, or held, as the campaign says.

use postrider_tests::{Audience, Campaign, Fleet, Rules, Settings};
use std::time::Duration;

const LOST: usize = 60;

#[test]
fn a_lost_reply_is_marked_and_sent_again() {
    let mut fleet = Fleet::start(Settings { sink_rules: vec!["drop@lost*#1".to_owned()], ..Settings::default() });
    let mut audience = Audience::of(1_000);
    for index in 0..LOST {
        audience.add(&format!("lost{index:03}@example.com"));
    }
    let run = fleet.launch(&Campaign::named("digest"), &audience);
    let watcher = fleet.watch(&run);
    let ended = fleet.wait_ended(&run, Duration::from_secs(60));
    assert_eq!(ended.state, "finished", "{ended:?}");
    let rules = Rules { duplicates_max: Some(LOST as u64), ..Rules::CLEAN };
    let findings = fleet.judge("reply_lost", &run, audience.addresses(), rules, &watcher.stop());
    assert_eq!(findings.duplicates_reply_lost as usize, LOST, "each is sent again, and says why: {findings:?}");
}

#[test]
fn a_lost_reply_is_held_when_the_campaign_says_so() {
    let mut fleet = Fleet::start(Settings { sink_rules: vec!["drop@lost*#1".to_owned()], ..Settings::default() });
    let mut audience = Audience::of(500);
    for index in 0..LOST {
        audience.add(&format!("lost{index:03}@example.com"));
    }
    let campaign = Campaign { on_unknown: "hold", ..Campaign::named("digest") };
    let run = fleet.launch(&campaign, &audience);
    let watcher = fleet.watch(&run);
    let ended = fleet.wait_ended(&run, Duration::from_secs(60));
    assert_eq!(ended.state, "finished", "{ended:?}");
    assert_eq!(ended.recipients.unknown as usize, LOST, "{ended:?}");
    fleet.judge("reply_lost_held", &run, audience.addresses(), Rules::CLEAN, &watcher.stop());
}
