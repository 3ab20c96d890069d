//! Merge fields that are fetched: before whom, how often, and what becomes of a lease when they do not come.

use super::fetches::SLOW_MS;
use super::tests::{Driver, config};
use super::*;
use postrider_common::lease::{LeaseAnswer, LeaseStatus};

const FAILED: Fetched = Fetched::Failed { is_passing: true, retry_after_ms: 0, random: 0 };
const WRONG: Fetched = Fetched::Failed { is_passing: false, retry_after_ms: 0, random: 0 };

fn endpoint(name: &str) -> Endpoint {
    Endpoint(name.into())
}

impl Driver {
    /// With its relay up, and a lease of that many recipients whose fields are elsewhere.
    fn fetching(count: usize) -> Self {
        let mut driver = Self::new(config(16));
        driver.up();
        driver.lease_of("one", count);
        driver
    }

    fn lease_of(&mut self, name: &str, count: usize) -> LeaseKey {
        let offer = Offer { endpoint: Some(endpoint(name)), ..self.offer(count, true) };
        let key = offer.key;
        let (call, _) = self.wish();
        let event = Event::Leased { call, sent_at_ms: self.now, held_ms: 0, offers: vec![offer], drain: false };
        self.tell(event);
        key
    }

    fn fetches(&mut self) -> Vec<(LeaseKey, Vec<u32>)> {
        let found = self.effects.iter().filter_map(|effect| match effect {
            Effect::Fetch { lease, indexes } => Some((*lease, indexes.clone())),
            _ => None,
        });
        let found = found.collect();
        self.effects.retain(|effect| !matches!(effect, Effect::Fetch { .. }));
        found
    }

    fn breakers(&mut self) -> Vec<bool> {
        let found = self.effects.iter().filter_map(|effect| match effect {
            Effect::Breaker { is_open, .. } => Some(*is_open),
            _ => None,
        });
        let found = found.collect();
        self.effects.retain(|effect| !matches!(effect, Effect::Breaker { .. }));
        found
    }

    /// The next release, its delay and its outcomes; the master takes it.
    fn handed_back(&mut self) -> (u64, usize) {
        let (call, (report, delay_ms)) = self.take("release", |call| match call {
            Call::Release { reports, abandon: false, delay_ms } => Some((reports[0].clone(), *delay_ms)),
            _ => None,
        });
        let answers = vec![LeaseAnswer::plain(report.batch, LeaseStatus::Returned)];
        self.tell(Event::Answered { call, sent_at_ms: self.now, answers, drain: false });
        (delay_ms, report.outcomes.len())
    }

    fn has_call(&self, fits: impl Fn(&Call) -> bool) -> bool {
        self.has(|effect| matches!(effect, Effect::Call { call, .. } if fits(call)))
    }

    fn asks_for_intents(&self) -> bool {
        self.has_call(|call| matches!(call, Call::Checkpoint(reports) if reports.iter().any(|r| !r.intents.is_empty())))
    }

    /// Leases fail, one after the other, until the breaker opens. How many did.
    fn open_breaker(&mut self, name: &str) -> usize {
        for count in 1.. {
            let key = self.lease_of(name, 1);
            self.fetches();
            self.tell(Event::Fetched { lease: key, fetched: WRONG });
            self.handed_back();
            if self.breakers() == [true] {
                return count;
            }
        }
        unreachable!("a breaker opens")
    }
}

#[test]
fn nobody_is_asked_for_before_the_fields_are_there() {
    let mut driver = Driver::fetching(3);
    assert_eq!(driver.fetches(), [(LeaseKey(1), vec![0, 1, 2])], "once, for all that are to be sent");
    driver.pass(2_000);
    assert!(!driver.asks_for_intents());
    driver.tell(Event::Fetched { lease: LeaseKey(1), fetched: Fetched::Done });
    driver.pass(50);
    let (_, report) = driver.checkpoint();
    assert_eq!(report.intents, [0, 1, 2]);
    assert_eq!(driver.fetches(), Vec::new());
}

#[test]
fn a_lease_is_kept_alive_while_its_fields_come() {
    let mut driver = Driver::fetching(1);
    driver.fetches();
    driver.pass(4_000);
    let (_, report) = driver.checkpoint();
    assert_eq!((report.intents.len(), report.outcomes.len()), (0, 0), "it is renewed, and nothing else");
}

#[test]
fn a_failure_is_tried_again_and_then_the_lease_goes_back_at_no_cost() {
    let mut driver = Driver::fetching(2);
    for _ in 0..3 {
        assert_eq!(driver.fetches().len(), 1);
        driver.tell(Event::Fetched { lease: LeaseKey(1), fetched: FAILED });
        driver.pass(900);
    }
    assert_eq!(driver.fetches(), Vec::new());
    let (delay_ms, outcomes) = driver.handed_back();
    assert!((4_000..=5_000).contains(&delay_ms), "{delay_ms}");
    assert_eq!((outcomes, driver.engine.leases_held()), (0, 0), "no outcome: no attempt is counted");
}

#[test]
fn what_cannot_get_better_is_not_tried_again_at_once() {
    let mut driver = Driver::fetching(2);
    driver.fetches();
    driver.tell(Event::Fetched { lease: LeaseKey(1), fetched: WRONG });
    assert_eq!(driver.handed_back().0, 5_000);
    driver.pass(2_000);
    assert_eq!(driver.fetches(), Vec::new());
}

#[test]
fn a_breaker_opens_and_one_probe_at_a_time_closes_it() {
    let mut driver = Driver::new(config(16));
    driver.up();
    assert_eq!(driver.open_breaker("one"), 5);
    let refused = driver.lease_of("one", 2);
    assert_eq!(driver.fetches(), Vec::new(), "it is not asked while the breaker is open");
    let (delay_ms, _) = driver.handed_back();
    assert!((1..=5_000).contains(&delay_ms), "{delay_ms}");
    assert!(!driver.engine.leases.contains_key(&refused));
    driver.pass(delay_ms);
    let (first, second) = (driver.lease_of("one", 1), driver.lease_of("one", 1));
    assert_eq!(driver.fetches(), [(first, vec![0])], "one probes");
    assert_eq!(driver.handed_back().0, 5_000, "the other does not wait here");
    driver.tell(Event::Fetched { lease: first, fetched: FAILED });
    let (longer_ms, _) = driver.handed_back();
    assert!((5_000..=10_000).contains(&longer_ms), "twice as long: {longer_ms}");
    assert!(driver.breakers().is_empty(), "it was open already");
    driver.pass(longer_ms);
    let probe = driver.lease_of("one", 1);
    driver.fetches();
    driver.tell(Event::Fetched { lease: probe, fetched: Fetched::Done });
    assert_eq!(driver.breakers(), [false]);
    let (third, fourth) = (driver.lease_of("one", 1), driver.lease_of("one", 1));
    assert_eq!(driver.fetches(), [(third, vec![0]), (fourth, vec![0])]);
    assert!(second < third);
}

#[test]
fn an_endpoint_that_fails_keeps_no_other_waiting() {
    let mut driver = Driver::new(config(16));
    driver.up();
    driver.open_breaker("one");
    let other = driver.lease_of("two", 1);
    assert_eq!(driver.fetches(), [(other, vec![0])]);
    driver.lease(1);
    driver.pass(50);
    assert!(driver.asks_for_intents(), "who fetches nothing is sent to");
}

#[test]
fn an_endpoint_that_wants_to_be_left_alone_is() {
    let mut driver = Driver::fetching(1);
    driver.fetches();
    let fetched = Fetched::Failed { is_passing: true, retry_after_ms: 30_000, random: 0 };
    driver.tell(Event::Fetched { lease: LeaseKey(1), fetched });
    assert_eq!((driver.handed_back().0, driver.breakers()), (30_000, vec![true]));
    driver.pass(29_000);
    driver.lease_of("one", 1);
    assert_eq!((driver.fetches(), driver.handed_back().0), (vec![], 1_000));
}

#[test]
fn a_slow_endpoint_holds_no_slots_and_few_leases() {
    let mut driver = Driver::new(config(400));
    driver.up();
    for _ in 0..8 {
        driver.lease_of("one", 10);
    }
    assert_eq!(driver.fetches().len(), 8);
    driver.lease_of("one", 10);
    assert_eq!(driver.fetches(), Vec::new(), "the ninth waits for its turn");
    assert!(!driver.has_call(|call| matches!(call, Call::Release { .. })));
    driver.pass(SLOW_MS);
    assert_eq!(driver.handed_back().0, 5_000, "not for long");
    assert!(driver.engine.leases.values().all(|held| held.usable() == 0));
}

#[test]
fn a_fetch_of_a_lease_that_is_over_is_forgotten() {
    let mut driver = Driver::fetching(1);
    driver.fetches();
    driver.tell(Event::Stop);
    driver.handed_back();
    assert_eq!(driver.engine.leases_held(), 0, "nobody waits for it");
    driver.tell(Event::Fetched { lease: LeaseKey(1), fetched: Fetched::Done });
    assert!(!driver.asks_for_intents());
}
