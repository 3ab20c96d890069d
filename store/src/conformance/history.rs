//! What settled batches leave behind, and what late facts do to it.

use super::Fixture;
use super::scene::{GRACE_MS, Held, Scene, TTL_MS, new_run, outcome, outcomes, request};
use crate::api::{BatchRecord, BatchState, ClaimHistory, ClaimedHistory, RetireBatches, SettledBatch};
use postrider_common::backoff::RetryPolicy;
use postrider_common::campaign::OnUnknown;
use postrider_common::ids::RequestId;
use postrider_common::lease::{FactStatus, LeaseStatus, OutcomeKind};
use postrider_common::limits::HISTORY_BACKLOG_BATCHES_MAX;
use postrider_common::run::RunState;
use postrider_common::state::{RecipientState, UnknownReason};

async fn claim(scene: &Scene<'_, impl Fixture>, by: &RequestId, limit: usize) -> ClaimedHistory {
    let claim = ClaimHistory { request: by.clone(), ttl_ms: TTL_MS, limit };
    scene.fixture.store().claim_history(claim).await.unwrap()
}

fn sequences(claimed: &ClaimedHistory) -> Vec<u64> {
    claimed.batches.iter().map(|batch| batch.record.id.sequence).collect()
}

async fn retire(scene: &Scene<'_, impl Fixture>, by: &RequestId, segment: &str, batches: &[SettledBatch]) -> u64 {
    let batches = batches.iter().map(|batch| (batch.record.id.clone(), batch.stamp)).collect();
    let retire = RetireBatches { request: by.clone(), segment: segment.to_owned(), batches };
    let retired = scene.fixture.store().retire_batches(retire).await.unwrap();
    scene.check().await;
    retired
}

/// Claims all there is and retires it.
pub(super) async fn drain(scene: &Scene<'_, impl Fixture>, segment: &str) -> Vec<SettledBatch> {
    let by = request().0;
    let claimed = claim(scene, &by, 1000).await.batches;
    assert_eq!(retire(scene, &by, segment, &claimed).await, claimed.len() as u64);
    claimed
}

/// A lease of a batch whose recipients ended alike.
pub(super) async fn sent(scene: &Scene<'_, impl Fixture>, kind: OutcomeKind) -> Held {
    let mut held = scene.claim_one(1).await;
    assert_eq!(scene.send_all(&mut held, kind).await.status, LeaseStatus::Settled);
    held
}

async fn record_of(scene: &Scene<'_, impl Fixture>, held: &Held) -> BatchRecord {
    scene.batches().await.into_iter().find(|batch| batch.id == held.batch).expect("the batch is known")
}

pub async fn claim_history_gives_what_settled_in_order(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2, 2, 2]).await;
    let by = request().0;
    assert_eq!(claim(&scene, &by, 10).await, ClaimedHistory::default());
    let mut first = scene.claim_one(1).await;
    sent(&scene, OutcomeKind::Accepted).await;
    scene.send_all(&mut first, OutcomeKind::Accepted).await;
    let claimed = claim(&scene, &by, 10).await;
    assert_eq!((claimed.backlog, sequences(&claimed)), (2, vec![2, 1]), "in the order they settled");
    assert_eq!(claimed.batches[0].record, scene.batches().await[1], "as it is stored");
    assert_eq!(sequences(&claim(&scene, &by, 1).await), [2], "the longest waiting first");
}

pub async fn claim_history_serves_one_caller_at_a_time(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2, 2]).await;
    sent(&scene, OutcomeKind::Accepted).await;
    let (one, other) = (request().0, request().0);
    let claimed = claim(&scene, &one, 10).await;
    assert_eq!(claim(&scene, &other, 10).await, ClaimedHistory { backlog: 1, batches: Vec::new() });
    assert_eq!(claim(&scene, &one, 10).await, claimed, "a repeat is answered the same");
    fixture.pass(TTL_MS + 1).await;
    let taken = claim(&scene, &other, 10).await;
    assert_eq!(taken, claimed, "who died at it does not keep it");
    assert_eq!(claim(&scene, &one, 10).await.batches, Vec::new());
    assert_eq!(retire(&scene, &other, "segment", &taken.batches).await, 1);
    assert_eq!(retire(&scene, &one, "mine", &claimed.batches).await, 0, "the late one comes too late");
    assert_eq!(scene.batches().await[0].segments, ["segment"]);
    sent(&scene, OutcomeKind::Accepted).await;
    assert_eq!(sequences(&claim(&scene, &one, 10).await), [2], "retiring ended the other's claim");
}

pub async fn claim_stops_while_the_backlog_is_full(fixture: &impl Fixture) {
    let store = fixture.store();
    let most = HISTORY_BACKLOG_BATCHES_MAX as usize;
    store.create_run(new_run("one")).await.unwrap();
    let scene = Scene { fixture, run: new_run("one").id };
    scene.confirm().await;
    let mut lease = scene.claim_split().await.expect("the split is due");
    for _ in 0..10 {
        let add = scene.add(&lease, &vec![1; most / 10], 1, false);
        store.add_batches(add).await.unwrap();
        lease.cursor += 1;
        lease.sequence_max += most as u64 / 10;
    }
    store.cancel_run(&scene.run).await.unwrap();
    store.cancel_batches(&scene.run, 0, most).await.unwrap();
    let other = Scene::with(fixture, new_run("other"), &[2]).await;
    assert!(other.claim(1, 1).await.is_empty(), "nothing new is begun");
    let by = request().0;
    let claimed = claim(&other, &by, 1).await;
    assert_eq!((claimed.backlog, claimed.batches.len()), (most as u64, 1));
    retire(&other, &by, "segment", &claimed.batches).await;
    let held = other.claim_one(1).await;
    assert_eq!(held.batch.run, other.run, "there is room again");
}

pub async fn retire_batches_leaves_states_and_fences(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[3, 60]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0, 1, 2]).await;
    let mut all = outcomes([0, 2], OutcomeKind::Accepted);
    all.push(outcome(1, OutcomeKind::Rejected));
    assert_eq!(scene.finish(&mut held, all).await.status, LeaseStatus::Settled);
    let large = sent(&scene, OutcomeKind::Accepted).await;
    let before = scene.record().await;
    let claimed = drain(&scene, "segment").await;
    assert_eq!(claimed[0].record.recipients[1].detail, "detail 1");
    assert_eq!(scene.record().await, before, "the counts of the run stay");
    assert_eq!(before.state(), RunState::Finished);
    let batches = scene.batches().await;
    for (batch, whole) in batches.iter().zip(&claimed) {
        assert_eq!((batch.state, &batch.site), (BatchState::Settled, &whole.record.site));
        assert!(batch.is_retired() && batch.payload.is_empty());
        let states = |batch: &BatchRecord| batch.recipients.iter().map(|one| one.state).collect::<Vec<_>>();
        assert_eq!(states(batch), states(&whole.record));
        assert!(batch.recipients.iter().all(|one| one.attempts == 0 && one.code.is_empty() && one.detail.is_empty()));
    }
    assert_eq!(scene.fact(&large, outcome(59, OutcomeKind::Accepted)).await, FactStatus::Already);
    assert_eq!(claim(&scene, &request().0, 10).await, ClaimedHistory::default(), "there is nothing more to write");
}

pub async fn retire_batches_repeated_answers_the_same(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2]).await;
    let held = sent(&scene, OutcomeKind::Accepted).await;
    let by = request().0;
    let claimed = claim(&scene, &by, 10).await.batches;
    for _ in 0..2 {
        assert_eq!(retire(&scene, &by, "segment", &claimed).await, 1);
        assert_eq!(record_of(&scene, &held).await.segments, ["segment"]);
    }
    assert_eq!(retire(&scene, &by, "another", &claimed).await, 0, "it is in one segment");
    assert_eq!(retire(&scene, &by, "segment", &[]).await, 0);
}

pub async fn retire_batches_refuses_what_changed(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2, 2]).await;
    let changing = sent(&scene, OutcomeKind::Rejected).await;
    sent(&scene, OutcomeKind::Rejected).await;
    let by = request().0;
    let claimed = claim(&scene, &by, 10).await.batches;
    assert_eq!(scene.fact(&changing, outcome(1, OutcomeKind::Accepted)).await, FactStatus::Applied);
    assert_eq!(retire(&scene, &by, "stale", &claimed).await, 1, "the one that is as it was claimed");
    let batch = record_of(&scene, &changing).await;
    assert!(!batch.is_retired() && batch.recipients[1].state == RecipientState::Accepted);
    let claimed = drain(&scene, "fresh").await;
    assert_eq!((claimed.len(), claimed[0].record.recipients[1].state), (1, RecipientState::Accepted));
    assert_eq!(record_of(&scene, &changing).await.segments, ["fresh"]);
}

pub async fn retire_batches_keeps_what_may_be_replayed(fixture: &impl Fixture) {
    let retry = RetryPolicy { base_ms: 100, cap_ms: 1000, ttl_ms: 1 };
    let new = crate::NewRun { on_unknown: OnUnknown::Hold, retry, ..new_run("one") };
    let scene = Scene::with(fixture, new, &[2, 2]).await;
    let mut doubtful = scene.claim_one(1).await;
    scene.intend(&mut doubtful, &[0, 1]).await;
    scene.checkpoint(&mut doubtful, outcomes([1], OutcomeKind::Accepted), Vec::new()).await;
    sent(&scene, OutcomeKind::Deferred).await;
    scene.expire().await;
    let counts = scene.record().await.recipients;
    assert_eq!((counts.unknown, counts.exhausted, counts.pending), (1, 2, 0));
    assert_eq!(drain(&scene, "segment").await, [], "a person may replay them");
    assert!(scene.batches().await.iter().all(|batch| !batch.payload.is_empty()));
    assert_eq!(scene.fact(&doubtful, outcome(0, OutcomeKind::Accepted)).await, FactStatus::Applied);
    assert_eq!(drain(&scene, "segment").await.len(), 1, "what is no longer unknown");
}

pub async fn retire_batches_of_a_large_batch_leaves_a_small_one(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[100]).await;
    let mut held = scene.claim_one(1).await;
    for index in 0..100 {
        scene.intend(&mut held, &[index]).await;
        let one = postrider_common::lease::Outcome {
            code: format!("250 2.0.{index}"),
            ..outcome(index, OutcomeKind::Accepted)
        };
        scene.checkpoint(&mut held, vec![one], Vec::new()).await;
    }
    assert_eq!(scene.finish(&mut held, Vec::new()).await.status, LeaseStatus::Settled);
    let claimed = drain(&scene, "segment").await;
    assert_eq!(claimed[0].record.recipients[99].code, "250 2.0.99");
    assert_eq!(scene.fact(&held, outcome(99, OutcomeKind::Accepted)).await, FactStatus::Already);
}

pub async fn facts_correct_a_retired_batch_once(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[3]).await;
    let mut stale = scene.claim_one(1).await;
    scene.intend(&mut stale, &[0]).await;
    scene.expire().await;
    fixture.pass(GRACE_MS + 1).await;
    let held = sent(&scene, OutcomeKind::Rejected).await;
    let whole = drain(&scene, "segment").await;
    assert_eq!(whole[0].record.recipients[0].attempts, 2);
    assert_eq!(scene.fact(&stale, outcome(0, OutcomeKind::Accepted)).await, FactStatus::Applied, "an older fence too");
    for _ in 0..2 {
        assert_eq!(scene.fact(&stale, outcome(0, OutcomeKind::Accepted)).await, FactStatus::Already);
    }
    let counts = scene.record().await.recipients;
    assert_eq!((counts.accepted, counts.rejected, counts.total), (1, 2, 3));
    let corrections = drain(&scene, "corrections").await;
    assert_eq!(corrections.len(), 1);
    assert_eq!(corrections[0].record.segments, ["segment"]);
    let [corrected, same, _] = corrections[0].record.recipients.as_slice() else { panic!("{corrections:?}") };
    assert_eq!((corrected.state, corrected.code.as_str()), (RecipientState::Accepted, "250 2.0.0"));
    assert_eq!((corrected.detail.as_str(), corrected.settled_at_ms.is_some()), ("detail 0", true));
    assert_eq!((same.state, same.settled_at_ms, same.code.as_str()), (RecipientState::Rejected, None, ""));
    let batch = record_of(&scene, &held).await;
    assert_eq!(batch.segments, ["segment", "corrections"]);
    assert!(batch.recipients.iter().all(|one| one.settled_at_ms.is_none()), "the correction is written: {batch:?}");
    assert_eq!(scene.fact(&held, outcome(2, OutcomeKind::Accepted)).await, FactStatus::Applied);
    drain(&scene, "third").await;
    assert_eq!(record_of(&scene, &held).await.segments, ["segment", "corrections", "third"]);
}

/// Only who is unknown could become pending again, and a batch with somebody unknown is not retired.
pub async fn facts_never_reopen_a_retired_batch(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[3]).await;
    let mut stale = scene.claim_one(1).await;
    scene.intend(&mut stale, &[0, 1]).await;
    scene.expire().await;
    fixture.pass(GRACE_MS + 1).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0, 1, 2]).await;
    let mut mixed = outcomes([0], OutcomeKind::Accepted);
    mixed.extend(outcomes([1, 2], OutcomeKind::Rejected));
    assert_eq!(scene.finish(&mut held, mixed).await.status, LeaseStatus::Settled);
    drain(&scene, "segment").await;
    let before = scene.record().await;
    for by in [&stale, &held] {
        for kind in [OutcomeKind::Rejected, OutcomeKind::Deferred, OutcomeKind::NotWritten, OutcomeKind::Unknown] {
            for index in 0..3 {
                assert_eq!(scene.fact(by, outcome(index, kind)).await, FactStatus::Already);
            }
        }
    }
    let mut forged = held.clone();
    forged.fence.nonce ^= 1;
    assert_eq!(scene.fact(&forged, outcome(1, OutcomeKind::Accepted)).await, FactStatus::Refused);
    assert_eq!(scene.fact(&held, outcome(50, OutcomeKind::Accepted)).await, FactStatus::Refused);
    assert_eq!(scene.record().await, before);
    assert_eq!(drain(&scene, "nothing").await, []);
    assert!(scene.claim(2, 1).await.is_empty());
}

pub async fn finish_of_a_retired_batch_is_settled(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2]).await;
    let mut stale = scene.claim_one(1).await;
    scene.intend(&mut stale, &[0]).await;
    scene.expire().await;
    fixture.pass(GRACE_MS + 1).await;
    let mut held = sent(&scene, OutcomeKind::Rejected).await;
    drain(&scene, "segment").await;
    assert_eq!(scene.finish(&mut held, Vec::new()).await.status, LeaseStatus::Settled);
    let answer = scene.finish(&mut stale, outcomes([0], OutcomeKind::Accepted)).await;
    assert_eq!(answer.status, LeaseStatus::Settled, "its outcomes are facts");
    assert_eq!(scene.record().await.recipients.accepted, 1);
    let corrections = drain(&scene, "corrections").await;
    assert_eq!(corrections[0].record.recipients[0].state, RecipientState::Accepted);
    assert_eq!(corrections[0].record.recipients[0].reason, None::<UnknownReason>, "the segment has it");
}

pub async fn cancel_batches_passes_over_retired_ones(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2, 2]).await;
    let held = sent(&scene, OutcomeKind::Accepted).await;
    drain(&scene, "segment").await;
    fixture.store().cancel_run(&scene.run).await.unwrap();
    let converted = fixture.store().cancel_batches(&scene.run, 0, 10).await.unwrap();
    scene.check().await;
    assert_eq!(converted.recipients, 2);
    assert!(record_of(&scene, &held).await.is_retired());
    let drained = drain(&scene, "cancelled").await;
    assert_eq!((drained.len(), drained[0].record.recipients[0].state), (1, RecipientState::Cancelled));
    assert_eq!(scene.record().await.state(), RunState::Cancelled);
}
