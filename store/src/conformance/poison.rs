//! The one that ends workers: found, set aside, and what a person does with it.

use super::Fixture;
use super::scene::{GRACE_MS, Held, Scene, TTL_MS, WINDOW, new_run, outcome, outcomes, request};
use crate::api::{BatchState, DeadAnswer, DeadLetter, ENDS_WORKERS, ReplayDead, RetriedRun, RetryRun};
use postrider_common::backoff::RetryPolicy;
use postrider_common::campaign::OnUnknown;
use postrider_common::ids::{DeadId, RunId};
use postrider_common::lease::{FactStatus, IndexRange, LeaseStatus, OutcomeKind, RefusalReason};
use postrider_common::limits::{DOUBTS_MAX, STRIKES_MAX, UNHEARD_MAX};
use postrider_common::run::RunState;
use postrider_common::state::{RecipientState, UnknownReason};

async fn letters(scene: &Scene<'_, impl Fixture>) -> Vec<DeadLetter> {
    scene.fixture.store().dead_letters(Some(&scene.run), None, 100).await.unwrap()
}

async fn replay(scene: &Scene<'_, impl Fixture>, id: &DeadId, unknown: bool) -> DeadAnswer {
    let answer = scene.fixture.store().replay_dead(ReplayDead { id: id.clone(), unknown }).await.unwrap();
    scene.check().await;
    answer
}

async fn purge(scene: &Scene<'_, impl Fixture>, id: &DeadId) -> DeadAnswer {
    let answer = scene.fixture.store().purge_dead(id).await.unwrap();
    scene.check().await;
    answer
}

/// Takes the next batch and ends with these in intent.
async fn worker_ends_at(scene: &Scene<'_, impl Fixture>, indexes: &[u32]) -> Held {
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, indexes).await;
    scene.expire().await;
    scene.fixture.pass(GRACE_MS + 1).await;
    held
}

/// Recipient 0 of the first batch is a dead letter.
pub(super) async fn dead_letter(scene: &Scene<'_, impl Fixture>, told_not_written: bool) -> (Held, DeadId) {
    for _ in 1..STRIKES_MAX {
        worker_ends_at(scene, &[0]).await;
    }
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0]).await;
    if told_not_written {
        assert_eq!(scene.fact(&held, outcome(0, OutcomeKind::NotWritten)).await, FactStatus::Applied);
    }
    scene.fixture.pass(TTL_MS + 1).await;
    let reclaimed = scene.reclaim().await;
    scene.check().await;
    assert_eq!((reclaimed.leases, reclaimed.dead), (1, 1));
    let id = DeadId { batch: held.batch.clone(), index: Some(0) };
    let listed = letters(scene).await;
    assert_eq!(listed.iter().map(|letter| &letter.id).collect::<Vec<_>>(), [&id]);
    assert_eq!(listed[0].reason, ENDS_WORKERS);
    (held, id)
}

pub async fn reclaim_sets_aside_the_one_that_ends_workers(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[3]).await;
    let (held, _) = dead_letter(&scene, false).await;
    let delivery = scene.delivery(&held, 0).await;
    assert_eq!((delivery.state, delivery.attempts), (RecipientState::Unknown, STRIKES_MAX), "it may have been sent");
    assert_eq!((delivery.reason, delivery.code.as_str()), (Some(UnknownReason::OutcomeNotRecorded), "dead_letter"));
    let mut rest = scene.claim_one(2).await;
    assert_eq!(rest.only, None, "the others are free of suspicion");
    scene.intend(&mut rest, &[1, 2]).await;
    scene.finish(&mut rest, outcomes([1, 2], OutcomeKind::Accepted)).await;
    let record = scene.record().await;
    assert_eq!((record.recipients.accepted, record.recipients.unknown), (2, 1));
    assert_eq!(record.state(), RunState::Finished);
}

pub async fn reclaim_knows_of_the_one_by_facts(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2]).await;
    for _ in 0..STRIKES_MAX {
        let mut held = scene.claim_one(1).await;
        scene.intend(&mut held, &[0]).await;
        // A worker that was started again tells what its journal says, and has nobody in intent at the expiry.
        assert_eq!(scene.fact(&held, outcome(0, OutcomeKind::NotWritten)).await, FactStatus::Applied);
        scene.expire().await;
    }
    let batches = scene.batches().await;
    assert_eq!(batches[0].recipients[0].state, RecipientState::Exhausted, "it was certainly not sent");
    assert_eq!((batches[0].recipients[0].attempts, batches[0].recipients[0].reason), (0, None));
    let listed = letters(&scene).await;
    assert_eq!(listed.len(), 1);
    assert_eq!(replay(&scene, &listed[0].id, false).await, DeadAnswer::Done { recipients: 1 });
    let record = scene.record().await;
    assert_eq!((record.recipients.pending, record.generation), (2, 1));
    assert_eq!(record.resent_outcome_not_recorded, 0);
    assert!(letters(&scene).await.is_empty());
}

/// Sends batches until none is left; whoever has `culprit` in intent ends. How many did.
async fn send_beside(scene: &Scene<'_, impl Fixture>, culprit: u32) -> u32 {
    let mut ended = 0;
    while let Some(mut held) = scene.claim(1, 1).await.pop() {
        let only = held.only.unwrap_or(IndexRange { first: 0, last: held.count - 1 });
        let inside: Vec<u32> = (only.first..=only.last).collect();
        for window in inside.chunks(WINDOW as usize) {
            let granted = scene.checkpoint(&mut held, Vec::new(), window.to_vec()).await.granted;
            if granted.contains(&culprit) {
                ended += 1;
                break;
            }
            scene.checkpoint(&mut held, outcomes(granted, OutcomeKind::Accepted), Vec::new()).await;
        }
        match scene.finish(&mut held, Vec::new()).await.status {
            LeaseStatus::InIntent => drop(scene.expire().await),
            LeaseStatus::Settled | LeaseStatus::Returned => (),
            other => panic!("the lease ended {other:?}"),
        }
        scene.fixture.pass(GRACE_MS + 1).await;
    }
    ended
}

pub async fn claim_of_a_suspect_batch_is_for_ever_smaller_ranges(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[30]).await;
    for _ in 0..STRIKES_MAX {
        worker_ends_at(&scene, &[2, 3, 4, 5, 6, 7, 8, 9]).await;
    }
    let mut held = scene.claim_one(1).await;
    assert_eq!(held.only, Some(IndexRange { first: 2, last: 5 }), "half of the suspects");
    let answer = scene.checkpoint(&mut held, Vec::new(), vec![1, 2, 6, 20]).await;
    assert_eq!(answer.granted, [2]);
    let outside = |index| (index, RefusalReason::Outside);
    assert_eq!(answer.refused, [outside(1), outside(6), outside(20)]);
    scene.finish(&mut held, outcomes([2], OutcomeKind::Accepted)).await;
    let ended = send_beside(&scene, 8).await;
    println!("{} workers ended before the one of eight suspects stood alone", STRIKES_MAX + ended);
    assert!(ended <= 3, "{ended} workers for eight suspects");
    let record = scene.record().await;
    assert_eq!((record.recipients.accepted, record.recipients.unknown), (29, 1));
    assert_eq!(record.state(), RunState::Finished);
    assert_eq!(letters(&scene).await[0].id.index, Some(8));
    // Every copy beyond the first is marked.
    assert_eq!(scene.batches().await[0].recipients[8].reason, Some(UnknownReason::OutcomeNotRecorded));
}

pub async fn reclaim_counts_no_expiry_with_an_outcome(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[10]).await;
    for done in 1..=STRIKES_MAX {
        let mut held = scene.claim_one(1).await;
        scene.intend(&mut held, &[0, done]).await;
        scene.checkpoint(&mut held, outcomes([done], OutcomeKind::Accepted), Vec::new()).await;
        scene.expire().await;
        fixture.pass(GRACE_MS + 1).await;
    }
    assert!(letters(&scene).await.is_empty());
    assert_eq!(scene.claim_one(1).await.only, None);
}

pub async fn reclaim_counts_no_expiry_of_an_outage(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[1]).await;
    for _ in 0..=STRIKES_MAX {
        if scene.record().await.recipients.pending == 0 {
            break;
        }
        let mut held = scene.claim_one(1).await;
        scene.intend(&mut held, &[0]).await;
        fixture.pass(TTL_MS + 1).await;
        let held_ms = scene.reclaim_after(TTL_MS / 2).await.held_ms;
        assert!(held_ms > 0, "service was away");
        fixture.pass(held_ms + 1).await;
        assert_eq!(scene.reclaim().await.leases, 1);
        fixture.pass(GRACE_MS + 1).await;
    }
    assert!(letters(&scene).await.is_empty());
    // What does not count towards poison counts towards the limit of doubts.
    assert_eq!(scene.record().await.recipients.pending, u64::from(STRIKES_MAX + 1 < DOUBTS_MAX));
}

pub async fn reclaim_sets_aside_a_batch_of_which_nobody_is_heard_again(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2]).await;
    for _ in 0..UNHEARD_MAX {
        assert_eq!(scene.record().await.batches.dead, 0);
        scene.claim_one(1).await;
        scene.expire().await;
    }
    let record = scene.record().await;
    assert_eq!((record.batches.dead, record.recipients.pending), (1, 2), "nobody is lost, nothing goes on");
    assert_eq!(record.state(), RunState::Sending);
    assert!(scene.claim(1, 1).await.is_empty());
    let id = letters(&scene).await[0].id.clone();
    assert_eq!(id.index, None);
    assert_eq!(replay(&scene, &id, false).await, DeadAnswer::Done { recipients: 2 });
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0]).await;
    scene.finish(&mut held, outcomes([0], OutcomeKind::Accepted)).await;
    for _ in 0..UNHEARD_MAX {
        scene.claim_one(1).await;
        scene.expire().await;
    }
    assert_eq!(purge(&scene, &id).await, DeadAnswer::Done { recipients: 1 });
    let record = scene.record().await;
    assert_eq!((record.recipients.accepted, record.recipients.exhausted), (1, 1));
    assert_eq!((record.batches.dead, record.batches.settled, record.state()), (0, 1, RunState::Finished));
    assert_eq!(purge(&scene, &id).await, DeadAnswer::NoSuch);
    assert!(letters(&scene).await.is_empty());
}

pub async fn cancel_run_ends_a_batch_that_was_set_aside(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2]).await;
    for _ in 0..UNHEARD_MAX {
        scene.claim_one(1).await;
        scene.expire().await;
    }
    let id = letters(&scene).await[0].id.clone();
    fixture.store().cancel_run(&scene.run).await.unwrap();
    assert_eq!(replay(&scene, &id, false).await, DeadAnswer::Cancelled);
    fixture.store().cancel_batches(&scene.run, 0, 10).await.unwrap();
    let record = scene.record().await;
    assert_eq!((record.recipients.cancelled, record.state()), (2, RunState::Cancelled));
    assert!(letters(&scene).await.is_empty());
}

pub async fn replay_dead_in_doubt_needs_to_be_told(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2]).await;
    let (_, id) = dead_letter(&scene, false).await;
    assert_eq!(replay(&scene, &id, false).await, DeadAnswer::InDoubt);
    let before = scene.record().await;
    assert_eq!(replay(&scene, &id, true).await, DeadAnswer::Done { recipients: 1 });
    assert_eq!(replay(&scene, &id, true).await, DeadAnswer::NoSuch, "once");
    let mut held = scene.claim_one(2).await;
    scene.intend(&mut held, &[0, 1]).await;
    scene.finish(&mut held, outcomes([0, 1], OutcomeKind::Accepted)).await;
    let record = scene.record().await;
    assert_eq!(record.state(), RunState::Finished);
    assert_eq!(record.resent_outcome_not_recorded, before.resent_outcome_not_recorded + 1, "with its reason");
    assert_eq!(scene.delivery(&held, 0).await.reason, Some(UnknownReason::OutcomeNotRecorded));
}

pub async fn replay_dead_begins_with_a_clean_record(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2]).await;
    let (_, id) = dead_letter(&scene, true).await;
    // Two doubts stand from the expiries before, which nobody told about.
    assert_eq!(replay(&scene, &id, true).await, DeadAnswer::Done { recipients: 1 });
    for _ in 1..STRIKES_MAX {
        worker_ends_at(&scene, &[0]).await;
    }
    assert!(letters(&scene).await.is_empty(), "strikes begin anew");
    worker_ends_at(&scene, &[0]).await;
    assert_eq!(letters(&scene).await.len(), 1);
}

pub async fn purge_dead_leaves_the_state(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[1]).await;
    let (held, id) = dead_letter(&scene, false).await;
    assert_eq!(purge(&scene, &id).await, DeadAnswer::Done { recipients: 0 });
    assert!(letters(&scene).await.is_empty());
    assert_eq!(scene.delivery(&held, 0).await.state, RecipientState::Unknown);
    assert_eq!(replay(&scene, &id, true).await, DeadAnswer::NoSuch);
}

pub async fn facts_correct_a_dead_letter(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[1]).await;
    let (held, id) = dead_letter(&scene, false).await;
    assert_eq!(scene.fact(&held, outcome(0, OutcomeKind::NotWritten)).await, FactStatus::Applied);
    let delivery = scene.delivery(&held, 0).await;
    assert_eq!((delivery.state, delivery.attempts), (RecipientState::Exhausted, STRIKES_MAX - 1), "it ends workers");
    assert_eq!(letters(&scene).await[0].id, id);
    assert_eq!(scene.fact(&held, outcome(0, OutcomeKind::Accepted)).await, FactStatus::Applied);
    assert!(letters(&scene).await.is_empty(), "it arrived: there is nothing to decide");
    assert_eq!(scene.record().await.recipients.accepted, 1);
}

pub async fn dead_letters_are_listed_by_run_and_page(fixture: &impl Fixture) {
    let one = Scene::of(fixture, &[2]).await;
    let (_, first) = dead_letter(&one, false).await;
    let two = Scene::with(fixture, new_run("two"), &[1]).await;
    let store = fixture.store();
    store.pause_run(&one.run).await.unwrap();
    let (_, second) = dead_letter(&two, false).await;
    let mut ids = [first, second];
    ids.sort();
    let page = store.dead_letters(None, None, 1).await.unwrap();
    assert_eq!(page[0].id, ids[0]);
    let page = store.dead_letters(None, Some(&ids[0]), 10).await.unwrap();
    assert_eq!(page.iter().map(|letter| &letter.id).collect::<Vec<_>>(), [&ids[1]]);
    assert!(store.dead_letters(None, Some(&ids[1]), 10).await.unwrap().is_empty());
    assert_eq!(letters(&two).await.len(), 1);
    let nobody = RunId::derive("conformance", "nobody");
    assert!(store.dead_letters(Some(&nobody), None, 10).await.unwrap().is_empty());
}

fn retry_of(scene: &Scene<'_, impl Fixture>, key: &str, unknown: bool) -> RetryRun {
    RetryRun { run: scene.run.clone(), key: key.parse().expect("a key"), unknown, after: 0, limit: 100 }
}

async fn retry(scene: &Scene<'_, impl Fixture>, retry: RetryRun) -> RetriedRun {
    let answer = scene.fixture.store().retry_run(retry).await.unwrap();
    scene.check().await;
    answer
}

fn done(generation: u64, recipients: u64) -> RetriedRun {
    RetriedRun::Step { generation, recipients, next: None }
}

/// One accepted, one rejected, one exhausted, one unknown, by the hold of the run.
async fn given_up(fixture: &impl Fixture) -> (Scene<'_, impl Fixture>, Held) {
    let policy = RetryPolicy { base_ms: 100, cap_ms: 1000, ttl_ms: 40 };
    let new = crate::NewRun { retry: policy, on_unknown: OnUnknown::Hold, ..new_run("one") };
    let scene = Scene::with(fixture, new, &[4]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0, 1, 2, 3]).await;
    let kinds = [OutcomeKind::Accepted, OutcomeKind::Rejected, OutcomeKind::Deferred, OutcomeKind::Unknown];
    let outcomes = kinds.into_iter().zip(0..).map(|(kind, index)| outcome(index, kind)).collect();
    assert_eq!(scene.finish(&mut held, outcomes).await.status, LeaseStatus::Settled);
    (scene, held)
}

pub async fn retry_run_begins_again_with_the_exhausted(fixture: &impl Fixture) {
    let (scene, _) = given_up(fixture).await;
    assert_eq!(scene.record().await.state(), RunState::Finished);
    assert_eq!(retry(&scene, retry_of(&scene, "first", false)).await, done(1, 1));
    let record = scene.record().await;
    assert_eq!((record.recipients.pending, record.recipients.exhausted), (1, 0));
    assert_eq!((record.recipients.unknown, record.recipients.rejected), (1, 1), "these are not begun again");
    assert_eq!((record.state(), record.generation), (RunState::Sending, 1));
    let mut held = scene.claim_one(2).await;
    let answer = scene.checkpoint(&mut held, Vec::new(), vec![0, 1, 2, 3]).await;
    assert_eq!(answer.granted, [2]);
    scene.finish(&mut held, outcomes([2], OutcomeKind::Deferred)).await;
    assert_eq!(scene.record().await.recipients.exhausted, 1, "its time to live began anew, and is over again");
    assert_eq!(retry(&scene, retry_of(&scene, "first", false)).await, done(1, 0), "a repeat begins nothing");
    assert_eq!(retry(&scene, retry_of(&scene, "second", false)).await, done(2, 1));
}

pub async fn retry_run_resends_the_unknown_with_their_reason(fixture: &impl Fixture) {
    let (scene, _) = given_up(fixture).await;
    assert_eq!(retry(&scene, retry_of(&scene, "first", true)).await, done(1, 2));
    assert_eq!(retry(&scene, retry_of(&scene, "first", false)).await, RetriedRun::Conflict);
    let mut held = scene.claim_one(2).await;
    scene.intend(&mut held, &[2, 3]).await;
    assert_eq!(scene.record().await.resent_reply_lost, 1);
    let answer = scene.finish(&mut held, outcomes([2, 3], OutcomeKind::Accepted)).await;
    assert_eq!(answer.status, LeaseStatus::Settled);
    assert_eq!(scene.delivery(&held, 3).await.reason, Some(UnknownReason::ReplyLost));
    let record = scene.record().await;
    assert_eq!((record.recipients.accepted, record.state()), (3, RunState::Finished));
}

pub async fn retry_run_goes_in_steps_and_leaves_what_came_later(fixture: &impl Fixture) {
    let policy = RetryPolicy { base_ms: 100, cap_ms: 1000, ttl_ms: 40 };
    let new = crate::NewRun { retry: policy, ..new_run("one") };
    let scene = Scene::with(fixture, new, &[1, 1, 1]).await;
    for mut held in scene.claim(1, 3).await {
        scene.intend(&mut held, &[0]).await;
        scene.finish(&mut held, outcomes([0], OutcomeKind::Deferred)).await;
    }
    let step = |after| RetryRun { after, limit: 2, ..retry_of(&scene, "steps", false) };
    let first = RetriedRun::Step { generation: 1, recipients: 2, next: Some(2) };
    assert_eq!(retry(&scene, step(0)).await, first);
    assert_eq!(retry(&scene, step(0)).await, RetriedRun::Step { generation: 1, recipients: 0, next: Some(2) });
    assert_eq!(retry(&scene, step(2)).await, done(1, 1));
    assert_eq!(scene.record().await.recipients.pending, 3);
    let nobody = RetryRun { run: RunId::derive("conformance", "nobody"), ..step(0) };
    assert_eq!(fixture.store().retry_run(nobody).await.unwrap(), RetriedRun::NoRun);
    fixture.store().cancel_run(&scene.run).await.unwrap();
    assert_eq!(retry(&scene, step(0)).await, RetriedRun::Cancelled);
}

pub async fn retry_run_leaves_dead_letters_to_replay(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[1]).await;
    dead_letter(&scene, false).await;
    assert_eq!(retry(&scene, retry_of(&scene, "all", true)).await, done(1, 0));
    assert_eq!(letters(&scene).await.len(), 1);
}

pub async fn retry_run_reaches_into_a_leased_batch(fixture: &impl Fixture) {
    let policy = RetryPolicy { base_ms: 100, cap_ms: 1000, ttl_ms: 40 };
    let scene = Scene::with(fixture, crate::NewRun { retry: policy, ..new_run("one") }, &[2]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0]).await;
    scene.checkpoint(&mut held, outcomes([0], OutcomeKind::Deferred), vec![1]).await;
    assert_eq!(retry(&scene, retry_of(&scene, &request().0.to_string(), false)).await, done(1, 1));
    let answer = scene.finish(&mut held, outcomes([1], OutcomeKind::Accepted)).await;
    assert_eq!(answer.status, LeaseStatus::Returned, "somebody is pending again");
    assert_eq!(scene.batches().await[0].state, BatchState::Ready);
}
