//! Who is not sent to: the set, and what it means for batches that are ready, leased or in flight.

use super::Fixture;
use super::scene::{Held, Scene, new_run, outcome, outcomes};
use crate::api::{
    BatchState, NewRun, RetriedRun, RetryRun, Suppress, SuppressRecipients, SuppressedRecipients, Suppressing,
    SuppressionChange,
};
use postrider_common::backoff::RetryPolicy;
use postrider_common::lease::{LeaseStatus, OutcomeKind, RefusalReason};
use postrider_common::run::RunState;
use postrider_common::state::RecipientState;
use postrider_common::suppression::{SuppressionHold, SuppressionKey, SuppressionReason};

use RecipientState::{Accepted, Suppressed, Unknown};
use SuppressionReason::{Complaint, HardBounce, Manual, Unsubscribe};

fn key(bucket: u8, number: u8) -> SuppressionKey {
    let mut key = [number; SuppressionKey::BYTES];
    (key[0], key[1]) = (0, bucket);
    SuppressionKey(key)
}

fn add(key: SuppressionKey, scope: &str, reason: SuppressionReason, subject: &str) -> SuppressionChange {
    let scope = scope.parse().unwrap();
    SuppressionChange::Add { key, scope, reason, at_ms: Some(7), subject: subject.as_bytes().to_vec() }
}

async fn change(fixture: &impl Fixture, changes: Vec<SuppressionChange>) -> u64 {
    let suppress = Suppress { check: "one".to_owned(), changes };
    let before = fixture.store().suppression_set().await.unwrap().number;
    let answer = fixture.store().suppress(suppress).await.unwrap();
    let Suppressing::Done { number, changed } = answer else { panic!("the set was not changed: {answer:?}") };
    assert!(number > before, "{number} after {before}");
    assert_eq!(fixture.store().suppression_set().await.unwrap().number, number);
    changed
}

/// Somebody is added; the number of the set after it.
async fn add_somebody(fixture: &impl Fixture) -> u64 {
    change(fixture, vec![add(key(0, 1), "all", Manual, "a")]).await;
    fixture.store().suppression_set().await.unwrap().number
}

async fn found(
    scene: &Scene<'_, impl Fixture>,
    held: &Held,
    checked: u64,
    recipients: &[(u32, SuppressionReason)],
) -> SuppressedRecipients {
    let (batch, fence) = (held.batch.clone(), Some(held.fence.clone()));
    let found = SuppressRecipients { batch, fence, checked, recipients: recipients.to_vec() };
    let answer = scene.fixture.store().suppress_recipients(found).await.unwrap();
    scene.check().await;
    answer
}

async fn states(scene: &Scene<'_, impl Fixture>, sequence: u64) -> Vec<RecipientState> {
    let batch = scene.batches().await.into_iter().find(|batch| batch.id.sequence == sequence).expect("the batch");
    batch.recipients.iter().map(|delivery| delivery.state).collect()
}

async fn is_unchecked(scene: &Scene<'_, impl Fixture>, by: u8) -> (Held, Option<u64>) {
    let claim = scene.claim_call(by, 1, &[("bulk", 10)]);
    let lease = scene.fixture.store().claim(claim).await.unwrap().leases.pop().expect("a batch is ready");
    (Held::of(&lease), lease.unchecked)
}

pub async fn suppress_keeps_the_gravest_of_each_scope(fixture: &impl Fixture) {
    Scene::of(fixture, &[1]).await;
    let (ada, bob) = (key(0, 1), key(0, 2));
    let changes = vec![
        add(ada, "lane:bulk", Unsubscribe, "ada"),
        add(ada, "all", HardBounce, "other"),
        add(ada, "lane:bulk", Complaint, "ada"),
        add(bob, "campaign:news", Manual, ""),
    ];
    assert_eq!(change(fixture, changes).await, 4);
    assert_eq!(change(fixture, vec![add(ada, "all", Manual, "")]).await, 0, "it is not graver");
    let store = fixture.store();
    assert_eq!(store.suppression_set().await.unwrap().count, 2);
    let records = store.suppressions_of(&[bob, key(1, 1), ada]).await.unwrap();
    let hold = |scope: &str, reason| SuppressionHold { scope: scope.parse().unwrap(), reason, at_ms: 7 };
    assert_eq!(records[0].as_ref().unwrap().holds, [hold("campaign:news", Manual)]);
    assert_eq!(records[1], None);
    let record = records[2].as_ref().unwrap();
    assert_eq!((record.key, record.subject.as_slice()), (ada, b"ada".as_slice()));
    assert_eq!(record.holds, [hold("all", HardBounce), hold("lane:bulk", Complaint)]);

    assert_eq!(change(fixture, vec![SuppressionChange::Unname { key: ada }]).await, 1);
    let record = store.suppressions_of(&[ada]).await.unwrap().remove(0).expect("it holds on");
    assert_eq!((record.subject.len(), record.holds.len()), (0, 2));
    let scope = Some("all".parse().unwrap());
    assert_eq!(change(fixture, vec![SuppressionChange::Remove { key: ada, scope }]).await, 1);
    assert_eq!(store.suppressions_of(&[ada]).await.unwrap()[0].as_ref().unwrap().holds.len(), 1);
    let all = vec![SuppressionChange::Remove { key: ada, scope: None }, SuppressionChange::Unname { key: ada }];
    assert_eq!(change(fixture, all).await, 1);
    assert_eq!(store.suppressions_of(&[ada]).await.unwrap(), [None]);
    assert_eq!(store.suppression_set().await.unwrap().count, 1);
}

pub async fn suppress_with_another_key_is_refused(fixture: &impl Fixture) {
    Scene::of(fixture, &[1]).await;
    add_somebody(fixture).await;
    let before = fixture.store().suppression_set().await.unwrap();
    let changes = vec![add(key(0, 2), "all", Manual, "b")];
    let other = Suppress { check: "two".to_owned(), changes };
    assert_eq!(fixture.store().suppress(other).await.unwrap(), Suppressing::OtherKey);
    assert_eq!(fixture.store().suppression_set().await.unwrap(), before);
    assert_eq!((before.count, before.check.as_str()), (1, "one"));
}

pub async fn suppress_lists_in_order_and_by_page(fixture: &impl Fixture) {
    Scene::of(fixture, &[1]).await;
    let keys: Vec<SuppressionKey> = [(0, 9), (0, 200), (1, 3), (255, 1)].map(|(b, n)| key(b, n)).to_vec();
    let changes = keys.iter().rev().map(|key| add(*key, "all", Manual, "x")).collect();
    assert_eq!(change(fixture, changes).await, 4);
    let mut listed = Vec::new();
    loop {
        let page = fixture.store().suppressions_after(listed.last().copied(), 3).await.unwrap();
        assert!(page.len() <= 3);
        if page.is_empty() {
            break;
        }
        listed.extend(page.into_iter().map(|record| record.key));
    }
    assert_eq!(listed, keys);
}

pub async fn suppress_makes_every_batch_unchecked(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[1, 1]).await;
    let (_, unchecked) = is_unchecked(&scene, 1).await;
    assert_eq!(unchecked, None, "there is nobody to look for");
    let number = add_somebody(fixture).await;
    let (held, unchecked) = is_unchecked(&scene, 2).await;
    assert_eq!(unchecked, Some(number));
    assert_eq!(found(&scene, &held, number, &[]).await, SuppressedRecipients::Done { ended: Vec::new() });
    scene.expire().await;
    assert_eq!(is_unchecked(&scene, 3).await.1, Some(number), "the first one");
    assert_eq!(is_unchecked(&scene, 3).await.1, None, "it was looked at, and nothing changed since");
}

pub async fn checkpoint_of_an_unchecked_batch_grants_nothing_until_it_is_looked_at(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[4]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0]).await;
    let number = add_somebody(fixture).await;
    let answer = scene.checkpoint(&mut held, vec![outcome(0, OutcomeKind::Accepted)], vec![1, 2]).await;
    let refused = vec![(1, RefusalReason::Unchecked), (2, RefusalReason::Unchecked)];
    assert_eq!((answer.status, answer.granted, answer.refused), (LeaseStatus::Held, Vec::new(), refused));
    assert_eq!(states(&scene, 1).await[..2], [Accepted, RecipientState::Pending], "what ended has ended");
    let ended = SuppressedRecipients::Done { ended: vec![(2, Suppressed)] };
    assert_eq!(found(&scene, &held, number, &[(2, Unsubscribe)]).await, ended);
    let answer = scene.checkpoint(&mut held, Vec::new(), vec![1, 2, 3]).await;
    assert_eq!((answer.granted, answer.refused), (vec![1, 3], vec![(2, RefusalReason::Settled)]));
    let answer = scene.finish(&mut held, outcomes([1, 3], OutcomeKind::Accepted)).await;
    assert_eq!(answer.status, LeaseStatus::Settled);
    let delivery = scene.delivery(&held, 2).await;
    assert_eq!((delivery.state, delivery.code.as_str(), delivery.attempts), (Suppressed, "unsubscribe", 0));
    let record = scene.record().await;
    assert_eq!((record.recipients.suppressed, record.recipients.accepted), (1, 3));
    assert_eq!(record.state(), RunState::Finished);
}

/// The master makes it again by itself, with the same sequence.
pub async fn checkpoint_repeated_after_the_look_grants(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[3]).await;
    let mut held = scene.claim_one(1).await;
    let number = add_somebody(fixture).await;
    let report = held.report(Vec::new(), vec![0, 1]);
    for _ in 0..2 {
        let answer = scene.checkpoint_report(report.clone()).await;
        assert_eq!(answer.refused, [(0, RefusalReason::Unchecked), (1, RefusalReason::Unchecked)]);
    }
    found(&scene, &held, number, &[]).await;
    for _ in 0..2 {
        let answer = scene.checkpoint_report(report.clone()).await;
        assert_eq!((answer.granted, answer.refused), (vec![0, 1], Vec::new()));
    }
    // What is in intent when the set changes ends by its outcome.
    add_somebody(fixture).await;
    let answer = scene.checkpoint_report(report).await;
    assert_eq!(answer.granted, [0, 1], "it was granted before");
}

pub async fn add_batches_looked_at_need_no_look(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[]).await;
    let number = add_somebody(fixture).await;
    fixture.store().create_run(new_run("two")).await.unwrap();
    let lease = scene.claim_split().await.expect("the split is due");
    let mut add = scene.add(&lease, &[1, 1], 10, true);
    add.batches[0].checked = number;
    fixture.store().add_batches(add).await.unwrap();
    assert_eq!(is_unchecked(&scene, 1).await.1, None);
    assert_eq!(is_unchecked(&scene, 1).await.1, Some(number));
}

pub async fn suppress_recipients_ends_who_is_pending(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[3]).await;
    let number = add_somebody(fixture).await;
    let mut held = scene.claim_one(1).await;
    let all = [(0, HardBounce), (1, Complaint), (2, Manual), (9, Manual)];
    let ended = vec![(0, Suppressed), (1, Suppressed), (2, Suppressed)];
    assert_eq!(found(&scene, &held, number, &all).await, SuppressedRecipients::Done { ended });
    assert_eq!(found(&scene, &held, number, &all).await, SuppressedRecipients::Done { ended: Vec::new() }, "a repeat");
    assert_eq!(scene.record().await.recipients.suppressed, 3);
    assert_eq!(scene.release(&mut held, Vec::new(), false).await.status, LeaseStatus::Settled);
    assert_eq!(scene.record().await.state(), RunState::Finished);
    let codes: Vec<String> = scene.batches().await.remove(0).recipients.into_iter().map(|one| one.code).collect();
    assert_eq!(codes, ["hard_bounce", "complaint", "manual"]);
    assert_eq!(super::reconcile::reconcile_all(&*fixture.store()).await, []);
}

pub async fn suppress_recipients_in_intent_end_by_their_outcome_and_are_looked_at_again(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[3]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0, 1]).await;
    let number = add_somebody(fixture).await;
    let both = [(0, Unsubscribe), (1, Unsubscribe)];
    let nobody = SuppressedRecipients::Done { ended: Vec::new() };
    assert_eq!(found(&scene, &held, number, &both).await, nobody);
    scene.intend(&mut held, &[2]).await;
    let told = vec![outcome(0, OutcomeKind::Accepted), outcome(1, OutcomeKind::NotWritten)];
    scene.checkpoint(&mut held, told, Vec::new()).await;
    let answer = scene.checkpoint(&mut held, Vec::new(), vec![1]).await;
    assert_eq!(answer.refused, [(1, RefusalReason::Unchecked)], "it was found, and is pending again");
    let ended = SuppressedRecipients::Done { ended: vec![(1, Suppressed)] };
    assert_eq!(found(&scene, &held, number, &both).await, ended);
    let answer = scene.finish(&mut held, outcomes([2], OutcomeKind::Accepted)).await;
    assert_eq!(answer.status, LeaseStatus::Settled);
    assert_eq!(states(&scene, 1).await, [Accepted, Suppressed, Accepted]);
}

pub async fn suppress_recipients_in_doubt_are_unknown(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0]).await;
    scene.expire().await;
    let number = add_somebody(fixture).await;
    let again = scene.claim_one(2).await;
    let ended = SuppressedRecipients::Done { ended: vec![(0, Unknown), (1, Suppressed)] };
    assert_eq!(found(&scene, &again, number, &[(0, Manual), (1, Manual)]).await, ended, "it may have been sent");
}

pub async fn suppress_recipients_of_a_waiting_batch_settle_it(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2, 2]).await;
    let number = add_somebody(fixture).await;
    let mut batches = scene.batches().await;
    let call = |at: usize, recipients: &[(u32, SuppressionReason)]| SuppressRecipients {
        batch: batches[at].id.clone(),
        fence: None,
        checked: number,
        recipients: recipients.to_vec(),
    };
    let calls = [call(0, &[(0, Manual), (1, Manual)]), call(1, &[(0, Unsubscribe)])];
    for (call, number) in calls.iter().zip([2, 1]) {
        let answer = fixture.store().suppress_recipients(call.clone()).await.unwrap();
        scene.check().await;
        assert!(matches!(answer, SuppressedRecipients::Done { ended } if ended.len() == number));
    }
    // Made again because its answer was lost.
    let again = fixture.store().suppress_recipients(calls[0].clone()).await.unwrap();
    assert_eq!(again, SuppressedRecipients::Lost, "it is settled");
    batches = scene.batches().await;
    assert_eq!((batches[0].state, batches[1].state), (BatchState::Settled, BatchState::Ready));
    let (mut held, unchecked) = is_unchecked(&scene, 1).await;
    assert_eq!((held.batch.sequence, unchecked), (2, None));
    scene.intend(&mut held, &[1]).await;
    let leased = fixture.store().suppress_recipients(calls[1].clone()).await.unwrap();
    assert_eq!(leased, SuppressedRecipients::Lost, "it is leased");
    assert_eq!(scene.finish(&mut held, outcomes([1], OutcomeKind::Accepted)).await.status, LeaseStatus::Settled);
    assert_eq!(super::reconcile::reconcile_all(&*fixture.store()).await, []);
}

pub async fn suppress_recipients_with_an_old_fence_changes_nothing(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2]).await;
    let number = add_somebody(fixture).await;
    let old = scene.claim_one(1).await;
    scene.expire().await;
    assert_eq!(found(&scene, &old, number, &[(0, Manual)]).await, SuppressedRecipients::Lost, "it is ready");
    let held = scene.claim_one(2).await;
    assert_eq!(found(&scene, &old, number, &[(0, Manual)]).await, SuppressedRecipients::Lost);
    assert_eq!(scene.record().await.recipients.suppressed, 0);
    let ended = SuppressedRecipients::Done { ended: vec![(0, Suppressed)] };
    assert_eq!(found(&scene, &held, number, &[(0, Manual)]).await, ended);
}

pub async fn retry_run_of_who_was_passed_over_is_looked_at_again(fixture: &impl Fixture) {
    let retry = RetryPolicy { base_ms: 100, cap_ms: 1000, ttl_ms: 1 };
    let scene = Scene::with(fixture, NewRun { retry, ..new_run("one") }, &[2]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0, 1]).await;
    scene.checkpoint(&mut held, outcomes([0], OutcomeKind::Deferred), Vec::new()).await;
    let number = add_somebody(fixture).await;
    let nobody = SuppressedRecipients::Done { ended: Vec::new() };
    assert_eq!(found(&scene, &held, number, &[(0, Unsubscribe)]).await, nobody, "it has given up");
    scene.finish(&mut held, outcomes([1], OutcomeKind::Accepted)).await;
    let key = "key".parse().unwrap();
    let retry = RetryRun { run: scene.run.clone(), key, unknown: false, after: 0, limit: 10 };
    let retried = fixture.store().retry_run(retry).await.unwrap();
    assert_eq!(retried, RetriedRun::Step { generation: 1, recipients: 1, next: None });
    let (held, unchecked) = is_unchecked(&scene, 2).await;
    assert_eq!(unchecked, Some(number), "it is pending again, and was found before");
    let ended = SuppressedRecipients::Done { ended: vec![(0, Suppressed)] };
    assert_eq!(found(&scene, &held, number, &[(0, Unsubscribe)]).await, ended);
}
