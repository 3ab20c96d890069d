//! Erasing one address: its recipients end and leave nothing but states, and who works on it is one at a time.

use super::Fixture;
use super::history::{drain, sent};
use super::poison::dead_letter;
use super::scene::{Held, Scene, new_run, outcome, outcomes, request};
use crate::api::{
    BatchRecord, BatchState, ClaimHistory, DeadAnswer, EraseRecipients, EraseRun, ErasedRecipients, ErasedRun,
    ErasureRecord, NewRun, Replace, ReplayDead, RetireBatches, RetriedRun, RetryRun, SplitStatus, WriteErasure,
};
use postrider_common::backoff::RetryPolicy;
use postrider_common::campaign::OnUnknown;
use postrider_common::ids::{BatchId, ErasureId, RunId};
use postrider_common::lease::{FactStatus, LeaseStatus, OutcomeKind, RefusalReason};
use postrider_common::run::RunState;
use postrider_common::state::RecipientState;

const BLANK: &[u8] = b"blank";

fn call(batch: &BatchRecord, recipients: &[u32]) -> EraseRecipients {
    let payload = if batch.is_retired() { Vec::new() } else { BLANK.to_vec() };
    EraseRecipients {
        batch: batch.id.clone(),
        known: batch.erased.clone(),
        recipients: recipients.to_vec(),
        details: Vec::new(),
        payload,
    }
}

async fn made(scene: &Scene<'_, impl Fixture>, erase: EraseRecipients) -> ErasedRecipients {
    let answer = scene.fixture.store().erase_recipients(erase).await.unwrap();
    scene.check().await;
    answer
}

async fn erase(scene: &Scene<'_, impl Fixture>, sequence: u64, recipients: &[u32]) -> u32 {
    let batch = record(scene, sequence).await;
    let erase = call(&batch, recipients);
    let ErasedRecipients::Done { ended } = made(scene, erase.clone()).await else { panic!("it was not erased") };
    let after = record(scene, sequence).await;
    assert_eq!(after.payload, erase.payload);
    assert!(recipients.iter().all(|index| after.erased.contains(index)));
    assert!(recipients.iter().all(|index| after.recipients[*index as usize].detail.is_empty()));
    // Made again because its answer was lost.
    assert_eq!(made(scene, erase).await, ErasedRecipients::Done { ended: 0 });
    assert_eq!(record(scene, sequence).await, after);
    ended
}

async fn record(scene: &Scene<'_, impl Fixture>, sequence: u64) -> BatchRecord {
    scene.batches().await.into_iter().find(|batch| batch.id.sequence == sequence).expect("the batch exists")
}

async fn states(scene: &Scene<'_, impl Fixture>, sequence: u64) -> Vec<RecipientState> {
    record(scene, sequence).await.recipients.iter().map(|delivery| delivery.state).collect()
}

pub async fn erase_recipients_ends_who_is_pending(fixture: &impl Fixture) {
    use RecipientState::{Accepted, Cancelled};
    let scene = Scene::of(fixture, &[3, 1]).await;
    let before = record(&scene, 1).await;
    assert_eq!(erase(&scene, 1, &[1]).await, 1);
    assert_eq!(states(&scene, 1).await[1], Cancelled);
    assert_eq!(erase(&scene, 2, &[0]).await, 1);
    assert_eq!(record(&scene, 2).await.state, BatchState::Settled, "nobody is left in it");
    let mut held = scene.claim_one(1).await;
    assert_eq!((held.batch.sequence, scene.claim(1, 10).await.len()), (1, 0));
    let answer = scene.checkpoint(&mut held, Vec::new(), vec![0, 1, 2]).await;
    assert_eq!((answer.granted, answer.refused), (vec![0, 2], vec![(1, RefusalReason::Settled)]));
    assert_eq!(scene.finish(&mut held, outcomes([0, 2], OutcomeKind::Accepted)).await.status, LeaseStatus::Settled);
    assert_eq!(states(&scene, 1).await, [Accepted, Cancelled, Accepted]);
    assert_eq!(scene.record().await.state(), RunState::Finished);

    for (erase, expected) in [
        (call(&before, &[0]), ErasedRecipients::Changed),
        (EraseRecipients { known: vec![1], ..call(&before, &[3]) }, ErasedRecipients::Changed),
        (EraseRecipients { payload: Vec::new(), known: vec![1], ..call(&before, &[0]) }, ErasedRecipients::Changed),
    ] {
        assert_eq!(made(&scene, erase.clone()).await, expected, "{erase:?}");
    }
    for batch in
        [BatchId { run: scene.run.clone(), sequence: 9 }, BatchId { run: RunId::derive("no", "run"), sequence: 1 }]
    {
        assert_eq!(made(&scene, EraseRecipients { batch, ..call(&before, &[0]) }).await, ErasedRecipients::Gone);
    }
}

/// What is under way ends by its outcome; nothing begins after it, and no reply is kept.
pub async fn erase_recipients_in_intent_end_by_their_outcome(fixture: &impl Fixture) {
    use RecipientState::{Accepted, Cancelled, Rejected, Unknown};
    let scene = Scene::of(fixture, &[7]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0, 1, 2, 3, 4, 5]).await;
    let erased = [0, 1, 2, 3, 4];
    assert_eq!(erase(&scene, 1, &erased).await, 0);
    assert_eq!(states(&scene, 1).await[..5], [RecipientState::Intent; 5]);
    let told = vec![
        outcome(0, OutcomeKind::Accepted),
        outcome(1, OutcomeKind::Rejected),
        outcome(2, OutcomeKind::Deferred),
        outcome(3, OutcomeKind::NotWritten),
        outcome(5, OutcomeKind::Accepted),
    ];
    scene.checkpoint(&mut held, told, Vec::new()).await;
    fixture.pass(2_000).await;
    let answer = scene.checkpoint(&mut held, Vec::new(), vec![2, 3, 6]).await;
    let refused = vec![(2, RefusalReason::Settled), (3, RefusalReason::Settled)];
    assert_eq!((answer.granted, answer.refused), (vec![6], refused));
    let ended = outcomes([6], OutcomeKind::Accepted).into_iter().chain([outcome(4, OutcomeKind::Unknown)]).collect();
    assert_eq!(scene.finish(&mut held, ended).await.status, LeaseStatus::Settled);
    assert_eq!(states(&scene, 1).await, [Accepted, Rejected, Cancelled, Cancelled, Unknown, Accepted, Accepted]);
    let batch = record(&scene, 1).await;
    for (delivery, index) in batch.recipients.iter().zip(0..) {
        assert_eq!(delivery.detail.is_empty(), erased.contains(&index), "{index}: {delivery:?}");
    }
    // A late reply corrects the state and leaves no text.
    assert_eq!(scene.fact(&held, outcome(4, OutcomeKind::Accepted)).await, FactStatus::Applied);
    let delivery = scene.delivery(&held, 4).await;
    assert_eq!((delivery.state, delivery.code.as_str(), delivery.detail.as_str()), (Accepted, "250 2.0.0", ""));
}

pub async fn erase_recipients_in_doubt_are_unknown_and_not_resent(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[3]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0, 1]).await;
    erase(&scene, 1, &[0]).await;
    scene.expire().await;
    assert_eq!(states(&scene, 1).await[0], RecipientState::Unknown, "it may have been sent");
    assert_eq!(erase(&scene, 1, &[1]).await, 1);
    assert_eq!(states(&scene, 1).await[1], RecipientState::Unknown, "so may this one, which waited to be sent again");
    assert_eq!(scene.fact(&held, outcome(0, OutcomeKind::NotWritten)).await, FactStatus::Applied);
    assert_eq!(states(&scene, 1).await[0], RecipientState::Cancelled);
    let mut again = scene.claim_one(2).await;
    scene.intend(&mut again, &[2]).await;
    assert_eq!(scene.finish(&mut again, outcomes([2], OutcomeKind::Accepted)).await.status, LeaseStatus::Settled);
}

pub async fn erase_recipients_are_never_begun_again(fixture: &impl Fixture) {
    let retry = RetryPolicy { base_ms: 100, cap_ms: 1000, ttl_ms: 1 };
    let new = NewRun { on_unknown: OnUnknown::Hold, retry, ..new_run("one") };
    let scene = Scene::with(fixture, new, &[4]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0, 1, 2, 3]).await;
    let mut told = outcomes([0, 1], OutcomeKind::Deferred);
    told.extend(outcomes([2, 3], OutcomeKind::Unknown));
    assert_eq!(scene.finish(&mut held, told).await.status, LeaseStatus::Settled);
    assert_eq!(erase(&scene, 1, &[0, 2]).await, 0);
    let key = "key".parse().unwrap();
    let retry = RetryRun { run: scene.run.clone(), key, unknown: true, after: 0, limit: 10 };
    let answer = fixture.store().retry_run(retry).await.unwrap();
    assert_eq!(answer, RetriedRun::Step { generation: 1, recipients: 2, next: None });
    scene.check().await;
    let states = states(&scene, 1).await;
    assert_eq!((states[0], states[2]), (RecipientState::Exhausted, RecipientState::Unknown));
}

pub async fn erase_recipients_takes_dead_letters_off_the_list(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2]).await;
    let (_, id) = dead_letter(&scene, false).await;
    erase(&scene, 1, &[0]).await;
    assert_eq!(fixture.store().dead_letters(None, None, 10).await.unwrap(), []);
    assert_eq!(fixture.store().replay_dead(ReplayDead { id, unknown: true }).await.unwrap(), DeadAnswer::NoSuch);
    assert_eq!(states(&scene, 1).await[0], RecipientState::Unknown);
}

/// A writer of history has read it as it was.
pub async fn erase_recipients_refuses_a_history_that_is_on_its_way(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2, 2]).await;
    sent(&scene, OutcomeKind::Accepted).await;
    let other = sent(&scene, OutcomeKind::Rejected).await;
    let claim = ClaimHistory { request: request().0, ttl_ms: 1, limit: 10 };
    let store = fixture.store();
    let claimed = store.claim_history(claim.clone()).await.unwrap().batches;
    erase(&scene, 1, &[1]).await;
    let batches = claimed.iter().map(|batch| (batch.record.id.clone(), batch.stamp)).collect();
    let retire = RetireBatches { request: claim.request, segment: "stale".to_owned(), batches };
    assert_eq!(store.retire_batches(retire).await.unwrap(), 1);
    scene.check().await;
    assert_eq!(record(&scene, 1).await.segments, Vec::<String>::new());
    assert_eq!(record(&scene, 2).await.segments, ["stale"]);
    fixture.pass(2).await;
    let drained = drain(&scene, "fresh").await;
    assert_eq!(drained.len(), 1);
    assert_eq!((drained[0].record.payload.as_slice(), &drained[0].record.erased), (BLANK, &vec![1]));

    // Of a tombstone too, and the correction that waits to be written.
    assert_eq!(record(&scene, 1).await.erased, [1], "a tombstone knows");
    assert_eq!(scene.fact(&other, outcome(0, OutcomeKind::Accepted)).await, FactStatus::Applied);
    fixture.pass(2).await;
    let claim = ClaimHistory { request: request().0, ttl_ms: 1, limit: 10 };
    let claimed = store.claim_history(claim.clone()).await.unwrap().batches;
    assert_eq!(claimed[0].record.recipients[0].detail, "detail 0");
    erase(&scene, 2, &[0]).await;
    let batches = vec![(claimed[0].record.id.clone(), claimed[0].stamp)];
    let retire = RetireBatches { request: claim.request, segment: "late".to_owned(), batches };
    assert_eq!(store.retire_batches(retire).await.unwrap(), 0);
    fixture.pass(2).await;
    let drained = drain(&scene, "correction").await;
    assert_eq!((drained.len(), drained[0].record.recipients[0].detail.as_str()), (1, ""));
    assert_eq!(record(&scene, 2).await.segments, ["stale", "correction"]);
    // One without a correction gets none by being erased.
    erase(&scene, 2, &[1]).await;
    assert_eq!(
        store.claim_history(ClaimHistory { request: request().0, ttl_ms: 1, limit: 10 }).await.unwrap().backlog,
        0
    );
    assert_eq!(scene.fact(&other, outcome(1, OutcomeKind::Accepted)).await, FactStatus::Applied);
    assert_eq!(record(&scene, 2).await.recipients[1].detail, "");
}

/// Somebody else's reply mentions the address.
pub async fn erase_recipients_takes_single_reply_texts(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[3]).await;
    sent(&scene, OutcomeKind::Rejected).await;
    let batch = record(&scene, 1).await;
    let erase = EraseRecipients { details: vec![1], ..call(&batch, &[]) };
    assert_eq!(made(&scene, erase).await, ErasedRecipients::Done { ended: 0 });
    let after = record(&scene, 1).await;
    let texts: Vec<&str> = after.recipients.iter().map(|delivery| delivery.detail.as_str()).collect();
    assert_eq!((texts, after.erased.len()), (vec!["detail 0", "", "detail 2"], 0));
    assert_eq!(after.recipients[1].state, RecipientState::Rejected);
}

pub async fn erase_recipients_of_every_place_leaves_nothing_to_repair(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2, 2, 60, 2, 2]).await;
    let mut held: Vec<Held> = scene.claim(1, 3).await;
    scene.intend(&mut held[0], &[0, 1]).await;
    scene.finish(&mut held[0], outcomes([0, 1], OutcomeKind::Deferred)).await;
    scene.intend(&mut held[1], &[1]).await;
    scene.intend(&mut held[2], &[51, 52]).await;
    for sequence in 1..=4 {
        let last = record(&scene, sequence).await.recipients.len() as u32 - 1;
        erase(&scene, sequence, &[last]).await;
    }
    erase(&scene, 3, &[51]).await;
    scene.release(&mut held[1], outcomes([1], OutcomeKind::NotWritten), false).await;
    scene.release(&mut held[2], Vec::new(), true).await;
    erase(&scene, 2, &[0]).await;
    assert_eq!(super::reconcile::reconcile_all(&*fixture.store()).await, []);
    scene.check().await;
    fixture.store().cancel_run(&scene.run).await.unwrap();
    fixture.store().cancel_batches(&scene.run, 0, 100).await.unwrap();
    scene.check().await;
    let counts = scene.record().await.recipients;
    assert_eq!((counts.total, counts.pending), (68, 0));
    assert_eq!(super::reconcile::reconcile_all(&*fixture.store()).await, []);
}

pub async fn erase_run_takes_the_split_from_its_holder(fixture: &impl Fixture) {
    let store = fixture.store();
    let scene = Scene::of(fixture, &[]).await;
    let new = new_run("two");
    store.create_run(new.clone()).await.unwrap();
    let lease = scene.claim_split().await.unwrap();
    let add = scene.add(&lease, &[2], 10, false);
    assert_eq!(store.add_batches(add).await.unwrap(), SplitStatus::Done);
    let plain = EraseRun { run: new.id.clone(), audience: None, open: None };
    let open = b"open".to_vec();
    assert_eq!(store.erase_run(plain.clone()).await.unwrap(), ErasedRun::Done { open: open.clone() });
    let next = crate::SplitLease { cursor: 10, sequence_max: 1, ..lease.clone() };
    assert_eq!(store.add_batches(scene.add(&next, &[2], 10, false)).await.unwrap(), SplitStatus::Lost);
    assert_eq!(store.run(&new.id).await.unwrap().unwrap().sequence_max, 1);

    let from = |from: &[u8]| Some(Replace { from: from.to_vec(), to: b"blank".to_vec() });
    let erase = EraseRun { audience: from(b"audience"), open: from(b"open"), ..plain.clone() };
    let done = ErasedRun::Done { open: b"blank".to_vec() };
    for _ in 0..2 {
        assert_eq!(store.erase_run(erase.clone()).await.unwrap(), done);
    }
    assert_eq!(store.run(&new.id).await.unwrap().unwrap().audience, b"blank");
    let other = || Some(Replace { from: b"other".to_vec(), to: b"more".to_vec() });
    let changed = EraseRun { open: other(), ..plain.clone() };
    assert_eq!(store.erase_run(changed).await.unwrap(), ErasedRun::Changed);
    let changed = EraseRun { audience: other(), ..plain };
    assert_eq!(store.erase_run(changed).await.unwrap(), ErasedRun::Changed);
    let none = EraseRun { run: RunId::derive("no", "run"), audience: None, open: None };
    assert_eq!(store.erase_run(none).await.unwrap(), ErasedRun::NoRun);

    let again = scene.claim_split().await.expect("it is due at once");
    assert_eq!((again.run.clone(), again.open.as_slice(), again.cursor), (new.id.clone(), BLANK, 10));
    assert!(again.fence != lease.fence);
    assert_eq!(store.add_batches(scene.add(&again, &[1], 5, true)).await.unwrap(), SplitStatus::Done);
    let ended = EraseRun { run: new.id.clone(), audience: None, open: None };
    assert_eq!(store.erase_run(ended).await.unwrap(), ErasedRun::Done { open });
    assert_eq!(scene.claim_split().await, None, "one that is complete stays so");
}

pub async fn erase_run_of_a_paused_run_waits_for_its_resume(fixture: &impl Fixture) {
    let store = fixture.store();
    let scene = Scene::of(fixture, &[]).await;
    let new = new_run("two");
    store.create_run(new.clone()).await.unwrap();
    scene.claim_split().await.unwrap();
    store.pause_run(&new.id).await.unwrap();
    let erase = EraseRun { run: new.id.clone(), audience: None, open: None };
    assert_eq!(store.erase_run(erase).await.unwrap(), ErasedRun::Done { open: Vec::new() });
    assert_eq!(scene.claim_split().await, None);
    store.resume_run(&new.id).await.unwrap();
    assert_eq!(scene.claim_split().await.map(|lease| lease.run), Some(new.id));
}

pub async fn write_erasure_is_for_one_at_a_time(fixture: &impl Fixture) {
    let store = fixture.store();
    let ids: [ErasureId; 2] = ["a".repeat(32), "b".repeat(32)].map(|id| id.parse().unwrap());
    let write = |version, takes, hold_ms, body: &[u8]| WriteErasure {
        id: ids[0].clone(),
        version,
        by: request().0,
        takes,
        hold_ms,
        open: true,
        body: body.to_vec(),
    };
    assert_eq!(store.erasure(&ids[0]).await.unwrap(), None);
    assert_eq!(store.open_erasures(10).await.unwrap(), []);
    let asked = write(0, false, 0, b"\xffasked");
    for _ in 0..2 {
        assert_eq!(store.write_erasure(asked.clone()).await.unwrap(), Some(1), "a repeat");
    }
    assert_eq!(store.write_erasure(write(0, false, 0, b"asked")).await.unwrap(), None, "it is there");
    let taken = write(1, true, 200, b"taken");
    for _ in 0..2 {
        assert_eq!(store.write_erasure(taken.clone()).await.unwrap(), Some(2));
    }
    assert_eq!(store.write_erasure(write(1, true, 200, b"taken")).await.unwrap(), None, "by somebody else");
    assert_eq!(store.write_erasure(write(2, true, 200, b"taken")).await.unwrap(), None, "it is held");
    assert_eq!(store.write_erasure(write(2, false, 200, b"step")).await.unwrap(), Some(3), "who holds it goes on");
    fixture.pass(201).await;
    let other = write(3, true, 60_000, b"by another");
    assert_eq!(store.write_erasure(other).await.unwrap(), Some(4));
    assert_eq!(store.write_erasure(write(3, false, 200, b"step")).await.unwrap(), None, "who was too slow lost it");
    let second = WriteErasure { id: ids[1].clone(), ..write(0, false, 0, b"second") };
    assert_eq!(store.write_erasure(second).await.unwrap(), Some(1));
    let record = |id: usize, version, open, body: &[u8]| ErasureRecord {
        id: ids[id].clone(),
        version,
        open,
        body: body.to_vec(),
    };
    assert_eq!(
        store.open_erasures(10).await.unwrap(),
        [record(0, 4, true, b"by another"), record(1, 1, true, b"second")]
    );
    assert_eq!(store.open_erasures(1).await.unwrap().len(), 1);
    assert_eq!(store.open_erasures(0).await.unwrap(), []);
    let done = WriteErasure { open: false, ..write(4, false, 0, b"done") };
    for _ in 0..2 {
        assert_eq!(store.write_erasure(done.clone()).await.unwrap(), Some(5));
    }
    assert_eq!(store.erasure(&ids[0]).await.unwrap(), Some(record(0, 5, false, b"done")));
    assert_eq!(store.open_erasures(10).await.unwrap(), [record(1, 1, true, b"second")]);
    assert_eq!(store.write_erasure(write(5, false, 0, b"anew")).await.unwrap(), Some(6));
    assert_eq!(store.open_erasures(10).await.unwrap().len(), 2);
}
