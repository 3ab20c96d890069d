//! A run is paused in full flight and resumed: in between nothing is sent, and pausing costs no duplicate.

use postrider_tests::{Audience, Campaign, Fleet, Rules, Settings, wait};
use std::time::Duration;

#[test]
fn a_pause_costs_no_duplicate() {
    let settings = Settings { sink_latency_ms: 50, lease_ttl_ms: 2_000, ..Settings::default() };
    let pause = Duration::from_millis(settings.lease_ttl_ms + settings.doubt_grace_ms + 1_000);
    let mut fleet = Fleet::start(settings);
    let audience = Audience::of(4_000);
    let client = fleet.client();
    let run = fleet.launch(&Campaign::named("digest"), &audience);
    let watcher = fleet.watch(&run);
    fleet.wait_copies(300, Duration::from_secs(30));
    client.ok(&["run", "pause", &run]);
    wait::until("what is in flight to end", Duration::from_secs(20), || {
        let workers = client.workers();
        (!workers.is_empty() && workers.iter().all(|worker| worker.in_intent == 0)).then_some(())
    });
    let copies = fleet.ledger().len();
    assert!(client.show(&run).paused);
    wait::while_nothing("a paused run sends nothing, even when leases would have expired", pause, || {
        let now = fleet.ledger().len();
        (now > copies).then(|| format!("{} messages were sent", now - copies))
    });
    let paused = client.show(&run);
    assert!(paused.recipients.pending > 0 && !paused.has_ended(), "{paused:?}");
    client.ok(&["run", "resume", &run]);
    let ended = fleet.wait_ended(&run, Duration::from_secs(120));
    assert_eq!(ended.state, "finished", "{ended:?}");
    fleet.judge("run_paused", &run, audience.addresses(), Rules::CLEAN, &watcher.stop());
}
