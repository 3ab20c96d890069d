//! Recipients whose time to live was over: the run begins again with them, once, when a person says so.

use postrider_tests::{Audience, Campaign, Fleet, Rules, Settings};
use serde_json::Value;
use std::time::Duration;

const BOUND: Duration = Duration::from_secs(60);
const RECIPIENTS: u64 = 40;
/// r0000 to r0009.
const DEFERRED: u64 = 10;

fn json(text: &str) -> Value {
    let last = text.lines().last().expect("a line");
    serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn a_run_begins_again_with_the_exhausted() {
    let site = "place".to_owned();
    let mut fleet = Fleet::start(Settings {
        workers: 2,
        // The first delay is longer than the time to live.
        retry: r#"{ base = "2s", cap = "2s", ttl = "100ms" }"#,
        sink_rules: vec!["defer@r000*@place.example#1".to_owned()],
        sites: vec![site.clone()],
        ..Settings::default()
    });
    let audience = Audience::of_sites(std::slice::from_ref(&site), RECIPIENTS as usize);
    let run = fleet.launch(&Campaign::named("digest"), &audience);
    let ended = fleet.wait_ended(&run, BOUND);
    let (accepted, exhausted) = (ended.recipients.accepted, ended.recipients.exhausted);
    assert_eq!((accepted, exhausted), (RECIPIENTS - DEFERRED, DEFERRED), "{ended:?}");

    let client = fleet.client();
    let retry = ["--output", "json", "run", "retry", &run, "--idempotency-key", "once"];
    let begun = json(&client.ok(&retry));
    assert_eq!((&begun["recipients"], &begun["generation"]), (&DEFERRED.into(), &1.into()));
    // The same call again begins nobody twice, and waits for what the first one began.
    let watcher = fleet.watch(&run);
    let waited = json(&client.ok(&[&retry[..], &["--wait"]].concat()));
    assert_eq!((&waited["state"], &waited["recipients"]["accepted"]), (&"finished".into(), &RECIPIENTS.into()));
    assert_eq!((&waited["recipients"]["exhausted"], &waited["generation"]), (&0.into(), &1.into()));
    let nobody = json(&client.ok(&["--output", "json", "run", "retry", &run, "--unknown"]));
    assert_eq!((&nobody["recipients"], &nobody["generation"]), (&0.into(), &2.into()));
    let wrong = client.call(&["run", "retry", &run, "--unknown", "--idempotency-key", "once"]);
    assert_eq!(wrong.code, 1, "{}", wrong.stderr);
    fleet.judge("retry", &run, audience.addresses(), Rules::CLEAN, &watcher.stop());
}
