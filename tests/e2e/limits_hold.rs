//! Rate and concurrency hold for the fleet while workers come and go, as the sink sees it (promise P6); and a lane
//! that crawls costs the others nothing (promise P5).

use postrider_tests::ledger::Line;
use postrider_tests::{Audience, Campaign, Fleet, Rules, Settings, wait};
use std::time::Duration;

const PACED: usize = 2_000;
const CAPPED: usize = 1_500;
const RATE: i64 = 200;
const BURST: i64 = 20;
/// Of either lane. What is in flight may come late and so bunch up: it bounds that, too.
const CONCURRENCY: i64 = 40;
const LATENCY_MS: i64 = 40;
/// Generous: only a message that waits for the crawling lane must fail.
const PROMPT: Duration = Duration::from_secs(10);

fn lanes() -> String {
    format!(
        "[[lane]]\nname = \"paced\"\nrate = \"{RATE}/s\"\nburst = {BURST}\nconcurrency = {CONCURRENCY}\n\
         [[lane]]\nname = \"capped\"\nconcurrency = {CONCURRENCY}\n[[lane]]\nname = \"crawl\"\nrate = \"60/h\"\n"
    )
}

fn campaign(lane: &str) -> Campaign {
    Campaign { lane: lane.to_owned(), ..Campaign::named(lane) }
}

/// Instants of the final dots for one lane's audience, in order.
fn instants(ledger: &[Line], lane: &str) -> Vec<i64> {
    let domain = format!("@{lane}.example");
    let mut all: Vec<i64> =
        ledger.iter().filter(|line| line.rcpt_to.ends_with(&domain)).map(|line| line.at_ms).collect();
    all.sort_unstable();
    all
}

/// The largest number of instants in any span of that length.
fn most_within(instants: &[i64], span_ms: i64) -> i64 {
    let mut from = 0;
    let mut most = 0;
    for (to, at) in instants.iter().enumerate() {
        while instants[from] <= at - span_ms {
            from += 1;
        }
        most = most.max(to - from + 1);
    }
    i64::try_from(most).expect("a small number")
}

#[test]
fn limits_hold_while_workers_come_and_go() {
    let latency = LATENCY_MS.unsigned_abs();
    let mut fleet =
        Fleet::start(Settings { sink_latency_ms: latency, workers: 1, extra: lanes(), ..Settings::default() });
    let paced = Audience::of_sites(&["paced".to_owned()], PACED);
    let capped = Audience::of_sites(&["capped".to_owned()], CAPPED);
    let first = fleet.launch(&campaign("paced"), &paced);
    let second = fleet.launch(&campaign("capped"), &capped);
    let watcher = fleet.watch(&first);
    fleet.wait_copies((PACED + CAPPED) / 10, Duration::from_secs(60));
    (1..8).for_each(|index| fleet.add_worker(index));
    fleet.wait_copies((PACED + CAPPED) * 6 / 10, Duration::from_secs(60));
    for index in 2..8 {
        assert_eq!(fleet.terminate_worker(index, Duration::from_secs(20)).code(), Some(0));
    }
    for run in [&first, &second] {
        assert_eq!(fleet.wait_ended(run, Duration::from_secs(120)).state, "finished");
    }
    let mut everybody = paced.addresses().clone();
    everybody.extend(capped.addresses().iter().cloned());
    fleet.judge_runs("limits_hold", &[&first, &second], &everybody, Rules::CLEAN, &watcher.stop());

    let ledger = fleet.ledger();
    let (in_pace, in_cap) = (instants(&ledger, "paced"), instants(&ledger, "capped"));
    let took_ms = in_pace.last().expect("sent") - in_pace.first().expect("sent");
    let mut told = Vec::new();
    for span_ms in [1_000, 2_000, 5_000, took_ms + 1] {
        let (most, allowed) = (most_within(&in_pace, span_ms), BURST + RATE * span_ms / 1_000 + CONCURRENCY);
        told.push(format!("{most} of {allowed} in {span_ms} ms"));
        assert!(most <= allowed, "{most} messages within {span_ms} ms, and {allowed} are allowed");
    }
    // Each transaction lasts at least one latency at its end, so those that end within one overlap.
    let overlaps = [&in_pace, &in_cap].map(|instants| most_within(instants, LATENCY_MS));
    let ideal_ms = i64::try_from(PACED).expect("small") * 1_000 / RATE;
    println!(
        "SCENARIO limits_hold: paced at {RATE}/s: {}, all in {took_ms} ms of at least {ideal_ms}; at once at the sink \
         {overlaps:?} of {CONCURRENCY}",
        told.join(", ")
    );
    assert!(overlaps.iter().all(|most| *most <= CONCURRENCY), "{overlaps:?} at once, and {CONCURRENCY} are allowed");
    assert!(took_ms < ideal_ms * 2, "the rate is a limit and not a brake: {took_ms} ms, and {ideal_ms} would do");
}

#[test]
fn a_crawling_lane_costs_the_others_nothing() {
    let fleet = Fleet::start(Settings { workers: 2, extra: lanes(), ..Settings::default() });
    let client = fleet.client();
    let run = fleet.launch(&campaign("crawl"), &Audience::of_sites(&["crawl".to_owned()], 5_000));
    fleet.wait_copies(1, Duration::from_secs(30));
    let mut took = Vec::new();
    for index in 0..5 {
        let to = format!("reset{index}@example.net");
        let fields = ["--set", "name=Ada", "--set", "city=Oslo", "--set", "coupon=K1", "--wait"];
        let answer = client.call(
            &[["send", "--campaign", "crawl", "--lane", "transactional", "--to", &to].as_slice(), &fields].concat(),
        );
        assert_eq!(answer.code, 0, "{answer:?}");
        took.push(answer.took);
    }
    // And another bulk lane has all the room there is.
    let audience = Audience::of_sites(&["free".to_owned()], 1_000);
    let other = fleet.launch(&Campaign::named("free"), &audience);
    assert_eq!(fleet.wait_ended(&other, Duration::from_secs(60)).state, "finished");
    let leases: u32 = wait::until("the crawling lane's leases to be few", Duration::from_secs(30), || {
        let leases = client.workers().iter().map(|worker| worker.leases).sum();
        (leases <= 4).then_some(leases)
    });
    println!("SCENARIO limits_hold: beside a crawling lane `send --wait` took {took:?}; it holds {leases} leases");
    assert!(took.iter().all(|took| *took < PROMPT), "{took:?}");
    assert!(!client.show(&run).has_ended());
    assert!(instants(&fleet.ledger(), "crawl").len() <= 3, "one a minute");
    client.ok(&["run", "cancel", &run]);
    assert_eq!(fleet.wait_ended(&run, Duration::from_secs(60)).state, "cancelled");
}
