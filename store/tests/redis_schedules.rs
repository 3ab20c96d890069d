//! The run of a schedule on its way from the global keys to its shard: wherever its master dies, it begins once.

#![expect(clippy::unwrap_used, reason = "a fixture that cannot be made fails its test")]

mod redis_server;

use postrider_common::ids::{CampaignName, DefinitionHash};
use postrider_common::mark::Marks;
use postrider_store::conformance::scene::{Scene, new_run};
use postrider_store::redis::Redis;
use postrider_store::{
    ApplyCampaign, Compare, Fire, Fired, ForgetRun, ForgottenRun, NewRun, Reclaim, Scheduled, Store, StoreError,
};
use redis_server::{Served, Server};

const SHARDS: u16 = 3;
/// Written down, the run before cancelled, the new one created, acknowledged.
const STEPS: usize = 4;
const RECLAIM: Reclaim = Reclaim { limit: 10, ttl_ms: 1000, doubt_grace_ms: 100, outage_gap_ms: 3_600_000 };

fn name() -> CampaignName {
    "digest".parse().unwrap()
}

fn outbox(server: &Server) -> Vec<String> {
    server.command(&["HVALS", "postrider:{g}:outbox"])
}

async fn scheduled() -> Served {
    let fixture = Served::of_shards(SHARDS).await;
    fixture.store.compare(Compare { marks: Marks::default(), confirm: true }).await.unwrap();
    let definition_bytes = b"definition".to_vec();
    let definition = DefinitionHash::of(&definition_bytes);
    let apply = ApplyCampaign {
        name: name(),
        key: None,
        fingerprint: definition.to_string(),
        spec: b"spec".to_vec(),
        schedule: b"daily".to_vec(),
        definition,
        definition_bytes,
    };
    fixture.store.apply_campaign(apply).await.unwrap();
    fixture
}

async fn standing(store: &Redis) -> Scheduled {
    store.campaign(&name()).await.unwrap().unwrap().schedule.unwrap()
}

/// A run that is due in the next millisecond, and takes the place of another.
async fn fire(fixture: &Served, run: &str, cancel: Option<&str>) -> Fire {
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    let now = fixture.store.now_ms().await.unwrap();
    let audience = (0..=255).collect();
    let run = NewRun { campaign: "digest".into(), nominal_at_ms: Some(now), audience, ..new_run(run) };
    Fire {
        campaign: name(),
        request: format!("fire-{}", run.id).parse().unwrap(),
        stamp: standing(&fixture.store).await.stamp,
        decided_until_ms: now,
        due_at_ms: Some(now + 60_000),
        look_at_ms: Some(now + 60_000),
        zones: "2026e".to_owned(),
        skipped: Vec::new(),
        run: Some(run),
        cancel: cancel.map(|run| new_run(run).id),
    }
}

async fn dying(fixture: &Served, steps: usize) -> Redis {
    let store = fixture.server.store_of_shards(SHARDS).await.unwrap();
    store.end_after_steps(steps);
    store
}

#[tokio::test]
async fn a_run_begins_once_wherever_its_master_dies() {
    // Runs that are in one shard and in several.
    for (steps, second) in (0..=STEPS).flat_map(|steps| ["b", "c", "d", "e"].map(|second| (steps, second))) {
        let fixture = scheduled().await;
        let store = &fixture.store;
        assert_eq!(store.fire(fire(&fixture, "a", None).await).await.unwrap(), Fired::Done);
        let call = fire(&fixture, second, Some("a")).await;
        let answer = dying(&fixture, steps).await.fire(call.clone()).await;
        match answer {
            Ok(fired) => assert_eq!((fired, steps), (Fired::Done, STEPS)),
            Err(error) => assert!(matches!(error, StoreError::Unavailable(_)) && steps < STEPS, "{error}"),
        }
        assert_eq!(outbox(&fixture.server).len(), usize::from((1..STEPS).contains(&steps)), "after {steps} steps");
        // As every master does all the time.
        store.reclaim(RECLAIM).await.unwrap();
        assert_eq!(outbox(&fixture.server), Vec::<String>::new());
        let happened = steps > 0;
        let made = store.run(&new_run(second).id).await.unwrap();
        assert_eq!(made.is_some(), happened, "after {steps} steps");
        assert_eq!(store.run(&new_run("a").id).await.unwrap().unwrap().cancelled, happened);
        assert_eq!(standing(store).await.fired, 1 + u64::from(happened));
        // It asks again, or another master that saw the same does.
        assert_eq!(store.fire(call.clone()).await.unwrap(), Fired::Done);
        let other = Fire { request: "another".parse().unwrap(), ..call.clone() };
        assert_eq!(store.fire(other).await.unwrap(), Fired::Stale);
        let made = store.run(&new_run(second).id).await.unwrap().unwrap();
        assert_eq!((made.audience, Some(made.nominal_at_ms)), ((0..=255).collect(), call.run.unwrap().nominal_at_ms));
        assert_eq!(standing(store).await.fired, 2);
        assert_eq!(store.runs(None, 10).await.unwrap().len(), 2);
        assert_eq!(outbox(&fixture.server), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_run_on_its_way_is_begun_before_anything_else_of_its_campaign() {
    for what in ["fire", "pause", "delete"] {
        let fixture = scheduled().await;
        let store = &fixture.store;
        let call = fire(&fixture, "a", None).await;
        dying(&fixture, 1).await.fire(call).await.unwrap_err();
        assert_eq!(store.run(&new_run("a").id).await.unwrap(), None);
        match what {
            "fire" => {
                let next = fire(&fixture, "b", None).await;
                assert_eq!(store.fire(next.clone()).await.unwrap(), Fired::Busy);
                assert!(store.run(&new_run("a").id).await.unwrap().is_some());
                assert_eq!(store.fire(next).await.unwrap(), Fired::Done);
                assert!(store.run(&new_run("b").id).await.unwrap().is_some());
            }
            // Once that was answered no run begins any more.
            "pause" => assert!(store.set_campaign_paused(&name(), true).await.unwrap()),
            _ => assert!(store.delete_campaign(&name()).await.unwrap()),
        }
        assert!(store.run(&new_run("a").id).await.unwrap().is_some(), "{what}");
        assert_eq!(outbox(&fixture.server), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_run_that_was_forgotten_is_not_begun_by_a_late_copy() {
    let fixture = scheduled().await;
    let store = &fixture.store;
    let call = fire(&fixture, "a", None).await;
    dying(&fixture, 1).await.fire(call).await.unwrap_err();
    // What a master read that is then held up for long.
    let old = outbox(&fixture.server).remove(0);
    store.reclaim(RECLAIM).await.unwrap();
    let run = new_run("a").id;
    store.cancel_run(&run).await.unwrap();
    store.cancel_batches(&run, 0, 10).await.unwrap();
    let forget = ForgetRun { run: run.clone(), keep_ms: 0, keep_dead_ms: None, limit: 10 };
    assert_eq!(store.forget_run(forget).await.unwrap(), ForgottenRun::Step { batches: 0, left: 0 });
    fixture.server.command::<()>(&["HSET", "postrider:{g}:outbox", "F|digest", &old]);
    assert_eq!(store.relay_effects().await.unwrap(), 1);
    assert_eq!(outbox(&fixture.server), Vec::<String>::new());
    assert_eq!(store.run(&run).await.unwrap(), None);
    assert_eq!(standing(store).await.fired, 1);
}

#[tokio::test]
async fn a_run_that_cannot_be_begun_holds_up_no_other_effect() {
    let fixture = scheduled().await;
    let store = &fixture.store;
    let call = fire(&fixture, "a", None).await;
    dying(&fixture, 1).await.fire(call).await.unwrap_err();
    let lane = "bulk".parse().unwrap();
    dying(&fixture, 1).await.set_lane_paused(&lane, true).await.unwrap_err();
    // There is no room for new work, so that runs are refused; a pause is not.
    fixture.server.command::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    assert!(store.relay_effects().await.is_err());
    assert!(store.lanes(std::slice::from_ref(&lane)).await.unwrap()[0].paused);
    assert_eq!(outbox(&fixture.server).len(), 1);
    fixture.server.command::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(store.relay_effects().await.unwrap(), 1);
    assert!(store.run(&new_run("a").id).await.unwrap().is_some());
    let scene = Scene { fixture: &fixture, run: new_run("a").id };
    assert_eq!(scene.claim_split().await.unwrap().run, scene.run);
}
