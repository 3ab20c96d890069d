//! Random comparison of history: what settled is claimed to be written down, and retired.

use super::Fixture;
use super::random::{Driver, TTL_MS, both, counts, model_counts};
use crate::api::{ClaimHistory, ClaimedHistory, RetireBatches, SettledBatch};
use crate::embedded::model::Model;
use postrider_common::ids::BatchId;
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
    // Nobody retires nothing.
    if some.is_empty() {
        return;
    }
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
