//! What ends by age: runs, the segments they leave, and what runs and campaigns share.

use super::Fixture;
use super::history::{drain, sent};
use super::poison::dead_letter;
use super::scene::{Held, Scene, new_run, outcome, outcomes, request};
use crate::api::{
    ApplyCampaign, ClaimHistory, CreatedRun, DeadAnswer, ForgetRun, ForgottenRun, Kept, LeftSegment, ReplayDead,
    RetriedRun, RetryRun, Shared, Steered,
};
use postrider_common::backoff::RetryPolicy;
use postrider_common::campaign::OnUnknown;
use postrider_common::ids::{DefinitionHash, RunId};
use postrider_common::lease::{FactStatus, LeaseStatus, OutcomeKind};
use postrider_common::run::{RunError, RunState};

const FOR_EVER_MS: u64 = 86_400_000;

fn forget_call(run: &RunId, keep_ms: u64, limit: usize) -> ForgetRun {
    ForgetRun { run: run.clone(), keep_ms, keep_dead_ms: None, limit }
}

async fn forget(fixture: &impl Fixture, run: &RunId, keep_ms: u64, limit: usize) -> ForgottenRun {
    fixture.store().forget_run(forget_call(run, keep_ms, limit)).await.unwrap()
}

fn step(batches: u64, left: u64) -> ForgottenRun {
    ForgottenRun::Step { batches, left }
}

/// A finished run and the leases it had.
async fn finished<'a, F: Fixture>(fixture: &'a F, name: &str, counts: &[u32]) -> (Scene<'a, F>, Vec<Held>) {
    let scene = Scene::with(fixture, new_run(name), counts).await;
    let mut held = Vec::new();
    for _ in counts {
        held.push(sent(&scene, OutcomeKind::Accepted).await);
    }
    assert_eq!(scene.record().await.state(), RunState::Finished);
    (scene, held)
}

async fn is_gone(scene: &Scene<'_, impl Fixture>) {
    let store = scene.fixture.store();
    assert_eq!(store.run(&scene.run).await.unwrap(), None);
    assert!(store.runs(None, 100).await.unwrap().iter().all(|run| run.id != scene.run));
    assert_eq!(store.batches(&scene.run, 0, 100).await.unwrap(), []);
    assert_eq!(store.bad_rows(&scene.run).await.unwrap(), []);
    for steered in [store.pause_run(&scene.run).await, store.resume_run(&scene.run).await] {
        assert_eq!(steered.unwrap(), Steered::NoRun);
    }
    assert_eq!(store.cancel_run(&scene.run).await.unwrap(), Steered::NoRun);
    let key = "key".parse().unwrap();
    let retry = RetryRun { run: scene.run.clone(), key, unknown: true, after: 0, limit: 10 };
    assert_eq!(store.retry_run(retry).await.unwrap(), RetriedRun::NoRun);
}

pub async fn forget_run_is_gone_at_once_and_its_batches_step_by_step(fixture: &impl Fixture) {
    let (other, _) = finished(fixture, "other", &[2, 2]).await;
    let (scene, mut held) = finished(fixture, "one", &[2, 1, 3, 2, 2]).await;
    let before = other.record().await;
    assert_eq!(forget(fixture, &scene.run, FOR_EVER_MS, 10).await, ForgottenRun::NotYet);
    scene.check().await;
    assert_eq!(forget(fixture, &scene.run, 0, 2).await, step(2, 3));
    is_gone(&scene).await;
    let store = fixture.store();
    assert_eq!(store.runs_to_forget(10).await.unwrap(), std::slice::from_ref(&scene.run));
    assert_eq!(store.runs_to_forget(0).await.unwrap(), []);
    // A new one would meet the batches of the old one.
    assert_eq!(store.create_run(new_run("one")).await.unwrap(), CreatedRun::BeingForgotten);
    for held in &mut held {
        let fact = postrider_common::lease::Fact {
            batch: held.batch.clone(),
            fence: held.fence.clone(),
            outcome: outcome(0, OutcomeKind::Accepted),
        };
        assert_eq!(store.facts(vec![fact], 0).await.unwrap(), [FactStatus::Refused]);
        let report = held.report(outcomes([0], OutcomeKind::Rejected), vec![0]);
        assert_eq!(store.checkpoint(scene.checkpoint_call(vec![report])).await.unwrap()[0].status, LeaseStatus::Gone);
    }
    // With any age: what is begun goes on.
    assert_eq!(forget(fixture, &scene.run, FOR_EVER_MS, 2).await, step(2, 1));
    assert_eq!(forget(fixture, &scene.run, FOR_EVER_MS, 0).await, step(0, 1));
    assert_eq!(forget(fixture, &scene.run, FOR_EVER_MS, 2).await, step(1, 0));
    assert_eq!(forget(fixture, &scene.run, 0, 2).await, ForgottenRun::NoRun);
    assert_eq!(store.runs_to_forget(10).await.unwrap(), []);
    assert_eq!(other.record().await, before);
    other.check().await;

    // The idempotency key is free again, and nothing of the old run is left in the new one.
    let again = Scene::with(fixture, new_run("one"), &[2, 2]).await;
    assert_eq!(again.record().await.sequence_max, 2);
    sent(&again, OutcomeKind::Rejected).await;
    sent(&again, OutcomeKind::Rejected).await;
    let record = again.record().await;
    assert_eq!((record.recipients.total, record.recipients.rejected), (4, 4));
    let fact = again.fact(&held[0], outcome(0, OutcomeKind::Accepted)).await;
    assert_eq!(fact, FactStatus::Refused, "of the run before");
}

pub async fn forget_run_without_batches_is_one_step(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[]).await;
    assert_eq!(scene.record().await.state(), RunState::Finished);
    assert_eq!(forget(fixture, &scene.run, 0, 10).await, step(0, 0));
    is_gone(&scene).await;
    assert_eq!(forget(fixture, &scene.run, 0, 10).await, ForgottenRun::NoRun);
}

pub async fn forget_run_leaves_what_has_not_ended(fixture: &impl Fixture) {
    let store = fixture.store();
    let scene = Scene::of(fixture, &[2, 2]).await;
    let not_yet = async |what: &str| {
        assert_eq!(forget(fixture, &scene.run, 0, 10).await, ForgottenRun::NotYet, "{what}");
        scene.check().await;
    };
    not_yet("ready").await;
    sent(&scene, OutcomeKind::Accepted).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0, 1]).await;
    not_yet("leased").await;
    scene.checkpoint(&mut held, outcomes([0, 1], OutcomeKind::Accepted), Vec::new()).await;
    assert_eq!(scene.record().await.state(), RunState::Finished);
    not_yet("its last lease has not ended").await;
    scene.finish(&mut held, Vec::new()).await;
    assert_eq!(forget(fixture, &scene.run, 0, 10).await, step(2, 0));

    let deferred = Scene::with(fixture, new_run("deferred"), &[1]).await;
    assert_eq!(sent(&deferred, OutcomeKind::Rejected).await.count, 1);
    let splitting = new_run("splitting");
    store.create_run(splitting.clone()).await.unwrap();
    assert_eq!(forget(fixture, &splitting.id, 0, 10).await, ForgottenRun::NotYet, "its split waits");
    let lease = deferred.claim_split().await.unwrap();
    let error = RunError { code: "source".into(), message: "gone".into(), mend: "bring it back".into() };
    let release =
        crate::ReleaseSplit { run: splitting.id.clone(), fence: lease.fence, delay_ms: 0, error: Some(error) };
    store.release_split(release).await.unwrap();
    assert_eq!(forget(fixture, &splitting.id, 0, 10).await, ForgottenRun::NotYet, "a person may resume it");
    store.cancel_run(&splitting.id).await.unwrap();
    assert_eq!(forget(fixture, &splitting.id, 0, 10).await, ForgottenRun::NotYet, "its batches are not looked at");
    store.cancel_batches(&splitting.id, 0, 10).await.unwrap();
    assert_eq!(forget(fixture, &splitting.id, 0, 10).await, step(0, 0));
    assert_eq!(forget(fixture, &RunId::derive("no", "run"), 0, 10).await, ForgottenRun::NoRun);
}

pub async fn forget_run_counts_from_its_end(fixture: &impl Fixture) {
    let (scene, held) = finished(fixture, "one", &[2]).await;
    let scene_of_rejected = Scene::with(fixture, new_run("rejected"), &[1]).await;
    let rejected = sent(&scene_of_rejected, OutcomeKind::Rejected).await;
    fixture.pass(3_000).await;
    // A late fact is something that happened to it.
    assert_eq!(scene_of_rejected.fact(&rejected, outcome(0, OutcomeKind::Accepted)).await, FactStatus::Applied);
    assert_eq!(scene.fact(&held[0], outcome(0, OutcomeKind::Accepted)).await, FactStatus::Already);
    assert_eq!(forget(fixture, &scene_of_rejected.run, 2_900, 10).await, ForgottenRun::NotYet);
    assert_eq!(forget(fixture, &scene.run, 2_900, 10).await, step(1, 0));
}

pub async fn forget_run_waits_for_dead_letters(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2]).await;
    let (_, id) = dead_letter(&scene, false).await;
    let mut rest = scene.claim_one(1).await;
    scene.intend(&mut rest, &[1]).await;
    scene.finish(&mut rest, outcomes([1], OutcomeKind::Accepted)).await;
    assert_eq!(scene.record().await.state(), RunState::Finished);
    let call = |keep_dead_ms| ForgetRun { keep_dead_ms, ..forget_call(&scene.run, 0, 0) };
    let store = fixture.store();
    for keep_dead_ms in [None, Some(FOR_EVER_MS)] {
        assert_eq!(store.forget_run(call(keep_dead_ms)).await.unwrap(), ForgottenRun::NotYet);
    }
    scene.check().await;
    assert_eq!(store.forget_run(call(Some(0))).await.unwrap(), step(0, 1));
    let replay = ReplayDead { id: id.clone(), unknown: true };
    assert_eq!(store.replay_dead(replay).await.unwrap(), DeadAnswer::NoSuch);
    assert_eq!(forget(fixture, &scene.run, 0, 10).await, step(1, 0));
    assert_eq!(store.dead_letters(None, None, 10).await.unwrap(), []);
    assert_eq!(store.purge_dead(&id).await.unwrap(), DeadAnswer::NoSuch);
}

/// Nobody came to retry them in all that time.
pub async fn forget_run_takes_the_unknown_and_exhausted_with_it(fixture: &impl Fixture) {
    let retry = RetryPolicy { base_ms: 100, cap_ms: 1000, ttl_ms: 1 };
    let new = crate::NewRun { on_unknown: OnUnknown::Hold, retry, ..new_run("one") };
    let scene = Scene::with(fixture, new, &[2, 1]).await;
    let mut doubtful = scene.claim_one(1).await;
    scene.intend(&mut doubtful, &[0, 1]).await;
    sent(&scene, OutcomeKind::Deferred).await;
    scene.expire().await;
    let counts = scene.record().await.recipients;
    assert_eq!((counts.unknown, counts.exhausted, counts.pending), (2, 1, 0));
    assert_eq!(forget(fixture, &scene.run, FOR_EVER_MS, 10).await, ForgottenRun::NotYet);
    assert_eq!(forget(fixture, &scene.run, 0, 10).await, step(2, 0));
    is_gone(&scene).await;
}

/// A storage that is away keeps nothing longer than it is to be kept.
pub async fn forget_run_does_not_wait_for_its_history(fixture: &impl Fixture) {
    let (scene, _) = finished(fixture, "one", &[2, 2]).await;
    assert_eq!(forget(fixture, &scene.run, 0, 1).await, step(1, 1));
    assert_eq!(forget(fixture, &scene.run, 0, 1).await, step(1, 0));
    let claim = ClaimHistory { request: request().0, ttl_ms: 1000, limit: 10 };
    let claimed = fixture.store().claim_history(claim).await.unwrap();
    assert_eq!((claimed.backlog, claimed.batches.len()), (0, 0));
    assert_eq!(fixture.store().left_segments(10).await.unwrap(), []);
}

pub async fn forget_segments_keeps_what_is_left_again(fixture: &impl Fixture) {
    let (one, _) = finished(fixture, "one", &[2, 2]).await;
    let (two, _) = finished(fixture, "two", &[2]).await;
    // One segment has batches of both.
    assert_eq!(drain(&one, "shared").await.len(), 3);
    let store = fixture.store();
    let left = async || store.left_segments(10).await.unwrap();
    assert_eq!(left().await, []);
    assert_eq!(forget(fixture, &one.run, 0, 10).await, step(2, 0));
    let first = left().await;
    assert_eq!(first.iter().map(|left| left.name.as_str()).collect::<Vec<_>>(), ["shared"]);
    assert_eq!(store.batches(&two.run, 0, 10).await.unwrap()[0].segments, ["shared"], "which is still named");
    fixture.pass(2).await;
    assert_eq!(forget(fixture, &two.run, 0, 10).await, step(1, 0));
    let again: Vec<LeftSegment> = left().await;
    assert!(again.iter().any(|left| left.at_ms > first[0].at_ms), "{again:?}");
    store.forget_segments(first.clone()).await.unwrap();
    assert!(!left().await.is_empty(), "left again");
    for _ in 0..2 {
        store.forget_segments(again.clone()).await.unwrap();
        assert_eq!(left().await, []);
    }
}

async fn kept(fixture: &impl Fixture) -> Vec<Kept> {
    fixture.store().kept(i64::from(u32::MAX) * 1000, 0, 100).await.unwrap()
}

pub async fn forget_kept_leaves_what_is_about_to_be_named(fixture: &impl Fixture) {
    let store = fixture.store();
    let definition_bytes = b"of a campaign".to_vec();
    let hash = DefinitionHash::of(&definition_bytes);
    let apply = ApplyCampaign {
        name: "news".parse().unwrap(),
        key: None,
        fingerprint: "f".into(),
        spec: b"spec".to_vec(),
        schedule: Vec::new(),
        definition: hash.clone(),
        definition_bytes,
    };
    store.apply_campaign(apply.clone()).await.unwrap();
    fixture.pass(2).await;
    let run = new_run("one");
    store.create_run(run.clone()).await.unwrap();
    fixture.pass(2).await;
    let audience = Shared::Audience("0123".into());
    store.keep(vec![audience.clone()]).await.unwrap();
    let all = kept(fixture).await;
    let names: Vec<&Shared> = all.iter().map(|kept| &kept.shared).collect();
    let (of_campaign, of_run) = (Shared::Definition(hash.clone()), Shared::Definition(run.definition.clone()));
    assert_eq!(names, [&of_campaign, &of_run, &audience], "the oldest first");
    assert_eq!(store.kept(all[1].at_ms, 0, 10).await.unwrap(), all[..1]);
    assert_eq!(store.kept(all[2].at_ms + 1, 1, 1).await.unwrap(), all[1..2]);

    fixture.pass(2).await;
    store.apply_campaign(apply).await.unwrap();
    store.keep(vec![audience.clone()]).await.unwrap();
    assert_eq!(
        store.forget_kept(all.clone()).await.unwrap(),
        std::slice::from_ref(&of_run),
        "the others were named since"
    );
    assert_eq!(store.definition(&run.definition).await.unwrap(), None);
    assert!(store.definition(&hash).await.unwrap().is_some());
    assert_eq!(store.forget_kept(all).await.unwrap(), []);
    let rest = kept(fixture).await;
    let gone = store.forget_kept(rest).await.unwrap();
    assert_eq!(gone.len(), 2);
    assert!(gone.contains(&of_campaign) && gone.contains(&audience));
    assert_eq!(store.definition(&hash).await.unwrap(), None);
    assert_eq!(kept(fixture).await, []);
    store.create_run(new_run("another")).await.unwrap();
    assert_eq!(kept(fixture).await.len(), 1);
}
