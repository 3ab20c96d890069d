//! Limits that shards share, on one server: nearly all of them where they are of use, never more than all, whatever
//! becomes of the masters that move them.

#![expect(clippy::unwrap_used, reason = "a fixture that cannot be made fails its test")]

mod redis_limits;
mod redis_server;

use postrider_common::pace::{Limit, Limits, Pace};
use postrider_store::conformance::scene::{Scene, lane, new_run};
use redis_server::{Served, Server};
use std::sync::Arc;
use std::time::Duration;

const SHARDS: u16 = 3;

#[tokio::test]
async fn what_is_of_no_use_elsewhere_is_used() {
    redis_limits::what_is_of_no_use_elsewhere_is_used(&Served::of_shards(SHARDS).await, SHARDS.into()).await;
}

#[tokio::test]
async fn shards_together_keep_to_a_rate() {
    redis_limits::shards_together_keep_to_a_rate(&Served::of_shards(SHARDS).await).await;
}

#[tokio::test]
async fn one_shard_alone_shares_nothing() {
    let fixture = Served::of_shards(1).await;
    redis_limits::shards_together_keep_to_a_rate(&fixture).await;
    let keys: u32 = fixture.server.command(&["EXISTS", "postrider:{g}:quotas"]);
    assert_eq!(keys, 0);
    let fields: Vec<String> = fixture.server.command(&["HKEYS", "postrider:{s0}:pace"]);
    assert_eq!(fields, ["L|bulk"]);
}

/// What each shard may use now, at one instant: rate, burst, at once.
fn held(server: &Server) -> Vec<[u64; 3]> {
    let look = "local t = redis.call('TIME')
        local now = t[1] * 1000 + math.floor(t[2] / 1000)
        local all = {}
        for n = 1, #KEYS do
          local q = redis.call('HMGET', KEYS[n], 'Q', 'Q|L|bulk')
          local ends, rate, burst, cap = string.match(q[2] or '', '^%d+|(%d+)|(%d+)|(%d+)|(%d+)$')
          local live = ends and tonumber(q[1]) <= now and now < tonumber(ends)
          for _, amount in ipairs({ rate or 0, burst or 0, cap or 0 }) do all[#all + 1] = live and tonumber(amount) or 0 end
        end
        return all";
    let keys: Vec<String> = (0..SHARDS).map(|shard| format!("postrider:{{s{shard}}}:pace")).collect();
    let count = SHARDS.to_string();
    let words: Vec<&str> = ["EVAL", look, &count].into_iter().chain(keys.iter().map(String::as_str)).collect();
    let all: Vec<u64> = server.command(&words);
    all.chunks(3).map(|amounts| amounts.try_into().unwrap()).collect()
}

/// Masters that move quotas at the same time, and end anywhere in it.
#[tokio::test]
async fn masters_that_end_anywhere_never_give_more_than_all() {
    let seed = std::env::var("POSTRIDER_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("POSTRIDER_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let fixture = Served::of_shards(SHARDS).await;
    let mut limits = Limits::default();
    let pace = Pace { rate: "100/s".parse().unwrap(), burst: 31 };
    limits.lane(lane("bulk"), Limit { pace: Some(pace), concurrency: Some(23) });
    let mut masters = Vec::new();
    for _ in 0..3 {
        masters.push(Arc::new(fixture.server.store_of_shards(SHARDS).await.unwrap()));
    }
    let mut given = 0;
    for step in 0..300 {
        if step % 40 == 0 {
            Scene::with(&fixture, new_run(&format!("run {step}")), &[5; 9]).await;
        }
        let master = Arc::clone(&masters[random.usize(0..masters.len())]);
        let (moved, micros) = (limits.clone(), random.u64(0..3_000));
        let moving = tokio::spawn(async move {
            drop(tokio::time::timeout(Duration::from_micros(micros), master.move_quotas(&moved)).await);
        });
        if random.bool() {
            moving.await.unwrap();
        }
        let all = held(&fixture.server);
        for (kind, limit) in [360_000, 31, 23].into_iter().enumerate() {
            let sum: u64 = all.iter().map(|amounts| amounts[kind]).sum();
            assert!(sum <= limit, "seed {seed} step {step}: {all:?}");
            given += u64::from(sum == limit);
        }
    }
    assert!(given > 0, "nothing was ever given whole, seed {seed}");
}
