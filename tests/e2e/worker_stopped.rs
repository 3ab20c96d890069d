//! Workers that are frozen past their lease and go on (promise P3: a stale worker cannot do harm).

use postrider_tests::{Audience, Campaign, Fleet, Rules, Settings, wait};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::time::Duration;

const DRAIN_BOUND: Duration = Duration::from_secs(20);

/// The others finish the run meanwhile, so whatever the frozen worker sends for it afterwards is sent
/// without a lease.
#[test]
fn a_stopped_worker_writes_no_final_dot_after_its_lease() {
    let mut fleet = Fleet::start(Settings { sink_latency_ms: 50, lease_ttl_ms: 2_000, ..Settings::default() });
    let audience = Audience::of(3_000);
    let run = fleet.launch(&Campaign::named("digest"), &audience);
    let watcher = fleet.watch(&run);
    fleet.stop_worker_in_intent(0, 0.5);
    let ended = fleet.wait_ended(&run, Duration::from_secs(120));
    assert_eq!(ended.state, "finished", "{ended:?}");
    for index in 1..fleet.settings().workers {
        assert_eq!(fleet.terminate_worker(index, DRAIN_BOUND).code(), Some(0));
    }
    let continued_ms = wait::now_ms();
    fleet.signal_worker(0, Signal::CONT);
    // Only the frozen worker is left to send this, so when it is done, the worker has long caught up.
    let after = Audience::of_sites(&["after".to_owned()], 50);
    let second = fleet.launch(&Campaign::named("after"), &after);
    fleet.wait_ended(&second, Duration::from_secs(60));
    let mut late: BTreeMap<u64, usize> = BTreeMap::new();
    for line in fleet.ledger() {
        let stale = line.peer_ip() == fleet.source_of(0) && audience.addresses().contains(&line.rcpt_to);
        if stale && line.at_ms >= continued_ms {
            *late.entry(line.connection).or_default() += 1;
        }
    }
    println!(
        "SCENARIO worker_stopped: after SIGCONT {} final dots for the old leases on {} connections",
        late.values().sum::<usize>(),
        late.len()
    );
    let most = late.values().copied().max().unwrap_or_default();
    assert!(most <= 1, "more than what was in the kernel: {late:?}");
    assert!(late.len() <= fleet.settings().connections as usize, "{late:?}");
    let watched = watcher.stop();
    let mut everybody = audience.addresses().clone();
    fleet.judge_runs(
        "worker_stopped",
        &[&run, &second],
        {
            everybody.extend(after.addresses().clone());
            &everybody
        },
        Rules::FAULTS,
        &watched,
    );
}

/// The frozen worker goes on while another has the same recipients in intent, and reports that it did not
/// send most of them. That is true of its own lease and says nothing of the other's: with its old fence it
/// must not move them back to pending.
#[test]
fn a_stale_report_does_not_touch_the_next_lease() {
    let sites: Vec<String> = (0..6).map(|index| format!("site{index}")).collect();
    let mut fleet = Fleet::start(Settings {
        workers: 1,
        // Few and slow, so that most intents wait for their turn at either worker for seconds.
        connections: 4,
        sink_latency_ms: 500,
        lease_ttl_ms: 2_000,
        sites: sites.clone(),
        ..Settings::default()
    });
    // One batch a site, each no larger than the window: a worker has every recipient of it in intent.
    let audience = Audience::of_sites(&sites, 10);
    let run = fleet.launch(&Campaign::named("digest"), &audience);
    let watcher = fleet.watch(&run);
    // By then its leases were renewed, so its reports have numbers that the next holder's have not reached.
    fleet.wait_copies(12, Duration::from_secs(30));
    fleet.stop_worker_in_intent(0, 0.5);
    fleet.add_worker(1);
    let client = fleet.client();
    wait::until("the next worker to have them in intent", Duration::from_secs(30), || {
        client.worker("w1").filter(|worker| worker.in_intent >= 16)
    });
    fleet.signal_worker(0, Signal::CONT);
    let ended = fleet.wait_ended(&run, Duration::from_secs(60));
    assert_eq!(ended.state, "finished", "{ended:?}");
    for index in 0..2 {
        assert_eq!(fleet.terminate_worker(index, DRAIN_BOUND).code(), Some(0));
    }
    let rules = Rules { late_facts: true, ..Rules::FAULTS };
    fleet.judge("worker_stale_report", &run, audience.addresses(), rules, &watcher.stop());
}
