//! What does not work from here is told, with what to do, before anything is sent.

use postrider_tests::{Fleet, Settings};
use serde_json::Value;
use std::time::Duration;

fn checks(fleet: &Fleet, code: i32) -> Vec<Value> {
    let answer = fleet.client().call_within(&["--output", "json", "doctor"], Duration::from_secs(60));
    assert_eq!(answer.code, code, "{}{}", answer.stdout, answer.stderr);
    answer.stdout.lines().map(|line| serde_json::from_str(line).expect("a check is JSON")).collect()
}

fn state(checks: &[Value], begins: &str) -> String {
    let found = checks.iter().find(|check| check["check"].as_str().is_some_and(|name| name.starts_with(begins)));
    found.unwrap_or_else(|| panic!("no check of {begins}: {checks:?}"))["state"].as_str().expect("a state").to_owned()
}

#[test]
fn the_doctor_tells_what_does_not_work() {
    let mut fleet = Fleet::start(Settings { masters: 1, workers: 1, ..Settings::default() });
    let all = checks(&fleet, 0);
    for name in ["configuration", "time zone database", "store ", "clock", "storage ", "master ", "relay sink "] {
        assert_eq!(state(&all, name), "ok", "{name}");
    }
    fleet.redis.tell("CONFIG SET appendfsync everysec");
    let unsafe_store = checks(&fleet, 3);
    assert_eq!(state(&unsafe_store, "store "), "failed");
    assert!(unsafe_store.iter().any(|check| check["detail"].as_str().is_some_and(|why| why.contains("appendfsync"))));
    fleet.redis.tell("CONFIG SET appendfsync always");
    fleet.stop_sink();
    fleet.kill_master(0);
    let alone = checks(&fleet, 1);
    for (name, expected) in [("store ", "ok"), ("master ", "failed"), ("relay sink ", "failed")] {
        assert_eq!(state(&alone, name), expected, "{name}");
    }
}
