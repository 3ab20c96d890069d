//! Pause, resume, cancel, and the lists.

use super::Fixture;
use super::scene::{Scene, new_run, outcomes, worker};
use crate::api::{BatchState, Steered};
use postrider_common::lease::{LeaseStatus, OutcomeKind, RefusalReason};
use postrider_common::run::RunState;
use postrider_common::state::RecipientState;

pub async fn pause_run_stops_intents_and_resume_goes_on(fixture: &impl Fixture) {
    let store = fixture.store();
    let scene = Scene::of(fixture, &[3, 3]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0]).await;
    assert_eq!(store.pause_run(&scene.run).await.unwrap(), Steered::Done);
    assert_eq!(store.pause_run(&scene.run).await.unwrap(), Steered::Done);
    assert!(scene.record().await.paused);
    let answer = scene.checkpoint(&mut held, outcomes([0], OutcomeKind::Accepted), vec![1]).await;
    assert_eq!((answer.status, answer.refused), (LeaseStatus::Held, vec![(1, RefusalReason::Paused)]));
    assert_eq!(scene.release(&mut held, Vec::new(), false).await.status, LeaseStatus::Returned);
    assert!(scene.claim(1, 5).await.is_empty());
    assert_eq!(store.resume_run(&scene.run).await.unwrap(), Steered::Done);
    let mut again = scene.claim_one(1).await;
    assert_eq!(again.batch, held.batch);
    scene.intend(&mut again, &[1, 2]).await;
    assert_eq!(scene.delivery(&again, 1).await.reason, None);
    assert_eq!(store.pause_run(&new_run("none").id).await.unwrap(), Steered::NoRun);
}

pub async fn pause_lane_stops_its_runs(fixture: &impl Fixture) {
    let store = fixture.store();
    let scene = Scene::of(fixture, &[3]).await;
    let mut held = scene.claim_one(1).await;
    store.set_lane_paused(&"bulk".parse().unwrap(), true).await.unwrap();
    let answer = scene.checkpoint(&mut held, Vec::new(), vec![0]).await;
    assert_eq!(answer.refused, [(0, RefusalReason::Paused)]);
    store.set_lane_paused(&"bulk".parse().unwrap(), false).await.unwrap();
    scene.intend(&mut held, &[0]).await;
}

pub async fn cancel_run_ends_pending_and_keeps_what_was_sent(fixture: &impl Fixture) {
    let store = fixture.store();
    let scene = Scene::of(fixture, &[3, 3, 3, 3]).await;
    let mut held = scene.claim_one(1).await;
    scene.send_all(&mut held, OutcomeKind::Accepted).await;
    assert_eq!(store.runs_to_cancel(10).await.unwrap(), []);
    assert_eq!(store.cancel_run(&scene.run).await.unwrap(), Steered::Done);
    assert_eq!(store.runs_to_cancel(10).await.unwrap(), std::slice::from_ref(&scene.run));
    assert_eq!(scene.record().await.state(), RunState::Sending, "not before nothing is pending");
    let step = store.cancel_batches(&scene.run, 0, 2).await.unwrap();
    assert_eq!((step.recipients, step.next), (3, Some(2)));
    scene.check().await;
    let step = store.cancel_batches(&scene.run, 2, 2).await.unwrap();
    assert_eq!((step.recipients, step.next), (6, None));
    assert_eq!(store.runs_to_cancel(10).await.unwrap(), []);
    let record = scene.record().await;
    assert_eq!((record.recipients.accepted, record.recipients.cancelled), (3, 9));
    assert_eq!(record.state(), RunState::Cancelled);
    assert!(record.finished_at_ms().is_some());
    scene.check().await;
    assert!(scene.claim(1, 5).await.is_empty());
}

pub async fn cancel_run_leaves_doubt_unknown(fixture: &impl Fixture) {
    let store = fixture.store();
    let scene = Scene::of(fixture, &[2]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0]).await;
    scene.expire().await;
    store.cancel_run(&scene.run).await.unwrap();
    store.cancel_batches(&scene.run, 0, 10).await.unwrap();
    let counts = scene.record().await.recipients;
    assert_eq!((counts.unknown, counts.cancelled, counts.pending), (1, 1, 0));
    scene.check().await;
}

pub async fn cancel_run_waits_for_what_is_in_flight(fixture: &impl Fixture) {
    let store = fixture.store();
    let scene = Scene::of(fixture, &[4, 2]).await;
    let mut held = scene.claim_one(1).await;
    let mut other = scene.claim_one(2).await;
    scene.intend(&mut held, &[0, 1, 2]).await;
    scene.intend(&mut other, &[0]).await;
    store.cancel_run(&scene.run).await.unwrap();
    store.cancel_batches(&scene.run, 0, 10).await.unwrap();
    assert_eq!(scene.record().await.recipients.pending, 6);
    let answer = scene.checkpoint(&mut held, outcomes([0], OutcomeKind::Accepted), vec![3]).await;
    assert_eq!((answer.status, answer.refused), (LeaseStatus::Held, vec![(3, RefusalReason::Cancelled)]));
    let mut said = outcomes([1], OutcomeKind::Deferred);
    said.extend(outcomes([2], OutcomeKind::Unknown));
    assert_eq!(scene.finish(&mut held, said).await.status, LeaseStatus::Settled);
    let counts = scene.record().await.recipients;
    assert_eq!((counts.accepted, counts.cancelled, counts.unknown, counts.pending), (1, 2, 1, 2));
    scene.expire().await;
    let counts = scene.record().await.recipients;
    assert_eq!((counts.cancelled, counts.unknown, counts.pending), (3, 2, 0), "in doubt at cancel is unknown");
    assert_eq!(scene.record().await.state(), RunState::Cancelled);
}

pub async fn cancel_run_is_for_ever(fixture: &impl Fixture) {
    let store = fixture.store();
    let scene = Scene::of(fixture, &[2]).await;
    store.cancel_run(&scene.run).await.unwrap();
    assert_eq!(store.cancel_run(&scene.run).await.unwrap(), Steered::Done);
    assert_eq!(store.resume_run(&scene.run).await.unwrap(), Steered::Cancelled);
    assert_eq!(store.pause_run(&scene.run).await.unwrap(), Steered::Cancelled);
    assert!(scene.claim(1, 5).await.is_empty());
    assert_eq!(store.cancel_run(&new_run("none").id).await.unwrap(), Steered::NoRun);
    assert_eq!(scene.batches().await[0].state, BatchState::Ready);
}

pub async fn runs_are_listed_newest_first(fixture: &impl Fixture) {
    let store = fixture.store();
    let mut expected = Vec::new();
    for name in ["a", "b", "c"] {
        store.create_run(new_run(name)).await.unwrap();
        expected.insert(0, new_run(name).id);
        fixture.pass(2).await;
    }
    let page = store.runs(None, 2).await.unwrap();
    let last = page.last().map(|run| (run.created_at_ms, run.id.clone()));
    let rest = store.runs(last, 10).await.unwrap();
    let listed: Vec<_> = page.into_iter().chain(rest).map(|run| run.id).collect();
    assert_eq!(listed, expected);
}

pub async fn workers_are_listed_with_what_they_hold(fixture: &impl Fixture) {
    let store = fixture.store();
    let scene = Scene::of(fixture, &[3, 3]).await;
    let mut held = scene.claim_one(1).await;
    scene.claim(2, 0).await;
    scene.intend(&mut held, &[0, 2]).await;
    let workers = store.workers().await.unwrap();
    let shown: Vec<_> = workers.iter().map(|w| (w.id.clone(), w.slots, w.leases, w.in_intent, w.draining)).collect();
    assert_eq!(shown, [(worker(1), 64, 1, 2, false), (worker(2), 64, 0, 0, false)]);
    assert!(workers[0].seen_at_ms > 0);
    let delivery = scene.delivery(&held, 0).await;
    assert_eq!(delivery.state, RecipientState::Intent);
}

pub async fn drain_worker_marks_by_name(fixture: &impl Fixture) {
    let store = fixture.store();
    let scene = Scene::of(fixture, &[3]).await;
    scene.claim(1, 0).await;
    scene.claim(2, 0).await;
    assert_eq!(store.drain_worker("w2").await.unwrap(), 1);
    assert_eq!(store.drain_worker("nobody").await.unwrap(), 0);
    let draining: Vec<_> = store.workers().await.unwrap().into_iter().map(|worker| worker.draining).collect();
    assert_eq!(draining, [false, true]);
}
