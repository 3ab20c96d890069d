//! Leases for a part of a batch.

use super::tests::{Driver, config};
use super::*;
use postrider_common::lease::{IndexRange, OutcomeKind};

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
