//! The set of those who are not sent to on a real server: what it costs in memory, and what several shards and a master that ends
//! in the middle make of it.

#![expect(clippy::unwrap_used, reason = "a case that cannot reach its server has failed")]

mod redis_server;

use postrider_common::suppression::{SuppressionKey, SuppressionReason, SuppressionScope};
use postrider_store::conformance::scene::Scene;
use postrider_store::{Reclaim, Store, Suppress, Suppressing, SuppressionChange};
use redis_server::{Served, Server};

const SUBJECTS: u64 = 1_000_000;
const PER_CALL: u64 = 1000;
/// Of the server's memory, for each subject with an address of 28 bytes.
const BYTES_EACH_MAX: u64 = 110;

/// Spread as hashes are: multiplied by an odd number.
fn key(number: u64) -> SuppressionKey {
    let mut key = [0; SuppressionKey::BYTES];
    key[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    SuppressionKey(key)
}

fn add(numbers: std::ops::Range<u64>) -> Suppress {
    let change = |number: u64| SuppressionChange::Add {
        key: key(number),
        scope: SuppressionScope::Lane("bulk".parse().unwrap()),
        reason: SuppressionReason::Unsubscribe,
        at_ms: None,
        subject: format!("person{number:09}@example.com").into_bytes(),
    };
    Suppress { check: "check".to_owned(), changes: numbers.map(change).collect() }
}

fn memory(server: &Server) -> u64 {
    let info: String = server.command(&["INFO", "memory"]);
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    line.trim().parse().unwrap()
}

#[tokio::test]
async fn a_million_subjects_stay_small_and_are_listed_whole() {
    let server = Server::start();
    let store = server.store().await;
    let before = memory(&server);
    for first in (0..SUBJECTS).step_by(PER_CALL as usize) {
        let answer = store.suppress(add(first..first + PER_CALL)).await.unwrap();
        assert!(matches!(answer, Suppressing::Done { changed: PER_CALL, .. }), "{answer:?}");
    }
    let each = (memory(&server) - before) / SUBJECTS;
    println!("{SUBJECTS} subjects take {each} bytes each");
    assert!(each < BYTES_EACH_MAX, "{each} bytes each");
    assert_eq!(store.suppression_set().await.unwrap().count, SUBJECTS);
    let (mut after, mut listed) = (None, 0);
    loop {
        let page = store.suppressions_after(after, 100_000).await.unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.windows(2).all(|two| two[0].key < two[1].key));
        (after, listed) = (Some(last.key), listed + page.len() as u64);
    }
    assert_eq!(listed, SUBJECTS);
}

const SHARDS: u16 = 3;
/// Written down, told to each shard, acknowledged.
const STEPS: usize = SHARDS as usize + 2;

/// The number that each shard knows; 0: none.
fn known(server: &Server) -> Vec<u64> {
    let number =
        |shard| -> Option<u64> { server.command(&["HGET", &format!("postrider:{{s{shard}}}:shard"), "suppressed"]) };
    (0..SHARDS).map(|shard| number(shard).unwrap_or(0)).collect()
}

#[tokio::test]
async fn an_addition_is_answered_once_every_shard_knows_wherever_its_master_dies() {
    for steps in 0..=STEPS {
        let fixture = Served::of_shards(SHARDS).await;
        let dying = fixture.server.store_of_shards(SHARDS).await.unwrap();
        dying.end_after_steps(steps);
        let answer = dying.suppress(add(0..1)).await;
        assert_eq!(answer.is_ok(), steps >= STEPS, "after {steps} steps: {answer:?}");
        if answer.is_ok() {
            assert!(known(&fixture.server).iter().all(|number| *number > 0));
        }
        // As every master does all the time.
        let reclaim = Reclaim { limit: 10, ttl_ms: 1000, doubt_grace_ms: 100, outage_gap_ms: 3_600_000 };
        fixture.store.reclaim(reclaim).await.unwrap();
        let number = fixture.store.suppression_set().await.unwrap().number;
        assert_eq!(number > 0, steps > 0);
        assert_eq!(known(&fixture.server), [number; SHARDS as usize], "after {steps} steps");
        // Nothing is as it was not before: it may have been cut off in between, so everybody is told again.
        let answer = fixture.store.suppress(add(0..1)).await.unwrap();
        let Suppressing::Done { number: again, changed } = answer else { panic!("{answer:?}") };
        assert_eq!((again > number, changed), (true, u64::from(steps == 0)));
        assert_eq!(known(&fixture.server), [again; SHARDS as usize]);
    }
}

/// Its node was restored from a copy, the one with the set was not.
#[tokio::test]
async fn a_shard_that_has_forgotten_the_number_is_told_when_it_is_compared() {
    let fixture = Served::of_shards(SHARDS).await;
    let scene = Scene::of(&fixture, &[1]).await;
    fixture.store.suppress(add(0..1)).await.unwrap();
    let number = fixture.store.suppression_set().await.unwrap().number;
    for shard in 0..SHARDS {
        fixture.server.command::<()>(&["HDEL", &format!("postrider:{{s{shard}}}:shard"), "suppressed"]);
    }
    scene.confirm().await;
    assert_eq!(known(&fixture.server), [number; SHARDS as usize]);
}
