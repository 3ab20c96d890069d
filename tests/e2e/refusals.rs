//! Some recipients are refused for good, some for now, some for ever for now: each ends in its state, and
//! only the deferred ones are tried again.

use postrider_tests::{Audience, Campaign, Fleet, RecipientLine, Rules, Settings};
use std::time::Duration;

/// Prefix of the addresses, rule of the sink, final state, attempts at least and at most.
const CASES: [(&str, &str, &str, u32, u32); 7] = [
    ("refused", "reject@refused*", "rejected", 1, 1),
    ("content", "reject-data@content*", "rejected", 1, 1),
    ("later", "defer@later*#2", "accepted", 3, 3),
    ("busy", "defer-data@busy*#1", "accepted", 2, 2),
    ("hangup", "close@hangup*#1", "accepted", 2, 2),
    ("never", "defer@never*", "exhausted", 2, 30),
    ("slow", "slow:800@slow*", "accepted", 1, 1),
];
const EACH: usize = 40;

#[test]
fn refusals_end_in_their_states() {
    let mut fleet = Fleet::start(Settings {
        sink_rules: CASES.iter().map(|case| case.1.to_owned()).collect(),
        retry: r#"{ base = "200ms", cap = "500ms", ttl = "4s" }"#,
        ..Settings::default()
    });
    let mut audience = Audience::of(1_000);
    for (prefix, ..) in CASES {
        for index in 0..EACH {
            audience.add(&format!("{prefix}{index:03}@example.com"));
        }
    }
    let run = fleet.launch(&Campaign::named("digest"), &audience);
    let watcher = fleet.watch(&run);
    let ended = fleet.wait_ended(&run, Duration::from_secs(90));
    assert_eq!(ended.state, "finished", "{ended:?}");
    let recipients = fleet.client().recipients(&run);
    for case in CASES {
        let wrong: Vec<&RecipientLine> =
            recipients.iter().filter(|one| one.key.starts_with(case.0) && !fits(one, case)).collect();
        assert!(wrong.is_empty(), "{case:?}: {} are not so, such as {:?}", wrong.len(), wrong[0]);
    }
    assert_eq!(ended.recipients.rejected as usize, 2 * EACH, "{ended:?}");
    assert_eq!(ended.recipients.exhausted as usize, EACH, "{ended:?}");
    assert_eq!(ended.recipients.accepted as usize, audience.len() - 3 * EACH, "{ended:?}");
    let rules = Rules { all_accepted: false, ..Rules::CLEAN };
    let findings = fleet.judge("refusals", &run, audience.addresses(), rules, &watcher.stop());
    assert_eq!(findings.accepted as usize, audience.len() - 3 * EACH, "at the sink");
}

fn fits(one: &RecipientLine, (_, _, state, attempts_min, attempts_max): (&str, &str, &str, u32, u32)) -> bool {
    one.state == state && (attempts_min..=attempts_max).contains(&one.attempts)
}
