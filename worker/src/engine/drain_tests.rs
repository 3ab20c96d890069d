//! How a worker ends.

use super::tests::{Driver, ended, held};
use super::*;
use postrider_common::lease::{LeaseStatus, OutcomeKind};

#[test]
fn a_drain_hands_back_and_exits() {
    let mut driver = Driver::with_lease(20, 2);
    driver.grant();
    driver.tell(Event::Stop);
    driver.tell(Event::Stop);
    assert!(driver.has(|effect| *effect == Effect::Recall { lease: LeaseKey(1) }));
    // The wish under way is asked for its answer at once.
    let (_, before) = driver.wish();
    let (call, hurried) = driver.wish();
    assert_eq!((before.request, 0), (hurried.request, hurried.wait_ms));
    driver.tell(Event::Leased { call, sent_at_ms: driver.now, held_ms: 0, offers: Vec::new(), drain: false });
    driver.sent(0, OutcomeKind::Accepted);
    driver.sent(1, OutcomeKind::NotWritten);
    let (call, (report, abandon)) = driver.release();
    assert_eq!((report.outcomes.len(), abandon), (2, false));
    assert!(!driver.has(|effect| matches!(effect, Effect::Exit { .. })));
    driver.answer(call, ended(&report, LeaseStatus::Returned));
    assert!(driver.has(|effect| *effect == Effect::Exit { leases_held: 0 }));
}

#[test]
fn a_drain_gives_up_what_does_not_end() {
    let mut driver = Driver::with_lease(2, 30);
    driver.grant();
    driver.tell(Event::Stop);
    driver.pass(4_000);
    let (call, renewal) = driver.checkpoint();
    driver.answer(call, held(&renewal));
    driver.pass(1_000);
    assert!(driver.has(|effect| *effect == Effect::Cut { lease: LeaseKey(1) }));
    driver.sent(0, OutcomeKind::NotWritten);
    driver.pass(300);
    let (call, (report, abandon)) = driver.release();
    assert_eq!((report.outcomes.len(), abandon), (1, true));
    driver.answer(call, ended(&report, LeaseStatus::Returned));
    assert!(driver.has(|effect| *effect == Effect::Exit { leases_held: 0 }));
}

#[test]
fn a_drain_without_masters_ends_all_the_same() {
    let mut driver = Driver::with_lease(2, 30);
    driver.grant();
    driver.tell(Event::Stop);
    driver.pass(20_000);
    assert!(driver.has(|effect| *effect == Effect::Exit { leases_held: 1 }));
}
