//! Batches of a wave whose time is to come: nothing of them is leased before, whatever happens until then.

use super::Fixture;
use super::reconcile::reconcile_all;
use super::rollback::{go_back, wait_for_reports};
use super::scene::{Held, Scene, new_run};
use crate::api::{AddBatches, BatchState, CreatedRun, EraseRecipients, ErasedRecipients, SplitStatus, Steered};
use postrider_common::OutcomeKind;
use postrider_common::lease::LeaseStatus;
use postrider_common::run::RunState;
use postrider_common::state::RecipientState;

const SOON_MS: i64 = 2_500;
const HOUR_MS: i64 = 3_600_000;

/// A complete run of batches with so many recipients and a time each, counted from now; and what now was.
pub async fn waves<'a, F: Fixture>(fixture: &'a F, batches: &[(u32, i64)]) -> (Scene<'a, F>, i64) {
    let store = fixture.store();
    let new = new_run("one");
    let scene = Scene { fixture, run: new.id.clone() };
    scene.confirm().await;
    scene.reclaim().await;
    assert_eq!(store.create_run(new).await.unwrap(), CreatedRun::Created);
    let lease = scene.claim_split().await.expect("the split is due");
    let now = store.now_ms().await.unwrap();
    let counts: Vec<u32> = batches.iter().map(|(count, _)| *count).collect();
    let mut add: AddBatches = scene.add(&lease, &counts, 100, true);
    for (batch, (_, wait_ms)) in add.batches.iter_mut().zip(batches) {
        batch.not_before_ms = if *wait_ms == 0 { 0 } else { now + wait_ms };
    }
    assert_eq!(store.add_batches(add.clone()).await.unwrap(), SplitStatus::Done);
    assert_eq!(store.add_batches(add).await.unwrap(), SplitStatus::Done, "a repeat");
    scene.check().await;
    (scene, now)
}

/// Who is leased, by sequence.
fn sequences(held: &[Held]) -> Vec<u64> {
    held.iter().map(|held| held.batch.sequence).collect()
}

async fn states(scene: &Scene<'_, impl Fixture>) -> Vec<BatchState> {
    scene.batches().await.iter().map(|batch| batch.state).collect()
}

pub async fn add_batches_before_their_time_are_leased_when_it_comes(fixture: &impl Fixture) {
    let (scene, now) = waves(fixture, &[(2, SOON_MS), (1, 0), (3, HOUR_MS), (1, SOON_MS + 1)]).await;
    let mut first = scene.claim(1, 10).await;
    // Only a machine that stood still may have come to the time by now.
    if fixture.store().now_ms().await.unwrap() < now + SOON_MS {
        assert_eq!(sequences(&first), [2]);
        let record = scene.record().await;
        assert_eq!((record.recipients.pending, record.batches.delayed, record.batches.ready), (7, 3, 0));
        assert_eq!(record.state(), RunState::Sending);
    }
    let mut leased = sequences(&first);
    for held in &mut first {
        scene.send_all(held, OutcomeKind::Accepted).await;
    }
    fixture.pass(SOON_MS as u64 + 2).await;
    let mut second = scene.claim(2, 10).await;
    leased.extend(sequences(&second));
    leased.sort_unstable();
    assert_eq!(leased, [1, 2, 4], "what is for later waits on");
    assert_eq!(scene.claim(3, 10).await.len(), 0);
    for held in &mut second {
        scene.send_all(held, OutcomeKind::Accepted).await;
    }
    assert_eq!(states(&scene).await[2], BatchState::Delayed);
    scene.check().await;
}

pub async fn add_batches_of_a_time_that_has_passed_are_ready(fixture: &impl Fixture) {
    let (scene, _) = waves(fixture, &[(2, -1), (1, -HOUR_MS), (1, 0)]).await;
    assert_eq!(states(&scene).await, [BatchState::Ready; 3]);
    let mut held = scene.claim(1, 10).await;
    assert_eq!(sequences(&held), [1, 2, 3]);
    // A retry is due by its own time, and not by that of the wave.
    scene.intend(&mut held[1], &[0]).await;
    let answer = scene.finish(&mut held[1], vec![super::scene::outcome(0, OutcomeKind::Deferred)]).await;
    assert_eq!(answer.status, LeaseStatus::Returned);
    fixture.pass(100).await;
    assert_eq!(sequences(&scene.claim(2, 10).await), [2]);
}

pub async fn add_batches_before_their_time_end_with_their_run(fixture: &impl Fixture) {
    let store = fixture.store();
    let (scene, _) = waves(fixture, &[(2, HOUR_MS), (1, 0)]).await;
    let mut held = scene.claim_one(1).await;
    assert_eq!(store.cancel_run(&scene.run).await.unwrap(), Steered::Done);
    let converted = store.cancel_batches(&scene.run, 0, 10).await.unwrap();
    assert_eq!((converted.recipients, converted.next), (2, None));
    scene.finish(&mut held, Vec::new()).await;
    let record = scene.record().await;
    assert_eq!((record.state(), record.recipients.cancelled, record.batches.settled), (RunState::Cancelled, 3, 2));
}

pub async fn pause_run_and_resume_begin_nothing_early(fixture: &impl Fixture) {
    let store = fixture.store();
    let (scene, _) = waves(fixture, &[(2, HOUR_MS), (1, 1)]).await;
    assert_eq!(store.pause_run(&scene.run).await.unwrap(), Steered::Done);
    fixture.pass(2).await;
    assert!(scene.claim(1, 10).await.is_empty(), "its time came, and it is paused");
    assert_eq!(store.resume_run(&scene.run).await.unwrap(), Steered::Done);
    assert_eq!(sequences(&scene.claim(1, 10).await), [2]);
    assert_eq!(states(&scene).await, [BatchState::Delayed, BatchState::Leased]);
}

pub async fn erase_recipients_before_their_time_leaves_the_others_waiting(fixture: &impl Fixture) {
    let (scene, _) = waves(fixture, &[(2, HOUR_MS), (1, HOUR_MS)]).await;
    for (at, left) in [(0, BatchState::Delayed), (1, BatchState::Settled)] {
        let batch = scene.batches().await.remove(at);
        let (known, payload) = (batch.erased.clone(), b"blank".to_vec());
        let erase = EraseRecipients { batch: batch.id, known, recipients: vec![0], details: Vec::new(), payload };
        let answer = fixture.store().erase_recipients(erase).await.unwrap();
        assert_eq!(answer, ErasedRecipients::Done { ended: 1 });
        scene.check().await;
        assert_eq!(states(&scene).await[at], left);
    }
    assert!(scene.claim(1, 10).await.is_empty());
    assert_eq!(scene.batches().await[0].recipients[1].state, RecipientState::Pending);
}

pub async fn compare_gone_back_begins_nothing_early(fixture: &impl Fixture) {
    let (scene, _) = waves(fixture, &[(2, HOUR_MS), (1, 0)]).await;
    go_back(&scene).await;
    wait_for_reports(&scene).await;
    assert_eq!(sequences(&scene.claim(1, 10).await), [2]);
    assert_eq!(states(&scene).await[0], BatchState::Delayed);
}

pub async fn reconcile_leaves_what_waits_for_its_time(fixture: &impl Fixture) {
    let (scene, _) = waves(fixture, &[(60, HOUR_MS), (1, 0), (2, HOUR_MS)]).await;
    assert_eq!(reconcile_all(&*fixture.store()).await, []);
    assert_eq!(states(&scene).await, [BatchState::Delayed, BatchState::Ready, BatchState::Delayed]);
}
