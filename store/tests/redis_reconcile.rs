//! The reconciler on a real server, against harm that no transition does: each kind is made by hand, noticed by its kind,
//! repaired, and the run comes to its end with everybody in it.

#![expect(clippy::unwrap_used, reason = "a case that cannot reach its server has failed")]

mod redis_server;

use postrider_common::OutcomeKind;
use postrider_common::run::RunState;
use postrider_common::state::RecipientState;
use postrider_store::conformance::Fixture;
use postrider_store::conformance::reconcile::reconcile_all;
use postrider_store::conformance::scene::{GRACE_MS, Held, Scene, TTL_MS, outcomes};
use postrider_store::conformance::waves::waves;
use postrider_store::{DeadAnswer, Reclaim, Repair, RepairKind, Store};
use redis_server::{Served, Server};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bound of every wait for a run to end.
const END_MAX: Duration = Duration::from_secs(60);

async fn harmed() -> Served {
    let server = Server::start_with(&["--appendonly", "no"]);
    let store = server.store_with(postrider_store::Durability::Relaxed).await.unwrap();
    Served { store: Arc::new(store), server }
}

fn key(name: &str) -> String {
    format!("postrider:{{s0}}:{name}")
}

impl Served {
    fn does(&self, words: &[&str]) {
        let done: i64 = self.server.command(words);
        assert!(done > 0, "{words:?} did no harm");
    }

    /// The first entry of the ready or delayed batches.
    fn entry(&self, index: &str) -> String {
        let entries: Vec<String> = self.server.command(&["ZRANGE", &key(index), "0", "0"]);
        entries.into_iter().next().expect("somebody stands there")
    }

    async fn reconcile(&self) -> Vec<Repair> {
        reconcile_all(&*self.store).await
    }
}

fn kinds(repairs: &[Repair]) -> BTreeSet<RepairKind> {
    repairs.iter().map(|repair| repair.kind).collect()
}

/// Claims and sends until the run has ended.
async fn send_the_rest(scene: &Scene<'_, Served>) {
    let deadline = Instant::now() + END_MAX;
    while scene.record().await.state() != RunState::Finished {
        assert!(Instant::now() < deadline, "it does not end: {:?}", scene.record().await);
        scene.reclaim().await;
        for mut held in scene.claim(9, 8).await {
            // Who is not due yet comes with a later lease.
            let wanted: Vec<u32> = (0..held.count).collect();
            let granted = scene.checkpoint(&mut held, Vec::new(), wanted).await.granted;
            scene.finish(&mut held, outcomes(granted, OutcomeKind::Accepted)).await;
        }
        scene.fixture.pass(5).await;
    }
    scene.check().await;
}

/// Two batches ready, one leased with one in intent and one accepted, one that waits for a retry, one settled.
async fn mixed(fixture: &Served) -> (Scene<'_, Served>, Held) {
    let scene = Scene::of(fixture, &[3, 2, 2, 4, 2]).await;
    let mut held = scene.claim(1, 3).await;
    scene.send_all(&mut held[1], OutcomeKind::Deferred).await;
    scene.send_all(&mut held[2], OutcomeKind::Accepted).await;
    let mut leased = held.remove(0);
    scene.intend(&mut leased, &[0, 1]).await;
    scene.checkpoint(&mut leased, outcomes([1], OutcomeKind::Accepted), Vec::new()).await;
    assert_eq!(fixture.reconcile().await, [], "before any harm");
    (scene, leased)
}

/// Does harm, and sees it repaired, as this kind, once; then the run goes on to its end.
async fn is_repaired(wanted: RepairKind, harm: impl AsyncFn(&Served, &Scene<'_, Served>, &Held)) {
    let fixture = harmed().await;
    let (scene, leased) = mixed(&fixture).await;
    harm(&fixture, &scene, &leased).await;
    let repairs = fixture.reconcile().await;
    // An entry too many is found among the entries or at its batch, whichever comes first in the round.
    let is_told = |kind: RepairKind| kinds(&repairs).contains(&kind);
    let is_stray = wanted == RepairKind::Twice && is_told(RepairKind::Stray);
    assert!(is_told(wanted) || is_stray, "{wanted:?} of {repairs:?}");
    println!("{wanted:?}: {repairs:?}");
    assert_eq!(fixture.reconcile().await, [], "what was repaired is whole");
    scene.check().await;
    send_the_rest(&scene).await;
    assert_eq!(scene.record().await.recipients.accepted, 13);
    assert_eq!(fixture.reconcile().await, []);
}

#[tokio::test]
async fn a_batch_lost_from_the_ready_ones_is_put_back() {
    is_repaired(RepairKind::Lost, async |server, _, _| {
        server.does(&["ZREM", &key("rdy"), &server.entry("rdy")]);
    })
    .await;
}

#[tokio::test]
async fn a_batch_lost_from_the_delayed_ones_is_put_back() {
    is_repaired(RepairKind::Lost, async |server, _, _| {
        server.does(&["ZREM", &key("dly"), &server.entry("dly")]);
    })
    .await;
}

#[tokio::test]
async fn a_batch_lost_before_its_time_waits_for_it_again() {
    let fixture = harmed().await;
    let (scene, _) = waves(&fixture, &[(3, 3_600_000), (1, 0)]).await;
    fixture.does(&["ZREM", &key("dly"), &fixture.entry("dly")]);
    let repairs = fixture.reconcile().await;
    assert_eq!(kinds(&repairs), BTreeSet::from([RepairKind::Lost]), "{repairs:?}");
    assert_eq!(scene.claim(1, 10).await.len(), 1, "the other one");
    let record = scene.record().await;
    assert_eq!((record.batches.delayed, record.batches.leased, record.recipients.pending), (1, 1, 4));
}

#[tokio::test]
async fn all_indexes_lost_at_once_are_made_anew() {
    is_repaired(RepairKind::Lost, async |server, _, _| {
        server.does(&["DEL", &key("rdy"), &key("dly"), &key("turns"), &key("node"), &key("depth")]);
    })
    .await;
}

#[tokio::test]
async fn a_batch_in_two_places_is_left_in_one() {
    is_repaired(RepairKind::Twice, async |server, _, _| {
        server.does(&["ZADD", &key("dly"), "1", &server.entry("rdy")]);
    })
    .await;
    is_repaired(RepairKind::Twice, async |server, _, leased| {
        let held: String = server.server.command(&["HGET", &key("holder"), &leased.batch.to_string()]);
        let entry = held.splitn(8, '|').last().unwrap().to_owned();
        server.does(&["ZADD", &key("rdy"), "0", &entry]);
    })
    .await;
}

#[tokio::test]
async fn half_a_lease_is_whole_again_or_is_over() {
    is_repaired(RepairKind::Misplaced, async |server, _, leased| {
        server.does(&["ZREM", &key("lease"), &leased.batch.to_string()]);
    })
    .await;
    is_repaired(RepairKind::Misplaced, async |server, _, leased| {
        server.does(&["HDEL", &key("holder"), &leased.batch.to_string()]);
    })
    .await;
}

/// Whoever was in intent may have been sent to: it is in doubt, not pending.
#[tokio::test]
async fn a_lost_lease_leaves_a_doubt() {
    let fixture = harmed().await;
    let (scene, leased) = mixed(&fixture).await;
    fixture.does(&["DEL", &key("holder"), &key("lease")]);
    let repairs = fixture.reconcile().await;
    assert!(kinds(&repairs).contains(&RepairKind::Lost), "{repairs:?}");
    let (first, second) = (scene.delivery(&leased, 0).await, scene.delivery(&leased, 1).await);
    assert_eq!(first.state, RecipientState::Deferred);
    assert_eq!(first.reason, Some(postrider_common::state::UnknownReason::OutcomeNotRecorded));
    assert_eq!(second.state, RecipientState::Accepted, "who has ended is left alone");
    // The worker that had it has lost it, and what it tells is a fact.
    let mut late = leased.clone();
    let answer = scene.finish(&mut late, outcomes([0], OutcomeKind::Accepted)).await;
    assert_eq!(answer.status, postrider_common::lease::LeaseStatus::Lost);
    send_the_rest(&scene).await;
    assert_eq!(scene.record().await.resent_outcome_not_recorded, 0, "the fact came before it was sent again");
}

#[tokio::test]
async fn counters_are_sums_again() {
    for counter in ["pending", "accepted", "total", "b_ready", "b_leased", "b_settled"] {
        is_repaired(RepairKind::Counter, async |server, scene, _| {
            server.does(&["HDEL", &key("count"), &format!("{}|{counter}", scene.run)]);
        })
        .await;
    }
    is_repaired(RepairKind::Counter, async |server, scene, _| {
        server.does(&["HINCRBY", &key("count"), &format!("{}|pending", scene.run), "1"]);
    })
    .await;
    is_repaired(RepairKind::Counter, async |server, _, _| {
        server.does(&["HINCRBY", &key("depth"), "bulk", "3"]);
    })
    .await;
}

#[tokio::test]
async fn entries_that_name_nothing_are_taken_out() {
    let of_none = format!("bulk|other|run_{}|0000000000000001|2|abcdef|0", "0".repeat(32));
    for index in ["rdy", "dly"] {
        for entry in ["nonsense", of_none.as_str()] {
            is_repaired(RepairKind::Stray, async |server, _, _| server.does(&["ZADD", &key(index), "9e15", entry]))
                .await;
        }
    }
    is_repaired(RepairKind::Twice, async |server, _, _| {
        // Another spelling of the same batch.
        let other = server.entry("rdy").trim_end_matches('0').to_owned() + "1";
        server.does(&["ZADD", &key("rdy"), "0", &other]);
    })
    .await;
    is_repaired(RepairKind::Stray, async |server, _, _| server.does(&["ZADD", &key("lease"), "9e15", "x.1"])).await;
    is_repaired(RepairKind::Stray, async |server, _, _| server.does(&["HSET", &key("holder"), "x.1", "x"])).await;
    is_repaired(RepairKind::Stray, async |server, _, _| server.does(&["ZADD", &key("dead_order"), "0", "x"])).await;
    is_repaired(RepairKind::Stray, async |server, _, _| server.does(&["ZADD", &key("splits"), "9e15", "x"])).await;
}

#[tokio::test]
async fn a_run_is_among_the_choices_again() {
    is_repaired(RepairKind::Turn, async |server, _, _| server.does(&["DEL", &key("turns")])).await;
    is_repaired(RepairKind::Turn, async |server, scene, _| {
        server.does(&["SADD", &key("parked"), scene.run.as_str()]);
    })
    .await;
    is_repaired(RepairKind::Turn, async |server, scene, _| {
        let choice = format!("R|bulk|other|0000000000000fff|{}", scene.run);
        server.does(&["ZADD", &key("turns"), "0", &choice]);
    })
    .await;
}

#[tokio::test]
async fn a_settled_batch_waits_for_its_history_again() {
    is_repaired(RepairKind::Misplaced, async |server, _, _| server.does(&["DEL", &key("to_retire")])).await;
}

#[tokio::test]
async fn a_split_is_due_again() {
    let fixture = harmed().await;
    let scene = Scene::of(&fixture, &[1]).await;
    let open = postrider_store::conformance::scene::new_run("open");
    fixture.store.create_run(open.clone()).await.unwrap();
    fixture.does(&["ZREM", &key("splits"), open.id.as_str()]);
    assert!(scene.claim_split().await.is_none());
    assert_eq!(kinds(&fixture.reconcile().await), BTreeSet::from([RepairKind::Split]));
    assert_eq!(scene.claim_split().await.unwrap().run, open.id);
    assert_eq!(fixture.reconcile().await, []);
}

#[tokio::test]
async fn the_cancelling_of_a_run_goes_on() {
    let fixture = harmed().await;
    let scene = Scene::of(&fixture, &[2, 2]).await;
    fixture.store.cancel_run(&scene.run).await.unwrap();
    fixture.does(&["DEL", &key("to_cancel")]);
    assert_eq!(kinds(&fixture.reconcile().await), BTreeSet::from([RepairKind::Split]));
    assert_eq!(fixture.store.runs_to_cancel(10).await.unwrap(), std::slice::from_ref(&scene.run));
    fixture.store.cancel_batches(&scene.run, 0, 100).await.unwrap();
    assert_eq!(scene.record().await.state(), RunState::Cancelled);
    assert_eq!(fixture.reconcile().await, []);
}

/// Never lost: a person decides, and the run can end.
#[tokio::test]
async fn a_batch_without_payload_is_set_aside_and_can_be_replayed() {
    let fixture = harmed().await;
    let scene = Scene::of(&fixture, &[2, 2]).await;
    let keys: Vec<String> = fixture.server.command(&["KEYS", &key("p:*")]);
    let saved: Vec<u8> = fixture.server.command(&["DUMP", &keys[0]]);
    fixture.does(&["DEL", &keys[0]]);
    let repairs = fixture.reconcile().await;
    assert_eq!(kinds(&repairs), BTreeSet::from([RepairKind::Unreadable]));
    let letters = fixture.store.dead_letters(Some(&scene.run), None, 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].reason, "the payload is missing");
    assert!(repairs[0].about.starts_with(&letters[0].id.to_string()), "{repairs:?}");
    assert_eq!(fixture.reconcile().await, [], "it waits for a person");
    let record = scene.record().await;
    assert_eq!((record.batches.dead, record.batches.ready, record.recipients.pending), (1, 1, 4));
    let mut restore = redis::cmd("RESTORE");
    restore.arg(&keys[0]).arg(0).arg(saved).query::<()>(&mut fixture.server.connection()).unwrap();
    let replay = postrider_store::ReplayDead { id: letters[0].id.clone(), unknown: false };
    assert_eq!(fixture.store.replay_dead(replay).await.unwrap(), DeadAnswer::Done { recipients: 2 });
    send_the_rest(&scene).await;
}

#[tokio::test]
async fn a_batch_that_cannot_be_read_is_set_aside_with_what_is_known_of_it() {
    for harm in [vec!["DEL"], vec!["SET", "x"]] {
        let fixture = harmed().await;
        let scene = Scene::of(&fixture, &[2, 3]).await;
        let entry = fixture.entry("rdy");
        let run = entry.split('|').nth(2).unwrap();
        let hash = key(&format!("o:{run}.1"));
        let words: Vec<&str> = [harm[0], &hash].into_iter().chain(harm[1..].iter().copied()).collect();
        let _: redis::Value = fixture.server.command(&words);
        let repairs = fixture.reconcile().await;
        assert!(kinds(&repairs).contains(&RepairKind::Unreadable), "{repairs:?}");
        assert_eq!(fixture.reconcile().await, []);
        let record = scene.record().await;
        assert_eq!((record.batches.dead, record.batches.ready, record.recipients.total), (1, 1, 5), "{harm:?}");
        // What is left of the run goes on.
        let mut held = scene.claim_one(1).await;
        assert_eq!(held.batch.sequence, 2);
        let (run, granted) = (&scene.run, [0, 1, 2]);
        let report = held.report(Vec::new(), granted.to_vec());
        fixture.store.checkpoint(scene.checkpoint_call(vec![report])).await.unwrap();
        let reports = vec![held.report(outcomes(granted, OutcomeKind::Accepted), Vec::new())];
        let worker = postrider_store::conformance::scene::worker(1);
        fixture.store.finish(postrider_store::Finish { worker, reports, retry_fraction: 0 }).await.unwrap();
        assert_eq!(fixture.store.run(run).await.unwrap().unwrap().recipients.accepted, 3);
    }
}

/// Half of the keys of a run are those of an older state, as after files were put together by hand.
#[tokio::test]
async fn a_state_put_together_from_two_instants_is_made_whole() {
    for torn in [["count", "rdy"], ["lease", "count"], ["holder", "lease"], ["rdy", "turns"], ["dly", "depth"]] {
        let fixture = harmed().await;
        let scene = Scene::of(&fixture, &[3, 2, 2, 4, 2]).await;
        let mut held = scene.claim(1, 3).await;
        scene.intend(&mut held[0], &[0, 1]).await;
        let mut old = Vec::new();
        for name in torn {
            let dump: Option<Vec<u8>> = fixture.server.command(&["DUMP", &key(name)]);
            old.push((key(name), dump));
        }
        scene.send_all(&mut held[1], OutcomeKind::Deferred).await;
        scene.send_all(&mut held[2], OutcomeKind::Accepted).await;
        scene.finish(&mut held[0], outcomes([0, 1], OutcomeKind::Accepted)).await;
        scene.claim(2, 1).await;
        for (key, dump) in old {
            let _: i64 = fixture.server.command(&["DEL", &key]);
            if let Some(dump) = dump {
                let mut restore = redis::cmd("RESTORE");
                restore.arg(&key).arg(0).arg(dump).query::<()>(&mut fixture.server.connection()).unwrap();
            }
        }
        let repairs = fixture.reconcile().await;
        assert!(!repairs.is_empty(), "{torn:?}");
        // What a lease from before is worth shows when it ends.
        fixture.pass(TTL_MS + 1).await;
        let reclaim = Reclaim { limit: 100, ttl_ms: 1, doubt_grace_ms: GRACE_MS, outage_gap_ms: 3_600_000 };
        fixture.store.reclaim(reclaim).await.unwrap();
        println!("{torn:?}: {:?}, then {:?}", kinds(&repairs), kinds(&fixture.reconcile().await));
        assert_eq!(fixture.reconcile().await, [], "{torn:?}");
        scene.check().await;
        send_the_rest(&scene).await;
        assert_eq!(scene.record().await.recipients.accepted, 13, "{torn:?}");
    }
}

/// A key of another type is told as what it is by every transition; the round goes on beside it.
#[tokio::test]
async fn a_run_that_cannot_be_read_keeps_no_other_from_being_proved() {
    let fixture = harmed().await;
    let scene = Scene::of(&fixture, &[2]).await;
    let other = postrider_store::conformance::scene::new_run("other");
    fixture.store.create_run(other.clone()).await.unwrap();
    let _: redis::Value = fixture.server.command(&["SET", &key(&format!("run:{}", other.id)), "x"]);
    fixture.does(&["ZREM", &key("rdy"), &fixture.entry("rdy")]);
    assert!(kinds(&fixture.reconcile().await).contains(&RepairKind::Lost));
    let mut held = scene.claim_one(1).await;
    scene.send_all(&mut held, OutcomeKind::Accepted).await;
}

/// Batches of 100, half of them ready, some leased and settled.
const MEASURED: usize = 400;
/// Of the script itself. What a step costs beside its batches is looked at apart.
const COMMANDS_A_BATCH_MAX: u64 = 13;
const COMMANDS_A_STEP_MAX: u64 = 80;

/// What a script calls does not depend on the speed of the machine; what it takes is printed.
#[tokio::test]
async fn a_step_costs_little_and_no_more_with_more_batches() {
    let fixture = harmed().await;
    let scene = Scene::of(&fixture, &[100; MEASURED]).await;
    for _ in 0..4 {
        for mut held in scene.claim(1, 25).await {
            let report = held.report(Vec::new(), (0..10).collect());
            fixture.store.checkpoint(scene.checkpoint_call(vec![report])).await.unwrap();
            let reports = vec![held.report(outcomes(0..10, OutcomeKind::Accepted), Vec::new())];
            fixture.store.checkpoint(scene.checkpoint_call(reports)).await.unwrap();
        }
    }
    assert_eq!(fixture.reconcile().await, []);
    let stat = |name: &str, field: &str| {
        let stats: String = fixture.server.command(&["INFO", "commandstats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:"))).unwrap_or_default();
        let value = line.split(',').find_map(|part| part.strip_prefix(&format!("{field}=")));
        value.map_or(0, |value| value.parse::<u64>().unwrap())
    };
    let inside = ["hget", "hmget", "hgetall", "hset", "zscore", "exists", "hlen", "zcard", "scard", "zrangebylex"];
    let commands = || inside.iter().map(|name| stat(name, "calls")).sum::<u64>();
    let (calls, took, before) = (stat("evalsha", "calls"), stat("evalsha", "usec"), commands());
    let reconcile = postrider_store::Reconcile { interval_ms: 0, batches_max: 50, doubt_grace_ms: GRACE_MS };
    let processor = || {
        let info: String = fixture.server.command(&["INFO", "cpu"]);
        let all = info.lines().filter_map(|line| line.trim().strip_prefix("used_cpu_user_main_thread:"));
        all.map(|seconds| seconds.parse::<f64>().unwrap()).sum::<f64>()
    };
    let used = processor();
    let (mut batches, mut entries) = (0, 0);
    let first = fixture.store.reconcile(reconcile).await.unwrap().rounds;
    loop {
        let step = fixture.store.reconcile(reconcile).await.unwrap();
        (batches, entries) = (batches + u64::from(step.batches), entries + u64::from(step.entries));
        if step.rounds > first {
            break;
        }
    }
    let (steps, us, commands) = (stat("evalsha", "calls") - calls, stat("evalsha", "usec") - took, commands() - before);
    println!(
        "{steps} steps, {batches} batches and {entries} entries: {us} us of the server in scripts, {commands} commands"
    );
    println!("{:.1} us of a processor for a batch", (processor() - used) * 1e6 / batches as f64);
    assert!(batches >= MEASURED as u64);
    let most = steps * COMMANDS_A_STEP_MAX + (batches + entries) * COMMANDS_A_BATCH_MAX;
    assert!(commands <= most, "{commands} commands, at most {most} were expected");
}
