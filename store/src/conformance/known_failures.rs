//! What went wrong in other job systems and has no case under a transition: docs/known-failures.md.

use super::Fixture;
use super::scene::{Held, Scene, TTL_MS, new_run, outcomes, request, worker};
use crate::api::{AddBatches, BadRow, Checkpoint, Claim, SplitStatus};
use postrider_common::ids::WorkerId;
use postrider_common::lease::{LeaseStatus, OutcomeKind};

/// More batches than one claim promotes, delayed until one instant: none is left behind by a tie.
pub async fn delayed_batches_due_together_all_return(fixture: &impl Fixture) {
    const BATCHES: usize = 130;
    let scene = Scene::of(fixture, &[1; BATCHES]).await;
    let mut taken = 0;
    while let Some(mut held) = scene.claim(1, 1).await.pop() {
        taken += 1;
        let report = held.report(Vec::new(), vec![0]);
        let intents = scene.checkpoint_call(vec![report]);
        assert_eq!(fixture.store().checkpoint(intents).await.unwrap()[0].granted, [0]);
        let deferred = held.report(outcomes([0], OutcomeKind::Deferred), Vec::new());
        let finish = crate::Finish { worker: worker(1), reports: vec![deferred], retry_fraction: 1_000_000 };
        assert_eq!(fixture.store().finish(finish).await.unwrap()[0].status, LeaseStatus::Returned);
    }
    assert!(taken >= BATCHES, "each was leased once at least: {taken}");
    fixture.pass(2_000).await;
    let mut back = 0;
    loop {
        let held = scene.claim(1, 64).await;
        if held.is_empty() {
            break;
        }
        back += held.len();
    }
    assert_eq!(back, BATCHES);
    assert_eq!(scene.record().await.batches.delayed, 0);
    scene.check().await;
}

/// Two processes of one name: the living one does not keep the lease of the dead one alive.
pub async fn a_process_is_not_its_name(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2, 2]).await;
    let instance = |number: u8| {
        let instance = format!("00000000-0000-4000-8000-0000000000{number:02x}");
        WorkerId::try_new("mailer", &instance).expect("a worker id")
    };
    let claim = |by: u8| Claim { worker: instance(by), ..scene.claim_call(1, 1, &[("bulk", 10)]) };
    let store = fixture.store();
    let dead = store.claim(claim(1)).await.unwrap().leases.remove(0);
    let living = store.claim(claim(2)).await.unwrap().leases.remove(0);
    let mut held = Held { batch: living.batch, fence: living.fence, count: 2, sequence: 0, only: None };
    for _ in 0..4 {
        fixture.pass(TTL_MS / 3).await;
        let renewal =
            Checkpoint { worker: instance(2), ..scene.checkpoint_call(vec![held.report(Vec::new(), vec![])]) };
        store.checkpoint(renewal).await.unwrap();
        scene.reclaim().await;
    }
    let mut again = store.claim(claim(2)).await.unwrap().leases;
    // On a slow machine the living process may have lost its own lease as well.
    if again.first().is_some_and(|lease| lease.batch == held.batch) {
        again = store.claim(claim(2)).await.unwrap().leases;
    }
    assert_eq!(again[0].batch, dead.batch, "the batch of the dead process is leased again");
    assert_ne!(again[0].fence, dead.fence);
}

/// A lease that is lost answers so; the others of the same call are extended and keep their outcomes.
pub async fn one_lost_lease_does_not_stop_the_others_of_its_call(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2]).await;
    let mut lost = scene.claim_one(1).await;
    scene.expire().await;
    assert_eq!(scene.claim_one(2).await.batch, lost.batch);
    let other = Scene::with(fixture, new_run("two"), &[2]).await;
    let mut held = other.claim_one(1).await;
    let reports = vec![lost.report(Vec::new(), vec![0]), held.report(Vec::new(), vec![0, 1])];
    let answers = fixture.store().checkpoint(scene.checkpoint_call(reports)).await.unwrap();
    assert_eq!((answers[0].status, answers[1].status), (LeaseStatus::Lost, LeaseStatus::Held));
    assert_eq!(answers[1].granted, [0, 1]);
    let reports =
        vec![lost.report(Vec::new(), Vec::new()), held.report(outcomes([0, 1], OutcomeKind::Accepted), Vec::new())];
    let finish = crate::Finish { worker: worker(1), reports, retry_fraction: 0 };
    let answers = fixture.store().finish(finish).await.unwrap();
    assert_eq!((answers[0].status, answers[1].status), (LeaseStatus::Lost, LeaseStatus::Settled));
    assert_eq!(other.record().await.recipients.accepted, 2);
}

/// Sixteen digits, as many as a whole number has that a script can hold exactly.
pub async fn large_numbers_come_back_whole(fixture: &impl Fixture) {
    const LARGE: u64 = 9_007_199_254_740_991;
    let mut run = new_run("large");
    run.nominal_at_ms = Some(LARGE as i64);
    let scene = Scene { fixture, run: run.id.clone() };
    fixture.store().create_run(run).await.unwrap();
    let lease = scene.claim_split().await.expect("the split is due");
    let add = AddBatches {
        cursor_next: LARGE - 1,
        bad_rows: LARGE - 2,
        repeated_rows: LARGE - 3,
        bad_row_samples: vec![BadRow { row: LARGE, reason: "no address".to_owned() }],
        ..scene.add(&lease, &[], 0, false)
    };
    assert_eq!(fixture.store().add_batches(add).await.unwrap(), SplitStatus::Done);
    let record = scene.record().await;
    assert_eq!(record.nominal_at_ms, LARGE as i64);
    assert_eq!((record.bad_rows, record.repeated_rows), (LARGE - 2, LARGE - 3));
    assert_eq!(fixture.store().bad_rows(&scene.run).await.unwrap()[0].row, LARGE);
    fixture.pass(TTL_MS + 1).await;
    let (request, nonce) = request();
    let again = crate::ClaimSplit { request, nonce, ttl_ms: TTL_MS };
    assert_eq!(fixture.store().claim_split(again).await.unwrap().expect("due again").cursor, LARGE - 1);
}
