//! The same submit arrives many times, at both masters, before and after its run ended: one run.

use postrider_tests::{Audience, Campaign, Fleet, Rules, Settings};
use std::time::Duration;

const SUBMITS: usize = 6;

#[test]
fn one_idempotency_key_is_one_run() {
    let mut fleet = Fleet::start(Settings::default());
    let audience = Audience::of(1_000);
    let campaign = Campaign::named("digest");
    let client = fleet.client();
    client.apply(&campaign.write(fleet.folder(), &audience));
    let submits: Vec<_> = (0..SUBMITS)
        .map(|_| {
            let client = client.clone();
            std::thread::spawn(move || client.run("digest", "the-key"))
        })
        .collect();
    let mut runs: Vec<String> =
        submits.into_iter().map(|submit| submit.join().expect("a submit is answered")).collect();
    let run = runs[0].clone();
    let watcher = fleet.watch(&run);
    let ended = fleet.wait_ended(&run, Duration::from_secs(60));
    runs.push(client.run("digest", "the-key"));
    assert!(runs.iter().all(|other| *other == run), "{runs:?}");
    assert_eq!(ended.state, "finished", "{ended:?}");
    // The same key for something else is a mistake of the caller, and nothing is sent for it.
    std::fs::write(fleet.folder().join("other.csv"), "email,name,city,coupon\nx@example.com,X,Y,Z\n").expect("written");
    let other = ["campaign", "run", "digest", "--audience", "other.csv", "--idempotency-key", "the-key"];
    let answer = client.call(&other);
    assert_eq!(answer.code, 1, "{answer:?}");
    assert!(answer.stderr.contains("idempotency"), "{answer:?}");
    fleet.judge("same_key", &run, audience.addresses(), Rules::CLEAN, &watcher.stop());
}
