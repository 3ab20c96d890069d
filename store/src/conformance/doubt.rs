//! Expiry, doubt and facts: what is known late, or never.

use super::Fixture;
use super::scene::{GRACE_MS, Held, Scene, TTL_MS, new_run, outcome, outcomes};
use crate::api::BatchState;
use postrider_common::campaign::OnUnknown;
use postrider_common::lease::{FactStatus, LeaseStatus, OutcomeKind, RefusalReason};
use postrider_common::run::RunState;
use postrider_common::state::{RecipientState, UnknownReason};

pub async fn reclaim_puts_intents_in_doubt_and_resends_them(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[5]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0, 1, 2]).await;
    scene.checkpoint(&mut held, outcomes([2], OutcomeKind::Accepted), Vec::new()).await;
    let reclaimed = scene.expire().await;
    assert_eq!((reclaimed.leases, reclaimed.doubts), (1, 2));
    let mut next = scene.claim_one(2).await;
    assert_eq!(next.batch, held.batch, "it comes back at once: three and four were never begun");
    let answer = scene.checkpoint(&mut next, Vec::new(), vec![0, 2, 3]).await;
    assert_eq!(answer.granted, [3]);
    assert_eq!(answer.refused, [(0, RefusalReason::NotDue), (2, RefusalReason::Settled)], "the grace is not over");
    fixture.pass(GRACE_MS + 1).await;
    scene.intend(&mut next, &[0, 1, 4]).await;
    let answer = scene.finish(&mut next, outcomes([0, 1, 3, 4], OutcomeKind::Accepted)).await;
    assert_eq!(answer.status, LeaseStatus::Settled);
    let marked = scene.delivery(&next, 0).await;
    assert_eq!((marked.attempts, marked.reason), (2, Some(UnknownReason::OutcomeNotRecorded)));
    assert_eq!(scene.delivery(&next, 3).await.reason, None);
    let record = scene.record().await;
    assert_eq!((record.resent_outcome_not_recorded, record.resent_reply_lost), (2, 0));
    assert_eq!((record.leases_expired, record.leases_taken_over), (1, 1));
    assert_eq!(record.state(), RunState::Finished);
}

pub async fn reclaim_holds_what_must_not_be_sent_twice(fixture: &impl Fixture) {
    let new = crate::NewRun { on_unknown: OnUnknown::Hold, ..new_run("one") };
    let scene = Scene::with(fixture, new, &[2]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0, 1]).await;
    scene.expire().await;
    let record = scene.record().await;
    assert_eq!((record.recipients.unknown, record.recipients.pending), (2, 0));
    assert_eq!((record.state(), record.batches.settled), (RunState::Finished, 1));
    assert_eq!(scene.delivery(&held, 0).await.reason, Some(UnknownReason::OutcomeNotRecorded));
    assert!(scene.claim(2, 1).await.is_empty());
}

pub async fn reclaim_leaves_a_living_lease_alone(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2, 2]).await;
    scene.claim_one(1).await;
    fixture.pass(TTL_MS / 2).await;
    let second = scene.claim_one(1).await;
    fixture.pass(TTL_MS / 2 + 1).await;
    assert_eq!(scene.reclaim().await.leases, 1);
    let batches = scene.batches().await;
    assert_eq!((batches[0].state, batches[1].state), (BatchState::Ready, BatchState::Leased));
    assert_eq!(second.batch.sequence, 2);
}

pub async fn reclaim_waits_after_an_outage(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0]).await;
    fixture.pass(TTL_MS + 1).await;
    let reclaimed = scene.reclaim_after(TTL_MS / 2).await;
    assert_eq!(reclaimed.leases, 0);
    assert!(reclaimed.held_ms > TTL_MS && reclaimed.held_ms <= TTL_MS + GRACE_MS, "held {} ms", reclaimed.held_ms);
    assert_eq!(scene.delivery(&held, 0).await.state, RecipientState::Intent);
    fixture.pass(reclaimed.held_ms + 1).await;
    assert_eq!(scene.reclaim().await.leases, 1, "service was not away again");
}

pub async fn an_expired_lease_that_was_not_reclaimed_goes_on(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0]).await;
    fixture.pass(TTL_MS + 1).await;
    let answer = scene.checkpoint(&mut held, outcomes([0], OutcomeKind::Accepted), vec![1]).await;
    assert_eq!((answer.status, answer.granted), (LeaseStatus::Held, vec![1]));
    assert_eq!(scene.reclaim().await.leases, 0);
}

pub async fn release_with_abandon_puts_intents_in_doubt(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[3]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0, 1]).await;
    let answer = scene.release(&mut held, outcomes([1], OutcomeKind::Accepted), true).await;
    assert_eq!(answer.status, LeaseStatus::Returned);
    let doubt = scene.delivery(&held, 0).await;
    assert_eq!((doubt.state, doubt.reason), (RecipientState::Deferred, Some(UnknownReason::OutcomeNotRecorded)));
    assert_eq!(scene.record().await.leases_expired, 0);
}

pub async fn a_lost_reply_is_resent_with_its_reason(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[1]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0]).await;
    let answer = scene.finish(&mut held, outcomes([0], OutcomeKind::Unknown)).await;
    assert_eq!(answer.status, LeaseStatus::Returned);
    fixture.pass(answer.due_in_ms + 1).await;
    let mut next = scene.claim_one(2).await;
    scene.intend(&mut next, &[0]).await;
    assert_eq!(scene.finish(&mut next, outcomes([0], OutcomeKind::Accepted)).await.status, LeaseStatus::Settled);
    let delivery = scene.delivery(&next, 0).await;
    assert_eq!((delivery.reason, delivery.attempts), (Some(UnknownReason::ReplyLost), 2));
    assert_eq!(scene.record().await.resent_reply_lost, 1);
}

/// A recipient in doubt and leased again, its grace over.
async fn in_doubt(scene: &Scene<'_, impl Fixture>) -> (Held, Held) {
    let mut stale = scene.claim_one(1).await;
    scene.intend(&mut stale, &[0]).await;
    scene.expire().await;
    scene.fixture.pass(GRACE_MS + 1).await;
    let current = scene.claim_one(2).await;
    (stale, current)
}

pub async fn a_resend_handed_back_is_no_resend(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[1]).await;
    let (_, mut current) = in_doubt(&scene).await;
    scene.intend(&mut current, &[0]).await;
    assert_eq!(scene.record().await.resent_outcome_not_recorded, 1);
    scene.release(&mut current, outcomes([0], OutcomeKind::NotWritten), false).await;
    assert_eq!(scene.record().await.resent_outcome_not_recorded, 0);
    fixture.store().cancel_run(&scene.run).await.unwrap();
    fixture.store().cancel_batches(&scene.run, 0, 10).await.unwrap();
    scene.check().await;
    assert_eq!(scene.delivery(&current, 0).await.state, RecipientState::Unknown, "the first is still in doubt");
}

pub async fn facts_not_written_repeated_keep_an_older_doubt(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[1]).await;
    let (_, mut current) = in_doubt(&scene).await;
    scene.intend(&mut current, &[0]).await;
    scene.checkpoint(&mut current, outcomes([0], OutcomeKind::NotWritten), Vec::new()).await;
    scene.expire().await;
    assert_eq!(scene.fact(&current, outcome(0, OutcomeKind::NotWritten)).await, FactStatus::Already);
    let mut next = scene.claim_one(3).await;
    scene.intend(&mut next, &[0]).await;
    scene.finish(&mut next, outcomes([0], OutcomeKind::Accepted)).await;
    let delivery = scene.delivery(&next, 0).await;
    assert_eq!((delivery.reason, delivery.attempts), (Some(UnknownReason::OutcomeNotRecorded), 2));
    assert_eq!(scene.record().await.resent_outcome_not_recorded, 1);
}

pub async fn facts_accepted_overrides_every_state(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[3]).await;
    let (stale, mut current) = in_doubt(&scene).await;
    assert_eq!(scene.fact(&stale, outcome(0, OutcomeKind::Accepted)).await, FactStatus::Applied);
    assert_eq!(scene.fact(&stale, outcome(0, OutcomeKind::Accepted)).await, FactStatus::Already);
    let delivery = scene.delivery(&stale, 0).await;
    assert_eq!((delivery.state, delivery.attempts, delivery.reason), (RecipientState::Accepted, 1, None));
    let answer = scene.checkpoint(&mut current, Vec::new(), vec![0, 1]).await;
    assert_eq!(answer.granted, [1], "it is not sent again");
    assert_eq!(scene.record().await.resent_outcome_not_recorded, 0);
    // In intent under a newer fence: the other's outcome changes nothing any more.
    scene.checkpoint(&mut current, outcomes([1], OutcomeKind::Accepted), vec![2]).await;
    scene.expire().await;
    fixture.pass(GRACE_MS + 1).await;
    let mut third = scene.claim_one(3).await;
    scene.intend(&mut third, &[2]).await;
    assert_eq!(scene.fact(&current, outcome(2, OutcomeKind::Accepted)).await, FactStatus::Applied);
    let answer = scene.finish(&mut third, outcomes([2], OutcomeKind::Rejected)).await;
    assert_eq!(answer.status, LeaseStatus::Settled);
    let counts = scene.record().await.recipients;
    assert_eq!((counts.accepted, counts.rejected), (3, 0));
    assert_eq!(scene.delivery(&third, 2).await.reason, Some(UnknownReason::OutcomeNotRecorded), "a second was begun");
}

pub async fn facts_correct_a_settled_batch_once(fixture: &impl Fixture) {
    let new = crate::NewRun { on_unknown: OnUnknown::Hold, ..new_run("one") };
    let scene = Scene::with(fixture, new, &[2]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0, 1]).await;
    scene.expire().await;
    assert_eq!(scene.record().await.recipients.unknown, 2);
    assert_eq!(scene.fact(&held, outcome(0, OutcomeKind::Accepted)).await, FactStatus::Applied);
    assert_eq!(scene.fact(&held, outcome(0, OutcomeKind::Accepted)).await, FactStatus::Already);
    assert_eq!(scene.fact(&held, outcome(1, OutcomeKind::Rejected)).await, FactStatus::Applied);
    assert_eq!(scene.fact(&held, outcome(1, OutcomeKind::Deferred)).await, FactStatus::Already);
    let record = scene.record().await;
    assert_eq!((record.recipients.accepted, record.recipients.rejected, record.recipients.unknown), (1, 1, 0));
    assert_eq!(record.state(), RunState::Finished);
}

pub async fn facts_of_a_fence_that_was_not_issued_are_refused(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0]).await;
    let mut forged = held.clone();
    forged.fence.nonce ^= 1;
    assert_eq!(scene.fact(&forged, outcome(0, OutcomeKind::Accepted)).await, FactStatus::Refused);
    forged.fence = held.fence.clone();
    forged.fence.counter += 1000;
    assert_eq!(scene.fact(&forged, outcome(0, OutcomeKind::Accepted)).await, FactStatus::Refused);
    assert_eq!(scene.fact(&held, outcome(50, OutcomeKind::Accepted)).await, FactStatus::Refused);
    let mut nowhere = held.clone();
    nowhere.batch.sequence = 9;
    assert_eq!(scene.fact(&nowhere, outcome(0, OutcomeKind::Accepted)).await, FactStatus::Refused);
    assert_eq!(scene.delivery(&held, 0).await.state, RecipientState::Intent);
}

pub async fn facts_not_written_undo_a_doubt(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[1]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0]).await;
    scene.expire().await;
    assert_eq!(scene.record().await.batches.delayed, 1, "it waits for its grace");
    assert_eq!(scene.fact(&held, outcome(0, OutcomeKind::NotWritten)).await, FactStatus::Applied);
    let delivery = scene.delivery(&held, 0).await;
    assert_eq!((delivery.state, delivery.attempts, delivery.reason), (RecipientState::Pending, 0, None));
    assert_eq!(scene.record().await.batches.ready, 1, "it need not wait any longer");
    let mut next = scene.claim_one(2).await;
    scene.intend(&mut next, &[0]).await;
    scene.finish(&mut next, outcomes([0], OutcomeKind::Accepted)).await;
    assert_eq!(scene.record().await.resent_outcome_not_recorded, 0);
    assert_eq!(scene.delivery(&next, 0).await.reason, None);
}

pub async fn facts_of_an_older_intent_do_not_decide(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[1]).await;
    let (stale, mut current) = in_doubt(&scene).await;
    scene.intend(&mut current, &[0]).await;
    for kind in [OutcomeKind::Rejected, OutcomeKind::Deferred, OutcomeKind::NotWritten, OutcomeKind::Unknown] {
        assert_eq!(scene.fact(&stale, outcome(0, kind)).await, FactStatus::Already);
    }
    assert_eq!(scene.delivery(&current, 0).await.state, RecipientState::Intent);
    assert_eq!(scene.finish(&mut current, outcomes([0], OutcomeKind::Accepted)).await.status, LeaseStatus::Settled);
}

pub async fn finish_with_an_old_fence_keeps_its_facts(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2]).await;
    let (mut stale, _current) = in_doubt(&scene).await;
    let answer = scene.finish(&mut stale, outcomes([0], OutcomeKind::Accepted)).await;
    assert_eq!(answer.status, LeaseStatus::Lost);
    assert_eq!(scene.delivery(&stale, 0).await.state, RecipientState::Accepted);
    assert_eq!(scene.batches().await[0].state, BatchState::Leased);
}
