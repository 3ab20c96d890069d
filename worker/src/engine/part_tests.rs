//! Leases for a part of a batch, and of a part of the store.

use super::tests::{Driver, config, ended};
use super::*;
use postrider_common::lease::{IndexRange, LeaseStatus, OutcomeKind};

#[test]
fn a_lease_for_a_part_asks_for_that_part_and_ends() {
    let mut driver = Driver::new(config(256));
    driver.up();
    let mut offer = driver.offer(20, true);
    offer.lease.only = Some(IndexRange { first: 3, last: 4 });
    let (call, _) = driver.wish();
    driver.tell(Event::Leased { call, sent_at_ms: driver.now, held_ms: 0, offers: vec![offer], drain: false });
    assert_eq!(driver.grant(), [3, 4]);
    driver.sent(3, OutcomeKind::Accepted);
    driver.sent(4, OutcomeKind::Accepted);
    let (_, report) = driver.finish();
    assert_eq!(report.outcomes.len(), 2);
}

#[test]
fn a_lease_whose_part_of_the_store_is_away_is_reported_again_later() {
    let mut driver = Driver::with_lease(4, 30);
    driver.grant();
    driver.sent(0, OutcomeKind::Accepted);
    driver.pass(GATHER_MS);
    let (call, report) = driver.checkpoint();
    driver.answer(call, ended(&report, LeaseStatus::Unanswered));
    assert!(!driver.has(|effect| matches!(effect, Effect::Call { call: Call::Checkpoint(_), .. })), "not at once");
    driver.pass(500);
    let (_, again) = driver.checkpoint();
    assert_eq!(again.outcomes, report.outcomes);
    assert_eq!(driver.engine.leases_held(), 1);
}
