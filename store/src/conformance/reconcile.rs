//! The reconciler: a store that nobody harmed has nothing to repair, wherever its batches stand.

use super::Fixture;
use super::scene::{GRACE_MS, Scene, TTL_MS, new_run, outcomes, request};
use crate::Store;
use crate::api::{ClaimHistory, Reconcile, Repair, RetireBatches, RetryRun, Steered};
use postrider_common::OutcomeKind;

/// More steps than a round of any case has.
const STEPS_MAX: u32 = 5_000;

/// Goes round everything twice, as some go on with a round that another began. What had to be repaired.
pub async fn reconcile_all(store: &dyn Store) -> Vec<Repair> {
    let reconcile = Reconcile { interval_ms: 0, batches_max: 7, doubt_grace_ms: GRACE_MS };
    let mut repairs = Vec::new();
    let mut until = None;
    for _ in 0..STEPS_MAX {
        let step = store.reconcile(reconcile).await.unwrap();
        repairs.extend(step.repairs);
        if step.rounds >= *until.get_or_insert(step.rounds + 2) {
            return repairs;
        }
    }
    panic!("no two rounds in {STEPS_MAX} steps");
}

async fn nothing_is_wrong(fixture: &impl Fixture) {
    assert_eq!(reconcile_all(&*fixture.store()).await, [], "nobody did any harm");
}

/// Batches in every place, and recipients in every state.
pub async fn reconcile_repairs_nothing_wherever_batches_stand(fixture: &impl Fixture) {
    let store = fixture.store();
    let empty = Scene::of(fixture, &[]).await;
    nothing_is_wrong(fixture).await;
    let scene = Scene::with(fixture, new_run("all"), &[3, 60, 2, 4, 1, 2, 2, 2, 2]).await;
    nothing_is_wrong(fixture).await;
    let mut held = scene.claim(1, 5).await;
    nothing_is_wrong(fixture).await;
    scene.send_all(&mut held[0], OutcomeKind::Accepted).await;
    scene.send_all(&mut held[1], OutcomeKind::Deferred).await;
    scene.send_all(&mut held[2], OutcomeKind::Rejected).await;
    scene.intend(&mut held[3], &[0, 1]).await;
    nothing_is_wrong(fixture).await;
    scene.expire().await;
    nothing_is_wrong(fixture).await;
    // A late fact, about one that settled and one that is in doubt.
    scene.fact(&held[2], super::scene::outcome(0, OutcomeKind::Accepted)).await;
    scene.fact(&held[3], super::scene::outcome(0, OutcomeKind::NotWritten)).await;
    nothing_is_wrong(fixture).await;
    let (claimed, _) = request();
    let claim = ClaimHistory { request: claimed, ttl_ms: TTL_MS, limit: 100 };
    let settled = store.claim_history(claim.clone()).await.unwrap().batches;
    let batches = settled.into_iter().map(|batch| (batch.record.id, batch.stamp)).collect();
    let retire = RetireBatches { request: claim.request, segment: "segment".to_owned(), batches };
    assert!(store.retire_batches(retire).await.unwrap() > 0);
    nothing_is_wrong(fixture).await;
    scene.fact(&held[2], super::scene::outcome(1, OutcomeKind::Accepted)).await;
    nothing_is_wrong(fixture).await;
    for steered in [store.pause_run(&scene.run).await, store.resume_run(&scene.run).await] {
        assert_eq!(steered.unwrap(), Steered::Done);
        nothing_is_wrong(fixture).await;
    }
    let retry = RetryRun { run: scene.run.clone(), key: "again".parse().unwrap(), unknown: true, after: 0, limit: 100 };
    store.retry_run(retry).await.unwrap();
    nothing_is_wrong(fixture).await;
    let mut left = scene.claim(2, 2).await;
    store.cancel_run(&scene.run).await.unwrap();
    nothing_is_wrong(fixture).await;
    store.cancel_batches(&scene.run, 0, 100).await.unwrap();
    nothing_is_wrong(fixture).await;
    for held in &mut left {
        scene.finish(held, Vec::new()).await;
    }
    nothing_is_wrong(fixture).await;
    scene.check().await;
    empty.check().await;
}

/// Whoever asks: one step in each interval.
pub async fn reconcile_keeps_its_pace(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[1, 1, 1]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0]).await;
    scene.finish(&mut held, outcomes([0], OutcomeKind::Accepted)).await;
    let store = fixture.store();
    let reconcile = Reconcile { interval_ms: 3_600_000, batches_max: 1, doubt_grace_ms: GRACE_MS };
    store.reconcile(Reconcile { interval_ms: 0, ..reconcile }).await.unwrap();
    for _ in 0..3 {
        let step = store.reconcile(reconcile).await.unwrap();
        assert_eq!((step.batches, step.entries), (0, 0), "it is not time yet");
    }
    // A round is a bounded number of bounded steps.
    let (mut batches, mut rounds) = (0, 0);
    for _ in 0..STEPS_MAX {
        let step = store.reconcile(Reconcile { interval_ms: 0, ..reconcile }).await.unwrap();
        assert!(step.batches <= 1);
        batches += step.batches;
        rounds = step.rounds;
        if rounds >= 2 {
            break;
        }
    }
    assert!(rounds >= 2 && batches >= 5, "{batches} batches in {rounds} rounds");
}
