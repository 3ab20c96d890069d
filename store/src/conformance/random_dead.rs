//! Random comparison of what gives up and begins again: workers that end, dead letters, retries.

use super::Fixture;
use super::random::{Driver, TTL_MS, both, counts, model_counts};
use super::scene::{lane, worker};
use crate::api::{Checkpoint, Claim, Reclaim, ReplayDead, RetryRun};
use crate::embedded::model::Model;
use postrider_common::lease::{Fact, LeaseReport, OutcomeKind};
use postrider_common::pace::Limits;

/// One worker after the other takes a batch and ends, with or without a word, until somebody may be found.
pub(super) async fn die(fixture: &impl Fixture, model: &mut Model, driver: &mut Driver) {
    let is_silent = driver.random.u8(0..4) == 0;
    let rounds = if is_silent { 12 } else { 6 };
    for _ in 0..rounds {
        driver.requests += 1;
        let claim = Claim {
            worker: worker(4),
            request: format!("d{}", driver.requests).parse().expect("a request id"),
            nonce: driver.requests as u32,
            batches_max: 1,
            lanes: vec![(lane("bulk"), 10), (lane("transactional"), 100)],
            ttl_ms: TTL_MS,
            hard_cap_ms: 1_800_000,
            slots: 64,
            limits: Limits::default(),
        };
        let same = |a: &crate::Claimed| {
            let one = |lease: &crate::ClaimedBatch| (lease.batch.clone(), lease.fence.clone(), lease.only);
            a.leases.iter().map(one).collect::<Vec<_>>()
        };
        let store = fixture.store();
        let call = store.claim(claim.clone());
        let claimed = both!(fixture, *model, "claim", call, |m: &mut Model, now| m.claim(now, claim.clone()), same);
        let Some(lease) = claimed.leases.first() else { return };
        driver.suspect += u64::from(lease.only.is_some());
        if !is_silent {
            let only = lease.only.map_or(0, |only| only.first);
            intend(fixture, model, driver, lease, only).await;
        }
        fixture.pass(TTL_MS + 1).await;
        let reclaim = Reclaim { limit: 100, ttl_ms: TTL_MS, doubt_grace_ms: 5, outage_gap_ms: 3_600_000 };
        let same = |a: &crate::Reclaimed| crate::Reclaimed { held_ms: 0, ..*a };
        let call = store.reclaim(reclaim);
        let reclaimed = both!(fixture, *model, "reclaim", call, |m: &mut Model, now| m.reclaim(now, reclaim), same);
        driver.dead += u64::from(reclaimed.dead);
        fixture.pass(6).await;
    }
}

async fn intend(
    fixture: &impl Fixture,
    model: &mut Model,
    driver: &mut Driver,
    lease: &crate::ClaimedBatch,
    first: u32,
) {
    let (batch, fence) = (lease.batch.clone(), lease.fence.clone());
    let intents = (first..first + 1 + driver.random.u32(0..3)).collect();
    let report = LeaseReport { batch, fence, sequence: 1, outcomes: Vec::new(), intents, progress: 0 };
    let checkpoint = Checkpoint {
        worker: worker(4),
        reports: vec![report],
        ttl_ms: TTL_MS,
        window: 3,
        retry_fraction: 0,
        limits: Limits::default(),
        grants: None,
    };
    let store = fixture.store();
    let call = store.checkpoint(checkpoint.clone());
    let same = |answers: &Vec<postrider_common::lease::LeaseAnswer>| {
        answers.iter().map(|a| (a.status, a.granted.clone(), a.refused.clone())).collect::<Vec<_>>()
    };
    let apply = |m: &mut Model, now| m.checkpoint(now, checkpoint.clone());
    let answers = both!(fixture, *model, "checkpoint", call, apply, same);
    if driver.random.bool() {
        return;
    }
    // It is started again, and tells what its journal says.
    let fact = |index: &u32| Fact {
        batch: lease.batch.clone(),
        fence: lease.fence.clone(),
        outcome: super::scene::outcome(*index, OutcomeKind::NotWritten),
    };
    let facts: Vec<Fact> = answers.iter().flat_map(|answer| &answer.granted).map(fact).collect();
    let call = store.facts(facts.clone(), 0);
    both!(fixture, *model, "facts", call, |m: &mut Model, now| m.facts(now, (facts.clone(), 0)), |a: &Vec<_>| a
        .clone());
}

/// Compares the dead letters, and replays or purges one.
pub(super) async fn decide(fixture: &impl Fixture, model: &mut Model, driver: &mut Driver) {
    let store = fixture.store();
    let run = driver.random.bool().then(|| driver.run());
    let plain = |letters: Vec<crate::DeadLetter>| letters.into_iter().map(|l| (l.id, l.reason)).collect::<Vec<_>>();
    let ours = plain(store.dead_letters(run.as_ref(), None, 1000).await.unwrap());
    assert_eq!(ours, plain(model.dead_letters(run.as_ref(), None, 1000)), "dead letters");
    if ours.is_empty() {
        return;
    }
    let at = driver.random.usize(0..ours.len());
    let (id, after) = (ours[at].0.clone(), ours[driver.random.usize(0..ours.len())].0.clone());
    let page = plain(store.dead_letters(run.as_ref(), Some(&after), 2).await.unwrap());
    assert_eq!(page, plain(model.dead_letters(run.as_ref(), Some(&after), 2)), "dead letters after {after}");
    if driver.random.u8(0..3) == 0 {
        let call = store.purge_dead(&id);
        both!(fixture, *model, "purge_dead", call, |m: &mut Model, now| m.purge_dead(now, id.clone()), |a: &_| *a);
        driver.purged += 1;
    } else {
        let replay = ReplayDead { id, unknown: driver.random.bool() };
        let call = store.replay_dead(replay.clone());
        let apply = |m: &mut Model, now| m.replay_dead(now, replay.clone());
        both!(fixture, *model, "replay_dead", call, apply, |a: &_| *a);
        driver.replayed += 1;
    }
}

pub(super) async fn retry(fixture: &impl Fixture, model: &mut Model, driver: &mut Driver) {
    let store = fixture.store();
    let retry = RetryRun {
        run: driver.run(),
        key: format!("key{}", driver.random.u8(0..30)).parse().expect("a key"),
        unknown: driver.random.bool(),
        after: driver.random.u64(0..3),
        limit: driver.random.usize(1..20),
    };
    let call = store.retry_run(retry.clone());
    let apply = |m: &mut Model, now| m.retry_run(now, retry.clone());
    let answer = both!(fixture, *model, "retry_run", call, apply, |a: &_| *a);
    if let crate::RetriedRun::Step { recipients, .. } = answer {
        driver.reopened += recipients;
    }
}
