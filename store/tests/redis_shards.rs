//! A store of several shards, on one server: the same promises, and those that only several shards can break.

#![expect(clippy::unwrap_used, reason = "a fixture that cannot be made fails its test")]

mod redis_server;

use postrider_common::OutcomeKind;
use postrider_common::ids::{CampaignName, DefinitionHash};
use postrider_common::lease::{LeaseReport, LeaseStatus};
use postrider_common::pace::Limits;
use postrider_store::conformance::Fixture;
use postrider_store::conformance::scene::{Held, Scene, lane, new_run, outcomes, worker};
use postrider_store::redis::Redis;
use postrider_store::{
    ApplyCampaign, Checkpoint, ClaimHistory, Claimed, CreatedRun, Finish, NewRun, Reclaim, RetireBatches, RunRecord,
    Store, StoreError,
};
use redis_server::{Served, Server};
use std::sync::Arc;

const SHARDS: u16 = 3;

async fn shards() -> Served {
    Served::of_shards(SHARDS).await
}

postrider_store::conformance_tests!(shards, of_shards);

#[tokio::test]
async fn the_number_of_shards_never_changes() {
    let fixture = shards().await;
    for other in [1, SHARDS + 1] {
        let error = fixture.server.store_of_shards(other).await.unwrap_err();
        let StoreError::Unsafe { message, mend } = error else { panic!("{error}") };
        assert!(message.contains(&format!("{SHARDS} shards, not {other}")), "{message}");
        assert!(mend.contains(&format!("shards = {SHARDS} in [store]")), "{mend}");
    }
    fixture.server.store_of_shards(SHARDS).await.unwrap();
}

fn is_in_each_shard(server: &Server, words: &[&str], key: &str) -> [bool; SHARDS as usize] {
    std::array::from_fn(|shard| {
        let key = format!("postrider:{{s{shard}}}:{key}");
        server.command::<i64>(&[&[words[0], &key][..], &words[1..]].concat()) == 1
    })
}

fn outbox(server: &Server) -> Vec<String> {
    server.command(&["HKEYS", "postrider:{g}:outbox"])
}

/// Written down, applied in each shard, acknowledged.
const STEPS: usize = SHARDS as usize + 2;

/// Begins an effect with a master that ends after so many steps, has another one go on, and gives what the first said.
async fn ended_after<'a, A: std::fmt::Debug, F>(
    fixture: &'a Served,
    steps: usize,
    call: impl Fn(Arc<Redis>) -> F,
) -> bool
where
    F: Future<Output = Result<A, StoreError>> + 'a,
{
    let dying = Arc::new(fixture.server.store_of_shards(SHARDS).await.unwrap());
    dying.end_after_steps(steps);
    let answer = call(Arc::clone(&dying)).await;
    assert_eq!(answer.is_ok(), steps >= STEPS, "an OK is given when it holds everywhere: {answer:?}");
    let left = outbox(&fixture.server).len();
    assert_eq!(left, usize::from((1..STEPS).contains(&steps)), "after {steps} steps");
    // As every master does all the time.
    let reclaim = Reclaim { limit: 10, ttl_ms: 1000, doubt_grace_ms: 100, outage_gap_ms: 3_600_000 };
    fixture.store.reclaim(reclaim).await.unwrap();
    assert_eq!(outbox(&fixture.server), Vec::<String>::new());
    steps > 0
}

#[tokio::test]
async fn a_pause_reaches_every_shard_wherever_its_master_dies() {
    for steps in 0..=STEPS {
        let fixture = shards().await;
        let pause = |store: Arc<Redis>| async move { store.set_lane_paused(&lane("bulk"), true).await };
        let happened = ended_after(&fixture, steps, pause).await;
        let paused = is_in_each_shard(&fixture.server, &["SISMEMBER", "bulk"], "lanes");
        assert_eq!(paused, [happened; SHARDS as usize], "after {steps} steps");
        assert_eq!(fixture.store.lanes(&[lane("bulk")]).await.unwrap()[0].paused, happened);
        // And back.
        let resume = |store: Arc<Redis>| async move { store.set_lane_paused(&lane("bulk"), false).await };
        let resumed = ended_after(&fixture, steps, resume).await;
        let paused = is_in_each_shard(&fixture.server, &["SISMEMBER", "bulk"], "lanes");
        assert_eq!(paused, [happened && !resumed; SHARDS as usize], "after {steps} steps");
    }
}

#[tokio::test]
async fn a_drain_reaches_every_shard_wherever_its_master_dies() {
    for steps in 0..=STEPS {
        let fixture = shards().await;
        let scene = Scene::of(&fixture, &[1]).await;
        // Until then only the shard of the run need have seen it.
        scene.claim_one(1).await;
        let drain = |store: Arc<Redis>| async move { store.drain_worker("w1").await };
        let happened = ended_after(&fixture, steps, drain).await;
        for number in 0..20 {
            let mut claim = scene.claim_call(1, 1, &[("bulk", 1)]);
            claim.request = format!("anywhere-{number}").parse().unwrap();
            let claimed = fixture.store.claim(claim).await.unwrap();
            assert_eq!(claimed.drain, happened, "after {steps} steps, request {number}");
        }
        let workers = fixture.store.workers().await.unwrap();
        assert_eq!(workers.iter().map(|worker| worker.draining).collect::<Vec<_>>(), [happened]);
    }
}

#[tokio::test]
async fn a_paused_or_deleted_campaign_starts_no_run_wherever_the_master_dies() {
    let name = "digest".parse().unwrap();
    for (deletes, steps) in (0..=STEPS).flat_map(|steps| [(false, steps), (true, steps)]) {
        let fixture = shards().await;
        let store = &fixture.store;
        store.apply_campaign(campaign("one")).await.unwrap();
        let of_campaign = |run: &str| NewRun { campaign: "digest".into(), requires_campaign: true, ..new_run(run) };
        assert_eq!(store.create_run(of_campaign("before")).await.unwrap(), CreatedRun::Created);
        let before: Vec<String> = fixture.server.command(&["HGETALL", "postrider:{g}:campaign:digest"]);
        let name: &CampaignName = &name;
        let steer = |store: Arc<Redis>| async move {
            if deletes { store.delete_campaign(name).await } else { store.set_campaign_paused(name, true).await }
        };
        let happened = ended_after(&fixture, steps, steer).await;
        // Somebody read the campaign before, and creates the run only now.
        let now: Vec<String> = fixture.server.command(&["HGETALL", "postrider:{g}:campaign:digest"]);
        let restore = |fields: &[String]| {
            fixture.server.command::<()>(&["DEL", "postrider:{g}:campaign:digest"]);
            let words: Vec<&str> = fields.iter().map(String::as_str).collect();
            if !words.is_empty() {
                fixture.server.command::<()>(&[&["HSET", "postrider:{g}:campaign:digest"], &words[..]].concat());
            }
        };
        restore(&before);
        let refused = if deletes { CreatedRun::NoCampaign } else { CreatedRun::CampaignPaused };
        // In each shard.
        for number in 0..12 {
            let created = store.create_run(of_campaign(&format!("after {number}"))).await.unwrap();
            assert_eq!(created, if happened { refused } else { CreatedRun::Created }, "{deletes}, after {steps} steps");
        }
        restore(&now);
        // Taken back, or applied anew.
        store.apply_campaign(campaign("two")).await.unwrap();
        store.set_campaign_paused(name, false).await.unwrap();
        for number in 20..32 {
            let created = store.create_run(of_campaign(&format!("after {number}"))).await.unwrap();
            assert_eq!(created, CreatedRun::Created);
        }
    }
}

fn campaign(spec: &str) -> ApplyCampaign {
    let definition_bytes = b"definition".to_vec();
    let definition = DefinitionHash::of(&definition_bytes);
    let (spec, fingerprint) = (spec.as_bytes().to_vec(), definition.to_string());
    ApplyCampaign {
        name: "digest".parse().unwrap(),
        key: None,
        fingerprint,
        spec,
        schedule: Vec::new(),
        definition,
        definition_bytes,
    }
}

#[tokio::test]
async fn an_older_effect_never_undoes_a_newer_one() {
    let fixture = shards().await;
    fixture.store.set_lane_paused(&lane("bulk"), true).await.unwrap();
    let old: Vec<String> = fixture.server.command(&["HVALS", "postrider:{s0}:steered"]);
    fixture.store.set_lane_paused(&lane("bulk"), false).await.unwrap();
    // A master that was away for long, with what it had read from the outbox.
    fixture.server.command::<()>(&["HSET", "postrider:{g}:outbox", "L|bulk", &old[0]]);
    assert_eq!(fixture.store.relay_effects().await.unwrap(), 1);
    let paused = is_in_each_shard(&fixture.server, &["SISMEMBER", "bulk"], "lanes");
    assert_eq!((paused, outbox(&fixture.server)), ([false; SHARDS as usize], Vec::new()));
    // The newest is later than every earlier one even if the counter was set back.
    fixture.server.command::<()>(&["DEL", "postrider:{g}:version"]);
    // Past the milliseconds that the earlier ones took.
    fixture.pass(10).await;
    fixture.store.set_lane_paused(&lane("bulk"), true).await.unwrap();
    let paused = is_in_each_shard(&fixture.server, &["SISMEMBER", "bulk"], "lanes");
    assert_eq!(paused, [true; SHARDS as usize]);
}

#[tokio::test]
async fn a_claim_goes_on_to_the_next_shard_and_a_repeat_finds_it_all_again() {
    let fixture = shards().await;
    let names: Vec<String> = (0..6).map(|number| format!("run {number}")).collect();
    for name in &names {
        Scene::with(&fixture, new_run(name), &[1, 1]).await;
    }
    let scene = Scene { fixture: &fixture, run: new_run("run 0").id };
    let call = scene.claim_call(1, 12, &[("bulk", 1)]);
    let identity = |claimed: &Claimed| {
        claimed.leases.iter().map(|lease| (lease.batch.clone(), lease.fence.clone())).collect::<Vec<_>>()
    };
    let first = fixture.store.claim(call.clone()).await.unwrap();
    assert_eq!(first.leases.len(), 12);
    // By another master.
    let other = fixture.server.store_of_shards(SHARDS).await.unwrap();
    assert_eq!(identity(&other.claim(call).await.unwrap()), identity(&first));
    // One call about all of them, answered in its order.
    let mut reports: Vec<LeaseReport> =
        first.leases.iter().rev().map(|lease| Held::of(lease).report(Vec::new(), vec![0])).collect();
    let (window, limits) = (10, Limits::default());
    let checkpoint = Checkpoint {
        worker: worker(1),
        reports: reports.clone(),
        ttl_ms: 1000,
        window,
        retry_fraction: 0,
        limits,
        grants: None,
    };
    let answers = fixture.store.checkpoint(checkpoint).await.unwrap();
    let answered: Vec<_> = answers.iter().map(|answer| (&answer.batch, answer.status, &answer.granted[..])).collect();
    let wanted: Vec<_> = reports.iter().map(|report| (&report.batch, LeaseStatus::Held, &[0][..])).collect();
    assert_eq!(answered, wanted);
    for report in &mut reports {
        (report.sequence, report.intents) = (2, Vec::new());
        report.outcomes = outcomes([0], OutcomeKind::Accepted);
    }
    let answers = fixture.store.finish(Finish { worker: worker(1), reports, retry_fraction: 0 }).await.unwrap();
    assert!(answers.iter().all(|answer| answer.status == LeaseStatus::Settled));
    // History of all shards goes into one segment.
    let claim = ClaimHistory { request: "history".parse().unwrap(), ttl_ms: 1000, limit: 100 };
    let settled = fixture.store.claim_history(claim.clone()).await.unwrap();
    assert_eq!((settled.backlog, settled.batches.len()), (12, 12));
    let batches = settled.batches.into_iter().map(|batch| (batch.record.id, batch.stamp)).collect();
    let retire = RetireBatches { request: claim.request, segment: "segment".to_owned(), batches };
    assert_eq!(fixture.store.retire_batches(retire.clone()).await.unwrap(), 12);
    assert_eq!(other.retire_batches(retire).await.unwrap(), 12);
}

#[tokio::test]
async fn a_claim_that_finds_enough_asks_no_other_shard() {
    let fixture = shards().await;
    let counts = |server: &Server| {
        let stats: String = server.command(&["INFO", "commandstats"]);
        let line = stats.lines().find(|line| line.starts_with("cmdstat_fcall:")).unwrap_or_default().to_owned();
        line.split(['=', ',']).nth(1).map_or(0, |calls| calls.parse::<u64>().unwrap())
    };
    for number in 0..20 {
        Scene::with(&fixture, new_run(&format!("run {number}")), &[1; 40]).await;
    }
    let before = counts(&fixture.server);
    let scene = Scene { fixture: &fixture, run: new_run("run 0").id };
    for _ in 0..30 {
        let claimed = fixture.store.claim(scene.claim_call(1, 4, &[("bulk", 1)])).await.unwrap();
        assert_eq!(claimed.leases.len(), 4);
    }
    assert_eq!(counts(&fixture.server) - before, 30);
}

#[tokio::test]
async fn runs_of_all_shards_are_listed_page_by_page() {
    let fixture = shards().await;
    for number in 0..10 {
        fixture.store.create_run(new_run(&format!("run {number}"))).await.unwrap();
    }
    let all = fixture.store.runs(None, 100).await.unwrap();
    assert_eq!(all.len(), 10);
    assert!(all.is_sorted_by(|a, b| (a.created_at_ms, a.id.as_str()) > (b.created_at_ms, b.id.as_str())));
    let mut paged = Vec::new();
    loop {
        let before = paged.last().map(|run: &RunRecord| (run.created_at_ms, run.id.clone()));
        let page = fixture.store.runs(before, 3).await.unwrap();
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, all);
}
