//! The engine against the embedded store's model, in seeded virtual time: several workers, calls that are
//! slow, lost, answered to nobody or delivered twice, workers that die, runs that are paused, relays that
//! go away. After every step the rules of the protocol are checked; at the end, that nothing was lost and
//! nothing was sent twice without a reason.
//!
//! `POSTRIDER_SEED` runs one seed; `POSTRIDER_SEEDS` that many.
#![expect(clippy::unwrap_used, reason = "a test")]

mod sim;

use sim::{Faults, World};

fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("POSTRIDER_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("POSTRIDER_SEEDS").unwrap_or(60)).collect(),
    }
}

fn check(faults: Faults) -> (u64, u64) {
    let mut ended_ms = 0;
    let mut resent = (0, 0);
    let mut steps = 0;
    let mut deliveries = 0;
    for seed in seeds() {
        let mut world = World::new(seed, faults);
        world.run();
        world.judge();
        steps += world.steps;
        deliveries += world.deliveries();
        ended_ms += world.ended_at_ms;
        let (lost, unrecorded) = world.resent();
        resent = (resent.0 + lost, resent.1 + unrecorded);
    }
    let (seeds, (lost, unrecorded)) = (seeds().len() as u64, resent);
    println!(
        "{seeds} seeds, {steps} steps, {deliveries} deliveries, ended after {} ms on average, \
         resent {lost} (reply lost) and {unrecorded} (outcome not recorded)",
        ended_ms / seeds
    );
    (lost, unrecorded)
}

#[test]
fn without_faults_everybody_gets_one_message() {
    let (_, unrecorded) = check(Faults::default());
    assert_eq!(unrecorded, 0);
}

#[test]
fn lost_and_repeated_calls_lose_nobody() {
    let _ = check(Faults { lose_percent: 20, repeat_percent: 20, ..Faults::default() });
}

#[test]
fn workers_that_die_leave_only_marked_doubts() {
    let (_, unrecorded) = check(Faults { crashes: 6, lose_percent: 5, repeat_percent: 5, ..Faults::default() });
    assert!(unrecorded > 0, "no crash hit an intent: the test shows nothing");
}

#[test]
fn outages_longer_than_a_lease_send_nothing_twice_unmarked() {
    let (_, unrecorded) = check(Faults { partitions: 5, lose_percent: 5, repeat_percent: 10, ..Faults::default() });
    assert!(unrecorded > 0, "no outage hit an intent: the test shows nothing");
}

#[test]
fn pauses_relays_and_everything_at_once() {
    let _ =
        check(Faults { lose_percent: 10, repeat_percent: 10, crashes: 3, partitions: 3, pauses: 4, relay_falls: 4 });
}

/// Three expiries without an outcome, and log2 of the batch to find the one: the rest are those that ended in the middle
/// of a window whose others had an outcome.
#[test]
fn one_that_ends_workers_is_set_aside_and_the_others_are_sent() {
    let mut ended: Vec<u32> = Vec::new();
    for seed in seeds() {
        let mut world = World::poisoned_batch(seed);
        world.run();
        ended.push(world.judge_poison());
    }
    let (sum, most) = (ended.iter().sum::<u32>(), ended.iter().copied().max().unwrap_or_default());
    println!(
        "{} seeds: {most} workers ended at most, {:.1} on average, before the one stood alone",
        ended.len(),
        f64::from(sum) / ended.len() as f64
    );
    assert!(most <= 3 + 7 + 10, "{most} workers were ended by one recipient");
}
