//! One transactional message during a bulk run does not wait for it (promise P5).

use postrider_tests::{Audience, Campaign, Fleet, Rules, Settings, wait};
use std::time::Duration;

/// Generous: the time is printed, and only a message stuck behind the run must fail.
const PROMPT: Duration = Duration::from_secs(10);
const MESSAGES: usize = 5;

#[test]
fn a_single_message_overtakes_a_bulk_run() {
    let mut fleet = Fleet::start(Settings { sink_latency_ms: 50, workers: 2, ..Settings::default() });
    let audience = Audience::of(6_000);
    let client = fleet.client();
    let run = fleet.launch(&Campaign::named("digest"), &audience);
    let watcher = fleet.watch(&run);
    fleet.wait_fleet_in_intent();
    let mut took = Vec::new();
    for index in 0..MESSAGES {
        let to = format!("reset{index}@example.net");
        let answer = client.call(&[
            "send",
            "--campaign",
            "digest",
            "--lane",
            "transactional",
            "--to",
            &to,
            "--set",
            "name=Ada",
            "--set",
            "city=Oslo",
            "--set",
            "coupon=K1",
            "--wait",
        ]);
        assert_eq!(answer.code, 0, "{answer:?}");
        wait::until("what is said to be sent to be in the ledger", Duration::from_secs(1), || {
            fleet.ledger().iter().any(|line| line.rcpt_to == to).then_some(())
        });
        took.push(answer.took);
    }
    let meanwhile = client.show(&run);
    assert!(!meanwhile.has_ended(), "the bulk run was over too soon for the test: {meanwhile:?}");
    let slowest = took.iter().max().copied().unwrap_or_default();
    println!(
        "SCENARIO small_not_behind_big: {MESSAGES} messages with `send --wait` took {took:?}, {} bulk recipients pending",
        meanwhile.recipients.pending
    );
    assert!(slowest < PROMPT, "{took:?}");
    fleet.wait_ended(&run, Duration::from_secs(120));
    let mut everybody = audience.addresses().clone();
    everybody.extend((0..MESSAGES).map(|index| format!("reset{index}@example.net")));
    let watched = watcher.stop();
    let runs = client.all_runs();
    let runs: Vec<&str> = runs.iter().map(String::as_str).collect();
    fleet.judge_runs("small_not_behind_big", &runs, &everybody, Rules::CLEAN, &watched);
}
