//! A run is cancelled in full flight: what is in flight ends by its outcome, the rest is never sent.

use postrider_tests::{Audience, Campaign, Fleet, Rules, Settings, wait};
use std::time::Duration;

#[test]
fn nothing_is_sent_after_a_cancelled_run_ended() {
    let mut fleet = Fleet::start(Settings { sink_latency_ms: 50, ..Settings::default() });
    let audience = Audience::of(5_000);
    let run = fleet.launch(&Campaign::named("digest"), &audience);
    let watcher = fleet.watch(&run);
    fleet.wait_copies(300, Duration::from_secs(30));
    fleet.client().ok(&["run", "cancel", &run]);
    let ended = fleet.wait_ended(&run, Duration::from_secs(60));
    let ended_ms = wait::now_ms();
    assert_eq!(ended.state, "cancelled", "{ended:?}");
    assert!(ended.recipients.cancelled > 0, "it was cancelled before its end: {ended:?}");
    assert_eq!(ended.recipients.pending, 0, "{ended:?}");
    let rules = Rules { all_accepted: false, ..Rules::CLEAN };
    let findings = fleet.judge("run_cancelled", &run, &audience_admitted(&fleet, &run), rules, &watcher.stop());
    assert_eq!(findings.accepted, ended.recipients.accepted, "every message that was sent is counted, and no other");
    let late = fleet.ledger().iter().filter(|line| line.at_ms > ended_ms).count();
    assert_eq!(late, 0, "messages were sent after the end");
    assert!(findings.accepted < audience.len() as u64, "all were sent");
}

/// A cancelled run ends its split, so not everybody need have been admitted.
fn audience_admitted(fleet: &Fleet, run: &str) -> std::collections::BTreeSet<String> {
    fleet.client().recipients(run).into_iter().map(|recipient| recipient.address).collect()
}
