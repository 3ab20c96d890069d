//! Random comparison of the past: what settled is written down, and the store goes back in time.

use super::Fixture;
use super::random::{Driver, TTL_MS, both, counts, model_counts};
use crate::api::{ClaimHistory, ClaimedHistory, Compare, Compared, Found, RetireBatches, SettledBatch};
use crate::embedded::model::Model;
use postrider_common::ids::BatchId;
use postrider_common::mark::{Mark, Marks};
use std::collections::BTreeSet;

/// Claims all that waits for history, and retires some of what this or an earlier claim answered. The order in
/// which batches of one call settled may differ, and so may their stamps.
pub(super) async fn history(fixture: &impl Fixture, model: &mut Model, driver: &mut Driver) {
    let store = fixture.store();
    let request = format!("h{}", driver.random.u8(0..2)).parse().expect("a request id");
    let claim = ClaimHistory { request, ttl_ms: TTL_MS, limit: 100_000 };
    let same = |a: &ClaimedHistory| {
        let mut records: Vec<_> = a.batches.iter().map(|batch| batch.record.clone()).collect();
        for delivery in records.iter_mut().flat_map(|record| &mut record.recipients) {
            delivery.settled_at_ms = delivery.settled_at_ms.map(|_| 0);
        }
        records.sort_by(|a, b| a.id.cmp(&b.id));
        (a.backlog, records)
    };
    let call = store.claim_history(claim.clone());
    let ours =
        both!(fixture, *model, "claim_history", call, |m: &mut Model, now| m.claim_history(now, claim.clone()), same);
    let theirs = model.clone().claim_history(0, claim.clone());
    for SettledBatch { stamp, record } in ours.batches {
        let twin = theirs.batches.iter().find(|twin| twin.record.id == record.id).map_or(0, |twin| twin.stamp);
        driver.settled.push((record.id, stamp, twin));
    }
    if driver.random.u8(0..3) == 0 {
        return;
    }
    driver.requests += 1;
    let segment = format!("segment-{}", driver.requests);
    // Each batch once: no caller has two stamps of one.
    let mut named = BTreeSet::new();
    let newest = driver.settled.iter().rev().take(20).filter(|one| named.insert(one.0.clone()));
    let some: Vec<_> = newest.filter(|_| driver.random.bool()).cloned().collect();
    let retire = |stamp: fn(&(BatchId, u64, u64)) -> u64| RetireBatches {
        request: claim.request.clone(),
        segment: segment.clone(),
        batches: some.iter().map(|one| (one.0.clone(), stamp(one))).collect(),
    };
    let (to_store, to_model) = (retire(|one| one.1), retire(|one| one.2));
    let call = store.retire_batches(to_store);
    both!(
        fixture,
        *model,
        "retire_batches",
        call,
        |m: &mut Model, now| m.retire_batches(now, to_model.clone()),
        |a: &_| *a
    );
}

/// Seldom, a mark that is not covered: both go back in time, by their own count of what they acknowledged.
pub(super) async fn went_back(fixture: &impl Fixture, model: &mut Model, driver: &mut Driver) {
    if driver.random.u8(0..8) != 0 {
        return;
    }
    let store = fixture.store();
    let ahead = |mark: Mark| Mark { sequence: mark.sequence + 1, ..mark };
    let same = |a: &Compared| (matches!(a.found, Found::WentBack { .. }), a.mark.epoch, a.rollbacks, a.is_stopped);
    let at = store.compare(Compare { marks: Marks::default(), confirm: true }).await.unwrap()[0].mark;
    let marks = Marks::from_iter([ahead(at)]);
    let call = async { store.compare(Compare { marks, confirm: false }).await.map(|mut all| all.remove(0)) };
    let apply = |m: &mut Model, now| m.compare(now, (vec![ahead(m.mark())], false));
    both!(fixture, *model, "compare", call, apply, same);
    driver.rollbacks += 1;
}
