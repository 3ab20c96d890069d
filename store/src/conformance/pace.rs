//! Rate and concurrency of lanes and sites: what checkpoint grants and claim gives out.

use super::Fixture;
use super::scene::{Held, Scene, lane, new_run, outcome, outcomes};
use postrider_common::lease::{FactStatus, LeaseAnswer, LeaseStatus, OutcomeKind, RefusalReason};
use postrider_common::pace::{CAP_PAUSE_MS, Limit, Limits, Pace};

/// So slow that no case sees it pay anything.
const CRAWL: &str = "1/h";

fn paced(rate: &str, burst: u32) -> Limit {
    Limit { pace: Some(Pace { rate: rate.parse().unwrap(), burst }), concurrency: None }
}

fn capped(concurrency: u32) -> Limit {
    Limit { pace: None, concurrency: Some(concurrency) }
}

fn of_lane(limit: Limit) -> Limits {
    let mut limits = Limits::default();
    limits.lane(lane("bulk"), limit);
    limits
}

fn of_site(limit: Limit) -> Limits {
    let mut limits = Limits::default();
    limits.site("other".parse().unwrap(), limit);
    limits
}

impl<F: Fixture> Scene<'_, F> {
    async fn ask(&self, held: &mut Held, intents: &[u32], limits: &Limits) -> LeaseAnswer {
        let report = held.report(Vec::new(), intents.to_vec());
        self.checkpoint_limited(report, limits).await
    }

    async fn in_intent(&self) -> u64 {
        self.fixture.store().lanes(&[lane("bulk")]).await.unwrap()[0].in_intent_limited
    }
}

fn throttled(answer: &LeaseAnswer) -> Vec<u32> {
    let is = |(_, reason): &&(u32, RefusalReason)| matches!(reason, RefusalReason::Throttled { .. });
    answer.refused.iter().filter(is).map(|(index, _)| *index).collect()
}

pub async fn checkpoint_paces_a_lane(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[10, 10]).await;
    let limits = of_lane(paced(CRAWL, 3));
    let (mut one, mut two) = (scene.claim_one(1).await, scene.claim_one(2).await);
    let answer = scene.ask(&mut one, &[0, 1], &limits).await;
    assert_eq!((answer.granted.as_slice(), answer.refused.len()), ([0, 1].as_slice(), 0));
    let answer = scene.ask(&mut two, &[0, 1, 2], &limits).await;
    assert_eq!((answer.granted.clone(), throttled(&answer)), (vec![0], vec![1, 2]), "three in all, over both leases");
    // Outcomes make room for others in flight, not for others in this span of time.
    let report = one.report(outcomes([0, 1], OutcomeKind::Accepted), vec![2]);
    assert_eq!(throttled(&scene.checkpoint_limited(report, &limits).await), [2]);
    // Another lane has a pace of its own, and none without a limit.
    let new = crate::NewRun { lane: lane("transactional"), ..new_run("other lane") };
    let other = Scene::with(fixture, new, &[5]).await;
    let mut held = other.claim_lanes(1, 1, &[("transactional", 1)]).await.remove(0);
    assert_eq!(other.ask(&mut held, &[0, 1, 2, 3, 4], &limits).await.granted.len(), 5);
}

pub async fn checkpoint_paces_a_site_over_lanes(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[5]).await;
    let new = crate::NewRun { lane: lane("transactional"), ..new_run("other lane") };
    let other = Scene::with(fixture, new, &[5]).await;
    let limits = of_site(paced(CRAWL, 3));
    let mut fast = other.claim_lanes(1, 1, &[("transactional", 1)]).await.remove(0);
    assert_eq!(other.ask(&mut fast, &[0, 1], &limits).await.granted, [0, 1]);
    let mut bulk = scene.claim_one(1).await;
    let answer = scene.ask(&mut bulk, &[0, 1], &limits).await;
    assert_eq!((answer.granted.clone(), throttled(&answer)), (vec![0], vec![1]));
}

pub async fn checkpoint_tells_when_to_ask_again(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[10]).await;
    // One in 200 ms, two at once.
    let limits = of_lane(paced("5/s", 2));
    let mut held = scene.claim_one(1).await;
    let answer = scene.ask(&mut held, &[0, 1, 2, 3, 4], &limits).await;
    let waits = |answer: &LeaseAnswer| {
        let wait = |(_, reason): &(u32, RefusalReason)| match reason {
            RefusalReason::Throttled { retry_in_ms } => Some(*retry_in_ms),
            _ => None,
        };
        answer.refused.iter().filter_map(wait).collect::<Vec<_>>()
    };
    let waits = waits(&answer);
    assert_eq!(answer.granted, [0, 1]);
    assert_eq!(waits.len(), 3);
    assert!((150..=200).contains(&waits[0]) && (350..=400).contains(&waits[1]), "{waits:?}");
    assert_eq!(waits[1], waits[2], "no longer than until the burst is there again");
    fixture.pass(waits[0]).await;
    let answer = scene.ask(&mut held, &[2, 3], &limits).await;
    assert_eq!(answer.granted.first(), Some(&2), "{answer:?}");
    assert_eq!(answer.refused.first().map(|(index, _)| *index), Some(3), "{answer:?}");
}

pub async fn checkpoint_caps_a_lane_over_workers(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[5, 5]).await;
    let limits = of_lane(capped(4));
    let (mut one, mut two) = (scene.claim_one(1).await, scene.claim_one(2).await);
    assert_eq!(scene.ask(&mut one, &[0, 1, 2], &limits).await.granted.len(), 3);
    let answer = scene.ask(&mut two, &[0, 1, 2], &limits).await;
    assert_eq!(answer.granted, [0]);
    let wait = RefusalReason::Throttled { retry_in_ms: CAP_PAUSE_MS };
    assert_eq!(answer.refused, [(1, wait), (2, wait)]);
    assert_eq!(scene.in_intent().await, 4);
    // Its own outcomes make room in the same call.
    let report = one.report(outcomes([0, 1], OutcomeKind::Accepted), vec![3, 4]);
    assert_eq!(scene.checkpoint_limited(report, &limits).await.granted, [3, 4]);
    assert_eq!(scene.finish(&mut one, outcomes([2, 3, 4], OutcomeKind::Accepted)).await.status, LeaseStatus::Settled);
    assert_eq!(scene.in_intent().await, 1);
    assert_eq!(scene.ask(&mut two, &[1, 2, 3], &limits).await.granted.len(), 3);
    assert_eq!(scene.finish(&mut two, outcomes([0], OutcomeKind::Accepted)).await.status, LeaseStatus::InIntent);
    assert_eq!(scene.in_intent().await, 3, "a refused finish has taken its outcomes");
}

pub async fn checkpoint_repeated_pays_once(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[10]).await;
    let limits = of_lane(Limit { concurrency: Some(6), ..paced(CRAWL, 6) });
    let mut held = scene.claim_one(1).await;
    let answer = scene.ask(&mut held, &[0, 1, 2], &limits).await;
    for _ in 0..3 {
        let again = scene.checkpoint_limited(held.same_report(Vec::new(), vec![0, 1, 2]), &limits).await;
        assert_eq!(again.granted, answer.granted);
    }
    assert_eq!(scene.in_intent().await, 3);
    assert_eq!(scene.ask(&mut held, &[3, 4, 5, 6], &limits).await.granted, [3, 4, 5]);
}

pub async fn what_is_handed_back_is_not_refunded_but_leaves(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[10]).await;
    let limits = of_lane(Limit { concurrency: Some(2), ..paced(CRAWL, 3) });
    let mut held = scene.claim_one(1).await;
    scene.ask(&mut held, &[0, 1], &limits).await;
    let report = held.report(outcomes([0, 1], OutcomeKind::NotWritten), vec![2, 3]);
    let answer = scene.checkpoint_limited(report, &limits).await;
    assert_eq!((answer.granted.clone(), throttled(&answer)), (vec![2], vec![3]));
    assert_eq!(scene.in_intent().await, 1);
}

pub async fn reclaim_gives_the_room_back(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[5]).await;
    let limits = of_lane(capped(2));
    let mut held = scene.claim_one(1).await;
    assert_eq!(scene.ask(&mut held, &[0, 1, 2], &limits).await.granted.len(), 2);
    assert_eq!(scene.in_intent().await, 2);
    assert_eq!(scene.expire().await.doubts, 2);
    assert_eq!(scene.in_intent().await, 0);
    let mut next = scene.claim_one(2).await;
    assert_eq!(scene.ask(&mut next, &[2, 3], &limits).await.granted, [2, 3]);
}

pub async fn facts_and_abandon_give_the_room_back(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[6]).await;
    let limits = of_lane(capped(4));
    let mut held = scene.claim_one(1).await;
    scene.ask(&mut held, &[0, 1, 2, 3], &limits).await;
    assert_eq!(scene.fact(&held, outcome(0, OutcomeKind::Accepted)).await, FactStatus::Applied);
    assert_eq!(scene.fact(&held, outcome(1, OutcomeKind::NotWritten)).await, FactStatus::Applied);
    assert_eq!(scene.in_intent().await, 2);
    scene.release(&mut held, Vec::new(), true).await;
    assert_eq!(scene.in_intent().await, 0);
    // A late fact of the old lease takes one out of the intent of the new one.
    let mut next = scene.claim_one(2).await;
    scene.ask(&mut next, &[1, 4], &limits).await;
    assert_eq!(scene.fact(&held, outcome(1, OutcomeKind::Accepted)).await, FactStatus::Applied);
    assert_eq!(scene.in_intent().await, 1);
}

pub async fn cancel_run_gives_the_room_back(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[5]).await;
    let limits = of_lane(capped(4));
    let mut held = scene.claim_one(1).await;
    scene.ask(&mut held, &[0, 1, 2], &limits).await;
    fixture.store().cancel_run(&scene.run).await.unwrap();
    fixture.store().cancel_batches(&scene.run, 0, 10).await.unwrap();
    assert_eq!(scene.in_intent().await, 3, "what is in flight ends by its outcome");
    scene.finish(&mut held, outcomes([0, 1, 2], OutcomeKind::Accepted)).await;
    assert_eq!(scene.in_intent().await, 0);
}

pub async fn limits_given_late_count_what_is_in_flight(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[8]).await;
    let limits = of_lane(capped(4));
    let mut held = scene.claim_one(1).await;
    scene.intend(&mut held, &[0, 1, 2]).await;
    assert_eq!(scene.in_intent().await, 0);
    let answer = scene.ask(&mut held, &[3, 4], &limits).await;
    assert_eq!((answer.granted.clone(), throttled(&answer)), (vec![3], vec![4]));
    // Taken away again: the count stays true until all of them have left.
    scene.checkpoint(&mut held, outcomes([0], OutcomeKind::Accepted), vec![4]).await;
    assert_eq!(scene.in_intent().await, 4);
    scene.checkpoint(&mut held, outcomes([1, 2, 3, 4], OutcomeKind::Accepted), vec![5]).await;
    assert_eq!(scene.in_intent().await, 1, "who comes in the report with which they leave is counted with them");
    scene.checkpoint(&mut held, outcomes([5], OutcomeKind::Accepted), Vec::new()).await;
    assert_eq!(scene.in_intent().await, 0);
}

pub async fn claim_skips_a_lane_without_room(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[5, 5, 5]).await;
    let limits = of_lane(capped(2));
    let mut held = scene.claim_limited(1, 1, &limits).await.remove(0);
    scene.ask(&mut held, &[0, 1], &limits).await;
    assert!(scene.claim_limited(2, 5, &limits).await.is_empty());
    let new = crate::NewRun { lane: lane("transactional"), ..new_run("other lane") };
    let other = Scene::with(fixture, new, &[1]).await;
    let claimed = scene.claim_limited(2, 5, &limits).await;
    assert_eq!(claimed.iter().map(|held| &held.batch.run).collect::<Vec<_>>(), [&other.run], "others go on");
    scene.checkpoint(&mut held, outcomes([0], OutcomeKind::Accepted), Vec::new()).await;
    assert_eq!(scene.claim_limited(2, 5, &limits).await.len(), 1);
}

pub async fn claim_skips_a_throttled_site(fixture: &impl Fixture) {
    let sites = ["google", "other", "google", "other", "google"];
    let scene = Scene::at_sites(fixture, new_run("one"), &sites, &[2; 5]).await;
    let mut limits = Limits::default();
    limits.site("google".parse().unwrap(), paced("5/s", 2));
    let mut held = scene.claim_limited(1, 1, &limits).await.remove(0);
    assert_eq!(held.batch.sequence, 1);
    assert_eq!(scene.ask(&mut held, &[0, 1], &limits).await.granted.len(), 2);
    let sequences = |held: Vec<Held>| held.iter().map(|held| held.batch.sequence).collect::<Vec<_>>();
    assert_eq!(sequences(scene.claim_limited(2, 5, &limits).await), [2, 4], "only the others");
    assert!(scene.claim_limited(2, 5, &limits).await.is_empty());
    fixture.pass(410).await;
    assert_eq!(sequences(scene.claim_limited(2, 5, &limits).await), [3], "it is its turn again, with room for two");
    // A limit that is taken away leaves nobody behind.
    scene.reclaim().await;
    fixture.pass(CAP_PAUSE_MS + 1).await;
    scene.reclaim().await;
    assert!(sequences(scene.claim(3, 5).await).contains(&5));
}

pub async fn claim_takes_no_more_than_has_room(fixture: &impl Fixture) {
    let scene = Scene::of(fixture, &[5; 10]).await;
    let limits = of_lane(paced(CRAWL, 12));
    assert_eq!(scene.claim_limited(1, 8, &limits).await.len(), 3, "three batches have the twelve that may begin");
    assert_eq!(scene.claim_limited(1, 8, &Limits::default()).await.len(), 7);
}
