//! A store that has less than somebody saw acknowledged: noticed, and what may have been sent is marked.

use super::Fixture;
use super::scene::{GRACE_MS, Held, Scene, TTL_MS, new_run, outcome, outcomes};
use crate::api::{Compare, Compared, DeadAnswer, DeadLetter, Found, NewRun, ReplayDead, RetriedRun, RetryRun};
use postrider_common::backoff::RetryPolicy;
use postrider_common::campaign::OnUnknown;
use postrider_common::lease::{FactStatus, LeaseStatus, OutcomeKind, RefusalReason};
use postrider_common::limits::{STRIKES_MAX, UNHEARD_MAX};
use postrider_common::mark::{Mark, Marks};
use postrider_common::run::RunState;
use postrider_common::state::{RecipientState, UnknownReason};

async fn compare<F: Fixture>(scene: &Scene<'_, F>, mark: Mark) -> Compared {
    let compare = Compare { marks: Marks::from_iter([mark]), confirm: false };
    scene.fixture.store().compare(compare).await.unwrap()[0]
}

async fn mark<F: Fixture>(scene: &Scene<'_, F>) -> Mark {
    scene.confirm().await.mark
}

async fn of_all_shards<F: Fixture>(scene: &Scene<'_, F>, marks: Marks) -> Vec<Compared> {
    scene.fixture.store().compare(Compare { marks, confirm: false }).await.unwrap()
}

/// Somebody saw more than there is, of every shard.
pub(super) async fn go_back<F: Fixture>(scene: &Scene<'_, F>) {
    let before = of_all_shards(scene, Marks::default()).await;
    let ahead = |at: &Compared| Mark { sequence: at.mark.sequence + 5, ..at.mark };
    let after = of_all_shards(scene, before.iter().map(ahead).collect()).await;
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(after.found, Found::WentBack { seen: ahead(before), had: before.mark.sequence });
        assert_eq!((after.mark.epoch, after.is_stopped), (before.mark.epoch + 1_000, true), "above what may be lost");
    }
}

/// Until workers had the time to report, from the next sign of life on.
pub(super) async fn wait_for_reports<F: Fixture>(scene: &Scene<'_, F>) {
    assert_eq!(scene.reclaim().await.leases, 0);
    scene.fixture.pass(TTL_MS + GRACE_MS + 1).await;
    scene.reclaim().await;
    scene.check().await;
}

pub async fn compare_moves_with_what_is_acknowledged(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[3]).await;
    let sum = async || of_all_shards(&scene, Marks::default()).await.iter().map(|at| at.mark.sequence).sum::<u64>();
    let mut at = sum().await;
    let mut held = scene.claim_one(1).await;
    let mut moved = async |what: &str, moves: bool| {
        let now = sum().await;
        assert_eq!(now > at, moves, "{what}: {at} to {now}");
        at = now;
    };
    moved("claim", true).await;
    assert!(scene.claim(1, 1).await.is_empty());
    moved("claim of nothing", false).await;
    scene.intend(&mut held, &[0, 1]).await;
    moved("checkpoint", true).await;
    scene.fact(&held, outcome(0, OutcomeKind::Accepted)).await;
    moved("facts", true).await;
    scene.fact(&held, outcome(0, OutcomeKind::Accepted)).await;
    moved("facts that are known", false).await;
    scene.expire().await;
    moved("reclaim", true).await;
    scene.reclaim().await;
    moved("reclaim of nothing", false).await;
    let mut again = scene.claim_one(2).await;
    moved("claim", true).await;
    scene.finish(&mut again, Vec::new()).await;
    moved("finish", true).await;
    fixture.store().create_run(new_run("two")).await.unwrap();
    moved("create_run", true).await;
    fixture.store().create_run(new_run("two")).await.unwrap();
    moved("create_run repeated", false).await;
    fixture.store().cancel_run(&scene.run).await.unwrap();
    moved("cancel_run", true).await;
}

pub async fn compare_finds_nothing_in_what_is_there(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[3]).await;
    let at = mark(&scene).await;
    for seen in [at, Mark { sequence: 0, ..at }, Mark { epoch: at.epoch - 1, sequence: 0, ..at }] {
        let compared = compare(&scene, seen).await;
        assert_eq!((compared.found, compared.mark, compared.is_stopped), (Found::Same, at, false), "{seen:?}");
    }
    assert_eq!(scene.claim(1, 1).await.len(), 1);
    let later = Mark { epoch: at.epoch + 3, sequence: 0, ..at };
    let compared = compare(&scene, later).await;
    assert_eq!((compared.mark.epoch, compared.rollbacks), (at.epoch + 1_003, 1), "an epoch that never was");
    let compared = compare(&scene, later).await;
    assert_eq!((compared.found, compared.rollbacks), (Found::Same, 1), "the same proof proves it once");
}

pub async fn compare_gone_back_leases_nothing_until_workers_reported(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2, 2]).await;
    let held = scene.claim_one(1).await;
    go_back(&scene).await;
    assert!(scene.claim(2, 2).await.is_empty());
    fixture.pass(TTL_MS + GRACE_MS + 1).await;
    assert!(scene.claim(2, 2).await.is_empty(), "masters give the time, and none was there");
    wait_for_reports(&scene).await;
    let claimed = scene.claim(2, 2).await;
    assert_eq!(claimed.len(), 2);
    assert!(claimed.iter().all(|next| next.fence.epoch > held.fence.epoch));
    assert!(claimed.iter().all(|next| next.fence.counter > held.fence.counter + 1_000_000), "lost fences stay unique");
    assert!(!scene.confirm().await.is_stopped);
}

pub async fn compare_gone_back_marks_who_may_have_been_sent_to(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[3]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0]).await;
    go_back(&scene).await;
    wait_for_reports(&scene).await;
    fixture.pass(GRACE_MS + 1).await;
    let mut next = scene.claim_one(2).await;
    scene.intend(&mut next, &[0, 1]).await;
    assert_eq!(scene.record().await.resent_outcome_not_recorded, 2, "of the third nothing was begun again");
    scene.finish(&mut next, outcomes([0, 1], OutcomeKind::Accepted)).await;
    for (index, attempts) in [(0, 2), (1, 1)] {
        let delivery = scene.delivery(&next, index).await;
        assert_eq!(delivery.reason, Some(UnknownReason::OutcomeNotRecorded));
        assert_eq!(delivery.attempts, attempts);
    }
    scene.expire().await;
    let mut last = scene.claim_one(2).await;
    scene.intend(&mut last, &[2]).await;
    scene.checkpoint(&mut last, outcomes([2], OutcomeKind::NotWritten), Vec::new()).await;
    assert_eq!(scene.record().await.resent_outcome_not_recorded, 2, "handed back unused");
    scene.intend(&mut last, &[2]).await;
    assert_eq!(scene.finish(&mut last, outcomes([2], OutcomeKind::Accepted)).await.status, LeaseStatus::Settled);
    let record = scene.record().await;
    assert_eq!((record.resent_outcome_not_recorded, record.state()), (3, RunState::Finished));
}

/// Whatever the number of the report in which it comes out that they are in doubt.
pub async fn compare_gone_back_marks_each_whatever_the_sequence(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[3; 100]).await;
    go_back(&scene).await;
    wait_for_reports(&scene).await;
    for sequence in 0..100 {
        let mut held = scene.claim_one(1).await;
        held.sequence = sequence;
        for index in 0..3 {
            scene.intend(&mut held, &[index]).await;
        }
        let resent = scene.record().await.resent_outcome_not_recorded;
        assert_eq!(resent, 3 * (sequence + 1), "from sequence {sequence} on");
        let settled = scene.finish(&mut held, outcomes(0..3, OutcomeKind::Accepted)).await;
        assert_eq!(settled.status, LeaseStatus::Settled);
    }
}

pub async fn compare_gone_back_holds_what_must_not_be_sent_twice(fixture: &impl Fixture) {
    let new = NewRun { on_unknown: OnUnknown::Hold, ..new_run("one") };
    let scene = Scene::with(fixture, new, &[2]).await;
    go_back(&scene).await;
    wait_for_reports(&scene).await;
    let mut held = scene.claim_one(1).await;
    let answer = scene.checkpoint(&mut held, Vec::new(), vec![0, 1]).await;
    assert_eq!(answer.refused, [(0, RefusalReason::Settled), (1, RefusalReason::Settled)]);
    assert_eq!(scene.finish(&mut held, Vec::new()).await.status, LeaseStatus::Settled);
    assert_eq!(scene.record().await.recipients.unknown, 2);
    let lost = of_before(&held);
    assert_eq!(scene.fact(&lost, outcome(0, OutcomeKind::Accepted)).await, FactStatus::Applied);
    assert_eq!(scene.fact(&lost, outcome(1, OutcomeKind::Rejected)).await, FactStatus::Applied);
    let counts = scene.record().await.recipients;
    assert_eq!((counts.accepted, counts.rejected, counts.unknown), (1, 1, 0));
}

/// The same batch under a fence that the store gave out and lost.
fn of_before(held: &Held) -> Held {
    let mut lost = held.clone();
    lost.fence.epoch = 1;
    lost.fence.counter = 77;
    lost
}

pub async fn compare_gone_back_takes_facts_of_what_was_lost(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[4]).await;
    let held = scene.claim_one(1).await;
    let lost = of_before(&held);
    assert_eq!(scene.fact(&lost, outcome(0, OutcomeKind::Accepted)).await, FactStatus::Refused, "not issued");
    go_back(&scene).await;
    assert_eq!(scene.fact(&lost, outcome(0, OutcomeKind::Accepted)).await, FactStatus::Applied);
    assert_eq!(scene.fact(&lost, outcome(0, OutcomeKind::Accepted)).await, FactStatus::Already);
    assert_eq!(scene.fact(&lost, outcome(1, OutcomeKind::Rejected)).await, FactStatus::Applied);
    for kind in [OutcomeKind::Deferred, OutcomeKind::NotWritten, OutcomeKind::Unknown] {
        assert_eq!(scene.fact(&lost, outcome(2, kind)).await, FactStatus::Already, "another may have sent it since");
    }
    wait_for_reports(&scene).await;
    let mut next = scene.claim_one(2).await;
    let answer = scene.checkpoint(&mut next, Vec::new(), vec![0, 1, 2]).await;
    assert_eq!(answer.granted, [2], "of two it is known what became of them");
    assert_eq!(scene.fact(&lost, outcome(3, OutcomeKind::Accepted)).await, FactStatus::Applied, "as late as it may be");
    scene.finish(&mut next, outcomes([2], OutcomeKind::Accepted)).await;
    let record = scene.record().await;
    assert_eq!((record.recipients.accepted, record.recipients.rejected), (3, 1));
    assert_eq!(record.resent_outcome_not_recorded, 1);
    for index in [0, 1, 3] {
        let known = scene.delivery(&next, index).await;
        assert_eq!(known.attempts, 1);
        let reason = Some(UnknownReason::OutcomeNotRecorded);
        assert_eq!(known.reason, reason, "it may be one of two transmissions that were lost");
    }
}

pub async fn compare_gone_back_keeps_a_reason_whatever_is_told_of_it(fixture: &impl Fixture) {
    let told = [OutcomeKind::Accepted, OutcomeKind::Rejected, OutcomeKind::Deferred, OutcomeKind::NotWritten];
    for on_unknown in [OnUnknown::Hold, OnUnknown::Resend] {
        let name = if on_unknown == OnUnknown::Hold { "hold" } else { "resend" };
        let scene = Scene::with(fixture, NewRun { on_unknown, ..new_run(name) }, &[4]).await;
        let mut held = scene.claim_one(1).await;
        scene.intend(&mut held, &[0, 1, 2, 3]).await;
        go_back(&scene).await;
        // Its lease may have expired in what was lost, and another one sent them.
        for (index, kind) in (0..).zip(told) {
            assert_eq!(scene.fact(&held, outcome(index, kind)).await, FactStatus::Applied, "{kind:?}");
            assert_eq!(scene.fact(&held, outcome(index, kind)).await, FactStatus::Already, "{kind:?}");
        }
        let waits = |state| if on_unknown == OnUnknown::Hold { RecipientState::Unknown } else { state };
        let states = [
            RecipientState::Accepted,
            RecipientState::Rejected,
            waits(RecipientState::Deferred),
            waits(RecipientState::Pending),
        ];
        for (index, state) in (0..).zip(states) {
            let delivery = scene.delivery(&held, index).await;
            assert_eq!((delivery.state, delivery.reason), (state, Some(UnknownReason::OutcomeNotRecorded)), "{index}");
        }
        wait_for_reports(&scene).await;
    }
}

pub async fn compare_gone_back_makes_every_lease_stale(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[3]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0]).await;
    go_back(&scene).await;
    // The second was granted in what was lost.
    let said = vec![outcome(0, OutcomeKind::Deferred), outcome(1, OutcomeKind::Accepted)];
    let answer = scene.checkpoint(&mut held, said, vec![2]).await;
    assert_eq!((answer.status, answer.granted.len()), (LeaseStatus::Lost, 0));
    assert_eq!(scene.delivery(&held, 0).await.state, RecipientState::Deferred);
    assert_eq!(scene.delivery(&held, 1).await.state, RecipientState::Accepted);
    assert_eq!(scene.finish(&mut held, Vec::new()).await.status, LeaseStatus::Lost);
    wait_for_reports(&scene).await;
    let mut next = scene.claim_one(2).await;
    scene.intend(&mut next, &[0, 2]).await;
    assert_eq!(
        scene.record().await.resent_outcome_not_recorded,
        2,
        "the first may have been sent again in what was lost"
    );
}

pub async fn compare_gone_back_doubts_what_is_split_again_and_not_what_is_new(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[1]).await;
    let old = new_run("old");
    fixture.store().create_run(old.clone()).await.unwrap();
    go_back(&scene).await;
    let lease = scene.claim_split().await.expect("a split is no lease to send");
    assert_eq!(lease.run, old.id);
    fixture.store().add_batches(scene.add(&lease, &[1], 1, true)).await.unwrap();
    wait_for_reports(&scene).await;
    let again = Scene { fixture, run: old.id };
    let fresh = Scene::with(fixture, new_run("fresh"), &[1]).await;
    let mut held = scene.claim(1, 3).await;
    assert_eq!(held.len(), 3);
    for held in &mut held {
        scene.intend(held, &[0]).await;
    }
    for (scene, resent) in [(&scene, 1), (&again, 1), (&fresh, 0)] {
        assert_eq!(scene.record().await.resent_outcome_not_recorded, resent, "{}", scene.run);
    }
}

pub async fn compare_gone_back_leaves_who_is_cancelled_unknown(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2]).await;
    go_back(&scene).await;
    fixture.store().cancel_run(&scene.run).await.unwrap();
    fixture.store().cancel_batches(&scene.run, 0, 10).await.unwrap();
    scene.check().await;
    let counts = scene.record().await.recipients;
    assert_eq!((counts.unknown, counts.cancelled), (2, 0), "it may have been sent before");
}

/// A worker takes the batch and ends with recipient 0 in intent.
async fn worker_ends<F: Fixture>(scene: &Scene<'_, F>) -> Held {
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0]).await;
    scene.expire().await;
    scene.fixture.pass(GRACE_MS + 1).await;
    held
}

async fn letters<F: Fixture>(scene: &Scene<'_, F>) -> Vec<DeadLetter> {
    scene.fixture.store().dead_letters(Some(&scene.run), None, 100).await.unwrap()
}

pub async fn compare_gone_back_is_no_strike(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2]).await;
    for _ in 1..STRIKES_MAX {
        worker_ends(&scene).await;
    }
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0]).await;
    go_back(&scene).await;
    wait_for_reports(&scene).await;
    fixture.pass(GRACE_MS + 1).await;
    assert!(letters(&scene).await.is_empty(), "its lease ended because the store went back");
    worker_ends(&scene).await;
    assert_eq!(letters(&scene).await.len(), 1, "and the strikes from before are known");
}

/// Both recipients of a batch are given up: one as exhausted, one as a dead letter that was not written.
async fn give_up<'a, F: Fixture>(fixture: &'a F, on_unknown: OnUnknown) -> (Scene<'a, F>, Held) {
    let retry = RetryPolicy { base_ms: 100, cap_ms: 1_000, ttl_ms: 40 };
    let scene = Scene::with(fixture, NewRun { retry, on_unknown, ..new_run("one") }, &[2]).await;
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[1]).await;
    scene.finish(&mut held, outcomes([1], OutcomeKind::Deferred)).await;
    for _ in 0..STRIKES_MAX {
        held = scene.claim_one(1).await;
        scene.intend(&mut held, &[0]).await;
        assert_eq!(scene.fact(&held, outcome(0, OutcomeKind::NotWritten)).await, FactStatus::Applied);
        scene.expire().await;
    }
    assert_eq!((letters(&scene).await.len(), scene.record().await.recipients.exhausted), (1, 2));
    (scene, held)
}

async fn retry<F: Fixture>(scene: &Scene<'_, F>, key: &str, unknown: bool) -> u64 {
    let retry = RetryRun { run: scene.run.clone(), key: key.parse().unwrap(), unknown, after: 0, limit: 100 };
    let RetriedRun::Step { recipients, .. } = scene.fixture.store().retry_run(retry).await.unwrap() else {
        panic!("a run can be retried")
    };
    scene.check().await;
    recipients
}

async fn replay<F: Fixture>(scene: &Scene<'_, F>, unknown: bool) -> DeadAnswer {
    let id = letters(scene).await.remove(0).id;
    let answer = scene.fixture.store().replay_dead(ReplayDead { id, unknown }).await.unwrap();
    scene.check().await;
    answer
}

pub async fn compare_gone_back_marks_who_is_retried_or_replayed(fixture: &impl Fixture) {
    let (scene, _) = give_up(fixture, OnUnknown::Resend).await;
    go_back(&scene).await;
    wait_for_reports(&scene).await;
    assert_eq!(retry(&scene, "again", false).await, 1, "all but the dead letter");
    assert_eq!(replay(&scene, false).await, DeadAnswer::Done { recipients: 1 });
    let mut held = scene.claim_one(2).await;
    scene.intend(&mut held, &[0, 1]).await;
    assert_eq!(scene.record().await.resent_outcome_not_recorded, 2, "an earlier retry may be what was lost");
    scene.finish(&mut held, outcomes([0, 1], OutcomeKind::Accepted)).await;
    for index in [0, 1] {
        assert_eq!(scene.delivery(&held, index).await.reason, Some(UnknownReason::OutcomeNotRecorded));
    }
}

pub async fn compare_gone_back_retries_of_a_hold_only_who_may_be_sent_twice(fixture: &impl Fixture) {
    let (scene, _) = give_up(fixture, OnUnknown::Hold).await;
    go_back(&scene).await;
    wait_for_reports(&scene).await;
    assert_eq!(retry(&scene, "careful", false).await, 0);
    assert_eq!(replay(&scene, false).await, DeadAnswer::InDoubt);
    assert_eq!(scene.record().await.recipients.exhausted, 2);
    assert_eq!(retry(&scene, "all", true).await, 1);
    assert_eq!(replay(&scene, true).await, DeadAnswer::Done { recipients: 1 });
    let mut held = scene.claim_one(2).await;
    scene.intend(&mut held, &[0, 1]).await;
    assert_eq!(scene.record().await.resent_outcome_not_recorded, 2);
}

pub async fn compare_gone_back_marks_a_batch_that_was_set_aside(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[2]).await;
    let mut held = scene.claim_one(1).await;
    for _ in 0..UNHEARD_MAX {
        scene.expire().await;
        if scene.record().await.batches.dead == 0 {
            held = scene.claim_one(1).await;
        }
    }
    go_back(&scene).await;
    wait_for_reports(&scene).await;
    let lost = of_before(&held);
    assert_eq!(scene.fact(&lost, outcome(0, OutcomeKind::Accepted)).await, FactStatus::Applied);
    assert_eq!(scene.record().await.batches.dead, 1, "a fact is no replay");
    assert_eq!(replay(&scene, false).await, DeadAnswer::Done { recipients: 1 });
    let mut next = scene.claim_one(2).await;
    scene.intend(&mut next, &[1]).await;
    assert_eq!(scene.record().await.resent_outcome_not_recorded, 1);
}
