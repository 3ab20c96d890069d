//! Shares of relays: what is asked for, what the pool is told, and which relay carries what.

use super::tests::Driver;
use super::*;
use postrider_common::lease::OutcomeKind;
use postrider_common::relay::{PERMIT_MS, RelayShare, RelayWish};

const TTL_MS: u64 = 10_000;

fn limited(name: &str, numbers: (u64, u32, u32)) -> RelayPlan {
    let limit = RelayLimit::of_numbers(numbers.0, numbers.1, numbers.2).unwrap();
    RelayPlan { connections: 8, limit: Some((name.parse().unwrap(), limit)), ..RelayPlan::default() }
}

fn share(connections: u32, sends: u32, retry_in_ms: u64) -> RelayShare {
    RelayShare { connections, sends, retry_in_ms, ttl_ms: TTL_MS }
}

impl Driver {
    fn with_relays(relays: Vec<RelayPlan>) -> Self {
        let mut driver = Self::new(EngineConfig { relays, ..tests::config(16) });
        driver.tell(Event::Tick);
        driver
    }

    fn ask(&mut self) -> (CallId, RelayWish) {
        self.take("a share", |call| match call {
            Call::ShareRelays { wishes, .. } => wishes.first().cloned(),
            _ => None,
        })
    }

    fn give(&mut self, call: CallId, share: RelayShare) {
        self.tell(Event::Shared { call, sent_at_ms: self.now, shares: vec![share] });
    }

    fn count(&mut self, allowed: u32, open: u32, wanted: u32) {
        self.tell(Event::Connections { index: 0, allowed, open, wanted });
    }

    fn allowed(&mut self) -> Vec<(u32, bool)> {
        let found = self.effects.iter().filter_map(|effect| match effect {
            Effect::Allow { connections, cut, .. } => Some((*connections, *cut)),
            _ => None,
        });
        let found = found.collect();
        self.effects.retain(|effect| !matches!(effect, Effect::Allow { .. }));
        found
    }

    fn carriers(&self) -> Vec<usize> {
        let starts = self.effects.iter().filter_map(|effect| match effect {
            Effect::StartSend { relay, .. } => Some(*relay),
            _ => None,
        });
        starts.collect()
    }
}

#[test]
fn connections_stay_held_until_the_pool_has_closed_them() {
    let mut driver = Driver::with_relays(vec![limited("out", (0, 0, 12))]);
    let (call, wish) = driver.ask();
    assert_eq!((wish.held, wish.wanted), (0, 1), "one, to be reached");
    driver.give(call, share(1, 0, 0));
    assert_eq!(driver.allowed(), [(1, false)]);
    driver.count(1, 1, 6);
    driver.pass(300);
    let (call, wish) = driver.ask();
    assert_eq!((wish.held, wish.wanted), (1, 6), "who wants more asks soon");
    driver.give(call, share(6, 0, 0));
    driver.count(6, 6, 6);
    driver.pass(1_000);
    let (call, wish) = driver.ask();
    assert_eq!(wish.held, 6);
    driver.give(call, share(2, 0, 0));
    assert_eq!(driver.allowed(), [(6, false), (2, false)]);
    driver.count(2, 4, 6);
    driver.pass(300);
    let (call, wish) = driver.ask();
    assert_eq!(wish.held, 6, "two of them are not closed yet");
    driver.give(call, share(2, 0, 0));
    driver.count(2, 2, 6);
    let (_, wish) = driver.ask();
    assert_eq!(wish.held, 2, "and is told at once when they are");
}

#[test]
fn a_share_that_is_not_renewed_ends_with_its_connections() {
    let mut driver = Driver::with_relays(vec![limited("out", (0, 0, 12))]);
    let (call, _) = driver.ask();
    driver.give(call, share(3, 0, 0));
    driver.count(3, 3, 3);
    driver.allowed();
    while driver.allowed().is_empty() {
        driver.pass(100);
        if driver.has(|effect| matches!(effect, Effect::Call { call: Call::ShareRelays { .. }, .. })) {
            let (call, wish) = driver.ask();
            assert_eq!(wish.held, 3);
            driver.tell(Event::CallFailed { call, refused: false, random: 0 });
            if driver.has(|effect| matches!(effect, Effect::Allow { .. })) {
                break;
            }
        }
        assert!(driver.now < 200_000, "it never ended");
    }
    assert!(driver.now < 100_000 + TTL_MS, "before the store gives them to others");
    driver.effects.clear();
    driver.count(0, 0, 1);
    driver.pass(3_000);
    let (call, wish) = driver.ask();
    assert_eq!(wish.held, 0);
    driver.give(call, share(1, 0, 0));
    assert_eq!(driver.allowed(), [(1, false)]);
}

#[test]
fn intents_take_permits_and_go_where_they_are_for() {
    let mut driver = Driver::with_relays(vec![limited("out", (3600, 3, 0)), RelayPlan::default()]);
    let (call, _) = driver.ask();
    driver.give(call, share(8, 0, 0));
    driver.up();
    driver.lease(20);
    let (call, wish) = driver.ask();
    assert_eq!(wish.sends, 10, "the window, though nobody has a permit yet");
    driver.give(call, share(8, 3, 5_000));
    assert_eq!(driver.grant(), [0, 1, 2]);
    // The other relay can be reached now and has no rate.
    driver.tell(Event::Relay { index: 1, is_up: true });
    driver.pass(10);
    driver.effects.retain(|effect| !matches!(effect, Effect::StartSend { .. }));
    let granted = driver.grant().len();
    assert_eq!(granted, 7);
    assert!(driver.carriers().iter().all(|relay| *relay == 1), "{:?}", driver.carriers());
}

#[test]
fn permits_that_are_not_used_soon_are_void() {
    let mut driver = Driver::with_relays(vec![limited("out", (3600, 9, 0))]);
    let (call, _) = driver.ask();
    driver.give(call, share(8, 5, 0));
    driver.up();
    driver.pass(PERMIT_MS);
    driver.lease(20);
    assert!(!driver.has(|effect| matches!(effect, Effect::Call { call: Call::Checkpoint(_), .. })));
}

#[test]
fn a_lane_that_waits_for_its_relay_is_not_leased_more_of() {
    let mut driver = Driver::with_relays(vec![limited("out", (3600, 1, 0))]);
    let (call, _) = driver.ask();
    driver.give(call, share(8, 0, 0));
    driver.up();
    driver.lease(4);
    let (call, wish) = driver.ask();
    assert_eq!(wish.sends, 4);
    driver.give(call, share(8, 1, 60_000));
    assert_eq!(driver.grant(), [0]);
    driver.sent(0, OutcomeKind::Accepted);
    driver.pass(20);
    let (_, lease) = driver.wish();
    assert_eq!(lease.lanes, [LaneName::transactional()], "it has room, but not for bulk");
}
