//! Spans of time in which intents are granted: what checkpoint does while a send window is closed.

use super::Fixture;
use super::scene::{Held, Scene, outcomes};
use crate::api::{Checkpoint, GrantSpan};
use postrider_common::OutcomeKind;
use postrider_common::lease::{LeaseAnswer, LeaseReport, LeaseStatus, RefusalReason};

const HOUR_MS: i64 = 3_600_000;

impl<F: Fixture> Scene<'_, F> {
    async fn ask_within(&self, report: LeaseReport, grants: GrantSpan) -> LeaseAnswer {
        let call = Checkpoint { grants: Some(grants), ..self.checkpoint_call(vec![report]) };
        let answer = self.fixture.store().checkpoint(call).await.unwrap().remove(0);
        self.check().await;
        answer
    }

    async fn intend_within(&self, held: &mut Held, intents: &[u32], grants: GrantSpan) -> LeaseAnswer {
        let report = held.report(Vec::new(), intents.to_vec());
        self.ask_within(report, grants).await
    }
}

fn paused(answer: &LeaseAnswer) -> Vec<u32> {
    let is = |(_, reason): &&(u32, RefusalReason)| *reason == RefusalReason::Paused;
    answer.refused.iter().filter(is).map(|(index, _)| *index).collect()
}

pub async fn checkpoint_grants_within_its_span_only(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[6]).await;
    let now = fixture.store().now_ms().await.unwrap();
    let mut held = scene.claim_one(1).await;
    let open = GrantSpan { from_ms: now - HOUR_MS, until_ms: now + HOUR_MS };
    let answer = scene.intend_within(&mut held, &[0, 1], open).await;
    assert_eq!((answer.status, answer.granted.as_slice()), (LeaseStatus::Held, [0, 1].as_slice()));
    for closed in [
        GrantSpan::NEVER,
        GrantSpan { from_ms: now - 2 * HOUR_MS, until_ms: now },
        GrantSpan { from_ms: now + HOUR_MS, until_ms: now + 2 * HOUR_MS },
    ] {
        let answer = scene.intend_within(&mut held, &[2, 3], closed).await;
        assert_eq!(
            (answer.status, answer.granted.as_slice(), paused(&answer)),
            (LeaseStatus::Held, [].as_slice(), vec![2, 3])
        );
    }
    // What was begun is reported and kept, and the lease lives on.
    let report = held.report(outcomes([0, 1], OutcomeKind::Accepted), vec![2]);
    let answer = scene.ask_within(report, GrantSpan::NEVER).await;
    assert!(answer.status == LeaseStatus::Held && answer.ttl_ms > 0 && paused(&answer) == [2], "{answer:?}");
    let record = scene.record().await;
    assert_eq!((record.recipients.accepted, record.recipients.pending), (2, 4));
    assert_eq!(scene.intend_within(&mut held, &[2], open).await.granted, [2], "it opened again");
}

pub async fn checkpoint_repeated_after_its_span_tells_what_it_granted(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[3]).await;
    let now = fixture.store().now_ms().await.unwrap();
    let mut held = scene.claim_one(1).await;
    let report = held.report(Vec::new(), vec![0, 1]);
    let open = GrantSpan { from_ms: 0, until_ms: now + HOUR_MS };
    assert_eq!(scene.ask_within(report.clone(), open).await.granted, [0, 1]);
    // The answer was lost, and the window closed: whoever is in intent must be known to be.
    assert_eq!(scene.ask_within(report, GrantSpan::NEVER).await.granted, [0, 1]);
}

pub async fn checkpoint_closes_by_the_clock_of_the_store(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[4]).await;
    let now = fixture.store().now_ms().await.unwrap();
    let mut held = scene.claim_one(1).await;
    let until_ms = now + 40;
    fixture.pass(40).await;
    let answer = scene.intend_within(&mut held, &[0], GrantSpan { from_ms: 0, until_ms }).await;
    assert_eq!((answer.granted.len(), paused(&answer)), (0, vec![0]));
    let from_ms = fixture.store().now_ms().await.unwrap();
    let answer = scene.intend_within(&mut held, &[0], GrantSpan { from_ms, until_ms: from_ms + HOUR_MS }).await;
    assert_eq!(answer.granted, [0]);
}

pub async fn release_until_its_window_opens_costs_no_attempt(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2, 1]).await;
    let mut held = scene.claim_one(1).await;
    let answer = scene.release_for(&mut held, HOUR_MS.unsigned_abs()).await;
    assert_eq!(answer.status, LeaseStatus::Returned);
    assert!(answer.due_in_ms > 0 && answer.due_in_ms <= HOUR_MS.unsigned_abs(), "{answer:?}");
    let claimed = scene.claim(1, 10).await;
    assert_eq!(claimed.len(), 1, "the other one");
    let batch = scene.batches().await.remove(0);
    assert!(batch.recipients.iter().all(|recipient| recipient.attempts == 0));
    assert_eq!(scene.record().await.leases_expired, 0);
}
