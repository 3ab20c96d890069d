//! A limit that several shards share: what they may use never adds up to more.

use super::Fixture;
use super::scene::lane;
use crate::embedded::model::Model;
use crate::quota::{Amounts, Limited, MANY, QUOTA_TTL_MS, Quota, ShardDemand, ShareLimit, SharedLimit};
use postrider_common::pace::{Limit, Pace};

/// Instants kept by the store and by the model differ by as much as this, or as the longest call took.
const SLACK_MS: i64 = 10;

/// Some shards, as they stand after they took what they were told.
struct Fleet<'a, F: Fixture> {
    fixture: &'a F,
    of: Limited,
    limit: Limit,
    turn: u64,
    ttl_ms: u64,
    shards: Vec<ShardDemand>,
}

impl<'a, F: Fixture> Fleet<'a, F> {
    fn new(fixture: &'a F, shards: usize) -> Self {
        let pace = Pace { rate: "100/s".parse().unwrap(), burst: 50 };
        let limit = Limit { pace: Some(pace), concurrency: Some(20) };
        let of = Limited::Lane(lane("bulk"));
        Self { fixture, of, limit, turn: 0, ttl_ms: QUOTA_TTL_MS, shards: vec![ShardDemand::default(); shards] }
    }

    fn call(&self, heard: &[usize]) -> ShareLimit {
        let shards =
            self.shards.iter().enumerate().map(|(at, demand)| heard.contains(&at).then_some(*demand)).collect();
        let (limit, turn, ttl_ms) = (self.limit, self.turn, self.ttl_ms);
        ShareLimit { of: self.of.clone(), limit, turn, ttl_ms, shards }
    }

    async fn share(&mut self, heard: &[usize]) -> SharedLimit {
        let answer = self.fixture.store().share_limit(self.call(heard)).await.unwrap();
        self.turn = answer.turn;
        answer
    }

    fn take(&mut self, at: usize, quota: Option<Quota>) {
        if let Some(quota) = quota.filter(|quota| quota.version > self.shards[at].version) {
            let shard = &mut self.shards[at];
            (shard.version, shard.is_live, shard.has) = (quota.version, true, quota.amounts);
        }
    }

    /// Everybody is heard and told.
    async fn move_all(&mut self) -> SharedLimit {
        let answer = self.share(&(0..self.shards.len()).collect::<Vec<_>>()).await;
        (0..self.shards.len()).for_each(|at| self.take(at, answer.quotas[at]));
        answer
    }

    fn has(&self) -> Vec<[u64; 3]> {
        self.shards.iter().map(|shard| shard.has.0).collect()
    }
}

pub async fn share_limit_gives_more_once_others_have_less(fixture: &impl Fixture) {
    let mut fleet = Fleet::new(fixture, 2);
    fleet.shards[0].waiting = MANY;
    let first = fleet.move_all().await;
    assert!(!first.is_awaited);
    assert_eq!(first.quotas[0].map(|quota| quota.saved), Some(49), "nobody used it before");
    assert_eq!(fleet.has(), [[354_375, 49, 19], [5625, 1, 1]], "nearly all, where it is of use");
    fleet.shards[1].waiting = MANY;
    let answer = fleet.share(&[0, 1]).await;
    let is_as_before = |quota: Quota| quota.amounts.0 == [5625, 1, 1];
    assert!(answer.is_awaited && answer.quotas[1].is_none_or(is_as_before), "{answer:?}");
    fleet.take(0, answer.quotas[0]);
    assert_eq!(fleet.has()[0], [180_000, 25, 10]);
    let answer = fleet.move_all().await;
    assert_eq!(answer.quotas[1].map(|quota| quota.saved), Some(0), "it may have been used where it was");
    assert_eq!(fleet.has(), [[180_000, 25, 10]; 2]);
    fleet.move_all().await;
    assert_eq!(fleet.has(), [[180_000, 25, 10]; 2]);
}

pub async fn share_limit_of_an_old_turn_changes_nothing(fixture: &impl Fixture) {
    let mut fleet = Fleet::new(fixture, 2);
    let stale = fleet.call(&[0, 1]);
    fleet.move_all().await;
    let answer = fixture.store().share_limit(stale).await.unwrap();
    assert_eq!(answer, SharedLimit { turn: fleet.turn, is_stale: true, is_awaited: false, quotas: Vec::new() });
    assert!(!fleet.share(&[0, 1]).await.is_stale);
}

pub async fn share_limit_tells_again_what_was_not_taken(fixture: &impl Fixture) {
    let mut fleet = Fleet::new(fixture, 2);
    let lost = fleet.share(&[0, 1]).await.quotas;
    fleet.shards[0].waiting = MANY;
    let again = fleet.share(&[0, 1]).await;
    for (lost, again) in lost.iter().zip(&again.quotas) {
        let (lost, again) = (lost.unwrap(), again.unwrap());
        assert_eq!((lost.version, lost.amounts, lost.saved), (again.version, again.amounts, again.saved));
    }
    fleet.take(0, again.quotas[0]);
    fleet.take(1, again.quotas[1]);
    fleet.move_all().await;
    fleet.move_all().await;
    assert_eq!(fleet.has()[0][2], 19);
}

pub async fn share_limit_counts_what_is_in_flight(fixture: &impl Fixture) {
    let mut fleet = Fleet::new(fixture, 2);
    fleet.shards[0].waiting = MANY;
    fleet.move_all().await;
    (fleet.shards[0].in_flight, fleet.shards[1].waiting) = (19, MANY);
    fleet.move_all().await;
    fleet.move_all().await;
    assert_eq!(fleet.has().map_last(), [10, 1], "until those in flight have ended");
    fleet.shards[0].in_flight = 12;
    fleet.move_all().await;
    assert_eq!(fleet.has().map_last(), [10, 8]);
    fleet.shards[0].in_flight = 3;
    fleet.move_all().await;
    assert_eq!(fleet.has().map_last(), [10, 10]);
}

pub async fn share_limit_keeps_the_part_of_a_shard_that_is_not_heard(fixture: &impl Fixture) {
    let mut fleet = Fleet::new(fixture, 2);
    fleet.ttl_ms = 200;
    (fleet.shards[0].waiting, fleet.shards[1].waiting) = (MANY, MANY);
    fleet.move_all().await;
    // However long the machine stands still in between, which looks like a clock that stepped.
    for _ in 0..100 {
        fixture.pass(fleet.ttl_ms + 1).await;
        let answer = fleet.share(&[0]).await;
        fleet.take(0, answer.quotas[0]);
        if fleet.has()[0][0] == 360_000 {
            break;
        }
    }
    assert_eq!(fleet.has()[0], [360_000, 50, 10], "its rate has ended, and what may be in flight there has not");
}

trait Lasts {
    fn map_last(&self) -> Vec<u64>;
}

impl Lasts for Vec<[u64; 3]> {
    fn map_last(&self) -> Vec<u64> {
        self.iter().map(|amounts| amounts[2]).collect()
    }
}

/// Random calls, some of them stale, of shards that are not heard, not told, or that forget; every answer is as the model's.
/// A machine that stands still for longer than what is compared lasts leaves the model with instants that cannot be
/// right, so then the same is tried again with all times longer.
pub async fn share_limit_is_as_the_model_says(fixture: &impl Fixture) {
    let seed = std::env::var("POSTRIDER_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("POSTRIDER_SEED={seed}");
    let mut differed = None;
    for times in [1, 2, 4, 8, 16] {
        match compared(fixture, seed, times).await {
            Ok(()) => return,
            Err(Differed { slack_ms, told }) if slack_ms > SLACK_MS * times => differed = Some(told),
            Err(Differed { told, .. }) => panic!("seed {seed} {told}"),
        }
    }
    panic!("seed {seed} {differed:?}");
}

struct Differed {
    /// The longest call, when it took longer than what was taken for granted.
    slack_ms: i64,
    told: String,
}

async fn compared(fixture: &impl Fixture, seed: u64, times: i64) -> Result<(), Differed> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut model = Model::default();
    let mut fleet = Fleet::new(fixture, 3);
    fleet.of = Limited::Lane(lane(&format!("slower{times}")));
    fleet.ttl_ms = 60 * times as u64;
    let mut slack_ms = SLACK_MS * times;
    for step in 0..150 {
        for shard in &mut fleet.shards {
            match random.u8(0..12) {
                0 => shard.waiting = [0, 1, 5, 40, MANY][random.usize(0..5)],
                1 => shard.in_flight = random.u64(0..=shard.has.0[2]),
                2 => shard.is_live = false,
                3 => *shard = ShardDemand { waiting: shard.waiting, ..ShardDemand::default() },
                _ => {}
            }
        }
        if random.u8(0..10) == 0 {
            let pace = Pace { rate: "90/m".parse().unwrap(), burst: random.u32(1..9) };
            fleet.limit = Limit { pace: random.bool().then_some(pace), concurrency: Some(random.u32(1..30)) };
        }
        let heard: Vec<usize> = (0..3).filter(|_| random.u8(0..6) > 0).collect();
        let mut call = fleet.call(&heard);
        call.turn -= u64::from(random.u8(0..10) == 0 && call.turn > 0);
        let before = fixture.store().now_ms().await.unwrap();
        let answer = fixture.store().share_limit(call.clone()).await.unwrap();
        let after = fixture.store().now_ms().await.unwrap();
        slack_ms = slack_ms.max(after - before + 1);
        let mut tried = (before..=after).chain(before - slack_ms..before).chain(after + 1..=after + slack_ms);
        let agreed = tried.find_map(|now| {
            let mut tried = model.clone();
            is_same(&tried.share_limit(now, call.clone()), &answer, slack_ms as u64).then_some(tried)
        });
        let Some(agreed) = agreed else {
            let expected = model.share_limit(after, call.clone());
            return Err(Differed { slack_ms, told: format!("step {step}: {answer:?} is not {expected:?}") });
        };
        model = agreed;
        fleet.turn = answer.turn;
        for (at, quota) in answer.quotas.iter().enumerate() {
            if random.u8(0..4) > 0 {
                fleet.take(at, *quota);
            }
        }
        fixture.pass(random.u64(1..20) * times as u64).await;
    }
    Ok(())
}

/// But for the instants that the two cannot have in common.
fn is_same(ours: &SharedLimit, theirs: &SharedLimit, slack_ms: u64) -> bool {
    let plain = |shared: &SharedLimit| {
        let quotas = shared.quotas.iter().map(|quota| quota.map(|Quota { version, amounts, .. }| (version, amounts)));
        (shared.turn, shared.is_stale, shared.is_awaited, quotas.collect::<Vec<Option<(u64, Amounts)>>>())
    };
    let near = |(a, b): (&Option<Quota>, &Option<Quota>)| match (a, b) {
        // At most a hundred a second are saved up.
        (Some(a), Some(b)) => {
            a.lasts_ms.abs_diff(b.lasts_ms) <= slack_ms && a.saved.abs_diff(b.saved) <= 1 + slack_ms / 10
        }
        (a, b) => a.is_none() && b.is_none(),
    };
    plain(ours) == plain(theirs) && ours.quotas.iter().zip(&theirs.quotas).all(near)
}
