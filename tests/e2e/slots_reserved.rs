//! A bulk run takes every slot but those reserved for another lane, and that lane uses them (promise P5).

use postrider_tests::{Audience, Campaign, Fleet, Rules, Settings, wait};
use std::time::Duration;

const SLOTS: u32 = 16;
/// The default reserve of so few slots: a quarter, for the transactional lane.
const RESERVED: u32 = 4;
const MESSAGES: usize = 6;

#[test]
fn a_lane_has_its_slots_while_a_bulk_run_has_all_others() {
    let settings = Settings { workers: 1, slots: SLOTS, sink_latency_ms: 100, ..Settings::default() };
    let mut fleet = Fleet::start(settings);
    let audience = Audience::of(1_500);
    let client = fleet.client();
    let run = fleet.launch(&Campaign::named("digest"), &audience);
    let watcher = fleet.watch(&run);
    let mut most = 0;
    wait::until("bulk to have all slots but the reserved ones", Duration::from_secs(60), || {
        let in_intent = client.worker("w0").map_or(0, |worker| worker.in_intent);
        most = most.max(in_intent);
        // Between an outcome and the next intent a slot is empty for a moment.
        (in_intent + 2 >= SLOTS - RESERVED).then_some(())
    });
    for index in 0..MESSAGES {
        let to = format!("reset{index}@example.net");
        let fields = ["--set", "name=Ada", "--set", "city=Oslo", "--set", "coupon=K1", "--wait"];
        let answer = client.call(
            &[["send", "--campaign", "digest", "--lane", "transactional", "--to", &to].as_slice(), &fields].concat(),
        );
        assert_eq!(answer.code, 0, "{answer:?}");
    }
    let pending = client.show(&run).recipients.pending;
    assert!(pending > 0, "the bulk run was over too soon for the test");
    most = most.max(client.worker("w0").map_or(0, |worker| worker.in_intent));
    println!("SCENARIO slots_reserved: {MESSAGES} messages beside a bulk run with {pending} pending; {most} in intent");
    assert!(most <= SLOTS - RESERVED, "{most} of bulk in intent, and {RESERVED} of {SLOTS} are reserved");
    fleet.wait_ended(&run, Duration::from_secs(120));
    let mut everybody = audience.addresses().clone();
    everybody.extend((0..MESSAGES).map(|index| format!("reset{index}@example.net")));
    let watched = watcher.stop();
    let runs = client.all_runs();
    let runs: Vec<&str> = runs.iter().map(String::as_str).collect();
    fleet.judge_runs("slots_reserved", &runs, &everybody, Rules::CLEAN, &watched);
}
