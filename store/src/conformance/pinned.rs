//! An audience that was fetched takes the place of where it was fetched from.

use super::Fixture;
use super::random::{Driver, both, counts, model_counts};
use super::scene::{Scene, TTL_MS, new_run};
use crate::api::{EraseRun, ErasedRun, PinAudience, ReleaseSplit, SplitLease, SplitStatus, Steered};
use crate::embedded::model::Model;
use postrider_common::run::RunError;

fn pin(lease: &SplitLease, audience: &[u8]) -> PinAudience {
    PinAudience { run: lease.run.clone(), fence: lease.fence.clone(), audience: audience.to_vec(), ttl_ms: TTL_MS }
}

pub async fn pin_audience_is_what_the_next_one_splits(fixture: &impl Fixture) {
    let store = fixture.store();
    let new = new_run("one");
    let scene = Scene { fixture, run: new.id.clone() };
    store.create_run(new).await.unwrap();
    let lease = scene.claim_split().await.unwrap();
    for _ in 0..2 {
        assert_eq!(store.pin_audience(pin(&lease, b"\xfffetched")).await.unwrap(), SplitStatus::Done);
    }
    assert_eq!(scene.record().await.audience, b"\xfffetched");
    fixture.pass(TTL_MS + 1).await;
    let next = scene.claim_split().await.expect("the first one is gone");
    assert_eq!((next.cursor, scene.record().await.audience.as_slice()), (0, b"\xfffetched".as_slice()));
    assert_eq!(store.pin_audience(pin(&lease, b"late")).await.unwrap(), SplitStatus::Lost, "of a stale fence");
    assert_eq!(store.add_batches(scene.add(&next, &[2], 2, true)).await.unwrap(), SplitStatus::Done);
    assert_eq!(scene.record().await.audience, b"\xfffetched");
    let none = new_run("none");
    let nobody = PinAudience { run: none.id, ..pin(&next, b"none") };
    assert_eq!(store.pin_audience(nobody).await.unwrap(), SplitStatus::Lost);
    scene.check().await;
}

pub async fn pin_audience_keeps_the_lease(fixture: &impl Fixture) {
    let store = fixture.store();
    let new = new_run("one");
    let scene = Scene { fixture, run: new.id.clone() };
    store.create_run(new).await.unwrap();
    let lease = scene.claim_split().await.unwrap();
    let long = PinAudience { ttl_ms: 60_000, ..pin(&lease, b"fetched") };
    assert_eq!(store.pin_audience(long).await.unwrap(), SplitStatus::Done);
    fixture.pass(TTL_MS + 1).await;
    assert_eq!(scene.claim_split().await, None);
    assert_eq!(store.add_batches(scene.add(&lease, &[1], 1, true)).await.unwrap(), SplitStatus::Done);
    assert_eq!(store.pin_audience(pin(&lease, b"late")).await.unwrap(), SplitStatus::Lost, "it is complete");
}

pub async fn pin_audience_is_refused_once_rows_were_read(fixture: &impl Fixture) {
    let store = fixture.store();
    let new = new_run("one");
    let scene = Scene { fixture, run: new.id.clone() };
    store.create_run(new.clone()).await.unwrap();
    let lease = scene.claim_split().await.unwrap();
    assert_eq!(store.add_batches(scene.add(&lease, &[], 5, false)).await.unwrap(), SplitStatus::Done);
    assert_eq!(store.pin_audience(pin(&lease, b"other rows")).await.unwrap(), SplitStatus::Lost);
    assert_eq!(scene.record().await.audience, new.audience);
}

pub async fn pin_audience_of_a_split_that_was_taken_away_is_refused(fixture: &impl Fixture) {
    let store = fixture.store();
    let new = new_run("one");
    let scene = Scene { fixture, run: new.id.clone() };
    store.create_run(new.clone()).await.unwrap();
    let lease = scene.claim_split().await.unwrap();
    let erase = EraseRun { run: new.id.clone(), audience: None, open: None };
    assert!(matches!(store.erase_run(erase).await.unwrap(), ErasedRun::Done { .. }));
    assert_eq!(store.pin_audience(pin(&lease, b"erased")).await.unwrap(), SplitStatus::Lost);
    let lease = scene.claim_split().await.expect("due at once");
    let word = || "word".to_owned();
    let error = Some(RunError { code: word(), message: word(), mend: word() });
    let release = ReleaseSplit { run: new.id.clone(), fence: lease.fence.clone(), delay_ms: 0, error };
    assert_eq!(store.release_split(release).await.unwrap(), SplitStatus::Done);
    assert_eq!(store.pin_audience(pin(&lease, b"failed")).await.unwrap(), SplitStatus::Stopped);
    assert_eq!(store.resume_run(&new.id).await.unwrap(), Steered::Done);
    assert_eq!(store.pin_audience(pin(&lease, b"given back")).await.unwrap(), SplitStatus::Lost);
    let lease = scene.claim_split().await.expect("due again");
    assert_eq!(store.cancel_run(&new.id).await.unwrap(), Steered::Done);
    assert_eq!(store.pin_audience(pin(&lease, b"cancelled")).await.unwrap(), SplitStatus::Stopped);
    assert_eq!(scene.record().await.audience, new.audience);
}

pub async fn pin_audience_of_a_paused_run_waits_for_its_resume(fixture: &impl Fixture) {
    let store = fixture.store();
    let new = new_run("one");
    let scene = Scene { fixture, run: new.id.clone() };
    store.create_run(new.clone()).await.unwrap();
    let lease = scene.claim_split().await.unwrap();
    assert_eq!(store.pause_run(&new.id).await.unwrap(), Steered::Done);
    assert_eq!(store.pin_audience(pin(&lease, b"fetched")).await.unwrap(), SplitStatus::Done);
    fixture.pass(TTL_MS + 1).await;
    assert_eq!(scene.claim_split().await, None);
    assert_eq!(store.resume_run(&new.id).await.unwrap(), Steered::Done);
    assert!(scene.claim_split().await.is_some());
    assert_eq!(scene.record().await.audience, b"fetched");
}

/// By a random holder of a split, now or before.
pub(super) async fn random(fixture: &impl Fixture, model: &mut Model, driver: &mut Driver, salt: u64) {
    let mut random = fastrand::Rng::with_seed(salt);
    let store = fixture.store();
    let at = random.usize(0..driver.splits.len().max(1));
    let Some(lease) = driver.splits.get(at).cloned() else { return };
    let pin = pin(&lease, &[random.u8(..)]);
    let call = store.pin_audience(pin.clone());
    let apply = |m: &mut Model, now| m.pin_audience(now, pin.clone());
    let status = both!(fixture, *model, "pin_audience", call, apply, |a: &SplitStatus| *a);
    driver.pinned += u64::from(status == SplitStatus::Done);
}
