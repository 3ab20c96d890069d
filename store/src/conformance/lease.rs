//! Claim, checkpoint, finish and release.

use super::Fixture;
use super::scene::{HARD_CAP_MS, Scene, TTL_MS, WINDOW, new_run, outcome, outcomes, worker};
use crate::api::{BatchState, Checkpoint, Claim};
use postrider_common::backoff::RetryPolicy;
use postrider_common::ids::{BatchId, RunId};
use postrider_common::lease::{LeaseStatus, Outcome, OutcomeKind, RefusalReason};
use postrider_common::limits::TRANSACTION_MS_MAX;
use postrider_common::run::RunState;
use postrider_common::state::RecipientState;
use std::collections::BTreeSet;

pub async fn claim_gives_each_batch_to_one_worker(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2, 2, 2]).await;
    let first = scene.claim(1, 2).await;
    let second = scene.claim(2, 5).await;
    let sequences = |held: &[super::scene::Held]| held.iter().map(|h| h.batch.sequence).collect::<Vec<_>>();
    assert_eq!((sequences(&first), sequences(&second)), (vec![1, 2], vec![3]));
    let fences: BTreeSet<_> = first.iter().chain(&second).map(|held| held.fence.clone()).collect();
    assert_eq!(fences.len(), 3, "each lease has a fence of its own");
    assert!(scene.claim(3, 5).await.is_empty());
    let record = scene.record().await;
    assert_eq!((record.batches.ready, record.batches.leased), (0, 3));
    scene.check().await;
}

pub async fn claim_repeated_returns_the_same_leases(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2, 2, 2]).await;
    let call = scene.claim_call(1, 2, &[("bulk", 10)]);
    let first = fixture.store().claim(call.clone()).await.unwrap();
    let again = fixture.store().claim(call.clone()).await.unwrap();
    let identity = |claimed: &crate::Claimed| {
        claimed.leases.iter().map(|lease| (lease.batch.clone(), lease.fence.clone())).collect::<Vec<_>>()
    };
    assert_eq!(identity(&first), identity(&again));
    assert_eq!(first.leases[0].payload, b"payload 0");
    assert_eq!(first.leases[0].recipients.len(), 2);
    assert!(again.leases[0].ttl_ms <= first.leases[0].ttl_ms && first.leases[0].ttl_ms <= TTL_MS);
    let new = Claim { request: "another".parse().unwrap(), ..call.clone() };
    assert_eq!(fixture.store().claim(new).await.unwrap().leases.len(), 1);
    scene.expire().await;
    let late = fixture.store().claim(call).await.unwrap();
    assert!(identity(&late).iter().all(|lease| !identity(&first).contains(lease)), "a lost lease is not given again");
}

/// Adds another complete run to a scene.
async fn another_run(fixture: &impl Fixture, name: &str, lane: &str, counts: &[u32]) -> RunId {
    let new = crate::NewRun { lane: lane.parse().unwrap(), ..new_run(name) };
    Scene::with(fixture, new, counts).await.run
}

pub async fn claim_takes_turns_by_weight_and_run(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[10; 40]).await;
    another_run(fixture, "fast", "transactional", &[10; 40]).await;
    let second = another_run(fixture, "two", "bulk", &[10; 40]).await;
    let mut taken = Vec::new();
    for _ in 0..44 {
        let held = scene.claim_lanes(1, 1, &[("bulk", 10), ("transactional", 100)]).await;
        taken.extend(held.into_iter().map(|held| held.batch.run));
    }
    let of = |run: &RunId| taken.iter().filter(|other| *other == run).count();
    assert_eq!((of(&scene.run), of(&second)), (2, 2), "a tenth of the turns, shared by the two runs");
}

pub async fn claim_keeps_a_small_run_from_waiting(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[100; 30]).await;
    scene.claim(1, 10).await;
    let small = another_run(fixture, "small", "bulk", &[5]).await;
    let next = scene.claim(1, 2).await;
    assert!(next.iter().any(|held| held.batch.run == small), "it is among the next two");
}

pub async fn claim_skips_what_is_paused(fixture: &impl Fixture) {
    let store = fixture.store();
    let scene = Scene::of(fixture, &[2]).await;
    let other = another_run(fixture, "other", "transactional", &[2]).await;
    store.set_lane_paused(&"transactional".parse().unwrap(), true).await.unwrap();
    store.pause_run(&scene.run).await.unwrap();
    assert!(scene.claim(1, 5).await.is_empty());
    let lanes = store.lanes(&["bulk".parse().unwrap(), "transactional".parse().unwrap()]).await.unwrap();
    let shown: Vec<_> = lanes.iter().map(|lane| (lane.paused, lane.batches_ready)).collect();
    assert_eq!(shown, [(false, 1), (true, 1)]);
    store.set_lane_paused(&"transactional".parse().unwrap(), false).await.unwrap();
    assert_eq!(scene.claim(1, 5).await[0].batch.run, other);
    store.resume_run(&scene.run).await.unwrap();
    assert_eq!(scene.claim(1, 5).await[0].batch.run, scene.run);
    assert!(scene.claim_lanes(1, 5, &[("transactional", 100)]).await.is_empty());
}

pub async fn claim_of_a_draining_worker_is_empty(fixture: &impl Fixture) {
    let store = fixture.store();
    let scene = Scene::of(fixture, &[2, 2]).await;
    scene.claim_one(1).await;
    assert_eq!(store.drain_worker(&worker(1).instance.to_string()).await.unwrap(), 1);
    let claimed = store.claim(scene.claim_call(1, 5, &[("bulk", 10)])).await.unwrap();
    assert!(claimed.drain && claimed.leases.is_empty());
    let other = store.claim(scene.claim_call(2, 5, &[("bulk", 10)])).await.unwrap();
    assert!(!other.drain && other.leases.len() == 1);
}

pub async fn checkpoint_grants_a_window_and_no_more(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[30]).await;
    let mut held = scene.claim_one(1).await;
    let answer = scene.checkpoint(&mut held, Vec::new(), (0..15).collect()).await;
    assert_eq!(answer.status, LeaseStatus::Held);
    assert_eq!(answer.granted, (0..WINDOW).collect::<Vec<_>>());
    let refused: Vec<_> = (WINDOW..15).map(|index| (index, RefusalReason::Window)).collect();
    assert_eq!(answer.refused, refused);
    let answer = scene.checkpoint(&mut held, outcomes(0..3, OutcomeKind::Accepted), vec![10, 11, 12, 13]).await;
    assert_eq!(answer.granted, [10, 11, 12]);
    let answer = scene.checkpoint(&mut held, Vec::new(), vec![0, 77]).await;
    assert_eq!(answer.refused, [(0, RefusalReason::Settled), (77, RefusalReason::Repeated)]);
    assert_eq!(scene.record().await.recipients.accepted, 3);
}

pub async fn checkpoint_repeated_answers_the_same(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[30]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0, 1]).await;
    let report = held.same_report(Vec::new(), vec![0, 1, 2]);
    let answer = scene.checkpoint_report(report).await;
    assert_eq!(answer.granted, [0, 1], "what was granted is granted again");
    assert_eq!(answer.refused, [(2, RefusalReason::Repeated)], "nothing new under an old sequence");
    let mut older = held.same_report(outcomes([0], OutcomeKind::NotWritten), vec![3]);
    older.sequence = 0;
    let answer = scene.checkpoint_report(older).await;
    assert_eq!(answer.refused, [(3, RefusalReason::Repeated)]);
    assert_eq!(scene.delivery(&held, 0).await.state, RecipientState::Intent, "a report overtaken by a newer one");
}

pub async fn checkpoint_late_copy_takes_no_intent_back(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[4]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0]).await;
    let answer = scene.checkpoint(&mut held, outcomes([0], OutcomeKind::NotWritten), vec![0, 1]).await;
    assert_eq!((answer.granted, answer.refused), (vec![1], vec![(0, RefusalReason::Repeated)]));
    let late_copy = held.same_report(outcomes([0], OutcomeKind::NotWritten), vec![0, 1]);
    scene.intend(&mut held, &[0]).await;
    scene.checkpoint_report(late_copy).await;
    assert_eq!(scene.delivery(&held, 0).await.state, RecipientState::Intent);
}

pub async fn claim_of_a_resumed_lane_does_not_catch_up(fixture: &impl Fixture) {
    let store = fixture.store();
    let scene = Scene::of(fixture, &[10; 30]).await;
    another_run(fixture, "fast", "transactional", &[10; 30]).await;
    let lanes = [("bulk", 10), ("transactional", 10)];
    store.set_lane_paused(&"bulk".parse().unwrap(), true).await.unwrap();
    scene.claim_lanes(1, 10, &lanes).await;
    store.set_lane_paused(&"bulk".parse().unwrap(), false).await.unwrap();
    let next = scene.claim_lanes(1, 10, &lanes).await;
    let bulk = next.iter().filter(|held| held.batch.run == scene.run).count();
    assert!((5..=6).contains(&bulk), "{bulk} of 10");
}

pub async fn checkpoint_takes_each_outcome_once(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[4]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0, 1, 2]).await;
    let mut said = outcomes([0], OutcomeKind::Accepted);
    said.extend(outcomes([1], OutcomeKind::Rejected));
    said.extend(outcomes([3], OutcomeKind::Accepted));
    for _ in 0..3 {
        let answer = scene.checkpoint(&mut held, said.clone(), Vec::new()).await;
        assert_eq!(answer.status, LeaseStatus::Held);
    }
    let changed_mind = outcomes([0], OutcomeKind::Rejected);
    scene.checkpoint(&mut held, changed_mind, Vec::new()).await;
    let counts = scene.record().await.recipients;
    assert_eq!((counts.accepted, counts.rejected, counts.pending), (1, 1, 2));
    assert_eq!(scene.delivery(&held, 3).await.state, RecipientState::Pending, "no outcome without an intent");
    let accepted = scene.delivery(&held, 0).await;
    assert_eq!((accepted.attempts, accepted.code.as_str(), accepted.detail.as_str()), (1, "250 2.0.0", "detail 0"));
}

pub async fn checkpoint_with_an_old_fence_is_lost(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[4]).await;
    let mut stale = scene.claim_one(1).await;
    scene.intend(&mut stale, &[0]).await;
    scene.expire().await;
    let mut current = scene.claim_one(2).await;
    assert_eq!(stale.batch, current.batch);
    let answer = scene.checkpoint(&mut stale, Vec::new(), vec![1]).await;
    assert_eq!((answer.status, answer.granted.len(), answer.ttl_ms), (LeaseStatus::Lost, 0, 0));
    scene.intend(&mut current, &[1]).await;
    let answer = scene.checkpoint(&mut stale, outcomes([1], OutcomeKind::NotWritten), Vec::new()).await;
    assert_eq!(answer.status, LeaseStatus::Lost);
    assert_eq!(scene.delivery(&current, 1).await.state, RecipientState::Intent, "the other's intent stands");
    let answer = scene.release(&mut stale, outcomes([1], OutcomeKind::NotWritten), true).await;
    assert_eq!(answer.status, LeaseStatus::Lost);
    assert_eq!(scene.batches().await[0].state, BatchState::Leased);
}

pub async fn checkpoint_of_no_batch_is_gone(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[4]).await;
    let mut held = scene.claim_one(1).await;
    held.batch = BatchId { run: held.batch.run, sequence: 99 };
    assert_eq!(scene.checkpoint(&mut held, Vec::new(), vec![0]).await.status, LeaseStatus::Gone);
    assert_eq!(scene.finish(&mut held, Vec::new()).await.status, LeaseStatus::Gone);
    assert_eq!(scene.release(&mut held, Vec::new(), false).await.status, LeaseStatus::Gone);
}

pub async fn checkpoint_refuses_what_is_not_due(fixture: &impl Fixture) {
    let retry = RetryPolicy { base_ms: 100_000, cap_ms: 100_000, ttl_ms: 3_600_000 };
    let scene = Scene::with(fixture, crate::NewRun { retry, ..new_run("one") }, &[3]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0]).await;
    scene.checkpoint(&mut held, outcomes([0], OutcomeKind::Deferred), Vec::new()).await;
    let answer = scene.checkpoint(&mut held, Vec::new(), vec![0]).await;
    assert_eq!(answer.refused, [(0, RefusalReason::NotDue)]);
    let delivery = scene.delivery(&held, 0).await;
    assert_eq!((delivery.state, delivery.attempts), (RecipientState::Deferred, 1));
    assert_eq!(scene.release(&mut held, Vec::new(), false).await.status, LeaseStatus::Returned);
    let claim = scene.claim_call(2, 1, &[("bulk", 10)]);
    let claimed = fixture.store().claim(claim).await.unwrap();
    let progress = &claimed.leases[0].recipients;
    assert!((40_000..=50_000).contains(&progress[0].not_before_ms), "half of the bound, less what passed");
    assert_eq!((progress[0].attempts, progress[1].not_before_ms), (1, 0));
}

pub async fn checkpoint_refuses_an_intent_beyond_the_hard_cap(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[3]).await;
    let hard_cap_ms = TRANSACTION_MS_MAX - 1;
    let claim = Claim { hard_cap_ms, ttl_ms: 2 * HARD_CAP_MS, ..scene.claim_call(1, 1, &[("bulk", 10)]) };
    let claimed = fixture.store().claim(claim).await.unwrap();
    let lease = &claimed.leases[0];
    assert!(lease.ttl_ms <= hard_cap_ms && lease.hard_cap_ms <= hard_cap_ms, "a lease ends with its hard cap");
    let mut held = super::scene::Held {
        batch: lease.batch.clone(),
        fence: lease.fence.clone(),
        count: 3,
        sequence: 0,
        only: None,
    };
    let answer = scene.checkpoint(&mut held, Vec::new(), vec![0]).await;
    assert_eq!(answer.refused, [(0, RefusalReason::HardCap)]);
}

pub async fn checkpoint_extends_the_lease(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[3]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0]).await;
    let report = held.same_report(Vec::new(), Vec::new());
    let checkpoint = Checkpoint { ttl_ms: 60_000, ..scene.checkpoint_call(vec![report]) };
    let answers = fixture.store().checkpoint(checkpoint).await.unwrap();
    assert_eq!(answers[0].ttl_ms, 60_000);
    assert_eq!(scene.expire().await.leases, 0, "it lives on");
    let shorter = scene.checkpoint(&mut held, Vec::new(), Vec::new()).await;
    assert!(shorter.ttl_ms > TTL_MS, "an extension never shortens");
}

pub async fn finish_settles_a_batch_for_ever(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[25]).await;
    let mut held = scene.claim_one(1).await;
    assert_eq!(scene.send_all(&mut held, OutcomeKind::Accepted).await.status, LeaseStatus::Settled);
    let record = scene.record().await;
    assert_eq!((record.state(), record.recipients.accepted, record.batches.settled), (RunState::Finished, 25, 1));
    assert!(record.finished_at_ms().is_some());
    assert!(scene.claim(2, 5).await.is_empty());
    assert_eq!(scene.checkpoint(&mut held, Vec::new(), vec![0]).await.status, LeaseStatus::Settled);
}

pub async fn finish_is_refused_while_in_intent(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[3]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0, 1]).await;
    let answer = scene.finish(&mut held, outcomes([0], OutcomeKind::Accepted)).await;
    assert_eq!(answer.status, LeaseStatus::InIntent);
    assert_eq!(scene.record().await.recipients.accepted, 1, "its outcomes were taken");
    assert_eq!(scene.release(&mut held, Vec::new(), false).await.status, LeaseStatus::InIntent);
    let answer = scene.finish(&mut held, outcomes([1], OutcomeKind::NotWritten)).await;
    assert_eq!(answer.status, LeaseStatus::Returned);
}

pub async fn finish_delays_the_deferred_rest(fixture: &impl Fixture) {
    let retry = RetryPolicy { base_ms: 1_000, cap_ms: 1_000, ttl_ms: 3_600_000 };
    let scene = Scene::with(fixture, crate::NewRun { retry, ..new_run("one") }, &[3]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0, 1, 2]).await;
    let mut said = outcomes([0], OutcomeKind::Accepted);
    said.extend(outcomes([1, 2], OutcomeKind::Deferred));
    let answer = scene.finish(&mut held, said).await;
    assert_eq!(answer.status, LeaseStatus::Returned);
    assert_eq!(answer.due_in_ms, 500, "half of the base, without jitter");
    assert!(scene.record().await.batches.delayed == 1 && scene.claim(2, 1).await.is_empty());
    fixture.pass(answer.due_in_ms + 1).await;
    let mut again = scene.claim_one(2).await;
    assert_eq!(again.batch, held.batch);
    scene.intend(&mut again, &[1, 2]).await;
    let answer = scene.finish(&mut again, outcomes([1, 2], OutcomeKind::Accepted)).await;
    assert_eq!(answer.status, LeaseStatus::Settled);
    assert_eq!(scene.delivery(&again, 1).await.attempts, 2);
    assert_eq!(scene.delivery(&again, 1).await.reason, None);
}

pub async fn finish_repeated_answers_the_same(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2, 2]).await;
    let mut settled = scene.claim_one(1).await;
    let mut returned = scene.claim_one(1).await;
    assert_eq!(scene.send_all(&mut settled, OutcomeKind::Accepted).await.status, LeaseStatus::Settled);
    let again = settled.same_report(Vec::new(), Vec::new());
    assert_eq!(scene.finish_report(again).await.status, LeaseStatus::Settled);
    scene.intend(&mut returned, &[0]).await;
    let answer = scene.finish(&mut returned, outcomes([0], OutcomeKind::Accepted)).await;
    assert_eq!((answer.status, answer.due_in_ms), (LeaseStatus::Returned, 0));
    let again = returned.same_report(outcomes([0], OutcomeKind::Accepted), Vec::new());
    assert_eq!(scene.finish_report(again.clone()).await.status, LeaseStatus::Returned);
    let next = scene.claim_one(2).await;
    assert_eq!(next.batch, returned.batch);
    assert_eq!(scene.finish_report(again).await.status, LeaseStatus::Returned, "even when another holds it now");
    assert_eq!(scene.batches().await[1].state, BatchState::Leased);
}

pub async fn release_brings_the_batch_to_the_front(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2, 2, 2]).await;
    let mut first = scene.claim_one(1).await;
    let answer = scene.release(&mut first, Vec::new(), false).await;
    assert_eq!((answer.status, answer.due_in_ms), (LeaseStatus::Returned, 0));
    assert_eq!(scene.claim_one(2).await.batch, first.batch);
}

pub async fn release_costs_no_attempt(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[3]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0, 1]).await;
    let mut said = outcomes([0], OutcomeKind::NotWritten);
    said.push(outcome(1, OutcomeKind::Accepted));
    scene.release(&mut held, said, false).await;
    let delivery = scene.delivery(&held, 0).await;
    assert_eq!((delivery.state, delivery.attempts, delivery.reason), (RecipientState::Pending, 0, None));
    assert_eq!(scene.delivery(&held, 1).await.state, RecipientState::Accepted);
}

pub async fn release_with_a_delay_keeps_no_other_batch_waiting(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2, 1]).await;
    let mut held = scene.claim_one(1).await;
    let answer = scene.release_for(&mut held, 60_000).await;
    assert_eq!((answer.status, answer.due_in_ms), (LeaseStatus::Returned, 60_000));
    let counts = scene.record().await.batches;
    assert_eq!((counts.ready, counts.delayed, counts.leased), (1, 1, 0));
    for index in 0..2 {
        let delivery = scene.delivery(&held, index).await;
        assert_eq!((delivery.state, delivery.attempts, delivery.reason), (RecipientState::Pending, 0, None));
    }
    assert_eq!(scene.claim_one(2).await.batch.sequence, 2);
    assert!(scene.claim(3, 5).await.is_empty());
}

pub async fn release_with_a_delay_costs_nothing_but_time(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2]).await;
    let mut held = scene.claim_one(1).await;
    let answer = scene.release_for(&mut held, 50).await;
    fixture.pass(answer.due_in_ms + 1).await;
    let mut again = scene.claim_one(2).await;
    assert_eq!(again.batch, held.batch);
    scene.intend(&mut again, &[0, 1]).await;
    assert_eq!(scene.release_for(&mut held, 60_000).await.status, LeaseStatus::Returned, "a repeat");
    assert_eq!(scene.release_for(&mut again, 60_000).await.status, LeaseStatus::InIntent);
    let settled = scene.finish(&mut again, outcomes([0, 1], OutcomeKind::Accepted)).await;
    assert_eq!(settled.status, LeaseStatus::Settled);
    let delivery = scene.delivery(&again, 0).await;
    assert_eq!((delivery.attempts, delivery.reason), (1, None));
}

/// Somebody who is due later than the delay is due then, and the batch with them.
pub async fn release_with_a_delay_does_not_make_anybody_due_sooner(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[1]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0]).await;
    let deferred = Outcome { retry_after_ms: 60_000, ..outcome(0, OutcomeKind::Deferred) };
    let answer = scene.checkpoint(&mut held, vec![deferred], Vec::new()).await;
    assert_eq!(answer.status, LeaseStatus::Held);
    let returned = scene.release_for(&mut held, 1).await;
    assert_eq!(returned.status, LeaseStatus::Returned);
    assert!((50_000..=60_000).contains(&returned.due_in_ms), "{}", returned.due_in_ms);
}

pub async fn deferred_recipients_exhaust_their_time(fixture: &impl Fixture) {
    let retry = RetryPolicy { base_ms: 100, cap_ms: 100, ttl_ms: 49 };
    let scene = Scene::with(fixture, crate::NewRun { retry, ..new_run("one") }, &[2]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0, 1]).await;
    let mut said = outcomes([0], OutcomeKind::Deferred);
    said.push(outcome(1, OutcomeKind::Unknown));
    assert_eq!(scene.finish(&mut held, said).await.status, LeaseStatus::Settled);
    let counts = scene.record().await.recipients;
    assert_eq!((counts.exhausted, counts.unknown), (1, 1), "one in doubt is unknown, not exhausted");
}

pub async fn batches_show_every_delivery(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2, 1]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[1]).await;
    let mut odd = outcome(1, OutcomeKind::Rejected);
    odd.code = "550 5.1.1".to_owned();
    odd.detail = "a|b:c,d;e \"f\" %s".to_owned();
    scene.checkpoint(&mut held, vec![odd.clone()], Vec::new()).await;
    let delivery = scene.delivery(&held, 1).await;
    assert_eq!((delivery.code, delivery.detail), (odd.code, odd.detail));
    assert!(delivery.settled_at_ms.is_some_and(|at| at > 0));
}
