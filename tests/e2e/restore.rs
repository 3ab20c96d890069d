//! Redis is killed in full flight and comes back on an older copy of its files. It is noticed before anything is
//! leased: nobody is lost, and whoever gets a second message carries the reason.

use postrider_tests::{Audience, Campaign, Fleet, Rules, Settings, wait};
use std::time::Duration;

const BOUND: Duration = Duration::from_secs(180);
const SOON: Duration = Duration::from_secs(60);

fn fleet() -> Fleet {
    Fleet::start(Settings { sink_latency_ms: 50, lease_ttl_ms: 5_000, ..Settings::default() })
}

/// Who was sent to before and after may have one attempt that nobody knows of; workers whose master was away tell late.
const RULES: Rules = Rules { excuses: false, late_facts: true, unanswered_polls: true, ..Rules::FAULTS };

fn metric(fleet: &Fleet, index: usize, name: &str) -> Option<f64> {
    let (_, text) = fleet.http(index, "/metrics")?;
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// Makes a copy, lets the fleet work on, and puts the copy in the place of the files of the killed server.
fn go_back(fleet: &mut Fleet, run: &str) {
    let copy = fleet.folder().join("copy");
    let accepted = || fleet.client().try_show(run).map_or(0, |run| run.recipients.accepted);
    wait::until("a fifth of the run", SOON, || (accepted() >= 600).then_some(()));
    fleet.redis.copy_files(&copy);
    let then = accepted();
    let mark = fleet.folder().join("storage/marks.json");
    let written = std::fs::read(&mark).expect("a mark in the storage");
    wait::until("as much again", SOON, || (accepted() >= then + 600).then_some(()));
    wait::until("the next mark", SOON, || (std::fs::read(&mark).ok()? != written).then_some(()));
    fleet.kill_redis_in_intent(true);
    let copies = fleet.ledger().iter().filter(|line| line.decision.is_a_copy()).count() as u64;
    fleet.faults.forgotten = copies - then;
    fleet.redis.put_back(&copy);
}

#[test]
fn a_copy_put_back_loses_nobody_and_marks_who_is_sent_to_again() {
    let mut fleet = fleet();
    let audience = Audience::of(6_000);
    let run = fleet.launch(&Campaign::named("digest"), &audience);
    let watcher = fleet.watch(&run);
    go_back(&mut fleet, &run);
    fleet.redis.restart();
    wait::until("a master that is not ready, and says why", SOON, || {
        let (status, text) = fleet.http(0, "/readyz")?;
        (status == 503 && text.contains("went back in time")).then_some(())
    });
    let ended = fleet.wait_ended(&run, BOUND);
    assert_eq!(ended.state, "finished", "{ended:?}");
    assert_eq!(metric(&fleet, 0, "postrider_store_rollbacks"), Some(1.0));
    assert_eq!(metric(&fleet, 0, "postrider_leasing_stopped"), Some(0.0));
    let findings = fleet.judge("restore", &run, audience.addresses(), RULES, &watcher.stop());
    assert!(
        findings.duplicates_outcome_not_recorded > 0,
        "what was sent after the copy is sent again, or this shows nothing"
    );
}

#[test]
fn without_a_survivor_the_mark_in_the_storage_shows_it() {
    let mut fleet = fleet();
    let audience = Audience::of(6_000);
    let run = fleet.launch(&Campaign::named("digest"), &audience);
    let watcher = fleet.watch(&run);
    go_back(&mut fleet, &run);
    for index in 0..fleet.settings().workers {
        fleet.kill_worker(index);
    }
    for index in 0..fleet.settings().masters {
        fleet.kill_master(index);
    }
    fleet.redis.restart();
    for index in 0..fleet.settings().masters {
        fleet.start_master(index);
    }
    wait::until("the mark to be compared", SOON, || {
        (metric(&fleet, 0, "postrider_store_rollbacks")? >= 1.0).then_some(())
    });
    for index in 0..fleet.settings().workers {
        fleet.remove_journal(index);
        fleet.start_worker(index);
    }
    let ended = fleet.wait_ended(&run, BOUND);
    assert_eq!(ended.state, "finished", "{ended:?}");
    fleet.judge("restore_without_survivors", &run, audience.addresses(), RULES, &watcher.stop());
}
