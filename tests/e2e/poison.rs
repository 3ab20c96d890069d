//! One recipient ends whatever worker begins to send to it. The others get their mail, it stands alone as a dead
//! letter, and when it does no harm any more a replay sends it.

use postrider_tests::{Audience, Campaign, Fleet, PoisonRelay, Settings, wait};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const RECIPIENTS: usize = 100;
const BOUND: Duration = Duration::from_secs(120);
/// Three strikes, seven halves of a hundred, and those that ended beside somebody who had an outcome.
const ENDED_MAX: u32 = 3 + 7 + 10;

fn poison_of(audience: &Audience) -> String {
    audience.addresses().iter().nth(RECIPIENTS / 2).expect("somebody").clone()
}

fn json(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// Ends each worker that names the recipient, until the run has ended. How many.
fn end_workers(fleet: &mut Fleet, relay: &PoisonRelay, run: &str, same_host: bool) -> u32 {
    let (begun, mut ended) = (Instant::now(), 0);
    loop {
        assert!(begun.elapsed() < BOUND, "the run does not end: {:?}", fleet.client().show(run));
        let Ok(source) = relay.named_by.recv_timeout(Duration::from_millis(200)) else {
            if fleet.client().try_show(run).is_some_and(|run| run.has_ended()) {
                return ended;
            }
            continue;
        };
        let index = (0..fleet.workers()).find(|index| fleet.source_of(*index) == source).expect("one of ours");
        fleet.kill_worker(index);
        ended += 1;
        assert!(ended <= ENDED_MAX, "{ended} workers were ended");
        if same_host {
            fleet.start_worker(index);
        } else {
            fleet.add_worker(fleet.workers());
        }
    }
}

fn scenario(name: &str, same_host: bool) {
    // One site, so one batch.
    let site = "place".to_owned();
    let audience = Audience::of_sites(std::slice::from_ref(&site), RECIPIENTS);
    let poison = poison_of(&audience);
    let relay = PoisonRelay::start(&poison);
    let settings = Settings {
        workers: 2,
        slots: 32,
        lease_ttl_ms: 1_500,
        doubt_grace_ms: 500,
        through: Some(relay.address()),
        sites: vec![site],
        ..Settings::default()
    };
    let mut fleet = Fleet::start(settings);
    relay.pass_on_to(fleet.sink_address());
    let run = fleet.launch(&Campaign::named("digest"), &audience);
    let ended = end_workers(&mut fleet, &relay, &run, same_host);

    let client = fleet.client();
    let shown = client.show(&run);
    println!("{name}: {ended} workers ended, {:?}", shown.recipients);
    assert_eq!((shown.state.as_str(), shown.recipients.accepted), ("finished", RECIPIENTS as u64 - 1));
    // A journal says that nothing was written; without one it may have been sent.
    let (state, given_up) = match same_host {
        true => ("exhausted", shown.recipients.exhausted),
        false => ("unknown", shown.recipients.unknown),
    };
    assert_eq!(given_up, 1, "{:?}", shown.recipients);
    let letters = json(&client.ok(&["--output", "json", "dead", "list", "--run", &run]));
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(
        (&letters[0]["recipient"]["address"], &letters[0]["recipient"]["state"]),
        (&poison.clone().into(), &state.into())
    );
    assert_eq!(letters[0]["reason"], "ends workers");

    // Mended.
    relay.become_harmless();
    let id = letters[0]["id"].as_str().expect("an id").to_owned();
    let refused = client.call(&["dead", "replay", &id]);
    assert_eq!(
        refused.code,
        i32::from(!same_host),
        "one in doubt needs --unknown: {}{}",
        refused.stdout,
        refused.stderr
    );
    if !same_host {
        assert!(refused.stderr.contains("--unknown"), "{}", refused.stderr);
        client.ok(&["dead", "replay", &id, "--unknown"]);
    }
    let ended = fleet.wait_ended(&run, BOUND);
    assert_eq!(ended.recipients.accepted, RECIPIENTS as u64, "{ended:?}");
    assert!(client.ok(&["--output", "json", "dead", "list"]).trim().is_empty());

    wait::until("the ledger of the sink", BOUND, || {
        fleet.ledger().iter().any(|line| line.rcpt_to == poison).then_some(())
    });
    let mut copies: BTreeMap<String, u32> = BTreeMap::new();
    for line in fleet.ledger().into_iter().filter(|line| line.decision.is_a_copy()) {
        *copies.entry(line.rcpt_to).or_default() += 1;
    }
    assert_eq!(copies.len(), RECIPIENTS, "everybody has a mail");
    assert_eq!(copies[&poison], 1);
    for recipient in client.recipients(&run) {
        let twice = copies[&recipient.address] > 1;
        assert!(!twice || recipient.unknown_reason.is_some(), "sent twice without a reason: {recipient:?}");
    }
}

#[test]
fn one_that_ends_workers_stands_alone_in_the_end() {
    scenario("poison", false);
}

#[test]
fn the_crash_journal_does_not_hide_it() {
    scenario("poison_journal", true);
}
