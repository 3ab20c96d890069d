//! The limits of a relay, and those of a lane, hold for the fleet while it grows from one worker to 32 and shrinks to
//! four, as the relay sees it (promise P6).

use postrider_tests::ledger::Line;
use postrider_tests::{Audience, Campaign, Fleet, Rules, Settings, wait};
use std::collections::BTreeSet;
use std::time::Duration;

const RECIPIENTS: usize = 4_000;
const WORKERS: usize = 32;
const LEFT: usize = 4;
/// Of the relay, over all workers: fewer than there are workers for a while.
const CONNECTIONS: u64 = 12;
const RATE: i64 = 200;
/// Of the capped lane, and of the other.
const CONCURRENCY: i64 = 10;
const CONCURRENCY_FREE: i64 = 60;
const LATENCY_MS: i64 = 30;

fn most_within(instants: &[i64], span_ms: i64) -> i64 {
    let within = |(from, at): (usize, &i64)| instants[from..].iter().take_while(|other| *other - at < span_ms).count();
    i64::try_from(instants.iter().enumerate().map(within).max().unwrap_or(0)).expect("a small number")
}

fn workers_of(ledger: &[Line]) -> BTreeSet<&str> {
    ledger.iter().map(Line::peer_ip).collect()
}

#[test]
fn limits_hold_from_one_worker_to_many_to_few() {
    let relay = format!("connections_total = {CONNECTIONS}\nrate = \"{RATE}/s\"\n");
    let mut fleet = Fleet::start(Settings {
        workers: 1,
        slots: 16,
        connections: 16,
        relay,
        sink_latency_ms: LATENCY_MS.unsigned_abs(),
        extra: format!(
            "[[lane]]\nname = \"capped\"\nconcurrency = {CONCURRENCY}\n\
             [[lane]]\nname = \"free\"\nconcurrency = {CONCURRENCY_FREE}\n"
        ),
        ..Settings::default()
    });
    let free = Audience::of_sites(&["free".to_owned()], RECIPIENTS * 3 / 4);
    let capped = Audience::of_sites(&["capped".to_owned()], RECIPIENTS / 4);
    let first = fleet.launch(&Campaign { lane: "free".to_owned(), ..Campaign::named("free") }, &free);
    let second = fleet.launch(&Campaign { lane: "capped".to_owned(), ..Campaign::named("capped") }, &capped);
    let watcher = fleet.watch(&first);
    fleet.wait_copies(RECIPIENTS / 20, Duration::from_secs(120));
    let alone = fleet.ledger();
    assert_eq!(workers_of(&alone).len(), 1);
    (1..WORKERS).for_each(|index| fleet.add_worker(index));
    // Many workers send, though one had all connections.
    let sharing = wait::until("the relay to be shared", Duration::from_secs(120), || {
        let sharing = workers_of(&fleet.ledger()).len();
        (sharing >= CONNECTIONS as usize / 2).then_some(sharing)
    });
    fleet.wait_copies(RECIPIENTS * 6 / 10, Duration::from_secs(120));
    for index in LEFT..WORKERS {
        assert_eq!(fleet.terminate_worker(index, Duration::from_secs(30)).code(), Some(0));
    }
    let shrunk = fleet.ledger().len();
    for run in [&first, &second] {
        assert_eq!(fleet.wait_ended(run, Duration::from_secs(180)).state, "finished");
    }
    let mut everybody = free.addresses().clone();
    everybody.extend(capped.addresses().iter().cloned());
    fleet.judge_runs("fleet_scale", &[&first, &second], &everybody, Rules::CLEAN, &watcher.stop());

    let ledger = fleet.ledger();
    let mut instants: Vec<i64> = ledger.iter().map(|line| line.at_ms).collect();
    instants.sort_unstable();
    let took_ms = instants.last().expect("sent") - instants.first().expect("sent");
    let most_open = ledger.iter().map(|line| line.connections_most).max().unwrap_or(0);
    let mut told = Vec::new();
    for span_ms in [1_000, 2_000, 5_000, took_ms + 1] {
        // A second's worth may come at once, and what is on its way may come late and so bunch up: the permits of a
        // second, and what is in intent.
        let late = RATE + CONCURRENCY + CONCURRENCY_FREE;
        let (most, allowed) = (most_within(&instants, span_ms), RATE + RATE * span_ms / 1_000 + late);
        told.push(format!("{most} of {allowed} in {span_ms} ms"));
        assert!(most <= allowed, "{most} messages within {span_ms} ms, and {allowed} are allowed");
    }
    let in_cap: Vec<&Line> = ledger.iter().filter(|line| line.rcpt_to.ends_with("@capped.example")).collect();
    let mut capped: Vec<i64> = in_cap.iter().map(|line| line.at_ms).collect();
    capped.sort_unstable();
    let overlap = most_within(&capped, LATENCY_MS);
    println!(
        "SCENARIO fleet_scale: 1 to {WORKERS} to {LEFT} workers, {sharing} of them shared the relay early, {} in all, \
         {shrunk} messages before they were few: at most {most_open} of {CONNECTIONS} connections open; at {RATE}/s {}, \
         all in {took_ms} ms; of the capped lane {overlap} of {CONCURRENCY} at once",
        workers_of(&ledger).len(),
        told.join(", ")
    );
    assert!(most_open <= CONNECTIONS, "{most_open} connections were open, and {CONNECTIONS} are allowed");
    assert!(overlap <= CONCURRENCY, "{overlap} of the capped lane at once, and {CONCURRENCY} are allowed");
    assert!(shrunk < RECIPIENTS, "the few had nothing left to do");
}
