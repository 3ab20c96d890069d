//! What ended is forgotten, though both masters are SIGKILLed while they are at it: nothing of the run is left in Redis,
//! and what is kept for longer is as it was.

use postrider_tests::{Audience, Campaign, Fleet, Rules, Settings, wait};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::time::Duration;

const RECIPIENTS: usize = 20_000;
const BOUND: Duration = Duration::from_secs(120);
const KEPT: &str = "ada@example.net";
/// What the operator adds to the file: runs of campaigns go, single messages stay.
const SHORT: &str = "\n[retention]\nruns = \"1s\"\nmessages = \"forever\"\n";

#[test]
fn what_ended_is_forgotten_whoever_dies() {
    let mut fleet = Fleet::start(Settings::default());
    let audience = Audience::of(RECIPIENTS);
    let empty = fleet.redis.info_number("used_memory");
    let run = fleet.launch(&Campaign::named("digest"), &audience);
    let watcher = fleet.watch(&run);
    let ended = fleet.wait_ended(&run, Duration::from_secs(300));
    assert_eq!(ended.state, "finished", "{ended:?}");
    fleet.judge("retention", &run, audience.addresses(), Rules::CLEAN, &watcher.stop());
    let fields = ["--set", "name=Ada", "--set", "city=Oslo", "--set", "coupon=K1", "--wait"];
    fleet.client().ok(&[["send", "--campaign", "digest", "--to", KEPT].as_slice(), &fields].concat());
    let batches = fleet.redis.count_keys(&format!("postrider:{{s0}}:o:{run}.*"));
    assert!(batches >= RECIPIENTS / 100, "{batches} batches to forget");

    let mut file = OpenOptions::new().append(true).open(fleet.folder().join("postrider.toml")).expect("it is there");
    file.write_all(SHORT.as_bytes()).expect("the configuration can be written");
    for master in 0..2 {
        fleet.kill_master(master);
        fleet.start_master(master);
    }
    // The mark in the store comes before the first batch goes.
    wait::until("the run to be gone", BOUND, || {
        (fleet.redis.count_keys(&format!("postrider:{{s0}}:run:{run}")) == 0).then_some(())
    });
    fleet.kill_master(0);
    fleet.kill_master(1);
    let left = fleet.redis.count_keys(&format!("postrider:{{s0}}:o:{run}.*"));
    fleet.start_master(0);
    fleet.start_master(1);
    wait::until("all of it to be gone", BOUND, || {
        let keys = fleet.redis.count_keys(&format!("*{run}*")) + fleet.redis.count_keys("postrider:{s0}:to_forget");
        (keys == 0).then_some(())
    });
    let client = fleet.client();
    let shown = client.call(&["run", "show", &run]);
    assert!(shown.code == 1 && shown.stderr.contains("there is no run"), "{shown:?}");
    let kept = client.all_runs();
    assert!(kept.len() == 1 && kept[0] != run, "the single message stays: {kept:?}");
    let found = |address: &str| client.ok(&["--output", "json", "run", "find", address]).contains(address);
    let gone = audience.addresses().first().expect("somebody");
    assert!(!found(gone) && found(KEPT));
    let memory = fleet.redis.info_number("used_memory") - empty;
    println!(
        "SCENARIO retention: {left} of {batches} batches were left at the kill, {memory} B of redis more than at first"
    );
}
